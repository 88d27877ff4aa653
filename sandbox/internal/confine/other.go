//go:build !linux || !(amd64 || arm64)

package confine

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
)

// errHere names the first thing that this system lacks.
func errHere() error {
	return &LayerError{Layer: LayerUser, Err: fmt.Errorf("%w: %s/%s has no implementation; it takes Linux on amd64 or arm64", ErrUnsupported, runtime.GOOS, runtime.GOARCH)}
}

// A Box is a room that stands. There are none on this system.
type Box struct{ Listeners Listeners }

// A Process is one command in a room.
type Process struct{ PID int }

// Launch fails with [ErrUnsupported].
func Launch(context.Context, *Spec) (*Box, error) { return nil, errHere() }

// Probe says that every layer is missing.
func Probe() (map[Layer]error, int) {
	missing := map[Layer]error{}
	for _, l := range Layers() {
		missing[l] = errHere()
	}
	return missing, 0
}

// ProbeShared says that this system cannot have [TierNoNamespaces].
func ProbeShared() error { return errHere() }

func (b *Box) Listen([]uint16) (map[uint16]net.Listener, error) { return nil, errHere() }
func (b *Box) Packets() (*os.File, error)                       { return nil, errHere() }
func (b *Box) InitPID() int                                     { return 0 }
func (b *Box) Report() Report                                   { return Report{} }
func (b *Box) Usage() (Usage, bool)                             { return Usage{}, false }
func (b *Box) Done() <-chan struct{}                            { c := make(chan struct{}); close(c); return c }
func (b *Box) Close()                                           {}
func (b *Box) Pipe() (r, w *os.File, err error)                 { return nil, nil, errHere() }
func (b *Box) Pty() (master, slave *os.File, err error)         { return nil, nil, errHere() }
func (b *Box) Exec(Exec, []*os.File) (*Process, error)          { return nil, errHere() }
func (p *Process) Wait() Exit                                   { return Exit{Code: -1, Lost: true} }
func (p *Process) Signal(sig syscall.Signal, g bool) error      { return errHere() }
