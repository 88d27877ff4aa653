package argument

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of arguments. They are checked before anything is allocated for them.
const (
	maxArgs      = 4 << 20 // bytes
	maxArgsDepth = 64
	maxArgsNodes = 2048
)

// ErrStrict is wrapped by every reason why text is not JSON that two parsers
// must read alike.
var ErrStrict = errors.New("not strict JSON")

// CheckStrict accepts exactly one JSON value within the limits, in which no
// object names a member twice (however it is escaped), all text is valid UTF-8
// and every escaped surrogate is half of a pair.
func CheckStrict(src []byte) error { return checkStrictUpTo(src, maxArgsNodes) }

func checkStrictUpTo(src []byte, maxNodes int) error {
	if err := checkLimits(src, maxNodes); err != nil {
		return err
	}
	if valid(src) {
		return nil
	}
	// Once more, for the reason.
	d := jsontext.NewDecoder(bytes.NewReader(src))
	_, err := d.ReadValue()
	if err == nil {
		return fmt.Errorf("%w: something follows the value", ErrStrict)
	}
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) && syntax.Err != nil {
		return fmt.Errorf("%w: %s at byte %d", ErrStrict, syntax.Err, syntax.ByteOffset)
	}
	return fmt.Errorf("%w: %s", ErrStrict, err)
}

// checkLimits bounds size, nesting and the number of values without parsing:
// it knows strings and brackets only.
func checkLimits(src []byte, maxNodes int) error {
	if len(src) > maxArgs {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrStrict, len(src), maxArgs)
	}
	depth, nodes := 0, 1
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case '"':
			i = stringEnd(src, i+1)
		case '[', '{':
			depth++
			nodes++
		case ']', '}':
			depth--
		case ',':
			nodes++
		default:
			continue
		}
		if depth > maxArgsDepth {
			return fmt.Errorf("%w: nested deeper than %d", ErrStrict, maxArgsDepth)
		}
		if nodes > maxNodes {
			return fmt.Errorf("%w: more than %d values", ErrStrict, maxNodes)
		}
	}
	return nil
}

// stringEnd returns where the quote is that ends the string whose text begins
// at i, or len(src).
func stringEnd(src []byte, i int) int {
	for from := i; ; {
		n := bytes.IndexByte(src[from:], '"')
		if n < 0 {
			return len(src)
		}
		end := from + n
		escapes := 0
		for end-escapes > i && src[end-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end
		}
		from = end + 1
	}
}

// A cursor reads JSON that CheckStrict accepted. It relies on that: it looks
// for structure and never for mistakes.
type cursor struct {
	src   string
	pos   int
	spare []byte // of canonical
}

// kind is the first byte of the next value: { [ " t f n - or a digit.
func (c *cursor) kind() byte {
	for {
		switch ch := c.src[c.pos]; ch {
		case ' ', '\t', '\r', '\n', ',', ':':
			c.pos++
		default:
			return ch
		}
	}
}

// open enters an object or array.
func (c *cursor) open() { c.pos++ }

// more reports whether the object or array that was entered goes on; if not, it
// leaves it.
func (c *cursor) more() bool {
	switch c.kind() {
	case '}', ']':
		c.pos++
		return false
	}
	return true
}

// word reads a number or one of the literals.
func (c *cursor) word() string {
	start := c.pos
	for ; c.pos < len(c.src); c.pos++ {
		switch c.src[c.pos] {
		case ' ', '\t', '\r', '\n', ',', ':', ']', '}':
			return c.src[start:c.pos]
		}
	}
	return c.src[start:c.pos]
}

// text reads a string. Without escapes the result shares the source's memory.
func (c *cursor) text() string {
	start := c.pos + 1
	c.skipText()
	s := c.src[start : c.pos-1]
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	return unescape(s)
}

// skip passes over one value of any kind.
func (c *cursor) skip() {
	switch c.kind() {
	case '{', '[':
		depth := 0
		for {
			switch c.kind() {
			case '{', '[':
				depth++
				c.pos++
			case '}', ']':
				depth--
				c.pos++
				if depth == 0 {
					return
				}
			case '"':
				c.skipText()
			default:
				c.word()
			}
		}
	case '"':
		c.skipText()
	default:
		c.word()
	}
}

func (c *cursor) skipText() {
	start := c.pos + 1
	for c.pos = start; ; c.pos++ {
		c.pos += strings.IndexByte(c.src[c.pos:], '"')
		escapes := 0
		for c.pos-escapes > start && c.src[c.pos-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			c.pos++
			return
		}
	}
}

func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				r = utf16.DecodeRune(r, hex4(s[i+3:]))
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default: // " \ /
			out = append(out, s[i])
		}
	}
	return string(out)
}

func hex4(s string) (r rune) {
	for i := range 4 {
		r <<= 4
		switch c := s[i]; {
		case c <= '9':
			r |= rune(c - '0')
		default:
			r |= rune(c|0x20-'a') + 10
		}
	}
	return r
}

// CanonicalJSON writes a value in one form only: no white space, members in
// the order of their names' bytes, minimal escapes, numbers exact. Unlike RFC
// 8785 it never rounds a number to 64 bits.
func CanonicalJSON(src string) (string, error) {
	if err := CheckStrict([]byte(src)); err != nil {
		return "", err
	}
	out, err := (&cursor{src: src}).canonical(nil)
	return string(out), err
}

func (c *cursor) canonical(dst []byte) ([]byte, error) {
	switch c.kind() {
	case '{':
		type member struct {
			name       string
			start, end int // in dst
		}
		byName := func(a, b member) int { return strings.Compare(a.name, b.name) }
		var members []member
		var err error
		dst = append(dst, '{')
		first := len(dst)
		for c.open(); c.more(); {
			if len(members) > 0 {
				dst = append(dst, ',')
			}
			m := member{name: c.text(), start: len(dst)}
			dst = append(appendQuoted(dst, m.name), ':')
			if dst, err = c.canonical(dst); err != nil {
				return nil, err
			}
			m.end = len(dst)
			members = append(members, m)
		}
		if !slices.IsSortedFunc(members, byName) {
			// By way of one buffer for all levels: nesting must not multiply a
			// large value.
			slices.SortFunc(members, byName)
			c.spare = append(c.spare[:0], dst[first:]...)
			dst = dst[:first]
			for i, m := range members {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = append(dst, c.spare[m.start-first:m.end-first]...)
			}
		}
		return append(dst, '}'), nil
	case '[':
		dst = append(dst, '[')
		first := true
		var err error
		for c.open(); c.more(); {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			if dst, err = c.canonical(dst); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case '"':
		return appendQuoted(dst, c.text()), nil
	case 't', 'f', 'n':
		return append(dst, c.word()...), nil
	}
	n, err := parseNumber(c.word())
	if err != nil {
		return nil, err
	}
	return n.append(dst), nil
}

func appendQuoted(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // fails on invalid UTF-8 only
	return dst
}
