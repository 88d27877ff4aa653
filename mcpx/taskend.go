package mcpx

import (
	"context"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// codeLost is the outcome of a task that its server has forgotten.
const codeLost = "task-lost"

// giveUp ends a task without its server, and has that told.
func (g *governor) giveUp(t *task, status audit.Status, code string) {
	now, err := t.end(audit.Outcome{Status: status, ErrorCode: code, Checks: t.f.out.Checks, CredentialVersion: t.f.out.CredentialVersion}, nil)
	if err != nil {
		g.logger.Error("mcpx: the end of a task could not be recorded", "action", t.f.decision.Action, "intent", t.call.Record(), "error", err)
	}
	if now && code != codeLost {
		g.site.abandon(t)
	}
}

// forget ends a task that nobody has seen the end of.
func (g *governor) forget(t *task, code string) {
	t.unwatch()
	g.tasks.drop(t)
	g.giveUp(t, audit.StatusFailed, code)
}

// maxFarewells bounds how many servers are told at once that a task was given up.
const maxFarewells = 16

// farewells are what is under way to servers whose tasks were given up.
type farewells struct {
	room     chan struct{}
	patience time.Duration // for each

	mu     sync.Mutex
	of     map[string]int // by owner
	closed bool
	wait   sync.WaitGroup
}

func newFarewells() *farewells {
	return &farewells{room: make(chan struct{}, maxFarewells), patience: cancelWait, of: make(map[string]int)}
}

// say runs f in the background, or not at all after close, with a context for as
// long as it may take.
func (s *farewells) say(owner string, f func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.of[owner]++
	s.wait.Go(func() {
		defer s.said(owner)
		ctx, cancel := context.WithTimeout(context.Background(), s.patience)
		defer cancel()
		select {
		case s.room <- struct{}{}:
			defer func() { <-s.room }()
			f(ctx)
		case <-ctx.Done():
		}
	})
}

func (s *farewells) said(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[owner]--; s.of[owner] == 0 {
		delete(s.of, owner)
	}
}

// close waits for those that are under way.
func (s *farewells) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wait.Wait()
}

// abandon tells the server of a task that nobody wants its result any more. It is
// part of the end of the task, which is on record, as the cancelling of a call is of
// that: under the same credential, and no act of the agent's. A server that cannot be
// reached within [cancelWait] is not told.
func (g *Gateway) abandon(t *task) {
	g.farewells.say(t.owner, func(ctx context.Context) {
		defer func() {
			if p := recover(); p != nil { // of the host's vault, say
				g.gov.logger.Error("mcpx: panic while a server was told that its task was given up", "server", t.f.server, "panic", p)
			}
		}()
		u := g.upstream(t.f.server)
		if u == nil {
			return
		}
		q := &query{method: methodCancelTask, outer: ctx, actor: t.f.actor, modern: true, tasks: true, farewell: true}
		f := &flight{
			q: q, actor: q.actor, kind: kindTask, server: t.f.server, tool: t.f.tool, args: t.f.args,
			trace: t.f.trace, decision: t.f.decision.Again(), credential: t.f.credential,
		}
		if _, err := g.askTask(ctx, q, f, u, t, nil); err != nil {
			g.gov.logger.Warn("mcpx: a server could not be told that its task was given up", "server", u.Name, "error", err)
		}
	})
}
