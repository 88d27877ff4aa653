package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// floodLimit is how many like denials a minute are records of their own.
	floodLimit = 100
	// maxFloods bounds the memory: beyond so many different denials in a minute,
	// all are records of their own.
	maxFloods = 1 << 14
)

// floods counts like denials.
type floods struct {
	// lock has one place. Who holds it may wait for a slow disk, so that others
	// stop waiting for it when their context ends.
	lock   chan struct{}
	start  time.Time // of the process's time, which nobody sets
	minute int64     // since then
	seen   map[floodKey]*flood
	timer  *time.Timer // ends the minute if nobody comes
	closed bool

	writing sync.WaitGroup // goroutines that put counts in line
}

// A floodKey is the hash of what like denials have in common: texts may be long.
type floodKey [sha256.Size]byte

func newFloodKey(ev *Event) floodKey {
	a, h := ev.Actor, sha256.New()
	texts := append(ev.Decision.PolicyIDs(), a.Agent, a.Instance, a.Issuer, a.Session, a.User, a.Profile,
		ev.Door, ev.Action, ev.Resource, ev.Decision.Reason)
	for _, text := range texts {
		_ = binary.Write(h, binary.BigEndian, uint64(len(text))) // a hash takes all
		_, _ = io.WriteString(h, text)
	}
	return floodKey(h.Sum(nil))
}

// A flood is the like denials of one minute.
type flood struct {
	total   atomic.Int32 // of them, those with a record of their own
	counted uint64       // and those without
	event   Event        // what they were
	marker  *batch       // holds the record that says so
	since   uint64       // its number
}

// record is the one that says how many they were.
func (like *flood) record(counted, since uint64) ([]byte, error) {
	ev := like.event
	ev.Detail = maps.Clone(ev.Detail)
	if ev.Detail == nil {
		ev.Detail = map[string]string{}
	}
	ev.Detail["repeated"] = strconv.FormatUint(counted, 10)
	ev.Detail["since"] = strconv.FormatUint(since, 10)
	return body{Event: &ev}.encode()
}

// count counts a denial, and reports whether that is all that has to be done. If
// not, it may return the flood that takes the denial's record for one of its own.
func (l *Log) count(ctx context.Context, ev Event) (*flood, bool, error) {
	if ev.Decision == nil || ev.Detail["repeated"] != "" || ev.Detail["more_before"] != "" {
		return nil, false, nil
	}
	f := &l.floods
	select {
	case f.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, false, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	like, marker, err := l.countLocked(ctx, ev)
	<-f.lock
	if err != nil || marker == nil {
		return like, false, err
	}
	return like, true, l.wait(ctx, marker)
}

// countLocked returns the batch to wait for if the denial has been counted. The
// caller holds the floods' lock.
func (l *Log) countLocked(ctx context.Context, ev Event) (*flood, *batch, error) {
	f := &l.floods
	if f.start.IsZero() {
		f.start = time.Now()
	}
	if minute := int64(time.Since(f.start) / time.Minute); minute != f.minute {
		l.endMinute()
		f.minute = minute
	}
	key := newFloodKey(&ev)
	like := f.seen[key]
	if like == nil {
		if f.closed || len(f.seen) >= maxFloods {
			return nil, nil, nil
		}
		if f.seen == nil {
			f.seen = map[floodKey]*flood{}
		}
		like = &flood{}
		f.seen[key] = like
	}
	if like.total.Load() < floodLimit {
		like.total.Add(1)
		return like, nil, nil
	}
	if like.marker == nil {
		ev.Args, ev.Trace = nil, ""
		d := *ev.Decision
		ev.Decision, ev.Detail = &d, maps.Clone(ev.Detail) // the caller's are the caller's again
		like.event = ev
		if _, err := like.record(math.MaxUint64, math.MaxUint64); err != nil {
			return nil, nil, nil // the count would not fit: each is a record of its own
		}
		mark := ev
		mark.Kind, mark.Detail = KindFlood, map[string]string{"after": strconv.Itoa(floodLimit)}
		enc, err := body{Event: &mark}.encode()
		if err == nil {
			like.marker, like.since, _, err = l.add(ctx, entry{enc: enc, free: l.reserve / 2})
		}
		if err != nil {
			return nil, nil, err
		}
		if f.timer == nil {
			f.timer = time.AfterFunc(time.Minute, l.minuteOver)
		}
	}
	like.counted++
	return like, like.marker, nil
}

// minuteOver writes the counts down when a minute was quiet.
func (l *Log) minuteOver() {
	l.floods.lock <- struct{}{}
	defer func() { <-l.floods.lock }()
	if !l.floods.closed {
		l.endMinute()
	}
}

// closeFloods writes the counts down for good.
func (l *Log) closeFloods() {
	l.floods.lock <- struct{}{}
	if !l.floods.closed {
		l.floods.closed = true
		l.endMinute()
	}
	<-l.floods.lock
	l.floods.writing.Wait()
}

// endMinute begins anew, and has the counts put in line, which may take a slow
// disk its time: nobody's denial waits for it. A count that cannot be written is
// reported by the record that has none. The caller holds the floods' lock.
func (l *Log) endMinute() {
	f := &l.floods
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	var counted []*flood
	for _, like := range f.seen {
		if like.counted > 0 {
			counted = append(counted, like)
		}
	}
	clear(f.seen)
	if len(counted) == 0 {
		return
	}
	slices.SortFunc(counted, func(a, b *flood) int { return cmp.Compare(a.since, b.since) })
	f.writing.Go(func() {
		for _, like := range counted {
			if enc, err := like.record(like.counted, like.since); err == nil {
				// It is not waited for: it is durable before Close returns, and if
				// the log fails before, the count is known to be missing.
				_, _, _, _ = l.add(context.Background(), entry{enc: enc, async: true})
			}
		}
	})
}

// openFloods collects the records of floods whose count is missing.
type openFloods map[uint64]struct{}

func (o *openFloods) see(r *Record) {
	switch {
	case r.Event == nil:
	case r.Event.Kind == KindFlood:
		if *o == nil {
			*o = openFloods{}
		}
		(*o)[r.Seq] = struct{}{}
	case r.Event.Kind == KindDenial && len(*o) > 0:
		if seq, err := strconv.ParseUint(r.Event.Detail["since"], 10, 64); err == nil {
			delete(*o, seq)
		}
	}
}

func (o openFloods) list() []uint64 { return slices.Sorted(maps.Keys(o)) }
