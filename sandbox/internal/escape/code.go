//go:build linux && (amd64 || arm64)

package escape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// codeProbes make code of what was written inside. Compilers and runtimes need
// that, so a session allows it unless its policy says exec: strict.
func codeProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: Code, How: how, Stops: stops, Accepted: "compilers and runtimes do it; exec: strict refuses it", try: try})
	}
	filter := []string{seccomp}
	for name, dir := range map[string]string{"the workspace": "", "/tmp": "/tmp", "/dev/shm": "/dev/shm"} {
		add("execute a program written in "+name, "copy this program and run it", []string{"noexec mounts", landlock}, func(t Target) error {
			path, err := copySelf(orString(dir, t.Work))
			if err != nil {
				return err
			}
			defer os.Remove(path)
			return runs(path)
		})
	}
	add("execute a written program by its descriptor", "execve(/proc/self/fd/3)", []string{"noexec mounts", landlock}, func(t Target) error {
		path, err := copySelf(t.Work)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return runs("/proc/self/fd/3", f)
	})
	add("execute a script of its own with a known interpreter", "#! line in the workspace", []string{"noexec mounts", landlock}, func(t Target) error {
		path := filepath.Join(t.Work, "script")
		self, err := os.Executable()
		if err != nil {
			return err
		}
		defer os.Remove(path)
		if err := os.WriteFile(path, []byte("#!"+self+" "+SetIDArg+"\n"), 0o755); err != nil {
			return err
		}
		return runs(path)
	})
	for name, flags := range map[string]int{"a program in memory": 0, "a program in memory that is marked executable": 0x10} {
		add("execute "+name, "memfd_create(2), then execve(/proc/self/fd/3)", filter, func(Target) error {
			f, err := memoryCopy(flags)
			if err != nil {
				return err
			}
			defer f.Close()
			return runs("/proc/self/fd/3", f)
		})
	}
	add("execute a descriptor", "execveat(2) with AT_EMPTY_PATH", filter, func(Target) error {
		// Of no descriptor: whoever gets past a filter learns that it is none.
		return refused(unix.SYS_EXECVEAT, bad, str(""), 0, 0, unix.AT_EMPTY_PATH)(Target{})
	})
	add("map a written file as code", "mmap(2) of a file in the workspace", []string{"noexec mounts"}, func(t Target) error {
		path := filepath.Join(t.Work, "code")
		defer os.Remove(path)
		if err := os.WriteFile(path, make([]byte, 4096), 0o755); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return mapped(int(f.Fd()), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	})
	add("map memory to write and execute", "mmap(2)", filter, func(Target) error {
		return mapped(-1, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	})
	add("map shared memory to execute", "mmap(MAP_SHARED|MAP_ANONYMOUS)", filter, func(Target) error {
		return mapped(-1, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED|unix.MAP_ANON)
	})
	add("map /dev/zero as code", "mmap(MAP_SHARED), to be written through a second mapping", []string{"noexec mounts"}, func(Target) error {
		f, err := os.Open("/dev/zero")
		if err != nil {
			return err
		}
		defer f.Close()
		return mapped(int(f.Fd()), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED)
	})
	add("make written memory executable", "mprotect(2)", filter, func(Target) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		defer unix.Munmap(b)
		b[0] = 1
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	})
	add("make changed code of a file executable again", "map a program, write to the copy, mprotect(2)", filter, func(Target) error {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		defer unix.Munmap(b)
		if err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return err
		}
		b[0]++
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	})
	add("make memory executable by a key", "pkey_mprotect(2)", filter, func(Target) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		defer unix.Munmap(b)
		return sys(unix.SYS_PKEY_MPROTECT, uintptr(addr(b)), 4096, unix.PROT_READ|unix.PROT_EXEC, bad)
	})
	add("attach shared memory as code", "shmat(2) with SHM_EXEC", filter, func(Target) error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o700)
		if err != nil {
			return err
		}
		defer unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		const shmExec = 0o100000
		b, err := unix.SysvShmAttach(id, 0, shmExec)
		if err != nil {
			return err
		}
		return unix.SysvShmDetach(b)
	})
	add("write to its own code through /proc", "open /proc/self/mem for writing", []string{landlock}, func(Target) error { return write("/proc/self/mem") })
	// Nobody needs this one, and it is refused in every session.
	probes[len(probes)-1].Accepted = ""
	return probes
}

func orString(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func mapped(fd, prot, flags int) error {
	b, err := unix.Mmap(fd, 0, 4096, prot, flags)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}

// runs executes a file that is a copy of this program, and sees it run.
func runs(path string, extra ...*os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, SetIDArg)
	cmd.ExtraFiles = extra
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	return when(len(out) > 0, "it said nothing")
}

func copySelf(dir string) (string, error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("copy-%d", time.Now().UnixNano())), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return to.Name(), errors.Join(err, to.Close())
}

// memoryCopy returns this program in a memory file, open for reading: what is
// open for writing cannot be executed.
func memoryCopy(flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate("program", flags)
	if err != nil {
		return nil, err
	}
	w := os.NewFile(uintptr(fd), "program")
	defer w.Close()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer from.Close()
	if _, err := io.Copy(w, from); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}
