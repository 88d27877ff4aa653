package audit_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func TestFollowSeesOldAndNewInOrder(t *testing.T) {
	log := audittest.NewLog(t)
	for i := range 5 {
		require.NoError(t, log.Append(ctx, denial("a", fmt.Sprint(i))))
	}
	const followers, more = 3, 200
	got := make([][]uint64, followers)
	var reading, wg sync.WaitGroup
	reading.Add(followers)
	for f := range followers {
		wg.Go(func() {
			for r, err := range log.Follow(ctx, uint64(f+1)) {
				if !assert.NoError(t, err) {
					return
				}
				got[f] = append(got[f], r.Seq)
				if r.Seq == 5 {
					reading.Done()
				}
			}
		})
	}
	reading.Wait()
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for i := range more / 4 {
				assert.NoError(t, log.Append(ctx, denial("b", fmt.Sprint(i))))
			}
		})
	}
	writers.Wait()
	require.NoError(t, log.Close()) // ends the followers, after the last record
	wg.Wait()
	for f := range followers {
		require.Len(t, got[f], 5+more-f)
		for i, seq := range got[f] {
			require.Equal(t, uint64(f+1+i), seq)
		}
	}
}

func TestFollowEndsWithContextAndFailure(t *testing.T) {
	log := audittest.NewLog(t)
	require.NoError(t, log.Append(ctx, denial("a", "b")))
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	for r, err := range log.Follow(stop, 0) {
		require.NoError(t, err)
		assert.Equal(t, uint64(1), r.Seq)
		cancel()
	}
	for range log.Follow(ctx, 1) {
		break
	}
	var last error
	for _, err := range log.Follow(ctx, 1) {
		if err != nil {
			last = err
			continue
		}
		log.Storage.FailOn(func(string) error { return syscall.EIO })
		assert.Error(t, log.Append(ctx, denial("a", "c")))
	}
	assert.ErrorIs(t, last, audit.ErrFailed)
}

// Followers never see a record that is not durable.
func TestFollowSeesOnlyDurable(t *testing.T) {
	log := audittest.NewLog(t)
	require.NoError(t, log.Append(ctx, denial("a", "one")))
	log.Storage.FailOn(func(op string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	assert.Error(t, log.Append(ctx, denial("a", "two")))
	assert.Contains(t, string(log.Storage.Bytes()), `"two"`)
	assert.Len(t, log.Records(), 1)
	var seen int
	for _, err := range log.Follow(ctx, 1) {
		if err == nil {
			seen++
		}
	}
	assert.Equal(t, 1, seen)
}

func TestFilter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	key, err := audit.NewKey("audit.test/filter")
	require.NoError(t, err)
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key, Clock: func() time.Time { now = now.Add(time.Hour); return now }})
	require.NoError(t, err)
	a, err := log.Begin(ctx, intent("a", "read")) // 1, 01:00
	require.NoError(t, err)
	b, err := log.Begin(ctx, intent("b", "read")) // 2, 02:00
	require.NoError(t, err)
	require.NoError(t, log.Append(ctx, denial("a", "write")))                             // 3, 03:00
	require.NoError(t, b.End(ctx, audit.Outcome{Status: audit.StatusOK, Latency: 1}))     // 4, 04:00
	require.NoError(t, a.End(ctx, audit.Outcome{Status: audit.StatusFailed, Latency: 1})) // 5, 05:00
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Door: audit.DoorCompute, Actor: audit.Actor{Agent: "b"}}))
	require.NoError(t, log.Close())
	at := func(h int) time.Time { return time.Date(2026, 1, 1, h, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		filter audit.Filter
		want   []uint64
	}{
		{audit.Filter{}, []uint64{1, 2, 3, 4, 5, 6}},
		{audit.Filter{Seq: 4}, []uint64{4, 5, 6}},
		{audit.Filter{Agent: "a"}, []uint64{1, 3, 5}},
		{audit.Filter{Agent: "a", Seq: 4}, []uint64{5}},
		{audit.Filter{Agent: "nobody"}, nil},
		{audit.Filter{Door: audit.DoorCompute}, []uint64{6}},
		{audit.Filter{Kind: audit.KindDenial}, []uint64{3}},
		{audit.Filter{Effect: audit.Deny}, []uint64{3}},
		{audit.Filter{Effect: audit.Allow}, []uint64{1, 2, 4, 5}},
		{audit.Filter{From: at(2), Until: at(4)}, []uint64{2, 3, 4}},
	} {
		var got []uint64
		for r, err := range audit.Scan(ctx, m.FS(), c.filter) {
			require.NoError(t, err)
			got = append(got, r.Seq)
		}
		assert.Equal(t, c.want, got, "%+v", c.filter)
	}
}

func TestScanStopsAtDamage(t *testing.T) {
	s := newSample(t, nil, 3, "standup")
	data := append([]byte(nil), s.data...)
	data[len(data)/2] ^= 1
	var last error
	for _, err := range audit.Scan(ctx, folder(data), audit.Filter{}) {
		last = err
	}
	assert.ErrorIs(t, last, audit.ErrTampered)
	done, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range audit.Scan(done, folder(s.data), audit.Filter{}) {
		assert.ErrorIs(t, err, context.Canceled)
	}
	_, err := audit.Verify(done, folder(s.data), &audit.VerifyOptions{Key: s.key.VerifierKey()})
	assert.ErrorIs(t, err, context.Canceled)
}
