package egress

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what a session may do with what it is allowed. They are generous:
// they stop what runs away, and say so on record. Zero means the default.
type Limits struct {
	ConnectionsPerSecond int   // 5,000
	QueriesPerSecond     int   // DNS questions; 5,000
	Sent, Received       int64 // bytes of the whole session; 256 GiB each
	// ConnectionSent and ConnectionReceived bound one connection; zero: the session's bounds
	// alone do.
	ConnectionSent, ConnectionReceived int64
}

const (
	defaultRate  = 5000
	defaultBytes = 256 << 30
	unbounded    = int64(1) << 62
	// pieceMax and pieceMin bound what is copied between two looks at a limit.
	pieceMax, pieceMin = 4 << 20, 64 << 10
)

func (l Limits) filled() Limits {
	or := func(n *int64, def int64) {
		if *n <= 0 {
			*n = def
		}
	}
	or(&l.Sent, defaultBytes)
	or(&l.Received, defaultBytes)
	or(&l.ConnectionSent, unbounded)
	or(&l.ConnectionReceived, unbounded)
	if l.ConnectionsPerSecond <= 0 {
		l.ConnectionsPerSecond = defaultRate
	}
	if l.QueriesPerSecond <= 0 {
		l.QueriesPerSecond = defaultRate
	}
	return l
}

// A bucket lets n events a second through, and n at once after a quiet second.
type bucket struct {
	mu   sync.Mutex
	n    float64
	left float64
	at   time.Time
}

func newBucket(n int) *bucket { return &bucket{n: float64(n), left: float64(n)} }

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.at); d > 0 { // a fresh one is full
		b.left = min(b.n, b.left+b.n*d.Seconds())
		b.at = now
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// errSpent ends a connection that used up its bytes, or the session's.
var errSpent = errors.New("egress: " + CauseBytes)

// An allowance is what one direction of a connection may still carry. What is
// taken from it is taken from the session's as well.
type allowance struct {
	own    atomic.Int64
	shared *atomic.Int64
}

func (d *Door) allowance(own int64, shared *atomic.Int64) *allowance {
	a := &allowance{shared: shared}
	a.own.Store(own)
	return a
}

func (d *Door) sending() *allowance { return d.allowance(d.conf.Limits.ConnectionSent, &d.sent) }
func (d *Door) receiving() *allowance {
	return d.allowance(d.conf.Limits.ConnectionReceived, &d.received)
}

// take returns how many of want bytes may pass; what does not is given back.
func (a *allowance) take(want int64) int64 {
	n := takeFrom(&a.own, want)
	m := takeFrom(a.shared, n)
	a.own.Add(n - m)
	return m
}

func (a *allowance) give(n int64) {
	a.own.Add(n)
	a.shared.Add(n)
}

func takeFrom(left *atomic.Int64, want int64) int64 {
	for {
		have := left.Load()
		n := min(want, have)
		if n <= 0 {
			return 0
		}
		if left.CompareAndSwap(have, have-n) {
			return n
		}
	}
}

// copy copies from src to dst until the end, as far as a goes. Between two TCP
// connections the kernel moves the bytes.
func (a *allowance) copy(dst, src net.Conn) (total int64, err error) {
	for {
		// Others share what is left: near the end the pieces get small.
		piece := min(pieceMax, max(pieceMin, a.shared.Load()/64))
		n := a.take(piece)
		if n == 0 {
			return total, errSpent
		}
		lr := &io.LimitedReader{R: src, N: n}
		moved, err := io.Copy(dst, lr)
		a.give(n - moved)
		total += moved
		if err != nil || lr.N > 0 {
			return total, err
		}
	}
}

// spent ends a flow that carried all that it may.
func (d *Door) spent(f *flow) {
	d.mu.Lock()
	first := f.cut == ""
	f.cutOff(CauseBytes)
	for c, of := range d.open {
		if of == f {
			reset(c)
		}
	}
	s := d.snap.Load()
	d.mu.Unlock()
	if first {
		d.rec.deny(d.ctx, f.target, s.refusal(CauseBytes), denialsEach)
	}
}
