package governance_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
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
