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
