//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// newCommand writes the program that starts one command: init's worker clones,
// the child says who it is, arranges its descriptors and executes. What the
// worker is confined by, the child is born with. null says for each descriptor
// whether it is /dev/null or one that came with the request, which begin at first.
func newCommand(in *initProgram, id uint64, e Exec, env []string, null []bool, first int) *prog {
	p := &prog{}
	p.fail = p.label()
	child := p.label()
	p.call("", callHeader, head(0))
	p.call("", callValue, saysResult).to(head(headerKind))
	p.call("", callValue, id).to(head(headerID))
	p.optional(p.call("clone", unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_VFORK|int(unix.SIGCHLD), 0, 0, 0, 0).to(head(headerPID)).ifZero(child))
	p.call("answer", unix.SYS_SENDTO, fdControl, head(0), wordSize*headerWords, unix.MSG_NOSIGNAL, 0, 0).then(in.addr(in.done))

	// The child hands out its descriptor itself, as that can fail: the kernel counts
	// descriptors that are on their way for the user as a whole, and any program of
	// his can use them up.
	p.mark(child)
	starting, handle := p.reserve(3*wordSize), p.parcel(1)
	binary.NativeEndian.PutUint64(p.data[starting:], saysStarting)
	binary.NativeEndian.PutUint64(p.data[starting+wordSize:], id)
	p.call("look for its process id", unix.SYS_GETPID).to(slot(starting + 2*wordSize))
	p.call("open its descriptor", unix.SYS_PIDFD_OPEN, slot(starting+2*wordSize), 0).to(handle.at(0))
	p.call("say its process id", unix.SYS_SENDMSG, fdControl, p.messageAt(starting, 3*wordSize, handle), unix.MSG_NOSIGNAL)
	p.call("close", unix.SYS_CLOSE, handle.at(0))
	p.call("begin a session", unix.SYS_SETSID)
	p.descriptors(null, first)
	p.call("close the rest", unix.SYS_CLOSE_RANGE, len(null), math.MaxUint32, 0)
	for _, l := range in.limits {
		p.limit(l)
	}
	if e.Terminal {
		p.call("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	dir := e.Dir
	if dir == "" {
		dir = Home
	}
	p.call("enter "+dir, unix.SYS_CHDIR, dir)
	p.call("unblock signals", unix.SYS_RT_SIGPROCMASK, 2, p.reserve(wordSize), 0, wordSize) // SIG_SETMASK
	p.execute(e.Path, p.vector(e.Args), p.vector(env), env)
	p.mark(p.fail)
	p.call("end", unix.SYS_EXIT_GROUP, 127)
	return p
}

// vector returns an array of strings as execve wants it.
func (p *prog) vector(list []string) ref {
	at := p.reserve(wordSize * (len(list) + 1))
	for i, s := range list {
		p.point(at+ref(i*wordSize), p.putString(s))
	}
	return at
}

// descriptors moves what came with the request, from first on, to where the command
// has it.
func (p *prog) descriptors(null []bool, next int) {
	from := make([]int, len(null))
	for i, isNull := range null {
		if !isNull {
			from[i] = next
			next++
		}
	}
	if slices.Contains(null, true) {
		// The lowest free number is the one behind those that came.
		p.call("open /dev/null", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		for i, isNull := range null {
			if isNull {
				from[i] = next
			}
		}
		next++
	}
	next = max(next, len(null))
	for i, fd := range from {
		if fd < i { // it would be overwritten before its turn
			p.call("move a descriptor", unix.SYS_DUP3, fd, next, unix.O_CLOEXEC)
			from[i] = next
			next++
		}
	}
	for i, fd := range from {
		if fd == i {
			p.call("keep a descriptor", unix.SYS_FCNTL, fd, unix.F_SETFD, 0)
		} else {
			p.call("set a descriptor", unix.SYS_DUP3, fd, i, 0)
		}
	}
}

// execute finds a program as [lookPath] does and executes it.
func (p *prog) execute(name string, argv, envp ref, env []string) {
	exec := func(path any) { p.call("execute", unix.SYS_EXECVE, path, argv, envp) }
	refuse := func(errno unix.Errno) { p.call("find "+name, callValue, uint64(-int64(errno))) }
	if strings.Contains(name, "/") {
		exec(name)
		return
	}
	if name == "" {
		refuse(unix.ENOENT)
		return
	}
	var paths []ref
	for _, d := range strings.Split(pathOf(env), ":") {
		if strings.HasPrefix(d, "/") { // never the current directory
			paths = append(paths, p.putString(d+"/"+name))
		}
	}
	// dirs goes on at next when a path is a directory.
	isDir := func(path ref, next, other label) {
		p.call("", unix.SYS_OPENAT, unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).orElse(other).then(next)
	}
	for _, path := range paths {
		next, file := p.label(), p.label()
		p.call("", unix.SYS_FACCESSAT, unix.AT_FDCWD, path, unix.X_OK, 0).orElse(next)
		isDir(path, next, file)
		p.mark(file)
		exec(path)
		p.mark(next)
	}
	// None can be executed. If one is there, that is what to say.
	denied := p.label()
	for _, path := range paths {
		next := p.label()
		p.call("", unix.SYS_FACCESSAT, unix.AT_FDCWD, path, 0, 0).orElse(next)
		isDir(path, next, denied)
		p.mark(next)
	}
	refuse(unix.ENOENT)
	p.mark(denied)
	refuse(unix.EACCES)
}
