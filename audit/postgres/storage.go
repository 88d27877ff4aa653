package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
)

const (
	// attempt bounds one try to reach the database.
	attempt = 10 * time.Second
	// lockWait is how long an opening waits for the lock: a server takes a moment to
	// see that a process is gone.
	lockWait = 2 * time.Second
	// minPause and maxPause are what is between tries.
	minPause = 10 * time.Millisecond
	maxPause = time.Second
)

// A storage is the [audit.Storage] of one log. Its files are rows, one for each
// batch; all that is in them was stored by a commit.
type storage struct {
	pool     *pgxpool.Pool
	log      string
	patience time.Duration

	conn *pgxpool.Conn // holds the lock, nil when it was lost
	at   position      // behind the last row
	made string        // the newest file, which may have no row yet

	hashes *hashes // of the tree up to at
}

var _ audit.RemoteStorage = (*storage)(nil)

// A position is the end of a log.
type position struct {
	segment int
	end     int64
}

// Remote implements [audit.RemoteStorage].
func (s *storage) Remote() {}

// lock takes the log for this process and looks where it ends.
func (s *storage) lock(whole context.Context) error {
	ctx, cancel := context.WithTimeout(whole, attempt)
	defer cancel()
	err := s.connect(ctx)
	for end := time.Now().Add(lockWait); errors.Is(err, audit.ErrLocked) && time.Now().Before(end); err = s.connect(ctx) {
		time.Sleep(minPause)
	}
	if err == nil {
		s.at, _, err = s.last(ctx)
	}
	if err == nil {
		err = s.loadHashes(whole)
	}
	if err != nil {
		s.disconnect()
		return fmt.Errorf("audit/postgres: %w", err)
	}
	return nil
}

// connect gets a connection that holds the lock.
func (s *storage) connect(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	s.conn = conn
	locked := false
	err = conn.QueryRow(ctx, `select pg_try_advisory_lock(hashtextextended($1, 0))`, "twinward_audit "+s.log).Scan(&locked)
	if err == nil && !locked {
		err = audit.ErrLocked
	}
	if err == nil {
		_, err = conn.Exec(ctx, `select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') in ('off', 'local')`)
	}
	if err != nil {
		s.disconnect()
	}
	return err
}

// disconnect gives up the connection, and with it the lock.
func (s *storage) disconnect() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if !s.conn.Conn().IsClosed() { // the server would see the end of the connection later
		_, _ = s.conn.Exec(ctx, `select pg_advisory_unlock_all()`)
	}
	_ = s.conn.Conn().Close(ctx)
	s.conn.Release()
	s.conn = nil
}

// last returns where the log ends, and its last row.
func (s *storage) last(ctx context.Context) (end position, row []byte, err error) {
	err = s.conn.QueryRow(ctx, `select segment, off + length(data), data from twinward_audit_batch where log = $1 order by segment desc, off desc limit 1`, s.log).
		Scan(&end.segment, &end.end, &row)
	if errors.Is(err, pgx.ErrNoRows) {
		return position{}, nil, nil
	}
	return end, row, err
}

// store appends a row, exactly once, whatever happens to the connection.
func (s *storage) store(segment int, off int64, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	edge := s.hashes.clone()
	rows := edge.addBatch(data)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := s.tryStore(ctx, segment, off, data, rows)
		if err == nil {
			s.at, s.hashes = position{segment, off + int64(len(data))}, edge
			return nil
		}
		s.disconnect()
		if !passing(err) || ctx.Err() != nil {
			return fmt.Errorf("audit/postgres: %w", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("audit/postgres: gave up after %v: %w", s.patience, err)
		}
	}
}

func (s *storage) tryStore(ctx context.Context, segment int, off int64, data []byte, complete []hashRow) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
		// Under the lock, and nothing of the connection before is under way: it
		// held the lock until its end.
		end, row, err := s.last(ctx)
		switch {
		case err != nil:
			return err
		case end == position{segment, off + int64(len(data))} && bytes.Equal(row, data):
			return nil // it had been committed, only the answer was lost
		case end != s.at:
			return fmt.Errorf("%w: it ends at byte %d of segment %d and not at byte %d of segment %d", ErrMoved, end.end, end.segment, s.at.end, s.at.segment)
		}
	}
	if len(complete) == 0 {
		_, err := s.conn.Exec(ctx, insertBatch, s.log, segment, off, data)
		return err
	}
	levels, numbers, roots, leaves := columnsOf(complete)
	_, err := s.conn.Exec(ctx, `with hashes as (`+insertHashes+`) `+insertBatch, s.log, segment, off, data, levels, numbers, roots, leaves)
	return err
}

// passing reports whether an error may be gone on another try: anything about the
// connection, and of what a server says that it is not able to just now.
func passing(err error) bool {
	if errors.Is(err, ErrMoved) {
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return true
	}
	// Connection, transaction rolled back, resources, not in the right state,
	// operator intervention, system error; and read-only, as in a failover.
	return slices.Contains([]string{"08", "40", "53", "55", "57", "58"}, pg.Code[:min(2, len(pg.Code))]) || pg.Code == "25006"
}

// List implements [audit.Storage].
func (s *storage) List() ([]string, error) {
	names, err := segments(context.Background(), s.pool, s.log)
	if err == nil && s.made != "" && !slices.Contains(names, s.made) {
		names = append(names, s.made)
	}
	return names, err
}

// Open implements [audit.Storage]. The lock is that of the whole log. A new file
// is in the database with its first row.
func (s *storage) Open(name string) (audit.StorageFile, error) {
	n, err := segmentNumber(name)
	if err != nil {
		return nil, err
	}
	s.made = name
	f := &file{s: s, segment: n}
	if n == s.at.segment {
		f.end = s.at.end
	}
	return f, nil
}

// SyncNames implements [audit.Storage]: there are no names but those in rows.
func (s *storage) SyncNames() error { return nil }

// Read implements [audit.Storage].
func (s *storage) Read(name string) (audit.StorageReader, error) {
	n, err := segmentNumber(name)
	if err != nil {
		return nil, err
	}
	return &reader{ctx: context.Background(), pool: s.pool, log: s.log, segment: n}, nil
}

// Free implements [audit.Storage]. Nobody can tell.
func (s *storage) Free() (int64, error) { return math.MaxInt64, nil }

// Close implements [audit.Storage].
func (s *storage) Close() error {
	s.disconnect()
	return nil
}

// A file is a segment that is being written: what was stored, and what the next
// Sync stores.
type file struct {
	s       *storage
	segment int
	end     int64 // of what was stored
	pending []byte
}

// WriteAt implements [io.WriterAt]. What is written behind the end of the file are
// the zeros that a log allocates ahead, which a database has no use for.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	switch end := f.end + int64(len(f.pending)); {
	case off < end:
		return 0, errors.New("audit/postgres: what is stored is not written again")
	case off == end:
		f.pending = append(f.pending, p...)
	}
	return len(p), nil
}

// Truncate implements [audit.StorageFile]. There is never anything to cut off.
func (f *file) Truncate(size int64) error {
	if size < f.end+int64(len(f.pending)) {
		return errors.New("audit/postgres: what is stored is not cut off")
	}
	return nil
}

// Sync implements [audit.StorageFile].
func (f *file) Sync() error {
	if len(f.pending) == 0 {
		return nil
	}
	if err := f.s.store(f.segment, f.end, f.pending); err != nil {
		return err
	}
	f.end += int64(len(f.pending))
	f.pending = f.pending[:0]
	return nil
}

// Close implements [io.Closer].
func (f *file) Close() error { return nil }
