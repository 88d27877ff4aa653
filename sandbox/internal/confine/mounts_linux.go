//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A root is the new root file system while it is being built. All its paths are
// relative to the descriptor of a tmpfs.
type root struct {
	fd      int
	mounted []string // targets that hold another file system
}

const mountSafe = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// A place is a bind that was found on the host.
type place struct {
	Bind
	Real string // without any symbolic link
	// Links have to exist in the new root for the bind's own path to work.
	Links [][2]string `json:",omitempty"`
	// Mount is the descriptor of the tree in init when the host has detached and
	// restricted it already, else -1.
	Mount int
}

// made are the places that the room makes for itself. Policy does not name them;
// a symbolic link must not lead to them either.
var made = []string{"/dev", "/proc", "/run", "/sandbox", "/sys"}

func isMade(path string) bool {
	return path == "/" || slices.ContainsFunc(made, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") })
}

// locate finds binds on the host. Optional ones that are not there are left out.
func locate(binds []Bind) ([]place, error) {
	var out []place
	known := map[string]bool{}
	for _, b := range binds {
		real, links, err := resolveBeyond(b.Source, known)
		if err == nil && isMade(real) {
			err = fmt.Errorf("it leads to %s, which the room makes for itself", real)
		}
		if b.Optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &LayerError{Layer: LayerMount, Step: "find " + b.Source, Err: err}
		}
		out = append(out, place{Bind: b, Real: real, Links: links, Mount: -1})
	}
	return out, nil
}

// checkLinks refuses paths that lead through a symbolic link which a session
// could have made: one that lies in the workspace or in a place that is shown
// writable. Whoever was inside before could have it lead anywhere.
func checkLinks(places []place, workspace string, workspaceLinks [][2]string) error {
	writable := writableDirs(workspace, places)
	check := func(source string, links [][2]string, writable []string) error {
		for _, l := range links {
			for _, w := range writable {
				if beneath(l[0], w) {
					return &LayerError{Layer: LayerMount, Step: "find " + source, Err: fmt.Errorf("%s is a symbolic link that a session can have made, as %s is writable", l[0], w),
						Hint: "name the path that it leads to, if that is meant"}
				}
			}
		}
		return nil
	}
	for _, p := range places {
		if err := check(p.Source, p.Links, writable); err != nil {
			return err
		}
	}
	return check("the workspace", workspaceLinks, writable[1:])
}

// A source is a place with its tree.
type source struct {
	place
	target string // without leading slash
	tree   int    // detached mount, -1 when only the links are needed
	dir    bool
	// onlyLinks: another place shows it.
	onlyLinks bool
}

// openSources detaches every place before anything of the new root exists.
func openSources(places []place, spec *Spec) ([]source, error) {
	var out []source
	for i, p := range places {
		s := source{place: p, target: strings.TrimPrefix(p.Real, "/"), tree: p.Mount}
		if s.tree < 0 && covered(places, i) {
			out = append(out, s)
			continue
		}
		if s.tree < 0 {
			var err error
			if s.tree, err = detach(p.Real); err != nil {
				return nil, &LayerError{Layer: LayerMount, Step: "detach " + p.Source, Err: err}
			}
			if err := harden(s.tree, p.Writable, spec); err != nil {
				return nil, &LayerError{Layer: LayerMount, Step: "restrict " + p.Source, Err: err}
			}
		}
		var st unix.Stat_t
		if err := unix.Fstat(s.tree, &st); err != nil {
			return nil, &LayerError{Layer: LayerMount, Step: "stat " + p.Source, Err: err}
		}
		kind := st.Mode & unix.S_IFMT
		s.dir = kind == unix.S_IFDIR
		if !s.dir && kind != unix.S_IFREG {
			return nil, &LayerError{Layer: LayerMount, Step: "bind " + p.Source, Err: errors.New("neither a directory nor a regular file")}
		}
		out = append(out, s)
	}
	// Parents before children.
	slices.SortStableFunc(out, func(a, b source) int {
		return strings.Count(a.target, "/") - strings.Count(b.target, "/")
	})
	return out, nil
}

// covered reports whether another place shows this one already, in the same
// way: no place between the two says otherwise.
func covered(places []place, i int) bool {
	real, best := places[i].Real, -1
	for j, other := range places {
		under := strings.HasPrefix(real, strings.TrimSuffix(other.Real, "/")+"/") || real == other.Real && j < i
		if j != i && under && (best < 0 || len(other.Real) > len(places[best].Real)) {
			best = j
		}
	}
	return best >= 0 && places[best].Writable == places[i].Writable
}

// resolve follows the symbolic links in path and returns the real path with the
// links that have to exist in the new root for path to work there.
func resolve(path string) (real string, links [][2]string, err error) {
	return resolveBeyond(path, map[string]bool{})
}

// resolveBeyond is resolve for many paths: known are those that are there and are
// no links. Whatever changes meanwhile is found when the tree is detached.
func resolveBeyond(path string, known map[string]bool) (real string, links [][2]string, err error) {
	if !filepath.IsAbs(path) {
		return "", nil, fmt.Errorf("%s is not an absolute path", path)
	}
	rest := strings.Split(filepath.Clean(path), "/")[1:]
	real = "/"
	var name [unix.PathMax]byte
	for hops := 0; len(rest) > 0; {
		next := strings.TrimSuffix(real, "/") + "/" + rest[0]
		if known[next] {
			real, rest = next, rest[1:]
			continue
		}
		n, err := unix.Readlink(next, name[:])
		if err == unix.EINVAL { // it is no link
			known[next] = true
			real, rest = next, rest[1:]
			continue
		}
		if err != nil {
			return "", nil, &os.PathError{Op: "readlink", Path: next, Err: err}
		}
		if hops++; hops > 40 {
			return "", nil, unix.ELOOP
		}
		to := string(name[:n])
		links = append(links, [2]string{next, to})
		if !filepath.IsAbs(to) {
			to = filepath.Join(real, to)
		}
		rest = append(strings.Split(filepath.Clean(to), "/")[1:], rest[1:]...)
		real = "/"
		if len(rest) > 0 && rest[0] == "" {
			rest = rest[1:]
		}
	}
	return real, links, nil
}

// detach clones the tree at a path that has no symbolic link in it. A link that
// appeared since it was resolved is an error, not a detour.
func detach(real string) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, real, how)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return detachFD(fd)
}

func detachFD(fd int) (int, error) {
	return unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
}

// harden makes a detached tree private, without set-id and devices, and
// read-only unless it is to be writable. What can be written is not run when
// spec is strict.
func harden(tree int, writable bool, spec *Spec) error {
	attr := &unix.MountAttr{Attr_set: mountSafe | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if writable {
		attr.Attr_set = spec.writableAttrs()
	}
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr)
}

// newFS makes a file system of its own that is not attached anywhere.
func newFS(kind string, attrs int, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for _, o := range options {
		k, v, ok := strings.Cut(o, "=")
		if ok {
			err = unix.FsconfigSetString(fs, k, v)
		} else {
			err = unix.FsconfigSetFlag(fs, k)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
}

// attach puts a detached mount at a place in the new root. The place is made if
// its parent is the root's own tmpfs; elsewhere it must be there already. No
// symbolic link is followed on the way.
func (r *root) attach(tree int, target string, dir bool) error {
	if err := r.place(target, dir); err != nil {
		return err
	}
	at, err := r.open(target, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return err
	}
	r.mounted = append(r.mounted, target)
	return nil
}

// pin makes mount points of the directories that lie between a writable tree
// and target. A mount point cannot be renamed, so nobody inside can move target
// out of the way and leave something else at its path, which the host trusts.
func (r *root) pin(target string, writable []string) error {
	for i, c := range target {
		dir := target[:i]
		if c != '/' || slices.Contains(r.mounted, dir) {
			continue
		}
		if !slices.ContainsFunc(writable, func(w string) bool { return strings.HasPrefix(dir, w+"/") }) {
			continue
		}
		fd, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		tree, err := detachFD(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		err = r.attach(tree, dir, true)
		unix.Close(tree)
		if err != nil {
			return err
		}
	}
	return nil
}

// protect makes places beneath the workspace read-only.
func (r *root) protect(paths []string) error {
	for _, p := range paths {
		target := strings.TrimPrefix(Home, "/") + "/" + p
		if err := r.protectOne(target); err != nil {
			return &LayerError{Layer: LayerMount, Step: "protect /" + target, Err: err}
		}
	}
	return nil
}

func (r *root) protectOne(target string) error {
	if err := r.pin(target, []string{strings.TrimPrefix(Home, "/")}); err != nil {
		return err
	}
	fd, err := r.open(target, unix.O_PATH)
	if err != nil {
		return err
	}
	tree, err := detachFD(fd)
	unix.Close(fd)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := harden(tree, false, nil); err != nil {
		return err
	}
	return r.attach(tree, target, true) // it exists, so its kind does not matter
}

func (r *root) open(target string, flags int) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH}
	return unix.Openat2(r.fd, target, how)
}

// own reports whether target lies on the root's own tmpfs.
func (r *root) own(target string) bool {
	for _, m := range r.mounted {
		if target == m || strings.HasPrefix(target, m+"/") {
			return false
		}
	}
	return true
}

func (r *root) place(target string, dir bool) error {
	if !r.own(target) {
		return nil
	}
	if dir {
		return r.mkdir(target)
	}
	if err := r.mkdir(filepath.Dir(target)); err != nil {
		return err
	}
	fd, err := unix.Openat(r.fd, target, unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (r *root) mkdir(target string) error {
	if target == "." || target == "" {
		return nil
	}
	if err := r.mkdir(filepath.Dir(target)); err != nil {
		return err
	}
	if err := unix.Mkdirat(r.fd, target, 0o755); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// write makes a file of a copy and what follows it. It closes the original.
func (r *root) write(path string, from original, data []byte) error {
	defer closeAll([]int{from.FD})
	target := strings.TrimPrefix(path, "/")
	if err := r.mkdir(filepath.Dir(target)); err != nil {
		return err
	}
	fd, err := unix.Openat(r.fd, target, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), target)
	for left := from.Size; err == nil && left > 0; {
		var n int
		if n, err = unix.Sendfile(fd, from.FD, nil, int(left)); err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		left -= int64(n)
	}
	if err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}

func (r *root) link(from, to string) error {
	target := strings.TrimPrefix(from, "/")
	if !r.own(target) {
		return nil // the link is part of a bind
	}
	if err := r.mkdir(filepath.Dir(target)); err != nil {
		return err
	}
	if err := unix.Symlinkat(to, r.fd, target); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
