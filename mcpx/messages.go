//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// While a call is under way its upstream may say how far it is, and write log
// messages. They go to the client that called, in their order and before the
// result, scrubbed like the result, and each only if the client asked for it.

// maxQueued bounds what one call has waiting for a client that reads slowly; an
// upstream that says more waits.
const maxQueued = 1 << 20

// levels of log messages, from the least severe on.
var levels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// A told is one message on its way to a client.
type told struct {
	method string
	params json.RawMessage
}

// messages are what an upstream says during one call.
type messages struct {
	ctx    context.Context // of the call
	send   func(told)      // to the client
	clean  func([]byte) []byte
	token  string          // of progress, as the upstream knows it; "" asks for none
	theirs json.RawMessage // the same as the client knows it
	level  int             // of log messages; -1 asks for none
	brief  bool            // nothing in words may go out, see [governance.Decision.Demands]

	mu     sync.Mutex
	room   sync.Cond
	queue  []told
	size   int
	busy   bool // somebody is sending
	closed bool
}

// wants reports whether the client asked for anything.
func (m *messages) wants() bool { return m != nil && (m.token != "" || m.level >= 0) }

// hear takes a message of the upstream that belongs to this call. It blocks
// while too much is waiting, and never longer than the call takes.
func (m *messages) hear(method string, params json.RawMessage) {
	if !m.wants() {
		return
	}
	out, ok := m.pass(method, params)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.size > maxQueued && !m.closed {
		m.room.Wait()
	}
	if m.closed {
		return
	}
	m.queue = append(m.queue, told{method, out})
	m.size += len(out)
	if !m.busy {
		m.busy = true
		go m.pump()
	}
}

// event is hear for a message in a stream that belongs to this call alone.
func (m *messages) event(data []byte) {
	if !bytes.Contains(data, []byte(`"notifications/`)) {
		return
	}
	msg, err := jsonrpc.DecodeMessage(data)
	if req, ok := msg.(*jsonrpc.Request); err == nil && ok && (req.Method == notifyProgress || req.Method == notifyMessage) {
		m.hear(req.Method, req.Params)
	}
}

// pass makes of an upstream's message what the client gets, if anything.
func (m *messages) pass(method string, params json.RawMessage) (json.RawMessage, bool) {
	var body, meta []byte
	mine, level := false, -1
	ok := eachMember(params, func(key string, v []byte) bool {
		switch {
		case key == "_meta":
			return eachMember(v, func(key string, v []byte) bool {
				if mayPass(key) {
					meta = appendMember(meta, key, v)
				}
				return true
			})
		case method == notifyProgress && key == "progressToken":
			var token string
			mine = json.Unmarshal(v, &token) == nil && token == m.token
			v = m.theirs
		case method == notifyProgress && m.brief: // numbers only, and no others
			if key != "progress" && key != "total" || jsontext.Value(v).Kind() != '0' {
				return true
			}
		case method == notifyMessage && key == "level":
			var name string
			if json.Unmarshal(v, &name) == nil {
				level = slices.Index(levels, name)
			}
		}
		body = appendMember(body, key, v)
		return true
	})
	switch {
	case !ok:
		return nil, false
	case method == notifyProgress && (m.token == "" || !mine): // somebody else's
		return nil, false
	case method == notifyMessage && (m.brief || m.level < 0 || level < m.level):
		return nil, false
	}
	if len(meta) > 0 && !m.brief {
		body = appendMember(body, "_meta", slices.Concat([]byte("{"), meta, []byte("}")))
	}
	out := m.clean(slices.Concat([]byte("{"), body, []byte("}")))
	return out, json.Valid(out)
}

// pump sends what is queued, and ends when there is nothing more.
func (m *messages) pump() {
	for {
		m.mu.Lock()
		if len(m.queue) == 0 || m.closed {
			m.busy = false
			m.room.Broadcast()
			m.mu.Unlock()
			return
		}
		next := m.queue[0]
		m.queue = m.queue[1:]
		m.size -= len(next.params)
		m.room.Broadcast()
		m.mu.Unlock()
		m.send(next)
	}
}

// end waits until all is sent that came before the result, or until the call's
// end, and takes nothing from then on.
func (m *messages) end() {
	if !m.wants() {
		return
	}
	stop := context.AfterFunc(m.ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closed = true
		m.room.Broadcast()
	})
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.busy && !m.closed {
		m.room.Wait()
	}
	m.closed = true
	m.room.Broadcast()
}

// newMessages prepares for what the upstream says during an allowed call.
func (g *Gateway) newMessages(ctx context.Context, q *query, f *flight, c *carriage) *messages {
	if q.req == nil {
		return nil
	}
	m := &messages{ctx: ctx, level: -1, send: g.clientOf(q, f)}
	m.room.L = &m.mu
	params, _ := q.req.GetParams().(mcp.RequestParams)
	if params == nil || isNil(q.req.GetParams()) {
		return nil
	}
	if theirs, ok := progressToken(params.GetProgressToken()); ok {
		m.theirs, m.token = theirs, audit.NewID()
	}
	if level := g.levelOf(q); level >= 0 && g.mayLog(ctx, f) {
		m.level = level
	}
	if !m.wants() {
		return nil
	}
	demands, err := f.decision.Demands()
	m.brief = err != nil || demands.MaxBytes > 0 || !demands.Redact.Empty()
	m.clean = func(b []byte) []byte {
		clean, found := g.redact(c, b)
		if len(found) > 0 && g.heardSecret(ctx, f, c, found) != nil {
			return nil
		}
		return clean
	}
	return m
}

// progressToken is a client's token as JSON. One that the SDK may have rounded
// is of no use to its client.
func progressToken(token any) (json.RawMessage, bool) {
	switch t := token.(type) {
	case string:
	case int64:
	case int:
	case float64:
		if math.Abs(t) > 1<<53 {
			return nil, false
		}
	default:
		return nil, false
	}
	text, err := json.Marshal(token)
	return text, err == nil
}

// levelOf is from which level on the client of a request wants log messages, or
// -1 for none.
func (g *Gateway) levelOf(q *query) int {
	if q.modern {
		name, _ := metaOf(q.req)[mcp.MetaKeyLogLevel].(string)
		return slices.Index(levels, name)
	}
	ss, _ := q.req.GetSession().(*mcp.ServerSession)
	return g.levels.of(ss)
}

// mayLog reports whether the actor may see log messages of the server: it is the
// action subscribe on a resource that is called "logging".
func (g *Gateway) mayLog(ctx context.Context, f *flight) bool {
	vis, err := g.gov.engine.Visible(ctx, f.actor, "subscribe", []governance.ToolRef{{Server: f.server, Name: loggingName}})
	return err == nil && len(vis) == 1 && vis[0] != governance.Never
}

const loggingName = "logging"

// clientOf sends to the client of a request, on that request's stream.
func (g *Gateway) clientOf(q *query, f *flight) func(told) {
	return func(t told) {
		q := f.listener(q)
		if q == nil {
			return // it is away
		}
		ss, _ := q.req.GetSession().(*mcp.ServerSession)
		if ss == nil {
			return
		}
		// The SDK finds the stream by the request's own context.
		_, err := g.send(q.outer, t.method, &mcp.ServerRequest[*rawParams]{Session: ss, Params: &rawParams{raw: t.params}})
		if err != nil {
			g.gov.logger.Debug("mcpx: a message did not reach the client", "method", t.method, "error", err)
		}
	}
}

// rawParams are parameters as they go on the wire.
type rawParams struct {
	mcp.ParamsBase
	raw json.RawMessage
}

func (p *rawParams) MarshalJSON() ([]byte, error) { return p.raw, nil }

// sessionLevels remembers which log messages the clients' sessions asked for.
type sessionLevels struct {
	mu   sync.Mutex
	by   map[*mcp.ServerSession]int
	live func() map[*mcp.ServerSession]bool
}

func (l *sessionLevels) of(ss *mcp.ServerSession) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.by[ss]; ok {
		return n
	}
	return -1
}

func (l *sessionLevels) set(ss *mcp.ServerSession, level int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.by) >= 64 && len(l.by)&(len(l.by)-1) == 0 { // now and then
		live := l.live()
		for old := range l.by {
			if !live[old] {
				delete(l.by, old)
			}
		}
	}
	if l.by == nil {
		l.by = make(map[*mcp.ServerSession]int)
	}
	l.by[ss] = level
}

// An eventScanner finds the messages in a stream of server-sent events, as the
// SDK reads it.
type eventScanner struct {
	line, data []byte
	found      func(data []byte)
}

func (e *eventScanner) write(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			e.line = append(e.line, p...)
			return
		}
		line := p[:i]
		if len(e.line) > 0 {
			line = append(e.line, line...)
		}
		p = p[i+1:]
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case len(line) == 0:
			if len(e.data) > 0 {
				e.found(e.data)
			}
			e.data = e.data[:0]
		case bytes.HasPrefix(line, []byte("data:")):
			if len(e.data) > 0 {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, bytes.TrimPrefix(line[len("data:"):], []byte(" "))...)
		}
		e.line = e.line[:0]
	}
}
