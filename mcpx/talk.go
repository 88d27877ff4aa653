package mcpx

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// parkTime is how long a call waits for a client that has to answer first.
const parkTime = time.Minute

// A talk is a call whose server asks in the middle of it, for a client that
// answers by calling again. The act goes on in a goroutine of its own, with one
// intent and one outcome, while requests of the client come and go: the legs.
// Each leg is decided. Between two of them the talk is parked in the memory of
// what is asked; if nobody comes again, the call is cancelled.
type talk struct {
	f    *flight
	end  context.CancelFunc // ends the act
	put  chan *asking       // to the leg
	done chan struct{}      // closed when the act has ended
	r    reply
	err  error

	open map[string]*asking // that the client has, by key; of the leg
	made int                // keys

	mu  sync.Mutex
	now *query // the leg that the client waits for, nil while it is away
}

// An asking is a question of the act that waits for its answer.
type asking struct {
	x   *question
	get chan mcp.InputResponse // holds the answer
}

// gatherTime is how long a leg waits for more questions once it has one. Servers
// that ask several things at once send them one by one.
const gatherTime = 50 * time.Millisecond

// converse acts for a client that may be asked in the middle of it.
func (g *governor) converse(ctx context.Context, q *query, f *flight) (reply, error) {
	if !g.site.parks(q, f) {
		return g.act(ctx, q, f)
	}
	// The act outlives this request, but neither its agent nor the gateway. The
	// SDK's values stay in the context.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	own := *q
	own.outer = life
	own.do = func(ctx context.Context, f *flight) (reply, error) { return g.site.do(ctx, &own, f) }
	inner, cancel, no := g.alive(life, &own)
	if no != nil {
		end()
		return g.no(ctx, q, *no)
	}
	t := &talk{f: f, end: end, put: make(chan *asking), done: make(chan struct{}), open: make(map[string]*asking)}
	if !g.talks.begin(t) {
		cancel()
		end()
		r := override(f.decision, "closing")
		r.reason, r.retryable = "closing", true
		return g.no(ctx, q, r)
	}
	f.talk, f.q = t, &own
	go func() {
		defer g.talks.ended(t)
		defer close(t.done)
		defer cancel()
		defer end()
		defer func() {
			f.decision.Settle(governance.Result{}) // unless act did
			f.key.Settle(governance.Result{})
			if p := recover(); p != nil {
				g.logger.Error("mcpx: panic", "method", q.method, "panic", p, "stack", string(debug.Stack()))
				t.r, t.err = g.no(life, q, refused(audit.GuardPanic))
			}
		}()
		t.r, t.err = g.act(inner, &own, f)
	}()
	return g.leg(ctx, q, t)
}

// leg waits for the outcome of a call, or for its next question.
func (g *governor) leg(ctx context.Context, q *query, t *talk) (reply, error) {
	t.attend(q)
	select {
	case <-t.done:
		return t.r, t.err
	case a := <-t.put:
		t.opened(a)
		for more := time.After(gatherTime); ; {
			select {
			case a := <-t.put:
				t.opened(a)
				continue
			case <-more:
			case <-t.done:
				return t.r, t.err
			}
			return g.park(q, t)
		}
	case <-ctx.Done():
		if q.outer.Err() != nil { // else the agent was revoked, which the act sees itself
			t.end()
		}
		<-t.done
		return t.r, t.err
	}
}

func (t *talk) opened(a *asking) {
	t.made++
	t.open[fmt.Sprintf("question-%d", t.made)] = a
}

// park sends the client away with the questions that are open.
func (g *governor) park(q *query, t *talk) (reply, error) {
	t.attend(nil)
	fail := func() (reply, error) {
		t.end()
		<-t.done
		return t.r, t.err
	}
	id, err := g.memory.put(owner(q.actor), asked{talk: t, drop: t.end}, g.parkTime)
	if err != nil {
		return fail()
	}
	asks := make(mcp.InputRequestMap, len(t.open))
	for key, a := range t.open {
		asks[key] = a.x.params
	}
	r, err := q.inputRequired(g.seal, asks, clientState{ID: id}, g.parkTime)
	if err != nil {
		return fail()
	}
	return r, nil
}

// resume goes on with a parked call, if policy still permits it.
func (g *governor) resume(ctx context.Context, q *query, ask governance.Request, t *talk) (reply, error) {
	d, err := g.engine.Again(ctx, t.f.decision, ask)
	if err != nil || !d.Allowed() {
		t.end()
		<-t.done
		return g.no(ctx, q, decided(d))
	}
	for key, a := range q.answers {
		if ask := t.open[key]; ask != nil && kindOfAnswer(a) == ask.x.kind {
			ask.get <- a
			delete(t.open, key)
		}
	}
	if len(t.open) > 0 {
		return g.park(q, t) // the others are asked again
	}
	return g.leg(ctx, q, t)
}

// ask puts a question to the client, and returns its answer. It is called by the
// act.
func (t *talk) ask(ctx context.Context, x *question) (mcp.InputResponse, error) {
	a := &asking{x: x, get: make(chan mcp.InputResponse, 1)}
	select {
	case t.put <- a:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer := <-a.get:
		return answer, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the client gave no answer: %w", ctx.Err())
	}
}

// attend says for which request the client waits now: what is said to it goes
// there.
func (t *talk) attend(q *query) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = q
}

// listener is the request that hears what the server of q's call says, or nil.
func (f *flight) listener(q *query) *query {
	if f.talk == nil {
		return q
	}
	f.talk.mu.Lock()
	defer f.talk.mu.Unlock()
	return f.talk.now
}

// talks are all that go on.
type talks struct {
	mu     sync.Mutex
	on     map[*talk]bool
	closed bool
	wait   sync.WaitGroup
}

func (s *talks) begin(t *talk) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.on == nil {
		s.on = make(map[*talk]bool)
	}
	s.on[t] = true
	s.wait.Add(1)
	return true
}

func (s *talks) ended(t *talk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.on, t)
	s.wait.Done()
}

// close ends all of them and waits for that, so that their servers are told
// before the sessions end.
func (s *talks) close() {
	s.mu.Lock()
	s.closed = true
	for t := range s.on {
		t.end()
	}
	s.mu.Unlock()
	s.wait.Wait()
}
