package argument

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

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
	f := r.combined(at, steps, depth)
	if *steps < 0 { // an alternative was not looked at to its end
		return &fault{err: errTooManySteps}
	}
	if f != nil {
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
	if len(s) > MaxText {
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
