//go:build linux && (amd64 || arm64)

package confine

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	defaultProcesses = 512
	defaultOpenFiles = 4096
)

// A limit is one resource limit.
type limit struct {
	name  string
	which int
	value unix.Rlimit
}

// ofCommands reports whether the init of LauncherVfork leaves a limit to its
// commands: who may have few files open may send few descriptors too, and fewer
// when others of his user do, and init has to send the host those of commands.
func (l limit) ofCommands() bool { return l.which == unix.RLIMIT_NOFILE }

// limitsOf returns the limits of every process in the room. What the host
// itself is held to stays.
func limitsOf(l Limits) []limit {
	var out []limit
	add := func(name string, which int, v uint64) {
		var now unix.Rlimit
		if unix.Getrlimit(which, &now) == nil {
			v = min(v, now.Max)
		}
		out = append(out, limit{name, which, unix.Rlimit{Cur: v, Max: v}})
	}
	add("core dumps", unix.RLIMIT_CORE, 0)
	add("processes", unix.RLIMIT_NPROC, or(l.Processes, defaultProcesses))
	add("open files", unix.RLIMIT_NOFILE, or(l.OpenFiles, defaultOpenFiles))
	if l.FileSize > 0 {
		add("file size", unix.RLIMIT_FSIZE, l.FileSize)
	}
	if l.Data > 0 {
		add("data size", unix.RLIMIT_DATA, l.Data)
	}
	return out
}

// setLimits bounds this process, and so all that it starts.
func setLimits(l Limits) error {
	for _, lim := range limitsOf(l) {
		// syscall.Setrlimit and not unix.Prlimit: os/exec's machinery would
		// otherwise give children the soft limit that it remembers.
		if err := syscall.Setrlimit(lim.which, &syscall.Rlimit{Cur: lim.value.Cur, Max: lim.value.Max}); err != nil {
			return fmt.Errorf("%s: %w", lim.name, err)
		}
	}
	return nil
}

// dropBounding empties the bounding set of the calling thread.
func dropBounding() error {
	for c := uintptr(0); c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if err == unix.EINVAL {
				return nil // past the kernel's last capability
			}
			return err
		}
	}
	return nil
}

type capHeader struct {
	version uint32
	pid     int32
}

type capData [2]struct{ effective, permitted, inheritable uint32 }

// dropCaps empties the ambient, inheritable, permitted and effective sets of
// the calling thread.
func dropCaps() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	h := capHeader{version: unix.LINUX_CAPABILITY_VERSION_3}
	var none capData
	if _, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&none)), 0); errno != 0 {
		return errno
	}
	return nil
}

// dropAllCaps empties the capability sets of the other threads of init as well.
// The Go runtime can do that only in a program without cgo; in one with cgo the
// threads keep capabilities over the room's own namespaces, and the system call
// filter, which covers all threads, leaves no call to use them with.
func dropAllCaps() {
	h := capHeader{version: unix.LINUX_CAPABILITY_VERSION_3}
	var none capData
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&none)), 0)
}

// openStatus opens what a /proc says of the calling thread. What is read from it
// is always what holds by then.
func openStatus(proc int) (int, error) {
	return unix.Openat(proc, "thread-self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// readStatus returns the lines of this thread's status that speak of privileges.
func readStatus(own int) (map[string]string, error) {
	b := make([]byte, 16<<10)
	n, err := unix.Pread(own, b, 0)
	if err != nil {
		return nil, err
	}
	b = b[:n]
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch k {
		case "Uid", "Gid", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "Seccomp_filters":
			out[k] = strings.TrimSpace(v)
		}
	}
	return out, nil
}

// zeroCaps reports whether a status shows no capability in any set.
func zeroCaps(status map[string]string) bool {
	for _, k := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if v, err := strconv.ParseUint(status[k], 16, 64); err != nil || v != 0 {
			return false
		}
	}
	return true
}

// nsKinds are the namespaces that a room has for itself.
var nsKinds = []struct {
	file  string
	layer Layer
	flag  uintptr
	ask   uint // of a pidfd: PIDFD_GET_…_NAMESPACE (linux/pidfd.h)
}{
	{"user", LayerUser, unix.CLONE_NEWUSER, 0xff09}, {"mnt", LayerMount, unix.CLONE_NEWNS, 0xff03}, {"pid", LayerPID, unix.CLONE_NEWPID, 0xff05},
	{"net", LayerNet, unix.CLONE_NEWNET, 0xff04}, {"ipc", LayerIPC, unix.CLONE_NEWIPC, 0xff02}, {"uts", LayerUTS, unix.CLONE_NEWUTS, 0xff0a},
	{"cgroup", LayerCgroup, unix.CLONE_NEWCGROUP, 0xff01},
}

// readNamespaces returns the namespaces of a process; who is a name in /proc.
func readNamespaces(who string) map[string]string {
	out := map[string]string{}
	for _, k := range nsKinds {
		if v, err := os.Readlink("/proc/" + who + "/ns/" + k.file); err == nil {
			out[k.file] = v
		}
	}
	return out
}
