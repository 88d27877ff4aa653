package agentid

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/internal/oidctest"
)

// TestRealProvider takes tokens from a real OpenID provider: as clients
// authenticate with a secret and with a key, plain and bound by DPoP.
func TestRealProvider(t *testing.T) {
	ctx := context.Background()
	k := testKeys()
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			p := oidctest.Start(t, oidctest.Options{Alg: alg, Clients: []map[string]any{
				{"client_id": "secretive", "client_secret": "not-a-secret-of-anyone"},
				{"client_id": "keyed", "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "jwks": keySet(jwk(t, k.ec.Public(), "ec", "sig"))},
				{"client_id": "stranger", "client_secret": "not-a-secret-of-anyone"},
			}})
			// RFC 9068 is what it issues for resources.
			r, _ := newRegistry(t, &Options{Issuers: []Issuer{{URL: p.Issuer, Algorithms: []string{alg}}}})
			for _, id := range []string{"secretive", "keyed"} {
				_, err := r.Register(ctx, Agent{ID: id, Owner: "team-a", Issuer: p.Issuer, Profile: "standup"}, by)
				require.NoError(t, err)
			}
			get := func(form url.Values, change func(*http.Request)) (int, string) {
				form.Set("grant_type", "client_credentials")
				if !form.Has("resource") {
					form.Set("resource", tools)
				}
				req, err := http.NewRequest("POST", p.Issuer+"/token", strings.NewReader(form.Encode()))
				require.NoError(t, err)
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				change(req)
				resp, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				defer resp.Body.Close()
				var got struct {
					AccessToken string `json:"access_token"`
				}
				require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
				return resp.StatusCode, got.AccessToken
			}
			status, token := get(url.Values{}, basic("secretive", "not-a-secret-of-anyone"))
			require.Equal(t, 200, status)
			actor, expires, err := r.Verify(ctx, token, tools)
			require.NoError(t, err)
			assert.Equal(t, audit.Actor{Agent: "secretive", Issuer: p.Issuer, Profile: "standup"}, actor)
			assert.WithinDuration(t, time.Now().Add(5*time.Minute), expires, 2*time.Minute)

			now := time.Now()
			assertion := compact(t, text(t, obj{"alg": "ES256", "kid": "ec"}), text(t, obj{
				"iss": "keyed", "sub": "keyed", "aud": p.Issuer, "jti": "1", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}), k.ec)
			form := url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
			status, token = get(form, func(*http.Request) {})
			require.Equal(t, 200, status)
			actor, _, err = r.Verify(ctx, token, tools)
			require.NoError(t, err)
			assert.Equal(t, "keyed", actor.Agent)

			// Bound to a key.
			d := &dpopper{t: t, c: &clock{}}
			d.c.at.Store(int64(time.Since(time.Unix(1_800_000_000, 0))))
			status, token = get(url.Values{}, func(req *http.Request) {
				basic("secretive", "not-a-secret-of-anyone")(req)
				req.Header.Set("DPoP", d.proof("POST", p.Issuer+"/token", "", nil))
			})
			require.Equal(t, 200, status)
			_, _, err = r.Verify(ctx, token, tools)
			assert.ErrorIs(t, err, ErrProof)
			good := d.proof("POST", tools, token, nil)
			for i, want := range []error{nil, ErrReplay} {
				_, err = call(r, "POST", "/mcp", func(req *http.Request) {
					req.Header.Set("Authorization", "DPoP "+token)
					req.Header.Set("DPoP", good)
				})
				assert.ErrorIs(t, err, want, "%d", i)
			}

			// Not for us, not of ours.
			status, token = get(url.Values{"resource": {"https://other.local"}}, basic("secretive", "not-a-secret-of-anyone"))
			require.Equal(t, 200, status)
			_, _, err = r.Verify(ctx, token, tools)
			assert.ErrorIs(t, err, ErrAudience)
			status, token = get(url.Values{}, basic("stranger", "not-a-secret-of-anyone"))
			require.Equal(t, 200, status)
			_, _, err = r.Verify(ctx, token, tools)
			assert.ErrorIs(t, err, ErrUnknown)

			// The kill switch works on tokens that others issue.
			status, token = get(url.Values{}, basic("secretive", "not-a-secret-of-anyone"))
			require.Equal(t, 200, status)
			running := started(t, r, "secretive")
			_, _, err = r.Verify(ctx, token, tools)
			require.NoError(t, err)
			require.NoError(t, r.Revoke(ctx, "secretive", by))
			_, _, err = r.Verify(ctx, token, tools)
			assert.ErrorIs(t, err, ErrRevoked)
			assert.ErrorIs(t, context.Cause(running), ErrRevoked)

			// Without its provider a token that was not seen is still good, for the keys
			// are known.
			status, token = get(url.Values{"client_assertion_type": {assertionType}, "client_assertion": {compact(t, text(t, obj{"alg": "ES256", "kid": "ec"}), text(t, obj{
				"iss": "keyed", "sub": "keyed", "aud": p.Issuer, "jti": "2", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}), k.ec)}}, func(*http.Request) {})
			require.Equal(t, 200, status)
			p.Stop()
			_, _, err = r.Verify(ctx, token, tools)
			assert.NoError(t, err)
		})
	}
}

// TestOurKeysAtARealProvider: what this registry signs with and publishes is what
// others take.
func TestOurKeysAtARealProvider(t *testing.T) {
	r, _ := newRegistry(t, &Options{Issuer: issuer, JWT: true})
	r.signing.mu.Lock()
	require.NoError(t, r.newKey(context.Background()))
	signer := r.signing.signer
	r.signing.mu.Unlock()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/jwks", nil))
	var set obj
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &set))
	p := oidctest.Start(t, oidctest.Options{Clients: []map[string]any{
		{"client_id": "federated", "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "jwks": set},
	}})
	now := time.Now()
	jws, err := signer.Sign([]byte(text(t, obj{"iss": "federated", "sub": "federated", "aud": p.Issuer, "jti": "1", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()})))
	require.NoError(t, err)
	assertion, err := jws.CompactSerialize()
	require.NoError(t, err)
	resp, err := http.PostForm(p.Issuer+"/token", url.Values{"grant_type": {"client_credentials"}, "resource": {tools}, "client_assertion_type": {assertionType}, "client_assertion": {assertion}})
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, 200, resp.StatusCode)
}
