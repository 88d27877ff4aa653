//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Launch makes a room and returns when every layer is in force and verified
// from inside. Nothing has run in it by then. Cancelling ctx while Launch works
// ends it; afterwards ctx has no effect.
//
// A layer that cannot be had is a [*LayerError], and leaves nothing behind.
func Launch(ctx context.Context, spec *Spec) (*Box, error) { return launch(ctx, spec, nil) }

// launch lets a test change what a vfork is about to execute.
func launch(ctx context.Context, spec *Spec, change func(*vfork)) (*Box, error) {
	if spec.Launcher != "" && spec.Launcher != LauncherReexec && spec.Launcher != LauncherVfork {
		return nil, fmt.Errorf("unknown launcher %q", spec.Launcher)
	}
	if len(spec.Ports) > MaxPorts {
		return nil, fmt.Errorf("%d ports, more than %d", len(spec.Ports), MaxPorts)
	}
	id, err := newIdentity()
	if err != nil {
		return nil, err
	}
	if id.root && spec.OwnWorkspace {
		if err := os.Chown(spec.Workspace, id.uid, id.gid); err != nil {
			return nil, &LayerError{Layer: LayerMount, Step: "give the workspace to the sandbox's user", Err: err}
		}
	}
	b := &Box{id: id, pts: -1, done: make(chan struct{}), procs: map[uint64]*Process{}, patience: startPatience}
	if b.cgroup, err = newCgroup(spec.Total, or(spec.Limits.Processes, defaultProcesses)); err != nil {
		return nil, err
	}
	var d *delivery
	var unheard error
	defer func() {
		if d != nil {
			d.close()
		}
	}()
	deliver := func() (_ *delivery, err error) {
		if d, err = prepare(spec, id); err != nil {
			return nil, err
		}
		unheard = b.hearAudit(d)
		if spec.shared() {
			if b.shared, err = newShared(b, spec, d); err == nil {
				b.Listeners.TCP = map[uint16]net.Listener{spec.ProxyPort: b.shared.proxy}
			}
		}
		return d, err
	}
	var start, handshake func() error
	if spec.Launcher == LauncherVfork {
		v := &vfork{box: b, image: -1, child: -1}
		defer v.close()
		start, handshake = func() error { return v.start(spec, deliver, change) }, v.handshake
	} else {
		b.proto = goInit{}
		start = func() error {
			d, err := deliver()
			if err != nil {
				return err
			}
			return b.spawn(d)
		}
		handshake = func() error { return b.handshake(spec) }
	}
	if err := start(); err != nil {
		b.closeListeners()
		b.stopDenials()
		b.cgroup.remove()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { b.kill() })
	err = handshake()
	stop()
	if err == nil {
		err = context.Cause(ctx)
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		b.closeListeners()
		b.kill()
		<-b.exited
		b.stopDenials()
		b.cgroup.remove()
		b.sock.Close()
		closeAll([]int{b.pts})
		return nil, err
	}
	switch {
	case b.denials == nil: // without a filter, which only a test leaves out, or a listener of it
	case b.shared != nil:
		b.telling.Go(b.shared.serve)
	default:
		b.telling.Go(func() { serveDenials(b.denials, spec.OnDenial) })
	}
	if unheard != nil {
		b.report.unseen(LayerLandlock, unheard.Error())
	}
	if b.audit != nil {
		b.telling.Go(func() { serveAudit(b.audit, b.init.Pid, spec.OnDenial) })
	}
	go b.receive()
	return b, nil
}

// spawn starts init. The thread that does so waits for it, because init is to
// be killed by the kernel when that very thread ends.
func (b *Box) spawn(d *delivery) error {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	ord, err := d.encode(nonce)
	if err != nil {
		return err
	}
	defer unix.Close(ord)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[1])
	if err := unix.Sendmsg(pair[0], nonce, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		unix.Close(pair[0])
		return err
	}
	// Only the host's end is not blocking; that is a property of each end.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return err
	}
	b.sock = os.NewFile(uintptr(pair[0]), "control")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.sock.Close()
		return err
	}
	defer null.Close()
	path, closeExe, err := executable(b.id)
	if err != nil {
		b.sock.Close()
		return err
	}
	defer closeExe()

	if err := b.cgroup.limitMemory(); err != nil {
		b.sock.Close()
		return err
	}
	fds := append([]int{int(null.Fd()), int(null.Fd()), int(null.Fd()), ord, pair[1]}, d.mounts...)
	var flags uintptr
	for _, k := range nsKinds {
		if !slices.Contains(d.order.Without, k.layer) {
			flags |= k.flag
		}
	}
	started := make(chan error)
	b.exited = make(chan struct{})
	go func() {
		defer close(b.exited)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		attr := b.id.attr(flags)
		if b.shared != nil {
			attr = b.shared.attr()
		}
		if b.cgroup != nil {
			attr.UseCgroupFD, attr.CgroupFD = true, b.cgroup.fd
		}
		p, err := startProcess(path, fds, attr)
		if err == nil {
			b.init = p
		}
		started <- err
		if err == nil {
			_, _ = p.Wait()
		}
	}()
	if err := <-started; err != nil {
		b.sock.Close()
		return &LayerError{Layer: LayerUser, Step: "create namespaces", Err: err, Hint: namespaceHint(err)}
	}
	return nil
}

// handshake collects the listeners and waits until init is confined.
func (b *Box) handshake(spec *Spec) error {
	var fds []int
	defer func() { closeAll(fds) }()
	for {
		packet, got, err := b.recv()
		var said []*message
		if err == nil {
			said, err = b.proto.decode(packet)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return silent(err)
			}
			return fmt.Errorf("init: %w", err)
		}
		m := said[0]
		if m.Kind == msgTerminals && len(got) == 1 && b.pts < 0 {
			b.pts = got[0]
			continue
		}
		if m.Kind == msgDenials && len(got) == 1 && b.denials == nil {
			if b.denials, err = listenerFile(got[0]); err != nil {
				return fmt.Errorf("take over the listener of denials: %w", err)
			}
			continue
		}
		fds = append(fds, got...)
		switch m.Kind {
		case msgFailed:
			return m.Fail.err()
		case msgReady:
			b.report = *m.Report
			if b.cgroup != nil {
				b.report.Layers = append(b.report.Layers, LayerTotals)
			}
			listeners := fds
			fds = nil
			return b.adopt(spec.Ports, listeners)
		}
	}
}

// adopt turns the descriptors into listeners, and closes them.
func (b *Box) adopt(ports []uint16, fds []int) error {
	if len(fds) == 0 {
		return nil // the network layer was left out
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "listener")
	}
	defer closeFiles(files)
	if len(fds) != len(ports)+2 {
		return fmt.Errorf("init sent %d listeners, want %d", len(fds), len(ports)+2)
	}
	b.Listeners.TCP = map[uint16]net.Listener{}
	for i, p := range append(slices.Clone(ports), DNSPort) {
		ln, err := net.FileListener(files[i])
		if err != nil {
			return fmt.Errorf("listener of port %d: %w", p, err)
		}
		if i < len(ports) {
			b.Listeners.TCP[p] = ln
		} else {
			b.Listeners.DNSTCP = ln
		}
	}
	var err error
	b.Listeners.DNSUDP, err = net.FilePacketConn(files[len(files)-1])
	return err
}
