package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	life context.Context // until it is left
	end  context.CancelFunc

	mu  sync.Mutex
	now *subscription
}

// newPlace is one that lasts no longer than life.
func newPlace(life context.Context) *place {
	p := new(place)
	p.life, p.end = context.WithCancel(life)
	return p
}

// take puts a subscription there, or ends it if nobody wants it any more.
func (p *place) take(s *subscription) {
	p.mu.Lock()
	p.now = s
	left := p.life.Err() != nil
	p.mu.Unlock()
	if left {
		s.end()
	}
}

// leave ends the subscription that is there, and those to come.
func (p *place) leave() {
	p.mu.Lock()
	p.end()
	now := p.now
	p.mu.Unlock()
	if now != nil {
		now.end()
	}
}

// keepWatch subscribes again whenever the server has forgotten a watch that is open,
// until its place is left.
func (g *Gateway) keepWatch(key watchKey, w *watch, f *flight, u *Upstream) {
	life := w.place.life
	pause := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return life.Err() == nil
		case <-life.Done():
			return false
		}
	}
	wait, told := g.pool.times.rewatch, ""
	for now, since := w.place.now, time.Now(); ; {
		select {
		case <-now.lost:
		case <-life.Done():
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
			again, err := g.rewatch(life, key, w.actor, f, u)
			if err == nil {
				now, since, told = again, time.Now(), ""
				w.place.take(again)
				break
			}
			if life.Err() != nil {
				return // nobody wants it any more
			}
			// What is refused for the same reason again is one refusal.
			if no, ok := err.(refusal); ok && no.Action+" "+no.Reason != told {
				told = no.Action + " " + no.Reason
				g.gov.recordRefusal(life, &query{method: methodSubscribe, name: key.uri, actor: w.actor, trace: f.trace}, no)
			}
			g.gov.logger.Warn("mcpx: a resource could not be subscribed to again", "server", u.Name, "error", err)
		}
		if uri, err := json.Marshal(key.uri); err == nil {
			g.updated(u.Name, key.owner, append(appendMember([]byte("{"), "uri", uri), '}'))
		}
	}
}

// rewatch is openWatch for somebody whose request has long been answered: a further
// act of the same permission, which policy is asked about as a whole, and which has
// an intent and an outcome of its own. Whoever is refused gets a [refusal], which the
// caller records. It is given up when life ends.
func (g *Gateway) rewatch(life context.Context, key watchKey, actor audit.Actor, was *flight, u *Upstream) (s *subscription, err error) {
	defer g.gov.noPanic("a resource is subscribed to again", &err)
	outer, cancel := context.WithTimeout(life, g.opts.CallTimeout)
	defer cancel()
	q := &query{method: methodSubscribe, name: key.uri, outer: outer, actor: actor, trace: was.trace}
	ctx, end, no := g.gov.alive(outer, q)
	if no != nil {
		return nil, *no
	}
	defer end()
	g.refresh()
	if owner, _ := g.route(kindResource, key.uri); owner != key.server {
		return nil, override(was.decision.Again(), audit.GuardUnknown)
	}
	d, err := g.gov.engine.Again(ctx, was.decision, governance.Request{
		Actor: actor, Action: "subscribe", Server: key.server, Name: key.uri, Enforces: g.gov.meetsFor("subscribe"),
	})
	if err != nil || !d.Allowed() {
		return nil, decided(d)
	}
	f := &flight{q: q, actor: actor, kind: was.kind, server: was.server, tool: was.tool, args: was.args, trace: was.trace, decision: d}
	if no, ok := g.gov.useCredential(ctx, f); !ok {
		return nil, no
	}
	call, err := g.gov.log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: d.Action, Resource: d.Resource,
		Actor: actor, Decision: d.Decision, Class: audit.Class(d.Class), ToolPin: d.Pin, Credential: f.credential, Trace: f.trace,
	})
	if err != nil || call == nil {
		f.key.Settle(governance.Result{})
		return nil, fmt.Errorf("mcpx: the intent could not be recorded: %w", err)
	}
	f.out.Status, f.out.ErrorCode = audit.StatusFailed, audit.GuardPanic // unless it returns
	defer func() {
		unrecorded := call.End(context.WithoutCancel(ctx), f.out)
		f.key.Settle(governance.ResultOf(f.out))
		if unrecorded == nil {
			return
		}
		if s != nil {
			s.end()
		}
		s, err = nil, errors.Join(fmt.Errorf("mcpx: the outcome could not be recorded: %w", unrecorded), err)
	}()
	s, err = g.openWatch(ctx, key, f, u)
	f.out.Status, f.out.ErrorCode = audit.StatusOK, ""
	fail, ours := asFailure(err)
	switch {
	case err == nil:
	case life.Err() != nil:
		f.out.Status, f.out.ErrorCode = audit.StatusCancelled, "cancelled"
	case ctx.Err() != nil && outer.Err() == nil:
		f.out.Status, f.out.ErrorCode = audit.StatusCancelled, audit.GuardRevoked
	case ours:
		f.out.Status, f.out.ErrorCode = audit.StatusFailed, fail.code
	default:
		f.out.Status, f.out.ErrorCode = audit.StatusFailed, "error"
	}
	return s, err
}
