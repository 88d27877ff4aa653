package mcpx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

var (
	forAlice = audit.Actor{Agent: "bot", Issuer: "session", User: "alice"}
	forBob   = audit.Actor{Agent: "bot", Issuer: "session", User: "bob"}
)

// A consentWorld is a gateway in front of a server that knows users, their
// authorization server, and the host's pages for consent.
type consentWorld struct {
	t      *testing.T
	log    *audittest.Log
	vault  *credential.Broker
	gw     *mcpx.Gateway
	grants *oauth.Grants
	host   *httptest.Server
	refuse bool // the users say no at the authorization server
}

func newConsentWorld(t *testing.T) *consentWorld {
	w := &consentWorld{t: t, log: audittest.NewLog(t)}
	var mu sync.Mutex
	codes := map[string]string{}
	var as *httptest.Server
	reply := func(rw http.ResponseWriter, v map[string]any) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(v)
	}
	as = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			reply(rw, map[string]any{"issuer": as.URL, "token_endpoint": as.URL + "/token", "authorization_endpoint": as.URL + "/authorize", "code_challenge_methods_supported": []string{"S256"}})
		case "/authorize":
			back := url.Values{"state": {r.FormValue("state")}, "iss": {as.URL}}
			if w.refuse {
				back.Set("error", "access_denied")
			} else {
				code := fmt.Sprintf("code-%d", len(codes))
				codes[code] = r.Header.Get("X-User")
				back.Set("code", code)
			}
			http.Redirect(rw, r, r.FormValue("redirect_uri")+"?"+back.Encode(), http.StatusFound)
		case "/token":
			user, ok := codes[r.FormValue("code")]
			if !ok {
				rw.WriteHeader(400)
				return
			}
			reply(rw, map[string]any{"access_token": "access-of-" + user, "token_type": "Bearer", "expires_in": 3600})
		default:
			http.NotFound(rw, r)
		}
	}))
	t.Cleanup(as.Close)

	// The server says whose account it was called with.
	whose := mcp.NewServer(&mcp.Implementation{Name: "mail", Version: "1"}, nil)
	whose.AddTool(&mcp.Tool{Name: "whoami", Description: "Says whose account it is.", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(_ context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			user := strings.TrimPrefix(req.Extra.Header.Get("Authorization"), "Bearer access-of-")
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "account of " + user}}}, nil
		})
	catalog, err := mcpx.Catalog(t.Context(), "mail", whose)
	require.NoError(t, err)
	upstream := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return whose }, &mcp.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(upstream.Close)

	engine := governance.NewEngine(w.log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in [Action::"call_tool", Action::"use_credential"], resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	w.vault, err = credential.NewBroker(credential.NewMemoryStore(nil), w.log, nil)
	require.NoError(t, err)
	t.Cleanup(func() { w.vault.Close() })
	require.NoError(t, w.vault.Bind(t.Context(), "mail", credential.Binding{Origin: upstream.URL,
		Scheme: oauth.AuthorizationCode(oauth.Client{Issuer: as.URL, ID: "host", Auth: oauth.None})}, admin))
	w.host = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.grants.ServeHTTP(rw, r) }))
	t.Cleanup(w.host.Close)
	w.grants, err = oauth.NewGrants(w.vault, w.host.URL+"/connect", func(r *http.Request) (string, error) { return r.Header.Get("X-User"), nil }, nil)
	require.NoError(t, err)
	w.gw = mcpx.NewGateway(engine, w.log, &mcpx.GatewayOptions{Vault: w.vault, Consents: w.grants})
	t.Cleanup(func() { w.gw.Close() })
	u := mcpx.HTTP("mail", upstream.URL)
	u.Credential = "mail"
	require.NoError(t, w.gw.AddUpstream(t.Context(), u))
	return w
}

// browse is the user's browser, in which they are signed in everywhere.
func (w *consentWorld) browse(user, page string) int {
	client := &http.Client{Transport: signedIn(user)}
	resp, err := client.Get(page)
	if !assert.NoError(w.t, err) {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

type signedIn string

func (s signedIn) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-User", string(s))
	return http.DefaultTransport.RoundTrip(r)
}

// agent connects an agent whose client shows pages to a user, who answers with
// action after they have opened them, or not.
func (w *consentWorld) agent(a audit.Actor, version, action string, asked *int) *mcptest.Agent {
	opts := &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{URL: &mcp.URLElicitationCapabilities{}}},
		ElicitationHandler: func(_ context.Context, req *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			*asked++
			assert.Equal(w.t, "url", req.Params.Mode)
			assert.Equal(w.t, `The agent "bot" wants to use your account at "mail".`, req.Params.Message)
			assert.True(w.t, strings.HasPrefix(req.Params.URL, w.host.URL+"/connect/start?state="))
			if action == "accept" {
				go w.browse(a.User, req.Params.URL) // the client does not wait for it
			}
			return &mcp.ElicitResult{Action: action}, nil
		},
	}
	return mcptest.Connect(w.t, mcptest.Door(w.t, w.gw, a).URL, &mcptest.ConnectOptions{Version: version, Client: opts})
}

// call calls the tool as clients do: those of the older protocol get an error
// that names the page, show it, and call again once the user says so.
func (w *consentWorld) call(a *mcptest.Agent, user, version, action string, asked *int) *mcp.CallToolResult {
	res, err := a.Call(w.t.Context(), "mail__whoami", `{}`)
	var need *jsonrpc.Error
	if version == legacy && errors.As(err, &need) && need.Code == mcp.CodeURLElicitationRequired {
		*asked++
		var data struct{ Elicitations []*mcp.ElicitParams }
		require.NoError(w.t, json.Unmarshal(need.Data, &data))
		require.Len(w.t, data.Elicitations, 1)
		assert.Equal(w.t, "url", data.Elicitations[0].Mode)
		if action == "accept" {
			w.browse(user, data.Elicitations[0].URL)
		}
		res, err = a.Call(w.t.Context(), "mail__whoami", `{}`)
	}
	if version == legacy && action != "accept" || w.refuse && version == legacy {
		require.ErrorAs(w.t, err, &need, "it is asked for again")
		return nil
	}
	require.NoError(w.t, err)
	return res
}

// A call for a user who has not consented asks for it, and is done with that
// user's account once they have; the next one is done at once.
func TestConsent(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) {
			w := newConsentWorld(t)
			asked := map[string]*int{"alice": new(int), "bob": new(int)}
			alice := w.agent(forAlice, version, "accept", asked["alice"])
			bob := w.agent(forBob, version, "accept", asked["bob"])
			for range 3 {
				assert.Equal(t, "account of alice", mcptest.Text(w.call(alice, "alice", version, "accept", asked["alice"])))
				assert.Equal(t, "account of bob", mcptest.Text(w.call(bob, "bob", version, "accept", asked["bob"])))
			}
			assert.Equal(t, 1, *asked["alice"])
			assert.Equal(t, 1, *asked["bob"])
			var both sync.WaitGroup
			for range 10 {
				both.Go(func() {
					res, err := alice.Call(t.Context(), "mail__whoami", `{}`)
					if assert.NoError(t, err) {
						assert.Equal(t, "account of alice", mcptest.Text(res))
					}
				})
				both.Go(func() {
					res, err := bob.Call(t.Context(), "mail__whoami", `{}`)
					if assert.NoError(t, err) {
						assert.Equal(t, "account of bob", mcptest.Text(res))
					}
				})
			}
			both.Wait()
			var consents int
			for _, rec := range w.log.Records() {
				if rec.Outcome != nil && rec.Outcome.ErrorCode == "consent" {
					consents++
				}
			}
			assert.Equal(t, 2, consents, "the calls that only asked are on record as such")
		})
	}
}

func TestConsentIsNotGiven(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		for _, action := range []string{"decline", "cancel", "accept"} {
			t.Run(version+" "+action, func(t *testing.T) {
				w := newConsentWorld(t)
				w.refuse = true // for those who accept to open the page
				asked := 0
				a := w.agent(forAlice, version, action, &asked)
				res := w.call(a, "alice", version, action, &asked)
				if version == modern {
					assert.Equal(t, "consent", denial(t, res).Reason)
					assert.True(t, denial(t, res).Retryable)
				}
				recs := w.log.Records()
				assert.Equal(t, "consent", recs[len(recs)-1].Outcome.ErrorCode)
			})
		}
	}
}

// A client that cannot show pages is told the address, which is of use to that
// user only; an agent for nobody is told nothing.
func TestConsentWithoutElicitation(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) {
			w := newConsentWorld(t)
			a := mcptest.Connect(t, mcptest.Door(t, w.gw, forAlice).URL, &mcptest.ConnectOptions{Version: version})
			res, err := a.Call(t.Context(), "mail__whoami", `{}`)
			require.NoError(t, err)
			assert.Equal(t, "consent", denial(t, res).Reason)
			_, rest, ok := strings.Cut(mcptest.Text(res), "Ask them to open ")
			require.True(t, ok, mcptest.Text(res))
			page, _, _ := strings.Cut(rest, " ")
			assert.Equal(t, 403, w.browse("bob", page))
			assert.Equal(t, 200, w.browse("alice", page))
			res, err = a.Call(t.Context(), "mail__whoami", `{}`)
			require.NoError(t, err)
			assert.Equal(t, "account of alice", mcptest.Text(res))

			nobody := mcptest.Connect(t, mcptest.Door(t, w.gw, bot).URL, &mcptest.ConnectOptions{Version: version})
			res, err = nobody.Call(t.Context(), "mail__whoami", `{}`)
			require.NoError(t, err)
			assert.Equal(t, "consent", denial(t, res).Reason)
			assert.NotContains(t, mcptest.Text(res), "http")
		})
	}
}
