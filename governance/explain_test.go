package governance_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

func explain(t testing.TB, s *governance.Snapshot, tool, args string, to governance.Audience) governance.Explanation {
	t.Helper()
	server, name, _ := strings.Cut(tool, "__")
	x, err := s.Explain(t.Context(), governance.Request{Actor: bot, Action: "call_tool", Server: server, Name: name, Args: []byte(args)}, to)
	require.NoError(t, err)
	return x
}

func TestExplainForOperators(t *testing.T) {
	s := standup(t)
	for _, c := range []struct{ tool, args, want string }{
		{"slack__post_message", `{"channel":"#engineering","text":"x"}`, `allowed
permit standup-in-engineering applies to Agent::"standup-bot" because context.args.channel == "#engineering"; it is "#engineering" (policies/standup.cedar:9:1)
`},
		{"slack__post_message", `{"channel":"#random","text":"x"}`, `denied: no-permit
hint for the agent: This is not permitted to you.
permit standup-in-engineering needs context.args.channel == "#engineering"; it is "#random" (policies/standup.cedar:9:1)
`},
		{"slack__post_message", `{"channel":"#executive","text":"x"}`, `denied: no-executive-channel
hint for the agent: This is forbidden, at least with these arguments.
forbid no-executive-channel applies to Agent::"standup-bot" because context.args.channel like "*executive*"; it is "#executive" (policies/standup.cedar:18:1)
`},
		{"slack__read_dm", `{"user":"ceo"}`, `denied: no-permit
hint for the agent: This is not permitted to you.
`},
		{"snowflake__query", `{"sql":"select 1"}`, `denied: not-in-profile:standup@` + s.Hash()[7:19] + `
hint for the agent: There is no such thing here.
forbid profile:standup:tools applies to Agent::"standup-bot" because !(resource in Profile::"standup"); it is Tool::"snowflake__query" (profiles/standup.yaml:1:1)
`},
		{"slack__post_message", `{"channel":7}`, `denied: arguments
hint for the agent: argument /channel: a number where the tool takes a string
`},
	} {
		assert.Equal(t, c.want, explain(t, s, c.tool, c.args, governance.ForOperator).String(), c.tool+c.args)
	}
}

// An agent learns which argument was wrong, and neither policies nor values.
func TestExplainForAgents(t *testing.T) {
	s := standup(t)
	x := explain(t, s, "slack__post_message", `{"channel":"#random","text":"x"}`, governance.ForAgent)
	assert.Equal(t, governance.Explanation{Hint: "This is not permitted to you with this value of channel."}, x)
	x = explain(t, s, "slack__post_message", `{"channel":"#executive","text":"x"}`, governance.ForAgent)
	assert.Equal(t, governance.Explanation{Hint: "This is forbidden, at least with these arguments."}, x)
	x = explain(t, s, "snowflake__query", `{"sql":"x"}`, governance.ForAgent)
	assert.Equal(t, governance.Explanation{Hint: "There is no such thing here."}, x)
	x = explain(t, s, "slack__post_message", `{"channel":"#engineering","text":"x"}`, governance.ForAgent)
	assert.Equal(t, governance.Explanation{Allowed: true}, x)

	var none *governance.Snapshot
	x, err := none.Explain(context.Background(), governance.Request{Actor: bot}, governance.ForAgent)
	require.ErrorIs(t, err, governance.ErrNoSnapshot)
	assert.Empty(t, x.Reason)
}

// Every failing condition is named, with what would meet it; the permit that
// lacks least comes first, and one for other people comes last.
func TestExplainRanks(t *testing.T) {
	s := law(t, `
@id("far") permit (principal, action == Action::"s__t", resource)
when { context.args has x && context.args.x == "1" } unless { context has session || context.now < datetime("2020-01-01") };
@id("near") permit (principal, action == Action::"s__t", resource)
when { context.args has x && ["b", "a"].contains(context.args.x) };
@id("near-tag") permit (principal, action == Action::"s__t", resource)
when { principal.hasTag("scope") && principal.getTag("scope") == "write" };
@id("other") permit (principal == Agent::"boss", action == Action::"s__t", resource);
@id("elsewhere") permit (principal, action == Action::"connect", resource);
@id("broken") permit (principal, action == Action::"s__t", resource) when { 9223372036854775807 + 1 > 0 };
`)
	x, err := s.Explain(t.Context(), governance.Request{
		Actor: audit.Actor{Agent: "a", Session: "s1"}, Action: "call_tool", Server: "s", Name: "t", Args: []byte(`{"x":"c"}`),
	}, governance.ForOperator)
	require.NoError(t, err)
	var got []string
	for _, p := range x.Permits {
		got = append(got, p.Policy.ID)
		for _, c := range p.Conditions {
			got = append(got, "- "+c.String())
		}
	}
	assert.Equal(t, []string{
		"broken", `- 9223372036854775807 + 1 > 0`,
		"near", `- context.args.x in ["a", "b"]; it is "c"`,
		"far", `- context.args.x == "1"; it is "c"`, `- !(context has session); it is "s1"`,
		"near-tag", `- principal.hasTag("scope"); it is absent`, `- principal.getTag("scope") == "write"; it is absent`,
		"other", `- principal == Agent::"boss"; it is Agent::"a"`,
	}, got)
	assert.Contains(t, x.Permits[0].Conditions[0].Error, "overflow")
	assert.Equal(t, []string{`"a"`, `"b"`}, x.Permits[1].Conditions[0].Passing)
}

// The user's half is explained when it is the user who lacks something.
func TestExplainNamesTheUser(t *testing.T) {
	s := law(t, `@id("agents") permit (principal is Agent, action == Action::"s__t", resource);
@id("users") permit (principal is User, action == Action::"s__t", resource) when { principal has email && principal.email like "*@example.com" };`)
	x, err := s.Explain(t.Context(), governance.Request{Actor: audit.Actor{Agent: "a", User: "u"}, Action: "call_tool", Server: "s", Name: "t"}, governance.ForOperator)
	require.NoError(t, err)
	require.NotEmpty(t, x.Permits)
	assert.Equal(t, "users", x.Permits[0].Policy.ID)
	assert.Equal(t, `User::"u"`, x.Permits[0].Principal)
	assert.Len(t, x.Permits[0].Conditions, 2)
}

func ExampleSnapshot_Explain() {
	snap, _, err := governance.Compile(context.Background(), exampleBundle(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	x, _ := snap.Explain(context.Background(), governance.Request{
		Actor:  audit.Actor{Agent: "standup-bot"},
		Action: "call_tool", Server: "slack", Name: "post_message",
		Args: []byte(`{"channel":"#random","text":"All done."}`),
	}, governance.ForOperator)
	fmt.Print(x)
	// Output:
	// denied: no-permit
	// hint for the agent: This is not permitted to you.
	// permit standup-in-engineering needs context.args.channel == "#engineering"; it is "#random" (slack.cedar:2:1)
}

// exampleBundle permits one agent to post to one channel.
func exampleBundle() governance.Bundle {
	return governance.Bundle{
		Catalog: []governance.Server{{Name: "slack", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{
				Name:        "post_message",
				InputSchema: []byte(`{"type":"object","properties":{"channel":{"type":"string"},"text":{"type":"string"}},"required":["channel","text"]}`),
			},
			Class: governance.Write,
		}}}},
		Policies: []governance.Source{{Name: "slack.cedar", Text: `
@id("standup-in-engineering")
permit (principal == Agent::"standup-bot", action == Action::"slack__post_message", resource)
when { context.args.channel == "#engineering" };
`}},
	}
}
