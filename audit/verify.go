package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// VerifyOptions say what to verify a log against.
type VerifyOptions struct {
	// Key is the log's verifier key ([Log.VerifierKey]), from a place that the
	// writer of the log cannot change, and Keys are more of them, for a log whose
	// key was rotated. One is required. From the first checkpoint that one of them
	// signed, the log's own records of rotation say which keys come next.
	Key  string
	Keys []string
	// Anchors are checkpoints of the log (signed notes) that were kept
	// elsewhere. Without one, see [VerifyReport.Caveats].
	Anchors []string
	// LocalAnchors are checkpoints that lay where the log's writer could change
	// them ([CheckAnchorFile]). They are compared with the log, too, but count only
	// if a witness cosigned them.
	LocalAnchors []string
	// Witnesses are the verifier keys of witnesses ([Witness]). If there are any,
	// Quorum of them must have cosigned one of the anchors each, or Verify fails
	// with [ErrAnchor]. A Quorum of 0 means all.
	Witnesses []string
	Quorum    int
	// Progress is told now and then how many records have been verified.
	Progress func(records uint64)
}

// progressEvery is how many records are verified from one call of Progress to
// the next.
const progressEvery = 100_000

// A VerifyReport says what was found in a log. It is complete only if [Verify]
// returned no error; otherwise it says how far the verifier came.
type VerifyReport struct {
	// Origin is the log's name.
	Origin string `json:"origin"`
	// Records are all whole records, Signed those that the last checkpoint
	// covers, Anchored those that the largest anchor covers.
	Records  uint64 `json:"records"`
	Signed   uint64 `json:"signed"`
	Anchored uint64 `json:"anchored"`
	// Root is the root of the first Signed records.
	Root tlog.Hash `json:"root"`
	// Newest is the last checkpoint, which is what to keep as an anchor for the
	// next time.
	Newest Checkpoint `json:"-"`
	// Segments is how many files the log is in.
	Segments int `json:"segments"`
	// Checkpoints is how many were found and checked, Anchors how many were given
	// that count, LocalAnchors how many that do not.
	Checkpoints  int `json:"checkpoints"`
	Anchors      int `json:"anchors"`
	LocalAnchors int `json:"local_anchors,omitempty"`
	// Cosigned is how many records the quorum of witnesses vouches for, and
	// Cosignatures are all that were found of them.
	Cosigned     uint64        `json:"cosigned,omitempty"`
	Cosignatures []Cosignature `json:"cosignatures,omitempty"`
	// Closed says that the writer closed the log after its last record. A log
	// that is being written to, or whose writer was killed, is not closed.
	Closed bool `json:"closed"`
	// Pruned says which records were removed on record, nil if none were.
	Pruned *Pruned `json:"pruned,omitempty"`
	// TornBytes is the length of an unfinished write at the end.
	TornBytes int64 `json:"torn_bytes"`
	// First and Last are the times of the first and last records that are there.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Open are the calls without an outcome, by the number of the intent.
	Open []uint64 `json:"open,omitempty"`
	// Uncounted are the records of floods ([KindFlood]) whose count is missing: a
	// crash came first, or the minute is not over.
	Uncounted []uint64 `json:"uncounted,omitempty"`
	// Caveats say in words what this verification cannot exclude.
	Caveats []string `json:"caveats,omitempty"`
}

// ErrNoKey is returned by [Verify] without a key.
var ErrNoKey = errors.New("audit: verifying needs the log's verifier key")

// Verify checks every byte of a log in a folder: the form of each line, the
// order of the records, the Merkle root and signature of each checkpoint, and
// that each anchor is a checkpoint of this very log. A nil error means that the
// log is what was signed and anchored; the report's caveats say what that does
// not include. An error that wraps [ErrTampered] names the record; the other
// errors mean that nothing could be verified.
//
// A log may be verified while it is being written to. Memory does not grow with
// the log, but for the list of open calls.
func Verify(ctx context.Context, dir fs.FS, opts *VerifyOptions) (VerifyReport, error) {
	var rep VerifyReport
	if opts == nil {
		return rep, ErrNoKey
	}
	keys, err := newKeySet(append([]string{opts.Key}, opts.Keys...))
	if err != nil {
		return rep, err
	}
	given, err := readAnchors(opts, &rep)
	if err != nil {
		return rep, err
	}
	var anchors []Checkpoint
	later := map[int]Checkpoint{} // signed with a key that the log may tell of
	for i, cp := range given {
		if keys.verify(cp.Checkpoint) != nil {
			later[i] = cp.Checkpoint
		} else {
			anchors = append(anchors, cp.Checkpoint)
		}
	}
	known := newCheckpoints(anchors)

	src, entries, err := folderFiles(dir)
	switch {
	case err != nil:
		return rep, err
	case src.last == 0:
		return rep, tamperedf("there is no %s in the folder", SegmentName(1))
	}
	if err := src.whole(); err != nil {
		return rep, err
	}
	chain, err := verifyLines(ctx, src, keys, &known, &rep, opts.Progress)
	if errors.Is(err, ErrEmpty) && len(given) > 0 {
		// Whoever signed an anchor: with one, the log was not always empty.
		return rep, tamperedf("there is nothing in it, and an anchor knows %d records", given[0].Size)
	}
	if err != nil {
		return rep, err
	}
	if len(later) > 0 {
		if err := verifyLater(ctx, src, chain, later); err != nil {
			return rep, err
		}
	}
	for _, cp := range given {
		if !cp.local {
			rep.Anchored = max(rep.Anchored, cp.Size)
		}
	}
	rep.Segments = src.last - src.first + 1
	rep.Caveats = rep.caveats(others(entries, src))
	return rep, nil
}

// A givenAnchor is a checkpoint to compare the log with.
type givenAnchor struct {
	Checkpoint
	local bool // it does not count
}

// readAnchors decodes the anchors, without checking the log's signature, and asks
// the witnesses' keys about them.
func readAnchors(opts *VerifyOptions, rep *VerifyReport) ([]givenAnchor, error) {
	w, err := newWitnesses(opts.Witnesses, opts.Quorum)
	if err != nil {
		return nil, err
	}
	var given []givenAnchor
	for i, text := range slices.Concat(opts.Anchors, opts.LocalAnchors) {
		cp, err := parseCheckpoint([]byte(text))
		if err != nil {
			return nil, notOurs(i, err)
		}
		cosigned := w.see(cp)
		g := givenAnchor{cp, i >= len(opts.Anchors) && !cosigned}
		given = append(given, g)
		if g.local {
			rep.LocalAnchors++
		} else {
			rep.Anchors++
		}
	}
	rep.Cosignatures = w.found
	rep.Cosigned, err = w.covered()
	return given, err
}

func notOurs(anchor int, err error) error {
	return fmt.Errorf("%w: anchor %d is not a checkpoint of this log: %w", ErrTampered, anchor+1, err)
}

// verifyLater compares the log, which has been verified, with anchors that a key
// signed to which it was rotated.
func verifyLater(ctx context.Context, src *files, chain keySet, anchors map[int]Checkpoint) error {
	var cps []Checkpoint
	for i, cp := range anchors {
		if err := chain.verify(cp); err != nil {
			return notOurs(i, err)
		}
		cps = append(cps, cp)
	}
	known := newCheckpoints(cps)
	_, err := verifyLines(ctx, src, chain, &known, &VerifyReport{}, nil)
	return err
}

// verifyLines fills rep from the log in src. It returns the keys that signed it.
func verifyLines(ctx context.Context, src *files, keys keySet, known *checkpoints, rep *VerifyReport, progress func(uint64)) (chain keySet, err error) {
	lr := newLineReader(src, src.begin())
	defer lr.Close()
	lr.signatures = newSignatureChecks()
	defer func() {
		if bad := lr.signatures.wait(); bad != nil {
			chain, err = nil, bad
		}
	}()
	seen := seenRecords{rep: rep}
	// A record is decoded only as far as needed: the checkpoint after it vouches
	// for its form. Those without one are decoded in full.
	var unsigned []byte
	lr.skip = func(uint64) bool { return true }
	lr.leaf = func(line []byte, _ tlog.Hash) {
		if line != nil {
			seen.see(lr.tree.size, line)
		}
		if lr.seg > 0 { // the segment after section 0 begins with a signature of it
			unsigned = append(append(unsigned, line...), '\n')
		}
	}
	trusted := false
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := known.check(&lr.tree, lr.count); err != nil {
			return nil, err
		}
		it, err := lr.next()
		if err == nil && seen.err != nil {
			return nil, tamperedf("record %d: %w", lr.tree.size, seen.err)
		}
		if err == io.EOF {
			break
		}
		var dam *damage
		if errors.As(err, &dam) && dam.torn() {
			rep.TornBytes = int64(len(dam.tail))
			break
		}
		if dam != nil {
			return nil, tamperedf("%w", dam)
		}
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		if it.checkpoint != nil {
			unsigned = unsigned[:0]
		} else if len(unsigned) > maxTail {
			return nil, tamperedf("records %d to %d are not signed, which are more than a crash leaves", lr.last.Size+1, lr.tree.size)
		}
		if progress != nil && it.checkpoint == nil && lr.tree.size%progressEvery == 0 {
			progress(lr.tree.size)
		}
		trusted = trusted || lr.count > 0 && keys[lr.lastKey] != nil
		rep.Records = lr.tree.size
		rep.Origin, rep.Signed, rep.Root, rep.Checkpoints = lr.last.Origin, lr.last.Size, lr.last.Root, lr.count
	}
	if lr.count == 0 && lr.tree.size == 0 {
		return nil, cmp.Or(known.end(lr), error(ErrEmpty))
	}
	if lr.count == 0 {
		return nil, tamperedf("there is no signed checkpoint in it")
	}
	if !trusted {
		return nil, tamperedf("none of its checkpoints is signed with a key that was given")
	}
	seq := lr.last.Size
	for line := range bytes.Lines(unsigned) {
		seq++
		if r, err := parseRecord(bytes.TrimSuffix(line, []byte("\n"))); err != nil || r.Seq != seq {
			return nil, tamperedf("record %d: %w", seq, cmp.Or(err, errForm))
		}
	}
	if err := seen.finish(); err != nil {
		return nil, err
	}
	if rep.Pruned, err = seen.pruning(lr.pruned, lr.last.Size); err != nil {
		return nil, err
	}
	rep.Newest = lr.last
	rep.Closed = lr.closed() && rep.TornBytes == 0 && !src.spare
	return lr.verifiers, known.end(lr)
}

// A keySet are verifiers by their verifier keys.
type keySet map[string]note.Verifier

// newKeySet decodes verifier keys. Empty ones are left out.
func newKeySet(keys []string) (keySet, error) {
	set := keySet{}
	for _, key := range keys {
		if key == "" {
			continue
		}
		v, err := note.NewVerifier(key)
		if err != nil {
			return nil, fmt.Errorf("%w: verifier key: %w", ErrKey, err)
		}
		set[key] = v
	}
	if len(set) == 0 {
		return nil, ErrNoKey
	}
	return set, nil
}

// verify checks that one of the keys signed the checkpoint.
func (s keySet) verify(cp Checkpoint) error {
	var errs []error
	for _, v := range s {
		err := cp.verify(v)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// others names what else is in the folder.
func others(entries []fs.DirEntry, src *files) []string {
	var names []string
	for _, e := range entries {
		known := segmentNumber(e.Name()) > 0 || prunedNumber(e.Name()) > 0 || isHashFile(e.Name()) || e.Name() == prunedTemp
		if !known || slices.Contains(src.left, e.Name()) {
			names = append(names, fmt.Sprintf("%q", e.Name()))
		}
	}
	return names
}

func (r VerifyReport) caveats(others []string) []string {
	var c []string
	add := func(format string, args ...any) { c = append(c, fmt.Sprintf(format, args...)) }
	switch {
	case r.Anchors == 0 && r.LocalAnchors > 0:
		add("No anchor was given that the log's writer cannot change. Who can change both can have cut off records after number %d, put back an older state of the log, or rewritten all of it with the signing key.", r.Records)
	case r.Anchors == 0:
		add("No anchor was given. It cannot be excluded that records after number %d were cut off, that an older state of the log was put back, or that a holder of the signing key rewrote all of it.", r.Records)
	case r.Anchored < r.Records:
		add("The anchor covers records 1 to %d. For those after it, it cannot be excluded that more were cut off, or that a holder of the signing key rewrote them.", r.Anchored)
	default:
		add("Records that were written after the anchor's checkpoint, if there were any, are not here: compare with a newer anchor.")
	}
	if r.Anchors > 0 && r.LocalAnchors > 0 {
		add("%d more anchors do not count: the log's writer can change them where they were.", r.LocalAnchors)
	}
	if r.Signed < r.Records {
		add("Records %d to %d are not signed: a crash leaves such records, and so can anyone who writes to the file.", r.Signed+1, r.Records)
	}
	if p := r.Pruned; p != nil {
		add("Of records 1 to %d only hashes are left, and %d administrative acts: the others were pruned as record %d says, by %s (%s). Their proofs hold; what they said can be verified only where it was archived.", p.Records, p.Kept, p.Record, p.Change.By, p.Change.Reason)
	}
	if r.TornBytes > 0 {
		add("The last %d bytes are an unfinished write. No record in them was ever acknowledged.", r.TornBytes)
	}
	if len(r.Uncounted) > 0 {
		add("How many denials were like those of the floods in records %d is not known: a crash came before they were counted, or they are being counted.", r.Uncounted)
	}
	if !r.Closed {
		add("The log was not closed: its writer is still at work, or was killed.")
	}
	if len(others) > 0 {
		add("The folder also holds what is not part of the log and was not verified: %s.", strings.Join(others, ", "))
	}
	return c
}
