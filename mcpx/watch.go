package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
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
	place   *place
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
	mu     sync.Mutex
	by     map[watchKey]*watch
	quota  quota
	ends   map[*mcp.ServerSession]bool // sessions of clients whose end is waited for
	closed bool
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
	if g.watches.closed {
		g.watches.mu.Unlock()
		return closing(u)
	}
	opens := w == nil
	if opens {
		if !g.watches.quota.room(key.owner) {
			g.watches.mu.Unlock()
			return failed(audit.GuardLimit, "Too many resources are subscribed to.", false)
		}
		w = &watch{actor: f.actor, ready: make(chan struct{}), clients: make(map[*mcp.ServerSession]*watcher), place: newPlace(g.pool.life)}
		if g.watches.by == nil {
			g.watches.by = make(map[watchKey]*watch)
		}
		g.watches.by[key] = w
		g.watches.quota.add(key.owner)
	}
	client := w.clients[ss]
	added := client == nil || id != nil // else it subscribes to what it is subscribed to
	if client == nil {
		client = &watcher{live: id == nil}
		w.clients[ss] = client
	}
	if added {
		client.ids = append(client.ids, id)
	}
	g.watches.mu.Unlock()
	if opens {
		g.beginWatch(ctx, key, w, f, u)
	}
	var err error
	select {
	case <-w.ready:
		err = w.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && added {
		g.unwatch(key, ss, id)
	}
	if errors.Is(err, context.Canceled) && !opens && ctx.Err() == nil {
		return g.watch(ctx, key, f, u, ss, id) // whoever opened it has left meanwhile
	}
	return err
}

// beginWatch opens a watch that is new. However that ends, the watch is ready then.
func (g *Gateway) beginWatch(ctx context.Context, key watchKey, w *watch, f *flight, u *Upstream) {
	defer close(w.ready)
	defer g.gov.noPanic("a resource is subscribed to", &w.err)
	var h *subscription
	if h, w.err = g.openWatch(ctx, key, f, u); w.err != nil {
		return
	}
	w.place.take(h)
	w.keeper.Add(1)
	if !g.pool.background(func() { defer w.keeper.Done(); g.keepWatch(key, w, f, u) }) {
		w.keeper.Done()
		w.place.leave()
		w.err = closing(u)
	}
}

// closing is why nothing begins at a server any more.
func closing(u *Upstream) error {
	return failed("closing", fmt.Sprintf("The gateway in front of %q is closing.", u.Name), true)
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

// close ends all subscriptions, and takes no more.
func (w *watches) close() {
	w.mu.Lock()
	all := w.by
	w.by, w.closed = nil, true
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
	g.refresh()
	if owner, _ := g.route(kindResource, uri); owner != server {
		return false
	}
	vis, err := g.gov.engine.Visible(context.Background(), a, "subscribe", []governance.ToolRef{{Server: server, Name: uri}})
	return err == nil && len(vis) == 1 && vis[0] != governance.Never
}
