package governance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// A Class says what a tool can do to the world. It comes from the people who
// reviewed the catalogue, never from a server's own annotations.
type Class string

// The classes of tools; each is also a Cedar action group.
const (
	Read        Class = "read"
	Write       Class = "write"
	Destructive Class = "destructive"
)

var classes = []Class{Read, Write, Destructive}

// A Server is the approved part of one MCP server: reviewed data, written to
// a catalogue file and never discovered while serving.
type Server struct {
	// Name is how policy calls the server: [a-z0-9-]{1,32}.
	Name string `json:"server"`
	// Tools are those that may be called at all.
	Tools []Tool `json:"tools"`
	// Prompts are those that may be got.
	Prompts []Prompt `json:"prompts,omitempty"`
	// Resources and ResourceTemplates say which URIs belong to the server. A URI
	// that nobody claims does not exist.
	Resources         []Resource         `json:"resources,omitempty"`
	ResourceTemplates []ResourceTemplate `json:"resourceTemplates,omitempty"`

	file, text string // for positions
}

// A Tool is an approved definition and what the operator knows about it.
type Tool struct {
	ToolDefinition
	// Class is required.
	Class Class `json:"class"`
	// As pins how values reach policy, by JSON Pointer into the arguments
	// ("/amount", "/ids/*" for the elements of a list; a bare top-level name is
	// accepted):
	//
	//	long       a number is a whole number, although its schema says "number"
	//	scaled(N)  a number × 10^N is a whole number, N from 1 to 18: a Long
	//	text       a number is a String, exact; text with a format is a String as
	//	           written; several types, objects and lists are canonical JSON
	//	large      a string, or what is text, is {length: Long, sha256: String},
	//	           and may be longer than 64 KiB
	//
	// A number that is not pinned reaches policy as a Cedar decimal.
	As map[string]string `json:"as,omitempty"`
	// Derived are facets of arguments, by their names in context.derived.
	Derived map[string]Derived `json:"derived,omitempty"`
	// Labels say what kind of data the tool returns, such as "crm". After a call
	// of it they are in context.labels for the rest of the session.
	Labels []string `json:"labels,omitempty"`
	// HiddenText says that a reviewer has read the characters of the definition
	// that cannot be seen: see [ToolDefinition.Hidden]. A gateway does not offer a
	// tool that has some without it.
	HiddenText bool `json:"hiddenText,omitempty"`
}

// A ToolDefinition is what a pin covers: name, description, schemas, annotations.
type ToolDefinition struct {
	Name         string          `json:"name"`
	Title        string          `json:"title,omitempty"`
	Description  string          `json:"description,omitempty"`
	InputSchema  json.RawMessage `json:"inputSchema"`
	OutputSchema json.RawMessage `json:"outputSchema,omitempty"`
	Annotations  json.RawMessage `json:"annotations,omitempty"`
}

// Pin is the hash of the definition in canonical form (RFC 8785): "sha256:"
// and 64 hexadecimal digits. Two definitions that differ only in white space,
// key order or the spelling of numbers and strings have the same pin. Text that
// is not strict JSON has none.
func (d ToolDefinition) Pin() (string, error) {
	var b bytes.Buffer
	enc := jsontext.NewEncoder(&b)
	enc.WriteToken(jsontext.BeginObject)
	field := func(name string, v jsontext.Value) {
		enc.WriteToken(jsontext.String(name))
		enc.WriteValue(v)
	}
	for _, f := range []struct {
		name string
		v    json.RawMessage
	}{
		{"annotations", d.Annotations},
		{"inputSchema", d.InputSchema},
		{"outputSchema", d.OutputSchema},
	} {
		if len(f.v) == 0 {
			continue
		}
		v := jsontext.Value(bytes.Clone(f.v))
		if !v.IsValid() {
			return "", fmt.Errorf("governance: pin of tool %q: its %s is not strict JSON", d.Name, f.name)
		}
		field(f.name, v)
	}
	for _, f := range [][2]string{{"name", d.Name}, {"title", d.Title}, {"description", d.Description}} {
		v, err := jsontext.AppendQuote(nil, f[1])
		if err != nil {
			return "", fmt.Errorf("governance: pin of tool %q: its %s is not valid UTF-8", d.Name, f[0])
		}
		field(f[0], v)
	}
	if err := enc.WriteToken(jsontext.EndObject); err != nil {
		return "", fmt.Errorf("governance: pin of tool %q: %w", d.Name, err)
	}
	v := jsontext.Value(b.Bytes())
	if err := v.Canonicalize(); err != nil {
		return "", fmt.Errorf("governance: pin of tool %q: %w", d.Name, err)
	}
	sum := sha256.Sum256(v)
	return hashPrefix + hex.EncodeToString(sum[:]), nil
}

var (
	serverName = regexp.MustCompile(`^[a-z0-9-]+$`)
	toolName   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
)

// maxCatalogFile bounds one catalogue file.
const maxCatalogFile = 8 << 20

// ParseCatalog reads the catalogue file of one server from strict JSON: an
// unknown or repeated member is an error with file, line and column, which
// wraps [ErrBundle]. What it says is checked by [Compile].
func ParseCatalog(file string, text []byte) (Server, error) {
	s, bad := parseCatalog(file, text)
	if bad != nil {
		return Server{}, fmt.Errorf("%w:\n%s", ErrBundle, bad)
	}
	return s, nil
}

func parseCatalog(file string, src []byte) (Server, *Finding) {
	bad := func(offset int64, msg, fix string) (Server, *Finding) {
		line, col := newLines(string(src)).at(int(offset))
		return Server{}, &Finding{Code: "syntax", Severity: SeverityError, File: file, Line: line, Column: col, Message: msg, Fix: fix}
	}
	if len(src) > maxCatalogFile {
		return bad(0, fmt.Sprintf("the file has %d bytes", len(src)), fmt.Sprintf("keep a catalogue file under %d MiB", maxCatalogFile>>20))
	}
	var s Server
	err := jsonv2.Unmarshal(src, &s, jsonv2.RejectUnknownMembers(true))
	if err == nil {
		s.file, s.text = file, string(src)
		return s, nil
	}
	const fix = `a catalogue file is {"server":…, "tools":[{"name", "description", "inputSchema", …, "class", "as", "derived", "labels", "hiddenText"}], "prompts":[{"name", "description", "arguments"}], "resources":[{"uri", …}], "resourceTemplates":[{"uriTemplate", …}]}`
	switch e := err.(type) {
	case *jsonv2.SemanticError:
		msg := "unexpected value"
		if e.Err != nil {
			msg = e.Err.Error()
		}
		return bad(e.ByteOffset, fmt.Sprintf("at %q: %s", string(e.JSONPointer), msg), fix)
	case *jsontext.SyntacticError:
		return bad(e.ByteOffset, fmt.Sprintf("at %q: %s", string(e.JSONPointer), e.Err), fix)
	}
	return bad(0, err.Error(), fix)
}

// checkServer reports what is wrong with names, classes and pins of a server.
// Schemas are looked at when the arguments' types are made.
func checkServer(s Server, rep *Report) {
	if len(s.Name) > 32 || !serverName.MatchString(s.Name) {
		s.finding(rep, s.Name, fmt.Sprintf("server name %q", s.Name), "use 1 to 32 of a-z, 0-9 and -")
	}
	seen := make(map[string]string, len(s.Tools))
	for _, t := range s.Tools {
		if len(t.Name) > 96 || !toolName.MatchString(t.Name) {
			s.finding(rep, t.Name, fmt.Sprintf("tool name %q of server %q", t.Name, s.Name), "use 1 to 96 of A-Z, a-z, 0-9, _, . and -")
		}
		key := skeletonOf(t.Name)
		switch other, dup := seen[key]; {
		case dup && other == t.Name:
			s.finding(rep, t.Name, fmt.Sprintf("tool %q of server %q is listed twice", t.Name, s.Name), "keep the approved one")
		case dup:
			s.finding(rep, t.Name, fmt.Sprintf("tools %q and %q of server %q look alike", other, t.Name, s.Name), "approve only one of them")
		}
		seen[key] = t.Name
		switch t.Class {
		case Read, Write, Destructive:
		default:
			s.finding(rep, t.Name, fmt.Sprintf("tool %q of server %q has class %q", t.Name, s.Name, t.Class), `say "class": "read", "write" or "destructive" after reviewing what the tool does`)
		}
	}
}

// fileName is what positions refer to.
func (s Server) fileName() string {
	if s.file == "" {
		return "catalog/" + s.Name
	}
	return s.file
}

// finding reports a mistake at the first place where the file has a name.
func (s Server) finding(rep *Report, name, msg, fix string) {
	rep.add(located("catalog", s.fileName(), s.text, `"`+name+`"`, msg, fix))
}

// note reports what is worth knowing about a tool.
func (s Server) note(rep *Report, n argument.Note, tool string) {
	before := len(rep.Findings)
	s.finding(rep, tool, fmt.Sprintf("tool %q of server %q: %s", tool, s.Name, n.Msg), n.Fix)
	rep.Findings[before].Severity, rep.Findings[before].Code = SeverityInfo, n.Code
	if n.Warning {
		rep.Findings[before].Severity = SeverityWarning
	}
}

// skeletonOf folds what is easily taken for one another in tool names, which
// are ASCII.
func skeletonOf(name string) string {
	return strings.NewReplacer("-", "_", ".", "_", "0", "o", "1", "l", "i", "l").Replace(strings.ToLower(name))
}

// toolKey is the name of a tool in Cedar. A server's name has no underscore, so
// it can be read back in one way only.
func toolKey(server, tool string) string { return server + "__" + tool }
