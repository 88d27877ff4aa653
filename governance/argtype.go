package governance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/text/unicode/norm"
)

// A kind says how a JSON value reaches policy.
type kind uint8

const (
	kindText    kind = iota // String: the value as canonical JSON
	kindString              // String
	kindLong                // Long, exact
	kindDecimal             // decimal, exact in four digits
	kindBool                // Bool
	kindSet                 // Set of a scalar kind
	kindRecord              // Record
)

// maxRecordDepth is how deep objects become records; below, they are text.
const maxRecordDepth = 4

// An argType is the type of one value, made once from a pinned inputSchema. It
// is immutable.
type argType struct {
	kind     kind
	nullable bool
	enum     map[string]bool // allowed values: strings as they are, others as canonical JSON
	elem     *argType        // of a set
	fields   []argField      // of a record, sorted by name
	byName   map[string]int  // index into fields
	folded   map[string]bool // names of fields as foldName makes them
	closed   bool            // a record that allows no other property
}

type argField struct {
	name     string
	path     string // JSON Pointer
	typ      *argType
	required bool
}

// A typer turns one tool's inputSchema into an argType.
type typer struct {
	root    *jsonschema.Schema
	as      map[string]string // by JSON Pointer
	used    map[string]bool   // keys of as that named a number
	decimal []string          // numbers that nobody pinned
	made    int               // types so far
}

// maxTypes bounds the types of one tool's arguments: a short schema that refers
// to itself everywhere stands for millions.
const maxTypes = 20_000

// typeArgs makes the type of a tool's arguments.
func typeArgs(t Tool) (*argType, *typer, error) {
	if err := checkStrict(t.InputSchema); err != nil {
		return nil, nil, fmt.Errorf("inputSchema: %w", err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(t.InputSchema, &s); err != nil {
		return nil, nil, fmt.Errorf("inputSchema: %w", err)
	}
	tp := &typer{root: &s, as: map[string]string{}, used: map[string]bool{}}
	for k, v := range t.As {
		if v != "long" {
			return nil, nil, fmt.Errorf(`"as" says %q for %q; the only value is "long"`, v, k)
		}
		if !strings.HasPrefix(k, "/") {
			k = "/" + k
		}
		tp.as[k] = v
	}
	if s.Type != "object" {
		return nil, nil, fmt.Errorf(`inputSchema: its type is not "object"`)
	}
	root, err := tp.object(&s, "", 0)
	if err != nil {
		return nil, nil, fmt.Errorf("inputSchema: %w", err)
	}
	for k := range tp.as {
		if !tp.used[k] {
			return nil, nil, fmt.Errorf(`"as" names %q, which is no number in the inputSchema`, k)
		}
	}
	return root, tp, nil
}

// of types the value that path leads to.
func (tp *typer) of(s *jsonschema.Schema, path string, depth int) (*argType, error) {
	s, err := tp.follow(s)
	if err != nil {
		return nil, err
	}
	if tp.made++; tp.made > maxTypes {
		return nil, fmt.Errorf("more than %d types: the schema refers to itself too often", maxTypes)
	}
	if s == nil || depth > 16 {
		return &argType{kind: kindText, nullable: true}, nil
	}
	name, nullable := s.Type, false
	if len(s.Types) > 0 {
		rest := slices.DeleteFunc(slices.Clone(s.Types), func(t string) bool { return t == "null" })
		nullable = len(rest) < len(s.Types)
		if len(rest) != 1 {
			return tp.enumerate(&argType{kind: kindText, nullable: nullable}, s)
		}
		name = rest[0]
	}
	// Alternatives beside a type only narrow it.
	if alt := slices.Concat(s.AnyOf, s.OneOf); len(alt) > 0 && name == "" && len(s.Properties) == 0 {
		return tp.union(s, alt, nullable, path, depth)
	}
	if name == "" {
		switch {
		case len(s.Properties) > 0:
			name = "object"
		case allStrings(s):
			name = "string"
		}
	}
	t := &argType{nullable: nullable}
	switch name {
	case "string":
		t.kind = kindString
	case "boolean":
		t.kind = kindBool
	case "integer":
		t.kind = kindLong
		tp.used[path] = true
	case "number":
		t.kind = kindDecimal
		if tp.as[path] == "long" {
			t.kind = kindLong
			tp.used[path] = true
		} else {
			tp.decimal = append(tp.decimal, path)
		}
	case "array":
		elem, err := tp.of(s.Items, path+"/*", depth+1)
		if err != nil {
			return nil, err
		}
		switch elem.kind {
		case kindString, kindBool, kindLong, kindDecimal:
			if !elem.nullable && len(s.PrefixItems) == 0 {
				t.kind, t.elem = kindSet, elem
			}
		}
	case "object":
		if len(s.Properties) == 0 || depth >= maxRecordDepth {
			break
		}
		rec, err := tp.object(s, path, depth)
		if err != nil {
			return nil, err
		}
		rec.nullable = nullable
		t = rec
	default:
		t.nullable = nullable || name == ""
	}
	return tp.enumerate(t, s)
}

// object makes a record of an object schema.
func (tp *typer) object(s *jsonschema.Schema, path string, depth int) (*argType, error) {
	t := &argType{
		kind:   kindRecord,
		byName: make(map[string]int, len(s.Properties)),
		folded: make(map[string]bool, len(s.Properties)),
		closed: s.AdditionalProperties != nil && isFalse(s.AdditionalProperties),
	}
	for i, name := range slices.Sorted(maps.Keys(s.Properties)) {
		at := join(path, name)
		ft, err := tp.of(s.Properties[name], at, depth+1)
		if err != nil {
			return nil, err
		}
		t.fields = append(t.fields, argField{name: name, path: at, typ: ft, required: slices.Contains(s.Required, name)})
		t.byName[name] = i
		t.folded[foldName(name)] = true
	}
	for _, r := range s.Required {
		if _, ok := t.byName[r]; !ok {
			t.fields = append(t.fields, argField{name: r, path: join(path, r), typ: &argType{kind: kindText}, required: true})
			t.byName[r] = len(t.fields) - 1
			t.folded[foldName(r)] = true
		}
	}
	return t, nil
}

// union types anyOf and oneOf: one alternative besides null is that
// alternative, anything else is text.
func (tp *typer) union(s *jsonschema.Schema, alt []*jsonschema.Schema, nullable bool, path string, depth int) (*argType, error) {
	var rest []*jsonschema.Schema
	for _, a := range alt {
		if a != nil && a.Type == "null" {
			nullable = true
			continue
		}
		rest = append(rest, a)
	}
	if len(rest) != 1 || len(s.AllOf) > 0 {
		return &argType{kind: kindText, nullable: true}, nil
	}
	t, err := tp.of(rest[0], path, depth+1)
	if err != nil {
		return nil, err
	}
	one := *t
	one.nullable = one.nullable || nullable
	return &one, nil
}

// enumerate notes the values that enum and const allow.
func (tp *typer) enumerate(t *argType, s *jsonschema.Schema) (*argType, error) {
	values := s.Enum
	if s.Const != nil {
		values = []any{*s.Const}
	}
	if len(values) == 0 || t.kind == kindRecord || t.kind == kindSet {
		return t, nil
	}
	t.enum = make(map[string]bool, len(values))
	for _, v := range values {
		if str, ok := v.(string); ok && t.kind == kindString {
			t.enum[str] = true
			continue
		}
		if v == nil {
			t.nullable = true
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("enum: %w", err)
		}
		text, err := canonicalJSON(string(raw))
		if err != nil {
			return nil, fmt.Errorf("enum: %w", err)
		}
		t.enum[text] = true
	}
	return t, nil
}

// follow resolves a $ref within the schema. nil means "cannot be typed".
func (tp *typer) follow(s *jsonschema.Schema) (*jsonschema.Schema, error) {
	for range 16 {
		if s == nil || s.Ref == "" && s.DynamicRef == "" {
			return s, nil
		}
		if s.DynamicRef != "" || s.Ref == "#" {
			return nil, nil
		}
		var next *jsonschema.Schema
		if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
			next = tp.root.Defs[name]
		} else if name, ok := strings.CutPrefix(s.Ref, "#/definitions/"); ok {
			next = tp.root.Definitions[name]
		} else if !strings.HasPrefix(s.Ref, "#") {
			return nil, fmt.Errorf("$ref %q leaves the schema; nothing is fetched: write the definition into $defs", s.Ref)
		} else {
			return nil, nil
		}
		if next == nil {
			return nil, fmt.Errorf("$ref %q names no definition", s.Ref)
		}
		s = next
	}
	return nil, nil
}

// isFalse reports whether s is the schema "false", which allows nothing.
func isFalse(s *jsonschema.Schema) bool {
	return s.Not != nil && s.Not.Type == "" && len(s.Not.Properties) == 0
}

func allStrings(s *jsonschema.Schema) bool {
	values := s.Enum
	if s.Const != nil {
		values = []any{*s.Const}
	}
	for _, v := range values {
		if _, ok := v.(string); !ok {
			return false
		}
	}
	return len(values) > 0
}

// foldName makes names equal that a careless reader takes for one another:
// compatibility forms, case, and the usual separators.
func foldName(name string) string {
	return nameFold.Replace(strings.ToLower(norm.NFKC.String(name)))
}

var nameFold = strings.NewReplacer("_", "", "-", "", ".", "", " ", "")

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// cedarType writes the type in Cedar's schema syntax.
func (t *argType) cedarType(b *strings.Builder) {
	switch t.kind {
	case kindText, kindString:
		b.WriteString("String")
	case kindLong:
		b.WriteString("Long")
	case kindDecimal:
		b.WriteString("decimal")
	case kindBool:
		b.WriteString("Bool")
	case kindSet:
		b.WriteString("Set<")
		t.elem.cedarType(b)
		b.WriteString(">")
	case kindRecord:
		b.WriteString("{")
		for i, f := range t.fields {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(cedarString(f.name))
			if !f.required || f.typ.nullable {
				b.WriteString("?")
			}
			b.WriteString(": ")
			f.typ.cedarType(b)
		}
		b.WriteString("}")
	}
}
