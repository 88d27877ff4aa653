package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// A clock that jumps by a day, both ways and under load: records keep their
// order, no latency is negative, nothing is lost and the log verifies.
func TestClockJumps(t *testing.T) {
	var mu sync.Mutex
	now, jumps := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), 0
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, &audit.Options{Clock: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		jumps++
		switch jumps % 7 {
		case 3:
			now = now.Add(24 * time.Hour)
		case 5:
			now = now.Add(-24 * time.Hour)
		case 6:
			now = now.Add(-23 * time.Hour)
		}
		now = now.Add(time.Millisecond)
		return now
	}})
	h := &host{acted: map[uint64]bool{}, answered: map[uint64]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() { h.serve(log, 4, 50) })
	wg.Go(func() {
		for range 300 {
			assert.NoError(t, log.Append(ctx, denial("standup", "again"))) // floods are counted by the minute
		}
	})
	wg.Wait()
	key := log.VerifierKey()
	require.NoError(t, log.Close())
	assert.Len(t, h.answered, 200)
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	require.NoError(t, err)
	assert.Empty(t, rep.Open)
	assert.Empty(t, rep.Uncounted)
	var seq, denials uint64
	back := 0
	var last time.Time
	for _, r := range collect(t, dir, audit.Filter{}) {
		seq++
		require.Equal(t, seq, r.Seq)
		if r.Time.Before(last) {
			back++
		}
		last = r.Time
		if r.Outcome != nil {
			assert.GreaterOrEqual(t, r.Outcome.Latency, time.Duration(0))
		}
		if r.Event != nil && r.Event.Kind == audit.KindDenial {
			denials += r.Event.Count()
		}
	}
	assert.Greater(t, back, 10, "the clock did go back")
	assert.EqualValues(t, 300, denials)
}

// Several writers fight for one log: each act has its intent, whoever had it.
func TestManyWriters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	h := &host{acted: map[uint64]bool{}, answered: map[uint64]bool{}}
	log := openLog(t, dir, nil)
	key := log.VerifierKey()
	require.NoError(t, log.Close())
	var wg sync.WaitGroup
	var mu sync.Mutex
	locked, opened := 0, 0
	for range 4 {
		wg.Go(func() {
			for range 5 {
				log, err := audit.Open(dir, nil)
				for errors.Is(err, audit.ErrLocked) {
					mu.Lock()
					locked++
					mu.Unlock()
					time.Sleep(100 * time.Microsecond)
					log, err = audit.Open(dir, nil)
				}
				if !assert.NoError(t, err) {
					return
				}
				h.serve(log, 2, 3)
				mu.Lock()
				opened++
				mu.Unlock()
				assert.NoError(t, log.Close())
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 20, opened)
	assert.Positive(t, locked)
	assert.Len(t, h.answered, 120, "no number was given twice")
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	require.NoError(t, err)
	assert.EqualValues(t, 240, rep.Records)
}
