package mcpx

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// ownServer is the site of an author's own server: its tools are where the
// middleware is.
type ownServer struct {
	engine *governance.Engine
	server string
	pins   pinboard
}

func newOwnServer(engine *governance.Engine, server string) *ownServer {
	return &ownServer{engine: engine, server: server}
}

func (s *ownServer) name() string {
	if s.server != "" || s.engine == nil {
		return s.server
	}
	if all := s.engine.Catalog(); len(all) == 1 {
		return all[0].Name
	}
	return ""
}

func (s *ownServer) route(_ kind, name string) (string, string) { return s.name(), name }

func (s *ownServer) credential(string) string { return "" }

func (s *ownServer) refresh() {}

func (s *ownServer) parks(*query, *flight) bool { return false }

func (s *ownServer) logging() []string { return []string{s.name()} }

func (s *ownServer) subscribed(context.Context, *query, []*flight) (func(), error) {
	return func() {}, nil
}

func (s *ownServer) do(ctx context.Context, q *query, f *flight) (reply, error) {
	return q.viaSDK(ctx, f)
}

// live finds the tool that would run, among those that the server has now.
func (s *ownServer) live(ctx context.Context, q *query, server, tool string) string {
	ss, _ := q.req.GetSession().(*mcp.ServerSession)
	cursor := ""
	for range maxPages {
		res, err := q.next(ctx, methodListTools, &mcp.ListToolsRequest{
			Session: ss, Extra: q.req.GetExtra(), Params: &mcp.ListToolsParams{Cursor: cursor},
		})
		page, ok := res.(*mcp.ListToolsResult)
		if err != nil || !ok || page == nil {
			return audit.GuardPinDrift // what would run cannot be seen
		}
		for _, t := range page.Tools {
			if t.Name == tool {
				return s.compare(t, server, tool)
			}
		}
		if page.NextCursor == "" {
			break
		}
		cursor = page.NextCursor
	}
	return audit.GuardUnknown
}

// compare returns the guard that refuses a live tool, or "".
func (s *ownServer) compare(t *mcp.Tool, server, tool string) string {
	approved, pin, ok := s.engine.Tool(server, tool)
	if !ok {
		return audit.GuardUnknown
	}
	if !s.pins.same(t, approved, pin) {
		return audit.GuardPinDrift
	}
	return ""
}
