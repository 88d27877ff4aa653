//go:build linux && (amd64 || arm64)

package escape

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func processProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: Process, How: how, Stops: stops, try: try})
	}
	descriptors := []string{"descriptors"}

	add("use an inherited directory descriptor", "openat(2) of a file beneath it", descriptors, func(t Target) error {
		fd, err := unix.Openat(t.FD, "etc/passwd", unix.O_RDONLY, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	add("change into an inherited directory", "fchdir(2)", descriptors, func(t Target) error {
		here, err := unix.Open(".", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(here)
		if err := unix.Fchdir(t.FD); err != nil {
			return err
		}
		return unix.Fchdir(here)
	})
	add("find any inherited descriptor", "fcntl(2) on 3…1023", descriptors, func(Target) error {
		// Those of this Go runtime are close-on-exec, an inherited one is not.
		for fd := 3; fd < 1024; fd++ {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				return nil
			}
		}
		return errors.New("none")
	})
	add("find a directory or a file of the host among 0, 1, 2", "fstat(2)", descriptors, func(Target) error {
		for fd := range 3 {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return nil
			}
		}
		return errors.New("none")
	})
	add("read the host's environment", "environ", []string{"environment"}, func(t Target) error {
		return when(strings.Contains(strings.Join(os.Environ(), "\n"), "CANARY="+t.Marker), "not there")
	})
	add("see a process of the host in /proc", "look for its arguments", []string{pidNS}, func(t Target) error {
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range all {
			if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(t.Marker+"-arg")) {
				return nil
			}
		}
		return fmt.Errorf("%d processes, none of them", len(all))
	})
	add("signal a process of the host", "kill(2) with 0", []string{pidNS}, func(t Target) error { return unix.Kill(t.PID, 0) })
	add("open a process of the host", "pidfd_open(2)", []string{pidNS}, func(t Target) error {
		fd, err := unix.PidfdOpen(t.PID, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	add("change the limits of a process of the host", "prlimit(2)", []string{pidNS}, func(t Target) error {
		var old unix.Rlimit
		return unix.Prlimit(t.PID, unix.RLIMIT_NOFILE, nil, &old)
	})
	add("change the scheduling of a process of the host", "sched_getaffinity(2)", []string{pidNS}, func(t Target) error {
		var set unix.CPUSet
		return unix.SchedGetaffinity(t.PID, &set)
	})
	add("see a process that is not the session's own", "ids in /proc", []string{procFS, pidNS}, func(Target) error {
		all, _ := filepath.Glob("/proc/[0-9]*")
		return when(len(all) > 4, fmt.Sprintf("%d processes", len(all)))
	})
	add("signal init", "kill(1, 0)", []string{landlock}, func(Target) error { return unix.Kill(1, 0) })
	add("signal init by descriptor", "pidfd_send_signal(2)", []string{landlock}, func(Target) error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	})
	add("change init's limits", "prlimit(2)", []string{seccomp}, func(Target) error {
		var old unix.Rlimit
		return unix.Prlimit(1, unix.RLIMIT_CPU, nil, &old)
	})
	add("stop everything there is", "kill(-1) reaches this process alone", []string{pidNS, landlock}, func(t Target) error {
		// Signal 0 to all: an error says that there is nobody but this process.
		return unix.Kill(-1, 0)
	})
	add("see init in /proc", "/proc/1/status", []string{procFS}, func(Target) error { _, err := os.Stat("/proc/1/status"); return err })
	for _, p := range []struct{ name, file string }{
		{"read init's environment", "environ"}, {"open init's memory", "mem"}, {"open init's executable", "exe"},
		{"read init's memory map", "maps"}, {"read init's auxiliary vector", "auxv"}, {"read what init waits in", "stack"},
	} {
		add(p.name, "open /proc/1/"+p.file, []string{procFS, caps, landlock}, func(Target) error {
			f, err := os.Open("/proc/1/" + p.file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Read(make([]byte, 1))
			return err
		})
	}
	for _, name := range []string{"root", "cwd", "fd", "map_files", "ns"} {
		add("reach init's "+name, "/proc/1/"+name, []string{procFS, caps, landlock}, func(Target) error {
			_, err := os.ReadDir("/proc/1/" + name + "/")
			return err
		})
	}
	add("reach init through a thread", "/proc/self/task/1, /proc/1/task/1", []string{procFS}, func(Target) error {
		_, e1 := os.ReadDir("/proc/self/task/1")
		_, e2 := os.ReadDir("/proc/1/task/1")
		return when(e1 == nil || e2 == nil, "neither exists")
	})
	add("make init kill worse", "write /proc/1/oom_score_adj", []string{procFS, landlock}, func(Target) error { return write("/proc/1/oom_score_adj") })
	add("join init's namespaces", "setns(2)", []string{seccomp, caps}, func(Target) error {
		fd, err := unix.Open("/proc/1/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			fd, err = unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Setns(fd, 0)
	})
	add("map a user of the host", "write /proc/self/uid_map", []string{landlock, userNS}, func(Target) error {
		return os.WriteFile("/proc/self/uid_map", []byte("0 0 1\n"), 0)
	})
	add("protect itself from the kernel's killer", "write /proc/self/oom_score_adj below zero", []string{landlock, userNS}, func(Target) error {
		return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000\n"), 0)
	})
	for _, p := range []struct{ name, file string }{
		{"set core_pattern", "/proc/sys/kernel/core_pattern"},
		{"set the program that loads modules", "/proc/sys/kernel/modprobe"},
		{"set a sysctl of the network", "/proc/sys/net/ipv4/ip_unprivileged_port_start"},
		{"set the limit of namespaces", "/proc/sys/user/max_user_namespaces"},
		{"set a handler of programs", "/proc/sys/fs/binfmt_misc/register"},
		{"trigger sysrq", "/proc/sysrq-trigger"},
		{"move an interrupt", "/proc/irq/default_smp_affinity"},
	} {
		add(p.name, "open "+p.file+" for writing", []string{userNS, procFS, landlock}, func(Target) error { return write(p.file) })
	}
	for _, p := range []struct {
		name, file string
		stops      []string
	}{
		{"read the kernel's log", "/dev/kmsg", []string{mountNS, landlock}},
		{"read the kernel's log in /proc", "/proc/kmsg", []string{userNS, caps}},
		{"read kernel memory", "/proc/kcore", []string{userNS, caps}},
		{"read page flags of all memory", "/proc/kpageflags", []string{userNS, caps}},
		{"list kernel timers and allocations", "/proc/slabinfo", []string{userNS, caps}},
	} {
		add(p.name, "open "+p.file, p.stops, func(Target) error {
			fd, err := unix.Open(p.file, unix.O_RDONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
	}
	add("read kernel addresses", "/proc/kallsyms", []string{userNS, caps}, func(Target) error {
		b, err := os.ReadFile("/proc/kallsyms")
		if err != nil {
			return err
		}
		return when(len(b) > 16 && string(b[:16]) != "0000000000000000", "all zero")
	})
	add("read physical addresses", "/proc/self/pagemap", []string{userNS, caps}, func(Target) error {
		f, err := os.Open("/proc/self/pagemap")
		if err != nil {
			return err
		}
		defer f.Close()
		page := make([]byte, os.Getpagesize())
		page[0] = 1
		var entry [8]byte
		if _, err := f.ReadAt(entry[:], int64(uintptr(addr(page)))/int64(os.Getpagesize())*8); err != nil {
			return err
		}
		return when(!bytes.Equal(entry[:6], make([]byte, 6)), "all zero")
	})
	add("learn the cgroup of the session on the host", "/proc/self/cgroup", []string{cgroupNS}, func(Target) error {
		b, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[2] != "/" {
				return nil
			}
		}
		return errors.New("all are /")
	})
	add("have a controlling terminal", "open /dev/tty", []string{"session"}, func(Target) error { return write("/dev/tty") })
	add("type into the terminal", "TIOCSTI on 0, 1, 2", []string{seccomp, "session"}, func(Target) error {
		err := error(syscall.ENOTTY)
		for fd := range uintptr(3) {
			c := byte(' ')
			if err = sys(unix.SYS_IOCTL, fd, unix.TIOCSTI, uintptr(addr([]byte{c}))); err == nil {
				return nil
			}
		}
		return err
	})
	add("take the terminal of another session", "TIOCSCTTY on a new /dev/pts", []string{"session"}, func(Target) error {
		all, _ := filepath.Glob("/dev/pts/[0-9]*")
		return when(len(all) > 0, "no terminal there")
	})
	return probes
}
