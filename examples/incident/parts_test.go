package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/examples/internal/tell"
)

// The parts of the demonstration: each would notice what it is there to notice.

// traceOf is the trace of an agent's call number n.
func traceOf(i, n int) string {
	a := &agent{name: agentNames[i], number: i + 1}
	a.calls.Store(uint64(n - 1))
	return traceID(a.trace())
}

func TestTracesNameTheirAgent(t *testing.T) {
	for i, name := range agentNames {
		assert.Equal(t, name, agentOf(traceOf(i, 7)))
	}
	for _, s := range []string{"", "00", "xx-yy", strings.Repeat("0", 32), strings.Repeat("f", 32), strings.Repeat("z", 32)} {
		assert.Empty(t, agentOf(s), s)
	}
}

// Accounts that agree are fine, and each way in which they may not is found.
func TestCompare(t *testing.T) {
	killed := time.Now()
	type night struct {
		a       accounts
		journal []entry
		notes   map[string]noted
	}
	honest := func() *night {
		n := &night{a: accounts{traces: map[string][]*call{}}, notes: map[string]noted{}}
		for i := range 2 {
			for k := 1; k <= 3; k++ {
				c := &call{seq: uint64(10*i + k), agent: agentNames[i], action: "x", trace: traceOf(i, k), outcome: &audit.Outcome{Status: audit.StatusOK}, ended: killed.Add(-time.Second)}
				n.a.calls, n.a.traces[c.trace] = append(n.a.calls, c), []*call{c}
				n.journal = append(n.journal, entry{vendor: "slack", agent: c.agent, trace: c.trace, token: 1, text: "post " + c.trace})
				n.notes[c.trace] = noted{c.ended, "ok"}
			}
		}
		// The last call of the first agent was cut by the kill, that of the second by
		// the power cut.
		n.a.calls[2].outcome, n.a.calls[2].ended = &audit.Outcome{Status: audit.StatusCancelled, ErrorCode: audit.GuardRevoked}, killed.Add(time.Second)
		n.a.calls[5].outcome = nil
		n.notes[n.a.calls[2].trace] = noted{killed.Add(time.Second), "revoked"}
		delete(n.notes, n.a.calls[5].trace)
		n.a.denied = []denial{{Line: tell.Line{Agent: agentNames[0], Reason: audit.GuardRevoked}, at: killed.Add(time.Second)}}
		return n
	}
	for name, c := range map[string]struct {
		change func(*night)
		want   string
	}{
		"honest": {func(*night) {}, ""},
		"an agreement that a reload overtook": {func(n *night) {
			n.notes[traceOf(1, 9)] = noted{killed.Add(-time.Second), "approval-required"}
			n.a.denied = append(n.a.denied, denial{tell.Line{Agent: agentNames[1], Reason: audit.GuardApproval}, killed.Add(-time.Second), traceOf(1, 9)})
		}, ""},
		"a denial of one call, and another that failed": {func(n *night) {
			n.notes[traceOf(1, 1)] = noted{killed, "broken"}
			n.a.denied = append(n.a.denied, denial{tell.Line{Agent: agentNames[1], Reason: audit.GuardApproval}, killed.Add(-time.Second), traceOf(1, 9)})
		}, "failed for its agent"},
		"a request that nobody announced": {func(n *night) {
			n.journal = append(n.journal, entry{vendor: "model", agent: agentNames[0], trace: traceOf(0, 9), token: 1})
		}, "0 intents are on record"},
		"a request more than intents": {func(n *night) { n.journal[0].text = ""; n.journal = append(n.journal, n.journal[0]) }, "2 times, and 1 intents"},
		"a request without a trace":   {func(n *night) { n.journal[0].agent = "" }, "no trace"},
		"a post that came twice":      {func(n *night) { n.journal[1].text = n.journal[0].text }, "posted 2 times"},
		"an answer without a record":  {func(n *night) { n.notes[traceOf(1, 9)] = noted{killed, "ok"} }, "answered, and is not on record"},
		"an answer without an outcome": {func(n *night) {
			n.a.calls[4].outcome = nil
		}, "was answered, and record 12"},
		"a call that failed for its agent": {func(n *night) { n.notes[traceOf(1, 1)] = noted{killed, "broken"} }, "failed for its agent"},
		"a call of the killed one left open": {func(n *night) {
			n.a.calls[2].outcome = nil
		}, "has no outcome"},
		"an invention":                       {func(n *night) { n.journal = n.journal[1:] }, "no vendor knows of it"},
		"a call that failed before the kill": {func(n *night) { n.a.calls[2].ended = killed.Add(-time.Second) }, "cancelled (revoked)"},
		"a call of the other one that failed": {func(n *night) {
			n.a.calls[3].outcome = &audit.Outcome{Status: audit.StatusFailed, ErrorCode: "upstream-down"}
			delete(n.notes, n.a.calls[3].trace)
		}, "upstream-down"},
		"a denial before the kill": {func(n *night) { n.a.denied[0].at = killed.Add(-time.Second) }, "was denied"},
		"a denial of a stranger":   {func(n *night) { n.a.denied[0].Agent = "stranger" }, "was denied"},
	} {
		n := honest()
		c.change(n)
		wrongs := n.a.compare(n.journal, n.notes, map[string]time.Time{agentNames[0]: killed, agentNames[1]: killed.Add(time.Hour)})
		if c.want == "" {
			assert.Empty(t, wrongs, name)
			continue
		}
		if assert.NotEmpty(t, wrongs, name) {
			var all string
			for _, w := range wrongs {
				all += w.Error() + "\n"
			}
			assert.Contains(t, all, c.want, name)
		}
	}
}

// A disk keeps what was synced and the half of what was not.
func TestDisk(t *testing.T) {
	dir := t.TempDir()
	d, err := newDisk(filepath.Join(dir, "log"))
	require.NoError(t, err)
	f, err := d.Open("file")
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("synced"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	_, err = f.WriteAt([]byte("lost"), 6)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1))
	data, err := os.ReadFile(filepath.Join(dir, "log", "file"))
	require.NoError(t, err)
	assert.Equal(t, "syncedlo", string(data))
}

// Root's logs are signed as the real one is, and a checkpoint that was kept
// elsewhere tells them from it, but for what is later.
func TestForgeries(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	st, err := newDisk(filepath.Join(dir, "log"))
	require.NoError(t, err)
	log, err := audit.New(st, &audit.Options{Origin: "forged.example", KeyFile: filepath.Join(dir, "log.key")})
	require.NoError(t, err)
	write := func(n int) {
		for i := range n {
			require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Actor: audit.Actor{Agent: agentNames[i%2]}, Detail: map[string]string{"by": "dana@example.com"}}))
		}
	}
	write(10)
	anchor, err := log.Checkpoint(ctx)
	require.NoError(t, err)
	write(3)
	require.NoError(t, log.Close())
	verify := func(dir string, anchors ...string) error {
		_, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: log.VerifierKey(), Anchors: anchors})
		return err
	}
	require.NoError(t, verify(filepath.Join(dir, "log"), string(anchor.Text)))
	for _, f := range append(forgeries(anchor.Size), late(anchor.Size)) {
		made := filepath.Join(dir, f.name)
		require.NoError(t, forge(filepath.Join(dir, "log"), filepath.Join(dir, "log.key"), made, f), f.name)
		assert.NoError(t, verify(made), f.name)
		if err := verify(made, string(anchor.Text)); f.name == "late" {
			assert.NoError(t, err)
		} else {
			assert.ErrorIs(t, err, audit.ErrTampered, f.name)
		}
	}
	assert.ErrorIs(t, forge(filepath.Join(dir, "log"), filepath.Join(dir, "log.key"), filepath.Join(dir, "none"), late(1000)), errNothing)
}

// A chain with a gap, a row without one, and acts that none accounts for are found.
func TestBroken(t *testing.T) {
	const whole = `{"agents":[{"name":"a","done":3,"operations":[{"action":"slack__announce","done":3,"authorities":[0]}],
		"authorities":[{"owner":"o","profile":"p","registered":{"by":"x"},"policy_hash":"h","deployed":{"by":"y"},"approvals":[{"by":"d","calls":3}],"acts":3}]}]}`
	read := func(text string) (wrongs []string, rows int) {
		var q quarter
		require.NoError(t, json.Unmarshal([]byte(text), &q))
		return q.broken()
	}
	wrongs, rows := read(whole)
	assert.Empty(t, wrongs)
	assert.Equal(t, 1, rows)
	for from, to := range map[string]string{
		`"owner":"o"`:              `"owner":""`,
		`"profile":"p"`:            `"profile":""`,
		`"registered":{"by":"x"},`: ``,
		`"policy_hash":"h"`:        `"policy_hash":""`,
		`"deployed":{"by":"y"},`:   ``,
		`"acts":3`:                 `"acts":2`,
		`"calls":3`:                `"calls":2`,
		`"authorities":[0]`:        `"authorities":[]`,
		`"acts":`:                  `"missing":["who granted it"],"acts":`,
	} {
		require.Contains(t, whole, from)
		wrongs, _ := read(strings.Replace(whole, from, to, 1))
		assert.Len(t, wrongs, 1, "%s: %v", to, wrongs)
	}
}
