package mcpx_test

import (
	"context"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// Refunds need a lead. Here the host asks by a callback, such as a message to
// whoever is on call; a [mcpx.Desk] is a page for the same.
func ExampleApproverFunc() {
	ctx := context.Background()
	t := new(example)
	defer t.end()
	log := audittest.NewLog(t) // audit.Open in a program

	server := mcp.NewServer(&mcp.Implementation{Name: "shop"}, nil)
	type args struct {
		Amount int `json:"amount"`
	}
	mcp.AddTool(server, &mcp.Tool{Name: "refund", Description: "Refunds an order."},
		func(_ context.Context, _ *mcp.CallToolRequest, in args) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprintf("refunded %d", in.Amount)}}}, nil, nil
		})
	catalog, _ := mcpx.Catalog(ctx, "shop", server)
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(ctx, governance.Bundle{
		Catalog: []governance.Server{catalog},
		Policies: []governance.Source{{Name: "shop.cedar", Text: `
			@id("refunds")
			@approval("lead")
			permit (principal == Agent::"helper", action == Action::"shop__refund", resource);`}},
	}, audit.Change{By: "you", Reason: "first policy"})
	if err != nil {
		fmt.Println(err)
	}
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{
		Identify: func(context.Context, mcp.Request) (audit.Actor, error) { return audit.Actor{Agent: "helper"}, nil },
		Approver: mcpx.ApproverFunc(func(_ context.Context, r mcpx.ApprovalRequest) (mcpx.Verdict, error) {
			fmt.Printf("lena (%s) is asked: %s %s\n", r.Groups[0], r.Tool, r.Args)
			small := string(r.Args) == `{"amount":20}`
			return mcpx.Verdict{Approved: small, By: "lena", Reason: "looked at the order", Groups: []string{"lead"}}, nil
		}),
	}))

	agent, there := mcp.NewInMemoryTransports()
	server.Connect(ctx, there, nil)
	session, _ := mcp.NewClient(&mcp.Implementation{Name: "agent"}, nil).Connect(ctx, agent, nil)
	defer session.Close()
	for _, amount := range []int{20, 900} {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "refund", Arguments: map[string]any{"amount": amount}})
		switch {
		case err != nil:
			fmt.Println(err)
		case res.IsError:
			fmt.Println("refused")
		default:
			fmt.Println(mcptest.Text(res))
		}
	}
	for _, r := range log.Records() {
		if r.Intent != nil {
			fmt.Printf("on record: %s, agreed by %s of %s\n", r.Intent.Action, r.Intent.Decision.Approval.By, r.Intent.Decision.Approval.Groups)
		}
	}
	// Output:
	// lena (lead) is asked: refund {"amount":20}
	// refunded 20
	// lena (lead) is asked: refund {"amount":900}
	// refused
	// on record: shop__refund, agreed by lena of [lead]
}
