package audit

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// DefaultSegmentSize is the size in bytes at which a log goes on in a new file.
const DefaultSegmentSize = 64 << 20

const (
	segmentPrefix = "audit.v1."
	segmentSuffix = ".jsonl"
	segmentDigits = 8
	// maxSegments is how many segments their names can number.
	maxSegments = 99_999_999
)

// SegmentName is the name of the n-th file of a log. The first is number 1.
func SegmentName(n int) string {
	return fmt.Sprintf("%s%0*d%s", segmentPrefix, segmentDigits, n, segmentSuffix)
}

// segmentNumber is the inverse of [SegmentName], 0 for other names.
func segmentNumber(name string) int {
	digits, ok := strings.CutPrefix(name, segmentPrefix)
	digits, ok2 := strings.CutSuffix(digits, segmentSuffix)
	n, err := strconv.Atoi(digits)
	if !ok || !ok2 || err != nil || n < 1 || SegmentName(n) != name {
		return 0
	}
	return n
}

// segmentRange returns the numbers of the first and last segments among names,
// 0 and 0 if there are none. None between them may be missing.
func segmentRange(names []string) (first, last int, err error) {
	count := 0
	for _, name := range names {
		n := segmentNumber(name)
		if n == 0 {
			continue
		}
		if count == 0 || n < first {
			first = n
		}
		last = max(last, n)
		count++
	}
	if count > 0 && count != last-first+1 {
		return 0, 0, tamperedf("%d of the files %s to %s are missing", last-first+1-count, SegmentName(first), SegmentName(last))
	}
	return first, last, nil
}

// A segment is the file that is being written. What lies between used and
// alloc is zeros: the file has its size and its blocks already, so that making
// a batch durable needs no change of the file system's own data.
type segment struct {
	n     int
	f     StorageFile
	used  int64 // bytes of the log in it
	alloc int64 // length of the file
}

// How far a file is filled with zeros at a time.
const (
	minGrow = 64 << 10
	maxGrow = 4 << 20
	page    = 4 << 10
)

var zeros [1 << 20]byte

// write puts lines behind those in the segment. If they reach beyond what was
// allocated, it allocates more, up to size but at most what room allows.
func (s *segment) write(lines []byte, size, room int64) error {
	end := s.used + int64(len(lines))
	if end > s.alloc {
		grown := max(min(end+min(max(s.used, minGrow), maxGrow), size), end)
		grown = (grown + page - 1) / page * page
		if grown-s.alloc > room {
			grown = end
		}
		for off := end; off < grown; off += int64(len(zeros)) {
			if err := writeAll(s.f, zeros[:min(int64(len(zeros)), grown-off)], off); err != nil {
				return err
			}
		}
		s.alloc = grown
	}
	if err := writeAll(s.f, lines, s.used); err != nil {
		return err
	}
	s.used = end
	return nil
}

// trim cuts off the zeros, durably.
func (s *segment) trim() error {
	if s.alloc == s.used {
		return nil
	}
	if err := s.f.Truncate(s.used); err != nil {
		return err
	}
	s.alloc = s.used
	return s.f.Sync()
}

func writeAll(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// lockLast opens the last segment of a log for writing, which locks out other
// writers, and makes the first one of a new log. It returns the number of the
// last.
func lockLast(st Storage) (f StorageFile, last int, err error) {
	for {
		names, err := st.List()
		if err != nil {
			return nil, 0, fmt.Errorf("audit: %w", err)
		}
		if _, last, err = segmentRange(names); err != nil {
			return nil, 0, err
		}
		n := max(last, 1)
		if f, err = st.Open(SegmentName(n)); err != nil {
			return nil, 0, err
		}
		// Until the lock was had, its holder may have gone on in the next segment.
		if names, err = st.List(); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("audit: %w", err), f.Close())
		}
		switch _, last, err = segmentRange(names); {
		case err != nil:
			return nil, 0, errors.Join(err, f.Close())
		case last == n: // it was there or has been made
			return f, last, nil
		}
		if err := f.Close(); err != nil {
			return nil, 0, fmt.Errorf("audit: %w", err)
		}
	}
}
