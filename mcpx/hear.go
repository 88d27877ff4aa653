package mcpx

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// How a server is subscribed at, and heard. Over stdio that is in the actor's session
// with it. Over HTTP it has a session of its own, whose requests go on after this one
// and so have a lease of their own.

// openWatch subscribes at the upstream.
func (g *Gateway) openWatch(ctx context.Context, key watchKey, f *flight, u *Upstream) (*subscription, error) {
	if u.endpoint == nil {
		return g.watchInSession(ctx, key, f, u)
	}
	return g.watchAlone(ctx, key, f, u)
}

// watchInSession subscribes in the actor's session, which ends with the actor's agent.
func (g *Gateway) watchInSession(ctx context.Context, key watchKey, f *flight, u *Upstream) (*subscription, error) {
	p, err := g.reach(ctx, f, u)
	// The call's end gives back the session and the lease; a child keeps its secret
	// anyway.
	defer p.end()
	if err != nil {
		return nil, err
	}
	lost, leave, err := p.s.subscribe(carried{p.ctx, p.c}, key.uri, g.pool.times.leave)
	if err != nil {
		return nil, g.explain(p.outer, p.ctx, u, f, p.c, p.s, err)
	}
	return newSubscription(lost, leave), nil
}

// watchAlone subscribes in a session that is for this alone, and ends with the
// actor's agent.
func (g *Gateway) watchAlone(outer context.Context, key watchKey, f *flight, u *Upstream) (h *subscription, err error) {
	var ends []func() // what gives back all that is held, the last first
	end := func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	defer func() {
		if h == nil { // also if something of the host's panics
			end()
		}
	}()
	life, forgo, err := g.lifeOf(f).within(g.pool.life)
	if err != nil {
		return nil, failed(audit.GuardRevoked, "This agent may not act any more.", false)
	}
	ends = append(ends, forgo)
	c := &carriage{told: make(chan struct{})}
	if u.Credential != "" {
		lease, err := g.lease(outer, f, u)
		if err != nil {
			var missing *credential.GrantError
			if errors.As(err, &missing) {
				err = failed(codeConsent, "The account that the server needs was not opened to you.", true)
			}
			return nil, err
		}
		ends = append(ends, lease.Release)
		c.lease = lease
		f.out.CredentialVersion = lease.Ref().Version
	}
	ctx, cancel := context.WithTimeout(outer, g.opts.CallTimeout)
	defer cancel()
	s, err := g.connect(carried{ctx, c}, u, f.actor, nil, true)
	if err != nil {
		return nil, g.explain(outer, ctx, u, f, c, nil, err)
	}
	ends = append(ends, func() { _ = s.cs.Close() })
	c.begin()
	over, _, err := s.subscribe(carried{ctx, c}, key.uri, g.pool.times.leave)
	if err != nil {
		return nil, g.explain(outer, ctx, u, f, c, s, err)
	}
	lost, lose := context.WithCancel(life)
	ends = append(ends, lose)
	hear := func() {
		select {
		case <-over:
			lose()
		case <-lost.Done():
		}
	}
	if s.wire.agreed() < modernVersion {
		hear = func() {
			if g.hearAll(carried{lost, c}, s, u, key.owner) {
				lose()
			}
		}
	}
	if !g.pool.background(hear) {
		return nil, closing(u)
	}
	return newSubscription(lost.Done(), end), nil
}

// subscribe asks a server for the changes of a resource. Lost is closed once it tells
// no more of them, and leave takes the subscription back, which may take as long as
// patience.
func (s *session) subscribe(ctx carried, uri string, patience time.Duration) (lost <-chan struct{}, leave func(), err error) {
	unsubscribe := func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = s.cs.Unsubscribe(ctx, &mcp.UnsubscribeParams{URI: uri})
	}
	p := &mcp.SubscribeParams{URI: uri}
	if s.wire.agreed() < modernVersion {
		return s.wire.over, unsubscribe, s.cs.Subscribe(ctx, p)
	}
	l := s.wire.listens.expect(uri)
	stopListening := func() {
		unsubscribe() // cancels the request, for which the SDK has a context of its own
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select { // or what ends it could come after what asks for the same again
		case <-l.over:
		case <-timer.C:
		}
		s.wire.listens.forget(l)
	}
	stop := context.AfterFunc(ctx, unsubscribe)
	defer stop()
	if err = s.cs.Subscribe(ctx, p); err == nil {
		select {
		case <-l.heard:
			return l.over, stopListening, nil
		case <-l.over:
			err = l.why
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stopListening()
	return nil, nil, err
}

// hearAll reads what an upstream with sessions says on the stream that belongs to
// no request, until ctx ends. A server need not have one, and then says nothing. It
// reports whether it takes another session to hear more: the server does not know
// this one any more, or accepts no longer the credential that it was opened with.
func (g *Gateway) hearAll(ctx carried, s *session, u *Upstream, owner string) (lost bool) {
	wait, heard := g.pool.times.rewatch, false
	for {
		status, err := g.hearOnce(ctx, s, u, owner)
		switch {
		case status == http.StatusNotFound, errors.Is(err, credential.ErrExpired), errors.Is(err, credential.ErrRevoked):
			return true
		case status == http.StatusOK:
			wait, heard = g.pool.times.rewatch, true
		case status == http.StatusConflict || status == http.StatusTooManyRequests: // the same as below
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			return heard // else it has none for us, although it took the subscription
		case status >= 400 && status < 500:
			return false
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
		wait = min(2*wait, maxRewatch)
	}
}

// hearOnce reads one such stream to its end, and returns the status that it had, or 0
// and why there was none.
func (g *Gateway) hearOnce(ctx carried, s *session, u *Upstream, owner string) (status int, err error) {
	defer g.gov.noPanic("a stream is heard", &err)
	r := &http.Request{
		Method: http.MethodGet, URL: u.endpoint, Host: u.endpoint.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Accept": {"text/event-stream"}, headerVersion: {s.wire.agreed()}},
	}
	if id := s.cs.ID(); id != "" {
		r.Header[sessionHeader] = []string{id}
	}
	resp, err := s.wire.direct.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil
	}
	for in := newEvents(resp.Body); ; {
		data, err := in.next()
		if err != nil {
			return resp.StatusCode, nil
		}
		msg, err := jsonrpc.DecodeMessage(data)
		if m, ok := msg.(*jsonrpc.Request); err == nil && ok && m.Method == notifyUpdated {
			g.updated(u.Name, owner, m.Params)
		}
	}
}
