package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

var ctx = context.Background()

// A stage is a closed log with what belongs to it.
type stage struct{ dir, anchor, key, keyFile, base string }

func newStage(t *testing.T) stage {
	t.Helper()
	base := t.TempDir()
	s := stage{base: base, dir: filepath.Join(base, "log"), anchor: filepath.Join(base, "anchor"), keyFile: filepath.Join(base, "pub")}
	log, err := audit.Open(s.dir, &audit.Options{Anchors: []audit.Anchor{audit.FileAnchor(s.anchor)}})
	require.NoError(t, err)
	s.key = log.VerifierKey()
	require.NoError(t, os.WriteFile(s.keyFile, []byte(s.key+"\n"), 0o600))
	allow := audit.Decision{ID: "d1", Effect: audit.Allow, Policies: []audit.Policy{{ID: "readers"}}}
	c, err := log.Begin(ctx, audit.Intent{Door: "tool", Action: "github__list", Actor: audit.Actor{Agent: "standup"}, Decision: allow})
	require.NoError(t, err)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: 7}))
	d := audit.Refusal("d2", audit.ReasonNoPermit)
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: "tool", Action: "slack__dms\x1b[2J\u202e", Actor: audit.Actor{Agent: "other"}, Decision: &d}))
	_, err = log.Begin(ctx, audit.Intent{Door: "model", Action: "invoke_model", Actor: audit.Actor{Agent: "other"}, Decision: allow})
	require.NoError(t, err)
	require.NoError(t, log.Close())
	return s
}

func cli(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestVerify(t *testing.T) {
	s := newStage(t)
	code, out, _ := cli("verify", "-key", s.key, "-anchor-copy", s.anchor, s.dir)
	assert.Equal(t, exitOK, code)
	assert.Contains(t, out, "records:  4 (4 signed, 4 anchored)")
	assert.Contains(t, out, "1 calls have no outcome: records 4")
	assert.NotContains(t, out, "No anchor")

	code, out, _ = cli("verify", "-key", s.keyFile, s.dir)
	assert.Equal(t, exitOK, code)
	assert.Contains(t, out, "No anchor was given. It cannot be excluded that records after number 4 were cut off")

	code, out, _ = cli("verify", "-json", "-key", s.key, "-anchor-copy", s.anchor, "-anchor-copy", s.anchor, s.dir)
	assert.Equal(t, exitOK, code)
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	assert.Equal(t, true, v["verified"])
	assert.Equal(t, 4.0, v["anchored"])
	assert.Equal(t, 2.0, v["anchors"])
}

func TestVerifyFails(t *testing.T) {
	s := newStage(t)
	file := filepath.Join(s.dir, audit.SegmentName(1))
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, bad := range map[string][]byte{
		"changed":    bytes.Replace(good, []byte("github__list"), []byte("github__lisp"), 1),
		"checkpoint": bytes.Replace(good, []byte("batch 2"), []byte("batch 7"), 1),
		"truncated":  good[:bytes.LastIndexByte(good[:len(good)-1], '\n')+1],
		"empty":      nil,
	} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		code, out, errs := cli("verify", "-key", s.key, "-anchor-copy", s.anchor, s.dir)
		assert.Equal(t, exitFailed, code, name)
		assert.Empty(t, out)
		assert.Contains(t, errs, "the log was changed", name)
		code, out, _ = cli("verify", "-json", "-key", s.key, "-anchor-copy", s.anchor, s.dir)
		assert.Equal(t, exitFailed, code, name)
		assert.Contains(t, out, `"verified": false`)
		code, _, _ = cli("report", "-key", s.key, "-anchor-copy", s.anchor, "-o", filepath.Join(s.base, name), s.dir)
		assert.Equal(t, exitFailed, code, name)
		assert.NoFileExists(t, filepath.Join(s.base, name))
	}
	code, _, _ := cli("verify", "-key", s.key, filepath.Join(s.base, "absent"))
	assert.Equal(t, exitFailed, code)
}

func TestShow(t *testing.T) {
	s := newStage(t)
	for _, c := range []struct {
		args  []string
		lines []string
	}{
		{nil, []string{"github__list", "of record 1, 7 bytes", "because no-permit", "invoke_model"}},
		{[]string{"-agent", "standup"}, []string{"github__list", "of record 1"}},
		{[]string{"-door", "model"}, []string{"invoke_model"}},
		{[]string{"-denied"}, []string{`slack__dms\u001b[2J\u202e`}},
		{[]string{"-denied", "-json"}, []string{`"action":"slack__dms\u001b[2J\u202e"`}},
	} {
		code, out, errs := cli(append(append([]string{"show"}, c.args...), s.dir)...)
		assert.Equal(t, exitOK, code, errs)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if !assert.Len(t, lines, len(c.lines), "%v", c.args) {
			continue
		}
		for i, want := range c.lines {
			assert.Contains(t, lines[i], want)
		}
	}
	code, _, _ := cli("show", filepath.Join(s.base, "absent"))
	assert.Equal(t, exitFailed, code)
	code, out, errs := cli("show", "-door", "tools", s.dir)
	assert.Equal(t, exitUsage, code)
	assert.Empty(t, out)
	assert.Contains(t, errs, "tool, compute, model, admin")
}

func TestShowTellsWhatAnEventHolds(t *testing.T) {
	ev := audit.Event{Kind: audit.KindList, Action: "list_tools", Detail: map[string]string{"shown": "2", "of": "5"}}
	assert.Contains(t, line(audit.Record{Seq: 1, Event: &ev}), "  of=5  shown=2")
}

func TestShowTellsWhatWasNotApplied(t *testing.T) {
	would := []audit.Would{
		{Source: audit.WouldObserved, Effect: audit.Deny, Reason: "no-dms"},
		{Source: audit.WouldStaged, Effect: audit.Allow, Policies: []audit.Policy{{ID: "p1"}, {ID: "p2"}}},
	}
	in := audit.Intent{Decision: audit.Decision{Effect: audit.Allow, Would: would, Approval: &audit.Approval{By: "ann"}}}
	text := line(audit.Record{Seq: 1, Intent: &in})
	assert.Contains(t, text, "  approved by ann  (would deny if observed: no-dms)  (would allow if staged: p1, p2)")
	ev := audit.Event{Kind: audit.KindDenial, Decision: &audit.Decision{Reason: audit.ReasonNoPermit, Would: would[1:]}}
	assert.Contains(t, line(audit.Record{Seq: 1, Event: &ev}), "because no-permit  (would allow if staged: p1, p2)")
}

func TestReport(t *testing.T) {
	s := newStage(t)
	out := filepath.Join(s.base, "out.html")
	code, _, errs := cli("report", "-key", s.key, "-anchor-copy", s.anchor, "-title", "Q4", "-o", out, s.dir)
	require.Equal(t, exitOK, code, errs)
	page, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Contains(t, string(page), "<h1>Q4</h1>")
	assert.Contains(t, string(page), "agrees with 1 anchor.")
}

func TestProveAndCheck(t *testing.T) {
	s := newStage(t)
	code, proof, errs := cli("prove", "-record", "3", s.dir)
	require.Equal(t, exitOK, code, errs)
	file := filepath.Join(s.base, "3.tlog-proof")
	require.NoError(t, os.WriteFile(file, []byte(proof), 0o600))
	code, out, errs := cli("check", "-key", s.keyFile, file)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "proven: record 3 is in the log")
	assert.Contains(t, out, `slack__dms\u001b[2J\u202e`)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(proof, "index 2", "index 1", 1)), 0o600))
	code, out, _ = cli("check", "-key", s.key, file)
	assert.Equal(t, exitFailed, code)
	assert.Empty(t, out)
	code, _, _ = cli("prove", "-record", "9", s.dir)
	assert.Equal(t, exitFailed, code)
}

func TestUsage(t *testing.T) {
	s := newStage(t)
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"verify"}, {"verify", s.dir}, {"verify", "-key", s.key}, {"verify", "-nope", s.dir},
		{"verify", "-key", s.key, s.dir, s.dir}, {"verify", "-key", "/no/such/file", s.dir},
		{"verify", "-key", s.key, "-anchor", "/no/such/file", s.dir}, {"report", "-key", s.key, s.dir}, {"show"}, {"prove", s.dir}, {"check", s.dir},
	} {
		code, out, errs := cli(args...)
		assert.Equal(t, exitUsage, code, "%v", args)
		assert.Empty(t, out)
		assert.Contains(t, errs, "Usage:", "%v", args)
	}
	code, out, _ := cli("help")
	assert.Equal(t, exitOK, code)
	assert.Contains(t, out, "Exit status")
}

// An anchor counts where the log's owner cannot reach it, or if it was brought
// from there, or if a witness signed it.
func TestAnchorsThatCount(t *testing.T) {
	s := newStage(t)
	code, out, errs := cli("verify", "-key", s.key, "-anchor", s.anchor, s.dir)
	require.Equal(t, 0, code, errs)
	assert.Contains(t, out, "(4 signed, 0 anchored)")
	assert.Contains(t, out, "No anchor was given that the log's writer cannot change")
	code, _, errs = cli("verify", "-key", s.key, "-anchor", s.anchor, "-witness", "nobody", s.dir)
	assert.Equal(t, 1, code, errs)
	assert.Contains(t, errs, "is not the verifier key of a witness")
}

// The auditor's schedule keeps the newest checkpoint, and the last good one when
// the log was changed.
func TestAnchorCommand(t *testing.T) {
	s := newStage(t)
	file := filepath.Join(s.base, "kept")
	code, out, errs := cli("anchor", "-key", s.key, "-o", file, s.dir)
	require.Equal(t, 0, code, errs)
	assert.Contains(t, out, "anchored: records 1 to 4")
	assert.Contains(t, out, "it does not count here")
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	code, _, errs = cli("verify", "-key", s.key, "-anchor-copy", file, s.dir)
	require.Equal(t, 0, code, errs)

	log, err := audit.Open(s.dir, nil)
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe}))
	require.NoError(t, log.Close())
	code, out, errs = cli("anchor", "-key", s.key, "-o", file, s.dir)
	require.Equal(t, 0, code, errs)
	assert.Contains(t, out, "anchored: records 1 to 5")
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.NotEqual(t, before, after)

	segment := filepath.Join(s.dir, audit.SegmentName(1))
	data, err := os.ReadFile(segment)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(segment, data[:bytes.Index(data, []byte("batch 4"))-200], 0o600)) // rolled back
	code, _, _ = cli("anchor", "-key", s.key, "-o", file, s.dir)
	assert.Equal(t, 1, code)
	still, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, after, still)
	code, _, _ = cli("anchor", "-key", s.key, s.dir)
	assert.Equal(t, 2, code)
}

// JSON on a terminal does not drive it either: an agent chose the name of this
// action.
func TestJSONShowsWhatIsHidden(t *testing.T) {
	s := newStage(t)
	for _, args := range [][]string{{"report", "-json", "-key", s.key, s.dir}, {"verify", "-json", "-key", s.key, s.dir}} {
		code, out, errs := cli(args...)
		require.Equal(t, exitOK, code, errs)
		assert.True(t, json.Valid([]byte(out)))
		assert.Equal(t, -1, strings.IndexFunc(strings.ReplaceAll(out, "\n", ""), visible.Hidden), args[0])
		assert.Equal(t, args[0] == "report", strings.Contains(out, `slack__dms\u001b[2J\u202e`))
	}
}

// Between the words of JSON there may be more than blanks: none of that gets to a
// terminal.
func TestBlanksThatAreNone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log, err := audit.Open(dir, nil)
	require.NoError(t, err)
	require.NoError(t, log.Close())
	name := filepath.Join(dir, audit.SegmentName(1))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	head, _, _ := strings.Cut(string(text), "\n")
	forged := head + "\n" + `{"seq":1,"time":"2026-11-28T09:00:00.000000000Z",` + "\r\t" + `"event":{"kind":"probe","door":"","action":"a","resource":""}}` + "\n"
	require.NoError(t, os.WriteFile(name, []byte(forged), 0o600))
	for _, args := range [][]string{{"show", "-json", dir}, {"tail", "-json", dir}, {"export", "-format", "ndjson", dir}, {"export", "-format", "otlp", dir}, {"export", "-subject", "agent=x", dir}} {
		code, out, errs := cli(args...)
		require.Equal(t, exitOK, code, errs)
		assert.Equal(t, -1, strings.IndexFunc(strings.TrimSuffix(out, "\n"), visible.Hidden), "%s: %q", args[:2], out)
	}
}

// A file that is too large is said to be, and not read in part.
func TestFilesThatAreTooLarge(t *testing.T) {
	s := newStage(t)
	large := filepath.Join(s.base, "large")
	phrases := `{"a": {"one": "x"}}` + strings.Repeat(" ", 1<<20)
	for _, c := range []struct {
		size, code int
	}{{1 << 20, exitOK}, {1<<20 + 1, exitUsage}} {
		require.NoError(t, os.WriteFile(large, []byte(phrases[:c.size]), 0o600))
		code, _, errs := cli("report", "-json", "-key", s.key, "-phrases", large, s.dir)
		assert.Equal(t, c.code, code, errs)
		assert.Equal(t, c.code == exitUsage, strings.Contains(errs, "larger than 1048576 bytes"), errs)
	}
}
