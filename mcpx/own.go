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

func (s *ownServer) abandon(*task) {} // it has none

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

// ownAsks seals what the author's own server asks of a client that answers by
// calling again: its state is good for the same actor and call, and nothing else.
func (g *governor) ownAsks(q *query, f *flight, r reply) (reply, error) {
	res, err := r.result()
	if err != nil || !q.modern || unasked(f) != nil {
		return r, err
	}
	var asks mcp.InputRequestMap
	var state string
	switch t := res.(type) {
	case *mcp.CallToolResult:
		if t != nil {
			asks, state = t.InputRequests, t.RequestState
		}
	case *mcp.GetPromptResult:
		if t != nil {
			asks, state = t.InputRequests, t.RequestState
		}
	case *mcp.ReadResourceResult:
		if t != nil {
			asks, state = t.InputRequests, t.RequestState
		}
	}
	if len(asks) == 0 && state == "" {
		return r, nil
	}
	if len(asks) > maxQuestions || len(state) > maxSealed/2 {
		return nil, failed("upstream-input", "The tool asks too much.", false)
	}
	st := clientState{Theirs: true, Inner: state}
	if q.grant != nil {
		if st.ID, err = g.memory.put(owner(q.actor), asked{policy: f.decision.PolicyHash, grant: q.grant}, inputTime); err != nil {
			return nil, failed("upstream-input", "Too many questions are open already.", true)
		}
	}
	f.asks = codeInput
	return q.inputRequired(g.seal, asks, st, inputTime)
}
