package mcpx_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A server of your own, governed by one line.
func ExampleGovern() {
	ctx := context.Background()
	log := audittest.NewLog(new(example)) // audit.Open in a program

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

// example stands in for a test in an example.
type example struct{ testing.TB }

func (*example) Helper()               { /* nothing to mark */ }
func (*example) Cleanup(func())        { /* the process ends */ }
func (*example) Errorf(string, ...any) { panic("example") }
func (*example) Fatal(args ...any)     { panic(fmt.Sprint(args...)) }
