package credential

import (
	"encoding/binary"
	"math/bits"
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
	bytes   []byte
	escapes []escape // those that do not stand for one byte with one byte, in order
	end     int      // how far the text was read: short of its end if an escape is cut off there
}

// An escape says that bytes[at:at+n] of a view came from text[from:to].
type escape struct{ at, n, from, to int32 }

// A step undoes one kind of escaping for the token at the start of text. It
// appends what the token means to dst, at least a byte, and returns the token's
// length, or 0 if text ends in the middle of the token.
type step func(dst, text []byte) ([]byte, int)

// fill makes v the view of text. With final, nothing follows text, and what is
// cut off at its end stands for itself. mark starts all escape sequences.
func (v *view) fill(text []byte, mark byte, next step, final bool) {
	v.escapes = v.escapes[:0]
	// No token means more bytes than it has; eight more, because plain text is
	// copied eight bytes at a time.
	dst := slices.Grow(v.bytes[:0], len(text)+8)
	i := 0
	for {
		n := plain(dst[len(dst):len(text)+8], text[i:], mark)
		dst = dst[:len(dst)+n]
		if i += n; i == len(text) {
			break
		}
		at := len(dst)
		if mark == '\\' && i+1 < len(text) { // the usual escapes, without a call
			if c := short[text[i+1]]; c != 0 {
				dst = append(dst, c)
				v.escapes = append(v.escapes, escape{int32(at), 1, int32(i), int32(i + 2)})
				i += 2
				continue
			}
		}
		out, n := next(dst, text[i:])
		if n == 0 {
			if !final {
				break
			}
			out, n = append(dst, text[i]), 1
		}
		if dst = out; n != 1 || len(dst) != at+1 {
			v.escapes = append(v.escapes, escape{int32(at), int32(len(dst) - at), int32(i), int32(i + n)})
		}
		i += n
	}
	v.bytes, v.end = dst, i
}

// plain copies text up to the first mark to dst and returns its length. It may
// write up to eight bytes more than that; dst has room for them.
func plain(dst, text []byte, mark byte) int {
	const low, high = 0x0101010101010101, 0x8080808080808080
	marks := low * uint64(mark)
	i := 0
	for ; i+8 <= len(text); i += 8 {
		w := binary.LittleEndian.Uint64(text[i:])
		binary.LittleEndian.PutUint64(dst[i:], w)
		// The lowest bit set is at the first byte that equals mark.
		w ^= marks
		if hit := (w - low) &^ w & high; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for ; i < len(text) && text[i] != mark; i++ {
		dst[i] = text[i]
	}
	return i
}

// before returns how many escapes begin before the view's position i.
func (v *view) before(i int) int {
	return sort.Search(len(v.escapes), func(k int) bool { return int(v.escapes[k].at) >= i })
}

// start returns where in the text the token begins that bytes[i] came from, or
// how far the text was read for the end of bytes.
func (v *view) start(i int) int {
	k := v.before(i + 1)
	if k == 0 {
		return i
	}
	e := v.escapes[k-1]
	if past := i - int(e.at+e.n); past >= 0 {
		return int(e.to) + past
	}
	return int(e.from)
}

// source maps a span of the view to the whole tokens of the text it came from.
func (v *view) source(s span) span {
	end := s.end
	if k := v.before(s.end); k > 0 {
		e := v.escapes[k-1]
		end = int(e.to) + max(0, s.end-int(e.at+e.n))
	}
	s.start, s.end = v.start(s.start), end
	return s
}

// index returns the position in the view of the token in which the text's
// position lies.
func (v *view) index(pos int) int {
	k := sort.Search(len(v.escapes), func(k int) bool { return int(v.escapes[k].from) > pos })
	if k == 0 {
		return min(pos, len(v.bytes))
	}
	e := v.escapes[k-1]
	if pos < int(e.to) {
		return int(e.at)
	}
	return min(int(e.at+e.n)+pos-int(e.to), len(v.bytes))
}

// ceil returns the start of the first token of the text at or after pos, or
// the end of the text if there is none.
func (v *view) ceil(pos, end int) int {
	if pos > v.end {
		return end
	}
	k := sort.Search(len(v.escapes), func(k int) bool { return int(v.escapes[k].from) >= pos })
	if k == 0 {
		return pos
	}
	return max(pos, int(v.escapes[k-1].to))
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

// short are the escapes of two characters, by the second.
var short = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// backslash undoes the escapes of JSON strings (RFC 8259, 7).
func backslash(dst, text []byte) ([]byte, int) {
	if len(text) < 2 {
		return dst, 0
	}
	if c := short[text[1]]; c != 0 {
		return append(dst, c), 2
	}
	if text[1] != 'u' {
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
