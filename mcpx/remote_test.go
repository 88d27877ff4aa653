package mcpx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// An elsewhere is a gateway on another host, which issues its agents' tokens, and
// the vault of this one, with what the agents of this host are given there.
type elsewhere struct {
	*world
	http     *httptest.Server
	registry *agentid.Registry
	vault    *credential.Broker
	asked    atomic.Int64 // requests for tokens
	later    atomic.Int64 // nanoseconds by which the vault's clock is ahead
}

func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	e := &elsewhere{http: httptest.NewUnstartedServer(nil)}
	base := "https://" + e.http.Listener.Addr().String()
	e.world = newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) {
		o.Resource, o.AuthorizationServers = base+"/mcp", []string{base}
	}})
	var err error
	e.registry, err = agentid.NewRegistry(e.log, &agentid.Options{Issuer: base})
	require.NoError(t, err)
	secrets := map[string]credential.Secret{}
	for _, id := range []string{"bot", "other"} {
		secrets[id], err = e.registry.Register(t.Context(), agentid.Agent{ID: id, Owner: "test"}, admin)
		require.NoError(t, err)
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", e.gateway.Handler(e.registry))
	mux.Handle("/.well-known/oauth-protected-resource/", e.gateway.Handler(e.registry))
	mux.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			e.asked.Add(1)
		}
		e.registry.Handler().ServeHTTP(w, r)
	}))
	e.http.Config.Handler = mux
	e.http.StartTLS()
	t.Cleanup(func() {
		e.http.CloseClientConnections()
		e.http.Close()
	})
	e.vault, err = credential.NewBroker(credential.NewMemoryStore(secrets), audittest.NewLog(t), &credential.BrokerOptions{
		Client: e.http.Client(), Now: func() time.Time { return time.Now().Add(time.Duration(e.later.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { e.vault.Close() })
	for id := range secrets {
		require.NoError(t, e.vault.Bind(t.Context(), id, credential.Binding{
			Origin: base, Scheme: oauth.ClientCredentials(oauth.Client{Issuer: base, ID: id, Resource: base + "/mcp"}),
		}, admin))
	}
	return e
}

func (e *elsewhere) tokens(ctx context.Context, a audit.Actor) (*credential.Lease, error) {
	return e.vault.Lease(ctx, credential.LeaseRequest{Actor: a, Credential: a.Agent, Origin: e.http.URL})
}

// remote is the session's door to it.
func (e *elsewhere) remote() *mcpx.RemoteHandler {
	h := mcpx.Remote(e.http.URL+"/mcp", e.tokens)
	h.Transport = e.http.Client().Transport
	h.Logger = slog.New(slog.NewTextHandler(e.logged, nil))
	return h
}

// An agent that has nothing is somebody at a gateway elsewhere, and only what the
// gateway's policy gives them.
func TestRemote(t *testing.T) {
	e := newElsewhere(t)
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) {
			n, slack := e.mark(), len(e.slack.Calls())
			a := mcptest.Connect(t, mcptest.Door(t, e.remote(), bot).URL, &mcptest.ConnectOptions{Version: version})
			o := mcptest.Connect(t, mcptest.Door(t, e.remote(), other).URL, &mcptest.ConnectOptions{Version: version})
			res, err := a.Call(t.Context(), "slack__post_message", `{"channel":"#engineering","text":"hi"}`)
			require.NoError(t, err)
			assert.False(t, res.IsError, mcptest.Text(res))
			res, err = a.Call(t.Context(), "slack__post_message", `{"channel":"#executive","text":"hi"}`)
			require.NoError(t, err)
			assert.True(t, res.IsError)
			res, err = o.Call(t.Context(), "slack__post_message", `{"channel":"#engineering","text":"hi"}`)
			require.NoError(t, err)
			assert.True(t, res.IsError, "another agent is another agent there too")
			assert.Len(t, e.slack.Calls(), slack+1)
			res, err = a.Call(t.Context(), "github__big", `{}`)
			require.NoError(t, err)
			assert.False(t, res.IsError)
			assert.Contains(t, string(a.Seen()), `9007199254740993`, "bytes pass as they are")
			var agents []string
			for _, rec := range e.since(n) {
				if rec.Intent != nil && rec.Intent.Resource == `Tool::"slack__post_message"` {
					agents = append(agents, rec.Intent.Actor.Agent)
				}
			}
			assert.Equal(t, []string{"bot"}, agents)
			for _, who := range []*mcptest.Agent{a, o} {
				assert.Empty(t, e.vault.Scrubber().Count(who.Seen()), "no agent sees a token")
			}
		})
	}
	assert.EqualValues(t, 2, e.asked.Load(), "a token for each agent, and no more")
	assert.Empty(t, e.vault.Scrubber().Count(e.slack.Seen()), "nor does an upstream")
}

// A token that ended early is traded for a new one once, behind the agent's back;
// an agent that was ended has none, and is told nothing that it could act upon.
func TestRemoteTokensEnd(t *testing.T) {
	e := newElsewhere(t)
	a := mcptest.Connect(t, mcptest.Door(t, e.remote(), bot).URL, nil)
	call := func() error {
		res, err := a.Call(t.Context(), "github__big", `{}`)
		if err == nil && res.IsError {
			err = errors.New(mcptest.Text(res))
		}
		return err
	}
	require.NoError(t, call())
	require.NoError(t, e.registry.Revoke(t.Context(), "bot", admin))
	require.NoError(t, e.registry.Reinstate(t.Context(), "bot", admin)) // its tokens stay void
	require.Error(t, call(), "a refusal right after the token was had is no reason for another one")
	assert.EqualValues(t, 1, e.asked.Load())
	e.later.Store(int64(11 * time.Second))
	require.NoError(t, call())
	assert.EqualValues(t, 2, e.asked.Load())
	require.NoError(t, e.registry.Revoke(t.Context(), "bot", admin))
	require.Error(t, call())
	assert.Contains(t, string(a.Seen()), "502")
	assert.NotContains(t, string(a.Seen()), "401")
}

// What the agent sends goes no further unless the protocol has it, and so it is
// with what comes back.
func TestRemotePassesWhatTheProtocolHas(t *testing.T) {
	type got struct {
		method, uri, body string
		header            http.Header
	}
	seen := make(chan got, 1)
	answer := func(w http.ResponseWriter) { io.WriteString(w, `{}`) }
	far := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen <- got{r.Method, r.RequestURI, string(b), r.Header.Clone()}
		answer(w)
	}))
	defer far.Close()
	token := credential.NewSecret([]byte("token-of-bot-0123456789"))
	var actors []string
	h := mcpx.Remote(far.URL+"/mcp", func(_ context.Context, a audit.Actor) (*credential.Lease, error) {
		actors = append(actors, a.Agent)
		return credential.NewLease(credential.LeaseRequest{Actor: a, Credential: "t", Origin: far.URL}, credential.Ref{Name: "t", Version: 1}, token, credential.Binding{Origin: far.URL}, nil)
	})
	h.Transport = far.Client().Transport
	ask := func(method, path, body string, header http.Header, actor audit.Actor) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "https://tools.local"+path, strings.NewReader(body))
		for name, values := range header {
			r.Header[name] = values
		}
		w := httptest.NewRecorder()
		func() {
			defer func() { recover() }() // an answer that is cut off
			h.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), actor)))
		}()
		return w
	}

	w := ask("POST", "/elsewhere/../mcp?token=x", `{"a":1}`, http.Header{
		"Authorization": {"Bearer mine"}, "Cookie": {"a=b"}, "Forwarded": {"for=1"}, "X-Forwarded-User": {"root"}, "X-Mcp-User": {"root"},
		"X-Vault-Tokens": {"x"}, "Proxy-Authorization": {"x"}, "Accept-Encoding": {"br"}, "Expect": {"x"}, "Baggage": {"x"}, "User-Agent": {"x"},
		"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}, "Mcp-Session-Id": {"s"},
		"Mcp-Protocol-Version": {modern}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"n"}, "Mcp-Param-Region": {"eu"}, "Traceparent": {"00-1"},
	}, bot)
	assert.Equal(t, http.StatusOK, w.Code)
	g := <-seen
	assert.Equal(t, `POST /mcp {"a":1}`, g.method+" "+g.uri+" "+g.body)
	for name, want := range map[string]string{
		"Authorization": "Bearer token-of-bot-0123456789", "Accept": "application/json, text/event-stream", "Content-Type": "application/json",
		"Mcp-Session-Id": "s", "Mcp-Protocol-Version": modern, "Mcp-Method": "tools/call", "Mcp-Name": "n", "Mcp-Param-Region": "eu", "Traceparent": "00-1",
	} {
		assert.Equal(t, []string{want}, g.header.Values(name), name)
		g.header.Del(name)
	}
	for name := range g.header {
		assert.Contains(t, []string{"Accept-Encoding", "Content-Length", "User-Agent"}, name)
	}
	assert.NotContains(t, g.header["User-Agent"], "x")

	// Of the answer likewise; a token that comes back is taken out.
	answer = func(w http.ResponseWriter) {
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("X-Other", "x")
		w.Header().Set("Mcp-Session-Id", "s2")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "you sent token-of-bot-0123456789")
	}
	w = ask("POST", "/", "{}", nil, bot)
	<-seen
	assert.Equal(t, http.StatusForbidden, w.Code)
	assert.Equal(t, "s2", w.Header().Get("Mcp-Session-Id"))
	assert.Empty(t, w.Header().Get("Set-Cookie")+w.Header().Get("X-Other"))
	assert.Equal(t, "you sent [redacted:t]", w.Body.String())

	for _, c := range []struct {
		say    func(http.ResponseWriter)
		status int
		code   string
	}{
		{func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://evil.example/")
			w.WriteHeader(307)
		}, 502, "upstream-redirect"},
		{func(w http.ResponseWriter) {
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="http://169.254.169.254/"`)
			w.WriteHeader(401)
		}, 502, "upstream-unauthorized"},
		{func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 502, "upstream-down"},
	} {
		answer = c.say
		w = ask("POST", "/", "{}", nil, bot)
		<-seen
		assert.Equal(t, c.status, w.Code, c.code)
		assert.Contains(t, w.Body.String(), c.code)
		assert.Empty(t, w.Header().Get("Location")+w.Header().Get("WWW-Authenticate"))
	}

	// What is refused here has no token asked for, and goes nowhere.
	actors = nil
	w = ask("POST", "/", "{}", nil, audit.Actor{})
	assert.Equal(t, http.StatusUnauthorized, w.Code, "nobody")
	w = ask("PUT", "/", "{}", nil, bot)
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
	w = ask("POST", "/", "{}", http.Header{"Origin": {"https://evil.example"}}, bot)
	assert.Equal(t, http.StatusForbidden, w.Code)
	w = ask("POST", "/", "{}", http.Header{"Mcp-Name": {"a", "b"}}, bot)
	assert.Equal(t, http.StatusBadRequest, w.Code)
	w = ask("POST", "/", "{}", http.Header{"Content-Encoding": {"gzip"}}, bot)
	assert.Equal(t, http.StatusUnsupportedMediaType, w.Code)
	assert.Empty(t, actors)
	assert.Empty(t, seen)
}

// An answer streams, and its breaking off is seen.
func TestRemoteStreams(t *testing.T) {
	next := make(chan string)
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for s := range next {
			if s == "cut" {
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, s)
			w.(http.Flusher).Flush()
		}
	}))
	defer far.Close()
	h := mcpx.Remote(far.URL, func(_ context.Context, a audit.Actor) (*credential.Lease, error) {
		return credential.NewLease(credential.LeaseRequest{Actor: a, Credential: "t", Origin: far.URL}, credential.Ref{Name: "t", Version: 1},
			credential.NewSecret([]byte("token-of-bot-0123456789")), credential.Binding{Origin: far.URL}, nil)
	})
	door := mcptest.Door(t, h, bot)
	resp, err := http.Get(door.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	buf := make([]byte, 64)
	for i := range 3 {
		event := fmt.Sprintf("data: %d\n\n", i)
		next <- event
		_, err := io.ReadFull(resp.Body, buf[:len(event)]) // before the next one is there
		require.NoError(t, err)
		assert.Equal(t, event, string(buf[:len(event)]))
	}
	next <- "cut"
	_, err = io.ReadAll(resp.Body)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	close(next)
}

// What cannot work is refused with a word to the operator, not to the agent.
func TestRemoteThatIsNotSetUp(t *testing.T) {
	tokens := func(context.Context, audit.Actor) (*credential.Lease, error) { return nil, nil }
	for endpoint, want := range map[string]string{
		"http://tools.example.com/mcp": "must be https", "/mcp": "absolute", "https://u:p@tools.example.com/": "password", "https://a/?b": "query", "://": "absolute",
	} {
		var logged bytes.Buffer
		h := mcpx.Remote(endpoint, tokens)
		h.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
		assert.Equal(t, http.StatusInternalServerError, w.Code, endpoint)
		assert.Contains(t, logged.String(), want)
		assert.NotContains(t, w.Body.String(), "http")
	}
	for _, broken := range []mcpx.Tokens{
		tokens,
		func(context.Context, audit.Actor) (*credential.Lease, error) { return nil, errors.New("secret words") },
		func(context.Context, audit.Actor) (*credential.Lease, error) { panic("secret words") },
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/", strings.NewReader("{}"))
		mcpx.Remote("https://tools.example.com/mcp", broken).ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), bot)))
		assert.Equal(t, http.StatusBadGateway, w.Code)
		assert.NotContains(t, w.Body.String(), "secret words")
	}
	w := httptest.NewRecorder()
	mcpx.Remote("https://tools.example.com/mcp", nil).ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
}
