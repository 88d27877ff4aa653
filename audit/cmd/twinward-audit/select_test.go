package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
)

// A day is a log with a clock, a minute between records.
type day struct {
	*audit.Log
	t            *testing.T
	dir, anchor  string
	now          time.Time
	key, keyFile string
}

func newDay(t *testing.T, origin string) *day {
	t.Helper()
	base := t.TempDir()
	d := &day{t: t, dir: filepath.Join(base, "log"), anchor: filepath.Join(base, "anchor"), keyFile: filepath.Join(base, "pub"), now: time.Date(2026, 11, 16, 9, 0, 0, 0, time.UTC)}
	var err error
	d.Log, err = audit.Open(d.dir, &audit.Options{Origin: origin, Anchors: []audit.Anchor{audit.FileAnchor(d.anchor)}, Clock: func() time.Time { return d.now }})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	d.key = d.VerifierKey()
	return d
}

func (d *day) call(agent, door, action, policy string, out audit.Outcome) {
	d.t.Helper()
	in := audit.Intent{Door: door, Action: action, Resource: fmt.Sprintf("Tool::%q", action), Actor: audit.Actor{Agent: agent},
		Decision: audit.Decision{ID: "d", Effect: audit.Allow, PolicyHash: "sha256:aa", Policies: []audit.Policy{{ID: policy}}}}
	if door == audit.DoorTool {
		in.Credential = &audit.CredentialUse{Name: "key", Decision: audit.Decision{Effect: audit.Allow, Policies: []audit.Policy{{ID: "use-key"}}}}
	}
	c, err := d.Begin(ctx, in)
	require.NoError(d.t, err)
	d.now = d.now.Add(time.Minute)
	out.Latency = time.Second
	require.NoError(d.t, c.End(ctx, out))
	d.now = d.now.Add(time.Minute)
}

func (d *day) event(ev audit.Event) {
	d.t.Helper()
	require.NoError(d.t, d.Append(ctx, ev))
	d.now = d.now.Add(time.Minute)
}

// workday is the log that the tests below look at.
func workday(t *testing.T) *day {
	d := newDay(t, "host7")
	d.event(audit.Event{Kind: audit.KindPolicy, Door: audit.DoorAdmin, Action: "reload", Resource: `Policy::"sha256:aa"`, Change: &audit.Change{By: "olga", Reason: "T-1"}, Detail: map[string]string{audit.DetailPolicyHash: "sha256:aa"}})
	d.call("standup", audit.DoorTool, "github__list_prs", "readers", audit.Outcome{Status: audit.StatusOK, Bytes: 7})
	d.call("standup", audit.DoorModel, "invoke_model", "models", audit.Outcome{Status: audit.StatusFailed, ErrorCode: "timeout"})
	no := audit.Decision{ID: "d2", Effect: audit.Deny, Reason: "no-dms", Policies: []audit.Policy{{ID: "no-dms"}}}
	d.event(audit.Event{Kind: audit.KindDenial, Door: audit.DoorTool, Action: "slack__read_dms", Actor: audit.Actor{Agent: "other"}, Decision: &no})
	guard := audit.Refusal("d3", audit.GuardUnlistedHost)
	d.event(audit.Event{Kind: audit.KindDenial, Door: audit.DoorCompute, Action: "connect", Resource: `Host::"example.com"`, Actor: audit.Actor{Agent: "other"}, Decision: &guard})
	d.call("other", audit.DoorTool, "github__list_prs", "readers", audit.Outcome{Status: audit.StatusOK, Bytes: 9})
	require.NoError(t, d.Close())
	return d
}

var golden = []string{
	`     1  2026-11-16 09:00:00.000  policy.load                       reload Policy::"sha256:aa"  by olga: T-1  policy_hash=sha256:aa`,
	`     2  2026-11-16 09:01:00.000  allow            standup          github__list_prs Tool::"github__list_prs"  [readers]  credential key`,
	`     3  2026-11-16 09:02:00.000  ok               of record 2, 7 bytes, 1s`,
	`     4  2026-11-16 09:03:00.000  allow            standup          invoke_model Tool::"invoke_model"  [models]`,
	`     5  2026-11-16 09:04:00.000  failed           of record 4, 0 bytes, 1s  timeout`,
	`     6  2026-11-16 09:05:00.000  deny             other            slack__read_dms   because no-dms`,
	`     7  2026-11-16 09:06:00.000  deny             other            connect Host::"example.com"  because unlisted-host`,
	`     8  2026-11-16 09:07:00.000  allow            other            github__list_prs Tool::"github__list_prs"  [readers]  credential key`,
	`     9  2026-11-16 09:08:00.000  ok               of record 8, 9 bytes, 1s`,
}

func TestSelections(t *testing.T) {
	d := workday(t)
	for _, c := range []struct {
		args string
		want []int
	}{
		{"", []int{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"-agent standup", []int{2, 3, 4, 5}},
		{"-door tool", []int{2, 3, 6, 8, 9}},
		{"-action github__list_prs", []int{2, 3, 8, 9}},
		{"-action github__list_prs -agent other", []int{8, 9}},
		{"-kind policy.load", []int{1}},
		{"-decision allow", []int{2, 3, 4, 5, 8, 9}},
		{"-decision deny", []int{6, 7}},
		{"-denied", []int{6, 7}},
		{"-policy no-dms", []int{6}},
		{"-policy unlisted-host", []int{7}},
		{"-policy use-key", []int{2, 3, 8, 9}},
		{"-since 2026-11-16T09:06:00Z", []int{7, 8, 9}},
		{"-until 2026-11-16T09:01:30Z", []int{1, 2, 3}}, // with the outcome of its call
		{"-since 2026-11-16 -until 2026-11-17", []int{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"-since 2026-11-17", nil},
		{"-seq 8", []int{8, 9}},
		{"-agent nobody", nil},
	} {
		var want strings.Builder
		for _, n := range c.want {
			want.WriteString(golden[n-1] + "\n")
		}
		code, out, errs := cli(append(append([]string{"show"}, strings.Fields(c.args)...), d.dir)...)
		assert.Equal(t, exitOK, code, errs)
		assert.Equal(t, want.String(), out, c.args)

		code, out, _ = cli(append(append([]string{"export", "-format", "ndjson"}, strings.Fields(c.args)...), d.dir)...)
		assert.Equal(t, exitOK, code)
		_, asJSON, _ := cli(append(append([]string{"show", "-json"}, strings.Fields(c.args)...), d.dir)...)
		assert.Equal(t, asJSON, out)
		assert.Equal(t, len(c.want), strings.Count(out, "\n"), c.args)

		last := c.want[max(0, len(c.want)-2):]
		want.Reset()
		for _, n := range last {
			want.WriteString(golden[n-1] + "\n")
		}
		code, out, errs = cli(append(append([]string{"tail", "-n", "2"}, strings.Fields(c.args)...), d.dir)...)
		assert.Equal(t, exitOK, code, errs)
		assert.Equal(t, want.String(), out, c.args)
	}
}

func TestSelectionsThatAreNone(t *testing.T) {
	d := workday(t)
	for _, args := range []string{
		"show -decision maybe", "show -denied -decision allow", "show -since yesterday", "show -until -3h", "tail -n -1", "tail -door x",
		"export", "export -format xml", "export -format csv -anchor " + d.anchor, "export -format csv -door x",
		"report -json", "report -json -key " + d.key + " -key " + d.key, "report -json -key " + d.key + " -phrases /no/such", "report -from x -key " + d.key,
	} {
		code, out, errs := cli(append(strings.Fields(args), d.dir)...)
		assert.Equal(t, exitUsage, code, args)
		assert.Empty(t, out, args)
		assert.Contains(t, errs, "Usage:", args)
	}
}

// A safe is a buffer that two goroutines may use.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestTailFollows(t *testing.T) {
	d := newDay(t, "host7")
	c, err := d.Begin(ctx, audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: audit.Decision{Effect: audit.Allow}})
	require.NoError(t, err)
	follow, stop := context.WithCancel(ctx)
	var out, errs safe
	code := make(chan int)
	go func() { code <- run(follow, []string{"tail", "-f", "-action", "a__b", d.dir}, &out, &errs) }()
	lines := func(n int) func() bool { return func() bool { return strings.Count(out.String(), "\n") == n } }
	require.Eventually(t, lines(1), time.Minute, 10*time.Millisecond)
	d.event(audit.Event{Kind: audit.KindProbe, Action: "another"})
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	require.Eventually(t, lines(2), time.Minute, 10*time.Millisecond, "%s%s", &out, &errs)
	assert.Contains(t, out.String(), "of record 1")
	stop()
	assert.Equal(t, exitOK, <-code, errs.String())
}

func TestReportOfAPeriod(t *testing.T) {
	d := workday(t)
	phrases := filepath.Join(t.TempDir(), "phrases.json")
	require.NoError(t, os.WriteFile(phrases, []byte(`{"github__list_prs": {"did": "read", "do": "read", "one": "list of PRs", "many": "lists of PRs"}}`), 0o600))
	code, out, errs := cli("report", "-json", "-key", d.key, "-anchor-copy", d.anchor, "-agent", "standup", "-from", "2026-11-16", "-to", "2026-11-17", "-phrases", phrases, d.dir)
	require.Equal(t, exitOK, code, errs)
	var s report.Summary
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	assert.Equal(t, report.Tally{Done: 1, Failed: 1}, s.Total)
	require.Len(t, s.Agents, 1)
	assert.Equal(t, "read 1 list of PRs", s.Agents[0].Sentences[0].Text)
	assert.Equal(t, "olga", s.Agents[0].Authorities[0].Deployed.By)
	assert.Equal(t, "host7", s.Logs[0].Origin)
	assert.EqualValues(t, 9, s.Logs[0].Verified.Anchored)

	require.NoError(t, os.WriteFile(phrases, []byte(`{"x": {"dit": "read"}}`), 0o600))
	code, _, errs = cli("report", "-json", "-key", d.key, "-phrases", phrases, d.dir)
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, errs, `unknown field "dit"`)
}

// Keys and anchors find their logs by name, in any order.
func TestReportOfManyLogs(t *testing.T) {
	a, b := workday(t), newDay(t, "host8")
	b.call("standup", audit.DoorTool, "github__list_prs", "readers", audit.Outcome{Status: audit.StatusOK})
	require.NoError(t, b.Close())
	out := filepath.Join(t.TempDir(), "out.html")
	code, _, errs := cli("report", "-key", b.key, "-anchor-copy", a.anchor, "-key", a.key, "-anchor-copy", b.anchor, "-o", out, a.dir, b.dir)
	require.Equal(t, exitOK, code, errs)
	page, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(string(page), "agrees with 1 anchor."))
	assert.Contains(t, string(page), "3 done, 2 blocked, 1 failed")
	assert.Contains(t, string(page), "host8 1")

	for _, args := range [][]string{
		{"-key", a.key, a.dir, b.dir},
		{"-key", a.key, "-key", a.key, a.dir, b.dir},
		{"-key", a.key, "-key", newDay(t, "host9").key, "-anchor-copy", b.anchor, a.dir, b.dir},
	} {
		code, _, errs = cli(append([]string{"report", "-o", out}, args...)...)
		assert.Equal(t, exitUsage, code, errs)
	}
	// The other's log with the wrong keys, and one log twice.
	code, _, errs = cli("report", "-o", out, "-key", a.key, "-key", newDay(t, "host9").key, a.dir, b.dir)
	assert.Equal(t, exitFailed, code, errs)
	code, _, errs = cli("report", "-o", out, "-key", a.key, "-key", b.key, a.dir, a.dir)
	assert.Equal(t, exitFailed, code, errs)
	assert.Contains(t, errs, "two logs have the name")
}

func TestExport(t *testing.T) {
	d := workday(t)
	for format, first := range map[string]string{
		"ndjson": `{"seq":1,`, "csv": "record,outcome_record,", "ocsf": `{"activity_id":`, "ocsf-1.9": `{"activity_id":`, "cloudevents": `{"specversion":"1.0","id":"1","source":"host7"`,
	} {
		file := filepath.Join(t.TempDir(), "out")
		code, out, errs := cli("export", "-format", format, "-key", d.key, "-anchor-copy", d.anchor, d.dir)
		assert.Equal(t, exitOK, code, errs)
		assert.True(t, strings.HasPrefix(out, first), out)
		code, none, _ := cli("export", "-format", format, "-origin", "host7", "-o", file, d.dir)
		assert.Equal(t, exitOK, code)
		assert.Empty(t, none)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, out, string(text))
	}
	_, out, _ := cli("export", "-format", "ocsf-1.9", d.dir)
	assert.Contains(t, out, `"ai_agent":{"uid":"standup"}`)

	// Whatever files a log consists of.
	require.NoError(t, filepath.WalkDir(d.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return os.WriteFile(name, bytes.Replace(text, []byte("standup"), []byte("stendup"), 1), 0o600)
	}))
	code, out, _ := cli("export", "-format", "csv", "-key", d.key, d.dir)
	assert.Equal(t, exitFailed, code)
	assert.Empty(t, out)
}
