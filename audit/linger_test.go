package audit_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// openLingering opens a log in which a batch that nobody waits for is begun after
// an hour, which is never here.
func openLingering(t *testing.T, mode audit.Mode, queue int) *audit.Log {
	t.Helper()
	o := &audit.Options{Key: must(audit.NewKey("audit.test/linger")), Mode: mode, Queue: queue}
	log, err := audit.New(new(audittest.Memory), o.Linger(time.Hour))
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// Records that nobody waits for travel together, and Close does not wait for the
// time to gather either.
func TestLingering(t *testing.T) {
	log := openLingering(t, audit.BestEffort, 0)
	size, batches := log.Size(), log.Batches()
	for range 100 {
		c, err := log.Begin(ctx, intent("a", "x"))
		require.NoError(t, err)
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	}
	assert.Equal(t, size, log.Size(), "all are in line")
	assert.Equal(t, 200, log.Pending())
	require.NoError(t, log.Close())
	assert.Equal(t, size+200, log.Size())
	assert.Equal(t, batches+2, log.Batches(), "their batch, and the closing checkpoint")
}

// Who waits for the disk does not wait for others to gather, and takes those along
// who do.
func TestLingeringIsNotWaitedFor(t *testing.T) {
	log := openLingering(t, audit.StrictIntent, 0)
	size, batches := log.Size(), log.Batches()
	for range 20 {
		c, err := log.Begin(ctx, intent("a", "x"))
		require.NoError(t, err)
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	}
	assert.Equal(t, size+39, log.Size(), "but for the last outcome")
	assert.Equal(t, batches+20, log.Batches(), "the outcome before goes with the next intent")

	log = openLingering(t, audit.BestEffort, 0)
	require.NoError(t, log.Append(ctx, probe("a", "x")))
	size = log.Size()
	// What the log itself relies on is durable in every mode.
	require.NoError(t, log.Rotate(ctx, must(audit.NewKey("audit.test/linger")), change))
	assert.Equal(t, size+2, log.Size())
}

// Nobody waits in a line that is full because others gather there.
func TestLingeringInAFullLine(t *testing.T) {
	log := openLingering(t, audit.BestEffort, 4)
	size := log.Size()
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 50 {
				assert.NoError(t, log.Append(context.Background(), probe("a", "x")))
			}
		})
	}
	writers.Wait()
	assert.GreaterOrEqual(t, log.Size(), size+400-8, "all but one line and one batch on its way")
	require.NoError(t, log.Close())
	assert.Equal(t, size+400, log.Size())
}

// A record is on the disk some time later although nobody waits for it, and
// nothing else happens.
func TestLingeringEnds(t *testing.T) {
	o := &audit.Options{Key: must(audit.NewKey("audit.test/linger")), Mode: audit.BestEffort}
	log, err := audit.New(new(audittest.Memory), o)
	require.NoError(t, err)
	size := log.Size()
	require.NoError(t, log.Append(ctx, probe("a", "x")))
	for log.Size() == size {
		runtime.Gosched()
	}
	require.NoError(t, log.Close())
}

// A checkpoint covers what was acknowledged before, also what nobody waits for.
func TestCheckpointCoversWhatLingers(t *testing.T) {
	log := openLingering(t, audit.BestEffort, 0)
	before := log.Size()
	var want uint64
	for range 3 {
		for range 10 {
			require.NoError(t, log.Append(ctx, probe("a", "x")))
		}
		want += 10
		assert.Equal(t, before+want-10, log.Size(), "they are in line")
		cp, err := log.Checkpoint(ctx)
		require.NoError(t, err)
		assert.Equal(t, before+want, cp.Size)
	}
	batches := log.Batches()
	cp, err := log.Checkpoint(ctx)
	require.NoError(t, err)
	assert.Equal(t, before+want, cp.Size)
	assert.Equal(t, batches, log.Batches(), "nothing is written where nothing is in line")

	require.NoError(t, log.Append(ctx, probe("a", "x")))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	cp, err = log.Checkpoint(ended)
	require.NoError(t, err, "nobody else need be waited for")
	assert.Equal(t, before+want+1, cp.Size)
	require.NoError(t, log.Close())
	_, err = log.Checkpoint(ctx)
	assert.NoError(t, err, "of a closed log, the closing one")
}

// Nor does it leave out what is on its way to the disk.
func TestCheckpointWaitsForTheDisk(t *testing.T) {
	st := &stallingStorage{Memory: new(audittest.Memory)}
	s := &stalled{arrived: make(chan struct{}), release: make(chan struct{})}
	s.Log = must(audit.New(st, &audit.Options{Key: must(audit.NewKey("audit.test/linger"))}))
	st.stall(s)
	before := s.Size()
	done := make(chan error)
	go func() { done <- s.Append(ctx, probe("a", "b")) }()
	<-s.arrived
	ended, cancel := context.WithCancel(ctx)
	cancel()
	cp, err := s.Checkpoint(ended)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, before, cp.Size, "the one that there is")
	s.release <- struct{}{}
	require.NoError(t, <-done)
	st.stall(nil)
	cp, err = s.Checkpoint(ctx)
	require.NoError(t, err)
	assert.Equal(t, before+1, cp.Size)
	require.NoError(t, s.Close())
}
