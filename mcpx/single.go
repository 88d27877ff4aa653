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
	g.site.refresh()
	server, name := g.site.route(q.kind, q.name)
	if server == "" {
		r := refused(audit.GuardUnknown)
		r.Hidden = true
		return g.refuse(ctx, q, r)
	}
	if p, ok := q.req.GetParams().(*mcp.GetPromptParams); ok && len(p.Arguments) > 0 {
		q.args, _ = json.Marshal(p.Arguments)
	}
	if no := g.takeInput(q); no != nil {
		return g.refuse(ctx, q, *no)
	}
	ask := governance.Request{Actor: q.actor, Action: action, Server: server, Name: name, Enforces: g.meetsFor(action)}
	if q.kind == kindPrompt {
		ask.Args = q.args // policy does not read them, and a person who agrees does
	}
	if p, ok := q.req.GetParams().(*mcp.CompleteParams); ok {
		ask.Attrs = map[string]any{"argument": p.Argument.Name}
		q.args, _ = json.Marshal(struct { // policy decides by the name, and all that is sent is on record
			Argument mcp.CompleteParamsArgument `json:"argument"`
			Context  *mcp.CompleteContext       `json:"context,omitempty"`
		}{p.Argument, p.Context})
	}
	if q.asked != nil && q.asked.talk != nil {
		return q.deliver(g.resume(ctx, q, ask, q.asked.talk))
	}
	d, r, err := g.approve(ctx, q, ask, g.decide(ctx, ask))
	if r != nil || err != nil {
		return q.deliver(r, err)
	}
	if !d.Allowed() {
		return g.refuse(ctx, q, decided(d))
	}
	f := &flight{q: q, actor: q.actor, kind: q.kind, server: server, tool: name, args: q.args, trace: q.trace, decision: d}
	defer f.release()
	if no, ok := g.useCredential(ctx, f); !ok {
		return g.refuse(ctx, q, no)
	}
	return q.deliver(g.converse(ctx, q, f))
}

const (
	// maxSubscriptions bounds the resources that one listen stream asks for, and that
	// one actor is told of.
	maxSubscriptions = 64
	// maxAllSubscriptions bounds those of all actors: over HTTP each has a session of
	// its own at its server.
	maxAllSubscriptions = 4096
)

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
	g.site.refresh()
	asks := make([]governance.Request, len(uris))
	for i, uri := range uris {
		q.kind, q.name = kindResource, uri
		server, own := g.site.route(q.kind, uri)
		if server == "" {
			r := refused(audit.GuardUnknown)
			r.Hidden = true
			return g.refuse(ctx, q, r)
		}
		asks[i] = governance.Request{Actor: q.actor, Action: "subscribe", Server: server, Name: own}
	}
	return g.several(ctx, q, asks, true)
}

// setLevel governs from which level on a client's session gets log messages: of
// those servers whose logging the actor may subscribe to.
func (g *governor) setLevel(ctx context.Context, q *query) (mcp.Result, error) {
	var asks []governance.Request
	for _, server := range g.site.logging() {
		asks = append(asks, governance.Request{Actor: q.actor, Action: "subscribe", Server: server, Name: q.name})
	}
	if len(asks) == 0 {
		return g.refuse(ctx, q, refused(audit.GuardMethod))
	}
	return g.several(ctx, q, asks, false)
}

// several does a request that is about several things, if all of them are
// allowed, or any. Each that is gets its own intent and outcome.
func (g *governor) several(ctx context.Context, q *query, asks []governance.Request, all bool) (res mcp.Result, err error) {
	var last refusal
	var flights []*flight
	status, code := audit.StatusFailed, "not-begun" // unless it comes to that
	for _, ask := range asks {
		d := g.decide(ctx, ask)
		f := &flight{q: q.silent(ctx), actor: q.actor, kind: q.kind, server: ask.Server, tool: ask.Name, trace: q.trace, decision: d}
		ok := d.Allowed()
		if last = decided(d); ok && q.kind != kindLogging { // which asks no server for anything yet
			last, ok = g.useCredential(ctx, f)
		}
		if !ok {
			d.Settle(governance.Result{})
			if all {
				q.name = ask.Name
				return g.refuse(ctx, q, last)
			}
			continue
		}
		call, err := g.log.Begin(ctx, audit.Intent{
			Door: audit.DoorTool, Action: d.Action, Resource: d.Resource,
			Actor: q.actor, Decision: d.Decision, Credential: f.credential, Trace: q.trace,
		})
		if err != nil || call == nil {
			g.logger.Error("mcpx: the intent of a subscription could not be recorded", "error", err)
			d.Settle(governance.Result{})
			f.key.Settle(governance.Result{})
			return q.answer(override(d, codeAudit))
		}
		flights = append(flights, f)
		defer func() {
			f.out.Status, f.out.ErrorCode = status, code
			d.Settle(governance.ResultOf(f.out))
			f.key.Settle(governance.ResultOf(f.out))
			if err := call.End(context.WithoutCancel(ctx), f.out); err != nil {
				g.logger.Error("mcpx: the end of a subscription could not be recorded", "error", err)
			}
		}()
	}
	if len(flights) == 0 {
		return g.refuse(ctx, q, last)
	}
	code = "error"
	stop, err := g.site.subscribed(ctx, q, flights)
	if err != nil {
		if fail, ok := asFailure(err); ok {
			code = fail.code
			r := override(flights[0].decision, fail.code)
			r.reason, r.text, r.retryable = fail.code, fail.text, fail.retryable
			return q.answer(r)
		}
		return nil, err
	}
	defer stop()
	res, err = q.next(ctx, q.method, q.req)
	if err == nil || ctx.Err() != nil { // a stream lasts until somebody ends it
		status, code = audit.StatusOK, ""
	}
	return res, err
}
