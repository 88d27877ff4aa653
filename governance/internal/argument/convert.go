// Package argument turns the JSON arguments of a tool call into Cedar values, by
// types that are made once from the tool's pinned inputSchema.
//
// Everything here is exact or refuses: [CheckStrict] takes only JSON that every
// reader reads in the same way, [NewType] makes a [Type] of a schema and the
// operator's pins, [Convert] makes values of arguments that the whole schema
// allows, and [Derive] computes the facets that a catalogue asks for. It knows no
// policies, catalogues or reports.
package argument

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// Limits of single values. cedar-go's sets take quadratic time on numbers that
// an attacker chose, so a set is counted before it is made.
const (
	MaxSet   = 256
	MaxText  = 64 << 10
	maxExtra = 64
)

// MaxName bounds names, which come from outside and go on record.
const MaxName = 4 << 10

// An Error says why arguments cannot be decided on. Its text is meant for
// the agent: it holds names from the tool's own schema and no policy.
type Error struct {
	path string
	err  error
	hint string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.path != "" {
		fmt.Fprintf(&b, "argument %s: ", e.path)
	}
	b.WriteString(e.err.Error())
	if e.hint != "" {
		fmt.Fprintf(&b, " (%s)", e.hint)
	}
	return b.String()
}

// Values are arguments as policy sees them.
type Values struct {
	Args         types.Record
	Nulls, Extra types.Set
}

// A Selection says which parts of the arguments somebody reads. nil stands for
// all.
type Selection struct {
	Fields       []bool // by their number in the type; nil for all
	Nulls, Extra bool
}

func (s *Selection) field(i int) bool { return s == nil || s.Fields == nil || s.Fields[i] }

// Convert turns the arguments of one call into Cedar values, exactly or not
// at all. Nothing is coerced or rounded: what a value of its type cannot carry is
// refused, a null is listed in nulls, a property that the schema does not name in
// extra. What nobody reads is held to the same and then left out. The text must
// have passed CheckStrict.
func Convert(t *Type, src string, of *Selection) (Values, *Error) {
	c := converter{cursor: cursor{src: src}, steps: maxSteps, of: of}
	if c.kind() != '{' {
		return Values{}, &Error{err: errors.New("the arguments are not an object")}
	}
	if err := c.check(t, ""); err != nil {
		return Values{}, err
	}
	rec, err := c.record(t, "")
	if err != nil {
		return Values{}, err
	}
	return Values{Args: rec, Nulls: textSet(c.nulls), Extra: textSet(c.extra)}, nil
}

func textSet(list []string) types.Set {
	if len(list) == 0 {
		return types.Set{}
	}
	vals := make([]types.Value, len(list))
	for i, s := range list {
		vals[i] = types.String(s)
	}
	return types.NewSet(vals...)
}

type converter struct {
	cursor
	steps        int // left for rules
	nulls, extra []string
	extras       int // listed or not
	of           *Selection
	dry          bool // nobody reads this: check it, and make nothing
}

func (c *converter) record(t *Type, path string) (types.Record, *Error) {
	var m types.RecordMap
	if !c.dry {
		m = make(types.RecordMap, len(t.Fields))
	}
	var few uint64 // which fields were seen, when they are few
	var many []bool
	if len(t.Fields) > 64 {
		many = make([]bool, len(t.Fields))
	}
	for c.open(); c.more(); {
		name := c.text()
		i, known := t.ByName[name]
		if !known {
			if err := c.unknown(t, path, name); err != nil {
				return types.Record{}, err
			}
			continue
		}
		if many != nil {
			many[i] = true
		} else {
			few |= 1 << i
		}
		f := &t.Fields[i]
		at := f.Path
		if c.kind() == 'n' {
			if f.Required && (!f.Typ.Nullable || c.check(f.Typ, at) != nil) {
				return types.Record{}, &Error{at, errors.New("null, but it is required"), "send a value"}
			}
			c.word()
			if c.of == nil || c.of.Nulls {
				c.nulls = append(c.nulls, at)
			}
			continue
		}
		outer := c.dry
		c.dry = outer || path == "" && !c.of.field(i)
		v, err := c.value(f.Typ, at)
		if err != nil {
			return types.Record{}, err
		}
		if !c.dry {
			m[types.String(f.Name)] = v
		}
		c.dry = outer
	}
	for i := range t.Fields {
		seen := few&(1<<(i&63)) != 0
		if many != nil {
			seen = many[i]
		}
		if t.Fields[i].Required && !seen {
			return types.Record{}, &Error{t.Fields[i].Path, errors.New("missing, but it is required"), ""}
		}
	}
	if c.dry {
		return types.Record{}, nil
	}
	return types.NewRecord(m), nil
}

// unknown deals with a property that the schema does not name.
func (c *converter) unknown(t *Type, path, name string) *Error {
	if len(name) > MaxName {
		return &Error{path, fmt.Errorf("an argument whose name has %d bytes", len(name)), ""}
	}
	at := join(path, name)
	if t.Closed {
		return &Error{at, errors.New("the tool has no such argument"), ""}
	}
	// A server that compares names without case would read this as the
	// argument that policy did not see.
	if t.folded[foldName(name)] {
		return &Error{at, errors.New("differs from an argument of the tool only in case or look"), "use the exact name"}
	}
	if c.extras++; c.extras > maxExtra {
		return &Error{at, fmt.Errorf("more than %d arguments that the tool does not name", maxExtra), ""}
	}
	if c.of == nil || c.of.Extra {
		c.extra = append(c.extra, at)
	}
	c.skip()
	return nil
}

// check holds the value at the cursor against the rule of its type.
func (c *converter) check(t *Type, path string) *Error {
	if t.rule == nil {
		return nil
	}
	at := c.cursor
	if f := t.rule.check(&at, &c.steps, 0); f != nil {
		return &Error{path + f.path, f.err, ""}
	}
	return nil
}

// value converts one value. What it returns when dry means nothing.
func (c *converter) value(t *Type, path string) (types.Value, *Error) {
	if err := c.check(t, path); err != nil {
		return nil, err
	}
	k := c.kind()
	switch t.Kind {
	case KindString, KindTime, KindDate, KindIPv4, KindIPv6:
		if k != '"' {
			return nil, mismatch(path, k, "a string")
		}
		s := c.text()
		if len(s) > MaxText {
			return nil, tooLong(path, "text", len(s))
		}
		if t.Enum != nil && !t.Enum[s] {
			return nil, &Error{path, errEnum, ""}
		}
		if t.Kind == KindString {
			if c.dry {
				return nil, nil
			}
			return types.String(s), nil
		}
		v, err := formatted(t.Kind, s)
		if err != nil {
			return nil, &Error{path, err, `an operator can pin it with "as": "text" in the catalogue`}
		}
		return v, nil
	case KindBool:
		if k != 't' && k != 'f' {
			return nil, mismatch(path, k, "true or false")
		}
		w := c.word()
		if t.Enum != nil && !t.Enum[w] {
			return nil, &Error{path, errEnum, ""}
		}
		return types.Boolean(k == 't'), nil
	case KindLong, KindDecimal:
		return c.number(t, k, path)
	case KindSet:
		if k != '[' {
			return nil, mismatch(path, k, "a list")
		}
		return c.set(t.Elem, path)
	case KindRecord:
		if k != '{' {
			return nil, mismatch(path, k, "an object")
		}
		return c.nested(t, path)
	case KindColumns:
		if k != '[' {
			return nil, mismatch(path, k, "a list")
		}
		return c.columns(t, path)
	case KindUnion:
		return c.union(t, k, path)
	case KindMap:
		return c.free(k, path)
	case kindLarge:
		return c.large(t, k, path)
	}
	if t.numeric && !isNumeric(k) {
		return nil, mismatch(path, k, "a number")
	}
	return c.json(path)
}

// json shows policy a value as canonical JSON.
func (c *converter) json(path string) (types.Value, *Error) {
	ahead := c.cursor
	ahead.skip()
	// The longest way to write a text is all in escapes; what is longer need not
	// be copied to be refused.
	if n := ahead.pos - c.pos; n > 6*MaxText {
		return nil, tooLong(path, "value", n)
	}
	out, err := c.canonical(nil)
	if err != nil {
		return nil, &Error{path, err, ""}
	}
	if len(out) > MaxText {
		return nil, tooLong(path, "value", len(out))
	}
	return types.String(out), nil
}

// free converts an object whose properties the schema does not name.
func (c *converter) free(k byte, path string) (types.Value, *Error) {
	if k != '{' {
		return nil, mismatch(path, k, "an object")
	}
	var keys []types.Value
	ahead := c.cursor
	for ahead.open(); ahead.more(); ahead.skip() {
		if keys = append(keys, types.String(ahead.text())); len(keys) > MaxSet {
			return nil, &Error{path, fmt.Errorf("an object of more than %d properties", MaxSet), "split the call"}
		}
	}
	text, err := c.json(path)
	if err != nil || c.dry {
		return nil, err
	}
	return types.NewRecord(types.RecordMap{"json": text, "keys": types.NewSet(keys...)}), nil
}

func tooLong(path, what string, n int) *Error {
	return &Error{path, fmt.Errorf("a %s of %d bytes", what, n), fmt.Sprintf(`at most %d can be decided on; an operator can pin it with "as": "large" in the catalogue`, MaxText)}
}

// large shows policy the length in bytes and the hash of a value: of a string
// itself, and of anything else as canonical JSON.
func (c *converter) large(t *Type, k byte, path string) (types.Value, *Error) {
	var sum [sha256.Size]byte
	var n int
	if t.whole {
		if k != '"' {
			return nil, mismatch(path, k, "a string")
		}
		s := c.text()
		n, sum = len(s), sha256.Sum256([]byte(s))
	} else {
		out, err := c.canonical(nil)
		if err != nil {
			return nil, &Error{path, err, ""}
		}
		n, sum = len(out), sha256.Sum256(out)
	}
	return types.NewRecord(types.RecordMap{
		"length": types.Long(n), "sha256": types.String(hex.EncodeToString(sum[:])),
	}), nil
}

// nested keeps the interface conversion of records out of record.
func (c *converter) nested(t *Type, path string) (types.Value, *Error) {
	rec, err := c.record(t, path)
	if err != nil {
		return nil, err
	}
	return rec, nil
}

func (c *converter) number(t *Type, k byte, path string) (types.Value, *Error) {
	if k != '-' && (k < '0' || k > '9') {
		return nil, mismatch(path, k, "a number")
	}
	n, err := parseNumber(c.word())
	if err != nil {
		return nil, &Error{path, err, ""}
	}
	if t.Enum != nil && !t.Enum[string(n.append(nil))] {
		return nil, &Error{path, errEnum, ""}
	}
	if t.Kind == KindLong {
		v, err := n.scaled(t.Scale)
		switch {
		case err == errNotWhole && t.Scale > 0:
			return nil, &Error{path, fmt.Errorf("has more than %d decimal places", t.Scale), ""}
		case err != nil:
			return nil, &Error{path, err, "a whole number of 64 bits can be decided on"}
		}
		return types.Long(v), nil
	}
	v, err := n.decimal()
	if err != nil {
		return nil, &Error{path, err, `a number of up to four decimal places can be decided on; an operator can pin another form with "as" in the catalogue`}
	}
	return v, nil
}

func mismatch(path string, got byte, want string) *Error {
	what := "a number"
	switch got {
	case '"':
		what = "a string"
	case '{':
		what = "an object"
	case '[':
		what = "a list"
	case 't', 'f':
		what = "true or false"
	case 'n':
		what = "null"
	}
	return &Error{path, fmt.Errorf("%s where the tool takes %s", what, want), ""}
}

// join extends a JSON Pointer.
func join(path, name string) string {
	if strings.ContainsAny(name, "~/") {
		name = pointerEscape.Replace(name)
	}
	return path + "/" + name
}
