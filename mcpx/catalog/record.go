package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/governance/strictyaml"
	"github.com/twinward-dev/twinward/mcpx"
)

// A Record is what a server answered to tools/list, without the prose: names,
// pins of the whole definitions, and what schemas say about arguments. The
// descriptions are their authors' and are not copied here; a pin is enough to
// know them again.
type Record struct {
	// Package is what was started, as "npm:name@version".
	Package string `json:"package"`
	// Integrity is the registry's hash of the package, in its own form.
	Integrity string `json:"integrity,omitempty"`
	// License is that of the package, as it says itself (SPDX).
	License string `json:"license"`
	// Tools are sorted by name.
	Tools []RecordedTool `json:"tools"`
}

// A RecordedTool is what is kept of one definition.
type RecordedTool struct {
	Name string `json:"name"`
	// Pin is [governance.ToolDefinition.Pin] of the definition as it was.
	Pin string `json:"pin"`
	// InputSchema is the definition's, without descriptions, titles, examples,
	// defaults and comments.
	InputSchema json.RawMessage `json:"inputSchema"`
}

// ParseRecord reads a record from strict JSON. The error wraps [ErrData] and has
// file, line and column.
func ParseRecord(file string, text []byte) (Record, error) {
	fail := func(offset int64, message string) (Record, error) {
		before := text[:min(max(0, int(offset)), len(text))]
		return Record{}, fmt.Errorf("%w: %w", ErrData, &strictyaml.Error{
			File: file, Line: 1 + bytes.Count(before, []byte("\n")), Column: len(before) - bytes.LastIndexByte(before, '\n'),
			Message: message, Fix: "write it with the recorder, and not by hand",
		})
	}
	if len(text) > maxRecord {
		return fail(0, fmt.Sprintf("the file has %d bytes, more than %d MiB", len(text), maxRecord>>20))
	}
	var r Record
	if err := jsonv2.Unmarshal(text, &r, jsonv2.RejectUnknownMembers(true)); err != nil {
		if e, ok := errors.AsType[*jsonv2.SemanticError](err); ok {
			return fail(e.ByteOffset, e.Error())
		}
		if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			return fail(e.ByteOffset, e.Error())
		}
		return fail(0, err.Error())
	}
	if r.Package == "" || r.License == "" || len(r.Tools) == 0 || len(r.Tools) > maxTools {
		return fail(0, "no package, license or tools, or too many tools")
	}
	for i, t := range r.Tools {
		at := int64(bytes.Index(text, []byte(`"`+t.Name+`"`)))
		switch {
		case !toolName.MatchString(t.Name):
			return fail(at, fmt.Sprintf("tool name %q", t.Name))
		case i > 0 && r.Tools[i-1].Name >= t.Name:
			return fail(at, fmt.Sprintf("tool %q is there twice, or not in order", t.Name))
		case !isPin(t.Pin):
			return fail(at, fmt.Sprintf("tool %q has no pin", t.Name))
		case len(t.InputSchema) == 0 || t.InputSchema[0] != '{':
			return fail(at, fmt.Sprintf("tool %q has no inputSchema", t.Name))
		}
	}
	return r, nil
}

// isPin reports whether s is "sha256:" and 64 hexadecimal digits.
func isPin(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

// ReadRecord lists the tools of the server behind t and makes a record of them. The
// caller fills in what it was that answered.
func ReadRecord(ctx context.Context, t mcp.Transport) (Record, error) {
	live, err := list(ctx, "recorded", t)
	if err != nil {
		return Record{}, err
	}
	var r Record
	for _, tool := range live.Tools {
		pin, err := tool.Pin()
		if err != nil {
			return Record{}, fmt.Errorf("catalog: %w", err)
		}
		schema, err := bare(tool.InputSchema)
		if err != nil {
			return Record{}, fmt.Errorf("catalog: tool %q: %w", tool.Name, err)
		}
		r.Tools = append(r.Tools, RecordedTool{Name: tool.Name, Pin: pin, InputSchema: schema})
	}
	slices.SortFunc(r.Tools, func(a, b RecordedTool) int { return strings.Compare(a.Name, b.Name) })
	return r, nil
}

// list reads the live tools in the form of a catalogue file.
func list(ctx context.Context, server string, t mcp.Transport) (governance.Server, error) {
	text, err := mcpx.ReadCatalog(ctx, server, t)
	if err != nil {
		return governance.Server{}, fmt.Errorf("catalog: %w", err)
	}
	s, err := governance.ParseCatalog("catalog/"+server+".json", text)
	if err != nil {
		return governance.Server{}, fmt.Errorf("catalog: %w", err)
	}
	return s, nil
}

// JSON is the record as it is stored: one tool a line.
func (r Record) JSON() ([]byte, error) {
	var b bytes.Buffer
	line := func(v any) error {
		text, err := jsonv2.Marshal(v)
		b.Write(text)
		return err
	}
	b.WriteString(`{"package":`)
	errs := []error{line(r.Package)}
	if r.Integrity != "" {
		b.WriteString(`,"integrity":`)
		errs = append(errs, line(r.Integrity))
	}
	b.WriteString(`,"license":`)
	errs = append(errs, line(r.License))
	b.WriteString(`,"tools":[`)
	for i, t := range r.Tools {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		errs = append(errs, line(t))
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), errors.Join(errs...)
}

// prose are the members of a schema that say nothing about what is valid.
var prose = []string{"description", "title", "examples", "default", "$comment", "markdownDescription", "errorMessage"}

// mapsOfSchemas are the members whose own members are schemas under free names.
var mapsOfSchemas = []string{"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}

// bare returns a JSON schema without its prose, in canonical form.
func bare(schema json.RawMessage) (json.RawMessage, error) {
	var v any
	if err := json.Unmarshal(schema, &v); err != nil {
		return nil, err
	}
	text, err := json.Marshal(bareValue(v))
	if err != nil {
		return nil, err
	}
	out := jsontext.Value(text)
	return json.RawMessage(out), out.Canonicalize()
}

func bareValue(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = bareValue(v[i])
		}
	case map[string]any:
		for name, member := range v {
			named, isMap := member.(map[string]any)
			switch {
			case slices.Contains(prose, name):
				delete(v, name)
			case name == "enum", name == "const", name == "required":
			case isMap && slices.Contains(mapsOfSchemas, name):
				for k := range named {
					named[k] = bareValue(named[k])
				}
			default:
				v[name] = bareValue(member)
			}
		}
	}
	return v
}
