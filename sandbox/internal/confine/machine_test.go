//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// exercise uses each field of an op, and leaves what it saw in the data.
func exercise(fail bool) (p *prog, seen func(b *block) []byte) {
	p = &prog{layer: LayerMount}
	r, w, n, errno, value, zero := p.reserve(8), p.slot(), p.slot(), p.slot(), p.slot(), p.slot()
	buf := p.reserve(16)
	fds := p.reserve(8)
	p.fail = p.label()
	p.call("make a pipe", unix.SYS_PIPE2, fds, unix.O_CLOEXEC)
	// Two descriptors of 32 bits each become two words.
	p.call("", callValue, 0).to(slot(r))
	dup := p.slot()
	p.call("open", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_RDWR|unix.O_CLOEXEC).to(w)
	p.call("duplicate", unix.SYS_FCNTL, w, unix.F_DUPFD_CLOEXEC, 100).to(dup)
	p.call("write", unix.SYS_WRITE, dup, []byte("hello"), 5).to(n)
	out := p.label()
	p.call("skipped error", unix.SYS_OPENAT, unix.AT_FDCWD, "/no/such", 0).to(errno).orElse(out, unix.ENOENT)
	p.call("not reached", callValue, 99).to(value)
	p.mark(out)
	p.call("", callValue, 7).to(value)
	skip := p.label()
	p.call("", callValue, 8).then(skip)
	p.call("not reached", callValue, 99).to(value)
	p.mark(skip)
	vector := p.reserve(16) // an iovec
	p.point(vector, buf)
	p.data[vector+8] = 3
	p.call("write nothing but zeros", unix.SYS_WRITEV, dup, vector, 1)
	p.expect(func(mem func(ref, int) []byte) error {
		if binary.NativeEndian.Uint64(mem(ref(n), 8)) != 5 {
			return unix.EIO
		}
		return nil
	})
	end := p.label()
	p.call("read an end", unix.SYS_READ, w, buf, 16).to(zero).ifZero(end)
	p.call("not reached", callValue, 99).to(value)
	p.mark(end)
	p.optional(p.call("optional", unix.SYS_CLOSE, -1), unix.EBADF)
	if fail {
		p.call("unlink /no/such", unix.SYS_UNLINKAT, unix.AT_FDCWD, "/no/such", 0).orElse(end, unix.EPERM)
	}
	p.call("close", unix.SYS_CLOSE, w)
	p.call("close", unix.SYS_CLOSE, dup)
	p.mark(p.fail)
	p.call("exit", unix.SYS_EXIT_GROUP, 3)
	return p, func(b *block) []byte {
		var all []byte
		for _, s := range []slot{n, errno, value, zero} {
			all = binary.NativeEndian.AppendUint64(all, uint64(b.word(s)))
		}
		return all
	}
}

func exited(t testing.TB, pid int) int {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err != unix.EINTR {
			require.NoError(t, err)
			return ws.ExitStatus()
		}
	}
}

// TestMachine runs one program under the assembly and in Go: the same results.
func TestMachine(t *testing.T) {
	for _, fail := range []bool{false, true} {
		p, seen := exercise(fail)
		b, err := newBlock(p)
		require.NoError(t, err)
		pid, err := b.run(uintptr(unix.SIGCHLD))
		require.NoError(t, err)
		require.Equal(t, 3, exited(t, pid))
		oracle, err := newBlock(p)
		require.NoError(t, err)
		oracle.interpret(func(nr uintptr) bool { return nr == unix.SYS_EXIT_GROUP })
		assert.Equal(t, seen(oracle), seen(b))
		var want []byte
		for _, v := range []int64{5, -int64(unix.ENOENT), 7, 0} {
			want = binary.NativeEndian.AppendUint64(want, uint64(v))
		}
		assert.Equal(t, want, seen(b))
		for _, b := range []*block{b, oracle} {
			err := b.failure()
			if !fail {
				assert.NoError(t, err)
				continue
			}
			var le *LayerError
			require.ErrorAs(t, err, &le)
			assert.Equal(t, LayerMount, le.Layer)
			assert.Equal(t, "unlink /no/such", le.Step)
			assert.ErrorIs(t, err, unix.ENOENT)
		}
		b.free()
		oracle.free()
	}
}

// TestMachineBesideTheGoRuntime spawns from many threads while the collector
// works and signals arrive.
func TestMachineBesideTheGoRuntime(t *testing.T) {
	stop := make(chan struct{})
	var all, stress sync.WaitGroup
	stress.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = bytes.Repeat([]byte("x"), 1<<16)
				runtime.GC()
				_ = unix.Kill(os.Getpid(), unix.SIGURG)
			}
		}
	})
	for range 4 {
		all.Go(func() {
			for range 100 {
				p, _ := exercise(false)
				b, err := newBlock(p)
				if !assert.NoError(t, err) {
					return
				}
				pid, err := b.run(uintptr(unix.SIGCHLD))
				if assert.NoError(t, err) {
					assert.Equal(t, 3, exited(t, pid))
					assert.NoError(t, b.failure())
				}
				b.free()
			}
		})
	}
	all.Wait()
	close(stop)
	stress.Wait()
}

func TestSpawnRefused(t *testing.T) {
	p, _ := exercise(false)
	b, err := newBlock(p)
	require.NoError(t, err)
	defer b.free()
	_, err = b.run(unix.CLONE_THREAD) // without CLONE_SIGHAND
	assert.ErrorIs(t, err, unix.EINVAL)
}

// TestImage runs a program as an executable of its own, and reads what the
// header of the file says.
func TestImage(t *testing.T) {
	p := &prog{}
	p.fail = p.label()
	p.call("say", unix.SYS_WRITE, 1, "alone\n", 6)
	p.call("fail", unix.SYS_CLOSE, -1)
	p.mark(p.fail)
	p.call("exit", unix.SYS_EXIT_GROUP, 42)
	fd, err := imageFile()
	require.NoError(t, err)
	require.NoError(t, fillImage(fd, p))
	f := os.NewFile(uintptr(fd), "image")
	defer f.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.Output()
	var ee *exec.ExitError
	require.ErrorAs(t, err, &ee)
	assert.Equal(t, "alone\n", string(out))
	assert.Equal(t, 42, ee.ExitCode())

	e, err := elf.NewFile(f)
	require.NoError(t, err)
	require.Len(t, e.Progs, 3)
	for _, part := range e.Progs {
		assert.NotEqual(t, elf.PF_W|elf.PF_X, part.Flags&(elf.PF_W|elf.PF_X), "writable and executable")
	}
	_, err = f.WriteAt([]byte("x"), 0)
	assert.Error(t, err, "it is sealed")
	assert.Less(t, len(machineText()), 600)
}
