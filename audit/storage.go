package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A Storage keeps the bytes of one log for its one writer. [Open] uses a file;
// tests put layers in between that lose unsynced writes or fail.
//
// Write, Sync and Truncate are never called at the same time as one another.
// After one of them has failed, none is called again.
type Storage interface {
	// Write appends p. Like [io.Writer], it fails if it wrote less than all.
	io.Writer
	// Sync returns once all that was written or truncated survives a power cut.
	Sync() error
	// Truncate cuts the storage to size bytes. It is called on opening only.
	Truncate(size int64) error
	// Size is the number of bytes stored.
	Size() (int64, error)
	// Reader returns a reader of the storage, which outlives Close and is used
	// while others write.
	Reader() (StorageReader, error)
	// Close releases the storage for the next writer.
	Close() error
}

// A StorageReader reads the bytes of a [Storage]. It is used by one goroutine.
type StorageReader interface {
	io.ReaderAt
	io.Closer
}

// FileName is the name of the one file in a log's folder.
const FileName = "audit.v1.jsonl"

// fileStorage is the log's file, locked against other writers.
type fileStorage struct {
	f    *os.File
	path string
}

// openFileStorage opens or creates the file of a log. The file's name is
// durable when it returns.
func openFileStorage(dir string) (*fileStorage, error) {
	if err := makeDir(filepath.Clean(dir)); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	path := filepath.Join(dir, FileName)
	f, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &fileStorage{f: f, path: path}, nil
}

// makeDir makes a folder and those above it that are missing, durably.
func makeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func (s *fileStorage) Write(p []byte) (int, error)    { return s.f.Write(p) }
func (s *fileStorage) Sync() error                    { return dataSync(s.f) }
func (s *fileStorage) Reader() (StorageReader, error) { return os.Open(s.path) }
func (s *fileStorage) Close() error                   { return s.f.Close() }

// Truncate implements [Storage]. Without O_APPEND the next write would leave a
// hole, so the position moves too.
func (s *fileStorage) Truncate(size int64) error {
	if err := s.f.Truncate(size); err != nil {
		return err
	}
	_, err := s.f.Seek(size, io.SeekStart)
	return err
}

// Size implements [Storage].
func (s *fileStorage) Size() (int64, error) {
	st, err := s.f.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", s.path)
	}
	return st.Size(), nil
}

// writeFileAtomic replaces path: after a crash it holds the old or the new
// bytes, whole. The file has mode 0600.
func writeFileAtomic(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// inside reports whether path lies in dir, whatever links lead there. Neither
// needs to exist.
func inside(dir, path string) (bool, error) {
	d, err := realPath(dir)
	if err != nil {
		return false, err
	}
	p, err := realPath(path)
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(d, p)
	if err != nil {
		return false, nil // on different volumes
	}
	return rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)), nil
}

// realPath resolves the links of the part of path that exists.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for p := path; ; p = filepath.Dir(p) {
		real, err := filepath.EvalSymlinks(p)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) || p == filepath.Dir(p) {
			return "", err
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}
