package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// standup is a copy of a small bundle, with a test.
func standup(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("../../testdata/standup")))
	write(t, dir, "tests/slack.json", `[
{"name": "the standup", "agent": "standup-bot", "tool": "slack__post_message", "args": {"channel": "#engineering", "text": "x"}, "expect": "allow"},
{"agent": "standup-bot", "tool": "slack__post_message", "args": {"channel": "#executive", "text": "x"}, "expect": "deny", "reason": "no-executive-channel"}
]`)
	return dir
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func edit(t *testing.T, dir, name, old, with string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	require.Contains(t, string(text), old)
	write(t, dir, name, strings.Replace(string(text), old, with, 1))
}

// try runs the command and returns its exit status and what it printed.
func try(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(in), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// golden runs the command and wants exactly this.
func golden(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	got, out, errs := try(t, "", args...)
	assert.Equal(t, code, got, "%v: %s", args, errs)
	assert.Equal(t, want, out, "%v: %s", args, errs)
}

const policyFile = "policies/standup.cedar"

func TestCheck(t *testing.T) {
	dir := standup(t)
	golden(t, 0, "ok: 6 policies, 6 generated from profiles, 6 tools, 2 cases pass\n", "check", dir)

	code, out, _ := try(t, "", "check", "-json", dir)
	assert.Equal(t, 0, code)
	var c checked
	require.NoError(t, json.Unmarshal([]byte(out), &c))
	assert.True(t, c.OK)
	assert.Equal(t, 2, c.Cases)
	assert.True(t, strings.HasPrefix(c.Hash, "sha256:"))

	edit(t, dir, policyFile, `"*executive*"`, `"*exec"`)
	golden(t, 1, `tests/slack.json[1]: want deny because of no-executive-channel, got deny because of no-permit; nearest is standup-in-engineering
`, "check", dir)
	edit(t, dir, policyFile, `context.args.channel ==`, `context.args.chanel ==`)
	code, out, _ = try(t, "", "check", dir)
	assert.Equal(t, 1, code)
	assert.Regexp(t, `^policies/standup\.cedar:\d+:\d+: error: policy "standup-in-engineering": `, out)
	assert.Contains(t, out, "channel")

	code, out, _ = try(t, "", "check", filepath.Join(dir, "nowhere"))
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "not usable")
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	good := write(t, dir, "a.cedar", `@id("a") permit (principal, action, resource) when { context.whatever };`)
	golden(t, 0, "ok: 1 policies, 0 generated from profiles, 0 tools, 0 cases pass\n", "check", good)
	bad := write(t, dir, "b.cedar", "\n@id(\"a\") forbid (principal, action, resource);\npermit (principal, action, resource);")
	code, out, _ := try(t, "", "check", good, bad)
	assert.Equal(t, 1, code)
	assert.Contains(t, out, bad+`:2:1: error: policy "a": the @id is taken by the policy at `+good+`:1:1`)
	assert.Contains(t, out, bad+":3:1: error: a policy has no @id")
	code, _, errs := try(t, "", "check", good, dir)
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, "no .cedar file")
}

func TestTest(t *testing.T) {
	dir := standup(t)
	golden(t, 0, `policies/standup.cedar:2:1: no case is about policy "github-read"
policies/standup.cedar:29:1: no case is about policy "model"
policies/standup.cedar:26:1: no case is about policy "nothing-that-deletes"
policies/standup.cedar:36:1: no case is about policy "own-credentials"
2 cases, 0 failed
`, "test", dir)
	code, out, _ := try(t, "", "test", "-mutate", "-min", "90", dir)
	assert.Equal(t, 1, code, "two cases hold little")
	assert.Contains(t, out, `nobody notices in policy "model": removed`)
	code, out, _ = try(t, "", "test", "-mutate", "-min", "10", "-json", dir)
	assert.Equal(t, 0, code)
	var r tested
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	assert.Equal(t, r.Mutants, r.Killed+len(r.Survivors))

	edit(t, dir, "tests/slack.json", `"expect": "allow"`, `"expect": "deny"`)
	code, out, _ = try(t, "", "test", dir)
	assert.Equal(t, 1, code)
	assert.Contains(t, out, `tests/slack.json[0] "the standup": want deny, got allow by standup-in-engineering`)
	edit(t, dir, "tests/slack.json", `"expect"`, `"expcet"`)
	code, _, errs := try(t, "", "test", dir)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "tests/slack.json[0]")
}

func TestExplain(t *testing.T) {
	dir := standup(t)
	golden(t, 1, `denied: no-permit
hint for the agent: This is not permitted to you.
permit standup-in-engineering needs context.args.channel == "#engineering"; it is "#random" (policies/standup.cedar:9:1)
`, "explain", "-agent", "standup-bot", "-tool", "slack__post_message", "-args", `{"channel":"#random","text":"x"}`, dir)
	golden(t, 1, "denied\nhint for the agent: This is not permitted to you with this value of channel.\n",
		"explain", "-to-agent", "-agent", "standup-bot", "-tool", "slack__post_message", "-args", `{"channel":"#random","text":"x"}`, dir)
	golden(t, 0, `allowed
permit own-credentials applies to Agent::"standup-bot" (policies/standup.cedar:36:1)
`, "explain", "-agent", "standup-bot", "-action", "use_credential", "-name", "github", "-attr", "server=github", dir)
	code, out, _ := try(t, "", "explain", "-json", "-agent", "standup-bot", "-action", "invoke_model", "-server", "openai", "-name", "gpt-5-mini", "-attr", "stream=true", "-attr", "spent=3", "-attr", "tools=[a,b]", dir)
	assert.Equal(t, 0, code, out)
	assert.Contains(t, out, `"Allowed": true`)
	for _, args := range [][]string{
		{"explain", dir}, {"explain", "-agent", "a", dir}, {"explain", "-agent", "a", "-tool", "t", dir},
		{"explain", "-agent", "a", "-action", "connect", "-attr", "x", dir}, {"explain", "-agent", "a", "-tool", "s__t"},
	} {
		code, _, errs := try(t, "", args...)
		assert.Equal(t, 2, code, args)
		assert.Contains(t, errs, "Usage:")
	}
}

// recorded makes a tape by a bundle.
func recorded(t *testing.T, dir string, channels ...string) string {
	t.Helper()
	_, s, err := compile(t.Context(), dir)
	require.NoError(t, err)
	var tape bytes.Buffer
	w := governance.NewTapeWriter(&tape)
	for _, c := range channels {
		r := governance.Request{
			Actor: audit.Actor{Agent: "standup-bot"}, Action: "call_tool", Server: "slack", Name: "post_message",
			Args: fmt.Appendf(nil, `{"channel":%q,"text":"All done, see you."}`, c), Time: time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC),
		}
		d, err := s.Decide(context.Background(), r)
		require.NoError(t, err)
		w.Record(governance.Recorded{Request: r, Decision: d.Decision})
	}
	require.NoError(t, w.Err())
	return tape.String()
}

func TestReplayAndDiff(t *testing.T) {
	dir := standup(t)
	tape := recorded(t, dir, "#engineering", "#random", "#executive")
	file := write(t, t.TempDir(), "calls.jsonl", tape)
	golden(t, 0, "3 requests decided again: 1 allowed, 2 denied\n", "replay", dir, file)

	next := standup(t)
	edit(t, next, policyFile, `== "#engineering"`, `== "#random"`)
	code, out, _ := try(t, tape, "replay", next, "-")
	assert.Equal(t, 1, code)
	assert.Equal(t, `3 requests decided again: 1 allowed, 2 denied
1 now-allowed
1 now-denied
#1 now-denied: standup-bot call_tool on Tool::"slack__post_message": allow (standup-in-engineering) -> deny (no-permit)
#2 now-allowed: standup-bot call_tool on Tool::"slack__post_message": deny (no-permit) -> allow (standup-in-engineering)
`, out)
	code, out, _ = try(t, tape, "replay", "-json", next, "-")
	assert.Equal(t, 1, code)
	var rep governance.ReplayReport
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	assert.Equal(t, 3, rep.Decided)
	code, _, errs := try(t, tape[:len(tape)-9], "replay", dir, "-")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "line 3")

	code, out, _ = try(t, "", "diff", dir, next)
	assert.Equal(t, 1, code)
	assert.Regexp(t, "^changed: standup-in-engineering\n1 found in \\d+ requests over \\d+ pairs of actor and target\nnow-", out)
	code, out, _ = try(t, "", "diff", dir, dir)
	assert.Equal(t, 0, code)
	assert.Equal(t, "none found in 0 requests over 0 pairs of actor and target\n", out)
	code, out, _ = try(t, "", "diff", "-json", "-tries", "5000", "-seed", "3", dir, next)
	assert.Equal(t, 1, code)
	var diff governance.DiffReport
	require.NoError(t, json.Unmarshal([]byte(out), &diff))
	assert.Len(t, diff.Witnesses, 1)
}

func TestSuggest(t *testing.T) {
	dir := standup(t)
	tape := recorded(t, dir, "#engineering", "#engineering", "#executive")
	code, out, errs := try(t, tape, "suggest", dir, "-")
	require.Equal(t, 0, code, errs)
	assert.Contains(t, out, `@id("suggested/standup/slack__post_message")
@generated("from 2 requests, 2026-11-27 to 2026-11-27")
permit (principal in Profile::"standup", action == Action::"slack__post_message", resource)
when {
  context.args.channel == "#engineering"`)
	assert.Contains(t, out, "// All of the 2 requests that were allowed still are")
	assert.Contains(t, out, "// not used, and denied now: standup: github__list_pull_requests")
	n, findings := governance.CheckSyntax([]governance.Source{{Name: "out.cedar", Text: out}})
	assert.Equal(t, 1, n)
	assert.Empty(t, findings)
	code, out, _ = try(t, tape, "suggest", "-json", "-values", "2", "-free", "slack__post_message/channel", dir, "-")
	assert.Equal(t, 0, code)
	var s suggested
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	assert.NotContains(t, s.Text, "#engineering")
}

// Only the annotation goes; every other byte stays.
func TestPromote(t *testing.T) {
	dir := standup(t)
	const odd = `

// @mode("observe") in a comment, and another in a text:
@id("careful") // that's @mode("observe"), with one " more
@reason("see https://example.com")	@mode("observe") @owner("not @mode(\"observe\")")
forbid (principal, action in Action::"github:read", resource)  ;
@mode ( "observe" )
@id("later")
forbid (principal, action in Action::"github:write", resource); // the end`
	edit(t, dir, policyFile, "// Reading GitHub", odd+"\n// Reading GitHub")
	before, err := os.ReadFile(filepath.Join(dir, policyFile))
	require.NoError(t, err)
	golden(t, 0, "careful is enforced now\n", "promote", dir, "careful")
	after, err := os.ReadFile(filepath.Join(dir, policyFile))
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(string(before), "\t@mode(\"observe\") @owner", "\t@owner", 1), string(after))
	golden(t, 0, "later is enforced now\n", "promote", dir, "later")
	last, err := os.ReadFile(filepath.Join(dir, policyFile))
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(string(after), "@mode ( \"observe\" )\n", "", 1), string(last))
	for id, want := range map[string]string{"later": "in force already", "nobody": "there is no policy"} {
		code, _, errs := try(t, "", "promote", dir, id)
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, want)
	}
	now, err := os.ReadFile(filepath.Join(dir, policyFile))
	require.NoError(t, err)
	assert.Equal(t, last, now)
}

func TestSchema(t *testing.T) {
	code, out, _ := try(t, "", "schema", standup(t))
	assert.Equal(t, 0, code)
	assert.Contains(t, out, `action "slack__post_message" in ["slack:write"] appliesTo`)
}

func TestInit(t *testing.T) {
	const tools = `{"jsonrpc":"2.0","id":1,"result":{"tools":[
{"name":"get_page","inputSchema":{"type":"object","properties":{"id":{"type":"string"}}},"annotations":{"readOnlyHint":true}},
{"name":"add_page","inputSchema":{"type":"object"},"annotations":{"destructiveHint":false},"_meta":{"x":1}},
{"name":"drop_page","inputSchema":{"type":"object"}}]}}`
	dir := filepath.Join(t.TempDir(), "bundle")
	code, out, errs := try(t, tools, "init", "-server", "wiki", "-agent", "reader", "-profile", "readers", dir)
	require.Equal(t, 0, code, errs)
	assert.Equal(t, "REVIEW.md\ncatalog/wiki.json\nprofiles/readers.yaml\npolicies/wiki.cedar\ntests/first.json\n", out)
	golden(t, 0, "ok: 1 policies, 2 generated from profiles, 3 tools, 1 cases pass\n", "check", dir)
	review, err := os.ReadFile(filepath.Join(dir, "REVIEW.md"))
	require.NoError(t, err)
	assert.Contains(t, string(review), `- [ ] get_page: read (the server says readOnlyHint)
- [ ] add_page: write (the server says that it is not destructive)
- [ ] drop_page: destructive (the server does not say that it is harmless)
`)
	// Nothing is permitted on the server's word.
	for _, tool := range []string{"get_page", "add_page", "drop_page"} {
		code, _, _ := try(t, "", "explain", "-agent", "reader", "-tool", "wiki__"+tool, dir)
		assert.Equal(t, 1, code, tool)
	}
	code, _, errs = try(t, tools, "init", "-server", "wiki", dir)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "is not empty")
	for in, want := range map[string]string{`{}`: "there are none", `{`: "the tools"} {
		code, _, errs := try(t, in, "init", "-server", "wiki", filepath.Join(t.TempDir(), "b"))
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, want)
	}
	code, _, _ = try(t, tools, "init", dir)
	assert.Equal(t, 2, code)
}

func TestSignAndVerify(t *testing.T) {
	dir, keys := standup(t), t.TempDir()
	person := func(name string) (file, verifier string) {
		skey, vkey, err := note.GenerateKey(rand.Reader, name)
		require.NoError(t, err)
		return write(t, keys, name, skey+"\n"), vkey
	}
	ann, annKey := person("ann")
	bob, bobKey := person("bob")
	bobFile := write(t, keys, "bob.pub", bobKey+"\n")

	code, _, errs := try(t, "", "verify", "-author", annKey, "-reviewer", bobFile, dir)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "signatures")
	code, out, errs := try(t, "", "sign", "-key", ann, dir)
	require.Equal(t, 0, code, errs)
	assert.Contains(t, out, "ann has signed sha256:")
	code, _, errs = try(t, "", "sign", "-key", ann, dir)
	assert.Equal(t, 1, code, "nobody reviews their own")
	assert.Contains(t, errs, "somebody else")
	code, _, errs = try(t, "", "sign", "-key", bob, dir)
	require.Equal(t, 0, code, errs)
	code, out, errs = try(t, "", "verify", "-author", annKey, "-reviewer", bobFile, dir)
	assert.Equal(t, 0, code, errs)
	assert.Contains(t, out, "the signatures hold: bundle sha256:")
	edit(t, dir, policyFile, "#engineering", "#elsewhere")
	code, _, _ = try(t, "", "verify", "-author", annKey, "-reviewer", bobFile, dir)
	assert.Equal(t, 1, code)

	code, _, errs = try(t, "", "sign", "-key", bobFile, dir)
	assert.Equal(t, 2, code)
	assert.NotContains(t, errs, bobKey)
	code, _, _ = try(t, "", "verify", "-author", annKey, "-reviewer", "nonsense", dir)
	assert.Equal(t, 2, code)
	code, _, _ = try(t, "", "verify", dir)
	assert.Equal(t, 2, code)
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"nonsense"}, {"check"}, {"check", "-nonsense"}, {"diff", "a"}, {"schema", "a", "b"}, {"promote", "a"}} {
		code, out, errs := try(t, "", args...)
		assert.Equal(t, 2, code, args)
		assert.Empty(t, out)
		assert.Contains(t, errs, "Usage:")
	}
	code, out, _ := try(t, "", "help")
	assert.Equal(t, 0, code)
	assert.Equal(t, usage, out)
	for name := range commands {
		assert.Contains(t, usage, "twinward-policy "+name)
		code, _, _ := try(t, "", name, "-h")
		assert.Equal(t, 0, code)
	}
}
