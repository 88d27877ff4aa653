package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// A hashReader reads the tiles of a log's tree: as far as there are any from the
// hash files, the rest from the segments. It is a [tlog.TileReader], whose reader
// compares what it gets with the signed root.
type hashReader struct {
	dir  fs.FS
	src  *files
	last Checkpoint // the newest
	// stored is how many leaves the hash files hold, and rest are the hashes
	// of the leaves after these.
	stored uint64
	rest   []tlog.Hash
}

// newHashReader reads the end of the log in a folder, and all of it if trust in
// the hash files is not set, or if they are missing.
func newHashReader(ctx context.Context, dir fs.FS, trust bool) (*hashReader, error) {
	src, entries, err := folderFiles(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		trust = trust && (!isHashFile(e.Name()) || isRegular(dir, e))
	}
	if src.last == 0 {
		return nil, fmt.Errorf("audit: there is no %s in the folder: %w", SegmentName(1), fs.ErrNotExist)
	}
	h := &hashReader{dir: dir, src: src}
	if trust {
		if st, err := fs.Stat(dir, hashFileName(0)); err == nil {
			h.stored = uint64(st.Size()) / tlog.HashSize
		}
	}
	start, err := startAt(src, src.last, h.stored)
	if err != nil {
		return nil, err
	}
	lr := newLineReader(src, start)
	defer lr.Close()
	lr.skip = func(uint64) bool { return true }
	lr.leaf = func(_ []byte, hash tlog.Hash) {
		if lr.tree.size > h.stored {
			h.rest = append(h.rest, hash)
		}
	}
	if err := lr.all(ctx); err != nil {
		return nil, err
	}
	if lr.count == 0 && lr.tree.size == 0 {
		return nil, ErrEmpty
	}
	if lr.count == 0 {
		return nil, tamperedf("there is no signed checkpoint in it")
	}
	if lr.first > h.stored {
		return nil, tamperedf("what is before record %d is missing", lr.first+1)
	}
	h.last = lr.last
	h.stored = min(h.stored, h.last.Size)
	return h, nil
}

// startAt returns the last segment that starts with at most size records before
// it, or section 0. One whose start cannot be read, as a crash leaves the last, is
// none.
func startAt(src source, last int, size uint64) (int, error) {
	first := src.begin()
	if first == 0 {
		next := src.after(0)
		if before, ok, err := segmentStart(src, next); err != nil || !ok || before > size {
			return 0, err
		}
		first = next
	}
	var failed error
	later := sort.Search(max(last-first, 0), func(i int) bool {
		before, ok, err := segmentStart(src, first+1+i)
		if err != nil {
			failed = err
		}
		return !ok || before > size
	})
	return first + later, failed
}

// Height implements [tlog.TileReader].
func (h *hashReader) Height() int { return tileHeight }

// SaveTiles implements [tlog.TileReader].
func (h *hashReader) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles implements [tlog.TileReader].
func (h *hashReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		var err error
		if data[i], err = h.tile(t); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// tile returns the hashes of a tile of at most 256.
func (h *hashReader) tile(t tlog.Tile) ([]byte, error) {
	first := uint64(t.N) << tileHeight
	if t.L < 0 || t.L >= maxLevels || t.N < 0 || t.N >= 1<<40 || first+uint64(t.W) > h.last.Size>>(tileHeight*t.L) {
		return nil, fs.ErrNotExist
	}
	data := make([]byte, 0, t.W*tlog.HashSize)
	if stored := h.stored >> (tileHeight * t.L); stored > first {
		n := min(uint64(t.W), stored-first)
		if part, err := h.readStored(t.L, first, n); err == nil {
			data = part
		}
	}
	for n := first + uint64(len(data)/tlog.HashSize); n < first+uint64(t.W); n++ {
		if t.L == 0 {
			if n < h.stored {
				return nil, fmt.Errorf("audit: %s cannot be read", hashFileName(0))
			}
			hash := h.rest[n-h.stored]
			data = append(data, hash[:]...)
			continue
		}
		below, err := h.tile(tlog.Tile{H: tileHeight, L: t.L - 1, N: int64(n), W: tileWidth})
		if err != nil {
			return nil, err
		}
		root := tileRoot(splitHashes(below))
		data = append(data, root[:]...)
	}
	return data, nil
}

func (h *hashReader) readStored(level int, first, n uint64) ([]byte, error) {
	r, err := openReader(h.dir, hashFileName(level))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, n*tlog.HashSize)
	if got, err := r.ReadAt(data, int64(first*tlog.HashSize)); got < len(data) {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return data, nil
}

// reader returns a reader of hashes that are proven to be the log's.
func (h *hashReader) reader() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: int64(h.last.Size), Hash: h.last.Root}, h)
}

// lines returns the lines of n records from number seq on, which the last
// checkpoint covers.
func (h *hashReader) lines(ctx context.Context, seq, n uint64) ([][]byte, error) {
	start, err := startAt(h.src, h.src.last, seq-1)
	if err != nil {
		return nil, err
	}
	lr := newLineReader(h.src, start)
	defer lr.Close()
	lr.skip = func(uint64) bool { return true }
	var lines [][]byte
	pruned := uint64(0)
	lr.leaf = func(line []byte, _ tlog.Hash) {
		if lr.tree.size >= seq && lr.tree.size < seq+n {
			lines = append(lines, bytes.Clone(line))
			if line == nil {
				pruned = lr.tree.size
			}
		}
	}
	lr.until = seq + n - 1
	if err := lr.all(ctx); err != nil {
		return nil, err
	}
	if pruned > 0 {
		return nil, fmt.Errorf("%w: of record %d only its hash is left", ErrPruned, pruned)
	}
	if uint64(len(lines)) != n {
		return nil, tamperedf("records %d to %d are not all there", seq, seq+n-1)
	}
	return lines, nil
}

// all reads to the end, or past record until.
func (lr *lineReader) all(ctx context.Context) error {
	for lr.until == 0 || lr.tree.size < lr.until {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := lr.next()
		var dam *damage
		switch {
		case err == io.EOF || errors.As(err, &dam) && dam.torn():
			return nil
		case dam != nil:
			return tamperedf("%w", dam)
		case err != nil:
			return fmt.Errorf("audit: %w", err)
		}
	}
	return nil
}

// Tiles shows the log in a folder in the layout of C2SP tlog-tiles
// (https://c2sp.org/tlog-tiles), which the tools of transparency logs read:
//
//	checkpoint
//	tile/<level>/<number>[.p/<width>]
//	tile/entries/<number>[.p/<width>]
//
// An entry is the line of a record; the entry with index 0 is record 1. Serve it
// with [net/http.FileServerFS], behind whatever decides who may read the log.
//
// There are no other files in it and folders cannot be listed. Reading
// "checkpoint" looks at the log anew; the rest is as of then. The view does not
// verify: clients do, which is what the layout is for.
func Tiles(dir fs.FS) fs.FS { return &tileView{dir: dir} }

type tileView struct {
	dir fs.FS
	mu  sync.Mutex
	h   *hashReader // nil at first
}

// hashes returns the state of the log, which is read anew if fresh.
func (v *tileView) hashes(fresh bool) (*hashReader, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.h == nil || fresh {
		h, err := newHashReader(context.Background(), v.dir, true)
		if err != nil {
			return nil, err
		}
		v.h = h
	}
	return v.h, nil
}

// Open implements [fs.FS].
func (v *tileView) Open(name string) (fs.File, error) {
	data, err := v.read(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &memFile{Reader: bytes.NewReader(data), name: path.Base(name)}, nil
}

func (v *tileView) read(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	h, err := v.hashes(name == "checkpoint")
	if err != nil {
		return nil, err
	}
	if name == "checkpoint" {
		return h.last.Text, nil
	}
	rest, ok := strings.CutPrefix(name, "tile/")
	if !ok {
		return nil, fs.ErrNotExist
	}
	entries := strings.HasPrefix(rest, "entries/")
	if entries {
		rest = "data/" + strings.TrimPrefix(rest, "entries/")
	} else if strings.HasPrefix(rest, "data/") {
		return nil, fs.ErrNotExist
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", tileHeight, rest))
	if err != nil {
		return nil, fs.ErrNotExist
	}
	if !entries {
		return h.tile(t)
	}
	first := uint64(t.N) << tileHeight
	if t.N < 0 || t.N >= 1<<40 || first+uint64(t.W) > h.last.Size {
		return nil, fs.ErrNotExist
	}
	lines, err := h.lines(context.Background(), first+1, uint64(t.W))
	if errors.Is(err, ErrPruned) {
		return nil, fs.ErrNotExist // the layout lets logs prune entries
	}
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, line := range lines {
		data = binary.BigEndian.AppendUint16(data, uint16(len(line))) // at most MaxRecord
		data = append(data, line...)
	}
	return data, nil
}

// A memFile is a file of a tileView.
type memFile struct {
	*bytes.Reader
	name string
}

func (f *memFile) Close() error               { return nil }
func (f *memFile) Stat() (fs.FileInfo, error) { return memInfo{f}, nil }

type memInfo struct{ f *memFile }

func (i memInfo) Name() string       { return i.f.name }
func (i memInfo) Size() int64        { return i.f.Reader.Size() }
func (i memInfo) Mode() fs.FileMode  { return 0o444 }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return false }
func (i memInfo) Sys() any           { return nil }
