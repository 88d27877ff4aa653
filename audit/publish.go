package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// DefaultAnchorEvery is how long a record waits at most until an anchor is
	// told of it.
	DefaultAnchorEvery = 10 * time.Second
	// DefaultAnchorRecords is after how many records an anchor is told at once.
	DefaultAnchorRecords = 10_000

	// anchorTimeout bounds one attempt.
	anchorTimeout = 30 * time.Second
)

// An AnchorState is how far one anchor has come.
type AnchorState struct {
	Anchor Anchor
	// Records is how many the newest checkpoint covers that the anchor has taken
	// since the log was opened, Behind how many are durable that it does not cover.
	Records, Behind uint64
	// Published is when it took it, by the log's clock. Zero is never.
	Published time.Time
	// Err is why the last attempt failed, nil if it did not. An error that wraps
	// [ErrTampered] says that the anchor knows another history of this log.
	Err error
}

// AnchorStates returns how far the anchors have come, in the order of
// [Options.Anchors].
func (l *Log) AnchorStates() []AnchorState {
	if l == nil {
		return nil
	}
	states := make([]AnchorState, len(l.anchors))
	for i, w := range l.anchors {
		states[i] = w.state()
	}
	return states
}

// An anchorWorker tells one anchor the newest checkpoints, when they are due. No
// record waits for it, unless the log was opened with AwaitAnchors.
type anchorWorker struct {
	log     *Log
	anchor  Anchor
	told    func(AnchorState) // or nil
	logger  *slog.Logger
	records uint64 // 0: never by their number

	// Each holds one wish: to be told when it is time, and at once.
	soon, now chan struct{}
	armed     atomic.Bool   // soon has one, or its time is running
	tried     atomic.Uint64 // records in the checkpoint of the last attempt

	busy sync.Mutex // held by an attempt: none tells an older checkpoint after a newer

	mu           sync.Mutex
	taken        uint64 // records
	at           time.Time
	err          error
	begun, ended uint64        // attempts
	changed      chan struct{} // closed when one ends

	stop context.CancelFunc // nil if it was not started
	done chan struct{}
	gone chan struct{} // closed after the last attempt
}

// setAnchors makes the workers. They start with [Log.startAnchors].
func (l *Log) setAnchors(o Options) {
	l.await = o.AwaitAnchors
	records := o.AnchorRecords
	if records == 0 {
		records = DefaultAnchorRecords
	}
	for _, a := range o.Anchors {
		l.anchors = append(l.anchors, &anchorWorker{
			log: l, anchor: a, told: o.OnAnchor, logger: o.logger(), records: uint64(max(records, 0)),
			soon: make(chan struct{}, 1), now: make(chan struct{}, 1),
			changed: make(chan struct{}), done: make(chan struct{}), gone: make(chan struct{}),
		})
	}
}

// keepRecent keeps the coming leaves in memory if an anchor asks for proofs. It
// is called once, before there are writers.
func (l *Log) keepRecent() {
	for _, w := range l.anchors {
		if _, ok := w.anchor.(ProofAnchor); ok {
			from, _ := newTree(l.tree.size, l.tree.roots)
			l.recent = &growth{from: from}
			return
		}
	}
}

// startAnchors starts the workers of a log that has been opened.
func (l *Log) startAnchors(o Options) {
	every := o.AnchorEvery
	if every == 0 {
		every = DefaultAnchorEvery
	}
	for _, w := range l.anchors {
		w.tried.Store(l.Size())
		w.wish()
		ctx, stop := context.WithCancel(context.Background())
		w.stop = stop
		go w.run(ctx, every)
	}
}

// stopAnchors ends the workers and tells each anchor the last checkpoint.
func (l *Log) stopAnchors() error {
	for _, w := range l.anchors {
		w.stop()
		<-w.done
	}
	err := l.publish(context.Background())
	for _, w := range l.anchors {
		close(w.gone)
	}
	return err
}

// publish tells all anchors the newest checkpoint, at the same time.
func (l *Log) publish(ctx context.Context) error {
	errs := make([]error, len(l.anchors))
	var wg sync.WaitGroup
	for i, w := range l.anchors {
		wg.Go(func() { errs[i] = w.publish(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// grew takes note of new durable records. The caller holds mu.
func (l *Log) grew(leaves []tlog.Hash) {
	if l.recent != nil {
		for _, leaf := range leaves {
			l.recent.add(leaf)
		}
	}
	for _, w := range l.anchors {
		if w.records > 0 && l.last.Size-w.tried.Load() >= w.records {
			w.ask()
		} else if !w.armed.Load() {
			w.wish()
		}
	}
}

// settle returns when a record is durable and, if the log awaits its anchors,
// covered by them.
func (l *Log) settle(ctx context.Context, b *batch, seq uint64) error {
	if err := l.wait(ctx, b); err != nil || !l.await {
		return err
	}
	for _, w := range l.anchors {
		if err := w.cover(ctx, seq); err != nil {
			return err
		}
	}
	return nil
}

// wish has the anchor told in due time, ask at once.
func (w *anchorWorker) wish() {
	w.armed.Store(true)
	send(w.soon)
}

func (w *anchorWorker) ask() { send(w.now) }

func send(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one already
	}
}

// run tells the anchor until ctx ends.
func (w *anchorWorker) run(ctx context.Context, every time.Duration) {
	defer close(w.done)
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.soon:
			if due == nil && every > 0 {
				due = time.After(every)
			}
			continue
		case <-due:
		case <-w.now:
		}
		due = nil
		w.armed.Store(false) // before the checkpoint is looked at
		if w.publish(ctx) != nil {
			w.wish() // try again
		}
	}
}

// publish makes one attempt with the newest checkpoint.
func (w *anchorWorker) publish(ctx context.Context) error {
	w.busy.Lock()
	defer w.busy.Unlock()
	w.mu.Lock()
	w.begun++ // before the checkpoint is looked at
	w.mu.Unlock()
	w.log.mu.Lock()
	cp := w.log.last
	w.log.mu.Unlock()
	w.tried.Store(cp.Size)
	ctx, cancel := context.WithTimeout(ctx, anchorTimeout)
	defer cancel()
	err := w.tell(ctx, cp)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrAnchor, err)
	}
	w.mu.Lock()
	w.ended, w.err = w.begun, err
	if err == nil {
		w.taken, w.at = cp.Size, w.log.clock()
	}
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	return errors.Join(err, w.tellHost())
}

// tellHost calls OnAnchor. If that panics the anchor's state is what it was.
func (w *anchorWorker) tellHost() (err error) {
	if w.told == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: Options.OnAnchor panicked: %v", ErrAnchor, p)
			w.logger.Error("audit: Options.OnAnchor panicked", "panic", p)
		}
	}()
	w.told(w.state())
	return nil
}

// tell hands a checkpoint to the anchor. An anchor that panics has failed.
func (w *anchorWorker) tell(ctx context.Context, cp Checkpoint) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	pa, ok := w.anchor.(ProofAnchor)
	if !ok {
		return w.anchor.Publish(ctx, cp.Text)
	}
	return pa.PublishProof(ctx, cp.Text, func(old uint64) ([]tlog.Hash, error) {
		return w.log.consistency(ctx, old, cp.Size)
	})
}

// cover returns once the anchor has taken a checkpoint that covers record seq,
// which is durable, or has failed to.
func (w *anchorWorker) cover(ctx context.Context, seq uint64) error {
	w.mu.Lock()
	before := w.begun // attempts after these know the record
	for {
		taken, failed, changed := w.taken, w.err, w.changed
		tried := w.ended > before
		w.mu.Unlock()
		switch {
		case taken >= seq:
			return nil
		case tried && failed != nil:
			return failed
		}
		w.ask()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: record %d is durable, but the context ended before it was anchored: %w", ErrAnchor, seq, ctx.Err())
		case <-w.gone:
			return fmt.Errorf("%w: record %d is durable, but was not anchored: %w", ErrAnchor, seq, ErrClosed)
		}
		w.mu.Lock()
	}
}

func (w *anchorWorker) state() AnchorState {
	size := w.log.Size()
	w.mu.Lock()
	defer w.mu.Unlock()
	return AnchorState{
		Anchor: w.anchor, Records: w.taken, Behind: size - min(w.taken, size),
		Published: w.at, Err: w.err,
	}
}
