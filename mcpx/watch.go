package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// A client that subscribes to a resource is told when the resource changes, for
// as long as it asks for that and policy allows it. The gateway subscribes at the
// upstream once for each actor, and tells nobody else.

// A watchKey is a resource of one actor's.
type watchKey struct{ server, owner, uri string }

// A watch is a subscription at an upstream.
type watch struct {
	actor   audit.Actor
	ready   chan struct{} // closed once it is open, or err is why it is not
	err     error
	clients map[*mcp.ServerSession]*watcher // under the watches' lock
	place   place
	keeper  sync.WaitGroup // what subscribes again
	gone    chan struct{}  // closed once nothing of it is at the upstream any more; nil until nobody wants it
}

// A watcher is a client that is told of changes.
type watcher struct {
	ids  []json.RawMessage // of its listen requests; one nil in versions with sessions
	live bool              // it knows that it will be told
}

const notifyListening = "notifications/subscriptions/acknowledged"

// watches are all subscriptions of a gateway.
type watches struct {
	mu    sync.Mutex
	by    map[watchKey]*watch
	quota quota
	ends  map[*mcp.ServerSession]bool // sessions of clients whose end is waited for
}

// silent is a query of the same actor whose client can be asked for nothing: the
// upstream is used for more than this one request.
func (q *query) silent(ctx context.Context) *query {
	return &query{method: q.method, outer: ctx, actor: q.actor, modern: q.modern, trace: q.trace}
}

// subscribe does an allowed resources/subscribe or resources/unsubscribe, which
// versions with sessions have.
func (g *Gateway) subscribe(ctx context.Context, q *query, f *flight, u *Upstream) (reply, error) {
	ss, _ := q.req.GetSession().(*mcp.ServerSession)
	if ss == nil {
		return nil, failed(audit.GuardMethod, "There is no session to subscribe for.", false)
	}
	key := watchKey{u.Name, owner(f.actor), f.tool}
	if q.method == methodUnsubscribe {
		g.unwatch(key, ss, nil)
		return &rawReply{method: q.method}, nil
	}
	f.q = q.silent(ctx)
	if err := g.watch(ctx, key, f, u, ss, nil); err != nil {
		return nil, err
	}
	g.unwatchAtEnd(ss)
	return &rawReply{method: q.method}, nil
}

// unwatchAtEnd takes back all subscriptions of a client once its session has ended.
// One goroutine does so, however often the client subscribes.
func (g *Gateway) unwatchAtEnd(ss *mcp.ServerSession) {
	g.watches.mu.Lock()
	waited := g.watches.ends[ss]
	if g.watches.ends == nil {
		g.watches.ends = make(map[*mcp.ServerSession]bool)
	}
	g.watches.ends[ss] = true
	g.watches.mu.Unlock()
	if waited {
		return
	}
	g.pool.background(func() {
		_ = ss.Wait()
		var keys []watchKey
		g.watches.mu.Lock()
		delete(g.watches.ends, ss) // what is subscribed later waits anew
		for key, w := range g.watches.by {
			if w.clients[ss] != nil {
				keys = append(keys, key)
			}
		}
		g.watches.mu.Unlock()
		for _, key := range keys {
			g.unwatch(key, ss, nil)
		}
	})
}

// listening subscribes to resources for a listen request, which later versions
// have, until the returned function is called.
func (g *Gateway) listening(ctx context.Context, q *query, flights []*flight) (func(), error) {
	ss, _ := q.req.GetSession().(*mcp.ServerSession)
	if ss == nil || q.visit == nil {
		return nil, failed(audit.GuardMethod, "There is no stream to listen on.", false)
	}
	var keys []watchKey
	stop := func() {
		for _, key := range keys {
			g.unwatch(key, ss, q.visit.id)
		}
	}
	for _, f := range flights {
		u := g.upstream(f.server)
		if u == nil {
			stop()
			return nil, failed(audit.GuardUnknown, "The server is not behind this gateway.", false)
		}
		key := watchKey{u.Name, owner(f.actor), f.tool}
		if err := g.watch(ctx, key, f, u, ss, q.visit.id); err != nil {
			stop()
			return nil, err
		}
		keys = append(keys, key)
	}
	return stop, nil
}

// watch has a client told of changes of a resource.
func (g *Gateway) watch(ctx context.Context, key watchKey, f *flight, u *Upstream, ss *mcp.ServerSession, id json.RawMessage) error {
	g.watches.mu.Lock()
	w := g.watches.by[key]
	// What takes back the one before must not come after what begins this one.
	for w != nil && w.gone != nil {
		g.watches.mu.Unlock()
		select {
		case <-w.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.watches.mu.Lock()
		w = g.watches.by[key]
	}
	opens := w == nil
	if opens {
		if !g.watches.quota.room(key.owner) {
			g.watches.mu.Unlock()
			return failed(audit.GuardLimit, "Too many resources are subscribed to.", false)
		}
		w = &watch{actor: f.actor, ready: make(chan struct{}), clients: make(map[*mcp.ServerSession]*watcher), place: place{over: make(chan struct{})}}
		if g.watches.by == nil {
			g.watches.by = make(map[watchKey]*watch)
		}
		g.watches.by[key] = w
		g.watches.quota.add(key.owner)
	}
	client := w.clients[ss]
	first := client == nil
	if first {
		client = &watcher{live: id == nil}
		w.clients[ss] = client
	}
	if first || id != nil {
		client.ids = append(client.ids, id)
	}
	g.watches.mu.Unlock()
	if opens {
		g.beginWatch(ctx, key, w, f, u)
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		g.unwatch(key, ss, id)
		return ctx.Err()
	}
	if w.err != nil {
		g.unwatch(key, ss, id)
		return w.err
	}
	return nil
}

// beginWatch opens a watch that is new. However that ends, the watch is ready then.
func (g *Gateway) beginWatch(ctx context.Context, key watchKey, w *watch, f *flight, u *Upstream) {
	defer close(w.ready)
	defer g.noPanic("a resource is subscribed to", &w.err)
	var h *subscription
	if h, w.err = g.openWatch(ctx, key, f, u); w.err == nil {
		w.place.take(h)
		w.keeper.Add(1)
		if !g.pool.background(func() { defer w.keeper.Done(); g.keepWatch(key, w, f, u) }) {
			w.keeper.Done()
		}
	}
}

// listens says that a client was told that its listen request is heard.
func (g *Gateway) listens(ss *mcp.ServerSession) {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	for _, w := range g.watches.by {
		if c := w.clients[ss]; c != nil {
			c.live = true
		}
	}
}

// close ends all subscriptions.
func (w *watches) close() {
	w.mu.Lock()
	all := w.by
	w.by = nil
	w.mu.Unlock()
	for _, one := range all {
		<-one.ready
		one.place.leave()
	}
}

// unwatch tells a client no more, or not for one listen request. The last one
// ends the subscription.
func (g *Gateway) unwatch(key watchKey, ss *mcp.ServerSession, id json.RawMessage) {
	g.watches.mu.Lock()
	w := g.watches.by[key]
	if w == nil || w.clients[ss] == nil {
		g.watches.mu.Unlock()
		return
	}
	c := w.clients[ss]
	c.ids = slices.DeleteFunc(c.ids, func(other json.RawMessage) bool { return string(other) == string(id) })
	if len(c.ids) == 0 {
		delete(w.clients, ss)
	}
	last := len(w.clients) == 0
	if last {
		w.gone = make(chan struct{})
	}
	g.watches.mu.Unlock()
	end := func() {
		<-w.ready
		w.place.leave()
		w.keeper.Wait()
		g.watches.mu.Lock()
		if g.watches.by[key] == w {
			delete(g.watches.by, key)
		}
		g.watches.quota.drop(key.owner)
		g.watches.mu.Unlock()
		close(w.gone)
	}
	if last && !g.pool.background(end) {
		end()
	}
}

// openWatch subscribes at the upstream. Over HTTP that has a session of its own,
// whose requests go on after this one and so have a lease of their own.
func (g *Gateway) openWatch(ctx context.Context, key watchKey, f *flight, u *Upstream) (h *subscription, err error) {
	if u.endpoint == nil {
		p, err := g.reach(ctx, f, u)
		if err != nil {
			p.end()
			return nil, err
		}
		if err := p.s.cs.Subscribe(carried{p.ctx, p.c}, &mcp.SubscribeParams{URI: key.uri}); err != nil {
			p.end()
			return nil, g.explain(p.outer, p.ctx, u, f, p.c, p.s, err)
		}
		// The call's end gives back the session and the lease; a child keeps its
		// secret anyway.
		p.end()
		return newSubscription(p.s.wire.over, func() {
			ctx, cancel := context.WithTimeout(context.Background(), cancelWait)
			defer cancel()
			_ = p.s.cs.Unsubscribe(ctx, &mcp.UnsubscribeParams{URI: key.uri})
		}), nil
	}
	c := &carriage{told: make(chan struct{})}
	var lease *credential.Lease
	if u.Credential != "" {
		if lease, err = g.lease(ctx, f, u); err != nil {
			var missing *credential.GrantError
			if errors.As(err, &missing) {
				err = failed(codeConsent, "The account that the server needs was not opened to you.", true)
			}
			return nil, err
		}
		c.lease = lease
		f.out.CredentialVersion = lease.Ref().Version
	}
	ctx, cancel := context.WithTimeout(ctx, g.opts.CallTimeout)
	defer cancel()
	s, err := g.connect(carried{ctx, c}, u, f.actor, nil, true)
	if err == nil {
		err = s.cs.Subscribe(carried{ctx, c}, &mcp.SubscribeParams{URI: key.uri})
	}
	stream, hangUp := context.WithCancel(carried{g.pool.life, c})
	lost := make(chan struct{})
	h = newSubscription(lost, func() {
		hangUp()
		if s != nil {
			_ = s.cs.Close()
		}
		if lease != nil {
			lease.Release()
		}
	})
	if err != nil {
		err = g.explain(ctx, ctx, u, f, c, s, err)
		h.end()
		return nil, err
	}
	if s.wire.agreed() < modernVersion {
		g.pool.background(func() {
			if g.hearAll(stream, s, u, key.owner) {
				close(lost)
			}
		})
	}
	return h, nil
}

// hearAll reads what an upstream with sessions says on the stream that belongs to
// no request, until ctx ends. A server need not have one, and then says nothing. It
// reports whether the server does not know the session any more.
func (g *Gateway) hearAll(ctx context.Context, s *session, u *Upstream, owner string) (lost bool) {
	wait := g.pool.times.rewatch
	for {
		status := g.hearOnce(ctx, s, u, owner)
		switch {
		case status == http.StatusNotFound:
			return true
		case status == http.StatusOK:
			wait = g.pool.times.rewatch
		case status == http.StatusConflict || status == http.StatusTooManyRequests: // the same as below
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
// if there was none.
func (g *Gateway) hearOnce(ctx context.Context, s *session, u *Upstream, owner string) (status int) {
	var err error
	defer g.noPanic("a stream is heard", &err)
	r := &http.Request{
		Method: http.MethodGet, URL: u.endpoint, Host: u.endpoint.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Accept": {"text/event-stream"}, headerVersion: {s.wire.agreed()}, sessionHeader: {s.cs.ID()}},
	}
	resp, err := s.wire.direct.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode
	}
	for in := newEvents(resp.Body); ; {
		data, err := in.next()
		if err != nil {
			return resp.StatusCode
		}
		msg, err := jsonrpc.DecodeMessage(data)
		if m, ok := msg.(*jsonrpc.Request); err == nil && ok && m.Method == notifyUpdated {
			g.updated(u.Name, owner, m.Params)
		}
	}
}

// updated passes on that a resource of one actor's has changed, to those of its
// clients that want to know and still may.
func (g *Gateway) updated(server, owner string, params json.RawMessage) {
	var uri string
	body, ok := []byte("{"), false
	ok = eachMember(params, func(name string, v []byte) bool {
		if name == "uri" && json.Unmarshal(v, &uri) != nil {
			return false
		}
		if name != "_meta" {
			body = appendMember(body, name, v)
		}
		return true
	})
	clean, found := g.redact(new(carriage), body)
	if !ok || len(found) > 0 {
		return
	}
	type client struct {
		ss *mcp.ServerSession
		id json.RawMessage
	}
	var all []client
	var actor audit.Actor
	g.watches.mu.Lock()
	if w := g.watches.by[watchKey{server, owner, uri}]; w != nil {
		actor = w.actor
		for ss, c := range w.clients {
			for _, id := range c.ids {
				if c.live {
					all = append(all, client{ss, id})
				}
			}
		}
	}
	g.watches.mu.Unlock()
	if len(all) == 0 || !g.mayHear(actor, server, uri) {
		return
	}
	for _, c := range all {
		params := slices.Clone(clean)
		if c.id != nil {
			params = appendMember(params, "_meta", append(appendMember([]byte("{"), mcp.MetaKeySubscriptionID, c.id), '}'))
		}
		// Without the context of a request it goes on the session's own stream, or
		// on that of the listen request.
		_, err := g.send(context.Background(), notifyUpdated, &mcp.ServerRequest[*rawParams]{Session: c.ss, Params: &rawParams{raw: append(params, '}')}})
		if err != nil {
			g.gov.logger.Debug("mcpx: a change did not reach the client", "server", server, "error", err)
		}
	}
}

// mayHear reports whether the actor could subscribe to a resource by the policies
// that are in force now.
func (g *Gateway) mayHear(a audit.Actor, server, uri string) bool {
	if owner, _ := g.route(kindResource, uri); owner != server {
		return false
	}
	vis, err := g.gov.engine.Visible(context.Background(), a, "subscribe", []governance.ToolRef{{Server: server, Name: uri}})
	return err == nil && len(vis) == 1 && vis[0] != governance.Never
}

// mayRead reports whether the actor could see anything that a server claims.
func (g *Gateway) mayRead(ctx context.Context, a audit.Actor, s governance.Server) bool {
	var refs []governance.ToolRef
	for _, r := range s.Resources {
		refs = append(refs, governance.ToolRef{Server: s.Name, Name: r.URI})
	}
	for _, r := range s.ResourceTemplates {
		refs = append(refs, governance.ToolRef{Server: s.Name, Name: r.URITemplate})
	}
	vis, err := g.gov.engine.Visible(ctx, a, "read_resource", refs)
	return err == nil && slices.ContainsFunc(vis, func(v governance.Visibility) bool { return v != governance.Never })
}
