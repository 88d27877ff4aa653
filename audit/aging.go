package audit

import "time"

// DefaultQuiet is the longest silence of a log that ages its records in full.
const DefaultQuiet = 7 * 24 * time.Hour

// An aging tells how old records are. A clock that was set forward must not make
// all records old at once, and nothing on the host tells a wrong clock from a host
// that was off. But while a log is used, its records follow one another. So time
// counts by the records in it, and of a longer silence only its first part: who
// prunes errs on the side of keeping, and says [Retention.Quiet] to keep less.
//
// A record is no older than any before it, so that one from when the clock was
// set back is not taken for old; times in the future count for nothing.
type aging struct {
	now    time.Time
	quiet  time.Duration
	newest time.Time     // of the records so far
	passed time.Duration // from the first record to the newest, as it counts
}

// see takes in the time of the next record and returns its place: the time that
// had passed.
func (a *aging) see(t time.Time) time.Duration {
	if t.After(a.newest) && !t.After(a.now) {
		a.pass(t)
		a.newest = t
	}
	return a.passed
}

func (a *aging) pass(t time.Time) {
	if !a.newest.IsZero() {
		a.passed += min(t.Sub(a.newest), a.quiet)
	}
}

// end is the place of now. It is called once, after all records.
func (a *aging) end() time.Duration {
	a.pass(a.now)
	return a.passed
}
