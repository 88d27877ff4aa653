package mcpx

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// newClient makes a client that offers a server nothing: no roots, no sampling,
// no elicitation, and no caching, since what it caches is not keyed by who asks.
func newClient(opts *mcp.ClientOptions) *mcp.Client {
	if opts == nil {
		opts = &mcp.ClientOptions{}
	}
	opts.Capabilities = &mcp.ClientCapabilities{}
	opts.MultiRoundTrip = &mcp.MultiRoundTripOptions{Disabled: true}
	c := mcp.NewClient(&mcp.Implementation{Name: "twinward", Version: "1"}, opts)
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
