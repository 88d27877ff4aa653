package mcpx_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// otherKey lets the other agent use the key of github too.
const otherKey = `
@id("other-key") permit (principal == Agent::"other", action == Action::"use_credential", resource == Credential::"github");`

// call calls a tool; the answer may be a denial.
func call(t *testing.T, a *mcptest.Agent, tool, args string) *mcp.CallToolResult {
	t.Helper()
	res, err := a.Call(t.Context(), tool, args)
	require.NoError(t, err)
	return res
}

// outcome is the last one on record.
func (w *world) outcome() audit.Outcome {
	w.t.Helper()
	all := w.log.Records()
	last := all[len(all)-1]
	require.NotNil(w.t, last.Outcome)
	return *last.Outcome
}

// An answer that is larger than a permit allows is withheld, and that is no
// denial on record: the call was done.
func TestMaxBytes(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		w := newWorld(t, &setup{policy: otherKey + `
@id("small") @max_bytes("40") permit (principal == Agent::"bot", action == Action::"github__big", resource);
@id("enough") @max_bytes("4000") permit (principal == Agent::"bot", action == Action::"github__list_prs", resource);`})
		a := w.agent(bot, version)
		res := call(t, a, "github__big", `{}`)
		d := denial(t, res)
		assert.Equal(t, "withheld", d.Reason)
		assert.False(t, d.Retryable)
		assert.NotContains(t, mcptest.Text(res), "9007199254740993")
		assert.Nil(t, res.StructuredContent)
		out := w.outcome()
		assert.Equal(t, audit.StatusFailed, out.Status)
		assert.Equal(t, "withheld", out.ErrorCode)
		assert.Equal(t, []string{"withheld:max_bytes"}, out.Checks)
		assert.Zero(t, out.Bytes)
		assert.Equal(t, 1, len(w.github.Calls()))

		res = call(t, a, "github__list_prs", `{"repo":"r"}`)
		assert.False(t, res.IsError)
		assert.Equal(t, audit.StatusOK, w.outcome().Status)

		assert.False(t, call(t, w.agent(other, version), "github__big", `{}`).IsError, "the limit is not for others")
	}
}

// What a permit blanks is blanked wherever the answer holds it; what is no JSON
// is blanked as a whole.
func TestRedact(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		w := newWorld(t, &setup{policy: otherKey + `
@id("blank") @redact("$.title[*]") permit (principal == Agent::"bot", action == Action::"github__list_prs", resource);
@id("blind") @redact("$.x") permit (principal == Agent::"bot", action == Action::"slack__post_message", resource);
@id("leaky") @redact("$.auth") permit (principal == Agent::"bot", action == Action::"github__leak", resource);`})
		a := w.agent(bot, version)
		res := call(t, a, "github__list_prs", `{"repo":"r"}`)
		require.False(t, res.IsError)
		text := mcptest.Text(res)
		assert.Contains(t, text, `"title":["[redacted]"]`)
		assert.NotContains(t, text, "fix r")
		got, err := json.Marshal(res.StructuredContent)
		require.NoError(t, err)
		assert.NotContains(t, string(got), "fix r")
		assert.Contains(t, string(got), `"title":["[redacted]"]`)
		assert.Equal(t, []string{"redacted:2"}, w.outcome().Checks)
		assert.EqualValues(t, 2*len(text), w.outcome().Bytes)

		assert.Equal(t, "[redacted]", mcptest.Text(call(t, a, "slack__post_message", `{"channel":"#engineering","text":"x"}`)))

		res = call(t, a, "github__leak", `{}`)
		assert.Equal(t, "[redacted]", mcptest.Text(res))
		assert.Contains(t, w.outcome().Checks, "redacted:2")
		assert.Greater(t, len(w.outcome().Checks), 1, "what was scrubbed is on record as well")

		assert.Contains(t, mcptest.Text(call(t, w.agent(other, version), "github__list_prs", `{"repo":"r"}`)), "fix r")
	}
}

// Only tools have answers that can be blanked.
func TestRedactElsewhereDenies(t *testing.T) {
	o := newOwn(t, 0)
	o.reload(t, ownPolicy+`
@id("blank") @redact("$.x") permit (principal == Agent::"bot", action in [Action::"get_prompt", Action::"subscribe"], resource);
@id("limited") @max_bytes("30") permit (principal == Agent::"bot", action == Action::"read_resource", resource);`)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	cs := o.connect(t, legacy)
	_, err := cs.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "daily"})
	assert.ErrorContains(t, err, "obligation")
	assert.Error(t, cs.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "notes://open"}))
	assert.Empty(t, o.ran)
	_, err = cs.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "notes://open"})
	assert.ErrorContains(t, err, "withheld")
	assert.Equal(t, []string{"read notes://open"}, o.ran)
	assert.Equal(t, "withheld", o.last(t).Outcome.ErrorCode)
}

// A rate that is used up denies until there is room, and calls that were never
// made do not count.
func TestRate(t *testing.T) {
	w := newWorld(t, &setup{policy: otherKey + `
@id("hourly") @rate("2/1h") permit (principal == Agent::"bot", action == Action::"github__list_prs", resource);`})
	a := w.agent(bot, modern)
	for range 5 {
		assert.Equal(t, "arguments", denial(t, call(t, a, "github__list_prs", `{"repo":1}`)).Reason)
	}
	for range 2 {
		require.False(t, call(t, a, "github__list_prs", `{"repo":"r"}`).IsError)
	}
	d := denial(t, call(t, a, "github__list_prs", `{"repo":"r"}`))
	assert.Equal(t, "rate", d.Reason)
	assert.True(t, d.Retryable)
	assert.Equal(t, 2, len(w.github.Calls()))
	assert.False(t, call(t, w.agent(other, modern), "github__list_prs", `{"repo":"r"}`).IsError)
}

// What policy demands of answers holds for errors, in which a server could say
// the same.
func TestErrorsMeetDemands(t *testing.T) {
	const words = "no account of 078-05-1120 here"
	for _, c := range []struct{ policy, check string }{
		{`@redact("$.ssn")`, "withheld:redact"},
		{`@max_bytes("20")`, "withheld:max_bytes"},
		{`@max_bytes("2000")`, ""},
		{``, "withheld:too-large"},
	} {
		for _, slow := range []bool{false, true} {
			w := newWorld(t, &setup{policy: `
@id("demands") ` + c.policy + ` permit (principal == Agent::"bot", action == Action::"slack__post_message", resource);`})
			s := newScript(t, w.servers["slack"], modern)
			said := words
			opts := &mcpx.GatewayOptions{}
			if c.policy == "" {
				opts.MaxAnswer, said = 1000, words+strings.Repeat("x", 1000)
			}
			s.answer = says(200, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-31000,"message":"`+said+`","data":{"ssn":"078-05-1120"}}}`)
			gw := mcpx.NewGateway(w.engine, w.log, opts)
			defer gw.Close()
			if slow {
				mcpx.SlowOnly(gw)
			}
			require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", s.URL)))
			_, body, _ := fire(t, mcptest.Door(t, gw, bot).URL, modernCall("slack__post_message", goodArgs))
			out := w.outcome()
			assert.Equal(t, audit.StatusFailed, out.Status)
			if c.check == "" {
				assert.Contains(t, body, words)
				assert.Equal(t, "error", out.ErrorCode)
				continue
			}
			assert.NotContains(t, body, "078-05-1120", c.policy)
			assert.Equal(t, "withheld", out.ErrorCode)
			assert.Equal(t, []string{c.check}, out.Checks)
			assert.Zero(t, out.Bytes)
		}
	}
}
