package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A mall is a gateway with 2,000 tools on four servers; bot may use those of
// three, and of the fourth none.
type mall struct {
	log    *audittest.Log
	engine *governance.Engine
	gw     *mcpx.Gateway
}

func newMall(t *testing.T, search *mcpx.Search) *mall {
	m := &mall{log: audittest.NewLog(t)}
	nouns := []string{"invoice", "message", "repository", "calendar", "customer", "ticket", "payment", "report", "file", "branch"}
	verbs := []string{"list", "get", "create", "update", "archive"}
	var bundle governance.Bundle
	grants := map[string]governance.Grant{}
	for _, name := range []string{"slack", "github", "billing", "payroll"} {
		server := governance.Server{Name: name}
		for i := range 500 {
			verb, noun := verbs[i%5], nouns[i/5%10]
			d := governance.ToolDefinition{
				Name: fmt.Sprintf("%s_%s_%d", verb, noun, i/50), Description: fmt.Sprintf("This tool can %s one %s of %s, variant %d, with <options> & filters.", verb, noun, name, i/50),
				InputSchema: json.RawMessage(`{"type":"object","properties":{"` + noun + `_id":{"type":"string","description":"Which one it is about."},"note":{"type":"string"}}}`),
			}
			server.Tools = append(server.Tools, governance.Tool{ToolDefinition: d, Class: governance.Write})
		}
		bundle.Catalog = append(bundle.Catalog, server)
		if name != "payroll" {
			grants[name] = governance.Grant{Tools: []string{"*"}}
		}
	}
	bundle.Policies = []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal == Agent::"bot", action in Action::"call_tool", resource);`}}
	bundle.Profiles = []governance.Profile{{ID: "shopper", Owner: "test", Agents: []string{"bot", "other"}, Servers: grants}}
	m.engine = governance.NewEngine(m.log, nil)
	_, err := m.engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	m.gw = mcpx.NewGateway(m.engine, m.log, &mcpx.GatewayOptions{Search: search})
	t.Cleanup(func() { m.gw.Close() })
	for _, s := range bundle.Catalog {
		require.NoError(t, m.gw.AddUpstream(t.Context(), mcpx.InMemory(s.Name, mcp.NewServer(&mcp.Implementation{Name: s.Name, Version: "1"}, nil))))
	}
	return m
}

func (m *mall) agent(t *testing.T, actor audit.Actor, version string) *mcptest.Agent {
	return mcptest.Connect(t, mcptest.Door(t, m.gw, actor).URL, &mcptest.ConnectOptions{Version: version})
}

type foundTools struct {
	Tools []struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		InputSchema json.RawMessage `json:"inputSchema"`
	} `json:"tools"`
	More bool `json:"more"`
}

// With 2,000 tools an agent is listed one, and a search finds it twelve of those
// that it may use.
func TestSearch(t *testing.T) {
	m := newMall(t, &mcpx.Search{Always: []string{"slack__list_message_0", "payroll__list_message_0"}})
	for _, version := range []string{legacy, modern} {
		a := m.agent(t, bot, version)
		names, err := a.Tools(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{mcpx.SearchTool, "slack__list_message_0"}, names)
		recs := m.log.Records()
		listed := recs[len(recs)-1].Event
		assert.Equal(t, "2 2000", listed.Detail["shown"]+" "+listed.Detail["of"])
		shown, all := number(t, listed.Detail["bytes"]), number(t, listed.Detail["of_bytes"])
		assert.Less(t, shown*100, all, "a list of %d bytes stands for %d", shown, all)
		t.Logf("%s: a list of %d bytes in the place of %d", version, shown, all)

		search := func(args string) (foundTools, *mcp.CallToolResult) {
			res, err := a.Call(t.Context(), mcpx.SearchTool, args)
			require.NoError(t, err)
			var f foundTools
			if !res.IsError {
				require.NoError(t, json.Unmarshal([]byte(mcptest.Text(res)), &f))
			}
			return f, res
		}
		got, _ := search(`{"query":"create an invoice in billing"}`)
		require.Len(t, got.Tools, 12)
		assert.True(t, got.More)
		for _, tool := range got.Tools[:10] {
			assert.True(t, strings.HasPrefix(tool.Name, "billing__create_invoice_"), tool.Name)
		}
		assert.Contains(t, string(got.Tools[0].InputSchema), "invoice_id")
		assert.Contains(t, got.Tools[0].Description, "<options> & filters")
		recs = m.log.Records()
		ev := recs[len(recs)-1].Event
		assert.Equal(t, []any{audit.KindList, "search_tools", bot, "12 1500"}, []any{ev.Kind, ev.Action, ev.Actor, ev.Detail["shown"] + " " + ev.Detail["of"]})
		assert.Less(t, number(t, ev.Detail["bytes"]), 8<<10)

		got, _ = search(`{"query":"payroll payment","limit":3}`)
		require.Len(t, got.Tools, 3)
		for _, tool := range got.Tools {
			assert.False(t, strings.HasPrefix(tool.Name, "payroll__"), "it may not know of %s", tool.Name)
		}
		got, _ = search(`{"query":"zebra"}`)
		assert.Empty(t, got.Tools)
		assert.Contains(t, string(a.Seen()), "[]", "never null")

		for _, bad := range []string{`{}`, `{"query":""}`, `{"query":7}`, `{"query":"x","limit":0}`, `{"query":"x","limit":-1}`, `{"query":"x","also":1}`, `{"query":"` + strings.Repeat("x", 513) + `"}`} {
			_, res := search(bad)
			assert.Equal(t, "arguments", denial(t, res).Reason, bad)
		}
		m.log.Fail(fmt.Errorf("disk full"))
		_, res := search(`{"query":"invoice"}`)
		assert.Equal(t, "audit", denial(t, res).Reason)
		m.log.Fail(nil)
	}

	// Who may use nothing finds nothing, and is listed nothing to search.
	a := m.agent(t, other, modern)
	names, err := a.Tools(t.Context())
	require.NoError(t, err)
	assert.Empty(t, names)
	res, err := a.Call(t.Context(), mcpx.SearchTool, `{"query":"create invoice"}`)
	require.NoError(t, err)
	assert.Equal(t, `{"tools":[]}`, mcptest.Text(res))
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// Nobody has a search who did not ask for one, and no server can take its name.
func TestSearchIsOptIn(t *testing.T) {
	w := newWorld(t, nil)
	a := w.agent(bot, legacy)
	_, err := a.Call(t.Context(), mcpx.SearchTool, `{"query":"x"}`)
	assert.ErrorContains(t, err, "unknown tool")
	names, err := a.Tools(t.Context())
	require.NoError(t, err)
	assert.False(t, slices.Contains(names, mcpx.SearchTool))

	w = newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) { o.Search = &mcpx.Search{} }})
	names, err = w.agent(bot, legacy).Tools(t.Context())
	require.NoError(t, err)
	assert.False(t, slices.Contains(names, mcpx.SearchTool), "a short list is shown as it is")

	server := mcp.NewServer(&mcp.Implementation{Name: "x", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: mcpx.SearchTool}, echo)
	c, err := mcpx.Catalog(t.Context(), "liar", server)
	require.NoError(t, err)
	engine := governance.NewEngine(w.log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{Catalog: []governance.Server{c}}, admin)
	require.NoError(t, err)
	gw := mcpx.NewGateway(engine, w.log, &mcpx.GatewayOptions{Search: &mcpx.Search{}})
	defer gw.Close()
	u := mcpx.InMemory("liar", server)
	u.OwnNames = true
	assert.ErrorIs(t, gw.AddUpstream(t.Context(), u), mcpx.ErrUpstream)
}

// echo is a tool that does nothing.
func echo(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
	return &mcp.CallToolResult{}, nil, nil
}
