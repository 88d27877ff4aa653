package report

import (
	"iter"

	"github.com/twinward-dev/twinward/audit"
)

// A merged record knows which log it is of.
type merged struct {
	log    int
	Record audit.Record
}

// merge yields the records of several logs by time. Records of one log stay in
// their order, also where its clock was set back.
func merge(logs []Log) iter.Seq2[merged, error] {
	return func(yield func(merged, error) bool) {
		if len(logs) == 1 {
			for r, err := range logs[0].Records {
				if !yield(merged{0, r}, err) || err != nil {
					return
				}
			}
			return
		}
		type head struct {
			log  int
			rec  audit.Record
			next func() (audit.Record, error, bool)
		}
		var heads []head
		for i, l := range logs {
			next, stop := iter.Pull2(l.Records)
			defer stop()
			r, err, ok := next()
			switch {
			case !ok:
			case err != nil:
				yield(merged{}, err)
				return
			default:
				heads = append(heads, head{i, r, next})
			}
		}
		for len(heads) > 0 {
			first := 0
			for i, h := range heads {
				if h.rec.Time.Before(heads[first].rec.Time) {
					first = i
				}
			}
			h := &heads[first]
			if !yield(merged{h.log, h.rec}, nil) {
				return
			}
			r, err, ok := h.next()
			switch {
			case !ok:
				heads = append(heads[:first], heads[first+1:]...)
			case err != nil:
				yield(merged{}, err)
				return
			default:
				h.rec = r
			}
		}
	}
}
