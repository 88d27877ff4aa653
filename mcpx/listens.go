package mcpx

import (
	"encoding/json"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// From 2026-07-28 on, who wants to hear of a resource sends a request that lasts as
// long as that does. The server acknowledges it first, and says there of which
// resources it will tell; it answers it to refuse, or when it tells no more. The SDK
// waits for neither, so the tap notes both.

// A listening is one such request, for one resource.
type listening struct {
	uri   string
	id    jsonrpc.ID    // under the listens' lock
	heard chan struct{} // closed once it is acknowledged
	over  chan struct{} // closed once nothing comes of it any more
	why   error         // to read once it is over
}

// listens are those of one connection. The zero value is ready to use, by several
// goroutines at once.
type listens struct {
	mu    sync.Mutex
	of    map[string]*listening // by URI
	ended bool                  // the connection has
}

// errNotTold is why a listening is over that its server did not refuse in words.
var errNotTold = &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: "the server does not tell of changes of this"}

// expect prepares for a request to listen for a resource. There is one at a time.
func (s *listens) expect(uri string) *listening {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &listening{uri: uri, heard: make(chan struct{}), over: make(chan struct{})}
	if s.ended {
		l.why = errNotTold
		close(l.over)
		return l
	}
	if s.of == nil {
		s.of = make(map[string]*listening)
	}
	s.of[uri] = l
	return l
}

// forget is for who wants to hear no more.
func (s *listens) forget(l *listening) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overLocked(l, errNotTold)
}

// asked notes the id of a request that is about to be sent.
func (s *listens) asked(m *jsonrpc.Request) {
	var p mcp.SubscriptionsListenParams
	if json.Unmarshal(m.Params, &p) != nil || p.Notifications == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, uri := range p.Notifications.ResourceSubscriptions {
		if l := s.of[uri]; l != nil {
			l.id = m.ID
		}
	}
}

// acknowledged notes that a server has agreed to tell of something.
func (s *listens) acknowledged(params json.RawMessage) {
	var p mcp.SubscriptionsAcknowledgedParams
	if json.Unmarshal(params, &p) != nil {
		return
	}
	id, err := jsonrpc.MakeID(p.Meta[mcp.MetaKeySubscriptionID])
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.findLocked(id)
	switch {
	case l == nil:
	case !slices.Contains(p.Notifications.ResourceSubscriptions, l.uri):
		s.overLocked(l, errNotTold)
	default:
		select {
		case <-l.heard: // it says so twice
		default:
			close(l.heard)
		}
	}
}

// answered notes that a request is over: err is why, nil if the server has ended it.
func (s *listens) answered(id jsonrpc.ID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.findLocked(id); l != nil {
		if err == nil {
			err = errNotTold
		}
		s.overLocked(l, err)
	}
}

// end notes that nothing will come any more.
func (s *listens) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, l := range s.of {
		s.overLocked(l, errNotTold)
	}
}

func (s *listens) findLocked(id jsonrpc.ID) *listening {
	for _, l := range s.of {
		if l.id.IsValid() && l.id == id {
			return l
		}
	}
	return nil
}

func (s *listens) overLocked(l *listening, why error) {
	if s.of[l.uri] == l {
		delete(s.of, l.uri)
		l.why = why
		close(l.over)
	}
}
