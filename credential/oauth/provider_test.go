package oauth_test

import (
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/internal/oidctest"
	"github.com/twinward-dev/twinward/credential/oauth"
)

// publicSet is a key as a client registers it.
func publicSet(key crypto.Signer, alg jose.SignatureAlgorithm) map[string]any {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: string(alg), Use: "sig"}}})
	if err != nil {
		panic(err)
	}
	var set map[string]any
	_ = json.Unmarshal(b, &set)
	return set
}

// audience is who a JWT access token is for, unverified.
func audience(t *testing.T, bearer string) any {
	t.Helper()
	parsed, err := jose.ParseSignedCompact(strings.TrimPrefix(bearer, "Bearer "), []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	var c map[string]any
	require.NoError(t, json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &c))
	return c["aud"]
}

// A real provider takes our secret and our assertions of all three kinds, gives
// tokens for the resource alone, and refuses what it should.
func TestRealProviderClientCredentials(t *testing.T) {
	all := keys(t)
	clients := []map[string]any{
		{"client_id": "basic:1", "client_secret": "s3cret & %more to be long enough"},
		{"client_id": "post", "client_secret": "s3cret & %more to be long enough", "token_endpoint_auth_method": "client_secret_post"},
	}
	for _, k := range all {
		clients = append(clients, map[string]any{"client_id": "jwt-" + string(k.alg), "token_endpoint_auth_method": "private_key_jwt",
			"token_endpoint_auth_signing_alg": string(k.alg), "jwks": publicSet(k.private, k.alg)})
	}
	p := oidctest.Start(t, oidctest.Options{Clients: clients, Edit: `config.enabledJWA = {clientAuthSigningAlgValues: ['RS256', 'ES256', 'EdDSA', 'Ed25519']}`})
	try := func(c oauth.Client, secret string) (*rig, string, error) {
		c.Issuer = p.Issuer
		r := newRig(t, secret, oauth.ClientCredentials(c), "read")
		got, err := r.call(actor)
		return r, got, err
	}
	const secret = "s3cret & %more to be long enough"
	for _, c := range []oauth.Client{{ID: "basic:1"}, {ID: "post", Auth: oauth.SecretPost}} {
		r, got, err := try(c, secret)
		require.NoError(t, err, c.ID)
		assert.Equal(t, r.resource.URL, audience(t, got))
		r, _, err = try(c, "wrong "+secret)
		assert.ErrorIs(t, err, credential.ErrReauth, c.ID)
		r.noLeak(err)
	}
	for _, k := range all {
		c := oauth.Client{ID: "jwt-" + string(k.alg), Auth: oauth.PrivateKeyJWT, KeyID: "k1"}
		r, got, err := try(c, pemOf(t, k.private))
		require.NoError(t, err, c.ID)
		assert.Equal(t, r.resource.URL, audience(t, got))
		r, _, err = try(c, pemOf(t, keys(t)[0].private))
		assert.ErrorIs(t, err, credential.ErrReauth, c.ID)
		r.noLeak(err)
	}
	_, _, err := try(oauth.Client{ID: "basic:1", Auth: oauth.TLSClientAuth}, secret)
	assert.Error(t, err, "the provider does not support it")
}

// browser is a user who signs in and consents at oidc-provider's own pages.
type browser struct {
	t    *testing.T
	http *http.Client
	user string
}

func newBrowser(t *testing.T, user string) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &browser{t: t, user: user, http: &http.Client{Jar: jar, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// consent follows an authorization request until the browser is sent to the
// host's callback, whose query it returns.
func (b *browser) consent(at, callback string) url.Values {
	b.t.Helper()
	form := url.Values(nil)
	for range 20 {
		var resp *http.Response
		var err error
		if form == nil {
			resp, err = b.http.Get(at)
		} else {
			resp, err = b.http.PostForm(at, form)
		}
		require.NoError(b.t, err)
		page := drain(resp.Body)
		resp.Body.Close()
		if to := resp.Header.Get("Location"); to != "" {
			if strings.HasPrefix(to, callback) {
				u, err := url.Parse(to)
				require.NoError(b.t, err)
				return u.Query()
			}
			next, err := resp.Request.URL.Parse(to)
			require.NoError(b.t, err)
			at, form = next.String(), nil
			continue
		}
		require.Equal(b.t, 200, resp.StatusCode, page)
		form = url.Values{"prompt": {"consent"}}
		if strings.Contains(page, `value="login"`) {
			form = url.Values{"prompt": {"login"}, "login": {b.user}, "password": {"any"}}
		}
	}
	b.t.Fatal("the provider does not come to an end")
	return nil
}

// The whole way of a user's account with a real provider: consent with PKCE and
// iss, calls, refresh tokens that it rotates, and one that was used twice.
func TestRealProviderAuthorizationCode(t *testing.T) {
	const callback = "https://host.example/connect/callback/k"
	p := oidctest.Start(t, oidctest.Options{
		Clients: []map[string]any{{"client_id": "host", "client_secret": "a secret that is long enough", "application_type": "web",
			"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"}, "redirect_uris": []string{callback}}},
		Edit: `config.pkce = {required: () => true};
config.issueRefreshToken = async () => true;
config.rotateRefreshToken = true;
config.features.resourceIndicators.defaultResource = () => undefined;`,
	})
	r := newRig(t, "a secret that is long enough", oauth.AuthorizationCode(oauth.Client{Issuer: p.Issuer, ID: "host"}), "read")
	grants := grantsOf(t, r)
	consent := func(a audit.Actor) {
		asked, err := grants.Begin(t.Context(), a, "k")
		require.NoError(t, err)
		open := func(page string) *http.Response {
			req := httptest.NewRequest("GET", page, nil)
			req.Header.Set("X-User", a.User)
			w := httptest.NewRecorder()
			grants.ServeHTTP(w, req)
			return w.Result()
		}
		to := open(asked.URL).Header.Get("Location")
		require.True(t, strings.HasPrefix(to, p.Issuer+"/"), to)
		back := newBrowser(t, a.User).consent(to, callback)
		assert.Equal(t, p.Issuer, back.Get("iss"), "RFC 9207")
		require.Equal(t, 200, open(callback+"?"+back.Encode()).StatusCode)
		require.NoError(t, asked.Wait(t.Context()))
	}
	_, err := r.call(alice)
	require.ErrorIs(t, err, credential.ErrNoGrant)
	consent(alice)
	consent(bob)
	subject := func(bearer string) string {
		parsed, err := jose.ParseSignedCompact(strings.TrimPrefix(bearer, "Bearer "), []jose.SignatureAlgorithm{jose.ES256})
		require.NoError(t, err)
		var c struct{ Sub, Aud string }
		require.NoError(t, json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &c))
		assert.Equal(t, r.resource.URL, c.Aud)
		return c.Sub
	}
	seen := map[string]bool{}
	for range 4 {
		for _, a := range []audit.Actor{alice, bob} {
			got, err := r.call(a)
			require.NoError(t, err)
			assert.Equal(t, a.User, subject(got))
			assert.False(t, seen[got], "it was renewed")
			seen[got] = true
		}
		r.clock.Add(int64(10 * time.Minute)) // by the host's clock all tokens have ended
	}
	// The refresh token before the last is put back, as from an old backup.
	versions, err := r.store.List(t.Context(), credential.GrantName("k", "alice"))
	require.NoError(t, err)
	var old credential.Secret
	for _, v := range versions {
		if v.State == credential.StatePrevious {
			_, old, err = r.store.Get(t.Context(), v.Ref)
			require.NoError(t, err)
		}
	}
	require.NoError(t, r.PutGrant(t.Context(), "k", "alice", old, by))
	_, err = r.call(alice)
	var ended *credential.GrantError
	require.ErrorAs(t, err, &ended, fmt.Sprint(err))
	assert.True(t, ended.Ended, "the provider has noticed, and alice is asked again")
	consent(alice)
	_, err = r.call(alice)
	assert.NoError(t, err)
}
