package policytest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/governance/policytest"
)

const schema = `{"type":"object","properties":{"channel":{"type":"string"},"text":{"type":"string"}},"required":["channel","text"]}`

func bundle(policies string, tests ...string) governance.Bundle {
	b := governance.Bundle{
		Catalog: []governance.Server{{Name: "slack", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{Name: "post_message", InputSchema: []byte(schema)}, Class: governance.Write,
		}}}},
		Profiles: []governance.Profile{{ID: "standup", Agents: []string{"bot"}, Servers: map[string]governance.Grant{"slack": {Tools: []string{"*"}}}}},
		Policies: []governance.Source{{Name: "policies/slack.cedar", Text: policies}},
	}
	for i, text := range tests {
		b.Tests = append(b.Tests, governance.Source{Name: fmt.Sprintf("tests/%d.json", i), Text: text})
	}
	return b
}

const policies = `@id("engineering")
permit (principal in Profile::"standup", action == Action::"slack__post_message", resource)
when { context.args.channel == "#engineering" };
@id("approved")
@approval("lead")
permit (principal in Profile::"standup", action == Action::"slack__post_message", resource)
when { context.args.channel == "#news" };
@id("broken")
forbid (principal, action == Action::"slack__post_message", resource)
when { context.args.channel == "#broken" && 9223372036854775807 + 1 > 0 };
@id("hosts")
permit (principal, action == Action::"connect", resource) when { context has port && context.port == 443 };
`

const own = `[
{"name":"standup", "agent":"bot", "tool":"slack__post_message", "args":{"channel":"#engineering","text":"x"}, "expect":"allow", "policies":["engineering"]},
{"name":"it waits", "agent":"bot", "tool":"slack__post_message", "args":{"channel":"#news","text":"x"}, "expect":"deny", "reason":"approval", "policies":["approved"]},
{"name":"for the lead", "agent":"bot", "tool":"slack__post_message", "args":{"channel":"#news","text":"x"}, "approved":["lead"], "expect":"allow"},
{"name":"and nobody else", "agent":"bot", "tool":"slack__post_message", "args":{"channel":"#news","text":"x"}, "approved":["intern"], "expect":"deny"},
{"name":"unless the case says not", "agent":"bot", "tool":"slack__post_message", "args":{"channel":"#news","text":"x"}, "enforces":[], "expect":"deny", "reason":"obligation"},
{"agent":"bot", "tool":"slack__post_message", "args":{"channel":"#other","text":"x"}, "expect":"deny", "reason":"no-permit"},
{"agent":"bot", "tool":"slack__post_message", "args":{"channel":"#broken","text":"x"}, "expect":"deny", "reason":"policy-error"},
{"agent":"bot", "action":"connect", "resource":"api.example.com", "attrs":{"port":443}, "expect":"allow"},
{"agent":"bot", "action":"connect", "resource":"api.example.com", "attrs":{"port":80}, "expect":"deny"},
{"agent":"bot", "action":"connect", "resource":"api.example.com", "expect":"deny"}
]`

const cli = `[
{"request":{"principal":"Agent::\"bot\"","action":"Action::\"slack__post_message\"","resource":"Tool::\"slack__post_message\"",
  "context":{"args":{"channel":"#engineering","text":"x"}}}, "entities":[], "decision":"allow", "reason":["engineering"], "num_errors":0},
{"name":"a newcomer", "request":{"principal":{"type":"Agent","id":"new"},"action":"Action::\"slack__post_message\"","resource":"Tool::\"slack__post_message\"",
  "context":{"args":{"channel":"#engineering","text":"x"}}}, "decision":"deny"},
{"request":{"principal":"Agent::\"new\"","action":"Action::\"slack__post_message\"","resource":"Tool::\"slack__post_message\"",
  "context":{"args":{"channel":"#engineering","text":"x"}}}, "entities":[{"uid":{"type":"Agent","id":"new"},"attrs":{},"parents":[{"type":"Profile","id":"standup"}]}], "decision":"allow"}
]`

// recorder is a testing.TB that notes errors.
type recorder struct {
	testing.TB
	errs, logs []string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Context() context.Context  { return context.Background() }
func (r *recorder) Errorf(f string, a ...any) { r.errs = append(r.errs, fmt.Sprintf(f, a...)) }
func (r *recorder) Logf(f string, a ...any)   { r.logs = append(r.logs, fmt.Sprintf(f, a...)) }

func TestRunPasses(t *testing.T) {
	rep := policytest.Run(t, bundle(policies, own, cli), policytest.Case{
		Request: governance.Request{Actor: audit.Actor{Agent: "bot"}, Action: "call_tool", Server: "slack", Name: "no_such"},
		Expect:  audit.Deny, Reason: "unknown",
	})
	assert.Equal(t, 14, rep.Cases)
	assert.NoError(t, rep.Err())
	assert.Empty(t, rep.NeverDecisive)
}

func TestRunFails(t *testing.T) {
	swap := func(text, old, with string) string {
		require.Contains(t, text, old)
		return strings.Replace(text, old, with, 1)
	}
	one := func(c string) string { return "[" + c + "]" }
	call := `{"agent":"bot", "tool":"slack__post_message", "args":{"channel":"#other","text":"x"}, "expect":"deny"}`
	cedar := `{"name":"n","request":{"principal":"Agent::\"bot\"","action":"Action::\"slack__post_message\"","resource":"Tool::\"slack__post_message\"","context":{"args":{"channel":"#engineering","text":"x"}}},"decision":"allow"}`
	for name, c := range map[string]struct{ tests, want string }{
		"other effect":       {one(swap(call, `"deny"`, `"allow"`)), `tests/0.json[0]: want allow, got deny because of no-permit; nearest is approved, engineering`},
		"other reason":       {one(swap(call, `"deny"`, `"deny","reason":"broken"`)), `tests/0.json[0]: want deny because of broken, got deny because of no-permit; nearest is approved, engineering`},
		"other policy":       {one(swap(swap(call, `"deny"`, `"allow","policies":["approved"]`), "#other", "#engineering")), `tests/0.json[0]: want allow by approved, got allow by engineering`},
		"bad arguments":      {one(swap(swap(call, `"deny"`, `"allow"`), `"#other"`, "7")), `tests/0.json[0]: want allow, got deny because of arguments: argument /channel: a number where the tool takes a string`},
		"unknown fact":       {one(swap(call, `"deny"`, `"deny","history":{"facts":{"psots":3}}`)), `tests/0.json[0]: its history has the fact "psots", which no policy reads`},
		"other decision":     {"[" + call + "," + swap(cedar, `"allow"`, `"deny"`) + "]", `tests/0.json[1] "n": want deny, got allow by [engineering]`},
		"reason of Cedar":    {one(swap(cedar, `"decision"`, `"reason":["approved"],"decision"`)), `tests/0.json[0] "n": want allow by approved, got allow by [engineering]`},
		"errors of Cedar":    {one(swap(cedar, `"decision"`, `"num_errors":1,"decision"`)), `tests/0.json[0] "n": want 1 errors, got 0: []`},
		"fails open in them": {one(swap(swap(cedar, "#engineering", "#broken"), `"decision"`, `"num_errors":1,"decision"`)), `tests/0.json[0] "n": Cedar allows, but an engine denies: forbid broken fails`},
	} {
		r := &recorder{}
		text := policies
		if name == "fails open in them" {
			text = strings.Replace(text, `when { context.args.channel == "#engineering" }`, "", 1)
		}
		policytest.Run(r, bundle(text, c.tests))
		assert.Equal(t, []string{c.want}, r.errs, name)
	}
	r := &recorder{}
	rep := policytest.Run(r, bundle(policies, one(call)))
	assert.Equal(t, []string{"approved", "broken", "engineering", "hosts"}, ids(rep.NeverDecisive))
	assert.Contains(t, strings.Join(r.logs, "\n"), `policies/slack.cedar:1:1: no case is about policy "engineering"`)
	r = &recorder{}
	policytest.Run(r, bundle("permit;"))
	assert.Len(t, r.errs, 1, "does not compile")
}

func ids(ps []audit.Policy) (out []string) {
	for _, p := range ps {
		out = append(out, p.ID)
	}
	return out
}

func TestParseSaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "f.json: a file of cases is a list",
		`[{"agent":"a","tool":"s__t","expect":"allow","expcet":1}]`:                                                        `f.json[0]: `,
		`[{"agent":"a","tool":"s__t","expect":"allow"},{"tool":"s__t"}]`:                                                   `f.json[1]: "agent" is missing`,
		`[{"agent":"a","tool":"s__t"}]`:                                                                                    `f.json[0]: "expect" is ""`,
		`[{"agent":"a","tool":"t","expect":"deny"}]`:                                                                       `f.json[0]: "tool" is`,
		`[{"agent":"a","tool":"s__t","server":"s","expect":"deny"}]`:                                                       `f.json[0]: "tool" is`,
		`[{"agent":"a","expect":"deny"}]`:                                                                                  `f.json[0]: what is asked for?`,
		`[{"agent":"a","tool":"s__t","expect":"allow","reason":"x"}]`:                                                      `f.json[0]: "reason"`,
		`[{"agent":"a","action":"connect","attrs":{"port":1.5},"expect":"deny"}]`:                                          `f.json[0]: attrs.port`,
		`[{"agent":"a","action":"connect","attrs":{"tools":[1]},"expect":"deny"}]`:                                         `f.json[0]: attrs.tools`,
		`[{"agent":"a","tool":"s__t","history":{"label":["crm"]},"expect":"allow"}]`:                                       `f.json[0]: `,
		`[{"agent":"a","agent":"b","tool":"s__t","expect":"allow"}]`:                                                       `f.json: `,
		`[{"request":{"principal":"x"},"decision":"allow"}]`:                                                               `f.json[0]: request.principal`,
		`[{"request":{},"decision":"maybe"}]`:                                                                              `f.json[0]: "decision" is "maybe"`,
		`[{"request":{"principal":"A::\"b\", c","action":"x"},"decision":"deny"}]`:                                         `f.json[0]: request.principal`,
		`[{"request":{"principal":"A::\"b\"","action":"A::\"b\"","resource":"A::\"b\"","context":[]},"decision":"deny"}]`:  `f.json[0]: request.context`,
		`[{"request":{"principal":"A::\"b\"","action":"A::\"b\"","resource":"A::\"b\""},"entities":{},"decision":"deny"}]`: `f.json[0]: entities`,
	} {
		_, err := policytest.Parse("f.json", []byte(text))
		require.ErrorIs(t, err, policytest.ErrCases, text)
		assert.Contains(t, err.Error(), want, text)
	}
}

// Each case kills the changes that it is about, and no other test is needed to
// see that one is missing.
func TestMutate(t *testing.T) {
	b := bundle(policies, own, cli)
	snap, _, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	cases, err := policytest.Cases(b)
	require.NoError(t, err)
	score, err := policytest.Mutate(t.Context(), snap, cases, nil)
	require.NoError(t, err)
	t.Log(score)
	assert.Greater(t, score.Mutants, 20)
	assert.GreaterOrEqual(t, score.Ratio(), 0.7)
	assert.Equal(t, score.Mutants, score.Killed+len(score.Survivors))

	weak, err := policytest.Mutate(t.Context(), snap, cases[:1], &policytest.MutateOptions{Max: 10})
	require.NoError(t, err)
	assert.Equal(t, 10, weak.Mutants)
	assert.Equal(t, score.Mutants-10, weak.Left)
	assert.Less(t, weak.Ratio(), score.Ratio())

	bad := cases[0]
	bad.Expect = audit.Deny
	_, err = policytest.Mutate(t.Context(), snap, []policytest.Case{bad}, nil)
	require.ErrorIs(t, err, policytest.ErrCasesFail)
}

func FuzzParse(f *testing.F) {
	// One case a seed: an input that finds something new is made smaller byte by
	// byte before the next one is tried, which takes a minute for a long list.
	for _, list := range []string{own, cli} {
		var cases []json.RawMessage
		require.NoError(f, json.Unmarshal([]byte(list), &cases))
		for _, c := range cases {
			f.Add(fmt.Appendf(nil, "[%s]", c))
		}
	}
	f.Add([]byte(`[{"agent":"a","action":"connect","expect":"deny"},{"request":{"principal":"Agent::\"a\""}}]`))
	snap, _, err := governance.Compile(context.Background(), bundle(policies), nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text []byte) {
		cases, err := policytest.Parse("f.json", text)
		if err != nil {
			require.ErrorIs(t, err, policytest.ErrCases)
			return
		}
		rep := policytest.Check(context.Background(), snap, cases)
		require.Equal(t, len(cases), rep.Cases)
	})
}

func ExampleCheck() {
	ctx := context.Background()
	b, err := governance.LoadBundle(os.DirFS("../testdata/standup"))
	if err != nil {
		fmt.Println(err)
		return
	}
	snap, _, err := governance.Compile(ctx, b, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	cases, err := policytest.Parse("tests/slack.json", []byte(`[
	  {"name": "the standup goes to #engineering", "agent": "standup-bot", "tool": "slack__post_message",
	   "args": {"channel": "#engineering", "text": "done"}, "expect": "allow"},
	  {"name": "nothing is deleted", "agent": "standup-bot", "tool": "slack__delete_message",
	   "args": {"id": "1"}, "expect": "deny", "reason": "nothing-that-deletes"},
	  {"name": "the CEO is told", "agent": "standup-bot", "tool": "slack__post_message",
	   "args": {"channel": "#executive", "text": "done"}, "expect": "allow"}
	]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	report := policytest.Check(ctx, snap, cases)
	fmt.Println(report.Err())
	for _, p := range report.NeverDecisive {
		fmt.Println("no case is about", p.ID)
	}
	// Output:
	// policytest: 1 of 3 cases failed:
	// tests/slack.json[2] "the CEO is told": want allow, got deny because of no-executive-channel
	// no case is about github-read
	// no case is about model
	// no case is about own-credentials
}
