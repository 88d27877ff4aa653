package mcpx_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// both runs a test for clients of both eras and upstreams of both eras.
func both(t *testing.T, f func(t *testing.T, version string, w *world)) {
	for _, version := range []string{legacy, modern} {
		for _, up := range []string{legacy, modern} {
			t.Run("client "+version+" upstream "+up, func(t *testing.T) {
				f(t, version, newWorld(t, &setup{legacy: up == legacy}))
			})
		}
	}
}

func TestGoldenStory(t *testing.T) {
	both(t, func(t *testing.T, version string, w *world) {
		a := w.agent(bot, version)
		names, err := a.Tools(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"github__big", "github__fail", "github__leak", "github__list_prs", "slack__post_message"}, names)

		n := w.mark()
		res, err := a.Call(t.Context(), "github__list_prs", `{"repo":"twinward"}`)
		require.NoError(t, err)
		require.False(t, res.IsError, mcptest.Text(res))
		assert.Contains(t, mcptest.Text(res), "fix twinward")
		calls := w.github.Calls()
		require.Len(t, calls, 1)
		assert.Equal(t, "list_prs", calls[0].Tool)
		assert.JSONEq(t, `{"repo":"twinward"}`, string(calls[0].Arguments))
		recs := w.since(n)
		require.Len(t, recs, 2)
		in, out := recs[0].Intent, recs[1].Outcome
		require.NotNil(t, in)
		require.NotNil(t, out)
		assert.Equal(t, "github__list_prs", in.Action)
		assert.Equal(t, `Tool::"github__list_prs"`, in.Resource)
		assert.Equal(t, bot, in.Actor)
		assert.Equal(t, []string{"read"}, in.Decision.PolicyIDs())
		assert.NotEmpty(t, in.ToolPin)
		require.NotNil(t, in.Credential)
		assert.Equal(t, "github", in.Credential.Name)
		assert.Equal(t, audit.StatusOK, out.Status)
		assert.EqualValues(t, 1, out.CredentialVersion)
		assert.Positive(t, out.Bytes)

		// Denied by an argument; the session lives on.
		for range 50 {
			res, err = a.Call(t.Context(), "slack__post_message", `{"channel":"#executive","text":"hi"}`)
			require.NoError(t, err)
			assert.Equal(t, "policy", denial(t, res).Reason)
		}
		assert.Empty(t, w.slack.Calls())
		den := w.log.Denials()
		require.Len(t, den, 50)
		assert.Equal(t, "no-executive", den[49].Decision.Reason)
		assert.Equal(t, denial(t, res).DecisionID, den[49].Decision.ID)
		assert.NotContains(t, string(a.Seen()), "no-executive", "policy text is not for agents")

		res, err = a.Call(t.Context(), "slack__post_message", `{"channel":"#engineering","text":"hi"}`)
		require.NoError(t, err)
		assert.Equal(t, "posted to #engineering", mcptest.Text(res))
		require.Len(t, w.slack.Calls(), 1)
		assert.Empty(t, w.slack.Calls()[0].Header.Get("Authorization"), "this server has no credential")

		assert.Zero(t, w.vault.Scrubber().Count(a.Seen())["github"])
	})
}

func TestHiddenIsUnknown(t *testing.T) {
	both(t, func(t *testing.T, version string, w *world) {
		a := w.agent(bot, version)
		n := w.mark()
		_, hidden := a.Call(t.Context(), "snowflake__query", `{"sql":"select 1"}`)
		_, absent := a.Call(t.Context(), "snowflake__nothing", `{"sql":"select 1"}`)
		_, nowhere := a.Call(t.Context(), "nowhere", `{}`)
		require.Error(t, hidden)
		require.Error(t, absent)
		require.Error(t, nowhere)
		assert.Contains(t, hidden.Error(), `unknown tool "snowflake__query"`)
		assert.Contains(t, absent.Error(), `unknown tool "snowflake__nothing"`)
		assert.Contains(t, nowhere.Error(), `unknown tool "nowhere"`)
		assert.Empty(t, w.snow.Seen(), "nothing reached the upstream, not even a connection")
		recs := w.since(n)
		require.Len(t, recs, 3)
		assert.Regexp(t, `^not-in-profile:standup@`, recs[0].Event.Decision.Reason)
		assert.Equal(t, audit.GuardUnknown, recs[1].Event.Decision.Reason)
		assert.Equal(t, audit.GuardUnknown, recs[2].Event.Decision.Reason)
	})
}

func TestNumbersSurvive(t *testing.T) {
	both(t, func(t *testing.T, version string, w *world) {
		a := w.agent(bot, version)
		res, err := a.Call(t.Context(), "github__big", `{"n":9007199254740993}`)
		require.NoError(t, err)
		require.False(t, res.IsError, mcptest.Text(res))
		assert.Contains(t, string(a.Seen()), `"structuredContent":{"id":9007199254740993,"u":12345678901234567890,"f":1e-7}`)
		require.Len(t, w.github.Calls(), 1)
		assert.Equal(t, `{"n":9007199254740993}`, string(w.github.Calls()[0].Arguments))
	})
}

func TestSecretNeverReachesAgent(t *testing.T) {
	both(t, func(t *testing.T, version string, w *world) {
		a := w.agent(bot, version)
		n := w.mark()
		res, err := a.Call(t.Context(), "github__leak", `{}`)
		require.NoError(t, err)
		require.False(t, res.IsError, mcptest.Text(res))
		assert.Contains(t, mcptest.Text(res), "[redacted:github]")
		assert.Contains(t, string(a.Seen()), `"n":9007199254740993`)
		recs := w.since(n)
		require.Len(t, recs, 3)
		assert.Equal(t, audit.KindLeak, recs[1].Event.Kind)
		assert.Equal(t, "github", recs[1].Event.Detail["credential"])
		assert.Equal(t, []string{"scrubbed:github:2"}, recs[2].Outcome.Checks)

		_, err = a.Call(t.Context(), "github__fail", `{}`)
		require.Error(t, err)
		assert.Contains(t, err.Error(), "broken with Bearer [redacted:github]")
		assert.Empty(t, w.vault.Scrubber().Count(a.Seen()))
		assert.NotEmpty(t, w.vault.Scrubber().Count(w.github.Seen()), "the upstream did get it")
		b, err := json.Marshal(w.log.Records())
		require.NoError(t, err)
		assert.Empty(t, w.vault.Scrubber().Count(b))
		assert.Empty(t, w.vault.Scrubber().Count([]byte(w.logged.String())))
	})
}
