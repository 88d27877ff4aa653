package audit

import (
	"os"
	"syscall"
)

// dataSync is fdatasync: the bytes and the size, not the times.
func dataSync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
