//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Sockets of a living room's network are made by a child of the host that joins
// the room's user and network namespace, makes them, and is gone. It shares the
// descriptor table with the host, so they are the host's at once. It never
// enters the pid namespace: nothing inside can see, signal or trace it.

// Listen opens further listeners in the network of a living room, on every
// address, also on ports below 1024. Either all ports are opened or none.
func (b *Box) Listen(ports []uint16) (map[uint16]net.Listener, error) {
	if len(ports) > MaxPorts {
		return nil, fmt.Errorf("%d ports, more than %d", len(ports), MaxPorts)
	}
	s := &socketProgram{}
	for _, port := range ports {
		s.listener(port)
	}
	files, err := s.run(b)
	if err != nil {
		return nil, err
	}
	defer closeFiles(files)
	out := map[uint16]net.Listener{}
	for i, port := range ports {
		if out[port], err = net.FileListener(files[i]); err != nil {
			delete(out, port)
			for _, ln := range out {
				ln.Close()
			}
			return nil, fmt.Errorf("listener of port %d: %w", port, err)
		}
	}
	return out, nil
}

// Packets returns a packet socket (AF_PACKET, SOCK_DGRAM, all protocols) on the
// room's only interface: it sees what programs inside send, and what refuses it.
// The caller sets a filter before it reads.
func (b *Box) Packets() (*os.File, error) {
	const everything = 0x0300 // htons(ETH_P_ALL)
	s := &socketProgram{}
	addr := make([]byte, 20) // struct sockaddr_ll
	binary.NativeEndian.PutUint16(addr, unix.AF_PACKET)
	binary.NativeEndian.PutUint16(addr[2:], everything)
	binary.NativeEndian.PutUint32(addr[4:], loIndex)
	fd := s.socket("packets", unix.AF_PACKET, unix.SOCK_DGRAM, everything)
	s.call("watch lo", unix.SYS_BIND, fd, addr, len(addr))
	files, err := s.run(b)
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// InitPID returns the process id of the room's pid 1 on the host. It is not
// reused before [Box.Done] is closed.
func (b *Box) InitPID() int { return b.init.Pid }

// A socketProgram makes sockets and leaves them open.
type socketProgram struct {
	prog
	fds []slot
}

func (s *socketProgram) fd() slot {
	s.layer = LayerNetwork
	fd := s.slot()
	s.fds = append(s.fds, fd)
	return fd
}

func (s *socketProgram) socket(what string, family, kind, protocol int) slot {
	fd := s.fd()
	s.prog.socket(what, family, kind, protocol, fd)
	return fd
}

func (s *socketProgram) listener(port uint16) { s.prog.listener(unix.SOCK_STREAM, port, s.fd()) }

func (p *prog) socket(what string, family, kind, protocol int, fd slot) {
	p.call("socket for "+what, unix.SYS_SOCKET, family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol).to(fd)
}

// listener appends what [wildcard] does.
func (p *prog) listener(kind int, port uint16, fd slot) {
	what := fmt.Sprintf("port %d", port)
	p.socket(what, unix.AF_INET6, kind, 0, fd)
	one, zero := []byte{1, 0, 0, 0}, []byte{0, 0, 0, 0}
	p.call("both families on "+what, unix.SYS_SETSOCKOPT, fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, zero, 4)
	if kind == unix.SOCK_STREAM {
		p.call("reuse "+what, unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, one, 4)
	}
	var addr [unix.SizeofSockaddrInet6]byte
	binary.NativeEndian.PutUint16(addr[:], unix.AF_INET6)
	binary.BigEndian.PutUint16(addr[2:], port)
	p.call("bind "+what, unix.SYS_BIND, fd, addr[:], len(addr))
	if kind == unix.SOCK_STREAM {
		p.call("listen on "+what, unix.SYS_LISTEN, fd, unix.SOMAXCONN)
	}
}

// run executes the program in the room's network.
func (s *socketProgram) run(b *Box) (files []*os.File, err error) {
	gone := b.init.WithHandle(func(handle uintptr) { files, err = s.runAt(int(handle)) })
	if errors.Is(gone, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil, ErrEnded
	}
	return files, errors.Join(gone, err)
}

func (s *socketProgram) runAt(pidfd int) ([]*os.File, error) {
	// Joining comes first, but is written last: the sockets are known only now.
	p := &prog{layer: LayerNetwork, data: s.data}
	p.fail = p.label()
	p.call("enter the room's network", unix.SYS_SETNS, pidfd, unix.CLONE_NEWUSER|unix.CLONE_NEWNET)
	p.steps = append(p.steps, s.steps...)
	p.mark(p.fail)
	p.call("end", unix.SYS_EXIT, 0)
	blk, err := newBlock(p)
	if err != nil {
		return nil, err
	}
	defer blk.free()
	for _, fd := range s.fds {
		binary.NativeEndian.PutUint64(blk.at(ref(fd), wordSize), ^uint64(0))
	}
	pid, err := blk.run(unix.CLONE_FILES)
	if err != nil {
		return nil, &LayerError{Layer: LayerNetwork, Step: "start a helper", Err: err}
	}
	err = wait(pid)
	if err == nil {
		err = blk.failure()
	}
	var files []*os.File
	for _, fd := range s.fds {
		if n := blk.word(fd); n >= 0 {
			files = append(files, os.NewFile(uintptr(n), "socket"))
		}
	}
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
