package mcpx_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// Arguments that a tool wants repeated in headers (SEP-2243) arrive there as well,
// made from the arguments that were decided: from clients that send them, the empty
// one among them, and from those of the older era, which do not know of it. What a
// client adds to the headers does not arrive.
func TestArgumentsInHeaders(t *testing.T) {
	s := server(nil)
	placed := func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{text("placed")}}, nil
	}
	s.AddTool(&mcp.Tool{Name: "place", Description: "Places.", InputSchema: json.RawMessage(`{"type":"object","properties":{
		"region":{"type":"string","x-mcp-header":"Region"},"city":{"type":"string","x-mcp-header":"City"},"spaced":{"type":"string","x-mcp-header":"Spaced"},
		"none":{"type":"string","x-mcp-header":"None"},"n":{"type":"integer","x-mcp-header":"N"},"on":{"type":"boolean","x-mcp-header":"On"},"plain":{"type":"string"}}}`)},
		placed)
	const args = `{"region":"eu","city":"Zürich","spaced":" x ","n":7,"on":false,"plain":"p"}`
	coded := func(s string) string { return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?=" }
	for _, version := range []string{legacy, modern} {
		gw := mcptest.NewGateway(t, `@id("all") permit (principal, action in Action::"call_tool", resource);`, map[string]*mcp.Server{"shop": s}, nil)
		a := gw.Agent(bot, &mcptest.ConnectOptions{Version: version})
		_, err := a.Tools(t.Context()) // from which the client learns of them
		require.NoError(t, err)
		res, err := a.Call(t.Context(), "shop__place", args)
		require.NoError(t, err)
		require.Equal(t, "placed", mcptest.Text(res))
		calls := gw.Upstreams["shop"].Calls()
		require.Len(t, calls, 1)
		h := calls[0].Header
		assert.Equal(t, []string{"eu", coded("Zürich"), coded(" x "), "7", "false"},
			[]string{h.Get("Mcp-Param-Region"), h.Get("Mcp-Param-City"), h.Get("Mcp-Param-Spaced"), h.Get("Mcp-Param-N"), h.Get("Mcp-Param-On")}, version)
		assert.Empty(t, h["Mcp-Param-None"])
		assert.Empty(t, h["Mcp-Param-Plain"])
		assert.JSONEq(t, args, string(calls[0].Arguments))
	}

	// The empty string is one too, which the SDK takes for a header that is missing.
	gw := mcptest.NewGateway(t, `@id("all") permit (principal, action in Action::"call_tool", resource);`, map[string]*mcp.Server{"shop": s}, nil)
	up := newScript(t, s, modern)
	var sent []http.Header
	up.answer = func(w http.ResponseWriter, r *http.Request, c scripted) {
		sent = append(sent, r.Header.Clone())
		results(`{"content":[{"type":"text","text":"placed"}]}`)(w, r, c)
	}
	lenient := mcpx.NewGateway(gw.Engine, gw.Log, nil)
	t.Cleanup(func() { lenient.Close() })
	require.NoError(t, lenient.AddUpstream(t.Context(), mcpx.HTTP("shop", up.URL)))
	url := mcptest.Door(t, lenient, bot).URL
	code, body, _ := fire(t, url, modernCall("shop__place", `{"none":"","region":"eu"}`, [2]string{"Mcp-Param-None", ""}, [2]string{"Mcp-Param-Region", "eu"}, [2]string{"Mcp-Param-Plain", "p"}))
	require.Equal(t, 200, code, body)
	assert.Contains(t, body, "placed")
	require.Len(t, sent, 1)
	assert.Equal(t, []string{""}, sent[0]["Mcp-Param-None"])
	assert.Equal(t, []string{"eu"}, sent[0]["Mcp-Param-Region"])
	assert.Empty(t, sent[0]["Mcp-Param-Plain"])
	code, body, _ = fire(t, url, modernCall("shop__place", `{"none":"x","region":"eu"}`, [2]string{"Mcp-Param-None", ""}, [2]string{"Mcp-Param-Region", "eu"}))
	assert.Equal(t, 400, code, body)
	assert.Len(t, sent, 1)
}
