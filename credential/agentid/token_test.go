package agentid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/twinward-dev/twinward/audit"
)

const tools = "https://tools.local/mcp"

// ask sends a token request and returns the answer.
func ask(r *Registry, change func(*http.Request), form string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("POST", "/token", strings.NewReader(form))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(req)
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	return w
}

func basic(id, secret string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) }
}

func grant(resource string) string {
	return url.Values{"grant_type": {"client_credentials"}, "resource": {resource}}.Encode()
}

func issueFor(t testing.TB, r *Registry, id, secret, resource string) string {
	t.Helper()
	w := ask(r, basic(id, secret), grant(resource))
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	var got struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	return got.AccessToken
}

func TestTokenEndpoint(t *testing.T) {
	c := &clock{}
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example", Clock: c.now})
	secret := register(t, r, "spiffe://example.org/standup")
	w := ask(r, basic("spiffe://example.org/standup", secret), grant(tools))
	require.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	var got map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	token, _ := got["access_token"].(string)
	assert.Regexp(t, `^agt_[A-Za-z0-9_-]{43}$`, token)
	assert.Equal(t, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 300.0}, got)

	actor, expires, err := r.Verify(context.Background(), token, tools)
	require.NoError(t, err)
	assert.Equal(t, audit.Actor{Agent: "spiffe://example.org/standup", Issuer: "https://issuer.example", Profile: "standup"}, actor)
	assert.Equal(t, c.now().Add(5*time.Minute), expires)
	assert.Equal(t, []string{
		`identity register_agent Agent::"spiffe://example.org/standup"`,
		`identity issue_token Agent::"spiffe://example.org/standup"`,
	}, log.actions())
	record, err := json.Marshal(log.events)
	require.NoError(t, err)
	assert.NotContains(t, string(record), token)
	assert.NotContains(t, string(record), secret)
	assert.NotContains(t, fmt.Sprintf("%+v", r), token)
}

// A client that nobody here wrote gets a token and uses it.
func TestTokenEndpointWithOAuth2Client(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	issuer := "http://" + server.Listener.Addr().String() + "/as"
	r, _ := newRegistry(t, &Options{Issuer: issuer})
	server.Config.Handler = r.Handler()
	server.Start()
	defer server.Close()

	resp, err := http.Get(strings.TrimSuffix(issuer, "/as") + "/.well-known/oauth-authorization-server/as")
	require.NoError(t, err)
	defer resp.Body.Close()
	var meta struct {
		Issuer   string   `json:"issuer"`
		Endpoint string   `json:"token_endpoint"`
		Methods  []string `json:"token_endpoint_auth_methods_supported"`
		Grants   []string `json:"grant_types_supported"`
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&meta))
	assert.Equal(t, issuer, meta.Issuer)
	assert.Equal(t, []string{"client_secret_basic", "private_key_jwt", "tls_client_auth"}, meta.Methods)
	assert.Equal(t, []string{"client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"}, meta.Grants)

	client := &clientcredentials.Config{
		ClientID: "a:b@c/d", ClientSecret: register(t, r, "a:b@c/d"), TokenURL: meta.Endpoint,
		EndpointParams: url.Values{"resource": {tools}}, AuthStyle: oauth2.AuthStyleInHeader,
	}
	token, err := client.Token(context.Background())
	require.NoError(t, err)
	assert.Equal(t, "Bearer", token.Type())
	actor, _, err := r.Verify(context.Background(), token.AccessToken, tools)
	require.NoError(t, err)
	assert.Equal(t, "a:b@c/d", actor.Agent)
}

func TestMetadataPaths(t *testing.T) {
	get := func(r *Registry, method, path string) int {
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code
	}
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	assert.Equal(t, 200, get(r, "GET", "/.well-known/oauth-authorization-server"))
	assert.Equal(t, 200, get(r, "HEAD", "/.well-known/oauth-authorization-server"))
	assert.Equal(t, 405, get(r, "POST", "/.well-known/oauth-authorization-server"))
	assert.Equal(t, 405, get(r, "GET", "/token"))
	assert.Equal(t, 404, get(r, "GET", "/"))
	none, _ := newRegistry(t, nil)
	assert.Equal(t, 503, get(none, "GET", "/.well-known/oauth-authorization-server"))
	assert.Equal(t, 503, ask(none, nil, grant(tools)).Code)
}

func TestTokenEndpointRefuses(t *testing.T) {
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	register(t, r, "revoked")
	auth := basic("standup", secret)
	and := func(f func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) { auth(r); f(r) }
	}
	good := grant(tools)
	for name, c := range map[string]struct {
		change func(*http.Request)
		form   string
		status int
		code   string
	}{
		"no auth":         {nil, good, 401, "invalid_client"},
		"two auths":       {and(func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }), good, 401, "invalid_client"},
		"bad basic":       {func(r *http.Request) { r.Header.Set("Authorization", "Basic !!!") }, good, 401, "invalid_client"},
		"bad encoding":    {func(r *http.Request) { r.SetBasicAuth("standup", "%zz") }, good, 401, "invalid_client"},
		"empty secret":    {basic("standup", ""), good, 401, "invalid_client"},
		"other client_id": {auth, good + "&client_id=other", 401, "invalid_client"},
		"same client_id":  {auth, good + "&client_id=standup", 200, ""},
		"secret in body":  {auth, good + "&client_secret=x", 400, "invalid_request"},
		"two ways":        {auth, good + "&client_assertion=x", 401, "invalid_client"},
		"in the query":    {and(func(r *http.Request) { r.URL.RawQuery = good }), "", 400, "invalid_request"},
		"json":            {and(func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }), "{}", 400, "invalid_request"},
		"no type":         {and(func(r *http.Request) { r.Header.Del("Content-Type") }), good, 400, "invalid_request"},
		"charset": {and(func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		}), good, 200, ""},
		"twice":              {auth, good + "&grant_type=client_credentials", 400, "invalid_request"},
		"two resources":      {auth, good + "&resource=https://other.example", 400, "invalid_request"},
		"too large":          {auth, good + "&x=" + strings.Repeat("a", maxForm), 400, "invalid_request"},
		"too many":           {auth, good + strings.Repeat("&a", 40), 400, "invalid_request"},
		"not a form":         {auth, "a=%zz", 400, "invalid_request"},
		"semicolon":          {auth, "a=b;c=d", 400, "invalid_request"},
		"no grant":           {auth, "resource=" + url.QueryEscape(tools), 400, "unsupported_grant_type"},
		"other grant":        {auth, "grant_type=password&resource=" + url.QueryEscape(tools), 400, "unsupported_grant_type"},
		"scope":              {auth, good + "&scope=admin", 400, "invalid_scope"},
		"no resource":        {auth, "grant_type=client_credentials", 400, "invalid_target"},
		"relative resource":  {auth, grant("/mcp"), 400, "invalid_target"},
		"resource fragment":  {auth, grant(tools + "#x"), 400, "invalid_target"},
		"clear-text":         {auth, grant("http://tools.example/mcp"), 400, "invalid_target"},
		"long resource":      {auth, grant(tools + strings.Repeat("a", 2048)), 400, "invalid_target"},
		"case of agent's id": {basic("Standup", secret), good, 401, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(r, c.change, c.form)
			assert.Equal(t, c.status, w.Code, "%s", w.Body)
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			var got struct{ Error, AccessToken string }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			assert.Equal(t, c.code, got.Error)
			if c.status == 401 {
				assert.Contains(t, w.Header().Get("WWW-Authenticate"), "Basic ")
			}
		})
	}
}

// Who guesses learns nothing from the answers.
func TestTokenEndpointIsNoOracle(t *testing.T) {
	c := &clock{}
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example", Clock: c.now})
	secret := register(t, r, "standup")
	gone := register(t, r, "gone")
	require.NoError(t, r.Revoke(context.Background(), "gone", by))
	log.events = nil
	var first *httptest.ResponseRecorder
	for _, auth := range []func(*http.Request){basic("nobody", secret), basic("standup", gone), basic("gone", gone), basic("gone", secret), nil} {
		w := ask(r, auth, grant(tools))
		if first == nil {
			first = w
		}
		assert.Equal(t, 401, w.Code)
		assert.Equal(t, first.Body.String(), w.Body.String())
		assert.Equal(t, first.Header(), w.Header())
	}
	// Also when the request is bad in other ways.
	for _, auth := range []func(*http.Request){basic("standup", gone), basic("gone", secret), basic("gone", gone)} {
		assert.Equal(t, first.Body.String(), ask(r, auth, "grant_type=password").Body.String())
	}
	// The record tells them apart.
	var got []string
	for _, ev := range log.events {
		got = append(got, fmt.Sprintf("%s %s %s", ev.Kind, ev.Resource, ev.Decision.Reason))
	}
	assert.Equal(t, []string{
		"denial TokenEndpoint bad-token", `denial Agent::"standup" bad-token`,
		`denial Agent::"gone" revoked`, `denial Agent::"gone" bad-token`,
	}, got)
}

// The time that recording takes depends on what is recorded, so the answer is
// out before.
func TestRefusalsAreAnsweredFirst(t *testing.T) {
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	w := httptest.NewRecorder()
	log.before = func(ctx context.Context, _ audit.Event) {
		assert.True(t, w.Flushed)
		assert.NotEmpty(t, w.Header().Get("Content-Length"))
		assert.NoError(t, ctx.Err())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	req := httptest.NewRequestWithContext(ctx, "POST", "/token", strings.NewReader(grant(tools)))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Handler().ServeHTTP(w, req)
	assert.Equal(t, http.StatusUnauthorized, w.Code)
	assert.Len(t, log.events, 1)
}

func TestRefusalsAreCounted(t *testing.T) {
	c := &clock{}
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example", Clock: c.now})
	register(t, r, "standup")
	for i := range 100 {
		ask(r, basic(fmt.Sprintf("guess-%d", i), "x"), grant(tools))
		ask(r, basic("standup", fmt.Sprint(i)), grant(tools))
	}
	require.Len(t, log.events, 3)
	c.advance(quiet)
	ask(r, basic("guess", "x"), grant(tools))
	require.Len(t, log.events, 4)
	assert.Equal(t, map[string]string{"more_before": "99"}, log.events[3].Detail)
}

func TestDefaultResource(t *testing.T) {
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example", Resource: "https://Tools.local:443/mcp"})
	secret := register(t, r, "standup")
	token := issueFor(t, r, "standup", secret, "")
	_, _, err := r.Verify(context.Background(), token, tools)
	assert.NoError(t, err)
	token = issueFor(t, r, "standup", secret, "https://other.example")
	_, _, err = r.Verify(context.Background(), token, tools)
	assert.ErrorIs(t, err, ErrAudience, "what a client asks for counts")
}

func TestVerify(t *testing.T) {
	ctx := context.Background()
	c := &clock{}
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example", Clock: c.now, TokenTTL: time.Minute})
	secret := register(t, r, "standup")
	token := issueFor(t, r, "standup", secret, "https://Tools.local:443/mcp")

	for audience, want := range map[string]error{
		tools: nil, "https://TOOLS.local/mcp": nil,
		"https://tools.local": ErrAudience, "https://tools.local/mcp/": ErrAudience, "https://tools.local/MCP": ErrAudience,
		"https://tools.local/mcp?x": ErrAudience, "https://tools.local:8443/mcp": ErrAudience, "": ErrAudience, "tools": ErrAudience,
	} {
		actor, _, err := r.Verify(ctx, token, audience)
		assert.ErrorIs(t, err, want, audience)
		assert.Equal(t, want != nil, actor.IsZero(), audience)
	}
	for _, bad := range []string{
		"", "agt_", token[:len(token)-1], token + "a", strings.ToUpper(token), " " + token, token[:len(token)-1] + "\n",
		secret, "agt_" + secret[4:], "Bearer " + token, strings.Repeat("a", 1<<20),
	} {
		actor, expires, err := r.Verify(ctx, bad, tools)
		assert.ErrorIs(t, err, ErrToken)
		assert.Zero(t, actor)
		assert.Zero(t, expires)
	}
	other, _ := newRegistry(t, nil)
	_, _, err := other.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrToken)

	c.advance(time.Minute - 1)
	_, _, err = r.Verify(ctx, token, tools)
	assert.NoError(t, err)
	c.advance(1)
	_, _, err = r.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrExpired)

	fresh := issueFor(t, r, "standup", secret, tools)
	_, _, err = r.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrToken, "expired tokens are forgotten")
	require.NoError(t, r.Revoke(ctx, "standup", by))
	_, _, err = r.Verify(ctx, fresh, tools)
	assert.ErrorIs(t, err, ErrRevoked)
	_, _, err = r.Verify(ctx, fresh, "https://other.example")
	assert.ErrorIs(t, err, ErrRevoked)
}

func TestExpiredTokensAreForgotten(t *testing.T) {
	c := &clock{}
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example", Clock: c.now, TokenTTL: time.Minute})
	secret := register(t, r, "standup")
	for range 10 {
		for range 10 {
			issueFor(t, r, "standup", secret, tools)
		}
		c.advance(time.Minute)
	}
	issueFor(t, r, "standup", secret, tools)
	assert.Len(t, r.tokens, 1)
	assert.Len(t, r.expiry.q, 1)
	assert.Equal(t, 1, r.agents["standup"].tokens)
}

func TestTokensPerAgentAreLimited(t *testing.T) {
	c := &clock{}
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example", Clock: c.now, TokenTTL: time.Minute})
	secret := register(t, r, "standup")
	other := register(t, r, "other")
	issueFor(t, r, "standup", secret, tools)
	r.agents["standup"].tokens = maxTokens
	w := ask(r, basic("standup", secret), grant(tools))
	assert.Equal(t, http.StatusTooManyRequests, w.Code)
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	issueFor(t, r, "other", other, tools)
	c.advance(time.Minute)
	issueFor(t, r, "standup", secret, tools)
}

func TestNoRecordNoToken(t *testing.T) {
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	log.err = errors.New("disk full")
	w := ask(r, basic("standup", secret), grant(tools))
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.Empty(t, r.tokens)
	assert.NotContains(t, w.Body.String(), "disk full")

	// Refusals do not depend on the log.
	w = ask(r, basic("standup", "wrong"), grant(tools))
	assert.Equal(t, http.StatusUnauthorized, w.Code)
}

// An agent that is revoked while its token is being recorded does not get it.
func TestRevokedWhileIssuing(t *testing.T) {
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	log.before = func(_ context.Context, ev audit.Event) {
		if ev.Action == "issue_token" && ev.Kind == audit.KindIdentity {
			r.mu.Lock() // what Revoke does, while the journal is held
			r.agents["standup"].State = Revoked
			r.agents["standup"].Life++
			r.mu.Unlock()
		}
	}
	w := ask(r, basic("standup", secret), grant(tools))
	assert.Equal(t, http.StatusUnauthorized, w.Code)
	assert.Empty(t, r.tokens)
}

func FuzzTokenRequest(f *testing.F) {
	f.Add(grant(tools), "Basic c3RhbmR1cDp4", "application/x-www-form-urlencoded")
	f.Add("grant_type=client_credentials&resource=https%3A%2F%2Fa", "Basic ", "text/plain")
	f.Fuzz(func(t *testing.T, form, auth, kind string) {
		r, err := NewRegistry(&journal{}, &Options{Issuer: "https://issuer.example"})
		require.NoError(t, err)
		register(t, r, "standup")
		w := ask(r, func(req *http.Request) {
			req.Header.Set("Authorization", auth)
			req.Header.Set("Content-Type", kind)
		}, form)
		require.Contains(t, []int{400, 401}, w.Code)
		require.True(t, json.Valid(w.Body.Bytes()))
		require.Empty(t, r.tokens)
	})
}

func FuzzVerify(f *testing.F) {
	r, err := NewRegistry(&journal{}, &Options{Issuer: "https://issuer.example"})
	require.NoError(f, err)
	token := issueFor(f, r, "standup", register(f, r, "standup"), tools)
	f.Add(strings.ToUpper(token), tools)
	f.Add("agt_"+strings.Repeat("A", 43), tools)
	f.Fuzz(func(t *testing.T, bearer, audience string) {
		_, _, err := r.Verify(context.Background(), bearer, audience)
		require.True(t, errors.Is(err, ErrToken) || bearer == token)
	})
}

func BenchmarkVerify(b *testing.B) {
	r, _ := newRegistry(b, &Options{Issuer: "https://issuer.example"})
	secret := register(b, r, "standup")
	for range 1000 {
		issueFor(b, r, "standup", secret, tools)
	}
	token := issueFor(b, r, "standup", secret, tools)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Verify(context.Background(), token, tools); err != nil {
			b.Fatal(err)
		}
	}
}
