package audit_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A shelf is a sink that keeps the numbers of what it gets, unless before says no.
type shelf struct {
	before func(ctx context.Context, n int) error // n counts the calls of Send from 1

	mu      sync.Mutex
	calls   int
	got     []uint64
	largest int
}

func (s *shelf) Send(ctx context.Context, records []audit.Record) error {
	s.mu.Lock()
	s.calls++
	n := s.calls
	s.largest = max(s.largest, len(records))
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(ctx, n); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.got = append(s.got, r.Seq)
	}
	return nil
}

func (s *shelf) numbers() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]uint64{}, s.got...)
}

// A knowing shelf knows its position.
type knowing struct{ *shelf }

func (k knowing) Position(context.Context) (uint64, error) {
	if got := k.numbers(); len(got) > 0 {
		return got[len(got)-1], nil
	}
	return 0, nil
}

func upTo(from, to uint64) (all []uint64) {
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}

// sinkLog opens a log in memory with small segments.
func sinkLog(t testing.TB, m *audittest.Memory, key *audit.Key, feeds ...audit.Feed) *audit.Log {
	for i := range feeds {
		feeds[i].Drain = cmp.Or(feeds[i].Drain, time.Minute) // however slow the machine is
	}
	log, err := audit.New(m, &audit.Options{Key: key, SegmentSize: 4096, Sinks: feeds})
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	return log
}

func appendMany(t testing.TB, log audit.Recorder, n int) {
	for i := range n {
		require.NoError(t, log.Append(ctx, denial("a", fmt.Sprint(i))))
	}
}

func sinkKey(t testing.TB) *audit.Key {
	key, err := audit.NewKey("sinks")
	require.NoError(t, err)
	return key
}

// Each sink gets every record once and in order, whatever the others do.
func TestSinksGetEveryRecordInOrder(t *testing.T) {
	first, second := &shelf{}, &shelf{}
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{Sink: first}, audit.Feed{Sink: second, Batch: 3})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				assert.NoError(t, log.Append(ctx, denial("a", fmt.Sprint(w, i))))
			}
		})
	}
	wg.Wait()
	require.NoError(t, log.Close()) // which gives them the rest
	assert.Equal(t, upTo(1, 400), first.got)
	assert.Equal(t, upTo(1, 400), second.got)
	assert.LessOrEqual(t, second.largest, 3)
	for i, s := range log.Sinks() {
		assert.Equal(t, audit.SinkStatus{Name: "*audit_test.shelf", Sent: 400, Ended: true}, s, i)
	}
}

// A sink that stands still costs nobody anything: what it misses stays in the log.
func TestSinkThatStandsStill(t *testing.T) {
	goOn := make(chan struct{})
	still := &shelf{before: func(context.Context, int) error { <-goOn; return nil }}
	other := &shelf{}
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{Name: "still", Sink: still, Batch: 10}, audit.Feed{Sink: other})
	appendMany(t, log, 1000)
	require.Eventually(t, func() bool { return len(other.numbers()) == 1000 }, time.Minute, time.Millisecond)
	assert.Equal(t, audit.SinkStatus{Name: "still", Lag: 1000}, log.Sinks()[0])
	close(goOn)
	require.NoError(t, log.Close())
	assert.Equal(t, upTo(1, 1000), still.got)
	assert.LessOrEqual(t, still.largest, 10)
}

// A sink that fails and panics gets what it refused again. That is reported.
func TestSinkThatFailsAndPanics(t *testing.T) {
	bad := &shelf{before: func(_ context.Context, n int) error {
		switch {
		case n%5 == 0:
			panic("the sink's own fault")
		case n%3 != 0:
			return errors.New("not now")
		}
		return nil
	}}
	var said bytes.Buffer
	log, err := audit.New(new(audittest.Memory), &audit.Options{
		Key: sinkKey(t), Logger: slog.New(slog.NewTextHandler(&said, nil)),
		Sinks: []audit.Feed{{Name: "siem", Sink: bad, Batch: 7, Retry: 1, Drain: time.Minute}},
	})
	require.NoError(t, err)
	appendMany(t, log, 300)
	require.NoError(t, log.Close())
	assert.Equal(t, upTo(1, 300), bad.got)
	s := log.Sinks()[0]
	assert.Zero(t, s.Lag)
	assert.NoError(t, s.Err)
	assert.GreaterOrEqual(t, s.Failures, uint64(2*300/7))
	assert.Contains(t, said.String(), `level=WARN msg="audit: a sink does not take records" sink=siem err="not now" failures=1 sent=0`)
	assert.Contains(t, said.String(), "the sink panicked: the sink's own fault")
	assert.Contains(t, said.String(), `level=INFO msg="audit: a sink takes records again" sink=siem`)
}

func TestSinkStatusTellsTheLastFailure(t *testing.T) {
	down := errors.New("down")
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{
		Sink: &shelf{before: func(context.Context, int) error { return down }}, Retry: 1, Drain: -1})
	appendMany(t, log, 3)
	require.Eventually(t, func() bool { s := log.Sinks()[0]; return s.Failures > 2 && s.Lag == 3 }, time.Minute, time.Millisecond)
	assert.ErrorIs(t, log.Sinks()[0].Err, down)
}

// A sink with a position goes on behind it, after a kill of the host too.
func TestSinkGoesOnFromItsPosition(t *testing.T) {
	key, m := sinkKey(t), new(audittest.Memory)
	file := filepath.Join(t.TempDir(), "position")
	own, kept := &shelf{}, &shelf{}
	var isDown atomic.Bool
	down := func(context.Context, int) error {
		if isDown.Load() {
			return errors.New("down")
		}
		return nil
	}
	own.before, kept.before = down, down
	open := func() *audit.Log {
		return sinkLog(t, m, key,
			audit.Feed{Sink: knowing{own}, Drain: -1, Batch: 16, Retry: 1},
			audit.Feed{Sink: audit.KeepPosition(kept, file), Drain: -1, Batch: 16, Retry: 1})
	}
	total := uint64(0)
	for round := range 4 {
		isDown.Store(round == 1) // all through this life of the host
		log := open()
		appendMany(t, log, 100)
		if round != 1 {
			require.Eventually(t, func() bool {
				s := log.Sinks()
				return s[0].Lag == 0 && s[1].Lag == 0
			}, time.Minute, time.Millisecond)
		}
		total = log.Size()
		if round == 3 {
			m = m.PowerCut(0) // and nobody closes the log
		} else {
			require.NoError(t, log.Close())
		}
	}
	log := open()
	require.Eventually(t, func() bool { s := log.Sinks(); return s[0].Lag == 0 && s[1].Lag == 0 }, time.Minute, time.Millisecond)
	assert.Equal(t, upTo(1, total), own.numbers())
	assert.Equal(t, upTo(1, total), kept.numbers())
}

// Other sinks begin with the opening of the log, and the repair that is part of it.
func TestSinkWithoutPositionBeginsWithTheOpening(t *testing.T) {
	key, m := sinkKey(t), new(audittest.Memory)
	log := sinkLog(t, m, key)
	appendMany(t, log, 50)
	torn := audittest.NewMemory(append(m.Bytes(), `{"seq":51,"ti`...))
	if n := len(m.FS()); n > 1 { // the tail belongs behind the last segment
		dir := m.FS()
		last := dir[audit.SegmentName(n)]
		last.Data = append(bytes.TrimRight(last.Data, "\x00"), `{"seq":51,"ti`...)
		torn = audittest.NewMemoryFS(dir)
	}
	s := &shelf{}
	log = sinkLog(t, torn, key, audit.Feed{Sink: s})
	appendMany(t, log, 5)
	require.NoError(t, log.Close())
	assert.Equal(t, upTo(51, 56), s.got, "the gap is 51")
}

// Only who says so waits for a sink, and outcomes never do.
func TestCallsWaitForASinkThatMustKeepUp(t *testing.T) {
	goOn := make(chan struct{})
	slow := &shelf{before: func(ctx context.Context, _ int) error {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{Name: "siem", Sink: slow, Batch: 1, MustKeepUp: 2})
	in := audit.Intent{Door: audit.DoorTool, Action: "x", Actor: audit.Actor{Agent: "a"}, Decision: audit.Decision{ID: "d", Effect: audit.Allow}}
	call, err := log.Begin(ctx, in)
	require.NoError(t, err)
	appendMany(t, log, 2)
	short, cancel := context.WithCancel(ctx)
	_, err = log.Begin(&patient{Context: short, leave: cancel}, in)
	assert.ErrorIs(t, err, audit.ErrBusy)
	assert.ErrorContains(t, err, "the sink siem is 3 records behind")
	assert.ErrorIs(t, log.Append(short, denial("a", "b")), context.Canceled)
	assert.Equal(t, uint64(3), log.Size())
	require.NoError(t, call.End(ctx, audit.Outcome{Status: audit.StatusOK}))

	waiting := make(chan error)
	go func() { waiting <- log.Append(ctx, denial("a", "c")) }()
	close(goOn)
	require.NoError(t, <-waiting)
	require.NoError(t, log.Close())
	assert.Equal(t, upTo(1, 5), slow.got)
}

// A call that waits for a sink does not outlive the log.
func TestCloseWakesWhoWaitsForASink(t *testing.T) {
	stuck := &shelf{before: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }}
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{Sink: stuck, MustKeepUp: 1, Drain: 1})
	appendMany(t, log, 2)
	waiting := make(chan error)
	go func() { waiting <- log.Append(ctx, denial("a", "c")) }()
	require.NoError(t, log.Close(), "which ends what the sink does")
	assert.ErrorIs(t, <-waiting, audit.ErrClosed)
	assert.Empty(t, stuck.got)
}

// A sink that knows more than the log shows that the log was rolled back.
func TestSinkFindsALogThatWasRolledBack(t *testing.T) {
	ahead := knowing{&shelf{got: upTo(1, 99)}}
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{Sink: ahead, Retry: 1})
	require.Eventually(t, func() bool { return log.Sinks()[0].Ended }, time.Minute, time.Millisecond)
	assert.ErrorIs(t, log.Sinks()[0].Err, audit.ErrTampered)
	appendMany(t, log, 150)
	require.NoError(t, log.Close())
	assert.Equal(t, upTo(1, 99), ahead.got)
}

// What was acknowledged reaches the sink, also when the log fails then.
func TestSinkOfAFailedLog(t *testing.T) {
	m, s := new(audittest.Memory), &shelf{}
	log := sinkLog(t, m, sinkKey(t), audit.Feed{Sink: s})
	appendMany(t, log, 20)
	m.FailOn(func(op string) error { return errors.New("power") })
	require.ErrorIs(t, log.Append(ctx, denial("a", "b")), audit.ErrFailed)
	require.Eventually(t, func() bool { return log.Sinks()[0].Ended }, time.Minute, time.Millisecond)
	assert.Equal(t, upTo(1, 20), s.numbers())
	assert.ErrorIs(t, log.Sinks()[0].Err, audit.ErrFailed)
	assert.Error(t, log.Close())
}

func TestFeedNeedsASink(t *testing.T) {
	_, err := audit.New(new(audittest.Memory), &audit.Options{Key: sinkKey(t), Sinks: []audit.Feed{{Name: "x"}}})
	assert.ErrorIs(t, err, audit.ErrInvalid)
	assert.Empty(t, (*audit.Log)(nil).Sinks())
}

func TestKeptPositionThatCannotBeRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "position")
	require.NoError(t, os.WriteFile(file, []byte("many"), 0o600))
	s := &shelf{}
	log := sinkLog(t, new(audittest.Memory), sinkKey(t), audit.Feed{Sink: audit.KeepPosition(s, file), Retry: 1, Drain: -1})
	appendMany(t, log, 1)
	require.Eventually(t, func() bool { return log.Sinks()[0].Err != nil }, time.Minute, time.Millisecond)
	assert.ErrorContains(t, log.Sinks()[0].Err, "does not hold the number of a record")
	require.NoError(t, log.Close())
	assert.Empty(t, s.got)
}

// A reading storage counts which segments are read.
type reading struct {
	*audittest.Memory
	mu   sync.Mutex
	read map[string]int
}

func (r *reading) Read(name string) (audit.StorageReader, error) {
	r.mu.Lock()
	r.read[name]++
	r.mu.Unlock()
	return r.Memory.Read(name)
}

// Following from a late record reads the segment that holds it, not the whole log.
func TestFollowBeginsAtTheSegmentOfTheRecord(t *testing.T) {
	st := &reading{Memory: new(audittest.Memory), read: map[string]int{}}
	log, err := audit.New(st, &audit.Options{Key: sinkKey(t), SegmentSize: 4096})
	require.NoError(t, err)
	appendMany(t, log, 2000)
	segments := len(st.FS())
	require.Greater(t, segments, 100)
	for _, from := range []uint64{0, 1, 2, 777, 1999, 2000} {
		st.read = map[string]int{}
		end, cancel := context.WithCancel(ctx)
		want := max(from, 1)
		for r, err := range log.Follow(end, from) {
			require.NoError(t, err)
			require.Equal(t, want, r.Seq)
			if want++; want > max(from, 1)+3 || want > 2000 {
				break
			}
		}
		cancel()
		assert.LessOrEqual(t, len(st.read), 12, "from %d: %v", from, st.read)
	}
	require.NoError(t, log.Close())
}

// patient is a context that ends once somebody waits for its end.
type patient struct {
	context.Context
	leave context.CancelFunc
}

func (p *patient) Done() <-chan struct{} {
	p.leave()
	return p.Context.Done()
}
