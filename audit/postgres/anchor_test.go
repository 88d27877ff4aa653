//go:build unix

package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/postgres"
)

func testAnchor(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	anchor := postgres.NewAnchor(pool, origin)
	latest, err := anchor.Latest(t.Context())
	require.NoError(t, err)
	assert.Nil(t, latest)
	log := open(t, pool, audit.Options{Key: key, Anchors: []audit.Anchor{anchor}})
	var last audit.Checkpoint
	for range 3 {
		fill(t, log, 5)
		last, err = log.Checkpoint(t.Context())
		require.NoError(t, err)
	}
	latest, err = anchor.Latest(t.Context())
	require.NoError(t, err)
	assert.Equal(t, string(last.Text), string(latest))
	require.NoError(t, anchor.Publish(t.Context(), last.Text))
	all, err := anchor.Checkpoints(t.Context())
	require.NoError(t, err)
	count := 0
	for _, text := range all {
		if text == string(last.Text) {
			count++
		}
	}
	assert.Equal(t, 1, count, "once, though it was published again")
	assert.Error(t, anchor.Publish(t.Context(), []byte("not a checkpoint")))
	require.NoError(t, log.Close())
	all, err = anchor.Checkpoints(t.Context())
	require.NoError(t, err)
	assert.Equal(t, uint64(30), verify(t, pool, key, all...).Anchored)

	// A log that was put back to an older state does not open.
	_, err = pool.Exec(t.Context(), `alter table twinward_audit_batch disable trigger user`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `delete from twinward_audit_batch where off > (select max(off) / 2 from twinward_audit_batch)`)
	require.NoError(t, err)
	_, err = postgres.Open(t.Context(), pool, origin, &postgres.Options{Log: audit.Options{Key: key, Anchors: []audit.Anchor{anchor}}})
	require.ErrorIs(t, err, audit.ErrTampered)
}
