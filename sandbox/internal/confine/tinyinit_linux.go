//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tinyInit talks to the init of LauncherVfork.
type tinyInit struct {
	program *initProgram
	env     []string

	// What follows belongs to the goroutine that decodes.
	ids  map[int]uint64      // pid → request
	held map[uint64]*message // requests that init has not answered yet, with their end if that came first
}

func (t *tinyInit) command(id uint64, e Exec, null []bool) ([]byte, int, error) {
	if len(null) < 3 {
		return nil, -1, errors.New("a command has three descriptors at least")
	}
	env := mergeEnv(t.env, e.Env)
	p := newCommand(t.program, id, e, env, null, fdFirst)
	if p.size() <= requestSize {
		b := make([]byte, p.size())
		p.link(b, requestBase)
		return b, -1, nil
	}
	p = newCommand(t.program, id, e, env, null, fdFirst+1)
	size := p.size()
	if size > commandMax {
		return nil, -1, unix.E2BIG
	}
	b := make([]byte, size)
	p.link(b, commandBase)
	fd, err := sealed("twinward-exec", b)
	return t.program.largeRequest(id, size), fd, err
}

// signal is for groups only, see [Process.signalBy]: the request takes the
// command's descriptor along. A command without one was killed before its first call.
func (t *tinyInit) signal(p *Process, sig int, group bool) ([]byte, error) {
	if p.handle == nil {
		return nil, nil
	}
	if !group {
		return nil, errors.New("a command is signalled by its descriptor")
	}
	return t.program.groupRequest(p.PID, sig), nil
}

func (t *tinyInit) decode(packet []byte) ([]*message, error) {
	if len(packet) < 3*wordSize || len(packet)%wordSize != 0 {
		return nil, errors.New("malformed packet of init")
	}
	word := func(i int) int64 { return int64(binary.NativeEndian.Uint64(packet[i*wordSize:])) }
	const exitedSize = 3*wordSize + int(unsafe.Sizeof(unix.Rusage{}))
	switch {
	case len(packet) == wordSize*headerWords: // saysResult
		id, pid := uint64(word(headerID)), int(word(headerPID))
		m := &message{Kind: msgStarted, ID: id, PID: pid}
		exit, said := t.held[id]
		delete(t.held, id)
		if errno := -word(headerErrno); errno != 0 || pid <= 0 {
			if errno == 0 {
				errno = -int64(pid)
			}
			if pid > 0 && t.ids[pid] == id {
				delete(t.ids, pid)
			}
			return []*message{{Kind: msgRefused, ID: id, Errno: unix.Errno(errno)}}, nil
		}
		if !said { // it was killed before its first call, by somebody inside
			exit = &message{Kind: msgExited, ID: id, Exit: &Exit{Code: -1, Signal: int(unix.SIGKILL)}}
		}
		if exit != nil {
			return []*message{m, exit}, nil
		}
		return []*message{m}, nil
	case word(0) == saysStarting:
		t.ids[int(word(2))] = uint64(word(1))
		t.held[uint64(word(1))] = nil
		return []*message{{Kind: msgStarting, ID: uint64(word(1))}}, nil
	case word(0) == saysExited && len(packet) == exitedSize:
		id, ok := t.ids[int(word(1))]
		if !ok {
			return nil, nil // an orphan
		}
		delete(t.ids, int(word(1)))
		var ru unix.Rusage
		copy(bytesOf(&ru), packet[3*wordSize:])
		ws := unix.WaitStatus(uint32(word(2)))
		exit := &Exit{Code: ws.ExitStatus(), CoreDump: ws.CoreDump(),
			UserTime: time.Duration(ru.Utime.Nano()), System: time.Duration(ru.Stime.Nano()), MaxRSS: ru.Maxrss}
		if ws.Signaled() {
			exit.Code, exit.Signal = -1, int(ws.Signal())
		}
		m := &message{Kind: msgExited, ID: id, Exit: exit}
		if _, starting := t.held[id]; starting {
			t.held[id] = m
			return nil, nil
		}
		return []*message{m}, nil
	}
	return nil, errors.New("unknown packet of init")
}
