package audit_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A stalled is a log whose syncs wait, once told to.
type stalled struct {
	*audit.Log
	m       *audittest.Memory
	key     string
	arrived chan struct{} // a sync has begun
	release chan struct{} // lets one sync go
}

func newStalled(t *testing.T) *stalled {
	t.Helper()
	key, err := audit.NewKey("audit.test/stalled")
	require.NoError(t, err)
	s := &stalled{m: new(audittest.Memory), key: key.VerifierKey(), arrived: make(chan struct{}), release: make(chan struct{})}
	st := &stallingStorage{Memory: s.m}
	s.Log, err = audit.New(st, &audit.Options{Key: key})
	require.NoError(t, err)
	st.stall(s)
	return s
}

type stallingStorage struct {
	*audittest.Memory
	mu sync.Mutex
	s  *stalled
}

// stall makes all syncs wait from now on.
func (st *stallingStorage) stall(s *stalled) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.s = s
}

func (st *stallingStorage) Open(name string) (audit.StorageFile, error) {
	f, err := st.Memory.Open(name)
	return stallingFile{f, st}, err
}

type stallingFile struct {
	audit.StorageFile
	st *stallingStorage
}

func (f stallingFile) Sync() error {
	f.st.mu.Lock()
	s := f.st.s
	f.st.mu.Unlock()
	if s != nil {
		s.arrived <- struct{}{}
		<-s.release
	}
	return f.StorageFile.Sync()
}

// let lets n syncs go.
func (s *stalled) let(n int) {
	for range n {
		<-s.arrived
		s.release <- struct{}{}
	}
}

// Who finds the line full waits until it moves, not until the disk has it.
func TestFullLineMoves(t *testing.T) {
	key := must(audit.NewKey("audit.test/full"))
	s := &stalled{m: new(audittest.Memory), key: key.VerifierKey(), arrived: make(chan struct{}), release: make(chan struct{})}
	st := &stallingStorage{Memory: s.m}
	s.Log = must(audit.New(st, &audit.Options{Key: key, Queue: 2}))
	st.stall(s)
	done := make(chan error, 4)
	write := func() { done <- s.Append(ctx, probe("a", "b")) }
	go write()
	<-s.arrived // the first is on its way
	for range 2 {
		go write()
	}
	for s.Pending() < 2 {
		runtime.Gosched()
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	assert.ErrorIs(t, s.Append(short, probe("a", "b")), context.Canceled)
	go write()
	s.release <- struct{}{}
	<-s.arrived // the next two are on their way
	deadline := time.Now().Add(10 * time.Second)
	for s.Pending() < 1 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	assert.Equal(t, 1, s.Pending(), "the fourth is in line")
	s.release <- struct{}{}
	s.let(1)
	for range 4 {
		assert.NoError(t, <-done)
	}
	st.stall(nil)
	require.NoError(t, s.Close())
}

func TestEndIsRecordedAfterCancel(t *testing.T) {
	log := audittest.NewLog(t)
	c, err := log.Begin(ctx, intent("a", "b"))
	require.NoError(t, err)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.NoError(t, c.End(gone, audit.Outcome{Status: audit.StatusCancelled}))
	require.Len(t, log.Records(), 2)
	_, err = log.Begin(gone, intent("a", "b"))
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, log.Append(gone, denial("a", "b")), context.Canceled)
	assert.Len(t, log.Records(), 2)
}

func TestEndOnceAmongMany(t *testing.T) {
	log := audittest.NewLog(t)
	c, err := log.Begin(ctx, intent("a", "b"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for range cap(errs) {
		wg.Go(func() { errs <- c.End(ctx, audit.Outcome{Status: audit.StatusOK}) })
	}
	wg.Wait()
	close(errs)
	ok := 0
	for err := range errs {
		if err == nil {
			ok++
		} else {
			assert.ErrorIs(t, err, audit.ErrEnded)
		}
	}
	assert.Equal(t, 1, ok)
	assert.Len(t, log.Records(), 2)
}

// A caller whose context ends while the disk stalls gets away, and what it
// began is closed on record: no act follows, no open call stays.
func TestBeginGivesUpWhenTheDiskStalls(t *testing.T) {
	log := newStalled(t)
	first := make(chan error)
	go func() { first <- log.Append(ctx, denial("a", "leader")) }()
	<-log.arrived // the leader is in its sync
	gone, cancel := context.WithCancel(ctx)
	second := make(chan error)
	go func() {
		_, err := log.Begin(gone, intent("a", "gives up"))
		second <- err
	}()
	for log.Pending() < 1 {
		runtime.Gosched()
	}
	cancel()
	require.ErrorIs(t, <-second, context.Canceled)
	log.release <- struct{}{}
	require.NoError(t, <-first)
	closed := make(chan error)
	go func() { closed <- log.Close() }()
	recs := log.drain(t, closed)
	intents := 0
	for _, r := range recs {
		if r.Intent != nil {
			intents++
		}
	}
	open, err := audit.OpenCalls(audit.Scan(ctx, log.m.FS(), audit.Filter{}))
	require.NoError(t, err)
	assert.Empty(t, open)
	assert.Equal(t, 1, intents)
}

// drain lets all syncs go until the log is closed, and returns its records.
func (s *stalled) drain(t *testing.T, closed chan error) []audit.Record {
	t.Helper()
	for {
		select {
		case <-s.arrived:
			s.release <- struct{}{}
			continue
		case err := <-closed:
			require.NoError(t, err)
		}
		break
	}
	_, err := audit.Verify(ctx, s.m.FS(), &audit.VerifyOptions{Key: s.key})
	require.NoError(t, err)
	var all []audit.Record
	for r, err := range audit.Scan(ctx, s.m.FS(), audit.Filter{}) {
		require.NoError(t, err)
		all = append(all, r)
	}
	return all
}

// Writers that arrive during a sync share the next one.
func TestGroupCommit(t *testing.T) {
	log := newStalled(t)
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, log.Append(ctx, denial("a", "leader"))) })
	<-log.arrived
	const others = 50
	for range others {
		wg.Go(func() { assert.NoError(t, log.Append(ctx, denial("a", "other"))) })
	}
	for log.Pending() < others {
		runtime.Gosched() // until all are in line: each needs only the processor
	}
	before := log.m.Syncs()
	log.release <- struct{}{}
	log.let(1)
	wg.Wait()
	assert.Equal(t, before+2, log.m.Syncs(), "the leader's and one for all others")
	closed := make(chan error)
	go func() { closed <- log.Close() }()
	assert.Len(t, log.drain(t, closed), others+1)
}

// Close waits for those who are being served, and takes what waits with it.
func TestCloseWhileWriting(t *testing.T) {
	log := newStalled(t)
	errs := make(chan error, 2)
	go func() { errs <- log.Append(ctx, denial("a", "first")) }()
	<-log.arrived
	go func() { errs <- log.Append(ctx, denial("a", "second")) }()
	for log.Pending() < 1 {
		runtime.Gosched()
	}
	closed := make(chan error)
	go func() { closed <- log.Close() }()
	log.release <- struct{}{}
	assert.Len(t, log.drain(t, closed), 2)
	assert.NoError(t, <-errs)
	assert.NoError(t, <-errs)
}

// What waits for a stalled disk is bounded: writers beyond that wait outside,
// and can leave.
func TestWaitingBytesAreBounded(t *testing.T) {
	log := newStalled(t)
	const writers = 300
	large := probe("a", strings.Repeat("x", 1<<15))
	errs := make(chan error, writers)
	go func() { errs <- log.Append(ctx, large) }()
	<-log.arrived // the leader, alone
	for range writers - 1 {
		go func() { errs <- log.Append(ctx, large) }()
	}
	for log.Pending() < 200 {
		runtime.Gosched()
	}
	gone, cancel := context.WithCancel(ctx)
	left := make(chan error)
	go func() { left <- log.Append(gone, large) }()
	cancel()
	assert.ErrorIs(t, <-left, context.Canceled)
	assert.LessOrEqual(t, log.Pending(), audit.MaxBatch/(1<<15))
	log.release <- struct{}{}
	closed := make(chan error)
	go func() {
		for range writers {
			assert.NoError(t, <-errs)
		}
		closed <- log.Close()
	}()
	assert.Len(t, log.drain(t, closed), writers)
}

// waitedFor is a context that tells when somebody waits for its end.
type waitedFor struct {
	context.Context
	asked chan struct{}
}

func (w waitedFor) Done() <-chan struct{} {
	w.asked <- struct{}{}
	return w.Context.Done()
}

// While the record of a flood waits for a slow disk, other denials still go by
// their own context.
func TestDenialsGiveUpWhileAFloodWaits(t *testing.T) {
	key := must(audit.NewKey("audit.test/stalled"))
	s := &stalled{m: new(audittest.Memory), key: key.VerifierKey(), arrived: make(chan struct{}), release: make(chan struct{})}
	st := &stallingStorage{Memory: s.m}
	s.Log = must(audit.New(st, &audit.Options{Key: key, Queue: 1}))
	for range 100 {
		require.NoError(t, s.Append(ctx, denial("s", "x")))
	}
	st.stall(s)
	errs := make(chan error, 3)
	go func() { errs <- s.Append(ctx, probe("s", "a")) }()
	<-s.arrived
	go func() { errs <- s.Append(ctx, probe("s", "b")) }()
	for s.Pending() < 1 {
		runtime.Gosched()
	}
	go func() { errs <- s.Append(ctx, denial("s", "x")) }() // its line is full
	for !s.FloodsLocked() {
		runtime.Gosched()
	}
	gone, cancel := context.WithCancel(ctx)
	left := make(chan error)
	waits := waitedFor{gone, make(chan struct{}, 10)}
	go func() { left <- s.Append(waits, denial("other", "y")) }()
	<-waits.asked
	cancel()
	assert.ErrorIs(t, <-left, context.Canceled)
	s.release <- struct{}{}
	closed := make(chan error)
	go func() {
		for range 3 {
			assert.NoError(t, <-errs)
		}
		closed <- s.Close()
	}()
	assert.Len(t, s.drain(t, closed), 104)
}

// A denial whose count would not fit into a record is a record of its own.
func TestFloodCountFits(t *testing.T) {
	t.Parallel()
	for over := 240; over < 264; over += 4 { // where the marker of a flood fits, and its count may not
		log := audittest.NewLog(t)
		ev := denial("s", "x")
		ev.Resource = strings.Repeat("r", audit.MaxRecord-over)
		n := 0
		for n < 103 && log.Append(ctx, ev) == nil {
			n++
		}
		require.NoError(t, log.Close())
		total := uint64(0)
		for _, ev := range log.Denials() {
			total += ev.Count()
		}
		assert.Equal(t, uint64(n), total, over)
	}
}

// A denial that could not be written is no record of its own.
func TestFloodCountsOnlyWhatIsOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	log.Storage.SetFree(1 << 20)
	require.NoError(t, log.Append(ctx, probe("s", "x"))) // it is asked with each batch
	for range 100 {
		require.ErrorIs(t, log.Append(ctx, denial("s", "x")), audit.ErrFull)
	}
	log.Storage.SetFree(1 << 40)
	for range 5 {
		require.NoError(t, log.Append(ctx, denial("s", "x")))
	}
	require.NoError(t, log.Close())
	assert.Len(t, log.Denials(), 5)
}

// What is kept to count like denials does not grow with their texts.
func TestFloodMemory(t *testing.T) {
	log := audittest.NewLog(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	long := strings.Repeat("x", 1<<20)
	for i := range 50 {
		require.ErrorIs(t, log.Append(ctx, denial("s", fmt.Sprint(i, long))), audit.ErrTooLarge)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(20<<20))
}
