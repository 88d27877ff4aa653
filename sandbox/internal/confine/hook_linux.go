//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The descriptors that init inherits, after standard input, output and error.
const (
	fdOrder  = 3 // sealed memory file: magic, nonce, order
	fdSocket = 4 // control socket, whose first packet is the nonce
	fdMounts = 5 // detached mounts made by a host that is root
)

const (
	magic     = "twinward.confine/1\n"
	nonceSize = 32
)

// An order is what the sealed file tells init to do.
type order struct {
	Spec
	// Places are the binds. WorkspaceMount and SelfMount are descriptors as in
	// [place.Mount].
	Places         []place
	WorkspaceMount int
	SelfMount      int
	Runnable       []runnable // when programs are listed
	Notify         bool       // the host wants to know of denials
	LogLandlock    bool       // and hears those of Landlock in the audit log
	KUID           int
	Sizes          []int      // of the data of each file
	Origins        []original // of each file
	Inherited      int        // how many mounts there are
	IDMapped       bool       // some of the inherited mounts translate ids
	HostNS         map[string]string
}

// An original is a file of the host that another begins with.
type original struct {
	FD   int // as in [place.Mount]
	Size int64
}

// The hook. It runs before main in every program that imports this package,
// also in a program that somebody started with arguments or an environment of
// their choosing, so it looks at neither: without the inherited sealed file it
// costs one system call and does nothing.
func init() {
	ord, ok := awake()
	if !ok {
		return
	}
	runInit(ord)
	os.Exit(0)
}

// awake reports whether this process was started by [Launch]. It does not touch
// descriptors that may belong to somebody else unless the sealed file is there.
func awake() (*order, bool) {
	seals, err := unix.FcntlInt(fdOrder, unix.F_GET_SEALS, 0)
	if err != nil || seals&allSeals != allSeals {
		return nil, false
	}
	b, err := unseal(fdOrder)
	if err != nil || len(b) < len(magic)+nonceSize || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, false
	}
	nonce, body := b[len(magic):len(magic)+nonceSize], b[len(magic)+nonceSize:]
	typ, err := unix.GetsockoptInt(fdSocket, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || typ != unix.SOCK_SEQPACKET {
		return nil, false
	}
	// Peek first: a packet that is not the nonce stays in its owner's queue.
	got := make([]byte, nonceSize+1)
	n, _, err := unix.Recvfrom(fdSocket, got, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil || !bytes.Equal(got[:n], nonce) {
		return nil, false
	}
	if _, _, err := unix.Recvfrom(fdSocket, got, unix.MSG_DONTWAIT); err != nil {
		return nil, false
	}
	ord, err := decode(body)
	if err != nil {
		return nil, false
	}
	unix.Close(fdOrder)
	unix.CloseOnExec(fdSocket)
	return ord, true
}

// privileged reports whether the kernel gave this process rights that whoever
// started it has not: a set-id program, or one with file capabilities. Its order
// may be a forger's.
func privileged() bool {
	const atSecure = 23
	aux, err := unix.Auxv()
	if err != nil {
		return true
	}
	for _, kv := range aux {
		if kv[0] == atSecure {
			return kv[1] != 0
		}
	}
	return true
}

// encode returns what decode reads: the length of the JSON, the JSON, and the
// contents of the files, which are large and need no escaping.
func (ord *order) encode() ([]byte, error) {
	ord.Sizes = make([]int, len(ord.Files))
	for i, f := range ord.Files {
		ord.Sizes[i] = len(f.Data)
	}
	text, err := json.Marshal(ord)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	b = append(b, text...)
	for _, f := range ord.Files {
		b = append(b, f.Data...)
	}
	return b, nil
}

var errOrder = errors.New("malformed order")

func decode(b []byte) (*order, error) {
	if len(b) < 4 {
		return nil, errOrder
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, errOrder
	}
	ord := new(order)
	if err := json.Unmarshal(b[:n], ord); err != nil {
		return nil, err
	}
	b = b[n:]
	if len(ord.Sizes) != len(ord.Files) || len(ord.Origins) != len(ord.Files) {
		return nil, errOrder
	}
	for i, size := range ord.Sizes {
		if size < 0 || size > len(b) {
			return nil, errOrder
		}
		ord.Files[i].Data, b = b[:size:size], b[size:]
	}
	if len(b) != 0 {
		return nil, errOrder
	}
	return ord, nil
}
