//go:build linux

package filecopy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/sandbox/internal/fsuser"
)

// A Dir is a directory in which files are made. What it makes is new: an entry
// that exists is never opened, so nobody's link or hard link is written through.
type Dir struct {
	file     *os.File
	uid, gid int // of what is made; -1 leaves it
}

// NewDir takes over an open directory. With an owner other than -1, what is made
// in it is made by that owner and with no more rights: whoever puts something else
// in the place of what was just made, gains nothing by that.
func NewDir(f *os.File, uid, gid int) *Dir { return &Dir{f, uid, gid} }

// Close closes the directory.
func (d *Dir) Close() error { return d.file.Close() }

// Open opens a directory that exists in d.
func (d *Dir) Open(name string) (*Dir, error) {
	fd, err := openBeneath(d.file, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &Dir{os.NewFile(uintptr(fd), name), d.uid, d.gid}, nil
}

// Make makes a directory. Its owner can always use it.
func (d *Dir) Make(name string, perm fs.FileMode) (*Dir, error) {
	var err error
	if doErr := fsuser.Do(d.uid, d.gid, func() { err = unix.Mkdirat(int(d.file.Fd()), name, 0o700) }); doErr != nil {
		err = doErr
	}
	if err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	sub, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	if err := d.finish(sub.file, perm&0o777|0o700); err != nil {
		sub.Close()
		return nil, err
	}
	return sub, nil
}

// MakeAll opens a directory and those that lead to it, and makes what is
// missing.
func (d *Dir) MakeAll(name string) (*Dir, error) {
	if name == "." {
		return d.Open(".")
	}
	parent, err := d.MakeAll(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	base := path.Base(name)
	sub, err := parent.Open(base)
	if errors.Is(err, fs.ErrNotExist) {
		sub, err = parent.Make(base, 0o755)
	}
	return sub, err
}

// Create makes a file that its owner can write, without set-id bits.
func (d *Dir) Create(name string, perm fs.FileMode) (*os.File, error) {
	var fd int
	var err error
	if doErr := fsuser.Do(d.uid, d.gid, func() {
		fd, err = unix.Openat(int(d.file.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}); doErr != nil {
		err = doErr
	}
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if err := d.finish(f, perm&0o777|0o600); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// finish gives a new file its mode; nobody but the owner may write it.
func (d *Dir) finish(f *os.File, perm fs.FileMode) (err error) {
	if doErr := fsuser.Do(d.uid, d.gid, func() { err = f.Chmod(perm &^ 0o022) }); doErr != nil {
		return doErr
	}
	return err
}

// Exists reports whether something is at a name, and whether it is a directory.
func (d *Dir) Exists(name string) (exists, isDir bool, err error) {
	info, err := Beneath(d.file).(beneath).Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, false, nil
	case err != nil:
		return false, false, err
	}
	return true, info.IsDir(), nil
}

// Remove removes what was staged, with all that is in it.
func (d *Dir) Remove(name string) error {
	return os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", d.file.Fd(), name))
}

// Place moves what was staged in stage as from to the name to in d. A file
// replaces a regular file, and a directory is merged into one that exists, entry
// by entry; everything else that is in the way is an error, and what was placed
// before it stays.
func (d *Dir) Place(to string, stage *Dir, from string) error {
	err := unix.Renameat2(int(stage.file.Fd()), from, int(d.file.Fd()), to, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	fail := func(err error) error { return &fs.PathError{Op: "place", Path: to, Err: err} }
	if err != unix.EEXIST {
		return fail(err)
	}
	there, err := Beneath(d.file).(beneath).Lstat(to)
	if err != nil {
		return fail(err)
	}
	staged, err := Beneath(stage.file).(beneath).Lstat(from)
	if err != nil {
		return fail(err)
	}
	switch {
	case there.Mode().IsRegular() && staged.Mode().IsRegular():
		if err := unix.Renameat(int(stage.file.Fd()), from, int(d.file.Fd()), to); err != nil {
			return fail(err)
		}
		return nil
	case !there.IsDir() || !staged.IsDir():
		return fail(ErrTaken)
	}
	into, err := d.Open(to)
	if err != nil {
		return err
	}
	defer into.Close()
	out, err := stage.Open(from)
	if err != nil {
		return err
	}
	defer out.Close()
	return into.placeAll(out)
}

// PlaceAll moves what is in the staged directory called from into d.
func (d *Dir) PlaceAll(from string) error {
	stage, err := d.Open(from)
	if err != nil {
		return err
	}
	defer stage.Close()
	return d.placeAll(stage)
}

func (d *Dir) placeAll(stage *Dir) error {
	names, err := stage.file.Readdirnames(-1) // bounded, as it was staged
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.Place(name, stage, name); err != nil {
			return err
		}
	}
	return nil
}
