package audit

import (
	"context"
	"io/fs"
	"iter"

	"golang.org/x/mod/sumdb/tlog"
)

// Scan is the function [Scan] for a log that was verified: it yields only what
// [Verify] saw, of the first r.Records records those that the filter selects. It
// ends with an error that wraps [ErrTampered] unless all that it read is what had
// been signed, so that nobody can change the folder in between; do not use the
// records before it has ended. Records that were unsigned then are vouched for as
// little now.
func (r VerifyReport) Scan(ctx context.Context, dir fs.FS, filter Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		lr, err := folderLines(dir)
		if err != nil {
			yield(Record{}, err)
			return
		}
		changed := func() { yield(Record{}, tamperedf("the log is not the one that was verified any more")) }
		same, differs := r.Signed == 0, false
		lr.leaf = func([]byte, tlog.Hash) {
			if lr.tree.size == r.Signed {
				same = lr.tree.root() == r.Root
				differs = !same
			}
		}
		more := true // the caller wants records, and there may be some
		scan(ctx, lr, filter, func(rec Record, err error) bool {
			switch {
			case differs:
				changed()
				more = false
			case err != nil || rec.Seq <= r.Records:
				more = yield(rec, err) && err == nil
			default:
				return false
			}
			return more
		})
		if more && !same {
			changed()
		}
	}
}
