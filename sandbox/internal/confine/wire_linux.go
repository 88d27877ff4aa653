package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Host and init talk over one SOCK_SEQPACKET socket: a packet is one message,
// its descriptors travel with it. Bodies that have no small bound (arguments,
// environment) travel as a memory file, the first descriptor of the packet.

const (
	maxPacket = 16 << 10
	maxFDs    = 250 // the kernel's SCM_MAX_FD is 253
	maxBody   = 8 << 20
)

// The kinds of a message.
const (
	msgListeners = "listeners" // init → host: descriptors, in the order of the spec's ports, then DNS over TCP and UDP
	msgTerminals = "terminals" // init → host: descriptor of /dev/pts
	msgDenials   = "denials"   // init → host: the listener of the system call filter
	msgReady     = "ready"     // init → host: confined
	msgFailed    = "failed"    // init → host: a layer could not be made
	msgExec      = "exec"      // host → init: body, then the command's descriptors
	msgStarting  = "starting"  // init → host: descriptor of a command that is about to execute
	msgStarted   = "started"   // init → host
	msgRefused   = "refused"   // init → host: the command could not be started
	msgExited    = "exited"    // init → host
	msgSignal    = "signal"    // host → init
)

type message struct {
	Kind string
	ID   uint64 `json:",omitempty"`
	PID  int    `json:",omitempty"`
	// Null says for each descriptor of a command whether it is /dev/null, or the
	// next one that came with the message.
	Null   []bool     `json:",omitempty"`
	Signal int        `json:",omitempty"`
	Group  bool       `json:",omitempty"`
	Exit   *Exit      `json:",omitempty"`
	Report *Report    `json:",omitempty"`
	Fail   *wireFail  `json:",omitempty"`
	Errno  unix.Errno `json:",omitempty"`
	Text   string     `json:",omitempty"`
	handle *os.File   // of a command that is about to execute
}

type wireFail struct {
	Layer Layer
	Step  string
	Errno unix.Errno
	Text  string
	Hint  string
}

func (f *wireFail) err() error {
	var cause error = f.Errno
	if f.Errno == 0 {
		cause = errors.New(f.Text)
	}
	return &LayerError{Layer: f.Layer, Step: f.Step, Err: cause, Hint: f.Hint}
}

func failOf(err error) *wireFail {
	f := &wireFail{Text: err.Error()}
	var le *LayerError
	if errors.As(err, &le) {
		f.Layer, f.Step, f.Hint, f.Text = le.Layer, le.Step, le.Hint, le.Err.Error()
	}
	errors.As(err, &f.Errno)
	return f
}

func send(sock int, m *message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxPacket {
		return fmt.Errorf("message of %d bytes is too large", len(b))
	}
	return sendPacket(sock, b, fds...)
}

func sendPacket(sock int, b []byte, fds ...int) error {
	if len(fds) > maxFDs {
		return fmt.Errorf("message with %d descriptors is too large", len(fds))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(sock, b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// A mailbox is where packets are received, one at a time.
type mailbox struct {
	packet [maxPacket]byte
	oob    [maxOOB]byte
}

const maxOOB = 24 + 4*maxFDs // unix.CmsgSpace(4*maxFDs)

// recv blocks for one message. io.EOF means that the other side is gone. The
// descriptors that it returns are close-on-exec.
func (m *mailbox) recv(sock int) (*message, []int, error) {
	b, fds, err := m.recvPacket(sock)
	if err != nil {
		return nil, nil, err
	}
	said := new(message)
	if err := json.Unmarshal(b, said); err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return said, fds, nil
}

// recvPacket returns one packet, which is overwritten by the next.
func (m *mailbox) recvPacket(sock int) ([]byte, []int, error) {
	buf, oob := m.packet[:], m.oob[:]
	var n, oobn, flags int
	var err error
	for {
		n, oobn, flags, _, err = unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, nil, err
	}
	var fds []int
	if cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range cmsgs {
			if got, err := unix.ParseUnixRights(&cmsgs[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	if n == 0 {
		closeAll(fds)
		return nil, nil, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(fds)
		return nil, nil, errors.New("message was truncated")
	}
	return buf[:n], fds, nil
}

// A protocol is how the host talks to an init that stands.
type protocol interface {
	// command returns a request and the descriptor that goes before those of the
	// command, or -1, which the caller closes. null says for each of the command's
	// descriptors whether it is /dev/null, or the next one that comes along.
	command(id uint64, e Exec, null []bool) (packet []byte, body int, err error)
	// signal returns a request to signal a command, or its group; nil for a command
	// that is known to have ended.
	signal(p *Process, sig int, group bool) ([]byte, error)
	// decode returns what init says, in order.
	decode(packet []byte) ([]*message, error)
}

// goInit is the init of LauncherReexec.
type goInit struct{}

func (goInit) command(id uint64, e Exec, null []bool) ([]byte, int, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, -1, err
	}
	if len(text) > maxBody {
		return nil, -1, unix.E2BIG
	}
	packet, err := json.Marshal(&message{Kind: msgExec, ID: id, Null: null})
	if err != nil {
		return nil, -1, err
	}
	body, err := sealed("twinward-exec", text)
	return packet, body, err
}

func (goInit) signal(p *Process, sig int, group bool) ([]byte, error) {
	return json.Marshal(&message{Kind: msgSignal, ID: p.id, Signal: sig, Group: group})
}

func (goInit) decode(packet []byte) ([]*message, error) {
	m := new(message)
	err := json.Unmarshal(packet, m)
	return []*message{m}, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sealed returns a memory file that holds b and can never change.
func sealed(name string, b []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	for off := 0; off < len(b); {
		n, err := unix.Pwrite(fd, b[off:], int64(off))
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		off += n
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, allSeals); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// unseal reads a file that [sealed] made, and refuses every other.
func unseal(fd int) ([]byte, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, err
	}
	if seals&allSeals != allSeals {
		return nil, errors.New("the descriptor is not sealed")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size > maxBody {
		return nil, errors.New("the sealed file is too large")
	}
	b := make([]byte, st.Size)
	for off := 0; off < len(b); {
		n, err := unix.Pread(fd, b[off:], int64(off))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		off += n
	}
	return b, nil
}
