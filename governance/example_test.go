package governance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A rule about an argument: the standup goes to #engineering and nowhere else.
func ExampleSnapshot_Decide() {
	bundle := governance.Bundle{
		Catalog: []governance.Server{{Name: "slack", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{
				Name:        "post_message",
				InputSchema: json.RawMessage(`{"type":"object","properties":{"channel":{"type":"string"},"text":{"type":"string"}},"required":["channel","text"]}`),
			},
			Class: governance.Write,
		}}}},
		Policies: []governance.Source{{Name: "slack.cedar", Text: `
@id("standup-in-engineering")
permit (principal == Agent::"standup-bot", action == Action::"slack__post_message", resource)
when { context.args.channel == "#engineering" };
`}},
	}
	snap, _, err := governance.Compile(context.Background(), bundle, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, args := range []string{
		`{"channel":"#engineering","text":"All done."}`,
		`{"channel":"#executive","text":"All done."}`,
		`{"channel":["#engineering"],"text":"All done."}`,
		`{"channel":"#engineering","channel":"#executive","text":"All done."}`,
	} {
		d, err := snap.Decide(context.Background(), governance.Request{
			Actor:  audit.Actor{Agent: "standup-bot"},
			Action: "call_tool", Server: "slack", Name: "post_message",
			Args: json.RawMessage(args),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(d.Effect, d.PolicyIDs(), d.Reason, d.Nearest)
	}
	// Output:
	// allow [standup-in-engineering]  []
	// deny [] no-permit [standup-in-engineering]
	// deny [] arguments []
	// deny [] strict-json []
}

// A mistake is found before anything changes: the engine goes on with what it
// has.
func ExampleEngine_Reload() {
	log := &recorder{} // in a program: audit.Open
	engine := governance.NewEngine(log, nil)
	by := audit.Change{By: "alice@example.com", Reason: "OPS-1042"}

	bundle, err := governance.LoadBundle(os.DirFS("testdata/standup"))
	if err != nil {
		fmt.Println(err)
		return
	}
	rep, err := engine.Reload(context.Background(), bundle, by)
	fmt.Println(rep.Policies, "policies,", rep.Tools, "tools,", err)
	before := engine.Hash()

	bundle.Policies = append(bundle.Policies, governance.Source{Name: "policies/new.cedar", Text: `
@id("typo")
permit (principal, action == Action::"slack__post_mesage", resource);
`})
	_, err = engine.Reload(context.Background(), bundle, by)
	fmt.Println(errors.Is(err, governance.ErrBundle), engine.Hash() == before)
	fmt.Println(err)
	// Output:
	// 6 policies, 6 tools, <nil>
	// true true
	// governance: the bundle is not usable:
	// policies/new.cedar:3:39: error: policy "typo": there is no Action::"slack__post_mesage" (did you mean slack__post_message?) [unknown-entity]
}

// What an agent is shown: a tool that some arguments could make allowed stays
// in the list, a tool outside the profile does not.
func ExampleEngine_Visible() {
	engine := governance.NewEngine(&recorder{}, nil)
	bundle, err := governance.LoadBundle(os.DirFS("testdata/standup"))
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := engine.Reload(context.Background(), bundle, audit.Change{By: "alice", Reason: "first"}); err != nil {
		fmt.Println(err)
		return
	}
	tools := []governance.ToolRef{
		{Server: "github", Name: "list_pull_requests"},
		{Server: "slack", Name: "post_message"},
		{Server: "slack", Name: "delete_message"},
		{Server: "snowflake", Name: "query"},
	}
	visible, err := engine.Visible(context.Background(), audit.Actor{Agent: "standup-bot"}, "call_tool", tools)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, tool := range tools {
		fmt.Println(tool.Server, tool.Name, visible[i])
	}
	// Output:
	// github list_pull_requests always
	// slack post_message conditional
	// slack delete_message never
	// snowflake query never
}

// An agent may spend 1,000 an hour, whatever it does in parallel. What is denied
// or fails uses up nothing.
func ExampleFact() {
	facts, err := governance.ParseFacts("facts/payments.yaml", []byte(`
facts:
  - name: spent_1h
    kind: sum_within
    on: [bank__pay]
    of: /amount
    window: 1h
    per: agent
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	engine := governance.NewEngine(&recorder{}, nil)
	_, err = engine.Reload(context.Background(), governance.Bundle{
		Catalog: []governance.Server{{Name: "bank", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{
				Name:        "pay",
				InputSchema: json.RawMessage(`{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"]}`),
			},
			Class: governance.Write,
		}}}},
		Facts: facts,
		Policies: []governance.Source{{Name: "bank.cedar", Text: `
@id("pay") permit (principal == Agent::"buyer", action == Action::"bank__pay", resource);
@id("hourly-budget") forbid (principal, action == Action::"bank__pay", resource)
when { context.facts.spent_1h + context.args.amount > 1000 };
`}},
	}, audit.Change{By: "alice", Reason: "budgets"})
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := func(amount int, how governance.Result) {
		d, err := engine.Decide(context.Background(), governance.Request{
			Actor:  audit.Actor{Agent: "buyer"},
			Action: "call_tool", Server: "bank", Name: "pay",
			Args: json.RawMessage(fmt.Sprintf(`{"amount":%d}`, amount)),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(amount, d.Effect, d.PolicyIDs())
		d.Settle(how) // a door does this once it knows how the call ended
	}
	pay(700, governance.Result{OK: true})
	pay(700, governance.Result{OK: true})      // denied
	pay(300, governance.Result{Reached: true}) // the bank refuses
	pay(300, governance.Result{OK: true})
	pay(1, governance.Result{OK: true})
	// Output:
	// 700 allow [pay]
	// 700 deny [hourly-budget]
	// 300 allow [pay]
	// 300 allow [pay]
	// 1 deny [hourly-budget]
}

// After reading the CRM, nothing is posted where others can see it.
func ExampleTool_labels() {
	tool := func(name string, class governance.Class, labels ...string) governance.Tool {
		return governance.Tool{
			ToolDefinition: governance.ToolDefinition{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)},
			Class:          class, Labels: labels,
		}
	}
	engine := governance.NewEngine(&recorder{}, nil)
	_, err := engine.Reload(context.Background(), governance.Bundle{
		Catalog: []governance.Server{
			{Name: "crm", Tools: []governance.Tool{tool("find_customer", governance.Read, "crm")}},
			{Name: "social", Tools: []governance.Tool{tool("post", governance.Write)}},
		},
		Policies: []governance.Source{{Name: "flow.cedar", Text: `
@id("tools") permit (principal, action in Action::"call_tool", resource);
@id("crm-stays-inside") forbid (principal, action in Action::"social:write", resource)
when { context.labels.contains("crm") };
`}},
	}, audit.Change{By: "alice", Reason: "data protection"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, call := range []governance.ToolRef{{Server: "social", Name: "post"}, {Server: "crm", Name: "find_customer"}, {Server: "social", Name: "post"}} {
		d, err := engine.Decide(context.Background(), governance.Request{
			Actor:  audit.Actor{Agent: "sales-bot", Session: "monday"},
			Action: "call_tool", Server: call.Server, Name: call.Name,
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(d.Action, d.Effect, d.PolicyIDs())
		d.Settle(governance.Result{OK: true})
	}
	// Output:
	// social__post allow [tools]
	// crm__find_customer allow [tools]
	// social__post deny [crm-stays-inside]
}
