package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxLine bounds a line: a record, or a checkpoint in JSON.
	maxLine = MaxRecord + 1
	// maxTail bounds what one write can have torn.
	maxTail = maxBatch + 2*maxLine
)

// A lineReader walks the lines of a log, and checks everything that needs no
// key: form, order, and that each checkpoint's size and root are those of the
// records before it.
type lineReader struct {
	src source
	sec *section // nil before the first, and after the last
	seg int      // its number
	r   *bufio.Reader
	off int64 // where the next line starts in it

	tree  tree
	last  Checkpoint // the newest, its signature unchecked unless verify is set
	count int        // checkpoints
	first uint64     // records before the first segment that is read

	// key is the verifier key of the next checkpoint, lastKey that of the last.
	// nextKey is what the next checkpoint's key is followed by, if it is rotated.
	key, lastKey, nextKey string
	// signatures checks that of each checkpoint, if set.
	signatures *signatureChecks
	verifiers  keySet

	// leaves are hashes of pruned records that were read and not yet taken, digest
	// is of all that was read of section 0, and pruned says what was in it, once
	// it was read to its end.
	leaves []tlog.Hash
	digest hash.Hash
	pruned *prunedPart

	// skip tells which records need not be decoded, if set.
	skip func(seq uint64) bool
	// leaf is told each record's line and hash, if set. The line is valid until
	// it returns, and nil for a record that was pruned.
	leaf func(line []byte, hash tlog.Hash)
	// until is the last record that [lineReader.all] reads, 0 for all.
	until uint64
}

// An item is one line: a record or a checkpoint. Both are nil for a record that
// was skipped or pruned.
type item struct {
	record     *Record
	checkpoint *Checkpoint
}

// damage is a line that is not what it must be.
type damage struct {
	seq  uint64 // the record that is damaged, or follows the damage
	seg  int
	off  int64
	err  error
	tail []byte // from the line to the end of the segment, or maxTail+1 bytes of it

	last   bool // nothing follows the segment
	closed bool // it follows a closing checkpoint
}

func (d *damage) Error() string {
	name := SegmentName(d.seg)
	if d.seg == 0 {
		name = "what is left of pruned records"
	}
	return fmt.Sprintf("record %d (%s, byte %d): %v", d.seq, name, d.off, d.err)
}

// newLineReader reads from the start of segment first, or of section 0.
func newLineReader(src source, first int) *lineReader {
	return &lineReader{src: src, seg: first - 1, r: bufio.NewReaderSize(nil, 64<<10)}
}

// Close releases the segment that is being read.
func (lr *lineReader) Close() error {
	if lr.sec == nil {
		return nil
	}
	defer func() { lr.sec = nil }()
	return lr.sec.close()
}

// advance goes to the next segment. It returns [io.EOF] if there is none.
func (lr *lineReader) advance() error {
	n := lr.src.after(lr.seg)
	sec, err := lr.src.open(n)
	if errors.Is(err, fs.ErrNotExist) {
		return io.EOF
	}
	if err != nil {
		return err
	}
	if err := lr.Close(); err != nil {
		return errors.Join(err, sec.close())
	}
	if lr.digest != nil {
		lr.pruned = lr.prunedPart(n)
		lr.digest = nil
	}
	lr.sec, lr.seg, lr.off = sec, n, 0
	lr.r.Reset(sec)
	if n == 0 {
		lr.digest = sha256.New()
		lr.r.Reset(io.TeeReader(sec, lr.digest))
	}
	return nil
}

// next returns the next line, io.EOF after the last, a *damage, or the reader's
// error.
func (lr *lineReader) next() (item, error) {
	if len(lr.leaves) > 0 {
		lr.takeLeaf()
		return item{}, nil
	}
	for {
		if lr.sec != nil {
			line, err := lr.line()
			if err != io.EOF {
				return lr.use(line, err)
			}
			if lr.off == 0 && !lr.sec.last {
				return lr.use(nil, fmt.Errorf("%w: the file is empty", errLine))
			}
			if lr.sec.padded > 0 && lr.closed() { // an opening's, or a person's
				return item{}, &damage{
					seq: lr.tree.size + 1, seg: lr.seg, off: lr.off, tail: make([]byte, min(lr.sec.padded, maxTail+1)),
					err: fmt.Errorf("%w: zeros after the closing checkpoint", errLine), last: lr.sec.last, closed: true,
				}
			}
		}
		if err := lr.advance(); err != nil {
			return item{}, err
		}
	}
}

// use interprets what line returned.
func (lr *lineReader) use(line []byte, err error) (item, error) {
	var it item
	if err == nil {
		it, err = lr.take(line[:len(line)-1])
	}
	if err == nil {
		lr.off += int64(len(line))
		return it, nil
	}
	if !errors.Is(err, errLine) {
		return item{}, err
	}
	tail := bytes.NewBuffer(bytes.Clone(line)) // before the next read reuses it
	if _, err := tail.ReadFrom(io.LimitReader(lr.r, int64(maxTail+1-min(len(line), maxTail)))); err != nil {
		return item{}, err
	}
	return item{}, &damage{
		seq: lr.tree.size + 1, seg: lr.seg, off: lr.off, err: err, tail: tail.Bytes(),
		last: lr.sec.last, closed: lr.closed(),
	}
}

// errLine marks errors that are about what a line says.
var errLine = errors.New("damaged line")

// line reads to the next newline. The bytes are valid until the next read. A
// line without newline, or too long, comes with an error that wraps errLine.
func (lr *lineReader) line() ([]byte, error) {
	frag, err := lr.r.ReadSlice('\n')
	if err == nil || err == io.EOF && len(frag) == 0 {
		return frag, err
	}
	long := bytes.Clone(frag)
	for err == bufio.ErrBufferFull && len(long) <= maxLine {
		frag, err = lr.r.ReadSlice('\n')
		long = append(long, frag...)
	}
	switch {
	case len(long) > maxLine:
		return long, fmt.Errorf("%w: longer than %d bytes", errLine, maxLine)
	case err == io.EOF:
		return long, fmt.Errorf("%w: it has no end", errLine)
	}
	return long, err
}

// take interprets a line, without its newline.
func (lr *lineReader) take(line []byte) (item, error) {
	if bytes.HasPrefix(line, []byte(checkpointPrefix)) {
		cp, err := lr.takeCheckpoint(line)
		if err != nil {
			return item{}, fmt.Errorf("%w: %w", errLine, err)
		}
		return item{checkpoint: &cp}, nil
	}
	seq := lr.tree.size + 1
	switch {
	case lr.off == 0:
		return item{}, fmt.Errorf("%w: a segment starts with a checkpoint", errLine)
	case lr.closed():
		return item{}, fmt.Errorf("%w: something follows the closing checkpoint that its writer did not sign", errLine)
	}
	if lr.seg == 0 && bytes.HasPrefix(line, []byte(leavesPrefix)) {
		if err := lr.takeLeaves(line); err != nil {
			return item{}, fmt.Errorf("%w: %w", errLine, err)
		}
		return item{}, nil
	}
	var it item
	if lr.skip == nil || !lr.skip(seq) {
		rec, err := parseRecord(line)
		if err != nil {
			return item{}, fmt.Errorf("%w: %w", errLine, err)
		}
		if rec.Seq != seq {
			return item{}, fmt.Errorf("%w: it is numbered %d", errLine, rec.Seq)
		}
		rec.stored = string(line)
		it.record = &rec
	} else if bytes.IndexByte(line, 0) >= 0 {
		return item{}, fmt.Errorf("%w: a block of it was not written", errLine)
	}
	if isRotation(line) {
		if err := lr.takeRotation(line); err != nil {
			return item{}, fmt.Errorf("%w: %w", errLine, err)
		}
	}
	hash := lr.tree.add(line)
	if lr.leaf != nil {
		lr.leaf(line, hash)
	}
	return it, nil
}

// takeCheckpoint checks a checkpoint against what is before it. The first of a
// segment that nothing was read before says where the reader starts.
func (lr *lineReader) takeCheckpoint(line []byte) (Checkpoint, error) {
	cp, h, err := parseCheckpointLine(line)
	switch {
	case err != nil:
		return cp, err
	case (h != nil) != (lr.off == 0):
		return cp, errors.New("only the first checkpoint of a segment, and that one, names it")
	case h != nil && cp.Segment != max(lr.seg, 1): // section 0 begins as the first did
		return cp, fmt.Errorf("it is the start of segment %d", cp.Segment)
	}
	if h != nil && lr.count == 0 {
		t, ok := newTree(cp.Size, h.Tree)
		if !ok || lr.seg <= 1 && (cp.Size != 0 || cp.Batch != 1) {
			return cp, errors.New("it does not say what is before the segment")
		}
		lr.tree, lr.first, lr.key = t, cp.Size, h.Key
		lr.last = Checkpoint{Origin: cp.Origin, Size: cp.Size, Batch: cp.Batch - 1}
	}
	switch {
	case cp.Size != lr.tree.size:
		return cp, fmt.Errorf("a checkpoint for %d records after %d", cp.Size, lr.tree.size)
	case cp.Root != lr.tree.root():
		return cp, fmt.Errorf("records %d to %d are not those that were signed", lr.last.Size+1, cp.Size)
	case cp.Batch != lr.last.Batch+1 && !(cp.Batch > lr.last.Batch && lr.amongPruned(h)):
		return cp, fmt.Errorf("checkpoint %d after checkpoint %d", cp.Batch, lr.last.Batch)
	case cp.Origin != lr.last.Origin:
		return cp, fmt.Errorf("a checkpoint of another log, %q", cp.Origin)
	case h != nil && (h.Key != lr.key || !slices.Equal(h.Tree, lr.tree.roots)):
		return cp, errors.New("it does not continue the segment before")
	}
	if lr.signatures != nil {
		v, err := lr.verifier(lr.key)
		if err != nil {
			return cp, err
		}
		if err := lr.signatures.add(cp, v); err != nil {
			return cp, err
		}
	}
	lr.last, lr.lastKey = cp, lr.key
	if lr.nextKey != "" {
		lr.key, lr.nextKey = lr.nextKey, ""
	}
	lr.count++
	return cp, nil
}

// verifier returns the verifier of a key.
func (lr *lineReader) verifier(key string) (note.Verifier, error) {
	v := lr.verifiers[key]
	if v == nil {
		var err error
		if v, err = note.NewVerifier(key); err != nil {
			return nil, err
		}
		if lr.verifiers == nil {
			lr.verifiers = keySet{}
		}
		lr.verifiers[key] = v
	}
	return v, nil
}

// closed reports whether what was read so far ends with a closing checkpoint.
func (lr *lineReader) closed() bool { return lr.last.Closed && lr.last.Size == lr.tree.size }

// torn reports whether a crash explains the damage: a write that did not get to
// its end. Such a write leaves a line without an end, or blocks of zeros that
// never reached the disk; anything else, a person did.
func (d *damage) torn() bool {
	switch {
	case len(d.tail) > maxTail || !d.last:
		return false
	case d.closed && !openingStart(d.tail):
		return false // nothing else is written there
	case bytes.IndexByte(d.tail, 0) >= 0:
		// All in one write: what is before was on the disk when it was made. The
		// first of a segment holds its header too.
		most := 1
		if d.off == 0 {
			most = 2
		}
		return holes(d.tail, d.off) && checkpointLines(d.tail) <= most
	case bytes.IndexByte(d.tail, '\n') >= 0:
		return false
	}
	return linePrefix(d.tail)
}

// checkpointLines counts the checkpoints in b: the word may be in a record too.
func checkpointLines(b []byte) int {
	n := bytes.Count(b, []byte("\n"+checkpointPrefix)) + bytes.Count(b, []byte("\x00"+checkpointPrefix))
	if bytes.HasPrefix(b, []byte(checkpointPrefix)) {
		n++
	}
	return n
}

// openingStart reports whether b can be what a crash left of one checkpoint: its
// start, or zeros for the block that holds it and for all after it or not.
func openingStart(b []byte) bool {
	const shortest = 128 // no checkpoint is shorter
	n := min(len(b), len(checkpointPrefix))
	if n > 0 && b[0] == 0 {
		return len(b) <= maxLine && (len(b) >= shortest || len(bytes.Trim(b, "\x00")) > 0)
	}
	return string(b[:n]) == checkpointPrefix[:n]
}

// holes reports whether the zeros in tail can be unwritten blocks of a file, in
// which tail starts at off.
func holes(tail []byte, off int64) bool {
	const block = 512
	for i := 0; i < len(tail); {
		n := bytes.IndexByte(tail[i:], 0)
		if n < 0 {
			break
		}
		start := i + n
		end := start
		for end < len(tail) && tail[end] == 0 {
			end++
		}
		if start != 0 && (off+int64(start))%block != 0 || end != len(tail) && (off+int64(end))%block != 0 {
			return false
		}
		i = end
	}
	return true
}

// linePrefix reports whether b is the beginning of a line of a log.
func linePrefix(b []byte) bool {
	ok := false
	for _, p := range []string{recordPrefix, checkpointPrefix} {
		n := min(len(p), len(b))
		ok = ok || string(b[:n]) == p[:n]
	}
	if !ok {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	var v json.RawMessage
	switch err := dec.Decode(&v); {
	case err == nil:
		return len(v) == len(b) // whole, but for its newline
	default:
		return errors.Is(err, io.ErrUnexpectedEOF)
	}
}
