package filevault

import (
	"errors"
	"os"
	"syscall"
)

// noFollow is not to be had here: only an administrator makes links.
const noFollow = 0

// mine cannot tell: the folder's rights have to.
func mine(os.FileInfo) bool { return true }

func roots(os.FileInfo) bool { return true }

const errSharingViolation = syscall.Errno(32)

// tryLock opens a file in a way that nobody else can.
func tryLock(path string) (*os.File, error) {
	p, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(p, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errSharingViolation) {
		return nil, errLocked
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// syncDir does nothing: Windows has no way to sync a folder.
func syncDir(string) error { return nil }
