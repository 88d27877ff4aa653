package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// archCalls are what glibc and old programs still use besides the common ones.
var archCalls = []uintptr{
	unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_POLL, unix.SYS_ACCESS, unix.SYS_PIPE, unix.SYS_SELECT, unix.SYS_DUP2, unix.SYS_PAUSE, unix.SYS_ALARM, unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_GETDENTS,
	unix.SYS_RENAME, unix.SYS_RMDIR, unix.SYS_LINK, unix.SYS_UNLINK, unix.SYS_SYMLINK, unix.SYS_READLINK, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_GETPGRP, unix.SYS_UTIME, unix.SYS_UTIMES, unix.SYS_FUTIMESAT,
	unix.SYS_TIME, unix.SYS_EPOLL_CREATE, unix.SYS_EPOLL_WAIT, unix.SYS_INOTIFY_INIT, unix.SYS_SIGNALFD, unix.SYS_EVENTFD, unix.SYS_ARCH_PRCTL,
}

var archRules = []callRule{
	{unix.SYS_OPEN, []test{createMode(1, 2)}, false},
	{unix.SYS_CREAT, []test{anyBit(1, setID)}, false},
	{unix.SYS_CHMOD, []test{anyBit(1, setID)}, false},
	{unix.SYS_MKDIR, []test{anyBit(1, setID)}, false},
	{unix.SYS_MKNOD, nodeTests(1), false},
}

var archAttacks = []uintptr{unix.SYS_IOPL, unix.SYS_IOPERM}

// See attributeCalls and sharedCalls.
var (
	archAttributeCalls = []uintptr{unix.SYS_CHMOD}
	archSharedCalls    = []uintptr{unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_UTIME, unix.SYS_UTIMES, unix.SYS_FUTIMESAT}
)
