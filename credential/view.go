package credential

import (
	"bytes"
	"slices"
	"sort"
	"unicode/utf16"
	"unicode/utf8"
)

// A view is a text with one kind of escaping undone. Secrets are searched in
// the text itself and in its views, so that it does not matter which of their
// characters a writer chose to escape, or how.
//
// The text is cut into tokens: an escape sequence, or a single byte.
type view struct {
	bytes []byte
	// at[i] is where in the text the token begins that bytes[i] came from;
	// at[len(bytes)] is how far the text was read, which is short of its end if
	// an escape sequence is cut off there.
	at []int32
}

// A step undoes one kind of escaping for the token at the start of text. It
// appends what the token means to dst and returns the token's length, or 0 if
// text ends in the middle of the token.
type step func(dst, text []byte) ([]byte, int)

// fill makes v the view of text. With final, nothing follows text, and what is
// cut off at its end stands for itself. mark starts all escape sequences.
func (v *view) fill(text []byte, mark byte, next step, final bool) {
	v.bytes = slices.Grow(v.bytes[:0], len(text))
	v.at = slices.Grow(v.at[:0], len(text)+1)
	for i := 0; i < len(text); {
		plain := bytes.IndexByte(text[i:], mark)
		if plain < 0 {
			plain = len(text) - i
		}
		v.bytes = append(v.bytes, text[i:i+plain]...)
		for end := i + plain; i < end; i++ {
			v.at = append(v.at, int32(i))
		}
		if i == len(text) {
			break
		}
		out, n := next(v.bytes, text[i:])
		if n == 0 {
			if !final {
				v.at = append(v.at, int32(i))
				return
			}
			out, n = append(v.bytes, text[i]), 1
		}
		for range len(out) - len(v.bytes) {
			v.at = append(v.at, int32(i))
		}
		v.bytes = out
		i += n
	}
	v.at = append(v.at, int32(len(text)))
}

// source maps a span of the view to the whole tokens of the text it came from.
func (v *view) source(s span) span {
	last := v.at[s.end-1]
	end := s.end
	for end < len(v.bytes) && v.at[end] == last { // the other bytes of that token
		end++
	}
	return span{int(v.at[s.start]), int(v.at[end]), s.name}
}

// floor returns the index of the view at or before which the text's position
// lies.
func (v *view) floor(pos int) int {
	return sort.Search(len(v.at), func(i int) bool { return int(v.at[i]) > pos }) - 1
}

// ceil returns the start of the first token of the text at or after pos, or
// the end of the text if there is none.
func (v *view) ceil(pos, end int) int {
	i := sort.Search(len(v.at), func(i int) bool { return int(v.at[i]) >= pos })
	if i == len(v.at) {
		return end
	}
	return int(v.at[i])
}

// percent undoes percent-encoding (RFC 3986, 2.1).
func percent(dst, text []byte) ([]byte, int) {
	for i := 1; i < 3; i++ {
		if i == len(text) {
			return dst, 0
		}
		if unhex(text[i]) < 0 {
			return append(dst, text[0]), 1
		}
	}
	return append(dst, byte(unhex(text[1])<<4|unhex(text[2]))), 3
}

// backslash undoes the escapes of JSON strings (RFC 8259, 7).
func backslash(dst, text []byte) ([]byte, int) {
	if len(text) < 2 {
		return dst, 0
	}
	switch c := text[1]; c {
	case '"', '\\', '/':
		return append(dst, c), 2
	case 'b':
		return append(dst, '\b'), 2
	case 'f':
		return append(dst, '\f'), 2
	case 'n':
		return append(dst, '\n'), 2
	case 'r':
		return append(dst, '\r'), 2
	case 't':
		return append(dst, '\t'), 2
	case 'u':
	default:
		return append(dst, '\\'), 1
	}
	r, n := unicodeEscape(text)
	if n <= 0 {
		if n < 0 {
			return append(dst, '\\'), 1
		}
		return dst, 0
	}
	if utf16.IsSurrogate(r) {
		low, m := unicodeEscape(text[n:])
		if pair := utf16.DecodeRune(r, low); m > 0 && pair != utf8.RuneError {
			return utf8.AppendRune(dst, pair), n + m
		}
		if m == 0 && r < 0xDC00 {
			return dst, 0 // the other half may follow
		}
	}
	return utf8.AppendRune(dst, r), n
}

// unicodeEscape reads \uXXXX. The length is 0 if text may be the start of one,
// and negative if it is none.
func unicodeEscape(text []byte) (rune, int) {
	var r rune
	for i := range 6 {
		switch {
		case i == len(text):
			return 0, 0
		case i == 0 && text[i] == '\\', i == 1 && text[i] == 'u':
		case i > 1 && unhex(text[i]) >= 0:
			r = r<<4 | rune(unhex(text[i]))
		default:
			return 0, -1
		}
	}
	return r, 6
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
