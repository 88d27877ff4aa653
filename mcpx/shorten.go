package mcpx

import (
	"bytes"
	"encoding/binary"
)

// A decoder looks at each byte of a string by itself. Long strings of which a
// look at eight bytes at a time shows that there is nothing in them to decode, it
// need not see: for it they are empty. That changes nothing about whether the text
// is JSON, nor about the names of members, which are left as they are.

// plainRun is how many bytes a string must have to be left out.
const plainRun = 256

// A cut says that what the decoder has behind offset at was left bytes further in
// the text.
type cut struct{ at, left int64 }

// shorten returns the text without what is in long plain strings, and appends to
// cuts where that was. If there are none, that is the text itself.
func shorten(text []byte, cuts []cut) ([]byte, []cut) {
	var short []byte
	from, left := 0, 0
	for i := 0; len(text)-i > plainRun; {
		open := bytes.IndexByte(text[i:], '"')
		if open < 0 {
			break
		}
		open += i + 1
		n := stringEnd(text[open:])
		if n < 0 {
			break // it does not end, which the decoder will find
		}
		i = open + n + 1
		if n < plainRun || !isValue(text[i:]) || !plainText(text[open:open+n]) {
			continue
		}
		short = append(short, text[from:open]...)
		from, left = open+n, left+n
		cuts = append(cuts, cut{int64(len(short)), int64(left)})
	}
	if from == 0 {
		return text, cuts
	}
	return append(short, text[from:]...), cuts
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
