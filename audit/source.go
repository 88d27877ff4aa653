package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// A source is what a reader sees of a log's segments.
type source interface {
	// open returns segment n, or an error that is [fs.ErrNotExist] if nothing
	// has been written to it.
	open(n int) (*section, error)
	// begin is the first segment to read, 0 if the log's first part was pruned:
	// section 0 is then what is left of it.
	begin() int
	// after is the segment that follows n.
	after(n int) int
}

// A section is what was written to one segment.
type section struct {
	io.Reader
	close func() error
	// last says that no segment follows, so that a crash may have torn its end.
	last bool
	// padded is how many zeros follow, which were allocated and not written yet.
	padded int64
}

// files is the [source] over the files that a log has at one time.
type files struct {
	read        func(name string) (StorageReader, error)
	first, last int // segments with something in them
	// spare says that segment last+1 is there, empty: its first batch did not
	// get to the disk. What is before it had been completed by then.
	spare bool
	// pruned is the number of the first segment after a pruned part, or 0.
	pruned int
	// left are segments before it that a pruning has yet to remove.
	left []string
}

// newFiles looks at the segments among names.
func newFiles(names []string, read func(name string) (StorageReader, error)) (*files, error) {
	first, last, err := segmentRange(names)
	if err != nil {
		return nil, err
	}
	s := &files{read: read, first: first, last: last}
	if last == 0 {
		return s, nil
	}
	if k := prunedBefore(names, first, last); first > 1 && k > 0 {
		for n := first; n < k; n++ {
			s.left = append(s.left, SegmentName(n))
		}
		s.first, s.pruned = k, k
	}
	empty, err := isEmpty(read, SegmentName(last))
	if err != nil {
		return nil, err
	}
	if empty && last > s.first {
		s.last, s.spare = last-1, true
	}
	return s, nil
}

// isEmpty reports whether nothing was written to a file.
func isEmpty(read func(name string) (StorageReader, error), name string) (bool, error) {
	r, err := read(name)
	if err != nil {
		return false, fmt.Errorf("audit: %w", err)
	}
	defer r.Close()
	end, _, err := contentEnd(r)
	if errors.Is(err, ErrTampered) {
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("audit: %w", err)
	}
	return end == 0, nil
}

// folderFiles is what a folder of any kind holds of a log.
func folderFiles(dir fs.FS) (*files, []fs.DirEntry, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
		if (segmentNumber(e.Name()) > 0 || prunedNumber(e.Name()) > 0) && !isRegular(dir, e) {
			return nil, nil, tamperedf("%s is not a regular file", e.Name())
		}
	}
	s, err := newFiles(names, func(name string) (StorageReader, error) { return openReader(dir, name) })
	return s, entries, err
}

// isRegular reports whether an entry is a file like any, or leads to one: opening a
// pipe would wait for somebody who writes to it.
func isRegular(dir fs.FS, e fs.DirEntry) bool {
	mode := e.Type()
	if mode&fs.ModeSymlink != 0 {
		st, err := fs.Stat(dir, e.Name())
		if err != nil {
			return true // opening it says why
		}
		mode = st.Mode().Type()
	}
	return mode.IsRegular()
}

// open implements [source].
func (s *files) open(n int) (*section, error) {
	name := SegmentName(n)
	switch {
	case n == 0 && s.pruned > 0:
		name = prunedName(s.pruned)
	case n < s.first || n > s.last:
		return nil, fs.ErrNotExist
	}
	r, err := s.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there any more", ErrPruned, name)
	}
	if err != nil {
		return nil, err
	}
	sec := &section{close: r.Close, last: n == s.last && !s.spare}
	var end int64
	if sec.last {
		end, sec.padded, err = contentEnd(r)
	} else {
		end, err = r.Size()
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	sec.Reader = io.NewSectionReader(r, 0, end)
	return sec, nil
}

// whole returns an error if segments are missing at the beginning that were not
// pruned.
func (s *files) whole() error {
	if s.first > 1 && s.pruned == 0 {
		return tamperedf("it starts with %s: what is before was deleted, and was not pruned", SegmentName(s.first))
	}
	return nil
}

// begin implements [source].
func (s *files) begin() int {
	if s.pruned > 0 {
		return 0
	}
	return max(s.first, 1)
}

// after implements [source].
func (s *files) after(n int) int {
	if n == 0 {
		return max(s.first, 1)
	}
	return n + 1
}

// maxZeros is how many zeros a writer leaves at the end of a file: what it
// allocated ahead, and a batch that did not get there.
const maxZeros = maxGrow + page + maxTail

// contentEnd returns the length of a file without the zeros at its end, and how
// many these are. A writer may cut them off at the same time.
func contentEnd(r StorageReader) (end, padded int64, err error) {
	size, err := r.Size()
	if err != nil {
		return 0, 0, err
	}
	buf := make([]byte, 64<<10)
	for end = size; end > 0; {
		if size-end > maxZeros {
			return 0, 0, tamperedf("a file ends with more than %d zeros, which are more than a crash leaves", maxZeros)
		}
		part := buf[:min(int64(len(buf)), end)]
		if n, err := r.ReadAt(part, end-int64(len(part))); n < len(part) {
			now, serr := r.Size()
			if serr != nil || now >= size {
				return 0, 0, errors.Join(cmp.Or(err, io.ErrUnexpectedEOF), serr)
			}
			size, end = now, now
			continue
		}
		if rest := bytes.TrimRight(part, "\x00"); len(rest) > 0 {
			end -= int64(len(part) - len(rest))
			break
		}
		end -= int64(len(part))
	}
	return end, size - end, nil
}

// openReader opens a file in any kind of folder for reading at offsets.
func openReader(dir fs.FS, name string) (StorageReader, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	if ra, ok := f.(io.ReaderAt); ok {
		return fsReader{f, ra}, nil
	}
	// In a zip file, say. A file is not much larger than a segment.
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return bytesReader{bytes.NewReader(data)}, nil
}

type fsReader struct {
	fs.File
	io.ReaderAt
}

func (r fsReader) Size() (int64, error) {
	st, err := r.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

type bytesReader struct{ *bytes.Reader }

func (r bytesReader) Size() (int64, error) { return r.Reader.Size(), nil }
func (r bytesReader) Close() error         { return nil }
