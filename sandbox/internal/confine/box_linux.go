//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Box is a room that stands. Its methods may be called concurrently.
type Box struct {
	// Listeners belong to the caller once Launch has returned.
	Listeners Listeners

	id     identity
	pts    int // O_PATH descriptor of the room's /dev/pts
	sock   *os.File
	mail   mailbox // of whoever receives
	init   *os.Process
	exited chan struct{} // init is reaped, and so everything inside is dead
	done   chan struct{} // and everybody who waited has been told
	report Report
	proto  protocol

	denials *os.File       // the filter's listener, nil when there is none
	audit   *os.File       // hears the kernel's audit log, nil when it cannot
	telling sync.WaitGroup // whoever serves these

	shared *sharedRoom // nil when the room has namespaces
	cgroup *cgroup     // nil without total limits
	used   Usage       // when the room has ended

	patience time.Duration // with an init that does not start what it was asked to
	answered atomic.Uint64 // requests to start a command

	mu    sync.Mutex
	next  uint64
	procs map[uint64]*Process
	ended bool
}

// startPatience is the patience of every room but those of tests.
const startPatience = time.Minute

// gone is what those hear who wait when a room ends.
var gone = &message{Kind: msgRefused}

// A Process is one command in a room.
type Process struct {
	PID  int // inside
	box  *Box
	id   uint64
	said chan *message // started or refused
	exit chan Exit
	// handle is the kernel's descriptor of the command (a pidfd), which comes before
	// the answer; nil where init keeps account of its children itself.
	handle *os.File
}

// Report returns what init found about itself.
func (b *Box) Report() Report { return b.report }

// Done is closed when the room has ended, whoever ended it.
func (b *Box) Done() <-chan struct{} { return b.done }

// Close ends the room and everything inside, and returns when it is gone.
func (b *Box) Close() {
	b.kill()
	<-b.done
}

func (b *Box) kill() {
	if b.shared != nil {
		b.shared.hangUp()
		return
	}
	_ = b.init.Kill()
}

func (b *Box) closeListeners() {
	for _, ln := range b.Listeners.TCP {
		ln.Close()
	}
	if b.Listeners.DNSTCP != nil {
		b.Listeners.DNSTCP.Close()
	}
	if b.Listeners.DNSUDP != nil {
		b.Listeners.DNSUDP.Close()
	}
}

// Exec starts a command. files are its descriptors from 0 on; nil stands for
// /dev/null. The command gets copies, the caller keeps what it passed.
func (b *Box) Exec(e Exec, files []*os.File) (*Process, error) {
	// The kernel would take what comes before a NUL for the whole.
	for _, list := range [][]string{{e.Path, e.Dir}, e.Args, e.Env} {
		if slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "\x00") }) {
			return nil, &ExecError{Path: e.Path, Err: unix.EINVAL}
		}
	}
	var null []bool
	var fds []int
	for _, f := range files {
		null = append(null, f == nil)
		if f != nil {
			fds = append(fds, int(f.Fd()))
		}
	}
	p := &Process{box: b, said: make(chan *message, 1), exit: make(chan Exit, 1)}
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return nil, &ExecError{Path: e.Path, Err: ErrEnded}
	}
	b.next++
	p.id = b.next
	b.procs[p.id] = p
	b.mu.Unlock()

	packet, body, err := b.proto.command(p.id, e, null)
	if err == nil {
		if body >= 0 {
			fds = append([]int{body}, fds...)
		}
		err = b.send(packet, fds...)
		closeAll([]int{body})
	}
	if err != nil {
		b.forget(p.id)
		return nil, &ExecError{Path: e.Path, Err: err}
	}
	answer := b.answer(p, e.Done)
	if answer == nil {
		go b.abandon(p)
		return nil, &ExecError{Path: e.Path, Err: ErrAbandoned}
	}
	if answer.Kind == msgRefused {
		b.forget(p.id)
		p.letGo()
		err := error(answer.Errno)
		switch {
		case answer == gone:
			err = ErrEnded
		case answer.Errno == 0:
			err = errors.New(answer.Text)
		}
		return nil, &ExecError{Path: e.Path, Err: err}
	}
	p.PID = answer.PID
	return p, nil
}

// abandon kills p as soon as it is there.
func (b *Box) abandon(p *Process) {
	answer := b.answer(p, nil)
	if answer.Kind == msgRefused {
		b.forget(p.id)
		p.letGo()
		return
	}
	p.PID = answer.PID
	_ = p.Signal(unix.SIGKILL, true) // without a room it is dead
	_ = p.Wait()
}

// answer waits until init has started p, or has not; it returns nil when done is
// closed before that. Whoever stops init's child
// in the moment before it executes (SIGSTOP cannot be blocked) also stops init,
// which could then not even kill for the host. Such a room is ended.
func (b *Box) answer(p *Process, done <-chan struct{}) *message {
	seen := b.answered.Load()
	// Twice, as the host itself may have been stopped for that long.
	for idle := 0; idle < 2; idle++ {
		select {
		case m := <-p.said:
			return m
		case <-done:
			return nil
		case <-time.After(b.patience / 2):
		}
		if now := b.answered.Load(); now != seen { // there is a queue, and it moves
			seen, idle = now, -1
		}
	}
	b.kill()
	return <-p.said
}

// Wait returns how the command ended. It may be called once.
func (p *Process) Wait() Exit {
	e := <-p.exit
	p.letGo()
	return e
}

func (p *Process) letGo() {
	if p.handle != nil {
		p.handle.Close()
	}
}

// Signal sends a signal to the command or, with group, to all processes of its
// group. A command that has ended gets none.
func (p *Process) Signal(sig syscall.Signal, group bool) error {
	if p.handle != nil {
		return p.signalBy(sig, group)
	}
	packet, err := p.box.proto.signal(p, int(sig), group)
	if err != nil || packet == nil {
		return err
	}
	return p.box.send(packet)
}

// signalBy signals by the command's descriptor, which stands for that command
// and no other, whoever has its number by now.
func (p *Process) signalBy(sig syscall.Signal, group bool) error {
	raw, err := p.handle.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		// A group may outlive the command that leads it.
		if sent = unix.PidfdSendSignal(int(fd), 0, nil, 0); sent != nil {
			return
		}
		if !group {
			sent = unix.PidfdSendSignal(int(fd), sig, nil, 0)
			return
		}
		const toGroup = 1 << 2                                                            // PIDFD_SIGNAL_PROCESS_GROUP
		if sent = unix.PidfdSendSignal(int(fd), sig, nil, toGroup); sent == unix.EINVAL { // before Linux 6.9
			var packet []byte
			if packet, sent = p.box.proto.signal(p, int(sig), true); sent == nil {
				sent = p.box.send(packet, int(fd))
			}
		}
	})
	if err != nil || sent == unix.ESRCH {
		return nil // it has ended: Wait closes the descriptor
	}
	return sent
}

// receive hands out what init says until it is gone.
func (b *Box) receive() {
	for {
		packet, fds, err := b.recv()
		var said []*message
		if err == nil {
			said, err = b.proto.decode(packet)
		}
		if err != nil {
			closeAll(fds)
			break
		}
		for _, m := range said {
			if m.Kind == msgStarting && len(fds) == 1 {
				m.handle, fds = os.NewFile(uintptr(fds[0]), "command"), nil
			}
			b.deliver(m)
		}
		closeAll(fds)
	}
	b.kill()
	<-b.exited
	b.stopDenials()
	b.mu.Lock()
	if b.cgroup != nil {
		b.used = b.cgroup.usage()
		b.cgroup.remove()
	}
	b.ended = true
	for _, p := range b.procs {
		select {
		case p.said <- gone:
		default:
		}
		p.exit <- Exit{Code: -1, Signal: int(unix.SIGKILL), Lost: true}
	}
	clear(b.procs)
	closeAll([]int{b.pts})
	b.mu.Unlock()
	b.sock.Close()
	close(b.done)
}

func (b *Box) deliver(m *message) {
	if m.Kind == msgStarted || m.Kind == msgRefused {
		b.answered.Add(1)
	}
	b.mu.Lock()
	p := b.procs[m.ID]
	if m.Kind == msgExited {
		delete(b.procs, m.ID)
	}
	b.mu.Unlock()
	switch {
	case p == nil:
		if m.handle != nil {
			m.handle.Close()
		}
	case m.Kind == msgStarting:
		p.handle = m.handle
	case m.Kind == msgExited:
		p.exit <- *m.Exit
	case m.Kind == msgStarted || m.Kind == msgRefused:
		p.said <- m
	}
}

func (b *Box) forget(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.procs, id)
}

func (b *Box) send(packet []byte, fds ...int) error {
	raw, err := b.sock.SyscallConn()
	if err != nil {
		return ErrEnded
	}
	var sendErr error
	if err := raw.Write(func(fd uintptr) bool {
		sendErr = sendPacket(int(fd), packet, fds...)
		return sendErr != unix.EAGAIN
	}); err != nil {
		return ErrEnded
	}
	if sendErr == unix.EPIPE || sendErr == unix.ECONNRESET {
		return ErrEnded // init is dead, and nobody has waited for it yet
	}
	return sendErr
}

// recv returns what init says next, until the next call. One goroutine calls it.
func (b *Box) recv() (packet []byte, fds []int, err error) {
	raw, err := b.sock.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var recvErr error
	if err := raw.Read(func(fd uintptr) bool {
		packet, fds, recvErr = b.mail.recvPacket(int(fd))
		return recvErr != unix.EAGAIN
	}); err != nil {
		return nil, nil, err
	}
	return packet, fds, recvErr
}

// startProcess is os.StartProcess for descriptors that are not files of package
// os. They stay open here.
func startProcess(path string, fds []int, attr *syscall.SysProcAttr) (*os.Process, error) {
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	pid, _, err := syscall.StartProcess(path, []string{"twinward-init"}, &syscall.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: attr})
	if err != nil {
		return nil, err
	}
	return os.FindProcess(pid)
}

// Pipe returns a pipe whose ends a program inside may also open anew, as
// /dev/stdout: for that they must belong to the room's user.
func (b *Box) Pipe() (r, w *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil || !b.id.root {
		return r, w, err
	}
	if err := r.Chown(b.id.uid, b.id.gid); err != nil {
		r.Close()
		w.Close()
		return nil, nil, err
	}
	return r, w, nil
}
