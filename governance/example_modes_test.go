package governance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// payments is a bundle with one tool, which moves money.
func payments(policies string) governance.Bundle {
	return governance.Bundle{
		Catalog: []governance.Server{{Name: "bank", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{
				Name:        "transfer",
				InputSchema: json.RawMessage(`{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"]}`),
			},
			Class: governance.Write,
		}}}},
		Policies: []governance.Source{{Name: "bank.cedar", Text: policies}},
	}
}

func transfer(amount int) governance.Request {
	return governance.Request{
		Actor:  audit.Actor{Agent: "clerk"},
		Action: "call_tool", Server: "bank", Name: "transfer",
		Args:     json.RawMessage(fmt.Sprintf(`{"amount":%d}`, amount)),
		Enforces: []string{governance.ObligationApproval}, // this door can ask people
	}
}

// A call waits for a person, and goes on with what the person said: for this
// call, once.
func ExampleApproval() {
	engine := governance.NewEngine(&recorder{}, nil)
	_, err := engine.Reload(context.Background(), payments(`
@id("small") permit (principal, action == Action::"bank__transfer", resource) when { context.args.amount <= 100 };
@id("large") @approval("treasury") permit (principal, action == Action::"bank__transfer", resource) when { context.args.amount > 100 };
`), audit.Change{By: "alice", Reason: "OPS-1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	decide := func(r governance.Request) governance.Decision {
		d, err := engine.Decide(context.Background(), r)
		if err != nil {
			fmt.Println(err)
		}
		return d
	}
	fmt.Println("100:", decide(transfer(100)).Effect)

	request := transfer(5000)
	suspended := decide(request)
	demands, err := suspended.Demands()
	fmt.Println("5000:", suspended.Effect, suspended.Reason, demands.Approvals, err)

	// The door asks, makes sure who answered, and decides again.
	request.Approval, err = suspended.Approve(audit.Change{By: "tim", Reason: "invoice 17"}, []string{"treasury"}, time.Now(), time.Hour)
	if err != nil {
		fmt.Println(err)
		return
	}
	other := transfer(9000)
	other.Approval = request.Approval
	d := decide(other)
	fmt.Println("9000:", d.Effect, d.Reason, "-", d.Hint)
	d = decide(request)
	fmt.Println("5000:", d.Effect, "approved by", d.Approval.By)
	d = decide(request)
	fmt.Println("5000 again:", d.Effect, d.Reason, "-", d.Hint)
	// Output:
	// 100: allow
	// 5000: deny approval [treasury] <nil>
	// 9000: deny approval - The approval does not count: for another call.
	// 5000: allow approved by tim
	// 5000 again: deny approval - The approval does not count: used already.
}

// A new rule is watched before it is enforced: it changes nothing, and every
// decision that it would have changed says so.
func ExampleDecision_observe() {
	snap, _, err := governance.Compile(context.Background(), payments(`
@id("all") permit (principal, action == Action::"bank__transfer", resource);
@id("no-large") @mode("observe") forbid (principal, action == Action::"bank__transfer", resource) when { context.args.amount > 100 };
`), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, amount := range []int{100, 5000} {
		d, err := snap.Decide(context.Background(), transfer(amount))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(amount, d.Effect, d.PolicyIDs(), d.Would)
	}
	// Output:
	// 100 allow [all] []
	// 5000 allow [all] [deny if observed: no-large]
}

// A new bundle is watched before it is in force.
func ExampleEngine_Stage() {
	ctx, by := context.Background(), audit.Change{By: "alice", Reason: "OPS-2"}
	engine := governance.NewEngine(&recorder{}, nil)
	if _, err := engine.Reload(ctx, payments(`@id("all") permit (principal, action == Action::"bank__transfer", resource);`), by); err != nil {
		fmt.Println(err)
		return
	}
	rep, err := engine.Stage(ctx, payments(`@id("small") permit (principal, action == Action::"bank__transfer", resource) when { context.args.amount <= 100 };`), by)
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := engine.Decide(ctx, transfer(5000))
	fmt.Println(d.Effect, d.Would, err)
	fmt.Println(engine.Promote(ctx, rep.Hash, by))
	d, err = engine.Decide(ctx, transfer(5000))
	fmt.Println(d.Effect, d.Reason, d.Would, err)
	// Output:
	// allow [deny if staged: no-permit] <nil>
	// <nil>
	// deny no-permit [] <nil>
}
