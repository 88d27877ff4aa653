//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/sandbox/internal/fsuser"
)

// Calls of a room without namespaces that the host makes in the caller's place.
//
// The kernel holds the calling thread until the host answers, and whatever it
// answers is the call's result; the call itself never happens. So it does not
// matter that another thread may write to the memory in which an argument lies:
// the host reads it once, judges what it has read, and acts on that. Objects are
// the caller's own (its socket, its open directory), taken by pidfd_getfd, and
// are judged as what the kernel says that they are.

// nameCache is where the C library looks for a service that knows users.
const nameCache = "/var/run/nscd/socket"

// connect lets a TCP socket connect to the host's proxy, whatever address it was
// given, if that address was the proxy's: others hear that nobody answers there.
func (r *sharedRoom) connect(n *notification) unix.Errno {
	refuse := func(where string, errno unix.Errno) unix.Errno {
		r.tell(Denial{Layer: LayerNetwork, What: "connect", Object: where, Program: threadName(n.pid)})
		return errno
	}
	fd, err := takeFD(n.pid, n.args[0])
	if err == unix.EBADF {
		return unix.EBADF
	}
	if err != nil { // the program hides its memory, or the host may not look (Yama)
		return refuse("its socket cannot be taken: "+err.Error(), unix.EACCES)
	}
	defer unix.Close(fd)
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return unix.ENOTSOCK
	}
	raw := make([]byte, min(n.args[2], unix.SizeofSockaddrAny))
	if readMemory(n.pid, n.args[1], raw) != nil {
		return unix.EFAULT
	}
	if family == unix.AF_UNIX {
		// A path ends with a NUL, and an abstract name begins with one.
		path := string(raw[min(2, len(raw)):])
		if i := strings.IndexByte(path, 0); i > 0 {
			path = path[:i]
		}
		if path == nameCache {
			return unix.ENOENT // every program tries
		}
		return refuse(path, unix.EACCES)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	protocol, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if family != unix.AF_INET && family != unix.AF_INET6 || kind != unix.SOCK_STREAM || protocol != unix.IPPROTO_TCP || err != nil || err2 != nil {
		return refuse("", unix.EACCES)
	}
	to, ok := socketAddress(raw)
	if !ok {
		return refuse("", unix.EINVAL)
	}
	if to.Port() != r.port || to.Addr().Unmap() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return refuse(to.String(), unix.ECONNREFUSED)
	}
	if !r.valid(n) {
		return unix.EACCES
	}
	return r.dial(fd, family)
}

// dial connects a program's socket to the proxy. That is immediate, unless the
// proxy's queue is full.
func (r *sharedRoom) dial(fd, family int) unix.Errno {
	to := r.proxy.Addr().(*net.TCPAddr)
	var from, at unix.Sockaddr
	loopback := [4]byte{127, 0, 0, 1}
	if family == unix.AF_INET {
		from, at = &unix.SockaddrInet4{Addr: loopback}, &unix.SockaddrInet4{Addr: loopback, Port: to.Port}
	} else {
		mapped := netip.AddrFrom4(loopback).As16()
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
		from, at = &unix.SockaddrInet6{Addr: mapped}, &unix.SockaddrInet6{Addr: mapped, Port: to.Port}
	}
	// So that the proxy can tell this connection from others of the machine. A
	// socket that was connected before has a port already.
	if err := unix.Bind(fd, from); err != nil && err != unix.EINVAL {
		return errnoOf(err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return errnoOf(err)
	}
	port := 0
	switch a := own.(type) {
	case *unix.SockaddrInet4:
		port = a.Port
	case *unix.SockaddrInet6:
		port = a.Port
	}
	r.proxy.expect(uint16(port))
	err = unix.Connect(fd, at)
	if err != nil && err != unix.EINPROGRESS {
		r.proxy.forget(uint16(port))
	}
	return errnoOf(err)
}

// attributes changes the mode or the times of a file in a place that the room may
// write in, and of no other. A host that is root does it with the rights of the
// room's user, so that a program finds and changes nothing that it could not.
func (r *sharedRoom) attributes(n *notification) (errno unix.Errno) {
	uid, gid := -1, -1
	if r.box.id.root {
		uid, gid = r.box.id.uid, r.box.id.gid
	}
	if err := fsuser.Do(uid, gid, func() { errno = r.setAttributes(n) }); err != nil {
		return errnoOf(err)
	}
	return errno
}

func (r *sharedRoom) setAttributes(n *notification) unix.Errno {
	const fdcwd = ^uint64(0) - 99 // AT_FDCWD, of which the kernel looks at the lower half
	var fd int
	var err error
	flags, mode := 0, uint32(0)
	times := []unix.Timespec(nil)
	switch nr := uintptr(n.nr); nr {
	case unix.SYS_FCHMOD:
		mode = uint32(n.args[1])
		fd, err = takeFD(n.pid, n.args[0])
	case unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2:
		mode = uint32(n.args[2])
		if nr == unix.SYS_FCHMODAT2 {
			flags = int(n.args[3])
		}
		fd, err = takeFile(n, n.args[0], n.args[1], flags)
	case unix.SYS_UTIMENSAT:
		flags = int(n.args[3])
		fd, err = takeFile(n, n.args[0], n.args[1], flags)
		if err == nil && n.args[2] != 0 {
			times = make([]unix.Timespec, 2)
			err = readMemory(n.pid, n.args[2], unsafe.Slice((*byte)(unsafe.Pointer(&times[0])), 2*unsafe.Sizeof(times[0])))
		}
	default: // chmod
		mode = uint32(n.args[1])
		fd, err = takeFile(n, fdcwd, n.args[0], 0)
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if err != nil {
		return errnoOf(err)
	}
	link := "/proc/self/fd/" + strconv.Itoa(fd)
	path, err := os.Readlink(link)
	if err != nil || !r.mayWrite(path) {
		return unix.EPERM
	}
	if !r.valid(n) || mode&setID != 0 {
		return unix.EPERM
	}
	if uintptr(n.nr) == unix.SYS_UTIMENSAT {
		return errnoOf(unix.UtimesNanoAt(unix.AT_FDCWD, link, times, 0))
	}
	return errnoOf(unix.Fchmodat(unix.AT_FDCWD, link, mode, 0))
}

// mayWrite reports whether a path of an open file lies in a writable place. What
// is there cannot have been linked or moved in from elsewhere by the room.
func (r *sharedRoom) mayWrite(path string) bool {
	for _, dir := range r.writable {
		if path == dir || beneath(path, dir) {
			return true
		}
	}
	return false
}

// valid reports whether the caller still waits, and so is who was meant by its
// number.
func (r *sharedRoom) valid(n *notification) bool {
	raw, err := r.box.denials.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	_ = raw.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, uintptr(unsafe.Pointer(&n.id)))
		ok = errno == 0
	})
	return ok
}

// takeFile opens what a path means to a thread: O_PATH, not through /proc's links
// to what others have open.
func takeFile(n *notification, dirfd, path uint64, flags int) (int, error) {
	name := ""
	if path != 0 {
		buf := make([]byte, unix.PathMax)
		got, err := readString(n.pid, path, buf)
		if err != nil {
			return -1, err
		}
		name = got
	}
	at := int32(uint32(dirfd))
	if name == "" {
		if path != 0 && flags&unix.AT_EMPTY_PATH == 0 {
			return -1, unix.ENOENT
		}
		if at == unix.AT_FDCWD {
			name = "."
		} else {
			return takeFD(n.pid, dirfd)
		}
	}
	base := -1
	var err error
	switch {
	case strings.HasPrefix(name, "/"):
	case at == unix.AT_FDCWD:
		base, err = unix.Open("/proc/"+strconv.Itoa(int(n.pid))+"/cwd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	default:
		base, err = takeFD(n.pid, dirfd)
	}
	if err != nil {
		return -1, err
	}
	defer closeAll([]int{base})
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		how.Flags |= unix.O_NOFOLLOW
	}
	return unix.Openat2(base, name, &how)
}

// takeFD returns a copy of a descriptor of a thread.
func takeFD(tid uint32, number uint64) (int, error) {
	const thread = unix.O_EXCL // PIDFD_THREAD, Linux 6.9
	pidfd, err := unix.PidfdOpen(int(tid), thread)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, int(int32(uint32(number))), 0)
}

// readMemory reads all of b from a process's memory.
func readMemory(pid uint32, addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	n, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	if err == nil && n != len(b) {
		err = unix.EFAULT
	}
	return err
}

// readString reads a string that ends with a NUL, page by page: what follows it
// may not be there.
func readString(pid uint32, addr uint64, b []byte) (string, error) {
	page := uint64(os.Getpagesize())
	for have := 0; have < len(b); {
		n := min(int(page-(addr+uint64(have))%page), len(b)-have)
		if err := readMemory(pid, addr+uint64(have), b[have:have+n]); err != nil {
			return "", unix.EFAULT
		}
		if i := bytes.IndexByte(b[have:have+n], 0); i >= 0 {
			return string(b[:have+i]), nil
		}
		have += n
	}
	return "", unix.ENAMETOOLONG
}

// socketAddress reads an address as connect(2) takes it.
func socketAddress(b []byte) (netip.AddrPort, bool) {
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), true
	case unix.AF_INET6:
		if len(b) >= 24 {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port), true
		}
	}
	return netip.AddrPort{}, false
}

func errnoOf(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := err.(unix.Errno); ok {
		return errno
	}
	return unix.EIO
}
