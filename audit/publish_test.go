package audit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A toldAnchor remembers what it was told, and fails or waits as asked.
type toldAnchor struct {
	t   testing.TB
	key string

	mu    sync.Mutex
	sizes []uint64
	fail  func() error
}

func (a *toldAnchor) Publish(ctx context.Context, text []byte) error {
	a.mu.Lock()
	fail := a.fail
	a.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return err
		}
	}
	cp, err := audit.ParseCheckpoint(text, a.key)
	require.NoError(a.t, err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sizes = append(a.sizes, cp.Size)
	return ctx.Err()
}

func (a *toldAnchor) told() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]uint64{}, a.sizes...)
}

func (a *toldAnchor) failWith(f func() error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = f
}

func anchoredLog(t testing.TB, opts audit.Options) (*audit.Log, *toldAnchor) {
	t.Helper()
	opts.Key = must(audit.NewKey("audit.test/told"))
	a := &toldAnchor{t: t, key: opts.Key.VerifierKey()}
	opts.Anchors = []audit.Anchor{a}
	return must(audit.New(new(audittest.Memory), &opts)), a
}

// A host's function that panics ends neither the process nor the anchoring, and is
// reported.
func TestOnAnchorPanics(t *testing.T) {
	var said bytes.Buffer
	log, a := anchoredLog(t, audit.Options{AnchorEvery: -1, AnchorRecords: -1, OnAnchor: func(audit.AnchorState) { panic("host") }, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	appendN(t, log, 3)
	_, err := log.Checkpoint(ctx)
	assert.ErrorIs(t, err, audit.ErrAnchor)
	assert.ErrorContains(t, err, "OnAnchor panicked: host")
	assert.Contains(t, said.String(), "OnAnchor panicked")
	assert.EqualValues(t, 3, log.AnchorStates()[0].Records)
	assert.NoError(t, log.AnchorStates()[0].Err)
	assert.NotEmpty(t, a)
	assert.ErrorIs(t, log.Close(), audit.ErrAnchor)
}

func appendN(t testing.TB, log *audit.Log, n int) {
	t.Helper()
	for range n {
		require.NoError(t, log.Append(ctx, probe("s", "x")))
	}
}

// An anchor is told some time after a record, at once after many, and by Close;
// an idle log tells it nothing.
func TestAnchorSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
		log, a := anchoredLog(t, audit.Options{AnchorEvery: time.Minute, AnchorRecords: 5, Clock: func() time.Time { return now }})
		synctest.Wait()
		assert.Empty(t, a.told())
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []uint64{0}, a.told(), "the opening's checkpoint")

		appendN(t, log, 2)
		now = now.Add(-24 * time.Hour) // a clock that is set back holds up nothing
		time.Sleep(59 * time.Second)
		synctest.Wait()
		assert.Equal(t, []uint64{0}, a.told())
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, []uint64{0, 2}, a.told())
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, []uint64{0, 2}, a.told(), "nothing new")

		appendN(t, log, 4)
		synctest.Wait()
		assert.Equal(t, []uint64{0, 2}, a.told())
		appendN(t, log, 1)
		synctest.Wait()
		assert.Equal(t, []uint64{0, 2, 7}, a.told(), "at once after five")
		state := log.AnchorStates()
		require.Len(t, state, 1)
		assert.Equal(t, audit.AnchorState{Anchor: a, Records: 7, Published: now}, state[0])

		appendN(t, log, 1)
		assert.EqualValues(t, 1, log.AnchorStates()[0].Behind)
		require.NoError(t, log.Close())
		assert.Equal(t, []uint64{0, 2, 7, 8}, a.told())
	})
}

// An anchor that fails, panics or hangs blocks nobody, is tried again in due time
// and is reported.
func TestAnchorFailsAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []audit.AnchorState
		log, a := anchoredLog(t, audit.Options{AnchorEvery: time.Minute, AnchorRecords: 5, OnAnchor: func(s audit.AnchorState) { reports = append(reports, s) }})
		down := errors.New("no route")
		a.failWith(func() error { return down })
		appendN(t, log, 12)
		synctest.Wait()
		require.NotEmpty(t, reports)
		assert.Less(t, len(reports), 6, "not at every record")
		assert.ErrorIs(t, log.AnchorStates()[0].Err, down)
		assert.ErrorIs(t, log.AnchorStates()[0].Err, audit.ErrAnchor)
		assert.EqualValues(t, 12, log.AnchorStates()[0].Behind)
		a.failWith(func() error { panic("oh") })
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.ErrorContains(t, log.AnchorStates()[0].Err, "oh")
		a.failWith(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []uint64{12}, a.told())
		assert.NoError(t, log.AnchorStates()[0].Err)

		hang := make(chan struct{})
		a.failWith(func() error { <-hang; return nil })
		appendN(t, log, 50)
		assert.EqualValues(t, 62, log.Size())
		close(hang)
		synctest.Wait()
		a.failWith(func() error { return down })
		assert.ErrorIs(t, log.Close(), down)
	})
}

// Only who asks for it waits for the anchor, and is refused when it is down.
func TestAwaitAnchors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, a := anchoredLog(t, audit.Options{AwaitAnchors: true})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				call, err := log.Begin(ctx, intent("standup", "x"))
				require.NoError(t, err)
				told := a.told()
				assert.GreaterOrEqual(t, told[len(told)-1], call.Record())
				require.NoError(t, call.End(ctx, audit.Outcome{Status: audit.StatusOK}))
			})
		}
		wg.Wait()
		told := a.told()
		assert.EqualValues(t, 40, told[len(told)-1])
		assert.Less(t, len(told), 40, "shared by those who wait")

		running, err := log.Begin(ctx, intent("standup", "x"))
		require.NoError(t, err)
		a.failWith(func() error { return errors.New("no route") })
		_, err = log.Begin(ctx, intent("standup", "x"))
		assert.ErrorIs(t, err, audit.ErrAnchor)
		assert.ErrorIs(t, log.Append(ctx, probe("s", "x")), audit.ErrAnchor)
		assert.ErrorIs(t, running.End(ctx, audit.Outcome{Status: audit.StatusOK}), audit.ErrAnchor)
		open, err := audit.OpenCalls(log.Query(ctx, audit.Filter{}))
		require.NoError(t, err)
		assert.Empty(t, open, "what was refused is on record as not begun, what was done as done")

		hang := make(chan struct{})
		a.failWith(func() error { <-hang; return nil })
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = log.Begin(short, intent("standup", "x"))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		close(hang)
		a.failWith(nil)
		_, err = log.Begin(ctx, intent("standup", "x"))
		assert.NoError(t, err, "it is back")
		require.NoError(t, log.Close())
	})
}

// Whoever waits for the anchor when the log is closed gets an answer.
func TestCloseWhileAwaiting(t *testing.T) {
	for _, down := range []error{nil, errors.New("no route")} {
		synctest.Test(t, func(t *testing.T) {
			log, a := anchoredLog(t, audit.Options{AwaitAnchors: true})
			a.failWith(func() error { time.Sleep(time.Second); return down })
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := log.Append(ctx, probe("s", "x")); down != nil {
						assert.Error(t, err)
					}
				})
			}
			time.Sleep(time.Millisecond)
			if down != nil {
				assert.ErrorIs(t, log.Close(), down)
			} else {
				assert.NoError(t, log.Close())
			}
			wg.Wait()
		})
	}
}

// Who owns the log and can change the anchor, wherever it is, has no anchor.
func TestCheckAnchorFile(t *testing.T) {
	base := t.TempDir()
	dir, file := filepath.Join(base, "log"), filepath.Join(base, "anchor")
	log := openLog(t, dir, &audit.Options{Anchors: []audit.Anchor{audit.FileAnchor(file)}})
	require.NoError(t, log.Close())
	assert.ErrorIs(t, audit.CheckAnchorFile(file, dir), audit.ErrLocalAnchor, "the same uid")
	assert.ErrorIs(t, audit.CheckAnchorFile(filepath.Join(base, "none"), dir), audit.ErrLocalAnchor)
	if os.Getuid() != 0 {
		assert.ErrorIs(t, audit.CheckAnchorFile("/etc/hostname", "/no/such/folder"), audit.ErrLocalAnchor)
		return
	}
	const writer, other = 12345, 12346
	// t.TempDir is root's and in /tmp, which is sticky.
	chown := func(path string, uid int) { require.NoError(t, os.Chown(path, uid, uid)) }
	far := filepath.Join(base, "far")
	kept := filepath.Join(far, "kept", "anchor")
	require.NoError(t, os.MkdirAll(filepath.Dir(kept), 0o755))
	require.NoError(t, os.WriteFile(kept, must(os.ReadFile(file)), 0o644))
	chown(dir, writer)
	require.NoError(t, audit.CheckAnchorFile(kept, dir), "root's")
	chown(kept, other)
	chown(filepath.Dir(kept), other)
	require.NoError(t, audit.CheckAnchorFile(kept, dir), "another uid's")
	link := filepath.Join(base, "link")
	require.NoError(t, os.Symlink(kept, link))
	require.NoError(t, audit.CheckAnchorFile(link, dir))
	for what, change := range map[string]func() (undo func()){
		"the file is the writer's": func() func() { chown(kept, writer); return func() { chown(kept, other) } },
		"a folder is the writer's": func() func() { chown(far, writer); return func() { chown(far, 0) } },
		"others may write to the file": func() func() {
			require.NoError(t, os.Chmod(kept, 0o646))
			return func() { require.NoError(t, os.Chmod(kept, 0o644)) }
		},
		"a group may write to a folder": func() func() {
			require.NoError(t, os.Chmod(far, 0o775))
			return func() { require.NoError(t, os.Chmod(far, 0o755)) }
		},
		"the log is root's": func() func() { chown(dir, 0); return func() { chown(dir, writer) } },
	} {
		undo := change()
		assert.ErrorIs(t, audit.CheckAnchorFile(kept, dir), audit.ErrLocalAnchor, what)
		undo()
		require.NoError(t, audit.CheckAnchorFile(kept, dir))
	}
}

// An anchor that its writer can change is compared, but does not count.
func TestLocalAnchor(t *testing.T) {
	s := newSample(t, nil, 4, "standup")
	opts := &audit.VerifyOptions{Key: s.key.VerifierKey(), LocalAnchors: []string{s.anchor}}
	rep, err := audit.Verify(ctx, folder(s.data), opts)
	require.NoError(t, err)
	assert.Zero(t, rep.Anchored)
	assert.Zero(t, rep.Anchors)
	assert.Equal(t, 1, rep.LocalAnchors)
	assert.Contains(t, rep.Caveats[0], "No anchor was given that the log's writer cannot change")
	for name, forged := range notFoundWithoutAnchor(t, s) {
		_, err := audit.Verify(ctx, folder(forged), opts)
		assert.ErrorIs(t, err, audit.ErrTampered, name)
	}
	w := newWitnessServer(t, "witness.test/w1")
	body, _, _ := cutNote(s.anchor)
	unsigned := body + "\n" + w.cosign(body, 7) // true, but the log never said it
	for _, opts := range []*audit.VerifyOptions{{Anchors: []string{unsigned}}, {LocalAnchors: []string{unsigned}}} {
		opts.Key, opts.Witnesses = s.key.VerifierKey(), []string{w.vkey()}
		_, err = audit.Verify(ctx, folder(s.data), opts)
		assert.ErrorIs(t, err, audit.ErrTampered)
	}
	file := filepath.Join(t.TempDir(), "anchor")
	require.NoError(t, os.WriteFile(file, []byte(unsigned), 0o600))
	_, _, err = s.reopenWith(s.data, audit.FileAnchor(file))
	assert.ErrorIs(t, err, audit.ErrAnchor, "nor does the log open beside it")
	opts = &audit.VerifyOptions{Key: s.key.VerifierKey(), LocalAnchors: []string{s.anchor + w.cosign(body, 7)}, Witnesses: []string{w.vkey()}}
	rep, err = audit.Verify(ctx, folder(s.data), opts)
	require.NoError(t, err)
	assert.EqualValues(t, 4, rep.Anchored, "nobody but the witness can have made it")
}
