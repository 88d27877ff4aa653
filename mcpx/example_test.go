package mcpx_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A server of your own, governed by one line.
func ExampleGovern() {
	ctx := context.Background()
	t := new(example)
	defer t.end()
	log := audittest.NewLog(t) // audit.Open in a program

	server := mcp.NewServer(&mcp.Implementation{Name: "tickets"}, nil)
	type args struct {
		ID       int    `json:"id"`
		Severity string `json:"severity"`
	}
	mcp.AddTool(server, &mcp.Tool{Name: "close", Description: "Closes a ticket."},
		func(_ context.Context, _ *mcp.CallToolRequest, in args) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprintf("closed %d", in.ID)}}}, nil, nil
		})

	catalog, _ := mcpx.Catalog(ctx, "tickets", server)
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(ctx, governance.Bundle{
		Catalog: []governance.Server{catalog},
		Policies: []governance.Source{{Name: "tickets.cedar", Text: `
			@id("close-small-ones")
			permit (principal == Agent::"helper", action == Action::"tickets__close", resource)
			when { context.args.severity == "low" };`}},
	}, audit.Change{By: "you", Reason: "first policy"})
	if err != nil {
		fmt.Println(err)
	}

	// The one line, added last. Over HTTP the actor is the verified token's;
	// here, in memory, it is said once.
	helper := audit.Actor{Agent: "helper"}
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{
		Identify: func(context.Context, mcp.Request) (audit.Actor, error) { return helper, nil },
	}))

	agent, there := mcp.NewInMemoryTransports()
	server.Connect(ctx, there, nil)
	session, _ := mcp.NewClient(&mcp.Implementation{Name: "agent"}, nil).Connect(ctx, agent, nil)
	defer session.Close()
	for _, severity := range []string{"low", "high"} {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "close", Arguments: args{7, severity}})
		if err != nil {
			fmt.Println(err)
			continue
		}
		denial, denied := res.Meta[mcpx.DenialKey].(map[string]any)
		if denied {
			fmt.Println(severity, "denied:", denial["reason"])
			continue
		}
		fmt.Println(severity, mcptest.Text(res))
	}
	fmt.Println(len(log.Denials()), "denial on record:", log.Denials()[0].Decision.Reason)
	// Output:
	// low closed 7
	// high denied: policy
	// 1 denial on record: no-permit
}

// One endpoint in front of a server that somebody else wrote. The agent behind
// the door holds no credential; the upstream gets one.
func ExampleNewGateway() {
	ctx, t := context.Background(), new(example)
	defer t.end()
	log := audittest.NewLog(t) // audit.Open in a program
	by := audit.Change{By: "you", Reason: "first policy"}

	// The upstream: a server that wants a token.
	github := mcp.NewServer(&mcp.Implementation{Name: "github"}, nil)
	for _, name := range []string{"list_pulls", "delete_repo"} {
		mcp.AddTool(github, &mcp.Tool{Name: name, Description: name}, func(_ context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "#1 Fix the build"}}}, nil, nil
		})
	}
	upstream := mcptest.NewUpstream(t, github, &mcptest.UpstreamOptions{Token: "ghp_not-a-real-token"})

	// What policy says. The catalogue is a reviewed file: see [mcpx.ReadCatalog].
	catalog, _ := mcpx.Catalog(ctx, "github", github)
	engine := governance.NewEngine(log, nil)
	if _, err := engine.Reload(ctx, governance.Bundle{
		Catalog: []governance.Server{catalog},
		Policies: []governance.Source{{Name: "github.cedar", Text: `
			@id("pulls") permit (principal == Agent::"helper", action == Action::"github__list_pulls", resource);
			@id("token") permit (principal == Agent::"helper", action == Action::"use_credential", resource == Credential::"github");`}},
	}, by); err != nil {
		fmt.Println(err)
	}
	vault := credential.NewMemory(map[string]credential.Secret{"github": credential.NewSecret([]byte("ghp_not-a-real-token"))})
	vault.Bind(ctx, "github", credential.Binding{Origin: upstream.URL}, by)

	gateway := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Vault: vault})
	defer gateway.Close()
	u := mcpx.HTTP("github", upstream.URL)
	u.Credential = "github"
	if err := gateway.AddUpstream(ctx, u); err != nil {
		fmt.Println(err)
	}

	// An agent, as it comes through the door of a sandbox session.
	agent := mcptest.Connect(t, mcptest.Door(t, gateway, audit.Actor{Agent: "helper"}).URL, nil)
	fmt.Println(agent.Tools(ctx))
	res, _ := agent.Call(ctx, "github__list_pulls", `{}`)
	fmt.Println(mcptest.Text(res))
	res, _ = agent.Call(ctx, "github__delete_repo", `{}`)
	fmt.Println("denied:", res.IsError)
	// Output:
	// [github__list_pulls] <nil>
	// #1 Fix the build
	// denied: true
}

// example stands in for a test in an example.
type example struct {
	testing.TB
	cleanups []func()
}

func (t *example) Context() context.Context { return context.Background() }
func (t *example) Cleanup(f func())         { t.cleanups = append(t.cleanups, f) }
func (t *example) end() {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
}

func (*example) Helper()               { /* nothing to mark */ }
func (*example) Errorf(string, ...any) { panic("example") }
func (*example) Fatal(args ...any)     { panic(fmt.Sprint(args...)) }
