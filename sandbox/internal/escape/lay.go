//go:build linux && (amd64 || arm64)

package escape

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// heldFD is where the descriptor of the host's root directory stays open.
const heldFD = 177

// Lay puts everything that probes look for on this host, in reach of anybody,
// and this process's environment. What it returns undoes that. Only one target
// can be laid in a process at one time.
func Lay() (t Target, undo func(), err error) {
	var undos []func()
	undo = func() {
		for i := len(undos) - 1; i >= 0; i-- {
			undos[i]()
		}
	}
	defer func() {
		if err != nil {
			undo()
			err = fmt.Errorf("lay out the target: %w", err)
		}
	}()
	later := func(f func()) { undos = append(undos, f) }

	dir, err := os.MkdirTemp("", "canaries-")
	if err != nil {
		return t, nil, err
	}
	later(func() { os.RemoveAll(dir) })
	t = Target{
		Dir: dir, Secret: dir + "/secret", Open: dir + "/open", ReadOnly: dir + "/readonly", Unix: dir + "/open/socket",
		Abstract: filepath.Base(dir), Marker: filepath.Base(dir), Key: filepath.Base(dir), FD: heldFD,
		Shm: 0x54570000 | os.Getpid()&0xffff, Queue: 0x54580000 | os.Getpid()&0xffff, PosixShm: "/dev/shm/" + filepath.Base(dir),
		Namespaces: map[string]string{},
	}
	if err := t.files(); err != nil {
		return t, nil, err
	}
	closers, err := t.servers()
	later(func() {
		for _, c := range closers {
			c.Close()
		}
	})
	if err != nil {
		return t, nil, err
	}
	id, err := unix.SysvShmGet(t.Shm, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		return t, nil, fmt.Errorf("shared memory: %w", err)
	}
	later(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	queue, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(t.Queue), unix.IPC_CREAT|0o666, 0)
	if errno != 0 {
		return t, nil, fmt.Errorf("message queue: %w", errno)
	}
	later(func() { _, _, _ = unix.Syscall(unix.SYS_MSGCTL, queue, unix.IPC_RMID, 0) })
	if err := os.WriteFile(t.PosixShm, nil, 0o666); err != nil {
		return t, nil, err
	}
	later(func() { os.Remove(t.PosixShm) })
	// A kernel without keyrings has no key to find.
	if key, err := unix.AddKey("user", t.Key, []byte("secret"), unix.KEY_SPEC_USER_KEYRING); err == nil {
		later(func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, key, unix.KEY_SPEC_USER_KEYRING, 0, 0) })
	} else {
		t.Key = ""
	}
	p, err := victim(t.Marker + "-arg")
	if err != nil {
		return t, nil, err
	}
	later(func() { _ = p.Kill(); _, _ = p.Wait() })
	t.PID = p.Pid

	t.HostName, _ = os.Hostname()
	for _, k := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		t.Namespaces[k], _ = os.Readlink("/proc/self/ns/" + k)
	}
	if err := os.Setenv("CANARY", t.Marker); err != nil {
		return t, nil, err
	}
	later(func() { os.Unsetenv("CANARY") })
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return t, nil, err
	}
	err = unix.Dup3(root, heldFD, 0) // stays open in children
	unix.Close(root)
	if err != nil {
		return t, nil, err
	}
	later(func() { unix.Close(heldFD) })
	return t, undo, nil
}

func (t *Target) files() error {
	if err := os.Chmod(t.Dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{t.Open, t.ReadOnly} {
		if err := errors.Join(os.Mkdir(d, 0o777), os.Chmod(d, 0o777)); err != nil {
			return err
		}
	}
	for _, f := range []string{t.Secret, t.ReadOnly + "/file", t.ReadOnly + "/victim"} {
		if err := errors.Join(os.WriteFile(f, []byte("secret"), 0o666), os.Chmod(f, 0o666)); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return nil // a set-id program of an ordinary user is no danger
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	t.SetID = t.ReadOnly + "/set-id"
	return errors.Join(os.WriteFile(t.SetID, exe, 0o755), unix.Chmod(t.SetID, 0o6755))
}

// servers start what says "host" to whoever comes.
func (t *Target) servers() (closers []io.Closer, err error) {
	greet := func(network, addr string) (net.Listener, error) {
		ln, err := net.Listen(network, addr)
		if err != nil {
			return nil, err
		}
		closers = append(closers, ln)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(dialTime))
					_, _ = c.Write([]byte("host"))
					_, _ = io.Copy(io.Discard, c) // unread data would reset the connection
				}()
			}
		}()
		return ln, nil
	}
	ln, err := greet("tcp", "127.0.0.1:0")
	if err != nil {
		return closers, err
	}
	t.TCP = ln.Addr().String()
	if ln, err := greet("tcp", "[::1]:0"); err == nil {
		t.TCP6 = ln.Addr().String()
	}
	if _, err := greet("unix", t.Unix); err != nil {
		return closers, err
	}
	if _, err := greet("unix", "@"+t.Abstract); err != nil {
		return closers, err
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return closers, err
	}
	closers = append(closers, udp)
	t.UDP = udp.LocalAddr().String()
	go func() {
		for b := make([]byte, 64); ; {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte("host"), from)
		}
	}()
	return closers, os.Chmod(t.Unix, 0o777)
}

// victim starts a process of the host that does nothing.
func victim(name string) (*os.Process, error) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: sleep, Args: []string{name, "3600"}, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Process, nil
}
