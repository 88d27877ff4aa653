//go:build unix

package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/postgres"
)

// The index has each record once, whatever happens, and can be made anew.
func testIndex(t *testing.T, server database, pool *pgxpool.Pool) {
	index := postgres.NewIndex(pool, origin)
	log, err := audit.Open(t.TempDir()+"/log", &audit.Options{Origin: origin, Sinks: []audit.Feed{{Sink: index, Batch: 7, Retry: 1, Drain: time.Minute}}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	caughtUp := func() bool { return log.Sinks()[0].Lag == 0 }
	count := func(where string) (n int) {
		require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from twinward_audit_record where `+where).Scan(&n))
		return n
	}
	fill(t, log, 50)
	require.NoError(t, log.Append(t.Context(), denial("a\x00b")))
	server.Kill()
	fill(t, log, 50)
	server.Run()
	require.Eventually(t, caughtUp, time.Minute, time.Millisecond)
	assert.Equal(t, 201, count("log = '"+origin+"'"))
	assert.Equal(t, 1, count("kind = 'denial' and effect = 'deny' and reason = 'unknown' and action = E'a\\ufffdb'"))
	assert.Equal(t, 100, count("kind = 'intent' and agent = 'standup' and person = 'ann' and record->'intent'->>'door' = 'tool'"))
	assert.Equal(t, 100, count("status = 'ok' and call in (select seq from twinward_audit_record where kind = 'intent')"))

	require.NoError(t, index.Rebuild(t.Context()))
	assert.Zero(t, count("true"))
	assert.Error(t, index.Send(t.Context(), []audit.Record{{Seq: 202, Outcome: &audit.Outcome{}}}), "what was before it is not there any more")
	assert.Zero(t, count("true"))
	fill(t, log, 1) // it is asked for its position again
	require.Eventually(t, func() bool { return caughtUp() && count("true") == 203 }, time.Minute, time.Millisecond)
	require.NoError(t, index.Send(t.Context(), []audit.Record{{Seq: 203, Outcome: &audit.Outcome{}}}), "what it has")
	assert.Equal(t, 203, count("true"))
}

// Of a log that was pruned before, what is left is indexed, and what follows.
func testIndexOfAPrunedLog(t *testing.T, _ database, pool *pgxpool.Pool) {
	const day = 24 * time.Hour
	dir, now, by := t.TempDir()+"/log", time.Now().Add(-400*day), audit.Change{By: "dpo", Reason: "T-1"}
	log, err := audit.Open(dir, &audit.Options{Origin: origin, SegmentSize: 2000, NoValues: true, Clock: func() time.Time { return now }})
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), denial("first")))
	require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindIdentity, Action: "register_agent", Resource: "standup", Change: &by}))
	fill(t, log, 20)
	now = now.Add(390 * day)
	fill(t, log, 1)
	p, err := log.PruneRecords(t.Context(), audit.Retention{Quiet: 400 * day}, by)
	require.NoError(t, err)
	require.Positive(t, p.Segments)
	require.NoError(t, log.Close())

	log, err = audit.Open(dir, &audit.Options{Origin: origin, NoValues: true, Sinks: []audit.Feed{{Sink: postgres.NewIndex(pool, origin), Batch: 3, Retry: 1, Drain: time.Minute}}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	fill(t, log, 2)
	require.Eventually(t, func() bool { return log.Sinks()[0].Lag == 0 }, time.Minute, time.Millisecond)
	var want []int64
	for r, err := range log.Query(t.Context(), audit.Filter{}) {
		require.NoError(t, err)
		want = append(want, int64(r.Seq))
	}
	require.Equal(t, int64(2), want[0], "the first is gone, the act of a person is not")
	rows, err := pool.Query(t.Context(), `select seq from twinward_audit_record where log = $1 order by seq`, origin)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	require.NoError(t, err)
	assert.Equal(t, want, got)
}
