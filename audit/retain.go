package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// SixMonths is how long acts are kept where [Retention] does not say, and the
// shortest time that it takes without ShorterThanSixMonths.
const SixMonths = 184 * 24 * time.Hour

// A Retention says how long the values or records of acts are kept. Zero means
// [SixMonths].
type Retention struct {
	Read, Write, Destructive time.Duration // allowed, by [Class]
	Denied                   time.Duration // refused
	Other                    time.Duration // acts that nobody classified
	// ShorterThanSixMonths says that shorter times are meant. The AI Act, for one,
	// wants logs to be kept for six months at least.
	ShorterThanSixMonths bool
	// Quiet is how long a log may have been silent, at most, for all of that time
	// to count: see [Log.Prune]. Zero means [DefaultQuiet]. More of it lets a clock
	// that is set forward by as much prune too early.
	Quiet time.Duration
}

// The classes of a Retention.
const (
	keepDenied = "denied"
	keepOther  = "other"
)

// acts are the intents of the calls that are open. It gives an outcome what it does
// not say itself: whose act it ends, and of what class that was.
type acts map[uint64]*Intent

// of is called with each record in order. It returns an outcome with its intent.
func (a acts) of(r Record) Record {
	switch {
	case r.Intent != nil:
		a[r.Seq] = r.Intent
	case r.Outcome != nil:
		r.Intent = a[r.Call]
		delete(a, r.Call)
	}
	return r
}

// retentionClass is the class that a record is kept by. An outcome comes with its
// intent.
func retentionClass(r Record) string {
	switch {
	case r.Event != nil && r.Event.Kind == KindDenial:
		return keepDenied
	case r.Intent != nil && slices.Contains([]Class{ClassRead, ClassWrite, ClassDestructive}, r.Intent.Class):
		return string(r.Intent.Class)
	}
	return keepOther
}

// A retention is one that was checked, at a time.
type retention struct {
	keep  map[string]time.Duration // by class
	now   time.Time
	quiet time.Duration
}

func (k Retention) at(now time.Time) (retention, error) {
	r := retention{keep: map[string]time.Duration{}, now: now, quiet: cmp.Or(k.Quiet, DefaultQuiet)}
	for class, d := range map[string]time.Duration{
		string(ClassRead): k.Read, string(ClassWrite): k.Write, string(ClassDestructive): k.Destructive,
		keepDenied: k.Denied, keepOther: k.Other,
	} {
		switch {
		case d == 0:
			d = SixMonths
		case d < 0 || d < SixMonths && !k.ShorterThanSixMonths:
			return r, fmt.Errorf("%w: what is of the class %q would be kept for %s, which is less than six months: say ShorterThanSixMonths if that is meant", ErrInvalid, class, d)
		}
		r.keep[class] = d
	}
	if r.quiet < 0 {
		return r, fmt.Errorf("%w: a silence of %s", ErrInvalid, r.quiet)
	}
	return r, nil
}

func (r retention) aging() aging { return aging{now: r.now, quiet: r.quiet} }

// cut is the time before which a class is old.
func (r retention) cut(class string) time.Time { return r.now.Add(-r.keep[class]) }

// old reports whether a record of a class is, by its own time and by its place on
// the way to the end.
func (r retention) old(class string, t time.Time, place, end time.Duration) bool {
	return t.Before(r.cut(class)) && end-place > r.keep[class]
}

// detail is the retention on record.
func (r retention) detail() map[string]string {
	d := map[string]string{}
	for class := range r.keep {
		d[class] = r.cut(class).UTC().Format(timeFormat)
	}
	return d
}

// Prune destroys the values that are older than the retention of their class, by
// the log's clock, and are not under a legal hold. It leaves every record and
// proof as it is, and is on record as [Log.Erase] is. Data keys whose values are
// all gone go too, unless they may still be in use.
//
// A clock that is wrong does not prune: a record counts as no older than any before
// it, times in the future count for nothing, and of a silence between records no
// more than [Retention.Quiet].
//
// Records stay: see [Log.PruneRecords]. Prune reads the whole log and all values;
// its memory is some hundred bytes for each value that may go.
func (l *Log) Prune(ctx context.Context, keep Retention, by Change) (Erased, error) {
	if l == nil {
		return Erased{}, ErrNoLog
	}
	ret, err := keep.at(l.clock())
	if err != nil {
		return Erased{}, err
	}
	return l.destroy(ctx, ActionPrune, ret.detail(), by, func(holds []Held) (destruction, error) {
		d := destruction{salts: map[[saltSize]byte]bool{}, unused: l.values.unused}
		type value struct {
			salt  [saltSize]byte
			class string
			place time.Duration
			held  bool
		}
		var values []value
		age, acts := ret.aging(), acts{}
		for r, err := range l.Query(ctx, Filter{}) {
			if err != nil {
				return d, err
			}
			place := age.see(r.Time)
			r = acts.of(r)
			if class := retentionClass(r); r.Commitment().kept() && r.Time.Before(ret.cut(class)) {
				values = append(values, value{[saltSize]byte(r.Commitment().Salt), class, place, anyCovers(holds, r)})
			}
		}
		end := age.end()
		for _, v := range values {
			switch {
			case !ret.old(v.class, time.Time{}, v.place, end):
			case v.held:
				d.held++
			default:
				d.salts[v.salt] = true
			}
		}
		return d, nil
	})
}

// anyCovers reports whether a record may be under a legal hold.
func anyCovers(holds []Held, r Record) bool {
	return slices.ContainsFunc(holds, func(h Held) bool { return h.Subject.mayCover(r) })
}
