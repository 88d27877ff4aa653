package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
)

// The fast path carries an ordinary tools/call without the SDK: what the door
// scanned is governed as it is, and its arguments go to the upstream byte for
// byte. Whatever is not ordinary in the shape of a request, which its sender
// decides, goes by the SDK; so which way it goes tells nobody what exists here.
//
// Both ways meet in [governor.call].

// fast reports whether the fast path takes a request that the door let in, and
// the actor's session with it if the protocol has sessions.
func (g *Gateway) fast(r *http.Request, v *visit, m message, h *held) bool {
	switch {
	case g.slow || g.gov.broken != nil:
		return false
	case m.method != methodCallTool || !m.call || !m.named || m.odd:
		return false
	case !accepts(r.Header.Values("Accept")) || len(r.Header.Values(lastEvent)) > 0:
		return false
	case !m.asked.ordinary():
		return false
	}
	version := r.Header.Get(headerVersion)
	if version >= modernVersion {
		if version != modernVersion || m.asked.features == nil || mayAsk(json.RawMessage(m.asked.features)) {
			return false
		}
	} else if !legacyVersion(version) || m.asked.version != nil || !h.ready() {
		return false
	}
	return !g.needsSDK(r, v, m)
}

// needsSDK reports whether the tool is one that the SDK has to carry. For a tool
// that the actor must not know about the answer is as for one that is not there.
func (g *Gateway) needsSDK(r *http.Request, v *visit, m message) bool {
	for name := range r.Header {
		if strings.HasPrefix(name, "Mcp-Param-") {
			return true
		}
	}
	server, tool := g.route(kindTool, m.name)
	u := g.upstream(server)
	if u == nil {
		return false
	}
	def, _, ok := g.gov.engine.Tool(server, tool)
	if ok && paramHeaders(def.InputSchema) || u.endpoint == nil && m.asked.progress != nil {
		return !g.hidden(r.Context(), v.actor, m.name)
	}
	return false
}

// paramHeaders reports whether a schema may want arguments repeated in headers.
func paramHeaders(schema json.RawMessage) bool {
	return bytes.Contains(schema, []byte("x-mcp-header")) || bytes.Contains(schema, []byte(`\u`))
}

func legacyVersion(v string) bool {
	switch v {
	case "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05":
		return true
	}
	return false
}

// accepts reports whether an Accept header takes both forms of an answer.
func accepts(values []string) bool {
	text, stream := false, false
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			kind, _, _ := strings.Cut(part, ";")
			switch strings.TrimSpace(kind) {
			case "application/json":
				text = true
			case "text/event-stream":
				stream = true
			case "*/*":
				text, stream = true, true
			}
		}
	}
	return text && stream
}

// ordinary reports whether the SDK would have nothing against the metadata.
func (m *meta) ordinary() bool {
	if m.odd || m.version != nil && m.version.Kind() != '"' || m.trace != nil && m.trace.Kind() != '"' {
		return false
	}
	if m.progress != nil && !validID(m.progress) {
		return false
	}
	return m.client == nil || m.client.Kind() == '{' && onlyStrings(m.client)
}

// onlyStrings reports whether all members of an object are strings.
func onlyStrings(object jsontext.Value) bool {
	d := newReader(object)
	defer d.close()
	ok := true
	err := d.object(func([]byte) error {
		ok = ok && d.PeekKind() == '"'
		return d.SkipValue()
	})
	return ok && err == nil
}

// mayAsk reports whether a client that declares these capabilities could be
// asked for something in the middle of a call.
func mayAsk(capabilities json.RawMessage) bool {
	if len(capabilities) == 0 || capabilities[0] != '{' {
		return true
	}
	if string(capabilities) == "{}" {
		return false
	}
	d := newReader(capabilities)
	defer d.close()
	asks := false
	err := d.object(func(key []byte) error {
		switch string(key) {
		case "roots", "experimental", "extensions":
			asks = asks || d.PeekKind() != '{'
		default:
			asks = true
		}
		return d.SkipValue()
	})
	return asks || err != nil
}

// serveFast is the way of a call that the fast path takes.
func (g *Gateway) serveFast(w http.ResponseWriter, r *http.Request, v *visit, m message, h *held) {
	outer, end := r.Context(), context.CancelFunc(func() {})
	isModern := modern(r)
	if !isModern {
		// A client of these versions that goes away has not cancelled its call.
		outer, end = context.WithCancel(context.WithoutCancel(outer))
		stop, fresh := h.begin(m.id, end)
		if !fresh {
			end()
			g.turnAway(w, r, v.actor, duplicate(m))
			return
		}
		defer stop()
	}
	defer end()
	a := &answer{w: w, id: m.id, modern: isModern, server: g.info, token: json.RawMessage(m.asked.progress)}
	q := &query{
		method: methodCallTool, name: m.name, args: m.args, modern: isModern,
		speaks: r.Header.Get(headerVersion), outer: outer, visit: v, actor: v.actor,
		trace: traceFrom(text(m.asked.trace), r.Header), tasks: isModern && declaresTasks(json.RawMessage(m.asked.features)),
	}
	q.do = func(ctx context.Context, f *flight) (reply, error) {
		u := g.upstream(f.server)
		switch {
		case u == nil:
			return nil, failed(audit.GuardUnknown, "This tool is gone.", false)
		case u.endpoint != nil:
			return g.direct(ctx, f, u, a)
		}
		return g.forward(ctx, q, f, u)
	}
	res, err := g.carry(outer, q, g.gov.call)
	a.finish(m.name, res, err)
}

// carry has a request governed, and survives a panic of that.
func (g *Gateway) carry(ctx context.Context, q *query, govern func(context.Context, *query) (reply, error)) (res reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.gov.logger.Error("mcpx: panic", "method", q.method, "panic", p, "stack", string(debug.Stack()))
			res, err = g.gov.no(ctx, q, refused(audit.GuardPanic))
		}
	}()
	live := q.modern && q.visit.life != nil && !q.visit.ended()
	if live {
		ctx = q.visit.life // which is bound to the request already
	}
	ctx, seen := g.gov.telemetry.received(ctx, q)
	defer func() { seen.end(endingOf(res, err)) }()
	if live {
		return govern(ctx, q)
	}
	ctx, cancel, no := g.gov.alive(ctx, q)
	if no != nil {
		return g.gov.no(ctx, q, *no)
	}
	defer cancel()
	return govern(ctx, q)
}

// An answer is what the client of one call gets: one JSON object, or a stream
// if there is something to tell before the result.
type answer struct {
	w      http.ResponseWriter
	id     json.RawMessage
	modern bool
	server []byte          // who answers, as JSON
	token  json.RawMessage // the client's progress token, or nil
	stream bool            // it has begun
}

// notify sends the client a notification, ahead of the result.
func (a *answer) notify(message []byte) {
	if !a.stream {
		a.stream = true
		h := a.w.Header()
		h.Set("Cache-Control", "no-cache, no-transform")
		h.Set("Content-Type", "text/event-stream")
	}
	a.event(message)
	_ = http.NewResponseController(a.w).Flush()
}

func (a *answer) event(message []byte) {
	if bytes.ContainsAny(message, "\r\n") { // between tokens, where an upstream may have put them; they end a line here
		var one bytes.Buffer
		if json.Compact(&one, message) == nil {
			message = one.Bytes()
		}
	}
	b := make([]byte, 0, len(message)+24)
	b = append(b, "event: message\ndata: "...)
	b = append(b, message...)
	_, _ = a.w.Write(append(b, "\n\n"...))
}

// finish answers a call of the tool name, in the form that the SDK answers it.
func (a *answer) finish(name string, res reply, err error) {
	var own *jsonrpc.Error
	if no, ok := err.(refusal); ok {
		if no.Hidden {
			err = unknownTool(name)
		} else {
			res, err = typedReply{no.result(false)}, nil
		}
	}
	if err != nil && !errors.As(err, &own) {
		own = &jsonrpc.Error{Message: err.Error()}
	}
	b := make([]byte, 0, 1024)
	b = append(append(b, `{"jsonrpc":"2.0","id":`...), a.id...)
	head := len(b)
	status := http.StatusOK
	if own == nil {
		if b, err = a.result(append(b, `,"result":`...), res); err != nil {
			b, own = b[:head], &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the result cannot be written"}
		}
	}
	if own != nil {
		text, _ := json.Marshal(own)
		b = append(append(b, `,"error":`...), text...)
		if a.modern {
			status = statusOf(own.Code)
		}
	}
	b = append(b, '}')
	if a.stream {
		a.event(b)
		return
	}
	h := a.w.Header()
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if status != http.StatusOK {
		h.Set("Connection", "keep-alive") // the SDK does so, and none shall tell the ways apart
	}
	a.w.WriteHeader(status)
	_, _ = a.w.Write(b)
}

// statusOf is the HTTP status of an error in the protocol without sessions.
func statusOf(code int64) int {
	switch code {
	case jsonrpc.CodeMethodNotFound:
		return http.StatusNotFound
	case jsonrpc.CodeInvalidParams, mcp.CodeUnsupportedProtocolVersion, mcp.CodeMissingRequiredClientCapabilities:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// result appends a result. In the newer protocol it says of which type it is,
// and who the server is.
func (a *answer) result(b []byte, res reply) ([]byte, error) {
	if raw, ok := res.(*rawReply); ok {
		if a.modern {
			return raw.append(b, raw.kind(), a.server), nil
		}
		return raw.append(b, "", nil), nil
	}
	typed, err := res.result()
	if err != nil {
		return b, err
	}
	if t, ok := typed.(*mcp.CallToolResult); ok && a.modern && t != nil {
		c := *t
		c.Meta = maps.Clone(t.Meta)
		if c.Meta == nil {
			c.Meta = mcp.Meta{}
		}
		c.Meta[mcp.MetaKeyServerInfo] = json.RawMessage(a.server)
		typed = &c
	}
	text, err := json.Marshal(typed)
	if err != nil || !a.modern || len(text) < 2 || text[0] != '{' {
		return append(b, text...), err
	}
	return append(append(append(b, '{'), resultType...), text[1:]...), nil
}

// resultType says that nothing is missing in a result.
const resultType = `"resultType":"complete",`
