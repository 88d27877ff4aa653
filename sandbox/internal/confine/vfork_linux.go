//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// A vfork is a launch by [LauncherVfork] while it lasts. Pid 1 of the room is a
// child that shares the host's memory until it executes init's image. Until
// then nothing else lives in the room's namespaces, so nobody can reach the
// host through it; afterwards no memory of the host is in there. The host's
// goroutines go on meanwhile: no thread or collection waits for the child.
//
// The child exists before the host has looked at what the room is to show, and
// waits: the kernel takes as long to make namespaces as the host takes to find
// and write down all the rest.
type vfork struct {
	box     *Box
	plan    *plan
	abi     int // of Landlock, zero without
	init    *initProgram
	room    *roomProgram
	block   *block
	image   int
	child   int    // the child's end of the control socket, until it has it
	control int    // its number in the child
	running bool   // the child may execute the program in block
	restore func() // of what the child changes about the memory that it shares
}

// start starts the child, which waits for a word, and writes meanwhile what it is
// to do. A test may change that, for which all has to be written before. close
// must be called in the end.
func (v *vfork) start(spec *Spec, deliver func() (*delivery, error), change func(*vfork)) error {
	b := v.box
	if spec.shared() {
		return &LayerError{Layer: LayerProc, Step: "start", Err: fmt.Errorf("tier %s is made by the launcher %q only", spec.Tier, LauncherReexec), Hint: "leave Options.Launcher empty"}
	}
	if err := v.begin(); err != nil {
		return err
	}
	write := func() error { return v.write(deliver) }
	if change != nil {
		if err := write(); err != nil {
			b.sock.Close()
			return err
		}
		change(v)
		write = func() error { return nil }
	}
	flags := uintptr(unix.SIGCHLD)
	for _, k := range nsKinds {
		if !slices.Contains(spec.Without, k.layer) {
			flags |= k.flag
		}
	}
	if b.id.root {
		v.restore = undumpable.begin()
	}
	started := make(chan error)
	b.exited = make(chan struct{})
	go func() {
		defer close(b.exited)
		runtime.LockOSThread() // never unlocked: the child dies with this thread
		pid, err := v.block.run(flags)
		if err == nil {
			b.init, err = os.FindProcess(pid)
		}
		started <- err
		if err == nil {
			_, _ = b.init.Wait()
		}
	}()
	written := write()
	if err := <-started; err != nil {
		b.sock.Close()
		if written != nil {
			return written // it says more
		}
		return &LayerError{Layer: LayerUser, Step: "create namespaces", Err: err, Hint: namespaceHint(err)}
	}
	v.running = true
	unix.Close(v.child)
	v.child = -1
	if written != nil {
		b.sock.Close() // close ends the child
	}
	return written
}

// begin prepares what the child needs until it waits.
func (v *vfork) begin() (err error) {
	b := v.box
	if v.image, err = imageFile(); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	v.child = pair[1]
	if err := unix.SetNonblock(pair[0], true); err != nil { // a property of each end
		unix.Close(pair[0])
		return err
	}
	b.sock = os.NewFile(uintptr(pair[0]), "control")
	for _, fd := range []*int{&v.image, &v.child} {
		if *fd, err = above(*fd, 3); err != nil {
			b.sock.Close()
			return err
		}
	}
	v.control = v.child
	v.room = newRoomProgram(v.control, v.image)
	if v.block, err = newBlock(&v.room.prog); err != nil {
		b.sock.Close()
		return err
	}
	return nil
}

// write finds out what the room is to show and writes the rest.
func (v *vfork) write(deliver func() (*delivery, error)) error {
	b := v.box
	d, err := deliver()
	if err != nil {
		return err
	}
	spec := &d.order.Spec
	if !slices.Contains(spec.Without, LayerLandlock) {
		v.abi, err = usableLandlock()
		if err != nil && !slices.Contains(spec.Optional, LayerLandlock) {
			return &LayerError{Layer: LayerLandlock, Err: err}
		}
		if err != nil {
			v.abi = 0
		}
	}
	// Its listeners come with the room, or there is none.
	spec.Optional = slices.DeleteFunc(slices.Clone(spec.Optional), func(l Layer) bool { return l == LayerNetwork })
	if v.plan, err = newPlan(d, v.control, v.image); err != nil {
		return err
	}
	b.report = Report{LandlockABI: v.abi, UID: b.id.uid, Tier: spec.Tier}
	ord := &v.plan.order
	v.init = newInitProgram(ord, v.abi)
	b.proto = &tinyInit{program: v.init, env: ord.Env, ids: map[int]uint64{}, held: map[uint64]*message{}}
	if err := fillImage(v.image, &v.init.prog); err != nil {
		return err
	}
	v.room.build(v.plan, b.id, v.control, v.image, v.abi, b.cgroup != nil)
	if v.abi == 0 {
		v.room.maybe[LayerLandlock] = v.room.slot()
	}
	return v.block.extend()
}

// release lets the child go on, with what the host delivers.
func (v *vfork) release() error {
	word := make([]byte, wordSize)
	for fds := range slices.Chunk(v.plan.mounts, maxFDs) {
		if err := v.box.send(word, fds...); err != nil {
			return err
		}
	}
	if len(v.plan.mounts) > 0 {
		return nil
	}
	return v.box.send(word)
}

// above returns a descriptor that is at least min, in the place of fd.
func above(fd, min int) (int, error) {
	if fd >= min {
		return fd, nil
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, min)
	unix.Close(fd)
	return n, err
}

// roomPrograms are the memory of programs that have run: most of what a launch
// would allocate otherwise.
var roomPrograms = sync.Pool{New: func() any {
	// A usual room takes some seven hundred steps and 30 kB.
	return &prog{steps: make([]step, 0, 800), data: make([]byte, 0, 40<<10)}
}}

// close lets go of what only the launch needs.
func (v *vfork) close() {
	if v.running {
		// It failed on the way; the child is killed by now or about to be.
		v.box.kill()
		<-v.box.exited
	}
	if v.restore != nil {
		v.restore()
	}
	if v.block != nil {
		v.block.free()
	}
	if v.room != nil {
		p := v.room.prog
		p.recycle()
		roomPrograms.Put(&p)
	}
	closeAll([]int{v.image, v.child})
}

// handshake says who the room's user is, waits until init is confined, and
// checks that it is.
func (v *vfork) handshake() error {
	b, spec := v.box, &v.plan.order.Spec
	s := &initState{ord: &v.plan.order}
	who := strconv.Itoa(b.init.Pid)
	namespaces, err := s.checkNamespaces(b.namespaces())
	if err != nil {
		return v.why(err)
	}
	if err := b.id.writeMaps(b.init.Pid); err != nil {
		return v.why(&LayerError{Layer: LayerUser, Step: "map the room's user", Err: err})
	}
	if b.cgroup != nil {
		if err := writeCgroup(b.cgroup.dir, "cgroup.procs", who); err != nil {
			return &LayerError{Layer: LayerTotals, Step: "put the room in its group", Err: err, Hint: cgroupHint}
		}
	}
	if err := v.release(); err != nil {
		return v.why(silent(err))
	}
	var fds []int
	defer func() { closeAll(fds) }()
	word := func(int) int64 { return 0 }
	for word(0) != saysReady {
		packet, got, err := b.recv()
		if err != nil {
			return v.why(silent(err))
		}
		fds = append(fds, got...)
		word = func(i int) int64 { return int64(binary.NativeEndian.Uint64(packet[i*wordSize:])) }
		switch {
		case len(packet) == wordSize && word(0) == saysRoom:
		case len(packet) == wordSize && word(0) == saysListener && len(got) == 1 && b.denials == nil && v.plan.order.Notify:
			fds = fds[:len(fds)-1]
			if b.denials, err = listenerFile(got[0]); err != nil {
				return fmt.Errorf("take over the listener of denials: %w", err)
			}
		case len(packet) == readyWords*wordSize && word(0) == saysReady:
		default:
			return errors.New("init: unexpected message")
		}
	}
	v.running = false // it is init's image by now
	if err := v.block.failure(); err != nil {
		return err
	}
	if err := b.cgroup.limitMemory(); err != nil {
		return err
	}

	s.layers = append(s.layers, v.room.layers...)
	for l, missed := range v.room.maybe {
		if l != LayerLandlock && v.block.word(missed) == 0 {
			s.layers = append(s.layers, l)
		}
	}
	for _, r := range []struct {
		layer  Layer
		step   string
		result int64
	}{{LayerSeccomp, "filter system calls", word(1)}, {LayerLandlock, "enter the domain", word(2)}} {
		if r.layer == LayerLandlock && b.report.LandlockABI == 0 {
			continue
		}
		err := s.layer(r.layer, func() error {
			if r.result < 0 {
				return &LayerError{Layer: r.layer, Step: r.step, Err: unix.Errno(-r.result)}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	has := func(l Layer) bool { return slices.Contains(s.layers, l) }
	if has(LayerLandlock) && word(3) != -int64(unix.EACCES) {
		return canaryError(fmt.Errorf("result %d", word(3)))
	}
	if !has(LayerLandlock) {
		b.report.LandlockABI = 0
	}
	if v.plan.order.Notify && b.denials == nil && has(LayerSeccomp) {
		b.report.Unseen = map[Layer]string{LayerSeccomp: noListener(unix.Errno(-word(4)))}
	}
	// Of the leader: the worker is its clone and came after all of this. The less
	// is looked up beneath /proc/<pid>, the sooner the kernel is done with it.
	status, err := unix.Open("/proc/"+who+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look at init: %w", err)
	}
	b.report.Status, err = readStatus(status)
	unix.Close(status)
	if err != nil {
		return err
	}
	if err := checkStatus(b.report.Status, has); err != nil {
		return err
	}
	for _, k := range []struct {
		line          string
		outside, seen int
	}{{"Uid", b.id.uid, UID}, {"Gid", b.id.gid, GID}} {
		if b.report.Status[k.line] != fourTimes(k.outside) {
			return &LayerError{Layer: LayerUser, Step: "verify", Err: fmt.Errorf("init runs as %s, want %d", b.report.Status[k.line], k.outside)}
		}
		b.report.Status[k.line] = fourTimes(k.seen) // as a program inside sees it
	}
	b.report.Namespaces, b.report.Layers = namespaces, s.sorted()
	if b.cgroup != nil {
		b.report.Layers = append(b.report.Layers, LayerTotals)
	}
	if len(fds) == 0 {
		return errors.New("init: no descriptor of /dev/pts")
	}
	listeners := fds[1:]
	b.pts, fds = fds[0], nil
	return b.adopt(spec.Ports, listeners)
}

// why ends the child and returns what stopped it or, if nothing did, err.
func (v *vfork) why(err error) error {
	v.box.kill()
	<-v.box.exited
	v.running = false
	if failure := v.block.failure(); failure != nil {
		return failure
	}
	return err
}

// fourTimes is how the kernel shows a user that is the real, effective, saved
// and file system user.
func fourTimes(id int) string { return fmt.Sprintf("%d\t%d\t%d\t%d", id, id, id, id) }

// writeMaps says who the room's user is, once a child is in a user namespace.
func (id identity) writeMaps(pid int) error {
	if !id.root {
		// The kernel wants it before a user may map a group.
		if err := writeProc(pid, "setgroups", "deny"); err != nil {
			return err
		}
	}
	if err := writeMap(pid, "gid_map", GID, id.gid); err != nil {
		return err
	}
	return writeMap(pid, "uid_map", UID, id.uid)
}

// namespaces returns those of init. It asks the kernel by init's descriptor where
// it can (Linux 6.11), as each link that is read in /proc has to be forgotten when
// init ends.
func (b *Box) namespaces() map[string]string {
	out := map[string]string{}
	_ = b.init.WithHandle(func(handle uintptr) {
		for _, k := range nsKinds {
			fd, err := unix.IoctlRetInt(int(handle), k.ask)
			if err != nil {
				return
			}
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil {
				out[k.file] = k.file + ":[" + strconv.FormatUint(st.Ino, 10) + "]"
			}
			unix.Close(fd)
		}
	})
	if len(out) < len(nsKinds) {
		return readNamespaces(strconv.Itoa(b.init.Pid))
	}
	return out
}

// A child that changes its user makes the memory that it shares with the host
// undumpable. dumpable gives the host back what it had, when the last such
// child has memory of its own.
type dumpable struct {
	mu       sync.Mutex
	children int
	was      int
}

var undumpable dumpable // it is a property of the process

func (d *dumpable) begin() (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.children++; d.children == 1 {
		d.was, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.children--; d.children == 0 && d.was == 1 {
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		}
	}
}
