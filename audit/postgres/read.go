package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
)

// FS returns the folder that a log in the database would be, for [audit.Verify],
// [audit.Prove], [audit.Scan] and the reports. Its reads end when ctx does.
// A log may be read while it is being written to. Proofs read a few hashes that
// are kept beside it, and the segments of the record and of the end.
func FS(ctx context.Context, pool *pgxpool.Pool, origin string) fs.FS {
	return folder{ctx, pool, origin}
}

// Origins returns the names of the logs in the database, sorted.
func Origins(ctx context.Context, pool *pgxpool.Pool) ([]string, error) {
	rows, err := pool.Query(ctx, `select distinct log from twinward_audit_batch where segment = 1 and off = 0 order by log`)
	if err == nil {
		var list []string
		if list, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("audit/postgres: %w", err)
}

// segments returns the names of a log's segments, in order.
func segments(ctx context.Context, pool *pgxpool.Pool, log string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	rows, err := pool.Query(ctx, `select segment from twinward_audit_batch where log = $1 and off = 0 order by segment`, log)
	if err == nil {
		var list []string
		if list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
			var n int
			err := row.Scan(&n)
			return audit.SegmentName(n), err
		}); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("audit/postgres: %w", err)
}

// segmentNumber is the inverse of [audit.SegmentName].
func segmentNumber(name string) (int, error) {
	_, digits, _ := strings.Cut(strings.TrimSuffix(name, ".jsonl"), ".v1.")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || audit.SegmentName(n) != name {
		return 0, fmt.Errorf("audit/postgres: %s: %w", name, fs.ErrNotExist)
	}
	return n, nil
}

const (
	// readAhead is how many bytes are read at least, if there are as many.
	readAhead = 1 << 20
	// readTime bounds one read.
	readTime = 30 * time.Second
)

// A reader reads a segment. Its memory is readAhead and one batch.
type reader struct {
	ctx     context.Context
	pool    *pgxpool.Pool
	log     string
	segment int

	buf []byte // what was read last
	at  int64  // where it is in the segment
}

// ReadAt implements [io.ReaderAt].
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		if off < r.at || off >= r.at+int64(len(r.buf)) {
			if err := r.fetch(off, max(int64(len(p)-n), readAhead)); err != nil {
				return n, err
			}
			if off >= r.at+int64(len(r.buf)) {
				return n, io.EOF
			}
		}
		c := copy(p[n:], r.buf[off-r.at:])
		n, off = n+c, off+int64(c)
	}
	return n, nil
}

// fetch reads the rows that hold the bytes from off on, if there are any.
func (r *reader) fetch(off, size int64) error {
	ctx, cancel := context.WithTimeout(r.ctx, readTime)
	defer cancel()
	r.buf, r.at = nil, off
	rows, err := r.pool.Query(ctx, `select off, data from twinward_audit_batch where log = $1 and segment = $2 and off < $4
		and off >= (select max(off) from twinward_audit_batch where log = $1 and segment = $2 and off <= $3) order by off`,
		r.log, r.segment, off, off+size)
	if err != nil {
		return fmt.Errorf("audit/postgres: %w", err)
	}
	var start int64
	var data []byte
	first := true
	_, err = pgx.ForEachRow(rows, []any{&start, &data}, func() error {
		if first {
			r.at, first = start, false
		}
		if start != r.at+int64(len(r.buf)) {
			return fmt.Errorf("%w: in %s of %s the bytes from %d to %d are missing", audit.ErrTampered, audit.SegmentName(r.segment), r.log, r.at+int64(len(r.buf)), start)
		}
		r.buf = append(r.buf, data...)
		return nil
	})
	if err != nil {
		r.buf, r.at = nil, off
		return fmt.Errorf("audit/postgres: %w", err)
	}
	return nil
}

// Size implements [audit.StorageReader].
func (r *reader) Size() (size int64, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, readTime)
	defer cancel()
	err = r.pool.QueryRow(ctx, `select off + length(data) from twinward_audit_batch where log = $1 and segment = $2 order by off desc limit 1`, r.log, r.segment).Scan(&size)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("audit/postgres: %w", err)
	}
	return size, nil
}

// Close implements [io.Closer].
func (r *reader) Close() error { return nil }

// A folder is a log as a folder.
type folder struct {
	ctx  context.Context
	pool *pgxpool.Pool
	log  string
}

// Open implements [fs.FS].
func (d folder) Open(name string) (fs.File, error) {
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	if name == "." {
		list, err := d.ReadDir(".")
		if err != nil {
			return fail(err)
		}
		return &openedDir{list}, nil
	}
	if level := hashFile(name); level >= 0 {
		return &hashReader{folder: d, level: level}, nil
	}
	n, err := segmentNumber(name)
	if err != nil {
		return fail(fs.ErrNotExist)
	}
	r := &reader{ctx: d.ctx, pool: d.pool, log: d.log, segment: n}
	size, err := r.Size()
	switch {
	case err != nil:
		return fail(err)
	case size == 0:
		return fail(fs.ErrNotExist)
	}
	return &opened{r, info{name: name, size: size}, 0}, nil
}

// ReadDir implements [fs.ReadDirFS].
func (d folder) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	names, err := segments(d.ctx, d.pool, d.log)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, len(names))
	for i, name := range names {
		list[i] = entry{d, name}
	}
	return list, nil
}

// An entry is a segment in a folder.
type entry struct {
	d    folder
	name string
}

func (e entry) Name() string      { return e.name }
func (e entry) IsDir() bool       { return false }
func (e entry) Type() fs.FileMode { return 0 }
func (e entry) Info() (fs.FileInfo, error) {
	f, err := e.d.Open(e.name)
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

// An opened file is as long as it was then.
type opened struct {
	*reader
	info info
	off  int64
}

// Stat implements [fs.File].
func (f *opened) Stat() (fs.FileInfo, error) { return f.info, nil }

// Read implements [fs.File].
func (f *opened) Read(p []byte) (int, error) {
	if f.off >= f.info.size {
		return 0, io.EOF
	}
	n, err := f.ReadAt(p[:min(int64(len(p)), f.info.size-f.off)], f.off)
	f.off += int64(n)
	return n, err
}

// Close implements [fs.File].
func (f *opened) Close() error { return nil }

// An openedDir is the folder itself, with what is left to list of it.
type openedDir struct{ left []fs.DirEntry }

// Stat implements [fs.File].
func (d *openedDir) Stat() (fs.FileInfo, error) { return info{name: ".", dir: true}, nil }

// Read implements [fs.File].
func (d *openedDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: ".", Err: fs.ErrInvalid}
}

// Close implements [fs.File].
func (d *openedDir) Close() error { return nil }

// ReadDir implements [fs.ReadDirFile].
func (d *openedDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 || n > len(d.left) {
		if n > 0 && len(d.left) == 0 {
			return nil, io.EOF
		}
		n = len(d.left)
	}
	list := d.left[:n]
	d.left = d.left[n:]
	return list, nil
}

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o500
	}
	return 0o400
}
