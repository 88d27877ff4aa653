package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

// recover verifies the end of the log, repairs what a crash left there and makes
// the log ready for its next record. It starts at the last segment, or where an
// anchor has something to say about an earlier one, or the hash files end.
func (l *Log) recover(ctx context.Context, last int) error {
	known, err := l.anchored(ctx)
	if err != nil {
		return err
	}
	names, err := l.st.List()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	src, err := newFiles(names, l.st.Read)
	if err != nil {
		return err
	}
	if err := src.whole(); err != nil {
		return err
	}
	l.pruned = src.pruned
	all := known
	from := uint64(math.MaxUint64)
	if len(known.left) > 0 {
		from = known.left[0].Size
	}
	if l.dir != "" {
		from = min(from, cachedLeaves(l.dir))
	}
	start, err := startAt(src, src.last, from)
	if err != nil {
		return err
	}
	lr, dam, key, next, err := l.read(src, start, &known)
	if err == nil && start > src.begin() && key != l.ring[0] {
		// Only the start of its segment says that an older key is in force. That
		// may be a lie of who stole it: what the whole log says counts.
		_ = lr.Close()
		l.hashes.close()
		l.hashes, known = nil, all
		lr, dam, key, next, err = l.read(src, src.begin(), &known)
	}
	defer lr.Close()
	if err != nil {
		return err
	}
	l.key.Store(key)
	if dam != nil && !dam.torn() {
		return tamperedf("%w", dam)
	}
	if err := known.end(lr); err != nil {
		return err
	}

	torn := 0
	if dam != nil {
		torn = len(dam.tail)
	}
	if err := l.resume(lr, dam, last); err != nil {
		return err
	}
	if err := l.removePruned(names); err != nil {
		return err
	}
	gap := gapEvent(dam, torn, lr.last.Size, lr.tree.size)
	if gap == nil || lr.count == 0 || lr.closed() {
		// A checkpoint of its own for the opening: it starts a new log, takes back
		// the "closed" of the one before, and syncs what a killed writer left.
		if err := l.flush(&batch{}); err != nil || gap == nil {
			return err
		}
	}
	// Where there are unsigned records, nothing is signed before the repair is on
	// record: the opening's checkpoint is that of the gap.
	enc, err := body{Event: gap}.encode()
	if err != nil {
		return err
	}
	return l.wait(context.Background(), l.put(entry{enc: enc, rotate: next}, l.clock()))
}

// read reads the log from segment start to its end, or to damage, and returns the
// keys as [Log.takeKeys] does. The caller closes the reader even after an error.
func (l *Log) read(src source, start int, known *checkpoints) (lr *lineReader, dam *damage, key, next *Key, err error) {
	lr = newLineReader(src, start)
	lr.leaf = func(_ []byte, hash tlog.Hash) { l.keepHash(lr.first, hash) }
	for dam == nil {
		if err := known.check(&lr.tree, lr.count); err != nil {
			return lr, nil, nil, nil, err
		}
		_, err := lr.next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.As(err, &dam) {
			return lr, nil, nil, nil, fmt.Errorf("audit: %w", err)
		}
	}
	key = l.ring[0]
	if lr.count > 0 {
		key, next, err = l.takeKeys(lr)
	}
	return lr, dam, key, next, err
}

// keepHash appends the hash of a record to the hash files. They are opened with
// the first one, after the records before it.
func (l *Log) keepHash(before uint64, hash tlog.Hash) {
	if l.dir == "" {
		return
	}
	var err error
	if l.hashes == nil {
		l.hashes, err = openHashFiles(l.dir, before)
	}
	if err == nil {
		err = l.hashes.add(hash)
	}
	if err != nil { // the log is complete without them
		l.hashes.close()
		_ = os.Remove(filepath.Join(l.dir, hashFileName(0))) // the next Open makes all anew
		l.hashes, l.dir = nil, ""
	}
}

// segmentStart returns how many records are before segment n, going by its first
// line, and whether that can be read.
func segmentStart(src source, n int) (size uint64, ok bool, err error) {
	lr := newLineReader(src, n)
	defer lr.Close()
	var dam *damage
	switch _, err := lr.next(); {
	case err == nil:
		return lr.first, true, nil
	case err == io.EOF || errors.As(err, &dam):
		return 0, false, nil
	default:
		return 0, false, fmt.Errorf("audit: %w", err)
	}
}

// resume cuts off what is torn, and goes on in the segment that is locked: the
// last. That may be the one after which the reader stopped.
func (l *Log) resume(lr *lineReader, dam *damage, last int) error {
	l.seg.n = last
	if lr.seg == l.seg.n {
		l.seg.used = lr.off
	}
	l.seg.alloc = l.seg.used
	if dam != nil || lr.sec != nil && lr.sec.padded > 0 || lr.seg != l.seg.n {
		// Zeros go too: they are written anew when they are needed.
		if err := l.seg.f.Truncate(l.seg.used); err != nil {
			return failed(err)
		}
		// What is written next must not be mixed with what was there.
		if err := l.seg.f.Sync(); err != nil {
			return failed(err)
		}
	}
	if l.seg.used == 0 {
		if err := l.st.SyncNames(); err != nil {
			return failed(err)
		}
	}
	l.tree, l.next, l.batches = lr.tree, lr.tree.size+1, lr.last.Batch
	l.durable, l.last, l.opened = position{l.seg.n, l.seg.used}, lr.last, lr.last.Size
	return nil
}

// gapEvent describes a repair, or is nil if there was nothing to repair.
func gapEvent(dam *damage, torn int, signed, records uint64) *Event {
	if torn == 0 && signed == records {
		return nil
	}
	ev := &Event{Kind: KindGap, Door: DoorAdmin, Action: "open", Resource: "log", Detail: map[string]string{}}
	if torn > 0 {
		sum := sha256.Sum256(dam.tail)
		ev.Detail["torn_bytes"] = strconv.Itoa(torn)
		ev.Detail["torn_sha256"] = hex.EncodeToString(sum[:])
	}
	if signed < records {
		ev.Detail["unsigned_first"] = strconv.FormatUint(signed+1, 10)
		ev.Detail["unsigned_last"] = strconv.FormatUint(records, 10)
	}
	return ev
}

// anchored returns what the anchors that can be asked know about the log.
func (l *Log) anchored(ctx context.Context) (checkpoints, error) {
	var known []Checkpoint
	for _, w := range l.anchors {
		ar, ok := w.anchor.(AnchorReader)
		if !ok {
			continue
		}
		text, err := ar.Latest(ctx)
		if err != nil {
			return checkpoints{}, fmt.Errorf("%w: reading its checkpoint: %w", ErrAnchor, err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		cp, err := parseCheckpoint(text)
		if err == nil {
			err = l.keySet().verify(cp)
		}
		if err != nil {
			return checkpoints{}, fmt.Errorf("%w: it holds something else than a checkpoint of this log: %w", ErrAnchor, err)
		}
		known = append(known, cp)
	}
	return newCheckpoints(known), nil
}

// checkpoints are verified statements about one log, smallest first, to compare
// with the log while it is read.
type checkpoints struct {
	left  []Checkpoint
	batch uint64 // the newest of all
}

func newCheckpoints(cps []Checkpoint) checkpoints {
	cs := checkpoints{left: cps}
	slices.SortStableFunc(cs.left, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	for _, cp := range cps {
		cs.batch = max(cs.batch, cp.Batch)
	}
	return cs
}

// check compares the statements about the first t.size records, and drops them.
// It waits for the first checkpoint, which says where the reader starts.
func (cs *checkpoints) check(t *tree, count int) error {
	for count > 0 && len(cs.left) > 0 && cs.left[0].Size == t.size {
		if cs.left[0].Root != t.root() {
			return tamperedf("its first %d records are not those of the anchor: it was rewritten", t.size)
		}
		cs.left = cs.left[1:]
	}
	return nil
}

// end returns an error if there are statements about what is not in the log.
func (cs *checkpoints) end(lr *lineReader) error {
	if n := len(cs.left); n > 0 {
		return tamperedf("it ends at record %d, its anchor knows %d: it was cut off or rolled back", lr.tree.size, cs.left[n-1].Size)
	}
	if cs.batch > lr.last.Batch {
		return tamperedf("it ends at checkpoint %d, its anchor knows %d: it was cut off or rolled back", lr.last.Batch, cs.batch)
	}
	return nil
}
