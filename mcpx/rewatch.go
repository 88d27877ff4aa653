package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A server that starts anew has forgotten who subscribed to what. The gateway does
// so again, for as long as some client wants to know and policy lets it: that goes on
// with an act which is on record, and is none of its own. What has changed meanwhile
// nobody knows, so the clients are told that something may have.

// maxRewatch bounds how long nothing is tried after a server has ended several times
// in a row, or could not be subscribed at.
const maxRewatch = time.Minute

// A subscription is one session's at an upstream.
type subscription struct {
	end  func()          // once
	lost <-chan struct{} // closed once the server has forgotten it
}

func newSubscription(lost <-chan struct{}, end func()) *subscription {
	return &subscription{end: sync.OnceFunc(end), lost: lost}
}

// A place is where the subscription of a watch is, until it is left.
type place struct {
	over chan struct{} // closed once it is left

	mu   sync.Mutex
	left bool
	now  *subscription
}

// take puts a subscription there, or ends it if nobody wants it any more.
func (p *place) take(s *subscription) {
	p.mu.Lock()
	left := p.left
	if !left {
		p.now = s
	}
	p.mu.Unlock()
	if left {
		s.end()
	}
}

// leave ends the subscription that is there, and those to come.
func (p *place) leave() {
	p.mu.Lock()
	if p.left {
		p.mu.Unlock()
		return
	}
	p.left = true
	now := p.now
	close(p.over)
	p.mu.Unlock()
	if now != nil {
		now.end()
	}
}

// keepWatch subscribes again whenever the server has forgotten a watch that is open.
func (g *Gateway) keepWatch(key watchKey, w *watch, f *flight, u *Upstream) {
	pause := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-w.place.over:
		case <-g.pool.life.Done():
		}
		return false
	}
	wait := g.pool.times.rewatch
	for now, since := w.place.now, time.Now(); ; {
		select {
		case <-now.lost:
		case <-w.place.over:
			return
		case <-g.pool.life.Done():
			return
		}
		now.end()
		if time.Since(since) > maxRewatch {
			wait = g.pool.times.rewatch
		}
		for {
			if !pause(wait) {
				return
			}
			wait = min(2*wait, maxRewatch)
			again, err := g.rewatch(key, w.actor, f, u)
			if err == nil {
				now, since = again, time.Now()
				w.place.take(again)
				break
			}
			g.gov.logger.Warn("mcpx: a resource could not be subscribed to again", "server", u.Name, "error", err)
		}
		if uri, err := json.Marshal(key.uri); err == nil {
			g.updated(u.Name, key.owner, append(appendMember([]byte("{"), "uri", uri), '}'))
		}
	}
}

// rewatch is openWatch for somebody whose request has long been answered.
func (g *Gateway) rewatch(key watchKey, actor audit.Actor, was *flight, u *Upstream) (*subscription, error) {
	ctx, cancel := context.WithTimeout(g.pool.life, g.opts.CallTimeout)
	defer cancel()
	if g.gov.agents != nil {
		inner, end, err := g.gov.agents.Context(ctx, actor)
		if err != nil {
			return nil, err
		}
		defer end()
		ctx = inner
	}
	if !g.mayHear(actor, key.server, key.uri) {
		return nil, errors.New("it is not permitted any more")
	}
	f := &flight{
		actor: actor, kind: was.kind, server: was.server, tool: was.tool, args: was.args, trace: was.trace, decision: was.decision.Again(),
		q: &query{method: methodSubscribe, outer: ctx, actor: actor, trace: was.trace},
	}
	if no, ok := g.gov.useCredential(ctx, f); !ok {
		return nil, no
	}
	defer f.key.Settle(governance.Result{OK: true})
	return g.openWatch(ctx, key, f, u)
}
