package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/credential"
)

// maxReply bounds what one request to an upstream may answer, in one stream or in
// several that go on where the one before has ended.
const maxReply = 16 << 20

var (
	errTooLarge = errors.New("mcpx: the upstream answered more than 16 MiB")
	errNoLease  = errors.New("mcpx: this request has no lease of the upstream's credential")
)

// A carriage is what belongs to one call on its way to an upstream and back. It
// travels in the context, because one session serves many calls, each with a
// lease of its own.
type carriage struct {
	lease    *credential.Lease // nil when the upstream needs none
	told     chan struct{}     // closed once the upstream was told of a cancellation
	tellOnce sync.Once

	mu     sync.Mutex
	method string          // of the one request that is forwarded, once it is sent
	said   *messages       // takes what the upstream says meanwhile, or nil
	polled func()          // is told when the stream of the request is asked for again; or nil
	found  []string        // secrets in that, for the record
	result json.RawMessage // as the upstream wrote it
	reply  *jsonrpc.Error  // the upstream's own error
	broken error           // the request could not be sent or read
	status int             // of an HTTP answer that is an error
	stream *capped         // the last stream of the request
}

type carriageKey struct{}

func carriageOf(ctx context.Context) *carriage {
	c, _ := ctx.Value(carriageKey{}).(*carriage)
	return c
}

// carried is the context of a call to an upstream. It ends with the agent's
// call but shows none of its values: the SDK keeps the protocol version and the
// id of the agent's request there, and would apply them to the upstream.
type carried struct {
	context.Context
	c *carriage
}

func (x carried) Value(key any) any {
	if key == (carriageKey{}) {
		return x.c
	}
	return nil
}

// AfterFunc is how package context learns of the end without a goroutine: since
// Value hides it too, it does not find the context within.
func (x carried) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(x.Context, f) }

// A wire is the state of one connection to an upstream.
type wire struct {
	http    bool
	version atomic.Value // string: the protocol version agreed
	dead    atomic.Bool  // nothing will come any more
	changed atomic.Bool  // the upstream said that its tools changed

	direct *carrier     // sends requests over HTTP, or is nil
	ids    atomic.Int64 // of requests that the fast path sent

	over    chan struct{} // closed once nothing will come any more
	ending  sync.Once
	asks    openAsks
	listens listens
	answer  atomic.Pointer[func(mcp.InputRequest) (mcp.InputResponse, error)] // of the call that may be asked, or nil
	updated func(params json.RawMessage)                                      // is told that a resource has changed; or nil
	watcher *carriage                                                         // of a session that only watches: for requests of the SDK's own

	hearer *hearer // of a child's standard error, or nil

	cut func() error // ends the connection at once; the SDK's Close waits for calls

	logs struct { // what the upstream was told to log, in versions with sessions
		sync.Mutex
		from int // index in levels, plus one
	}

	asWritten asWritten // what it listed

	lease   *credential.Lease // that the process was started with, or nil
	users   int               // calls under way; under the pool's lock
	retired bool              // ends with its last user; under the pool's lock
}

func newWire() *wire { return &wire{over: make(chan struct{})} }

// end notes that nothing will come any more.
func (w *wire) end() {
	w.dead.Store(true)
	w.asks.end()
	w.listens.end()
	w.ending.Do(func() { close(w.over) })
}

func (w *wire) agreed() string {
	v, _ := w.version.Load().(string)
	return v
}

// A tap wraps a transport to an upstream so that what comes back can be had
// byte for byte: the SDK's own results turn large integers into floats.
type tap struct {
	mcp.Transport
	wire *wire
	stop func() error // after the connection has ended
}

func (t *tap) Connect(ctx context.Context) (mcp.Connection, error) {
	conn, err := t.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	tc := &tapConn{Connection: conn, wire: t.wire, stop: t.stop, waiting: make(map[jsonrpc.ID]*carriage), lists: make(map[jsonrpc.ID]bool)}
	t.wire.cut = tc.Close
	return tc, nil
}

// tapConn hides the connection's private hooks from the SDK, of which one
// matters here: with it, a streamable connection learns the protocol version
// that its requests must name. The carrier adds that header instead.
type tapConn struct {
	mcp.Connection
	wire *wire
	stop func() error

	mu         sync.Mutex
	waiting    map[jsonrpc.ID]*carriage
	lists      map[jsonrpc.ID]bool // of tools, asked for
	initialize jsonrpc.ID

	closing sync.Once
	err     error
}

// send writes a message. A peer that does not read blocks the writes to a pipe
// for ever, whatever the context says; then the connection ends.
func (t *tapConn) send(ctx context.Context, msg jsonrpc.Message) error {
	if t.wire.http {
		return t.Connection.Write(ctx, msg)
	}
	stop := context.AfterFunc(ctx, func() { t.Close() })
	err := t.Connection.Write(ctx, msg)
	if !stop() && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (t *tapConn) Write(ctx context.Context, msg jsonrpc.Message) error {
	req, ok := msg.(*jsonrpc.Request)
	if !ok {
		if r, ok := msg.(*jsonrpc.Response); ok {
			t.wire.asks.answered(r.ID)
		}
		return t.send(ctx, msg)
	}
	c := carriageOf(ctx)
	if req.IsCall() {
		t.mu.Lock()
		if c != nil && c.awaits(req.Method) {
			t.waiting[req.ID] = c
		}
		switch req.Method {
		case methodInitialize:
			t.initialize = req.ID
		case methodListTools:
			t.lists[req.ID] = true
		case methodListen:
			t.wire.listens.asked(req)
		}
		t.mu.Unlock()
		err := t.send(ctx, msg)
		if err != nil && req.Method == methodListen {
			t.wire.listens.answered(req.ID, err)
		}
		return err
	}
	if req.Method == notifyCancelled && c != nil {
		defer c.tellOnce.Do(func() { close(c.told) })
		if t.wire.http && t.wire.agreed() >= modernVersion {
			return nil // closing the request was the cancellation
		}
	}
	return t.send(ctx, msg)
}

func (t *tapConn) Read(ctx context.Context) (jsonrpc.Message, error) {
	msg, err := t.Connection.Read(ctx)
	if err != nil {
		t.wire.end()
		return msg, err
	}
	switch m := msg.(type) {
	case *jsonrpc.Request:
		if m.IsCall() && isAsk(m.Method) {
			t.wire.asks.asked(m.ID)
		}
		switch m.Method {
		case notifyToolsChanged, notifyPromptsChanged:
			t.wire.changed.Store(true)
		case notifyListening:
			t.wire.listens.acknowledged(m.Params)
		case notifyUpdated:
			if t.wire.updated != nil {
				t.wire.updated(m.Params)
			}
		case notifyProgress, notifyMessage:
			if !t.wire.http { // else the carrier has heard it, and knows whose it is
				t.heard(m)
			}
		}
	case *jsonrpc.Response:
		t.mu.Lock()
		c := t.waiting[m.ID]
		delete(t.waiting, m.ID)
		first := t.initialize.IsValid() && m.ID == t.initialize
		listed := t.lists[m.ID]
		delete(t.lists, m.ID)
		t.mu.Unlock()
		if listed {
			t.wire.listed(m.Result)
		}
		t.wire.listens.answered(m.ID, m.Error)
		if c != nil {
			c.answered(m)
			if m.Error == nil { // the SDK need not read it too, and might refuse it
				msg = &jsonrpc.Response{ID: m.ID, Result: stubs[c.method]}
			}
		}
		if first {
			var r struct {
				Version string `json:"protocolVersion"`
			}
			if json.Unmarshal(m.Result, &r) == nil {
				t.wire.version.Store(r.Version)
			}
		}
	}
	return msg, nil
}

// stubs are results that say nothing.
var stubs = map[string]json.RawMessage{
	methodCallTool:     json.RawMessage(`{"content":[]}`),
	methodGetPrompt:    json.RawMessage(`{"messages":[]}`),
	methodReadResource: json.RawMessage(`{"contents":[]}`),
	methodComplete:     json.RawMessage(`{"completion":{"values":[]}}`),
	methodGetTask:      json.RawMessage(`{}`),
	methodUpdateTask:   json.RawMessage(`{}`),
	methodCancelTask:   json.RawMessage(`{}`),
}

// heard gives a message to the call that it belongs to. Progress names its call.
// A log message does not: it belongs to the only call under way, and is nobody's
// if there are several.
func (t *tapConn) heard(m *jsonrpc.Request) {
	var whose *messages
	t.mu.Lock()
	for _, c := range t.waiting {
		said := c.hears()
		switch {
		case m.Method == notifyMessage:
			if len(t.waiting) == 1 {
				whose = said
			}
		case said.wants() && said.token != "" && bytes.Contains(m.Params, []byte(said.token)):
			whose = said // which compares it exactly
		}
	}
	t.mu.Unlock()
	whose.hear(m.Method, m.Params)
}

func (t *tapConn) Close() error {
	t.closing.Do(func() {
		t.wire.end()
		t.err = t.Connection.Close()
		if t.stop != nil {
			t.err = errors.Join(t.err, t.stop())
		}
	})
	return t.err
}

// begin forgets what happened while connecting: an upstream of the older era
// refuses the newer handshake first.
func (c *carriage) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.broken = 0, nil
}

// awaits reports whether the forwarded request has this method.
func (c *carriage) awaits(method string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.method == method
}

// hears returns who takes what the upstream says during the call, or nil.
func (c *carriage) hears() *messages {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said
}

// checks are what was found in messages, for the record.
func (c *carriage) checks() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.found
}

// expect prepares for the answer to a request that is about to be sent.
func (c *carriage) expect(method string, said *messages) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.method, c.said = method, said
	c.result, c.reply = nil, nil
}

// resumed says that the stream of the request is asked for again.
func (c *carriage) resumed() {
	c.mu.Lock()
	polled := c.polled
	c.mu.Unlock()
	if polled != nil {
		polled()
	}
}

func (c *carriage) answered(m *jsonrpc.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result = m.Result
	if m.Error != nil {
		errors.As(m.Error, &c.reply)
	}
}

func (c *carriage) note(status int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if status >= 400 {
		c.status = status
	}
	if err != nil {
		c.broken = err
	}
}

// A carrier sends the requests of an upstream over HTTP, each with the lease of
// the call that it belongs to.
type carrier struct {
	base         http.RoundTripper
	credentialed bool
	wire         *wire
}

func (t *carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	c := carriageOf(r.Context())
	if c == nil {
		c = t.wire.watcher
	}
	rt := t.base
	if t.credentialed {
		if c == nil || c.lease == nil {
			if r.Body != nil {
				r.Body.Close()
			}
			return nil, errNoLease
		}
		rt = c.lease.Transport(t.base)
	}
	if v := t.wire.agreed(); v != "" && r.Header.Get(headerVersion) == "" {
		r = r.Clone(r.Context())
		r.Header.Set(headerVersion, v)
	}
	resumes := c != nil && r.Method == http.MethodGet && r.Header.Get(lastEvent) != ""
	if resumes {
		c.resumed()
	}
	resp, err := rt.RoundTrip(r)
	if c != nil {
		if err != nil {
			c.note(0, err)
		} else {
			c.note(resp.StatusCode, nil)
		}
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 && c != nil && strings.TrimSpace(resp.Header.Get("Location")) != "" {
		c.note(0, errRedirect)
	}
	body := &capped{ReadCloser: resp.Body, c: c}
	body.left.Store(maxReply)
	if c != nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		if said := c.hears(); said.wants() {
			body.events = &eventScanner{found: said.event}
		}
		body.follows(c, resumes)
	}
	resp.Body = body
	return resp, nil
}

// capped is a body that ends with an error when it is too long.
type capped struct {
	io.ReadCloser
	left   atomic.Int64
	c      *carriage
	events *eventScanner // or nil
}

// follows makes a stream the last one of its request. One that resumes another has
// only what that has left.
func (b *capped) follows(c *carriage, resumes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if resumes && c.stream != nil {
		b.left.Store(c.stream.left.Load())
	}
	c.stream = b
}

func (b *capped) Read(p []byte) (int, error) {
	left := b.left.Load()
	if left <= 0 {
		if b.c != nil {
			b.c.note(0, errTooLarge)
		}
		return 0, errTooLarge
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left.Add(-int64(n))
	if b.events != nil {
		b.events.write(p[:n])
	}
	if err != nil && err != io.EOF && b.c != nil {
		b.c.note(0, err)
	}
	return n, err
}
