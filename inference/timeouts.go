package inference

import (
	"context"
	"errors"
	"io"
	"time"
)

// Timeouts bound how long a backend may take. For each, zero means the default,
// and below zero that there is no bound.
type Timeouts struct {
	// FirstByte is the time from sending a request to the first byte of its
	// answer. An answer that is not a stream begins when the model is done
	// thinking. Zero means 10 minutes. If it is set, and when a route has several
	// targets, a stream's first byte is one of its body; else it is one of the
	// headers, which some servers send at once, so that clients that wait only so
	// long for headers do not give up.
	FirstByte time.Duration `yaml:"first_byte"`
	// Idle is the time between two reads of an answer. Zero means 5 minutes.
	Idle time.Duration `yaml:"idle"`
	// Total is the time from sending a request to the end of its answer. Zero
	// means an hour.
	Total time.Duration `yaml:"total"`
}

// or returns t with what it leaves out taken from other.
func (t Timeouts) or(other Timeouts) Timeouts {
	set := func(d *time.Duration, o time.Duration) {
		if *d == 0 {
			*d = o
		}
	}
	set(&t.FirstByte, other.FirstByte)
	set(&t.Idle, other.Idle)
	set(&t.Total, other.Total)
	return t
}

var defaultTimeouts = Timeouts{FirstByte: 10 * time.Minute, Idle: 5 * time.Minute, Total: time.Hour}

// What ended a request that took too long.
var (
	errFirstByte = errors.New("inference: no answer in time")
	errIdle      = errors.New("inference: the answer stood still")
	errTotal     = errors.New("inference: the answer took too long")
)

// A watch ends one request to a backend when it takes too long. Its context is
// that of the request, and its cause is one of the errors above.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	first  *time.Timer
	total  *time.Timer
	idle   *time.Timer
	limits Timeouts
}

// newWatch starts the clock. It must be stopped.
func newWatch(ctx context.Context, limits Timeouts) *watch {
	w := &watch{limits: limits.or(defaultTimeouts)}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.first = w.after(w.limits.FirstByte, errFirstByte)
	w.total = w.after(w.limits.Total, errTotal)
	return w
}

func (w *watch) after(d time.Duration, cause error) *time.Timer {
	if d <= 0 {
		return nil
	}
	return time.AfterFunc(d, func() { w.cancel(cause) })
}

// begun says that the answer has begun. From then on reads must not stand still.
func (w *watch) begun() {
	if w.first != nil {
		w.first.Stop()
	}
}

// stop ends the request, if it is still on its way.
func (w *watch) stop() {
	for _, t := range []*time.Timer{w.first, w.total, w.idle} {
		if t != nil {
			t.Stop()
		}
	}
	w.cancel(nil)
}

// expired returns which time is over, or nil.
func (w *watch) expired() error {
	switch cause := context.Cause(w.ctx); cause {
	case errFirstByte, errIdle, errTotal:
		return cause
	}
	return nil
}

// A watchedBody is a body whose reads must not stand still. The time that its
// reader takes in between does not count.
type watchedBody struct {
	io.ReadCloser
	watch *watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	w := b.watch
	if w.limits.Idle > 0 {
		if w.idle == nil {
			w.idle = w.after(w.limits.Idle, errIdle)
		} else {
			w.idle.Reset(w.limits.Idle)
		}
	}
	n, err := b.ReadCloser.Read(p)
	if w.idle != nil {
		w.idle.Stop()
	}
	if err != nil && err != io.EOF {
		if over := w.expired(); over != nil {
			err = over
		}
	}
	return n, err
}

// A begunBody is a body of which the first bytes were read already.
type begunBody struct {
	io.Reader
	io.Closer
}
