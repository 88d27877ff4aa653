package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
	"strings"
)

// window is how many bytes of a pattern are looked up at once. No pattern is
// shorter: MinLength sees to that.
const window = 8

// A pattern is one form in which a secret may appear.
type pattern struct {
	bytes []byte
	name  string
}

// patternsOf returns the forms of one secret: as it is, with spaces as a form
// sends them, in hexadecimal, and in both base64 alphabets at all three
// alignments. What escaping does on top of that, to any character, is undone
// by the views of view.go before these are looked for.
func patternsOf(name string, secret []byte) []pattern {
	var out []pattern
	seen := make(map[string]bool)
	add := func(b []byte) {
		if len(b) >= window && !seen[string(b)] {
			seen[string(b)] = true
			out = append(out, pattern{b, name})
		}
	}
	add(bytes.Clone(secret))
	add(bytes.ReplaceAll(secret, []byte(" "), []byte("+")))
	lower := hex.EncodeToString(secret)
	add([]byte(lower))
	add([]byte(strings.ToUpper(lower)))
	for lead := range 3 {
		// With lead bytes before it, the characters that the secret alone
		// determines are those that start at or after its first bit and end at
		// or before its last. What follows and the padding fall outside.
		src := append(make([]byte, lead, lead+len(secret)), secret...)
		from, to := (8*lead+5)/6, 8*len(src)/6
		add([]byte(base64.RawStdEncoding.EncodeToString(src)[from:to]))
		add([]byte(base64.RawURLEncoding.EncodeToString(src)[from:to]))
		clear(src)
	}
	return out
}

// An index finds many patterns in one pass. It is immutable.
//
// Every pattern is filed under the stride windows that start at its first
// stride bytes. One of those windows must begin at a multiple of stride in any
// text that holds the pattern, so only every stride-th position of a text is
// looked at: first in a bitmap, then in the map, then byte by byte.
type index struct {
	patterns []pattern // sorted by bytes
	longest  int
	stride   int
	filter   []uint64
	shift    uint
	windows  map[uint64][]place
	first    [256]bool // the first bytes of patterns
}

// A place is where in a pattern a window begins.
type place struct{ pattern, offset int32 }

func newIndex(patterns []pattern) *index {
	x := &index{patterns: slices.Clone(patterns), stride: 8}
	slices.SortFunc(x.patterns, func(a, b pattern) int {
		if c := bytes.Compare(a.bytes, b.bytes); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	for _, p := range x.patterns {
		x.longest = max(x.longest, len(p.bytes))
		x.stride = min(x.stride, len(p.bytes)-window+1)
		x.first[p.bytes[0]] = true
	}
	entries := len(x.patterns) * x.stride
	width := min(max(bits.Len(uint(entries))+4, 12), 24) // at most one bit in 16 is set
	x.filter, x.shift = make([]uint64, 1<<width/64), uint(64-width)
	x.windows = make(map[uint64][]place, entries)
	for i, p := range x.patterns {
		for o := range x.stride {
			w := binary.LittleEndian.Uint64(p.bytes[o:])
			x.windows[w] = append(x.windows[w], place{int32(i), int32(o)})
			h := x.hash(w)
			x.filter[h/64] |= 1 << (h % 64)
		}
	}
	return x
}

func (x *index) hash(w uint64) uint64 { return w * 0x9E3779B97F4A7C15 >> x.shift }

// A span is where a secret was found.
type span struct {
	start, end int
	name       string
}

// find appends every occurrence of every pattern in text, in no particular
// order.
func (x *index) find(text []byte, spans []span) []span {
	if len(x.patterns) == 0 {
		return spans
	}
	for i := 0; i+window <= len(text); i += x.stride {
		w := binary.LittleEndian.Uint64(text[i:])
		h := x.hash(w)
		if x.filter[h/64]>>(h%64)&1 == 0 {
			continue
		}
		for _, at := range x.windows[w] {
			p := x.patterns[at.pattern]
			start := i - int(at.offset)
			if start >= 0 && bytes.HasPrefix(text[start:], p.bytes) {
				spans = append(spans, span{start, start + len(p.bytes), p.name})
			}
		}
	}
	return spans
}

// partial returns where the longest end of text starts that could grow into a
// pattern, or len(text).
func (x *index) partial(text []byte) int {
	for i := max(0, len(text)-x.longest+1); i < len(text); i++ {
		if !x.first[text[i]] {
			continue
		}
		end := text[i:]
		n, _ := slices.BinarySearchFunc(x.patterns, end, func(p pattern, end []byte) int {
			return bytes.Compare(p.bytes, end)
		})
		for ; n < len(x.patterns) && bytes.HasPrefix(x.patterns[n].bytes, end); n++ {
			if len(x.patterns[n].bytes) > len(end) {
				return i
			}
		}
	}
	return len(text)
}
