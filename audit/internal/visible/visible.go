// Package visible deals with characters that drive a terminal, break a line or
// change the order in which text is read. What agents and tools say must not do
// that to whoever reads the log.
package visible

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Hidden reports whether r must not be shown as it is.
func Hidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Text returns s with hidden characters as escapes, such as \u001b.
func Text(s string) string {
	if !strings.ContainsFunc(s, Hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if Hidden(r) {
			Escape(&b, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Escape writes r as in a JSON string.
func Escape(b *strings.Builder, r rune) {
	if r > 0xffff {
		r -= 0x10000
		fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		return
	}
	fmt.Fprintf(b, `\u%04x`, r)
}

// JSON returns JSON text with what encoding/json leaves as it is, and [Hidden]
// reports, as escapes: DEL, the C1 controls, which some terminals obey, and
// marks that reorder or hide text. Control characters between its words, where
// JSON allows some, become blanks. The text means the same, and is one line.
func JSON(enc []byte) []byte {
	i := 0
	for i < len(enc) && enc[i]-' ' < 0x7f-' ' { // neither a control character nor more than ASCII
		i++
	}
	if i == len(enc) {
		return enc
	}
	var out strings.Builder
	out.Grow(len(enc) + 16)
	out.Write(enc[:i])
	for i < len(enc) {
		r, n := utf8.DecodeRune(enc[i:])
		switch {
		case r < ' ': // not in a string
			out.WriteByte(' ')
		case Hidden(r):
			Escape(&out, r)
		case r == utf8.RuneError && n == 1: // not UTF-8, which readers of JSON take for this
			Escape(&out, r)
		default:
			out.Write(enc[i : i+n])
		}
		i += n
	}
	return []byte(out.String())
}
