package mcpx

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// single governs a method that is about one named thing.
func (g *governor) single(ctx context.Context, q *query, action string) (mcp.Result, error) {
	server, name := g.site.route(q.kind, q.name)
	if server == "" {
		r := refused(audit.GuardUnknown)
		r.Hidden = true
		return g.refuse(ctx, q, r)
	}
	if p, ok := q.req.GetParams().(*mcp.GetPromptParams); ok && len(p.Arguments) > 0 {
		q.args, _ = json.Marshal(p.Arguments)
	}
	ask := governance.Request{Actor: q.actor, Action: action, Server: server, Name: name, Enforces: meetsForOthers}
	if p, ok := q.req.GetParams().(*mcp.CompleteParams); ok {
		ask.Attrs = map[string]any{"argument": p.Argument.Name}
	}
	d := g.decide(ctx, ask)
	if !d.Allowed() {
		return g.refuse(ctx, q, decided(d))
	}
	return q.deliver(g.act(ctx, q, &flight{actor: q.actor, server: server, trace: q.trace, decision: d}))
}

// maxSubscriptions bounds the resources that one listen stream asks for.
const maxSubscriptions = 64

// listen governs the stream of 2026-07-28 that replaces subscriptions. That
// some list changed is told to every actor; each resource is decided.
func (g *governor) listen(ctx context.Context, q *query) (mcp.Result, error) {
	p, ok := q.req.GetParams().(*mcp.SubscriptionsListenParams)
	if !ok || p == nil || p.Notifications == nil || len(p.Notifications.ResourceSubscriptions) == 0 {
		return q.next(ctx, q.method, q.req)
	}
	uris := slices.Clone(p.Notifications.ResourceSubscriptions)
	if len(uris) > maxSubscriptions {
		return g.refuse(ctx, q, refused(audit.GuardMethod))
	}
	for _, uri := range uris {
		q.kind, q.name = kindResource, uri
		server, own := g.site.route(q.kind, uri)
		if server == "" {
			r := refused(audit.GuardUnknown)
			r.Hidden = true
			return g.refuse(ctx, q, r)
		}
		d := g.decide(ctx, governance.Request{Actor: q.actor, Action: "subscribe", Server: server, Name: own})
		if !d.Allowed() {
			return g.refuse(ctx, q, refusal{Decision: d})
		}
		call, err := g.log.Begin(ctx, audit.Intent{
			Door: audit.DoorTool, Action: d.Action, Resource: d.Resource,
			Actor: q.actor, Decision: d.Decision, Trace: q.trace,
		})
		if err != nil || call == nil {
			g.logger.Error("mcpx: the intent of a subscription could not be recorded", "error", err)
			d.Settle(governance.Result{})
			return q.answer(override(d, codeAudit))
		}
		defer func() {
			d.Settle(governance.Result{OK: true})
			if err := call.End(context.WithoutCancel(ctx), audit.Outcome{Status: audit.StatusOK}); err != nil {
				g.logger.Error("mcpx: the end of a subscription could not be recorded", "error", err)
			}
		}()
	}
	return q.next(ctx, q.method, q.req)
}
