//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sharedRoom is what the host keeps of a room of [TierNoNamespaces].
type sharedRoom struct {
	box      *Box
	tell     func(Denial)
	port     uint16     // of the proxy, as programs name it
	proxy    *ownSocket // where it really is
	writable []string   // without symbolic links
	last     sync.Once  // when init was told to end
}

// prepareShared refuses what such a room cannot be held to, and gives the room's
// user what is to be his.
func (d *delivery) prepareShared(spec *Spec, id identity) error {
	cannot := func(step, why, hint string) error {
		return &LayerError{Layer: LayerMount, Step: step, Err: errors.New(why), Hint: hint}
	}
	switch {
	case spec.Side == "" || spec.ProxyPort == 0:
		return errors.New("a room without namespaces takes a side directory and a port for the proxy")
	case len(spec.Ports) > 0:
		return &LayerError{Layer: LayerNet, Step: "listen inside", Err: errShared}
	case spec.ExecStrict:
		return cannot("process.exec: strict", "no mount keeps what was written inside from being mapped as code", "leave it out, or use a host with user namespaces")
	case len(spec.Devices) > 0:
		return cannot("show devices", "this tier has the usual ones only", "leave them out, or use a host with user namespaces")
	case len(spec.Protect) > 0:
		return cannot("protect "+spec.Protect[0], "Landlock cannot take back a right beneath a folder in which it grants it", "write protect: [] and treat the workspace as untrusted, or use a host with user namespaces")
	}
	dirs := writableDirs(d.order.Workspace, d.order.Places)
	for _, p := range d.order.Places {
		for _, dir := range dirs {
			in, err := within(p.Real, dir)
			if err != nil {
				return &LayerError{Layer: LayerMount, Step: "look where " + p.Source + " lies", Err: err}
			}
			if in && !p.Writable {
				return cannot("show "+p.Source+" read-only", "it lies beneath "+dir+", which is writable, and Landlock cannot take back a right", "keep it apart from what is writable")
			}
		}
	}
	if !id.root {
		return nil
	}
	if !spec.OwnWorkspace || len(dirs) > 1 {
		return &LayerError{Layer: LayerIDMap, Step: "translate the owner of " + dirs[len(dirs)-1], Err: errShared,
			Hint: "a host that is root has only workspaces that Start makes in this tier: Import and Export files, or run the host as an ordinary user"}
	}
	return os.Chown(spec.Side+"/tmp", id.uid, id.gid)
}

// newShared makes the host's side of the room.
func newShared(b *Box, spec *Spec, d *delivery) (*sharedRoom, error) {
	r := &sharedRoom{box: b, tell: spec.OnDenial, port: spec.ProxyPort}
	if r.tell == nil {
		r.tell = func(Denial) {}
	}
	if err := tryTaking(b.id); err != nil {
		return nil, err
	}
	side, _, err := resolve(spec.Side)
	if err != nil {
		return nil, err
	}
	r.writable = append(writableDirs(d.order.Workspace, d.order.Places), side+"/tmp")
	if err := os.WriteFile(spec.Side+"/canary", nil, 0o644); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, &LayerError{Layer: LayerNetwork, Step: "listen on loopback", Err: err}
	}
	r.proxy = &ownSocket{TCPListener: ln.(*net.TCPListener), expected: map[uint16]bool{}}
	return r, nil
}

// attr is how init is started: as the room's user, and not to die before it has
// ended the room.
func (r *sharedRoom) attr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	if id := r.box.id; id.root {
		a.Credential = &syscall.Credential{Uid: uint32(id.uid), Gid: uint32(id.gid)}
	}
	return a
}

// hangUp makes init end the room and itself. An init that does not is killed: what
// runs inside then stays as confined as it was, and loses its network.
func (r *sharedRoom) hangUp() {
	if raw, err := r.box.sock.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	r.last.Do(func() { time.AfterFunc(r.box.patience, func() { _ = r.box.init.Kill() }) })
}

// maxCalls bounds the calls of a room that the host works on at one time.
const maxCalls = 64

// serve makes the calls that the room puts to the host, and refuses the rest.
func (r *sharedRoom) serve() {
	var working sync.WaitGroup
	defer working.Wait()
	busy := make(chan struct{}, maxCalls)
	listener, refused := r.box.denials, 0
	serveCalls(listener, func(n *notification) {
		work := r.attributes
		switch nr := uintptr(n.nr); {
		case nr == unix.SYS_CONNECT:
			work = r.connect
		case !slices.Contains(attributeCalls, nr):
			d := n.denial()
			n.answer(listener, unix.EPERM)
			r.tell(d)
			if refused++; refused >= denialsAtOnce {
				time.Sleep(denialPause)
			}
			return
		}
		busy <- struct{}{}
		working.Go(func() {
			defer func() { <-busy }()
			n.answer(listener, work(n))
		})
	})
}

// An ownSocket is a listener on the host's loopback that accepts only
// connections which the host has made itself, for programs of one room. Others
// of the machine can dial it, and are turned away.
type ownSocket struct {
	*net.TCPListener
	mu       sync.Mutex
	expected map[uint16]bool // ports that connections will come from
}

// expect is called before a socket that is bound to a port of 127.0.0.1 connects.
// Nobody else can connect from there meanwhile.
func (l *ownSocket) expect(port uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expected[port] = true
}

// forget reports whether port was expected, and no longer is.
func (l *ownSocket) forget(port uint16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.expected[port]
	delete(l.expected, port)
	return was
}

func (l *ownSocket) Accept() (net.Conn, error) {
	for {
		c, err := l.TCPListener.AcceptTCP()
		if err != nil {
			return nil, err
		}
		from, ok := c.RemoteAddr().(*net.TCPAddr)
		if ok && l.forget(uint16(from.Port)) {
			return c, nil
		}
		_ = c.SetLinger(0)
		c.Close()
	}
}
