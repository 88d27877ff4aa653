package audit

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	mu     sync.Mutex
	start  time.Time // of the process's time, which nobody sets
	minute int64     // since then
	seen   map[floodKey]*flood
	timer  *time.Timer // ends the minute if nobody comes
	closed bool
}

// A floodKey is what like denials have in common.
type floodKey struct {
	actor                          Actor
	door, action, resource, reason string
	policies                       string
}

// A flood is the like denials of one minute.
type flood struct {
	total   int
	counted uint64 // of them, those without a record
	event   Event  // what they were
	marker  *batch // holds the record that says so
	since   uint64 // its number
}

// count counts a denial, and reports whether that is all that has to be done.
func (l *Log) count(ctx context.Context, ev Event) (bool, error) {
	if ev.Decision == nil || ev.Detail["repeated"] != "" || ev.Detail["more_before"] != "" {
		return false, nil
	}
	f := &l.floods
	f.mu.Lock()
	if f.start.IsZero() {
		f.start = time.Now()
	}
	if minute := int64(time.Since(f.start) / time.Minute); minute != f.minute {
		l.endMinute(ctx)
		f.minute = minute
	}
	key := floodKey{
		actor: ev.Actor, door: ev.Door, action: ev.Action, resource: ev.Resource,
		reason: ev.Decision.Reason, policies: strings.Join(ev.Decision.PolicyIDs(), "\n"),
	}
	like := f.seen[key]
	if like == nil {
		if f.closed || len(f.seen) >= maxFloods {
			f.mu.Unlock()
			return false, nil
		}
		if f.seen == nil {
			f.seen = map[floodKey]*flood{}
		}
		like = &flood{}
		f.seen[key] = like
	}
	if like.total++; like.total <= floodLimit {
		f.mu.Unlock()
		return false, nil
	}
	if like.marker == nil {
		ev.Args, ev.Trace = nil, ""
		like.event = ev
		mark := ev
		mark.Kind, mark.Detail = KindFlood, map[string]string{"after": strconv.Itoa(floodLimit)}
		enc, err := body{Event: &mark}.encode()
		if err == nil {
			like.marker, like.since, _, err = l.add(ctx, entry{enc: enc, free: l.reserve / 2})
		}
		if err != nil {
			f.mu.Unlock()
			return false, err
		}
		if f.timer == nil {
			f.timer = time.AfterFunc(time.Minute, l.minuteOver)
		}
	}
	like.counted++
	marker := like.marker
	f.mu.Unlock()
	return true, l.wait(ctx, marker)
}

// minuteOver writes the counts down when a minute was quiet.
func (l *Log) minuteOver() {
	l.floods.mu.Lock()
	defer l.floods.mu.Unlock()
	if !l.floods.closed {
		l.endMinute(context.Background())
	}
}

// closeFloods writes the counts down for good.
func (l *Log) closeFloods() {
	l.floods.mu.Lock()
	defer l.floods.mu.Unlock()
	if !l.floods.closed {
		l.floods.closed = true
		l.endMinute(context.Background())
	}
}

// endMinute puts the counts in line and begins anew. A count that cannot be
// written is reported by the record that has none. The caller holds floods.mu.
func (l *Log) endMinute(ctx context.Context) {
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
	slices.SortFunc(counted, func(a, b *flood) int { return int(a.since) - int(b.since) })
	for _, like := range counted {
		ev := like.event
		ev.Detail = maps.Clone(ev.Detail)
		if ev.Detail == nil {
			ev.Detail = map[string]string{}
		}
		ev.Detail["repeated"] = strconv.FormatUint(like.counted, 10)
		ev.Detail["since"] = strconv.FormatUint(like.since, 10)
		enc, err := body{Event: &ev}.encode()
		if err != nil {
			continue
		}
		// It is not waited for: it is durable before Close returns, and if the log
		// fails before, the count is known to be missing.
		_, _, _, _ = l.add(context.WithoutCancel(ctx), entry{enc: enc, async: true})
	}
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
