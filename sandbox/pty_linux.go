package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

func resize(master *os.File, size WindowSize) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols, Xpixel: size.Width, Ypixel: size.Height})
	})
	if err != nil {
		return err
	}
	return ioctl
}

// isTerminal reports whether a file is a terminal, of whatever kind.
func isTerminal(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	is := false
	_ = raw.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		is = err == nil
	})
	return is
}
