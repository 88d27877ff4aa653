package credential

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// A ProcessScheme is a [Scheme] that hands a secret to a child process as it
// starts, such as an MCP server that speaks on its standard streams. It is
// bound to a [ProcessOrigin], and its Apply always fails.
//
// What a process was given it keeps: end it when the secret is rotated or
// revoked.
type ProcessScheme interface {
	Scheme
	// Handover prepares the secret for a child whose next free descriptor is
	// number fd.
	Handover(secret []byte, fd int) (*Handover, error)
}

// A Handover is a secret on its way to a child process. Close it once the child
// has started, or has not.
type Handover struct {
	// Env are the variables, NAME=value, to add to the child's environment.
	Env []string
	// Files are the child's further descriptors, in order from the number that
	// was asked for.
	Files []*os.File
}

// Close closes this process's copies of the files.
func (h *Handover) Close() {
	for _, f := range h.Files {
		_ = f.Close()
	}
}

// ErrEnvironment is returned for a command that would inherit the whole
// environment of this process.
var ErrEnvironment = errors.New("credential: the command has no environment of its own, and would inherit all of this process's: set Env, to an empty slice if nothing is needed")

// Env gives the secret to a child process as an environment variable. Whoever
// runs under the same uid can read it there (/proc/PID/environ), and so can the
// children of the child; where the program can read a file instead, use
// [Descriptor].
func Env(name string) Scheme { return env{name} }

// Descriptor gives the secret to a child process as an open pipe that can be
// read once. The environment variable name is the path of it, /dev/fd/N, as
// programs take it that read a token from a file. The secret has at most 16
// KiB, which every system's pipes hold. Windows has no such descriptors.
func Descriptor(name string) Scheme { return descriptor{name} }

type env struct{ name string }

func (env) Apply(*http.Request, []byte) error { return errProcess }

func (s env) Handover(secret []byte, _ int) (*Handover, error) {
	if !validEnv(s.name) || bytes.IndexByte(secret, 0) >= 0 {
		return nil, ErrScheme
	}
	return &Handover{Env: []string{s.name + "=" + string(secret)}}, nil
}

type descriptor struct{ name string }

func (descriptor) Apply(*http.Request, []byte) error { return errProcess }

var errProcess = fmt.Errorf("%w: it is for child processes", ErrScheme)

// maxPipe is what a pipe holds before anybody reads, on every system.
const maxPipe = 16 << 10

func (s descriptor) Handover(secret []byte, fd int) (*Handover, error) {
	if !validEnv(s.name) || fd < 3 {
		return nil, ErrScheme
	}
	if len(secret) > maxPipe {
		return nil, ErrLength
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("credential: pipe: %w", err)
	}
	_, err = w.Write(secret)
	if e := w.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("credential: pipe: %w", err)
	}
	return &Handover{Env: []string{s.name + "=/dev/fd/" + strconv.Itoa(fd)}, Files: []*os.File{r}}, nil
}

// validEnv reports whether s is a portable name of a variable (POSIX, 8.1).
func validEnv(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	return s != "" && strings.Trim(s, letters+"0123456789") == "" && strings.ContainsRune(letters, rune(s[0]))
}

// Handover prepares the secret for a child process whose next free descriptor
// is number fd; the first that is free has number 3. The lease must be one of
// a [ProcessScheme]. It counts as a use, and is refused as a request would be
// when the lease has ended.
func (l *Lease) Handover(fd int) (*Handover, error) {
	p, ok := l.scheme.(ProcessScheme)
	if !ok || !strings.HasPrefix(l.origin, processScheme+"://") {
		return nil, fmt.Errorf("%w: %q is not bound to a child process", ErrScheme, l.ref.Name)
	}
	if err := l.use(); err != nil {
		return nil, err
	}
	var h *Handover
	err := l.secret.Use(func(b []byte) (err error) {
		h, err = p.Handover(b, fd)
		return err
	})
	if err != nil {
		l.uses.Add(-1)
		return nil, l.Scrubber().err(err)
	}
	return h, nil
}

// Command adds the secret to a command that has not started. The command must
// have an environment of its own, or [ErrEnvironment] is returned. Close the
// handover after cmd.Start.
func (l *Lease) Command(cmd *exec.Cmd) (*Handover, error) {
	if cmd.Env == nil {
		return nil, ErrEnvironment
	}
	h, err := l.Handover(3 + len(cmd.ExtraFiles))
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], h.Env...)
	cmd.ExtraFiles = append(cmd.ExtraFiles[:len(cmd.ExtraFiles):len(cmd.ExtraFiles)], h.Files...)
	return h, nil
}
