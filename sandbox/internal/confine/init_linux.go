//go:build linux && (amd64 || arm64)

package confine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An initState is pid 1 of a room.
type initState struct {
	ord      *order
	layers   []Layer
	abi      int
	hostProc int // while the room is made
	unseen   map[Layer]string
	rules    []rule
	inner    int           // ruleset of each command, in a room without namespaces
	apart    bool          // the worker can signal nobody outside: see sweep
	begin    chan struct{} // closed when the worker may serve
	ended    chan struct{} // closed when it does no more
	procs    procTable
}

// runInit confines this process and serves commands until the host is gone. It
// returns only then; the caller exits, and the kernel ends the room.
func runInit(ord *order) {
	s := &initState{ord: ord, begin: make(chan struct{}), ended: make(chan struct{})}
	if err := s.confine(); err != nil {
		_ = send(fdSocket, &message{Kind: msgFailed, Fail: failOf(err)})
		return
	}
	close(s.begin)
	time.AfterFunc(trimAfter, trim)
	<-s.ended
}

// confine takes every step from a fresh child to a room that is ready.
func (s *initState) confine() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("init failed: %v", p)
		}
	}()
	if privileged() {
		return &LayerError{Layer: LayerUser, Err: errors.New("the host program is set-id or has file capabilities"),
			Hint: "start it without; such a program takes no orders"}
	}
	build := s.build
	if s.ord.shared() {
		build = s.buildShared
	}
	namespaces, err := build()
	if err != nil {
		return err
	}
	unix.Umask(0o022)
	warm()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide init's memory: %w", err)
	}

	started := make(chan error)
	var status map[string]string
	go func() {
		// This thread will serve the host and start every command. It is never
		// unlocked: what it gives up here is what commands are born without.
		runtime.LockOSThread()
		// Open beforehand: the room may have no /proc.
		own, err := openStatus(s.hostProc)
		if err == nil {
			err = s.restrict()
		}
		if err == nil {
			status, err = s.verify(own)
		}
		unix.Close(own)
		started <- err
		<-s.begin
		s.serve()
		close(s.ended)
	}()
	err = <-started
	unix.Close(s.hostProc)
	if err != nil {
		return err
	}
	// Not before the host has the last descriptor: how many a process may send
	// depends on how many it may have open, see [limit.ofCommands].
	if err := s.layer(LayerRlimits, func() error { return setLimits(s.ord.Limits) }); err != nil {
		return err
	}
	report := &Report{Layers: s.sorted(), LandlockABI: s.abi, Status: status, Namespaces: namespaces, UID: s.ord.KUID, Unseen: s.unseen, Tier: s.ord.Tier}
	return send(fdSocket, &message{Kind: msgReady, Report: report})
}

// build makes the room itself, in the namespaces that this process was born in.
func (s *initState) build() (namespaces map[string]string, err error) {
	if os.Getpid() != 1 {
		return nil, &LayerError{Layer: LayerPID, Err: errors.New("init is not pid 1")}
	}
	// Nothing below may ever happen to the host's own namespaces, so this comes
	// before the first change.
	namespaces, err = s.checkNamespaces(readNamespaces("self"))
	if err != nil {
		return nil, err
	}
	// The host may have died before this line; then the control socket is closed
	// and the first message to it fails.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return nil, fmt.Errorf("die with the host: %w", err)
	}
	if err := dropDescriptors(fdMounts + s.ord.Inherited); err != nil {
		return nil, fmt.Errorf("close the host's descriptors: %w", err)
	}
	// No signal from inside ends init, and none is inherited as ignored.
	signal.Notify(make(chan os.Signal, 1))
	unix.Umask(0)

	if !slices.Contains(s.ord.Without, LayerUTS) {
		if err := unix.Sethostname([]byte(s.ord.Hostname)); err != nil {
			return nil, &LayerError{Layer: LayerUTS, Step: "set the host name", Err: err}
		}
	}
	if s.hostProc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, &LayerError{Layer: LayerProc, Step: "open the host's /proc", Err: err}
	}
	targets, err := buildRoot(s.ord)
	if err != nil {
		return nil, err
	}
	if err := s.terminals(); err != nil {
		return nil, &LayerError{Layer: LayerMount, Step: "hand out /dev/pts", Err: err}
	}
	s.rules = append(landlockRules(&s.ord.Spec, targets), programRules(s.ord.Runnable)...)
	if err := s.network(); err != nil {
		return nil, err
	}
	if s.ord.Tier != TierMaskedProc {
		s.layers = append(s.layers, LayerProc) // buildRoot does not return without
	}
	if s.ord.IDMapped {
		s.layers = append(s.layers, LayerIDMap)
	}
	return namespaces, nil
}

// spareThreads is more than init ever has blocked at one time.
const spareThreads = 4

// warm makes the Go runtime create threads and keep them. When a workload has
// used up all processes, a runtime that needs one more thread would end init,
// and with it the session.
func warm() {
	runtime.GOMAXPROCS(2)
	var here, gone sync.WaitGroup
	release := make(chan struct{})
	here.Add(spareThreads)
	for range spareThreads {
		gone.Go(func() {
			runtime.LockOSThread() // one thread each, until all are here
			here.Done()
			<-release
			runtime.UnlockOSThread()
		})
	}
	here.Wait()
	close(release)
	gone.Wait()
}

// trimAfter is how long init keeps the memory that building the room took.
const trimAfter = time.Second

// trim lets go of the pages of the host's program that building the room has
// touched, which is most of what init counts as its memory. They are in the
// host's all the same, and those that are needed come back one by one. A mapping
// in which something was changed, as by a dynamic linker, stays as it is.
func trim() {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return // a room without /proc
	}
	defer f.Close()
	var from, to uint64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		switch line := lines.Bytes(); {
		case len(line) > 0 && (line[0] <= '9' || line[0] >= 'a'): // a mapping; its properties are capitalised
			area, rest, _ := bytes.Cut(line, []byte(" "))
			if from, to = 0, 0; len(rest) > 1 && rest[1] == '-' && bytes.Contains(rest, []byte("/")) {
				a, b, _ := bytes.Cut(area, []byte("-"))
				from, _ = strconv.ParseUint(string(a), 16, 64)
				to, _ = strconv.ParseUint(string(b), 16, 64)
			}
		case to > from && bytes.HasPrefix(line, []byte("Anonymous:")) && bytes.HasSuffix(line, []byte(" 0 kB")):
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED)
		}
	}
}

// dropDescriptors closes what the host left open for any child, from first on,
// and makes sure that no command inherits anything. The Go runtime's own
// descriptors are close-on-exec, which is how they are told apart.
func dropDescriptors(first int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < first {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
}

// layer runs one step unless the layer is to be left out, and tolerates its
// failure when the layer is optional.
func (s *initState) layer(l Layer, step func() error) error {
	if slices.Contains(s.ord.Without, l) {
		return nil
	}
	if err := step(); err != nil {
		if slices.Contains(s.ord.Optional, l) {
			return nil
		}
		var le *LayerError
		if errors.As(err, &le) {
			return err
		}
		return &LayerError{Layer: l, Err: err}
	}
	s.layers = append(s.layers, l)
	return nil
}

func (s *initState) sorted() []Layer {
	var out []Layer
	for _, l := range Layers() {
		if slices.Contains(s.layers, l) {
			out = append(out, l)
		}
	}
	return out
}

// listenersPerPacket keeps well below the kernel's limit for one message.
const listenersPerPacket = 100

// network opens the listeners and sends them to the host.
func (s *initState) network() error {
	return s.layer(LayerNetwork, func() error {
		fds, err := openNetwork(s.ord.Ports)
		if err != nil {
			return err
		}
		defer closeAll(fds)
		for chunk := range slices.Chunk(fds, listenersPerPacket) {
			if err := send(fdSocket, &message{Kind: msgListeners}, chunk...); err != nil {
				return err
			}
		}
		return nil
	})
}

// terminals sends the host the folder in which it makes the room's terminals.
func (s *initState) terminals() error {
	fd, err := unix.Open("/dev/pts", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return send(fdSocket, &message{Kind: msgTerminals}, fd)
}

// checkNamespaces compares with the host's: a namespace that is shared is not a
// layer, whatever was asked for. User, mount and pid namespace are never
// optional: without them init would rebuild the host itself.
func (s *initState) checkNamespaces(mine map[string]string) (map[string]string, error) {
	for _, k := range nsKinds {
		own := mine[k.file] != "" && s.ord.HostNS[k.file] != "" && mine[k.file] != s.ord.HostNS[k.file]
		vital := k.layer == LayerUser || k.layer == LayerMount || k.layer == LayerPID
		if vital && !own {
			return nil, &LayerError{Layer: k.layer, Err: errShared}
		}
		err := s.layer(k.layer, func() error {
			if !own {
				return errShared
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return mine, nil
}

// restrict walks the calling thread through the layers that a process puts on
// itself. The filter comes last and covers all threads of init.
func (s *initState) restrict() error {
	if err := s.layer(LayerCaps, func() error {
		// Without namespaces there is no right to do that, and without new privileges
		// nothing that the set could bound.
		if err := dropBounding(); err != nil && !s.ord.shared() {
			return fmt.Errorf("empty the bounding set: %w", err)
		}
		if err := dropCaps(); err != nil {
			return fmt.Errorf("empty the capability sets: %w", err)
		}
		dropAllCaps()
		return nil
	}); err != nil {
		return err
	}
	if err := s.layer(LayerNoNewPrivs, func() error {
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}); err != nil {
		return err
	}
	if err := s.layer(LayerLandlock, func() (err error) {
		if s.ord.shared() {
			return s.restrictShared()
		}
		s.abi, err = landlockRestrict(s.rules, s.ord.LogLandlock)
		return err
	}); err != nil {
		return err
	}
	return s.layer(LayerSeccomp, func() error {
		kind := s.ord.filterKind()
		kind.notify = s.ord.Notify || kind.shared
		listener, err := seccompRestrict(kind)
		if err != nil && kind.notify && !kind.shared {
			// Whoever started the host listens to it already; a thread has one listener.
			s.unseen = map[Layer]string{LayerSeccomp: noListener(err)}
			listener, err = seccompRestrict(s.ord.filterKind())
		}
		if err == nil && listener >= 0 {
			err = send(fdSocket, &message{Kind: msgDenials}, listener)
			unix.Close(listener)
		}
		return err
	})
}

// verify reads back what the kernel says about the calling thread, so that a
// report never rests on a call having returned zero.
func (s *initState) verify(own int) (map[string]string, error) {
	status, err := readStatus(own)
	if err != nil {
		return nil, fmt.Errorf("read own status: %w", err)
	}
	has := func(l Layer) bool { return slices.Contains(s.layers, l) }
	if s.ord.shared() {
		status["CapBnd"] = "0" // restrict says why it is none
		defer delete(status, "CapBnd")
	}
	if err := checkStatus(status, has); err != nil {
		return nil, err
	}
	if has(LayerLandlock) {
		fd, err := unix.Open(s.ord.canary(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		if err != unix.EACCES {
			return nil, canaryError(err)
		}
	}
	return status, nil
}

// checkStatus compares what the kernel says of a thread with what should be in
// force.
func checkStatus(status map[string]string, has func(Layer) bool) error {
	fail := func(l Layer, why string) error { return &LayerError{Layer: l, Step: "verify", Err: errors.New(why)} }
	switch {
	case has(LayerNoNewPrivs) && status["NoNewPrivs"] != "1":
		return fail(LayerNoNewPrivs, "the kernel does not show it")
	case has(LayerCaps) && !zeroCaps(status):
		return fail(LayerCaps, "a capability set is not empty")
	case has(LayerSeccomp) && status["Seccomp"] != "2":
		return fail(LayerSeccomp, "no filter is in force")
	}
	return nil
}
