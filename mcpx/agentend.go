package mcpx

import (
	"context"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// An agentLife is the life of the agent that a session with an upstream is for, which
// the session does not outlive: a server that is a child process would go on as if it
// were the agent.
type agentLife struct {
	// bind binds a context to it. Nil: nobody can end the agent.
	bind func(context.Context) (context.Context, context.CancelFunc, error)
	// quiet reports whether servers have nothing left to be told of what ended with
	// the agent.
	quiet func() bool
	// late is a call for that: it takes the session of the life that has ended, and
	// opens none.
	late bool
}

// lifeOf is the life of a call's agent.
func (g *Gateway) lifeOf(f *flight) agentLife {
	if g.gov.agents == nil {
		return agentLife{}
	}
	who := owner(f.actor)
	return agentLife{
		bind: func(ctx context.Context) (context.Context, context.CancelFunc, error) {
			return g.gov.life(ctx, f.actor)
		},
		// In this order: a task is let go when its farewell is under way.
		quiet: func() bool { return !g.gov.tasks.any(who) && !g.farewells.any(who) },
		late:  f.q != nil && f.q.farewell,
	}
}

// within returns a context within ctx that ends with the agent.
func (a agentLife) within(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if a.bind == nil {
		ctx, cancel := context.WithCancel(ctx)
		return ctx, cancel, nil
	}
	return a.bind(ctx)
}

// life is a context within ctx that ends with the actor's agent, for what goes on
// after its request. If the host's registry panics there is none.
func (g *governor) life(ctx context.Context, a audit.Actor) (_ context.Context, _ context.CancelFunc, err error) {
	defer g.noPanic("the life of an agent is asked for", &err)
	return g.agents.Context(ctx, a)
}

// place returns the link of key, with one user more.
func (p *pool) place(key poolKey, a agentLife) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[key]; l != nil && l.gone && !a.late {
		p.removeLocked(key, l) // it was of an earlier life
	}
	if p.links[key] == nil && a.bind != nil && !p.closed {
		p.mu.Unlock()
		life, end, err := a.bind(p.life)
		p.mu.Lock()
		if err != nil {
			return nil, err
		}
		if p.links[key] != nil || p.closed {
			end()
		} else {
			l := p.addLocked(key)
			stop := context.AfterFunc(life, func() { p.agentEnded(l, a) })
			l.forgo = func() { stop(); end() }
		}
	}
	if p.closed {
		return nil, ErrClosed
	}
	l := p.links[key]
	if l == nil {
		l = p.addLocked(key)
	}
	l.users++
	return l, nil
}

func (p *pool) addLocked(key poolKey) *link {
	p.evictLocked()
	l := &link{gate: make(chan struct{}, 1)}
	l.gate <- struct{}{}
	p.links[key] = l
	return l
}

// agentEnded ends the session of a link: at once, or as soon as the server had the
// time to hear that the agent's calls are cancelled.
func (p *pool) agentEnded(l *link, a agentLife) {
	quiet := a.quiet()
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.gone {
		return // it went by itself
	}
	l.gone = true
	l.forgo()
	if quiet && l.users == 0 {
		p.dropLocked(l)
		return
	}
	timer := time.AfterFunc(cancelWait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dropLocked(l)
	})
	l.forgo = func() { timer.Stop() }
}

// dropLocked takes a link out of its place, wherever that is.
func (p *pool) dropLocked(l *link) {
	for key, other := range p.links {
		if other == l {
			p.removeLocked(key, l)
		}
	}
}

// removeLocked takes a link out of its place, and ends its session.
func (p *pool) removeLocked(key poolKey, l *link) {
	if l.forgo != nil {
		l.forgo()
	}
	if l.now != nil {
		p.endLocked(l.now)
		l.now = nil
	}
	l.gone = true // whoever still connects for it connects in vain
	delete(p.links, key)
}

// any reports whether an owner has tasks.
func (s *tasks) any(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quota.owners[owner] > 0
}

// any reports whether servers are being told that tasks of an owner were given up.
func (s *farewells) any(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[owner] > 0
}
