package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

var change = audit.Change{By: "ops", Reason: "OPS-7"}

func TestRotate(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	opts := &audit.Options{Origin: "audit.test/rotate", SegmentSize: 3000}
	log := openLog(t, dir, opts)
	var keys []string
	var anchors []string
	for i := range 4 {
		keys = append(keys, log.VerifierKey())
		for j := range 5 {
			require.NoError(t, log.Append(ctx, denial("a", fmt.Sprint(i, "-", j))))
		}
		cp, err := log.Checkpoint(ctx)
		require.NoError(t, err)
		anchors = append(anchors, string(cp.Text))
		if i == 2 { // also over a restart
			require.NoError(t, log.Close())
			log = openLog(t, dir, opts)
		}
		if i < 3 {
			next := must(audit.NewKey("audit.test/rotate"))
			require.NoError(t, log.Rotate(ctx, next, change))
			assert.Equal(t, next.VerifierKey(), log.VerifierKey())
		}
	}
	require.NoError(t, log.Close())
	log = openLog(t, dir, opts)
	require.NoError(t, log.Close())
	for _, key := range keys { // any of them will do
		rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key, Anchors: anchors})
		require.NoError(t, err)
		assert.Equal(t, uint64(23), rep.Records)
		assert.Equal(t, rep.Records, rep.Signed)
		assert.Equal(t, uint64(23), rep.Anchored)
	}
	rotations := collect(t, dir, audit.Filter{Kind: audit.KindKey})
	require.Len(t, rotations, 3)
	assert.Equal(t, keys[1], rotations[0].Event.Detail["new"])
	assert.Equal(t, "ops", rotations[0].Event.Change.By)

	stranger := must(audit.NewKey("audit.test/rotate"))
	_, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: stranger.VerifierKey()})
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Keys: []string{stranger.VerifierKey(), keys[3]}})
	assert.NoError(t, err)
	other := newSample(t, stranger, 1, "a")
	_, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: keys[0], Anchors: []string{other.anchor}})
	assert.ErrorIs(t, err, audit.ErrTampered)

	// Only one who has the newest key may go on.
	text := string(must(os.ReadFile(dir + ".key")))
	require.NoError(t, os.WriteFile(dir+".key", []byte(text[:len(text)-len(lastLine(text))]), 0o600))
	log = openLog(t, dir, opts)
	require.NoError(t, log.Close())
	require.NoError(t, os.WriteFile(dir+".key", []byte(firstLine(text)+lastLine(text)), 0o600))
	_, err = audit.Open(dir, opts)
	assert.Error(t, err)
}

func firstLine(s string) string { return s[:indexAfter(s, 1)] }
func lastLine(s string) string {
	i := len(s) - 1
	for i > 0 && s[i-1] != '\n' {
		i--
	}
	return s[i:]
}
func indexAfter(s string, lines int) int {
	for i := range s {
		if s[i] == '\n' {
			if lines--; lines == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

func TestRotateRefuses(t *testing.T) {
	log := audittest.NewLog(t)
	next := must(audit.NewKey("audittest"))
	assert.ErrorIs(t, log.Rotate(ctx, next, audit.Change{}), audit.ErrNoAuthority)
	assert.ErrorIs(t, log.Rotate(ctx, nil, change), audit.ErrKey)
	assert.ErrorIs(t, log.Rotate(ctx, must(audit.NewKey("elsewhere")), change), audit.ErrKey)
	require.NoError(t, log.Rotate(ctx, next, change))
	assert.ErrorIs(t, log.Rotate(ctx, next, change), audit.ErrKey)
	// Nobody else gets a rotation on record.
	ev := audit.Event{Kind: audit.KindKey, Detail: map[string]string{"old": log.VerifierKey(), "new": log.VerifierKey()}}
	assert.ErrorIs(t, log.Append(ctx, ev), audit.ErrInvalid)
	assert.ErrorIs(t, (*audit.Log)(nil).Rotate(ctx, next, change), audit.ErrNoLog)
}

// A power cut in the middle of a rotation leaves a log that one of the two keys
// continues, and that verifies with the first.
func TestRotateAndCrash(t *testing.T) {
	old, next := must(audit.NewKey("audit.test/rotate")), must(audit.NewKey("audit.test/rotate"))
	for cut := 0; ; cut += 23 {
		var m audittest.Memory
		log, err := audit.New(&m, &audit.Options{Key: old})
		require.NoError(t, err)
		require.NoError(t, log.Append(ctx, denial("a", "b")))
		m.FailOn(func(op string) error {
			if op == "sync" {
				return syscall.EIO
			}
			return nil
		})
		assert.ErrorIs(t, log.Rotate(ctx, next, change), audit.ErrFailed)
		left := m.PowerCut(cut)
		before := len(left.Bytes())
		log, err = audit.New(left, &audit.Options{Key: next, OldKeys: []*audit.Key{old}})
		require.NoError(t, err, "after %d bytes", cut)
		require.NoError(t, log.Append(ctx, denial("a", "c")))
		require.NoError(t, log.Close())
		rep, err := audit.Verify(ctx, left.FS(), &audit.VerifyOptions{Key: old.VerifierKey()})
		require.NoError(t, err, "after %d bytes", cut)
		assert.Equal(t, rep.Records, rep.Signed)
		if before == len(m.Bytes()) {
			assert.Equal(t, next.VerifierKey(), log.VerifierKey())
			break
		}
	}
}

// StrictIntent waits for intents, not for outcomes; BestEffort for neither. Close
// waits for all, and the softer mode is on record.
func TestSofterModes(t *testing.T) {
	for _, mode := range []audit.Mode{audit.StrictIntent, audit.BestEffort} {
		t.Run(mode.String(), func(t *testing.T) {
			key := must(audit.NewKey("audit.test/modes"))
			var m audittest.Memory
			st := &stallingStorage{Memory: &m}
			log, err := audit.New(st, &audit.Options{Key: key, Mode: mode})
			require.NoError(t, err)
			c, err := log.Begin(ctx, intent("a", "one"))
			require.NoError(t, err)
			s := &stalled{Log: log, m: &m, key: key.VerifierKey(), arrived: make(chan struct{}), release: make(chan struct{})}
			if mode == audit.BestEffort { // its record may still be on the way
				for log.Size() < 2 {
					runtime.Gosched()
				}
			}
			st.stall(s)
			require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}), "it does not wait for the sync")
			<-s.arrived
			if mode == audit.BestEffort {
				require.NoError(t, log.Append(ctx, probe("a", "two")))
				_, err := log.Begin(ctx, intent("a", "three"))
				require.NoError(t, err)
			} else {
				gone, cancel := context.WithCancel(ctx)
				cancel()
				assert.Error(t, log.Append(gone, probe("a", "two")))
			}
			s.release <- struct{}{}
			closed := make(chan error)
			go func() { closed <- log.Close() }()
			recs := s.drain(t, closed)
			require.Equal(t, audit.KindConfig, recs[0].Event.Kind)
			assert.Equal(t, mode.String(), recs[0].Event.Detail["mode"])
			assert.Len(t, recs, map[audit.Mode]int{audit.StrictIntent: 3, audit.BestEffort: 5}[mode])
		})
	}
}

// Also a softer log refuses once the disk has failed.
func TestSofterModesRefuseAfterFailure(t *testing.T) {
	for _, mode := range []audit.Mode{audit.StrictIntent, audit.BestEffort} {
		var m audittest.Memory
		log, err := audit.New(&m, &audit.Options{Key: must(audit.NewKey("audit.test/modes")), Mode: mode})
		require.NoError(t, err)
		c, err := log.Begin(ctx, intent("a", "one"))
		require.NoError(t, err)
		m.FailOn(func(string) error { return syscall.EIO })
		_ = c.End(ctx, audit.Outcome{Status: audit.StatusOK})
		for err == nil { // until the failure is known
			_, err = log.Begin(ctx, intent("a", "two"))
		}
		assert.ErrorIs(t, err, audit.ErrFailed)
		assert.ErrorIs(t, log.Close(), audit.ErrFailed)
	}
}

// The line is bounded: who does not get into it in time is refused, typed.
func TestQueueIsBounded(t *testing.T) {
	key := must(audit.NewKey("audit.test/queue"))
	var m audittest.Memory
	st := &stallingStorage{Memory: &m}
	log, err := audit.New(st, &audit.Options{Key: key, Queue: 3})
	require.NoError(t, err)
	s := &stalled{Log: log, m: &m, key: key.VerifierKey(), arrived: make(chan struct{}), release: make(chan struct{})}
	st.stall(s)
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, log.Append(ctx, probe("a", "leader"))) })
	<-s.arrived // the leader, alone
	for i := range 9 {
		wg.Go(func() { assert.NoError(t, log.Append(ctx, probe("a", fmt.Sprint(i)))) })
	}
	for log.Pending() < 3 {
		runtime.Gosched()
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err = log.Begin(short, intent("a", "late"))
	assert.ErrorIs(t, err, audit.ErrBusy)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, 3, log.Pending())
	s.release <- struct{}{}
	closed := make(chan error)
	go func() { wg.Wait(); closed <- log.Close() }()
	assert.Len(t, s.drain(t, closed), 10)
}

// With little space left, what is under way can still end.
func TestReserve(t *testing.T) {
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: must(audit.NewKey("audit.test/full")), Reserve: 1000})
	require.NoError(t, err)
	c, err := log.Begin(ctx, intent("a", "one"))
	require.NoError(t, err)
	m.SetFree(999)
	require.NoError(t, log.Append(ctx, probe("a", "events may use half")))
	_, err = log.Begin(ctx, intent("a", "two"))
	assert.ErrorIs(t, err, audit.ErrFull)
	m.SetFree(400)
	require.NoError(t, log.Append(ctx, probe("a", "it learns with the next batch")))
	assert.ErrorIs(t, log.Append(ctx, probe("a", "three")), audit.ErrFull)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	m.SetFree(2000)
	_, err = log.Begin(ctx, intent("a", "space was made"))
	require.NoError(t, err)
	require.NoError(t, log.Close())
}

// A flood of like denials: 100 records, one that says the rest is counted, and
// the count.
func TestFlood(t *testing.T) {
	key := must(audit.NewKey("audit.test/flood"))
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				ev := denial("flooder", "x")
				ev.Args = fmt.Append(nil, `{"i":`, i, `}`)
				assert.NoError(t, log.Append(ctx, ev))
				assert.NoError(t, log.Append(ctx, denial("flooder", fmt.Sprint("different", w, i))))
			}
		})
	}
	wg.Wait()
	syncs := m.Syncs()
	require.NoError(t, log.Append(ctx, denial("flooder", "x")))
	assert.Equal(t, syncs, m.Syncs(), "only counted")
	require.NoError(t, log.Append(ctx, denial("another", "x")))
	assert.Equal(t, syncs+1, m.Syncs())

	cut := m.PowerCut(0) // now
	rep, err := audit.Verify(ctx, cut.FS(), &audit.VerifyOptions{Key: key.VerifierKey()})
	require.NoError(t, err)
	assert.Len(t, rep.Uncounted, 1)
	assert.Contains(t, fmt.Sprint(rep.Caveats), "is not known")

	log.EndMinute()
	require.NoError(t, log.Append(ctx, denial("flooder", "x"))) // a new minute
	require.NoError(t, log.Close())
	rep, err = audit.Verify(ctx, m.FS(), &audit.VerifyOptions{Key: key.VerifierKey()})
	require.NoError(t, err)
	assert.Empty(t, rep.Uncounted)
	total, full, counts, floods := uint64(0), 0, 0, 0
	var flood uint64
	for r, err := range audit.Scan(ctx, m.FS(), audit.Filter{Agent: "flooder"}) {
		require.NoError(t, err)
		switch {
		case r.Event.Kind == audit.KindFlood:
			floods++
			flood = r.Seq
		case r.Event.Action != "x":
		default:
			total += r.Event.Count()
			if r.Event.Detail["repeated"] == "" {
				full++
			} else {
				counts++
				assert.Equal(t, "301", r.Event.Detail["repeated"])
				assert.Equal(t, fmt.Sprint(flood), r.Event.Detail["since"])
				assert.Equal(t, "no-permit", r.Event.Decision.Reason)
			}
		}
	}
	assert.Equal(t, uint64(402), total, "every one is accounted for")
	assert.Equal(t, []int{101, 1, 1}, []int{full, counts, floods})
}

// The count is of the denials as they were, whatever their callers make of what they
// gave.
func TestFloodIsCountedAsItWas(t *testing.T) {
	log := audittest.NewLog(t)
	ev := denial("a", "x")
	ev.Detail = map[string]string{"port": "443"}
	for range 105 {
		require.NoError(t, log.Append(ctx, ev))
	}
	reason := ev.Decision.Reason
	ev.Detail["port"], ev.Decision.Reason = "another", "another"
	require.NoError(t, log.Close())
	all := log.Records()
	counted := all[len(all)-1].Event
	assert.Equal(t, "5", counted.Detail["repeated"])
	assert.Equal(t, "443", counted.Detail["port"])
	assert.Equal(t, reason, counted.Decision.Reason)
}

// Close writes the counts down.
func TestFloodAndClose(t *testing.T) {
	log := audittest.NewLog(t)
	for range 150 {
		require.NoError(t, log.Append(ctx, denial("flooder", "x")))
	}
	require.NoError(t, log.Close())
	total := uint64(0)
	for _, ev := range log.Denials() {
		total += ev.Count()
	}
	assert.Equal(t, uint64(150), total)
}

// A denial is not counted unless the record that says so is durable.
func TestFloodNeedsItsMarker(t *testing.T) {
	log := audittest.NewLog(t)
	for range 100 {
		require.NoError(t, log.Append(ctx, denial("flooder", "x")))
	}
	log.Storage.FailOn(func(op string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	for range 3 {
		assert.ErrorIs(t, log.Append(ctx, denial("flooder", "x")), audit.ErrFailed)
	}
}
