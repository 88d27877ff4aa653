package argument

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A Kind says how a JSON value reaches policy.
type Kind uint8

const (
	KindText    Kind = iota // String: the value as canonical JSON
	KindString              // String
	KindLong                // Long, exact, times 10^scale
	KindDecimal             // decimal, exact in four digits
	KindBool                // Bool
	KindTime                // datetime: a string of format date-time
	KindDate                // datetime: a string of format date
	KindIPv4                // ipaddr: a string of format ipv4
	KindIPv6                // ipaddr: a string of format ipv6
	kindLarge               // {length: Long, sha256: String}
	KindSet                 // Set of a scalar kind
	KindRecord              // Record
	KindColumns             // Record of sets: a list of objects, by property
	KindUnion               // Record of one attribute, named as the JSON type
	KindMap                 // {json: String, keys: Set<String>}: an object without named properties
)

// maxRecordDepth is how deep objects become records; below, they are text.
const maxRecordDepth = 4

// isString reports whether values are strings of any format.
func (k Kind) isString() bool { return k == KindString || k >= KindTime && k <= KindIPv6 }

// A Type is the type of one value, made once from a pinned inputSchema. It is
// immutable.
type Type struct {
	Kind     Kind
	Nullable bool
	numeric  bool            // a text that is a number
	whole    bool            // a large value that is a string, not JSON
	Scale    int             // of a Long
	Enum     map[string]bool // allowed values: strings as they are, others as canonical JSON
	rule     *rule           // what else the schema demands
	Elem     *Type           // of a set; of columns, the record that each object is
	Fields   []Field         // of a record or columns, sorted by name
	ByName   map[string]int  // index into fields
	folded   map[string]bool // names of fields as foldName makes them
	Closed   bool            // a record that allows no other property
}

// A Field is one property of an object.
type Field struct {
	Name     string
	Path     string // JSON Pointer
	Typ      *Type
	Required bool
}

// At finds the type at a path below the arguments, or nil.
func (t *Type) At(path []string) *Type {
	for _, name := range path {
		i, ok := t.ByName[name]
		if !ok {
			return nil
		}
		t = t.Fields[i].Typ
	}
	return t
}

// A Typer turns one tool's inputSchema into a Type.
type Typer struct {
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

// NewType makes the type of a tool's arguments from its inputSchema and the
// operator's pins, by JSON Pointer.
func NewType(inputSchema []byte, as map[string]string) (*Type, *Typer, error) {
	doc, err := parseSchema(inputSchema)
	if err != nil {
		return nil, nil, fmt.Errorf("inputSchema: %w", err)
	}
	tp := &Typer{doc: doc, pins: map[string]*pin{}, open: map[*schema]bool{}}
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
func (tp *Typer) of(s *schema, path string, depth int) (*Type, error) {
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
	t := &Type{Nullable: nullable}
	switch name {
	case "string":
		tp.str(t, s, path)
	case "boolean":
		t.Kind = KindBool
	case "integer", "number":
		tp.number(t, name, path)
	case "array":
		elem := &Type{}
		forget := tp.trial()
		if s.Items != nil && s.Items.all != nil && s.PrefixItems == nil {
			var err error
			if elem, err = tp.of(s.Items.all, path+"/*", depth+1); err != nil {
				return nil, err
			}
		}
		switch {
		case tp.pins[path] != nil || elem.Nullable || !elem.scalar() && elem.Kind < KindRecord:
			forget()
			return tp.text(s, path)
		case elem.Kind == KindColumns:
			forget()
			return tp.text(s, path)
		case elem.Kind >= KindRecord:
			t = columns(elem)
			t.Nullable = nullable
		default:
			t.Kind, t.Elem = KindSet, elem
		}
	case "object":
		if depth >= maxRecordDepth || tp.pins[path] != nil {
			return tp.text(s, path)
		}
		if len(s.Properties) == 0 {
			free := freeMap
			free.Nullable = nullable
			return tp.ruled(&free, s)
		}
		rec, err := tp.object(s, path, depth)
		if err != nil {
			return nil, err
		}
		rec.Nullable = nullable
		t = rec
	default:
		return tp.text(s, path)
	}
	return tp.ruled(t, s)
}

// freeMap is the type of an object whose properties the schema does not name.
var freeMap = Type{
	Kind: KindMap,
	Fields: []Field{
		{Name: "json", Typ: &Type{Kind: KindText}, Required: true},
		{Name: "keys", Typ: &Type{Kind: KindSet, Elem: &Type{Kind: KindString}}, Required: true},
	},
	ByName: map[string]int{"json": 0, "keys": 1},
}

// text types what has no Cedar type of its own.
func (tp *Typer) text(s *schema, path string) (*Type, error) {
	t := &Type{Nullable: true}
	if p := tp.pin(path, "large", "text"); p != nil && p.as == "large" {
		t.Kind = kindLarge
	}
	return tp.ruled(t, s)
}

func (tp *Typer) str(t *Type, s *schema, path string) {
	t.Kind = KindString
	if tp.pin(path, "large") != nil {
		t.Kind, t.whole = kindLarge, true
		return
	}
	format, ok := formatKinds[s.Format]
	if ok && tp.pin(path, "text") == nil {
		t.Kind = format
	}
}

// formatKinds are the formats that have a Cedar type. All others are text.
var formatKinds = map[string]Kind{"date-time": KindTime, "date": KindDate, "ipv4": KindIPv4, "ipv6": KindIPv6}

func (tp *Typer) number(t *Type, name, path string) {
	switch p := tp.pin(path, "long", "text"); {
	case p != nil && p.as == "text":
		t.Kind, t.numeric = KindText, true
	case p != nil:
		t.Kind, t.Scale = KindLong, p.scale
	case name == "integer":
		t.Kind = KindLong
	default:
		t.Kind = KindDecimal
		tp.decimal = append(tp.decimal, path)
	}
}

// ruled adds what s demands besides the type, as far as the conversion does not
// see to it.
func (tp *Typer) ruled(t *Type, s *schema) (*Type, error) {
	if s == nil {
		return t, nil
	}
	values, listed := s.values()
	if listed && (t.Kind == KindString || t.Kind == KindLong && t.Scale == 0 || t.Kind == KindDecimal || t.Kind == KindBool) {
		t.Enum = make(map[string]bool, len(values))
		for _, v := range values {
			text, err := CanonicalJSON(string(v))
			switch {
			case err != nil:
				return nil, fmt.Errorf("enum: %w", err)
			case text == "null":
				t.Nullable = true
			case t.Kind == KindString && text[0] == '"':
				text = (&cursor{src: text}).text()
				fallthrough
			case t.Kind != KindString:
				t.Enum[text] = true
			}
		}
		listed = false
	}
	parts := t.Kind == KindSet || t.Kind == KindRecord || t.Kind == KindColumns
	// A number that is pinned as text or scaled can be a fraction.
	covered := t.scalar() && !t.numeric && t.Scale == 0 || parts
	open := s.AdditionalProperties
	if covered && !listed && !s.narrows() && (t.Kind != KindRecord || open == nil || open.is != nil) {
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
func columns(elem *Type) *Type {
	t := &Type{Kind: KindColumns, Elem: elem, ByName: elem.ByName}
	for _, f := range elem.Fields {
		col := &Type{Kind: KindSet, Elem: f.Typ}
		switch f.Typ.Kind {
		case KindSet:
			col.Elem = f.Typ.Elem
		case KindRecord, KindUnion, KindMap:
			col = columns(f.Typ)
		case KindColumns:
			col = columns(f.Typ.Elem)
		}
		t.Fields = append(t.Fields, Field{Name: f.Name, Path: f.Path, Typ: col, Required: true})
	}
	return t
}

// object makes a record of an object schema.
func (tp *Typer) object(s *schema, path string, depth int) (*Type, error) {
	t := &Type{
		Kind:   KindRecord,
		ByName: make(map[string]int, len(s.Properties)),
		folded: make(map[string]bool, len(s.Properties)),
		Closed: s.AdditionalProperties.isFalse() && s.PatternProperties == nil,
	}
	add := func(name string, typ *Type) {
		t.ByName[name] = len(t.Fields)
		t.folded[foldName(name)] = true
		t.Fields = append(t.Fields, Field{Name: name, Path: join(path, name), Typ: typ, Required: slices.Contains(s.Required, name)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		ft, err := tp.of(s.Properties[name], join(path, name), depth+1)
		if err != nil {
			return nil, err
		}
		add(name, ft)
	}
	for _, name := range s.Required {
		if _, ok := t.ByName[name]; ok {
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
		ft.Nullable = false
		add(name, ft)
	}
	return t, nil
}

// scalar reports whether values of the type have no parts.
func (t *Type) scalar() bool { return t.Kind < kindLarge && (t.Kind != KindText || t.numeric) }

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

// CedarType writes the type in Cedar's schema syntax.
func (t *Type) CedarType(b *strings.Builder) {
	switch t.Kind {
	case KindText, KindString:
		b.WriteString("String")
	case KindLong:
		b.WriteString("Long")
	case KindDecimal:
		b.WriteString("decimal")
	case KindBool:
		b.WriteString("Bool")
	case KindTime, KindDate:
		b.WriteString("datetime")
	case KindIPv4, KindIPv6:
		b.WriteString("ipaddr")
	case kindLarge:
		b.WriteString("{length: Long, sha256: String}")
	case KindSet:
		b.WriteString("Set<")
		t.Elem.CedarType(b)
		b.WriteString(">")
	case KindRecord, KindColumns, KindUnion, KindMap:
		b.WriteString("{")
		for i, f := range t.Fields {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(cedarx.Quote(f.Name))
			if !f.Required || f.Typ.Nullable {
				b.WriteString("?")
			}
			b.WriteString(": ")
			f.Typ.CedarType(b)
		}
		b.WriteString("}")
	}
}
