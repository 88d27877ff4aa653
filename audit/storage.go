package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A Storage is the folder of one log, for the log's one writer. [Open] uses a
// real one; tests put one in its place that loses unsynced writes or fails.
//
// The methods of a Storage and of its files that change something are never
// called at the same time as one another. After one of them has failed, none is
// called again.
type Storage interface {
	// List returns the names of the files, in any order.
	List() ([]string, error)
	// Open opens a file for writing, or makes an empty one. It fails with
	// [ErrLocked] while another writer has the file open.
	Open(name string) (StorageFile, error)
	// SyncNames returns once the names of files that were made survive a power cut.
	SyncNames() error
	// Read opens a file for reading. Readers are used while others write, and
	// may outlive Close.
	Read(name string) (StorageReader, error)
	// Free is how many more bytes fit, as far as one can tell.
	Free() (int64, error)
	// Close releases the storage. Its files have been closed.
	Close() error
}

// A PrunableStorage is a [Storage] that can take files away: see
// [Log.PruneRecords]. These methods, and the writing of the file that is renamed,
// may happen while other files are written to.
type PrunableStorage interface {
	Storage
	// Rename gives a file a name, in place of the one that has it, if any. It does
	// all or nothing.
	Rename(from, to string) error
	// Remove removes a file. Who has it open for reading reads on.
	Remove(name string) error
}

// A RemoteStorage is a [Storage] that may be out of reach for a while, in which a
// Sync waits. The log then has a goroutine of its own wait for it and no caller,
// so that who calls is refused when their context ends ([ErrBusy]).
type RemoteStorage interface {
	Storage
	// Remote marks the storage and does nothing.
	Remote()
}

// A StorageFile is a file that is being written.
type StorageFile interface {
	// WriteAt fails if it wrote less than all.
	io.WriterAt
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Sync returns once all that was written or truncated survives a power cut.
	Sync() error
	io.Closer
}

// A StorageReader reads a file. It is used by one goroutine.
type StorageReader interface {
	io.ReaderAt
	io.Closer
	// Size is the length of the file.
	Size() (int64, error)
}

// folder is the [Storage] in a folder of the file system.
type folder string

// openFolder makes the folder if it is missing, durably.
func openFolder(dir string) (folder, error) {
	if err := makeDir(filepath.Clean(dir)); err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	return folder(dir), nil
}

// List implements [Storage].
func (d folder) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Open implements [Storage].
func (d folder) Open(name string) (StorageFile, error) {
	path := filepath.Join(string(d), name)
	f, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return lockedFile{f, path, st}, nil
}

// Read implements [Storage].
func (d folder) Read(name string) (StorageReader, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	return fileReader{f}, nil
}

// Rename implements [PrunableStorage].
func (d folder) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

// Remove implements [PrunableStorage].
func (d folder) Remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

func (d folder) SyncNames() error     { return syncDir(string(d)) }
func (d folder) Free() (int64, error) { return freeBytes(string(d)) }
func (d folder) Close() error         { return nil }

// A lockedFile is a [StorageFile] that no other writer has open.
type lockedFile struct {
	*os.File
	path string
	is   os.FileInfo
}

// Sync also finds that the file was renamed, removed or replaced: what is in it
// then will not be found where the log is looked for.
func (f lockedFile) Sync() error {
	if err := dataSync(f.File); err != nil {
		return err
	}
	now, err := os.Lstat(f.path)
	if err == nil && !os.SameFile(now, f.is) {
		err = errors.New("another file is there")
	}
	if err != nil {
		return fmt.Errorf("the file that is written to is not under its name any more: %w", err)
	}
	return nil
}

type fileReader struct{ *os.File }

func (f fileReader) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
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
