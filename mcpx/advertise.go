//lint:file-ignore SA1019 logging is deprecated, and clients of the older era use it

package mcpx

import (
	"context"
	"maps"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A client may take a server at its word: one that says it writes log messages is
// asked for them first, and a refusal ends some clients. So the handshake tells an
// actor of no capability whose every use policy would refuse. What is denied for
// some arguments only, or could be permitted for a name that nobody knows yet, is
// told of.

// handshake marks the answer of initialize or server/discover as one actor's.
func (g *governor) handshake(ctx context.Context, q *query, was mcp.Result, err error) (res mcp.Result, _ error) {
	res = was
	if err != nil {
		return res, err
	}
	defer func() {
		if p := recover(); p != nil { // the host cannot say who asks, and so refuses whatever comes next
			g.logger.Error("mcpx: panic in the handshake", "panic", p)
			res = was
		}
	}()
	actor, no := g.actor(ctx, q.req)
	if no != nil || g.broken != nil {
		return res, nil // and refuse whatever comes next
	}
	switch d := res.(type) {
	case *mcp.InitializeResult:
		if d == nil {
			return res, nil
		}
		out := *d
		out.Capabilities = g.capabilities(ctx, actor, d.Capabilities)
		return &out, nil
	case *mcp.DiscoverResult:
		if d == nil {
			return res, nil
		}
		out := *d
		out.Capabilities = g.capabilities(ctx, actor, d.Capabilities)
		if gw, ok := g.site.(*Gateway); ok && gw.mayTask() && out.Capabilities != nil {
			out.Capabilities.Extensions = maps.Clone(out.Capabilities.Extensions)
			out.Capabilities.AddExtension(tasksExtension, map[string]any{})
		}
		return &out, nil
	}
	return res, nil
}

// capabilities are those of the server that the actor could use.
func (g *governor) capabilities(ctx context.Context, actor audit.Actor, all *mcp.ServerCapabilities) *mcp.ServerCapabilities {
	if all == nil {
		return nil
	}
	out := *all
	if out.Logging != nil {
		var logs []governance.ToolRef
		for _, server := range g.site.logging() {
			logs = append(logs, governance.ToolRef{Server: server, Name: loggingName})
		}
		if !g.could(ctx, actor, "subscribe", logs) {
			out.Logging = nil
		}
	}
	if out.Completions != nil && !g.could(ctx, actor, "complete", g.completable()) {
		out.Completions = nil
	}
	return &out
}

// mayTask reports whether there is a server behind the gateway, which may then
// answer with tasks, of whichever era it turns out to be.
func (g *Gateway) mayTask() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.upstreams) > 0
}

// completable are the prompts and resource templates of this site.
func (g *governor) completable() (refs []governance.ToolRef) {
	for _, s := range g.engine.Catalog() {
		for _, p := range s.Prompts {
			refs = append(refs, governance.ToolRef{Server: s.Name, Name: p.Name})
		}
		for _, r := range s.ResourceTemplates {
			refs = append(refs, governance.ToolRef{Server: s.Name, Name: r.URITemplate})
		}
	}
	return refs
}

// could reports whether the actor could ever do this with any of them.
func (g *governor) could(ctx context.Context, actor audit.Actor, action string, refs []governance.ToolRef) bool {
	if len(refs) == 0 {
		return false
	}
	vis, err := g.engine.Visible(ctx, actor, action, refs)
	if err != nil {
		return false
	}
	for _, v := range vis {
		if v != governance.Never {
			return true
		}
	}
	return false
}
