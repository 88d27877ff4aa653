package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Sink passes records on to another system: a SIEM, a queue, an index.
//
// Think of a reader with a bookmark in a book that is still being written. The
// log itself is the queue: a sink that is slow or down costs no memory, holds up
// nobody, and goes on where it stopped. What it gets is durable, in order and
// without gaps but for records that were pruned before it came ([Log.PruneRecords]).
// It may come more than once: a record's number ([Record.Seq]) together with the
// log's origin tells which are the same.
type Sink interface {
	// Send returns nil once the records are kept. After an error, or a panic, the
	// same records come again, with or without some that follow them; the log never
	// skips one. A sink that does not want a record says nil.
	//
	// Send is called by one goroutine at a time. The records are the sink's own. It
	// has to return soon after ctx ends, which [Log.Close] waits for.
	Send(ctx context.Context, records []Record) error
}

// A PositionSink is a Sink that knows how far it got, after a restart of the host
// too. It is asked before the first Send and again after each failure. Other sinks
// start anew with what is recorded from the opening of the log on.
type PositionSink interface {
	Sink
	// Position is the number of the newest record that the sink has, 0 if it has
	// none: the next Send begins with the one after it.
	Position(ctx context.Context) (uint64, error)
}

// A Feed is a Sink and how a log serves it. All but the Sink may be zero.
type Feed struct {
	// Name is what the sink is called in [Log.Sinks] and by the Logger. Empty
	// means its Go type.
	Name string
	Sink Sink
	// Batch is how many records one Send gets at most. Zero means 256. It bounds
	// the memory: a record has at most [MaxRecord] bytes as stored.
	Batch int
	// Retry is the pause after a failure, doubled by each further one in a row up
	// to 64 times as much. Zero means a second.
	Retry time.Duration
	// Drain is how long [Log.Close] gives the sink to take what is left. Zero means
	// five seconds, negative no time.
	Drain time.Duration
	// MustKeepUp makes calls wait for the sink: while it is more than so many
	// records behind, Begin and Append wait until their context ends and are then
	// refused ([ErrBusy]). Outcomes never wait for it. Zero, the default, means that
	// the sink holds up nobody.
	MustKeepUp uint64
}

// A SinkStatus says how far a sink is.
type SinkStatus struct {
	Name string
	// Sent is the number of the newest record that the sink took, Lag how many
	// durable records are after it.
	Sent, Lag uint64
	// Failures counts failed attempts since the log was opened, Err is the last one,
	// nil when there was a success since.
	Failures uint64
	Err      error
	// Ended says that the sink gets nothing any more: the log was closed or has
	// failed, or Err is [ErrTampered]: the sink has records that the log has not.
	Ended bool
}

// Sinks returns the status of each of [Options.Sinks], in their order.
func (l *Log) Sinks() []SinkStatus {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]SinkStatus, len(l.feeds))
	for i, f := range l.feeds {
		list[i] = SinkStatus{f.Name, f.sent, f.lag(), f.failures, f.err, f.ended}
	}
	return list
}

// A feed is a Feed of an open log.
type feed struct {
	Feed
	log    *Log
	logger *slog.Logger
	cancel context.CancelFunc

	inARow int // failures; the feed's goroutine alone uses it

	// Under the log's mu.
	sent     uint64
	failures uint64
	err      error
	ended    bool
	moved    chan struct{} // closed when any of these changes, if somebody waits
}

// startFeeds starts a goroutine for each sink. Close ends them.
func (l *Log) startFeeds(feeds []Feed, logger *slog.Logger) {
	for _, options := range feeds {
		ctx, cancel := context.WithCancel(context.Background())
		f := &feed{Feed: options, log: l, logger: logger, cancel: cancel, sent: l.opened}
		if f.Name == "" {
			f.Name = fmt.Sprintf("%T", f.Sink)
		}
		if f.Batch <= 0 {
			f.Batch = 256
		}
		if f.Retry <= 0 {
			f.Retry = time.Second
		}
		if f.Drain == 0 {
			f.Drain = 5 * time.Second
		}
		l.feeds = append(l.feeds, f)
		l.feeding.Go(func() { f.run(ctx) })
	}
}

// endFeeds returns when no sink is served any more. Nothing more is recorded.
func (l *Log) endFeeds() {
	for _, f := range l.feeds {
		defer f.cancel()
		if f.Drain < 0 {
			f.cancel()
			continue
		}
		defer time.AfterFunc(f.Drain, f.cancel).Stop()
	}
	l.feeding.Wait()
}

// run serves the sink until the log or ctx ends. Whatever fails, it starts again
// behind the last record that the sink took.
func (f *feed) run(ctx context.Context) {
	defer f.update(func() { f.ended = true })
	for {
		err := f.serve(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		f.inARow++
		f.update(func() { f.failures++; f.err = err })
		final := errors.Is(err, ErrFailed) || errors.Is(err, ErrTampered)
		if final || f.inARow&(f.inARow-1) == 0 { // now and then
			f.logger.Warn("audit: a sink does not take records", "sink", f.Name, "err", err, "failures", f.inARow, "sent", f.sent)
		}
		if final {
			return
		}
		select {
		case <-time.After(f.Retry << min(f.inARow-1, 6)):
		case <-ctx.Done():
			return
		}
	}
}

// serve sends until something fails. It returns nil when the log has ended and the
// sink has all of it.
func (f *feed) serve(ctx context.Context) error {
	if p, ok := f.Sink.(PositionSink); ok {
		var at uint64
		err := unpanic(func() (err error) { at, err = p.Position(ctx); return })
		if err != nil {
			return fmt.Errorf("asking the sink for its position: %w", err)
		}
		if size := f.log.Size(); at > size {
			return tamperedf("the sink has record %d, the log ends at %d: it was cut off or rolled back, or the sink is another log's", at, size)
		}
		f.update(func() { f.sent = at })
	}
	var batch []Record
	for r, err := range f.log.Follow(ctx, f.sent+1) {
		if err != nil {
			return err
		}
		batch = append(batch, r)
		if len(batch) < f.Batch && r.Seq < f.log.Size() {
			continue // there is another one to be read
		}
		if err := unpanic(func() error { return f.Sink.Send(ctx, batch) }); err != nil {
			return err
		}
		f.update(func() { f.sent, f.err = r.Seq, nil })
		if f.inARow > 0 {
			f.logger.Info("audit: a sink takes records again", "sink", f.Name, "failures", f.inARow, "sent", r.Seq)
			f.inARow = 0
		}
		batch = nil
	}
	return nil
}

// unpanic returns a panic of f as an error.
func unpanic(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the sink panicked: %v", p)
		}
	}()
	return f()
}

func (f *feed) update(change func()) {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	change()
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// lag is called with the log's mu held.
func (f *feed) lag() uint64 { return f.log.last.Size - min(f.sent, f.log.last.Size) }

// keepUp waits for the sinks that calls have to wait for.
func (l *Log) keepUp(ctx context.Context) error {
	for _, f := range l.feeds {
		if f.MustKeepUp == 0 {
			continue
		}
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *feed) wait(ctx context.Context) error {
	for {
		f.log.mu.Lock()
		lag, err := f.lag(), f.err
		if lag <= f.MustKeepUp || f.log.closed || f.log.failed != nil {
			f.log.mu.Unlock()
			return nil // the log itself refuses where it has to
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.log.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%w: the sink %s is %d records behind: %w", ErrBusy, f.Name, lag, errors.Join(ctx.Err(), err))
		}
	}
}

// KeepPosition returns a sink that passes records on to s and writes into a file
// how far it got, so that it misses nothing while the host is down. Without the
// file it begins with the first record of the log. Each sink of each log needs a
// file of its own.
func KeepPosition(s Sink, path string) PositionSink { return keptPosition{s, path} }

type keptPosition struct {
	Sink
	path string
}

// Send implements [Sink].
func (k keptPosition) Send(ctx context.Context, records []Record) error {
	last := records[len(records)-1].Seq // before the sink has them
	if err := k.Sink.Send(ctx, records); err != nil {
		return err
	}
	return writeFileAtomic(k.path, strconv.AppendUint(nil, last, 10))
}

// Position implements [PositionSink].
func (k keptPosition) Position(context.Context) (uint64, error) {
	text, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s does not hold the number of a record", k.path)
	}
	return n, nil
}
