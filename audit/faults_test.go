package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A host is the part of a door that matters here: it acts only after Begin, and
// answers only after End.
type host struct {
	mu       sync.Mutex
	acted    map[uint64]bool // by the number of the intent
	answered map[uint64]bool
}

func (h *host) serve(log *audit.Log, callers, calls int) {
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for i := range calls {
				c, err := log.Begin(ctx, intent("standup", fmt.Sprint(w, "-", i)))
				if err != nil {
					continue
				}
				h.note(h.acted, c)
				if c.End(ctx, audit.Outcome{Status: audit.StatusOK}) == nil {
					h.note(h.answered, c)
				}
			}
		})
	}
	wg.Wait()
}

func (h *host) note(m map[uint64]bool, c audit.Call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m[c.Record()] = true
}

// Each operation of the storage fails once, in each way, at each point of a
// log's life: no act without an intent that a power cut leaves, no answer without
// such an outcome, and the log opens again with all of them.
func TestEveryFaultPoint(t *testing.T) {
	t.Parallel()
	causes := []error{syscall.EIO, syscall.ENOSPC}
	for _, op := range []string{"create", "names", "write", "sync", "truncate"} {
		for _, cause := range causes[:soak(1, 2, 2)] {
			acts, points := 0, 0
			for point := 0; ; point += soak(2, 1, 1) {
				key := must(audit.NewKey("audit.test/faults"))
				m, n, hit := new(audittest.Memory), -1, false
				m.FailOn(func(o string) error {
					if o == op {
						n++
					}
					if o == op && n == point {
						hit = true
						return cause
					}
					return nil
				})
				h := &host{acted: map[uint64]bool{}, answered: map[uint64]bool{}}
				log, err := audit.New(m, &audit.Options{Key: key, SegmentSize: 2000})
				if err == nil {
					h.serve(log, 2, 8)
					err = log.Close()
				}
				if hit {
					assert.Error(t, err, "%s %d", op, point)
					assert.True(t, errors.Is(err, cause), "%v", err)
				}
				left := m.PowerCut(0)
				log, err = audit.New(left, &audit.Options{Key: key, SegmentSize: 2000})
				require.NoError(t, err, "%s %d", op, point)
				intents, outcomes := map[uint64]bool{}, map[uint64]bool{}
				for r, err := range log.Query(ctx, audit.Filter{}) {
					require.NoError(t, err)
					if r.Intent != nil {
						intents[r.Seq] = true
					} else if r.Outcome != nil {
						outcomes[r.Call] = true
					}
				}
				for seq := range h.acted {
					require.True(t, intents[seq], "%s %d: an act without an intent", op, point)
				}
				for seq := range h.answered {
					require.True(t, outcomes[seq], "%s %d: an answer without an outcome", op, point)
				}
				require.NoError(t, log.Close())
				acts += len(h.acted)
				points++
				if !hit {
					break
				}
			}
			assert.Greater(t, points, 1, op)
			t.Logf("%s, %v: %d points, %d acts", op, cause, points, acts)
		}
	}
}

// The list of what tampering is found with an anchor, and that all of it is.
func TestTamperMatrix(t *testing.T) {
	s := newSample(t, nil, 6, "standup")
	lines := s.lines()
	other := newSample(t, s.key, 6, "somebody")
	stranger := newSample(t, nil, 6, "standup")
	join := func(parts ...[][]byte) (data []byte) {
		for _, p := range parts {
			for _, line := range p {
				data = append(data, line...)
			}
		}
		return data
	}
	flipped := append([]byte(nil), s.data...)
	flipped[len(flipped)/2] ^= 1
	found := 0
	cases := map[string][]byte{
		"flip":          flipped,
		"delete":        join(lines[:5], lines[6:]),
		"reorder":       join(lines[:3], lines[5:7], lines[3:5], lines[7:]),
		"splice":        join(lines[:3], other.lines()[3:5], lines[5:]),
		"duplicate":     join(lines[:5], lines[3:5], lines[5:]),
		"truncate":      join(lines[:9]),
		"rollback":      newSample(t, s.key, 4, "standup").data,
		"fork":          other.data,
		"wrong key":     stranger.data,
		"whole rewrite": newSample(t, s.key, 12, "nobody").data, // with the stolen key, longer
	}
	require.Len(t, cases, 10)
	for what, data := range cases {
		if _, err := s.verify(data, s.anchor); assert.ErrorIs(t, err, audit.ErrTampered, what) {
			found++
		}
	}
	assert.Equal(t, 10, found)
	missed := map[string]bool{}
	for what, data := range cases {
		if _, err := s.verify(data); err == nil {
			missed[what] = true
		}
	}
	assert.Equal(t, map[string]bool{"truncate": true, "rollback": true, "fork": true, "whole rewrite": true}, missed,
		"what cannot be found without an anchor")
}

// lastCheckpointLost is the first file of a log whose newest checkpoint did not
// get to the disk.
func lastCheckpointLost(m *audittest.Memory) fstest.MapFS {
	dir := m.PowerCut(0).FS()
	data := bytes.TrimRight(dir[audit.SegmentName(1)].Data, "\x00")
	dir[audit.SegmentName(1)].Data = data[:bytes.LastIndex(data, []byte(`{"checkpoint"`))]
	return dir
}

// A new segment's header would sign what a crash left unsigned before the gap or
// the rotation is on record: these go where the unsigned records are.
func TestUnsignedRecordsStayInTheirSegment(t *testing.T) {
	a, b := must(audit.NewKey("audit.test/end")), must(audit.NewKey("audit.test/end"))
	for pad := 700; pad < 2200; pad += 60 {
		for _, rotate := range []bool{false, true} {
			var m audittest.Memory
			opts := &audit.Options{Key: a, SegmentSize: 4000}
			log := must(audit.New(&m, opts))
			require.NoError(t, log.Append(ctx, probe("s", strings.Repeat("p", 1200+pad))))
			if rotate {
				require.NoError(t, log.Rotate(ctx, b, change))
				opts = &audit.Options{Key: b, OldKeys: []*audit.Key{a}, SegmentSize: 4000}
			}
			if len(m.FS()) > 1 {
				continue // it did not fit from the start
			}
			m2 := audittest.NewMemoryFS(lastCheckpointLost(&m))
			log = must(audit.New(m2, opts))
			require.Len(t, m2.FS(), 1)
			require.NoError(t, log.Append(ctx, probe("s", "z")))
			require.NoError(t, log.Close())
			_, err := audit.Verify(ctx, m2.FS(), &audit.VerifyOptions{Key: a.VerifierKey()})
			require.NoError(t, err, "%d %v", pad, rotate)
			gaps := 0
			for r, err := range audit.Scan(ctx, m2.FS(), audit.Filter{Kind: audit.KindGap}) {
				require.NoError(t, err)
				assert.NotEmpty(t, r.Event.Detail["unsigned_first"])
				gaps++
			}
			assert.Equal(t, 1, gaps)
		}
	}
}

// The first block of an opening, or all of it, may not get to the disk.
func TestUnwrittenOpening(t *testing.T) {
	for pad := 0; pad < 512; pad += 16 {
		s := newSample(t, nil, 1, strings.Repeat("p", 1+pad))
		_, m, err := s.reopen(s.data)
		require.NoError(t, err)
		full := m.FS()[audit.SegmentName(1)].Data
		assert.NotZero(t, full[len(full)-1], "an opening allocates nothing")
		for _, end := range []int{(len(s.data) + 511) / 512 * 512, len(full)} {
			data := bytes.Clone(full)
			clear(data[len(s.data):min(end, len(data))])
			_, err := s.verify(data, s.anchor)
			require.NoError(t, err, pad)
			log, m, err := s.reopen(data)
			require.NoError(t, err, pad)
			require.NoError(t, log.Close())
			_, err = s.verify(m.Bytes(), s.anchor)
			require.NoError(t, err, pad)
		}
	}
}

// A record in a torn batch may hold what a checkpoint's line starts with.
func TestTornRecordMayHoldTheCheckpointWord(t *testing.T) {
	key := must(audit.NewKey("audit.test/word"))
	var m audittest.Memory
	log := must(audit.New(&m, &audit.Options{Key: key}))
	before := len(m.Bytes())
	ev := probe("s", strings.Repeat("p", 900))
	ev.Detail = map[string]string{"checkpoint": "7"}
	require.NoError(t, log.Append(ctx, ev))
	dir := m.FS()
	end := (before + 511) / 512 * 512
	clear(dir[audit.SegmentName(1)].Data[end : end+512])
	_, err := audit.New(audittest.NewMemoryFS(dir), &audit.Options{Key: key})
	assert.NoError(t, err)
}
