package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime/debug"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// Governance of a call does not know what carries it: the SDK, or the raw bytes
// of the fast path. A carrier makes a query, has it governed by [governor.call],
// and puts the reply or the refusal into the form of its client.

// A flight is an allowed call on its way. The gateway's forwarder reads from it
// who calls and why that is allowed, and leaves behind what goes on record.
type flight struct {
	q          *query
	actor      audit.Actor
	kind       kind
	server     string
	tool       string // what the server calls it: a tool, a prompt, a URI
	args       json.RawMessage
	trace      string
	decision   governance.Decision
	credential *audit.CredentialUse
	key        governance.Decision // on use_credential
	asks       string              // if the answer asks the client for something: the outcome's code
	talk       *talk               // of a call that may be parked, or nil
	kept       bool                // it has become a task
	out        audit.Outcome       // Bytes, Checks and CredentialVersion
}

// A reply is what came back for an allowed request, in its carrier's own form.
type reply interface {
	// failed reports whether the tool says that it failed.
	failed() bool
	// size counts what it says to the agent, without the envelope.
	size() int64
	// text is the whole result as JSON.
	text() ([]byte, error)
	// result is the same in the SDK's types.
	result() (mcp.Result, error)
}

// call is the way of a tools/call: resolve, decide, look at the live tool,
// intent, act, outcome. An error of type [refusal] is the governor's no, and is
// on record; a *jsonrpc.Error is what the other side said.
func (g *governor) call(ctx context.Context, q *query) (reply, error) {
	if len(bytes.TrimSpace(q.args)) == 0 {
		q.args = json.RawMessage("{}")
	}
	g.site.refresh()
	if gw, ok := g.site.(*Gateway); ok && gw.search != nil && q.name == SearchTool {
		return gw.searchTools(ctx, q)
	}
	server, tool := g.site.route(kindTool, q.name)
	ask := governance.Request{
		Actor: q.actor, Action: "call_tool", Server: server, Name: tool, Args: q.args,
		Enforces: g.meetsForTools(),
	}
	if no := g.takeInput(q); no != nil {
		return g.no(ctx, q, *no)
	}
	if q.asked != nil && q.asked.talk != nil {
		return g.resume(ctx, q, ask, q.asked.talk)
	}
	d, r, err := g.approve(ctx, q, ask, g.decide(ctx, ask))
	if r != nil || err != nil {
		return r, err
	}
	if !d.Allowed() {
		return g.no(ctx, q, decided(d))
	}
	f := &flight{q: q, actor: q.actor, server: server, tool: tool, args: q.args, trace: q.trace, decision: d}
	defer f.release()
	if guard := g.site.live(ctx, q, server, tool); guard != "" {
		return g.no(ctx, q, override(d, guard))
	}
	if no, ok := g.useCredential(ctx, f); !ok {
		return g.no(ctx, q, no)
	}
	return g.converse(ctx, q, f)
}

// release gives back what was reserved for the flight, unless its act has settled
// that, or goes on.
func (f *flight) release() {
	if f.talk == nil && !f.kept {
		f.decision.Settle(governance.Result{})
		f.key.Settle(governance.Result{})
	}
}

// purposes are what policy is told that a credential is used for.
var purposes = [...]string{kindTool: "tool", kindPrompt: "prompt", kindResource: "resource", kindTemplate: "resource", kindLogging: "logging", kindTask: "tool"}

// useCredential decides whether the secret of the flight's server, if it has
// one, may be used for this.
func (g *governor) useCredential(ctx context.Context, f *flight) (refusal, bool) {
	name := g.site.credential(f.server)
	if name == "" {
		return refusal{}, true
	}
	use := g.decide(ctx, governance.Request{
		Actor: f.actor, Action: "use_credential", Name: name,
		Attrs: map[string]any{"server": f.server, "tool": f.tool, "purpose": purposes[f.kind]},
	})
	if !use.Allowed() {
		use.Hidden = false // the tool is known; only its key is refused
		return decided(use), false
	}
	f.credential, f.key = &audit.CredentialUse{Name: name, Decision: use.Decision}, use
	return refusal{}, true
}

// no records a refusal once.
func (g *governor) no(ctx context.Context, q *query, r refusal) (reply, error) {
	g.recordRefusal(ctx, q, r)
	return nil, r
}

// override turns an allowing decision into the refusal of a guard, keeping its
// id and what it was about.
func override(d governance.Decision, guard string) refusal {
	d.Effect, d.Reason, d.Facts = audit.Deny, guard, nil
	d.Hidden = guard == audit.GuardUnknown
	return refusal{Decision: d}
}

// cancelled is the answer to a call that has ended before there was one.
func cancelled(d governance.Decision, code string) refusal {
	r := override(d, code)
	r.reason = code
	r.text = "The call was cancelled."
	return r
}

// act does what was allowed, between two durable lines. It never answers the
// agent with anything that is not on record.
func (g *governor) act(ctx context.Context, q *query, f *flight) (reply, error) {
	call, err := g.log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: f.decision.Action, Resource: f.decision.Resource,
		Actor: f.actor, Decision: f.decision.Decision, Args: q.args,
		Class: audit.Class(f.decision.Class), ToolPin: f.decision.Pin, Credential: f.credential, Trace: f.trace,
	})
	if err != nil && ctx.Err() != nil { // it was waiting for the log
		settle(&f.out, ctx, q.outer, nil, err)
		f.decision.Settle(governance.Result{})
		return nil, cancelled(f.decision, f.out.ErrorCode)
	}
	if err != nil || call == nil {
		g.logger.Error("mcpx: the intent of a call could not be recorded, so it is refused", "action", f.decision.Action, "error", err)
		r := override(f.decision, codeAudit)
		r.retryable = true
		f.decision.Settle(governance.Result{})
		r.text = "Nothing was done: the audit log cannot be written, and nothing happens here that is not on record."
		return nil, r
	}
	res, err := g.run(ctx, q, f)
	if raw, ok := res.(*rawReply); ok && err == nil && raw.task != nil {
		return g.keep(ctx, q, f, call, raw)
	}
	out := f.out
	if f.asks == "" {
		res, err = g.answered(ctx, f, res, err, &out)
	}
	settle(&out, ctx, q.outer, res, err)
	if err == nil && f.asks == "" && audit.WantsResult(call) {
		out.Result, _ = res.text()
	}
	if f.asks != "" && out.Status != audit.StatusCancelled {
		out.Status, out.ErrorCode, out.Bytes = audit.StatusFailed, f.asks, 0
	}
	endErr := call.End(context.WithoutCancel(ctx), out)
	f.decision.Settle(governance.ResultOf(out))
	f.key.Settle(governance.ResultOf(out))
	if endErr != nil {
		g.logger.Error("mcpx: the outcome of a call could not be recorded, so its answer is withheld", "action", f.decision.Action, "intent", call.Record(), "error", endErr)
		r := override(f.decision, codeAudit)
		r.text = "The call may have been done, but its outcome could not be recorded, so the answer is withheld. Do not repeat it before an operator has looked."
		return nil, r
	}
	if out.Status == audit.StatusCancelled {
		return nil, cancelled(f.decision, out.ErrorCode)
	}
	if fail, ok := asFailure(err); ok {
		r := override(f.decision, fail.code)
		r.reason, r.text, r.retryable = fail.code, fail.text, fail.retryable
		return nil, r
	}
	return res, err
}

// run does the call and turns a panic into a failure.
func (g *governor) run(ctx context.Context, q *query, f *flight) (res reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.logger.Error("mcpx: panic in a handler", "method", q.method, "name", clip(q.name, 128), "panic", p, "stack", string(debug.Stack()))
			res, err = nil, failed(audit.GuardPanic, "The tool failed inside.", false)
		}
	}()
	if _, own := g.site.(*ownServer); own {
		if res, err = q.do(ctx, f); err == nil {
			res, err = g.ownAsks(q, f, res)
		}
		return res, err
	}
	ctx, seen := g.telemetry.sent(ctx, q, f)
	res, err = q.do(ctx, f)
	seen.end(endingOf(res, err))
	return res, err
}

// answered is what the agent may have of what came back. What panics on it, which
// the other side may have wanted, leaves nothing of it.
func (g *governor) answered(ctx context.Context, f *flight, r reply, err error, out *audit.Outcome) (_ reply, no error) {
	defer func() {
		if p := recover(); p != nil {
			g.logger.Error("mcpx: panic while an answer was read", "server", f.server, "name", clip(f.tool, 128), "panic", p, "stack", string(debug.Stack()))
			no = failed(audit.GuardPanic, "The call was done, but its answer cannot be read. Do not repeat it.", false)
		}
	}()
	if err != nil {
		return nil, g.meetError(f.decision, err, out)
	}
	if r, err = g.inspect(ctx, f, r, out); err != nil {
		return nil, err
	}
	return meet(f.decision, r, out)
}

// settle completes the outcome of a call from what came back.
func settle(out *audit.Outcome, ctx, outer context.Context, res reply, err error) {
	switch {
	case ctx.Err() != nil && outer.Err() == nil:
		out.Status, out.ErrorCode = audit.StatusCancelled, audit.GuardRevoked
		return
	case outer.Err() != nil && (err != nil || res.failed()):
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
		out.Bytes = res.size()
	}
	if res.failed() {
		out.Status, out.ErrorCode = audit.StatusFailed, "tool-error"
	}
}

// noPanic is deferred where code of the host may panic and nobody else would notice.
func (g *governor) noPanic(what string, err *error) {
	if p := recover(); p != nil {
		g.logger.Error("mcpx: panic while "+what, "panic", p, "stack", string(debug.Stack()))
		*err = failed(audit.GuardPanic, "The server failed inside.", false)
	}
}
