package argument

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A schema is one node of a JSON Schema (2020-12, and what is left of draft 7
// in real tools), as written: numbers, enum and const keep their text, so that
// nothing is lost to 64-bit floats. Unknown keywords are annotations.
type schema struct {
	is     *bool // the schemas true and false
	merged bool  // not written by anybody: alternatives of one property

	Ref         string             `json:"$ref"`
	DynamicRef  string             `json:"$dynamicRef"`
	Anchor      string             `json:"$anchor"`
	Defs        map[string]*schema `json:"$defs"`
	Definitions map[string]*schema `json:"definitions"`

	Type   nameList       `json:"type"`
	Format string         `json:"format"`
	Enum   enumeration    `json:"enum"`
	Const  jsontext.Value `json:"const"`

	Minimum          *exact         `json:"minimum"`
	Maximum          *exact         `json:"maximum"`
	ExclusiveMinimum jsontext.Value `json:"exclusiveMinimum"` // a boolean in draft 4
	ExclusiveMaximum jsontext.Value `json:"exclusiveMaximum"`
	MultipleOf       *exact         `json:"multipleOf"`

	MinLength *size  `json:"minLength"`
	MaxLength *size  `json:"maxLength"`
	Pattern   string `json:"pattern"`

	Items            *itemList `json:"items"` // a list in draft 7
	PrefixItems      []*schema `json:"prefixItems"`
	AdditionalItems  *schema   `json:"additionalItems"`
	Contains         *schema   `json:"contains"`
	MinContains      *size     `json:"minContains"`
	MaxContains      *size     `json:"maxContains"`
	MinItems         *size     `json:"minItems"`
	MaxItems         *size     `json:"maxItems"`
	UniqueItems      bool      `json:"uniqueItems"`
	UnevaluatedItems *schema   `json:"unevaluatedItems"`

	Properties            map[string]*schema     `json:"properties"`
	PatternProperties     map[string]*schema     `json:"patternProperties"`
	AdditionalProperties  *schema                `json:"additionalProperties"`
	PropertyNames         *schema                `json:"propertyNames"`
	Required              []string               `json:"required"`
	MinProperties         *size                  `json:"minProperties"`
	MaxProperties         *size                  `json:"maxProperties"`
	DependentRequired     map[string][]string    `json:"dependentRequired"`
	DependentSchemas      map[string]*schema     `json:"dependentSchemas"`
	Dependencies          map[string]*dependency `json:"dependencies"`
	UnevaluatedProperties *schema                `json:"unevaluatedProperties"`

	AllOf []*schema `json:"allOf"`
	AnyOf []*schema `json:"anyOf"`
	OneOf []*schema `json:"oneOf"`
	Not   *schema   `json:"not"`
	If    *schema   `json:"if"`
	Then  *schema   `json:"then"`
	Else  *schema   `json:"else"`
}

type (
	// A nameList is "type": one name or several.
	nameList []string
	// An exact is a number that is not rounded.
	exact struct{ number }
	// A size is a length or a count.
	size int
	// An enumeration holds values as written.
	enumeration []jsontext.Value
	// An itemList is "items": a schema, or in draft 7 one for each place.
	itemList struct {
		all   *schema
		place []*schema
	}
	// A dependency is an entry of draft 7's "dependencies".
	dependency struct {
		required []string
		schema   *schema
	}
)

func (s *schema) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	switch d.PeekKind() {
	case 't', 'f':
		return jsonv2.UnmarshalDecode(d, &s.is)
	case '{':
		type plain schema
		return jsonv2.UnmarshalDecode(d, (*plain)(s))
	}
	return errors.New("a schema is an object, true or false")
}

func (n *nameList) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return jsonv2.UnmarshalDecode(d, (*[]string)(n))
	}
	var one string
	err := jsonv2.UnmarshalDecode(d, &one)
	*n = nameList{one}
	return err
}

func (e *exact) UnmarshalJSONFrom(d *jsontext.Decoder) (err error) {
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() != '0' {
		return errors.New("want a number")
	}
	e.number, err = parseNumber(string(v))
	return err
}

func (s *size) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	var e exact
	if err := e.UnmarshalJSONFrom(d); err != nil {
		return err
	}
	n, err := e.scaled(0)
	if err != nil || n < 0 {
		return errors.New("want a whole number of 0 or more")
	}
	*s = size(n)
	return nil
}

func (l *itemList) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return jsonv2.UnmarshalDecode(d, &l.place)
	}
	return jsonv2.UnmarshalDecode(d, &l.all)
}

func (p *dependency) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return jsonv2.UnmarshalDecode(d, &p.required)
	}
	return jsonv2.UnmarshalDecode(d, &p.schema)
}

// A schemaDoc is a parsed inputSchema and its parts by JSON Pointer.
type schemaDoc struct {
	root *schema
	at   map[string]*schema
}

// maxSchemaNodes bounds a schema. It was reviewed, so it may be larger than
// arguments.
const maxSchemaNodes = 100_000

func parseSchema(text []byte) (*schemaDoc, error) {
	if err := checkStrictUpTo(text, maxSchemaNodes); err != nil {
		return nil, err
	}
	var s schema
	if err := jsonv2.Unmarshal(text, &s); err != nil {
		var sem *jsonv2.SemanticError
		if errors.As(err, &sem) && sem.Err != nil {
			return nil, fmt.Errorf("at %q: %w", string(sem.JSONPointer), sem.Err)
		}
		return nil, err
	}
	doc := &schemaDoc{root: &s, at: map[string]*schema{}}
	doc.add(&s, "#")
	return doc, nil
}

// add notes where s and everything below it stand.
func (doc *schemaDoc) add(s *schema, at string) {
	if s == nil {
		return
	}
	doc.at[at] = s
	if s.Anchor != "" {
		doc.at["#"+s.Anchor] = s
	}
	for name, m := range map[string]map[string]*schema{
		"$defs": s.Defs, "definitions": s.Definitions, "properties": s.Properties,
		"patternProperties": s.PatternProperties, "dependentSchemas": s.DependentSchemas,
	} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			doc.add(m[k], join(at+"/"+name, k))
		}
	}
	for name, list := range map[string][]*schema{"allOf": s.AllOf, "anyOf": s.AnyOf, "oneOf": s.OneOf, "prefixItems": s.PrefixItems} {
		for i, e := range list {
			doc.add(e, at+"/"+name+"/"+strconv.Itoa(i))
		}
	}
	for name, e := range map[string]*schema{
		"additionalItems": s.AdditionalItems, "contains": s.Contains, "unevaluatedItems": s.UnevaluatedItems,
		"additionalProperties": s.AdditionalProperties, "propertyNames": s.PropertyNames,
		"unevaluatedProperties": s.UnevaluatedProperties,
		"not":                   s.Not, "if": s.If, "then": s.Then, "else": s.Else,
	} {
		doc.add(e, at+"/"+name)
	}
	if s.Items != nil {
		doc.add(s.Items.all, at+"/items")
		for i, e := range s.Items.place {
			doc.add(e, at+"/items/"+strconv.Itoa(i))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.Dependencies)) {
		if d := s.Dependencies[k]; d != nil {
			doc.add(d.schema, join(at+"/dependencies", k))
		}
	}
}

// lookup finds what a $ref names. Nothing is ever fetched.
func (doc *schemaDoc) lookup(ref string) (*schema, error) {
	if !strings.HasPrefix(ref, "#") {
		return nil, fmt.Errorf("$ref %q leaves the schema; nothing is fetched: write the definition into $defs", ref)
	}
	if s := doc.at[ref]; s != nil {
		return s, nil
	}
	if s := doc.at[percentDecoded(ref)]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("$ref %q names no definition", ref)
}

// percentDecoded undoes the escapes of a URI fragment; malformed ones stay.
func percentDecoded(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isFalse reports whether s allows nothing: false, or its long form {"not": {}}.
func (s *schema) isFalse() bool {
	return s != nil && (s.is != nil && !*s.is || s.Not != nil && s.Not.isTrue())
}

// isTrue reports whether s allows everything.
func (s *schema) isTrue() bool {
	if s.is != nil {
		return *s.is
	}
	return !s.narrows() && !s.shapes() && s.Ref == "" && s.DynamicRef == ""
}

// shapes reports whether s has the keywords that the conversion itself sees to.
func (s *schema) shapes() bool {
	return s.Type != nil || s.Enum != nil || s.Const != nil || s.Properties != nil || s.Required != nil ||
		s.AdditionalProperties != nil || s.Items != nil || s.PrefixItems != nil
}

// narrows reports whether s has any other keyword that a value could break.
func (s *schema) narrows() bool {
	return s.Minimum != nil || s.Maximum != nil || s.ExclusiveMinimum != nil || s.ExclusiveMaximum != nil || s.MultipleOf != nil ||
		s.MinLength != nil || s.MaxLength != nil || s.Pattern != "" ||
		s.Contains != nil || s.MinContains != nil || s.MaxContains != nil || s.MinItems != nil || s.MaxItems != nil || s.UniqueItems || s.UnevaluatedItems != nil ||
		s.PatternProperties != nil || s.PropertyNames != nil || s.MinProperties != nil || s.MaxProperties != nil ||
		s.DependentRequired != nil || s.DependentSchemas != nil || s.Dependencies != nil || s.UnevaluatedProperties != nil ||
		s.AllOf != nil || s.AnyOf != nil || s.OneOf != nil || s.Not != nil || s.If != nil
}

// values are those that enum and const leave; ok is false when neither is
// there.
func (s *schema) values() (list []jsontext.Value, ok bool) {
	switch {
	case s.Const == nil:
		return s.Enum, s.Enum != nil
	case s.Enum == nil:
		return []jsontext.Value{s.Const}, true
	}
	want, err := CanonicalJSON(string(s.Const))
	for _, v := range s.Enum {
		if got, err2 := CanonicalJSON(string(v)); err == nil && err2 == nil && got == want {
			return []jsontext.Value{s.Const}, true
		}
	}
	return nil, true
}
