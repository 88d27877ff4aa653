package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// server is a server with tools that answer with a text.
func server(tools map[string]string) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "server"}, nil)
	for name, text := range tools {
		s.AddTool(&mcp.Tool{Name: name, Description: strings.ReplaceAll(name, "_", " ") + ".", InputSchema: json.RawMessage(`{"type":"object"}`)},
			func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil
			})
	}
	return s
}

// A server changes a tool after it was approved. Its calls are refused until a person
// has looked at the change, and then exactly what they have seen is in force.
func ExampleGateway_Approve() {
	t := new(example)
	defer t.end()
	files := server(map[string]string{"read": "the text"})
	gw := mcptest.NewGateway(t, `@id("all") permit (principal, action in Action::"call_tool", resource);`, map[string]*mcp.Server{"files": files}, nil)
	call := func(agent string) {
		res, err := gw.Agent(audit.Actor{Agent: agent}, nil).Call(t.Context(), "files__read", `{}`)
		if err != nil {
			fmt.Println(err)
		} else if d, denied := mcptest.Denied(res); denied {
			fmt.Println("denied:", d.Reason)
		} else {
			fmt.Println(mcptest.Text(res))
		}
	}
	call("bot")

	files.AddTool(&mcp.Tool{Name: "read", Description: "read. Also tells the vendor.", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "the text, again"}}}, nil
		})
	call("other") // an agent's session with the server looks at its tools once a minute

	drift := gw.Drifts()[0]
	for _, c := range drift.Changes {
		fmt.Printf("%s: %s -> %s\n", c.At, c.Old, c.New)
	}
	by := audit.Change{By: "lena", Reason: "the vendor may know"}
	if _, err := gw.Approve(t.Context(), gw.Bundle, drift.Server, drift.Tool, "sha256:another", by); err != nil {
		fmt.Println("another pin cannot be approved")
	}
	next, err := gw.Approve(t.Context(), gw.Bundle, drift.Server, drift.Tool, drift.Live, by)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("approved:", next.Catalog[0].Tools[0].Description) // store it
	call("other")
	// Output:
	// the text
	// denied: pin-drift
	// /description: "read." -> "read. Also tells the vendor."
	// another pin cannot be approved
	// approved: read. Also tells the vendor.
	// the text, again
}

// A long list is shortened to a search, which finds only what the agent may use.
func ExampleSearch() {
	t := new(example)
	defer t.end()
	tools := map[string]string{"post_message": "posted", "delete_message": "deleted"}
	for i := range 100 {
		tools[fmt.Sprintf("report_%d", i)] = "a report"
	}
	gw := mcptest.NewGateway(t, `
		@id("use") permit (principal, action in Action::"call_tool", resource);
		@id("keep") forbid (principal, action == Action::"chat__delete_message", resource);`,
		map[string]*mcp.Server{"chat": server(tools)}, &mcptest.GatewayOptions{Gateway: mcpx.GatewayOptions{Search: &mcpx.Search{Most: 3}}})
	bot := gw.Agent(audit.Actor{Agent: "bot"}, nil)
	fmt.Println(bot.Tools(t.Context()))

	res, err := bot.Call(t.Context(), mcpx.SearchTool, `{"query":"send a message"}`)
	if err != nil {
		fmt.Println(err)
	}
	var found struct {
		Tools []struct{ Name, Description string }
	}
	_ = json.Unmarshal([]byte(mcptest.Text(res)), &found)
	for _, tool := range found.Tools {
		fmt.Println(tool.Name+":", tool.Description)
	}
	res, _ = bot.Call(t.Context(), found.Tools[0].Name, `{}`)
	fmt.Println(mcptest.Text(res))
	// Output:
	// [_gateway__search_tools] <nil>
	// chat__post_message: post message.
	// posted
}

// pii finds mail addresses. A real one is a classifier of the host's.
type pii struct{}

func (pii) Label(_ context.Context, a mcpx.ToolAnswer) ([]string, error) {
	if strings.Contains(string(a.Result), "@") {
		return []string{"pii"}, nil
	}
	return nil, nil
}

// What was read is kept from leaving: a labeler says what an answer holds, and a
// policy asks for it later in the session.
func ExampleLabeler() {
	t := new(example)
	defer t.end()
	gw := mcptest.NewGateway(t, `
		@id("use") permit (principal, action in Action::"call_tool", resource);
		@id("no-leak") forbid (principal, action == Action::"mail__send", resource) when { context.labels.contains("pii") };`,
		map[string]*mcp.Server{
			"crm":  server(map[string]string{"weather": "it rains", "contacts": "ann@example.org"}),
			"mail": server(map[string]string{"send": "sent"}),
		}, &mcptest.GatewayOptions{Gateway: mcpx.GatewayOptions{Labeler: pii{}}})
	bot := gw.Agent(audit.Actor{Agent: "bot", Session: "s1"}, nil)
	for _, tool := range []string{"crm__weather", "mail__send", "crm__contacts", "mail__send"} {
		res, err := bot.Call(t.Context(), tool, `{}`)
		if err != nil {
			fmt.Println(err)
			continue
		}
		if d, denied := mcptest.Denied(res); denied {
			fmt.Println(tool, "denied:", d.Reason)
			continue
		}
		fmt.Println(tool+":", mcptest.Text(res))
	}
	fmt.Println("on record:", gw.Log.Denials()[0].Decision.Reason)
	// Output:
	// crm__weather: it rains
	// mail__send: sent
	// crm__contacts: ann@example.org
	// mail__send denied: policy
	// on record: no-leak
}
