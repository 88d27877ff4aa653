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

// openProc is what [openProc] does. A file that a container masks has a zero in
// the place that comes with it.
func (r *roomProgram) openProc(t Tier) (proc slot, harmless []procFile) {
	if t == TierMaskedProc {
		for _, name := range harmlessProc {
			f, from, masked := procFile{name: name, there: r.slot()}, len(r.steps), r.label()
			f.tree = r.detach("/proc/" + name)
			r.harden("/proc/"+name, f.tree, false)
			for i := from; i < len(r.steps); i++ {
				r.steps[i].orElse(masked)
			}
			r.call("", callValue, 1).to(f.there)
			r.mark(masked)
			harmless = append(harmless, f)
		}
		return 0, harmless
	}
	outer := r.layer
	r.layer = LayerProc
	defer func() { r.layer = outer }()
	proc = r.newFS("mount a fresh /proc", "proc", mountSafe|unix.MOUNT_ATTR_NOEXEC, "hidepid=invisible")
	for i := range 3 {
		r.steps[len(r.steps)-1-i].hint = procHint
	}
	return proc, nil
}

// A procFile is a file of the host's /proc and whether there is one to show.
type procFile struct {
	name        string
	tree, there slot
}

// someProc is what root.someProc does.
func (r *roomProgram) someProc(files []procFile) {
	for _, f := range files {
		masked := r.label()
		r.call("", callValue, f.there).ifZero(masked)
		r.attach(f.tree, "proc/"+f.name, false)
		r.mark(masked)
	}
}
