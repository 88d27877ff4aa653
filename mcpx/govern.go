package mcpx

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.opentelemetry.io/otel/metric"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// The methods of MCP that a server receives. Any other is denied.
const (
	methodInitialize    = "initialize"
	methodPing          = "ping"
	methodDiscover      = "server/discover"
	methodListTools     = "tools/list"
	methodCallTool      = "tools/call"
	methodListPrompts   = "prompts/list"
	methodGetPrompt     = "prompts/get"
	methodListResources = "resources/list"
	methodListTemplates = "resources/templates/list"
	methodReadResource  = "resources/read"
	methodSubscribe     = "resources/subscribe"
	methodUnsubscribe   = "resources/unsubscribe"
	methodListen        = "subscriptions/listen"
	methodComplete      = "completion/complete"
	methodSetLevel      = "logging/setLevel"

	askElicit = "elicitation/create"
	askSample = "sampling/createMessage"
	askRoots  = "roots/list"

	notifyInitialized = "notifications/initialized"
	notifyCancelled   = "notifications/cancelled"
	notifyProgress    = "notifications/progress"
	notifyRoots       = "notifications/roots/list_changed"

	// What only servers say.
	notifyMessage        = "notifications/message"
	notifyUpdated        = "notifications/resources/updated"
	notifyToolsChanged   = "notifications/tools/list_changed"
	notifyPromptsChanged = "notifications/prompts/list_changed"
)

// GovernOptions are the options of [Govern]. The zero value, and nil, are safe.
type GovernOptions struct {
	// Server is how policy and catalogue call this server. Empty means the only
	// server of the catalogue in force; if that has several, everything is
	// denied.
	Server string
	// Identify names the actor where no HTTP request exists: over stdio and in
	// memory. It is asked for every request. Nil denies there. Over HTTP it is
	// not asked, since only the verified token of the request counts: see
	// [TokenVerifier]. The SDK's older SSE transport brings no token and is
	// therefore denied.
	Identify func(ctx context.Context, req mcp.Request) (audit.Actor, error)
	// Agents ends the calls of an agent when it is revoked. Nil means that
	// agents cannot be revoked here.
	Agents Agents
	// Approver gets the agreement of people where a permit demands @approval.
	// Nil means that such calls are denied.
	Approver Approver
	// ApprovalTime is how long people have to answer. Zero means five minutes.
	ApprovalTime time.Duration
	// MaxAnswer bounds what a request may answer, in bytes; a larger answer is
	// withheld. Zero means 4 MiB.
	MaxAnswer int64
	// Labeler says what kind of data answers of tools hold. Nil leaves it at what
	// the catalogue says.
	Labeler Labeler
	// Logger receives what operators should see; nil discards it.
	Logger *slog.Logger
	// TracerProvider is given a span for each governed request, and
	// MeterProvider its duration, by OpenTelemetry's semantic conventions for MCP.
	// Nil gives nothing to anybody.
	TracerProvider oteltrace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// Govern returns receiving middleware that puts every request of a server under
// policy and on record. Add it last, so that it is the outermost:
//
//	server.AddReceivingMiddleware(mcpx.Govern(engine, log, nil))
//
// The handshake (initialize, server/discover, ping) and the notifications of
// the protocol pass. tools/call, prompts/get, resources/read, subscriptions,
// completion and log levels are decided one by one; lists show what the actor
// could use, in one page; anything else is denied.
//
// The tools of the server must be in the engine's catalogue: see [Catalog]. A
// live tool that is absent from it is unknown, one that differs is denied.
//
// Of what permits demand besides (see [governance.Decision.Demands]) this door
// meets @max_bytes, and for tools @redact (what of their answer is not JSON is
// blanked as a whole) and, with GovernOptions.Approver, @approval. @rate is the
// engine's. Any other denies.
//
// A nil engine or a nil log denies everything.
func Govern(engine *governance.Engine, log audit.Recorder, opts *GovernOptions) mcp.Middleware {
	if opts == nil {
		opts = &GovernOptions{}
	}
	g := newGovernor(engine, log, opts.Logger)
	g.identify = opts.Identify
	g.agents = opts.Agents
	g.people(opts.Approver, opts.ApprovalTime)
	g.answers = answers{most: opts.MaxAnswer, labeler: opts.Labeler}
	g.site = newOwnServer(engine, opts.Server)
	g.telemetry = newTelemetry(opts.TracerProvider, opts.MeterProvider)
	return g.middleware
}

// A governor is the one implementation of governance over MCP. The middleware
// of an author's server and the gateway differ in their site only.
type governor struct {
	engine       *governance.Engine
	log          audit.Recorder
	logger       *slog.Logger
	identify     func(context.Context, mcp.Request) (audit.Actor, error)
	agents       Agents // may be nil
	telemetry    *telemetry
	site         site
	seal         *sealer  // for what clients carry
	memory       memory   // of what clients are asked
	talks        talks    // calls that may be parked
	tasks        tasks    // calls that were answered with a task
	waiting      crowd    // for people
	approver     Approver // may be nil
	approvalTime time.Duration
	parkTime     time.Duration
	endedTime    time.Duration // of tasks
	answers      answers
	open         func(session string) (done func()) // lets the client of a session answer; nil if nothing hinders it
	broken       error                              // why everything is denied, or nil
}

// A site is where the governed tools live.
type site interface {
	// route says which server a client's name means, and what that server calls
	// it; the server is "" if there is none.
	route(k kind, name string) (server, own string)
	// name is what records call the site: its only server, or "" for several.
	name() string
	// credential names the secret that calls to a server use, or is "".
	credential(server string) string
	// live returns the guard that refuses the call because the tool that would
	// run is not the approved one, or "".
	live(ctx context.Context, q *query, server, tool string) (guard string)
	// parks reports whether the call may have to wait, in its middle, for a client
	// that answers by calling again.
	parks(q *query, f *flight) bool
	// abandon tells the server of a task that nobody wants its result any more.
	abandon(t *task)
	// refresh is called before anything is listed or asked for.
	refresh()
	// logging are the servers that log messages may come from.
	logging() []string
	// subscribed prepares for messages of the servers of flights that the client
	// of q gets from now on, until the returned function is called.
	subscribed(ctx context.Context, q *query, flights []*flight) (stop func(), err error)
	// do does an allowed request that the SDK carries.
	do(ctx context.Context, q *query, f *flight) (reply, error)
}

// A kind is a space of names that clients use.
type kind int

const (
	kindTool kind = iota
	kindPrompt
	kindResource // URIs
	kindTemplate // URI templates
	kindLogging  // the log messages of a server, called "logging"
	kindTask     // what is done about a tool's task: of flights, not of names
)

func newGovernor(engine *governance.Engine, log audit.Recorder, logger *slog.Logger) *governor {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	g := &governor{engine: engine, log: audit.OrRefuse(log), logger: logger}
	g.memory.quota, g.waiting.quota = newQuota(maxWaiting, maxWaitingPerActor), newQuota(maxWaiting, maxWaitingPerActor)
	g.tasks.quota = newQuota(maxTasks, maxTasksPerActor)
	g.seal, _ = newSealer(credential.Secret{})
	g.approvalTime, g.parkTime, g.endedTime = approvalTime, parkTime, endedTime
	switch {
	case debugged():
		g.broken = ErrDebug
	case engine == nil:
		g.broken = errors.New("mcpx: no policy engine: pass a *governance.Engine; without one every request is denied")
	case log == nil:
		g.broken = audit.ErrNoLog
	}
	if g.broken != nil {
		logger.Error("mcpx: everything is denied", "error", g.broken)
	}
	return g
}

// people sets who is asked, and how long they have.
func (g *governor) people(a Approver, time time.Duration) {
	g.approver = a
	if time > 0 {
		g.approvalTime = time
	}
}

// A query is one request that is to be governed.
type query struct {
	method string
	do     func(context.Context, *flight) (reply, error) // does what was allowed
	outer  context.Context                               // of the request, before revocation is attached
	visit  *visit                                        // nil if it came through no door of a gateway
	actor  audit.Actor
	name   string // what is asked for: a tool, a prompt, a URI
	kind   kind   // of name
	args   []byte
	modern bool // 2026-07-28 and later
	trace  string

	asked   *asked               // what the gateway had asked, of a request that answers it
	answers mcp.InputResponseMap // to what was asked
	grant   *Verdict             // of the person who agreed to it
	open    func(session string) (done func())

	speaks string // the protocol version of the request's header
	tasks  bool   // the client knows tasks
	// farewell: it is about what has ended with the actor's agent.
	farewell bool

	features *mcp.ClientCapabilities // of a request that no SDK carries, or nil

	// Of requests that the SDK carries.
	next mcp.MethodHandler
	req  mcp.Request
}

func (g *governor) middleware(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (res mcp.Result, err error) {
		q := &query{next: next, method: method, req: req, outer: ctx, open: g.open}
		q.do = func(ctx context.Context, f *flight) (reply, error) { return g.site.do(ctx, q, f) }
		if extra := req.GetExtra(); extra != nil && extra.TokenInfo != nil {
			if v, ok := extra.TokenInfo.Extra[visitKey].(*visit); ok {
				v.handled.Store(true)
				q.visit = v
			}
		}
		defer func() {
			if p := recover(); p != nil {
				g.logger.Error("mcpx: panic", "method", method, "panic", p, "stack", string(debug.Stack()))
				res, err = g.refuse(ctx, q, refused(audit.GuardPanic))
			}
		}()
		return g.handle(ctx, q)
	}
}

func (g *governor) handle(ctx context.Context, q *query) (mcp.Result, error) {
	switch q.method {
	case methodInitialize:
		res, err := q.next(ctx, q.method, q.req)
		return g.handshake(ctx, q, res, err)
	case methodPing, notifyInitialized, notifyCancelled, notifyProgress, notifyRoots:
		return q.next(ctx, q.method, q.req)
	case methodDiscover:
		res, err := discover(q.next(ctx, q.method, q.req))
		return g.handshake(ctx, q, res, err)
	}
	q.describe()
	ctx, seen := g.telemetry.received(ctx, q)
	res, err := g.govern(ctx, q)
	seen.end(endingOf(res, err))
	return res, err
}

// govern is the way of every request that is not of the handshake.
func (g *governor) govern(ctx context.Context, q *query) (mcp.Result, error) {
	if g.broken != nil {
		r := refused(audit.GuardNoSnapshot)
		r.text = "This server is not set up: " + g.broken.Error() + "."
		return g.refuse(ctx, q, r)
	}
	actor, err := g.actor(ctx, q.req)
	if err != nil {
		g.logger.Warn("mcpx: request without an actor", "method", q.method, "error", err)
		r := refused(audit.GuardNoActor)
		r.text = "Nobody vouches for this request: it came neither through a session's door nor with a verified token."
		return g.refuse(ctx, q, r)
	}
	q.actor = actor
	ctx, cancel, no := g.alive(ctx, q)
	if no != nil {
		return g.refuse(ctx, q, *no)
	}
	defer cancel()
	switch q.method {
	case methodListTools, methodListPrompts, methodListResources, methodListTemplates:
		if g.engine.Hash() == "" {
			return g.refuse(ctx, q, refused(audit.GuardNoSnapshot))
		}
	}
	switch q.method {
	case methodCallTool:
		return g.callTool(ctx, q)
	case methodListTools:
		return g.listTools(ctx, q)
	case methodListPrompts:
		return g.listPrompts(ctx, q)
	case methodListResources:
		return g.listResources(ctx, q)
	case methodListTemplates:
		return g.listTemplates(ctx, q)
	case methodGetPrompt:
		return g.single(ctx, q, "get_prompt")
	case methodReadResource:
		return private(g.single(ctx, q, "read_resource"))
	case methodComplete:
		return g.single(ctx, q, "complete")
	case methodSubscribe, methodUnsubscribe:
		return g.single(ctx, q, "subscribe")
	case methodSetLevel:
		return g.setLevel(ctx, q)
	case methodListen:
		return g.listen(ctx, q)
	}
	return g.refuse(ctx, q, refused(audit.GuardMethod))
}

// alive binds ctx to the life of the actor's agent, or refuses.
func (g *governor) alive(ctx context.Context, q *query) (context.Context, context.CancelFunc, *refusal) {
	if g.agents == nil {
		return ctx, func() {}, nil
	}
	inner, cancel, err := g.agents.Context(ctx, q.actor)
	if err == nil && q.visit.ended() {
		cancel()
		err = audit.ErrRevoked
	}
	if err != nil {
		r := refused(audit.GuardRevoked)
		r.text = "This agent may not act any more."
		return ctx, nil, &r
	}
	return inner, cancel, nil
}

// actor says who asks. A request that came over HTTP has exactly one source for
// it, the token information of this request; the context is never asked, since
// on a stateful session it belongs to the session's first request for ever.
func (g *governor) actor(ctx context.Context, req mcp.Request) (audit.Actor, error) {
	if extra := req.GetExtra(); extra != nil && (extra.TokenInfo != nil || extra.Header != nil) {
		a, ok := actorOf(extra.TokenInfo)
		if !ok {
			return audit.Actor{}, audit.ErrNoActor
		}
		return a, nil
	}
	// The SDK's older SSE transport brings neither; its connections began in an
	// HTTP server all the same, whoever is at the other end.
	if g.identify == nil || ctx.Value(http.ServerContextKey) != nil {
		return audit.Actor{}, audit.ErrNoActor
	}
	a, err := g.identify(ctx, req)
	if err != nil {
		return audit.Actor{}, err
	}
	return a, a.Validate()
}

// describe reads from the parameters what records and refusals name.
func (q *query) describe() {
	if v, ok := q.req.(interface{ ProtocolVersion() string }); ok {
		q.modern = v.ProtocolVersion() >= modernVersion
	}
	if caps := q.caps(); q.modern && caps != nil {
		_, q.tasks = caps.Extensions[tasksExtension].(map[string]any)
	}
	switch p := q.req.GetParams().(type) {
	case *mcp.CallToolParamsRaw:
		q.name, q.args = p.Name, p.Arguments
	case *mcp.GetPromptParams:
		q.kind, q.name = kindPrompt, p.Name
	case *mcp.ReadResourceParams:
		q.kind, q.name = kindResource, p.URI
	case *mcp.SubscribeParams:
		q.kind, q.name = kindResource, p.URI
	case *mcp.UnsubscribeParams:
		q.kind, q.name = kindResource, p.URI
	case *mcp.CompleteParams:
		if p.Ref != nil {
			if q.kind, q.name = kindPrompt, p.Ref.Name; p.Ref.Type == "ref/resource" {
				q.kind, q.name = kindTemplate, p.Ref.URI
			}
		}
	}
	if q.method == methodSetLevel {
		q.kind, q.name = kindLogging, "logging"
	}
	var header http.Header
	if extra := q.req.GetExtra(); extra != nil {
		header = extra.Header
	}
	q.trace = traceparent(q.req, header)
}

// decide asks the engine. Whatever goes wrong, the answer is a denial with a
// cause.
func (g *governor) decide(ctx context.Context, r governance.Request) governance.Decision {
	d, err := g.engine.Decide(ctx, r)
	if err != nil {
		g.logger.Debug("mcpx: decision", "action", r.Action, "name", clip(r.Name, 128), "error", err)
		if d.Effect != audit.Deny {
			d.Effect, d.Reason = audit.Deny, audit.GuardPolicyError
		}
	}
	if d.ID == "" {
		d.ID = audit.NewID()
	}
	return d
}

// refuse records a refusal once and answers it.
func (g *governor) refuse(ctx context.Context, q *query, r refusal) (mcp.Result, error) {
	g.recordRefusal(ctx, q, r)
	return q.answer(r)
}

func (g *governor) recordRefusal(ctx context.Context, q *query, r refusal) {
	ev := audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorTool,
		Action: r.Action, Resource: r.Resource, Actor: q.actor,
		Decision: &r.Decision.Decision, Args: q.args, ToolPin: r.Pin, Trace: q.trace, Detail: r.detail,
	}
	if ev.Action == "" {
		ev.Action, ev.Resource = clip(q.method, 128), clip(q.name, 256)
	}
	record(ctx, g.log, g.logger, ev)
}

func (q *query) answer(r refusal) (mcp.Result, error) {
	if q.method != methodCallTool {
		return nil, r.err(q.method, q.name)
	}
	if r.Hidden {
		return nil, unknownTool(q.name)
	}
	if r.Reason == audit.GuardState {
		return nil, r.err(q.method, q.name)
	}
	return r.result(q.modern), nil
}
