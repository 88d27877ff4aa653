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
	"slices"
	"strconv"
)

// recover reads what the storage holds, verifies it, repairs what a crash left
// and makes the log ready for its next record.
func (l *Log) recover(ctx context.Context) error {
	known, err := l.anchored(ctx)
	if err != nil {
		return err
	}
	size, err := l.st.Size()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	r, err := l.st.Reader()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer r.Close()
	lr := newLineReader(io.NewSectionReader(r, 0, size))
	var dam *damage
	for dam == nil {
		if err := known.check(&lr.tree); err != nil {
			return err
		}
		_, err := lr.next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.As(err, &dam) {
			return fmt.Errorf("audit: %w", err)
		}
	}
	if lr.count > 0 && lr.last.Origin != l.key.Origin() {
		return fmt.Errorf("%w: it is the key of %q, the log is %q", ErrKey, l.key.Origin(), lr.last.Origin)
	}
	if lr.count > 0 {
		// It vouches for all before it; Verify also checks each earlier one.
		if err := lr.last.verify(l.key.verifier); err != nil {
			return tamperedf("the checkpoint after record %d: %w", lr.last.Size, err)
		}
	}
	if dam != nil && !dam.torn() {
		return tamperedf("%w", dam)
	}
	if err := known.end(lr); err != nil {
		return err
	}

	if lr.off < size {
		if err := l.st.Truncate(lr.off); err != nil {
			return failed(err)
		}
	}
	l.tree, l.next, l.durable, l.batches = lr.tree, lr.tree.size+1, lr.off, lr.last.Batch
	gap := gapEvent(dam, size-lr.off, lr.last.Size, lr.tree.size)
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
	return l.wait(context.Background(), l.put(enc, l.clock()))
}

// gapEvent describes a repair, or is nil if there was nothing to repair.
func gapEvent(dam *damage, torn int64, signed, records uint64) *Event {
	if torn == 0 && signed == records {
		return nil
	}
	ev := &Event{Kind: KindGap, Door: DoorAdmin, Action: "open", Resource: "log", Detail: map[string]string{}}
	if torn > 0 {
		sum := sha256.Sum256(dam.tail)
		ev.Detail["torn_bytes"] = strconv.FormatInt(torn, 10)
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
	for _, a := range l.anchors {
		ar, ok := a.(AnchorReader)
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
		cp, err := ParseCheckpoint(text, l.key.VerifierKey())
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
func (cs *checkpoints) check(t *tree) error {
	for len(cs.left) > 0 && cs.left[0].Size == t.size {
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
