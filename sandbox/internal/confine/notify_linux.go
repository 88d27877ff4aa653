//go:build linux && (amd64 || arm64)

package confine

import (
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attacks are refused by the host: the kernel stops the calling thread, tells
// the holder of the filter's listener, and gives the caller whatever that
// answers. The answer is always a refusal, never to go on, so it does not matter
// that the caller's memory may change meanwhile: nothing in it is looked at.
//
// A host that is slow makes the caller wait, and nobody else. One that is gone,
// or has closed the listener, makes the kernel refuse by itself, with ENOSYS. A
// caller that is killed while it waits is not held up.

// attackNames names the calls that are reported.
var attackNames = map[uintptr]string{
	unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2", unix.SYS_PIVOT_ROOT: "pivot_root", unix.SYS_CHROOT: "chroot", unix.SYS_FSOPEN: "fsopen",
	unix.SYS_FSMOUNT: "fsmount", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSPICK: "fspick", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_MOVE_MOUNT: "move_mount",
	unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_SETNS: "setns", unix.SYS_UNSHARE: "unshare", unix.SYS_CLONE: "clone", unix.SYS_PTRACE: "ptrace",
	unix.SYS_PROCESS_VM_READV: "process_vm_readv", unix.SYS_PROCESS_VM_WRITEV: "process_vm_writev", unix.SYS_PROCESS_MADVISE: "process_madvise",
	unix.SYS_PIDFD_GETFD: "pidfd_getfd", unix.SYS_BPF: "bpf", unix.SYS_PERF_EVENT_OPEN: "perf_event_open", unix.SYS_USERFAULTFD: "userfaultfd",
	unix.SYS_KEYCTL: "keyctl", unix.SYS_ADD_KEY: "add_key", unix.SYS_REQUEST_KEY: "request_key", unix.SYS_INIT_MODULE: "init_module",
	unix.SYS_FINIT_MODULE: "finit_module", unix.SYS_DELETE_MODULE: "delete_module", unix.SYS_KEXEC_LOAD: "kexec_load", unix.SYS_KEXEC_FILE_LOAD: "kexec_file_load",
	unix.SYS_REBOOT: "reboot", unix.SYS_SWAPON: "swapon", unix.SYS_SWAPOFF: "swapoff", unix.SYS_ACCT: "acct", unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at",
	unix.SYS_FANOTIFY_INIT: "fanotify_init", unix.SYS_SETTIMEOFDAY: "settimeofday", unix.SYS_CLOCK_SETTIME: "clock_settime", unix.SYS_SETHOSTNAME: "sethostname",
	unix.SYS_SETDOMAINNAME: "setdomainname", unix.SYS_SOCKET: "socket", unix.SYS_IOCTL: "ioctl", unix.SYS_SECCOMP: "seccomp",
}

func attackName(nr uintptr) string {
	if s := attackNames[nr]; s != "" {
		return s
	}
	return "call " + strconv.Itoa(int(nr))
}

// The structures of linux/seccomp.h.
type notification struct {
	id    uint64
	pid   uint32 // of the thread, as the listener's holder sees it
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type notificationAnswer struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// A flood is answered at a pace that costs the host little.
const (
	denialsAtOnce = 256
	denialPause   = 2 * time.Millisecond
)

// serveDenials answers what the listener reports until the last process of the
// filter is gone or the file is closed. tell must not block.
func serveDenials(listener *os.File, tell func(Denial)) {
	n := 0
	serveCalls(listener, func(got *notification) {
		d := got.denial()
		got.answer(listener, unix.EPERM)
		tell(d)
		if n++; n >= denialsAtOnce {
			time.Sleep(denialPause)
		}
	})
}

func (n *notification) denial() Denial {
	return Denial{Layer: LayerSeccomp, What: attackName(uintptr(n.nr)), Program: threadName(n.pid)}
}

// answer lets the caller go on with the result of its call: an error, or none.
func (n *notification) answer(listener *os.File, errno unix.Errno) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	answer := notificationAnswer{id: n.id, errno: -int32(errno)}
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	})
}

// serveCalls gives what the listener reports to handle, one by one, until the
// last process of the filter is gone or the file is closed.
func serveCalls(listener *os.File, handle func(*notification)) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var got notification
		gone := false
		err := raw.Read(func(fd uintptr) bool {
			// Receiving waits for a first report, on a thread, whatever the mode of the
			// descriptor; one that was withdrawn meanwhile is an error and not a wait.
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(ready, 0); err != nil || ready[0].Revents == 0 {
				return false
			}
			if gone = ready[0].Revents&unix.POLLIN == 0; gone {
				return true
			}
			got = notification{}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&got)))
			if errno != 0 {
				got.id = 0
			}
			return true
		})
		if err != nil || gone {
			return
		}
		if got.id != 0 { // else its thread was killed
			handle(&got)
		}
	}
}

// threadName returns what a thread calls itself, "" when it is gone.
func threadName(pid uint32) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil || pid == 0 {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// listenerFile takes over a listener's descriptor.
func listenerFile(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "denials"), nil
}

// stopDenials ends what serves the listener and the audit log.
func (b *Box) stopDenials() {
	for _, f := range []*os.File{b.denials, b.audit} {
		if f != nil {
			f.Close()
		}
	}
	b.telling.Wait()
}
