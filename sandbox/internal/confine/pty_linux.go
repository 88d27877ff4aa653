//go:build linux && (amd64 || arm64)

package confine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Pty makes a terminal in the room's own /dev/pts, where the slave has its name
// as programs inside see it. The host opens it without the help of init, from a
// descriptor of that folder. The caller closes both.
func (b *Box) Pty() (master, slave *os.File, err error) {
	m, err := b.openMaster()
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	// Not blocking, so that closing it ends a Read.
	master = os.NewFile(uintptr(m), "terminal")
	s, err := openSlave(m)
	if err == nil {
		slave = os.NewFile(uintptr(s), "terminal")
		if b.id.root {
			err = slave.Chown(b.id.uid, b.id.gid)
		}
	}
	if err != nil {
		master.Close()
		if slave != nil {
			slave.Close()
		}
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return master, slave, nil
}

func (b *Box) openMaster() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.pts < 0 && b.shared == nil {
		return -1, ErrEnded
	}
	if b.shared != nil {
		return unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	return unix.Openat(b.pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// openSlave opens the other side by its master, not by a path.
func openSlave(master int) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
