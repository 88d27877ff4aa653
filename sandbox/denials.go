package sandbox

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

const (
	// probesEach bounds the records of one attempt by one program; the rest is
	// counted, and the count recorded when the session ends.
	probesEach = 4
	// probeKinds bounds how many are told apart: a program chooses its name.
	probeKinds = 64
)

// A probeLog records what the kernel stopped. The kernel holds the caller until
// tell returns, so that only takes note.
type probeLog struct {
	s *Session

	mu     sync.Mutex
	count  map[confine.Denial]int
	queue  []confine.Denial
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

func newProbeLog(s *Session) *probeLog {
	p := &probeLog{s: s, count: make(map[confine.Denial]int), wake: make(chan struct{}, 1), done: make(chan struct{})}
	go p.run()
	return p
}

func (p *probeLog) tell(d confine.Denial) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count[d] == 0 && len(p.count) >= probeKinds {
		d.Program, d.Object = "", ""
	}
	if p.count[d]++; p.count[d] > probesEach || p.closed {
		return
	}
	p.queue = append(p.queue, d)
	p.rouse()
}

func (p *probeLog) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *probeLog) run() {
	defer close(p.done)
	for range p.wake {
		p.mu.Lock()
		queue, closed := p.queue, p.closed
		p.queue = nil
		p.mu.Unlock()
		for _, d := range queue {
			p.record(d, 0)
		}
		if closed {
			return
		}
	}
}

// close records the rest, and how often the same was tried beyond what is on
// record. Nothing is told any more by then.
func (p *probeLog) close() {
	p.mu.Lock()
	p.closed = true
	p.rouse()
	p.mu.Unlock()
	<-p.done
	for _, d := range slices.SortedFunc(maps.Keys(p.count), func(a, b confine.Denial) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.What, b.What), cmp.Compare(a.Program, b.Program), cmp.Compare(a.Object, b.Object))
	}) {
		if n := p.count[d] - probesEach; n > 0 {
			p.record(d, n)
		}
	}
}

func (p *probeLog) record(d confine.Denial, repeated int) {
	detail := map[string]string{}
	if d.Program != "" {
		detail["program"] = d.Program
	}
	if d.Object != "" {
		detail["object"] = d.Object
	}
	if repeated > 0 {
		detail["repeated"] = strconv.Itoa(repeated)
	}
	if err := p.s.log.Append(context.Background(), audit.Event{
		Kind: audit.KindProbe, Door: audit.DoorCompute, Action: d.What, Resource: p.s.resource(), Actor: p.s.actor, Source: string(d.Layer), Detail: detail,
	}); err != nil { // it was stopped either way
		p.s.opts.Logger.Error("sandbox: an attempt that the kernel stopped could not be recorded", "call", d.What, "error", err)
	}
}
