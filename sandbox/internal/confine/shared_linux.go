//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A room of [TierNoNamespaces] is a group of processes of the host. What keeps
// it apart:
//
//   - Two Landlock domains, one within the other. The outer one is that of the
//     thread that starts commands, which therefore signals all of the room and
//     nobody else: that is how the room ends ([initState.sweep]). Each command
//     is in a domain of its own within, so it can signal neither that thread nor
//     another command. Neither domain has a right to bind or connect.
//   - The filter, which refuses what namespaces would keep apart, and puts to the
//     host what Landlock does not govern (shared_calls_linux.go).
//   - A user of its own, when the host is root.
//
// Every process of the room becomes a child of init when its parent is gone, so
// that init knows when none is left.

// minShared is the first version of Landlock that keeps signals and abstract
// sockets in, without which the room would not be apart from the user's other
// processes.
const minShared = 6

// shared reports whether the room shares the host's namespaces.
func (o *Spec) shared() bool { return o.Tier == TierNoNamespaces }

// canary is a file that exists and that no Landlock rule covers: being unable to
// read it is how the room knows that Landlock is on.
func (o *order) canary() string {
	if o.shared() {
		return o.Side + "/canary"
	}
	return canary
}

// hostExe leads to the host's own executable, wherever that lies.
const hostExe = "/proc/self/exe"

// home is where a command begins.
func (o *order) home() string {
	if o.shared() {
		return o.Workspace
	}
	return Home
}

// buildShared prepares this process: there is nothing to build.
func (s *initState) buildShared() (namespaces map[string]string, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt orphans: %w", err)
	}
	if err := dropDescriptors(fdMounts); err != nil {
		return nil, fmt.Errorf("close the host's descriptors: %w", err)
	}
	signal.Notify(make(chan os.Signal, 1))
	s.ord.Limits.Processes = or(s.ord.Limits.Processes, defaultProcesses) + othersOf(os.Geteuid())
	if s.hostProc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	s.rules = append(hostRules(s.ord), programRules(s.ord.Runnable)...)
	s.layers = append(s.layers, LayerNetwork) // nothing connects but by way of the host, see restrict
	return nil, nil
}

// othersOf counts what a user runs already, threads too: the kernel counts it
// against the limit of the room.
func othersOf(uid int) (n uint64) {
	all, _ := os.ReadDir("/proc")
	for _, e := range all {
		var st unix.Stat_t
		if _, err := strconv.Atoi(e.Name()); err != nil || unix.Stat("/proc/"+e.Name(), &st) != nil || int(st.Uid) != uid {
			continue
		}
		threads, _ := os.ReadDir("/proc/" + e.Name() + "/task")
		n += uint64(len(threads))
	}
	return n
}

// sharedEtc are what a room with a tree of its own has made for it: who its users
// are, and whom it trusts.
var sharedEtc = []string{"passwd", "group", "nsswitch.conf", "hosts", "ssl/certs", "ssl/cert.pem", "pki/tls/certs"}

// hostRules are the Landlock rules of a room that sees the host's own tree.
func hostRules(o *order) []rule {
	read, write := uint64(accessRead), uint64(accessRead|accessWrite)
	if o.Programs != nil {
		read &^= unix.LANDLOCK_ACCESS_FS_EXECUTE
		write &^= unix.LANDLOCK_ACCESS_FS_EXECUTE
	}
	rules := []rule{{path: o.Workspace, access: write}, {path: o.Side + "/tmp", access: write}, {path: o.Side + "/etc", access: read}}
	for _, name := range slices.Concat(sharedEtc, etcBinds) {
		rules = append(rules, rule{path: "/etc/" + name, access: read})
	}
	for _, name := range harmlessProc {
		rules = append(rules, rule{path: "/proc/" + name, access: unix.LANDLOCK_ACCESS_FS_READ_FILE})
	}
	for _, name := range devices {
		access := uint64(accessDev)
		if name == "tty" {
			access = accessTTY
		}
		rules = append(rules, rule{path: "/dev/" + name, access: access})
	}
	for _, p := range o.Places {
		access := read
		if p.Writable {
			access = write
		}
		rules = append(rules, rule{path: p.Real, access: access})
	}
	if o.Self {
		rules = append(rules, rule{path: hostExe, access: read})
	}
	return rules
}

// restrictShared puts the calling thread into the outer domain.
func (s *initState) restrictShared() error {
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	if abi < minShared {
		return oldLandlock(abi, minShared, "keeps signals in, without which there is no room in the host's namespaces")
	}
	attr, size := landlockAttr(abi)
	attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	if s.inner, err = newRuleset(s.rules, attr, size); err != nil {
		return err
	}
	if err := restrictSelf(s.inner, landlockFlags(abi, false)); err != nil {
		return err
	}
	if err := unix.Kill(os.Getppid(), 0); err != unix.EPERM {
		return fmt.Errorf("the host can be signalled from inside (%v)", err)
	}
	s.abi, s.apart = abi, true
	return nil
}

// startShared starts a command in a domain of its own. It is called on the
// worker's thread.
func (s *initState) startShared(path string, e *Exec, env []string, files []uintptr) (pid int, err error) {
	if path == SelfPath && s.ord.Self {
		path = hostExe
	}
	// Out of the way of the numbers that they shall have.
	var out []int
	defer func() { closeAll(out) }()
	for _, f := range append(files, uintptr(s.inner)) {
		if s.inner <= 0 && f == uintptr(s.inner) {
			break // a test left Landlock out
		}
		fd, err := unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, len(files))
		if err != nil {
			return 0, err
		}
		out = append(out, fd)
	}
	p := &prog{}
	p.fail = p.label()
	p.call("die with init", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0)
	p.call("begin a session", unix.SYS_SETSID)
	for i := range files {
		p.call("set a descriptor", unix.SYS_DUP3, out[i], i, 0)
	}
	if e.Terminal {
		p.call("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	p.call("enter "+e.Dir, unix.SYS_CHDIR, e.Dir)
	if len(out) > len(files) {
		p.call("enter the inner domain", unix.SYS_LANDLOCK_RESTRICT_SELF, out[len(files)], int(landlockFlags(s.abi, s.ord.LogLandlock)))
	}
	p.call("close the rest", unix.SYS_CLOSE_RANGE, len(files), math.MaxUint32, 0)
	p.call("unblock signals", unix.SYS_RT_SIGPROCMASK, 2, p.reserve(wordSize), 0, wordSize) // SIG_SETMASK
	p.call("execute", unix.SYS_EXECVE, path, p.vector(e.Args), p.vector(env))
	p.mark(p.fail)
	p.call("end", unix.SYS_EXIT_GROUP, 127)
	blk, err := newBlock(p)
	if err != nil {
		return 0, err
	}
	defer blk.free()
	if pid, err = blk.run(unix.CLONE_VFORK | uintptr(unix.SIGCHLD)); err != nil {
		return 0, err
	}
	var le *LayerError
	if err = blk.failure(); errors.As(err, &le) {
		err = le.Err
	}
	runtime.KeepAlive(blk)
	return pid, err
}

// sweep ends everything in the room, and returns when nothing is left. One
// signal to all is atomic for the kernel: whoever forks meanwhile is killed
// before there is a child. Only the worker's thread may call it.
func (s *initState) sweep() {
	for {
		s.killAll()
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err == unix.ECHILD {
			return
		}
		time.Sleep(time.Millisecond) // [initState.reap] waits for them
	}
}

func (s *initState) killAll() {
	if s.apart {
		_ = unix.Kill(-1, unix.SIGKILL)
		return
	}
	s.procs.mu.Lock()
	defer s.procs.mu.Unlock()
	for pid := range s.procs.byPID {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
}
