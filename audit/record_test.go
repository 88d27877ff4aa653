package audit_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"golang.org/x/mod/sumdb/tlog"
)

// Whatever an agent says, a record is one line that drives nothing.
func TestHostileStringsStayOnTheirLine(t *testing.T) {
	log := audittest.NewLog(t)
	hostile := "a\nb\r\x00\x1b[31mred\x1b[0m\u0085\u009b2J\x7f\u2028\u2029\u202egnp.exe\u2066\ufeff\U000e0041\xff\xfe\"}\n{\"seq\":99"
	c, err := log.Begin(ctx, intent(hostile, hostile))
	require.NoError(t, err)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusFailed, ErrorCode: hostile, Checks: []string{hostile}}))
	ev := denial(hostile, hostile)
	ev.Detail = map[string]string{hostile: hostile}
	require.NoError(t, log.Append(ctx, ev))
	recs := log.Records()
	require.Len(t, recs, 3)
	want := strings.ToValidUTF8(hostile, "\ufffd\ufffd")
	assert.Equal(t, want, recs[0].Intent.Action)
	assert.Equal(t, want, recs[2].Event.Detail[want])
	for line := range bytes.Lines(log.Storage.Bytes()) {
		assert.True(t, bytes.HasPrefix(line, []byte(`{"seq":`)) || bytes.HasPrefix(line, []byte(`{"checkpoint":`)))
		for _, r := range string(line[:len(line)-1]) {
			assert.False(t, unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp), "%U is raw", r)
		}
	}
}

// Everything that a decision says comes back from the log.
func TestDecisionRoundTrip(t *testing.T) {
	log := audittest.NewLog(t)
	duty := []audit.Obligation{{Kind: "max_bytes", Value: "10", Policy: "p"}}
	in := intent("a", "b")
	in.Decision = audit.Decision{
		ID: "d", Effect: audit.Allow, PolicyHash: "sha256:0", Obligations: duty,
		Policies: []audit.Policy{{ID: "p", Position: "f:1:1", Severity: "high", Reason: "why"}},
		Approval: &audit.Approval{ID: "x", By: "ann", Reason: "T-1", Groups: []string{"ops"}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		Would: []audit.Would{
			{Source: audit.WouldObserved, PolicyHash: "sha256:0", Effect: audit.Deny, Reason: "q", Policies: []audit.Policy{{ID: "q"}}},
			{Source: audit.WouldStaged, PolicyHash: "sha256:1", Effect: audit.Allow, Obligations: duty},
		},
	}
	_, err := log.Begin(ctx, in)
	require.NoError(t, err)
	var got audit.Record
	line, err := json.Marshal(log.Records()[0])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(line, &got))
	assert.Equal(t, in.Decision, got.Intent.Decision)
}

// The JSON of a record that was read is the line it was read from.
func TestRecordRoundTrip(t *testing.T) {
	log := audittest.NewLog(t)
	c, err := log.Begin(ctx, intent("a", "b\x1b"))
	require.NoError(t, err)
	require.NoError(t, c.End(ctx, audit.Outcome{
		Status: audit.StatusOK, Bytes: 1 << 60, Latency: time.Second, CredentialVersion: 3, Checks: []string{"scrubbed:github:2"},
		Usage: &audit.Usage{Model: "m", Input: 1, Output: 2, CacheRead: 3, CacheWrite: 4, Reasoning: 5, Final: true, Cost: 6, Charged: 7},
	}))
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindPolicy, Door: audit.DoorAdmin, Change: &audit.Change{By: "ann", Reason: "T-1"}}))
	var tree []tlog.Hash
	hashes := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range idx {
			out = append(out, tree[i])
		}
		return out, nil
	})
	n := int64(0)
	for line := range bytes.Lines(log.Storage.Bytes()) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if !bytes.HasPrefix(line, []byte(`{"seq":`)) {
			continue
		}
		r, err := audit.ParseRecord(line)
		require.NoError(t, err)
		again, err := json.Marshal(r)
		require.NoError(t, err)
		assert.Equal(t, string(line), string(again))
		more, err := tlog.StoredHashes(n, line, hashes)
		require.NoError(t, err)
		tree = append(tree, more...)
		n++
	}
	root, err := tlog.TreeHash(n, hashes)
	require.NoError(t, err)
	cp, err := log.Checkpoint(ctx)
	require.NoError(t, err)
	assert.Equal(t, root, cp.Root, "the root is tlog's")
	assert.Equal(t, uint64(n), cp.Size)
}

func TestRecordsThatAreNone(t *testing.T) {
	const time = `"time":"2026-01-01T00:00:00.000000000Z"`
	for _, line := range []string{
		``, `{}`, `null`, `[]`, `{"seq":1}`, `{"seq":1,` + time + `}`,
		`{"seq":1,` + time + `,"intent":{},"event":{}}`,
		`{"seq":1,` + time + `,"outcome":{}}`,
		`{"seq":3,` + time + `,"outcome":{},"call":3}`,
		`{"seq":3,` + time + `,"event":{},"call":2}`,
		`{"seq":1,` + time + `,"event":{}} ` + `{}`,
		`{"seq":-1,` + time + `,"event":{}}`,
		`{"seq":1.5,` + time + `,"event":{}}`,
		` {"seq":1,` + time + `,"event":{}}`,
	} {
		_, err := audit.ParseRecord([]byte(line))
		assert.Error(t, err, line)
	}
}
