//go:build unix

package postgres_test

import (
	"fmt"
	"io/fs"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/postgres"
)

// write appends n events, as fast as it goes.
func write(t testing.TB, log *audit.Log, n int) {
	for i := range n {
		require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe, Action: fmt.Sprint("x", i)}))
	}
}

// hashRows are the rows of hashes in the order of their keys.
func hashRows(t testing.TB, pool *pgxpool.Pool) (list []string) {
	rows, err := pool.Query(t.Context(), `select level || ' ' || n || ' ' || encode(root, 'hex') || ' ' || coalesce(md5(leaves), '') from twinward_audit_hash where log = $1 order by level, n`, origin)
	require.NoError(t, err)
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		list = append(list, s)
	}
	require.NoError(t, rows.Err())
	return list
}

func change(t testing.TB, pool *pgxpool.Pool, sql ...string) {
	for _, s := range sql {
		_, err := pool.Exec(t.Context(), s)
		require.NoError(t, err, s)
	}
}

// A proof reads a few hashes and two segments, whatever else the log holds; the
// hashes are the same however they came about, and wrong ones do no harm.
func testHashes(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	o := audit.Options{Key: key, SegmentSize: 256 << 10, Mode: audit.BestEffort, Queue: 100_000}
	const records = 70_000 // a level of 256 * 256, and more
	log := open(t, pool, o)
	write(t, log, records/2)
	require.NoError(t, log.Close())
	log = open(t, pool, o) // goes on at the right edge
	write(t, log, records-records/2)
	require.NoError(t, log.Close())
	rep := verify(t, pool, key)
	total := rep.Records
	require.GreaterOrEqual(t, total, uint64(records))
	made := hashRows(t, pool)
	assert.Len(t, made, int(total/256+total/256/256))

	dir := postgres.FS(t.Context(), pool, origin)
	prove := func(seq uint64) error {
		p, err := audit.Prove(t.Context(), dir, seq)
		if err == nil {
			_, err = audit.VerifyProof(p.Text(), nil, key.VerifierKey())
		}
		return err
	}
	for _, seq := range []uint64{1, 255, 256, 257, 30_000, 65_536, 65_537, total} {
		require.NoError(t, prove(seq), seq)
	}
	for _, name := range []string{"checkpoint", "tile/0/000", "tile/0/255", "tile/1/000", fmt.Sprintf("tile/1/001.p/%d", total/256-256), "tile/2/000.p/1", "tile/entries/000"} {
		_, err := fs.ReadFile(audit.Tiles(dir), name)
		require.NoError(t, err, name)
	}

	// They can be made anew: where some are missing, and where all are.
	for _, lose := range []string{"delete from twinward_audit_hash where level = 0 and n = 7", "delete from twinward_audit_hash where level = 1", "delete from twinward_audit_hash where n > 200", "delete from twinward_audit_hash"} {
		change(t, pool, lose)
		log = open(t, pool, o)
		require.NoError(t, log.Close())
		total++ // that it was opened in this mode is on record
		assert.Equal(t, made, hashRows(t, pool), lose)
	}
	require.Equal(t, total, verify(t, pool, key).Records)

	// Segments in between are not read: in one, a byte is changed.
	change(t, pool, "alter table twinward_audit_batch disable trigger all", "create table whole as select * from twinward_audit_batch where segment = 4 and off = 0",
		`update twinward_audit_batch set data = overlay(data placing '\x58' from length(data) / 2) where segment = 4 and off = 0`)
	for _, seq := range []uint64{1, 65_536, total} {
		require.NoError(t, prove(seq), "record %d, with hashes", seq)
	}
	change(t, pool, "create table kept as table twinward_audit_hash", "delete from twinward_audit_hash")
	require.ErrorIs(t, prove(1), audit.ErrTampered, "without hashes all of the log is read")

	// With wrong hashes the proof is made from all of the log, once that is whole.
	change(t, pool, "insert into twinward_audit_hash table kept", `update twinward_audit_hash set leaves = overlay(leaves placing '\x58' from 100), root = overlay(root placing '\x58' from 7)`)
	require.ErrorIs(t, prove(1), audit.ErrTampered)
	change(t, pool, "update twinward_audit_batch b set data = w.data from whole w where b.segment = w.segment and b.off = w.off")
	require.NoError(t, prove(1))
}

// Tables of each older version, with a log in them, become those of this one, and
// the log goes on.
func testMigrateFromEachVersion(t *testing.T, server database, pool *pgxpool.Pool) {
	// The rows of a log as each version stored them, which has not changed.
	require.NoError(t, postgres.Migrate(t.Context(), pool))
	key := newKey(t, origin)
	log := open(t, pool, audit.Options{Key: key})
	write(t, log, 600)
	require.NoError(t, log.Close())
	want := hashRows(t, pool)
	require.Len(t, want, 2)

	for version := 1; version <= len(postgres.Migrations); version++ {
		name := fmt.Sprint("old", version)
		change(t, pool, "create database "+name)
		old := database{server.Server, name}.connect(t, "postgres")
		change(t, old, "create table twinward_audit_schema (version int primary key, applied timestamptz not null default now())")
		for v := 1; v <= version; v++ {
			change(t, old, postgres.Migrations[v-1], fmt.Sprintf("insert into twinward_audit_schema (version) values (%d)", v))
		}
		rows, err := pool.Query(t.Context(), "select segment, off, data from twinward_audit_batch order by segment, off")
		require.NoError(t, err)
		for rows.Next() {
			var segment int
			var off int64
			var data []byte
			require.NoError(t, rows.Scan(&segment, &off, &data))
			_, err := old.Exec(t.Context(), "insert into twinward_audit_batch (log, segment, off, data) values ($1, $2, $3, $4)", origin, segment, off, data)
			require.NoError(t, err)
		}
		require.NoError(t, rows.Err())
		if version < len(postgres.Migrations) {
			_, err = postgres.Open(t.Context(), old, origin, &postgres.Options{Log: audit.Options{Key: key}})
			require.ErrorIs(t, err, postgres.ErrSchema)
			require.ErrorContains(t, err, fmt.Sprintf("version %d", version))
			_, err := audit.Prove(t.Context(), postgres.FS(t.Context(), old, origin), 1)
			require.NoError(t, err, "an auditor reads it as it is")
		}
		require.NoError(t, postgres.Migrate(t.Context(), old))
		require.NoError(t, postgres.Migrate(t.Context(), old))
		log := open(t, old, audit.Options{Key: key})
		assert.Equal(t, want, hashRows(t, old), "from version %d", version)
		write(t, log, 10)
		require.NoError(t, log.Close())
		rep := verify(t, old, key)
		assert.EqualValues(t, 610, rep.Records)
		index := postgres.NewIndex(old, origin)
		require.NoError(t, index.Send(t.Context(), []audit.Record{{Seq: 1, Event: &audit.Event{Kind: audit.KindProbe}}}))
		_, err = old.Exec(t.Context(), "delete from twinward_audit_batch")
		require.ErrorContains(t, err, "never changed")
		old.Close()
	}
}
