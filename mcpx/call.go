package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A flight is an allowed call on its way. The gateway's forwarder reads from it
// who calls and why that is allowed, and leaves behind what goes on record.
type flight struct {
	actor      audit.Actor
	server     string
	tool       string
	args       json.RawMessage
	trace      string
	decision   governance.Decision
	credential *audit.CredentialUse
	key        governance.Decision // on use_credential
	asks       bool                // the answer asks the user for consent
	out        audit.Outcome       // Bytes, Checks and CredentialVersion
}

type flightKey struct{}

func flightOf(ctx context.Context) *flight {
	f, _ := ctx.Value(flightKey{}).(*flight)
	return f
}

// callTool is the way of a call: decide, intent, act, outcome, answer.
func (g *governor) callTool(ctx context.Context, q *query) (mcp.Result, error) {
	p, ok := q.req.GetParams().(*mcp.CallToolParamsRaw)
	if !ok || p == nil {
		return g.refuse(ctx, q, refused(audit.GuardArguments))
	}
	if len(bytes.TrimSpace(p.Arguments)) == 0 {
		p.Arguments = json.RawMessage("{}") // what policy sees is what the tool gets
	}
	q.args = p.Arguments
	g.site.refresh()
	server, tool := g.site.tool(p.Name)
	d := g.decide(ctx, governance.Request{
		Actor: q.actor, Action: "call_tool", Server: server, Name: tool, Args: p.Arguments,
		Enforces: meetsForTools,
	})
	if !d.Allowed() {
		return g.refuse(ctx, q, decided(d))
	}
	defer d.Settle(governance.Result{}) // unless act did
	if guard := g.site.live(ctx, q, server, tool); guard != "" {
		return g.refuse(ctx, q, override(d, guard))
	}
	f := &flight{actor: q.actor, server: server, tool: tool, args: p.Arguments, trace: q.trace, decision: d}
	if name := g.site.credential(server); name != "" {
		use := g.decide(ctx, governance.Request{
			Actor: q.actor, Action: "use_credential", Name: name,
			Attrs: map[string]any{"server": server, "tool": tool, "purpose": "tool"},
		})
		if !use.Allowed() {
			use.Hidden = false // the tool is known; only its key is refused
			return g.refuse(ctx, q, decided(use))
		}
		defer use.Settle(governance.Result{})
		f.credential, f.key = &audit.CredentialUse{Name: name, Decision: use.Decision}, use
	}
	return g.act(ctx, q, f)
}

// override turns an allowing decision into the refusal of a guard, keeping its
// id and what it was about.
func override(d governance.Decision, guard string) refusal {
	d.Effect, d.Reason, d.Facts = audit.Deny, guard, nil
	d.Hidden = guard == audit.GuardUnknown
	return refusal{Decision: d}
}

// act does what was allowed, between two durable lines. It never answers the
// agent with anything that is not on record.
func (g *governor) act(ctx context.Context, q *query, f *flight) (mcp.Result, error) {
	call, err := g.log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: f.decision.Action, Resource: f.decision.Resource,
		Actor: f.actor, Decision: f.decision.Decision, Args: q.args,
		Class: audit.Class(f.decision.Class), ToolPin: f.decision.Pin, Credential: f.credential, Trace: f.trace,
	})
	if err != nil || call == nil {
		g.logger.Error("mcpx: the intent of a call could not be recorded, so it is refused", "action", f.decision.Action, "error", err)
		r := override(f.decision, codeAudit)
		r.retryable = true
		f.decision.Settle(governance.Result{})
		r.text = "Nothing was done: the audit log cannot be written, and nothing happens here that is not on record."
		return q.answer(r)
	}
	res, err := g.run(context.WithValue(ctx, flightKey{}, f), q)
	out := f.out
	if err == nil && !f.asks {
		res, err = meet(f.decision, res, &out)
	}
	settle(&out, ctx, q.outer, res, err)
	if err == nil && !f.asks && audit.WantsResult(call) {
		out.Result, _ = json.Marshal(res)
	}
	if f.asks && out.Status != audit.StatusCancelled {
		out.Status, out.ErrorCode, out.Bytes = audit.StatusFailed, codeConsent, 0
	}
	endErr := call.End(context.WithoutCancel(ctx), out)
	f.decision.Settle(governance.ResultOf(out))
	f.key.Settle(governance.ResultOf(out))
	if endErr != nil {
		g.logger.Error("mcpx: the outcome of a call could not be recorded, so its answer is withheld", "action", f.decision.Action, "intent", call.Record(), "error", endErr)
		r := override(f.decision, codeAudit)
		r.text = "The call may have been done, but its outcome could not be recorded, so the answer is withheld. Do not repeat it before an operator has looked."
		return q.answer(r)
	}
	if out.Status == audit.StatusCancelled {
		r := override(f.decision, out.ErrorCode)
		r.reason = out.ErrorCode
		r.text = "The call was cancelled."
		return q.answer(r)
	}
	if fail, ok := asFailure(err); ok {
		r := override(f.decision, fail.code)
		r.reason, r.text, r.retryable = fail.code, fail.text, fail.retryable
		return q.answer(r)
	}
	return res, err
}

// run calls the handler and turns a panic of it into a failure.
func (g *governor) run(ctx context.Context, q *query) (res mcp.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.logger.Error("mcpx: panic in a handler", "method", q.method, "name", clip(q.name, 128), "panic", p, "stack", string(debug.Stack()))
			res, err = nil, failed(audit.GuardPanic, "The tool failed inside.", false)
		}
	}()
	return q.next(ctx, q.method, q.req)
}

// settle completes the outcome of a call from what came back.
func settle(out *audit.Outcome, ctx, outer context.Context, res mcp.Result, err error) {
	switch {
	case ctx.Err() != nil && outer.Err() == nil:
		out.Status, out.ErrorCode = audit.StatusCancelled, audit.GuardRevoked
		return
	case outer.Err() != nil && (err != nil || isError(res)):
		// The SDK makes a result of a handler's error, that it was cancelled too;
		// the tool may have acted before.
		out.Status, out.ErrorCode = audit.StatusCancelled, "cancelled"
		return
	}
	out.Status = audit.StatusOK
	if err != nil {
		out.Status, out.ErrorCode = audit.StatusFailed, "error"
		if fail, ok := asFailure(err); ok {
			out.ErrorCode = fail.code
		}
		return
	}
	if out.Bytes == 0 {
		out.Bytes = size(res)
	}
	if isError(res) {
		out.Status, out.ErrorCode = audit.StatusFailed, "tool-error"
	}
}

func isError(res mcp.Result) bool {
	t, ok := res.(*mcp.CallToolResult)
	return ok && t != nil && t.IsError
}

// size counts what a result says to the agent, without the envelope.
func size(res mcp.Result) int64 {
	t, ok := res.(*mcp.CallToolResult)
	if !ok {
		b, _ := json.Marshal(res)
		return int64(len(b))
	}
	if t == nil {
		return 0
	}
	var n int
	for _, c := range t.Content {
		if text, ok := c.(*mcp.TextContent); ok {
			n += len(text.Text)
		} else if c != nil {
			b, _ := c.MarshalJSON()
			n += len(b)
		}
	}
	switch s := t.StructuredContent.(type) {
	case nil:
	case json.RawMessage:
		n += len(s)
	default:
		b, _ := json.Marshal(s)
		n += len(b)
	}
	return int64(n)
}

// single governs a method that is about one named thing.
func (g *governor) single(ctx context.Context, q *query, action string) (mcp.Result, error) {
	server := g.site.name()
	if server == "" {
		r := refused(audit.GuardUnknown)
		r.Hidden = true
		return g.refuse(ctx, q, r)
	}
	if p, ok := q.req.GetParams().(*mcp.GetPromptParams); ok && len(p.Arguments) > 0 {
		q.args, _ = json.Marshal(p.Arguments)
	}
	ask := governance.Request{Actor: q.actor, Action: action, Server: server, Name: q.name, Enforces: meetsForOthers}
	if p, ok := q.req.GetParams().(*mcp.CompleteParams); ok {
		ask.Attrs = map[string]any{"argument": p.Argument.Name}
	}
	d := g.decide(ctx, ask)
	if !d.Allowed() {
		return g.refuse(ctx, q, decided(d))
	}
	return g.act(ctx, q, &flight{actor: q.actor, server: server, trace: q.trace, decision: d})
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
	server := g.site.name()
	if server == "" || len(uris) > maxSubscriptions {
		return g.refuse(ctx, q, refused(audit.GuardMethod))
	}
	for _, uri := range uris {
		q.name = uri
		d := g.decide(ctx, governance.Request{Actor: q.actor, Action: "subscribe", Server: server, Name: uri})
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

// traceparent returns the W3C trace context of a request, from _meta or header.
func traceparent(req mcp.Request, header http.Header) string {
	if p := req.GetParams(); p != nil && !isNil(p) {
		if s, ok := p.GetMeta()["traceparent"].(string); ok && validTrace(s) {
			return s
		}
	}
	if s := header.Get("Traceparent"); validTrace(s) {
		return s
	}
	return ""
}

func validTrace(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	return strings.Trim(s, "0123456789abcdef-") == ""
}

// isNil reports whether params is a typed nil, as list methods may have.
func isNil(p mcp.Params) bool {
	v := reflect.ValueOf(p)
	return v.Kind() == reflect.Pointer && v.IsNil()
}
