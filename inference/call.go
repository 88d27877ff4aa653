package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// actRequest is the action of requests that no Cedar action covers.
const actRequest = audit.ActionRequest

// A call is one request on its way through the door.
type call struct {
	*Router
	w        http.ResponseWriter
	req      *http.Request
	asking                 // what the request is
	spending               // what it costs
	filter   *answerFilter // nil: nobody looks at the answer
	holds    int64         // bytes of memory, besides those of letters
	routes   *routes       // the ones in force when the request came

	ctx       context.Context // ends with the client, or when the agent is revoked
	actor     audit.Actor
	trace     string       // a W3C traceparent: of the span, or else the client's
	seen      *observation // nil: nobody is told about the call
	body      []byte       // the client's bytes; nil when an answer has begun
	size      int          // of them
	wanted    string       // the model that the client asks for
	own       letter       // body, once a target is chosen
	env       envelope
	route     *route
	order     []*target             // of the route, as this call asks them
	at        int                   // in order: who is next
	round     int                   // how often all of order was asked
	passed    []*target             // who is not asked any more
	target    *target               // who is asked
	rendering                       // what goes there
	betas     []string              // features of Anthropic's that the client turns on
	fellBack  bool                  // to another target than the first
	watch     *watch                // of the request to target
	decision  governance.Decision   // on invoke_model
	allowed   []governance.Decision // all of them, to be settled
	keyUse    *audit.CredentialUse
	lease     *credential.Lease

	record audit.Call // the intent on record; nil before
	ended  bool
	out    audit.Outcome
	head   credential.Found // secrets in the answer's headers
	leaks  credential.Found // those in its body

	cutByRevocation atomic.Bool
}

// ServeHTTP implements [http.Handler].
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a := classify(req)
	if a.kind == kindHello {
		w.WriteHeader(http.StatusOK)
		return
	}
	c := &call{Router: r, w: w, req: req, asking: a, routes: r.routes.Load(), ctx: req.Context(), trace: string(audit.TraceOf(req.Header))}
	actor, guard, err := c.identify()
	if err != nil {
		c.opts.Logger.Info("inference: request without an actor", slog.Any("error", err))
		c.refuse(refusal{status: http.StatusUnauthorized, code: "unauthorized", message: "this door does not know who is asking: present a valid token"},
			actRequest, c.endpoint(), guarded(guard))
		return
	}
	c.actor = actor
	if c.opts.Agents != nil {
		ctx, cancel, err := c.opts.Agents.Context(c.ctx, actor)
		if err != nil {
			c.refuse(revoked, actRequest, c.endpoint(), guarded(audit.GuardRevoked))
			return
		}
		defer cancel()
		c.ctx = ctx
	}
	switch {
	case upgrade(req):
		c.refuse(refusal{status: http.StatusUpgradeRequired, code: "no_upgrade", message: "this door speaks HTTP only"},
			actRequest, c.endpoint(), guarded(audit.GuardMethod))
	case a.kind == kindCall:
		c.invoke()
	case a.kind == kindModels, a.kind == kindModel:
		c.list()
	default:
		c.refuse(refusal{status: http.StatusForbidden, code: "not_served", message: "this endpoint is not served here"},
			actRequest, c.endpoint(), guarded(audit.GuardMethod))
	}
}

// endpoint names what was asked for when no model is known yet. The query is
// left out: clients put keys there.
func (c *call) endpoint() string {
	path := c.req.URL.EscapedPath() // what is written down is plain ASCII
	return c.req.Method + " " + path[:min(len(path), 200)]
}

// guarded is the decision of a guard.
func guarded(guard string) audit.Decision { return audit.Refusal(audit.NewID(), guard) }

// refuse records a denial and answers with it.
func (c *call) refuse(ref refusal, action, resource string, d audit.Decision) {
	ref.decision = d.ID
	err := c.log.Append(context.WithoutCancel(c.ctx), audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorModel, Action: action, Resource: resource,
		Actor: c.actor, Decision: &d, Args: c.body, Keep: audit.LevelCommitted, Detail: c.detail, Trace: c.trace,
	})
	if err != nil {
		c.opts.Logger.Error("inference: a denial could not be recorded", slog.Any("error", err))
		ref = unrecorded
	}
	c.seen.refused(ref.code, d.ID)
	ref.write(c.w, c.protocol)
}

// Answers that several places give.
var (
	unrecorded = refusal{
		status: http.StatusServiceUnavailable, code: "no_audit",
		message: "the host cannot record this request, so it is not carried out",
	}
	withheld = refusal{
		status: http.StatusBadGateway, code: "withheld",
		message: "the answer held a secret of this host, so it is withheld",
	}
	revoked = refusal{status: http.StatusForbidden, code: audit.GuardRevoked, message: "this agent may no longer act"}
)

// invoke is a model call.
func (c *call) invoke() {
	defer c.giveUp()
	defer c.free()
	defer c.release(governance.Result{}) // unless end did
	if !c.readBody() {
		return
	}
	c.ctx, c.seen = c.telemetry.received(c.ctx, c)
	defer c.seen.end(c)
	if !c.limit() || !c.inspect() || !c.choose() {
		return
	}
	var err error
	c.record, err = c.log.Begin(c.ctx, audit.Intent{
		Door: audit.DoorModel, Action: c.decision.Action, Resource: c.decision.Resource, Actor: c.actor,
		Decision: c.decision.Decision, Args: c.sent, Keep: c.keep(), Credential: c.keyUse, Trace: c.trace,
	})
	if err != nil && c.revoked() { // it was waiting for the log
		c.seen.failed(revoked.code)
		revoked.write(c.w, c.protocol)
		return
	}
	if err != nil {
		c.seen.failed(unrecorded.code)
		c.opts.Logger.Error("inference: an intent could not be recorded", slog.Any("error", err))
		unrecorded.write(c.w, c.protocol)
		return
	}
	defer c.settle()
	if id := clientSession(c.req.Header); id != "" {
		c.note("client-session:" + id)
	}
	c.noteHosted()
	if c.estimate > 0 {
		c.tellEstimate()
		return
	}
	c.send()
}

// noteHosted notes what the target is asked to do itself, each thing once.
func (c *call) noteHosted() {
	for _, name := range c.asks.hosted {
		if check := "hosted-tool:" + name; !slices.Contains(c.out.Checks, check) {
			c.note(check)
		}
	}
}

// readBody reads the whole body before anything is sent on: a server that
// answers while its transport still reads the client's body loses streams
// (golang/go#40747), and what was not read cannot be decided.
func (c *call) readBody() bool {
	h := c.req.Header
	reject := func(status int, guard, code, message string) bool {
		c.refuse(refusal{status: status, code: code, message: message}, c.op.action, c.endpoint(), guarded(guard))
		return false
	}
	var err error
	if c.betas, err = betas(c.protocol, h); err != nil {
		return reject(http.StatusBadRequest, audit.GuardHeaders, "invalid_request", err.Error())
	}
	if !plainJSON(h) {
		return reject(http.StatusUnsupportedMediaType, audit.GuardMedia, "unsupported_encoding",
			"the body must be application/json in UTF-8 without a content encoding")
	}
	tooLarge := fmt.Sprintf("the body must not be larger than %d bytes", c.opts.MaxBody)
	if c.req.ContentLength > c.opts.MaxBody {
		return reject(http.StatusRequestEntityTooLarge, audit.GuardSize, "too_large", tooLarge)
	}
	body, err := c.receive()
	switch {
	case errors.Is(err, errTooLarge):
		return reject(http.StatusRequestEntityTooLarge, audit.GuardSize, "too_large", tooLarge)
	case err != nil:
		ref, guard := unread(err)
		c.refuse(ref, c.op.action, c.endpoint(), guarded(guard))
		return false
	}
	if err := scan(c.op, body, &c.env); err != nil {
		return reject(http.StatusBadRequest, audit.GuardStrictJSON, "invalid_request", err.Error())
	}
	for _, ref := range c.env.refs {
		if string(ref.of(body)) != c.model {
			return reject(http.StatusBadRequest, audit.GuardStrictJSON, "invalid_request", "the body names another model than the path")
		}
	}
	if c.env.stored != "" {
		return reject(http.StatusForbidden, audit.GuardStoredObject, "stored_object", fmt.Sprintf(
			"the request refers to what the provider has stored (%s): all agents of this host share its account, so send the content itself", c.env.stored))
	}
	if c.op.streams == always {
		c.env.stream = true
	}
	c.body, c.size, c.wanted = body, len(body), c.model
	if !c.op.hasPathModel() {
		c.wanted = string(c.env.model.of(body))
	}
	return true
}

// forget lets go of the request once its answer has begun. The memory of what is
// still being sent is given back when that is done, or when the call ends.
func (c *call) forget() {
	c.body, c.sent, c.scanned = nil, nil, nil
	c.own.letGo()
	if c.letter != nil {
		c.letter.letGo()
	}
	c.giveBack()
}

// giveUp gives back all memory of a call that has ended. What was not sent is not
// sent any more.
func (c *call) giveUp() {
	c.scrap(c.rendering)
	c.own.end()
	c.giveBack()
}

// end makes the outcome durable, and before it the secrets that were found in
// the answer. It is called once; on an error nothing more may go to the client.
func (c *call) end() error {
	c.ended = true
	ctx := context.WithoutCancel(c.ctx)
	if c.lease != nil {
		c.head = c.head.Plus(c.lease.Found())
	}
	at := audit.Event{Door: audit.DoorModel, Action: c.decision.Action, Resource: c.decision.Resource, Actor: c.actor, Trace: c.trace}
	leak := errors.Join(
		c.opts.Leaks.Report(ctx, c.log, at, "headers", c.head),
		c.opts.Leaks.Report(ctx, c.log, at, "answer", c.leaks))
	if c.exchange != nil {
		for _, n := range c.exchange.Notes() {
			c.note(n)
		}
	}
	if c.fellBack {
		c.note("target:" + c.target.String())
	}
	c.out.Checks = append(c.out.Checks, c.head.Plus(c.leaks).Checks()...)
	if errors.Is(leak, credential.ErrLeak) {
		c.out.Status, c.out.ErrorCode = audit.StatusFailed, withheld.code
	}
	c.charge()
	c.noteFindings()
	err := errors.Join(leak, c.record.End(ctx, c.out))
	c.release(governance.ResultOf(c.out))
	if err != nil && !errors.Is(err, credential.ErrLeak) {
		c.seen.failed(unrecorded.code)
	}
	return err
}

// unanswered says why the answer does not go out after end failed.
func (c *call) unanswered(err error) refusal {
	if errors.Is(err, credential.ErrLeak) {
		c.opts.Logger.Warn("inference: an answer is withheld because of a secret in it", slog.Any("error", err))
		return withheld
	}
	c.opts.Logger.Error("inference: an outcome could not be recorded, so the answer is withheld", slog.Any("error", err))
	return unrecorded
}

// scrubber knows the secrets that must not come back: all of the vault if it
// says so, or else the leased one. It is nil if there is neither.
func (c *call) scrubber() *credential.Scrubber {
	if v, ok := c.opts.Vault.(interface{ Scrubber() *credential.Scrubber }); ok && v.Scrubber() != nil {
		return v.Scrubber()
	}
	if c.lease != nil {
		return c.lease.Scrubber()
	}
	return nil
}

// release settles everything that was allowed for this call.
func (c *call) release(r governance.Result) { settleAll(c.allowed, r) }

func settleAll(allowed []governance.Decision, r governance.Result) {
	for _, d := range allowed {
		d.Settle(r)
	}
}

// settle ends a call that came to no other end, such as by a panic.
func (c *call) settle() {
	if c.ended {
		return
	}
	c.out.Status, c.out.ErrorCode = audit.StatusFailed, "aborted"
	if err := c.end(); err != nil {
		c.opts.Logger.Error("inference: an outcome could not be recorded", slog.Any("error", err))
	}
}

// fail ends a call that got no answer, before anything went to the client.
func (c *call) fail(code, message string) {
	c.failWith(refusal{status: http.StatusBadGateway, code: code, message: message})
}

// failWith is fail with another status than 502.
func (c *call) failWith(ref refusal) {
	c.out.Status, c.out.ErrorCode = audit.StatusFailed, ref.code
	if err := c.end(); err != nil {
		ref = c.unanswered(err)
	}
	ref.write(c.w, c.protocol)
}

// markCancelled says why a call ended before its answer did.
func (c *call) markCancelled() {
	c.out.Status, c.out.ErrorCode = audit.StatusCancelled, "cancelled"
	if c.revoked() {
		c.out.ErrorCode = audit.GuardRevoked
	}
}

// revoked reports whether the call was ended from here while the client waits.
func (c *call) revoked() bool {
	return c.cutByRevocation.Load() || c.ctx.Err() != nil && c.req.Context().Err() == nil
}

// cancelled ends a call whose client left, or whose agent was revoked, before
// anything went to the client.
func (c *call) cancelled() {
	c.markCancelled()
	if !c.revoked() {
		c.abort()
	}
	if err := c.end(); err != nil {
		c.opts.Logger.Error("inference: an outcome could not be recorded", slog.Any("error", err))
	}
	revoked.write(c.w, c.protocol)
}

// abort records the outcome, if that is not done yet, and cuts the connection.
func (c *call) abort() {
	if !c.ended {
		if err := c.end(); err != nil {
			c.unanswered(err)
		}
	}
	panic(http.ErrAbortHandler)
}
