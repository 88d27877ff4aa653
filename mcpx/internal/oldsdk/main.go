// Oldsdk is a client of the go-sdk's version before the one that Twinward uses:
//
//	oldsdk URL TIMES TOOL DENIED ALLOWED
//
// In one session it lists the tools, calls the tool TIMES times with the
// arguments DENIED, which must be answered with an error that a model can read,
// and then with ALLOWED, which must work.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, times, tool, denied, allowed string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "old", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{Endpoint: url, MaxRetries: -1}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	if _, err := session.ListTools(ctx, nil); err != nil {
		return err
	}
	call := func(args string) (*mcp.CallToolResult, error) {
		return session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)})
	}
	for i := range n {
		res, err := call(denied)
		if err != nil || !res.IsError || len(res.Content) == 0 {
			return fmt.Errorf("denial %d: %+v, %v", i, res, err)
		}
	}
	res, err := call(allowed)
	if err != nil || res.IsError {
		return fmt.Errorf("after %d denials: %+v, %v", n, res, err)
	}
	fmt.Printf("%d denials, protocol %s\n", n, session.InitializeResult().ProtocolVersion)
	return nil
}
