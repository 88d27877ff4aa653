//go:build linux && (amd64 || arm64)

package escape

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// PrintRights says as whom this program runs, and whether the kernel gave it
// rights that whoever started it has not.
func PrintRights() {
	secure := uintptr(0)
	if aux, err := unix.Auxv(); err == nil {
		for _, kv := range aux {
			if kv[0] == 23 { // AT_SECURE
				secure = kv[1]
			}
		}
	}
	fmt.Printf("%d %d\n", os.Geteuid(), secure)
}

func rightsProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: Rights, How: how, Stops: stops, try: try})
	}
	add("be without no_new_privs", "prctl(2)", []string{nnp}, func(Target) error {
		v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		return when(err == nil && v == 0, "is set")
	})
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		add("have a capability in "+set, "/proc/self/status", []string{caps}, func(Target) error {
			b, err := os.ReadFile("/proc/self/status")
			if err != nil {
				return err
			}
			return when(!strings.Contains(string(b), set+":\t0000000000000000"), "is empty")
		})
	}
	add("become root", "setresuid(0, 0, 0)", []string{userNS, caps}, func(Target) error {
		// On this thread alone: it ends with the probe.
		return sys(unix.SYS_SETRESUID, 0, 0, 0)
	})
	add("join a group", "setgroups(2)", []string{userNS, caps}, func(Target) error {
		g := [4]byte{}
		return sys(unix.SYS_SETGROUPS, 1, uintptr(addr(g[:])))
	})
	add("be root of the host", "uid 0 and what it maps to", []string{userNS}, func(Target) error {
		b, err := os.ReadFile("/proc/self/uid_map")
		if err != nil {
			return err
		}
		f := strings.Fields(string(b))
		return when(len(f) >= 3 && f[1] == "0", "maps to "+strings.Join(f, " "))
	})
	add("gain rights from a set-id program", "execute one that belongs to root", []string{nnp, "mount flags"}, func(t Target) error {
		if t.SetID == "" {
			return errors.New("the host has none")
		}
		out, err := exec.Command(t.SetID, SetIDArg).Output()
		if err != nil {
			return err
		}
		f := strings.Fields(string(out))
		return when(len(f) == 2 && (f[0] != strconv.Itoa(os.Geteuid()) || f[1] != "0"), "runs as "+strings.Join(f, " "))
	})
	add("find set-id programs that work", "statfs(2) of /usr", []string{"mount flags"}, func(Target) error {
		var st unix.Statfs_t
		if err := unix.Statfs("/usr", &st); err != nil {
			return err
		}
		return when(st.Flags&unix.ST_NOSUID == 0, "mounted nosuid")
	})
	add("gain namespaces of its own", "clone(CLONE_NEWUSER) and execute", []string{seccomp}, func(Target) error {
		cmd := exec.Command("/proc/self/exe", SetIDArg)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		return cmd.Run()
	})
	add("dump core", "RLIMIT_CORE", []string{rlimits}, func(Target) error {
		var l unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_CORE, &l)
		return when(l.Max > 0, "limit is 0")
	})
	add("have no limit on processes", "RLIMIT_NPROC", []string{rlimits}, func(Target) error {
		var l unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NPROC, &l)
		return when(l.Max > 2048, "limit is "+strconv.FormatUint(l.Max, 10))
	})
	add("have no limit on open files", "RLIMIT_NOFILE", []string{rlimits}, func(Target) error {
		var l unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
		return when(l.Max > 1<<16, "limit is "+strconv.FormatUint(l.Max, 10))
	})
	add("raise a limit", "setrlimit(2)", []string{caps, userNS}, func(Target) error {
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NPROC, &l); err != nil || l.Max == unix.RLIM_INFINITY {
			return err
		}
		up := unix.Rlimit{Cur: l.Cur, Max: l.Max + 1}
		if err := unix.Prlimit(0, unix.RLIMIT_NPROC, &up, nil); err != nil {
			return err
		}
		return unix.Prlimit(0, unix.RLIMIT_NPROC, &l, nil)
	})
	add("raise the own priority", "setpriority(2)", []string{caps, userNS}, func(Target) error {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -5); err != nil {
			return err
		}
		return unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
	})
	add("run in real time", "sched_setscheduler(2)", []string{caps, userNS}, func(Target) error {
		p := [4]byte{1}
		return sys(unix.SYS_SCHED_SETSCHEDULER, 0, 2, uintptr(addr(p[:]))) // round robin; ends with the thread
	})
	return probes
}
