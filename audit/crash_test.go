package audit_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// What was acknowledged survives a power cut at any moment: the storage here
// forgets what was not synced, but for a random part.
func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range soak(10, 30, 300) {
		key, err := audit.NewKey("audit.test/power")
		require.NoError(t, err)
		var m audittest.Memory
		log, err := audit.New(&m, &audit.Options{Key: key})
		require.NoError(t, err)
		var (
			mu    sync.Mutex
			acked = map[uint64]string{}
			cut   *audittest.Memory
			after = rnd.IntN(60)
			extra = rnd.IntN(3000)
			must  map[uint64]string
			wg    sync.WaitGroup
		)
		for w := range 4 {
			wg.Go(func() {
				for i := range 20 {
					action := fmt.Sprint(w, "-", i)
					c, err := log.Begin(ctx, intent("standup", action))
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					acked[c.Record()] = action
					if len(acked) > after && cut == nil {
						must = map[uint64]string{}
						for k, v := range acked {
							must[k] = v
						}
						cut = m.PowerCut(extra)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		require.NotNil(t, cut)
		rep, err := audit.Verify(ctx, cut.FS(), &audit.VerifyOptions{Key: key.VerifierKey()})
		require.NoError(t, err)
		for seq := range must {
			require.LessOrEqual(t, seq, rep.Records, "an acknowledged record was lost")
		}
		again, err := audit.New(cut, &audit.Options{Key: key})
		require.NoError(t, err)
		found := map[uint64]string{}
		for r, err := range again.Query(ctx, audit.Filter{}) {
			require.NoError(t, err)
			if r.Intent != nil {
				found[r.Seq] = r.Intent.Action
			}
		}
		for seq, action := range must {
			require.Equal(t, action, found[seq])
		}
		require.NoError(t, again.Close())
	}
}

// Every acknowledgement is after a sync of its own bytes.
func TestAcknowledgedMeansSynced(t *testing.T) {
	var m audittest.Memory
	key, err := audit.NewKey("audit.test/sync")
	require.NoError(t, err)
	log, err := audit.New(&m, &audit.Options{Key: key})
	require.NoError(t, err)
	for i := range 5 {
		before := m.Syncs()
		require.NoError(t, log.Append(ctx, denial("a", fmt.Sprint(i))))
		assert.Equal(t, before+1, m.Syncs())
		assert.Equal(t, m.Bytes(), m.PowerCut(0).Bytes())
	}
}

func TestTornTailIsRemovedAndRecorded(t *testing.T) {
	t.Parallel()
	s := newSample(t, nil, 3, "standup")
	lines := s.lines()
	signed := bytes.Join(lines[:5], nil)                   // two records and their checkpoints
	batch := bytes.Join([][]byte{lines[5], lines[6]}, nil) // the third record and its checkpoint
	for n := 0; n <= len(batch); n++ {
		if n > 12 && n%soak(7, 1, 1) != 0 && n < len(batch)-2 && (n < len(lines[5])-2 || n > len(lines[5])+12) {
			continue
		}
		data := append(bytes.Clone(signed), batch[:n]...)
		rep, err := s.verify(data)
		require.NoError(t, err, "a crash after %d bytes", n)
		log, m, err := s.reopen(data)
		require.NoError(t, err)
		require.NoError(t, log.Append(ctx, denial("standup", "goes-on")))
		require.NoError(t, log.Close())
		after, err := s.verify(m.Bytes())
		require.NoError(t, err)

		var gap *audit.Event
		for r, err := range audit.Scan(ctx, m.FS(), audit.Filter{Kind: audit.KindGap}) {
			require.NoError(t, err)
			require.Nil(t, gap, "one gap, once")
			gap = r.Event
		}
		if n == 0 || n == len(batch) {
			assert.Nil(t, gap)
			continue
		}
		require.NotNil(t, gap)
		assert.Equal(t, 6, after.Checkpoints, "3, the gap's, the new record's, the closing one: none before the gap")
		if rep.TornBytes > 0 {
			assert.Equal(t, fmt.Sprint(rep.TornBytes), gap.Detail["torn_bytes"])
		}
		if n >= len(lines[5]) { // the record is whole, its checkpoint is not
			assert.Equal(t, "3", gap.Detail["unsigned_first"])
			assert.Equal(t, "3", gap.Detail["unsigned_last"])
			assert.Equal(t, uint64(5), after.Records) // it, the gap, the new one
		} else {
			assert.Equal(t, uint64(4), after.Records)
		}
	}
}

// A writer can be killed while it opens a closed log.
func TestTornOpening(t *testing.T) {
	s := newSample(t, nil, 1, "standup")
	log, m, err := s.reopen(s.data)
	require.NoError(t, err)
	opening := m.Bytes()[len(s.data):]
	require.NoError(t, log.Close())
	for n := 1; n < len(opening); n++ {
		data := append(bytes.Clone(s.data), opening[:n]...)
		rep, err := s.verify(data, s.anchor)
		require.NoError(t, err, "%d bytes", n)
		assert.Equal(t, int64(n), rep.TornBytes)
		assert.False(t, rep.Closed)
		log, m, err := s.reopen(data)
		require.NoError(t, err)
		require.NoError(t, log.Close())
		_, err = s.verify(m.Bytes(), s.anchor)
		require.NoError(t, err)
	}
}

func TestTornFirstLine(t *testing.T) {
	s := newSample(t, nil, 0, "")
	first := s.lines()[0]
	for n := range len(first) {
		log, m, err := s.reopen(first[:n])
		require.NoError(t, err, "%d bytes", n)
		require.NoError(t, log.Close())
		_, err = s.verify(m.Bytes())
		require.NoError(t, err)
	}
}

// Blocks that never reached the disk read as zeros after a power cut.
func TestUnwrittenBlocksAreTorn(t *testing.T) {
	s := newSample(t, nil, 8, strings.Repeat("standup", 100))
	lines := s.lines()
	signed := len(bytes.Join(lines[:13], nil))
	data := append(bytes.Clone(s.data[:signed]), lines[13]...)
	cut := (signed/512 + 1) * 512
	require.Less(t, cut, len(data), "the last record reaches into another block")
	clear(data[signed:cut])
	rep, err := s.verify(data)
	require.NoError(t, err)
	assert.Equal(t, int64(len(data)-signed), rep.TornBytes)
	log, _, err := s.reopen(data)
	require.NoError(t, err)
	assert.Equal(t, uint64(7), log.Size()) // six, and the gap
	require.NoError(t, log.Close())

	// Before a later batch they are not: it was written after they had been synced.
	data = bytes.Clone(s.data)
	clear(data[1024:1536])
	_, err = s.verify(data)
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, _, err = s.reopen(data)
	assert.ErrorIs(t, err, audit.ErrTampered)

	// Zeros elsewhere are no such thing.
	data = bytes.Clone(s.data[:signed])
	clear(data[signed-600 : signed-500])
	_, err = s.verify(data)
	assert.ErrorIs(t, err, audit.ErrTampered)
}

func TestFailureSticks(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		t.Run(op, func(t *testing.T) {
			var m audittest.Memory
			key, err := audit.NewKey("audit.test/fail")
			require.NoError(t, err)
			log, err := audit.New(&m, &audit.Options{Key: key})
			require.NoError(t, err)
			c, err := log.Begin(ctx, intent("a", "one"))
			require.NoError(t, err)
			failing := true
			calls := 0
			m.FailOn(func(o string) error {
				calls++
				if failing && o == op {
					return syscall.EIO
				}
				return nil
			})
			err = log.Append(ctx, denial("a", "two"))
			assert.ErrorIs(t, err, audit.ErrFailed)
			assert.ErrorIs(t, err, syscall.EIO)
			failing = false // the disk is well again; the log must not believe it
			n := calls
			_, err = log.Begin(ctx, intent("a", "three"))
			assert.ErrorIs(t, err, audit.ErrFailed)
			assert.ErrorIs(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}), audit.ErrFailed)
			assert.ErrorIs(t, log.Append(ctx, denial("a", "four")), audit.ErrFailed)
			assert.ErrorIs(t, log.Close(), audit.ErrFailed)
			assert.Equal(t, n, calls, "nothing was tried again")

			again, err := audit.New(&m, &audit.Options{Key: key})
			require.NoError(t, err)
			require.NoError(t, again.Close())
			rep, err := audit.Verify(ctx, m.FS(), &audit.VerifyOptions{Key: key.VerifierKey()})
			require.NoError(t, err)
			assert.Equal(t, uint64(1), rep.Open[0])
		})
	}
}

func TestFailureWakesEveryWriter(t *testing.T) {
	var m audittest.Memory
	key, err := audit.NewKey("audit.test/fail")
	require.NoError(t, err)
	log, err := audit.New(&m, &audit.Options{Key: key})
	require.NoError(t, err)
	var n int
	m.FailOn(func(op string) error {
		if n++; n > 5 {
			return syscall.ENOSPC
		}
		return nil
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for {
				if err := log.Append(ctx, probe("a", "x")); err != nil {
					assert.ErrorIs(t, err, audit.ErrFailed)
					assert.ErrorIs(t, err, syscall.ENOSPC)
					assert.ErrorContains(t, err, "the disk is full")
					return
				}
			}
		})
	}
	wg.Wait()
	assert.Error(t, log.Close())
}

func TestShortWriteIsAFailure(t *testing.T) {
	key, err := audit.NewKey("audit.test/short")
	require.NoError(t, err)
	st := &shortWriter{}
	log, err := audit.New(st, &audit.Options{Key: key})
	require.NoError(t, err)
	st.short = true
	assert.ErrorIs(t, log.Append(ctx, denial("a", "b")), io.ErrShortWrite)
	assert.ErrorIs(t, log.Close(), audit.ErrFailed)
}

type shortWriter struct {
	audittest.Memory
	short bool
}

func (s *shortWriter) Open(name string) (audit.StorageFile, error) {
	f, err := s.Memory.Open(name)
	return shortFile{f, s}, err
}

type shortFile struct {
	audit.StorageFile
	s *shortWriter
}

func (f shortFile) WriteAt(p []byte, off int64) (int, error) {
	if f.s.short {
		return len(p) - 1, nil
	}
	return f.StorageFile.WriteAt(p, off)
}

func TestTooLargeWritesNothing(t *testing.T) {
	log := audittest.NewLog(t)
	before := log.Storage.Bytes()
	ev := denial("a", "b")
	ev.Detail = map[string]string{"x": strings.Repeat("x", audit.MaxRecord)}
	assert.ErrorIs(t, log.Append(ctx, ev), audit.ErrTooLarge)
	assert.Equal(t, before, log.Storage.Bytes())
	c, err := log.Begin(ctx, intent("a", "b"))
	require.NoError(t, err)
	assert.ErrorIs(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Checks: []string{ev.Detail["x"]}}), audit.ErrTooLarge)
	assert.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}), "a smaller outcome is still welcome")
	ev.Detail["x"] = ev.Detail["x"][:audit.MaxRecord-1000]
	assert.NoError(t, log.Append(ctx, ev))
	assert.Len(t, log.Records(), 3)
}

func TestIntentNeedsActorAndPermission(t *testing.T) {
	log := audittest.NewLog(t)
	in := intent("", "b")
	_, err := log.Begin(ctx, in)
	assert.ErrorIs(t, err, audit.ErrNoActor)
	in = intent("a", "b")
	in.Decision = audit.Decision{}
	_, err = log.Begin(ctx, in)
	assert.ErrorIs(t, err, audit.ErrNotAllowed)
	assert.ErrorIs(t, log.Append(ctx, audit.Event{}), audit.ErrInvalid)
	assert.Empty(t, log.Records())
}

func TestOneWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, nil)
	_, err := audit.Open(dir, nil)
	assert.ErrorIs(t, err, audit.ErrLocked)
	require.NoError(t, log.Close())
	log = openLog(t, dir, nil)
	require.NoError(t, log.Close())
}

func TestBadClock(t *testing.T) {
	key, err := audit.NewKey("audit.test/clock")
	require.NoError(t, err)
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key, Clock: func() time.Time { return now }})
	require.NoError(t, err)
	require.NoError(t, log.Append(ctx, denial("a", "b")))
	now = now.Add(-24 * time.Hour) // set back: order is by number
	c, err := log.Begin(ctx, intent("a", "b"))
	require.NoError(t, err)
	now = now.Add(-time.Hour)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	now = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)
	assert.ErrorIs(t, log.Append(ctx, denial("a", "b")), audit.ErrInvalid)
	require.NoError(t, log.Close())
	rep, err := audit.Verify(ctx, m.FS(), &audit.VerifyOptions{Key: key.VerifierKey()})
	require.NoError(t, err)
	assert.Equal(t, uint64(3), rep.Records)
}
