// Package mcptest helps tests of governed MCP: an upstream that checks a real
// token and counts what reaches it, and agents that connect through a door.
//
// It is used by mcpx's own tests and meant for yours. The usual shape is: go-sdk
// servers with the tools, [NewGateway] in front of them with the policies that are
// to be tested, and an [Agent] or two. Assert three things of each attack: nothing
// forbidden is in [Upstream.Calls], nothing permitted was refused, and one record in
// the log has the true reason. What a gateway is made of can be had one by one as
// well: [NewUpstream], [Door], [Connect].
//
// The package npmtest beside it has servers and clients of others, from npm.
package mcptest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
)

// UpstreamOptions are the options of [NewUpstream]; nil is the zero value.
type UpstreamOptions struct {
	// Token is the bearer token that requests must carry. Empty wants none.
	Token string
	// Legacy serves only protocol versions with sessions, up to 2025-11-25.
	Legacy bool
}

// An Upstream is an MCP server on loopback. It is safe for concurrent use.
type Upstream struct {
	// URL is where it listens.
	URL string

	server *httptest.Server
	mu     sync.Mutex
	token  string
	calls  []Call
	seen   bytes.Buffer
}

// A Call is one tools/call that reached the upstream with the right token.
type Call struct {
	Tool      string
	Arguments json.RawMessage
	Header    http.Header
}

// NewUpstream serves server over streamable HTTP until the test ends.
func NewUpstream(t testing.TB, server *mcp.Server, opts *UpstreamOptions) *Upstream {
	t.Helper()
	if opts == nil {
		opts = &UpstreamOptions{}
	}
	u := &Upstream{token: opts.Token}
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{
		Stateless: !opts.Legacy, PropagateRequestCancellation: true,
	})
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "body", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !u.take(r, body) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "Bad credentials", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	u.URL = u.server.URL
	t.Cleanup(u.Close)
	return u
}

// take records a request and reports whether its token is right.
func (u *Upstream) take(r *http.Request, body []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r.Header.Write(&u.seen)
	u.seen.Write(body)
	if u.token != "" && r.Header.Get("Authorization") != "Bearer "+u.token {
		return false
	}
	var m struct {
		Method string `json:"method"`
		Params struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"params"`
	}
	if json.Unmarshal(body, &m) == nil && m.Method == "tools/call" {
		u.calls = append(u.calls, Call{m.Params.Name, m.Params.Arguments, r.Header.Clone()})
	}
	return true
}

// SetToken changes the token that requests must carry from now on.
func (u *Upstream) SetToken(token string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.token = token
}

// Calls returns the calls that reached the upstream, oldest first.
func (u *Upstream) Calls() []Call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Call(nil), u.calls...)
}

// Seen returns the headers and bodies of all requests, also of refused ones.
func (u *Upstream) Seen() []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return bytes.Clone(u.seen.Bytes())
}

// Close stops listening, as a server that is down.
func (u *Upstream) Close() { shut(u.server) }

// shut ends a server and what it is doing. Nobody may connect anew in between: the
// server would wait for them.
func shut(s *httptest.Server) {
	s.Listener.Close()
	s.CloseClientConnections()
	s.Close()
}

// Door serves h on loopback as a sandbox session's door would: every request
// carries actor. The zero actor attaches none.
func Door(t testing.TB, h http.Handler, actor audit.Actor) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !actor.IsZero() {
			r = r.WithContext(audit.WithActor(r.Context(), actor))
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { shut(s) })
	return s
}

// ConnectOptions are the options of [Connect]; nil is the zero value.
type ConnectOptions struct {
	// Version is the protocol version to ask for; empty is the SDK's newest.
	Version string
	// Token is a bearer token to present.
	Token string
	// Transport carries the agent's requests, such as one that trusts a test's
	// certificate or attaches tokens; nil is a plain one.
	Transport http.RoundTripper
	// Client are the options of the agent's MCP client.
	Client *mcp.ClientOptions
}

// An Agent is an MCP client that remembers every byte it got.
type Agent struct {
	*mcp.ClientSession
	wire *wire
}

// Seen returns everything that the agent was sent: status lines, headers and
// bodies.
func (a *Agent) Seen() []byte {
	a.wire.mu.Lock()
	defer a.wire.mu.Unlock()
	return bytes.Clone(a.wire.got.Bytes())
}

// Call calls a tool with arguments that are sent as they are.
func (a *Agent) Call(ctx context.Context, tool, arguments string) (*mcp.CallToolResult, error) {
	return a.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(arguments)})
}

// Tools returns the names of the tools that the agent is shown, in order.
func (a *Agent) Tools(ctx context.Context) ([]string, error) {
	names := []string{}
	for t, err := range a.ClientSession.Tools(ctx, nil) {
		if err != nil {
			return nil, err
		}
		names = append(names, t.Name)
	}
	return names, nil
}

// Connect opens an MCP session at endpoint, a URL such as that of [Door], until
// the test ends.
func Connect(t testing.TB, endpoint string, opts *ConnectOptions) *Agent {
	t.Helper()
	a, err := TryConnect(t, endpoint, opts)
	if err != nil {
		t.Fatalf("mcptest: connect: %v", err)
	}
	return a
}

// TryConnect is [Connect] for sessions that may be refused.
func TryConnect(t testing.TB, endpoint string, opts *ConnectOptions) (*Agent, error) {
	t.Helper()
	if opts == nil {
		opts = &ConnectOptions{}
	}
	w := &wire{token: opts.Token, base: opts.Transport}
	if w.base == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		t.Cleanup(own.CloseIdleConnections) // after the session has ended
		w.base = own
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, opts.Client)
	cs, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: endpoint, HTTPClient: &http.Client{Transport: w}, MaxRetries: -1, DisableStandaloneSSE: true,
	}, &mcp.ClientSessionOptions{ProtocolVersion: opts.Version})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { cs.Close() })
	return &Agent{ClientSession: cs, wire: w}, nil
}

// wire records what an agent is sent.
type wire struct {
	token string
	base  http.RoundTripper
	mu    sync.Mutex
	got   bytes.Buffer
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := w.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.got.WriteString(resp.Status + "\n")
	resp.Header.Write(&w.got)
	w.mu.Unlock()
	resp.Body = &recorded{ReadCloser: resp.Body, w: w}
	return resp, nil
}

type recorded struct {
	io.ReadCloser
	w *wire
}

func (b *recorded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.mu.Lock()
	b.w.got.Write(p[:n])
	b.w.mu.Unlock()
	return n, err
}

// Text joins the text of a result.
func Text(res *mcp.CallToolResult) string {
	var parts []string
	for _, c := range res.Content {
		if text, ok := c.(*mcp.TextContent); ok {
			parts = append(parts, text.Text)
		}
	}
	return strings.Join(parts, "\n")
}
