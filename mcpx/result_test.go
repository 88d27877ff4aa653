package mcpx_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/internal/attack"
)

// answer has the shop's server answer calls with a result.
func (s *shop) answer(result string) {
	s.up.Behave(func(w http.ResponseWriter, m attack.Message) bool {
		switch m.Method {
		case "tools/list":
			attack.Reply(w, m.ID, attack.List(s.tool))
		case "tools/call":
			attack.Reply(w, m.ID, result)
		default:
			return false
		}
		return true
	})
}

// last is the last outcome on record.
func (s *shop) last() *audit.Outcome {
	recs := s.log.Records()
	return recs[len(recs)-1].Outcome
}

// What a tool returns is what it was approved to return, or the agent does not
// get it.
func TestOutputSchema(t *testing.T) {
	s := newShop(t, `{"name":"buy","description":"Buys.","inputSchema":{"type":"object"},"outputSchema":{"type":"object","properties":{"id":{"type":"integer","maximum":9007199254740993},"to":{"enum":["me"]}},"required":["id"],"additionalProperties":false},"annotations":{"readOnlyHint":true}}`, nil)
	for _, c := range []struct {
		result string
		passes bool
	}{
		{`{"content":[],"structuredContent":{"id":1}}`, true},
		{`{"content":[],"structuredContent":{"id":9007199254740993,"to":"me"}}`, true},
		{`{"content":[],"structuredContent":{"id":9007199254740994}}`, false},
		{`{"content":[],"structuredContent":{"id":"1"}}`, false},
		{`{"content":[],"structuredContent":{}}`, false},
		{`{"content":[],"structuredContent":{"id":1,"to":"you"}}`, false},
		{`{"content":[],"structuredContent":{"id":1,"secret-plan":"x"}}`, false},
		{`{"content":[],"structuredContent":{"id":1,"id":"secret-plan"}}`, false},
		{`{"content":[],"structuredContent":[1]}`, false},
		{`{"content":[],"structuredContent":null}`, false},
		{`{"content":[{"type":"text","text":"{\"id\":1}"}]}`, false},
		{`{"content":[{"type":"text","text":"out of stock"}],"isError":true}`, true},
	} {
		s.answer(c.result)
		body := s.call(t, `{}`)
		assert.Equal(t, !c.passes, strings.Contains(body, "not what the tool was approved to return"), "%s: %s", c.result, body)
		assert.NotContains(t, body, "secret-plan")
		if !c.passes {
			assert.Equal(t, audit.StatusFailed, s.last().Status)
			assert.Equal(t, "withheld", s.last().ErrorCode)
			assert.Contains(t, s.last().Checks, "withheld:output-schema")
		}
	}
	assert.Len(t, s.up.Calls(), 12)
}

// A schema that cannot be checked lets nothing through.
func TestOutputSchemaThatCannotBeChecked(t *testing.T) {
	s := newShop(t, `{"name":"buy","inputSchema":{"type":"object"},"outputSchema":{"type":"nonsense"}}`, nil)
	s.answer(`{"content":[],"structuredContent":{"id":1}}`)
	assert.Contains(t, s.call(t, `{}`), "not what the tool was approved to return")
	_, rep, err := governance.Compile(t.Context(), s.bundle, nil)
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(rep.Findings), "its outputSchema cannot be checked")
}

func TestMaxAnswer(t *testing.T) {
	s := newShop(t, buyTool, func(c *governance.Server) { c.Tools[0].OutputSchema = nil })
	s.tool = strings.Replace(buyTool, `"outputSchema":{"type":"object","z":1,"a":2},`, "", 1)
	for n, passes := range map[int]bool{3 << 20: true, 5 << 20: false} {
		s.answer(`{"content":[{"type":"text","text":"` + strings.Repeat("x", n) + `"}]}`)
		body := s.call(t, `{"what":"x"}`)
		assert.Equal(t, passes, len(body) > n, "%.200s", body)
		if !passes {
			assert.Contains(t, s.last().Checks, "withheld:too-large")
		}
	}
	server, bundle, _ := factServer(t)
	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	mcp.AddTool(server, &mcp.Tool{Name: "read"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "far too much"}}}, nil, nil
	})
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{Identify: as(bot), MaxAnswer: 8}))
	cs := (&own{server: server, log: log, engine: engine}).connect(t, modern)
	res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "read", Arguments: map[string]any{}})
	require.NoError(t, err)
	assert.Equal(t, "withheld", denial(t, res).Reason)
}

// labeler finds what a test says.
type labeler func(mcpx.ToolAnswer) ([]string, error)

func (f labeler) Label(_ context.Context, a mcpx.ToolAnswer) ([]string, error) { return f(a) }

// X1: what an answer turned out to hold is known to policy from then on, and is on
// record.
func TestLabeler(t *testing.T) {
	var asked []mcpx.ToolAnswer
	how := func(a mcpx.ToolAnswer) ([]string, error) {
		if strings.Contains(string(a.Result), "4111") {
			return []string{"card"}, nil
		}
		return nil, nil
	}
	server, bundle, _ := factServer(t)
	text := "nothing"
	mcp.AddTool(server, &mcp.Tool{Name: "read"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, nil
	})
	bundle.Catalog[0].Tools = nil
	c, err := mcpx.Catalog(t.Context(), "shop", server)
	require.NoError(t, err)
	bundle.Catalog[0] = c
	bundle.Policies[0].Text += `@id("card") forbid (principal, action == Action::"shop__post", resource) when { context.labels.contains("card") };`
	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{Identify: as(bot), Labeler: labeler(func(a mcpx.ToolAnswer) ([]string, error) {
		asked = append(asked, a)
		return how(a)
	})}))
	cs := (&own{server: server, log: log, engine: engine}).connect(t, modern)
	call := func(tool string) *mcp.CallToolResult {
		res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: map[string]any{}})
		require.NoError(t, err)
		return res
	}
	require.False(t, call("read").IsError)
	require.False(t, call("post").IsError)
	text = "card 4111 1111 1111 1111"
	require.False(t, call("read").IsError)
	a := asked[len(asked)-1]
	sum := sha256.Sum256(a.Result)
	assert.Equal(t, "sha256:"+hex.EncodeToString(sum[:]), a.Digest)
	assert.Equal(t, []any{bot, "shop", "read"}, []any{a.Actor, a.Server, a.Tool})
	recs := log.Records()
	assert.Equal(t, []string{"card"}, recs[len(recs)-1].Outcome.Labels)
	assert.Equal(t, "policy", denial(t, call("post")).Reason)

	again := governance.NewEngine(log, nil) // a restarted host knows it too
	require.NoError(t, again.Rebuild(log.Query(t.Context(), audit.Filter{})))
	_, err = again.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	d, err := again.Decide(t.Context(), governance.Request{Actor: bot, Action: "call_tool", Server: "shop", Name: "post"})
	require.NoError(t, err)
	assert.Equal(t, "card", d.Reason)

	for _, broken := range []func(mcpx.ToolAnswer) ([]string, error){
		func(mcpx.ToolAnswer) ([]string, error) { return nil, errors.New("scanner down") },
		func(mcpx.ToolAnswer) ([]string, error) { panic("scanner") },
	} {
		how = broken
		res := call("read")
		assert.Equal(t, "withheld", denial(t, res).Reason)
		recs := log.Records()
		assert.Contains(t, recs[len(recs)-1].Outcome.Checks, "withheld:labels")
	}
}
