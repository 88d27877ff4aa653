//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
)

// From 2026-07-28 on nobody asks a client in the middle of its request. The
// request is answered with what is needed first, and comes again with the answers
// and with a state that the client does not look at (multi-round trips). That
// state is sealed, whoever asked: it is good for the same actor, method, name and
// arguments, and for a time. A question of the gateway's own is remembered
// besides, so that its answer counts once, and not after a restart.

// inputTime is how long a client may carry the question of a server that keeps
// nothing itself.
const inputTime = 10 * time.Minute

// A clientState is what is sealed for the client.
type clientState struct {
	// ID is that of what is remembered here, empty if that is nothing.
	ID string `json:"id,omitempty"`
	// Kinds are the questions, by key: only those can be answered.
	Kinds map[string]string `json:"kinds,omitempty"`
	// Theirs says that the answers are for the server behind, and Inner is the
	// state that it wants back.
	Theirs bool   `json:"theirs,omitempty"`
	Inner  string `json:"inner,omitempty"`
	// Pages says that the call is made only if all questions, which are pages, were
	// answered with yes.
	Pages bool `json:"pages,omitempty"`
}

// asked is what is remembered of a question.
type asked struct {
	policy string   // in force when a person was asked, or agreed
	page   string   // what the client was asked to show: approvalPage, or the id of a consent
	grant  *Verdict // of a person who has agreed to this very call
	talk   *talk    // the call that waits for the answer
	drop   func()   // called if nobody comes again; may be nil
}

// needsInput is the error that stands for a question on its way to the client.
type needsInput struct {
	key    string
	params mcp.InputRequest
	good   time.Duration
	asked  asked
}

func (*needsInput) Error() string { return "mcpx: the client has to answer first" }

// errFull is returned when too many questions are open.
var errFull = errors.New("mcpx: too many questions are open")

// A memory holds what is asked, bounded for each owner and in all.
type memory struct {
	mu     sync.Mutex
	of     map[string]*remembered
	quota  quota
	closed bool
}

type remembered struct {
	asked
	owner string
	timer *time.Timer
}

// put remembers a for some time, under an id that cannot be guessed.
func (m *memory) put(owner string, a asked, good time.Duration) (id string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !m.quota.room(owner) {
		return "", errFull
	}
	if m.of == nil {
		m.of = make(map[string]*remembered)
	}
	id = audit.NewID()
	r := &remembered{asked: a, owner: owner}
	r.timer = time.AfterFunc(good, func() {
		if a, ok := m.take(owner, id); ok && a.drop != nil {
			a.drop()
		}
	})
	m.of[id] = r
	m.quota.add(owner)
	return id, nil
}

// take returns what is remembered, once and only to its owner.
func (m *memory) take(owner, id string) (asked, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.of[id]
	if r == nil || r.owner != owner {
		return asked{}, false
	}
	r.timer.Stop()
	delete(m.of, id)
	m.quota.drop(owner)
	return r.asked, true
}

// close drops everything.
func (m *memory) close() {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.of))
	m.of, m.closed = nil, true
	m.mu.Unlock()
	for _, r := range all {
		r.timer.Stop()
		if r.drop != nil {
			r.drop()
		}
	}
}

// inputs are the fields of a request that bring answers.
type inputs struct {
	answers *mcp.InputResponseMap
	state   *string
}

// inputsOf returns those of a method that has them, and copies the parameters,
// which other legs of the same call may share.
func (q *query) inputs() (inputs, bool) {
	if q.req == nil {
		return inputs{}, false
	}
	switch p := q.req.GetParams().(type) {
	case *mcp.CallToolParamsRaw:
		return inputs{&p.InputResponses, &p.RequestState}, p != nil
	case *mcp.GetPromptParams:
		return inputs{&p.InputResponses, &p.RequestState}, p != nil
	case *mcp.ReadResourceParams:
		return inputs{&p.InputResponses, &p.RequestState}, p != nil
	}
	return inputs{}, false
}

func (q *query) bind() binding {
	return binding{"input", owner(q.actor), q.method, q.name, digestOf(q.args)}
}

// takeInput reads the answers that a request brings, and leaves it those that are
// for whoever asked behind the gateway.
func (g *governor) takeInput(q *query) *refusal {
	in, ok := q.inputs()
	if !ok || *in.state == "" && len(*in.answers) == 0 {
		return nil
	}
	no := func(why error) *refusal {
		r := refused(audit.GuardState)
		r.retryable = true
		r.text = "This answers nothing that was asked of you here, or comes too late. Make the call again without it."
		r.detail = map[string]string{"cause": why.Error()}
		return &r
	}
	plain, err := g.seal.open(q.bind(), *in.state)
	if err != nil {
		return no(err)
	}
	var st clientState
	if err := json.Unmarshal(plain, &st); err != nil {
		return no(errSeal)
	}
	if st.ID != "" {
		a, ok := g.memory.take(owner(q.actor), st.ID)
		if !ok {
			return no(errors.New("mcpx: this state was used already, or is forgotten"))
		}
		q.asked = &a
	}
	q.answers = make(mcp.InputResponseMap)
	for key, a := range *in.answers {
		if kind := st.Kinds[key]; kind != "" && kind == kindOfAnswer(a) {
			q.answers[key] = a
		}
	}
	if !st.opened(q.answers) {
		r := refused(audit.GuardState)
		r.retryable = true
		r.text = "The page that the server wants was not opened. Make the call again without this answer, and ask the person you work for to open it."
		return &r
	}
	*in.answers, *in.state = nil, st.Inner
	if st.Theirs {
		*in.answers = q.answers
	}
	return nil
}

// needInput answers a request with a question of the gateway's own.
func (g *governor) needInput(q *query, n *needsInput) (reply, error) {
	a := n.asked
	id, err := g.memory.put(owner(q.actor), a, n.good)
	if err != nil {
		return nil, err
	}
	return q.inputRequired(g.seal, mcp.InputRequestMap{n.key: n.params}, clientState{ID: id}, n.good)
}

// inputRequired makes the answer that asks.
func (q *query) inputRequired(s *sealer, asks mcp.InputRequestMap, st clientState, good time.Duration) (reply, error) {
	st.Kinds = make(map[string]string, len(asks))
	for key, p := range asks {
		st.Kinds[key] = kindOf(p)
	}
	plain, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	state := s.seal(q.bind(), time.Now().Add(good), plain)
	text, err := json.Marshal(asks)
	if err != nil {
		return nil, err
	}
	r := &rawReply{method: q.method, asks: true, bytes: int64(len(text))}
	r.members = appendMember(r.members, "inputRequests", text)
	r.members = appendMember(r.members, "requestState", []byte(`"`+state+`"`))
	return r, nil
}

// The kinds of question. Two of them are the actions that policy decides.
const (
	kindElicit = "elicit"
	kindSample = "sample"
	kindRoots  = "roots"
)

func kindOf(p mcp.InputRequest) string {
	switch p.(type) {
	case *mcp.ElicitParams:
		return kindElicit
	case *mcp.CreateMessageParams, *mcp.CreateMessageWithToolsParams:
		return kindSample
	case *mcp.ListRootsParams:
		return kindRoots
	}
	return ""
}

func kindOfAnswer(a mcp.InputResponse) string {
	switch a.(type) {
	case *mcp.ElicitResult:
		return kindElicit
	case *mcp.CreateMessageResult, *mcp.CreateMessageWithToolsResult:
		return kindSample
	case *mcp.ListRootsResult:
		return kindRoots
	}
	return ""
}
