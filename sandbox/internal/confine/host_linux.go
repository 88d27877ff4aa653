//go:build linux && (amd64 || arm64)

package confine

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// kuidBase is where the users of rooms begin when the host is root: high above
// what systems hand out to people, services and containers.
const kuidBase = 0x70000000

// An identity is who the room's user is to the host's kernel.
type identity struct {
	uid, gid int
	root     bool // the host is root and the room is somebody else
}

// newIdentity returns the host's own user or, when that is root, a user that
// exists for this room only: never uid 0.
func newIdentity() (identity, error) {
	if uid := os.Geteuid(); uid != 0 {
		if os.Getuid() != uid || os.Getgid() != os.Getegid() {
			return identity{}, &LayerError{Layer: LayerUser, Err: errors.New("the host program runs set-user-id"), Hint: "start it as the user itself"}
		}
		return identity{uid: uid, gid: os.Getegid()}, nil
	}
	var b [4]byte
	rand.Read(b[:])
	n := int(binary.NativeEndian.Uint32(b[:]) & 0x07ffffff)
	return identity{uid: kuidBase + n, gid: kuidBase + n, root: true}, nil
}

// attr is how init is cloned.
func (id identity) attr(flags uintptr) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags:  flags,
		Pdeathsig:   unix.SIGKILL,
		Setsid:      true,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: UID, HostID: id.uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: GID, HostID: id.gid, Size: 1}},
		// What init needs until it is done building, in its own user namespace.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP},
	}
	if id.root {
		// Without supplementary groups, and as the mapped user rather than as a
		// root that has no name inside.
		a.GidMappingsEnableSetgroups = true
		a.Credential = &syscall.Credential{Uid: UID, Gid: GID}
	}
	return a
}

// A delivery is what init inherits, to be closed by the host afterwards: mounts,
// and files to be copied.
type delivery struct {
	order  order
	mounts []int
}

func (d *delivery) close() { closeAll(d.mounts) }

// prepare finds what the room is to show. A host that is root also detaches the
// trees, as the room's user may not be able to reach them, and translates the
// owner of writable ones to that user.
func prepare(spec *Spec, id identity) (_ *delivery, err error) {
	d := &delivery{order: order{Spec: *spec, WorkspaceMount: -1, SelfMount: -1, KUID: id.uid, HostNS: readNamespaces("self"), Notify: spec.OnDenial != nil}}
	d.order.Binds = nil
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := spec.Tier.check(); err != nil {
		return nil, err
	}
	if d.order.Places, err = locate(spec.Binds); err != nil {
		return nil, err
	}
	workspace, links, err := resolve(spec.Workspace)
	if err != nil {
		return nil, &LayerError{Layer: LayerMount, Step: "find the workspace", Err: err}
	}
	if err := checkLinks(d.order.Places, workspace, links); err != nil {
		return nil, err
	}
	d.order.Workspace = workspace
	if err := checkOneWay(spec, d.order.Workspace, d.order.Places); err != nil {
		return nil, err
	}
	if d.order.Runnable, err = findPrograms(spec, d.order.Places); err != nil {
		return nil, err
	}
	if d.order.Devices, err = findDevices(spec.Devices, id.root); err != nil {
		return nil, err
	}
	d.order.GPU = slices.Contains(spec.Devices, gpu)
	d.order.Optional = slices.DeleteFunc(slices.Clone(spec.Optional), func(l Layer) bool { return slices.Contains(spec.required(), l) })
	if spec.shared() {
		return d, d.prepareShared(spec, id)
	}
	if spec.MoreFiles != nil {
		more, err := spec.MoreFiles()
		if err != nil {
			return nil, err
		}
		d.order.Files = append(slices.Clone(spec.Files), more...)
	}
	if err := d.origins(); err != nil {
		return nil, err
	}
	if !id.root {
		return d, nil
	}
	for i, p := range d.order.Places {
		if covered(d.order.Places, i) {
			continue
		}
		if d.order.Places[i].Mount, err = d.tree(p.Real, id, p.Writable); err != nil {
			return nil, layerErr(LayerMount, "detach "+p.Source, err)
		}
	}
	if d.order.WorkspaceMount, err = d.tree(d.order.Workspace, id, true); err != nil {
		return nil, layerErr(LayerMount, "open the workspace", err)
	}
	if spec.Self {
		d.self()
	}
	return d, nil
}

func layerErr(l Layer, step string, err error) error {
	var le *LayerError
	if errors.As(err, &le) {
		return err
	}
	return &LayerError{Layer: l, Step: step, Err: err}
}

// tree returns the number that the detached mount will have in init.
func (d *delivery) tree(real string, id identity, writable bool) (int, error) {
	fd, err := detach(real)
	if err != nil {
		return -1, err
	}
	d.mounts = append(d.mounts, fd)
	if err := harden(fd, writable, &d.order.Spec); err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	if writable && (int(st.Uid) != id.uid || int(st.Gid) != id.gid) {
		if err := translate(fd, int(st.Uid), int(st.Gid), id); err != nil {
			return -1, &LayerError{Layer: LayerIDMap, Step: "translate the owner of " + real, Err: err,
				Hint: "its file system cannot be idmapped; use a folder on ext4, xfs, btrfs or tmpfs, or no Workspace"}
		}
		d.order.IDMapped = true
	}
	return fdMounts + len(d.mounts) - 1, nil
}

// origins opens what files begin with.
func (d *delivery) origins() error {
	d.order.Origins = make([]original, len(d.order.Files))
	for i, f := range d.order.Files {
		d.order.Origins[i].FD = -1
		if f.Source == "" {
			continue
		}
		fd, err := unix.Open(f.Source, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		var st unix.Stat_t
		if err == nil {
			d.mounts = append(d.mounts, fd)
			err = unix.Fstat(fd, &st)
		}
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errors.New("not a regular file")
		}
		if err != nil {
			return &LayerError{Layer: LayerMount, Step: "open " + f.Source, Err: err}
		}
		d.order.Origins[i] = original{fdMounts + len(d.mounts) - 1, st.Size}
	}
	return nil
}

// self detaches the host's executable. When that cannot be done, because it was
// replaced or deleted since it was started or is only for root, init copies it.
func (d *delivery) self() {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !forEverybody(fi) {
		return
	}
	if tree, err := detachExecutable(f); err == nil {
		d.mounts = append(d.mounts, tree)
		d.order.SelfMount = fdMounts + len(d.mounts) - 1
	}
}

// translate makes files of one owner appear as the room's user's in a mount,
// and files that the room makes appear as that owner's on disk.
func translate(tree, uid, gid int, id identity) error {
	ns, err := mappingNamespace(uid, gid, id)
	if err != nil {
		return fmt.Errorf("make a mapping: %w", err)
	}
	defer ns.Close()
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
}

// mappingNamespace returns a user namespace that exists only for its tables. A
// child that sleeps holds it open meanwhile.
func mappingNamespace(uid, gid int, id identity) (*os.File, error) {
	p := &prog{layer: LayerIDMap}
	p.fail = p.label()
	sleep := p.label()
	p.call("die with the host", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0)
	p.mark(sleep)
	p.call("sleep", unix.SYS_PPOLL, 0, 0, 0, 0, 0).then(sleep).orElse(sleep)
	p.mark(p.fail)
	p.call("end", unix.SYS_EXIT, 1)
	blk, err := newBlock(p)
	if err != nil {
		return nil, err
	}
	defer blk.free()
	runtime.LockOSThread() // it dies with this thread
	defer runtime.UnlockOSThread()
	pid, err := blk.run(unix.CLONE_NEWUSER | unix.CLONE_FILES)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		wait(pid)
	}()
	if err := writeMap(pid, "uid_map", uid, id.uid); err != nil {
		return nil, err
	}
	if err := writeMap(pid, "gid_map", gid, id.gid); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
}

// wait waits for a child that was cloned without a signal at its exit: it is none
// that others wait for.
func wait(pid int) error {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WCLONE, nil); err != unix.EINTR {
			return err
		}
	}
}

// writeMap says who the only user (uid_map) or group (gid_map) of a new user
// namespace is, inside and outside.
func writeMap(pid int, name string, inside, outside int) error {
	return writeProc(pid, name, fmt.Sprintf("%d %d 1\n", inside, outside))
}

func writeProc(pid int, name, text string) error {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// encode returns the sealed file that init reads.
func (d *delivery) encode(nonce []byte) (int, error) {
	d.order.Inherited = len(d.mounts)
	b, err := d.order.encode()
	if err != nil {
		return -1, err
	}
	return sealed("twinward-order", append(append([]byte(magic), nonce...), b...))
}

// forEverybody reports whether any user may read and run a file.
func forEverybody(fi os.FileInfo) bool { return fi.Mode()&0o005 == 0o005 }

// executable returns what init is started from. A root host whose program only
// root may read gives the room's user a copy in memory.
func executable(id identity) (path string, closer func(), err error) {
	const self = "/proc/self/exe"
	if !id.root {
		return self, func() {}, nil
	}
	fi, err := os.Stat(self)
	if err != nil {
		return "", nil, err
	}
	if forEverybody(fi) {
		return self, func() {}, nil
	}
	in, err := os.Open(self)
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	fd, err := unix.MemfdCreate("twinward-init", unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, err
	}
	out := os.NewFile(uintptr(fd), "twinward-init")
	if _, err = out.ReadFrom(in); err == nil {
		err = out.Chmod(0o555)
	}
	if err != nil {
		out.Close()
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { out.Close() }, nil
}
