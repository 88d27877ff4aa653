//go:build linux

package filecopy

import (
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Beneath returns the tree beneath a directory as a file system for reading.
// The kernel looks up every path in one step and refuses one that leads through
// a symbolic link, over a mount point or out of the directory, whoever moves
// things about meanwhile. Opening a file never waits.
func Beneath(dir *os.File) fs.FS { return beneath{dir} }

type beneath struct{ dir *os.File }

func (b beneath) open(op, name string, flags uint64) (*os.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	fd, err := openBeneath(b.dir, name, flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), path.Base(name)), nil
}

// Open opens regular files and directories only.
func (b beneath) Open(name string) (fs.File, error) {
	f, err := b.open("open", name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrKind}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.IsDir() {
		return dirFile{f, b, name}, nil
	}
	return f, nil
}

// Lstat opens nothing: a device, say, would notice.
func (b beneath) Lstat(name string) (fs.FileInfo, error) {
	f, err := b.open("lstat", name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// ReadLink is there for [fs.Lstat] to find Lstat; nothing here follows links.
func (b beneath) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: ErrKind}
}

// A dirFile lists names only: what the names stand for may change.
type dirFile struct {
	*os.File
	fsys beneath
	name string
}

func (d dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	names, err := d.Readdirnames(n)
	out := make([]fs.DirEntry, len(names))
	for i, name := range names {
		out[i] = nameEntry{d, name}
	}
	if len(out) > 0 && err == io.EOF {
		err = nil
	}
	return out, err
}

type nameEntry struct {
	dir  dirFile
	name string
}

func (e nameEntry) Name() string { return e.name }
func (e nameEntry) Info() (fs.FileInfo, error) {
	return e.dir.fsys.Lstat(path.Join(e.dir.name, e.name))
}
func (e nameEntry) IsDir() bool { return e.Type().IsDir() }
func (e nameEntry) Type() fs.FileMode {
	info, err := e.Info()
	if err != nil {
		return fs.ModeIrregular
	}
	return info.Mode().Type()
}

func openBeneath(dir *os.File, name string, flags uint64, perm uint64) (fd int, err error) {
	how := &unix.OpenHow{Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: perm, Resolve: resolve}
	for {
		fd, err = unix.Openat2(int(dir.Fd()), name, how)
		// EAGAIN: something was renamed meanwhile, and the kernel could not tell
		// whether the path stayed beneath.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}
