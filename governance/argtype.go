package governance

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
	"golang.org/x/text/unicode/norm"
)

// A kind says how a JSON value reaches policy.
type kind uint8

const (
	kindText    kind = iota // String: the value as canonical JSON
	kindString              // String
	kindLong                // Long, exact, times 10^scale
	kindDecimal             // decimal, exact in four digits
	kindBool                // Bool
	kindTime                // datetime: a string of format date-time
	kindDate                // datetime: a string of format date
	kindIPv4                // ipaddr: a string of format ipv4
	kindIPv6                // ipaddr: a string of format ipv6
	kindLarge               // {length: Long, sha256: String}
	kindSet                 // Set of a scalar kind
	kindRecord              // Record
	kindColumns             // Record of sets: a list of objects, by property
	kindUnion               // Record of one attribute, named as the JSON type
	kindMap                 // {json: String, keys: Set<String>}: an object without named properties
)

// maxRecordDepth is how deep objects become records; below, they are text.
const maxRecordDepth = 4

// isString reports whether values are strings of any format.
func (k kind) isString() bool { return k == kindString || k >= kindTime && k <= kindIPv6 }

// An argType is the type of one value, made once from a pinned inputSchema. It
// is immutable.
type argType struct {
	kind     kind
	nullable bool
	numeric  bool            // a text that is a number
	whole    bool            // a large value that is a string, not JSON
	scale    int             // of a Long
	enum     map[string]bool // allowed values: strings as they are, others as canonical JSON
	rule     *rule           // what else the schema demands
	elem     *argType        // of a set; of columns, the record that each object is
	fields   []argField      // of a record or columns, sorted by name
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
	doc     *schemaDoc
	rules   ruler
	pins    map[string]*pin  // by JSON Pointer
	decimal []string         // numbers that nobody pinned
	open    map[*schema]bool // what references lead to that is being typed
	made    int              // types so far
}

// maxTypes bounds the types of one tool's arguments: a short schema that refers
// to itself everywhere stands for millions.
const maxTypes = 20_000

// typeArgs makes the type of a tool's arguments from its inputSchema and the
// operator's pins, by JSON Pointer.
func typeArgs(inputSchema []byte, as map[string]string) (*argType, *typer, error) {
	doc, err := parseSchema(inputSchema)
	if err != nil {
		return nil, nil, fmt.Errorf("inputSchema: %w", err)
	}
	tp := &typer{doc: doc, pins: map[string]*pin{}, open: map[*schema]bool{}}
	tp.rules = ruler{doc: doc, made: map[*schema]*rule{}, left: map[string]bool{}}
	for k, v := range as {
		p, ok := parsePin(v)
		if !ok {
			return nil, nil, fmt.Errorf(`"as" says %q for %q; say "long", "scaled(N)" with N from 1 to 18, "text" or "large"`, v, k)
		}
		k = "/" + strings.TrimPrefix(k, "/")
		if tp.pins[k] != nil {
			return nil, nil, fmt.Errorf(`"as" pins %q twice`, k)
		}
		tp.pins[k] = p
	}
	if s := doc.root; len(s.Type) != 1 || s.Type[0] != "object" {
		return nil, nil, fmt.Errorf(`inputSchema: its type is not "object"`)
	}
	root, err := tp.object(doc.root, "", 0)
	if err == nil {
		root, err = tp.ruled(root, doc.root)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("inputSchema: %w", err)
	}
	for _, k := range slices.Sorted(maps.Keys(tp.pins)) {
		if !tp.pins[k].used {
			return nil, nil, fmt.Errorf(`"as" pins %q as %q, and the inputSchema has no such value that it is for: numbers can be "long", "scaled(N)" or "text", text with a format "text", strings and JSON "large"`, k, tp.pins[k].said)
		}
	}
	slices.Sort(tp.decimal)
	tp.decimal = slices.Compact(tp.decimal)
	return root, tp, nil
}

// of types the value that path leads to.
func (tp *typer) of(s *schema, path string, depth int) (*argType, error) {
	if tp.made++; tp.made > maxTypes {
		return nil, fmt.Errorf("more than %d types: the schema refers to itself too often", maxTypes)
	}
	if s == nil || s.is != nil || s.DynamicRef != "" || depth > 16 {
		return tp.text(s, path)
	}
	if s.Ref != "" {
		to, err := tp.doc.lookup(s.Ref)
		if err != nil {
			return nil, err
		}
		if tp.open[to] || to == tp.doc.root {
			return tp.text(s, path) // within itself
		}
		tp.open[to] = true
		t, err := tp.of(to, path, depth)
		delete(tp.open, to)
		if err != nil || !s.narrows() && !s.shapes() {
			return t, err
		}
		t.rule, err = tp.rules.of(s)
		return t, err
	}
	var name string
	nullable := slices.Contains(s.Type, "null")
	switch rest := slices.DeleteFunc(slices.Clone(s.Type), func(t string) bool { return t == "null" }); {
	case len(rest) == 1:
		name = rest[0]
	case len(rest) == 2 && slices.Contains(rest, "integer") && slices.Contains(rest, "number"):
		name = "number"
	case len(s.Type) > 0:
		var each []*schema
		for _, name := range rest {
			one := *s
			one.Type, one.Ref = nameList{name}, ""
			each = append(each, &one)
		}
		return tp.choice(s, each, path, depth, nullable)
	case len(s.Properties) > 0:
		name = "object"
	case s.AnyOf != nil || s.OneOf != nil || s.AllOf != nil:
		return tp.union(s, path, depth)
	default:
		name = typeOfValues(s)
	}
	t := &argType{nullable: nullable}
	switch name {
	case "string":
		tp.str(t, s, path)
	case "boolean":
		t.kind = kindBool
	case "integer", "number":
		tp.number(t, name, path)
	case "array":
		elem := &argType{}
		forget := tp.trial()
		if s.Items != nil && s.Items.all != nil && s.PrefixItems == nil {
			var err error
			if elem, err = tp.of(s.Items.all, path+"/*", depth+1); err != nil {
				return nil, err
			}
		}
		switch {
		case tp.pins[path] != nil || elem.nullable || !elem.scalar() && elem.kind < kindRecord:
			forget()
			return tp.text(s, path)
		case elem.kind == kindColumns:
			forget()
			return tp.text(s, path)
		case elem.kind >= kindRecord:
			t = columns(elem)
			t.nullable = nullable
		default:
			t.kind, t.elem = kindSet, elem
		}
	case "object":
		if depth >= maxRecordDepth || tp.pins[path] != nil {
			return tp.text(s, path)
		}
		if len(s.Properties) == 0 {
			free := freeMap
			free.nullable = nullable
			return tp.ruled(&free, s)
		}
		rec, err := tp.object(s, path, depth)
		if err != nil {
			return nil, err
		}
		rec.nullable = nullable
		t = rec
	default:
		return tp.text(s, path)
	}
	return tp.ruled(t, s)
}

// freeMap is the type of an object whose properties the schema does not name.
var freeMap = argType{
	kind: kindMap,
	fields: []argField{
		{name: "json", typ: &argType{kind: kindText}, required: true},
		{name: "keys", typ: &argType{kind: kindSet, elem: &argType{kind: kindString}}, required: true},
	},
	byName: map[string]int{"json": 0, "keys": 1},
}

// text types what has no Cedar type of its own.
func (tp *typer) text(s *schema, path string) (*argType, error) {
	t := &argType{nullable: true}
	if p := tp.pin(path, "large", "text"); p != nil && p.as == "large" {
		t.kind = kindLarge
	}
	return tp.ruled(t, s)
}

func (tp *typer) str(t *argType, s *schema, path string) {
	t.kind = kindString
	if tp.pin(path, "large") != nil {
		t.kind, t.whole = kindLarge, true
		return
	}
	format, ok := formatKinds[s.Format]
	if ok && tp.pin(path, "text") == nil {
		t.kind = format
	}
}

// formatKinds are the formats that have a Cedar type. All others are text.
var formatKinds = map[string]kind{"date-time": kindTime, "date": kindDate, "ipv4": kindIPv4, "ipv6": kindIPv6}

func (tp *typer) number(t *argType, name, path string) {
	switch p := tp.pin(path, "long", "text"); {
	case p != nil && p.as == "text":
		t.kind, t.numeric = kindText, true
	case p != nil:
		t.kind, t.scale = kindLong, p.scale
	case name == "integer":
		t.kind = kindLong
	default:
		t.kind = kindDecimal
		tp.decimal = append(tp.decimal, path)
	}
}

// ruled adds what s demands besides the type, as far as the conversion does not
// see to it.
func (tp *typer) ruled(t *argType, s *schema) (*argType, error) {
	if s == nil {
		return t, nil
	}
	values, listed := s.values()
	if listed && (t.kind == kindString || t.kind == kindLong && t.scale == 0 || t.kind == kindDecimal || t.kind == kindBool) {
		t.enum = make(map[string]bool, len(values))
		for _, v := range values {
			text, err := canonicalJSON(string(v))
			switch {
			case err != nil:
				return nil, fmt.Errorf("enum: %w", err)
			case text == "null":
				t.nullable = true
			case t.kind == kindString && text[0] == '"':
				text = (&cursor{src: text}).text()
				fallthrough
			case t.kind != kindString:
				t.enum[text] = true
			}
		}
		listed = false
	}
	parts := t.kind == kindSet || t.kind == kindRecord || t.kind == kindColumns
	covered := t.scalar() || parts
	open := s.AdditionalProperties
	if covered && !listed && !s.narrows() && (t.kind != kindRecord || open == nil || open.is != nil) {
		return t, nil
	}
	r, err := tp.rules.of(s)
	if r != nil && parts {
		// The conversion sees to the parts, and to what null means there.
		shallow := *r
		shallow.items, shallow.props = nil, make(map[string]*rule, len(r.props))
		for name := range r.props {
			shallow.props[name] = nil
		}
		r = &shallow
	}
	t.rule = r
	return t, err
}

// columns makes the type of a list of objects: a set for each property, for
// Cedar can test all elements of a set, and nothing about a set of records.
func columns(elem *argType) *argType {
	t := &argType{kind: kindColumns, elem: elem, byName: elem.byName}
	for _, f := range elem.fields {
		col := &argType{kind: kindSet, elem: f.typ}
		switch f.typ.kind {
		case kindSet:
			col.elem = f.typ.elem
		case kindRecord, kindUnion, kindMap:
			col = columns(f.typ)
		case kindColumns:
			col = columns(f.typ.elem)
		}
		t.fields = append(t.fields, argField{name: f.name, path: f.path, typ: col, required: true})
	}
	return t
}

// object makes a record of an object schema.
func (tp *typer) object(s *schema, path string, depth int) (*argType, error) {
	t := &argType{
		kind:   kindRecord,
		byName: make(map[string]int, len(s.Properties)),
		folded: make(map[string]bool, len(s.Properties)),
		closed: s.AdditionalProperties.isFalse() && s.PatternProperties == nil,
	}
	add := func(name string, typ *argType) {
		t.byName[name] = len(t.fields)
		t.folded[foldName(name)] = true
		t.fields = append(t.fields, argField{name: name, path: join(path, name), typ: typ, required: slices.Contains(s.Required, name)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		ft, err := tp.of(s.Properties[name], join(path, name), depth+1)
		if err != nil {
			return nil, err
		}
		add(name, ft)
	}
	for _, name := range s.Required {
		if _, ok := t.byName[name]; ok {
			continue
		}
		more := s.AdditionalProperties
		if s.PatternProperties != nil {
			more = nil // the rule of the object sees to it
		}
		ft, err := tp.of(more, join(path, name), depth+1)
		if err != nil {
			return nil, err
		}
		ft.nullable = false
		add(name, ft)
	}
	return t, nil
}

// scalar reports whether values of the type have no parts.
func (t *argType) scalar() bool { return t.kind < kindLarge && (t.kind != kindText || t.numeric) }

// typeOfValues is the JSON type that all values of enum or const have besides
// null, or "".
func typeOfValues(s *schema) (name string) {
	values, _ := s.values()
	for _, v := range values {
		one := ""
		switch v.Kind() {
		case 'n':
			continue
		case '"':
			one = "string"
		case 't', 'f':
			one = "boolean"
		case '0':
			one = "integer"
			if n, err := parseNumber(string(v)); err != nil || n.point < len(n.digits) {
				one = "number"
			}
		}
		if one == "" || name != "" && name != one {
			return ""
		}
		name = one
	}
	return name
}

// foldName makes names equal that a careless reader takes for one another:
// compatibility forms, case, and the usual separators.
func foldName(name string) string {
	if isPlain(name) {
		return name
	}
	return nameFold.Replace(strings.ToLower(norm.NFKC.String(name)))
}

// isPlain reports whether text is of small letters and digits of ASCII only.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
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
	case kindTime, kindDate:
		b.WriteString("datetime")
	case kindIPv4, kindIPv6:
		b.WriteString("ipaddr")
	case kindLarge:
		b.WriteString("{length: Long, sha256: String}")
	case kindSet:
		b.WriteString("Set<")
		t.elem.cedarType(b)
		b.WriteString(">")
	case kindRecord, kindColumns, kindUnion, kindMap:
		b.WriteString("{")
		for i, f := range t.fields {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(cedarx.Quote(f.name))
			if !f.required || f.typ.nullable {
				b.WriteString("?")
			}
			b.WriteString(": ")
			f.typ.cedarType(b)
		}
		b.WriteString("}")
	}
}
