package mcpx_test

import (
	"context"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
)

const readsWithApproval = `
@id("ask") @approval("lead") permit (principal == Agent::"bot", action in [Action::"get_prompt", Action::"read_resource"], resource);
@id("stream") @approval("lead") permit (principal == Agent::"bot", action == Action::"subscribe", resource);`

// Prompts and resources wait for a person as calls do: for this one of them, once.
func TestReadsAreApproved(t *testing.T) {
	eachCell(t, func(t *testing.T, client, upstream string) {
		f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
		f.bundle.Policies[0].Text = readsWithApproval
		_, err := f.engine.Reload(t.Context(), f.bundle, admin)
		require.NoError(t, err)
		var asked []mcpx.ApprovalRequest
		yes := true
		f.gateway = mcpx.NewGateway(f.engine, f.log, &mcpx.GatewayOptions{Approver: mcpx.ApproverFunc(func(_ context.Context, r mcpx.ApprovalRequest) (mcpx.Verdict, error) {
			asked = append(asked, r)
			v := lena
			v.Approved = yes
			return v, nil
		})})
		t.Cleanup(func() { f.gateway.Close() })
		f.add("wiki", wiki(), upstream)
		a := f.agent(bot, client)

		got, err := a.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "wiki__review", Arguments: map[string]string{"page": "7"}})
		require.NoError(t, err)
		assert.Equal(t, "review 7", got.Messages[0].Content.(*mcp.TextContent).Text)
		read, err := a.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "wiki://page/7"})
		require.NoError(t, err)
		assert.Equal(t, "<b>wiki://page/7", read.Contents[0].Text)
		require.Len(t, asked, 2)
		assert.Equal(t, []string{"get_prompt", `Prompt::"wiki__review"`, "wiki", "review", `{"page":"7"}`},
			[]string{asked[0].Action, asked[0].Resource, asked[0].Server, asked[0].Tool, string(asked[0].Args)})
		assert.Equal(t, []string{"read_resource", `Resource::"wiki__wiki://page/7"`, "wiki", "wiki://page/7", ""},
			[]string{asked[1].Action, asked[1].Resource, asked[1].Server, asked[1].Tool, string(asked[1].Args)})
		intents := 0
		for _, r := range f.log.Records() {
			if r.Intent != nil {
				intents++
				assert.Equal(t, "lena", r.Intent.Decision.Approval.By)
			}
		}
		assert.Equal(t, 2, intents)

		yes = false
		_, err = a.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "wiki__review", Arguments: map[string]string{"page": "8"}})
		assert.ErrorContains(t, err, "does not agree")
		_, err = a.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "wiki://page/8"})
		assert.ErrorContains(t, err, "does not agree")
		require.Len(t, asked, 4)
		assert.NotEqual(t, asked[0].Call, asked[2].Call, "other arguments are another question")

		if client == legacy { // nobody is asked about what goes on by itself
			assert.ErrorContains(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "wiki://page/7"}), "obligation")
			assert.Len(t, asked, 4)
		}
	})
}
