package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

var ctx = context.Background()

func intent(agent, action string) audit.Intent {
	return audit.Intent{
		Door: audit.DoorTool, Action: action, Resource: `Tool::"` + action + `"`,
		Actor:    audit.Actor{Agent: agent, Issuer: "session"},
		Decision: audit.Decision{ID: "d1", Effect: audit.Allow, Policies: []audit.Policy{{ID: "readers"}}},
		Args:     json.RawMessage(`{"channel":"#engineering"}`),
	}
}

func denial(agent, action string) audit.Event {
	d := audit.Refusal("d2", audit.ReasonNoPermit)
	return audit.Event{Kind: audit.KindDenial, Door: audit.DoorTool, Action: action, Actor: audit.Actor{Agent: agent}, Decision: &d}
}

// probe is an event that is never only counted.
func probe(agent, action string) audit.Event {
	return audit.Event{Kind: audit.KindProbe, Door: audit.DoorCompute, Action: action, Actor: audit.Actor{Agent: agent}}
}

func openLog(t testing.TB, dir string, opts *audit.Options) *audit.Log {
	t.Helper()
	log, err := audit.Open(dir, opts)
	require.NoError(t, err)
	return log
}

func collect(t testing.TB, dir string, f audit.Filter) []audit.Record {
	t.Helper()
	var all []audit.Record
	for r, err := range audit.Scan(ctx, os.DirFS(dir), f) {
		require.NoError(t, err)
		all = append(all, r)
	}
	return all
}

func TestWriteCloseVerifyReopen(t *testing.T) {
	dir, anchor := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "anchor")
	opts := &audit.Options{Origin: "audit.test/one", Anchors: []audit.Anchor{audit.FileAnchor(anchor)}}
	log := openLog(t, dir, opts)
	key := log.VerifierKey()
	c, err := log.Begin(ctx, intent("standup", "slack__post_message"))
	require.NoError(t, err)
	assert.Equal(t, uint64(1), c.Record())
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: 12}))
	assert.ErrorIs(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}), audit.ErrEnded)
	require.NoError(t, log.Append(ctx, denial("standup", "slack__delete")))
	require.NoError(t, log.Close())
	assert.ErrorIs(t, log.Close(), audit.ErrClosed)
	assert.ErrorIs(t, log.Append(ctx, denial("a", "b")), audit.ErrClosed)

	text, err := os.ReadFile(anchor)
	require.NoError(t, err)
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key, Anchors: []string{string(text)}})
	require.NoError(t, err)
	assert.Equal(t, uint64(3), rep.Records)
	assert.Equal(t, uint64(3), rep.Anchored)
	assert.True(t, rep.Closed)
	assert.Empty(t, rep.Open)

	log = openLog(t, dir, opts)
	assert.Equal(t, uint64(3), log.Size())
	c, err = log.Begin(ctx, intent("standup", "github__list"))
	require.NoError(t, err)
	assert.Equal(t, uint64(4), c.Record())
	require.NoError(t, log.Close())
	recs := collect(t, dir, audit.Filter{})
	require.Len(t, recs, 4)
	assert.Nil(t, recs[1].Args)
	assert.Equal(t, uint64(1), recs[1].Call)
	assert.Equal(t, 26, recs[0].Args.Len)
	rep, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	require.NoError(t, err)
	assert.Equal(t, []uint64{4}, rep.Open)
	raw, err := os.ReadFile(filepath.Join(dir, audit.SegmentName(1)))
	require.NoError(t, err)
	assert.NotContains(t, string(raw), "#engineering")
}

// What the log is later read by, it alone records.
func TestAppendRefusesTheLogsOwnKinds(t *testing.T) {
	log := audittest.NewLog(t)
	for _, kind := range []audit.Kind{"", audit.KindGap, audit.KindKey, audit.KindFlood, audit.KindConfig, audit.KindErasure, audit.KindPrune, audit.KindKEK, audit.KindHold} {
		ev := probe("a", "b")
		ev.Kind, ev.Change = kind, &officer
		assert.ErrorIs(t, log.Append(ctx, ev), audit.ErrInvalid, kind)
	}
	assert.Empty(t, log.Records())
}

func TestConcurrentWritersShareSyncs(t *testing.T) {
	log := audittest.NewLog(t)
	const writers, each = 16, 24
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				c, err := log.Begin(ctx, intent(fmt.Sprint("agent", w), "read"))
				if !assert.NoError(t, err) {
					return
				}
				if i%2 == 0 {
					assert.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
				}
			}
		})
	}
	wg.Wait()
	recs := log.Records()
	require.Len(t, recs, writers*each*3/2)
	for i, r := range recs {
		require.Equal(t, uint64(i+1), r.Seq)
	}
	open, err := audit.OpenCalls(log.Query(ctx, audit.Filter{}))
	require.NoError(t, err)
	assert.Len(t, open, writers*each/2)
}

func TestNilLogRefuses(t *testing.T) {
	var log *audit.Log
	_, err := log.Begin(ctx, intent("a", "b"))
	assert.ErrorIs(t, err, audit.ErrNoLog)
	assert.ErrorIs(t, log.Append(ctx, denial("a", "b")), audit.ErrNoLog)
	assert.ErrorIs(t, log.Close(), audit.ErrNoLog)
	_, err = log.Checkpoint(ctx)
	assert.ErrorIs(t, err, audit.ErrNoLog)
	for _, err := range log.Follow(ctx, 1) {
		assert.ErrorIs(t, err, audit.ErrNoLog)
	}
	for _, err := range log.Query(ctx, audit.Filter{}) {
		assert.ErrorIs(t, err, audit.ErrNoLog)
	}
	assert.Empty(t, log.VerifierKey())
	assert.Zero(t, log.Size())
}

func TestAuditDown(t *testing.T) {
	log := audittest.NewLog(t)
	c, err := log.Begin(ctx, intent("a", "b"))
	require.NoError(t, err)
	cause := errors.New("no disk today")
	log.Fail(cause)
	_, err = log.Begin(ctx, intent("a", "b"))
	assert.ErrorIs(t, err, audit.ErrFailed)
	assert.ErrorIs(t, err, cause)
	assert.ErrorIs(t, log.Append(ctx, denial("a", "b")), audit.ErrFailed)
	assert.ErrorIs(t, c.End(ctx, audit.Outcome{}), audit.ErrFailed)
	log.Fail(nil)
	assert.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	assert.Len(t, log.Records(), 2)
}

// soak returns how often to do something long: in a plain run, with
// TWINWARD_FULL=1, with TWINWARD_SOAK=1.
func soak(plain, full, all int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return all
	case os.Getenv("TWINWARD_FULL") == "1":
		return full
	}
	return plain
}
