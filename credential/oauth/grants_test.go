package oauth_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/oauth"
)

// A consentServer is an authorization server with users, who consent at once.
// It checks PKCE, uses codes once, and rotates refresh tokens.
type consentServer struct {
	*fakeServer
	mu      sync.Mutex
	n       int
	codes   map[string]url.Values // what the browser brought
	refresh map[string]string     // refresh token → user
	life    int                   // of access tokens, in seconds
}

func newConsentServer(t *testing.T) *consentServer {
	c := &consentServer{fakeServer: newServer(t), codes: map[string]url.Values{}, refresh: map[string]string{}, life: 3600}
	c.token = c.tokens
	return c
}

// visit is what the user's browser does there: it consents, and goes back.
func (c *consentServer) visit(user, authorize string) url.Values {
	u, err := url.Parse(authorize)
	require.NoError(c.t, err)
	require.Equal(c.t, c.URL+"/authorize", u.Scheme+"://"+u.Host+u.Path)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	code := fmt.Sprintf("code-%s-%d", user, c.n)
	q := u.Query()
	q.Set("user", user)
	c.codes[code] = q
	return url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {c.URL}}
}

func (c *consentServer) tokens(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var user string
	ok := false
	switch f := r.PostForm; f.Get("grant_type") {
	case "authorization_code":
		var q url.Values
		q, ok = c.codes[f.Get("code")]
		delete(c.codes, f.Get("code"))
		sum := sha256.Sum256([]byte(f.Get("code_verifier")))
		ok = ok && q.Get("code_challenge_method") == "S256" && q.Get("code_challenge") == base64.RawURLEncoding.EncodeToString(sum[:]) &&
			q.Get("redirect_uri") == f.Get("redirect_uri") && q.Get("resource") == f.Get("resource") && f.Get("resource") != ""
		user = q.Get("user")
	case "refresh_token":
		user, ok = c.refresh[f.Get("refresh_token")]
		delete(c.refresh, f.Get("refresh_token"))
	}
	if !ok {
		answer(w, 400, map[string]any{"error": "invalid_grant"})
		return
	}
	c.n++
	refresh := fmt.Sprintf("refresh-%s-%d", user, c.n)
	c.refresh[refresh] = user
	answer(w, 200, map[string]any{"access_token": fmt.Sprintf("access-%s-%d", user, c.n), "token_type": "Bearer", "expires_in": c.life, "refresh_token": refresh})
}

type consentRig struct {
	*rig
	as     *consentServer
	grants *oauth.Grants
}

func newConsentRig(t *testing.T) *consentRig {
	as := newConsentServer(t)
	r := newRig(t, "", oauth.AuthorizationCode(oauth.Client{Issuer: as.URL, ID: "me", Auth: oauth.None}), "read", "write")
	return &consentRig{r, as, grantsOf(t, r)}
}

func grantsOf(t *testing.T, r *rig) *oauth.Grants {
	g, err := oauth.NewGrants(r.Broker, "https://host.example/connect", func(q *http.Request) (string, error) {
		return q.Header.Get("X-User"), nil
	}, &oauth.GrantsOptions{Now: r.now})
	require.NoError(t, err)
	return g
}

// open opens a page of the host as a user who is signed in there.
func (c *consentRig) open(user, page string) *http.Response {
	req := httptest.NewRequest("GET", page, nil)
	req.Header.Set("X-User", user)
	w := httptest.NewRecorder()
	c.grants.ServeHTTP(w, req)
	assert.Equal(c.t, "no-store", w.Header().Get("Cache-Control"))
	return w.Result()
}

// consent does what a user does who is asked for consent.
func (c *consentRig) consent(a audit.Actor) {
	c.t.Helper()
	asked, err := c.grants.Begin(c.t.Context(), a, "k")
	require.NoError(c.t, err)
	resp := c.open(a.User, asked.URL)
	require.Equal(c.t, http.StatusFound, resp.StatusCode, drain(resp.Body))
	back := c.as.visit(a.User, resp.Header.Get("Location"))
	resp = c.open(a.User, c.grants.RedirectURI("k")+"?"+back.Encode())
	require.Equal(c.t, http.StatusOK, resp.StatusCode, drain(resp.Body))
	require.NoError(c.t, asked.Wait(c.t.Context()))
}

// The whole way: no grant, consent, calls, renewals, a host that starts anew.
func TestAuthorizationCode(t *testing.T) {
	c := newConsentRig(t)
	_, err := c.call(alice)
	require.ErrorIs(t, err, credential.ErrNoGrant)
	c.consent(alice)
	first, err := c.call(alice)
	require.NoError(t, err)
	assert.Contains(t, first, "Bearer access-alice-")
	assert.EqualValues(t, 1, c.as.asked.Load(), "the token that came with the code is used")
	_, err = c.call(bob)
	assert.ErrorIs(t, err, credential.ErrNoGrant)
	_, err = c.call(actor)
	assert.ErrorIs(t, err, credential.ErrNoGrant, "it acts for nobody")

	c.clock.Add(int64(2 * time.Hour))
	second, err := c.call(alice)
	require.NoError(t, err)
	assert.NotEqual(t, first, second)
	assert.EqualValues(t, 2, c.as.asked.Load())
	again, err := credential.NewBroker(c.store, c.log, &credential.BrokerOptions{Now: c.now})
	require.NoError(t, err)
	defer again.Close()
	b, err := c.Binding(t.Context(), "k")
	require.NoError(t, err)
	require.NoError(t, again.Bind(t.Context(), "k", b, by))
	c.rig.Broker = again
	third, err := c.call(alice)
	require.NoError(t, err)
	assert.Equal(t, second, third)
	assert.EqualValues(t, 2, c.as.asked.Load())
	var granted int
	for _, rec := range c.log.Records() {
		if rec.Event != nil && rec.Event.Action == "grant_credential" {
			granted++
			assert.Equal(t, "alice", rec.Event.Change.By)
		}
	}
	assert.Equal(t, 1, granted)
}

// Users consent and call at the same time, with tokens that are renewed all the
// time: nobody is ever served with another's.
func TestGrantsOfUsersInterleaved(t *testing.T) {
	c := newConsentRig(t)
	users := []string{"alice", "bob", "carol"}
	var consents, all sync.WaitGroup
	c.rig.resource.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, r.Header.Get("Authorization"))
	})
	for _, user := range users {
		a := audit.Actor{Agent: "standup", User: user}
		consents.Go(func() { c.consent(a) })
	}
	consents.Wait()
	for range 10 {
		for i := range 9 {
			a := audit.Actor{Agent: "standup", User: users[i%3]}
			all.Go(func() {
				l, err := c.lease(a)
				if !assert.NoError(t, err) {
					return
				}
				resp, err := (&http.Client{Transport: l.Transport(nil)}).Get(c.resource.URL)
				if assert.NoError(t, err) {
					token := drain(resp.Body)
					resp.Body.Close()
					assert.True(t, strings.HasPrefix(token, "Bearer access-"+a.User+"-"), "%s was served with %s", a.User, token)
				}
			})
		}
		all.Wait()
		c.clock.Add(int64(70 * time.Minute)) // every token has ended
	}
	assert.EqualValues(t, 3+3*9, c.as.asked.Load(), "three consents, and one renewal for each user and round")
}

// The browser may be back before the agent's call is. The page is used up all the
// same, and how it ended is told to the actor that asked and to nobody else.
func TestConsentBeforeTheCall(t *testing.T) {
	c := newConsentRig(t)
	a := audit.Actor{Agent: "standup", User: "alice"}
	id, page, err := c.grants.Ask(t.Context(), a, "k")
	require.NoError(t, err)
	back := c.as.visit("alice", c.open("alice", page).Header.Get("Location"))
	answer := c.grants.RedirectURI("k") + "?" + back.Encode()
	require.Equal(t, http.StatusOK, c.open("alice", answer).StatusCode)
	for range 2 {
		require.NoError(t, c.grants.Await(t.Context(), a, id))
	}
	assert.ErrorIs(t, c.grants.Await(t.Context(), audit.Actor{Agent: "other", User: "alice"}, id), oauth.ErrConsent)
	assert.Equal(t, http.StatusBadRequest, c.open("alice", answer).StatusCode)
	assert.Equal(t, http.StatusBadRequest, c.open("alice", page).StatusCode)
}

// A grant that was moved to another user's place, or another server's, is of no
// use there.
func TestGrantOfAnotherUserIsRefused(t *testing.T) {
	c := newConsentRig(t)
	c.consent(alice)
	_, stolen, err := c.store.Get(t.Context(), credential.Ref{Name: credential.GrantName("k", "alice")})
	require.NoError(t, err)
	require.NoError(t, c.PutGrant(t.Context(), "k", "bob", stolen, by))
	_, err = c.call(bob)
	assert.ErrorIs(t, err, credential.ErrReauth)
	c.noLeak(err)
	other := newConsentServer(t)
	b, err := c.Binding(t.Context(), "k")
	require.NoError(t, err)
	b.Scheme = oauth.AuthorizationCode(oauth.Client{Issuer: other.URL, ID: "me", Auth: oauth.None})
	require.NoError(t, c.Bind(t.Context(), "k", b, by))
	_, err = c.call(alice)
	assert.ErrorIs(t, err, credential.ErrReauth, "it is from another server (SEP-2352)")
	assert.Zero(t, other.asked.Load())
	assert.EqualValues(t, 1, c.as.asked.Load())
}

// The host ends between the server's rotation and the store.
func TestRefreshLostInACrash(t *testing.T) {
	c := newConsentRig(t)
	c.consent(alice)
	c.clock.Add(int64(2 * time.Hour))
	c.as.mu.Lock()
	for token := range c.as.refresh { // rotated, and the answer never arrived
		delete(c.as.refresh, token)
	}
	c.as.mu.Unlock()
	_, err := c.call(alice)
	assert.ErrorIs(t, err, credential.ErrReauth)
	var grant *credential.GrantError
	require.ErrorAs(t, err, &grant)
	assert.True(t, grant.Ended)
	c.noLeak(err)
	c.consent(alice)
	_, err = c.call(alice)
	assert.NoError(t, err)
}

// Pages in the wrong hands, answers that were forged, and answers twice.
func TestCallbackRefuses(t *testing.T) {
	c := newConsentRig(t)
	evil := newServer(t)
	begin := func() (*oauth.Consent, url.Values) {
		asked, err := c.grants.Begin(t.Context(), alice, "k")
		require.NoError(t, err)
		resp := c.open("alice", asked.URL)
		require.Equal(t, 302, resp.StatusCode)
		return asked, c.as.visit("alice", resp.Header.Get("Location"))
	}
	back := func(user string, q url.Values) int {
		return c.open(user, c.grants.RedirectURI("k")+"?"+q.Encode()).StatusCode
	}
	asked, q := begin()
	assert.Equal(t, 403, c.open("bob", asked.URL).StatusCode, "bob would grant alice's agent his account")
	assert.Equal(t, 401, c.open("", asked.URL).StatusCode)
	assert.Equal(t, 403, back("bob", q))
	assert.Equal(t, 401, back("", q))
	assert.Equal(t, 200, back("alice", q), "hers is still good")
	assert.Equal(t, 400, back("alice", q), "once")
	require.NoError(t, asked.Wait(t.Context()))

	for why, change := range map[string]func(q url.Values){
		"another issuer":   func(q url.Values) { q.Set("iss", evil.URL) },
		"no issuer":        func(q url.Values) { q.Del("iss") },
		"two issuers":      func(q url.Values) { q["iss"] = append(q["iss"], evil.URL) },
		"no code":          func(q url.Values) { q.Del("code") },
		"two codes":        func(q url.Values) { q.Add("code", "x") },
		"a forged code":    func(q url.Values) { q.Set("code", "forged-code") },
		"an error":         func(q url.Values) { q.Set("error", "access_denied") },
		"a forged error":   func(q url.Values) { q.Set("error", "<script>") },
		"an error of evil": func(q url.Values) { q.Set("error", "access_denied"); q.Set("iss", evil.URL) },
	} {
		asked, q := begin()
		change(q)
		assert.Equal(t, 400, back("alice", q), why)
		err := asked.Wait(t.Context())
		assert.Error(t, err, why)
		assert.NotContains(t, err.Error(), "script")
	}
	_, q = begin()
	assert.Equal(t, 400, back("alice", url.Values{"code": q["code"], "iss": q["iss"], "state": {"guessed"}}))
	assert.Equal(t, 400, back("alice", url.Values{"code": q["code"], "iss": q["iss"], "state": append(q["state"], "x")}))

	unopened, err := c.grants.Begin(t.Context(), alice, "k")
	require.NoError(t, err)
	assert.Equal(t, 400, back("alice", url.Values{"code": {"x"}, "iss": {c.as.URL}, "state": {unopened.ID}}), "nobody was sent there")
	late, q := begin()
	c.clock.Add(int64(11 * time.Minute))
	assert.Equal(t, 400, back("alice", q))
	_, err = c.grants.Begin(t.Context(), alice, "k")
	require.NoError(t, err)
	assert.ErrorIs(t, late.Wait(t.Context()), oauth.ErrConsent)
	assert.Equal(t, 404, c.open("alice", "https://host.example/connect/other").StatusCode)
}

// Two servers, of which one is evil and the other does not say in its answers who
// it is: the evil one sends the user on to the other, and would be brought its code.
func TestServersAreNotMixedUp(t *testing.T) {
	c := newConsentRig(t) // of the evil one
	var brought atomic.Int64
	c.as.token = func(w http.ResponseWriter, r *http.Request) {
		brought.Add(1)
		answer(w, 400, map[string]any{"error": "invalid_grant"})
	}
	c.as.metadata = func(m map[string]any) { delete(m, "authorization_response_iss_parameter_supported") }
	honest := newConsentServer(t)
	honest.metadata = c.as.metadata
	require.NoError(t, c.Bind(t.Context(), "honest", credential.Binding{Origin: c.resource.URL, Scheme: oauth.AuthorizationCode(oauth.Client{Issuer: honest.URL, ID: "me", Auth: oauth.None})}, by))
	asked, err := c.grants.Begin(t.Context(), alice, "k")
	require.NoError(t, err)
	to, err := url.Parse(c.open("alice", asked.URL).Header.Get("Location"))
	require.NoError(t, err)
	q := to.Query()
	q.Set("redirect_uri", c.grants.RedirectURI("honest")) // the only one that it takes for this client
	back := honest.visit("alice", honest.URL+"/authorize?"+q.Encode())
	back.Del("iss")
	assert.Equal(t, 400, c.open("alice", c.grants.RedirectURI("honest")+"?"+back.Encode()).StatusCode)
	assert.ErrorIs(t, asked.Wait(t.Context()), oauth.ErrIssuer)
	assert.Zero(t, brought.Load())
}

// What a user has consented to at one server is not brought to another that the
// credential was bound to meanwhile.
func TestBoundToAnotherServerMeanwhile(t *testing.T) {
	c := newConsentRig(t)
	asked, err := c.grants.Begin(t.Context(), alice, "k")
	require.NoError(t, err)
	back := c.as.visit("alice", c.open("alice", asked.URL).Header.Get("Location"))
	back.Del("iss")
	other := newConsentServer(t)
	other.metadata = func(m map[string]any) { delete(m, "authorization_response_iss_parameter_supported") }
	require.NoError(t, c.Bind(t.Context(), "k", credential.Binding{Origin: c.resource.URL, Scheme: oauth.AuthorizationCode(oauth.Client{Issuer: other.URL, ID: "me", Auth: oauth.None})}, by))
	assert.Equal(t, 400, c.open("alice", c.grants.RedirectURI("k")+"?"+back.Encode()).StatusCode)
	assert.ErrorIs(t, asked.Wait(t.Context()), oauth.ErrIssuer)
	assert.Zero(t, other.asked.Load())
}

// Without PKCE a stolen code could be brought in by anybody.
func TestServersWithoutPKCE(t *testing.T) {
	for name, methods := range map[string]any{"not said": nil, "plain": []string{"plain"}} {
		c := newConsentRig(t)
		c.as.metadata = func(m map[string]any) { m["code_challenge_methods_supported"] = methods }
		asked, err := c.grants.Begin(t.Context(), alice, "k")
		require.NoError(t, err)
		assert.Equal(t, 502, c.open("alice", asked.URL).StatusCode, name)
		require.NoError(t, c.Bind(t.Context(), "k", credential.Binding{Origin: c.resource.URL, Scheme: oauth.AuthorizationCode(oauth.Client{
			Issuer: c.as.URL, ID: "me", Auth: oauth.None, TokenEndpoint: c.as.URL + "/token", AuthorizationEndpoint: c.as.URL + "/authorize"})}, by))
		assert.Equal(t, 302, c.open("alice", asked.URL).StatusCode, "an operator says that it does")
	}
}

func TestConsentsAreBounded(t *testing.T) {
	c := newConsentRig(t)
	for range 16 {
		_, err := c.grants.Begin(t.Context(), alice, "k")
		require.NoError(t, err)
	}
	_, err := c.grants.Begin(t.Context(), alice, "k")
	assert.ErrorIs(t, err, oauth.ErrTooMany)
	waiting, err := c.grants.Begin(t.Context(), bob, "k")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, waiting.Wait(ctx), context.Canceled)
	_, err = c.grants.Begin(t.Context(), actor, "k")
	assert.ErrorIs(t, err, credential.ErrNoGrant)
	_, err = c.grants.Begin(t.Context(), alice, "other")
	assert.ErrorIs(t, err, credential.ErrUnknown)
	for _, base := range []string{"", "http://host.example", "https://host.example/?x", "/connect"} {
		_, err := oauth.NewGrants(c.Broker, base, func(*http.Request) (string, error) { return "", nil }, nil)
		assert.Error(t, err, base)
	}
	_, err = oauth.NewGrants(c.Broker, "https://host.example", nil, nil)
	assert.Error(t, err, "somebody has to say who is signed in")
}

// One refresh token for all, put by an operator.
func TestRefreshToken(t *testing.T) {
	as := newConsentServer(t)
	as.refresh["the-first-refresh-token"] = "robot"
	r := newRig(t, "the client's secret", oauth.RefreshToken(oauth.Client{Issuer: as.URL, ID: "me"}))
	_, err := r.call(actor)
	require.ErrorIs(t, err, credential.ErrNoGrant)
	require.NoError(t, r.PutGrant(t.Context(), "k", "", credential.NewSecret([]byte("the-first-refresh-token")), by))
	for range 4 {
		for _, a := range []audit.Actor{actor, alice, bob} {
			got, err := r.call(a)
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(got, "Bearer access-robot-"))
		}
		r.clock.Add(int64(2 * time.Hour))
	}
	assert.EqualValues(t, 4, as.asked.Load())
}

// A boundStore keeps the binding of k, as a vault in a file does.
type boundStore struct {
	*credential.MemoryStore
	spec credential.BindingSpec
}

func (s boundStore) Binding(_ context.Context, name string) (credential.BindingSpec, bool, error) {
	return s.spec, name == "k", nil
}

func (boundStore) SetBinding(context.Context, string, credential.BindingSpec) error {
	return credential.ErrReadOnly
}

// After a restart the first thing may be a user who consents.
func TestConsentBeforeAnyLease(t *testing.T) {
	as := newConsentServer(t)
	store := boundStore{credential.NewMemoryStore(map[string]credential.Secret{"k": credential.NewSecret([]byte("the client's secret"))}), credential.BindingSpec{
		Origin: "https://a.example", Type: credential.TypeOAuthAuthorizationCode, Issuer: as.URL, ClientID: "me",
	}}
	broker, err := credential.NewBroker(store, audittest.NewLog(t), &credential.BrokerOptions{
		Binding: func(s credential.BindingSpec) (credential.Binding, error) { return oauth.Binding(s, nil) },
	})
	require.NoError(t, err)
	defer broker.Close()
	g, err := oauth.NewGrants(broker, "https://host.example/grants", func(*http.Request) (string, error) { return "alice", nil }, nil)
	require.NoError(t, err)
	_, err = g.Begin(t.Context(), alice, "k")
	assert.NoError(t, err)
	_, err = g.Begin(t.Context(), alice, "another")
	assert.ErrorIs(t, err, credential.ErrUnknown)
}
