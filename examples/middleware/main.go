// Middleware governs an MCP server that you already have, with one line: the
// last one of newServer.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

const policy = `
@id("read-notes")    permit (principal, action == Action::"notes__read", resource);
@id("delete-drafts") permit (principal, action == Action::"notes__delete", resource)
                     when { context.args.folder == "drafts" };`

type args struct {
	Folder string `json:"folder"`
	Name   string `json:"name"`
}

func newServer(ctx context.Context, rec audit.Recorder) (*mcp.Server, error) {
	server := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1.0.0"}, nil)
	for _, name := range []string{"read", "delete"} {
		mcp.AddTool(server, &mcp.Tool{Name: name, Description: "To " + name + " a note."},
			func(ctx context.Context, req *mcp.CallToolRequest, in args) (*mcp.CallToolResult, any, error) {
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: name + " " + in.Folder + "/" + in.Name}}}, nil, nil
			})
	}
	catalog, err := mcpx.Catalog(ctx, "notes", server) // your own tools, as they are now
	if err != nil {
		return nil, err
	}
	engine := governance.NewEngine(rec, nil)
	bundle := governance.Bundle{Policies: []governance.Source{{Name: "policy.cedar", Text: policy}}, Catalog: []governance.Server{catalog}}
	if _, err := engine.Reload(ctx, bundle, audit.Change{By: "you", Reason: "the first policy"}); err != nil {
		return nil, err
	}
	identify := func(context.Context, mcp.Request) (audit.Actor, error) { return audit.Actor{Agent: "helper"}, nil }
	server.AddReceivingMiddleware(mcpx.Govern(engine, rec, &mcpx.GovernOptions{Identify: identify}))
	return server, nil
}

func main() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "twinward-middleware-")
	check(err)
	rec, err := audit.Open(dir+"/log", nil)
	check(err)
	server, err := newServer(ctx, rec)
	check(err)

	inside, outside := mcp.NewInMemoryTransports()
	_, err = server.Connect(ctx, inside, nil)
	check(err)
	client, err := mcp.NewClient(&mcp.Implementation{Name: "client"}, nil).Connect(ctx, outside, nil)
	check(err)
	for _, folder := range []string{"drafts", "contracts"} {
		res, err := client.CallTool(ctx, &mcp.CallToolParams{Name: "delete", Arguments: args{Folder: folder, Name: "a"}})
		check(err)
		fmt.Println("denied:", res.IsError, "-", res.Content[0].(*mcp.TextContent).Text)
	}
	check(rec.Close())
	verified, err := audit.Verify(ctx, os.DirFS(dir+"/log"), &audit.VerifyOptions{Key: rec.VerifierKey()})
	check(err)
	fmt.Println(verified.Records, "records verified in", dir)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
