//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	defaultTmp = 1 << 30
	defaultShm = 64 << 20
	rootSize   = 16 << 20 // /etc and directories; a copy of the host program comes on top
)

// canary is a file that exists in the new root and that no Landlock rule
// covers: being unable to read it is how the room knows that Landlock is on.
const canary = "/run/twinward/canary"

// devices are the whole of /dev but for pts, shm and what a spec names.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// etcBinds are host files that programs expect in /etc and that tell nothing
// about the host's users or network.
var etcBinds = []string{
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "services", "protocols", "localtime", "timezone",
	"mime.types", "os-release", "lsb-release", "debian_version", "ssl/openssl.cnf", "bash.bashrc", "profile", "magic",
}

// roomLinks are the symbolic links that every room has.
var roomLinks = [][2]string{
	{"/dev/ptmx", "pts/ptmx"}, {"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"}, {"/dev/stderr", "/proc/self/fd/2"}, {"/var/run", "/run"}, {"/var/tmp", "/tmp"},
}

// procKnobs are the parts of /proc that are shown read-only.
var procKnobs = []string{"sys", "irq", "bus", "fs"}

// procMasks are files of /proc that no namespace separates: the keys of the
// host's user. They read as empty.
var procMasks = []string{"keys", "key-users"}

// buildRoot makes the new root file system and moves this process into it. The
// old root is gone when it returns. It returns what is bound from the host, and
// whether it is writable.
func buildRoot(ord *order) (map[string]bool, error) {
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return nil, &LayerError{Layer: LayerMount, Step: "make / private", Err: err}
	}
	step := func(what string, err error) error {
		if err == nil {
			return nil
		}
		return &LayerError{Layer: LayerMount, Step: what, Err: err}
	}

	// Everything that comes from the host is detached first.
	var etc []Bind
	for _, name := range etcBinds {
		etc = append(etc, Bind{Source: "/etc/" + name, Optional: true})
	}
	more, err := locate(etc)
	if err != nil {
		return nil, err
	}
	sources, err := openSources(append(ord.Places, more...), &ord.Spec)
	if err != nil {
		return nil, err
	}
	workspace := ord.WorkspaceMount
	if workspace < 0 {
		if workspace, err = detach(ord.Workspace); err == nil {
			err = harden(workspace, true, &ord.Spec)
		}
		if err != nil {
			return nil, step("open the workspace "+ord.Workspace, err)
		}
	}
	devs := make([]int, len(ord.nodes()))
	for i, name := range ord.nodes() {
		if devs[i], err = detachDevice(name); err != nil {
			return nil, step("open /dev/"+name, err)
		}
	}
	masks := make([]int, len(procMasks))
	for i := range masks {
		if masks[i], err = detachDevice("null"); err != nil {
			return nil, step("open /dev/null", err)
		}
	}
	self, err := selfTree(ord)
	if err != nil {
		return nil, step("open the host's executable", err)
	}
	// /proc must be made while the old one is still visible: the kernel checks.
	proc, harmless, err := openProc(ord.Tier)
	if err != nil {
		return nil, err
	}

	fd, err := newFS("tmpfs", mountSafe, fmt.Sprintf("size=%d", rootSize+self.size()), "nr_inodes=8192", "mode=0755")
	if err != nil {
		return nil, step("make the new root", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, step("attach the new root", err)
	}
	r := &root{fd: fd}
	// An open detached mount is a way to it; none stays behind.
	defer func() {
		closeAll(append(append(devs, masks...), workspace))
		for _, s := range sources {
			closeAll([]int{s.tree})
		}
		if self != nil {
			closeAll([]int{self.tree})
		}
	}()

	// The room's own places.
	for _, d := range []string{"etc", "proc", "dev/pts", "dev/shm", "tmp", "var", "sandbox", "run/twinward"} {
		if err := r.mkdir(d); err != nil {
			return nil, step("make /"+d, err)
		}
	}
	if err := r.tmpfs("tmp", or(ord.TmpSize, defaultTmp), ord.writableAttrs()); err != nil {
		return nil, step("mount /tmp", err)
	}
	if err := r.attach(workspace, "sandbox", true); err != nil {
		return nil, step("mount /sandbox", err)
	}
	if err := r.protect(ord.Protect); err != nil {
		return nil, err
	}
	var writable []string
	for _, s := range sources {
		for _, l := range s.Links {
			if err := r.link(l[0], l[1]); err != nil {
				return nil, step("link "+l[0], err)
			}
		}
		if s.tree < 0 {
			continue
		}
		if err := r.pin(s.target, writable); err != nil {
			return nil, step("hold the way to /"+s.target, err)
		}
		if err := r.attach(s.tree, s.target, s.dir); err != nil {
			return nil, step("mount /"+s.target, err)
		}
		if s.Writable {
			writable = append(writable, s.target)
		}
	}
	if err := r.devices(ord.nodes(), devs, or(ord.ShmSize, defaultShm)); err != nil {
		return nil, step("make /dev", err)
	}
	if err := r.someProc(harmless); err != nil {
		return nil, step("show a part of /proc", err)
	}
	if err := r.proc(proc, masks); err != nil {
		return nil, &LayerError{Layer: LayerProc, Step: "mount /proc", Err: err}
	}
	for i, f := range ord.Files {
		if err := r.write(f.Path, ord.Origins[i], f.Data); err != nil {
			return nil, step("write "+f.Path, err)
		}
	}
	if err := r.write(canary, original{FD: -1}, []byte("canary\n")); err != nil {
		return nil, step("write "+canary, err)
	}
	if err := r.self(self); err != nil {
		return nil, step("show the host's executable", err)
	}
	if err := unix.MountSetattr(r.fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: mountSafe | unix.MOUNT_ATTR_RDONLY}); err != nil {
		return nil, step("make the root read-only", err)
	}
	if err := r.enter(); err != nil {
		return nil, step("enter the new root", err)
	}
	targets := map[string]bool{}
	for _, s := range sources {
		targets["/"+s.target] = s.Writable
	}
	return targets, nil
}

func detachDevice(name string) (int, error) {
	fd, err := detach("/dev/" + name)
	if err != nil {
		return -1, err
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func or(v, def uint64) uint64 {
	if v == 0 {
		return def
	}
	return v
}

func (r *root) tmpfs(target string, size, attrs uint64) error {
	fd, err := newFS("tmpfs", int(attrs), fmt.Sprintf("size=%d", size), "mode=01777")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := r.attach(fd, target, true); err != nil {
		return err
	}
	r.mounted = r.mounted[:len(r.mounted)-1] // as much the room's own as the root
	return nil
}

func (r *root) devices(names []string, nodes []int, size uint64) error {
	for i, name := range names {
		if err := r.attach(nodes[i], "dev/"+name, false); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	pts, err := newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "ptmxmode=0666", "mode=0620")
	if err != nil {
		return fmt.Errorf("pts: %w", err)
	}
	defer unix.Close(pts)
	if err := r.attach(pts, "dev/pts", true); err != nil {
		return fmt.Errorf("pts: %w", err)
	}
	if err := r.tmpfs("dev/shm", size, mountSafe|unix.MOUNT_ATTR_NOEXEC); err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	for _, l := range roomLinks {
		if err := r.link(l[0], l[1]); err != nil {
			return fmt.Errorf("%s: %w", l[0], err)
		}
	}
	return nil
}

// proc attaches the fresh /proc and makes its knobs read-only.
func (r *root) proc(proc int, masks []int) error {
	if proc < 0 {
		return nil
	}
	defer unix.Close(proc)
	if err := r.attach(proc, "proc", true); err != nil {
		return err
	}
	for _, name := range procKnobs {
		fd, err := r.open("proc/"+name, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		tree, err := detachFD(fd)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		err = harden(tree, false, nil)
		if err == nil {
			err = r.attach(tree, "proc/"+name, true)
		}
		unix.Close(tree)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for i, name := range procMasks {
		if fd, err := r.open("proc/"+name, unix.O_PATH); err == nil {
			unix.Close(fd)
			if err := r.attach(masks[i], "proc/"+name, false); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		} else if !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// A selfSource is the host's executable: a detached mount of it or, when it has
// no name that this process can reach, an open file to copy.
type selfSource struct {
	tree int
	file *os.File
}

func selfTree(ord *order) (*selfSource, error) {
	if !ord.Self {
		return nil, nil
	}
	if ord.SelfMount >= 0 {
		return &selfSource{tree: ord.SelfMount}, nil
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	if tree, err := detachExecutable(f); err == nil {
		f.Close()
		return &selfSource{tree: tree}, nil
	}
	return &selfSource{tree: -1, file: f}, nil
}

// size returns the room that a copy takes.
func (s *selfSource) size() int64 {
	if s == nil || s.file == nil {
		return 0
	}
	fi, err := s.file.Stat()
	if err != nil {
		return 0
	}
	return fi.Size()
}

// detachExecutable detaches the file that the link names, and makes sure that
// it is the one that is running.
func detachExecutable(running *os.File) (int, error) {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	tree, err := detach(path)
	if err != nil {
		return -1, err
	}
	var a, b unix.Stat_t
	err = errors.Join(unix.Fstat(tree, &a), unix.Fstat(int(running.Fd()), &b))
	if err == nil && (a.Dev != b.Dev || a.Ino != b.Ino) {
		err = errors.New("the executable was replaced")
	}
	if err == nil {
		err = harden(tree, false, nil)
	}
	if err != nil {
		unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

func (r *root) self(s *selfSource) error {
	if s == nil {
		return nil
	}
	target := strings.TrimPrefix(SelfPath, "/")
	if s.tree >= 0 {
		return r.attach(s.tree, target, false)
	}
	defer s.file.Close()
	fd, err := unix.Openat(r.fd, target, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), target)
	_, err = f.ReadFrom(s.file)
	return errors.Join(err, f.Close())
}

// enter makes the new root the root and lets go of the old one.
func (r *root) enter() error {
	if err := unix.Fchdir(r.fd); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root now lies on top of the new one.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Close(r.fd)
}
