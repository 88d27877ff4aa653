package mcpx

import (
	"net/http"
	"sync"
)

// Caps on the MCP sessions of clients that speak a protocol with sessions.
const (
	maxSessions         = 10_000
	maxSessionsPerActor = 256
)

const sessionHeader = "Mcp-Session-Id"

// owners remembers whose each MCP session is. The SDK binds sessions too, but
// answers a stranger differently from somebody with an unknown id.
type owners struct {
	live func() map[string]bool // the ids that the SDK still serves

	mu    sync.Mutex
	of    map[string]string
	many  map[string]int
	asked map[string]questions // by session
}

func newOwners(live func() map[string]bool) *owners {
	return &owners{live: live, of: make(map[string]string), many: make(map[string]int), asked: make(map[string]questions)}
}

// questions counts what the client of a session was asked, and how much of that
// it has answered.
type questions struct{ open, answered int }

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
		q.open, q.answered = q.open-1, max(0, q.answered-1)
		if o.asked[id] = q; q.open == 0 {
			delete(o.asked, id)
		}
	})
}

// answer reports whether a session's client was asked something that it has not
// answered. Which response belongs to which question, the SDK knows; it drops
// those that belong to none.
func (o *owners) answer(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.asked[id]
	if q.answered >= q.open {
		return false
	}
	q.answered++
	o.asked[id] = q
	return true
}

// holds reports whether the session exists and belongs to owner.
func (o *owners) holds(id, owner string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	of, ok := o.of[id]
	return ok && of == owner
}

// room reports whether owner may open one more session.
func (o *owners) room(owner string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.of) < maxSessions && o.many[owner] < maxSessionsPerActor {
		return true
	}
	live := o.live()
	for id := range o.of {
		if !live[id] {
			o.dropLocked(id)
		}
	}
	return len(o.of) < maxSessions && o.many[owner] < maxSessionsPerActor
}

func (o *owners) add(id, owner string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.of[id]; !ok {
		o.of[id] = owner
		o.many[owner]++
	}
}

func (o *owners) drop(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropLocked(id)
}

func (o *owners) dropLocked(id string) {
	owner, ok := o.of[id]
	if !ok {
		return
	}
	delete(o.of, id)
	if o.many[owner]--; o.many[owner] <= 0 {
		delete(o.many, owner)
	}
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
