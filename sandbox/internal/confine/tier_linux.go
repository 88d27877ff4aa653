//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"

	"golang.org/x/sys/unix"
)

// harmlessProc are files of /proc that say nothing of any process, and that
// programs ask for how large the machine is.
var harmlessProc = []string{"cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"}

// openProc makes the room's /proc or, in a tier without, opens a few files of
// the host's, by name. They have to be opened while the old root is visible, and
// the kernel asks for a fully visible /proc when it makes a fresh one.
func openProc(t Tier) (proc int, harmless map[string]int, err error) {
	if t == TierMaskedProc {
		harmless = map[string]int{}
		for _, name := range harmlessProc {
			// A container may mask one of these as well.
			if fd, err := detach("/proc/" + name); err == nil {
				if err := harden(fd, false, nil); err != nil {
					unix.Close(fd)
					continue
				}
				harmless[name] = fd
			}
		}
		return -1, harmless, nil
	}
	proc, err = newFS("proc", mountSafe|unix.MOUNT_ATTR_NOEXEC, "hidepid=invisible")
	if err != nil {
		le := &LayerError{Layer: LayerProc, Step: "mount a fresh /proc", Err: err}
		if errors.Is(err, unix.EPERM) {
			le.Hint = procHint
		}
		return -1, nil, le
	}
	return proc, nil, nil
}

// someProc attaches files of the host's /proc.
func (r *root) someProc(files map[string]int) error {
	for name, fd := range files {
		err := r.attach(fd, "proc/"+name, false)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}
