package agentid

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// An idp is an external issuer that serves what a test tells it to.
type idp struct {
	*httptest.Server
	mu   sync.Mutex
	keys any
	meta obj
	down bool
	hits map[string]int
}

func newIDP(t testing.TB) *idp {
	p := &idp{hits: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.hits[r.URL.Path]++
		switch {
		case p.down:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/.well-known/openid-configuration" && p.meta != nil:
			_ = json.NewEncoder(w).Encode(p.meta)
		case r.URL.Path == "/keys":
			_ = json.NewEncoder(w).Encode(p.keys)
		case r.URL.Path == "/elsewhere":
			http.Redirect(w, r, "/keys", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	k := testKeys()
	p.meta = obj{"issuer": p.URL, "jwks_uri": p.URL + "/keys"}
	p.keys = keySet(jwk(t, k.ec.Public(), "ec", "sig"), jwk(t, k.rsa.Public(), "rsa", ""), jwk(t, k.ed.Public(), "ed", "sig"), jwk(t, k.ec384.Public(), "p384", "sig"),
		jwk(t, k.weak.Public(), "weak", "sig"), jwk(t, k.ec2.Public(), "enc", "enc"), with(jwk(t, k.rsa.Public(), "rs256", ""), obj{"alg": "RS256"}))
	return p
}

func (p *idp) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *idp) asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hits[path]
}

// newForeignRegistry returns a registry that accepts the idp's tokens for the
// agent "standup".
func newForeignRegistry(t testing.TB, p *idp, c *clock, change func(*Issuer)) *Registry {
	t.Helper()
	i := Issuer{URL: p.URL, Users: true}
	if change != nil {
		change(&i)
	}
	opts := &Options{Issuer: "https://issuer.example", Issuers: []Issuer{i}}
	if c != nil {
		opts.Clock = c.now
	}
	r, _ := newRegistry(t, opts)
	for _, a := range []Agent{{ID: "standup", Issuer: i.URL, Profile: "standup"}, {ID: "local"}, {ID: "spiffe://example.org/standup", Issuer: "spiffe://example.org"}} {
		a.Owner = "team-a"
		_, err := r.Register(context.Background(), a, by)
		require.NoError(t, err)
	}
	return r
}

func goodHeader() obj { return obj{"alg": "ES256", "kid": "ec", "typ": "at+jwt"} }

func goodClaims(p *idp, now time.Time) obj {
	return obj{"iss": p.URL, "sub": "standup", "client_id": "standup", "aud": tools, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": "1"}
}

func TestForeignToken(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	r := newForeignRegistry(t, p, c, nil)
	claims := goodClaims(p, c.now())
	for name, g := range map[string]struct {
		header, claims obj
		key            any
		want           audit.Actor
	}{
		"ES256":         {goodHeader(), claims, k.ec, audit.Actor{Agent: "standup"}},
		"RS256":         {obj{"alg": "RS256", "kid": "rsa", "typ": "application/at+jwt"}, claims, k.rsa, audit.Actor{Agent: "standup"}},
		"PS256":         {obj{"alg": "PS256", "kid": "rsa", "typ": "AT+JWT"}, claims, k.rsa, audit.Actor{Agent: "standup"}},
		"EdDSA":         {obj{"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}, claims, k.ed, audit.Actor{Agent: "standup"}},
		"ES384":         {obj{"alg": "ES384", "kid": "p384", "typ": "at+jwt"}, claims, k.ec384, audit.Actor{Agent: "standup"}},
		"audiences":     {goodHeader(), with(claims, obj{"aud": []string{"x", "HTTPS://tools.local:443/mcp"}}), k.ec, audit.Actor{Agent: "standup"}},
		"sub only":      {goodHeader(), with(claims, obj{"client_id": nil}), k.ec, audit.Actor{Agent: "standup"}},
		"user":          {goodHeader(), with(claims, obj{"sub": "alice"}), k.ec, audit.Actor{Agent: "standup", User: "alice"}},
		"user, azp":     {goodHeader(), with(claims, obj{"sub": "alice", "client_id": nil, "azp": "standup"}), k.ec, audit.Actor{Agent: "standup", User: "alice"}},
		"act":           {goodHeader(), with(claims, obj{"sub": "alice", "client_id": "web", "act": obj{"sub": "standup", "act": obj{"sub": "other"}}}), k.ec, audit.Actor{Agent: "standup", User: "alice"}},
		"unknown words": {with(goodHeader(), obj{"jku": "https://evil.example", "x5u": "https://evil.example"}), with(claims, obj{"roles": []string{"admin"}}), k.ec, audit.Actor{Agent: "standup"}},
		"slow clock":    {goodHeader(), with(claims, obj{"iat": c.now().Unix() + 29, "nbf": c.now().Unix() + 29}), k.ec, audit.Actor{Agent: "standup"}},
		"fast clock":    {goodHeader(), with(claims, obj{"exp": c.now().Unix() - 29}), k.ec, audit.Actor{Agent: "standup"}},
	} {
		g.want.Issuer, g.want.Profile = p.URL, "standup"
		token := compact(t, text(t, g.header), text(t, g.claims), g.key)
		for range 2 { // the second time from memory
			actor, _, err := r.Verify(ctx, token, tools)
			require.NoError(t, err, name)
			assert.Equal(t, g.want, actor, name)
		}
	}
	assert.Equal(t, 1, p.asked("/keys"), "asked once")

	token := compact(t, text(t, goodHeader()), text(t, with(claims, obj{"aud": []string{tools, "https://other.local"}})), k.ec)
	for audience, want := range map[string]error{tools: nil, "https://other.local": nil, "https://third.local": ErrAudience, "": ErrAudience} {
		_, _, err := r.Verify(ctx, token, audience)
		assert.ErrorIs(t, err, want, audience)
	}
	// It ends when another issuer, or none, speaks for its agent.
	for _, u := range []struct {
		issuer string
		want   error
	}{{"https://idp.example", ErrToken}, {"", ErrToken}, {p.URL, nil}} {
		require.NoError(t, r.Update(ctx, Agent{ID: "standup", Owner: "team-a", Profile: "standup", Issuer: u.issuer}, by))
		_, _, err := r.Verify(ctx, token, tools)
		assert.ErrorIs(t, err, u.want)
	}
	// It ends with its agent, and what may be from before stays ended.
	require.NoError(t, r.Revoke(ctx, "standup", by))
	_, _, err := r.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrRevoked)
	require.NoError(t, r.Reinstate(ctx, "standup", by))
	another := compact(t, text(t, goodHeader()), text(t, with(claims, obj{"jti": "2"})), k.ec)
	for _, old := range []string{token, another} {
		_, _, err = r.Verify(ctx, old, tools)
		assert.ErrorIs(t, err, ErrRevoked)
	}
	c.advance(time.Minute)
	_, _, err = r.Verify(ctx, compact(t, text(t, goodHeader()), text(t, goodClaims(p, c.now())), k.ec), tools)
	assert.NoError(t, err)
}

func TestUserClaim(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	r := newForeignRegistry(t, p, c, func(i *Issuer) { i.UserClaim = "email" })
	claims := with(goodClaims(p, c.now()), obj{"sub": "u-17", "email": "alice@example.com"})
	sign := func(o obj) string { return compact(t, text(t, goodHeader()), text(t, o), k.ec) }
	actor, _, err := r.Verify(ctx, sign(with(claims, obj{"email_verified": true})), tools)
	require.NoError(t, err)
	assert.Equal(t, "alice@example.com", actor.User)
	for _, bad := range []obj{{}, {"email_verified": false}, {"email_verified": "true"}, {"email_verified": true, "email": nil}, {"email_verified": true, "email": 7}, {"email_verified": true, "email": ""}} {
		_, _, err = r.Verify(ctx, sign(with(claims, bad)), tools)
		assert.ErrorIs(t, err, ErrToken, "%v", bad)
	}
}

// An issuer that may not speak for users speaks for its agents all the same.
func TestIssuerThatMayNotNameUsers(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	r := newForeignRegistry(t, p, c, func(i *Issuer) { i.Users = false })
	sign := func(change obj) string {
		return compact(t, text(t, goodHeader()), text(t, with(goodClaims(p, c.now()), change)), k.ec)
	}
	actor, _, err := r.Verify(ctx, sign(nil), tools)
	require.NoError(t, err)
	assert.Equal(t, "standup", actor.Agent)
	for _, claims := range []obj{{"sub": "alice"}, {"sub": "alice", "client_id": nil, "azp": "standup"}, {"sub": "alice", "act": obj{"sub": "standup"}}} {
		_, _, err := r.Verify(ctx, sign(claims), tools)
		assert.ErrorIs(t, err, ErrToken, "%v", claims)
		assert.ErrorContains(t, err, "Issuer.Users")
	}
}

func TestSPIFFE(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	p.keys = keySet(jwk(t, k.ec.Public(), "svid", "jwt-svid"), jwk(t, k.ec2.Public(), "x509", "x509-svid"))
	r := newForeignRegistry(t, p, c, func(i *Issuer) { i.URL, i.JWKS, i.Users = "spiffe://example.org", p.URL+"/keys", false })
	claims := obj{"sub": "spiffe://example.org/standup", "aud": []string{tools}, "exp": c.now().Add(time.Minute).Unix()}
	header := obj{"alg": "ES256", "kid": "svid", "typ": "JWT"}
	for _, h := range []obj{header, with(header, obj{"typ": nil}), with(header, obj{"typ": "JOSE"})} {
		actor, _, err := r.Verify(ctx, compact(t, text(t, h), text(t, claims), k.ec), tools)
		require.NoError(t, err)
		assert.Equal(t, audit.Actor{Agent: "spiffe://example.org/standup", Issuer: "spiffe://example.org"}, actor)
	}
	for name, bad := range map[string]string{
		"other domain":     compact(t, text(t, header), text(t, with(claims, obj{"sub": "spiffe://example.com/standup"})), k.ec),
		"no path":          compact(t, text(t, header), text(t, with(claims, obj{"sub": "spiffe://example.org"})), k.ec),
		"no expiry":        compact(t, text(t, header), text(t, with(claims, obj{"exp": nil})), k.ec),
		"X.509 key":        compact(t, text(t, with(header, obj{"kid": "x509"})), text(t, claims), k.ec2),
		"domain as issuer": compact(t, text(t, header), text(t, with(claims, obj{"iss": "spiffe://example.org", "sub": "standup"})), k.ec),
		"access token":     compact(t, text(t, with(header, obj{"typ": "at+jwt"})), text(t, claims), k.ec),
		"other's agent":    compact(t, text(t, header), text(t, with(claims, obj{"sub": "spiffe://example.org/other"})), k.ec),
	} {
		_, _, err := r.Verify(ctx, bad, tools)
		assert.Error(t, err, name)
	}
	for _, bad := range []Issuer{{URL: "spiffe://"}, {URL: "spiffe://example.org"}, {URL: "spiffe://example.org/x", JWKS: p.URL}, {URL: "spiffe://example.org", JWKS: p.URL, Users: true},
		{URL: "http://idp.example"}, {URL: p.URL, JWKS: "http://idp.example"}, {URL: p.URL, Algorithms: []string{"HS256"}}, {URL: p.URL, Algorithms: []string{"none"}}, {URL: p.URL, MaxTTL: -1}, {URL: "https://issuer.example"}} {
		_, err := NewRegistry(&journal{}, &Options{Issuer: "https://issuer.example", Issuers: []Issuer{bad}})
		assert.Error(t, err, "%+v", bad)
	}
}

// Keys: asked for once, again for a new kid but not faster than every ten
// seconds, whoever sends what; usable for an hour without their issuer.
func TestIssuersKeys(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	r := newForeignRegistry(t, p, c, nil)
	n := 0
	sign := func(kid string, key any) string {
		n++
		return compact(t, text(t, with(goodHeader(), obj{"kid": kid})), text(t, with(goodClaims(p, c.now()), obj{"jti": fmt.Sprint(n)})), key)
	}
	ok := func(token string) error { _, _, err := r.Verify(ctx, token, tools); return err }
	require.NoError(t, ok(sign("ec", k.ec)))
	for i := range 100 {
		assert.ErrorIs(t, ok(sign(fmt.Sprint("guess", i), k.ec2)), ErrToken)
	}
	assert.Equal(t, 1, p.asked("/keys"))
	p.set(func() { p.keys = keySet(jwk(t, k.ec2.Public(), "new", "sig")) }) // rotated
	assert.ErrorIs(t, ok(sign("new", k.ec2)), ErrToken, "within ten seconds")
	c.advance(fetchPause)
	var wg sync.WaitGroup
	for range 50 {
		token := sign("new", k.ec2)
		wg.Go(func() { assert.NoError(t, ok(token)) })
	}
	wg.Wait()
	assert.Equal(t, 2, p.asked("/keys"))
	assert.ErrorIs(t, ok(sign("ec", k.ec)), ErrToken, "what the issuer withdrew is no key any more")

	p.set(func() { p.down = true })
	c.advance(keysStaleMax - time.Second)
	assert.NoError(t, ok(sign("new", k.ec2)), "without its issuer, for a while")
	c.advance(time.Second)
	assert.ErrorIs(t, ok(sign("new", k.ec2)), errKeys, "and no longer")
	p.set(func() { p.down = false })
	c.advance(fetchPause)
	assert.NoError(t, ok(sign("new", k.ec2)))
}

// A token that was verified with a key that its issuer has withdrawn since does not
// live on in memory.
func TestWithdrawnKey(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	r := newForeignRegistry(t, p, c, nil)
	forged := compact(t, text(t, goodHeader()), text(t, with(goodClaims(p, c.now()), obj{"exp": c.now().Add(time.Hour).Unix()})), k.ec)
	ok := func() error { _, _, err := r.Verify(ctx, forged, tools); return err }
	require.NoError(t, ok())
	p.set(func() { p.down = true })
	c.advance(recheck)
	assert.NoError(t, ok(), "the issuer cannot be asked")
	p.set(func() { p.down, p.keys = false, keySet(jwk(t, k.ec2.Public(), "new", "sig")) })
	c.advance(recheck - 1)
	assert.NoError(t, ok(), "remembered")
	assert.Equal(t, 2, p.asked("/keys"))
	c.advance(1)
	for range 3 {
		assert.ErrorIs(t, ok(), ErrToken)
	}
	assert.Equal(t, 3, p.asked("/keys"))
}

// An agent's running work ends when it is taken from the issuer it came by.
func TestIssuerTakenWhileRunning(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	r := newForeignRegistry(t, p, c, nil)
	actor, _, err := r.Verify(ctx, compact(t, text(t, goodHeader()), text(t, goodClaims(p, c.now())), k.ec), tools)
	require.NoError(t, err)
	call, cancel, err := r.Context(ctx, actor)
	require.NoError(t, err)
	defer cancel()
	require.NoError(t, r.Update(ctx, Agent{ID: "standup", Owner: "team-a", Profile: "standup"}, by))
	assert.ErrorIs(t, context.Cause(call), ErrActor)
	_, _, err = r.Context(ctx, actor)
	assert.ErrorIs(t, err, ErrActor, "it was verified a moment ago")
}

// An issuer that moves its keys is asked again where they are.
func TestIssuersKeysMove(t *testing.T) {
	ctx := context.Background()
	p, c, k := newIDP(t), &clock{}, testKeys()
	p.meta["jwks_uri"] = p.URL + "/old"
	r := newForeignRegistry(t, p, c, nil)
	sign := func() string { return compact(t, text(t, goodHeader()), text(t, goodClaims(p, c.now())), k.ec) }
	_, _, err := r.Verify(ctx, sign(), tools)
	require.Error(t, err)
	p.set(func() { p.meta["jwks_uri"] = p.URL + "/keys" })
	c.advance(fetchPause)
	_, _, err = r.Verify(ctx, sign(), tools)
	assert.NoError(t, err)
}

func TestIssuersKeysCannotBeHad(t *testing.T) {
	ctx := context.Background()
	k := testKeys()
	for name, change := range map[string]func(p *idp, i *Issuer){
		"another issuer's metadata": func(p *idp, _ *Issuer) { p.meta["issuer"] = p.URL + "/" },
		"no metadata":               func(p *idp, _ *Issuer) { p.meta = nil },
		"keys in clear text":        func(p *idp, _ *Issuer) { p.meta["jwks_uri"] = "http://idp.example/keys" },
		"keys of a file":            func(p *idp, _ *Issuer) { p.meta["jwks_uri"] = "file:///etc/passwd" },
		"redirect":                  func(p *idp, i *Issuer) { i.JWKS = p.URL + "/elsewhere" },
		"not found":                 func(p *idp, i *Issuer) { i.JWKS = p.URL + "/nothing" },
		"not a set":                 func(p *idp, _ *Issuer) { p.keys = []string{"x"} },
		"empty set":                 func(p *idp, _ *Issuer) { p.keys = keySet() },
		"one kid twice": func(p *idp, _ *Issuer) {
			p.keys = keySet(jwk(t, k.ec2.Public(), "ec", ""), jwk(t, k.ec.Public(), "ec", ""))
		},
		"too large": func(p *idp, _ *Issuer) { p.keys = with(p.keys.(obj), obj{"pad": strings.Repeat("a", maxDocument)}) },
		"a shared secret": func(p *idp, _ *Issuer) {
			p.keys = keySet(obj{"kty": "oct", "kid": "ec", "k": b64([]byte("secret-secret-secret-secret-secre"))})
		},
		"a private key": func(p *idp, _ *Issuer) {
			p.keys = keySet(with(jwk(t, k.ec.Public(), "ec", ""), obj{"d": private(t, k.ec)}))
		},
		"another algorithm's": func(p *idp, _ *Issuer) { p.keys = keySet(with(jwk(t, k.ec.Public(), "ec", ""), obj{"alg": "RS256"})) },
		"down":                func(p *idp, _ *Issuer) { p.down = true },
	} {
		t.Run(name, func(t *testing.T) {
			p, c := newIDP(t), &clock{}
			r := newForeignRegistry(t, p, c, func(i *Issuer) { change(p, i) })
			_, _, err := r.Verify(ctx, compact(t, text(t, goodHeader()), text(t, goodClaims(p, c.now())), k.ec), tools)
			assert.Error(t, err)
		})
	}
	t.Run("deadline", func(t *testing.T) {
		p, c := newIDP(t), &clock{}
		r := newForeignRegistry(t, p, c, nil)
		p.mu.Lock() // it answers nobody
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		_, _, err := r.Verify(short, compact(t, text(t, goodHeader()), text(t, goodClaims(p, c.now())), k.ec), tools)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		p.mu.Unlock()
	})
}
