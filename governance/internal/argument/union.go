package argument

import (
	"maps"
	"slices"
)

// union types anyOf, oneOf and allOf: alternatives that all become the same
// scalar are that scalar, one alternative besides null is that alternative,
// anything else is text.
func (tp *Typer) union(s *schema, path string, depth int) (*Type, error) {
	var rest []*schema
	nullable := false
	for _, a := range slices.Concat(s.AnyOf, s.OneOf, s.AllOf) {
		if a != nil && slices.Equal(a.Type, nameList{"null"}) {
			nullable = true
			continue
		}
		rest = append(rest, a)
	}
	kinds := 0
	for _, list := range [][]*schema{s.AnyOf, s.OneOf, s.AllOf} {
		if list != nil {
			kinds++
		}
	}
	if len(rest) == 0 || kinds > 1 || len(rest) > 64 || s.If != nil || s.Not != nil {
		return tp.text(s, path)
	}
	if merged := tp.merge(s, rest); merged != nil && len(rest) > 1 && depth < maxRecordDepth {
		t, err := tp.object(merged, path, depth)
		if err != nil {
			return nil, err
		}
		t.Nullable = nullable
		t.rule, err = tp.rules.of(s)
		return t, err
	}
	forget := tp.trial()
	var t *Type
	for _, a := range rest {
		one, err := tp.of(a, path, depth+1)
		if err != nil {
			return nil, err
		}
		if t == nil {
			t = one
		}
		nullable = nullable || one.Nullable
		if one.Kind.isString() && t.Kind.isString() && one.Kind != t.Kind {
			one.Kind, t.Kind = KindString, KindString // of several formats
		}
		if len(rest) > 1 && (!one.scalar() || one.Kind != t.Kind || one.Scale != t.Scale || one.numeric != t.numeric) {
			forget()
			return tp.choice(s, rest, path, depth, nullable)
		}
	}
	t.Nullable = nullable
	bare := *s
	bare.AnyOf, bare.OneOf, bare.AllOf = nil, nil, nil
	if len(rest) == 1 && len(s.AllOf) < 2 && !bare.narrows() && !bare.shapes() {
		return t, nil
	}
	if len(rest) > 1 {
		t.Enum = nil // each alternative has its own
	}
	var err error
	t.rule, err = tp.rules.of(s)
	return t, err
}

// choice types alternatives of several JSON types, as a record that has one of
// several attributes. Alternatives of one JSON type that came here, and any
// whose JSON type is not said, are text.
func (tp *Typer) choice(s *schema, rest []*schema, path string, depth int, nullable bool) (*Type, error) {
	groups := map[string][]*schema{}
	for _, a := range rest {
		name := tp.typeOf(a)
		if name == "integer" {
			name = "number"
		}
		groups[name] = append(groups[name], a)
	}
	if p := tp.pins[path]; groups[""] != nil || groups["null"] != nil || len(groups) < 2 || s.AllOf != nil || p != nil && p.as != "long" {
		return tp.text(s, path)
	}
	t := &Type{Kind: KindUnion, Nullable: nullable, ByName: map[string]int{}}
	for i, name := range slices.Sorted(maps.Keys(groups)) {
		one := groups[name][0]
		if len(groups[name]) > 1 {
			one = &schema{AnyOf: groups[name]}
		}
		ft, err := tp.of(one, path, depth)
		if err != nil {
			return nil, err
		}
		ft.Nullable = false
		t.ByName[name] = i
		t.Fields = append(t.Fields, Field{Name: name, Path: path, Typ: ft})
	}
	return tp.ruled(t, s)
}

// typeOf is the one JSON type that a schema allows, or "".
func (tp *Typer) typeOf(s *schema) string {
	for range 16 {
		switch {
		case s == nil:
			return ""
		case len(s.Type) == 1:
			return s.Type[0]
		case len(s.Type) > 1:
			return ""
		case len(s.Properties) > 0:
			return "object"
		case s.Ref == "":
			return typeOfValues(s)
		}
		to, err := tp.doc.lookup(s.Ref)
		if err != nil {
			return ""
		}
		s = to
	}
	return ""
}

// merge makes one object of alternatives that all are objects: what all require
// is required, a property that several have is any of theirs. The rule of s
// still holds each value against the alternatives. nil when there is no such
// object.
func (tp *Typer) merge(s *schema, rest []*schema) *schema {
	if s.AllOf != nil {
		return nil
	}
	out := &schema{Type: nameList{"object"}, Properties: map[string]*schema{}, AdditionalProperties: &schema{is: new(bool)}}
	for i, a := range rest {
		for a != nil && a.Ref != "" && !a.narrows() && !a.shapes() {
			to, err := tp.doc.lookup(a.Ref)
			if err != nil || tp.open[to] || to == tp.doc.root || to == a {
				return nil
			}
			a = to
		}
		if a == nil || a.narrows() || a.Ref != "" || !slices.Equal(a.Type, nameList{"object"}) || len(a.Properties) == 0 {
			return nil
		}
		for name, p := range a.Properties {
			if had := out.Properties[name]; had == nil {
				out.Properties[name] = p
			} else {
				out.Properties[name] = &schema{merged: true, AnyOf: append(slices.Clone(had.alternatives()), p)}
			}
		}
		if i == 0 {
			out.Required = a.Required
		}
		out.Required = slices.DeleteFunc(slices.Clone(out.Required), func(name string) bool { return !slices.Contains(a.Required, name) })
		if !a.AdditionalProperties.isFalse() {
			out.AdditionalProperties = nil
		}
	}
	return out
}

// alternatives are those of a schema that merge made, or the schema alone.
func (s *schema) alternatives() []*schema {
	if s.AnyOf != nil && !s.shapes() && s.merged {
		return s.AnyOf
	}
	return []*schema{s}
}
