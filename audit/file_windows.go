package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// errDiskFull is ERROR_DISK_FULL.
var errDiskFull error = syscall.Errno(112)

const (
	errSharingViolation = syscall.Errno(32)
	fileAppendData      = 0x4
	fileWriteData       = 0x2
)

// openLocked opens the log's file for appending in a way that lets others read
// it but not write it.
func openLocked(path string) (*os.File, error) {
	p, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	access := uint32(syscall.GENERIC_READ | fileAppendData | fileWriteData | syscall.SYNCHRONIZE)
	h, err := syscall.CreateFile(p, access, syscall.FILE_SHARE_READ, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errSharingViolation) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: opening %s: %w", path, err)
	}
	f := os.NewFile(uintptr(h), path)
	if _, err := f.Seek(0, 2); err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: %w", err)
	}
	return f, nil
}

// syncDir does nothing: Windows has no way to sync a folder.
func syncDir(string) error { return nil }
