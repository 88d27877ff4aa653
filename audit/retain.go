package audit

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// SixMonths is how long values are kept where [Retention] does not say, and the
// shortest time that it takes without ShorterThanSixMonths.
const SixMonths = 184 * 24 * time.Hour

// A Retention says how long the values of acts are kept. Zero means [SixMonths].
type Retention struct {
	Read, Write, Destructive time.Duration // allowed, by [Class]
	Denied                   time.Duration // refused
	Other                    time.Duration // acts that nobody classified
	// ShorterThanSixMonths says that shorter times are meant. The AI Act, for one,
	// wants logs to be kept for six months at least.
	ShorterThanSixMonths bool
}

// The classes of a Retention.
const (
	keepDenied = "denied"
	keepOther  = "other"
)

// retentionClass is the class that a record's value is kept by.
func retentionClass(r Record) string {
	switch {
	case r.Event != nil && r.Event.Kind == KindDenial:
		return keepDenied
	case r.Intent != nil && slices.Contains([]Class{ClassRead, ClassWrite, ClassDestructive}, r.Intent.Class):
		return string(r.Intent.Class)
	}
	return keepOther
}

// cutoffs are the times before which values go, by class.
func (k Retention) cutoffs(now time.Time) (map[string]time.Time, error) {
	cuts := map[string]time.Time{}
	for class, d := range map[string]time.Duration{
		string(ClassRead): k.Read, string(ClassWrite): k.Write, string(ClassDestructive): k.Destructive,
		keepDenied: k.Denied, keepOther: k.Other,
	} {
		switch {
		case d == 0:
			d = SixMonths
		case d < 0 || d < SixMonths && !k.ShorterThanSixMonths:
			return nil, fmt.Errorf("%w: values of the class %q would be kept for %s, which is less than six months: say ShorterThanSixMonths if that is meant", ErrInvalid, class, d)
		}
		cuts[class] = now.Add(-d)
	}
	return cuts, nil
}

// Prune destroys the values that are older than the retention of their class, by
// the log's clock, and are not under a legal hold. It leaves every record and
// proof as it is, and is on record as [Log.Erase] is. Data keys whose values are
// all gone go too, unless they may still be in use.
//
// A record counts as no older than any before it, so that one from when the clock
// was set back is not pruned too early; times in the future count for nothing.
//
// Records are not pruned: they hold no arguments. Prune reads the whole log and
// all values; its memory is some fifty bytes for each value that goes.
func (l *Log) Prune(ctx context.Context, keep Retention, by Change) (Erased, error) {
	if l == nil {
		return Erased{}, ErrNoLog
	}
	now := l.clock()
	cuts, err := keep.cutoffs(now)
	if err != nil {
		return Erased{}, err
	}
	detail := map[string]string{}
	for class, cut := range cuts {
		detail[class] = cut.UTC().Format(timeFormat)
	}
	return l.destroy(ctx, ActionPrune, detail, by, func(holds []Held) (destruction, error) {
		d := destruction{salts: map[[saltSize]byte]bool{}, unused: func(id string) bool { return !l.values.isMine(id) }}
		var written time.Time // when the record was, at the earliest
		for r, err := range l.Query(ctx, Filter{}) {
			if err != nil {
				return d, err
			}
			if r.Time.After(written) && !r.Time.After(now) {
				written = r.Time
			}
			if !r.Args.kept() || !r.Time.Before(cuts[retentionClass(r)]) || !written.Before(cuts[retentionClass(r)]) {
				continue
			}
			if slices.ContainsFunc(holds, func(h Held) bool { return h.Subject.Covers(r) }) {
				d.held++
				continue
			}
			d.salts[[saltSize]byte(r.Args.Salt)] = true
		}
		return d, nil
	})
}
