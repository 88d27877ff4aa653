//go:build linux && (amd64 || arm64)

package confine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// room launches a room that shows the system's programs and this one.
func room(t *testing.T, change func(*Spec)) *Box {
	s := &Spec{Hostname: "sandbox", Workspace: tempDir(t), OwnWorkspace: true, Self: true, Env: []string{"PATH=/usr/bin:/bin", race}}
	for _, p := range []string{"/bin", "/lib", "/lib64", "/usr"} {
		s.Binds = append(s.Binds, Bind{Source: p, Optional: true})
	}
	if change != nil {
		change(s)
	}
	b, err := Launch(context.Background(), s)
	require.NoError(t, err)
	t.Cleanup(func() { b.closeListeners(); b.Close() })
	return b
}

// under runs a test with each launcher; launch is room with that one.
func under(t *testing.T, test func(t *testing.T, launch func(func(*Spec)) *Box)) {
	for _, l := range launchers {
		t.Run("launcher "+string(l), func(t *testing.T) {
			test(t, func(change func(*Spec)) *Box {
				return room(t, func(s *Spec) {
					s.Launcher = l
					if change != nil {
						change(s)
					}
				})
			})
		})
	}
}

func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/var/tmp", "confine-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// inside runs a command in the room and returns what it wrote.
func inside(t *testing.T, b *Box, path string, args ...string) (string, Exit, error) {
	r, w, err := b.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := b.Exec(Exec{Path: path, Args: append([]string{path}, args...)}, []*os.File{nil, w, w})
	w.Close()
	if err != nil {
		return "", Exit{}, err
	}
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(out), p.Wait(), nil
}

// findings runs a role of this binary that prints "name: result" lines.
func findings(t *testing.T, b *Box, role string) map[string]string {
	out, exit, err := inside(t, b, SelfPath, role)
	require.NoError(t, err)
	require.Zero(t, exit.Code, out)
	found := map[string]string{}
	for sc := bufio.NewScanner(strings.NewReader(out)); sc.Scan(); {
		k, v, _ := strings.Cut(sc.Text(), ": ")
		found[k] = v
	}
	return found
}

// say prints one finding: "ok" or the name of the error.
func say(name string, err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		fmt.Printf("%s: %s\n", name, unix.ErrnoName(errno))
		return
	}
	if err != nil {
		fmt.Printf("%s: %v\n", name, err)
		return
	}
	fmt.Printf("%s: ok\n", name)
}

func start(path string, args ...string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(path, append([]string{path}, args...), &syscall.ProcAttr{Env: []string{}, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}})
	if err != nil {
		return err
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	if ws.ExitStatus() != 0 {
		return fmt.Errorf("exit %d", ws.ExitStatus())
	}
	return nil
}

func loader() string {
	m, _ := filepath.Glob("/lib*/ld-linux-*.so.*")
	return append(m, "/no/loader")[0]
}

func init() {
	roles["run-what-was-written"] = func() {
		image, err := os.ReadFile("/bin/true")
		if err != nil {
			panic(err)
		}
		memory := func(flags int) (int, error) {
			fd, err := unix.MemfdCreate("program", flags)
			if err == nil {
				_, err = unix.Write(fd, image)
			}
			return fd, err
		}
		fd, err := memory(0)
		if err == nil {
			err = start(fmt.Sprintf("/proc/self/fd/%d", fd))
		}
		say("memory file", err)
		if fd, err = memory(unix.MFD_NOEXEC_SEAL); err == nil {
			say("data in a memory file", nil)
			err = errors.Join(unix.Fchmod(fd, 0o755), start(fmt.Sprintf("/proc/self/fd/%d", fd)))
		}
		say("memory file for data", err)
		_, err = memory(unix.MFD_EXEC)
		say("memory file for programs", err)
		_, err = memory(unix.MFD_EXEC | unix.MFD_NOEXEC_SEAL)
		say("memory file for both", err)
		const rw, rx, rwx = unix.PROT_READ | unix.PROT_WRITE, unix.PROT_READ | unix.PROT_EXEC, unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC
		sealed, err := memory(unix.MFD_NOEXEC_SEAL)
		if err == nil {
			_, err = unix.Mmap(sealed, 0, 4096, rx, unix.MAP_SHARED)
		}
		say("map a memory file as code", err)
		_, err = unix.Mmap(-1, 0, 4096, rwx, unix.MAP_PRIVATE|unix.MAP_ANON)
		say("writable code", err)
		_, err = unix.Mmap(-1, 0, 4096, rx, unix.MAP_PRIVATE|unix.MAP_ANON)
		say("nameless code", err)
		m, err := unix.Mmap(-1, 0, 4096, rw, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err == nil {
			err = unix.Mprotect(m, rx)
		}
		say("data becomes code", err)
		lib, _ := unix.Open("/bin/true", unix.O_RDONLY, 0)
		code, err := unix.Mmap(lib, 0, 4096, rx, unix.MAP_PRIVATE)
		say("code of a file", err)
		if err == nil {
			err = unix.Mprotect(code, rwx)
		}
		say("code becomes data", err)
		_, err = unix.Mmap(lib, 0, 4096, rwx, unix.MAP_PRIVATE)
		say("code of a file to be changed", err)
		mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
		if err == nil {
			mem.Close()
		}
		say("change the own code", err)
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o700)
		if err == nil {
			_, err = unix.SysvShmAttach(id, 0, 0o100000)
		}
		say("shared memory as code", err)
		at, _ := unix.Open("/bin/true", unix.O_PATH, 0)
		say("descriptor without a path", unix.Faccessat(at, "", unix.X_OK, unix.AT_EMPTY_PATH))
		_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, ^uintptr(0), 0, 0, 0, unix.AT_EMPTY_PATH, 0)
		say("execveat", errno)
		say("shown read-only", start("/bin/true"))
		for _, dir := range []string{"/tmp", "/sandbox", "/dev/shm", os.Args[2]} {
			path := dir + "/program"
			if err := os.WriteFile(path, image, 0o755); err != nil {
				panic(err)
			}
			say("run in "+dir, start(path))
			f, _ := os.Open(path)
			say("by descriptor in "+dir, start(fmt.Sprintf("/proc/self/fd/%d", f.Fd())))
			say("loader for "+dir, start(loader(), path))
			_, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
			say("map in "+dir, err)
			m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
			if err == nil {
				err = unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC)
			}
			say("protect in "+dir, err)
			script := dir + "/script"
			_ = os.WriteFile(script, []byte("#!/bin/true\n"), 0o755)
			say("script in "+dir, start(script))
			say("link in "+dir, os.Link("/usr/bin/env", dir+"/env"))
		}
	}
}

func TestStrictRunsNothingThatWasWritten(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		try := func(t *testing.T, change func(*Spec)) map[string]string {
			dir := tempDir(t)
			b := launch(func(s *Spec) {
				s.Binds = append(s.Binds, Bind{Source: dir, Writable: true})
				change(s)
			})
			out, exit, err := inside(t, b, SelfPath, "run-what-was-written", dir)
			require.NoError(t, err)
			require.Zero(t, exit.Code, out)
			found := map[string]string{}
			for sc := bufio.NewScanner(strings.NewReader(strings.ReplaceAll(out, dir, "bind"))); sc.Scan(); {
				k, v, _ := strings.Cut(sc.Text(), ": ")
				found[k] = v
			}
			return found
		}
		places := []string{"/tmp", "/sandbox", "/dev/shm", "bind"}

		t.Run("strict", func(t *testing.T) {
			found := try(t, func(s *Spec) { s.ExecStrict = true })
			want := map[string]string{
				"memory file": "EPERM", "memory file for data": "EPERM", "memory file for programs": "EPERM", "memory file for both": "EPERM",
				"descriptor without a path": "ok", "execveat": "EPERM", "shown read-only": "ok",
				"map a memory file as code": "EPERM", "writable code": "EPERM", "nameless code": "EPERM", "data becomes code": "EPERM", "code of a file": "ok",
				"code becomes data": "EPERM", "code of a file to be changed": "EPERM", "change the own code": "EACCES", "shared memory as code": "EPERM",
			}
			for _, p := range places {
				want["run in "+p], want["by descriptor in "+p], want["loader for "+p] = "EACCES", "EACCES", "exit 127"
				want["map in "+p], want["protect in "+p], want["script in "+p], want["link in "+p] = "EPERM", "EPERM", "EACCES", "EXDEV"
			}
			if found["descriptor without a path"] == "EINVAL" { // faccessat2 is newer than the C library's emulation
				want["descriptor without a path"] = "EINVAL"
			}
			assert.Equal(t, want, found)
		})
		t.Run("listed programs", func(t *testing.T) {
			found := try(t, func(s *Spec) {
				s.Programs = []Program{{Path: "/bin/true"}, {Path: SelfPath}}
			})
			for _, p := range places {
				assert.Equal(t, "EACCES", found["run in "+p])
				assert.Equal(t, "exit 127", found["loader for "+p])
			}
			for what, want := range map[string]string{
				"memory file": "EPERM", "memory file for data": "EPERM", "memory file for both": "EPERM", "execveat": "EPERM",
				"data in a memory file": "ok", "writable code": "ok", "data becomes code": "ok", // for Node and the like
			} {
				assert.Equal(t, want, found[what], what)
			}
		})
		t.Run("default", func(t *testing.T) {
			found := try(t, func(*Spec) {})
			for _, p := range places {
				want := "ok"
				if p == "/dev/shm" {
					want = "EACCES"
				}
				assert.Equal(t, want, found["run in "+p], p)
				assert.Equal(t, want, found["script in "+p], p)
			}
			assert.Equal(t, "ok", found["memory file"])
			assert.Equal(t, "EFAULT", found["execveat"])
			for _, jit := range []string{"writable code", "data becomes code", "data in a memory file", "code becomes data"} {
				assert.Equal(t, "ok", found[jit], jit)
			}
		})
		t.Run("without the filter", func(t *testing.T) {
			found := try(t, func(s *Spec) { s.ExecStrict, s.Without = true, []Layer{LayerSeccomp} })
			assert.Equal(t, "ok", found["memory file"])
			assert.Equal(t, "EACCES", found["run in /tmp"])
		})
		t.Run("without Landlock", func(t *testing.T) {
			found := try(t, func(s *Spec) { s.ExecStrict, s.Without = true, []Layer{LayerLandlock} })
			assert.Equal(t, "EACCES", found["run in /tmp"], "the mounts alone")
			assert.Equal(t, "EPERM", found["map in bind"])
		})
	})
}

// TestStrictNeedsTwoPlaces refuses what could be written here and run there.
func TestStrictNeedsTwoPlaces(t *testing.T) {
	outer := tempDir(t)
	dir := outer + "/workspace"
	require.NoError(t, os.Mkdir(dir, 0o755))
	for name, s := range map[string]*Spec{
		"beneath":  {Workspace: dir, Binds: []Bind{{Source: outer}}},
		"the same": {Workspace: outer, Binds: []Bind{{Source: outer}}},
		"above":    {Workspace: outer, Binds: []Bind{{Source: dir}}},
	} {
		s.ExecStrict, s.Hostname = true, "sandbox"
		_, err := Launch(context.Background(), s)
		var le *LayerError
		require.ErrorAs(t, err, &le, name)
		assert.Equal(t, LayerMount, le.Layer)
		assert.NotEmpty(t, le.Hint)
	}
	in, err := within("/proc/self/root/usr/bin", "/usr")
	require.NoError(t, err)
	assert.True(t, in, "by another path")
	in, err = within("/var/tmp", "/usr")
	require.NoError(t, err)
	assert.False(t, in)
}

func sum(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func init() {
	roles["run-programs"] = func() {
		for _, p := range []string{"/bin/true", "/bin/echo", "/bin/sh", "/usr/bin/env", loader(), SelfPath} {
			args := []string{"--version"}
			if p == SelfPath {
				args = []string{"normal"}
			}
			say(p, start(p, args...))
		}
		say("the loader runs what can be read", start(loader(), "/bin/echo"))
	}
}

func TestOnlyListedProgramsRun(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		b := launch(func(s *Spec) {
			s.Programs = []Program{{Path: "/bin/true", SHA256: sum(t, "/bin/true")}, {Path: SelfPath, SHA256: sum(t, "/proc/self/exe")}}
		})
		assert.Equal(t, map[string]string{
			"/bin/true": "ok", SelfPath: "ok", loader(): "ok", // the loader cannot be helped
			"/bin/echo": "EACCES", "/bin/sh": "EACCES", "/usr/bin/env": "EACCES",
			"the loader runs what can be read": "ok", // said so in the documentation
		}, findings(t, b, "run-programs"))
		_, _, err := inside(t, b, "/bin/echo")
		assert.ErrorIs(t, err, unix.EACCES)

		none := launch(func(s *Spec) { s.Programs = []Program{} })
		_, _, err = inside(t, none, "/bin/true")
		assert.ErrorIs(t, err, unix.EACCES, "an empty list allows nothing")
	})
}

func TestProgramsAreChecked(t *testing.T) {
	dir := tempDir(t)
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	image, err := os.ReadFile("/bin/true")
	require.NoError(t, err)
	open := put("open", string(image), 0o777)
	mine := put("mine", string(image), 0o755)
	script := put("script", "#! /bin/sh -e\n", 0o755)
	text := put("text", "hello", 0o755)
	data := put("data", string(image), 0o644)
	shown := []Bind{{Source: "/usr"}, {Source: "/bin", Optional: true}, {Source: "/lib64", Optional: true}, {Source: "/lib", Optional: true}, {Source: dir}}
	for name, c := range map[string]struct {
		p       Program
		problem string
		change  func(*Spec)
	}{
		"wrong hash":             {Program{"/bin/true", strings.Repeat("0", 64)}, "not what policy says", nil},
		"no such file":           {Program{Path: "/usr/bin/no-such-program"}, "cannot be found", nil},
		"not shown":              {Program{Path: "/etc/hostname"}, "no path", nil},
		"everybody writes":       {Program{Path: open}, "everybody", nil},
		"beneath a writable":     {Program{Path: mine}, "writable", func(s *Spec) { s.Binds[4].Writable = true }},
		"script":                 {Program{Path: script}, "script of /bin/sh", nil},
		"neither":                {Program{Path: text}, "neither", nil},
		"not to be run":          {Program{Path: data}, "can be run", nil},
		"a directory":            {Program{Path: "/usr/bin"}, "can be run", nil},
		"self that is not there": {Program{Path: SelfPath}, "cannot be found", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Spec{Hostname: "sandbox", Workspace: tempDir(t), Binds: append([]Bind{}, shown...), Programs: []Program{c.p}}
			if c.change != nil {
				c.change(s)
			}
			_, err := Launch(context.Background(), s)
			var pe *ProgramError
			require.ErrorAs(t, err, &pe)
			assert.Equal(t, c.p.Path, pe.Path)
			assert.Contains(t, err.Error(), c.problem)
		})
	}
	t.Run("script and interpreter", func(t *testing.T) {
		b := room(t, func(s *Spec) {
			s.Binds = append(s.Binds, Bind{Source: dir})
			s.Programs = []Program{{Path: script}, {Path: "/bin/sh"}}
		})
		_, exit, err := inside(t, b, script)
		require.NoError(t, err)
		assert.Zero(t, exit.Code)
	})
	t.Run("replaced meanwhile", func(t *testing.T) {
		f, err := os.Open(mine)
		require.NoError(t, err)
		defer f.Close()
		id, _, err := identify(int(f.Fd()))
		require.NoError(t, err)
		assert.ErrorIs(t, addRule(-1, rule{path: open, id: &id}, 0), errReplaced)
		require.NoError(t, os.WriteFile(mine, image[:100], 0o755))
		assert.ErrorIs(t, addRule(-1, rule{path: mine, id: &id}, 0), errReplaced)
		assert.ErrorIs(t, addRule(-1, rule{path: mine + "-gone", id: &id}, 0), unix.ENOENT)
	})
}

// TestStrictRules reads the Landlock rules: the mounts would hide their absence.
func TestStrictRules(t *testing.T) {
	targets := map[string]bool{"/usr": false, "/data": true}
	runs := func(s *Spec) (paths []string) {
		for _, r := range landlockRules(s, targets) {
			if r.access&unix.LANDLOCK_ACCESS_FS_EXECUTE != 0 {
				paths = append(paths, r.path)
			}
		}
		return paths
	}
	assert.ElementsMatch(t, []string{"/etc", "/tmp", "/dev/shm", "/sandbox", "/usr", "/data", SelfPath}, runs(&Spec{Self: true}))
	assert.ElementsMatch(t, []string{"/etc", "/usr", SelfPath}, runs(&Spec{Self: true, ExecStrict: true}))
	assert.Empty(t, runs(&Spec{Self: true, Programs: []Program{}}))
}
