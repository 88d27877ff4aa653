package governance_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A rule about a path reads the clean path, and one about money counts cents.
func ExampleDerived() {
	bundle := governance.Bundle{
		Catalog: []governance.Server{{Name: "shop", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{
				Name:        "refund",
				InputSchema: json.RawMessage(`{"type":"object","properties":{"receipt":{"type":"string"},"amount":{"type":"number","minimum":0}},"required":["receipt","amount"]}`),
			},
			Class:   governance.Write,
			As:      map[string]string{"/amount": "scaled(2)"},
			Derived: map[string]governance.Derived{"receipt": {From: "/receipt", Facet: governance.CleanPath}},
		}}}},
		Policies: []governance.Source{{Name: "shop.cedar", Text: `
@id("small-refunds")
permit (principal == Agent::"support", action == Action::"shop__refund", resource)
when { context.args.amount <= 5000 && context.derived.receipt like "receipts/*" };
`}},
	}
	snap, _, err := governance.Compile(context.Background(), bundle, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, args := range []string{
		`{"receipt":"receipts/./1.pdf","amount":49.99}`,
		`{"receipt":"receipts/../salaries.pdf","amount":49.99}`,
		`{"receipt":"receipts/%2e%2e/salaries.pdf","amount":49.99}`,
		`{"receipt":"receipts/1.pdf","amount":49.999}`,
		`{"receipt":"receipts/1.pdf","amount":-1}`,
	} {
		d, err := snap.Decide(context.Background(), governance.Request{
			Actor:  audit.Actor{Agent: "support"},
			Action: "call_tool", Server: "shop", Name: "refund", Args: json.RawMessage(args),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		if d.Allowed() {
			fmt.Println(d.Effect, d.PolicyIDs())
		} else {
			fmt.Println(d.Effect, d.Reason)
		}
	}
	// Output:
	// allow [small-refunds]
	// deny no-permit
	// deny arguments
	// deny arguments
	// deny arguments
}
