package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Values are in a folder of their own, so that the log can be copied without
// them. Their files are append-only but for erasure, which overwrites lines with
// blanks where they are. Each line is one value, or one data key.

const (
	keysFile     = "keys.v1.jsonl"
	valuesPrefix = "values.v1."
)

func valuesName(n int) string { return fmt.Sprintf("%s%08d.jsonl", valuesPrefix, n) }

// valuesNumber is the inverse of valuesName, 0 for other names.
func valuesNumber(name string) int {
	digits, _ := strings.CutPrefix(name, valuesPrefix)
	n, err := strconv.Atoi(strings.TrimSuffix(digits, ".jsonl"))
	if err != nil || n < 1 || valuesName(n) != name {
		return 0
	}
	return n
}

// A valueStore writes values. A nil one keeps none.
type valueStore struct {
	st      Storage
	clock   func() time.Time
	segSize int64
	kekFile string // that the KEK is kept in, or empty

	// gate is held for reading from the sealing of a value until its record is in
	// line, so that an erasure knows what came before it. Nobody asks a KEK then.
	gate sync.RWMutex

	keying  sync.Mutex // not held while a KEK is asked
	kek     KEK        // wraps new keys
	keks    int        // how often it was changed
	swept   time.Time  // when current and mine were looked through
	current map[pair]*dataKey
	making  map[pair]chan struct{} // closed when the KEK has answered

	mu      sync.Mutex // held while files are changed
	keys    segment
	seg     segment
	pending []*dataKey           // not in the file yet
	mine    map[string]time.Time // those of this process that may be in use, by id
	failed  error                // sticky
}

// openValueStore opens the newest files and cuts off what a crash tore.
func openValueStore(st Storage, o Options) (s *valueStore, err error) {
	s = &valueStore{st: st, kek: o.KEK, clock: o.Clock, segSize: o.SegmentSize, current: map[pair]*dataKey{}, making: map[pair]chan struct{}{}, mine: map[string]time.Time{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("audit: the log's values: %w", err), s.close())
			s = nil
		}
	}()
	names, err := st.List()
	if err != nil {
		return s, err
	}
	last, isNew := 1, true
	for _, name := range names {
		last = max(last, valuesNumber(name))
		isNew = isNew && name != keysFile && valuesNumber(name) == 0
	}
	if s.kek == nil {
		s.kekFile = o.KEKFile
		if s.kek, err = loadOrCreateKEK(o.KEKFile, isNew); err != nil {
			return s, err
		}
	}
	// An erasure takes values without a data key for what an erasure before it left.
	if !slices.Contains(names, keysFile) && slices.ContainsFunc(names, s.hasValues) {
		return s, fmt.Errorf("%w: there are values, but %s with their data keys is missing: put it back, or move the values away", ErrKey, keysFile)
	}
	if s.keys, err = openAppend(st, keysFile, 0); err != nil {
		return s, err
	}
	if s.seg, err = openAppend(st, valuesName(last), last); err != nil {
		return s, err
	}
	return s, st.SyncNames()
}

// hasValues reports whether a file holds a whole line of values. One that cannot be
// read may.
func (s *valueStore) hasValues(name string) bool {
	if valuesNumber(name) == 0 {
		return false
	}
	r, err := s.st.Read(name)
	if err != nil {
		return true
	}
	defer r.Close()
	size, err := r.Size()
	if err != nil {
		return true
	}
	end, err := lastLineEnd(r, size)
	return end > 0 || err != nil
}

// openAppend opens a file of lines to go on after the last whole one.
func openAppend(st Storage, name string, n int) (seg segment, err error) {
	f, err := st.Open(name)
	if err != nil {
		return seg, err
	}
	seg = segment{n: n, f: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			seg = segment{}
		}
	}()
	r, err := st.Read(name)
	if err != nil {
		return seg, err
	}
	defer r.Close()
	size, err := r.Size()
	if err != nil {
		return seg, err
	}
	if seg.used, err = lastLineEnd(r, size); err != nil {
		return seg, err
	}
	seg.alloc = seg.used
	if seg.used == size {
		return seg, nil
	}
	if err = f.Truncate(seg.used); err == nil {
		err = f.Sync()
	}
	return seg, err
}

// lastLineEnd is where the last whole line in a file ends.
func lastLineEnd(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size > 0 {
		part := buf[:min(int64(len(buf)), size)]
		if n, err := r.ReadAt(part, size-int64(len(part))); n < len(part) {
			return 0, cmp.Or(err, io.ErrUnexpectedEOF)
		}
		if at := bytes.LastIndexByte(part, '\n'); at >= 0 {
			return size - int64(len(part)-at-1), nil
		}
		size -= int64(len(part))
	}
	return 0, nil
}

// eachLine calls f with the place, the length and the text of each whole line in
// the first size bytes. The text is nil if the line is too long to be one of
// ours, and valid until f returns.
func eachLine(r io.ReaderAt, size int64, f func(off int64, n int, line []byte) error) error {
	br := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10)
	var line []byte
	off, n := int64(0), 0
	for {
		part, err := br.ReadSlice('\n')
		if n += len(part); n <= maxValueLine+1 {
			line = append(line, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return nil // what has no end is no line
		case err != nil:
			return err
		}
		text := line
		if n > maxValueLine+1 {
			text = nil
		} else {
			text = text[:n-1]
		}
		if err := f(off, n-1, text); err != nil {
			return err
		}
		off, n, line = off+int64(n), 0, line[:0]
	}
}

// write makes values durable, their keys before them.
func (s *valueStore) write(lines []byte, reserve int64) (err error) {
	if len(lines) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	defer func() { s.failed = err }()
	room, err := s.st.Free()
	if err != nil {
		return err
	}
	room = max(room-reserve, 0)
	if err := s.flushKeys(); err != nil {
		return err
	}
	if s.seg.used > 0 && s.seg.used+int64(len(lines)) > s.segSize {
		if err := s.nextFile(); err != nil {
			return err
		}
	}
	if err := s.seg.write(lines, s.segSize, room); err != nil {
		return err
	}
	return s.seg.f.Sync()
}

// flushKeys makes the keys durable that are not yet. The caller holds mu.
func (s *valueStore) flushKeys() error {
	if len(s.pending) == 0 {
		return nil
	}
	var keys []byte
	for _, k := range s.pending {
		line, err := k.encode()
		if err != nil {
			return err
		}
		keys = append(keys, line...)
	}
	if err := s.keys.write(keys, 0, 0); err != nil {
		return err
	}
	s.pending = nil
	return s.keys.f.Sync()
}

func (s *valueStore) nextFile() error {
	if err := s.seg.trim(); err != nil {
		return err
	}
	next, err := openAppend(s.st, valuesName(s.seg.n+1), s.seg.n+1)
	if err != nil {
		return err
	}
	if err := s.st.SyncNames(); err != nil {
		return errors.Join(err, next.f.Close())
	}
	old := s.seg
	s.seg = next
	return old.f.Close()
}

// close releases the files. Of an ended store everything fails with [ErrClosed].
func (s *valueStore) close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.failed == nil && s.seg.f != nil {
		errs = append(errs, s.seg.trim())
	}
	for _, seg := range []segment{s.keys, s.seg} {
		if seg.f != nil {
			errs = append(errs, seg.f.Close())
		}
	}
	s.failed = ErrClosed
	return errors.Join(append(errs, s.st.Close())...)
}
