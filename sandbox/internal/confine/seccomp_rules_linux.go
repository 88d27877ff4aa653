//go:build linux && (amd64 || arm64)

package confine

import (
	"slices"

	"golang.org/x/sys/unix"
)

const (
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	newTime    = 0x80 // CLONE_NEWTIME; in clone(2) these bits are the exit signal
	setID      = unix.S_ISUID | unix.S_ISGID
	creates    = unix.O_CREAT | 0x400000 // and __O_TMPFILE
)

// A callRule is a call that is allowed when it passes all tests.
type callRule struct {
	number uintptr
	tests  []test
	// attack says that no honest program fails the tests: the host wants to know.
	attack bool
}

// commonRules are the calls that both architectures have and that depend on
// their arguments. socket is apart: its arguments depend on each other.
var commonRules = []callRule{
	{unix.SYS_CLONE, []test{anyBit(0, namespaces)}, true},
	{unix.SYS_UNSHARE, []test{anyBit(0, namespaces|newTime)}, true},
	{unix.SYS_SOCKETPAIR, []test{oneOf(0, ^uint32(0), unix.AF_UNIX)}, false},
	// Typing into the terminal, Linux consoles, line disciplines, taking the console.
	{unix.SYS_IOCTL, []test{noneOf(1, unix.TIOCSTI, 0x541c, unix.TIOCSETD, 0x541d)}, true},
	{unix.SYS_PRCTL, []test{oneOf(0, ^uint32(0), prctls...)}, false},
	{unix.SYS_SECCOMP, []test{anyBit(1, seccompNewListener)}, true},
	{unix.SYS_PERSONALITY, []test{oneOf(0, ^uint32(0), 0, 0xffffffff)}, false},
	// Of the caller only: init has the room's user, and could be left without
	// descriptors, or without the time to live.
	{unix.SYS_PRLIMIT64, []test{oneOf(0, ^uint32(0), 0)}, false},
	{unix.SYS_FCHMOD, []test{anyBit(1, setID)}, false},
	{unix.SYS_FCHMODAT, []test{anyBit(2, setID)}, false},
	{unix.SYS_FCHMODAT2, []test{anyBit(2, setID)}, false},
	{unix.SYS_OPENAT, []test{createMode(2, 3)}, false},
	{unix.SYS_MKDIRAT, []test{anyBit(2, setID)}, false},
	{unix.SYS_MKNODAT, nodeTests(2), false},
	// A lease or a delegation on a file of the workspace makes the host wait
	// when it opens it.
	{unix.SYS_FCNTL, []test{noneOf(1, unix.F_SETLEASE, setDelegation)}, false},
	// It leaves a character device behind, and Landlock does not ask about that one.
	{unix.SYS_RENAMEAT2, []test{anyBit(4, unix.RENAME_WHITEOUT)}, false},
	// TCP fast open connects without connect(2), where Landlock looks.
	{unix.SYS_SENDTO, []test{anyBit(3, unix.MSG_FASTOPEN)}, false},
	{unix.SYS_SENDMSG, []test{anyBit(2, unix.MSG_FASTOPEN)}, false},
	{unix.SYS_SENDMMSG, []test{anyBit(3, unix.MSG_FASTOPEN)}, false},
}

// setDelegation is F_SETDELEG of Linux 6.19.
const setDelegation = 1024 + 16

// nodeTests allow mknod to make FIFOs, sockets and files. A device takes a
// capability, but for the whiteout, which is device 0:0.
func nodeTests(mode int) []test {
	return []test{anyBit(mode, setID), {arg: mode, mask: unix.S_IFMT, values: []uint32{unix.S_IFCHR, unix.S_IFBLK}}}
}

// prctls are the options of prctl that concern nobody but the caller. Absent
// are, among others, moving the heap, secure bits, core scheduling, machine
// checks, IO flushing and performance events.
var prctls = []uint32{
	unix.PR_SET_PDEATHSIG, unix.PR_GET_PDEATHSIG, unix.PR_GET_DUMPABLE, unix.PR_SET_DUMPABLE, unix.PR_GET_KEEPCAPS, unix.PR_SET_KEEPCAPS,
	unix.PR_GET_TIMING, unix.PR_SET_TIMING, unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_GET_SECCOMP, unix.PR_SET_SECCOMP,
	unix.PR_CAPBSET_READ, unix.PR_CAPBSET_DROP, unix.PR_GET_TSC, unix.PR_SET_TSC, unix.PR_GET_SECUREBITS,
	unix.PR_SET_TIMERSLACK, unix.PR_GET_TIMERSLACK, unix.PR_SET_CHILD_SUBREAPER, unix.PR_GET_CHILD_SUBREAPER,
	unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_TID_ADDRESS, unix.PR_SET_THP_DISABLE, unix.PR_GET_THP_DISABLE,
	unix.PR_CAP_AMBIENT, unix.PR_SVE_SET_VL, unix.PR_SVE_GET_VL, unix.PR_GET_SPECULATION_CTRL, unix.PR_SET_SPECULATION_CTRL,
	unix.PR_PAC_RESET_KEYS, unix.PR_SET_TAGGED_ADDR_CTRL, unix.PR_GET_TAGGED_ADDR_CTRL, unix.PR_SET_SYSCALL_USER_DISPATCH,
	unix.PR_PAC_SET_ENABLED_KEYS, unix.PR_PAC_GET_ENABLED_KEYS, unix.PR_SME_SET_VL, unix.PR_SME_GET_VL, unix.PR_SET_MDWE, unix.PR_GET_MDWE,
	unix.PR_SET_MEMORY_MERGE, unix.PR_GET_MEMORY_MERGE, unix.PR_GET_SHADOW_STACK_STATUS, unix.PR_SET_SHADOW_STACK_STATUS, unix.PR_LOCK_SHADOW_STACK_STATUS,
	unix.PR_SET_VMA, unix.PR_SET_PTRACER,
}

// fileRules hold where files that were written inside may not be run: a memory
// file must be one that can never be a program (a kernel that does not know such
// files refuses the flag), and a program is named by a path, which the mounts
// and Landlock judge.
var fileRules = []callRule{
	{unix.SYS_MEMFD_CREATE, []test{oneOf(1, unix.MFD_NOEXEC_SEAL|unix.MFD_EXEC, unix.MFD_NOEXEC_SEAL)}, false},
	{unix.SYS_EXECVEAT, []test{anyBit(4, unix.AT_EMPTY_PATH)}, false},
}

// strictRules hold besides where memory that could be written may not become
// code either. A memory file, however sealed, can be mapped as code, so there is
// none. (Whoever writes to his own code through /proc/self/mem meets Landlock.)
var strictRules = []callRule{
	{unix.SYS_MMAP, []test{
		{arg: 2, mask: unix.PROT_WRITE | unix.PROT_EXEC, values: []uint32{unix.PROT_WRITE | unix.PROT_EXEC}},
		{arg: 2, mask: unix.PROT_EXEC, values: []uint32{unix.PROT_EXEC}, onlyArg: 3, onlyMask: unix.MAP_ANONYMOUS},
	}, false},
	{unix.SYS_MPROTECT, []test{anyBit(2, unix.PROT_EXEC)}, false},
	{unix.SYS_PKEY_MPROTECT, []test{anyBit(2, unix.PROT_EXEC)}, false},
	{unix.SYS_SHMAT, []test{anyBit(2, shmExec)}, false},
}

// shmExec is SHM_EXEC.
const shmExec = 0o100000

// sharedCalls are refused in a room that shares the host's namespaces: System V
// IPC and message queues would be the host's own, and so would a server's port.
var sharedCalls = []uintptr{
	unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT, unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_SEMCTL,
	unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV, unix.SYS_MSGCTL,
	unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK, unix.SYS_MQ_TIMEDSEND, unix.SYS_MQ_TIMEDRECEIVE, unix.SYS_MQ_NOTIFY, unix.SYS_MQ_GETSETATTR,
	unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_SETPRIORITY, unix.SYS_IOPRIO_SET,
	unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETATTR,
	// Landlock says nothing of owners, old ways to set times, and who watches what
	// happens in a folder.
	unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_INOTIFY_ADD_WATCH,
}

// sharedRules hold in such a room: the processors of other processes of the same
// user are not the room's.
var sharedRules = []callRule{
	{unix.SYS_SCHED_SETAFFINITY, []test{oneOf(0, ^uint32(0), 0)}, false},
}

// connected are the tests of Unix sockets in such a room: one of datagrams could
// send to any socket of the host. (SOCK_RAW is another name for that.)
var connected = []test{oneOf(1, 0xf, unix.SOCK_STREAM, unix.SOCK_SEQPACKET)}

// attributeCalls are put to the host there: Landlock would let a program change
// mode and times of any file that its user may write to or owns.
var attributeCalls = append([]uintptr{unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_UTIMENSAT}, archAttributeCalls...)

// xattrCalls are answered there as if no file system had such attributes.
var xattrCalls = []uintptr{
	unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_FGETXATTR,
	unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_FLISTXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR,
}

// attacks are calls that no honest program makes inside. They are refused like
// all that is on no list; the host is told.
var attacks = []uintptr{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR, unix.SYS_SETNS,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PIDFD_GETFD,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}

// newest is the highest call number that the lists were written with.
const newest = 462

// missing answers ENOSYS although the number is known.
var missing = []uintptr{
	unix.SYS_CLONE3, unix.SYS_OPENAT2,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
}

// rulesOf returns the calls that depend on their arguments.
func rulesOf(k filterKind) []callRule {
	all := slices.Concat(commonRules, archRules)
	if k.files || k.strict {
		all = append(all, fileRules...)
	}
	if k.strict {
		all = append(all, strictRules...)
	}
	if k.shared {
		all = append(all, sharedRules...)
		for i := range all {
			if all[i].number == unix.SYS_SOCKETPAIR {
				all[i].tests = slices.Concat(all[i].tests, connected)
			}
		}
	}
	return slices.DeleteFunc(all, func(r callRule) bool { return k.refuses(r.number) })
}

// refuses reports whether this variant refuses a call that others allow.
func (k filterKind) refuses(nr uintptr) bool {
	return k.strict && nr == unix.SYS_MEMFD_CREATE ||
		k.shared && (slices.Contains(sharedCalls, nr) || slices.Contains(archSharedCalls, nr) || slices.Contains(xattrCalls, nr))
}

// callsOf returns the calls that are allowed whatever their arguments.
func callsOf(k filterKind) []uintptr {
	rules := rulesOf(k)
	return slices.DeleteFunc(slices.Concat(commonCalls, archCalls), func(nr uintptr) bool {
		return k.refuses(nr) || k.asks(nr) || slices.ContainsFunc(rules, func(r callRule) bool { return r.number == nr })
	})
}
