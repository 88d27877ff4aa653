package agentid

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func exchange(subject, resource string, more ...string) string {
	v := url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {typeAccessToken}, "resource": {resource}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v.Encode()
}

func tokenOf(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	require.Equal(t, 200, w.Code, "%s", w.Body)
	var got struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	return got.AccessToken
}

// An agent acts for a user whose token it was given, and hands that on to another
// agent; both kinds of token.
func TestOnBehalfOf(t *testing.T) {
	for name, signed := range map[string]bool{"opaque": false, "JWT": true} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			p, c, k := newIDP(t), &clock{}, testKeys()
			r, log := newRegistry(t, &Options{Issuer: issuer, Issuers: []Issuer{{URL: p.URL, Users: true}}, Clock: c.now, JWT: signed})
			first, second := register(t, r, "first"), register(t, r, "second")
			claims := obj{"iss": p.URL, "sub": "alice", "aud": issuer, "client_id": "web", "iat": c.now().Unix(), "exp": c.now().Add(3 * time.Minute).Unix()}
			sign := func(change obj) string { return compact(t, text(t, goodHeader()), text(t, with(claims, change)), k.ec) }

			w := ask(r, basic("first", first), exchange(sign(nil), tools))
			token := tokenOf(t, w)
			assert.Contains(t, w.Body.String(), `"issued_token_type":"`+typeAccessToken+`"`)
			actor, expires, err := r.Verify(ctx, token, tools)
			require.NoError(t, err)
			assert.Equal(t, audit.Actor{Agent: "first", User: "alice", Issuer: issuer, Profile: "standup"}, actor)
			assert.Equal(t, c.now().Add(3*time.Minute), expires, "no longer than the user's")
			assert.Equal(t, actor, log.events[len(log.events)-1].Actor)
			tokenOf(t, ask(r, basic("first", first), exchange(sign(obj{"may_act": obj{"sub": "first"}}), tools)))

			// Handed on.
			forward := tokenOf(t, ask(r, basic("first", first), exchange(sign(nil), issuer)))
			chained := tokenOf(t, ask(r, basic("second", second), exchange(forward, tools)))
			actor, _, err = r.Verify(ctx, chained, tools)
			require.NoError(t, err)
			assert.Equal(t, audit.Actor{Agent: "second", User: "alice", Issuer: issuer, Profile: "standup"}, actor)
			assert.Equal(t, "first", log.events[len(log.events)-1].Detail["chain"])
			if signed {
				j, err := parseJWT(chained)
				require.NoError(t, err)
				assert.Equal(t, "alice", j.claims.Subject)
				assert.Equal(t, &act{Subject: "second", Act: &act{Subject: "first"}}, j.claims.Act)
			}
			own := issueFor(t, r, "first", first, issuer)
			for name, form := range map[string]string{
				"for another":         exchange(sign(obj{"aud": tools}), tools),
				"another issuer":      exchange(sign(obj{"iss": "https://evil.example"}), tools),
				"expired":             exchange(sign(obj{"exp": c.now().Add(-skew).Unix()}), tools),
				"another may act":     exchange(sign(obj{"may_act": obj{"sub": "second"}}), tools),
				"bound":               exchange(sign(obj{"cnf": obj{"jkt": "x"}}), tools),
				"somebody acts":       exchange(sign(obj{"act": obj{"sub": "web"}}), tools),
				"no user":             exchange(sign(obj{"sub": nil}), tools),
				"ID token":            exchange(compact(t, text(t, with(goodHeader(), obj{"typ": "JWT"})), text(t, claims), k.ec), tools),
				"another key":         exchange(compact(t, text(t, goodHeader()), text(t, claims), k.ec2), tools),
				"own, without a user": exchange(own, tools),
				"own, for a resource": exchange(token, tools),
				"no token":            exchange("", tools),
				"SAML":                exchange(sign(nil), tools, "subject_token_type", "urn:ietf:params:oauth:token-type:saml2"),
				"refresh token":       exchange(sign(nil), tools, "requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
				"actor token":         exchange(sign(nil), tools, "actor_token", own),
				"guess":               exchange("agt_"+strings.Repeat("A", 43), tools),
			} {
				w := ask(r, basic("first", first), form)
				assert.Equal(t, 400, w.Code, name)
				assert.Contains(t, w.Body.String(), "invalid_request", name)
			}
			denied := log.events[len(log.events)-1]
			require.NotNil(t, denied.Decision, "a refusal is on record, once for all of a minute")
			assert.Equal(t, audit.GuardToken, denied.Decision.Reason)
			assert.Equal(t, `Agent::"first"`, denied.Resource)
			assert.Equal(t, map[string]string{"refused": "subject token"}, denied.Detail)
			assert.Nil(t, log.events[len(log.events)-2].Decision)
			// It ends with any of those through whom it came.
			require.NoError(t, r.Revoke(ctx, "first", by))
			_, _, err = r.Verify(ctx, chained, tools)
			assert.ErrorIs(t, err, ErrRevoked)
			require.NoError(t, r.Reinstate(ctx, "first", by))
			_, _, err = r.Verify(ctx, chained, tools)
			assert.ErrorIs(t, err, ErrRevoked)
			assert.Equal(t, 400, ask(r, basic("second", second), exchange(forward, tools)).Code)
		})
	}
}

func TestHandingOnEnds(t *testing.T) {
	p, without, c, k := newIDP(t), newIDP(t), &clock{}, testKeys()
	r, _ := newRegistry(t, &Options{Issuer: issuer, Issuers: []Issuer{{URL: p.URL, Users: true}, {URL: without.URL}}, Clock: c.now})
	secret := register(t, r, "standup")
	claims := obj{"iss": p.URL, "sub": "alice", "aud": issuer, "exp": c.now().Add(3 * time.Minute).Unix()}
	token := compact(t, text(t, goodHeader()), text(t, claims), k.ec)
	n := 0
	for ; ; n++ {
		w := ask(r, basic("standup", secret), exchange(token, issuer))
		if w.Code != 200 {
			break
		}
		token = tokenOf(t, w)
	}
	assert.Equal(t, maxActs, n)
	nobody := compact(t, text(t, goodHeader()), text(t, with(claims, obj{"iss": without.URL})), k.ec)
	assert.Equal(t, 400, ask(r, basic("standup", secret), exchange(nobody, tools)).Code)
}

func TestJWT(t *testing.T) {
	ctx := context.Background()
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStore(nil)
		host := func() *Registry {
			r, _ := newRegistry(t, &Options{Issuer: issuer, Store: s, JWT: true, TokenTTL: time.Hour})
			require.NoError(t, r.Sync(ctx))
			return r
		}
		a, b := host(), host()
		secret := register(t, a, "standup")
		token := issueFor(t, a, "standup", secret, tools)
		j, err := parseJWT(token)
		require.NoError(t, err)
		assert.Equal(t, "at+jwt", j.header.Type)
		assert.Equal(t, audience{tools}, j.claims.Audience)
		assert.Equal(t, []string{issuer, "standup", "standup"}, []string{j.claims.Issuer, j.claims.Subject, j.claims.ClientID})
		for _, r := range []*Registry{a, b} { // b has to look for the key
			actor, expires, err := r.Verify(ctx, token, tools)
			require.NoError(t, err)
			assert.Equal(t, audit.Actor{Agent: "standup", Issuer: issuer, Profile: "standup"}, actor)
			assert.Equal(t, time.Now().Add(5*time.Minute).Unix(), expires.Unix(), "others do not hear of revocations: five minutes at most")
			_, _, err = r.Verify(ctx, token, "https://other.local")
			assert.ErrorIs(t, err, ErrAudience)
		}

		// Others verify it by the published keys.
		var set struct{ Keys []json.RawMessage }
		w := httptest.NewRecorder()
		b.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/jwks", nil))
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &set))
		require.Len(t, set.Keys, 1)
		public, err := parsePublicKey(set.Keys[0], "")
		require.NoError(t, err)
		assert.NoError(t, j.verify(public, algorithms))

		// A new key; tokens of the old one stay good, and those of a key that is not
		// published are none.
		assert.ErrorIs(t, a.RotateKey(ctx, audit.Change{}), audit.ErrNoAuthority)
		require.NoError(t, a.RotateKey(ctx, by))
		fresh := issueFor(t, a, "standup", secret, tools)
		j2, err := parseJWT(fresh)
		require.NoError(t, err)
		assert.NotEqual(t, j.header.KeyID, j2.header.KeyID)
		time.Sleep(2 * time.Second)
		require.NoError(t, b.Sync(ctx))
		for _, good := range []string{token, fresh} {
			_, _, err = b.Verify(ctx, good, tools)
			assert.NoError(t, err)
		}
		k := testKeys()
		now := time.Now()
		forged := obj{"iss": issuer, "sub": "standup", "client_id": "standup", "aud": tools, "exp": now.Add(time.Minute).Unix(), "iat": now.Unix(), "dev.twinward/grant": obj{"life": 0}}
		for name, bad := range map[string]string{
			"our kid":     compact(t, text(t, obj{"alg": "ES256", "typ": "at+jwt", "kid": j.header.KeyID}), text(t, forged), k.ec),
			"unknown kid": compact(t, text(t, obj{"alg": "ES256", "typ": "at+jwt", "kid": "ec"}), text(t, forged), k.ec),
			"no kid":      compact(t, text(t, obj{"alg": "ES256", "typ": "at+jwt"}), text(t, forged), k.ec),
			"none":        compact(t, text(t, obj{"alg": "none", "typ": "at+jwt", "kid": j.header.KeyID}), text(t, forged), nil),
			"typ":         compact(t, text(t, obj{"alg": "ES256", "typ": "JWT", "kid": j.header.KeyID}), text(t, forged), k.ec),
		} {
			_, _, err = a.Verify(ctx, bad, tools)
			assert.ErrorIs(t, err, ErrToken, name)
		}

		require.NoError(t, a.Revoke(ctx, "standup", by))
		require.NoError(t, a.Reinstate(ctx, "standup", by))
		require.NoError(t, b.Sync(ctx))
		for _, r := range []*Registry{a, b} {
			_, _, err = r.Verify(ctx, fresh, tools)
			assert.ErrorIs(t, err, ErrRevoked)
		}
		again := issueFor(t, a, "standup", secret, tools)
		c := host() // a host that starts anew has none of them in memory
		for bad, want := range map[string]error{token: ErrRevoked, fresh: ErrRevoked, again: nil} {
			_, _, err = c.Verify(ctx, bad, tools)
			assert.ErrorIs(t, err, want)
		}
		time.Sleep(5*time.Minute + skew)
		require.NoError(t, c.Sync(ctx))
		_, _, err = c.Verify(ctx, again, tools)
		assert.ErrorIs(t, err, ErrExpired)

		time.Sleep(keyLife)
		require.NoError(t, a.Sync(ctx))
		another, err := parseJWT(issueFor(t, a, "standup", secret, tools))
		require.NoError(t, err)
		assert.NotEqual(t, j2.header.KeyID, another.header.KeyID, "a new key each day")
	})
}

func TestIntrospectAndRevoke(t *testing.T) {
	ctx := context.Background()
	for name, signed := range map[string]bool{"opaque": false, "JWT": true} {
		t.Run(name, func(t *testing.T) {
			s := NewMemoryStore(nil)
			r, log := newRegistry(t, &Options{Issuer: issuer, Store: s, JWT: signed})
			there, _ := newRegistry(t, &Options{Issuer: issuer, Store: s, JWT: signed})
			require.NoError(t, r.Sync(ctx))
			secret, other := register(t, r, "standup"), register(t, r, "other")
			token := issueFor(t, r, "standup", secret, tools)
			require.NoError(t, there.Sync(ctx))
			_, _, err := there.Verify(ctx, token, tools)
			require.NoError(t, err)
			post := func(path, id, secret, token string) (int, string) {
				req := httptest.NewRequest("POST", path, strings.NewReader(url.Values{"token": {token}}.Encode()))
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				basic(id, secret)(req)
				w := httptest.NewRecorder()
				r.Handler().ServeHTTP(w, req)
				return w.Code, w.Body.String()
			}
			_, body := post("/introspect", "standup", secret, token)
			var got struct {
				Active   bool
				ClientID string `json:"client_id"`
				Aud      string
			}
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			assert.True(t, got.Active)
			assert.Equal(t, []string{"standup", tools}, []string{got.ClientID, got.Aud})
			_, body = post("/introspect", "other", other, token)
			assert.JSONEq(t, `{"active":false}`, body, "somebody else's")
			_, body = post("/introspect", "standup", secret, "x")
			assert.JSONEq(t, `{"active":false}`, body)
			status, _ := post("/introspect", "standup", "wrong", token)
			assert.Equal(t, http.StatusUnauthorized, status)

			status, _ = post("/revoke", "other", other, token)
			assert.Equal(t, 200, status)
			_, _, err = r.Verify(ctx, token, tools)
			assert.NoError(t, err, "nobody revokes what is not theirs")
			status, _ = post("/revoke", "standup", secret, token)
			assert.Equal(t, 200, status)
			assert.Equal(t, "drop_token", log.events[len(log.events)-1].Action)
			require.NoError(t, there.Sync(ctx))
			fresh, _ := newRegistry(t, &Options{Issuer: issuer, Store: s, JWT: signed})
			require.NoError(t, fresh.Sync(ctx))
			for _, h := range []*Registry{r, there, fresh} {
				_, _, err = h.Verify(ctx, token, tools)
				assert.ErrorIs(t, err, ErrToken)
			}
			_, body = post("/introspect", "standup", secret, token)
			assert.JSONEq(t, `{"active":false}`, body)
		})
	}
}
