package governance_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

var bot = actor("standup-bot")

func actor(agent string) audit.Actor { return audit.Actor{Agent: agent, Issuer: "session"} }

func loadStandup(t testing.TB) governance.Bundle {
	t.Helper()
	b, err := governance.LoadBundle(os.DirFS("testdata/standup"))
	require.NoError(t, err)
	return b
}

func standup(t testing.TB) *governance.Snapshot {
	t.Helper()
	snap, rep, err := governance.Compile(t.Context(), loadStandup(t), nil)
	require.NoError(t, err, "%v", rep)
	return snap
}

func call(t testing.TB, s *governance.Snapshot, server, tool, args string) governance.Decision {
	t.Helper()
	d, err := s.Decide(context.Background(), governance.Request{
		Actor: bot, Action: "call_tool", Server: server, Name: tool, Args: []byte(args),
	})
	require.NoError(t, err)
	return d
}

// The story that the project exists for.
func TestStory(t *testing.T) {
	s := standup(t)
	for _, c := range []struct {
		server, tool, args string
		allow              bool
		reason             string
		policies           string
		hidden             bool
	}{
		{"github", "list_pull_requests", `{"repo":"twinward","state":"open"}`, true, "", "github-read", false},
		{"slack", "post_message", `{"channel":"#engineering","text":"done"}`, true, "", "standup-in-engineering", false},
		{"slack", "post_message", `{"channel":"#executive","text":"hi"}`, false, "no-executive-channel", "no-executive-channel", false},
		{"slack", "post_message", `{"channel":"#executive","text":"hi"}`, false, "no-executive-channel", "no-executive-channel", false},
		{"slack", "post_message", `{"channel":"#\u0065xecutive","text":"hi"}`, false, "no-executive-channel", "no-executive-channel", false},
		{"slack", "post_message", `{"channel":"#Executive","text":"hi"}`, false, "no-permit", "", false},
		{"slack", "post_message", `{"channel":["#executive"],"text":"hi"}`, false, "arguments", "", false},
		{"slack", "post_message", `{"channel":7,"text":"hi"}`, false, "arguments", "", false},
		{"slack", "post_message", `{"channel":null,"text":"hi"}`, false, "arguments", "", false},
		{"slack", "post_message", `{"text":"hi"}`, false, "arguments", "", false},
		{"slack", "post_message", `{"channel":"#engineering","channel":"#executive","text":"hi"}`, false, "strict-json", "", false},
		{"slack", "post_message", `{"channel":"#engineering","\u0063hannel":"#executive","text":"hi"}`, false, "strict-json", "", false},
		{"slack", "post_message", `{"channel":"#engineering","Channel":"#executive","text":"hi"}`, false, "arguments", "", false},
		{"slack", "post_message", `{"channel":"#engineering","text":"hi"}{"channel":"#executive"}`, false, "strict-json", "", false},
		{"slack", "post_message", `[{"channel":"#engineering","text":"hi"}]`, false, "arguments", "", false},
		{"slack", "read_dm", `{"user":"ceo"}`, false, "no-permit", "", false},
		{"slack", "delete_message", `{"id":"1"}`, false, "nothing-that-deletes", "nothing-that-deletes", false},
		{"snowflake", "query", `{"sql":"select 1"}`, false, "not-in-profile:standup@" + s.Hash()[len("sha256:"):][:12], "profile:standup:tools", true},
		{"snowflake", "query", `{"sql":7}`, false, "not-in-profile:standup@" + s.Hash()[len("sha256:"):][:12], "profile:standup:tools", true},
		{"slack", "no_such_tool", `{}`, false, "unknown", "", true},
		{"nowhere", "query", `{}`, false, "unknown", "", true},
	} {
		d := call(t, s, c.server, c.tool, c.args)
		name := c.tool + " " + c.args
		assert.Equal(t, c.allow, d.Allowed(), name)
		assert.Equal(t, c.reason, d.Reason, name)
		assert.Equal(t, c.policies, strings.Join(d.PolicyIDs(), " "), name)
		assert.Equal(t, c.hidden, d.Hidden, name)
		assert.Equal(t, c.allow, d.Hint == "", name)
	}
}

// However the channel is spelled, what is not #engineering is denied: a permit
// that names what is allowed leaves nothing to spell around.
func TestStoryExecutiveInAllSpellings(t *testing.T) {
	s := standup(t)
	for _, channel := range []string{
		`"#executive"`, `"#\u0065\u0078ecutive"`, `"#EXECUTIVE"`, `"#Executive"`, `"＃executive"`, `"#еxecutive"`, `"#execut\u0456ve"`,
		`"#executive "`, `" #executive"`, `"#\u200bexecutive"`, `"#exec\u00adutive"`, `"\u202e#evitucexe"`, `"#executive\u0000"`, `"#executive\n"`,
		`"executive"`, `"@executive"`, `"#executive,#engineering"`, `"#engineering,#executive"`, `"#engineering\u0000#executive"`,
		`"#engineering "`, `"#Engineering"`, `"C0EXEC"`, `""`, `"*"`, `"#*"`, `"\ud835\udd22xecutive"`,
		`"\ud800"`, `["#engineering"]`, `{"name":"#engineering"}`, `null`, `true`, `0`,
	} {
		d := call(t, s, "slack", "post_message", `{"channel":`+channel+`,"text":"x"}`)
		assert.False(t, d.Allowed(), channel)
		assert.NotEmpty(t, d.Reason, channel)
		assert.NotContains(t, d.Hint, "executive", channel)
	}
	for _, args := range []string{
		`{"channel":"#engineering","text":"x","channel":"#executive"}`, `{"channel":"#executive","text":"x","channel":"#engineering"}`,
		`{"channel":"#engineering","text":"x","Channel":"#executive"}`, `{"channel":"#engineering","text":"x","ｃhannel":"#executive"}`,
		`{"channel":"#engineering","text":"x"}` + "\x00", "\ufeff" + `{"channel":"#engineering","text":"x"}`, `{"channel":"#engineering","text":"\xff"}`,
		`{"__entity":{"type":"Profile","id":"standup"},"channel":"#executive","text":"x"}`,
	} {
		assert.False(t, call(t, s, "slack", "post_message", args).Allowed(), args)
	}
	assert.True(t, call(t, s, "slack", "post_message", `{"channel":"\u0023engineering","text":"x"}`).Allowed(), "the same text, however JSON escapes it")
}

// Snowflake does not exist for the agent, and what it tried is known to those
// who look.
func TestStoryInvisibleYetRecorded(t *testing.T) {
	var tape bytes.Buffer
	w := governance.NewTapeWriter(&tape)
	e := governance.NewEngine(audittest.NewLog(t), &governance.Options{Tape: w.Record})
	_, err := e.Reload(t.Context(), loadStandup(t), audit.Change{By: "kim", Reason: "the story"})
	require.NoError(t, err)

	tools := []governance.ToolRef{{Server: "slack", Name: "post_message"}, {Server: "slack", Name: "delete_message"}, {Server: "snowflake", Name: "query"}, {Server: "snowflake", Name: "no_such"}}
	seen, err := e.Visible(t.Context(), bot, "call_tool", tools)
	require.NoError(t, err)
	assert.Equal(t, []governance.Visibility{governance.Conditional, governance.Never, governance.Never, governance.Never}, seen)

	ask := func(tool string) governance.Decision {
		d, err := e.Decide(t.Context(), governance.Request{Actor: bot, Action: "call_tool", Server: "snowflake", Name: tool, Args: []byte(`{"sql":"select * from salaries"}`)})
		require.NoError(t, err)
		return d
	}
	real, none := ask("query"), ask("no_such")
	assert.True(t, real.Hidden && none.Hidden)
	assert.Equal(t, none.Hint, real.Hint, "the agent cannot tell it from what does not exist")
	assert.True(t, strings.HasPrefix(real.Reason, "not-in-profile:standup@"), real.Reason)
	assert.Equal(t, []string{"profile:standup:tools"}, real.PolicyIDs())

	require.NoError(t, w.Err())
	got, err := readTape(t, tape.String())
	require.NoError(t, err)
	require.Len(t, got, 2)
	assert.Equal(t, real.Decision, got[0].Decision)
	assert.Equal(t, `{"sql":"select * from salaries"}`, string(got[0].Request.Args))
}

// One tool with the same arguments, on a sandbox org and on production.
func TestStorySandboxAndProduction(t *testing.T) {
	b := loadStandup(t)
	update := governance.Tool{ToolDefinition: governance.ToolDefinition{
		Name:        "update_record",
		InputSchema: []byte(`{"type":"object","additionalProperties":false,"required":["object","id","fields"],"properties":{"object":{"type":"string"},"id":{"type":"string"},"fields":{"type":"object"}}}`),
	}, Class: governance.Write}
	for _, org := range []string{"crm-sandbox", "crm-production"} {
		b.Catalog = append(b.Catalog, governance.Server{Name: org, Tools: []governance.Tool{update}})
		b.Profiles[0].Servers[org] = governance.Grant{Tools: []string{"update_record"}}
	}
	b.Policies = append(b.Policies, governance.Source{Name: "policies/crm.cedar", Text: `
@id("try-it-in-the-sandbox")
permit (principal in Profile::"standup", action in Action::"write", resource in Server::"crm-sandbox");
@id("hands-off-production")
forbid (principal in Profile::"standup", action in [Action::"write", Action::"destructive"], resource in Server::"crm-production");
`})
	s, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err, "%v", rep)
	const args = `{"object":"Account","id":"001","fields":{"Name":"Acme"}}`
	sandbox := call(t, s, "crm-sandbox", "update_record", args)
	assert.True(t, sandbox.Allowed())
	assert.Equal(t, []string{"try-it-in-the-sandbox"}, sandbox.PolicyIDs())
	production := call(t, s, "crm-production", "update_record", args)
	assert.False(t, production.Allowed())
	assert.Equal(t, "hands-off-production", production.Reason)
	assert.False(t, production.Hidden, "it is there, and it is not for this agent to change")
}
