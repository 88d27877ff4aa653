//go:build linux && (amd64 || arm64)

package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// surfaceProbes try what the system call filter keeps away from the kernel.
func surfaceProbes() []probe {
	const bad = ^uintptr(0) // no such descriptor, no such address
	eperm := func(name string, nr uintptr, args ...uintptr) probe {
		return probe{name, "seccomp", refused(unix.EPERM, nr, args...)}
	}
	enosys := func(name string, nr uintptr, args ...uintptr) probe {
		return probe{name, "seccomp", refused(unix.ENOSYS, nr, args...)}
	}
	socket := func(name string, family, kind, proto uintptr) probe {
		return eperm("socket: "+name, unix.SYS_SOCKET, family, kind, proto)
	}
	probes := []probe{
		eperm("unshare: user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		eperm("unshare: network namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNET),
		eperm("unshare: time namespace", unix.SYS_UNSHARE, 0x80),
		eperm("clone: user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)),
		eperm("clone: pid namespace", unix.SYS_CLONE, unix.CLONE_NEWPID|uintptr(unix.SIGCHLD)),
		enosys("clone3", unix.SYS_CLONE3, 0, 0),
		eperm("setns", unix.SYS_SETNS, bad, 0),
		eperm("mount", unix.SYS_MOUNT, str("none"), str("/tmp"), str("tmpfs"), 0, 0),
		eperm("umount2", unix.SYS_UMOUNT2, str("/proc"), 0),
		eperm("pivot_root", unix.SYS_PIVOT_ROOT, str("/tmp"), str("/tmp")),
		eperm("chroot", unix.SYS_CHROOT, str("/tmp")),
		eperm("fsopen", unix.SYS_FSOPEN, str("tmpfs"), 0),
		eperm("fsmount", unix.SYS_FSMOUNT, bad, 0, 0),
		eperm("fsconfig", unix.SYS_FSCONFIG, bad, 0, 0, 0, 0),
		eperm("fspick", unix.SYS_FSPICK, bad, 0, 0),
		eperm("open_tree", unix.SYS_OPEN_TREE, bad, 0, 0),
		eperm("move_mount", unix.SYS_MOVE_MOUNT, bad, 0, bad, 0, 0),
		eperm("mount_setattr", unix.SYS_MOUNT_SETATTR, bad, 0, 0, 0, 0),
		enosys("open_tree_attr", unix.SYS_OPEN_TREE_ATTR, bad, 0, 0, 0, 0),
		eperm("statmount", unix.SYS_STATMOUNT, 0, 0, 0, 0),
		eperm("listmount", unix.SYS_LISTMOUNT, 0, 0, 0, 0),
		eperm("ptrace", unix.SYS_PTRACE, unix.PTRACE_TRACEME),
		eperm("process_vm_readv", unix.SYS_PROCESS_VM_READV, 1, 0, 0, 0, 0, 0),
		eperm("process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, 1, 0, 0, 0, 0, 0),
		eperm("process_madvise", unix.SYS_PROCESS_MADVISE, bad, 0, 0, 0, 0),
		eperm("pidfd_getfd", unix.SYS_PIDFD_GETFD, bad, 0, 0),
		eperm("kcmp", unix.SYS_KCMP, 1, 1, 0, 0, 0),
		eperm("bpf", unix.SYS_BPF, 0, 0, 0),
		eperm("perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0, 0, bad, bad, 0),
		eperm("userfaultfd", unix.SYS_USERFAULTFD, 1),
		enosys("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, 0),
		enosys("io_uring_enter", unix.SYS_IO_URING_ENTER, bad, 0, 0, 0, 0, 0),
		enosys("io_uring_register", unix.SYS_IO_URING_REGISTER, bad, 0, 0, 0),
		eperm("add_key", unix.SYS_ADD_KEY, str("user"), str("k"), str("v"), 1, bad-2),
		eperm("request_key", unix.SYS_REQUEST_KEY, str("user"), str("k"), 0, 0),
		eperm("keyctl: session to parent", unix.SYS_KEYCTL, unix.KEYCTL_SESSION_TO_PARENT),
		eperm("keyctl: join a session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0),
		eperm("personality", unix.SYS_PERSONALITY, 0x0040000),
		eperm("syslog", unix.SYS_SYSLOG, 3, 0, 0),
		eperm("init_module", unix.SYS_INIT_MODULE, 0, 0, 0),
		eperm("finit_module", unix.SYS_FINIT_MODULE, bad, 0, 0),
		eperm("delete_module", unix.SYS_DELETE_MODULE, str("none"), 0),
		eperm("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		eperm("kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, bad, bad, 0, 0, 0),
		eperm("reboot", unix.SYS_REBOOT, 0, 0, 0, 0),
		eperm("swapon", unix.SYS_SWAPON, 0, 0),
		eperm("swapoff", unix.SYS_SWAPOFF, 0),
		eperm("acct", unix.SYS_ACCT, 1),
		eperm("clock_settime", unix.SYS_CLOCK_SETTIME, bad, 0),
		eperm("clock_adjtime", unix.SYS_CLOCK_ADJTIME, bad, 0),
		eperm("adjtimex", unix.SYS_ADJTIMEX, 0),
		eperm("settimeofday", unix.SYS_SETTIMEOFDAY, 1, 0),
		eperm("sethostname", unix.SYS_SETHOSTNAME, str("x"), 1),
		eperm("setdomainname", unix.SYS_SETDOMAINNAME, str("x"), 1),
		eperm("fanotify_init", unix.SYS_FANOTIFY_INIT, bad, 0),
		eperm("fanotify_mark", unix.SYS_FANOTIFY_MARK, bad, 0, 0, 0, 0),
		eperm("name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, bad, 0, 0, 0, 0),
		eperm("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, bad, 0, 0),
		eperm("quotactl", unix.SYS_QUOTACTL, bad, 0, 0, 0),
		eperm("quotactl_fd", unix.SYS_QUOTACTL_FD, bad, 0, 0, 0),
		eperm("lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, 0, 0, 0),
		eperm("move_pages", unix.SYS_MOVE_PAGES, 0, 0, 0, 0, 0, 0),
		eperm("migrate_pages", unix.SYS_MIGRATE_PAGES, 0, 0, 0, 0),
		eperm("mbind", unix.SYS_MBIND, 0, 0, 0, 0, 0, 0),
		eperm("get_mempolicy", unix.SYS_GET_MEMPOLICY, 0, 0, 0, 0, 0),
		eperm("set_mempolicy", unix.SYS_SET_MEMPOLICY, 0, 0, 0),
		eperm("memfd_secret", unix.SYS_MEMFD_SECRET, 0),
		eperm("vhangup", unix.SYS_VHANGUP),
		eperm("remap_file_pages", unix.SYS_REMAP_FILE_PAGES, 0, 0, 0, 0, 0),
		enosys("openat2", unix.SYS_OPENAT2, bad, str("/tmp"), 0, 0),
		enosys("a call from the future", 900),
		eperm("seccomp: listener", unix.SYS_SECCOMP, 1, 8, 0),
		eperm("prctl: PR_SET_MM", unix.SYS_PRCTL, unix.PR_SET_MM, 0, 0, 0, 0),
		eperm("ioctl: TIOCSTI", unix.SYS_IOCTL, bad, unix.TIOCSTI, 0),
		eperm("ioctl: TIOCSTI with high bits", unix.SYS_IOCTL, bad, 1<<32|unix.TIOCSTI, 0),
		eperm("ioctl: TIOCLINUX", unix.SYS_IOCTL, bad, 0x541c, 0),
		eperm("ioctl: TIOCSETD", unix.SYS_IOCTL, bad, unix.TIOCSETD, 0),
		eperm("ioctl: TIOCCONS", unix.SYS_IOCTL, bad, 0x541d, 0),
		eperm("fchmod: set-id", unix.SYS_FCHMOD, bad, 0o4755),
		eperm("fchmodat: set-id", unix.SYS_FCHMODAT, bad, 0, 0o2755),
		eperm("fchmodat2: set-id", unix.SYS_FCHMODAT2, bad, 0, 0o4755, 0),
		eperm("openat: set-id", unix.SYS_OPENAT, bad, 0, unix.O_CREAT, 0o4755),
		eperm("openat: set-id temporary file", unix.SYS_OPENAT, bad, 0, unix.O_TMPFILE|unix.O_WRONLY, 0o4755),
		eperm("mkdirat: set-id", unix.SYS_MKDIRAT, bad, 0, 0o2755),
		eperm("mknodat: set-id", unix.SYS_MKNODAT, bad, 0, 0o104755, 0),
		socket("raw IPv4", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		socket("raw IPv6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
		socket("ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP),
		socket("MPTCP", unix.AF_INET6, unix.SOCK_STREAM, 262),
		socket("SCTP", unix.AF_INET, unix.SOCK_SEQPACKET, 132),
		socket("packet", unix.AF_PACKET, unix.SOCK_RAW, 0),
		socket("vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		socket("alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		socket("bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, 1),
		socket("can", unix.AF_CAN, unix.SOCK_RAW, 1),
		socket("tipc", unix.AF_TIPC, unix.SOCK_RDM, 0),
		socket("rds", unix.AF_RDS, unix.SOCK_SEQPACKET, 0),
		socket("xdp", unix.AF_XDP, unix.SOCK_RAW, 0),
		socket("kcm", unix.AF_KCM, unix.SOCK_DGRAM, 0),
		socket("key", unix.AF_KEY, unix.SOCK_RAW, 2),
		socket("netlink: netfilter", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER),
		socket("netlink: sock_diag", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_INET_DIAG),
		socket("netlink: kobject events", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT),
		socket("netlink: audit", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
		eperm("socketpair: IPv4", unix.SYS_SOCKETPAIR, unix.AF_INET, unix.SOCK_STREAM, 0, 0),
		{"raise the own priority", "capabilities", func(target) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) }},
		{"read kernel addresses", "user-namespace", func(target) error {
			b, err := os.ReadFile("/proc/kallsyms")
			if err != nil {
				return err
			}
			return when(len(b) > 16 && string(b[:16]) != "0000000000000000", "all zero")
		}},
	}
	if runtime.GOARCH == "amd64" {
		probes = append(probes,
			probe{"the x32 numbers", "seccomp", refused(unix.ENOSYS, 1<<30|unix.SYS_GETPID)},
			probe{"the i386 numbers", "seccomp", func(target) error { return int80(20) }},
			eperm("modify_ldt", 154, 0, 0, 0),
			eperm("iopl", 172, 3),
			eperm("ioperm", 173, 0, 1, 1),
			eperm("uselib", 134, 0),
			eperm("sysfs", 139, 3),
			eperm("ustat", 136, 0, 0),
			eperm("chmod: set-id", 90, str("/tmp"), 0o6755),
			eperm("creat: set-id", 85, str("/tmp/x"), 0o4755),
			eperm("open: set-id", 2, str("/tmp/x"), unix.O_CREAT, 0o4755),
			eperm("mkdir: set-id", 83, str("/tmp/y"), 0o2755),
			eperm("mknod: set-id", 133, str("/tmp/z"), 0o104755, 0),
		)
	}
	return probes
}

// int80 makes a call of the 32-bit instruction set, from code that it writes
// for the purpose. It returns the call's error, or nil. A kernel that was built
// without that set faults, which [attempt] reports as blocked.
func int80(nr byte) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("no executable memory: %w", err)
	}
	// mov eax, nr; int 0x80; movsxd rax, eax; ret
	copy(code, []byte{0xb8, nr, 0, 0, 0, 0xcd, 0x80, 0x48, 0x63, 0xc0, 0xc3})
	entry := uintptr(unsafe.Pointer(&code[0]))
	fn := &entry
	r := (*(*func() int)(unsafe.Pointer(&fn)))()
	if r < 0 {
		return syscall.Errno(-r)
	}
	return nil
}
