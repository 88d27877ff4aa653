package governance

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A Prompt is an approved prompt of a server. Its text reaches a model as
// instructions, so what is served is what was reviewed, and a live prompt that
// differs is drift, as with tools.
type Prompt struct {
	Name        string           `json:"name"`
	Title       string           `json:"title,omitempty"`
	Description string           `json:"description,omitempty"`
	Arguments   []PromptArgument `json:"arguments,omitempty"`
}

// A PromptArgument is one argument of a [Prompt].
type PromptArgument struct {
	Name        string `json:"name"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	Required    bool   `json:"required,omitempty"`
}

// A Resource is a URI that belongs to a server. Behind one gateway no two
// servers may claim the same: whoever reads it must know whom they ask.
type Resource struct {
	URI         string `json:"uri"`
	Name        string `json:"name,omitempty"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	MIMEType    string `json:"mimeType,omitempty"`
}

// A ResourceTemplate claims every URI that its template (RFC 6570) can make.
// The template begins with a literal scheme.
type ResourceTemplate struct {
	URITemplate string `json:"uriTemplate"`
	Name        string `json:"name,omitempty"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	MIMEType    string `json:"mimeType,omitempty"`
}

// Pin is the hash of everything in the definition, in the form of
// [ToolDefinition.Pin]. Text that is not valid UTF-8 has none.
func (p Prompt) Pin() (string, error) { return pinOf("prompt", p.Name, p) }

// Pin is the hash of the definition, in the form of [ToolDefinition.Pin].
func (r Resource) Pin() (string, error) { return pinOf("resource", r.URI, r) }

// Pin is the hash of the definition, in the form of [ToolDefinition.Pin].
func (r ResourceTemplate) Pin() (string, error) {
	return pinOf("resource template", r.URITemplate, r)
}

func pinOf(kind, name string, definition any) (string, error) {
	text, err := jsonv2.Marshal(map[string]any{kind: definition})
	if err == nil {
		err = (*jsontext.Value)(&text).Canonicalize()
	}
	if err != nil {
		return "", fmt.Errorf("governance: pin of %s %q: %w", kind, name, err)
	}
	sum := sha256.Sum256(text)
	return hashPrefix + hex.EncodeToString(sum[:]), nil
}

// maxURI bounds a resource's URI or template in a catalogue.
const maxURI = 512

var (
	// uriText is a scheme and what may follow it in a URI (RFC 3986) that also
	// holds characters of other scripts, as servers write file names.
	uriText = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f"<>\\^` + "`" + `{|}\p{Z}\p{C}]+$`)
	// uriVariable is an expression of RFC 6570.
	uriVariable = regexp.MustCompile(`\{[+#./;?&]?[A-Za-z0-9_.%]+(:[1-9][0-9]{0,3}|\*)?(,[A-Za-z0-9_.%]+(:[1-9][0-9]{0,3}|\*)?)*\}`)
)

// checkOffers reports what is wrong with the prompts and resources of a server.
func checkOffers(s Server, rep *Report) {
	prompts := make(map[string]string, len(s.Prompts))
	for _, p := range s.Prompts {
		if len(p.Name) > 96 || !toolName.MatchString(p.Name) {
			s.finding(rep, p.Name, fmt.Sprintf("prompt name %q of server %q", p.Name, s.Name), "use 1 to 96 of A-Z, a-z, 0-9, _, . and -")
		}
		key := skeletonOf(p.Name)
		if other, dup := prompts[key]; dup {
			s.finding(rep, p.Name, fmt.Sprintf("prompts %q and %q of server %q are the same or look alike", other, p.Name, s.Name), "approve only one of them")
		}
		prompts[key] = p.Name
		_, err := p.Pin()
		s.checkText(rep, p.Name, err, p.Title, p.Description)
		for _, a := range p.Arguments {
			s.checkText(rep, p.Name, nil, a.Name, a.Title, a.Description)
		}
	}
	uris := make(map[string]bool, len(s.Resources)+len(s.ResourceTemplates))
	claim := func(uri string, proper bool, fix string) {
		switch {
		case len(uri) > maxURI || !proper:
			s.finding(rep, uri, fmt.Sprintf("resource %q of server %q", clip(uri), s.Name), fix)
		case uris[uri]:
			s.finding(rep, uri, fmt.Sprintf("resource %q of server %q is listed twice", uri, s.Name), "keep the approved one")
		}
		uris[uri] = true
	}
	for _, r := range s.Resources {
		claim(r.URI, uriText.MatchString(r.URI), fmt.Sprintf("give an absolute URI of at most %d bytes", maxURI))
		_, err := r.Pin()
		s.checkText(rep, r.URI, err, r.Name, r.Title, r.Description)
	}
	for _, r := range s.ResourceTemplates {
		bare := uriVariable.ReplaceAllString(r.URITemplate, "x")
		scheme, _, _ := strings.Cut(r.URITemplate, ":")
		claim(r.URITemplate, uriText.MatchString(bare) && !strings.Contains(scheme, "{") && bare != r.URITemplate,
			fmt.Sprintf("give a template of RFC 6570 that begins with a scheme, has a variable and at most %d bytes", maxURI))
		_, err := r.Pin()
		s.checkText(rep, r.URITemplate, err, r.Name, r.Title, r.Description)
	}
}

// checkText reports text that cannot be pinned, and warns of what a reviewer
// does not see.
func (s Server) checkText(rep *Report, name string, err error, texts ...string) {
	if err != nil {
		s.finding(rep, name, err.Error(), "correct the catalogue file and review it")
	}
	for _, text := range texts {
		if _, r := hiddenIn(text); r != 0 {
			f := located("hidden-character", s.fileName(), s.text, `"`+name+`"`, fmt.Sprintf("a text of %q: %s", clip(name), hiddenMessage(r)), "it may hold words for a model that a reviewer does not see; read it in hexadecimal before approving it")
			f.Severity = SeverityWarning
			rep.add(f)
		}
	}
}
