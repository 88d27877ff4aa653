package mcpx

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Caps on the MCP sessions of clients that speak a protocol with sessions.
const (
	maxSessions         = 16_384
	maxSessionsPerActor = 256
)

const sessionHeader = "Mcp-Session-Id"

// owners remembers whose each MCP session is. The SDK binds sessions too, but
// answers a stranger differently from somebody with an unknown id.
type owners struct {
	live func() map[string]bool // the ids that the SDK still serves

	mu    sync.Mutex
	of    map[string]*held
	quota quota
	asked map[string]questions // by session
}

// heardFor is how long after the SDK served a session it is sure to have it
// still. It forgets sessions that it does not hear of for much longer.
const heardFor = 5 * time.Minute

// A held session is one of a client whose protocol has sessions.
type held struct {
	owner string

	mu    sync.Mutex
	plain bool      // its client can be asked for nothing, and wants no log
	heard time.Time // when the SDK last served it
	calls map[string]context.CancelFunc
}

// ready reports whether the fast path may take calls of the session.
func (h *held) ready() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.plain && time.Since(h.heard) < heardFor
}

// served notes that the SDK served a request of the session.
func (h *held) served(m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = time.Now()
	h.plain = h.plain && m.method != methodSetLevel
}

// begin enters a call until the function that it returns is called. It is not
// fresh if one with that id is under way. With a nil cancel the SDK carries it.
func (h *held) begin(id json.RawMessage, cancel context.CancelFunc) (end func(), fresh bool) {
	key := idKey(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, twice := h.calls[key]; twice {
		return nil, false
	}
	if h.calls == nil {
		h.calls = make(map[string]context.CancelFunc)
	}
	h.calls[key] = cancel
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.calls, key)
	}, true
}

// cancel ends the call with that id, if the fast path carries it.
func (h *held) cancel(id json.RawMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if end := h.calls[idKey(id)]; end != nil {
		end()
	}
}

// end ends all calls that the fast path carries.
func (h *held) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, end := range h.calls {
		if end != nil {
			end()
		}
	}
}

// idKey tells ids apart however they are written.
func idKey(id json.RawMessage) string {
	if len(id) > 0 && id[0] == '"' {
		return `"` + text(jsontext.Value(id))
	}
	return string(id)
}

func newOwners(live func() map[string]bool) *owners {
	return &owners{live: live, of: make(map[string]*held), quota: newQuota(maxSessions, maxSessionsPerActor), asked: make(map[string]questions)}
}

// questions counts what the client of a session was asked, how much of that it has
// answered, and how much was withdrawn, to which its answers may still come.
type questions struct{ open, answered, withdrawn int }

// maxWithdrawn bounds how many late answers of a session are let in.
const maxWithdrawn = 16

// ask lets the client of a session send one response, until the returned
// function is called.
func (o *owners) ask(id string) (done func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.asked[id]
	q.open++
	o.asked[id] = q
	return sync.OnceFunc(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		q := o.asked[id]
		if q.open--; q.answered > 0 {
			q.answered--
		} else {
			q.withdrawn = min(q.withdrawn+1, maxWithdrawn)
		}
		o.asked[id] = q
		o.tidyLocked(id)
	})
}

// answer reports whether a session's client was asked something that it has not
// answered. Which response belongs to which question, the SDK knows; it drops
// those that belong to none. An answer that crosses the withdrawal of its question
// is let in too, since some clients end their session when it is refused.
func (o *owners) answer(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.asked[id]
	switch {
	case q.answered < q.open:
		q.answered++
	case q.withdrawn > 0:
		q.withdrawn--
	default:
		return false
	}
	o.asked[id] = q
	o.tidyLocked(id)
	return true
}

// tidyLocked forgets the questions of a session of which nothing is left, or which
// has ended.
func (o *owners) tidyLocked(id string) {
	if q := o.asked[id]; q == (questions{}) || q.open == 0 && o.of[id] == nil {
		delete(o.asked, id)
	}
}

// holds reports whether the session exists and belongs to owner.
func (o *owners) holds(id, owner string) bool {
	return o.get(id, owner) != nil
}

// get returns the session if it exists and belongs to owner, else nil.
func (o *owners) get(id, owner string) *held {
	o.mu.Lock()
	defer o.mu.Unlock()
	if h := o.of[id]; h != nil && h.owner == owner {
		return h
	}
	return nil
}

// ownerOf returns whose a session is; one that is only just beginning is nobody's
// but its own.
func (o *owners) ownerOf(id string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if h := o.of[id]; h != nil {
		return h.owner
	}
	return "session " + id
}

// room reports whether owner may open one more session.
func (o *owners) room(owner string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.quota.room(owner) {
		return true
	}
	live := o.live()
	for id := range o.of {
		if !live[id] {
			o.dropLocked(id)
		}
	}
	return o.quota.room(owner)
}

func (o *owners) add(id, owner string) *held {
	o.mu.Lock()
	defer o.mu.Unlock()
	h, ok := o.of[id]
	if !ok {
		h = &held{owner: owner, heard: time.Now()}
		o.of[id] = h
		o.quota.add(owner)
	}
	return h
}

func (o *owners) drop(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropLocked(id)
}

func (o *owners) dropLocked(id string) {
	h, ok := o.of[id]
	if !ok {
		return
	}
	h.end()
	delete(o.of, id)
	o.tidyLocked(id)
	o.quota.drop(h.owner)
}

// A watched response calls its hook once, before the headers are sent, and
// remembers how the SDK refused.
type watched struct {
	http.ResponseWriter
	hook   func(http.Header) // may be nil
	status int               // 0 until the headers are sent
}

func (w *watched) before(status int) {
	if w.status == 0 {
		w.status = status
		if w.hook != nil {
			w.hook(w.Header())
		}
	}
}

func (w *watched) WriteHeader(status int) {
	w.before(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(b []byte) (int, error) {
	w.before(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError implements what http.ResponseController looks for.
func (w *watched) FlushError() error {
	w.before(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}
