//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A procTable maps the commands that were started to their requests. Its lock
// is held while a command is started and while one is reaped, so that a command
// that ends at once is known by then, and a signal never meets a reused pid.
type procTable struct {
	mu      sync.Mutex
	byPID   map[int]uint64
	byID    map[uint64]int
	started chan struct{} // wakes the reaper when there may be children again
}

// serve handles requests until the host closes the control socket, on the thread
// that walked through all layers: a command begins as a copy of it.
func (s *initState) serve() {
	s.procs = procTable{byPID: map[int]uint64{}, byID: map[uint64]int{}, started: make(chan struct{}, 1)}
	go s.reap()
	mail := new(mailbox)
	for {
		m, fds, err := mail.recv(fdSocket)
		if err != nil {
			if s.ord.shared() {
				s.sweep() // elsewhere the kernel ends the room with its pid 1
			}
			return
		}
		switch m.Kind {
		case msgExec:
			s.exec(m, fds)
		case msgSignal:
			s.signal(m)
		}
		closeAll(fds)
	}
}

func (s *initState) signal(m *message) {
	s.procs.mu.Lock()
	defer s.procs.mu.Unlock()
	pid, ok := s.procs.byID[m.ID]
	if !ok {
		return // it has ended
	}
	if m.Group {
		pid = -pid
	}
	_ = unix.Kill(pid, unix.Signal(m.Signal))
}

// exec starts one command and answers. The answer goes
// out under the lock, so that it comes before the news of the command's end.
func (s *initState) exec(m *message, fds []int) {
	s.procs.mu.Lock()
	defer s.procs.mu.Unlock()
	answer := &message{Kind: msgStarted, ID: m.ID}
	pid, err := s.start(m, fds)
	if err != nil {
		answer.Kind, answer.Text = msgRefused, err.Error()
		errors.As(err, &answer.Errno)
	}
	answer.PID = pid
	_ = send(fdSocket, answer)
}

// start does the work of exec. The caller holds the lock.
func (s *initState) start(m *message, fds []int) (int, error) {
	if len(fds) < 1 || len(m.Null) < 3 {
		return 0, errors.New("malformed request")
	}
	b, err := unseal(fds[0])
	if err != nil {
		return 0, err
	}
	var req Exec
	if err := json.Unmarshal(b, &req); err != nil {
		return 0, err
	}
	files, rest := []uintptr{}, fds[1:]
	null := -1
	defer func() { closeAll([]int{null}) }()
	for _, isNull := range m.Null {
		switch {
		case !isNull && len(rest) == 0:
			return 0, errors.New("malformed request: a descriptor is missing")
		case !isNull:
			files, rest = append(files, uintptr(rest[0])), rest[1:]
		default:
			if null < 0 {
				if null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
					return 0, err
				}
			}
			files = append(files, uintptr(null))
		}
	}
	env := mergeEnv(s.ord.Env, req.Env)
	if req.Dir == "" {
		req.Dir = s.ord.home()
	}

	path, err := lookPath(req.Path, env)
	if err != nil {
		return 0, err
	}
	var pid int
	if s.ord.shared() {
		pid, err = s.startShared(path, &req, env, files)
	} else {
		pid, err = syscall.ForkExec(path, req.Args, &syscall.ProcAttr{
			Dir: req.Dir, Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: req.Terminal},
		})
	}
	if err != nil {
		return 0, err
	}
	s.procs.byPID[pid], s.procs.byID[m.ID] = m.ID, pid
	select {
	case s.procs.started <- struct{}{}:
	default:
	}
	return pid, nil
}

// reap waits for every child: commands, and orphans that the kernel gives to
// pid 1.
func (s *initState) reap() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.ECHILD {
			// Without children there is no process in the room but init.
			<-s.procs.started
			continue
		}
		if err != nil {
			continue
		}
		s.reapOne()
	}
}

func (s *initState) reapOne() {
	s.procs.mu.Lock()
	defer s.procs.mu.Unlock()
	var ws unix.WaitStatus
	var ru unix.Rusage
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, &ru)
	if err != nil || pid <= 0 {
		return
	}
	id, ok := s.procs.byPID[pid]
	if !ok {
		return
	}
	delete(s.procs.byPID, pid)
	delete(s.procs.byID, id)
	exit := &Exit{Code: ws.ExitStatus(), CoreDump: ws.CoreDump(),
		UserTime: time.Duration(ru.Utime.Nano()), System: time.Duration(ru.Stime.Nano()), MaxRSS: ru.Maxrss}
	if ws.Signaled() {
		exit.Code, exit.Signal = -1, int(ws.Signal())
	}
	_ = send(fdSocket, &message{Kind: msgExited, ID: id, Exit: exit})
}

// lookPath finds a program as a shell inside would.
func lookPath(name string, env []string) (string, error) {
	if name == "" {
		return "", unix.ENOENT
	}
	if strings.Contains(name, "/") {
		return name, nil // relative to the directory, where the child starts
	}
	found := error(unix.ENOENT)
	for _, d := range strings.Split(pathOf(env), ":") {
		if !strings.HasPrefix(d, "/") {
			continue // never the current directory
		}
		p := d + "/" + name
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if err := unix.Access(p, unix.X_OK); err != nil {
			found = err
			continue
		}
		return p, nil
	}
	return "", found
}

// pathOf returns PATH of an environment.
func pathOf(env []string) string {
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	return path
}

// mergeEnv returns base and then more, where the last of one name wins.
func mergeEnv(base, more []string) []string {
	at := map[string]int{}
	var out []string
	for _, list := range [][]string{base, more} {
		for _, kv := range list {
			k, _, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				continue
			}
			if i, seen := at[k]; seen {
				out[i] = kv
				continue
			}
			at[k] = len(out)
			out = append(out, kv)
		}
	}
	return out
}
