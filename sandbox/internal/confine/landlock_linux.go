//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock repeats what the mounts already say, in a mechanism that has nothing
// in common with them. Network rights are left to the network namespace: a port
// allow-list would have to name every port on which the workload's own servers
// may listen. A room without namespaces has no such right at all.

const (
	accessRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	accessWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	accessFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	accessDev = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	accessTTY = accessDev | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV | unix.LANDLOCK_ACCESS_FS_READ_DIR
)

// landlockABI returns the kernel's Landlock version, or an error that says that
// there is none.
func landlockABI() (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return int(v), nil
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return 0, fmt.Errorf("%w: the kernel has no Landlock or it is not in its lsm= list", errno)
	}
	return 0, errno
}

// handledFS is every file system right that a Landlock version knows.
func handledFS(abi int) uint64 {
	all := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1) - 1 // version 1: thirteen rights
	if abi >= 2 {
		all |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		all |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		all |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 9 {
		// Granted nowhere: sockets that the room's own programs have made are
		// always open to them, those of the host's services never.
		all |= unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
	}
	return all
}

// minLandlock is the first version that governs truncation. With less, a file
// that may only be read could be emptied, so less counts as absent.
const minLandlock = 3

// usableLandlock returns the kernel's version, if it is minLandlock at least.
func usableLandlock() (int, error) {
	abi, err := landlockABI()
	if err == nil && abi < minLandlock {
		err = oldLandlock(abi, minLandlock, "governs truncation")
	}
	return abi, err
}

// A rule grants rights beneath one path.
type rule struct {
	path   string
	access uint64
	id     *fileID // when it must be this file and no other
}

// landlockRules returns what the workload may do, path by path. In a strict room
// nothing beneath a writable path may be run, and where programs are listed,
// nothing else.
func landlockRules(s *Spec, targets map[string]bool) []rule {
	read, write := uint64(accessRead), uint64(accessRead|accessWrite)
	if s.noNewPrograms() {
		write &^= unix.LANDLOCK_ACCESS_FS_EXECUTE
	}
	if s.Programs != nil {
		read &^= unix.LANDLOCK_ACCESS_FS_EXECUTE
	}
	rules := []rule{
		// The names in the room's own root are no secret; what is in files is.
		{path: "/", access: unix.LANDLOCK_ACCESS_FS_READ_DIR},
		{path: "/etc", access: read}, {path: "/proc", access: unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR},
		{path: "/tmp", access: write}, {path: "/dev/shm", access: write}, {path: Home, access: write},
		{path: "/dev/pts", access: accessTTY},
	}
	for _, d := range devices {
		access := uint64(accessDev)
		if d == "tty" {
			access = accessTTY
		}
		rules = append(rules, rule{path: "/dev/" + d, access: access})
	}
	for _, d := range s.Devices {
		rules = append(rules, rule{path: "/dev/" + d, access: accessDev | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV})
	}
	if s.GPU && !s.ExecStrict {
		// CUDA names its threads by way of /proc. The knobs stay read-only mounts.
		rules = append(rules, rule{path: "/proc", access: unix.LANDLOCK_ACCESS_FS_WRITE_FILE})
	}
	if s.Self {
		rules = append(rules, rule{path: SelfPath, access: read})
	}
	for target, writable := range targets {
		access := read
		if writable {
			access = write
		}
		if !writable && beneath(target, "/etc") { // which says so already
			continue
		}
		rules = append(rules, rule{path: target, access: access})
	}
	return rules
}

// landlockAttr returns what a ruleset of a version handles, and how much of the
// structure that version knows. Later versions take the same.
func landlockAttr(abi int) (attr unix.LandlockRulesetAttr, size uintptr) {
	attr.Handled_access_fs = handledFS(abi)
	if abi < 6 {
		return attr, 8
	}
	attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	return attr, 24
}

// landlockFlags says which denials are for the audit log: none of init, which
// tries its own wall, and those of commands only when asked for.
func landlockFlags(abi int, log bool) uintptr {
	if abi < minLandlockLog {
		return 0
	}
	flags := uintptr(unix.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF)
	if log {
		flags |= unix.LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON
	}
	return flags
}

// newRuleset makes a ruleset and returns its descriptor, to be closed. It is in
// force for a thread that calls restrictSelf with it, and for what that starts.
func newRuleset(rules []rule, attr unix.LandlockRulesetAttr, size uintptr) (int, error) {
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return -1, fmt.Errorf("create ruleset: %w", errno)
	}
	for _, r := range rules {
		if err := addRule(int(set), r, attr.Handled_access_fs); err != nil {
			unix.Close(int(set))
			return -1, fmt.Errorf("rule for %s: %w", r.path, err)
		}
	}
	return int(set), nil
}

func restrictSelf(set int, flags uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(set), flags, 0); errno != 0 {
		return fmt.Errorf("restrict self: %w", errno)
	}
	return nil
}

// landlockRestrict puts the calling thread into a Landlock domain. It returns
// the version that is in force. With log, denials are for the audit log.
func landlockRestrict(rules []rule, log bool) (int, error) {
	abi, err := usableLandlock()
	if err != nil {
		return 0, err
	}
	attr, size := landlockAttr(abi)
	set, err := newRuleset(rules, attr, size)
	if err != nil {
		return 0, err
	}
	defer unix.Close(set)
	return abi, restrictSelf(set, landlockFlags(abi, log))
}

func addRule(set int, r rule, handled uint64) error {
	fd, err := unix.Open(r.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && r.id == nil {
		return nil // nothing there, nothing to grant
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	id, st, err := identify(fd)
	if err != nil {
		return err
	}
	if r.id != nil && id != *r.id {
		return errReplaced
	}
	access := r.access & handled
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= accessFile
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
