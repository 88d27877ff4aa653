//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A roomProgram is the program of a room's pid 1 from its first moment until it
// executes the image of init. What it does is what [buildRoot] and
// initState.confine do in Go.
type roomProgram struct {
	prog
	spec *Spec
	// root stands for the new root while it is being written: only what is
	// mounted where.
	root  root
	dirs  map[string]bool
	links []string // made in it
	// What came from the host: control messages of descriptors.
	incoming []parcel
	rootF    slot // its descriptor

	layers []Layer        // in force when the program has ended
	maybe  map[Layer]slot // not zero: the layer could not be had, and may be missing
}

// bytesOf returns the memory of a structure of the kernel's.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// in runs build with the steps that it writes belonging to a layer, which may be
// left out or missing.
func (r *roomProgram) in(l Layer, build func()) {
	if slices.Contains(r.spec.Without, l) {
		return
	}
	outer := r.layer
	r.layer = l
	defer func() { r.layer = outer }()
	if !slices.Contains(r.spec.Optional, l) {
		build()
		r.layers = append(r.layers, l)
		return
	}
	missed, end, from := r.slot(), r.label(), len(r.steps)
	build()
	to := len(r.steps)
	r.call("", callValue, 0).then(end)
	miss := r.here()
	r.call("", callValue, 1).to(missed)
	r.mark(end)
	for i := from; i < to; i++ {
		if r.steps[i].err == 0 {
			r.steps[i].err = miss
		}
	}
	r.maybe[l] = missed
}

// attrs restricts a mount; flags are those of mount_setattr.
func (r *roomProgram) attrs(what string, at any, path string, flags int, attr unix.MountAttr) {
	r.call(what, unix.SYS_MOUNT_SETATTR, at, path, flags, bytesOf(&attr), unix.MOUNT_ATTR_SIZE_VER0)
}

func (r *roomProgram) openHow(what string, at any, path string, how unix.OpenHow) slot {
	fd := r.slot()
	r.call(what, unix.SYS_OPENAT2, at, path, bytesOf(&how), int(unsafe.Sizeof(how))).to(fd)
	return fd
}

// tree is what [detachFD] does.
func (r *roomProgram) tree(what string, fd slot) slot {
	t := r.slot()
	r.call(what, unix.SYS_OPEN_TREE, fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH).to(t)
	r.call("close", unix.SYS_CLOSE, fd)
	return t
}

// detach is what [detach] does.
func (r *roomProgram) detach(real string) slot {
	fd := r.openHow("open "+real, unix.AT_FDCWD, real, unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	return r.tree("detach "+real, fd)
}

// harden is what [harden] does.
func (r *roomProgram) harden(what string, tree slot, writable bool) {
	attr := unix.MountAttr{Attr_set: mountSafe | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if writable {
		attr.Attr_set = r.spec.writableAttrs()
	}
	r.attrs("restrict "+what, tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr)
}

// newFS is what [newFS] does.
func (r *roomProgram) newFS(what, kind string, attrs int, options ...string) slot {
	const setFlag, setString, create = 0, 1, 6
	fs, mnt := r.slot(), r.slot()
	r.call(what, unix.SYS_FSOPEN, kind, unix.FSOPEN_CLOEXEC).to(fs)
	for _, o := range options {
		if k, v, ok := strings.Cut(o, "="); ok {
			r.call(what+": option "+o, unix.SYS_FSCONFIG, fs, setString, k, v, 0)
		} else {
			r.call(what+": option "+o, unix.SYS_FSCONFIG, fs, setFlag, k, 0, 0)
		}
	}
	r.call(what, unix.SYS_FSCONFIG, fs, create, 0, 0, 0)
	r.call(what, unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, attrs).to(mnt)
	r.call("close", unix.SYS_CLOSE, fs)
	return mnt
}

func (r *roomProgram) mkdir(target string) {
	if target == "." || target == "" || r.dirs[target] {
		return
	}
	r.mkdir(filepath.Dir(target))
	r.dirs[target] = true
	r.optional(r.call("make /"+target, unix.SYS_MKDIRAT, r.rootF, target, 0o755), unix.EEXIST)
}

func (r *roomProgram) create(what, target string, flags, mode int) slot {
	fd := r.slot()
	r.call(what, unix.SYS_OPENAT, r.rootF, target, flags|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode).to(fd)
	return fd
}

func (r *roomProgram) open(what, target string, flags int) slot {
	return r.openHow(what, r.rootF, target, unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH})
}

// attach is what root.attach does. Where there is nothing but what it has made
// itself, it needs no descriptor of the place.
func (r *roomProgram) attach(tree any, target string, dir bool) {
	what := "mount /" + target
	if r.root.own(target) {
		if dir {
			r.mkdir(target)
		} else {
			r.mkdir(filepath.Dir(target))
			r.optional(r.call(what, unix.SYS_MKNODAT, r.rootF, target, unix.S_IFREG|0o644, 0), unix.EEXIST)
		}
	}
	throughLink := slices.ContainsFunc(r.links, func(l string) bool { return beneath(target, l) })
	if r.root.own(target) && !throughLink {
		r.call(what, unix.SYS_MOVE_MOUNT, tree, "", r.rootF, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	} else {
		at := r.open(what, target, unix.O_PATH)
		r.call(what, unix.SYS_MOVE_MOUNT, tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		r.call("close", unix.SYS_CLOSE, at)
	}
	r.root.mounted = append(r.root.mounted, target)
}

func (r *roomProgram) tmpfs(target string, size, attrs uint64) {
	mnt := r.newFS("mount /"+target, "tmpfs", int(attrs), fmt.Sprintf("size=%d", size), "mode=01777")
	r.attach(mnt, target, true)
	r.root.mounted = r.root.mounted[:len(r.root.mounted)-1] // as much the room's own as the root
}

// write makes a file of a copy, from is -1 for none, and what follows it.
func (r *roomProgram) write(path string, from int, size int64, data []byte) {
	what, target := "write "+path, strings.TrimPrefix(path, "/")
	r.mkdir(filepath.Dir(target))
	fd, n := r.create(what, target, unix.O_EXCL|unix.O_WRONLY, 0o644), r.slot()
	if from >= 0 {
		copied := r.slot()
		r.call(what, unix.SYS_SENDFILE, fd, from, 0, size).to(copied)
		r.expectWord(copied, uint64(size))
	}
	r.call(what, unix.SYS_WRITE, fd, r.outside(data), len(data)).to(n)
	r.expectWord(n, uint64(len(data)))
	r.call("close", unix.SYS_CLOSE, fd)
}

// expectWord makes a short write an error.
func (r *roomProgram) expectWord(s slot, want uint64) {
	r.expect(func(mem func(ref, int) []byte) error {
		if binary.NativeEndian.Uint64(mem(ref(s), wordSize)) != want {
			return unix.ENOSPC
		}
		return nil
	})
}

func (r *roomProgram) link(from, to string) {
	target := strings.TrimPrefix(from, "/")
	if !r.root.own(target) {
		return // the link is part of a bind
	}
	r.mkdir(filepath.Dir(target))
	r.links = append(r.links, target)
	r.optional(r.call("link "+from, unix.SYS_SYMLINKAT, to, r.rootF, target), unix.EEXIST)
}

// pin is what root.pin does.
func (r *roomProgram) pin(target string, writable []string) {
	for i, c := range target {
		dir := target[:i]
		if c != '/' || slices.Contains(r.root.mounted, dir) {
			continue
		}
		if !slices.ContainsFunc(writable, func(w string) bool { return strings.HasPrefix(dir, w+"/") }) {
			continue
		}
		what := "hold the way to /" + target
		tree := r.tree(what, r.open(what, dir, unix.O_PATH|unix.O_DIRECTORY))
		r.attach(tree, dir, true)
	}
}

// protect is what root.protect does.
func (r *roomProgram) protect(paths []string) {
	home := strings.TrimPrefix(Home, "/")
	for _, p := range paths {
		target := home + "/" + p
		r.pin(target, []string{home})
		tree := r.tree("protect /"+target, r.open("protect /"+target, target, unix.O_PATH))
		r.harden("/"+target, tree, false)
		r.attach(tree, target, true) // it exists, so its kind does not matter
	}
}

// sameKind refuses a tree that has become something else since the host looked.
func (r *roomProgram) sameKind(what string, tree slot, ok func(st *unix.Stat_t) bool) {
	st := r.reserve(int(unsafe.Sizeof(unix.Stat_t{})))
	r.call("stat "+what, unix.SYS_FSTAT, tree, st)
	r.expect(func(mem func(ref, int) []byte) error {
		var got unix.Stat_t
		copy(bytesOf(&got), mem(st, int(unsafe.Sizeof(got))))
		if !ok(&got) {
			return errors.New("it was replaced meanwhile")
		}
		return nil
	})
}

// buildRoot is what [buildRoot] does: the two take the same steps in the same
// order. It returns what is bound from the host, and whether it is writable.
func (r *roomProgram) buildRoot(p *plan) map[string]bool {
	ord := &p.order
	r.layer = LayerMount
	r.attrs("make / private", unix.AT_FDCWD, "/", unix.AT_RECURSIVE, unix.MountAttr{Propagation: unix.MS_PRIVATE})

	// Everything that comes from the host is detached first.
	trees := make([]any, len(p.sources))
	for i, s := range p.sources {
		switch {
		case s.onlyLinks:
		case s.tree >= 0:
			trees[i] = s.tree
		default:
			t := r.detach(s.Real)
			r.harden(s.Source, t, s.Writable)
			r.sameKind(s.Source, t, func(st *unix.Stat_t) bool {
				kind := st.Mode & unix.S_IFMT
				return s.dir && kind == unix.S_IFDIR || !s.dir && kind == unix.S_IFREG
			})
			trees[i] = t
		}
	}
	var workspace any = p.room(ord.WorkspaceMount)
	if ord.WorkspaceMount < 0 {
		t := r.detach(ord.Workspace)
		r.harden("the workspace", t, true)
		workspace = t
	}
	nodes := map[string]slot{}
	for _, name := range ord.nodes() {
		nodes[name] = r.device(name)
	}
	masks := make([]slot, len(procMasks))
	for i := range masks {
		masks[i] = r.device("null")
	}
	var self any
	switch {
	case ord.SelfMount >= 0:
		self = p.room(ord.SelfMount)
	case p.selfPath != "":
		t := r.detach(p.selfPath)
		r.harden("the host's executable", t, false)
		want := p.selfStat
		r.sameKind("the host's executable", t, func(st *unix.Stat_t) bool { return st.Dev == want.Dev && st.Ino == want.Ino })
		self = t
	}
	proc, harmless := r.openProc(ord.Tier)

	size := int64(rootSize)
	if self == nil && p.self >= 0 {
		size += p.selfStat.Size
	}
	r.rootF = r.newFS("make the new root", "tmpfs", mountSafe, fmt.Sprintf("size=%d", size), "nr_inodes=8192", "mode=0755")
	r.call("attach the new root", unix.SYS_MOVE_MOUNT, r.rootF, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)

	// The room's own places.
	for _, d := range []string{"etc", "proc", "dev/pts", "dev/shm", "tmp", "var", "sandbox", "run/twinward"} {
		r.mkdir(d)
	}
	r.tmpfs("tmp", or(ord.TmpSize, defaultTmp), ord.writableAttrs())
	r.attach(workspace, "sandbox", true)
	r.protect(ord.Protect)
	targets := map[string]bool{}
	var writable []string
	for i, s := range p.sources {
		for _, l := range s.Links {
			r.link(l[0], l[1])
		}
		targets["/"+s.target] = s.Writable
		if s.onlyLinks {
			continue
		}
		r.pin(s.target, writable)
		r.attach(trees[i], s.target, s.dir)
		if s.Writable {
			writable = append(writable, s.target)
		}
	}
	for _, name := range ord.nodes() {
		r.attach(nodes[name], "dev/"+name, false)
	}
	r.attach(r.newFS("mount /dev/pts", "devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "ptmxmode=0666", "mode=0620"), "dev/pts", true)
	r.tmpfs("dev/shm", or(ord.ShmSize, defaultShm), mountSafe|unix.MOUNT_ATTR_NOEXEC)
	for _, l := range roomLinks {
		r.link(l[0], l[1])
	}
	if ord.Tier == TierMaskedProc {
		r.someProc(harmless)
	} else {
		r.layer = LayerProc
		r.proc(proc, masks)
		r.layers = append(r.layers, LayerProc)
		r.layer = LayerMount
	}
	for i, f := range ord.Files {
		r.write(f.Path, p.room(ord.Origins[i].FD), ord.Origins[i].Size, f.Data)
	}
	r.write(canary, -1, 0, []byte("canary\n"))
	target := strings.TrimPrefix(SelfPath, "/")
	switch {
	case self != nil:
		r.attach(self, target, false)
	case p.self >= 0:
		fd, n := r.create("copy the host's executable", target, unix.O_EXCL|unix.O_WRONLY, 0o755), r.slot()
		r.call("copy the host's executable", unix.SYS_SENDFILE, fd, p.room(p.self), 0, p.selfStat.Size).to(n)
		r.expectWord(n, uint64(p.selfStat.Size))
		r.call("close", unix.SYS_CLOSE, fd)
	}
	r.attrs("make the root read-only", r.rootF, "", unix.AT_EMPTY_PATH, unix.MountAttr{Attr_set: mountSafe | unix.MOUNT_ATTR_RDONLY})

	r.call("enter the new root", unix.SYS_FCHDIR, r.rootF)
	r.call("enter the new root: pivot_root", unix.SYS_PIVOT_ROOT, ".", ".")
	// The old root now lies on top of the new one.
	r.call("detach the old root", unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	r.call("enter the new root", unix.SYS_CHDIR, "/")
	return targets
}

func (r *roomProgram) device(name string) slot {
	t := r.detach("/dev/" + name)
	r.attrs("restrict /dev/"+name, t, "", unix.AT_EMPTY_PATH, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE})
	return t
}

// proc is what root.proc does.
func (r *roomProgram) proc(proc slot, masks []slot) {
	r.attach(proc, "proc", true)
	for _, name := range procKnobs {
		target := "proc/" + name
		missing := r.label()
		fd := r.open("restrict /"+target, target, unix.O_PATH)
		r.steps[len(r.steps)-1].orElse(missing, unix.ENOENT)
		t := r.tree("restrict /"+target, fd)
		r.harden("/"+target, t, false)
		r.attach(t, target, true)
		r.mark(missing)
	}
	for i, name := range procMasks {
		target := "proc/" + name
		missing := r.label()
		fd := r.open("hide /"+target, target, unix.O_PATH)
		r.steps[len(r.steps)-1].orElse(missing, unix.ENOENT)
		r.call("close", unix.SYS_CLOSE, fd)
		r.attach(masks[i], target, false)
		r.mark(missing)
	}
}
