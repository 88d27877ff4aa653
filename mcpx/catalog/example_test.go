package catalog_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx/catalog"
)

// What is known of a connector, and the policies to begin with.
func ExampleLoad() {
	github, err := catalog.Load("github")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(github.Name, github.Status, github.Package.Command())
	class, _ := github.Class("merge_pull_request")
	fmt.Println("merge_pull_request is", class)
	for _, b := range github.Bindings("", governance.Read) {
		fmt.Println(b.Type, b.Name, b.Origin, b.Scopes)
	}
	fmt.Println("rules ask for", github.Parameters())
	// Output:
	// GitHub verified [npx --yes @modelcontextprotocol/server-github@2025.4.8]
	// merge_pull_request is destructive
	// env GITHUB_PERSONAL_ACCESS_TOKEN stdio://github [public_repo]
	// rules ask for [owners]
}

// Policies can be tried out against the recorded tools, without a server.
func ExampleConnector_Starter() {
	github, err := catalog.Load("github")
	if err != nil {
		fmt.Println(err)
		return
	}
	server, err := github.Server("") // for serving: github.Approve(ctx, "", transport)
	if err != nil {
		fmt.Println(err)
		return
	}
	policies, err := github.Starter("standup", &catalog.StarterOptions{
		Values: map[string][]string{"owners": {"acme"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	snap, _, err := governance.Compile(context.Background(), governance.Bundle{
		Catalog:  []governance.Server{server},
		Policies: []governance.Source{policies},
		Profiles: []governance.Profile{{ID: "standup", Owner: "platform", Agents: []string{"standup-bot"},
			Servers: map[string]governance.Grant{"github": {Tools: []string{"*"}}}}},
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, call := range [][2]string{
		{"list_issues", `{"owner":"other","repo":"shop"}`},
		{"create_issue", `{"owner":"acme","repo":"shop","title":"Flaky test"}`},
		{"create_issue", `{"owner":"other","repo":"shop","title":"Flaky test"}`},
		{"merge_pull_request", `{"owner":"acme","repo":"shop","pull_number":1}`},
	} {
		d, err := snap.Decide(context.Background(), governance.Request{
			Actor: audit.Actor{Agent: "standup-bot"}, Action: "call_tool", Server: "github", Name: call[0], Args: json.RawMessage(call[1]),
		})
		fmt.Println(call[0], d.Effect, d.Reason, err)
	}
	// Output:
	// list_issues allow  <nil>
	// create_issue allow  <nil>
	// create_issue deny no-permit <nil>
	// merge_pull_request deny github-no-destructive <nil>
}
