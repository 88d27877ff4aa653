package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// The hashes of a log's tree are kept beside it, so that a proof needs a few of
// them and not the log. A row of twinward_audit_hash at level 0 is one full tile
// of C2SP tlog-tiles, the hashes of 256 records, and its root; at level L it is
// the root over 256 roots of the level below. What they say can be had from the
// batches: they are believed by nobody, and readers compare with a signed root.

const tileWidth = 256

// A hashRow is a row of twinward_audit_hash.
type hashRow struct {
	level  int
	n      int64
	root   tlog.Hash
	leaves []byte // at level 0
}

// hashes are the right edge of the tree: what the next rows are made from.
type hashes struct {
	leaves []tlog.Hash   // of the tile at level 0 that is not full
	roots  [][]tlog.Hash // at each level, those that are not under a root of the next
	full   []int64       // at each level, how many rows there are
}

// add appends the hash of a record, and returns the rows that are complete with
// it.
func (h *hashes) add(leaf tlog.Hash) []hashRow {
	if h.leaves = append(h.leaves, leaf); len(h.leaves) < tileWidth {
		return nil
	}
	row := hashRow{root: rootOf(h.leaves), leaves: make([]byte, 0, tileWidth*tlog.HashSize)}
	for _, leaf := range h.leaves {
		row.leaves = append(row.leaves, leaf[:]...)
	}
	h.leaves = h.leaves[:0]
	var rows []hashRow
	for level := 0; ; level++ {
		if level == len(h.full) {
			h.full, h.roots = append(h.full, 0), append(h.roots, nil)
		}
		row.level, row.n = level, h.full[level]
		h.full[level]++
		rows = append(rows, row)
		if h.roots[level] = append(h.roots[level], row.root); len(h.roots[level]) < tileWidth {
			return rows
		}
		row = hashRow{root: rootOf(h.roots[level])}
		h.roots[level] = h.roots[level][:0]
	}
}

// addBatch is add for the records among the lines of a batch.
func (h *hashes) addBatch(data []byte) (rows []hashRow) {
	for line := range bytes.Lines(data) {
		if line, ok := recordOf(line); ok {
			rows = append(rows, h.add(tlog.RecordHash(line))...)
		}
	}
	return rows
}

// clone returns a copy, for a batch that may not get there.
func (h *hashes) clone() *hashes {
	c := &hashes{leaves: append(make([]tlog.Hash, 0, tileWidth), h.leaves...), full: append([]int64(nil), h.full...)}
	for _, roots := range h.roots {
		c.roots = append(c.roots, append(make([]tlog.Hash, 0, tileWidth), roots...))
	}
	return c
}

// recordOf returns a line without its newline, if a record is on it.
func recordOf(line []byte) ([]byte, bool) {
	line, whole := bytes.CutSuffix(line, []byte("\n"))
	return line, whole && bytes.HasPrefix(line, []byte(`{"seq":`))
}

func rootOf(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(rootOf(hashes[:half]), rootOf(hashes[half:]))
}

// insertBatch stores a batch, and insertHashes what it completes with it.
const (
	insertBatch  = `insert into twinward_audit_batch (log, segment, off, data) values ($1, $2, $3, $4)`
	insertHashes = `insert into twinward_audit_hash (log, level, n, root, leaves) select $1, * from unnest($5::int[], $6::bigint[], $7::bytea[], $8::bytea[]) on conflict do nothing`
)

// columnsOf are rows as the arguments of insertHashes.
func columnsOf(rows []hashRow) (levels []int, numbers []int64, roots, leaves [][]byte) {
	for _, r := range rows {
		levels, numbers, roots, leaves = append(levels, r.level), append(numbers, r.n), append(roots, r.root[:]), append(leaves, r.leaves)
	}
	return levels, numbers, roots, leaves
}

// loadHashes reads the right edge of the tree, and stores what is missing: of a
// log that is older than the table all of it, which is read once.
func (s *storage) loadHashes(ctx context.Context) error {
	h := &hashes{}
	for level := 0; ; level++ {
		var n, next int64
		if err := s.conn.QueryRow(ctx, `select count(*), coalesce(max(n), -1) + 1 from twinward_audit_hash where log = $1 and level = $2`, s.log, level).Scan(&n, &next); err != nil {
			return err
		}
		if n != next || level > 0 && n != h.full[level-1]/tileWidth { // some were taken out: they are made anew
			h = &hashes{}
			break
		}
		if n == 0 {
			break
		}
		rows, err := s.conn.Query(ctx, `select root from twinward_audit_hash where log = $1 and level = $2 and n >= $3 order by n`, s.log, level, n-n%tileWidth)
		if err != nil {
			return err
		}
		roots, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return err
		}
		h.full, h.roots = append(h.full, n), append(h.roots, nil)
		for _, r := range roots {
			h.roots[level] = append(h.roots[level], toHash(r))
		}
	}
	stored := int64(0)
	if len(h.full) > 0 {
		stored = h.full[0] * tileWidth
	}
	segment, record, err := s.segmentOf(ctx, stored)
	if err != nil {
		return err
	}
	rows, err := s.pool.Query(ctx, `select data from twinward_audit_batch where log = $1 and segment >= $2 order by segment, off`, s.log, segment)
	if err != nil {
		return err
	}
	var missing []hashRow
	flush := func() error {
		levels, numbers, roots, leaves := columnsOf(missing)
		missing = missing[:0]
		_, err := s.conn.Exec(ctx, strings.NewReplacer("$5", "$2", "$6", "$3", "$7", "$4", "$8", "$5").Replace(insertHashes), s.log, levels, numbers, roots, leaves)
		return err
	}
	var data []byte
	if _, err := pgx.ForEachRow(rows, []any{&data}, func() error {
		for line := range bytes.Lines(data) {
			line, ok := recordOf(line)
			if !ok {
				continue
			}
			if record++; record > stored {
				missing = append(missing, h.add(tlog.RecordHash(line))...)
			}
		}
		if len(missing) < 1000 {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	s.hashes = h
	return nil
}

// segmentOf returns the last segment that starts with at most so many records
// before it, and how many these are.
func (s *storage) segmentOf(ctx context.Context, records int64) (segment int, before int64, err error) {
	rows, err := s.conn.Query(ctx, `select segment, substr(data, 1, 16384) from twinward_audit_batch where log = $1 and off = 0 order by segment desc`, s.log)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var start []byte
		if err := rows.Scan(&segment, &start); err != nil {
			return 0, 0, err
		}
		line, _, _ := bytes.Cut(start, []byte("\n"))
		if before, err = sizeOf(line); err != nil {
			return 0, 0, fmt.Errorf("segment %d: %w", segment, err)
		}
		if before <= records {
			break
		}
	}
	return segment, before, rows.Err()
}

// sizeOf returns the size in a line that holds a checkpoint.
func sizeOf(line []byte) (int64, error) {
	var v struct {
		Checkpoint string `json:"checkpoint"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return 0, err
	}
	parts := strings.SplitN(v.Checkpoint, "\n", 3)
	if len(parts) < 3 {
		return 0, errors.New("it does not start with a checkpoint")
	}
	return strconv.ParseInt(parts[1], 10, 64)
}

func toHash(b []byte) (h tlog.Hash) {
	copy(h[:], b)
	return h
}

// hashFile returns the level in the name of a file of hashes, -1 if it is none.
func hashFile(name string) int {
	digits, ok := strings.CutPrefix(name, "tree.")
	level, err := strconv.Atoi(digits)
	if !ok || err != nil || level < 0 || "tree."+strconv.Itoa(level) != name {
		return -1
	}
	return level
}

// A hashReader is a file of hashes as a log in a folder keeps them: those at one
// level, one after the other.
type hashReader struct {
	folder
	level int
	off   int64
}

// Stat implements [fs.File].
func (r *hashReader) Stat() (fs.FileInfo, error) {
	ctx, cancel := context.WithTimeout(r.ctx, readTime)
	defer cancel()
	var rows int64
	err := r.pool.QueryRow(ctx, `select coalesce(max(n), -1) + 1 from twinward_audit_hash where log = $1 and level = $2`, r.log, max(r.level-1, 0)).Scan(&rows)
	if err != nil {
		return nil, fmt.Errorf("audit/postgres: %w", err)
	}
	size := rows * tlog.HashSize
	if r.level == 0 {
		size *= tileWidth
	}
	return info{name: "tree." + strconv.Itoa(r.level), size: size}, nil
}

// ReadAt implements [io.ReaderAt].
func (r *hashReader) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, readTime)
	defer cancel()
	unit, column := int64(tlog.HashSize), "root"
	if r.level == 0 {
		unit, column = tileWidth*tlog.HashSize, "leaves"
	}
	first := off / unit
	rows, err := r.pool.Query(ctx, `select `+column+` from twinward_audit_hash where log = $1 and level = $2 and n between $3 and $4 order by n`,
		r.log, max(r.level-1, 0), first, (off+int64(len(p))-1)/unit)
	if err != nil {
		return 0, fmt.Errorf("audit/postgres: %w", err)
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return 0, fmt.Errorf("audit/postgres: %w", err)
	}
	data := bytes.Join(parts, nil) // what is not in its place is found by who reads it
	n := copy(p, data[min(off-first*unit, int64(len(data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Read implements [fs.File].
func (r *hashReader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.off)
	r.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Close implements [fs.File].
func (r *hashReader) Close() error { return nil }
