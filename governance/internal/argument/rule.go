package argument

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A rule is a JSON Schema, compiled: what a value must be besides what its
// [Type] makes sure of. It reads the same text as the conversion, keeps every
// number exact, and fetches nothing. It is immutable.
type rule struct {
	never bool
	types typeSet
	enum  map[string]bool // canonical JSON

	min, max, above, below, multiple *number

	minLen, maxLen int // in characters; -1: no limit
	pattern        *regexp.Regexp

	place                    []*rule // for the first elements
	items, contains          *rule
	minItems, maxItems       int
	minContains, maxContains int
	unique                   bool

	props                map[string]*rule
	patterns             []patternRule
	additional, names    *rule
	required             []string
	minProps, maxProps   int
	dependent            map[string][]string
	dependentRule        map[string]*rule
	hasObject, hasArray  bool
	allOf, anyOf, oneOf  []*rule
	not, cond, then, els *rule
}

type patternRule struct {
	re   *regexp.Regexp
	rule *rule
}

// A typeSet is a set of JSON types; empty allows all.
type typeSet uint8

const (
	isNull typeSet = 1 << iota
	isBool
	isNumber
	isInteger
	isString
	isArray
	isObject
)

var typeBits = map[string]typeSet{
	"null": isNull, "boolean": isBool, "number": isNumber, "integer": isInteger,
	"string": isString, "array": isArray, "object": isObject,
}

// A ruler compiles rules. A schema that two places share is compiled once, so
// that references may run in a circle.
type ruler struct {
	doc  *schemaDoc
	made map[*schema]*rule
	left map[string]bool // what cannot be checked here
}

func (c *ruler) leave(what string) { c.left[what] = true }

// of compiles s; nil allows everything.
func (c *ruler) of(s *schema) (*rule, error) {
	if s == nil || s.isTrue() {
		return nil, nil
	}
	if r, ok := c.made[s]; ok {
		return r, nil
	}
	r := &rule{minLen: -1, maxLen: -1, minItems: -1, maxItems: -1, minContains: 1, maxContains: -1, minProps: -1, maxProps: -1}
	c.made[s] = r
	if s.isFalse() {
		r.never = true
		return r, nil
	}
	for _, t := range s.Type {
		bit, ok := typeBits[t]
		if !ok {
			return nil, fmt.Errorf("there is no type %q", t)
		}
		r.types |= bit
	}
	if values, ok := s.values(); ok {
		r.enum = make(map[string]bool, len(values))
		for _, v := range values {
			text, err := CanonicalJSON(string(v))
			if err != nil {
				return nil, fmt.Errorf("enum: %w", err)
			}
			r.enum[text] = true
		}
	}
	for _, step := range []func(*schema, *rule) error{c.scalar, c.array, c.object, c.combine} {
		if err := step(s, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (c *ruler) scalar(s *schema, r *rule) error {
	for _, b := range []struct {
		from *exact
		to   **number
	}{{s.Minimum, &r.min}, {s.Maximum, &r.max}, {s.MultipleOf, &r.multiple}} {
		if b.from != nil {
			*b.to = &b.from.number
		}
	}
	if r.multiple != nil && (r.multiple.neg || r.multiple.digits == "") {
		return errors.New("multipleOf is not above 0")
	}
	for _, b := range []struct {
		text            string
		inclusive, into **number
	}{{string(s.ExclusiveMinimum), &r.min, &r.above}, {string(s.ExclusiveMaximum), &r.max, &r.below}} {
		switch b.text {
		case "", "false", "null":
		case "true": // draft 4: the other bound is meant
			*b.into, *b.inclusive = *b.inclusive, nil
		default:
			n, err := parseNumber(b.text)
			if err != nil || !isNumeric(b.text[0]) {
				return errors.New("an exclusive bound is no number")
			}
			*b.into = &n
		}
	}
	r.minLen, r.maxLen = s.MinLength.or(-1), s.MaxLength.or(-1)
	if s.Pattern != "" {
		r.pattern = c.regexp(s.Pattern)
	}
	return nil
}

// regexp compiles a pattern as RE2. One that RE2 cannot express is left to the
// tool, and said so in the report.
func (c *ruler) regexp(pattern string) *regexp.Regexp {
	if len(pattern) > 4<<10 {
		c.leave("a pattern of more than 4 KiB")
		return nil
	}
	re, err := regexp.Compile(unicodeEscape.ReplaceAllString(pattern, `\x{$1}`))
	if err != nil {
		c.leave(fmt.Sprintf("pattern %q", pattern))
	}
	return re
}

// unicodeEscape is JavaScript's, which RE2 writes otherwise.
var unicodeEscape = regexp.MustCompile(`\\u([0-9a-fA-F]{4})`)

func (s *size) or(other int) int {
	if s == nil {
		return other
	}
	return int(*s)
}

func (c *ruler) array(s *schema, r *rule) (err error) {
	place, rest := s.PrefixItems, (*schema)(nil)
	if s.Items != nil {
		rest = s.Items.all
		if s.Items.place != nil {
			place, rest = s.Items.place, s.AdditionalItems
		}
	}
	if r.place, err = c.all(place); err != nil {
		return err
	}
	if r.items, err = c.of(rest); err != nil {
		return err
	}
	if r.contains, err = c.of(s.Contains); err != nil {
		return err
	}
	if s.Contains != nil && r.contains == nil {
		r.contains = &rule{minLen: -1, maxLen: -1} // anything counts
	}
	r.minItems, r.maxItems = s.MinItems.or(-1), s.MaxItems.or(-1)
	r.minContains, r.maxContains = s.MinContains.or(1), s.MaxContains.or(-1)
	r.unique = s.UniqueItems
	r.hasArray = len(place) > 0 || r.items != nil || r.contains != nil || r.minItems > 0 || r.maxItems >= 0 || r.unique
	if s.UnevaluatedItems != nil && !s.UnevaluatedItems.isTrue() {
		c.leave("unevaluatedItems")
	}
	return nil
}

func (c *ruler) object(s *schema, r *rule) (err error) {
	if r.props, err = c.each(s.Properties); err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(s.PatternProperties)) {
		sub, err := c.of(s.PatternProperties[p])
		if err != nil {
			return err
		}
		re := c.regexp(p)
		if re == nil {
			// Which properties are additional cannot be told without it.
			if s.AdditionalProperties != nil && !s.AdditionalProperties.isTrue() {
				c.leave("additionalProperties beside that pattern")
				s = without(s)
			}
			continue
		}
		r.patterns = append(r.patterns, patternRule{re, sub})
	}
	if r.additional, err = c.of(s.AdditionalProperties); err != nil {
		return err
	}
	if r.names, err = c.of(s.PropertyNames); err != nil {
		return err
	}
	r.required = s.Required
	r.minProps, r.maxProps = s.MinProperties.or(-1), s.MaxProperties.or(-1)
	r.dependent = maps.Clone(s.DependentRequired)
	if r.dependentRule, err = c.each(s.DependentSchemas); err != nil {
		return err
	}
	for k, d := range s.Dependencies {
		if d == nil {
			continue
		}
		if d.required != nil {
			if r.dependent == nil {
				r.dependent = map[string][]string{}
			}
			r.dependent[k] = append(slices.Clone(r.dependent[k]), d.required...)
			continue
		}
		sub, err := c.of(d.schema)
		if err != nil {
			return err
		}
		if r.dependentRule == nil {
			r.dependentRule = map[string]*rule{}
		}
		r.dependentRule[k] = sub
	}
	r.hasObject = r.props != nil || r.patterns != nil || r.additional != nil || r.names != nil || r.required != nil ||
		r.minProps > 0 || r.maxProps >= 0 || r.dependent != nil || r.dependentRule != nil
	if s.UnevaluatedProperties != nil && !s.UnevaluatedProperties.isTrue() {
		c.leave("unevaluatedProperties")
	}
	return nil
}

// without is s with any additional property allowed.
func without(s *schema) *schema {
	open := *s
	open.AdditionalProperties = nil
	return &open
}

func (c *ruler) combine(s *schema, r *rule) (err error) {
	if r.allOf, err = c.all(s.AllOf); err != nil {
		return err
	}
	if r.anyOf, err = c.all(s.AnyOf); err != nil {
		return err
	}
	if r.oneOf, err = c.all(s.OneOf); err != nil {
		return err
	}
	for _, x := range []struct {
		from *schema
		to   **rule
	}{{s.Not, &r.not}, {s.If, &r.cond}, {s.Then, &r.then}, {s.Else, &r.els}} {
		if *x.to, err = c.of(x.from); err != nil {
			return err
		}
	}
	if s.If != nil && r.cond == nil { // always
		r.allOf, r.then, r.els = append(r.allOf, r.then), nil, nil
	}
	if s.DynamicRef != "" {
		c.leave("$dynamicRef")
	}
	if s.Ref != "" {
		to, err := c.doc.lookup(s.Ref)
		if err != nil {
			return err
		}
		sub, err := c.of(to)
		if err != nil {
			return err
		}
		r.allOf = append(r.allOf, sub)
	}
	return nil
}

func (c *ruler) all(list []*schema) (out []*rule, err error) {
	for _, s := range list {
		r, err := c.of(s)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (c *ruler) each(m map[string]*schema) (out map[string]*rule, err error) {
	if m != nil {
		out = make(map[string]*rule, len(m))
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if out[k], err = c.of(m[k]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// describe lists what a schema demands that cannot be checked here, sorted.
func (c *ruler) describe() string { return strings.Join(slices.Sorted(maps.Keys(c.left)), ", ") }
