package mcptest_test

import (
	"context"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// Three things to assert of each attack: nothing forbidden reached the server,
// nothing permitted was refused, and one record has the true reason.
func ExampleNewGateway() {
	t := new(example) // a test has its own
	defer t.end()
	type args struct {
		Channel string `json:"channel"`
	}
	slack := mcp.NewServer(&mcp.Implementation{Name: "slack"}, nil)
	mcp.AddTool(slack, &mcp.Tool{Name: "post", Description: "Posts a message."}, func(_ context.Context, _ *mcp.CallToolRequest, in args) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "posted to " + in.Channel}}}, nil, nil
	})
	gw := mcptest.NewGateway(t, `
		@id("team") permit (principal == Agent::"bot", action == Action::"slack__post", resource) when { context.args.channel == "#team" };
		@id("key") permit (principal, action == Action::"use_credential", resource == Credential::"slack");`,
		map[string]*mcp.Server{"slack": slack}, &mcptest.GatewayOptions{Tokens: map[string]string{"slack": "xoxb-not-a-real-token"}})

	bot := gw.Agent(audit.Actor{Agent: "bot"}, nil)
	for _, channel := range []string{"#team", "#executive"} {
		res, err := bot.Call(t.Context(), "slack__post", fmt.Sprintf(`{"channel":%q}`, channel))
		if err != nil {
			fmt.Println(err)
			continue
		}
		if d, denied := mcptest.Denied(res); denied {
			fmt.Println("denied:", d.Reason)
			continue
		}
		fmt.Println(mcptest.Text(res))
	}
	calls := gw.Upstreams["slack"].Calls()
	fmt.Println(len(calls), "call arrived, with", calls[0].Header.Get("Authorization"))
	fmt.Println("on record:", gw.Log.Denials()[0].Decision.Reason)
	// Output:
	// posted to #team
	// denied: policy
	// 1 call arrived, with Bearer xoxb-not-a-real-token
	// on record: no-permit
}
