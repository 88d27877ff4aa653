package index

import "math/bits"

// A set holds numbers of policies: a few as a list, many as a bitmap, whichever
// is smaller.
type set struct {
	list []int32
	bits []uint64
}

// add takes ascending numbers.
func (s *set) add(i int32) {
	if n := len(s.list); n == 0 || s.list[n-1] != i {
		s.list = append(s.list, i)
	}
}

// pack chooses the representation, given the words of a bitmap of all policies.
func (s *set) pack(words int) {
	if len(s.list) <= 2*words {
		return
	}
	s.bits = make([]uint64, words)
	s.mark(s.bits)
	s.list = nil
}

// mark sets the bits of s in dst.
func (s *set) mark(dst []uint64) {
	for i, w := range s.bits {
		dst[i] |= w
	}
	for _, i := range s.list {
		dst[i>>6] |= 1 << (i & 63)
	}
}

// within appends the numbers of s that are also in a bitmap.
func (s *set) within(dst []int32, other []uint64) []int32 {
	for i, w := range s.bits {
		for w &= other[i]; w != 0; w &= w - 1 {
			dst = append(dst, int32(i<<6+bits.TrailingZeros64(w)))
		}
	}
	for _, i := range s.list {
		if other[i>>6]&(1<<(i&63)) != 0 {
			dst = append(dst, i)
		}
	}
	return dst
}
