package mcpx

import (
	"container/list"
	"context"
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Clients of the older era may come again for the rest of an answer whose stream
// has ended (Last-Event-ID). Only the session that asked can, and the door lets
// only its owner into a session. What is kept for that is bounded: by the stream,
// for each owner, and in all; the oldest streams go first, and whoever comes for
// one of those is told that it is gone. Nothing is kept of the stream that belongs
// to no request.

const (
	maxReplayStreams = 64       // of one session
	maxReplayOwner   = 8 << 20  // bytes
	maxReplay        = 64 << 20 // bytes
	replayOverhead   = 256      // bytes that an event costs besides its text
)

// errNotKept is returned for events that cannot be sent again.
var errNotKept = errors.New("mcpx: this is not kept")

// A replay is what may be sent again. It implements [mcp.EventStore].
type replay struct {
	owner func(session string) string // of a session

	mu       sync.Mutex
	sessions map[string]map[string]*list.Element // of *kept, by stream
	order    list.List                           // of *kept, oldest first
	size     int
	of       map[string]int // bytes, by owner
}

// kept is one stream.
type kept struct {
	session, stream, owner string
	events                 [][]byte
	size                   int
}

func newReplay(owner func(string) string) *replay {
	return &replay{owner: owner, sessions: make(map[string]map[string]*list.Element), of: make(map[string]int)}
}

// Open implements [mcp.EventStore].
func (r *replay) Open(_ context.Context, session, stream string) error {
	if stream == "" {
		return nil
	}
	owner := r.owner(session)
	r.mu.Lock()
	defer r.mu.Unlock()
	mine := r.sessions[session]
	if mine == nil {
		mine = make(map[string]*list.Element)
		r.sessions[session] = mine
	}
	if mine[stream] != nil {
		return nil
	}
	if len(mine) >= maxReplayStreams {
		r.dropFirst(func(k *kept) bool { return k.session == session })
		if mine = r.sessions[session]; mine == nil {
			mine = make(map[string]*list.Element)
			r.sessions[session] = mine
		}
	}
	mine[stream] = r.order.PushBack(&kept{session: session, stream: stream, owner: owner})
	return nil
}

// Append implements [mcp.EventStore].
func (r *replay) Append(_ context.Context, session, stream string, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.sessions[session][stream]
	if e == nil {
		return errNotKept
	}
	k := e.Value.(*kept)
	n := len(data) + replayOverhead
	k.events = append(k.events, data)
	k.size += n
	r.size += n
	r.of[k.owner] += n
	for r.of[k.owner] > maxReplayOwner {
		r.dropFirst(func(other *kept) bool { return other.owner == k.owner })
	}
	for r.size > maxReplay {
		r.dropFirst(func(*kept) bool { return true })
	}
	if r.sessions[session][stream] == nil {
		return errNotKept
	}
	return nil
}

// After implements [mcp.EventStore].
func (r *replay) After(_ context.Context, session, stream string, index int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if stream == "" {
			return
		}
		r.mu.Lock()
		var events [][]byte
		e := r.sessions[session][stream]
		if e != nil {
			all := e.Value.(*kept).events
			events = slices.Clone(all[min(max(index+1, 0), len(all)):])
		}
		r.mu.Unlock()
		if e == nil {
			yield(nil, mcp.ErrEventsPurged)
			return
		}
		for _, data := range events {
			if !yield(data, nil) {
				return
			}
		}
	}
}

// SessionClosed implements [mcp.EventStore].
func (r *replay) SessionClosed(_ context.Context, session string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.sessions[session] {
		r.drop(e)
	}
	return nil
}

// dropFirst forgets the oldest stream of some. The caller holds the lock.
func (r *replay) dropFirst(of func(*kept) bool) {
	for e := r.order.Front(); e != nil; e = e.Next() {
		if of(e.Value.(*kept)) {
			r.drop(e)
			return
		}
	}
}

// drop forgets a stream. The caller holds the lock.
func (r *replay) drop(e *list.Element) {
	k := r.order.Remove(e).(*kept)
	r.size -= k.size
	if r.of[k.owner] -= k.size; r.of[k.owner] <= 0 {
		delete(r.of, k.owner)
	}
	delete(r.sessions[k.session], k.stream)
	if len(r.sessions[k.session]) == 0 {
		delete(r.sessions, k.session)
	}
}
