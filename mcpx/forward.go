package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// cancelWait is how long a cancelled call keeps its lease, so that the upstream
// can still be told.
const cancelWait = time.Second

// maxOvertaken is how often a call leases again because the secret that it had
// was rotated away before a child was started with it.
const maxOvertaken = 3

// do does what was allowed, at the server that it is for.
func (g *Gateway) do(ctx context.Context, q *query, f *flight) (reply, error) {
	u := g.upstream(f.server)
	if u == nil {
		return nil, failed(audit.GuardPanic, "The server is not behind this gateway.", false)
	}
	switch q.method {
	case methodSubscribe, methodUnsubscribe:
		return g.subscribe(ctx, q, f, u)
	}
	return g.forward(ctx, q, f, u)
}

// forward does an allowed request at its upstream: lease, one request, scrub.
// The client's _meta stays here, since policy did not see it.
func (g *Gateway) forward(ctx context.Context, q *query, f *flight, u *Upstream) (reply, error) {
	p, err := g.reach(ctx, f, u)
	defer p.end()
	if err != nil {
		return nil, err
	}
	if p.ask != nil {
		return p.ask, nil
	}
	for in, n := q.firstRound(), 1; ; n++ {
		r, err := g.once(p, q, f, u, in)
		if !errors.Is(err, errAsks) {
			return r, err
		}
		var out reply
		if in, out, err = g.again(p.ctx, q, f, u, r.(*rawReply), n); out != nil || err != nil {
			return out, err
		}
	}
}

// once sends the one request and returns its answer, or errAsks with one that
// asks first.
func (g *Gateway) once(p *passage, q *query, f *flight, u *Upstream, in round) (reply, error) {
	said := g.newMessages(p.ctx, q, f, p.c)
	p.c.expect(q.method, said)
	if g.opts.Resumable {
		p.c.mu.Lock()
		p.c.polled = q.hangUp
		p.c.mu.Unlock()
	}
	err := g.request(carried{p.ctx, p.c}, p, q, f, u, said, in)
	said.end()
	f.out.Checks = append(f.out.Checks, p.c.checks()...)
	if err != nil {
		if p.ctx.Err() != nil {
			select { // the SDK tells the upstream behind our back
			case <-p.c.told:
			case <-time.After(cancelWait):
			}
		}
		err = g.explain(p.outer, p.ctx, u, f, p.c, p.s, err)
		var pages *pagesWanted
		if errors.As(err, &pages) {
			return g.openPages(q, f, pages)
		}
		return nil, err
	}
	return g.clean(p.ctx, f, p.c)
}

// request sends the one request. What comes back is in the carriage.
func (g *Gateway) request(ctx context.Context, p *passage, q *query, f *flight, u *Upstream, said *messages, in round) error {
	meta := mcp.Meta{}
	if p.s.wire.agreed() >= modernVersion {
		caps := declared(g.clientCaps(q, f, u))
		if q.tasks && q.method == methodCallTool {
			caps["extensions"] = map[string]any{tasksExtension: map[string]any{}}
		}
		meta[mcp.MetaKeyClientCapabilities] = caps
	}
	if f.trace != "" {
		meta["traceparent"] = f.trace
	}
	if said.wants() {
		if said.token != "" {
			meta["progressToken"] = said.token
		}
		if err := p.s.wantLogs(ctx, said.level, meta); err != nil {
			g.gov.logger.Debug("mcpx: the server's log level could not be set", "server", f.server, "error", err)
		}
	}
	var err error
	if q.method == methodCallTool {
		_, err = p.s.cs.CallTool(ctx, &mcp.CallToolParams{Meta: meta, Name: f.tool, Arguments: f.args, InputResponses: in.answers, RequestState: in.state})
		return err
	}
	switch params := q.req.GetParams().(type) {
	case *mcp.GetPromptParams:
		_, err = p.s.cs.GetPrompt(ctx, &mcp.GetPromptParams{Meta: meta, Name: f.tool, Arguments: params.Arguments, InputResponses: in.answers, RequestState: in.state})
	case *mcp.ReadResourceParams:
		_, err = p.s.cs.ReadResource(ctx, &mcp.ReadResourceParams{Meta: meta, URI: f.tool, InputResponses: in.answers, RequestState: in.state})
	case *mcp.CompleteParams:
		ref := *params.Ref
		if f.kind == kindPrompt {
			ref.Name = f.tool
		}
		_, err = p.s.cs.Complete(ctx, &mcp.CompleteParams{Meta: meta, Ref: &ref, Argument: params.Argument, Context: params.Context})
	default:
		return failed(audit.GuardMethod, "This cannot be asked of a server.", false)
	}
	return err
}

// A passage is what one call needs at its upstream, until its end.
type passage struct {
	outer context.Context // of the agent's call
	ctx   context.Context // ends with the call's timeout too, and when the gateway closes
	c     *carriage
	s     *session
	ask   reply // instead of a session: what the client has to do first
	ends  []func()
}

// end gives back what the passage holds. The lease goes last.
func (p *passage) end() {
	for _, f := range slices.Backward(p.ends) {
		f()
	}
}

// reach gets a call to the point where only its one request is missing: it
// leases what the upstream needs, takes this actor's session with it, and looks
// whether the tool that would run is the approved one. The caller ends the
// passage whether or not there is an error.
func (g *Gateway) reach(outer context.Context, f *flight, u *Upstream) (*passage, error) {
	ctx, cancel := context.WithTimeout(outer, g.opts.CallTimeout)
	stop := context.AfterFunc(g.pool.life, cancel)
	c := &carriage{told: make(chan struct{})}
	p := &passage{outer: outer, ctx: ctx, c: c, ends: []func(){cancel, func() { stop() }}}
	f.asks = ""
	var started *credential.Lease // what a child must have been started with
	var ask credential.LeaseRequest
	if u.Credential != "" {
		lease, err := g.lease(ctx, f, u)
		var missing *credential.GrantError
		if errors.As(err, &missing) {
			if p.ask, err = g.consent(ctx, f, u); err == nil && p.ask == nil {
				lease, err = g.lease(ctx, f, u) // they have consented
			}
			if p.ask != nil {
				return p, nil
			}
		}
		if errors.As(err, &missing) {
			err = failed(codeConsent, fmt.Sprintf("The account that the server %q needs was not opened to you.", u.Name), true)
		}
		if err != nil {
			return p, err
		}
		p.ends = append(p.ends, lease.Release)
		c.lease = lease
		f.out.CredentialVersion = lease.Ref().Version
		if u.child {
			started, ask = lease, leaseRequest(f, u)
		}
	}
	key := poolKey{server: u.Name, owner: owner(f.actor)}
	caps := g.clientCaps(f.q, f, u)
	if u.modern.Load() {
		caps = nil // each request says so
	}
	if caps != nil {
		lane, leave, ok := g.lanes.take(key)
		if !ok {
			return p, failed("upstream-busy", fmt.Sprintf("Too many calls of the server %q wait for answers already.", u.Name), true)
		}
		p.ends = append(p.ends, leave)
		says, _ := json.Marshal(declared(caps))
		key, key.caps = lane, string(says)
	}
	use := func(started *credential.Lease) (*session, func(), error) {
		return g.pool.use(ctx, key, started, opener{
			agent: g.lifeOf(f),
			open: func(ctx context.Context) (*session, error) {
				own := c
				if u.child { // may go on after this call, see pool.replacement
					own = &carriage{lease: started, told: make(chan struct{})}
				}
				return g.connect(carried{ctx, own}, u, f.actor, caps, false)
			},
			list:  func(s *session) error { return listLive(carried{ctx, c}, s) },
			lease: func(ctx context.Context) (*credential.Lease, error) { return g.opts.Vault.Lease(ctx, ask) },
			spare: func(why error) {
				g.gov.logger.Error("mcpx: the server does not start with the new version of its secret, so the process with the old one goes on",
					"server", u.Name, "credential", u.Credential, "error", g.redactText(c, why.Error()))
			},
		})
	}
	s, done, err := use(started)
	for range maxOvertaken {
		if err == nil || started == nil || !started.Revoked() || ctx.Err() != nil {
			break
		}
		// Two rotations went by before the child had its secret.
		var failure error
		if started, failure = g.lease(ctx, f, u); failure != nil {
			return p, failure
		}
		p.ends = append(p.ends, started.Release)
		s, done, err = use(started)
	}
	if err != nil {
		return p, g.explain(outer, ctx, u, f, c, nil, err)
	}
	p.s, p.ends = s, append(p.ends, done, s.wire.quiet)
	switch {
	case key.lane > 0 && s.wire.agreed() >= modernVersion:
		g.pool.share(key, poolKey{server: u.Name, owner: owner(f.actor)})
	case key.lane > 0:
		stop := g.answering(ctx, f.q, f, u, s.wire)
		if u.endpoint != nil && s.cs.ID() != "" {
			p.ends = append(p.ends, g.overhear(p, f, u))
		}
		p.ends = append(p.ends, stop) // first of all, or the others would wait for answers
	}
	if u.child { // it may have the version before
		c.lease = s.wire.lease
		f.out.CredentialVersion = c.lease.Ref().Version
	}
	c.begin()
	guard := ""
	switch f.kind {
	case kindTool:
		guard = g.pool.check(g.gov.engine, s, u.Name, f.tool)
	case kindPrompt:
		guard = g.checkPrompt(carried{ctx, c}, s, u.Name, f.tool)
	}
	if guard != "" {
		g.gov.logger.Warn("mcpx: what the server has now is not what was approved", "server", u.Name, "name", f.tool)
		return p, failed(guard, "This has changed since it was approved.", false)
	}
	return p, nil
}

func (g *Gateway) lease(ctx context.Context, f *flight, u *Upstream) (*credential.Lease, error) {
	if f.credential == nil || f.credential.Name != u.Credential {
		return nil, failed(audit.GuardCredential, "The use of this tool's credential was not decided.", false)
	}
	// A lease ends with its context. This one ends with its release, which is
	// after a cancelled call: the upstream has to be told.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	lease, err := g.opts.Vault.Lease(life, leaseRequest(f, u))
	stop()
	var missing *credential.GrantError
	if errors.As(err, &missing) {
		end()
		return nil, err
	}
	if err != nil || lease == nil {
		end()
		if u.child && refusedLease(err) {
			g.pool.dropAll(poolKey{server: u.Name, owner: owner(f.actor)})
		}
		g.gov.logger.Error("mcpx: no lease", "credential", u.Credential, "server", u.Name, "error", err)
		return nil, failed(audit.GuardCredential, fmt.Sprintf("The credential for the server %q cannot be had. An operator has to look.", u.Name), false)
	}
	return lease, nil
}

func leaseRequest(f *flight, u *Upstream) credential.LeaseRequest {
	return credential.LeaseRequest{
		Actor: f.actor, Credential: u.Credential, Origin: u.origin,
		Tool: f.server + "__" + f.tool, Purpose: "tool", Decision: f.credential.Decision.ID,
	}
}

// explain turns what went wrong into one failure that tells the agent what to
// do and nothing that the other side said, or into the upstream's own error,
// scrubbed.
func (g *Gateway) explain(outer, ctx context.Context, u *Upstream, f *flight, c *carriage, s *session, err error) error {
	c.mu.Lock()
	reply, broken, status := c.reply, c.broken, c.status
	c.mu.Unlock()
	if outer.Err() != nil {
		return outer.Err() // the agent left, or was revoked
	}
	if own := (*jsonrpc.Error)(nil); s != nil && !s.wire.dead.Load() && broken == nil && status == 0 && errors.As(err, &own) && !sdkError(own) {
		reply = own // to what is no forwarded request, such as a subscription
	}
	if reply != nil && s != nil && ctx.Err() == nil { // not an answer to our own cancelling
		return g.cleanError(ctx, f, c, reply)
	}
	if s != nil && ctx.Err() == nil {
		s.wire.dead.Store(true) // the next call opens a new session
	}
	g.gov.logger.Warn("mcpx: call failed", "server", u.Name, "tool", f.tool, "status", status, "error", g.redactText(c, err.Error()))
	say := func(code, format string, retryable bool) error {
		return failed(code, fmt.Sprintf(format, u.Name), retryable)
	}
	switch {
	case errors.Is(err, ErrClosed):
		return say("closing", "The gateway in front of %q is closing.", true)
	case g.pool.life.Err() != nil: // ctx may not have heard of it yet, and the session has
		return say("closing", "The gateway in front of %q is closing. The call may have been done.", false)
	case ctx.Err() != nil:
		return say(codeTimeout, "The server %q did not answer in time. The call may have been done.", false)
	case errors.Is(broken, errTooLarge):
		return say("upstream-too-large", "The server %q answered more than can be passed on.", false)
	case errors.Is(broken, errRedirect):
		return say("upstream-redirect", "The server %q points elsewhere, and redirects are not followed.", false)
	case errors.Is(broken, credential.ErrOrigin):
		return say(audit.GuardCredential, "The credential for %q is bound to another place.", false)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return say("upstream-unauthorized", "The server %q does not accept this gateway's credential. An operator has to renew it.", false)
	case broken != nil && s == nil:
		return say("upstream-down", "The server %q cannot be reached now.", true)
	case broken != nil:
		return say("upstream-broken", "The connection to %q failed. The call may have been done.", false)
	case status != 0:
		var own *jsonrpc.Error
		if s != nil && errors.As(err, &own) && !sdkError(own) {
			return g.cleanError(ctx, f, c, own)
		}
		return say("upstream-error", "The server %q answered with an error.", status >= 500)
	case s == nil:
		return say("upstream-down", "The server %q cannot be reached now.", true)
	}
	return say("upstream-broken", "The connection to %q ended. The call may have been done.", false)
}

// sdkError reports whether an error is the SDK's own and not an upstream's.
func sdkError(e *jsonrpc.Error) bool { return e.Code <= -32001 && e.Code >= -32005 }
