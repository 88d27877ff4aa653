package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
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
	// OldKeys are the keys before Key, newest first, of a log whose key was
	// rotated ([Log.Rotate]). With a KeyFile they are in it.
	OldKeys []*Key
	// Anchors are told checkpoints as AnchorEvery and AnchorRecords say, by
	// [Log.Checkpoint] and by Close. With none, a truncated or replaced log cannot
	// be told from the real one.
	Anchors []Anchor
	// AnchorEvery is how long a record waits until an anchor is told of it, at most.
	// Zero means [DefaultAnchorEvery], negative for ever. It is real time, whatever
	// Clock says: a clock that is set back holds up no anchor.
	AnchorEvery time.Duration
	// AnchorRecords is after how many new records an anchor is told at once. Zero
	// means [DefaultAnchorRecords], negative never. An anchor that is slower than
	// the log gets the newest checkpoint when it is ready for one.
	AnchorRecords int
	// AwaitAnchors acknowledges a record only when every anchor has taken a
	// checkpoint that covers it. An anchor that is down then stops all acts. It has
	// no effect on what [Mode] does not wait for.
	AwaitAnchors bool
	// OnAnchor is told the outcome of each attempt to tell an anchor. It is called
	// by a goroutine of the anchor's own, or by Checkpoint or Close, and must not
	// call the log. If it panics, Checkpoint and Close return that as an error. Nil is
	// fine: see [Log.AnchorStates].
	OnAnchor func(AnchorState)
	// SegmentSize is the size in bytes at which the log goes on in a new file.
	// Zero means [DefaultSegmentSize]. A batch is never split, so that a file may
	// be larger.
	SegmentSize int64
	// Mode says which calls wait for the disk. The zero value is [Strict]; a softer
	// one goes on record when the log is opened.
	Mode Mode
	// Queue is how many records may wait for the disk, besides those that are on
	// their way there. Writers beyond it wait until their context ends and are then
	// refused. Zero means 4096.
	Queue int
	// Reserve is how many bytes of the disk are kept for the outcomes of calls
	// that are under way: with less than that free, Begin refuses, and with less
	// than half of it, Append. Zero means 16 MiB, negative none.
	Reserve int64
	// Sinks are served each durable record by a goroutine each, which Close ends:
	// see [Sink] and [Log.Sinks].
	Sinks []Feed
	// Logger is told of sinks that fail, and that work again, and of an OnAnchor that
	// panics. Nil is told nothing.
	Logger *slog.Logger
	// Clock is the time that goes on record. Nil means time.Now.
	Clock func() time.Time

	// Level says how much of an act's arguments is kept. It is given a record with
	// an Intent or an Event and no number, by many goroutines at once, before the
	// act. Nil means [DefaultLevel].
	Level func(Record) Level
	// Result says how much of an act's result is kept, as Level does of its
	// arguments. Nil, and [LevelDefault], mean [LevelMetadata]: nothing.
	Result func(Record) Level
	// ValuesDir is the folder for the arguments that are kept, encrypted; never
	// the log's own. Empty means the folder's path + ".values".
	ValuesDir string
	// Values is used instead of a ValuesDir. It must let stored bytes be
	// overwritten, or nothing can be erased. [New] keeps no values without one of
	// the two.
	Values Storage
	// KEKFile holds the key that wraps the keys of values, outside both folders.
	// It is made with mode 0600 for a new log. Empty means the folder's path +
	// ".kek". Values need a backup of it; [Log.Erase] does not need it.
	KEKFile string
	// KEK is used instead of a KEKFile. It may change from one Open to the next;
	// [Log.RotateKEK] wraps the keys of before with it, too.
	KEK KEK
	// NoValues keeps no values: [LevelFull] is then as [LevelCommitted].
	NoValues bool

	dir string // for the hash files

	// layer is put over the folder by tests.
	layer func(Storage) Storage
	// linger is set by tests; zero means defaultLinger.
	linger time.Duration
}

// A Log is an append-only, signed log: a [Recorder]. All methods may be called
// at the same time; all of a nil Log refuse with [ErrNoLog].
//
// A write returns when it is on the disk. Writes that arrive while another is on
// its way there travel together in the next batch, so that many writers share
// one sync; a lone writer waits for nobody. Records that nobody waits for ([Mode])
// gather for 10 ms, or until somebody waits or the line is full. Each batch
// ends with a signed checkpoint, written and synced with it.
type Log struct {
	key     atomic.Pointer[Key] // signs the next checkpoint
	clock   func() time.Time
	st      Storage
	remote  bool // it is a RemoteStorage
	segSize int64
	mode    Mode
	queue   int
	reserve int64
	linger  time.Duration
	floods  floods
	dir     string             // where the hash files are, or empty
	level   func(Record) Level // of arguments, or nil
	results func(Record) Level // or nil
	values  *valueStore        // nil if none are kept
	private sync.Mutex         // held by Erase and the like

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
	pruned  int        // the first segment after a pruned part, or 0
	last    Checkpoint // covers them
	news    chan struct{}

	free    int64          // bytes on the disk, when last asked
	helpers sync.WaitGroup // goroutines that commit for nobody else

	rotating sync.Mutex
	ring     []*Key // all keys, newest first
	keyFile  string // they are kept in, or empty

	opened  uint64 // signed records that the opening found
	feeds   []*feed
	feeding sync.WaitGroup // their goroutines

	anchors []*anchorWorker
	await   bool
	recent  *growth // the newest leaves, for anchors that ask for proofs, or nil
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
		if err := outside(dir, a); err != nil {
			return nil, err
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
	if err := o.placeValues(dir); err != nil {
		return nil, err
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

// New opens a log over any storage, as [Open] does over a folder. Options.Key or
// KeyFile is required; values are kept if Options.Values or ValuesDir is given,
// with a KEK or KEKFile. New closes the storage if it fails.
func New(st Storage, opts *Options) (*Log, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.dir = ""
	o.NoValues = o.NoValues || o.Values == nil && o.ValuesDir == ""
	if err := o.placeValues(""); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return open(st, o)
}

// open locks the log before it looks for its key, so that one writer makes it.
func open(st Storage, o Options) (*Log, error) {
	for _, f := range o.Sinks {
		if f.Sink == nil {
			return nil, errors.Join(fmt.Errorf("%w: one of the log's feeds has no sink", ErrInvalid), st.Close())
		}
	}
	f, last, err := lockLast(st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	l := &Log{
		clock: o.Clock, st: st, dir: o.dir, open: newBatch(nil), seg: segment{f: f},
		segSize: o.SegmentSize, mode: o.Mode, queue: o.Queue, reserve: o.Reserve, linger: o.linger, level: o.Level, results: o.Result,
	}
	l.floods.lock = make(chan struct{}, 1)
	_, l.remote = st.(RemoteStorage)
	if l.clock == nil {
		l.clock = time.Now
	}
	if l.segSize == 0 {
		l.segSize = DefaultSegmentSize
	}
	if l.queue == 0 {
		l.queue = defaultQueue
	}
	if l.reserve == 0 {
		l.reserve = defaultReserve
	}
	if l.linger == 0 {
		l.linger = defaultLinger
	}
	l.setAnchors(o)
	l.reserve = max(l.reserve, 0)
	isNew := false
	if last == 1 {
		isNew, err = isEmpty(st.Read, SegmentName(1))
	}
	if err == nil {
		l.ring, err = o.keys(isNew)
	}
	if err == nil {
		l.values, err = o.openValues(l)
	}
	if err == nil {
		if o.Key == nil {
			l.keyFile = o.KeyFile
		}
		err = l.recover(context.Background(), last)
		l.keepRecent()
	}
	if err == nil && l.mode != Strict {
		err = l.recordMode()
	}
	if err != nil {
		l.hashes.close()
		return nil, errors.Join(err, l.values.close(), l.seg.f.Close(), st.Close())
	}
	l.startFeeds(o.Sinks, o.logger())
	l.startAnchors(o)
	return l, nil
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// keys returns the keys of the log, newest first.
func (o Options) keys(isNew bool) ([]*Key, error) {
	var keys []*Key
	switch {
	case o.Key == nil && o.KeyFile == "":
		return nil, fmt.Errorf("%w: no key", ErrKey)
	case o.Key == nil:
		var err error
		if keys, err = loadOrCreateKeys(o.KeyFile, o.Origin, isNew); err != nil {
			return nil, err
		}
	case o.Origin != "" && o.Origin != o.Key.Origin():
		return nil, fmt.Errorf("%w: it is the key of %q, not of %q", ErrKey, o.Key.Origin(), o.Origin)
	default:
		keys = []*Key{o.Key}
	}
	return append(keys, o.OldKeys...), nil
}

// VerifierKey is what others verify the log with: a note verifier key, safe to
// publish. It is that of the newest key, and empty for a nil log.
func (l *Log) VerifierKey() string {
	if l == nil {
		return ""
	}
	return l.key.Load().VerifierKey()
}

// Begin implements [Recorder]. Of the call's arguments as much is kept as
// [Options.Level] says, but for those above [MaxValue]. If ctx ends while the
// intent is on its way to the disk, the record may stay; an outcome "cancelled" then
// follows it where the line has room, and Begin returns an error.
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
	if err := l.keepUp(ctx); err != nil {
		return nil, err
	}
	result, err := l.resultLevel(Record{Intent: &in})
	if err != nil {
		return nil, err
	}
	async := l.mode == BestEffort
	b, seq, at, err := l.keep(ctx, body{Intent: &in}, entry{free: l.reserve, async: async})
	if err != nil {
		return nil, err
	}
	c := &call{log: l, seq: seq, start: at, actor: in.Actor, result: result}
	if async {
		return c, nil
	}
	if err := l.settle(ctx, b, seq); err != nil {
		l.abandon(ctx, seq, err)
		return nil, err
	}
	return c, nil
}

// Append implements [Recorder].
//
// Floods: of the denials in one minute that are alike but for their arguments
// (same actor, door, action, resource and reason), the first 100 are records of
// their own. Before the next is counted, an event of [KindFlood] is durable that
// says so; the others are counted and not waited for. At the minute's end, or by
// Close, one more [KindDenial] says how many they were ([Event.Count]). If a crash
// comes first, their number is lost, and [VerifyReport.Uncounted] says where.
func (l *Log) Append(ctx context.Context, ev Event) error {
	if l == nil {
		return ErrNoLog
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case ev.Kind == "":
		return fmt.Errorf("%w: an event without a kind", ErrInvalid)
	case slices.Contains(ownKinds, ev.Kind):
		return fmt.Errorf("%w: only the log itself records events of the kind %q", ErrInvalid, ev.Kind)
	case ev.Kind == KindDenial:
		like, counted, err := l.count(ctx, ev)
		if counted || err != nil {
			return err
		}
		if err = l.append(ctx, ev); err != nil && like != nil {
			like.total.Add(-1)
		}
		return err
	}
	return l.append(ctx, ev)
}

// ownKinds are recorded by the log alone, for what the rest of it is read by.
var ownKinds = []Kind{KindGap, KindKey, KindFlood, KindConfig, KindErasure, KindPrune, KindKEK, KindHold}

// append records an event. What an erasure relies on is durable in every mode.
func (l *Log) append(ctx context.Context, ev Event) error {
	if err := l.keepUp(ctx); err != nil {
		return err
	}
	async := l.mode == BestEffort && !slices.Contains(ownKinds, ev.Kind)
	b, seq, _, err := l.keep(ctx, body{Event: &ev}, entry{free: l.reserve / 2, async: async})
	if err != nil || async {
		return err
	}
	return l.settle(ctx, b, seq)
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
	if b, _, _, err := l.add(ctx, entry{enc: enc}); err == nil {
		_ = l.wait(ctx, b)
	}
}

// Close waits for what is being written, writes the closing checkpoint, tells
// the anchors and releases the log. Calls that have not ended stay open on
// record. The second and later calls return [ErrClosed].
func (l *Log) Close() error {
	if l == nil {
		return ErrNoLog
	}
	l.closeFloods()
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
	l.helpers.Wait()
	if err == nil {
		err = l.flush(&batch{closing: true})
	}
	l.mu.Lock()
	l.announce()
	l.mu.Unlock()
	l.hashes.close()
	l.endFeeds()
	perr := l.stopAnchors()
	return errors.Join(err, perr, l.values.close(), l.seg.f.Close(), l.st.Close())
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
