//go:build unix

package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// errDiskFull is what a full disk is called where ENOSPC is not.
var errDiskFull error = syscall.ENOSPC

// noFollow makes opening a symbolic link fail.
const noFollow = syscall.O_NOFOLLOW

// openLocked opens a file of the log for writing, or makes it, and locks it. The
// lock is the kernel's and goes with the process.
func openLocked(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, path)
		}
		return nil, fmt.Errorf("audit: locking %s: %w", path, err)
	}
	return f, nil
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
