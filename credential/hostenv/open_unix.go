//go:build unix

package hostenv

import (
	"io/fs"
	"os"
	"syscall"
)

// openFile does not wait for a writer, should the path be a FIFO.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// private reports whether nobody but the owner can read the file or, with
// othersRead, change it.
func private(info fs.FileInfo, othersRead bool) bool {
	forbidden := fs.FileMode(0o077)
	if othersRead {
		forbidden = 0o022
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().Perm()&forbidden == 0 && (owner.Uid == 0 || int(owner.Uid) == os.Geteuid())
}
