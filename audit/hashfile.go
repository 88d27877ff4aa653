package audit

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// The hashes of the tree are kept beside the segments, so that a proof needs to
// read a few of them and not the log. File L, named by hashFileName, holds the
// hashes at level L of the C2SP tiles, one after the other: tile N of level L is
// 8,192 bytes from N times that on. What they say can be had from the segments;
// so they are written when there is time, never synced, made anew when they are
// missing, and believed by nobody: readers compare with a signed root.

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight

	hashFilePrefix = "tree."
	maxLevels      = 8
)

func hashFileName(level int) string { return hashFilePrefix + strconv.Itoa(level) }

// isHashFile reports whether a file holds hashes of the tree.
func isHashFile(name string) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(name, hashFilePrefix))
	return err == nil && n >= 0 && n < maxLevels && hashFileName(n) == name
}

// hashFiles writes them. A nil one does nothing. After a failure there is none:
// the log does not need it.
type hashFiles struct {
	dir    string
	levels []hashLevel
}

type hashLevel struct {
	f     *os.File
	tile  []tlog.Hash // the last tile, unless it is full
	dirty []byte      // not written yet
	size  int64       // bytes written
}

// flushHashes is how many bytes wait before they are written.
const flushHashes = 64 << 10

// cachedLeaves is how many leaves the files in a folder hold.
func cachedLeaves(dir string) uint64 {
	st, err := os.Lstat(filepath.Join(dir, hashFileName(0)))
	if err != nil || !st.Mode().IsRegular() {
		return 0
	}
	return uint64(st.Size()) / tlog.HashSize
}

// openHashFiles goes on after the first size leaves, which the files hold.
func openHashFiles(dir string, size uint64) (*hashFiles, error) {
	h := &hashFiles{dir: dir}
	for level := 0; level == 0 || size>>(tileHeight*level) > 0; level++ {
		if err := h.openLevel(level, int64(size>>(tileHeight*level))); err != nil {
			h.close()
			return nil, err
		}
	}
	return h, nil
}

func (h *hashFiles) openLevel(level int, hashes int64) error {
	name := filepath.Join(h.dir, hashFileName(level))
	// A link put here must not have us write elsewhere: to the key, say.
	if st, err := os.Lstat(name); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return err
	}
	h.levels = append(h.levels, hashLevel{f: f, size: hashes * tlog.HashSize})
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", name)
	}
	if st.Size() < hashes*tlog.HashSize {
		return fmt.Errorf("%s is too short", f.Name())
	}
	if err := f.Truncate(hashes * tlog.HashSize); err != nil {
		return err
	}
	partial := make([]byte, hashes%tileWidth*tlog.HashSize)
	if _, err := f.ReadAt(partial, hashes*tlog.HashSize-int64(len(partial))); err != nil && err != io.EOF {
		return err
	}
	h.levels[level].tile = splitHashes(partial)
	return nil
}

// add appends the hash of a leaf, and those above it that are complete with it.
func (h *hashFiles) add(leaf tlog.Hash) error {
	if h == nil {
		return nil
	}
	for level := 0; ; level++ {
		if level == len(h.levels) {
			if err := h.openLevel(level, 0); err != nil {
				return err
			}
		}
		l := &h.levels[level]
		l.tile = append(l.tile, leaf)
		l.dirty = append(l.dirty, leaf[:]...)
		if len(l.dirty) >= flushHashes {
			if err := l.flush(); err != nil {
				return err
			}
		}
		if len(l.tile) < tileWidth {
			return nil
		}
		leaf, l.tile = tileRoot(l.tile), l.tile[:0]
	}
}

func (l *hashLevel) flush() error {
	n, err := l.f.WriteAt(l.dirty, l.size)
	l.size += int64(n)
	l.dirty = l.dirty[:0]
	return err
}

// close writes what waits.
func (h *hashFiles) close() {
	if h == nil {
		return
	}
	for i := range h.levels {
		_ = h.levels[i].flush() // a shorter file is as good
		_ = h.levels[i].f.Close()
	}
	h.levels = nil
}

// tileRoot is the root over the hashes of a full tile.
func tileRoot(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(tileRoot(hashes[:half]), tileRoot(hashes[half:]))
}

func splitHashes(data []byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(data)/tlog.HashSize)
	for i := range hashes {
		hashes[i] = tlog.Hash(data[i*tlog.HashSize:])
	}
	return hashes
}
