package inference

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
)

var (
	bot      = audit.Actor{Agent: "bot", Issuer: "session", Session: "s1"}
	operator = audit.Change{By: "ops", Reason: "test"}
)

// policies let bot use two models of each backend, and nobody else anything.
const policies = `
@id("models")
permit (principal == Agent::"bot", action in [Action::"invoke_model", Action::"embed", Action::"count_tokens"], resource)
when { resource.name != "forbidden" };

@id("lists")
permit (principal == Agent::"bot", action == Action::"list_models", resource);

@id("small-answers")
forbid (principal, action == Action::"invoke_model", resource)
when { context has max_output && context.max_output > 50000 };

@id("search-on-claude")
permit (principal == Agent::"bot", action == Action::"use_hosted_tool", resource)
when { resource.name == "web_search" && context has protocol && context.protocol == "anthropic" };

@id("keys")
permit (principal == Agent::"bot", action == Action::"use_credential", resource)
unless { context has tool && context.tool == "keyless" };
`

// A house is a router with everything around it: a backend that checks its key,
// policy, vault and log.
type house struct {
	t        testing.TB
	backend  http.HandlerFunc // answers requests with the right key
	requests atomic.Int64     // that came with the right key
	strays   atomic.Int64     // that did not

	key    string
	vault  *credential.Broker
	log    *audittest.Log
	engine *governance.Engine
	router *Router
	origin *httptest.Server // the backend
	door   *httptest.Server // the router, behind a session's door
}

func newHouse(t testing.TB, opts *Options) *house {
	t.Helper()
	h := &house{t: t, key: credentialtest.Canary(), log: audittest.NewLog(t)}
	h.backend = func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{}`) }
	h.origin = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+h.key && r.Header.Get("X-Api-Key") != h.key {
			h.strays.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.requests.Add(1)
		body, err := io.ReadAll(r.Body) // only then does the server notice that a client leaves
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.backend(w, r)
	}))
	t.Cleanup(h.origin.Close)

	h.vault = credentialtest.NewVault(t, nil, map[string]string{"openai-key": h.key, "claude-key": h.key})
	cfg := h.config()
	for _, b := range cfg.Backends {
		binding, err := b.Binding()
		require.NoError(t, err)
		require.NoError(t, h.vault.Bind(t.Context(), b.Credential, binding, operator))
	}
	h.engine = governance.NewEngine(h.log, nil)
	_, err := h.engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "test.cedar", Text: policies}},
		Profiles: []governance.Profile{{ID: "bots", Owner: "test", Agents: []string{"bot"}, Models: []string{"openai/*", "claude/good"}}},
	}, operator)
	require.NoError(t, err)

	o := Options{Vault: h.vault}
	if opts != nil {
		o = *opts
		if o.Vault == nil {
			o.Vault = h.vault
		}
	}
	h.router, err = NewRouter(cfg, h.engine, h.log, &o)
	require.NoError(t, err)
	t.Cleanup(func() { h.router.Close() })
	h.door = httptest.NewServer(session(h.router, bot))
	t.Cleanup(h.door.Close)
	return h
}

func (h *house) config() Config {
	return Config{Backends: []Backend{
		{Name: "openai", BaseURL: h.origin.URL + "/v1", Credential: "openai-key",
			Models: []string{"good", "forbidden", "keyless"}, Aliases: map[string]string{"fast": "good"}},
		{Name: "claude", Protocol: Anthropic, BaseURL: h.origin.URL + "/v1", Credential: "claude-key",
			Models: []string{"good", "not-in-profile"}},
	}}
}

// manyProtocols is a configuration in which one backend speaks all but Anthropic's.
func (h *house) manyProtocols() Config {
	cfg := h.config()
	cfg.Backends[0].Protocols = []Protocol{OpenAI, OpenAIResponses, Gemini}
	return cfg
}

// serve puts a configuration into force.
func (h *house) serve(cfg Config) {
	h.t.Helper()
	require.NoError(h.t, h.router.Reload(h.t.Context(), cfg, operator))
}

// session is a session's own door: it says who is asking.
func session(next http.Handler, a audit.Actor) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), a)))
	})
}

func (h *house) request(method, path, body string) *http.Request {
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.door.URL+path, strings.NewReader(body))
	require.NoError(h.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// do sends a request and reads the whole answer; err is that of reading it.
func (h *house) do(req *http.Request) (resp *http.Response, body string, err error) {
	h.t.Helper()
	resp, err = h.door.Client().Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func (h *house) post(path, body string) (*http.Response, string) {
	h.t.Helper()
	resp, got, err := h.do(h.request(http.MethodPost, path, body))
	require.NoError(h.t, err)
	return resp, got
}

// outcome returns the only outcome on record.
func (h *house) outcome() audit.Outcome {
	h.t.Helper()
	var out []audit.Outcome
	for _, r := range h.log.Records() {
		if r.Outcome != nil {
			out = append(out, *r.Outcome)
		}
	}
	require.Len(h.t, out, 1)
	return out[0]
}

// denial returns the only denial on record, and checks that the backend was not
// asked.
func (h *house) denial() audit.Event {
	h.t.Helper()
	d := h.log.Denials()
	require.Len(h.t, d, 1)
	assert.NotEmpty(h.t, d[0].Decision.Reason)
	assert.NotEmpty(h.t, d[0].Decision.ID)
	assert.Equal(h.t, audit.DoorModel, d[0].Door)
	assert.Zero(h.t, h.requests.Load()+h.strays.Load(), "the backend was asked")
	return d[0]
}

// sse answers with a stream cut into the given pieces.
func sse(pieces ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, p := range pieces {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// A transport that answers without a network, for tests that need to control
// every read.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A cutReader returns its parts one Read at a time, and then err.
type cutReader struct {
	parts [][]byte
	err   error
}

func (c *cutReader) Read(p []byte) (int, error) {
	if len(c.parts) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		return 0, io.EOF
	}
	n := copy(p, c.parts[0])
	if c.parts[0] = c.parts[0][n:]; len(c.parts[0]) == 0 {
		c.parts = c.parts[1:]
	}
	return n, nil
}

func (c *cutReader) Close() error { return nil }

// streamed is a response with a stream.
func streamed(body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}
}

// agents lets a test revoke.
type agents struct {
	err    error
	cancel chan context.CancelFunc
}

func (a *agents) Context(ctx context.Context, _ audit.Actor) (context.Context, context.CancelFunc, error) {
	if a.err != nil {
		return nil, nil, a.err
	}
	ctx, cancel := context.WithCancel(ctx)
	if a.cancel != nil {
		a.cancel <- cancel
	}
	return ctx, cancel, nil
}

// verifier accepts any token and remembers it.
type verifier struct{ token, audience string }

func (v *verifier) Verify(_ context.Context, token, audience string) (audit.Actor, time.Time, error) {
	v.token, v.audience = token, audience
	return audit.Actor{Agent: "remote"}, time.Time{}, nil
}

// lastOutcome is a recorder that remembers the last outcome and nothing else.
type lastOutcome struct{ out audit.Outcome }

func (l *lastOutcome) Begin(context.Context, audit.Intent) (audit.Call, error) { return l, nil }
func (l *lastOutcome) Append(context.Context, audit.Event) error               { return nil }
func (l *lastOutcome) Record() uint64                                          { return 0 }
func (l *lastOutcome) End(_ context.Context, out audit.Outcome) error          { l.out = out; return nil }
