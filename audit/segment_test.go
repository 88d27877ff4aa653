package audit_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// segmented is a small closed log of several segments.
func segmented(t testing.TB, records int) (dir fstest.MapFS, key *audit.Key, anchor string) {
	t.Helper()
	key, err := audit.NewKey("audit.test/segments")
	require.NoError(t, err)
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key, SegmentSize: 3000})
	require.NoError(t, err)
	for i := range records {
		require.NoError(t, log.Append(ctx, denial("standup", fmt.Sprint("act", i))))
	}
	require.NoError(t, log.Close())
	cp, err := log.Checkpoint(ctx)
	require.NoError(t, err)
	return m.FS(), key, string(cp.Text)
}

func verifyKey(dir fstest.MapFS, key *audit.Key, anchors ...string) (audit.VerifyReport, error) {
	return audit.Verify(ctx, dir, &audit.VerifyOptions{Key: key.VerifierKey(), Anchors: anchors})
}

func TestSegmentsAreOneLog(t *testing.T) {
	dir, key, anchor := segmented(t, 40)
	require.Greater(t, len(dir), 5)
	rep, err := verifyKey(dir, key, anchor)
	require.NoError(t, err)
	assert.Equal(t, uint64(40), rep.Records)
	assert.Equal(t, len(dir), rep.Segments)
	assert.True(t, rep.Closed)
	assert.Len(t, rep.Caveats, 1)
	n := uint64(0)
	for r, err := range audit.Scan(ctx, dir, audit.Filter{}) {
		require.NoError(t, err)
		n++
		assert.Equal(t, n, r.Seq)
	}
	assert.Equal(t, uint64(40), n)
	for name, f := range dir {
		assert.NotContains(t, string(f.Data), "\x00", name)
		assert.LessOrEqual(t, len(f.Data), 3000)
		assert.Contains(t, string(f.Data[:120]), `\nsegment `)
	}
	// It goes on where it was.
	m := audittest.NewMemoryFS(dir)
	log, err := audit.New(m, &audit.Options{Key: key, SegmentSize: 3000})
	require.NoError(t, err)
	for i := range 20 {
		require.NoError(t, log.Append(ctx, denial("standup", fmt.Sprint("more", i))))
	}
	require.NoError(t, log.Close())
	rep, err = verifyKey(m.FS(), key, anchor)
	require.NoError(t, err)
	assert.Equal(t, uint64(60), rep.Records)
}

// Opening a log reads its last segment, not all.
func TestOpenReadsTheLastSegment(t *testing.T) {
	dir, key, anchor := segmented(t, 40)
	changed := maps.Clone(dir)
	changed[audit.SegmentName(2)] = &fstest.MapFile{Data: bytes.Replace(dir[audit.SegmentName(2)].Data, []byte("act"), []byte("axt"), 1)}
	m := audittest.NewMemoryFS(changed)
	log, err := audit.New(m, &audit.Options{Key: key})
	require.NoError(t, err)
	require.NoError(t, log.Close())
	_, err = verifyKey(m.FS(), key)
	require.ErrorIs(t, err, audit.ErrTampered)
	assert.ErrorContains(t, err, audit.SegmentName(2))

	// But from where its anchor is on.
	old, err := audit.ParseCheckpoint([]byte(anchor), key.VerifierKey())
	require.NoError(t, err)
	require.Equal(t, uint64(40), old.Size)
	early := earlyCheckpoint(t, dir)
	_, err = audit.New(audittest.NewMemoryFS(changed), &audit.Options{Key: key, Anchors: []audit.Anchor{fixedAnchor(early)}})
	require.ErrorIs(t, err, audit.ErrTampered)
	log, err = audit.New(audittest.NewMemoryFS(dir), &audit.Options{Key: key, Anchors: []audit.Anchor{fixedAnchor(early)}})
	require.NoError(t, err)
	require.NoError(t, log.Close())
}

// earlyCheckpoint is the text of the checkpoint that starts segment 2.
func earlyCheckpoint(t *testing.T, dir fstest.MapFS) string {
	t.Helper()
	text, _, _ := strings.Cut(string(dir[audit.SegmentName(2)].Data), `","key"`)
	text = strings.TrimPrefix(text, `{"checkpoint":"`)
	return strings.ReplaceAll(text, `\n`, "\n")
}

type fixedAnchor string

func (fixedAnchor) Publish(context.Context, []byte) error    { return nil }
func (a fixedAnchor) Latest(context.Context) ([]byte, error) { return []byte(a), nil }

func TestEveryChangedByteOfSegmentsIsFound(t *testing.T) {
	t.Parallel()
	dir, key, _ := segmented(t, 12)
	require.Greater(t, len(dir), 2)
	for name, f := range dir {
		for i := range f.Data {
			if i%soak(13, 1, 1) != 0 {
				continue
			}
			data := bytes.Clone(f.Data)
			data[i] ^= 0x20
			changed := maps.Clone(dir)
			changed[name] = &fstest.MapFile{Data: data}
			_, err := verifyKey(changed, key)
			require.ErrorIs(t, err, audit.ErrTampered, "%s byte %d (%q)", name, i, f.Data[i])
		}
		for _, more := range []string{"\x00", "\n", "x", string(f.Data)} {
			changed := maps.Clone(dir)
			changed[name] = &fstest.MapFile{Data: append(bytes.Clone(f.Data), more...)}
			_, err := verifyKey(changed, key)
			require.ErrorIs(t, err, audit.ErrTampered, "%s with %q", name, more[:1])
		}
	}
}

func TestSegmentsRemovedRenamedSwapped(t *testing.T) {
	dir, key, anchor := segmented(t, 30)
	other, _, _ := segmented(t, 30)
	last := len(dir)
	require.Greater(t, last, 4)
	seg := audit.SegmentName
	for what, change := range map[string]func(fstest.MapFS){
		"first removed":    func(d fstest.MapFS) { delete(d, seg(1)) },
		"middle removed":   func(d fstest.MapFS) { delete(d, seg(3)) },
		"last removed":     func(d fstest.MapFS) { delete(d, seg(last)) },
		"all removed":      func(d fstest.MapFS) { clear(d) },
		"middle empty":     func(d fstest.MapFS) { d[seg(3)] = &fstest.MapFile{} },
		"middle zeros":     func(d fstest.MapFS) { d[seg(3)] = &fstest.MapFile{Data: make([]byte, 3000)} },
		"last empty":       func(d fstest.MapFS) { d[seg(last)] = &fstest.MapFile{} },
		"two at end empty": func(d fstest.MapFS) { d[seg(last)], d[seg(last-1)] = &fstest.MapFile{}, &fstest.MapFile{} },
		"swapped":          func(d fstest.MapFS) { d[seg(2)], d[seg(3)] = d[seg(3)], d[seg(2)] },
		"last copied":      func(d fstest.MapFS) { d[seg(last+1)] = d[seg(last)] },
		"renumbered": func(d fstest.MapFS) {
			delete(d, seg(1))
			for i := 2; i <= last; i++ {
				d[seg(i-1)] = d[seg(i)]
			}
			delete(d, seg(last))
		},
		"renamed":        func(d fstest.MapFS) { d["x.jsonl"] = d[seg(2)]; delete(d, seg(2)) },
		"one of another": func(d fstest.MapFS) { d[seg(2)] = other[seg(2)] },
		"continued": func(d fstest.MapFS) {
			for i := 3; i <= last; i++ {
				d[seg(i)] = other[seg(i)]
			}
		},
		"middle cut": func(d fstest.MapFS) { d[seg(3)] = &fstest.MapFile{Data: d[seg(3)].Data[:len(d[seg(3)].Data)-100]} },
		"joined": func(d fstest.MapFS) {
			d[seg(last-1)] = &fstest.MapFile{Data: slices.Concat(d[seg(last-1)].Data, d[seg(last)].Data)}
			delete(d, seg(last))
		},
	} {
		changed := maps.Clone(dir)
		change(changed)
		_, err := verifyKey(changed, key, anchor)
		assert.ErrorIs(t, err, audit.ErrTampered, what)
	}
}

// A crash may leave the next segment without anything in it.
func TestEmptyNextSegment(t *testing.T) {
	dir, key, anchor := segmented(t, 12)
	for _, next := range [][]byte{nil, make([]byte, 700)} {
		changed := maps.Clone(dir)
		changed[audit.SegmentName(len(dir)+1)] = &fstest.MapFile{Data: next}
		rep, err := verifyKey(changed, key, anchor)
		require.NoError(t, err)
		assert.False(t, rep.Closed)
		m := audittest.NewMemoryFS(changed)
		log, err := audit.New(m, &audit.Options{Key: key, SegmentSize: 3000})
		require.NoError(t, err)
		require.NoError(t, log.Append(ctx, denial("a", "b")))
		require.NoError(t, log.Close())
		rep, err = verifyKey(m.FS(), key, anchor)
		require.NoError(t, err)
		assert.Equal(t, uint64(13), rep.Records)
		assert.Equal(t, len(dir)+1, rep.Segments)
	}
}

// Followers go from segment to segment with the writers.
func TestFollowAcrossSegments(t *testing.T) {
	key, err := audit.NewKey("audit.test/follow")
	require.NoError(t, err)
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key, SegmentSize: 2000})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			n := uint64(0)
			for r, err := range log.Follow(ctx, 1) {
				if n++; !assert.NoError(t, err) || !assert.Equal(t, n, r.Seq) {
					return
				}
			}
			assert.Equal(t, uint64(200), n)
		})
	}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 50 {
				assert.NoError(t, log.Append(ctx, denial("a", fmt.Sprint(w, "-", i))))
			}
		})
	}
	writers.Wait()
	n := 0
	for _, err := range log.Query(ctx, audit.Filter{}) {
		require.NoError(t, err)
		n++
	}
	assert.Equal(t, 200, n)
	require.NoError(t, log.Close())
	wg.Wait()
	assert.Greater(t, len(m.FS()), 10)
}

// Whatever part of what was not synced a power cut lets through, block by block
// and file by file: what was acknowledged is there, and the log opens and
// verifies. Done again on what the first cut left, while it is being repaired.
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	key, err := audit.NewKey("audit.test/crash")
	require.NoError(t, err)
	for range soak(60, 1000, 10000) {
		m := new(audittest.Memory)
		var acked atomicMap
		for range 3 { // openings of one log
			opts := &audit.Options{Key: key, SegmentSize: int64(600 + rnd.IntN(6000))}
			if rnd.IntN(2) == 0 { // closed in peace, so that the cut is in an opening
				if log, err := audit.New(m, opts); err == nil {
					require.NoError(t, log.Close())
				}
			}
			cut, stop := &cutter{after: rnd.IntN(25)}, 1+rnd.IntN(30)
			m.FailOn(cut.off)
			log, err := audit.New(m, opts)
			if err == nil {
				var wg sync.WaitGroup
				for w := range 2 {
					wg.Go(func() {
						for i := range stop {
							action := fmt.Sprint(w, "-", i, strings.Repeat("x", i*37%900))
							c, err := log.Begin(ctx, intent("standup", action))
							if err != nil {
								return
							}
							acked.put(c.Record(), action)
						}
					})
				}
				wg.Wait()
				_ = log.Close()
			}
			m = m.Crash(rnd)
			m.FailOn(nil)
			rep, err := audit.Verify(ctx, m.FS(), &audit.VerifyOptions{Key: key.VerifierKey()})
			if len(acked.m) == 0 && err != nil {
				m = new(audittest.Memory) // nothing was ever acknowledged: not even the log is there
				continue
			}
			require.NoError(t, err)
			for seq := range acked.m {
				require.LessOrEqual(t, seq, rep.Records, "an acknowledged record was lost")
			}
		}
		log, err := audit.New(m, &audit.Options{Key: key})
		require.NoError(t, err)
		found := map[uint64]string{}
		for r, err := range log.Query(ctx, audit.Filter{}) {
			require.NoError(t, err)
			if r.Intent != nil {
				found[r.Seq] = r.Intent.Action
			}
		}
		for seq, action := range acked.m {
			require.Equal(t, action, found[seq])
		}
		require.NoError(t, log.Close())
	}
}

// A cutter lets some operations of a storage through, then none.
type cutter struct {
	mu    sync.Mutex
	after int
}

func (c *cutter) off(string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after--; c.after < 0 {
		return os.ErrClosed
	}
	return nil
}

type atomicMap struct {
	mu sync.Mutex
	m  map[uint64]string
}

func (a *atomicMap) put(seq uint64, s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[uint64]string{}
	}
	a.m[seq] = s
}

// The file is longer than the log while it is open, and cut when it is closed.
func TestAllocatedAhead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	file := filepath.Join(dir, audit.SegmentName(1))
	log := openLog(t, dir, nil)
	require.NoError(t, log.Append(ctx, denial("a", "b")))
	st, err := os.Stat(file)
	require.NoError(t, err)
	size := st.Size()
	for range 20 {
		require.NoError(t, log.Append(ctx, denial("a", "c")))
	}
	st, err = os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, size, st.Size())
	assert.Zero(t, size%512)
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: log.VerifierKey()})
	require.NoError(t, err)
	assert.Zero(t, rep.TornBytes)
	require.NoError(t, log.Close())
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.True(t, bytes.HasSuffix(data, []byte("\"}\n")))
}
