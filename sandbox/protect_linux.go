package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/confine"
	"github.com/twinward-dev/twinward/sandbox/internal/filecopy"
)

// Bounds of the search for what is to be read-only. Each place is a mount.
const (
	maxSearched  = 200_000
	maxProtected = 500
)

// findProtected returns the places of the workspace that policy protects and
// that exist, relative to it. A workspace may have been written by an agent
// before: no link is followed.
func (s *Session) findProtected() ([]string, error) {
	if s.ownWorkspace {
		return nil, nil // it is empty
	}
	dir, err := s.openWorkspaceDir()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fsys := filecopy.Beneath(dir)
	bad := func(name, problem, fix string) error {
		return &PolicyError{Field: "filesystem.protect", Problem: fmt.Sprintf("%s %s", path.Join(confine.Home, name), problem), Fix: fix}
	}

	// Places that are given in full, and the defaults at the top.
	var found, search []string
	for _, p := range s.policy.Filesystem.protectList() {
		name := p
		switch {
		case strings.HasPrefix(p, "/") && within(p, confine.Home):
			name = strings.TrimPrefix(p, confine.Home+"/")
		case strings.HasPrefix(p, "/"):
			continue // not in the workspace
		case s.policy.Filesystem.Protect != nil:
			search = append(search, p)
			continue
		}
		info, err := fs.Lstat(fsys, name)
		switch {
		case err == nil && (info.IsDir() || info.Mode().IsRegular()):
			found = append(found, name)
		case errors.Is(err, fs.ErrNotExist), s.policy.Filesystem.Protect == nil:
		default:
			return nil, bad(name, "is or leads through a link, or is no file", "name the place that it stands for")
		}
	}
	if len(search) > 0 {
		searched := 0
		err := fs.WalkDir(fsys, ".", func(p string, e fs.DirEntry, err error) error {
			if searched++; searched > maxSearched {
				return bad("", fmt.Sprintf("holds more than %d entries, too many to search", maxSearched), "list what is to be protected with its path under "+confine.Home)
			}
			switch {
			case err != nil:
				return err
			case p == "." || !isProtected(search, "/"+p):
				return nil
			case !e.IsDir() && !e.Type().IsRegular():
				return bad(p, "is a link or no file, which cannot be protected", "remove it, or name the place that it stands for")
			}
			found = append(found, p)
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(found) > maxProtected {
		return nil, bad("", fmt.Sprintf("holds %d places that are to be protected", len(found)), fmt.Sprintf("list less; %d can be", maxProtected))
	}
	return found, nil
}
