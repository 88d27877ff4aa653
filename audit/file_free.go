//go:build linux || darwin || freebsd

package audit

import (
	"math"
	"os"
	"syscall"
)

// freeBytes is how many bytes an ordinary user may still write to the disk of dir.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	blocks, size := uint64(max(st.Bavail, 0)), uint64(st.Bsize)
	if size != 0 && blocks > math.MaxInt64/size {
		return math.MaxInt64, nil
	}
	return int64(blocks * size), nil
}
