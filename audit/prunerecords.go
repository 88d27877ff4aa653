package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ActionPruneRecords is the action of a [KindPrune] event.
const ActionPruneRecords = "prune_records"

// A PrunedRecords counts what [Log.PruneRecords] removed.
type PrunedRecords struct {
	// Segments is how many files are gone, Records how many of their records: of
	// these only the hashes are left. Kept of the records in the files are still
	// there, and Next is the first record that nothing happened to.
	Segments int    `json:"segments"`
	Records  uint64 `json:"records"`
	Kept     uint64 `json:"kept"`
	Next     uint64 `json:"next,omitempty"`
	// Erased counts the values that went with the records.
	Erased
}

// PruneRecords removes the log's oldest files, as far as all records in a file and
// in those before it are older than the retention of their class, as [Log.Prune]
// reckons. An outcome is as old as its act. A file stays, and those after it, if
// a record in it is under a legal hold, or if one of the log's sinks has yet to
// take it. The file that is being written to stays always.
//
// What is left of the removed records is their hashes, so every proof, anchor and
// later checkpoint verifies as before, and the administrative acts among them
// (those with a [Change]): who authorised what is still in force is not forgotten.
// Kept arguments of the removed records are destroyed. Copy the files elsewhere
// before if they are to be archived: put back beside the others, they are read
// again as if nothing had happened.
//
// An event of [KindPrune] is durable before anything is destroyed; [Verify] accepts
// the absence of records only as one of them says. After a crash, do it again. It
// reads the whole log, and what is removed a second time.
func (l *Log) PruneRecords(ctx context.Context, keep Retention, by Change) (PrunedRecords, error) {
	var done PrunedRecords
	if l == nil {
		return done, ErrNoLog
	}
	if err := by.Validate(); err != nil {
		return done, err
	}
	st, ok := l.st.(PrunableStorage)
	if !ok {
		return done, fmt.Errorf("%w: the log's storage cannot remove files", ErrInvalid)
	}
	ret, err := keep.at(l.clock())
	if err != nil {
		return done, err
	}
	l.private.Lock()
	defer l.private.Unlock()
	holds, err := l.holds(ctx)
	if err != nil {
		return done, err
	}
	src := l.live()
	next, err := l.prunable(ctx, src, ret, holds)
	if err != nil || next <= max(src.pruned, 1) {
		return done, err
	}
	p, err := l.writePruned(ctx, st, src, next)
	if err != nil {
		return done, fmt.Errorf("audit: pruning records: nothing was removed: %w", err)
	}
	if len(p.salts) > 0 && l.values == nil {
		return done, fmt.Errorf("%w: the records that would be removed have some", ErrNoValues)
	}
	detail := ret.detail()
	maps.Copy(detail, p.detail())
	detail["removed"], detail["kept"], detail["open"] = strconv.FormatUint(p.removed, 10), strconv.FormatUint(p.kept, 10), strconv.Itoa(len(p.open))
	err = l.append(ctx, Event{Kind: KindPrune, Door: DoorAdmin, Action: ActionPruneRecords, Resource: "log", Change: &by, Detail: detail})
	if err != nil {
		return done, err
	}
	if len(p.salts) > 0 {
		if err := l.values.destroy(ctx, destruction{salts: p.salts, unused: l.values.unused}, &done.Erased); err != nil {
			return done, fmt.Errorf("audit: pruning records: their arguments are not all destroyed, do it again: %w", err)
		}
	}
	if err := l.putPruned(st, next); err != nil {
		return done, fmt.Errorf("audit: pruning records: it is not done, do it again: %w", err)
	}
	done.Segments, done.Records, done.Kept, done.Next = next-max(src.pruned, 1), p.newly, p.kept, p.size+1
	return done, nil
}

// prunable returns the number of the first segment that stays.
func (l *Log) prunable(ctx context.Context, src *liveSource, ret retention, holds []Held) (int, error) {
	// Of each segment and class, the newest record tells all.
	type newest struct {
		time  time.Time
		place time.Duration
	}
	var segments []map[string]newest // from src.begin() on
	stays := src.end.seg             // whatever the age
	acts := acts{}
	taken := l.taken()
	age := ret.aging()
	lr := newLineReader(src, src.begin())
	defer lr.Close()
	lr.leaf = func([]byte, tlog.Hash) {
		if lr.seg > 0 && lr.tree.size > taken {
			stays = min(stays, lr.seg)
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		it, err := lr.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("audit: %w", err)
		}
		r := it.record
		if r == nil {
			continue
		}
		act := acts.of(*r)
		class := retentionClass(act)
		place := age.see(r.Time)
		if lr.seg == 0 || keptWhole(r) {
			continue
		}
		if anyCovers(holds, act) {
			stays = min(stays, lr.seg)
		}
		first := max(src.pruned, 1)
		for len(segments) <= lr.seg-first {
			segments = append(segments, map[string]newest{})
		}
		n := segments[lr.seg-first][class]
		if r.Time.After(n.time) {
			n.time = r.Time
		}
		n.place = place
		segments[lr.seg-first][class] = n
	}
	end := age.end()
	next := max(src.pruned, 1)
	for _, s := range segments {
		for class, n := range s {
			if next >= stays || !ret.old(class, n.time, n.place, end) {
				return next, nil
			}
		}
		if next < stays {
			next++
		}
	}
	return next, nil
}

// keptWhole reports whether a record outlives the file it was in.
func keptWhole(r *Record) bool { return r.Event != nil && r.Event.Change != nil }

// taken is the newest record that all sinks have.
func (l *Log) taken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.last.Size
	for _, f := range l.feeds {
		n = min(n, f.sent)
	}
	return n
}

// A pruning is a prunedPart and what is not in it any more.
type pruning struct {
	prunedPart
	removed, kept uint64 // of all records in it
	newly         uint64 // removed, of those in segments
	open          openCalls
	salts         map[[saltSize]byte]bool
}

// writePruned writes what is to be left of the segments before next, under a name
// that readers do not know, and reads it back.
func (l *Log) writePruned(ctx context.Context, st PrunableStorage, src *liveSource, next int) (*pruning, error) {
	f, err := st.Open(prunedTemp)
	if err != nil {
		return nil, err
	}
	w := &prunedWriter{f: f, p: &pruning{open: openCalls{}, salts: map[[saltSize]byte]bool{}}}
	if err = f.Truncate(0); err == nil {
		err = w.copy(ctx, src, next)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	// What it says is compared with what is read of it: a mistake here could not be
	// mended.
	back := newLineReader(&files{read: func(string) (StorageReader, error) { return st.Read(prunedTemp) }, first: next, last: next - 1, pruned: next}, 0)
	defer back.Close()
	if err := back.all(ctx); err != nil {
		return nil, err
	}
	if back.tree.size != w.p.size || back.tree.root() != w.p.root {
		return nil, errors.New("what was written does not say what it should")
	}
	return w.p, nil
}

type prunedWriter struct {
	f      StorageFile
	off    int64
	buf    []byte
	leaves []tlog.Hash
	p      *pruning
}

// copy writes what is to be left of the segments before next.
func (w *prunedWriter) copy(ctx context.Context, src *liveSource, next int) error {
	head, err := firstLine(src)
	if err != nil {
		return err
	}
	digest := sha256.New()
	w.line(head)
	var line []byte // the record's, nil if it was pruned before
	var hash tlog.Hash
	lr := newLineReader(&untilSegment{src, next}, src.begin())
	defer lr.Close()
	lr.leaf = func(l []byte, h tlog.Hash) {
		hash = h
		if line = line[:0]; l == nil {
			line = nil
		} else {
			line = append(line, l...)
		}
	}
	rotating := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		size := lr.tree.size
		it, err := lr.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch r := it.record; {
		case it.checkpoint != nil:
			if rotating || lr.seg == 0 && lr.count > 1 {
				w.line(it.checkpoint.appendLine(nil, nil))
			}
			rotating = false
		case lr.tree.size == size: // a line of hashes, whose hashes come next
		case r != nil && keptWhole(r):
			w.p.kept++
			w.line(line)
			rotating = rotating || r.Event.Kind == KindKey
		default:
			w.p.removed++
			if r != nil {
				w.p.newly++
				w.p.open.see(r)
				if c := r.Commitment(); c.kept() {
					w.p.salts[[saltSize]byte(c.Salt)] = true
				}
			}
			if w.leaves = append(w.leaves, hash); len(w.leaves) == maxLeaves {
				w.hashes()
			}
		}
		if len(w.buf) > 1<<20 {
			if err := w.flush(digest); err != nil {
				return err
			}
		}
	}
	w.hashes()
	if err := w.flush(digest); err != nil {
		return err
	}
	w.p.prunedPart = prunedPart{next, lr.tree.size, lr.tree.root(), hex.EncodeToString(digest.Sum(nil))}
	return nil
}

func (w *prunedWriter) line(line []byte) {
	w.hashes()
	w.buf = append(append(w.buf, line...), '\n')
}

func (w *prunedWriter) hashes() {
	if len(w.leaves) > 0 {
		w.buf = appendLeaves(w.buf, w.leaves)
		w.leaves = w.leaves[:0]
	}
}

func (w *prunedWriter) flush(digest io.Writer) error {
	if err := writeAll(w.f, w.buf, w.off); err != nil {
		return err
	}
	_, err := digest.Write(w.buf)
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

// firstLine is that of segment 1, wherever it is now.
func firstLine(src source) ([]byte, error) {
	sec, err := src.open(src.begin())
	if err != nil {
		return nil, err
	}
	defer sec.close()
	line, err := bufio.NewReaderSize(io.LimitReader(sec, maxLine), maxLine).ReadBytes('\n')
	return bytes.TrimSuffix(line, []byte("\n")), err
}

// untilSegment is a source that ends before a segment.
type untilSegment struct {
	*liveSource
	next int
}

func (s *untilSegment) open(n int) (*section, error) {
	if n >= s.next {
		return nil, io.EOF
	}
	return s.liveSource.open(n)
}

// putPruned has readers read what is left of the segments before next instead of
// them, and removes them.
func (l *Log) putPruned(st PrunableStorage, next int) error {
	if err := st.Rename(prunedTemp, prunedName(next)); err != nil {
		return err
	}
	if err := st.SyncNames(); err != nil {
		return err
	}
	l.mu.Lock()
	l.pruned = next
	l.mu.Unlock()
	names, err := st.List()
	if err != nil {
		return err
	}
	return l.removePruned(names)
}

// removePruned removes the files that a pruning replaced: the oldest first, so that
// none is missing between those that are left.
func (l *Log) removePruned(names []string) error {
	st, ok := l.st.(PrunableStorage)
	if !ok || l.pruned == 0 {
		return nil
	}
	slices.Sort(names)
	for _, name := range names {
		if n := max(segmentNumber(name), prunedNumber(name)); n > 0 && n < l.pruned {
			if err := st.Remove(name); err != nil {
				return fmt.Errorf("audit: removing pruned records: %w", err)
			}
		}
	}
	return nil
}
