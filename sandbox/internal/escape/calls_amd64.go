//go:build linux

package escape

import "golang.org/x/sys/unix"

// archCalls are those of amd64 alone. uprobe and uretprobe are missing: no
// filter is asked about them, and the kernel answers with a signal.
var archCalls = []call{
	{"afs_syscall", unix.SYS_AFS_SYSCALL}, {"create_module", unix.SYS_CREATE_MODULE}, {"epoll_ctl_old", unix.SYS_EPOLL_CTL_OLD},
	{"epoll_wait_old", unix.SYS_EPOLL_WAIT_OLD}, {"getpmsg", unix.SYS_GETPMSG}, {"get_kernel_syms", unix.SYS_GET_KERNEL_SYMS},
	{"get_thread_area", unix.SYS_GET_THREAD_AREA}, {"ioperm", unix.SYS_IOPERM}, {"iopl", unix.SYS_IOPL}, {"modify_ldt", unix.SYS_MODIFY_LDT},
	{"putpmsg", unix.SYS_PUTPMSG}, {"query_module", unix.SYS_QUERY_MODULE}, {"security", unix.SYS_SECURITY},
	{"set_thread_area", unix.SYS_SET_THREAD_AREA}, {"sysfs", unix.SYS_SYSFS}, {"tuxcall", unix.SYS_TUXCALL}, {"uselib", unix.SYS_USELIB},
	{"ustat", unix.SYS_USTAT}, {"vserver", unix.SYS_VSERVER}, {"_sysctl", unix.SYS__SYSCTL},
}
