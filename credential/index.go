package credential

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
)

// stride is how many bytes apart the positions of a text are that are looked
// at.
const stride = 5

// The widths of windows. [MinLength] sees to it that no pattern is too short
// for the smaller one.
const (
	longWindow  = 8
	shortWindow = 4
	_           = uint(MinLength - (shortWindow + stride - 1))
)

// An index finds many patterns in one pass, and takes new ones and forgets old
// ones at a cost that hardly depends on how many it has. It is not safe for
// concurrent use.
//
// Every pattern is filed under stride windows that begin one byte apart. One of
// them must begin at a multiple of stride in any text that holds the pattern,
// so only every stride-th position of a text is looked at: first in a bitmap,
// then in a map, then byte by byte. A window must not reach beyond the pattern,
// so those of short patterns are smaller.
type index struct {
	sorted  []*pattern // by bytes, then by ref
	heads   bitmap     // the first bytes of patterns, as far as the smaller window reaches
	long    tier       // patterns of at least 12 bytes
	short   tier       // those of 8 to 11
	lengths map[int]int
	longest int
}

func newIndex() *index {
	return &index{long: tier{width: longWindow}, short: tier{width: shortWindow}, lengths: make(map[int]int)}
}

func compare(a, b *pattern) int {
	if c := bytes.Compare(a.bytes, b.bytes); c != 0 {
		return c
	}
	if c := strings.Compare(a.ref.Name, b.ref.Name); c != 0 {
		return c
	}
	return int(int64(a.ref.Version) - int64(b.ref.Version))
}

func (x *index) tierOf(p *pattern) *tier {
	if len(p.bytes) >= longWindow+stride-1 {
		return &x.long
	}
	return &x.short
}

// add files p, or counts it if it is known.
func (x *index) add(p *pattern) {
	at, ok := slices.BinarySearchFunc(x.sorted, p, compare)
	if ok {
		x.sorted[at].known++
		clear(p.bytes)
		return
	}
	p.known = 1
	x.sorted = slices.Insert(x.sorted, at, p)
	x.lengths[len(p.bytes)]++
	x.longest = max(x.longest, len(p.bytes))
	x.tierOf(p).add(p)
	if !x.heads.add(x.short.window(p.bytes)) {
		x.heads = newBitmap(len(x.sorted))
		for _, p := range x.sorted {
			x.heads.add(x.short.window(p.bytes))
		}
	}
}

// remove forgets what equals p once it was removed as often as it was added,
// and zeroes it.
func (x *index) remove(p *pattern) {
	at, ok := slices.BinarySearchFunc(x.sorted, p, compare)
	if !ok {
		return
	}
	old := x.sorted[at]
	if old.known--; old.known > 0 {
		return
	}
	x.sorted = slices.Delete(x.sorted, at, at+1)
	x.tierOf(old).remove(old)
	n := len(old.bytes)
	if x.lengths[n]--; x.lengths[n] == 0 {
		delete(x.lengths, n)
		x.longest = 0
		for n := range x.lengths {
			x.longest = max(x.longest, n)
		}
	}
	clear(old.bytes)
}

// A span is where a secret was found.
type span struct {
	start, end int
	pattern    *pattern
	via        via
}

// find appends every occurrence of every pattern in text, in no particular
// order.
func (x *index) find(text []byte, v via, spans []span) []span {
	return x.short.find(text, v, x.long.find(text, v, spans))
}

// partial returns where the longest end of text starts that could grow into a
// pattern, or len(text).
func (x *index) partial(text []byte) int {
	for i := max(0, len(text)-x.longest+1); i < len(text); i++ {
		end := text[i:]
		if len(end) >= shortWindow && !x.heads.has(x.short.window(end)) {
			continue
		}
		n, _ := slices.BinarySearchFunc(x.sorted, end, func(p *pattern, end []byte) int {
			return bytes.Compare(p.bytes, end)
		})
		for ; n < len(x.sorted) && bytes.HasPrefix(x.sorted[n].bytes, end); n++ {
			if len(x.sorted[n].bytes) > len(end) {
				return i
			}
		}
	}
	return len(text)
}

// A tier is the part of an index whose windows have the same width.
type tier struct {
	width   int
	filter  bitmap // of windows
	windows map[uint64]*place
}

// A place is where in a pattern a window begins; next holds the same window.
type place struct {
	pattern *pattern
	offset  int
	next    *place
}

// window returns the bytes of one window, at the start of b.
func (t *tier) window(b []byte) uint64 {
	if t.width == shortWindow {
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

func (t *tier) add(p *pattern) {
	if t.windows == nil {
		t.windows = make(map[uint64]*place)
	}
	t.anchor(p)
	full := false
	for o := p.anchor; o < p.anchor+stride; o++ {
		w := t.window(p.bytes[o:])
		t.windows[w] = &place{p, o, t.windows[w]}
		full = !t.filter.add(w) || full
	}
	if full {
		t.filter = newBitmap(len(t.windows))
		for w := range t.windows {
			t.filter.add(w)
		}
	}
}

// anchor chooses where the windows of p begin. Tokens of one kind begin alike,
// and what many patterns share is slow to tell apart, so it takes the first of
// some places that no other pattern has taken, or else the last.
func (t *tier) anchor(p *pattern) {
	last := len(p.bytes) - t.width - stride + 1
	for k := range 8 {
		p.anchor = last * k / 7
		free := true
		for o := p.anchor; free && o < p.anchor+stride; o++ {
			free = t.windows[t.window(p.bytes[o:])] == nil
		}
		if free {
			return
		}
	}
}

func (t *tier) remove(p *pattern) {
	for o := p.anchor; o < p.anchor+stride; o++ {
		w := t.window(p.bytes[o:])
		head := t.windows[w]
		for at := &head; *at != nil; at = &(*at).next {
			if (*at).pattern == p && (*at).offset == o {
				*at = (*at).next
				break
			}
		}
		if t.windows[w] = head; head == nil {
			delete(t.windows, w)
		}
	}
}

func (t *tier) find(text []byte, v via, spans []span) []span {
	if len(t.windows) == 0 {
		return spans
	}
	// One loop for each width, because this is where the time goes.
	filter := t.filter
	if t.width == shortWindow {
		for i := 0; i+shortWindow <= len(text); i += stride {
			if w := uint64(binary.LittleEndian.Uint32(text[i:])); filter.has(w) {
				spans = t.verify(text, i, w, v, spans)
			}
		}
		return spans
	}
	for i := 0; i+longWindow <= len(text); i += stride {
		if w := binary.LittleEndian.Uint64(text[i:]); filter.has(w) {
			spans = t.verify(text, i, w, v, spans)
		}
	}
	return spans
}

// verify appends the patterns of which the window w, at text[i:], is a part.
func (t *tier) verify(text []byte, i int, w uint64, v via, spans []span) []span {
	for at := t.windows[w]; at != nil; at = at.next {
		start := i - at.offset
		if start >= 0 && bytes.HasPrefix(text[start:], at.pattern.bytes) {
			spans = append(spans, span{start, start + len(at.pattern.bytes), at.pattern, v})
		}
	}
	return spans
}

// A bitmap says of a window that it was not added, or that it may have been. At
// most one bit in 16 is set. Bits are shared, so the bits of what is forgotten
// stay until the bitmap is full and made anew. The zero bitmap is full.
type bitmap struct {
	words []uint64
	shift uint
	room  int // so many can be added before it is full
}

// newBitmap returns an empty bitmap with room for twice n windows.
func newBitmap(n int) bitmap {
	width := max(bits.Len(uint(n))+5, 12)
	return bitmap{words: make([]uint64, 1<<width/64), shift: uint(64 - width), room: 1 << width / 16}
}

func (b *bitmap) has(w uint64) bool {
	h := w * 0x9E3779B97F4A7C15 >> b.shift
	return b.words[h/64]>>(h%64)&1 != 0
}

// add returns false if the bitmap is full and must be made anew.
func (b *bitmap) add(w uint64) bool {
	if b.room == 0 {
		return false
	}
	b.room--
	h := w * 0x9E3779B97F4A7C15 >> b.shift
	b.words[h/64] |= 1 << (h % 64)
	return true
}
