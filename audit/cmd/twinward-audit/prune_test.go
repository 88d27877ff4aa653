package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
)

// A year of records is pruned; every command copes, alone and with the archive.
func TestPruneRecords(t *testing.T) {
	base := t.TempDir()
	dir, old := filepath.Join(base, "log"), filepath.Join(base, "old")
	now := time.Now().Add(-400 * 24 * time.Hour)
	log, err := audit.Open(dir, &audit.Options{Origin: "host7", SegmentSize: 4000, Clock: func() time.Time { return now }})
	require.NoError(t, err)
	key := log.VerifierKey()
	by := &audit.Change{By: "olga", Reason: "T-1"}
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "register_agent", Resource: "standup", Change: by, Detail: map[string]string{audit.DetailOwner: "olga"}}))
	for range 390 {
		now = now.Add(24 * time.Hour)
		c, err := log.Begin(ctx, audit.Intent{Door: audit.DoorTool, Action: "slack__post", Actor: audit.Actor{Agent: "standup"}, Class: audit.ClassWrite, Args: json.RawMessage(`{"a":1}`), Decision: audit.Decision{ID: "d", Effect: audit.Allow}})
		require.NoError(t, err)
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	}
	require.NoError(t, log.Close())
	require.NoError(t, os.CopyFS(old, os.DirFS(dir)))

	code, out, errs := cli("prune", "-records", "-json", "-by", "dpo", "-reason", "six months", dir)
	require.Equal(t, exitOK, code, errs)
	var p audit.PrunedRecords
	require.NoError(t, json.Unmarshal([]byte(out), &p))
	assert.Greater(t, p.Segments, 30)
	assert.Greater(t, p.Values, 190)
	code, out, errs = cli("prune", "-records", "-by", "dpo", "-reason", "again", dir)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "removed:   0 records in 0 files")

	run := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := cli(args...)
		require.Equal(t, want, code, "%s%s", out, errs)
		return out + errs
	}
	assert.Contains(t, run(exitOK, "verify", "-key", key, dir), "by dpo: record 78")
	assert.Contains(t, run(exitOK, "show", dir), "register_agent standup")
	assert.Contains(t, run(exitOK, "export", "-format", "ndjson", dir), "register_agent")
	assert.Contains(t, run(exitFailed, "prove", "-record", "2", dir), "pruned")
	assert.Contains(t, run(exitOK, "prove", "-record", "1", dir), "tlog-proof")
	assert.Contains(t, run(exitOK, "values", dir), "0 pruned")
	calls := func(out string) int {
		var s report.Summary
		require.NoError(t, json.Unmarshal([]byte(out), &s))
		return int(s.Total.Done)
	}
	left := calls(run(exitOK, "report", "-json", "-key", key, dir))
	assert.Less(t, left, 200)
	assert.Greater(t, left, 170)

	both := old + string(os.PathListSeparator) + dir
	assert.NotContains(t, run(exitOK, "verify", "-key", key, both), "pruned:")
	assert.Equal(t, 390, calls(run(exitOK, "report", "-json", "-key", key, both)))
	assert.Equal(t, 390, strings.Count(run(exitOK, "show", both), "slack__post"))
	assert.Contains(t, run(exitOK, "prove", "-record", "2", both), "tlog-proof")

	// Deleted is not pruned.
	require.NoError(t, os.Remove(filepath.Join(dir, audit.SegmentName(p.Segments+1))))
	assert.Contains(t, run(exitFailed, "verify", "-key", key, dir), "changed")
}

// What is left of pruned records is in a file whose name comes after all others.
func TestTailFollowsAPrunedLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log[7]") // no pattern
	now := time.Now().Add(-400 * 24 * time.Hour)
	log, err := audit.Open(dir, &audit.Options{SegmentSize: 2000, Clock: func() time.Time { return now }})
	require.NoError(t, err)
	record := func(action string, n int) {
		for range n {
			require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Action: action}))
		}
	}
	record("old", 20)
	now = time.Now()
	record("new", 1)
	by := audit.Change{By: "dpo", Reason: "T-1"}
	p, err := log.PruneRecords(ctx, audit.Retention{Quiet: 400 * 24 * time.Hour}, by)
	require.NoError(t, err)
	require.Positive(t, p.Segments)

	follow, stop := context.WithCancel(ctx)
	var out, errs safe
	code := make(chan int)
	go func() { code <- run(follow, []string{"tail", "-f", "-n", "1", "-action", "new", dir}, &out, &errs) }()
	lines := func(n int) func() bool { return func() bool { return strings.Count(out.String(), "\n") == n } }
	require.Eventually(t, lines(1), time.Minute, 10*time.Millisecond)
	record("new", 1)
	require.Eventually(t, lines(2), time.Minute, 10*time.Millisecond, "%s%s", &out, &errs)
	stop()
	assert.Equal(t, exitOK, <-code, errs.String())
	require.NoError(t, log.Close())
	code1, out1, errs1 := cli("hold", "-by", "olga", "-reason", "T-2", "-matter", "m", dir)
	require.Equal(t, exitOK, code1, errs1)
	assert.Contains(t, out1, "holds in force: 1")
}
