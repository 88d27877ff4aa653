//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// writableAttrs are the attributes of every mount that can be written in.
func (s *Spec) writableAttrs() uint64 {
	if s.noNewPrograms() {
		return mountSafe | unix.MOUNT_ATTR_NOEXEC
	}
	return mountSafe
}

// checkOneWay refuses a room in which one file can be written at one path and
// is shown read-only at another, if that matters: a workspace that lies in a folder which is shown read-only, or
// a folder that is there twice. (A writable bind hides a read-only one at its
// own place.)
func checkOneWay(s *Spec, workspace string, places []place) error {
	if !s.noNewPrograms() && !s.OneWay {
		return nil
	}
	for i, dir := range writableDirs(workspace, places) {
		for _, p := range places {
			if p.Writable {
				continue
			}
			// Of two binds, one beneath the other, the inner one hides the outer one at
			// its place. The workspace hides nothing: it is at a place of its own.
			own := i == 0
			in, err := within(dir, p.Real)
			in = in && (own || !beneath(dir, p.Real))
			if err == nil && !in {
				in, err = within(p.Real, dir)
				in = in && (own || !beneath(p.Real, dir))
			}
			if err != nil {
				return &LayerError{Layer: LayerMount, Step: "look where " + dir + " lies", Err: err}
			}
			if in {
				return &LayerError{Layer: LayerMount, Step: "show " + p.Source + " read-only",
					Err:  errors.New("what the session writes in " + dir + " could be had from here, as if it were the host's"),
					Hint: "with process.exec: strict, process.programs or programs of a rule without sha256, keep what is writable, and the workspace, apart from the paths of filesystem.read_only"}
			}
		}
	}
	return nil
}

// beneath reports whether a path lies beneath another.
func beneath(path, tree string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(tree, "/")+"/")
}

// writableDirs are the host's directories that the session can write in.
func writableDirs(workspace string, places []place) []string {
	dirs := []string{workspace}
	for _, p := range places {
		if p.Writable {
			dirs = append(dirs, p.Real)
		}
	}
	return dirs
}

// within reports whether dir is tree or lies beneath it, by path or by what the
// directories on the way up really are.
func within(dir, tree string) (bool, error) {
	if dir == tree || beneath(dir, tree) {
		return true, nil
	}
	var top unix.Stat_t
	if err := unix.Stat(tree, &top); err != nil {
		return false, err
	}
	for {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return false, err
		}
		if st.Dev == top.Dev && st.Ino == top.Ino {
			return true, nil
		}
		if dir == "/" {
			return false, nil
		}
		dir = dir[:max(strings.LastIndexByte(dir, '/'), 1)]
	}
}

// required are the layers that may not be optional for what spec asks.
func (s *Spec) required() []Layer {
	switch {
	case s.shared():
		return []Layer{LayerNoNewPrivs, LayerLandlock, LayerSeccomp}
	case s.noNewPrograms():
		return []Layer{LayerLandlock, LayerSeccomp}
	}
	return nil
}

// filterKind is the variant of the system call filter that spec asks for.
func (s *Spec) filterKind() filterKind {
	return filterKind{files: s.noNewPrograms(), strict: s.ExecStrict, shared: s.shared()}
}
