//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A target is what the host has put in reach of a program that is not confined.
type target struct {
	Secret     string // a file that anybody may read
	Open       string // a directory in which anybody may write
	ReadOnly   string // a directory that policy shows read-only, and anybody may write in
	TCP, UDP   string
	Unix       string // path of a socket
	Abstract   string // name of a socket
	Shm        int    // id key of a SysV segment
	PosixShm   string
	PID        int
	Marker     string // in the host's environment and arguments
	HostName   string
	Namespaces map[string]string
	FD         int // open on the host's root directory, and not close-on-exec
}

// A finding is what one probe saw: Open when it got through.
type finding struct {
	Name string
	Open bool
	Seen string
}

// A probe tries one thing. It returns nil when it got through.
type probe struct {
	name  string
	layer string // what is meant to stop it, outermost first
	try   func(t target) error
}

func init() {
	roles["probes"] = func() {
		var t target
		if err := json.Unmarshal([]byte(os.Getenv("SANDBOX_TEST_TARGET")), &t); err != nil {
			panic(err)
		}
		only := os.Getenv("SANDBOX_TEST_ONLY")
		out := json.NewEncoder(os.Stdout)
		for _, p := range append(boundaryProbes(), surfaceProbes()...) {
			if only != "" && p.name != only {
				continue
			}
			f := finding{Name: p.name}
			if err := attempt(p, t); err != nil {
				f.Seen = err.Error()
			} else {
				f.Open = true
			}
			_ = out.Encode(f)
		}
	}
}

func attempt(p probe, t target) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return p.try(t)
}

// sys makes a system call and returns its error, or nil.
func sys(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

func str(s string) uintptr {
	b, _ := unix.BytePtrFromString(s)
	keep = append(keep, b)
	return uintptr(unsafe.Pointer(b))
}

var keep []*byte // alive while system calls look at them

func read(path string) error { _, err := os.ReadFile(path); return err }

func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// unless turns "the thing is there" into success of the attack.
func when(open bool, why string) error {
	if open {
		return nil
	}
	return errors.New(why)
}

func boundaryProbes() []probe {
	const (
		mounts = "mount-namespace, landlock"
		netns  = "net-namespace"
		pidns  = "pid-namespace"
	)
	return []probe{
		{"read a secret of the host", mounts, func(t target) error { return read(t.Secret) }},
		{"read /etc/shadow", mounts, func(target) error { return read("/etc/shadow") }},
		{"list the host's /root and /home", mounts, func(target) error {
			_, e1 := os.ReadDir("/root")
			_, e2 := os.ReadDir("/home")
			return when(e1 == nil || e2 == nil, "neither exists")
		}},
		{"write in a directory of the host", mounts, func(t target) error { return os.WriteFile(t.Open+"/planted", nil, 0o666) }},
		{"write in a read-only tree", mounts, func(t target) error { return os.WriteFile(t.ReadOnly+"/planted", nil, 0o666) }},
		{"truncate a read-only file", mounts, func(t target) error { return unix.Truncate(t.ReadOnly+"/file", 0) }},
		{"open a read-only file for writing", mounts, func(t target) error { return write(t.ReadOnly + "/file") }},
		{"chmod in a read-only tree", mounts, func(t target) error { return os.Chmod(t.ReadOnly+"/file", 0o600) }},
		{"rename in a read-only tree", mounts, func(t target) error { return os.Rename(t.ReadOnly+"/file", t.ReadOnly+"/other") }},
		{"follow a symbolic link to a secret", mounts, func(t target) error {
			_ = os.Symlink(t.Secret, "/sandbox/link")
			return read("/sandbox/link")
		}},
		{"hard-link a read-only file into the workspace", mounts, func(t target) error { return os.Link(t.ReadOnly+"/file", "/sandbox/hard") }},
		{"climb out of the workspace with ..", mounts, func(t target) error {
			return read("/sandbox/" + strings.Repeat("../", 30) + strings.TrimPrefix(t.Secret, "/"))
		}},
		{"use an inherited directory descriptor", "descriptors", func(t target) error {
			_, err := unix.Openat(t.FD, "etc/passwd", unix.O_RDONLY, 0)
			return err
		}},
		{"find any inherited descriptor", "descriptors", func(target) error {
			// Those of this Go runtime are close-on-exec, an inherited one is not.
			for fd := 3; fd < 1024; fd++ {
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
					return nil
				}
			}
			return errors.New("none")
		}},
		{"read the host's environment", "environment", func(t target) error {
			return when(strings.Contains(strings.Join(os.Environ(), "\n"), t.Marker+"-env"), "not there")
		}},
		{"see a process of the host in /proc", pidns, func(t target) error {
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range all {
				if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(t.Marker+"-arg")) {
					return nil
				}
			}
			return fmt.Errorf("%d processes, none of them", len(all))
		}},
		{"see more than the session's processes", "pid-namespace, proc", func(target) error {
			all, _ := filepath.Glob("/proc/[0-9]*")
			return when(len(all) > 3, fmt.Sprintf("%d processes", len(all)))
		}},
		{"signal a process of the host", pidns, func(t target) error { return unix.Kill(t.PID, 0) }},
		{"signal init", "landlock", func(target) error { return unix.Kill(1, 0) }},
		{"see init in /proc", "proc", func(target) error { _, err := os.Stat("/proc/1/status"); return err }},
		{"read init's environment", "proc, capabilities, landlock", func(target) error { return read("/proc/1/environ") }},
		{"open init's memory", "proc, capabilities, landlock", func(target) error { return read("/proc/1/mem") }},
		{"reach init's root", "proc, capabilities, landlock", func(target) error { _, err := os.Stat("/proc/1/root/etc"); return err }},
		{"open init's executable", "proc, capabilities, landlock", func(target) error { return read("/proc/1/exe") }},
		{"join init's namespaces", "proc, seccomp", func(target) error {
			fd, err := unix.Open("/proc/1/ns/net", unix.O_RDONLY, 0)
			if err != nil {
				fd, err = unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
			}
			if err != nil {
				return err
			}
			return unix.Setns(fd, 0)
		}},
		{"read a file that only Landlock guards", "landlock", func(target) error { return read("/run/twinward/canary") }},
		{"connect to a server on the host's loopback", netns, func(t target) error { return greeting("tcp", t.TCP) }},
		{"send a datagram to the host's loopback", netns, func(t target) error { return greeting("udp", t.UDP) }},
		{"connect with MPTCP", "net-namespace, seccomp", func(t target) error {
			_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 262)
			return err
		}},
		{"connect to an abstract socket of the host", "net-namespace, landlock", func(t target) error { return dial("unix", "@"+t.Abstract) }},
		{"connect to a socket in the host's file system", mounts, func(t target) error { return dial("unix", t.Unix) }},
		{"connect to the host's container engine", mounts, func(target) error { return dial("unix", "/run/docker.sock") }},
		{"see a network interface of the host", netns, func(target) error {
			ifs, err := net.Interfaces()
			if err != nil {
				return err
			}
			return when(len(ifs) > 1, "only lo")
		}},
		{"attach a shared memory segment of the host", "ipc-namespace", func(t target) error {
			_, err := unix.SysvShmGet(t.Shm, 1, 0)
			return err
		}},
		{"open POSIX shared memory of the host", mounts, func(t target) error { return read(t.PosixShm) }},
		{"learn the host's name", "uts-namespace", func(t target) error {
			n, _ := os.Hostname()
			return when(n == t.HostName && n != "sandbox", "is "+n)
		}},
		{"set core_pattern", "user-namespace, proc, landlock", func(target) error { return write("/proc/sys/kernel/core_pattern") }},
		{"set a sysctl of the network", "user-namespace, proc, landlock", func(target) error { return write("/proc/sys/net/ipv4/ip_unprivileged_port_start") }},
		{"trigger sysrq", "user-namespace, landlock", func(target) error { return write("/proc/sysrq-trigger") }},
		{"read the kernel's log", "user-namespace, landlock", func(target) error { return read("/dev/kmsg") }},
		{"read kernel memory", "user-namespace", func(target) error { return read("/proc/kcore") }},
		{"find /sys", mounts, func(target) error { _, err := os.ReadDir("/sys"); return err }},
		{"find a disk in /dev", mounts, func(target) error {
			for _, d := range []string{"/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/mem", "/dev/kvm", "/dev/fuse", "/dev/net/tun"} {
				if _, err := os.Stat(d); err == nil {
					return nil
				}
			}
			return errors.New("none")
		}},
		{"make a device node", "capabilities, landlock", func(target) error { return unix.Mknod("/sandbox/disk", unix.S_IFBLK|0o666, 254<<8) }},
		{"find a cgroup file system", mounts, func(target) error { _, err := os.ReadDir("/sys/fs/cgroup"); return err }},
		{"be without no_new_privs", "no-new-privileges", func(target) error {
			v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			return when(err == nil && v == 0, "is set")
		}},
		{"have a capability", "capabilities", func(target) error {
			b, _ := os.ReadFile("/proc/self/status")
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				if !strings.Contains(string(b), set+":\t0000000000000000") {
					return nil
				}
			}
			return errors.New("all sets are empty")
		}},
		{"bind a privileged port", "capabilities", func(target) error {
			ln, err := net.Listen("tcp", "127.0.0.1:81")
			if err == nil {
				ln.Close()
			}
			return err
		}},
		{"become root", "user-namespace, capabilities", func(target) error { return sys(unix.SYS_SETRESUID, 0, 0, 0) }},
		{"gain privileges from a set-id program", "no-new-privileges, mount flags", func(target) error {
			var st unix.Statfs_t
			if err := unix.Statfs("/usr", &st); err != nil {
				return err
			}
			return when(st.Flags&unix.ST_NOSUID == 0, "mounted nosuid")
		}},
		{"dump core", "rlimits", func(target) error {
			var l unix.Rlimit
			_ = unix.Getrlimit(unix.RLIMIT_CORE, &l)
			return when(l.Max > 0, "limit is 0")
		}},
		{"have no limit on processes", "rlimits", func(target) error {
			var l unix.Rlimit
			_ = unix.Getrlimit(unix.RLIMIT_NPROC, &l)
			return when(l.Max > 512, "limit is "+strconv.FormatUint(l.Max, 10))
		}},
		{"fill the host's memory through /tmp", "tmpfs size", func(target) error {
			var st unix.Statfs_t
			if err := unix.Statfs("/tmp", &st); err != nil {
				return err
			}
			return when(st.Blocks*uint64(st.Bsize) > 256<<20, "limited")
		}},
		{"be in a namespace of the host", "namespaces", func(t target) error {
			for k, host := range t.Namespaces {
				if mine, err := os.Readlink("/proc/self/ns/" + k); err == nil && mine == host {
					return nil
				}
			}
			return errors.New("all differ")
		}},
		{"have a controlling terminal", "session", func(target) error { return write("/dev/tty") }},
		{"leave a set-id file in the workspace", "seccomp", func(target) error {
			if err := os.WriteFile("/sandbox/tool", nil, 0o755); err != nil {
				return err
			}
			return unix.Chmod("/sandbox/tool", 0o4755)
		}},
		{"leave a device in the workspace", "seccomp", func(target) error {
			if err := os.WriteFile("/sandbox/plain", nil, 0o644); err != nil {
				return err
			}
			return unix.Renameat2(unix.AT_FDCWD, "/sandbox/plain", unix.AT_FDCWD, "/sandbox/renamed", unix.RENAME_WHITEOUT)
		}},
		{"make the host wait for a file of the workspace", "seccomp", func(target) error {
			f, err := os.Create("/sandbox/leased")
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
			return err
		}},
		{"make a set-id file at once", "seccomp", func(target) error {
			fd, err := unix.Open("/sandbox/tool2", unix.O_CREAT|unix.O_WRONLY, 0o6755)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}},
	}
}

func dial(network, addr string) error {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// greeting succeeds when the host's own server answers.
func greeting(network, addr string) error {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	var b [16]byte
	n, err := c.Read(b[:])
	if err != nil {
		return err
	}
	return when(string(b[:n]) == "host", "somebody else answered")
}

// refused is for system calls that must fail in the filter and nowhere else:
// a call that gets through to the kernel, and fails there, counts as open.
func refused(want syscall.Errno, nr uintptr, args ...uintptr) func(target) error {
	return func(target) error {
		err := sys(nr, args...)
		if err == want {
			return err
		}
		return nil
	}
}
