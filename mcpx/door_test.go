package mcpx_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// tokens is a verifier: "<agent>" for audience "https://gw.example/mcp".
type tokens struct{}

func (tokens) Verify(_ context.Context, token, audience string) (audit.Actor, time.Time, error) {
	if token == "gone" {
		return audit.Actor{}, time.Time{}, fmt.Errorf("verifier text: %w", audit.ErrRevoked)
	}
	if audience != "https://gw.example/mcp" || (token != "bot" && token != "other" && token != "fresh-bot") {
		return audit.Actor{}, time.Time{}, errors.New("verifier text about " + token)
	}
	return audit.Actor{Agent: strings.TrimPrefix(token, "fresh-"), Issuer: "https://issuer.example"}, time.Now().Add(time.Minute), nil
}

// botToken says that every token is bot's.
type botToken struct{}

func (botToken) Verify(context.Context, string, string) (audit.Actor, time.Time, error) {
	return bot, time.Now().Add(time.Minute), nil
}

// The context of a stateful session is that of its first request for ever; the
// actor must be that of each request.
func TestIdentityIsOfThisRequest(t *testing.T) {
	w := newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) {
		o.Resource = "https://gw.example/mcp"
		o.AuthorizationServers = []string{"https://issuer.example"}
	}})
	srv := httptest.NewServer(w.gateway.Handler(tokens{}))
	defer srv.Close()
	auth := func(token string) [2]string { return [2]string{"Authorization", "Bearer " + token} }
	code, _, h := fire(t, srv.URL, shot{header: [][2]string{auth("bot")}, body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`})
	require.Equal(t, 200, code)
	session := [2]string{"Mcp-Session-Id", h.Get("Mcp-Session-Id")}
	fire(t, srv.URL, shot{header: [][2]string{session, auth("bot")}, body: `{"jsonrpc":"2.0","method":"notifications/initialized"}`})
	post := func(token string) (int, string) {
		code, body, _ := fire(t, srv.URL, legacyCall(session, "slack__post_message", `{"channel":"#engineering","text":"x"}`, auth(token)))
		return code, body
	}
	code, body := post("fresh-bot")
	assert.Equal(t, 200, code)
	assert.Contains(t, body, "posted", "a fresh token of the same agent continues the session")
	code, _ = post("other")
	assert.Equal(t, 404, code)

	// The same endpoint, one connection, two actors, without sessions.
	code, body, _ = fire(t, srv.URL, modernCall("slack__post_message", `{"channel":"#engineering","text":"x"}`, auth("bot")))
	assert.Equal(t, 200, code)
	assert.Contains(t, body, "posted")
	code, body, _ = fire(t, srv.URL, modernCall("slack__post_message", `{"channel":"#engineering","text":"x"}`, auth("other")))
	assert.Equal(t, 200, code)
	assert.Contains(t, body, `"reason":"policy"`)
	assert.Len(t, w.slack.Calls(), 2)
}

func TestBearer(t *testing.T) {
	w := newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) {
		o.Resource = "https://gw.example/mcp"
		o.AuthorizationServers = []string{"https://issuer.example"}
	}})
	srv := httptest.NewServer(w.gateway.Handler(tokens{}))
	defer srv.Close()
	const meta = `resource_metadata="https://gw.example/.well-known/oauth-protected-resource/mcp"`
	for _, c := range []struct {
		header    []string
		code      int
		challenge string
		reason    string
	}{
		{nil, 401, "Bearer " + meta, audit.GuardNoActor},
		{[]string{"Bearer wrong"}, 401, `Bearer error="invalid_token", ` + meta, audit.GuardToken},
		{[]string{"Basic Ym90OmJvdA=="}, 401, `Bearer error="invalid_token", ` + meta, audit.GuardToken},
		{[]string{"Bearer gone"}, 401, `Bearer error="invalid_token", ` + meta, audit.GuardRevoked},
		{[]string{"Bearer bot other"}, 401, `Bearer error="invalid_token", ` + meta, audit.GuardToken},
		{[]string{"Bearer"}, 401, `Bearer error="invalid_token", ` + meta, audit.GuardToken},
		{[]string{"Bearer bot", "Bearer other"}, 400, "", "headers"},
	} {
		n := w.mark()
		s := modernCall("github__big", `{}`)
		if len(c.header) == 0 {
			s.header = append(s.header, [2]string{"Authorization", "-"})
		}
		for _, h := range c.header {
			s.header = append(s.header, [2]string{"Authorization", h})
		}
		code, body, h := fire(t, srv.URL, s)
		assert.Equal(t, c.code, code)
		assert.Equal(t, c.challenge, h.Get("WWW-Authenticate"))
		assert.NotContains(t, body, "verifier text")
		recs := w.since(n)
		require.Len(t, recs, 1)
		assert.Equal(t, c.reason, recs[0].Event.Decision.Reason)
		assert.Equal(t, audit.ActionRequest+" POST /", recs[0].Event.Action+" "+recs[0].Event.Resource)
	}
	assert.Empty(t, w.github.Seen())

	code, body, _ := fire(t, srv.URL+"/.well-known/oauth-protected-resource/mcp", shot{method: http.MethodGet})
	assert.Equal(t, 200, code)
	assert.JSONEq(t, `{"resource":"https://gw.example/mcp","authorization_servers":["https://issuer.example"],"bearer_methods_supported":["header"]}`, body)

	a := mcptest.Connect(t, srv.URL, &mcptest.ConnectOptions{Token: "bot"})
	res, err := a.Call(t.Context(), "github__big", `{}`)
	require.NoError(t, err)
	assert.False(t, res.IsError)
	_, err = mcptest.TryConnect(t, srv.URL, &mcptest.ConnectOptions{Token: "wrong"})
	require.Error(t, err)

	// A session's door and a token must name the same agent.
	both := mcptest.Door(t, w.gateway.Handler(tokens{}), bot).URL
	code, _, _ = fire(t, both, modernCall("github__big", `{}`, [2]string{"Authorization", "Bearer other"}))
	assert.Equal(t, 403, code)
	den := w.log.Denials()
	assert.Equal(t, audit.GuardActor, den[len(den)-1].Decision.Reason)
	code, _, _ = fire(t, both, modernCall("github__big", `{}`, [2]string{"Authorization", "Bearer bot"}))
	assert.Equal(t, 200, code)
}

func TestBearerNotSetUp(t *testing.T) {
	w := newWorld(t, nil)
	for _, v := range []mcpx.Verifier{nil, tokens{}} {
		srv := httptest.NewServer(w.gateway.Handler(v))
		code, _, _ := fire(t, srv.URL, modernCall("github__big", `{}`, [2]string{"Authorization", "Bearer bot"}))
		assert.Equal(t, 500, code)
		srv.Close()
	}
	assert.Empty(t, w.github.Seen())
}

// A door without an actor, and gateways without an engine or a log, refuse.
func TestNobodyAndNothing(t *testing.T) {
	w := newWorld(t, nil)
	url := mcptest.Door(t, w.gateway, audit.Actor{}).URL
	code, _, _ := fire(t, url, modernCall("github__big", `{}`, [2]string{"Authorization", "Bearer bot"}))
	assert.Equal(t, 401, code, "a token is not looked at here")
	den := w.log.Denials()
	require.Len(t, den, 1)
	assert.Equal(t, audit.GuardNoActor, den[0].Decision.Reason)
	for _, gw := range []*mcpx.Gateway{mcpx.NewGateway(nil, w.log, nil), mcpx.NewGateway(w.engine, nil, nil)} {
		code, body, _ := fire(t, mcptest.Door(t, gw, bot).URL, modernCall("github__big", `{}`))
		assert.Equal(t, 503, code)
		assert.Contains(t, body, "without one every")
		gw.Close()
	}
}

// Clients that speak a protocol with sessions may hang on a stream; it ends
// when their agent is revoked.
func TestStreamEndsWithRevocation(t *testing.T) {
	w := newWorld(t, nil)
	url := mcptest.Door(t, w.gateway, bot).URL
	session := legacySession(t, url)
	r, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set(session[0], session[1])
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	w.agents.revoke("bot")
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err, "the stream has ended")
	code, _, _ := fire(t, url, shot{method: http.MethodGet, header: [][2]string{session}})
	assert.Equal(t, 403, code)
}

// A timed verifier's tokens are bot's, for as long as it says.
type timed time.Duration

func (d timed) Verify(context.Context, string, string) (audit.Actor, time.Time, error) {
	return bot, time.Now().Add(time.Duration(d)), nil
}

// tokenDoor serves a world's gateway to the holders of tokens.
func tokenDoor(t *testing.T, v mcpx.Verifier) (*world, string) {
	w := newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) { o.Resource = "https://gw.example/mcp" }})
	srv := httptest.NewServer(w.gateway.Handler(v))
	t.Cleanup(func() {
		srv.CloseClientConnections() // of streams that do not end by themselves
		srv.Close()
	})
	return w, srv.URL
}

// Who has held a token once does not hang on a stream for ever.
func TestStreamEndsWithItsToken(t *testing.T) {
	_, url := tokenDoor(t, timed(time.Second))
	session := legacySession(t, url)
	listen := shot{header: [][2]string{{"Mcp-Protocol-Version", modern}, {"Mcp-Method", "subscriptions/listen"}},
		body: `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{` + modernMeta + `,"notifications":{"toolsListChanged":true}}}`}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, s := range []shot{{method: http.MethodGet, header: [][2]string{session}}, listen} {
		r, err := http.NewRequestWithContext(ctx, cmp.Or(s.method, http.MethodPost), url, strings.NewReader(s.body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		r.Header.Set("Authorization", "Bearer bot")
		for _, h := range s.header {
			r.Header.Set(h[0], h[1])
		}
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		assert.Equal(t, 200, resp.StatusCode)
		_, err = io.Copy(io.Discard, resp.Body)
		assert.NoError(t, err, "it has outlived its token")
	}
}

// slowly sends a call whose body ends only after the door was asked for it.
func slowly(t *testing.T, url string, meanwhile func()) (int, string) {
	s := modernCall("slack__post_message", `{"channel":"#engineering","text":"x"}`)
	half := len(s.body) / 2
	body, write := io.Pipe()
	go func() {
		_, _ = io.WriteString(write, s.body[:half])
		meanwhile()
		_, _ = io.WriteString(write, s.body[half:])
		write.Close()
	}()
	r, err := http.NewRequest(http.MethodPost, url, body)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer bot")
	for _, h := range s.header {
		r.Header.Set(h[0], h[1])
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// A request that was let in before its agent was revoked, and that its sender ends
// after the agent was reinstated, is one of the life that has ended.
func TestRequestOfAnEarlierLife(t *testing.T) {
	w, url := tokenDoor(t, botToken{})
	_, body := slowly(t, url, func() {})
	require.Contains(t, body, "posted")
	live := func(n int) func() bool {
		return func() bool {
			w.agents.mu.Lock()
			defer w.agents.mu.Unlock()
			return w.agents.live == n
		}
	}
	require.Eventually(t, live(1), time.Minute, time.Millisecond, "its session with the server")
	_, body = slowly(t, url, func() {
		assert.Eventually(t, live(2), time.Minute, time.Millisecond, "it was let in")
		w.agents.revoke("bot")
		w.agents.reinstate("bot")
	})
	assert.Contains(t, body, `"reason":"`+audit.GuardRevoked+`"`)
	assert.Len(t, w.slack.Calls(), 1)
}

// A token that has expired before the whole request is there begins nothing.
func TestRequestThatOutlivesItsToken(t *testing.T) {
	w, url := tokenDoor(t, timed(50*time.Millisecond))
	code, _ := slowly(t, url, func() { time.Sleep(100 * time.Millisecond) })
	assert.Equal(t, 401, code)
	assert.Empty(t, w.slack.Calls())
}
