package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// modernVersion is the first protocol without sessions. Clients of both eras
// use one URL; they are told apart by the version header alone, which the body
// must confirm.
const modernVersion = "2026-07-28"

const (
	headerVersion = "Mcp-Protocol-Version"
	headerMethod  = "Mcp-Method"
	headerName    = "Mcp-Name"
	lastEvent     = "Last-Event-Id"

	emptyParam = "=?base64??=" // the empty string in an Mcp-Param header
)

// singular headers decide something; twice is an attempt to be read in two ways.
var singular = []string{
	"Authorization", "Content-Type", "Content-Length", "Content-Encoding", "Host", "Origin",
	headerVersion, headerMethod, headerName, sessionHeader, lastEvent,
}

// forwarded headers are claims that only infrastructure makes. None of them is
// believed, and none goes further than this.
var forwarded = []string{"Authorization", "Cookie", "Forwarded", "Proxy-Authorization", "X-Real-Ip", "X-Vault-Tokens", "Mcp-Init-Host", "Router-Key"}

// httpRefusal is a no at the door, before MCP.
type httpRefusal struct {
	status int
	guard  string
	text   string // for the client; never a verifier's words
	code   int64  // of the JSON-RPC error; 0 = plain text
	m      message
	detail string // for the auditor
}

func deny(status int, guard, text string) *httpRefusal {
	return &httpRefusal{status: status, guard: guard, text: text}
}

// eras says which methods the door lets through, and for which protocol.
var eras = map[string]struct{ legacy, modern bool }{
	methodInitialize: {legacy: true}, methodPing: {legacy: true},
	methodDiscover: {modern: true}, methodListen: {modern: true},
	methodSubscribe: {legacy: true}, methodUnsubscribe: {legacy: true}, methodSetLevel: {legacy: true},
	methodListTools: {true, true}, methodCallTool: {true, true},
	methodListPrompts: {true, true}, methodGetPrompt: {true, true},
	methodListResources: {true, true}, methodListTemplates: {true, true}, methodReadResource: {true, true},
	methodComplete: {true, true},
	methodGetTask:  {modern: true}, methodUpdateTask: {modern: true}, methodCancelTask: {modern: true},
	notifyInitialized: {true, true}, notifyCancelled: {true, true}, notifyProgress: {true, true}, notifyRoots: {true, true},
}

// serve is the way of an HTTP request: refuse on the cheapest evidence, and put
// each refusal on record, since the middleware will never see it.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, actor audit.Actor, until time.Time) {
	v := &visit{actor: actor}
	if g.gov.agents != nil {
		// From here on, and not when all of the request is there, which its sender
		// decides: an end of the agent in between counts, although it be reinstated.
		life, cancel, err := g.gov.life(r.Context(), actor)
		if err == nil {
			defer cancel()
		}
		v.life, v.dead = life, err != nil
	}
	m, no := g.admit(w, r, actor)
	if no == nil && !until.IsZero() && !time.Now().Before(until) {
		no = deny(http.StatusUnauthorized, audit.GuardToken, "the token has expired")
	}
	if no != nil {
		no.m = m
		g.turnAway(w, r, actor, no)
		return
	}
	v.id = m.id
	id := r.Header.Get(sessionHeader)
	var h *held
	if !modern(r) {
		h = g.owners.get(id, owner(actor))
	}
	if isTask(m.method) {
		g.serveTask(w, r, v, m)
		return
	}
	if g.fast(r, v, m, h) {
		g.serveFast(w, r, v, m, h)
		return
	}
	if h != nil && m.call && !m.reply {
		end, fresh := h.begin(m.id, nil)
		if !fresh {
			g.turnAway(w, r, actor, duplicate(m))
			return
		}
		defer end()
	}
	if h != nil && m.method == notifyCancelled {
		h.cancel(m.cancels)
	}
	if modern(r) && m.method == methodCallTool {
		v.hidden = g.hidden(r.Context(), actor, m.name)
	}
	ctx := context.WithValue(r.Context(), doorKey{}, v)
	if r.Method == http.MethodGet && g.gov.agents != nil {
		if v.ended() {
			g.turnAway(w, r, actor, deny(http.StatusForbidden, audit.GuardRevoked, "this agent may not act any more"))
			return
		}
		ctx = context.WithValue(v.life, doorKey{}, v) // a stream ends when the agent is revoked
	}
	if (r.Method == http.MethodGet || m.method == methodListen) && !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until) // and with its token
		defer cancel()
	}
	r = r.Clone(ctx)
	for name, v := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Mcp-") {
			r.Header.Del(name)
		}
		if strings.HasPrefix(name, "Mcp-Param-") && len(v) == 1 && v[0] == "" {
			r.Header[name] = []string{emptyParam} // which the SDK does not take for a missing one
		}
	}
	for _, name := range forwarded {
		r.Header.Del(name)
	}
	seen := &watched{ResponseWriter: w}
	era := g.legacy
	if modern(r) {
		era = g.modern
		r.Header.Del(sessionHeader)
	} else if id == "" {
		seen.hook = func(h http.Header) {
			if created := h.Get(sessionHeader); created != "" {
				h := g.owners.add(created, owner(actor))
				h.plain = legacyVersion(m.speaks) && !mayAsk(m.features)
			}
		}
	}
	era.ServeHTTP(seen, r)
	if h != nil && (seen.status == http.StatusOK || seen.status == http.StatusAccepted) && r.Method == http.MethodPost {
		h.served(m)
	}
	if !v.handled.Load() && (seen.status >= 400 || m.call && !m.reply && seen.status != 0) {
		no := deny(seen.status, audit.GuardHeaders, "refused by the MCP SDK")
		no.m = m
		g.recordDoor(r, actor, no)
	}
	if r.Method == http.MethodDelete {
		g.owners.drop(id)
	}
}

func modern(r *http.Request) bool { return r.Header.Get(headerVersion) >= modernVersion }

// admit checks everything about a request that needs no policy. It replaces the
// body by the bytes that were checked.
func (g *Gateway) admit(w http.ResponseWriter, r *http.Request, actor audit.Actor) (message, *httpRefusal) {
	var m message
	if actor.Validate() != nil {
		return m, deny(http.StatusUnauthorized, audit.GuardNoActor, "nobody vouches for this request")
	}
	if no := checkHeaders(r); no != nil {
		return m, no
	}
	who := owner(actor)
	id := r.Header.Get(sessionHeader)
	if !modern(r) && id != "" && !g.owners.holds(id, who) {
		return m, deny(http.StatusNotFound, audit.GuardSession, "session not found")
	}
	switch r.Method {
	case http.MethodPost:
	case http.MethodGet, http.MethodDelete:
		if !modern(r) && id != "" {
			return m, nil
		}
		fallthrough
	default:
		return m, deny(http.StatusMethodNotAllowed, audit.GuardMethod, "Method Not Allowed")
	}
	kind, params, err := mediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || kind != "application/json" || (charset != "" && !strings.EqualFold(charset, "utf-8")) {
		return m, deny(http.StatusUnsupportedMediaType, audit.GuardMedia, "Content-Type must be application/json in UTF-8")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return m, deny(http.StatusUnsupportedMediaType, audit.GuardMedia, "Content-Encoding is not accepted")
	}
	body, err := readBody(http.MaxBytesReader(w, r.Body, maxBody), r.ContentLength)
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return m, deny(http.StatusRequestEntityTooLarge, audit.GuardSize, "the request body exceeds 4 MiB")
		}
		return m, deny(http.StatusBadRequest, audit.GuardMedia, "the request body could not be read")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	m, err = scan(body)
	if err != nil {
		no := deny(http.StatusBadRequest, audit.GuardStrictJSON, "invalid request: "+strings.TrimPrefix(err.Error(), errJSON.Error()+": "))
		no.code = jsonrpc.CodeInvalidRequest
		return m, no
	}
	if m.reply && (modern(r) || !g.owners.answer(id)) {
		return m, deny(http.StatusBadRequest, audit.GuardMethod, "nothing was asked, so no response is expected")
	}
	if no := agree(r, m); no != nil || m.reply {
		return m, no
	}
	return m, g.admitMethod(r, m, who, id)
}

// mediaType is mime.ParseMediaType, which takes its time for what is the usual.
func mediaType(v string) (string, map[string]string, error) {
	if v == "application/json" {
		return v, nil, nil
	}
	return mime.ParseMediaType(v)
}

// readBody reads all of a body that is said to have n bytes. Nobody gets much
// memory for saying so.
func readBody(body io.Reader, n int64) ([]byte, error) {
	if n < 0 || n > 64<<10 {
		return io.ReadAll(body)
	}
	b := bytes.NewBuffer(make([]byte, 0, n+bytes.MinRead)) // ReadFrom does not grow it
	_, err := b.ReadFrom(body)
	return b.Bytes(), err
}

// checkHeaders refuses what browsers of other origins and confused proxies send.
func checkHeaders(r *http.Request) *httpRefusal {
	for name, values := range r.Header { // the keys are canonical
		if len(values) > 1 && slices.Contains(singular, name) {
			return deny(http.StatusBadRequest, audit.GuardHeaders, "header "+name+" occurs more than once")
		}
	}
	// A page that a browser was tricked into loading from a name of this machine.
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil && loopback(local.String()) && !loopback(r.Host) {
		return deny(http.StatusForbidden, audit.GuardOrigin, "this name is not served here")
	}
	if r.Header["Origin"] == nil && r.Header["Sec-Fetch-Site"] == nil {
		return nil // no browser that could be tricked
	}
	check := *r
	check.Method = http.MethodPost // reading is not safe here: a stream shows results
	if http.NewCrossOriginProtection().Check(&check) != nil {
		return deny(http.StatusForbidden, audit.GuardOrigin, "cross-origin requests are not accepted")
	}
	return nil
}

// loopback reports whether host, with or without a port, is this machine's own.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
}

// agree compares the headers that route a request with the body that acts, in
// every era of the protocol.
func agree(r *http.Request, m message) *httpRefusal {
	mismatch := func(text string) *httpRefusal {
		no := deny(http.StatusBadRequest, audit.GuardHeaders, text)
		no.code = mcp.CodeHeaderMismatch
		return no
	}
	version := r.Header.Get(headerVersion)
	if m.version != "" && m.version != version {
		return mismatch("header mismatch: " + headerVersion + " and _meta disagree")
	}
	if h, ok := r.Header[headerMethod]; ok && h[0] != m.method {
		return mismatch("header mismatch: " + headerMethod + " and body disagree")
	}
	if h, ok := r.Header[headerName]; ok && (!m.named || h[0] != m.name) {
		return mismatch("header mismatch: " + headerName + " and body disagree")
	}
	if version < modernVersion || !m.call {
		return nil
	}
	if r.Header.Get(headerMethod) == "" {
		return mismatch("header mismatch: " + headerMethod + " is missing")
	}
	if m.named && r.Header.Get(headerName) == "" {
		return mismatch("header mismatch: " + headerName + " is missing")
	}
	if m.version == "" {
		no := deny(http.StatusBadRequest, audit.GuardHeaders, "_meta names no protocol version")
		no.code = jsonrpc.CodeInvalidParams
		return no
	}
	return nil
}

// admitMethod refuses what no handler will take, so that it is on record.
func (g *Gateway) admitMethod(r *http.Request, m message, who, id string) *httpRefusal {
	era, ok := eras[m.method]
	if !ok || (modern(r) && !era.modern) || (!modern(r) && !era.legacy) {
		no := deny(http.StatusOK, audit.GuardMethod, "method is not available here")
		no.code = jsonrpc.CodeMethodNotFound
		if modern(r) {
			no.status = http.StatusNotFound
		}
		if !m.call {
			no.status = http.StatusBadRequest
		}
		return no
	}
	if strings.HasPrefix(m.method, "notifications/") == m.call {
		no := deny(http.StatusBadRequest, audit.GuardStrictJSON, "a request needs an id, and a notification has none")
		no.code = jsonrpc.CodeInvalidRequest
		return no
	}
	if modern(r) {
		return nil
	}
	if m.method == methodInitialize {
		if id != "" {
			return deny(http.StatusBadRequest, audit.GuardSession, "this session is initialized already")
		}
		if !g.owners.room(who) {
			return deny(http.StatusTooManyRequests, audit.GuardLimit, "too many sessions are open")
		}
	} else if id == "" {
		return deny(http.StatusBadRequest, audit.GuardSession, "an Mcp-Session-Id is required; initialize first")
	}
	return nil
}

// duplicate refuses a call whose id its session uses already.
func duplicate(m message) *httpRefusal {
	no := deny(http.StatusBadRequest, audit.GuardHeaders, "a request with this id is under way")
	no.code, no.m = jsonrpc.CodeInvalidRequest, m
	return no
}

// recordDoor puts a refusal at the door on record and returns its decision.
func (g *Gateway) recordDoor(r *http.Request, actor audit.Actor, no *httpRefusal) audit.Decision {
	d := audit.Refusal(audit.NewID(), no.guard)
	ev := audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorTool, Actor: actor, Decision: &d,
		Action: clip(no.m.method, 128), Resource: clip(no.m.name, 256),
		Detail: map[string]string{"http": clip(r.Method, 16) + " " + http.StatusText(no.status), "text": clip(no.text, 256)},
	}
	if no.detail != "" {
		ev.Detail["cause"] = clip(no.detail, 256)
	}
	if ev.Action == "" {
		path := r.URL.EscapedPath() // without the query, where clients put keys
		ev.Action, ev.Resource = audit.ActionRequest, clip(r.Method, 16)+" "+clip(path, 200)
	}
	record(r.Context(), g.gov.log, g.gov.logger, ev)
	return d
}

// turnAway records a refusal at the door and answers it.
func (g *Gateway) turnAway(w http.ResponseWriter, r *http.Request, actor audit.Actor, no *httpRefusal) {
	d := g.recordDoor(r, actor, no)
	w.Header().Set("Cache-Control", "no-store")
	if no.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", "GET, POST, DELETE")
	}
	if no.code == 0 {
		http.Error(w, no.text+" (decision "+d.ID+")", no.status)
		return
	}
	id := no.m.id
	if len(id) == 0 {
		id = json.RawMessage("null")
	}
	data, _ := json.Marshal(refusal{Decision: governance.Decision{Decision: d}}.denial())
	body, _ := json.Marshal(struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Error   *jsonrpc.Error  `json:"error"`
	}{"2.0", id, &jsonrpc.Error{Code: no.code, Message: no.text, Data: data}})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(no.status)
	w.Write(body)
}

// doorKey is where the door puts the visit for the SDK's token middleware, which
// is the only way to hand something to each request's handler: contexts of a
// stateful session are those of its first request.
type doorKey struct{}

// A visit is one HTTP request that was let in.
type visit struct {
	actor   audit.Actor
	id      json.RawMessage // of the JSON-RPC request
	hidden  bool            // it calls a tool that the actor must not know about
	handled atomic.Bool     // the middleware saw it; if not, the SDK turned it away
	// life is a context of the actor's agent that began with the request, nil if
	// there is no registry, and dead says that the agent was not live then.
	life context.Context
	dead bool
}

// ended reports whether the agent was not live when the request began, or has not
// been at some time since.
func (v *visit) ended() bool {
	switch {
	case v == nil:
		return false
	case v.life == nil:
		return v.dead
	}
	cause := context.Cause(v.life)
	return cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded)
}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(doorKey{}).(*visit)
	return v
}

// hidden reports whether a tool must look to the actor as if it did not exist,
// whatever its arguments.
func (g *Gateway) hidden(ctx context.Context, actor audit.Actor, name string) bool {
	server, tool := g.route(kindTool, name)
	// The snapshot is asked, not the engine: nothing is done yet, so nothing counts.
	d, _ := g.gov.engine.Snapshot().Decide(ctx, governance.Request{Actor: actor, Action: "call_tool", Server: server, Name: tool})
	return d.Hidden
}

// handlers builds the SDK's endpoints of both eras over one server.
func (g *Gateway) handlers() (legacy, modern http.Handler) {
	// The SDK compares Mcp-Param headers with the tool's schema before anybody
	// is asked. A server without tools has nothing to compare with.
	get := func(r *http.Request) *mcp.Server {
		if v := visitOf(r.Context()); v != nil && v.hidden {
			return g.bare
		}
		return g.server
	}
	opts := mcp.StreamableHTTPOptions{
		SessionTimeout: 30 * time.Minute, MaxRequestBodyBytes: maxBody,
		PropagateRequestCancellation: true,
	}
	vouch := auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		v := visitOf(ctx)
		if v == nil {
			return nil, auth.ErrInvalidToken
		}
		info := tokenInfo(v.actor, time.Time{})
		info.Extra[visitKey] = v
		return info, nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})
	wrap := func(h http.Handler) http.Handler {
		inner := vouch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Authorization")
			h.ServeHTTP(w, r)
		}))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Authorization", "Bearer door") // whatever the client sent is gone
			inner.ServeHTTP(w, r)
		})
	}
	legacyOpts, modernOpts := opts, opts
	modernOpts.Stateless = true
	if g.opts.Resumable {
		legacyOpts.EventStore = newReplay(g.owners.ownerOf)
	}
	return wrap(mcp.NewStreamableHTTPHandler(get, &legacyOpts)), wrap(mcp.NewStreamableHTTPHandler(get, &modernOpts))
}
