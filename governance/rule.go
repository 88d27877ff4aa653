package governance

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A rule is a JSON Schema, compiled: what a value must be besides what its
// [argType] makes sure of. It reads the same text as the conversion, keeps every
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

// maxSteps bounds one call's validation. A schema that refers to itself in
// several alternatives would otherwise take exponential time.
const (
	maxSteps     = 20_000
	maxRuleDepth = 256
)

var (
	errTooManySteps = errors.New("takes too long to check against the schema of the tool")
	errNotAllowed   = errors.New("not allowed by the schema of the tool")
	errEnum         = errors.New("not one of the values that the tool allows")
)

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
			text, err := canonicalJSON(string(v))
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

// A fault is where and why a value breaks a rule. Its path is below the value
// that was checked.
type fault struct {
	path string
	err  error
}

func (f *fault) under(name string) *fault {
	f.path = join("", name) + f.path
	return f
}

// check reads the value at the cursor, leaves the cursor after it, and says how
// it breaks r. steps is what is left of the call's budget; below 0 the answer is
// a fault whatever else is true.
func (r *rule) check(c *cursor, steps *int, depth int) *fault {
	if *steps--; *steps < 0 || depth > maxRuleDepth {
		*steps = -1
		return &fault{err: errTooManySteps}
	}
	k := c.kind()
	if r == nil {
		from := c.pos
		c.skip()
		*steps -= (c.pos - from) >> 10
		return nil
	}
	if r.never {
		return &fault{err: errNotAllowed}
	}
	at := *c
	if f := r.combined(at, steps, depth); f != nil {
		return f
	}
	if r.enum != nil {
		value := at
		text, err := value.canonical(nil)
		*steps -= (value.pos - at.pos) >> 8
		if err != nil {
			return &fault{err: err}
		}
		if !r.enum[string(text)] {
			return &fault{err: errEnum}
		}
	}
	switch k {
	case '{':
		if err := r.typed(isObject, "an object"); err != nil {
			return err
		}
		if r.hasObject {
			return r.members(c, steps, depth)
		}
		return (*rule)(nil).check(c, steps, depth)
	case '[':
		if err := r.typed(isArray, "a list"); err != nil {
			return err
		}
		if r.hasArray {
			return r.elements(c, steps, depth)
		}
		return (*rule)(nil).check(c, steps, depth)
	case '"':
		if err := r.typed(isString, "a string"); err != nil {
			return err
		}
		return r.length(c, steps)
	case 't', 'f':
		c.word()
		return r.typed(isBool, "true or false")
	case 'n':
		c.word()
		return r.typed(isNull, "null")
	default:
		return r.number(c.word())
	}
}

func (r *rule) typed(t typeSet, what string) *fault {
	if r.types == 0 || r.types&t != 0 {
		return nil
	}
	return &fault{err: fmt.Errorf("%s where the tool takes something else", what)}
}

func (r *rule) combined(at cursor, steps *int, depth int) *fault {
	holds := func(sub *rule) bool {
		c := at
		return sub.check(&c, steps, depth+1) == nil
	}
	for _, sub := range r.allOf {
		c := at
		if f := sub.check(&c, steps, depth+1); f != nil {
			return f
		}
	}
	if r.anyOf != nil && !slices.ContainsFunc(r.anyOf, holds) {
		return &fault{err: errors.New("fits none of the alternatives that the tool takes")}
	}
	if r.oneOf != nil {
		n := 0
		for _, sub := range r.oneOf {
			if holds(sub) {
				n++
			}
		}
		if n != 1 {
			return &fault{err: fmt.Errorf("fits %d of the alternatives of which the tool takes exactly one", n)}
		}
	}
	if r.not != nil && holds(r.not) {
		return &fault{err: errNotAllowed}
	}
	if r.cond != nil {
		sub := r.els
		if holds(r.cond) {
			sub = r.then
		}
		c := at
		if f := sub.check(&c, steps, depth+1); f != nil {
			return f
		}
	}
	if *steps < 0 { // an alternative that was not looked at to its end
		return &fault{err: errTooManySteps}
	}
	return nil
}

func (r *rule) length(c *cursor, steps *int) *fault {
	s := c.text()
	*steps -= len(s) >> 10
	if *steps < 0 {
		return &fault{err: errTooManySteps}
	}
	if r.minLen > 0 || r.maxLen >= 0 {
		switch n := utf8.RuneCountInString(s); {
		case n < r.minLen:
			return &fault{err: fmt.Errorf("a text of %d characters where the tool takes %d or more", n, r.minLen)}
		case r.maxLen >= 0 && n > r.maxLen:
			return &fault{err: fmt.Errorf("a text of %d characters where the tool takes %d at most", n, r.maxLen)}
		}
	}
	if r.pattern == nil {
		return nil
	}
	if len(s) > maxText {
		return &fault{err: fmt.Errorf("a text of %d bytes for a pattern", len(s))}
	}
	if !r.pattern.MatchString(s) {
		return &fault{err: errors.New("does not have the form that the tool demands")}
	}
	return nil
}

func (r *rule) number(word string) *fault {
	n, err := parseNumber(word)
	if err != nil {
		return &fault{err: err}
	}
	if r.types != 0 && r.types&isNumber == 0 {
		if f := r.typed(isInteger, "a number"); f != nil {
			return f
		}
		if n.point < len(n.digits) {
			return &fault{err: errNotWhole}
		}
	}
	switch {
	case r.min != nil && n.cmp(*r.min) < 0:
		return &fault{err: fmt.Errorf("below %s", r.min.append(nil))}
	case r.above != nil && n.cmp(*r.above) <= 0:
		return &fault{err: fmt.Errorf("not above %s", r.above.append(nil))}
	case r.max != nil && n.cmp(*r.max) > 0:
		return &fault{err: fmt.Errorf("above %s", r.max.append(nil))}
	case r.below != nil && n.cmp(*r.below) >= 0:
		return &fault{err: fmt.Errorf("not below %s", r.below.append(nil))}
	case r.multiple != nil && !n.multipleOf(*r.multiple):
		return &fault{err: fmt.Errorf("not a multiple of %s", r.multiple.append(nil))}
	}
	return nil
}

func (r *rule) elements(c *cursor, steps *int, depth int) *fault {
	n, found := 0, 0
	var seen map[string]bool
	for c.open(); c.more(); n++ {
		if r.contains != nil {
			ahead := *c
			if r.contains.check(&ahead, steps, depth+1) == nil {
				found++
			}
		}
		if r.unique {
			if seen == nil {
				seen = map[string]bool{}
			}
			ahead := *c
			text, err := ahead.canonical(nil)
			*steps -= 1 + len(text)>>6
			if err != nil {
				return &fault{err: err}
			}
			if seen[string(text)] {
				return &fault{err: errors.New("the same value twice")}
			}
			seen[string(text)] = true
		}
		sub := r.items
		if n < len(r.place) {
			sub = r.place[n]
		}
		if f := sub.check(c, steps, depth+1); f != nil {
			return f.under(strconv.Itoa(n))
		}
		if r.maxItems >= 0 && n >= r.maxItems {
			return &fault{err: fmt.Errorf("a list of more than %d", r.maxItems)}
		}
	}
	switch {
	case *steps < 0:
		return &fault{err: errTooManySteps}
	case n < r.minItems:
		return &fault{err: fmt.Errorf("a list of %d where the tool takes %d or more", n, r.minItems)}
	case r.contains != nil && found < r.minContains:
		return &fault{err: errors.New("a list without the element that the tool demands")}
	case r.contains != nil && r.maxContains >= 0 && found > r.maxContains:
		return &fault{err: errors.New("a list with too many elements of one kind")}
	}
	return nil
}

func (r *rule) members(c *cursor, steps *int, depth int) *fault {
	at := *c
	var names []string
	track := r.required != nil || r.dependent != nil || r.dependentRule != nil
	n := 0
	for c.open(); c.more(); n++ {
		key := *c
		name := c.text()
		if track {
			names = append(names, name)
		}
		if r.names != nil {
			if f := r.names.check(&key, steps, depth+1); f != nil {
				return f.under(name)
			}
		}
		value := *c
		sub, known := r.props[name]
		if known {
			if f := sub.check(c, steps, depth+1); f != nil {
				return f.under(name)
			}
		}
		for _, p := range r.patterns {
			*steps -= 1 + len(name)>>6
			if !p.re.MatchString(name) {
				continue
			}
			known = true
			*c = value
			if f := p.rule.check(c, steps, depth+1); f != nil {
				return f.under(name)
			}
		}
		if !known {
			if f := r.additional.check(c, steps, depth+1); f != nil {
				return f.under(name)
			}
		}
	}
	switch {
	case *steps < 0:
		return &fault{err: errTooManySteps}
	case n < r.minProps:
		return &fault{err: fmt.Errorf("an object of %d properties where the tool takes %d or more", n, r.minProps)}
	case r.maxProps >= 0 && n > r.maxProps:
		return &fault{err: fmt.Errorf("an object of %d properties where the tool takes %d at most", n, r.maxProps)}
	}
	slices.Sort(names)
	has := func(name string) bool { _, ok := slices.BinarySearch(names, name); return ok }
	if f := lacks(r.required, has); f != nil {
		return f
	}
	for _, name := range names {
		if f := lacks(r.dependent[name], has); f != nil {
			return f
		}
		if sub := r.dependentRule[name]; sub != nil {
			ahead := at
			if f := sub.check(&ahead, steps, depth+1); f != nil {
				return f
			}
		}
	}
	return nil
}

func lacks(want []string, has func(string) bool) *fault {
	for _, name := range want {
		if !has(name) {
			return &fault{path: join("", name), err: errors.New("missing, but it is required")}
		}
	}
	return nil
}

func isNumeric(c byte) bool { return c == '-' || c >= '0' && c <= '9' }

// describe lists what a schema demands that cannot be checked here, sorted.
func (c *ruler) describe() string { return strings.Join(slices.Sorted(maps.Keys(c.left)), ", ") }
