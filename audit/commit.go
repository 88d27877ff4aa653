package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// maxBatch is how many bytes may wait for the disk. Writers beyond it wait until
// the batch has gone, or their context ends.
const maxBatch = 8 << 20

// A batch is the records that go to the disk together.
//
// Exactly one goroutine commits at any time, the leader. It is whoever received
// the token of the batch: a writer that found nobody committing has put it
// there, or else the leader before. So there is no goroutine of the log's own,
// and no writer ever serves more than one batch.
type batch struct {
	buf     []byte // lines
	sealed  []byte // lines of values, durable before them
	ends    []int  // of the lines in buf, after their newlines
	leaves  []tlog.Hash
	closing bool // mark the checkpoint as closing
	rotate  *Key // the key after the batch's checkpoint, or nil
	helped  bool // a goroutine waits for it on behalf of others

	checkpoint Checkpoint // the last of the batch, once written

	lead  chan struct{} // holds the token
	taken chan struct{} // closed when the batch is on its way and takes no more
	done  chan struct{} // closed when the batch is durable, or has failed
	err   error         // valid when done
}

// maxSpare is the largest buffer that is always kept for the next batch but one. A
// larger one is kept as long as batches are large.
const maxSpare = 1 << 20

// newBatch returns an empty batch. It takes over the memory of spare, which may
// be nil.
func newBatch(spare *batch) *batch {
	b := &batch{lead: make(chan struct{}, 1), taken: make(chan struct{}), done: make(chan struct{})}
	if spare != nil && worthKeeping(spare.buf) {
		b.buf, b.ends, b.leaves = spare.buf[:0], spare.ends[:0], spare.leaves[:0]
		if worthKeeping(spare.sealed) {
			b.sealed = spare.sealed[:0]
		}
	}
	return b
}

// worthKeeping reports whether a buffer is small, or a good part of it was used.
func worthKeeping(buf []byte) bool { return cap(buf) <= max(maxSpare, 4*len(buf)) }

// An entry is what is put in line.
type entry struct {
	enc    []byte
	sealed []byte // the line of its value, if one is kept
	free   int64  // bytes that must be free on the disk
	rotate *Key   // becomes the log's key once the record is durable
	async  bool   // nobody waits for it
}

// add puts an encoded record in line. It is durable when [Log.wait] for the
// returned batch returns nil. While the line is full, add waits.
func (l *Log) add(ctx context.Context, e entry) (b *batch, seq uint64, at time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.open.ends) > 0 && (len(l.open.buf)+len(l.open.sealed)+len(e.enc)+len(e.sealed) > maxBatch || len(l.open.ends) >= l.queue) && l.failed == nil && !l.closed {
		full := l.open
		l.mu.Unlock()
		err = l.waitTaken(ctx, full)
		l.mu.Lock()
		if err != nil {
			return nil, 0, at, err
		}
	}
	if l.failed != nil {
		return nil, 0, at, l.failed
	}
	if l.closed {
		return nil, 0, at, ErrClosed
	}
	if l.free < e.free {
		// Somebody may have made space since the last batch.
		if l.free, err = l.st.Free(); err != nil {
			return nil, 0, at, fmt.Errorf("audit: %w", err)
		}
		if l.free < e.free {
			return nil, 0, at, fmt.Errorf("%w: %d bytes, %d are kept", ErrFull, l.free, e.free)
		}
	}
	at = l.clock()
	if y := at.UTC().Year(); y < 1 || y > 9999 {
		return nil, 0, at, fmt.Errorf("%w: the clock says year %d", ErrInvalid, y)
	}
	return l.put(e, at), l.next - 1, at, nil
}

// put appends a record to the open batch. The caller holds mu.
func (l *Log) put(e entry, at time.Time) *batch {
	b := l.open
	b.buf = append(appendRecord(b.buf, l.next, at, e.enc), '\n')
	b.ends = append(b.ends, len(b.buf))
	b.sealed = append(b.sealed, e.sealed...)
	if e.rotate != nil {
		b.rotate = e.rotate
	}
	l.next++
	if !l.busy {
		l.busy = true
		b.lead <- struct{}{}
	}
	if (e.async || l.remote) && !b.helped {
		// Somebody has to be there to commit it. Close waits for them.
		b.helped = true
		l.helpers.Go(func() { l.help(b) })
	}
	return b
}

// defaultLinger is for how long records that nobody waits for gather in line, so
// that not each has a signature and a sync of its own.
const defaultLinger = 10 * time.Millisecond

// help commits a batch that nobody may be waiting for, a little later. Whoever
// waits for it, or finds it full, takes the token meanwhile.
func (l *Log) help(b *batch) {
	if l.remote { // those who wait do not take it
		_ = l.waitOrLead(context.Background(), b, b.lead)
		return
	}
	timer := time.NewTimer(l.linger)
	defer timer.Stop()
	select {
	case <-b.done:
		return
	case <-timer.C:
	}
	select {
	case <-b.done:
	case <-b.lead:
		l.commit(b)
	}
}

// wait returns when the batch is durable or has failed, or ctx has ended. It
// commits the batch if that falls to the caller.
func (l *Log) wait(ctx context.Context, b *batch) error {
	if l.remote {
		return l.waitOrLead(ctx, b, nil) // somebody commits it who has more time
	}
	return l.waitOrLead(ctx, b, b.lead)
}

// waitTaken returns when a full batch is on its way to the disk, so that there is
// room in the next: nobody need wait until it is there.
func (l *Log) waitTaken(ctx context.Context, b *batch) error {
	select {
	case <-b.taken:
		return nil
	default:
	}
	lead := b.lead
	if l.remote {
		lead = nil
	}
	select {
	case <-b.taken:
		return nil
	case <-b.done: // it failed without being taken
		return b.err
	case <-lead:
		l.commit(b) // it is full
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
}

// waitOrLead commits the batch if the token comes through lead.
func (l *Log) waitOrLead(ctx context.Context, b *batch, lead <-chan struct{}) error {
	select {
	case <-b.done:
		return b.err
	case <-lead:
	case <-ctx.Done():
		select {
		case <-lead: // nobody else may be left to do it
		default:
			return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
	}
	l.gather(b)
	l.commit(b)
	return b.err
}

// maxGather is how often a leader steps back, where writers that wait for nothing
// could go on for ever.
const maxGather = 8

// gather lets those go first whom the batch before has just woken and who are about
// to write again, as long as the batch grows by it: batches are then about as large
// as there are writers. It takes no time if there are none.
func (l *Log) gather(b *batch) {
	n := 0
	for range maxGather {
		runtime.Gosched()
		l.mu.Lock()
		before := n
		n = len(b.ends)
		l.mu.Unlock()
		if n == before {
			return
		}
	}
}

// commit writes the open batch and hands the token on. The caller has received
// the token of b.
func (l *Log) commit(b *batch) {
	l.mu.Lock()
	l.open, l.committing, l.spare = newBatch(l.spare), b, nil
	close(b.taken)
	l.mu.Unlock()

	b.err = l.flush(b)

	l.mu.Lock()
	l.committing = nil
	l.spare = &batch{buf: b.buf, sealed: b.sealed, ends: b.ends, leaves: b.leaves}
	close(b.done)
	next := l.open
	switch {
	case b.err != nil:
		l.failed = b.err
		next.err = b.err
		close(next.done)
		l.busy = false
	case len(next.ends) > 0:
		next.lead <- struct{}{}
	default:
		l.busy = false
	}
	l.announce()
	l.mu.Unlock()
}

// flush makes a batch durable, with its checkpoint. Only the leader calls it.
func (l *Log) flush(b *batch) error {
	err := l.values.write(b.sealed, l.reserve)
	if err == nil {
		err = l.write(b)
	}
	if err == nil {
		err = l.seg.f.Sync()
	}
	if err != nil {
		return failed(err)
	}
	l.mu.Lock()
	l.durable = position{l.seg.n, l.seg.used}
	l.last = b.checkpoint
	l.grew(b.leaves)
	l.mu.Unlock()
	if b.rotate != nil {
		l.key.Store(b.rotate)
	}
	for i, leaf := range b.leaves {
		l.keepHash(l.tree.size-uint64(len(b.leaves)-i), leaf)
	}
	return nil
}

// write signs a batch and writes it to the segment, or to the next if it does
// not fit.
func (l *Log) write(b *batch) error {
	room, err := l.st.Free()
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.free = room
	l.mu.Unlock()
	room = max(room-l.reserve, 0) // zeros are not worth what is kept for outcomes
	var head []byte
	// What nobody signed stays in one segment with the record of the gap or of the
	// rotation: a header would sign it before, and without them.
	if l.seg.used > 0 && l.last.Size == l.tree.size && l.seg.used+int64(len(b.buf))+checkpointRoom > l.segSize {
		if err := l.nextSegment(); err != nil {
			return err
		}
	}
	if l.seg.used == 0 {
		cp, err := l.sign(Checkpoint{Segment: l.seg.n})
		if err != nil {
			return err
		}
		head = append(cp.appendLine(nil, &header{Key: l.key.Load().VerifierKey(), Tree: append([]tlog.Hash{}, l.tree.roots...)}), '\n')
		b.checkpoint = cp
	}
	start := 0
	for _, end := range b.ends {
		b.leaves = append(b.leaves, l.tree.add(b.buf[start:end-1]))
		start = end
	}
	if len(head) == 0 || len(b.ends) > 0 || b.closing {
		cp, err := l.sign(Checkpoint{Closed: b.closing})
		if err != nil {
			return err
		}
		b.buf = append(cp.appendLine(b.buf, nil), '\n')
		b.checkpoint = cp
	}
	if b.closing {
		// Before the checkpoint: no zeros ever follow a closing one.
		if err := l.seg.trim(); err != nil {
			return err
		}
		room = 0
	}
	if len(b.ends) == 0 && len(head) == 0 {
		room = 0 // an opening may follow a closing checkpoint
	}
	if len(head) > 0 {
		b.buf = slices.Insert(b.buf, 0, head...)
	}
	return l.seg.write(b.buf, l.segSize, room)
}

// checkpointRoom is about what a checkpoint takes.
const checkpointRoom = 512

// sign makes the next checkpoint.
func (l *Log) sign(cp Checkpoint) (Checkpoint, error) {
	l.batches++
	key := l.key.Load()
	cp.Origin, cp.Size, cp.Root, cp.Batch = key.Origin(), l.tree.size, l.tree.root(), l.batches
	err := cp.sign(key.secret.signer)
	return cp, err
}

// nextSegment completes the segment, durably, and goes on in a new one: so only
// the last one can ever be torn.
func (l *Log) nextSegment() error {
	if err := l.seg.trim(); err != nil {
		return err
	}
	n := l.seg.n + 1
	if n > maxSegments {
		return errors.New("the log has no more names for files")
	}
	f, err := l.st.Open(SegmentName(n))
	if err != nil {
		return err
	}
	if err := l.st.SyncNames(); err != nil {
		return errors.Join(err, f.Close())
	}
	old := l.seg.f
	l.seg = segment{n: n, f: f}
	return old.Close()
}

// announce wakes those who follow the log. The caller holds mu.
func (l *Log) announce() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}
