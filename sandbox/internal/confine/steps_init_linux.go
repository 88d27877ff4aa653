//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptors of init once it is an image of its own.
const (
	fdControl = 0 // the control socket
	fdRules   = 1 // the Landlock ruleset, until the worker has taken it on
	fdFirst   = 1 // where descriptors that come with a request begin
)

// Where requests lie in init's memory: they are received behind the image's data,
// where there is no memory until it is used. A command that is too large for that
// is mapped.
const (
	requestBase = 0x420000
	requestSize = 16 << 10
	commandBase = 0x10000000
	commandMax  = 16 << 20
)

// What init says: packets of words, of which the first is one of these.
const (
	saysReady    = iota + 1 // results of seccomp, of Landlock, of opening the canary, of asking for a listener
	saysStarting            // request, pid: a child is about to execute; with its descriptor
	saysResult              // words of a header: op, errno, -, kind, request, pid
	saysExited              // pid, wait status, rusage
	saysListener            // with the descriptor of the filter's listener
	saysRoom                // with descriptors of the room: /dev/pts, and the listeners
)

const readyWords = 5

// Words of the header of a command.
const (
	headerKind = headerFirst + iota
	headerID
	headerPID
)

// Room for the program of a room: some twenty binds need a twentieth of it, and
// what is not used is not touched.
const (
	roomSteps  = 16 << 10
	roomMemory = 8 << 20
)

// newRoomProgram writes the beginning of the way of a room's pid 1: it waits. The
// control socket and the image of init are descriptors of the host above 2.
func newRoomProgram(control, image int) *roomProgram {
	r := &roomProgram{dirs: map[string]bool{}, maybe: map[Layer]slot{}}
	r.prog = *roomPrograms.Get().(*prog)
	r.roomFor, r.memory = roomSteps, roomMemory
	r.fail = r.label()
	r.layer = LayerUser
	begin := r.label()
	r.call("", callValue, 0).then(begin)
	r.mark(r.fail)
	r.call("end", unix.SYS_EXIT_GROUP, 1)
	r.mark(begin)
	// Nothing happens before the host has said who the room's user is and has
	// seen that no namespace is its own.
	// The child's copy of the host's end goes first: the end of the host, which
	// may come at any moment, closes the socket then.
	r.closeOthers(min(control, image), max(control, image))
	for fd := range 3 { // so that nothing else gets these numbers
		r.call("reserve low descriptors", unix.SYS_DUP3, control, fd, unix.O_CLOEXEC)
	}
	r.dieWithHost()
	r.receive("wait for the host", control)
	return r
}

// receive takes a word of the host, and the descriptors that come with it.
func (r *roomProgram) receive(what string, control int) {
	p := r.parcel(maxFDs)
	r.call(what, unix.SYS_RECVMSG, control, r.message(make([]byte, wordSize), p), unix.MSG_CMSG_CLOEXEC).ifZero(r.fail)
	r.incoming = append(r.incoming, p)
}

// receiveRest takes the descriptors that the first word had no room for, and has
// the host see that all of them have the numbers that the program knows them by.
func (r *roomProgram) receiveRest(inside []int, control int) {
	for n := maxFDs; n < len(inside); n += maxFDs {
		r.receive("take what the host delivers", control)
	}
	if len(inside) == 0 {
		return
	}
	r.expect(func(mem func(ref, int) []byte) error {
		for i, want := range inside {
			p := r.incoming[i/maxFDs]
			if got := binary.NativeEndian.Uint32(mem(ref(p.at(i%maxFDs)), 4)); int(got) != want {
				return fmt.Errorf("descriptor %d came as %d", want, got)
			}
		}
		return nil
	})
}

// build writes the rest of the way, until pid 1 executes the image of init.
func (r *roomProgram) build(p *plan, id identity, control, image, abi int, grouped bool) {
	r.spec = &p.order.Spec
	r.receiveRest(p.inside, control)
	if grouped { // its root is to be the group that the host has put it in
		r.in(LayerCgroup, func() { r.call("leave the host's groups from sight", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP) })
	}
	r.call("begin a session", unix.SYS_SETSID)
	if id.root {
		// Without supplementary groups, and as the mapped user rather than as a
		// root that has no name inside.
		r.call("leave the host's groups", unix.SYS_SETGROUPS, 0, 0)
		r.call("become the room's group", unix.SYS_SETRESGID, GID, GID, GID)
		r.call("become the room's user", unix.SYS_SETRESUID, UID, UID, UID)
	}
	r.dieWithHost() // again: a change of user forgets it
	r.call("clear the umask", unix.SYS_UMASK, 0)
	r.signals()
	r.in(LayerUTS, func() { r.call("set the host name", unix.SYS_SETHOSTNAME, r.spec.Hostname, len(r.spec.Hostname)) })
	targets := r.buildRoot(p)
	fds := r.outgoing()
	r.call("hand out /dev/pts", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0).to(fds[0].at(0))
	if p.order.IDMapped {
		r.layers = append(r.layers, LayerIDMap)
	}
	r.in(LayerNetwork, func() { r.network(fds) })
	for _, parcel := range fds {
		r.call("hand out descriptors", unix.SYS_SENDMSG, control, r.message([]byte{saysRoom, 0, 0, 0, 0, 0, 0, 0}, parcel), unix.MSG_NOSIGNAL)
	}
	// Best effort: the number of keys of a user is bounded, /proc/keys is hidden.
	r.optional(r.call("leave the host's keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0))
	rules := r.landlock(append(landlockRules(r.spec, targets), programRules(p.order.Runnable)...), abi)
	r.call("set the umask", unix.SYS_UMASK, 0o022)
	r.in(LayerCaps, func() {
		for c := 0; ; c++ {
			if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil {
				break // past the kernel's last capability
			}
			r.call(fmt.Sprintf("drop capability %d from the bounding set", c), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
		r.call("empty the ambient set", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
		r.capset(capData{})
	})
	if slices.Contains(r.spec.Without, LayerCaps) {
		r.keepCaps()
	}
	r.in(LayerNoNewPrivs, func() { r.call("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
	r.layer = LayerUser
	r.call("keep the control socket", unix.SYS_DUP3, control, fdControl, 0)
	next := fdControl + 1
	if rules != nil {
		r.call("keep the ruleset", unix.SYS_DUP3, *rules, fdRules, 0)
		if slices.Contains(r.spec.Optional, LayerLandlock) { // there may be none
			r.optional(&r.steps[len(r.steps)-1])
		}
		next++
	}
	r.call("close everything", unix.SYS_CLOSE_RANGE, next, image-1, 0)
	r.call("close everything", unix.SYS_CLOSE_RANGE, image+1, math.MaxUint32, 0)
	r.in(LayerRlimits, r.limits)
	argv := r.reserve(2 * wordSize)
	r.point(argv, r.putString("twinward-init"))
	r.call("execute init", unix.SYS_EXECVEAT, image, "", argv, argv+wordSize, unix.AT_EMPTY_PATH)
}

func (r *roomProgram) dieWithHost() {
	r.call("die with the host", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0)
}

// closeOthers closes the child's copies of whatever else the host has open. keep
// is in order.
func (r *roomProgram) closeOthers(keep ...int) {
	from := 0
	for _, fd := range keep {
		if fd > from {
			r.call("close the host's descriptors", unix.SYS_CLOSE_RANGE, from, fd-1, 0)
		}
		from = fd + 1
	}
	r.call("close the host's descriptors", unix.SYS_CLOSE_RANGE, from, math.MaxUint32, 0)
}

// signals forgets what the host ignores, which would be inherited.
func (r *roomProgram) signals() {
	act := r.reserve(4 * wordSize) // struct sigaction: SIG_DFL
	for sig := 1; sig <= 64; sig++ {
		if sig != int(unix.SIGKILL) && sig != int(unix.SIGSTOP) {
			r.call("reset signals", unix.SYS_RT_SIGACTION, sig, act, 0, wordSize)
		}
	}
}

// A parcel is a control message of descriptors (SCM_RIGHTS).
type parcel struct {
	cmsg ref
	n    int
}

// parcel returns a new parcel of n descriptors.
func (p *prog) parcel(n int) parcel {
	at := p.reserve(2*wordSize + (n+1)*4) // a result is a word, a descriptor is half of one
	binary.NativeEndian.PutUint64(p.data[at:], uint64(2*wordSize+4*n))
	binary.NativeEndian.PutUint32(p.data[at+wordSize:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(p.data[at+wordSize+4:], unix.SCM_RIGHTS)
	return parcel{at, n}
}

// at is where a descriptor is put. It can be used until the next one is there.
func (p parcel) at(i int) slot { return slot(p.cmsg) + 2*wordSize + slot(4*i) }

// message returns a struct msghdr of a text and descriptors.
func (p *prog) message(text []byte, fds parcel) ref { return p.messageAt(p.put(text), len(text), fds) }

// messageAt is message for a text that is there already.
func (p *prog) messageAt(text ref, size int, fds parcel) ref {
	iov, msg := p.reserve(2*wordSize), p.reserve(7*wordSize)
	p.point(iov, text)
	binary.NativeEndian.PutUint64(p.data[iov+wordSize:], uint64(size))
	p.point(msg+2*wordSize, iov)
	binary.NativeEndian.PutUint64(p.data[msg+3*wordSize:], 1)
	p.point(msg+4*wordSize, fds.cmsg)
	binary.NativeEndian.PutUint64(p.data[msg+5*wordSize:], uint64(2*wordSize+(4*fds.n+7)/8*8))
	return msg
}

// outgoing returns the parcels of what the host is to have of the room:
// /dev/pts, then the listeners of the ports, of DNS over TCP and over UDP.
func (r *roomProgram) outgoing() (out []parcel) {
	n := 1
	if !slices.Contains(r.spec.Without, LayerNetwork) {
		n += len(r.spec.Ports) + 2
	}
	for ; n > 0; n -= listenersPerPacket {
		out = append(out, r.parcel(min(n, listenersPerPacket)))
	}
	return out
}

// network brings lo up and routes everything to it, see netns_linux.go, and makes
// the listeners, which come behind the first of the descriptors.
func (r *roomProgram) network(fds []parcel) {
	nl := r.slot()
	r.call("netlink", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE).to(nl)
	request := func(what string, kind, flags uint16, body []byte) {
		b := netlinkRequest(kind, flags, body)
		answer, n := r.reserve(4096), r.slot()
		addr := make([]byte, unix.SizeofSockaddrNetlink)
		binary.NativeEndian.PutUint16(addr, unix.AF_NETLINK)
		r.call(what, unix.SYS_SENDTO, nl, b, len(b), 0, addr, len(addr))
		r.call(what, unix.SYS_RECVFROM, nl, answer, 4096, 0, 0, 0).to(n)
		r.expect(func(mem func(ref, int) []byte) error {
			return netlinkAnswer(mem(answer, int(min(binary.NativeEndian.Uint64(mem(ref(n), wordSize)), 4096))))
		})
	}
	request("bring lo up", unix.RTM_NEWLINK, 0, linkUp())
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request(fmt.Sprintf("route everything to lo (family %d)", family), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, localRoute(family))
	}
	next := 0
	listen := func(kind int, port uint16) {
		next++
		r.listener(kind, port, fds[next/listenersPerPacket].at(next%listenersPerPacket))
	}
	for _, port := range r.spec.Ports {
		listen(unix.SOCK_STREAM, port)
	}
	listen(unix.SOCK_STREAM, DNSPort)
	listen(unix.SOCK_DGRAM, DNSPort)
}

// landlock makes the ruleset that the worker will take on.
func (r *roomProgram) landlock(rules []rule, abi int) *slot {
	if abi == 0 {
		return nil
	}
	var set *slot
	r.in(LayerLandlock, func() {
		s := r.slot()
		set = &s
		attr, size := landlockAttr(abi)
		r.call("create the ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, bytesOf(&attr), int(size), 0).to(s)
		for _, rule := range rules {
			what := "rule for " + rule.path
			fd, skip := r.slot(), r.label()
			open := r.call(what, unix.SYS_OPENAT, unix.AT_FDCWD, rule.path, unix.O_PATH|unix.O_CLOEXEC, 0).to(fd)
			if rule.id == nil {
				open.orElse(skip, unix.ENOENT) // nothing there, nothing to grant
			}
			st := r.reserve(int(unsafe.Sizeof(unix.Stat_t{})))
			if want := rule.id; want != nil {
				r.call(what, unix.SYS_FSTAT, fd, st)
				r.expect(func(mem func(ref, int) []byte) error {
					var got unix.Stat_t
					copy(bytesOf(&got), mem(st, int(unsafe.Sizeof(got))))
					if idOf(&got) != *want {
						return errReplaced
					}
					return nil
				})
			}
			beneath := func(access uint64) ref { // struct landlock_path_beneath_attr
				at := r.reserve(2 * wordSize)
				binary.NativeEndian.PutUint64(r.data[at:], access)
				r.call("", callValue, fd).to(slot(at + wordSize))
				return at
			}
			access, file := rule.access&attr.Handled_access_fs, r.label()
			dir := beneath(access)
			r.call(what, unix.SYS_LANDLOCK_ADD_RULE, s, unix.LANDLOCK_RULE_PATH_BENEATH, dir, 0).orElse(file, unix.EINVAL)
			added := r.label()
			r.call("", callValue, 0).then(added)
			r.mark(file) // it is no directory, and some rights are for directories only
			r.call(what, unix.SYS_LANDLOCK_ADD_RULE, s, unix.LANDLOCK_RULE_PATH_BENEATH, beneath(access&accessFile), 0)
			r.mark(added)
			r.call("close", unix.SYS_CLOSE, fd)
			r.mark(skip)
		}
	})
	// Whether it is in force is what the worker says.
	r.layers = slices.DeleteFunc(r.layers, func(l Layer) bool { return l == LayerLandlock })
	return set
}

func (r *roomProgram) capset(d capData) {
	h := capHeader{version: unix.LINUX_CAPABILITY_VERSION_3}
	r.call("set the capability sets", unix.SYS_CAPSET, bytesOf(&h), bytesOf(&d))
}

// keepCaps lets commands have capabilities: for the tests that leave the layer
// out.
func (r *roomProgram) keepCaps() {
	keep := []int{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP}
	var d capData
	for _, c := range keep {
		d[0].effective |= 1 << c
	}
	d[0].permitted, d[0].inheritable = d[0].effective, d[0].effective
	r.capset(d)
	for _, c := range keep {
		r.call("keep a capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0)
	}
}

func (r *roomProgram) limits() {
	for _, l := range limitsOf(r.spec.Limits) {
		if !l.ofCommands() {
			r.limit(l)
		}
	}
}

func (p *prog) limit(l limit) {
	lim := l.value
	p.call(l.name, unix.SYS_PRLIMIT64, 0, l.which, bytesOf(&lim), 0)
}

// An initProgram is what init is once it has been executed: the leader reaps,
// and one thread, which has walked through every layer, executes requests.
type initProgram struct {
	prog
	loop   label   // of the worker: a signal request ends here
	done   label   // of the worker: a command request ends here
	limits []limit // that commands have and init has not
}

func (p *initProgram) addr(l label) uint64 { return p.labelAddr(imageData, l) }

func newInitProgram(ord *order, abi int) *initProgram {
	p, spec := &initProgram{}, &ord.Spec
	p.fail = p.label()
	end := p.fail
	has := func(l Layer) bool { return !slices.Contains(spec.Without, l) }
	if has(LayerRlimits) {
		p.limits = slices.DeleteFunc(limitsOf(spec.Limits), func(l limit) bool { return !l.ofCommands() })
	}
	ready := p.reserve(readyWords * wordSize)
	binary.NativeEndian.PutUint64(p.data[ready:], saysReady)
	result := func(i int) slot { return slot(ready) + slot(i*wordSize) }

	p.call("hide init's memory", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if has(LayerSeccomp) {
		p.filter(ord, result(1), result(4))
	}
	worker := p.label()
	p.call("start the worker", unix.SYS_CLONE,
		unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_SYSVSEM, 0, 0, 0, 0).ifZero(worker)

	// The leader. All signals are blocked in all of init, so a child's end is
	// kept until somebody asks for it.
	const rusage = int(unsafe.Sizeof(unix.Rusage{}))
	exited := p.reserve(3*wordSize + rusage)
	binary.NativeEndian.PutUint64(p.data[exited:], saysExited)
	reap, sleep := p.label(), p.label()
	p.mark(reap)
	p.call("reap", unix.SYS_WAIT4, -1, exited+2*wordSize, unix.WNOHANG, exited+3*wordSize).to(slot(exited + wordSize)).ifZero(sleep).orElse(sleep)
	p.call("report an end", unix.SYS_SENDTO, fdControl, exited, 3*wordSize+rusage, unix.MSG_NOSIGNAL, 0, 0).then(reap)
	p.mark(sleep)
	chld := make([]byte, wordSize)
	binary.NativeEndian.PutUint64(chld, 1<<(int(unix.SIGCHLD)-1))
	p.call("sleep", unix.SYS_RT_SIGTIMEDWAIT, chld, 0, 0, wordSize).then(reap).orElse(reap)

	// The worker.
	p.mark(worker)
	if has(LayerLandlock) {
		p.optional(p.call("enter the Landlock domain", unix.SYS_LANDLOCK_RESTRICT_SELF, fdRules, landlockFlags(abi, ord.LogLandlock)).to(result(2)))
	}
	p.optional(p.call("look for the canary", unix.SYS_OPENAT, unix.AT_FDCWD, canary, unix.O_RDONLY|unix.O_CLOEXEC, 0).to(result(3)))
	p.call("close", unix.SYS_CLOSE_RANGE, fdFirst, math.MaxUint32, 0)
	p.call("be ready", unix.SYS_SENDTO, fdControl, ready, readyWords*wordSize, unix.MSG_NOSIGNAL, 0, 0)

	const oobSize = 16 + 4*256
	iov, oob, msg := p.reserve(2*wordSize), p.reserve(oobSize), p.reserve(7*wordSize)
	p.point(iov, uint64(requestBase))
	binary.NativeEndian.PutUint64(p.data[iov+wordSize:], requestSize)
	p.point(msg+2*wordSize, iov)
	binary.NativeEndian.PutUint64(p.data[msg+3*wordSize:], 1)
	p.point(msg+4*wordSize, oob)
	p.loop = p.label()
	p.mark(p.loop)
	p.call("", callValue, oobSize).to(slot(msg + 5*wordSize))
	p.call("receive a request", unix.SYS_RECVMSG, fdControl, msg, unix.MSG_CMSG_CLOEXEC).
		ifZero(end).orElse(p.loop, unix.EINTR).then(uint64(requestBase + wordSize*headerWords))
	p.done = p.label()
	p.mark(p.done)
	p.call("", callHeader, head(0))
	p.call("forget the request", unix.SYS_MUNMAP, commandBase, commandMax)
	p.call("close what came with it", unix.SYS_CLOSE_RANGE, fdFirst, math.MaxUint32, 0).then(p.loop)
	p.mark(p.fail)
	p.call("end", unix.SYS_EXIT_GROUP, 1)
	return p
}

// filter installs the system call filter, with a listener that goes to the host
// if it wants one and the kernel gives one.
func (p *initProgram) filter(ord *order, result, asked slot) {
	install := func(kind filterKind, flags int, out slot) *step {
		f := filter(kind)
		prog := p.reserve(2 * wordSize) // struct sock_fprog
		binary.NativeEndian.PutUint16(p.data[prog:], uint16(len(f)))
		p.point(prog+wordSize, p.put(unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), len(f)*int(unsafe.Sizeof(f[0])))))
		return p.call("filter system calls", unix.SYS_SECCOMP, seccompSetModeFilter, flags, prog).to(out)
	}
	kind, plain, end := ord.filterKind(), p.label(), p.label()
	if ord.Notify {
		kind.notify = true
		install(kind, seccompNewListener|seccompWaitKillable, asked).orElse(plain)
		kind.notify = false
		fds := p.parcel(1)
		p.call("", callValue, asked).to(fds.at(0))
		p.call("hand out the listener", unix.SYS_SENDMSG, fdControl, p.message([]byte{saysListener, 0, 0, 0, 0, 0, 0, 0}, fds), unix.MSG_NOSIGNAL)
		p.call("close", unix.SYS_CLOSE, asked).then(end)
	}
	p.mark(plain)
	p.optional(install(kind, 0, result))
	p.mark(end)
}

// groupRequest sends a signal to the process group of a child of init, unless it
// has been reaped: its descriptor, which comes with the request, says so. It is
// for kernels that cannot signal a group by such a descriptor.
func (p *initProgram) groupRequest(pid, sig int) []byte {
	r := &prog{}
	r.fail = r.label()
	r.call("", callHeader, head(0))
	r.call("find the child", unix.SYS_PIDFD_SEND_SIGNAL, fdFirst, 0, 0, 0)
	r.call("signal", unix.SYS_KILL, -pid, sig).then(p.addr(p.done))
	r.mark(r.fail) // an error is no news: it has ended
	r.call("", callHeader, imageData).then(p.addr(p.done))
	b := make([]byte, r.size())
	r.link(b, requestBase)
	return b
}

// largeRequest maps a command, which came as the first descriptor, and runs it.
func (p *initProgram) largeRequest(id uint64, size int) []byte {
	r := &prog{}
	r.fail = r.label()
	r.call("", callHeader, head(0))
	r.call("", callValue, saysResult).to(head(headerKind))
	r.call("", callValue, id).to(head(headerID))
	r.call("map the command", unix.SYS_MMAP, commandBase, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED, fdFirst, 0).
		then(uint64(commandBase + wordSize*headerWords))
	r.mark(r.fail)
	r.call("refuse", unix.SYS_SENDTO, fdControl, head(0), wordSize*headerWords, unix.MSG_NOSIGNAL, 0, 0).then(p.addr(p.done))
	b := make([]byte, r.size())
	r.link(b, requestBase)
	return b
}
