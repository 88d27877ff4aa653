package mcptest_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// An upstream counts only what reaches it with the right token.
func ExampleNewUpstream() {
	t := new(example) // a test has its own
	defer t.end()
	server := mcp.NewServer(&mcp.Implementation{Name: "notes"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "add", Description: "Adds a note."}, func(_ context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "added"}}}, nil, nil
	})
	upstream := mcptest.NewUpstream(t, server, &mcptest.UpstreamOptions{Token: "right"})

	_, err := mcptest.TryConnect(t, upstream.URL, &mcptest.ConnectOptions{Token: "wrong"})
	fmt.Println("let in with the wrong token:", err == nil)
	agent := mcptest.Connect(t, upstream.URL, &mcptest.ConnectOptions{Token: "right"})
	res, err := agent.Call(t.Context(), "add", `{}`)
	fmt.Println(mcptest.Text(res), err)
	fmt.Println(len(upstream.Calls()), "call")
	// Output:
	// let in with the wrong token: false
	// added <nil>
	// 1 call
}

// example stands in for a test in an example.
type example struct {
	testing.TB
	cleanups []func()
}

func (t *example) Helper()                      { /* nothing to mark */ }
func (t *example) Context() context.Context     { return context.Background() }
func (t *example) Cleanup(f func())             { t.cleanups = append(t.cleanups, f) }
func (t *example) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
func (t *example) end() {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
}
