//go:build linux

// Package filecopy copies trees of files between a place that somebody hostile
// may be changing meanwhile and one that is trusted.
//
// No symbolic link is followed on either side, no mount point is crossed, and
// nothing but regular files and directories is read or made: see [Beneath] and
// [Dir]. A copy is staged beside its destination under a name of its own, so
// that all of it can be looked at before any of it is in place.
package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Why something is not copied; wrapped in an [*fs.PathError].
var (
	ErrKind  = errors.New("neither a regular file nor a directory")
	ErrName  = errors.New("its name holds control characters or is not UTF-8")
	ErrLimit = errors.New("more than the limits of the copy allow")
	ErrTaken = errors.New("something else is there already")
)

// maxDepth bounds directories in directories.
const maxDepth = 100

// Limits bound one copy. Sizes count as a reader sees them: a sparse file is as
// large as it says.
type Limits struct {
	Bytes   int64
	Entries int
	// SkipOthers leaves out what is neither a regular file nor a directory,
	// instead of failing.
	SkipOthers bool
}

// An Entry is something that was copied.
type Entry struct {
	Path string // from the root of the copy, which is "."
	Dir  bool
}

// Copied says what a copy holds.
type Copied struct {
	Entries []Entry
	Files   int
	Bytes   int64
	Skipped []string
}

type copier struct {
	ctx    context.Context
	src    fs.FS
	limits Limits
	done   Copied
}

// Stage copies name of src, a file or a directory, to a new entry of dir called
// as. On failure the caller removes what is there.
func Stage(ctx context.Context, dir *Dir, as string, src fs.FS, name string, limits Limits) (Copied, error) {
	c := &copier{ctx: ctx, src: src, limits: limits}
	info, err := fs.Lstat(src, name)
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "copy", Path: name, Err: ErrKind}
	}
	if err == nil {
		err = c.entry(dir, as, name, ".", info, 0)
	}
	return c.done, err
}

// entry copies one file or directory; rel is its path from the root of the copy.
func (c *copier) entry(to *Dir, as, name, rel string, info fs.FileInfo, depth int) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	fail := func(err error) error { return &fs.PathError{Op: "copy", Path: name, Err: err} }
	switch {
	case depth > maxDepth:
		return fail(fmt.Errorf("%w: %d directories in each other", ErrLimit, depth))
	case len(c.done.Entries) >= c.limits.Entries:
		return fail(fmt.Errorf("%w: %d entries", ErrLimit, c.limits.Entries))
	}
	c.done.Entries = append(c.done.Entries, Entry{Path: rel, Dir: info.IsDir()})
	f, err := c.src.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// What was opened counts, not what was there a moment before.
	if info, err = f.Stat(); err != nil {
		return err
	}
	switch {
	case info.IsDir() != c.done.Entries[len(c.done.Entries)-1].Dir:
		return fail(errors.New("it changed while it was copied"))
	case info.Mode().IsRegular():
		return c.file(to, as, name, f, info)
	case info.IsDir():
		sub, err := to.Make(as, info.Mode().Perm())
		if err != nil {
			return err
		}
		defer sub.Close()
		return c.dir(sub, name, rel, f, depth)
	}
	return fail(ErrKind)
}

func (c *copier) dir(to *Dir, name, rel string, f fs.File, depth int) error {
	list, ok := f.(fs.ReadDirFile)
	if !ok {
		return &fs.PathError{Op: "copy", Path: name, Err: errors.New("it cannot be listed")}
	}
	for {
		const batch = 256
		entries, err := list.ReadDir(batch)
		for _, e := range entries {
			from := path.Join(name, e.Name())
			if !plainName(e.Name()) {
				return &fs.PathError{Op: "copy", Path: fmt.Sprintf("%+q", from), Err: ErrName}
			}
			info, err := fs.Lstat(c.src, from)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has been removed since
			}
			if err != nil {
				return err
			}
			if !info.IsDir() && !info.Mode().IsRegular() {
				if !c.limits.SkipOthers {
					return &fs.PathError{Op: "copy", Path: from, Err: ErrKind}
				}
				if len(c.done.Skipped) >= c.limits.Entries {
					return &fs.PathError{Op: "copy", Path: from, Err: fmt.Errorf("%w: %d entries left out", ErrLimit, c.limits.Entries)}
				}
				c.done.Skipped = append(c.done.Skipped, path.Join(rel, e.Name()))
				continue
			}
			if err := c.entry(to, e.Name(), from, path.Join(rel, e.Name()), info, depth+1); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func (c *copier) file(to *Dir, as, name string, f fs.File, info fs.FileInfo) error {
	left := c.limits.Bytes - c.done.Bytes
	if info.Size() > left {
		return &fs.PathError{Op: "copy", Path: name, Err: fmt.Errorf("%w: %d bytes in all", ErrLimit, c.limits.Bytes)}
	}
	out, err := to.Create(as, info.Mode().Perm())
	if err != nil {
		return err
	}
	// It may have grown meanwhile, or have no true size, as in /proc.
	n, err := io.Copy(out, &reader{ctx: c.ctx, r: io.LimitReader(f, left+1)})
	c.done.Bytes += n
	c.done.Files++
	if err == nil && n > left {
		err = fmt.Errorf("%w: %d bytes in all", ErrLimit, c.limits.Bytes)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return &fs.PathError{Op: "copy", Path: name, Err: err}
	}
	return nil
}

// A reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}

// plainName reports whether a name can be shown to people and means the same to
// all programs that take it: no control characters, nothing that changes the
// direction of text, and valid UTF-8.
func plainName(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == '/' || r == '\\'
	})
}

// resolve is how every path is looked up.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
