//go:build linux && (amd64 || arm64)

package confine

import (
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const takeHint = "it takes kernel.yama.ptrace_scope of at most 1, a container that permits pidfd_getfd and, where the host is root, CAP_SYS_PTRACE"

// tryTaking finds out whether the host may take a socket of a program inside, on
// which connections of a room without namespaces rest ([sharedRoom.connect]). It
// takes a descriptor of a child that has become the room's user.
func tryTaking(id identity) error {
	fail := func(step string, err error) error {
		return &LayerError{Layer: LayerNetwork, Step: step, Err: err, Hint: takeHint}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	own := int(w.Fd())
	p := &prog{layer: LayerNetwork}
	p.fail = p.label()
	sleep := p.label()
	p.call("die with the host", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0)
	for _, others := range [][2]int{{0, own - 1}, {own + 1, math.MaxUint32}} { // r is lower than own
		p.call("close the host's descriptors", unix.SYS_CLOSE_RANGE, others[0], others[1], 0)
	}
	if id.root {
		p.call("leave the host's groups", unix.SYS_SETGROUPS, 0, 0)
		p.call("become the room's group", unix.SYS_SETRESGID, id.gid, id.gid, id.gid)
		p.call("become the room's user", unix.SYS_SETRESUID, id.uid, id.uid, id.uid)
		defer undumpable.begin()()
	}
	p.call("be ready", unix.SYS_WRITE, own, "x", 1)
	p.mark(sleep)
	p.call("sleep", unix.SYS_PPOLL, 0, 0, 0, 0, 0).then(sleep).orElse(sleep)
	p.mark(p.fail)
	p.call("end", unix.SYS_EXIT, 1)
	blk, err := newBlock(p)
	if err != nil {
		return err
	}
	defer blk.free()
	runtime.LockOSThread() // it dies with this thread
	defer runtime.UnlockOSThread()
	pid, err := blk.run(0)
	if err != nil {
		return fail("start a helper", err)
	}
	w.Close() // the child has a copy: its end is the end of what can be read
	_, err = r.Read(make([]byte, 1))
	if err == nil {
		var fd int
		if fd, err = takeFD(uint32(pid), uint64(own)); err == nil {
			unix.Close(fd)
		}
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	_ = wait(pid)
	if failure := blk.failure(); failure != nil {
		return failure
	}
	if err != nil {
		return fail("take a descriptor of a program", err)
	}
	return nil
}
