package mcpx

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// What clients ask about tasks goes past the SDK, which does not know them.

func isTask(method string) bool {
	return method == methodGetTask || method == methodUpdateTask || method == methodCancelTask
}

// serveTask is the way of a request about a task.
func (g *Gateway) serveTask(w http.ResponseWriter, r *http.Request, v *visit, m message) {
	a := &answer{w: w, id: m.id, modern: true, server: g.info}
	q := &query{
		method: m.method, name: m.name, modern: true, speaks: r.Header.Get(headerVersion),
		outer: r.Context(), visit: v, actor: v.actor, tasks: declaresTasks(json.RawMessage(m.asked.features)),
	}
	if caps := new(mcp.ClientCapabilities); json.Unmarshal(m.asked.features, caps) == nil {
		q.features = caps
	}
	q.trace = traceFrom(text(m.asked.trace), r.Header)
	res, err := g.carry(r.Context(), q, func(ctx context.Context, q *query) (reply, error) {
		return g.task(ctx, q, m.responses)
	})
	if no, ok := err.(refusal); ok {
		if err = no.err(m.method, m.name); no.Hidden {
			err = unknownTask
		}
	}
	a.finish(m.name, res, err)
}

// unknownTask is the answer about a task that is not there, or not the actor's.
var unknownTask = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "unknown task"}

// task governs and does one request about a task.
func (g *Gateway) task(ctx context.Context, q *query, responses json.RawMessage) (reply, error) {
	if !q.tasks {
		g.gov.recordRefusal(ctx, q, refused(audit.GuardMethod))
		data := json.RawMessage(`{"requiredCapabilities":{"extensions":{"` + tasksExtension + `":{}}}}`)
		return nil, &jsonrpc.Error{Code: mcp.CodeMissingRequiredClientCapabilities, Message: "the capability " + tasksExtension + " is required", Data: data}
	}
	t := g.gov.tasks.get(q.actor, q.name)
	if t == nil {
		r := refused(audit.GuardUnknown)
		r.Hidden = true
		return g.gov.no(ctx, q, r)
	}
	g.refresh()
	u := g.upstream(t.f.server)
	if u == nil {
		return g.gov.no(ctx, q, override(t.f.decision, audit.GuardUnknown))
	}
	f := &flight{q: q, actor: q.actor, server: t.f.server, tool: t.f.tool, args: t.f.args, trace: q.trace, decision: t.f.decision.Again()}
	if q.method != methodCancelTask { // whoever may do nothing more may still stop
		d, err := g.gov.engine.Again(ctx, t.f.decision, governance.Request{
			Actor: q.actor, Action: "call_tool", Server: f.server, Name: f.tool, Args: f.args, Enforces: g.gov.meetsForTools(),
		})
		if err != nil || !d.Allowed() {
			d.Hidden = false // that there is a task is known
			return g.gov.no(ctx, q, decided(d))
		}
		f.decision = d
	}
	if no, ok := g.gov.useCredential(ctx, f); !ok {
		return g.gov.no(ctx, q, no)
	}
	defer f.key.Settle(governance.Result{OK: true})
	if q.method == methodGetTask {
		return g.getTask(ctx, q, f, u, t)
	}
	return g.actOnTask(ctx, q, f, u, t, responses)
}

// actOnTask cancels a task, or gives it what it has asked for: an act of its own.
func (g *Gateway) actOnTask(ctx context.Context, q *query, f *flight, u *Upstream, t *task, responses json.RawMessage) (reply, error) {
	doc := map[string]any{"method": q.method, "taskId": q.name}
	var answers json.RawMessage
	if q.method == methodUpdateTask {
		answers = t.answers(responses)
		doc["inputResponses"] = answers
	}
	var err error
	if q.args, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	q.do = func(ctx context.Context, f *flight) (reply, error) {
		raw, err := g.askTask(ctx, q, f, u, t, answers)
		if err != nil {
			return nil, err
		}
		r, _, ok := parseResult(q.method, raw)
		if !ok {
			return nil, errUnreadable
		}
		r.members, r.meta, r.task = nil, nil, nil // it is an acknowledgement, and nothing else is
		return r, nil
	}
	f.kind = kindTask
	return g.gov.act(ctx, q, f)
}

// answers are those of a client to what it was asked, as they were written.
func (t *task) answers(responses json.RawMessage) json.RawMessage {
	t.mu.Lock()
	kinds := maps.Clone(t.asked)
	t.mu.Unlock()
	var typed mcp.InputResponseMap
	out := []byte("{")
	if json.Unmarshal(responses, &typed) == nil {
		eachMember(responses, func(key string, v []byte) bool {
			if kind := kinds[key].kind; kind != "" && kindOfAnswer(typed[key]) == kind {
				out = appendMember(out, key, v)
			}
			return true
		})
	}
	return append(out, '}')
}

// askTask asks the server about its task, and returns what it says, scrubbed.
func (g *Gateway) askTask(ctx context.Context, q *query, f *flight, u *Upstream, t *task, answers json.RawMessage) (json.RawMessage, error) {
	p, err := g.reach(ctx, f, u)
	defer p.end()
	if err != nil {
		return nil, err
	}
	if p.ask != nil || p.s.wire.agreed() < modernVersion {
		return nil, failed("upstream-down", fmt.Sprintf("The server %q cannot be asked for its tasks now.", u.Name), true)
	}
	caps := declared(g.clientCaps(q, f, u))
	caps["extensions"] = map[string]any{tasksExtension: map[string]any{}}
	meta := map[string]any{
		mcp.MetaKeyProtocolVersion: modernVersion, mcp.MetaKeyClientInfo: map[string]any{"name": "twinward", "version": "1"},
		mcp.MetaKeyClientCapabilities: caps,
	}
	if f.trace != "" {
		meta["traceparent"] = f.trace
	}
	params := map[string]any{"_meta": meta, "taskId": t.theirs}
	if answers != nil {
		params["inputResponses"] = answers
	}
	if u.endpoint == nil {
		err = p.sendCustom(q.method, params)
	} else {
		x := &exchange{g: g, p: p, f: f, u: u, answer: &answer{}, id: firstID + p.s.wire.ids.Add(1), method: q.method, name: t.theirs}
		err = x.custom(params)
	}
	if err != nil {
		return nil, g.explain(p.outer, p.ctx, u, f, p.c, p.s, err)
	}
	return g.scrubbed(p.ctx, f, p.c)
}

// custom sends a request that the SDK does not know, and leaves the result in the
// carriage.
func (x *exchange) custom(params map[string]any) (err error) {
	x.raw, err = json.Marshal(map[string]any{"jsonrpc": "2.0", "id": x.id, "method": x.method, "params": params})
	if err != nil {
		return err
	}
	raw, err := x.call()
	if err != nil {
		x.tell()
		return err
	}
	x.p.c.expect(x.method, nil)
	x.p.c.mu.Lock()
	x.p.c.result = raw
	x.p.c.mu.Unlock()
	return nil
}

// sendCustom is custom where there is no HTTP.
func (p *passage) sendCustom(method string, params map[string]any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	p.c.expect(method, nil)
	_, err = mcp.CallCustomMethod[*rawParams, *anyResult](carried{p.ctx, p.c}, p.s.cs, method, &rawParams{raw: raw})
	return err
}

// An anyResult is read by nobody: the carriage has what came.
type anyResult struct{ mcp.ResultBase }

// changedEnd is why nothing is passed on of a task's second end.
var changedEnd = failed("upstream-garbage", "The task has ended, and its server says now that it ended otherwise.", false)

// getTask tells a client how its task stands.
func (g *Gateway) getTask(ctx context.Context, q *query, f *flight, u *Upstream, t *task) (reply, error) {
	// say answers with why nothing can be said; the task goes on.
	say := func(err error) (reply, error) {
		if _, ours := asFailure(err); !ours {
			err = g.gov.meetError(f.decision, err, new(audit.Outcome)) // a server's words are held to what results are
		}
		if fail, ok := asFailure(err); ok {
			r := override(f.decision, fail.code)
			r.reason, r.text, r.retryable = fail.code, fail.text, fail.retryable
			return g.gov.no(ctx, q, r)
		}
		return nil, err
	}
	raw, err := g.askTask(ctx, q, f, u, t, nil)
	if err != nil {
		var own *jsonrpc.Error
		if errors.As(err, &own) && own.Code == jsonrpc.CodeInvalidParams { // it has forgotten it
			g.gov.forget(t, codeLost)
			return nil, unknownTask
		}
		return say(err)
	}
	t.polled()
	var status string
	var result, fault, asks []byte
	r, _, ok := parseResult(methodGetTask, raw)
	ok = ok && eachMember(slices.Concat([]byte("{"), r.members, []byte("}")), func(key string, v []byte) bool {
		switch key {
		case "status":
			status = text(v)
		case "result":
			result = v
		case "error":
			fault = v
		case "inputRequests":
			asks = v
		}
		return true
	})
	if !ok {
		return say(errUnreadable)
	}
	r = taskReply(r, t.id, isBrief(f.decision))
	members := r.members
	var ends []byte // what the server says of the end
	switch status {
	case "completed":
		ends = slices.Concat([]byte("completed "), result)
	case "failed":
		ends = slices.Concat([]byte("failed "), fault)
	case "cancelled":
		ends = []byte("cancelled")
	}
	if !t.is(ends) {
		return say(changedEnd)
	}
	out := audit.Outcome{Checks: slices.Concat(t.f.out.Checks, f.out.Checks), CredentialVersion: f.out.CredentialVersion}
	switch status {
	case "working":
	case "input_required":
		shown, err := g.taskAsks(ctx, q, f, u, t, asks)
		if err != nil {
			return say(err)
		}
		members = appendMember(members, "inputRequests", shown)
	case "completed":
		text, err := g.taskResult(ctx, q, f, t, result, &out)
		if err != nil {
			return say(err)
		}
		if out.Status == audit.StatusCancelled { // this poll is, or the agent: the task is not
			return say(failed("cancelled", "Nobody waits for this any more.", true))
		}
		members = appendMember(members, "result", text)
	case "failed":
		own := new(jsonrpc.Error)
		if json.Unmarshal(fault, own) != nil {
			own = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the task failed"}
		}
		if own.Code == CodeDenied {
			own.Code, own.Data = jsonrpc.CodeInternalError, nil // nobody else speaks for Twinward
		}
		out.Status, out.ErrorCode = audit.StatusFailed, "error"
		if fail, ok := asFailure(g.gov.meetError(f.decision, own, &out)); ok {
			own, out.ErrorCode = &jsonrpc.Error{Code: CodeDenied, Message: fail.text}, fail.code
		}
		text, _ := json.Marshal(own)
		members = appendMember(members, "error", text)
	case "cancelled":
		out.Status, out.ErrorCode = audit.StatusCancelled, "cancelled"
	default:
		return say(errUnreadable)
	}
	if out.Status != "" {
		if _, err := t.end(out, ends); err != nil {
			g.gov.logger.Error("mcpx: the outcome of a task could not be recorded, so its answer is withheld", "action", f.decision.Action, "intent", t.call.Record(), "error", err)
			return g.gov.no(ctx, q, override(f.decision, codeAudit))
		}
		if !t.is(ends) { // another poll has recorded another end meanwhile
			return say(changedEnd)
		}
	}
	r.members = members
	return r, nil
}

// taskResult is what the client may have of the result of a task.
func (g *Gateway) taskResult(ctx context.Context, q *query, f *flight, t *task, result []byte, out *audit.Outcome) ([]byte, error) {
	raw, asks, ok := parseResult(methodCallTool, result)
	if !ok || asks || raw.task != nil {
		return nil, errUnreadable
	}
	r, err := g.gov.answered(ctx, f, raw, nil, out)
	settle(out, ctx, q.outer, r, err)
	if fail, ok := asFailure(err); ok {
		no := override(f.decision, fail.code)
		no.reason, no.text, no.retryable = fail.code, fail.text, fail.retryable
		text, err := json.Marshal(no.result(false))
		return text, err
	}
	if err != nil {
		return nil, err
	}
	text, err := r.text()
	if err == nil && audit.WantsResult(t.call) {
		out.Result = text
	}
	return text, err
}

// taskAsks are the questions of a task that its client is asked.
func (g *Gateway) taskAsks(ctx context.Context, q *query, f *flight, u *Upstream, t *task, asks []byte) ([]byte, error) {
	no := func(why error) ([]byte, error) {
		return nil, failed("upstream-input", fmt.Sprintf("The server %q asks for input: %s. Cancel the task.", u.Name, clip(why.Error(), 200)), false)
	}
	var typed mcp.InputRequestMap
	if json.Unmarshal(asks, &typed) != nil || len(typed) > maxQuestions {
		return no(errors.New("the questions cannot be read"))
	}
	caps := g.clientCaps(q, f, u)
	shown := make(mcp.InputRequestMap, len(typed))
	for key, p := range typed {
		x, bad := newQuestion(u.Name, p, caps, u.Roots)
		if bad == nil {
			bad = unasked(f)
		}
		if len(key) > 128 && bad == nil {
			bad = fmt.Errorf("%w: its name is too long", errQuestion)
		}
		seen := taskAsk{kind: x.kind, digest: sha256.Sum256(x.raw)}
		t.mu.Lock()
		again := t.asked[key] == seen && bad == nil
		full := len(t.asked) >= 16*maxQuestions
		t.mu.Unlock()
		if !again { // else it was decided, and is on record
			if full && bad == nil {
				bad = fmt.Errorf("%w: this task has asked too much already", errQuestion)
			}
			if _, err := g.gov.ask(ctx, f, x, bad, func() (mcp.InputResponse, error) { return nil, nil }); err != nil {
				return no(err)
			}
			t.mu.Lock()
			t.asked[key] = seen
			t.mu.Unlock()
		}
		shown[key] = x.params
	}
	return json.Marshal(shown)
}
