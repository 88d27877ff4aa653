package mcpx

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// firstID is where the ids of our own requests begin: in a session with an
// upstream that the SDK has too, whose ids count from 1. They are exact in every
// parser.
const firstID = 1 << 40

// drainWait is how long the end of a stream is waited for.
const drainWait = 100 * time.Millisecond

// errGarbage is an answer that is not what was asked for.
var errGarbage = errors.New("mcpx: the upstream's answer cannot be read")

// direct does an allowed call at an upstream over HTTP: one request, whose
// arguments are the bytes that were decided.
func (g *Gateway) direct(ctx context.Context, f *flight, u *Upstream, a *answer) (reply, error) {
	p, err := g.reach(ctx, f, u)
	defer p.end()
	if err != nil {
		return nil, err
	}
	x := &exchange{g: g, p: p, f: f, u: u, answer: a, id: firstID + p.s.wire.ids.Add(1)}
	raw, err := x.call()
	switch {
	case x.withheld != nil:
		return nil, x.withheld
	case err != nil:
		x.tell()
		return nil, g.explain(p.outer, p.ctx, u, f, p.c, p.s, err)
	}
	p.c.expect(methodCallTool, nil)
	p.c.mu.Lock()
	p.c.result = raw
	p.c.mu.Unlock()
	r, err := g.clean(p.ctx, f, p.c)
	if errors.Is(err, errAsks) { // of a client that cannot be asked
		_, r, err = g.again(p.ctx, f.q, f, u, r.(*rawReply), 1)
	}
	return r, err
}

// An exchange is the request of one call to an upstream, and its answer.
type exchange struct {
	g      *Gateway
	p      *passage
	f      *flight
	u      *Upstream
	answer *answer
	id     int64
	ok     bool // by its status it is an answer

	// Of what is no tools/call: its method, what Mcp-Name says, and all of it.
	method, name string
	raw          []byte

	withheld error // why a notification is not passed on, which ends the call
}

func (x *exchange) modern() bool { return x.p.s.wire.agreed() >= modernVersion }

// body is the request: what is around the arguments, and they themselves.
func (x *exchange) body() []byte {
	if x.raw != nil {
		return x.raw
	}
	b := make([]byte, 0, 448+len(x.f.args))
	b = strconv.AppendInt(append(b, `{"jsonrpc":"2.0","id":`...), x.id, 10)
	b = append(b, `,"method":"tools/call","params":{`...)
	meta := len(b)
	b = append(b, `"_meta":{`...)
	open := len(b)
	if x.modern() {
		b = append(b, clientMeta...)
		if x.f.q != nil && x.f.q.tasks {
			b = append(b, `"extensions":{"`+tasksExtension+`":{}}`...)
		}
		b = append(b, "},"...)
	}
	if x.f.trace != "" {
		b = append(append(append(b, `"traceparent":"`...), x.f.trace...), `",`...)
	}
	if x.answer.token != nil {
		b = append(strconv.AppendInt(append(b, `"progressToken":`...), x.id, 10), ',')
	}
	if len(b) == open {
		b = b[:meta]
	} else {
		b = append(b[:len(b)-1], "},"...)
	}
	b = append(b, `"name":`...)
	b, _ = jsontext.AppendQuote(b, x.f.tool)
	b = append(b, `,"arguments":`...)
	return append(append(b, x.f.args...), "}}"...)
}

// clientMeta is what the newer protocol wants to know with each request.
const clientMeta = `"` + mcp.MetaKeyProtocolVersion + `":"` + modernVersion + `","` +
	mcp.MetaKeyClientInfo + `":{"name":"twinward","version":"1"},"` + mcp.MetaKeyClientCapabilities + `":{`

// post sends one message in this actor's session with the upstream. Net/http knows
// that a bytes.Reader does not block, and so needs one write for all.
func (x *exchange) post(ctx context.Context, body []byte, name string) (*http.Response, error) {
	h := make(http.Header, 8)
	values := make([]string, 0, 6) // one piece of memory for all
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set("Content-Type", "application/json")
	set("Accept", "application/json, text/event-stream")
	if v := x.p.s.wire.agreed(); v != "" {
		set(headerVersion, v)
	}
	if id := x.p.s.cs.ID(); id != "" {
		set(sessionHeader, id)
	}
	if x.modern() {
		set(headerMethod, cmp.Or(x.method, methodCallTool))
		set(headerName, name)
	}
	r := new(http.Request).WithContext(carried{ctx, x.p.c})
	r.Method, r.URL, r.Host, r.Header = http.MethodPost, x.u.endpoint, x.u.endpoint.Host, h
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	// A connection that was found closed before anything was written is no call that
	// was made.
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return x.p.s.wire.direct.RoundTrip(r)
}

// call sends the request and returns the result as it was written.
func (x *exchange) call() (json.RawMessage, error) {
	ctx, cancel := context.WithCancel(x.p.ctx)
	defer context.AfterFunc(x.g.pool.life, cancel)() // closing ends what is under way
	resp, err := x.post(ctx, x.body(), cmp.Or(x.name, x.f.tool))
	if err != nil {
		cancel()
		return nil, err
	}
	x.ok = resp.StatusCode >= 200 && resp.StatusCode < 300
	kind, _, _ := mediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode == http.StatusOK && kind == "text/event-stream" {
		raw, rest, err := x.events(ctx, resp.Body)
		if rest == nil {
			cancel()
		} else if err != nil || !x.g.pool.background(func() { drain(rest, cancel) }) {
			cancel()
			rest.Close()
		}
		return raw, err
	}
	defer cancel()
	defer resp.Body.Close()
	if kind != "application/json" && resp.StatusCode == http.StatusOK {
		return nil, fmt.Errorf("%w: its media type is %q", errGarbage, clip(kind, 64))
	}
	body, err := readAll(resp)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, errors.New(resp.Status) // whose words these are is not known
	}
	raw, done, _, err := x.read(body)
	if err == nil && !done {
		err = errGarbage
	}
	var own *jsonrpc.Error
	if !x.ok {
		if !errors.As(err, &own) {
			err = errors.New(resp.Status)
		}
		return nil, err
	}
	return raw, err
}

func readAll(resp *http.Response) ([]byte, error) {
	if n := resp.ContentLength; n > 0 && n <= 1<<20 {
		b := make([]byte, n)
		_, err := io.ReadFull(resp.Body, b)
		return b, err
	}
	return io.ReadAll(resp.Body)
}

// read takes one message of the upstream: if it is the answer, done, its result
// or error, or else what it asks or tells.
func (x *exchange) read(text []byte) (result json.RawMessage, done bool, other *jsonrpc.Request, err error) {
	if raw, ok := readResponse(text, x.id); ok {
		return raw, true, nil, nil
	}
	msg, err := jsonrpc.DecodeMessage(text)
	if err != nil {
		return nil, false, nil, err
	}
	switch m := msg.(type) {
	case *jsonrpc.Request:
		return nil, false, m, nil
	case *jsonrpc.Response:
		if id, ok := m.ID.Raw().(int64); !ok || id != x.id {
			return nil, false, nil, nil // of no call of ours
		}
		if x.ok {
			x.p.c.answered(m)
		}
		return m.Result, true, nil, m.Error
	}
	return nil, false, nil, errGarbage
}

// readResponse reads an ordinary response to a request.
func readResponse(body []byte, id int64) (json.RawMessage, bool) {
	d := newReader(body)
	defer d.close()
	if d.PeekKind() != '{' {
		return nil, false
	}
	var version, of, result jsontext.Value
	err := d.object(func(key []byte) error {
		var err error
		switch string(key) {
		case "jsonrpc":
			version, err = d.value()
		case "id":
			of, err = d.value()
		case "result":
			result, err = d.value()
		default:
			err = errJSON
		}
		return err
	})
	if err != nil {
		return nil, false
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, false
	}
	ours := string(version) == `"2.0"` && string(of) == strconv.FormatInt(id, 10)
	return json.RawMessage(result), ours && result != nil
}

// tell tells an upstream that a call which it may still do is cancelled. In the
// newer protocol the end of the request has said so.
func (x *exchange) tell() {
	if x.p.ctx.Err() == nil || x.modern() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.p.ctx), cancelWait)
	defer cancel()
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d,"reason":%q}}`, x.id, x.p.ctx.Err().Error())
	x.send(ctx, body)
}

// send sends what has no answer.
func (x *exchange) send(ctx context.Context, body []byte) {
	if resp, err := x.post(ctx, body, ""); err == nil {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		resp.Body.Close()
	}
}

// told takes what the upstream asks or tells while it works.
func (x *exchange) told(ctx context.Context, m *jsonrpc.Request) {
	switch {
	case m.IsCall():
		x.refuse(ctx, m)
	case m.Method == notifyToolsChanged || m.Method == notifyPromptsChanged:
		x.p.s.wire.changed.Store(true)
	case m.Method == notifyProgress:
		x.progress(m)
	}
}

// refuse answers an upstream that asks the agent for something: with a refusal,
// unless a call has the session for itself. A session lives on without an answer to
// a ping only so long.
func (x *exchange) refuse(ctx context.Context, m *jsonrpc.Request) {
	r := &jsonrpc.Response{ID: m.ID}
	switch m.Method {
	case methodPing:
		r.Result = json.RawMessage("{}")
	case askElicit, askSample, askRoots:
		res, err := x.g.asked(ctx, x.p.s.wire, x.f.actor, x.u.Name, readAsk(m))
		if err == nil {
			r.Result, err = json.Marshal(res)
		}
		if err != nil {
			r.Result, r.Error = nil, err
		}
	default:
		r.Error = &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "this client answers no " + clip(m.Method, 64)}
	}
	if body, err := jsonrpc.EncodeMessage(r); err == nil {
		// Also if the call has ended meanwhile: the server waits for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelWait)
		defer cancel()
		x.send(ctx, body)
	}
}

// progress passes on how far the call is, under the client's own token. What
// policy demands of answers cannot be done to it, so then it is left out.
func (x *exchange) progress(m *jsonrpc.Request) {
	if x.answer.token == nil || len(x.f.decision.Obligations) > 0 {
		return
	}
	text, found := x.g.redact(x.p.c, m.Params)
	if len(found) > 0 {
		if x.withheld = x.g.leaked(x.p.ctx, x.f, "progress", found); x.withheld != nil {
			return
		}
	}
	if params, ok := retarget(text, x.id, x.answer.token); ok {
		x.answer.notify(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":%s}`, params))
	}
}

// retarget replaces the token of a progress notification, and drops its _meta.
func retarget(params []byte, ours int64, theirs json.RawMessage) ([]byte, bool) {
	d := newReader(params)
	defer d.close()
	if d.PeekKind() != '{' {
		return nil, false
	}
	out := append([]byte(`{"progressToken":`), theirs...)
	mine := false
	err := d.object(func(key []byte) error {
		switch string(key) {
		case "progressToken", "progress", "total", "message":
		default:
			return d.SkipValue()
		}
		v, err := d.value()
		if string(key) == "progressToken" {
			mine = string(v) == strconv.FormatInt(ours, 10)
		} else {
			out = append(append(append(append(out, `,"`...), key...), `":`...), v...)
		}
		return err
	})
	return append(out, '}'), err == nil && mine && !bytes.ContainsAny(out, "\r\n")
}

// upToResult reads one stream of events up to the result. If there is none in it,
// the error is a [brokenOff].
func (x *exchange) upToResult(ctx context.Context, s *events) (json.RawMessage, error) {
	for {
		data, err := s.next()
		if err != nil {
			return nil, brokenOff{err}
		}
		result, done, other, err := x.read(data)
		switch {
		case err != nil || done:
			return result, err
		case other != nil:
			if x.told(ctx, other); x.withheld != nil {
				return nil, x.withheld
			}
		}
	}
}

// drain reads the little that comes after a result, so that the connection can
// be used again, and does not wait long for it.
func drain(body io.ReadCloser, cancel context.CancelFunc) {
	timer := time.AfterFunc(drainWait, cancel)
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	timer.Stop()
	cancel()
	_ = body.Close()
}
