//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

const (
	// maxLinks bounds the sessions with upstreams; for an upstream over stdio
	// each is a process.
	maxLinks = 256
	// listedFor is how long a session's view of the upstream's tools counts.
	listedFor = time.Minute
	// maxLiveTools bounds the tools that are looked at per upstream.
	maxLiveTools = 10_000
)

// A poolKey names one actor's session with one upstream. Sessions are never
// shared between actors: what an upstream or the SDK keeps per session, one
// actor must not see of another.
type poolKey struct {
	server, owner string
	lane          int    // not 0 for a session in which the server may ask, for one call at a time
	caps          string // what the client of that call can be asked
}

// A pool holds the sessions with upstreams.
type pool struct {
	pins   pinboard
	drifts drifts

	mu     sync.Mutex
	links  map[poolKey]*link
	uses   uint64 // counts uses, to find the oldest
	closed bool
	ending sync.WaitGroup // sessions that are being closed, and what runs for children

	life  context.Context // until close, or the end of calls before it
	end   context.CancelFunc
	times childTimes
}

// A link is the place of one session, which may be opened anew.
type link struct {
	gate  chan struct{} // holds a token while nobody is connecting
	users int           // under pool.mu
	used  uint64        // under pool.mu: order of use
	now   *session      // under pool.mu
	stuck time.Time     // when now could not be replaced; under pool.mu

	gone  bool   // the actor's agent has ended; under pool.mu
	forgo func() // ends the watch for that, if anybody can end it; under pool.mu
}

// A session is a live MCP session with an upstream.
type session struct {
	cs     *mcp.ClientSession
	wire   *wire
	tools  map[string]*mcp.Tool // what the upstream has now, by its own names
	listed time.Time

	prompts struct { // the same, once somebody asked for one
		sync.Mutex
		now map[string]*mcp.Prompt
	}
}

// fresh reports whether the session's view of the tools counts.
func (s *session) fresh() bool {
	return s != nil && !s.wire.dead.Load() && !s.wire.changed.Load() && time.Since(s.listed) < listedFor
}

func newPool() *pool {
	p := &pool{links: make(map[poolKey]*link), times: usualTimes}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// An opener is how a session is had, for the call that needs it.
type opener struct {
	agent agentLife
	open  func(context.Context) (*session, error)
	list  func(*session) error                             // anew, in a session that is open
	lease func(context.Context) (*credential.Lease, error) // what a child would be started with now
	spare func(why error)                                  // is told that a child with an old version has to do
}

// use returns the session of key, opened or listed anew if need be, and a
// function to call after use. With a lease, the session is that of a child
// process which was started with that secret; one with another is replaced, see
// [pool.replacement]. It waits for nobody but the connect of the same actor's
// other calls.
func (p *pool) use(ctx context.Context, key poolKey, lease *credential.Lease, o opener) (*session, func(), error) {
	l, err := p.place(key, o.agent)
	if err != nil {
		return nil, nil, err
	}
	done := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		l.users--
		p.uses++
		l.used = p.uses
	}
	// enterLocked counts the users of a session besides those of its place.
	enterLocked := func(s *session) (*session, func(), error) {
		s.wire.users++
		return s, func() {
			done()
			p.mu.Lock()
			defer p.mu.Unlock()
			if s.wire.users--; s.wire.users == 0 && s.wire.retired && !p.closed {
				p.endLocked(s)
			}
		}, nil
	}
	select {
	case <-l.gate:
	default:
		p.mu.Lock()
		if s := l.now; s.fresh() && s.behind(lease) && !s.wire.lease.Revoked() {
			defer p.mu.Unlock()
			return enterLocked(s) // while another call opens the next one
		}
		p.mu.Unlock()
		select {
		case <-l.gate:
		case <-ctx.Done():
			done()
			return nil, nil, ctx.Err()
		}
	}
	defer func() { l.gate <- struct{}{} }()
	s, err := p.current(ctx, l, lease, o)
	if err != nil {
		done()
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return enterLocked(s)
}

// current returns the session that is to be used, and makes it l's. The caller
// holds l's gate.
func (p *pool) current(ctx context.Context, l *link, lease *credential.Lease, o opener) (*session, error) {
	p.mu.Lock()
	s := l.now
	p.mu.Unlock()
	if s != nil && s.behind(lease) {
		next, err := p.replacement(ctx, l, s, o)
		if err != nil {
			return nil, err
		}
		if next != s {
			if !p.replace(l, next) {
				return nil, ErrClosed
			}
			p.watch(l, next, o.lease)
			return next, nil
		}
	}
	if s.fresh() {
		return s, nil
	}
	if s != nil && !s.wire.dead.Load() {
		next := &session{cs: s.cs, wire: s.wire} // readers of s keep their view
		if err := o.list(next); err != nil {
			s.wire.dead.Store(true)
			p.replace(l, nil)
			return nil, err
		}
		s = next
	} else {
		p.replace(l, nil)
		var err error
		if s, err = o.safely(ctx); err != nil {
			return nil, err
		}
		defer p.watch(l, s, o.lease)
	}
	if !p.replace(l, s) {
		return nil, ErrClosed
	}
	return s, nil
}

// replace puts s into l and closes what was there, unless it is the same
// connection. It reports false, and closes s, when the pool is closed or the actor's
// agent has ended.
func (p *pool) replace(l *link, s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := l.now
	switch {
	case old == nil || s != nil && old.cs == s.cs:
	case s != nil && !old.wire.dead.Load() && old.wire.users > 0:
		old.wire.retired = true // the calls under way go on
	default:
		p.endLocked(old)
	}
	l.now = s
	if (p.closed || l.gone) && s != nil {
		p.endLocked(s)
		l.now = nil
		return false
	}
	return true
}

// share makes the session of a lane, whose server turned out to be of the newer
// era, the one of all calls: there each request says for itself what its client can
// be asked. Nothing happens if there is one already.
func (p *pool) share(lane, key poolKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[lane]; l != nil && p.links[key] == nil {
		p.links[key] = l
		delete(p.links, lane)
	}
}

// endLocked closes a session without waiting for it.
func (p *pool) endLocked(s *session) {
	p.ending.Add(1)
	go func() {
		defer p.ending.Done()
		s.cs.Close()
	}()
}

// evictLocked makes room for one more link: the oldest that is not in use goes, of
// the owner who has the most of those that have some.
func (p *pool) evictLocked() {
	if len(p.links) < maxLinks {
		return
	}
	many := make(map[string]int)
	for key := range p.links {
		many[key.owner]++
	}
	var first poolKey
	var found *link
	for key, l := range p.links {
		if l.users > 0 {
			continue
		}
		n, most := many[key.owner], many[first.owner]
		if found == nil || n > most || n == most && l.used < found.used {
			first, found = key, l
		}
	}
	if found == nil {
		return // all are in use: each is bounded by its call
	}
	p.removeLocked(first, found)
}

// drift returns the guard that refuses a tool because the session with key has
// shown it to differ from what was approved, or "".
func (p *pool) drift(engine *governance.Engine, key poolKey, tool string) string {
	p.mu.Lock()
	var s *session
	if l := p.links[key]; l != nil {
		s = l.now
	}
	p.mu.Unlock()
	if !s.fresh() {
		return "" // the call will look again
	}
	return p.check(engine, s, key.server, tool)
}

// check compares a session's view of a tool with the approved definition.
func (p *pool) check(engine *governance.Engine, s *session, server, tool string) string {
	approved, pin, ok := engine.Tool(server, tool)
	if !ok {
		return audit.GuardUnknown
	}
	live := s.tools[tool]
	if live == nil || !p.pins.same(live, approved, pin) {
		p.drifts.note(server, tool, approved, pin, live)
		return audit.GuardPinDrift
	}
	p.drifts.drop(server, tool)
	return ""
}

// checkPrompt compares what the session has for a prompt with what was approved.
func (g *Gateway) checkPrompt(ctx context.Context, s *session, server, name string) string {
	approved, ok := g.offered.Load().prompt(server, name)
	if !ok {
		return audit.GuardUnknown
	}
	s.prompts.Lock()
	defer s.prompts.Unlock()
	if s.prompts.now == nil {
		now := make(map[string]*mcp.Prompt)
		for p, err := range s.cs.Prompts(ctx, nil) {
			if err != nil || now[p.Name] != nil || len(now) >= maxLiveTools {
				return audit.GuardPinDrift // what would run cannot be seen
			}
			now[p.Name] = p
		}
		s.prompts.now = now
	}
	live := s.prompts.now[name]
	if live == nil {
		return audit.GuardPinDrift
	}
	pin, err := promptOf(live).Pin()
	if err != nil || pin != approved {
		return audit.GuardPinDrift
	}
	return ""
}

// wantLogs asks the upstream for log messages from a level on, in the request's
// metadata or, in versions with sessions, for the session; there it never asks
// for less, since other calls may want more.
func (s *session) wantLogs(ctx context.Context, level int, meta mcp.Meta) error {
	if level < 0 {
		return nil
	}
	if s.wire.agreed() >= modernVersion {
		meta[mcp.MetaKeyLogLevel] = levels[level]
		return nil
	}
	if caps := s.cs.InitializeResult().Capabilities; caps == nil || caps.Logging == nil {
		return nil
	}
	s.wire.logs.Lock()
	defer s.wire.logs.Unlock()
	if from := s.wire.logs.from; from != 0 && from <= level+1 {
		return nil
	}
	if err := s.cs.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: mcp.LoggingLevel(levels[level])}); err != nil {
		return err
	}
	s.wire.logs.from = level + 1
	return nil
}

// close ends all sessions and waits for them.
func (p *pool) close() error {
	p.mu.Lock()
	p.closed = true
	p.end()
	for key, l := range p.links {
		p.removeLocked(key, l)
	}
	p.mu.Unlock()
	p.ending.Wait()
	return nil
}

// connect opens a session with an upstream and looks at its tools. Caps are what
// it offers the upstream, which is to be used for the actor. A session that
// watches gets messages that belong to no request, too.
func (g *Gateway) connect(ctx carried, u *Upstream, actor audit.Actor, caps *mcp.ClientCapabilities, watches bool) (*session, error) {
	w := newWire()
	w.http = u.origin != "" && !u.child
	w.updated = func(params json.RawMessage) { g.updated(u.Name, owner(actor), params) }
	if watches {
		w.watcher = ctx.c
	}
	if c := carriageOf(ctx); c != nil {
		w.hearer = &hearer{g.gov.logger, u.Name, g.scrubbers(c)}
	}
	t, stop, err := u.dial(ctx, u, w)
	if err != nil {
		return nil, err
	}
	if stop != nil {
		stop = sync.OnceValue(stop)
	}
	// The connection must not end with the call that opened it; connecting must.
	client := newClient(caps)
	client.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			switch method {
			case askElicit, askSample, askRoots:
				return g.asked(ctx, w, actor, u.Name, req.GetParams())
			}
			return next(ctx, method, req)
		}
	})
	cs, err := client.Connect(ctx, &tap{Transport: t, wire: w, stop: stop}, nil)
	if err != nil {
		if stop != nil {
			err = errors.Join(err, stop())
		}
		return nil, err
	}
	w.version.Store(cs.InitializeResult().ProtocolVersion)
	u.modern.Store(w.agreed() >= modernVersion)
	s := &session{cs: cs, wire: w}
	if c := carriageOf(ctx); u.child && c != nil && c.lease != nil {
		w.lease = c.lease
	}
	if err := listLive(ctx, s); err != nil {
		cs.Close()
		return nil, err
	}
	return s, nil
}

// listLive fills in what the upstream offers now.
func listLive(ctx context.Context, s *session) error {
	s.wire.changed.Store(false)
	s.tools = make(map[string]*mcp.Tool)
	for t, err := range s.cs.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		if _, twice := s.tools[t.Name]; twice || len(s.tools) >= maxLiveTools {
			return fmt.Errorf("mcpx: the upstream lists %q twice, or more than %d tools", clip(t.Name, 64), maxLiveTools)
		}
		s.tools[t.Name] = s.wire.written(t)
	}
	s.listed = time.Now()
	return nil
}
