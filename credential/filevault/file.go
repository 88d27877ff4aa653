package filevault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// openPrivate opens a file for reading, unless somebody else could have read or
// changed it.
func openPrivate(path string) (*os.File, error) {
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		if st, e := os.Lstat(path); e == nil && st.Mode()&fs.ModeSymlink != 0 {
			err = fmt.Errorf("%w: %s is a symbolic link", ErrUnsafe, path)
		}
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		err = checkPrivate(path, st)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func checkPrivate(path string, st os.FileInfo) error {
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a file", ErrUnsafe, path)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s is open to others (mode %04o): chmod 0600 it, and think about who may have read it", ErrUnsafe, path, st.Mode().Perm())
	}
	if !mine(st) {
		return fmt.Errorf("%w: %s belongs to another user", ErrUnsafe, path)
	}
	return nil
}

// checkFolder refuses folders in which somebody else can replace a file: those
// that others can write to, unless they have the sticky bit as /tmp does, and
// those of other users, who can put an old file back.
func checkFolder(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o022 != 0 && st.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("%w: others can replace files in %s (mode %04o): chmod 0700 it", ErrUnsafe, dir, st.Mode().Perm())
	}
	if !mine(st) && !roots(st) {
		return fmt.Errorf("%w: %s belongs to another user", ErrUnsafe, dir)
	}
	return nil
}

// createFile makes a file that must not be there, durably.
func createFile(path string, data []byte) error {
	if err := writeNew(path, data); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeNew makes a file that must not be there, and syncs its content. If it
// fails, there is none.
func writeNew(path string, data []byte) (err error) {
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|noFollow, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync())
	err = errors.Join(err, f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// The files beside a vault.
const (
	newSuffix  = ".new"  // the save that is under way
	prevSuffix = ".prev" // the generation before
	lockSuffix = ".lock"
)

// replace puts the file that was written beside in the place of the vault, and
// keeps what was there as the generation before. It is a rename: at every moment
// there is a whole file.
func replace(path string) error {
	keep := path + prevSuffix + newSuffix
	if err := os.Remove(keep); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, keep); err != nil {
		return err
	}
	if err := os.Rename(keep, path+prevSuffix); err != nil {
		return err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// lock waits for the lock of a vault, which the kernel takes back if the
// process dies.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		f, err := tryLock(path + lockSuffix)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: another process is saving: %w", ErrBusy, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

var errLocked = errors.New("locked")
