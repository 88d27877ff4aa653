package audit

import (
	"slices"
	"strconv"
)

// An unsigned is which records the repairs of a log ([KindGap]) kept without a
// signature. Whoever can write to the file can have put them there, and nobody was
// ever told that they are on record. So, although the checkpoint of the repair covers
// them, they are no authority for what is not there any more.
type unsigned []repair

type repair struct{ first, gap uint64 } // kept the records from first to before gap

// see takes in the next record.
func (u *unsigned) see(r *Record) {
	if r.Event == nil || r.Event.Kind != KindGap {
		return
	}
	first, err := strconv.ParseUint(r.Event.Detail["unsigned_first"], 10, 64)
	if err == nil && r.Event.Detail["unsigned_last"] == strconv.FormatUint(r.Seq-1, 10) {
		*u = append(*u, repair{first, r.Seq})
	}
}

// real leaves out repairs that another one kept unsigned.
func (u unsigned) real() unsigned {
	var real unsigned
	for _, r := range slices.Backward(u) {
		if !real.has(r.gap) {
			real = append(real, r)
		}
	}
	return real
}

func (u unsigned) has(seq uint64) bool {
	return slices.ContainsFunc(u, func(r repair) bool { return r.first <= seq && seq < r.gap })
}
