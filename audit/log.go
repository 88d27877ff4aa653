package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a [Log]. The zero value and nil are safe.
type Options struct {
	// Origin names the log in its checkpoints, such as
	// "audit.example.com/host7". Empty means the name in the key, or a random
	// name for a new key.
	Origin string
	// KeyFile is where the log's key is, outside the log's folder. It is made
	// with mode 0600 for a new log. Empty means the folder's path + ".key".
	KeyFile string
	// Key is used instead of a KeyFile, by hosts that keep keys elsewhere.
	Key *Key
	// Anchors are told the closing checkpoint, and others by [Log.Checkpoint].
	// With none, a truncated or replaced log cannot be told from the real one.
	Anchors []Anchor
	// SegmentSize is the size in bytes at which the log goes on in a new file.
	// Zero means [DefaultSegmentSize]. A batch is never split, so that a file may
	// be larger.
	SegmentSize int64
	// Clock is the time that goes on record. Nil means time.Now.
	Clock func() time.Time

	dir string // for the hash files

	// layer is put over the folder by tests.
	layer func(Storage) Storage
}

// A Log is an append-only, signed log: a [Recorder]. All methods may be called
// at the same time; all of a nil Log refuse with [ErrNoLog].
//
// A write returns when it is on the disk. Writes that arrive while another is on
// its way there travel together in the next batch, so that many writers share
// one sync; there is no timer and a lone writer waits for nobody. Each batch
// ends with a signed checkpoint, written and synced with it.
type Log struct {
	key     *Key
	anchors []Anchor
	clock   func() time.Time
	st      Storage
	segSize int64
	dir     string // where the hash files are, or empty

	// The writer that holds the token of the open batch leads: it alone uses
	// these.
	tree    tree
	batches uint64 // checkpoints so far
	seg     segment
	hashes  *hashFiles // nil until there is a record

	mu         sync.Mutex
	next       uint64 // number of the next record
	open       *batch // takes records
	committing *batch // on its way to the disk, or nil
	spare      *batch // memory for a coming batch, or nil
	busy       bool   // there is a leader, or a token for one
	failed     error  // sticky
	closed     bool

	durable position   // what is before it readers may see
	last    Checkpoint // covers them
	news    chan struct{}

	publishing sync.Mutex
}

// A position is a place in the log.
type position struct {
	seg int
	off int64
}

// Open opens the log in a folder, or starts one there. It verifies the last
// segment, and from the one on that an [AnchorReader] knows something about;
// [Verify] verifies all. It returns an error that wraps
//
//   - [ErrLocked] while another process writes to it,
//   - [ErrTampered] when signed bytes were changed, or an [AnchorReader] knows a
//     later state: look at the log with [Verify] and keep it as evidence,
//   - [ErrKey] when the key is missing, readable by others or another log's.
//
// What a crash tore off the end is removed, and an event of [KindGap] says how
// much. Whole records that were not signed yet are kept and named in the event.
func Open(dir string, opts *Options) (*Log, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if dir == "" {
		return nil, fmt.Errorf("%w: the log's folder has no name", ErrInvalid)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	for _, a := range o.Anchors {
		if fa, ok := a.(fileAnchor); ok {
			if err := fa.outside(dir); err != nil {
				return nil, err
			}
		}
	}
	if o.KeyFile == "" {
		o.KeyFile = dir + ".key"
	}
	if in, err := inside(dir, o.KeyFile); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	} else if in {
		return nil, fmt.Errorf("%w: %s lies inside the log's folder, so whoever copies the log has it: keep it elsewhere", ErrKey, o.KeyFile)
	}
	fst, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	st := Storage(fst)
	if o.layer != nil {
		st = o.layer(st)
	}
	o.dir = dir
	return open(st, o)
}

// New opens a log over any storage, as [Open] does over a folder. Options.Key
// is required, KeyFile is not used. New closes the storage if it fails.
func New(st Storage, opts *Options) (*Log, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.KeyFile, o.dir = "", ""
	return open(st, o)
}

// open locks the log before it looks for its key, so that one writer makes it.
func open(st Storage, o Options) (*Log, error) {
	f, first, last, err := lockLast(st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	l := &Log{anchors: o.Anchors, clock: o.Clock, st: st, segSize: o.SegmentSize, dir: o.dir, open: newBatch(nil), seg: segment{f: f}}
	if l.clock == nil {
		l.clock = time.Now
	}
	if l.segSize == 0 {
		l.segSize = DefaultSegmentSize
	}
	isNew := false
	if last == 1 {
		isNew, err = isEmpty(st.Read, SegmentName(1))
	}
	if err == nil {
		l.key, err = o.key(isNew)
	}
	if err == nil {
		err = l.recover(context.Background(), first, last)
	}
	if err != nil {
		l.hashes.close()
		return nil, errors.Join(err, l.seg.f.Close(), st.Close())
	}
	return l, nil
}

// key returns the key of the log.
func (o Options) key(isNew bool) (*Key, error) {
	switch {
	case o.Key == nil && o.KeyFile == "":
		return nil, fmt.Errorf("%w: no key", ErrKey)
	case o.Key == nil:
		return loadOrCreateKey(o.KeyFile, o.Origin, isNew)
	case o.Origin != "" && o.Origin != o.Key.Origin():
		return nil, fmt.Errorf("%w: it is the key of %q, not of %q", ErrKey, o.Key.Origin(), o.Origin)
	}
	return o.Key, nil
}

// VerifierKey is what others verify the log with: a note verifier key, safe to
// publish. It is empty for a nil log.
func (l *Log) VerifierKey() string {
	if l == nil {
		return ""
	}
	return l.key.VerifierKey()
}

// Begin implements [Recorder]. The call's arguments are committed to, not
// stored. If ctx ends while the intent is on its way to the disk, the record
// may stay; an outcome "cancelled" then follows it, and Begin returns an error.
func (l *Log) Begin(ctx context.Context, in Intent) (Call, error) {
	if l == nil {
		return nil, ErrNoLog
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := in.Actor.Validate(); err != nil {
		return nil, err
	}
	if !in.Decision.Allowed() {
		return nil, ErrNotAllowed
	}
	enc, err := body{Intent: &in, Args: l.key.commitTo(in.Args)}.encode()
	if err != nil {
		return nil, err
	}
	b, seq, at, err := l.add(ctx, enc)
	if err != nil {
		return nil, err
	}
	if err := l.wait(ctx, b); err != nil {
		l.abandon(ctx, seq, err)
		return nil, err
	}
	return &call{log: l, seq: seq, start: at}, nil
}

// Append implements [Recorder].
func (l *Log) Append(ctx context.Context, ev Event) error {
	if l == nil {
		return ErrNoLog
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if ev.Kind == "" {
		return fmt.Errorf("%w: an event without a kind", ErrInvalid)
	}
	enc, err := body{Event: &ev, Args: l.key.commitTo(ev.Args)}.encode()
	if err != nil {
		return err
	}
	b, _, _, err := l.add(ctx, enc)
	if err != nil {
		return err
	}
	return l.wait(ctx, b)
}

// abandon closes an intent whose caller left before it was durable, without
// waiting for a disk that is busy: ctx has ended.
func (l *Log) abandon(ctx context.Context, seq uint64, cause error) {
	if errors.Is(cause, ErrFailed) {
		return // nothing more can be written
	}
	enc, err := body{Call: seq, Outcome: &Outcome{Status: StatusCancelled, ErrorCode: "not-begun"}}.encode()
	if err != nil {
		return
	}
	if b, _, _, err := l.add(ctx, enc); err == nil {
		_ = l.wait(ctx, b)
	}
}

type call struct {
	log   *Log
	seq   uint64
	start time.Time
	ended atomic.Bool
}

// Record implements [Call].
func (c *call) Record() uint64 { return c.seq }

// End implements [Call]. It waits for the disk even when ctx has ended.
func (c *call) End(_ context.Context, out Outcome) error {
	if c.ended.Swap(true) {
		return ErrEnded
	}
	if out.Latency == 0 {
		out.Latency = max(c.log.clock().Sub(c.start), 0)
	}
	enc, err := body{Call: c.seq, Outcome: &out}.encode()
	if err != nil {
		c.ended.Store(false) // nothing is on record: a smaller outcome may be
		return err
	}
	b, _, _, err := c.log.add(context.Background(), enc)
	if err != nil {
		return err
	}
	return c.log.wait(context.Background(), b)
}

// Checkpoint publishes the newest checkpoint to the anchors and returns it. It
// covers every record that was acknowledged before the call.
func (l *Log) Checkpoint(ctx context.Context) (Checkpoint, error) {
	if l == nil {
		return Checkpoint{}, ErrNoLog
	}
	return l.publish(ctx)
}

// publish is done by one goroutine at a time, so that no anchor is told an older
// checkpoint after a newer one.
func (l *Log) publish(ctx context.Context) (Checkpoint, error) {
	l.publishing.Lock()
	defer l.publishing.Unlock()
	l.mu.Lock()
	cp := l.last
	l.mu.Unlock()
	var errs []error
	for _, a := range l.anchors {
		if err := a.Publish(ctx, cp.Text); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", ErrAnchor, err))
		}
	}
	return cp, errors.Join(errs...)
}

// Close waits for what is being written, writes the closing checkpoint, tells
// the anchors and releases the log. Calls that have not ended stay open on
// record. The second and later calls return [ErrClosed].
func (l *Log) Close() error {
	if l == nil {
		return ErrNoLog
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	for l.busy {
		b := l.open
		if len(b.ends) == 0 && l.committing != nil {
			b = l.committing
		}
		l.mu.Unlock()
		_ = l.wait(context.Background(), b) // a failure is sticky, and reported below
		l.mu.Lock()
	}
	err := l.failed
	l.mu.Unlock()
	if err == nil {
		err = l.flush(&batch{closing: true})
	}
	l.mu.Lock()
	l.announce()
	l.mu.Unlock()
	l.hashes.close()
	_, perr := l.publish(context.Background())
	return errors.Join(err, perr, l.seg.f.Close(), l.st.Close())
}

// Size is the number of durable records.
func (l *Log) Size() uint64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.Size
}
