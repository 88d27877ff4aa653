package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"
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
	r   *bufio.Reader
	off int64 // where the next line starts

	tree    tree
	last    Checkpoint // the newest, its signature unchecked unless verifier is set
	lastEnd int64      // where its line ends
	count   int        // checkpoints

	// verifier checks the signature of each checkpoint, if set.
	verifier note.Verifier
	// skip tells which records need not be decoded, if set.
	skip func(seq uint64) bool
}

// An item is one line: a record or a checkpoint. Both are nil for a record that
// was skipped.
type item struct {
	record     *Record
	checkpoint *Checkpoint
}

// damage is a line that is not what it must be.
type damage struct {
	seq  uint64 // the record that is damaged, or follows the damage
	off  int64
	err  error
	tail []byte // from the line to the end, or maxTail+1 bytes of it

	closed bool // it follows a closing checkpoint
}

func (d *damage) Error() string {
	return fmt.Sprintf("record %d (byte %d): %v", d.seq, d.off, d.err)
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line, io.EOF after the last, a *damage, or the reader's
// error.
func (lr *lineReader) next() (item, error) {
	line, err := lr.line()
	if err == io.EOF {
		return item{}, io.EOF
	}
	var it item
	if err == nil {
		it, err = lr.take(line[:len(line)-1], lr.off+int64(len(line)))
	}
	if err != nil {
		if !errors.Is(err, errLine) {
			return item{}, err
		}
		tail := bytes.NewBuffer(bytes.Clone(line)) // before the next read reuses it
		if _, err := tail.ReadFrom(io.LimitReader(lr.r, int64(maxTail+1-min(len(line), maxTail)))); err != nil {
			return item{}, err
		}
		return item{}, &damage{seq: lr.tree.size + 1, off: lr.off, err: err, tail: tail.Bytes(), closed: lr.closed()}
	}
	lr.off += int64(len(line))
	return it, nil
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

// take interprets a line, without its newline, which ends at end.
func (lr *lineReader) take(line []byte, end int64) (item, error) {
	if bytes.HasPrefix(line, []byte(checkpointPrefix)) {
		cp, err := parseCheckpointLine(line)
		switch {
		case err != nil:
			return item{}, fmt.Errorf("%w: %w", errLine, err)
		case cp.Size != lr.tree.size:
			return item{}, fmt.Errorf("%w: a checkpoint for %d records after %d", errLine, cp.Size, lr.tree.size)
		case cp.Root != lr.tree.root():
			return item{}, fmt.Errorf("%w: records %d to %d are not those that were signed", errLine, lr.last.Size+1, cp.Size)
		case cp.Batch != lr.last.Batch+1:
			return item{}, fmt.Errorf("%w: checkpoint %d after checkpoint %d", errLine, cp.Batch, lr.last.Batch)
		case lr.count > 0 && cp.Origin != lr.last.Origin:
			return item{}, fmt.Errorf("%w: a checkpoint of another log, %q", errLine, cp.Origin)
		}
		if lr.verifier != nil {
			if err := cp.verify(lr.verifier); err != nil {
				return item{}, fmt.Errorf("%w: %w", errLine, err)
			}
		}
		lr.last, lr.lastEnd = cp, end
		lr.count++
		return item{checkpoint: &cp}, nil
	}
	seq := lr.tree.size + 1
	switch {
	case lr.count == 0:
		return item{}, fmt.Errorf("%w: a log starts with a checkpoint", errLine)
	case lr.closed():
		return item{}, fmt.Errorf("%w: something follows the closing checkpoint that its writer did not sign", errLine)
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
		it.record = &rec
	}
	lr.tree.add(line)
	return it, nil
}

// closed reports whether what was read so far ends with a closing checkpoint.
func (lr *lineReader) closed() bool { return lr.last.Closed && lr.last.Size == lr.tree.size }

// torn reports whether a crash explains the damage: a write that did not get to
// its end. Such a write leaves a line without an end, or blocks of zeros that
// never reached the disk; anything else, a person did.
func (d *damage) torn() bool {
	switch {
	case len(d.tail) > maxTail:
		return false
	case d.closed && !checkpointStart(d.tail):
		return false // nothing else is written there
	case bytes.IndexByte(d.tail, 0) >= 0:
		// All in one batch: the one before was on the disk when it was written.
		return holes(d.tail, d.off) && bytes.Count(d.tail, []byte(checkpointPrefix)) <= 1
	case bytes.IndexByte(d.tail, '\n') >= 0:
		return false
	}
	return linePrefix(d.tail)
}

// checkpointStart reports whether b and the line of a checkpoint start alike.
func checkpointStart(b []byte) bool {
	n := min(len(b), len(checkpointPrefix))
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
