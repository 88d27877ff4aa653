package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

// A tool of an author's own server asks by its answer, and the client that calls
// again is not refused.
func TestGovernedServerAsks(t *testing.T) {
	server := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "1"}, nil)
	server.AddTool(&mcp.Tool{Name: "buy", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if r.Params.RequestState == "mine" {
			a, _ := r.Params.InputResponses["size"].(*mcp.ElicitResult)
			return &mcp.CallToolResult{Content: []mcp.Content{text(fmt.Sprint("bought ", a.Content["size"]))}}, nil
		}
		return &mcp.CallToolResult{RequestState: "mine", InputRequests: mcp.InputRequestMap{"size": &mcp.ElicitParams{Message: "Which?", RequestedSchema: json.RawMessage(`{"type":"object","properties":{"size":{"type":"string"}}}`)}}}, nil
	})
	catalog, err := mcpx.Catalog(t.Context(), "shop", server)
	require.NoError(t, err)
	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("buy") permit (principal, action == Action::"shop__buy", resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{Identify: as(bot)}))
	for version, want := range map[string][]string{legacy: {string(audit.StatusOK) + " "}, modern: {string(audit.StatusFailed) + " input-required", string(audit.StatusOK) + " "}} {
		n := len(log.Records())
		here, there := mcp.NewInMemoryTransports()
		ss, err := server.Connect(t.Context(), there, nil)
		require.NoError(t, err)
		cs, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
			ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
				return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"size": "L"}}, nil
			},
		}).Connect(t.Context(), here, &mcp.ClientSessionOptions{ProtocolVersion: version})
		require.NoError(t, err)
		t.Cleanup(func() { cs.Close(); ss.Wait() })
		res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "buy", Arguments: json.RawMessage(`{}`)})
		require.NoError(t, err)
		require.False(t, res.IsError)
		assert.Equal(t, "bought L", res.Content[0].(*mcp.TextContent).Text)
		var codes []string
		for _, r := range log.Records()[n:] {
			if r.Outcome != nil {
				codes = append(codes, string(r.Outcome.Status)+" "+r.Outcome.ErrorCode)
			}
		}
		assert.Equal(t, want, codes, version)
	}
}
