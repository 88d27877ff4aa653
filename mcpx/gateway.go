package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

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
	// CallTimeout bounds one call of an upstream. Zero means two minutes.
	CallTimeout time.Duration
	// Logger receives what operators should see; nil discards it.
	Logger *slog.Logger
}

// A Gateway is one governed MCP endpoint in front of many servers. It offers
// exactly the tools of the catalogue in force whose servers were added with
// [Gateway.AddUpstream], under the names "<server>__<tool>".
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
	closed atomic.Bool

	legacy, modern http.Handler
	info           []byte // who we are, as JSON
	slow           bool   // of tests: the SDK carries every call

	mu        sync.Mutex
	upstreams map[string]*Upstream
	offered   map[string]string // pins of the tools on the server, by offered name
	synced    string            // the snapshot that offered was made from
	pool      *pool
}

// NewGateway returns a gateway with no upstreams. With a nil engine, a nil log,
// or MCPGODEBUG in the environment it refuses everything, and AddUpstream says
// why.
func NewGateway(engine *governance.Engine, log audit.Recorder, opts *GatewayOptions) *Gateway {
	g := &Gateway{upstreams: make(map[string]*Upstream), offered: make(map[string]string)}
	if opts != nil {
		g.opts = *opts
	}
	if g.opts.CallTimeout <= 0 {
		g.opts.CallTimeout = 2 * time.Minute
	}
	g.gov = newGovernor(engine, log, g.opts.Logger)
	g.gov.agents = g.opts.Agents
	g.gov.site = g
	if seal, err := newSealer(g.opts.StateKey); err == nil {
		g.gov.seal = seal
	} else if g.gov.broken == nil {
		g.gov.broken = err
		g.gov.logger.Error("mcpx: everything is denied", "error", err)
	}
	g.pool = newPool()
	self := &mcp.Implementation{Name: "twinward", Title: "Twinward gateway", Version: "1"}
	g.info, _ = json.Marshal(self)
	for _, s := range []**mcp.Server{&g.server, &g.bare} {
		*s = mcp.NewServer(self, &mcp.ServerOptions{
			Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{ListChanged: true}},
		})
		(*s).AddReceivingMiddleware(g.gov.middleware)
	}
	g.owners = newOwners(func() map[string]bool {
		live := make(map[string]bool)
		for ss := range g.server.Sessions() {
			live[ss.ID()] = true
		}
		return live
	})
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
	g.mu.Lock()
	if g.upstreams[u.Name] != nil {
		g.mu.Unlock()
		return fail("%q was added already", u.Name)
	}
	own := *u
	g.upstreams[u.Name] = &own
	g.synced = ""
	g.mu.Unlock()
	g.refresh()
	return nil
}

// Close ends all sessions, of clients and with upstreams, and the upstreams'
// child processes. Calls in flight fail; later requests are refused.
func (g *Gateway) Close() error {
	if g.closed.Swap(true) {
		return nil
	}
	var errs []error
	for ss := range g.server.Sessions() {
		errs = append(errs, ss.Close())
	}
	return errors.Join(append(errs, g.pool.close())...)
}

// refresh makes the server offer what the catalogue in force approves.
func (g *Gateway) refresh() {
	g.mu.Lock()
	defer g.mu.Unlock()
	hash := g.gov.engine.Hash()
	if hash != "" && hash == g.synced {
		return
	}
	want := make(map[string]string)
	for _, s := range g.gov.engine.Catalog() {
		u := g.upstreams[s.Name]
		if u == nil {
			continue
		}
		for _, t := range s.Tools {
			name := s.Name + "__" + t.Name
			pin, err := t.Pin()
			if err == nil && g.offered[name] != pin {
				err = g.offer(name, t.ToolDefinition, u)
			}
			if err != nil {
				g.gov.logger.Error("mcpx: a tool of the catalogue cannot be offered", "tool", name, "error", err)
				continue
			}
			want[name] = pin
		}
	}
	for name := range g.offered {
		if _, ok := want[name]; !ok {
			g.server.RemoveTools(name)
		}
	}
	g.offered, g.synced = want, hash
}

// offer registers a forwarder. The SDK panics on a tool that it does not like.
func (g *Gateway) offer(name string, d governance.ToolDefinition, u *Upstream) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	t, err := toTool(name, d)
	if err != nil {
		return err
	}
	g.server.AddTool(t, func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return g.forward(ctx, u, req)
	})
	return nil
}

// The gateway is the governor's site.

func (g *Gateway) route(k kind, name string) (server, own string) {
	if k != kindTool {
		return "", name
	}
	server, own, ok := strings.Cut(name, "__")
	if !ok {
		return "", name
	}
	return server, own
}

func (g *Gateway) name() string { return "" }

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

// live refuses what is not offered, and what this actor's session with the
// upstream has shown to differ from the approved definition.
func (g *Gateway) live(_ context.Context, q *query, server, tool string) string {
	g.mu.Lock()
	_, offered := g.offered[server+"__"+tool]
	g.mu.Unlock()
	if !offered {
		return audit.GuardUnknown
	}
	return g.pool.drift(g.gov.engine, poolKey{server, owner(q.actor)}, tool)
}
