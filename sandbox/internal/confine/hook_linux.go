//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"encoding/json"
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
	KUID           int
	Inherited      int  // how many mounts there are
	IDMapped       bool // some of the inherited mounts translate ids
	HostNS         map[string]string
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
	ord := new(order)
	if err := json.Unmarshal(body, ord); err != nil {
		return nil, false
	}
	unix.Close(fdOrder)
	unix.CloseOnExec(fdSocket)
	return ord, true
}
