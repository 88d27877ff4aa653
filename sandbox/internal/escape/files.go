//go:build linux && (amd64 || arm64)

package escape

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What stops a probe, where it is one of these.
const (
	mountNS  = "mount-namespace"
	userNS   = "user-namespace"
	pidNS    = "pid-namespace"
	netNS    = "net-namespace"
	ipcNS    = "ipc-namespace"
	utsNS    = "uts-namespace"
	cgroupNS = "cgroup-namespace"
	procFS   = "proc"
	landlock = "landlock"
	seccomp  = "seccomp"
	caps     = "capabilities"
	nnp      = "no-new-privileges"
	rlimits  = "rlimits"
)

func fileProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: Files, How: how, Stops: stops, try: try})
	}
	both := []string{mountNS, landlock}
	work := func(t Target, name string) string { return filepath.Join(t.Work, name) }

	add("read a secret of the host", "open a file that anybody may read", both, func(t Target) error { return read(t.Secret) })
	add("read /etc/shadow", "open it", both, func(Target) error { return read("/etc/shadow") })
	add("list the host's home directories", "read /root and /home", both, func(Target) error {
		_, e1 := os.ReadDir("/root")
		_, e2 := os.ReadDir("/home")
		return when(e1 == nil || e2 == nil, "neither exists")
	})
	add("write in a directory of the host", "create a file where anybody may", both, func(t Target) error { return os.WriteFile(t.Open+"/planted", nil, 0o666) })
	add("write in a read-only tree", "create a file", both, func(t Target) error { return os.WriteFile(t.ReadOnly+"/planted", nil, 0o666) })
	add("truncate a read-only file", "truncate(2)", both, func(t Target) error { return unix.Truncate(t.ReadOnly+"/file", 0) })
	add("open a read-only file for writing", "O_WRONLY", both, func(t Target) error { return write(t.ReadOnly + "/file") })
	add("empty a read-only file while opening it", "O_RDONLY|O_TRUNC", both, func(t Target) error {
		fd, err := unix.Open(t.ReadOnly+"/file", unix.O_RDONLY|unix.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	add("chmod in a read-only tree", "chmod(2)", []string{mountNS}, func(t Target) error { return os.Chmod(t.ReadOnly+"/file", 0o666) })
	add("set an attribute in a read-only tree", "setxattr(2)", []string{mountNS}, func(t Target) error {
		return unix.Setxattr(t.ReadOnly+"/file", "user.canary", []byte("x"), 0)
	})
	add("set times in a read-only tree", "utimensat(2)", []string{mountNS}, func(t Target) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, t.ReadOnly+"/file", nil, 0)
	})
	add("rename in a read-only tree", "rename(2)", both, func(t Target) error { return os.Rename(t.ReadOnly+"/file", t.ReadOnly+"/other") })
	add("exchange a read-only file with an own one", "RENAME_EXCHANGE", both, func(t Target) error {
		if err := os.WriteFile(work(t, "mine"), nil, 0o666); err != nil {
			return err
		}
		return unix.Renameat2(unix.AT_FDCWD, work(t, "mine"), unix.AT_FDCWD, t.ReadOnly+"/file", unix.RENAME_EXCHANGE)
	})
	add("unlink in a read-only tree", "unlink(2)", both, func(t Target) error { return os.Remove(t.ReadOnly + "/victim") })
	add("map a read-only file for writing", "mmap(MAP_SHARED) after reopening through /proc/self/fd", both, func(t Target) error {
		f, err := os.Open(t.ReadOnly + "/file")
		if err != nil {
			return err
		}
		defer f.Close()
		return write(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	})
	add("mount a read-only tree writable", "mount(2) with MS_REMOUNT|MS_BIND", []string{seccomp, caps}, func(t Target) error {
		return unix.Mount("", t.ReadOnly, "", unix.MS_REMOUNT|unix.MS_BIND, "")
	})
	add("follow a symbolic link to a secret", "symlink in the workspace", both, func(t Target) error {
		_ = os.Symlink(t.Secret, work(t, "link"))
		return read(work(t, "link"))
	})
	add("follow a link through /proc/self/root", "/proc/self/root/…", both, func(t Target) error { return read("/proc/self/root" + t.Secret) })
	add("follow /proc/self/cwd out of the workspace", "/proc/self/cwd/../…", both, func(t Target) error {
		return read("/proc/self/cwd/" + strings.Repeat("../", 30) + strings.TrimPrefix(t.Secret, "/"))
	})
	add("hard-link a read-only file into the workspace", "link(2)", both, func(t Target) error { return os.Link(t.ReadOnly+"/file", work(t, "hard")) })
	add("hard-link through a descriptor", "linkat(/proc/self/fd/…, AT_SYMLINK_FOLLOW)", both, func(t Target) error {
		f, err := os.Open(t.ReadOnly + "/file")
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, work(t, "hard2"), unix.AT_SYMLINK_FOLLOW)
	})
	add("climb out of the workspace with ..", "../../…", both, func(t Target) error {
		return read(t.Work + "/" + strings.Repeat("../", 30) + strings.TrimPrefix(t.Secret, "/"))
	})
	add("climb out of a directory that is moved away", "rename while inside it, then ..", both, func(t Target) error {
		if err := os.MkdirAll(work(t, "deep/er"), 0o755); err != nil {
			return err
		}
		fd, err := unix.Open(work(t, "deep/er"), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := os.Rename(work(t, "deep/er"), work(t, "er")); err != nil {
			return err
		}
		s, err := unix.Openat(fd, strings.Repeat("../", 30)+strings.TrimPrefix(t.Secret, "/"), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return unix.Close(s)
	})
	add("read a file that only Landlock guards", "a file of the session's own root", []string{landlock}, func(Target) error { return read("/run/twinward/canary") })
	add("write in the root directory", "create /planted", []string{mountNS, landlock}, func(Target) error {
		err := os.WriteFile("/planted", nil, 0o666)
		if err == nil {
			os.Remove("/planted")
		}
		return err
	})
	add("learn the host's path of the workspace", "/proc/self/mountinfo", nil, func(t Target) error {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		return when(t.WorkHost != "" && bytes.Contains(b, []byte(t.WorkHost)), "not there")
	})
	probes[len(probes)-1].Accepted = "a bind mount shows its source; keep workspaces under neutral paths"

	// Devices and kernel file systems.
	add("find /sys", "read it", []string{mountNS}, func(Target) error { _, err := os.ReadDir("/sys"); return err })
	add("find a cgroup file system", "read /sys/fs/cgroup", []string{mountNS}, func(Target) error { _, err := os.ReadDir("/sys/fs/cgroup"); return err })
	add("set a release agent", "open release_agent for writing", []string{mountNS, userNS}, func(Target) error {
		all, _ := filepath.Glob("/sys/fs/cgroup/*/release_agent")
		for _, f := range all {
			if write(f) == nil {
				return nil
			}
		}
		return errors.New("none to write")
	})
	add("find a disk or a device that controls the machine", "look in /dev", []string{mountNS}, func(Target) error {
		all, _ := filepath.Glob("/dev/*")
		for _, d := range all {
			for _, bad := range []string{"vd", "sd", "nvme", "loop", "mem", "kmem", "port", "kvm", "fuse", "kmsg", "uinput", "snapshot", "mapper"} {
				if strings.HasPrefix(filepath.Base(d), bad) {
					return nil
				}
			}
		}
		_, err := os.Stat("/dev/net/tun")
		return err
	})
	add("read a disk", "open /dev/vda, sda, nvme0n1 or mem", []string{mountNS}, func(Target) error {
		for _, d := range []string{"/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/mem", "/dev/port"} {
			if f, err := os.Open(d); err == nil {
				f.Close()
				return nil
			}
		}
		return errors.New("none to read")
	})
	add("make a device node", "mknod(2) of a block device", []string{caps, landlock}, func(t Target) error {
		defer os.Remove(work(t, "disk"))
		return unix.Mknod(work(t, "disk"), unix.S_IFBLK|0o666, 254<<8)
	})
	add("leave a device in the workspace", "RENAME_WHITEOUT", []string{seccomp}, func(t Target) error {
		if err := os.WriteFile(work(t, "plain"), nil, 0o644); err != nil {
			return err
		}
		return unix.Renameat2(unix.AT_FDCWD, work(t, "plain"), unix.AT_FDCWD, work(t, "renamed"), unix.RENAME_WHITEOUT)
	})
	add("leave a set-id file in the workspace", "chmod(2) 04755", []string{seccomp}, func(t Target) error {
		if err := os.WriteFile(work(t, "tool"), nil, 0o755); err != nil {
			return err
		}
		defer os.Remove(work(t, "tool"))
		return sys(unix.SYS_FCHMODAT, atCWD, str(work(t, "tool")), 0o4755) // AT_FDCWD
	})
	add("make a set-id file at once", "openat(2) with 06755", []string{seccomp}, func(t Target) error {
		defer os.Remove(work(t, "tool2"))
		fd, err := unix.Open(work(t, "tool2"), unix.O_CREAT|unix.O_WRONLY, 0o6755)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	add("make a set-id file by openat2", "openat2(2) with 06755", []string{seccomp}, func(t Target) error {
		defer os.Remove(work(t, "tool3"))
		fd, err := unix.Openat2(unix.AT_FDCWD, work(t, "tool3"), &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o6755})
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	add("give a set-id file by an access list", "setxattr system.posix_acl_access", []string{seccomp, "kernel"}, func(t Target) error {
		if err := os.WriteFile(work(t, "tool4"), nil, 0o755); err != nil {
			return err
		}
		defer os.Remove(work(t, "tool4"))
		// version 2; user::rwx group::rwx other::rwx
		acl := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255}
		_ = unix.Setxattr(work(t, "tool4"), "system.posix_acl_access", acl, 0)
		fi, err := os.Stat(work(t, "tool4"))
		if err != nil {
			return err
		}
		return when(fi.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0, "no such bit")
	})
	add("give a file capabilities", "setxattr security.capability", []string{userNS, caps}, func(t Target) error {
		if err := os.WriteFile(work(t, "tool5"), nil, 0o755); err != nil {
			return err
		}
		defer os.Remove(work(t, "tool5"))
		return unix.Setxattr(work(t, "tool5"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
	})
	add("make the host wait for a file of the workspace", "F_SETLEASE", []string{seccomp}, func(t Target) error {
		f, err := os.Create(work(t, "leased"))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
		return err
	})
	add("fill the host's memory through /tmp", "size of the file system", []string{"tmpfs size"}, func(Target) error {
		var st unix.Statfs_t
		if err := unix.Statfs("/tmp", &st); err != nil {
			return err
		}
		return when(st.Blocks*uint64(st.Bsize) > 1<<30, "limited")
	})
	return probes
}
