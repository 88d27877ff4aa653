package mcpx

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// newClient makes a client that offers a server these capabilities, nil for
// nothing: no roots, no sampling, no elicitation. It does no caching, since what
// it caches is not keyed by who asks.
func newClient(caps *mcp.ClientCapabilities) *mcp.Client {
	opts := &mcp.ClientOptions{MultiRoundTrip: &mcp.MultiRoundTripOptions{Disabled: true}, Capabilities: caps}
	if caps == nil {
		opts.Capabilities = &mcp.ClientCapabilities{}
	}
	c := mcp.NewClient(&mcp.Implementation{Name: "twinward", Version: "1"}, opts)
	for _, method := range []string{methodGetTask, methodUpdateTask, methodCancelTask} {
		// It is no error: the SDK does not know these.
		_ = mcp.AddSendingCustomMethod[*rawParams, *anyResult](c, method)
	}
	c.AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			res, err := next(ctx, method, req)
			switch r := res.(type) {
			case *mcp.ListToolsResult:
				r.TTLMs = 0
			case *mcp.ReadResourceResult:
				r.TTLMs = 0
			case *mcp.ListPromptsResult:
				r.TTLMs = 0
			case *mcp.ListResourcesResult:
				r.TTLMs = 0
			case *mcp.ListResourceTemplatesResult:
				r.TTLMs = 0
			}
			return res, err
		}
	})
	return c
}
