package audit_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// An aged is a log of two years: an act a day, in small segments, an
// administrative act on day 3, a new key on day 5 and another on day 400.
type aged struct {
	*keeper
	now     time.Time
	first   *audit.Key
	anchors map[int]string // checkpoints by day
}

var longAgo = time.Date(2024, 1, 1, 9, 0, 0, 0, time.UTC)

func newAged(t testing.TB, opts audit.Options, days int) *aged {
	a := &aged{now: longAgo, anchors: map[int]string{}}
	opts.Clock = func() time.Time { return a.now }
	opts.SegmentSize = 4000
	a.keeper = newKeeper(t, opts)
	a.first = a.key
	for day := range days {
		a.now = longAgo.Add(time.Duration(day) * 24 * time.Hour)
		switch day {
		case 3:
			require.NoError(t, a.Append(ctx, audit.Event{Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "register_agent", Resource: "standup", Change: &officer}))
		case 5, 400:
			next := must(audit.NewKey(a.key.Origin()))
			require.NoError(t, a.Rotate(ctx, next, officer))
			a.opts.OldKeys = append([]*audit.Key{a.key}, a.opts.OldKeys...)
			a.key = next
		default:
			c := must(a.Begin(ctx, act("a", "u", audit.ClassWrite)))
			if day%10 != 0 {
				require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
			}
		}
		a.anchors[day] = string(must(a.Checkpoint(ctx)).Text)
	}
	return a
}

// reopen closes the log and opens it again.
func (a *aged) reopen() {
	require.NoError(a.t, a.Close())
	a.open()
}

// pinned verifies with the log's very first key, and anchors of these days.
func (a *aged) pinned(dir fstest.MapFS, days ...int) (audit.VerifyReport, error) {
	opts := &audit.VerifyOptions{Key: a.first.VerifierKey()}
	for _, d := range days {
		opts.Anchors = append(opts.Anchors, a.anchors[d])
	}
	return audit.Verify(ctx, dir, opts)
}

func seqs(t testing.TB, dir fstest.MapFS) (list []uint64) {
	for r, err := range audit.Scan(ctx, dir, audit.Filter{}) {
		require.NoError(t, err)
		list = append(list, r.Seq)
	}
	return list
}

func TestPruneRecords(t *testing.T) {
	t.Parallel()
	a := newAged(t, audit.Options{}, 600)
	whole := a.st.FS()
	proof := must(audit.Prove(ctx, whole, 7)).Text()
	before, err := a.pinned(whole, 4, 100, 599)
	require.NoError(t, err)
	assert.Nil(t, before.Pruned)

	p, err := a.PruneRecords(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	assert.Greater(t, p.Segments, 50)
	assert.Equal(t, uint64(3), p.Kept, "a registration and two new keys")
	assert.Greater(t, p.Values, 300, "arguments go with their records")
	dir := a.st.FS()
	assert.NotContains(t, dir, audit.SegmentName(1))
	assert.NotContains(t, dir, audit.SegmentName(p.Segments))
	assert.Contains(t, dir, audit.SegmentName(p.Segments+1))

	// It is on record, and everything else verifies: anchors from before and after,
	// from the first key on.
	rep, err := a.pinned(dir, 4, 100, 410, 599)
	require.NoError(t, err)
	require.NotNil(t, rep.Pruned)
	want := *rep.Pruned
	assert.Equal(t, audit.Pruned{Records: p.Next - 1, Root: want.Root, Kept: 3, Segments: p.Segments, Record: before.Records + 1, Time: a.now, Change: officer}, want)
	assert.Equal(t, before.Records+1, rep.Records)
	assert.Contains(t, strings.Join(rep.Caveats, "\n"), fmt.Sprintf("pruned as record %d says", want.Record))
	assert.Empty(t, slices.DeleteFunc(rep.Open, func(n uint64) bool { return n >= p.Next }))
	root, err := tlog.TreeHash(int64(want.Records), hashesOf(t, whole))
	require.NoError(t, err)
	assert.Equal(t, root, want.Root)

	// What is there is read, in order: first the administrative acts.
	list := seqs(t, dir)
	assert.True(t, slices.IsSorted(list))
	assert.Equal(t, p.Next, list[3])
	assert.Len(t, list, int(rep.Records-p.Next)+1+3)
	var live []uint64
	for r, err := range a.Query(ctx, audit.Filter{}) {
		require.NoError(t, err)
		live = append(live, r.Seq)
	}
	assert.Equal(t, list, live)
	for _, seq := range []uint64{list[0], list[2], p.Next, rep.Records} { // also of what was kept
		_, err := audit.VerifyProof(must(audit.Prove(ctx, dir, seq)).Text(), nil, a.key.VerifierKey())
		assert.NoError(t, err)
	}
	_, err = audit.Prove(ctx, dir, 7)
	assert.ErrorIs(t, err, audit.ErrPruned)
	_, err = audit.VerifyProof(proof, nil, a.key.VerifierKey())
	assert.NoError(t, err, "an old proof stays one")

	// A second time there is nothing to do; later, there is, after reopening too.
	again, err := a.PruneRecords(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	assert.Zero(t, again)
	a.reopen()
	for range 100 {
		a.now = a.now.Add(24 * time.Hour)
		must(a.Begin(ctx, act("a", "u", audit.ClassWrite)))
	}
	later, err := a.PruneRecords(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	assert.Greater(t, later.Next, p.Next)
	a.reopen()
	rep, err = a.pinned(a.st.FS(), 4, 100, 410, 599)
	require.NoError(t, err)
	assert.Equal(t, later.Next-1, rep.Pruned.Records)
	assert.NotEqual(t, want.Record, rep.Pruned.Record)
	names := slices.Collect(maps.Keys(a.st.FS()))
	assert.Len(t, slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "pruned.") }), 1)

	// Files that were archived are put beside the others, and it is as before.
	all := a.st.FS()
	for name, f := range whole {
		if all[name] == nil {
			all[name] = f
		}
	}
	for name, f := range dir {
		if all[name] == nil {
			all[name] = f
		}
	}
	rep, err = a.pinned(all, 4, 100, 410, 599)
	require.NoError(t, err)
	assert.Nil(t, rep.Pruned)
	assert.Len(t, seqs(t, all), int(rep.Records))
}

// hashesOf reads the hashes of all records, as tlog wants them.
func hashesOf(t testing.TB, dir fstest.MapFS) tlog.HashReader {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) (list []tlog.Hash, err error) {
		for _, i := range at {
			list = append(list, stored[i])
		}
		return list, nil
	})
	n := int64(0)
	for r, err := range audit.Scan(ctx, dir, audit.Filter{}) {
		require.NoError(t, err)
		h, err := tlog.StoredHashes(n, must(r.MarshalJSON()), read)
		require.NoError(t, err)
		stored = append(stored, h...)
		n++
	}
	return read
}

func TestPruneRecordsKeeps(t *testing.T) {
	t.Parallel()
	a := newAged(t, audit.Options{}, 300)
	for name, f := range map[string]func() error{
		"nobody": func() error { _, err := a.PruneRecords(ctx, audit.Retention{}, audit.Change{}); return err },
		"short":  func() error { _, err := a.PruneRecords(ctx, audit.Retention{Other: time.Hour}, officer); return err },
	} {
		assert.Error(t, f(), name)
	}
	_, err := (*audit.Log)(nil).PruneRecords(ctx, audit.Retention{}, officer)
	assert.ErrorIs(t, err, audit.ErrNoLog)
	nothing := func(keep audit.Retention, why string) {
		t.Helper()
		p, err := a.PruneRecords(ctx, keep, officer)
		require.NoError(t, err)
		assert.Zero(t, p, why)
		assert.Contains(t, a.st.FS(), audit.SegmentName(1))
	}
	nothing(audit.Retention{Write: 400 * 24 * time.Hour}, "the class is to be kept")
	require.NoError(t, a.Hold(ctx, "case", audit.Subject{Agent: "a"}, officer))
	nothing(audit.Retention{}, "held")
	require.NoError(t, a.Release(ctx, "case", officer))

	// A clock that is set forward, with records since, makes nothing old but what
	// a week more would.
	right := a.now
	a.now = right.Add(400 * 24 * time.Hour)
	a.begin(act("a", "u", audit.ClassWrite))
	p, err := a.PruneRecords(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	oldest := a.record(p.Next)
	assert.WithinDuration(t, right.Add(-audit.SixMonths+audit.DefaultQuiet), oldest.Time, 7*24*time.Hour)
	v, err := a.Prune(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	assert.Less(t, v.Values, 10, "values, too")

	// What a sink has not taken stays.
	b := newAged(t, audit.Options{Sinks: []audit.Feed{{Sink: &refusingSink{}, Retry: time.Hour, Drain: -1}}}, 250)
	p, err = b.PruneRecords(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	assert.Zero(t, p)
}

type refusingSink struct{}

func (refusingSink) Send(context.Context, []audit.Record) error { return errors.New("down") }

func TestPruneRecordsNeedsRecord(t *testing.T) {
	a := newAged(t, audit.Options{}, 420)
	before := a.st.FS()
	p, err := a.PruneRecords(ctx, audit.Retention{}, officer)
	require.NoError(t, err)
	dir := a.st.FS()
	name := ""
	for n := range dir {
		if strings.HasPrefix(n, "pruned.") {
			name = n
		}
	}
	_, err = a.pinned(dir)
	require.NoError(t, err)

	lines := strings.SplitAfter(string(dir[name].Data), "\n")
	change := func(f func(dir fstest.MapFS)) fstest.MapFS {
		c := maps.Clone(dir)
		f(c)
		return c
	}
	text := func(s string) func(fstest.MapFS) {
		return func(d fstest.MapFS) { d[name] = &fstest.MapFile{Data: []byte(s)} }
	}
	at := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "register_agent") })
	require.Positive(t, at)
	leaf := tlog.RecordHash([]byte(strings.TrimSuffix(lines[at], "\n")))
	hidden := fmt.Sprintf("{\"leaves\":\"%s\"}\n", b64(leaf[:]))
	for what, bad := range map[string]fstest.MapFS{
		"deleted with what is left of it": change(func(d fstest.MapFS) { delete(d, name) }),
		"one segment more":                change(func(d fstest.MapFS) { delete(d, audit.SegmentName(p.Segments+1)) }),
		"one more, and renamed": change(func(d fstest.MapFS) {
			delete(d, audit.SegmentName(p.Segments+1))
			d[strings.Replace(name, fmt.Sprintf("%08d", p.Segments+1), fmt.Sprintf("%08d", p.Segments+2), 1)] = d[name]
			delete(d, name)
		}),
		"an act hidden":  change(text(strings.Join(slices.Replace(slices.Clone(lines), at, at+1, hidden), ""))),
		"an act changed": change(text(strings.Replace(string(dir[name].Data), "register_agent", "register_agenT", 1))),
		"a hash changed": change(text(strings.Replace(string(dir[name].Data), `{"leaves":"`, `{"leaves":"AAAA`, 1))),
		"a line missing": change(text(strings.Join(slices.Delete(slices.Clone(lines), 1, 2), ""))),
		"cut":            change(text(string(dir[name].Data[:len(dir[name].Data)/2]))),
		"emptied":        change(text("")),
		"no record of it": change(func(d fstest.MapFS) { // the state of before, without the files
			for n := range d {
				if before[n] != nil {
					d[n] = before[n]
				}
			}
		}),
		"a checkpoint missing": change(func(d fstest.MapFS) {
			name := audit.SegmentName(p.Segments + 1)
			in := strings.SplitAfter(string(d[name].Data), "\n")
			at := slices.IndexFunc(in[1:], func(l string) bool { return strings.HasPrefix(l, `{"checkpoint"`) }) + 1
			d[name] = &fstest.MapFile{Data: []byte(strings.Join(slices.Delete(in, at, at+1), ""))}
		}),
		"the rest": change(func(d fstest.MapFS) {
			last := audit.SegmentName(p.Segments + 1)
			d[last] = &fstest.MapFile{Data: []byte(strings.Replace(string(d[last].Data), "slack__post", "slack__posT", 1))}
		}),
	} {
		t.Run(what, func(t *testing.T) {
			_, err := a.pinned(bad)
			assert.ErrorIs(t, err, audit.ErrTampered)
		})
	}
	require.NoError(t, a.Close())
	for _, what := range []string{name} {
		gone := audittest.NewMemoryFS(change(func(d fstest.MapFS) { delete(d, what) }))
		_, err = audit.New(gone, &audit.Options{Key: a.key, OldKeys: a.opts.OldKeys})
		assert.ErrorIs(t, err, audit.ErrTampered)
	}
}

// A crash or an error at any step of a pruning leaves a log that opens and verifies
// and in which nothing is gone without record; doing it again does it.
func TestPruneRecordsInterrupted(t *testing.T) {
	t.Parallel()
	base := newAged(t, audit.Options{}, 200)
	require.NoError(t, base.Close())
	for _, op := range []string{"create", "write", "truncate", "sync", "names", "rename", "remove"} {
		for n, failed := 0, true; failed && n < soak(2, 4, 20); n++ {
			t.Run(fmt.Sprint(op, n), func(t *testing.T) {
				k := *base.keeper
				a := &aged{&k, base.now, base.first, base.anchors}
				a.st, a.vs = base.st.PowerCut(0), base.vs.PowerCut(0)
				a.open()
				count := 0
				failed = false
				a.st.FailOn(func(o string) error {
					if o == op {
						if count++; count == n+1 {
							failed = true
							return errors.New("injected")
						}
					}
					return nil
				})
				_, err := a.PruneRecords(ctx, audit.Retention{}, officer)
				if !failed {
					require.NoError(t, err)
				}
				a.st.FailOn(nil)
				a.st, a.vs = a.st.PowerCut(0), a.vs.PowerCut(0)
				_, err = a.pinned(a.st.FS(), 4, 199)
				require.NoError(t, err)
				a.open()
				_, err = a.PruneRecords(ctx, audit.Retention{}, officer)
				require.NoError(t, err)
				rep, err := a.pinned(a.st.FS(), 4, 199)
				require.NoError(t, err)
				require.NotNil(t, rep.Pruned)
				assert.NotContains(t, a.st.FS(), audit.SegmentName(1))
			})
		}
	}
}

// The tools of transparency logs read what is left: all hashes, and the entries that
// are there. What the writer keeps beside the log can be made anew from it.
func TestPruneRecordsTiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	now := longAgo
	opts := &audit.Options{Clock: func() time.Time { return now }, SegmentSize: 6000, NoValues: true}
	log := openLog(t, dir, opts)
	for range 1100 {
		now = now.Add(12 * time.Hour)
		require.NoError(t, log.Append(ctx, probe("a", "b")))
	}
	p := must(log.PruneRecords(ctx, audit.Retention{}, officer))
	require.Greater(t, p.Next, uint64(256))
	require.NoError(t, log.Close())
	for _, remake := range []bool{false, true} {
		if remake {
			names := must(filepath.Glob(filepath.Join(dir, "tree.*")))
			require.NotEmpty(t, names)
			for _, name := range names {
				require.NoError(t, os.Remove(name))
			}
			log = openLog(t, dir, opts)
			require.NoError(t, log.Close())
			require.FileExists(t, names[0])
		}
		tiles := audit.Tiles(os.DirFS(dir))
		cp := must(audit.ParseCheckpoint(must(fs.ReadFile(tiles, "checkpoint")), log.VerifierKey()))
		first := must(fs.ReadFile(tiles, "tile/0/000"))
		require.Len(t, first, 256*tlog.HashSize)
		_, err := fs.ReadFile(tiles, "tile/entries/000")
		assert.ErrorIs(t, err, fs.ErrNotExist)
		assert.NotEmpty(t, must(fs.ReadFile(tiles, "tile/entries/003")))
		// A client that has nothing but the tiles checks a hash of a pruned record.
		reader := tlog.TileHashReader(tlog.Tree{N: int64(cp.Size), Hash: cp.Root}, tileFiles{tiles, int64(cp.Size)})
		hashes, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, 3), tlog.StoredHashIndex(8, 0)})
		require.NoError(t, err)
		assert.Equal(t, tlog.Hash(first[3*tlog.HashSize:]), hashes[0])
	}
}

// tileFiles reads tiles by their path.
type tileFiles struct {
	fs.FS
	size int64
}

func (tileFiles) Height() int                     { return 8 }
func (tileFiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (f tileFiles) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, t := range tiles {
		b, err := fs.ReadFile(f.FS, strings.Replace(t.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// Records are pruned while others are written, read and passed on: nothing that is
// not old is missed, and a reader that was overtaken says so.
func TestPruneRecordsUnderLoad(t *testing.T) {
	t.Parallel()
	var hours atomic.Int64
	dir := filepath.Join(t.TempDir(), "log")
	got := &countingSink{}
	log := openLog(t, dir, &audit.Options{
		Clock: func() time.Time { return longAgo.Add(time.Duration(hours.Load()) * time.Hour) }, SegmentSize: 5000, NoValues: true,
		Sinks: []audit.Feed{{Sink: got, Drain: time.Minute}},
	})
	stop, pruned := make(chan struct{}), 0
	var wg sync.WaitGroup
	busy := func(f func()) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	for range 3 {
		busy(func() {
			c, err := log.Begin(ctx, intent("a", "b"))
			if assert.NoError(t, err) {
				assert.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
			}
			hours.Add(1)
		})
	}
	busy(func() {
		var last uint64
		for r, err := range log.Query(ctx, audit.Filter{}) {
			if err != nil {
				assert.ErrorIs(t, err, audit.ErrPruned)
				return
			}
			assert.Greater(t, r.Seq, last)
			last = r.Seq
		}
	})
	keep := 20 * time.Hour
	for range soak(5, 15, 100) {
		for from := hours.Load(); hours.Load() < from+30; {
			time.Sleep(time.Millisecond)
		}
		p, err := log.PruneRecords(ctx, audit.Retention{Read: keep, Write: keep, Destructive: keep, Denied: keep, Other: keep, ShorterThanSixMonths: true}, officer)
		require.NoError(t, err)
		pruned += p.Segments
	}
	close(stop)
	wg.Wait()
	key, size := log.VerifierKey(), log.Size()
	require.NoError(t, log.Close())
	assert.Positive(t, pruned)
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	require.NoError(t, err)
	assert.Equal(t, size, rep.Records)
	assert.Equal(t, pruned, rep.Pruned.Segments)
	assert.Equal(t, size, got.n, "the sink was waited for")
}

// A countingSink takes records without a gap.
type countingSink struct{ n uint64 }

func (s *countingSink) Send(_ context.Context, records []audit.Record) error {
	for _, r := range records {
		if s.n++; r.Seq != s.n {
			return fmt.Errorf("record %d comes as number %d", r.Seq, s.n)
		}
	}
	return nil
}
