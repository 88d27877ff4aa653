package audit

import (
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
	// writer of the log cannot change. Required.
	Key string
	// Anchors are checkpoints of the log (signed notes) that were kept
	// elsewhere. Without one, see [VerifyReport.Caveats].
	Anchors []string
}

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
	// Checkpoints is how many were found and checked, Anchors how many were given.
	Checkpoints int `json:"checkpoints"`
	Anchors     int `json:"anchors"`
	// Closed says that the writer closed the log after its last record. A log
	// that is being written to, or whose writer was killed, is not closed.
	Closed bool `json:"closed"`
	// TornBytes is the length of an unfinished write at the end.
	TornBytes int64 `json:"torn_bytes"`
	// First and Last are the times of the first and last records.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Open are the calls without an outcome, by the number of the intent.
	Open []uint64 `json:"open,omitempty"`
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
	if opts == nil || opts.Key == "" {
		return rep, ErrNoKey
	}
	v, err := note.NewVerifier(opts.Key)
	if err != nil {
		return rep, fmt.Errorf("%w: verifier key: %w", ErrKey, err)
	}
	var anchors []Checkpoint
	for i, text := range opts.Anchors {
		cp, err := parseCheckpoint([]byte(text))
		if err == nil {
			err = cp.verify(v)
		}
		if err != nil {
			return rep, fmt.Errorf("%w: anchor %d is not a checkpoint of this log: %w", ErrTampered, i+1, err)
		}
		anchors = append(anchors, cp)
		rep.Anchored = max(rep.Anchored, cp.Size)
	}
	rep.Anchors = len(anchors)
	known := newCheckpoints(anchors)

	f, err := dir.Open(FileName)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return rep, fmt.Errorf("%w: there is no %s in the folder: %w", ErrTampered, FileName, err)
		}
		return rep, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	err = verifyLines(ctx, f, v, &known, &rep)
	if err != nil {
		return rep, err
	}
	rep.Caveats = rep.caveats(others(dir))
	return rep, nil
}

// verifyLines fills rep from the log in r.
func verifyLines(ctx context.Context, r io.Reader, v note.Verifier, known *checkpoints, rep *VerifyReport) error {
	lr := newLineReader(r)
	lr.verifier = v
	var open openCalls
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := known.check(&lr.tree); err != nil {
			return err
		}
		it, err := lr.next()
		if err == io.EOF {
			break
		}
		var dam *damage
		if errors.As(err, &dam) && dam.torn() {
			rep.TornBytes = int64(len(dam.tail))
			break
		}
		if dam != nil {
			return tamperedf("%w", dam)
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		if it.record != nil {
			rep.Records, rep.Last = it.record.Seq, it.record.Time
			if it.record.Seq == 1 {
				rep.First = it.record.Time
			}
			open.see(it.record)
		}
		rep.Origin, rep.Signed, rep.Root, rep.Checkpoints = lr.last.Origin, lr.last.Size, lr.last.Root, lr.count
	}
	if lr.count == 0 {
		return tamperedf("there is no signed checkpoint in it")
	}
	rep.Closed = lr.closed() && rep.TornBytes == 0
	rep.Open = open.list()
	return known.end(lr)
}

// openCalls collects intents without an outcome.
type openCalls map[uint64]struct{}

func (o *openCalls) see(r *Record) {
	switch {
	case r.Intent != nil:
		if *o == nil {
			*o = openCalls{}
		}
		(*o)[r.Seq] = struct{}{}
	case r.Outcome != nil:
		delete(*o, r.Call)
	}
}

func (o openCalls) list() []uint64 {
	var list []uint64
	for seq := range o {
		list = append(list, seq)
	}
	slices.Sort(list)
	return list
}

// others names what else is in the folder.
func others(dir fs.FS) []string {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.Name() != FileName {
			names = append(names, fmt.Sprintf("%q", e.Name()))
		}
	}
	return names
}

func (r VerifyReport) caveats(others []string) []string {
	var c []string
	add := func(format string, args ...any) { c = append(c, fmt.Sprintf(format, args...)) }
	switch {
	case r.Anchors == 0:
		add("No anchor was given. It cannot be excluded that records after number %d were cut off, that an older state of the log was put back, or that a holder of the signing key rewrote all of it.", r.Records)
	case r.Anchored < r.Records:
		add("The anchor covers records 1 to %d. For those after it, it cannot be excluded that more were cut off, or that a holder of the signing key rewrote them.", r.Anchored)
	default:
		add("Records that were written after the anchor's checkpoint, if there were any, are not here: compare with a newer anchor.")
	}
	if r.Signed < r.Records {
		add("Records %d to %d are not signed: a crash leaves such records, and so can anyone who writes to the file.", r.Signed+1, r.Records)
	}
	if r.TornBytes > 0 {
		add("The last %d bytes are an unfinished write. No record in them was ever acknowledged.", r.TornBytes)
	}
	if !r.Closed {
		add("The log was not closed: its writer is still at work, or was killed.")
	}
	if len(others) > 0 {
		add("The folder also holds what is not part of the log and was not verified: %s.", strings.Join(others, ", "))
	}
	return c
}
