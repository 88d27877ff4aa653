package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/twinward-dev/twinward/sandbox/internal/filecopy"
)

// copyFiles does the work of a transfer. The workspace is held.
func (s *Session) copyFiles(ctx context.Context, t transfer) (Copied, error) {
	var done Copied
	var err error
	if t.inward {
		done, err = s.importFiles(ctx, t)
	} else {
		done, err = s.exportFiles(ctx, t)
	}
	for _, same := range [][2]error{{filecopy.ErrKind, ErrFileKind}, {filecopy.ErrName, ErrFileName}, {filecopy.ErrLimit, ErrFileLimit}} {
		if errors.Is(err, same[0]) {
			err = &copyError{err, same[1]}
		}
	}
	return done, err
}

// A copyError is an error that is also one of this package.
type copyError struct {
	error
	as error
}

func (e *copyError) Unwrap() []error { return []error{e.error, e.as} }

func openDir(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}

// openWorkspaceDir opens the workspace, which must be the one of the start.
func (s *Session) openWorkspaceDir() (*os.File, error) {
	f, err := openDir(s.workspace)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWorkspace, err)
	}
	info, err := f.Stat()
	if err == nil && s.workspaceInfo != nil && !os.SameFile(info, s.workspaceInfo) {
		err = errors.New("another directory is in its place")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrWorkspace, s.workspace, err)
	}
	return f, nil
}

func (s *Session) importFiles(ctx context.Context, t transfer) (Copied, error) {
	to, err := insidePath(t.to)
	if err != nil {
		return Copied{}, err
	}
	work, err := s.openWorkspaceDir()
	if err != nil {
		return Copied{}, err
	}
	defer work.Close()
	src, name := t.fsys, "."
	if src == nil {
		parent, base, err := splitHost(t.from)
		if err != nil {
			return Copied{}, err
		}
		defer parent.Close()
		src, name = filecopy.Beneath(parent), base
	}
	// Whoever owns the workspace on disk is the session's user inside.
	uid, gid := -1, -1
	if os.Geteuid() == 0 {
		info, err := work.Stat()
		if err != nil {
			return Copied{}, err
		}
		st := info.Sys().(*syscall.Stat_t)
		uid, gid = int(st.Uid), int(st.Gid)
	}
	root, err := openDir(fmt.Sprintf("/proc/self/fd/%d", work.Fd()))
	if err != nil {
		return Copied{}, err
	}
	home := filecopy.NewDir(root, uid, gid)
	defer home.Close()
	return s.stage(ctx, t, home, to, src, name, nil)
}

func (s *Session) exportFiles(ctx context.Context, t transfer) (Copied, error) {
	from, err := insidePath(t.from)
	if err != nil {
		return Copied{}, err
	}
	work, err := s.openWorkspaceDir()
	if err != nil {
		return Copied{}, err
	}
	defer work.Close()
	parent, base, err := splitHost(t.to)
	if err != nil {
		return Copied{}, err
	}
	home := filecopy.NewDir(parent, -1, -1)
	defer home.Close()
	target, err := filepath.Abs(t.to)
	if err != nil {
		return Copied{}, err
	}
	return s.stage(ctx, t, home, base, filecopy.Beneath(work), from, func(c filecopy.Copied) []string {
		return s.protectedIn(c.Entries, from, target)
	})
}

// splitHost opens the folder of a path of the host, following the caller's own
// links up to there, and returns the name in it.
func splitHost(p string) (parent *os.File, base string, err error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return nil, "", err
	}
	if abs == "/" {
		return nil, "", fmt.Errorf("%w: / is the whole host", fs.ErrInvalid)
	}
	parent, err = openDir(filepath.Dir(abs))
	return parent, filepath.Base(abs), err
}

// stage copies to a name beside the destination, has what is there looked at,
// and then moves it into place.
func (s *Session) stage(ctx context.Context, t transfer, home *filecopy.Dir, to string, src fs.FS, name string, look func(filecopy.Copied) []string) (done Copied, err error) {
	base := path.Base(to)
	if dir := path.Dir(to); dir != "." {
		if home, err = home.MakeAll(dir); err != nil {
			return done, err
		}
		defer home.Close()
	}
	// An existing folder takes the stage: it may be a file system of its own.
	exists, isDir, err := home.Exists(base)
	if err != nil {
		return done, err
	}
	if info, err := fs.Lstat(src, name); exists && isDir && err == nil && info.IsDir() {
		sub, err := home.Open(base)
		if err != nil {
			return done, err
		}
		defer sub.Close()
		home, base = sub, "."
	}
	as := ".partial-" + randomID()
	defer func() { err = errors.Join(err, home.Remove(as)) }()
	copied, err := filecopy.Stage(ctx, home, as, src, name, filecopy.Limits{Bytes: t.limits.MaxBytes, Entries: t.limits.MaxEntries, SkipOthers: t.limits.SkipOthers})
	if err != nil {
		return done, err
	}
	var found []string
	if look != nil {
		found = look(copied)
	}
	if len(found) > 0 && !t.allowProtected {
		refused := &ProtectedError{}
		for _, p := range found {
			refused.add(p)
		}
		return done, refused
	}
	if ctx.Err() != nil {
		return done, context.Cause(ctx)
	}
	if base == "." {
		err = home.PlaceAll(as)
	} else {
		err = home.Place(base, home, as)
	}
	if err != nil {
		return done, err
	}
	return Copied{Files: copied.Files, Bytes: copied.Bytes, Skipped: copied.Skipped, Protected: found}, nil
}

// protectedIn returns what is protected of the entries that were staged: by the
// path that it had inside, by the one that it is to have outside, and by what it
// is to Git. Nobody inside can change the entries any more.
func (s *Session) protectedIn(entries []filecopy.Entry, from, target string) []string {
	list := s.policy.Filesystem.protectList()
	all := make(map[string]bool, len(entries))
	for _, e := range entries {
		all[e.Path] = true
	}
	// A repository may be put together of what is staged and what is there.
	repository := func(dir, outside string) bool {
		for _, name := range []string{"HEAD", "objects", "refs"} {
			if all[path.Join(dir, name)] {
				continue
			}
			if _, err := os.Lstat(filepath.Join(outside, name)); err != nil {
				return false
			}
		}
		return true
	}
	var found []string
	for _, e := range entries {
		inside, outside := path.Join("/sandbox", from, e.Path), filepath.Join(target, e.Path)
		name := strings.ToLower(filepath.Base(outside))
		switch {
		case isProtected(list, inside), isProtected(list, outside):
		case len(list) > 0 && name == ".git" && !e.Dir:
		case len(list) > 0 && (name == "config" || name == "hooks") && repository(path.Dir(e.Path), filepath.Dir(outside)):
		default:
			continue
		}
		found = append(found, inside)
	}
	return found
}
