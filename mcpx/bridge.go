//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// The bridge between the eras of the protocol. Before 2026-07-28 a server asks its
// client in the middle of a call; from then on it answers the call with what it
// needs, and the client calls again. Each side of the gateway may be of either
// era:
//
//	client  server
//	older   older   the question goes to the client while its call is under way
//	older   newer   so do the questions of an answer; the gateway calls again
//	newer   newer   the answer goes on, with the server's state sealed in ours
//	newer   older   the call is parked while the client is away: see [talk]
//
// A server of the older era does not say for which call it asks. So a call whose
// client can be asked has a session with it alone, called a lane.

// codeInput is the outcome of a call that was answered with questions.
const codeInput = "input-required"

// maxRounds bounds how often a server of the newer era asks in one call.
const maxRounds = 10

// maxLanes bounds one actor's sessions with one server of the older era in which
// that may ask.
const maxLanes = 4

// errAsks stands for an answer that asks.
var errAsks = errors.New("mcpx: the server asks first")

// A round is what a call brings to its server besides the arguments.
type round struct {
	answers mcp.InputResponseMap
	state   string
}

// firstRound is what the client itself has brought.
func (q *query) firstRound() round {
	in, ok := q.inputs()
	if !ok || len(*in.answers) == 0 && *in.state == "" {
		return round{}
	}
	return round{*in.answers, *in.state}
}

// clientCaps are the capabilities of the client that a server of this call may use:
// none, unless policy could permit it to ask.
func (g *Gateway) clientCaps(q *query, f *flight, u *Upstream) *mcp.ClientCapabilities {
	have := q.caps() // nil if no SDK carries the call
	if have == nil || have.Elicitation == nil && have.Sampling == nil && (have.RootsV2 == nil || !u.Roots) {
		return nil
	}
	could := func(action string) bool {
		vis, err := g.gov.engine.Visible(context.Background(), f.actor, action, []governance.ToolRef{{Server: f.server}})
		return err == nil && len(vis) == 1 && vis[0] != governance.Never
	}
	out := &mcp.ClientCapabilities{}
	elicit := (have.Elicitation != nil || u.Roots && have.RootsV2 != nil) && could(kindElicit)
	if elicit {
		out.Elicitation = have.Elicitation
		if u.Roots && have.RootsV2 != nil {
			out.RootsV2 = &mcp.RootCapabilities{}
		}
	}
	if have.Sampling != nil && could(kindSample) {
		out.Sampling = have.Sampling
	}
	if out.Elicitation == nil && out.Sampling == nil && out.RootsV2 == nil {
		return nil
	}
	return out
}

// mayBeAsked reports whether the server of a call may ask its client.
func (g *Gateway) mayBeAsked(q *query, f *flight, u *Upstream) bool {
	return g.clientCaps(q, f, u) != nil
}

// declared writes capabilities for a request of the newer era.
func declared(c *mcp.ClientCapabilities) map[string]any {
	m := map[string]any{}
	if c == nil {
		return m
	}
	if c.Elicitation != nil {
		m["elicitation"] = c.Elicitation
	}
	if c.Sampling != nil {
		m["sampling"] = c.Sampling
	}
	if c.RootsV2 != nil {
		m["roots"] = map[string]any{}
	}
	return m
}

// everyCap is all that clients can be asked.
func everyCap() *mcp.ClientCapabilities {
	return &mcp.ClientCapabilities{
		Elicitation: &mcp.ElicitationCapabilities{Form: &mcp.FormElicitationCapabilities{}, URL: &mcp.URLElicitationCapabilities{}},
		Sampling:    &mcp.SamplingCapabilities{Tools: &mcp.SamplingToolsCapabilities{}, Context: &mcp.SamplingContextCapabilities{}},
		RootsV2:     &mcp.RootCapabilities{},
	}
}

// lanes says which sessions in which a server may ask are in use.
type lanes struct {
	mu  sync.Mutex
	use map[poolKey]bool
}

// take returns a key of a session that no other call uses.
func (l *lanes) take(key poolKey) (poolKey, func(), bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key.lane = 1; key.lane <= maxLanes; key.lane++ {
		if !l.use[key] {
			if l.use == nil {
				l.use = make(map[poolKey]bool)
			}
			l.use[key] = true
			return key, func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.use, key)
			}, true
		}
	}
	return key, nil, false
}

// asked answers what a server of the older era asks in its session: by the call
// that has the session for itself, or not at all.
func (g *Gateway) asked(ctx context.Context, w *wire, actor audit.Actor, server string, params mcp.Params) (mcp.Result, error) {
	no := func(err error) (mcp.Result, error) {
		return nil, &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: err.Error()}
	}
	p, ok := params.(mcp.InputRequest)
	if !ok {
		return no(errQuestion)
	}
	if answer := w.answer.Load(); answer != nil {
		a, err := (*answer)(p)
		if err != nil {
			return no(err)
		}
		if res, ok := a.(mcp.Result); ok {
			return res, nil
		}
		return no(errQuestion)
	}
	f := &flight{actor: actor, server: server}
	x, _ := newQuestion(server, p, nil, false)
	_, err := g.gov.ask(ctx, f, x, fmt.Errorf("%w: no call is under way whose client could be asked", errQuestion), nil)
	return no(err)
}

// readAsk reads what a server asks, nil if it cannot be read.
func readAsk(m *jsonrpc.Request) mcp.Params {
	var p mcp.Params
	switch m.Method {
	case askElicit:
		p = new(mcp.ElicitParams)
	case askSample:
		p = new(mcp.CreateMessageWithToolsParams)
	default:
		p = new(mcp.ListRootsParams)
	}
	if len(m.Params) > 0 && json.Unmarshal(m.Params, p) != nil {
		return nil
	}
	return p
}

// answering lets the server of a call ask, in the session that the call has for
// itself, until the returned function is called.
func (g *Gateway) answering(ctx context.Context, q *query, f *flight, u *Upstream, w *wire) (end func()) {
	caps := g.clientCaps(q, f, u)
	ctx, stop := context.WithCancel(ctx) // nobody waits for an answer longer than the call lasts
	asks := 0
	var mu sync.Mutex
	answer := func(p mcp.InputRequest) (mcp.InputResponse, error) {
		x, bad := newQuestion(u.Name, p, caps, u.Roots)
		if bad == nil && ctx.Err() != nil {
			bad = fmt.Errorf("%w: its call has ended", errQuestion)
		}
		mu.Lock()
		if asks++; asks > maxQuestions && bad == nil {
			bad = fmt.Errorf("%w: this call has asked too much already", errQuestion)
		}
		mu.Unlock()
		if bad == nil {
			bad = unasked(f)
		}
		return g.gov.ask(ctx, f, x, bad, func() (mcp.InputResponse, error) {
			if f.talk != nil {
				return f.talk.ask(ctx, x)
			}
			return q.put(ctx, x)
		})
	}
	w.answer.Store(&answer)
	return func() {
		w.answer.Store(nil)
		stop()
	}
}

// unasked refuses questions in a call of which something must not be seen, since
// a question could hold it.
func unasked(f *flight) error {
	d, err := f.decision.Demands()
	if err != nil || !d.Redact.Empty() || d.MaxBytes > 0 {
		return fmt.Errorf("%w: what the call answers is not for everybody's eyes", errQuestion)
	}
	return nil
}

// put asks the client of an older session.
func (q *query) put(ctx context.Context, x *question) (mcp.InputResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	res, err := q.server(ctx, func(ctx context.Context, ss *mcp.ServerSession) (any, error) {
		switch p := x.params.(type) {
		case *mcp.ElicitParams:
			return ss.Elicit(ctx, p)
		case *mcp.CreateMessageWithToolsParams:
			return ss.CreateMessageWithTools(ctx, p)
		case *mcp.ListRootsParams:
			return ss.ListRoots(ctx, p)
		}
		return nil, errCannotAsk
	})
	if err != nil {
		return nil, fmt.Errorf("the client gave no answer: %w", err)
	}
	a, ok := res.(mcp.InputResponse)
	if !ok || kindOfAnswer(a) != x.kind {
		return nil, errors.New("the client answered something else")
	}
	return a, nil
}

// again deals with an answer that asks: it returns what to call the server with
// next, or the answer to the client.
func (g *Gateway) again(ctx context.Context, q *query, f *flight, u *Upstream, r *rawReply, n int) (round, reply, error) {
	say := func(why error) (round, reply, error) {
		return round{}, nil, failed("upstream-input", fmt.Sprintf("The server %q asks for input: %s.", u.Name, clip(why.Error(), 200)), false)
	}
	var doc struct {
		Requests mcp.InputRequestMap `json:"inputRequests"`
		State    string              `json:"requestState"`
	}
	text, _ := r.text()
	if err := json.Unmarshal(text, &doc); err != nil {
		return say(errors.New("the questions cannot be read"))
	}
	if len(doc.Requests) > maxQuestions || len(doc.State) > maxSealed/2 || n >= maxRounds {
		return say(errors.New("it asks too much"))
	}
	caps := g.clientCaps(q, f, u)
	next := round{make(mcp.InputResponseMap, len(doc.Requests)), doc.State}
	asks := make(mcp.InputRequestMap, len(doc.Requests))
	for key, p := range doc.Requests {
		x, bad := newQuestion(u.Name, p, caps, u.Roots)
		if bad == nil {
			bad = unasked(f)
		}
		if len(key) > 128 && bad == nil {
			bad = fmt.Errorf("%w: its name is too long", errQuestion)
		}
		a, err := g.gov.ask(ctx, f, x, bad, func() (mcp.InputResponse, error) {
			if q.modern {
				return nil, nil // the answer comes with the next call
			}
			return q.put(ctx, x)
		})
		if err != nil {
			return say(err)
		}
		next.answers[key], asks[key] = a, x.params
	}
	if !q.modern {
		if len(doc.Requests) == 0 {
			return say(errors.New("it is busy"))
		}
		return next, nil, nil
	}
	f.asks = codeInput
	st := clientState{Theirs: true, Inner: doc.State}
	if q.grant != nil {
		id, err := g.gov.memory.put(owner(q.actor), asked{policy: f.decision.PolicyHash, grant: q.grant}, inputTime)
		if err != nil {
			return say(errors.New("too many questions are open"))
		}
		st.ID = id
	}
	out, err := q.inputRequired(g.gov.seal, asks, st, inputTime)
	return round{}, out, err
}
