package argument

import (
	"bytes"
	"encoding/binary"

	"github.com/go-json-experiment/json/jsontext"
)

// plainRun is how many bytes a string must have to be left out.
const plainRun = 256

// valid reports whether src is one JSON value, strictly. The parser looks at each
// byte of a string by itself, so it does not see what is in long strings of which
// eight bytes at a time show that there is nothing to decode. To it they are empty,
// which changes nothing about the rest; names of members are left as they are.
func valid(src []byte) bool {
	var short []byte
	from := 0
	for i := 0; len(src)-i > plainRun; {
		open := bytes.IndexByte(src[i:], '"')
		if open < 0 {
			break
		}
		open += i + 1
		end := stringEnd(src, open)
		if i = end + 1; i > len(src) {
			break // it does not end, which the parser will find
		}
		if end-open >= plainRun && isValue(src[i:]) && plainText(src[open:end]) {
			short = append(short, src[from:open]...)
			from = end
		}
	}
	if from > 0 {
		src = append(short, src[from:]...)
	}
	return jsontext.Value(src).IsValid()
}

// isValue reports whether the string before rest is a value and no member's name,
// by what follows it.
func isValue(rest []byte) bool {
	for _, b := range rest {
		switch b {
		case ' ', '\t', '\r', '\n':
		default:
			return b == ',' || b == '}' || b == ']'
		}
	}
	return false
}

// plainText reports whether all of s is printable ASCII, without backslashes.
func plainText(s []byte) bool {
	const each = 0x0101010101010101
	for ; len(s) >= 8; s = s[8:] {
		v := binary.LittleEndian.Uint64(s)
		x := v ^ each*'\\'
		if (v|(v-each*' ')&^v|(x-each)&^x)&(each*0x80) != 0 {
			return false
		}
	}
	for _, b := range s {
		if b < ' ' || b >= 0x80 || b == '\\' {
			return false
		}
	}
	return true
}
