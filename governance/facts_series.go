package governance

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/cedar-policy/cedar-go/types"
)

// A digest is a keyed hash of argument values.
type digest [16]byte

// An event is one act as one series counts it.
type event struct {
	at    int64 // Unix nanoseconds
	n     int64 // what is summed
	value digest
	seq   uint64 // of the decision's hold
	reset bool
}

// A series is the history of one fact for one agent or session and one value of
// its key. The window slides exactly. It is not safe for concurrent use.
type series interface {
	// add counts an event. It may still be removed while open. full means that
	// there is no room for it, and nothing was changed.
	add(e event, open bool) (full bool)
	// settle says that an open event stays, or that it does not, together with
	// all others of its hold and time. It returns how many it removed.
	settle(e event, stays bool) int
	// value is what policy sees at a time; nil means absent.
	value(now int64) types.Value
	// size is the number of events that take up room at a time, after those that
	// have left the window are dropped.
	size(now int64) int
}

func newSeries(d *factDef) series {
	switch d.kind {
	case CountWithin, SumWithin, DistinctWithin:
		w := &windowed{kind: d.kind, window: int64(d.window)}
		if d.kind == DistinctWithin {
			w.distinct = map[digest]int{}
		}
		return w
	}
	return &latest{kind: d.kind, counts: d.counts, window: int64(d.window)}
}

// maxEvents bounds one windowed series, and so what a count can reach.
const maxEvents = 10_000

// A windowed series keeps every event of its window, oldest first, with running
// totals.
type windowed struct {
	kind     FactKind
	window   int64
	events   []event
	hi, lo   uint64 // the sum, which 64 bits need not hold
	distinct map[digest]int
}

func (w *windowed) add(e event, _ bool) bool {
	e.n = max(0, e.n) // nobody earns budget back
	if w.expire(e.at); len(w.events) >= maxEvents {
		return true
	}
	i := len(w.events)
	for i > 0 && w.events[i-1].at > e.at {
		i-- // decisions overtake one another, but not by much
	}
	if i == len(w.events) {
		w.events = append(w.events, e)
	} else {
		w.events = slices.Insert(w.events, i, e)
	}
	var carry uint64
	w.lo, carry = bits.Add64(w.lo, uint64(e.n), 0)
	w.hi += carry
	if w.distinct != nil {
		w.distinct[e.value]++
	}
	return false
}

func (w *windowed) settle(e event, stays bool) int {
	if stays {
		return 0
	}
	before := len(w.events)
	i, _ := slices.BinarySearchFunc(w.events, e.at, func(e event, at int64) int { return cmp.Compare(e.at, at) })
	for i < len(w.events) && w.events[i].at == e.at {
		if w.events[i].seq != e.seq {
			i++
			continue
		}
		w.drop(w.events[i])
		w.events = slices.Delete(w.events, i, i+1)
	}
	return before - len(w.events)
}

func (w *windowed) drop(e event) {
	var borrow uint64
	w.lo, borrow = bits.Sub64(w.lo, uint64(e.n), 0)
	w.hi -= borrow
	if w.distinct != nil {
		if w.distinct[e.value]--; w.distinct[e.value] == 0 {
			delete(w.distinct, e.value)
		}
	}
}

// expire drops what has left the window: an event counts while it is younger.
func (w *windowed) expire(now int64) {
	n := 0
	for n < len(w.events) && w.events[n].at <= now-w.window {
		w.drop(w.events[n])
		n++
	}
	w.events = w.events[n:] // the room is reclaimed when it next grows
}

func (w *windowed) value(now int64) types.Value {
	w.expire(now)
	switch {
	case w.kind == CountWithin:
		return types.Long(len(w.events))
	case w.kind == DistinctWithin:
		return types.Long(len(w.distinct))
	case w.hi > 0 || w.lo > math.MaxInt64:
		return types.Long(math.MaxInt64)
	}
	return types.Long(w.lo)
}

func (w *windowed) size(now int64) int {
	w.expire(now)
	return len(w.events)
}

// A latest series keeps when the latest event was, and those that may still be
// taken back.
type latest struct {
	kind    FactKind
	counts  Counts
	window  int64
	on, off mark
}

// maxOpen bounds the open events of one latest series. Older ones then stay.
const maxOpen = 256

// A mark is a time that may still go back.
type mark struct {
	at   int64
	seen bool
	open []event
}

func (m *mark) keep(at int64) {
	if !m.seen || at > m.at {
		m.at, m.seen = at, true
	}
}

func (m *mark) add(e event, open bool) {
	if !open {
		m.keep(e.at)
		return
	}
	if len(m.open) == maxOpen {
		m.keep(m.open[0].at)
		m.open = slices.Delete(m.open, 0, 1)
	}
	m.open = append(m.open, e)
}

func (m *mark) settle(seq uint64, stays bool) int {
	i := slices.IndexFunc(m.open, func(e event) bool { return e.seq == seq })
	if i < 0 {
		return 0
	}
	at := m.open[i].at
	m.open = slices.Delete(m.open, i, i+1)
	if stays {
		m.keep(at)
		return 0
	}
	return 1
}

// time is that of the latest event.
func (m *mark) time() (at int64, ok bool) {
	at, ok = m.at, m.seen
	for _, e := range m.open {
		if !ok || e.at > at {
			at, ok = e.at, true
		}
	}
	return at, ok
}

func (m *mark) expire(before int64) {
	if m.at <= before {
		m.seen = false
	}
	m.open = slices.DeleteFunc(m.open, func(e event) bool { return e.at <= before })
}

func (l *latest) of(reset bool) *mark {
	if reset {
		return &l.off
	}
	return &l.on
}

func (l *latest) add(e event, open bool) bool {
	l.of(e.reset).add(e, open)
	return false
}

func (l *latest) settle(e event, stays bool) int { return l.of(e.reset).settle(e.seq, stays) }

func (l *latest) value(now int64) types.Value {
	at, ok := l.on.time()
	ok = ok && at > now-l.window
	switch l.kind {
	case Last:
		if !ok {
			return nil
		}
		return types.NewDatetime(time.Unix(0, at))
	case Since:
		off, ended := l.off.time()
		// In the same instant, the cautious reading: what was started may have
		// come last, what must be done did not.
		if ok && ended && (off > at || off == at && l.counts == Succeeded) {
			ok = false
		}
	}
	return types.Boolean(ok)
}

func (l *latest) size(now int64) int {
	l.on.expire(now - l.window)
	l.off.expire(now - l.window)
	n := len(l.on.open) + len(l.off.open)
	for _, m := range []mark{l.on, l.off} {
		if m.seen {
			n++
		}
	}
	return n
}
