//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.opentelemetry.io/otel/metric"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// GatewayOptions are the options of [NewGateway]. The zero value, and nil, are
// safe.
type GatewayOptions struct {
	// Vault leases the credentials of upstreams that name one. Nil means that
	// calls to those are refused.
	Vault credential.Vault
	// Consents gets the consent of users to the use of their accounts. Nil
	// means that a call which lacks it fails.
	Consents Consents
	// Agents ends the calls of an agent when it is revoked. Nil means that
	// agents cannot be revoked here.
	Agents Agents
	// Approver gets the agreement of people where a permit demands @approval.
	// Nil means that such calls are denied.
	Approver Approver
	// ApprovalTime is how long people have to answer. Zero means five minutes.
	ApprovalTime time.Duration
	// Resource is the canonical URL of the endpoint: the audience that bearer
	// tokens must have. [Gateway.Handler] needs it.
	Resource string
	// AuthorizationServers are the issuers whose tokens are accepted, for the
	// protected-resource metadata of RFC 9728.
	AuthorizationServers []string
	// StateKey seals what clients carry for the gateway from one request to the
	// next: at least 32 random bytes, the same on each host behind one URL. The
	// zero value means a random key, so that what clients carry is of no use
	// after a restart or at another host.
	StateKey credential.Secret
	// Leaks says what happens when an upstream sends a secret back, besides that
	// it is taken out and recorded.
	Leaks credential.LeakPolicy
	// MaxAnswer bounds what a request may answer, in bytes; a larger answer is
	// withheld. Zero means 4 MiB.
	MaxAnswer int64
	// Labeler says what kind of data answers of tools hold. Nil leaves it at what
	// the catalogue says.
	Labeler Labeler
	// Search puts a search in the place of long lists of tools. Nil lists all.
	Search *Search
	// Resumable lets clients of protocol versions with sessions come again for the
	// rest of an answer whose stream has ended (Last-Event-ID), if the call is one
	// that the SDK carries: of a client that can be asked for something. At most
	// 64 MiB are kept for that in all, and 8 MiB for one actor.
	Resumable bool
	// CallTimeout bounds one call of an upstream. Zero means two minutes.
	CallTimeout time.Duration
	// Logger receives what operators should see; nil discards it.
	Logger *slog.Logger
	// TracerProvider is given a span for each governed request and one for each
	// that goes on to an upstream, and MeterProvider their durations, by
	// OpenTelemetry's semantic conventions for MCP. Nil gives nothing to anybody.
	TracerProvider oteltrace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// A Gateway is one governed MCP endpoint in front of many servers. It offers
// exactly the tools, prompts and resources of the catalogue in force whose
// servers were added with [Gateway.AddUpstream]: tools and prompts under the
// names "<server>__<name>", and resources under their URIs, which the catalogue
// says whose they are. What an upstream answers, and says meanwhile, comes to
// the client as it was written.
//
// It is an http.Handler for the door of a sandbox session, and [Gateway.Handler]
// makes one for agents elsewhere; both serve protocol versions with and without
// sessions at the same URL. It is safe for concurrent use.
type Gateway struct {
	gov    *governor
	opts   GatewayOptions
	server *mcp.Server
	bare   *mcp.Server // the same without tools
	owners *owners
	search *searcher // nil: all tools are listed
	closed atomic.Bool

	legacy, modern http.Handler
	info           []byte // who we are, as JSON
	slow           bool   // of tests: the SDK carries every call

	send      mcp.MethodHandler // to the client of a session, as it is
	levels    sessionLevels
	sick      patients
	watches   watches
	farewells *farewells
	offered   atomic.Pointer[offers]

	mu        sync.Mutex
	upstreams map[string]*Upstream
	pool      *pool
	lanes     lanes
}

// NewGateway returns a gateway with no upstreams. With a nil engine, a nil log,
// or MCPGODEBUG in the environment it refuses everything, and AddUpstream says
// why.
func NewGateway(engine *governance.Engine, log audit.Recorder, opts *GatewayOptions) *Gateway {
	g := &Gateway{upstreams: make(map[string]*Upstream)}
	g.offered.Store(new(offers))
	if opts != nil {
		g.opts = *opts
	}
	if g.opts.CallTimeout <= 0 {
		g.opts.CallTimeout = 2 * time.Minute
	}
	g.gov = newGovernor(engine, log, g.opts.Logger)
	g.gov.agents = g.opts.Agents
	g.gov.telemetry = newTelemetry(g.opts.TracerProvider, g.opts.MeterProvider)
	g.gov.people(g.opts.Approver, g.opts.ApprovalTime)
	g.gov.site = g
	g.search = newSearcher(g.opts.Search)
	g.gov.answers = answers{most: g.opts.MaxAnswer, labeler: g.opts.Labeler}
	if seal, err := newSealer(g.opts.StateKey); err == nil {
		g.gov.seal = seal
	} else if g.gov.broken == nil {
		g.gov.broken = err
		g.gov.logger.Error("mcpx: everything is denied", "error", err)
	}
	g.pool = newPool()
	g.watches.quota = newQuota(maxAllSubscriptions, maxSubscriptions)
	g.farewells = newFarewells()
	self := &mcp.Implementation{Name: "twinward", Title: "Twinward gateway", Version: "1"}
	g.info, _ = json.Marshal(self)
	for _, s := range []**mcp.Server{&g.server, &g.bare} {
		*s = mcp.NewServer(self, &mcp.ServerOptions{
			Capabilities: &mcp.ServerCapabilities{
				Tools:       &mcp.ToolCapabilities{ListChanged: true},
				Prompts:     &mcp.PromptCapabilities{ListChanged: true},
				Resources:   &mcp.ResourceCapabilities{ListChanged: true, Subscribe: true},
				Completions: &mcp.CompletionCapabilities{},
				Logging:     &mcp.LoggingCapabilities{},
			},
			// What is subscribed to is watched before the SDK takes note of it.
			SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
			UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
		})
		(*s).AddReceivingMiddleware(g.gov.middleware)
	}
	g.server.AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		g.send = next
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			res, err := next(ctx, method, req)
			if ss, ok := req.GetSession().(*mcp.ServerSession); ok && method == notifyListening {
				g.listens(ss)
			}
			return res, err
		}
	})
	g.levels.live = func() map[*mcp.ServerSession]bool {
		live := make(map[*mcp.ServerSession]bool)
		for ss := range g.server.Sessions() {
			live[ss] = true
		}
		return live
	}
	g.owners = newOwners(func() map[string]bool {
		live := make(map[string]bool)
		for ss := range g.server.Sessions() {
			live[ss.ID()] = true
		}
		return live
	})
	g.gov.open = g.owners.ask
	g.legacy, g.modern = g.handlers()
	return g
}

// AddUpstream puts a server behind the gateway. The server's approved tools
// come from the catalogue, so it need not be running yet: sessions are opened
// when an agent first calls, one for each actor. It is an error when the name is
// taken or malformed, when the catalogue does not know the server, or when a
// credential is named that nothing can lease.
func (g *Gateway) AddUpstream(ctx context.Context, u *Upstream) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrUpstream, fmt.Errorf(format, args...))
	}
	switch {
	case g.gov.broken != nil:
		return g.gov.broken
	case g.closed.Load():
		return ErrClosed
	case u == nil || u.dial == nil:
		return fail("make one with HTTP, Stdio, StdioWith or InMemory")
	case !serverName.MatchString(u.Name):
		return fail("name %q: use 1 to 32 of a-z, 0-9 and -", u.Name)
	case u.err != nil:
		return fail("%q: %w", u.Name, u.err)
	case u.Credential != "" && u.origin == "":
		return fail("%q: there is no request to put credential %q on: use HTTP or StdioWith", u.Name, u.Credential)
	case u.Credential != "" && g.opts.Vault == nil:
		return fail("%q uses credential %q: set GatewayOptions.Vault", u.Name, u.Credential)
	}
	known := false
	for _, s := range g.gov.engine.Catalog() {
		known = known || s.Name == u.Name
	}
	if !known {
		return fail("%q is not in the catalogue in force: write it with ReadCatalog, review it, and reload the engine", u.Name)
	}
	own := *u
	own.modern = new(atomic.Bool)
	if err := g.add(&own); err != nil {
		return fail("%q: %w", u.Name, err)
	}
	g.refresh()
	return nil
}

// add puts an upstream among the others, unless it would be taken for one.
func (g *Gateway) add(u *Upstream) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.upstreams[u.Name] != nil {
		return errors.New("it was added already")
	}
	with := maps.Clone(g.upstreams)
	with[u.Name] = u
	catalog := g.gov.engine.Catalog()
	was, _ := newOffers(catalog, g.upstreams)
	for _, s := range catalog {
		if s.Name != u.Name {
			continue
		}
		for what, other := range was.disputes(s) {
			return fmt.Errorf("%q is claimed by %q too: take it out of one of the two catalogue files", what, other)
		}
	}
	if u.OwnNames && was.bare != "" {
		return fmt.Errorf("%q is offered under its own names already, and only one can be", was.bare)
	}
	now, _ := newOffers(catalog, with)
	if s, ok := now.catalog[now.bare]; ok {
		for _, t := range s.Tools {
			if now.shadowed(s.Name, t.Name) {
				return fmt.Errorf("tool %q: %w", t.Name, errShadowed)
			}
		}
		for _, p := range s.Prompts {
			if now.shadowed(s.Name, p.Name) {
				return fmt.Errorf("prompt %q: %w", p.Name, errShadowed)
			}
		}
	}
	g.upstreams = with
	stale := *g.offered.Load()
	stale.hash = "" // so that refresh makes it anew
	g.offered.Store(&stale)
	return nil
}

// Close ends all sessions, of clients and with upstreams, and the upstreams'
// child processes. Calls in flight fail; later requests are refused.
func (g *Gateway) Close() error {
	if g.closed.Swap(true) {
		return nil
	}
	g.gov.memory.close()
	g.gov.talks.close()
	for _, t := range g.gov.tasks.close() {
		g.gov.forget(t, "closing")
	}
	g.farewells.close() // while there are sessions
	g.pool.end()        // or the sessions of clients would wait for their calls
	var errs []error
	for ss := range g.server.Sessions() {
		errs = append(errs, ss.Close())
	}
	g.watches.close()
	return errors.Join(append(errs, g.pool.close())...)
}

// The gateway is the governor's site.

func (g *Gateway) route(k kind, name string) (server, own string) {
	return g.offered.Load().route(k, name)
}

func (g *Gateway) name() string { return "" }

// logging are the servers whose log messages clients can ask for.
func (g *Gateway) logging() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.upstreams))
}

func (g *Gateway) subscribed(ctx context.Context, q *query, flights []*flight) (func(), error) {
	if q.method == methodSetLevel {
		return func() {}, g.setLevel(q.req)
	}
	return g.listening(ctx, q, flights)
}

// setLevel keeps from which level on a client's session wants log messages.
func (g *Gateway) setLevel(req mcp.Request) error {
	p, ok := req.GetParams().(*mcp.SetLoggingLevelParams)
	ss, _ := req.GetSession().(*mcp.ServerSession)
	level := -1
	if ok && p != nil {
		level = slices.Index(levels, string(p.Level))
	}
	if level < 0 || ss == nil {
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "unknown log level"}
	}
	g.levels.set(ss, level)
	return nil
}

func (g *Gateway) credential(server string) string {
	if u := g.upstream(server); u != nil {
		return u.Credential
	}
	return ""
}

func (g *Gateway) upstream(name string) *Upstream {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.upstreams[name]
}

// parks is for calls of servers that ask in the middle of a call.
func (g *Gateway) parks(q *query, f *flight) bool {
	u := g.upstream(f.server)
	return u != nil && q.modern && !u.modern.Load() && g.mayBeAsked(q, f, u)
}

// live refuses what is not offered, and what this actor's session with the
// upstream has shown to differ from the approved definition.
func (g *Gateway) live(_ context.Context, q *query, server, tool string) string {
	o := g.offered.Load()
	if _, ok := o.tools[o.name(server, tool)]; !ok {
		return audit.GuardUnknown
	}
	return g.pool.drift(g.gov.engine, poolKey{server: server, owner: owner(q.actor)}, tool)
}
