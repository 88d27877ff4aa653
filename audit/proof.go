package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// A Proof shows that a record is in a log, to somebody who has neither the log
// nor trust in its writer, only the verifier key. See [Prove] and [VerifyProof].
type Proof struct {
	// Seq is the number of the record.
	Seq uint64
	// Record is its line in the log, without the newline.
	Record []byte
	// Hashes lead from the record's leaf to the root of the checkpoint.
	Hashes []tlog.Hash
	// Checkpoint is the log's newest when the proof was made.
	Checkpoint Checkpoint
}

// ErrProof is returned for a text that does not prove what it should.
var ErrProof = errors.New("audit: this is no proof")

const (
	proofHead = "c2sp.org/tlog-proof@v1\n"
	extraWord = "extra "
	indexWord = "index "
	maxProof  = 256 << 10 // bytes of text
	maxHashes = 63
)

// Prove proves that record seq is in the log in a folder. It reads a few hashes,
// the segment of the record and the end of the log, and all of the log only if
// the files of hashes that the writer keeps beside it are missing or damaged. It
// does not verify signatures: [VerifyProof] does.
func Prove(ctx context.Context, dir fs.FS, seq uint64) (Proof, error) {
	p, err := prove(ctx, dir, seq, true)
	if err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrPruned) {
		return prove(ctx, dir, seq, false)
	}
	return p, err
}

func prove(ctx context.Context, dir fs.FS, seq uint64, trust bool) (Proof, error) {
	h, err := newHashReader(ctx, dir, trust)
	if err != nil {
		return Proof{}, err
	}
	if seq == 0 || seq > h.last.Size {
		return Proof{}, fmt.Errorf("audit: the log has no record %d, it ends at %d: %w", seq, h.last.Size, fs.ErrNotExist)
	}
	hashes, err := tlog.ProveRecord(int64(h.last.Size), int64(seq-1), h.reader())
	if err != nil {
		return Proof{}, tamperedf("its hashes are not those that were signed: %w", err)
	}
	lines, err := h.lines(ctx, seq, 1)
	if err != nil {
		return Proof{}, err
	}
	p := Proof{Seq: seq, Record: lines[0], Hashes: hashes, Checkpoint: h.last}
	if err := p.check(); err != nil {
		return Proof{}, tamperedf("%w", err)
	}
	return p, nil
}

// check compares the record with the root.
func (p Proof) check() error {
	err := tlog.CheckRecord(p.Hashes, int64(p.Checkpoint.Size), p.Checkpoint.Root, int64(p.Seq-1), tlog.RecordHash(p.Record))
	if err != nil {
		return fmt.Errorf("%w: record %d is not in the log: %w", ErrProof, p.Seq, err)
	}
	return nil
}

// Text returns the proof as text, as https://c2sp.org/tlog-proof has it. The
// record's line is the "extra data" of that format. The usual file extension is
// ".tlog-proof".
func (p Proof) Text() []byte {
	var b bytes.Buffer
	b.WriteString(proofHead)
	if len(p.Record) > 0 {
		b.WriteString(extraWord + base64.StdEncoding.EncodeToString(p.Record) + "\n")
	}
	b.WriteString(indexWord + strconv.FormatUint(p.Seq-1, 10) + "\n")
	for _, h := range p.Hashes {
		b.WriteString(h.String() + "\n")
	}
	b.WriteByte('\n')
	b.Write(p.Checkpoint.Text)
	return b.Bytes()
}

// VerifyProof checks a proof: that one of the verifier keys signed its
// checkpoint, and that the checkpoint covers the record's line. A nil record
// means the one that came with the proof. The answer holds what was proven.
//
// The keys are those that are trusted now: of a log whose key was rotated, the
// one that signed the checkpoint.
func VerifyProof(text, record []byte, keys ...string) (Proof, error) {
	set, err := newKeySet(keys)
	if err != nil {
		return Proof{}, err
	}
	p, err := parseProof(text)
	if err != nil {
		return Proof{}, err
	}
	if record != nil {
		p.Record = record
	}
	if len(p.Record) == 0 {
		return Proof{}, fmt.Errorf("%w: no record came with it", ErrProof)
	}
	if err := set.verify(p.Checkpoint); err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := p.check(); err != nil {
		return Proof{}, err
	}
	return p, nil
}

// parseProof decodes the text of a proof, without checking what it says.
func parseProof(text []byte) (Proof, error) {
	bad := func(what string) (Proof, error) { return Proof{}, fmt.Errorf("%w: %s", ErrProof, what) }
	if len(text) > maxProof {
		return bad("it is too long")
	}
	rest, ok := bytes.CutPrefix(text, []byte(proofHead))
	head, note, ok2 := bytes.Cut(rest, []byte("\n\n"))
	if !ok || !ok2 {
		return bad("it is not in the format c2sp.org/tlog-proof@v1")
	}
	lines := strings.Split(string(head), "\n")
	var p Proof
	if extra, ok := strings.CutPrefix(lines[0], extraWord); ok {
		var err error
		if p.Record, err = base64.StdEncoding.DecodeString(extra); err != nil {
			return bad("extra data")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || len(lines)-1 > maxHashes {
		return bad("its lines")
	}
	digits, ok := strings.CutPrefix(lines[0], indexWord)
	index, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || index >= math.MaxInt64 || strconv.FormatUint(index, 10) != digits {
		return bad("index")
	}
	p.Seq = index + 1
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return bad("a hash")
		}
		p.Hashes = append(p.Hashes, h)
	}
	if p.Checkpoint, err = parseCheckpoint(note); err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if p.Seq > p.Checkpoint.Size {
		return bad("the checkpoint does not cover the record")
	}
	return p, nil
}
