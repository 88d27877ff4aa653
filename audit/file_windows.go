package audit

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"unsafe"
)

// errDiskFull is ERROR_DISK_FULL.
var errDiskFull error = syscall.Errno(112)

// noFollow is not to be had here: only an administrator makes links.
const noFollow = 0

const errSharingViolation = syscall.Errno(32)

// openLocked opens a file of the log for writing, or makes it, in a way that
// lets others read it but not write it.
func openLocked(path string) (*os.File, error) {
	p, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	h, err := syscall.CreateFile(p, syscall.GENERIC_READ|syscall.GENERIC_WRITE, syscall.FILE_SHARE_READ, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errSharingViolation) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: opening %s: %w", path, err)
	}
	return os.NewFile(uintptr(h), path), nil
}

var getDiskFreeSpaceEx = syscall.NewLazyDLL("kernel32.dll").NewProc("GetDiskFreeSpaceExW")

// freeBytes is how many bytes this user may still write to the disk of dir.
func freeBytes(dir string) (int64, error) {
	p, err := syscall.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	if ok, _, err := getDiskFreeSpaceEx.Call(uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&free)), 0, 0); ok == 0 {
		return 0, os.NewSyscallError("GetDiskFreeSpaceEx", err)
	}
	return int64(min(free, math.MaxInt64)), nil
}

// syncDir does nothing: Windows has no way to sync a folder.
func syncDir(string) error { return nil }
