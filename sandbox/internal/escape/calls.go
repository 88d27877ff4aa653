//go:build linux && (amd64 || arm64)

package escape

import "golang.org/x/sys/unix"

// A call is a system call that no program inside may make, whatever its
// arguments.
type call struct {
	name   string
	number uintptr
}

// deniedCalls are those of both architectures.
var deniedCalls = []call{
	{"acct", unix.SYS_ACCT}, {"add_key", unix.SYS_ADD_KEY}, {"adjtimex", unix.SYS_ADJTIMEX}, {"bpf", unix.SYS_BPF}, {"chroot", unix.SYS_CHROOT},
	{"clock_adjtime", unix.SYS_CLOCK_ADJTIME}, {"clock_settime", unix.SYS_CLOCK_SETTIME}, {"clone3", unix.SYS_CLONE3},
	{"delete_module", unix.SYS_DELETE_MODULE}, {"fanotify_init", unix.SYS_FANOTIFY_INIT}, {"fanotify_mark", unix.SYS_FANOTIFY_MARK},
	{"file_getattr", unix.SYS_FILE_GETATTR}, {"file_setattr", unix.SYS_FILE_SETATTR}, {"finit_module", unix.SYS_FINIT_MODULE},
	{"fsconfig", unix.SYS_FSCONFIG}, {"fsmount", unix.SYS_FSMOUNT}, {"fsopen", unix.SYS_FSOPEN}, {"fspick", unix.SYS_FSPICK},
	{"getxattrat", unix.SYS_GETXATTRAT}, {"get_mempolicy", unix.SYS_GET_MEMPOLICY}, {"init_module", unix.SYS_INIT_MODULE},
	{"io_uring_enter", unix.SYS_IO_URING_ENTER}, {"io_uring_register", unix.SYS_IO_URING_REGISTER}, {"io_uring_setup", unix.SYS_IO_URING_SETUP},
	{"kcmp", unix.SYS_KCMP}, {"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD}, {"kexec_load", unix.SYS_KEXEC_LOAD}, {"keyctl", unix.SYS_KEYCTL},
	{"listmount", unix.SYS_LISTMOUNT}, {"listns", unix.SYS_LISTNS}, {"listxattrat", unix.SYS_LISTXATTRAT}, {"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE},
	{"lsm_get_self_attr", unix.SYS_LSM_GET_SELF_ATTR}, {"lsm_list_modules", unix.SYS_LSM_LIST_MODULES},
	{"lsm_set_self_attr", unix.SYS_LSM_SET_SELF_ATTR}, {"mbind", unix.SYS_MBIND}, {"memfd_secret", unix.SYS_MEMFD_SECRET},
	{"migrate_pages", unix.SYS_MIGRATE_PAGES}, {"mount", unix.SYS_MOUNT}, {"mount_setattr", unix.SYS_MOUNT_SETATTR}, {"move_mount", unix.SYS_MOVE_MOUNT},
	{"move_pages", unix.SYS_MOVE_PAGES}, {"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT}, {"nfsservctl", unix.SYS_NFSSERVCTL},
	{"openat2", unix.SYS_OPENAT2}, {"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT}, {"open_tree", unix.SYS_OPEN_TREE},
	{"open_tree_attr", unix.SYS_OPEN_TREE_ATTR}, {"perf_event_open", unix.SYS_PERF_EVENT_OPEN}, {"pidfd_getfd", unix.SYS_PIDFD_GETFD},
	{"pivot_root", unix.SYS_PIVOT_ROOT}, {"process_madvise", unix.SYS_PROCESS_MADVISE}, {"process_mrelease", unix.SYS_PROCESS_MRELEASE},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV}, {"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV}, {"ptrace", unix.SYS_PTRACE},
	{"quotactl", unix.SYS_QUOTACTL}, {"quotactl_fd", unix.SYS_QUOTACTL_FD}, {"reboot", unix.SYS_REBOOT}, {"remap_file_pages", unix.SYS_REMAP_FILE_PAGES},
	{"removexattrat", unix.SYS_REMOVEXATTRAT}, {"request_key", unix.SYS_REQUEST_KEY}, {"rseq_slice_yield", unix.SYS_RSEQ_SLICE_YIELD},
	{"setdomainname", unix.SYS_SETDOMAINNAME}, {"sethostname", unix.SYS_SETHOSTNAME}, {"setns", unix.SYS_SETNS}, {"settimeofday", unix.SYS_SETTIMEOFDAY},
	{"setxattrat", unix.SYS_SETXATTRAT}, {"set_mempolicy", unix.SYS_SET_MEMPOLICY}, {"set_mempolicy_home_node", unix.SYS_SET_MEMPOLICY_HOME_NODE},
	{"statmount", unix.SYS_STATMOUNT}, {"swapoff", unix.SYS_SWAPOFF}, {"swapon", unix.SYS_SWAPON}, {"syslog", unix.SYS_SYSLOG},
	{"umount2", unix.SYS_UMOUNT2}, {"userfaultfd", unix.SYS_USERFAULTFD}, {"vhangup", unix.SYS_VHANGUP},
}

// callProbes make each denied call with arguments that are valid nowhere, so
// that a kernel that is reached refuses them too, for another reason.
func callProbes() []Probe {
	var probes []Probe
	for _, c := range append(deniedCalls[:len(deniedCalls):len(deniedCalls)], archCalls...) {
		probes = append(probes, Probe{
			Name: c.name, Group: Calls, How: "system call with bad arguments", Stops: []string{seccomp},
			try: refused(c.number, bad, bad, bad, bad, bad, bad),
		})
	}
	for _, c := range []call{{"a call from the near future", 500}, {"a call from the far future", 100_000}, {"a call with a negative number", ^uintptr(0) - 100}} {
		probes = append(probes, Probe{
			Name: c.name, Group: Calls, How: "system call that no kernel knows yet", Stops: []string{seccomp},
			try: refused(c.number, bad, bad, bad, bad, bad, bad),
		})
	}
	return probes
}
