//go:build linux && (amd64 || arm64)

package escape

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Environment variables by which the program inside learns what to do.
const (
	TargetVar = "TWINWARD_ESCAPE_TARGET" // a Target as JSON
	OnlyVar   = "TWINWARD_ESCAPE_ONLY"   // names of probes as a JSON list; absent: all
	apartVar  = "TWINWARD_ESCAPE_APART"  // set in a process that was made for one probe
)

// Env returns what Serve wants to find in its environment.
func Env(t Target, only ...string) ([]string, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	env := []string{TargetVar + "=" + string(b)}
	if len(only) > 0 {
		if b, err = json.Marshal(only); err != nil {
			return nil, err
		}
		env = append(env, OnlyVar+"="+string(b))
	}
	return env, nil
}

// Probes returns the whole corpus, group by group.
func Probes() []Probe {
	return slices.Concat(fileProbes(), processProbes(), ipcProbes(), networkProbes(), rightsProbes(), codeProbes(), surfaceProbes(), callProbes())
}

// Serve is the program inside: it tries every probe and writes a [Finding] for
// each, as lines of JSON.
func Serve(w io.Writer) error {
	var t Target
	if err := json.Unmarshal([]byte(os.Getenv(TargetVar)), &t); err != nil {
		return fmt.Errorf("%s: %w", TargetVar, err)
	}
	var only []string
	if s := os.Getenv(OnlyVar); s != "" {
		if err := json.Unmarshal([]byte(s), &only); err != nil {
			return fmt.Errorf("%s: %w", OnlyVar, err)
		}
	}
	out := json.NewEncoder(w)
	for _, p := range Probes() {
		if len(only) > 0 && !slices.Contains(only, p.Name) {
			continue
		}
		f := Finding{Name: p.Name, Open: true}
		try := p.Try
		if p.apart && os.Getenv(apartVar) == "" {
			try = p.tryApart
		}
		if err := try(t); err != nil {
			f.Open, f.Seen = false, err.Error()
		}
		if err := out.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// ReadFindings reads what Serve wrote.
func ReadFindings(r io.Reader) (map[string]Finding, error) {
	found := map[string]Finding{}
	for dec := json.NewDecoder(r); ; {
		var f Finding
		if err := dec.Decode(&f); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return found, err
		}
		if _, twice := found[f.Name]; twice {
			return found, fmt.Errorf("two probes are named %q", f.Name)
		}
		found[f.Name] = f
	}
}

// Try runs a probe here and now. It returns nil when it got through.
func (p Probe) Try(t Target) error {
	done := make(chan error, 1)
	go func() {
		// What a probe does to its thread (a namespace, a personality) ends with it.
		runtime.LockOSThread()
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("panic: %v", r)
			}
		}()
		done <- p.try(t)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return errors.New("no answer")
	}
}

// tryApart runs a probe in a process of its own: a filter may answer it by
// killing the process or, worse for a Go program, the thread.
func (p Probe) tryApart(Target) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	only, err := json.Marshal([]string{p.Name})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), OnlyVar+"="+string(only), apartVar+"=1")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("its process: %w", err)
	}
	found, err := ReadFindings(bytes.NewReader(out))
	if err != nil {
		return err
	}
	if f, ok := found[p.Name]; !ok || !f.Open {
		return errors.New(f.Seen)
	}
	return nil
}

// sys makes a system call and returns its error, or nil.
func sys(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// str returns the address of a C string, which lives as long as the program.
func str(s string) uintptr {
	b, _ := unix.BytePtrFromString(s)
	keep = append(keep, b)
	return uintptr(unsafe.Pointer(b))
}

var keep []*byte // alive while system calls look at them

// refused is for system calls that must fail in a filter and nowhere else: a
// call that gets through to the kernel, and fails there for another reason, is
// open.
func refused(nr uintptr, args ...uintptr) func(Target) error {
	return func(Target) error {
		err := sys(nr, args...)
		if err == syscall.EPERM || err == syscall.ENOSYS {
			return err
		}
		return nil
	}
}

// when turns a fact into the success of an attack.
func when(open bool, why string) error {
	if open {
		return nil
	}
	return errors.New(why)
}

// addr returns the address of the first byte, for a system call made at once.
func addr(b []byte) unsafe.Pointer {
	keep = append(keep, &b[0])
	return unsafe.Pointer(&b[0])
}

func read(path string) error { _, err := os.ReadFile(path); return err }

func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
