package oauth_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/oauth"
)

func TestClientCredentialsWithSecret(t *testing.T) {
	as := newServer(t)
	as.token = func(w http.ResponseWriter, r *http.Request) {
		id, secret, ok := r.BasicAuth()
		if !ok || id != "me%3A1" || secret != "s%C3%A9cret+%25%26" {
			answer(w, 401, map[string]any{"error": "invalid_client", "error_description": secret})
			return
		}
		answer(w, 200, bearer("access-token-1"))
	}
	r := newRig(t, "sécret %&", oauth.ClientCredentials(oauth.Client{Issuer: as.URL, ID: "me:1"}), "read", "write")
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			_, err := r.lease(actor)
			assert.NoError(t, err)
		})
	}
	all.Wait()
	got, err := r.call(alice)
	require.NoError(t, err)
	assert.Equal(t, "Bearer access-token-1", got)
	assert.EqualValues(t, 1, as.asked.Load())
	assert.Equal(t, map[string][]string{
		"grant_type": {"client_credentials"}, "scope": {"read write"}, "resource": {r.resource.URL},
	}, map[string][]string(as.last()))

	_, err = r.Rotate(t.Context(), "k", credential.NewSecret([]byte("not accepted")), by)
	require.NoError(t, err)
	require.NoError(t, r.Revoke(t.Context(), credential.Ref{Name: "k", Version: 1}, by))
	_, err = r.call(actor)
	assert.ErrorIs(t, err, credential.ErrReauth)
	assert.ErrorContains(t, err, "401: invalid_client")
	r.noLeak(err)
}

func TestClientCredentialsWithPrivateKey(t *testing.T) {
	for _, key := range keys(t) {
		t.Run(string(key.alg), func(t *testing.T) {
			as := newServer(t)
			as.metadata = func(m map[string]any) { m["token_endpoint_auth_methods_supported"] = []string{"private_key_jwt"} }
			seen := map[any]bool{}
			as.token = func(w http.ResponseWriter, r *http.Request) {
				c := claims(t, r.PostForm.Get("client_assertion"), key)
				assert.Equal(t, "me", c["iss"])
				assert.Equal(t, "me", c["sub"])
				assert.Equal(t, as.URL, c["aud"])
				assert.InDelta(t, time.Now().Add(time.Minute).Unix(), c["exp"], 30)
				assert.False(t, seen[c["jti"]], "replayed")
				seen[c["jti"]] = true
				assert.Equal(t, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", r.PostForm.Get("client_assertion_type"))
				assert.Empty(t, r.Header.Get("Authorization"))
				answer(w, 200, bearer(fmt.Sprintf("access-token-%d", as.asked.Load())))
			}
			c := oauth.Client{Issuer: as.URL, ID: "me", Auth: oauth.PrivateKeyJWT}
			r := newRig(t, pemOf(t, key.private), oauth.ClientCredentials(c))
			got, err := r.call(actor)
			require.NoError(t, err)
			assert.Equal(t, "Bearer access-token-1", got)
			assert.NotEmpty(t, r.Scrubber().Count([]byte(as.last().Get("client_assertion"))), "an assertion is a secret while it lives")
			jwk, err := jose.JSONWebKey{Key: key.private, KeyID: "key-7"}.MarshalJSON()
			require.NoError(t, err)
			_, err = r.Rotate(t.Context(), "k", credential.NewSecret(jwk), by)
			require.NoError(t, err)
			got, err = r.call(actor)
			require.NoError(t, err)
			assert.Equal(t, "Bearer access-token-2", got)
			parsed, err := jose.ParseSignedCompact(as.last().Get("client_assertion"), []jose.SignatureAlgorithm{key.alg})
			require.NoError(t, err)
			assert.Equal(t, "key-7", parsed.Signatures[0].Header.KeyID)
		})
	}
	for _, bad := range []string{"not a key at all", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", `{"kty":"oct","k":"c2VjcmV0c2VjcmV0"}`} {
		as := newServer(t)
		r := newRig(t, bad, oauth.ClientCredentials(oauth.Client{Issuer: as.URL, ID: "me", Auth: oauth.PrivateKeyJWT}))
		_, err := r.call(actor)
		assert.ErrorIs(t, err, credential.ErrScheme)
		r.noLeak(err)
		assert.Zero(t, as.asked.Load())
	}
}

// A secret goes to the one server that it is for, whatever metadata, resources
// and answers say.
func TestSecretStaysWithItsIssuer(t *testing.T) {
	evil := newServer(t)
	evil.token = func(w http.ResponseWriter, r *http.Request) { answer(w, 200, bearer("evil-token-1")) }
	for why, c := range map[string]struct {
		metadata func(m map[string]any)
		token    func(w http.ResponseWriter, r *http.Request)
		want     error
	}{
		"the metadata is another issuer's": {metadata: func(m map[string]any) { m["issuer"] = evil.URL }, want: oauth.ErrIssuer},
		"the issuer differs in a slash":    {metadata: func(m map[string]any) { m["issuer"] = m["issuer"].(string) + "/" }, want: oauth.ErrIssuer},
		"the endpoint is in the clear":     {metadata: func(m map[string]any) { m["token_endpoint"] = "http://as.example/token" }, want: credential.ErrOrigin},
		"there is no endpoint":             {metadata: func(m map[string]any) { delete(m, "token_endpoint") }, want: oauth.ErrResponse},
		"the method is not supported":      {metadata: func(m map[string]any) { m["token_endpoint_auth_methods_supported"] = []string{"none"} }},
		"the endpoint redirects": {token: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, evil.URL+"/token", http.StatusTemporaryRedirect)
		}},
		"the endpoint redirects with a 302": {token: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, evil.URL+"/token", http.StatusFound) }},
	} {
		t.Run(why, func(t *testing.T) {
			as := newServer(t)
			if c.metadata != nil {
				as.metadata = c.metadata
			}
			as.token = c.token
			r := newRig(t, "the client's secret", oauth.ClientCredentials(oauth.Client{Issuer: as.URL, ID: "me"}))
			_, err := r.call(actor)
			require.ErrorIs(t, err, credential.ErrExchange)
			if c.want != nil {
				assert.ErrorIs(t, err, c.want)
			}
			r.noLeak(err)
		})
	}
	assert.Zero(t, evil.asked.Load())
}

// The resource has moved to another authorization server (SEP-2352): the
// credential does not follow.
func TestResourceTrustsAnotherIssuer(t *testing.T) {
	as := newServer(t)
	as.token = func(w http.ResponseWriter, r *http.Request) { answer(w, 200, bearer("access-token-1")) }
	trusted := "https://other.example"
	resource := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if trusted == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if r.URL.Path == "/.well-known/oauth-protected-resource/mcp" {
			answer(w, 200, map[string]any{"resource": "x", "authorization_servers": []string{trusted}})
		}
	}))
	defer resource.Close()
	client := oauth.Client{Issuer: as.URL, ID: "me", Resource: resource.URL + "/mcp"}
	r := newRig(t, "the client's secret", oauth.ClientCredentials(client))
	_, err := r.call(actor)
	assert.ErrorIs(t, err, oauth.ErrIssuer)
	trusted = "" // it is down when it is asked again, and has not changed its mind
	r.clock.Add(int64(2 * time.Hour))
	_, err = r.call(actor)
	assert.ErrorIs(t, err, oauth.ErrIssuer)
	assert.Zero(t, as.asked.Load())
	trusted = as.URL
	r.clock.Add(int64(2 * time.Minute))
	_, err = r.call(actor)
	assert.NoError(t, err)
	r = newRig(t, "the client's secret", oauth.ClientCredentials(client))
	_, err = r.call(actor)
	require.NoError(t, err)
	assert.Equal(t, resource.URL+"/mcp", as.last().Get("resource"))
}

// Answers that are no proper ones get nowhere, and what they echo is not seen.
func TestAnswers(t *testing.T) {
	const secret = "the client's secret 0123456789"
	good := `{"access_token":"access-token-1","token_type":"bearer","expires_in":60}`
	raw := func(status int, kind, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for why, c := range map[string]struct {
		token func(w http.ResponseWriter, r *http.Request)
		ok    bool
	}{
		"good":                {raw(200, "application/json;charset=UTF-8", good), true},
		"no content type":     {raw(200, "", good), false},
		"a page":              {raw(200, "text/html", good), false},
		"a member twice":      {raw(200, "application/json", `{"access_token":"access-token-1","access_token":"access-token-2","token_type":"bearer"}`), false},
		"another case":        {raw(200, "application/json", `{"Access_Token":"access-token-1","token_type":"bearer"}`), false},
		"trailing text":       {raw(200, "application/json", good+"{}"), false},
		"a list":              {raw(200, "application/json", `[`+good+`]`), false},
		"cut off":             {raw(200, "application/json", good[:40]), false},
		"no token type":       {raw(200, "application/json", `{"access_token":"access-token-1"}`), false},
		"DPoP":                {raw(200, "application/json", `{"access_token":"access-token-1","token_type":"DPoP"}`), false},
		"a number":            {raw(200, "application/json", `{"access_token":12345678,"token_type":"bearer"}`), false},
		"a newline":           {raw(200, "application/json", `{"access_token":"access-token\n-1","token_type":"bearer"}`), false},
		"too short":           {raw(200, "application/json", `{"access_token":"short","token_type":"bearer"}`), false},
		"expired":             {raw(200, "application/json", `{"access_token":"access-token-1","token_type":"bearer","expires_in":0}`), false},
		"for ever":            {raw(200, "application/json", `{"access_token":"access-token-1","token_type":"bearer","expires_in":1e300}`), false},
		"negative":            {raw(200, "application/json", `{"access_token":"access-token-1","token_type":"bearer","expires_in":-1}`), false},
		"more scopes":         {raw(200, "application/json", `{"access_token":"access-token-1","token_type":"bearer","scope":"read admin"}`), false},
		"fewer scopes":        {raw(200, "application/json", `{"access_token":"access-token-1","token_type":"bearer","scope":""}`), true},
		"too long":            {raw(200, "application/json", `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), false},
		"padded":              {raw(200, "application/json", good+strings.Repeat(" ", 1<<20)), false},
		"201":                 {raw(201, "application/json", good), false},
		"an echoing error":    {raw(400, "application/json", `{"error":"invalid_request","error_description":"`+secret+`","error_uri":"https://a.example/`+secret+`"}`), false},
		"an error as a code":  {raw(400, "application/json", `{"error":"`+secret+`"}`), false},
		"an error page":       {raw(500, "text/html", secret), false},
		"an empty error":      {raw(503, "", ""), false},
		"the connection ends": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
	} {
		t.Run(why, func(t *testing.T) {
			as := newServer(t)
			as.token = c.token
			r := newRig(t, secret, oauth.ClientCredentials(oauth.Client{Issuer: as.URL, ID: "me"}), "read")
			_, err := r.call(actor)
			if c.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, credential.ErrExchange)
			assert.NotContains(t, err.Error(), "/token", "URLs may hold secrets")
			r.noLeak(err)
		})
	}
}

func TestTokenExchange(t *testing.T) {
	as := newServer(t)
	as.token = func(w http.ResponseWriter, r *http.Request) {
		a := bearer("access-for-" + r.PostForm.Get("subject_token"))
		a["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
		answer(w, 200, a)
	}
	c := oauth.Client{Issuer: as.URL, ID: "me"}
	r := newRig(t, "the client's secret", oauth.TokenExchange(c, fixed("user-token-"), fixed("agent-token-")), "read")
	for _, who := range []credentialActor{{alice, "alice"}, {bob, "bob"}, {alice, "alice"}} {
		got, err := r.call(who.Actor)
		require.NoError(t, err)
		assert.Equal(t, "Bearer access-for-user-token-"+who.name, got)
	}
	assert.EqualValues(t, 2, as.asked.Load())
	form := as.last()
	assert.Equal(t, "urn:ietf:params:oauth:grant-type:token-exchange", form.Get("grant_type"))
	assert.Equal(t, "agent-token-bob", form.Get("actor_token"))
	assert.Equal(t, "urn:ietf:params:oauth:token-type:jwt", form.Get("actor_token_type"))
	assert.Equal(t, r.resource.URL, form.Get("resource"))
	credentialtest.AssertNoLeak(t, notCounter{r.Broker}, []byte("user-token-alice")) // the scrubber knows it
	r = newRig(t, "the client's secret", oauth.TokenExchange(c, nil, nil))
	_, err := r.call(alice)
	assert.ErrorContains(t, err, "subject_token")
}

func TestJWTBearerAndIDJAG(t *testing.T) {
	key := keys(t)[0]
	as, idp := newServer(t), newServer(t)
	as.token = func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "urn:ietf:params:oauth:grant-type:jwt-bearer", r.PostForm.Get("grant_type"))
		answer(w, 200, bearer("access-for-"+r.PostForm.Get("assertion")))
	}
	c := oauth.Client{Issuer: as.URL, ID: "me", Auth: oauth.None}
	r := newRig(t, "no secret is needed", oauth.JWTBearer(c, fixed("workload-token-")))
	got, err := r.call(bob)
	require.NoError(t, err)
	assert.Equal(t, "Bearer access-for-workload-token-bob", got)

	as.token = func(w http.ResponseWriter, r *http.Request) {
		c := claims(t, r.PostForm.Get("assertion"), key)
		assert.Equal(t, as.URL, c["aud"])
		assert.Equal(t, "me", r.PostForm.Get("client_id"))
		assert.Empty(t, r.Header.Get("Authorization"), "the key signs, and goes nowhere")
		answer(w, 200, bearer("access-token-1"))
	}
	r = newRig(t, pemOf(t, key.private), oauth.JWTBearer(c, nil))
	_, err = r.call(actor)
	require.NoError(t, err)

	c.Auth = ""
	r = newRig(t, pemOf(t, key.private), oauth.JWTBearer(c, nil))
	_, err = r.call(actor)
	require.NoError(t, err)
	asked := as.asked.Load()
	jwk, err := jose.JSONWebKey{Key: key.private}.MarshalJSON()
	require.NoError(t, err)
	for _, method := range []oauth.AuthMethod{oauth.SecretBasic, oauth.SecretPost} {
		for _, secret := range []string{pemOf(t, key.private), string(jwk), "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n" + pemOf(t, key.private)} {
			c.Auth = method
			r = newRig(t, secret, oauth.ClientCredentials(c))
			_, err = r.call(actor)
			assert.ErrorContains(t, err, "private key", method)
		}
		r = newRig(t, pemOf(t, key.private), oauth.JWTBearer(c, nil))
		_, err = r.call(actor)
		assert.ErrorContains(t, err, "private key", method)
	}
	assert.Equal(t, asked, as.asked.Load())

	idp.token = func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "urn:ietf:params:oauth:token-type:id-jag", r.PostForm.Get("requested_token_type"))
		assert.Equal(t, as.URL, r.PostForm.Get("audience"))
		assert.Equal(t, "urn:ietf:params:oauth:token-type:id_token", r.PostForm.Get("subject_token_type"))
		answer(w, 200, map[string]any{"access_token": "jag-of-" + r.PostForm.Get("subject_token"), "token_type": "N_A",
			"issued_token_type": "urn:ietf:params:oauth:token-type:id-jag", "expires_in": 300})
	}
	as.token = func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, bearer("access-for-"+r.PostForm.Get("assertion")))
	}
	r = newRig(t, "the client's secret", oauth.IDJAG(oauth.Client{Issuer: idp.URL, ID: "me-there", Auth: oauth.None}, oauth.Client{Issuer: as.URL, ID: "me"}, fixed("id-token-")), "read")
	got, err = r.call(alice)
	require.NoError(t, err)
	assert.Equal(t, "Bearer access-for-jag-of-id-token-alice", got)
	assert.Equal(t, r.resource.URL, idp.last().Get("resource"))
	assert.NotContains(t, fmt.Sprint(idp.seen), "the client's secret")
	for _, s := range []string{"id-token-alice", "jag-of-id-token-alice"} {
		assert.NotEmpty(t, r.Scrubber().Count([]byte(s)), s)
	}
}

func TestGitHubApp(t *testing.T) {
	key := keys(t)[1]
	type ask struct {
		Repositories []string
		Permissions  map[string]string
	}
	var asked []ask
	var more map[string]string // that nobody has asked for
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/app/installations/42/access_tokens" {
			answer(w, 404, map[string]any{"message": "Not Found"})
			return
		}
		c := claims(t, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), key)
		assert.Equal(t, "1234", c["iss"])
		assert.LessOrEqual(t, c["exp"].(float64)-c["iat"].(float64), 600.0)
		assert.Less(t, c["iat"].(float64), float64(time.Now().Unix()))
		var a ask
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&a))
		asked = append(asked, a)
		repositories := []map[string]any{}
		for _, name := range a.Repositories {
			repositories = append(repositories, map[string]any{"id": 1, "name": name})
		}
		granted := maps.Clone(a.Permissions)
		granted["metadata"] = "read" // as every token has
		maps.Copy(granted, more)
		answer(w, 201, map[string]any{"token": fmt.Sprintf("ghs_token_%d", len(asked)), "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			"permissions": granted, "repositories": repositories})
	}))
	defer api.Close()
	scheme := func(installation string) credential.Scheme {
		return oauth.GitHubApp("1234", installation, &oauth.GitHubAppOptions{API: api.URL})
	}
	r := newRig(t, pemOf(t, key.private), scheme("42"), "contents:write", "contents:read", "repository:a", "repository:b")
	_, err := r.call(actor)
	assert.ErrorContains(t, err, "two levels")
	r = newRig(t, pemOf(t, key.private), scheme("42"), "contents:write", "issues:read", "repository:a", "repository:b")
	for _, scopes := range [][]string{nil, {"issues:read"}, {"repository:a"}, {"issues:read", "repository:b"}} {
		_, err := r.call(actor, scopes...)
		require.NoError(t, err)
	}
	all, both := map[string]string{"contents": "write", "issues": "read"}, []string{"a", "b"}
	assert.Equal(t, []ask{
		{both, all}, {both, map[string]string{"issues": "read"}}, {[]string{"a"}, all}, {[]string{"b"}, map[string]string{"issues": "read"}},
	}, asked, "no lease gets more than the binding has")
	_, err = r.call(actor, "repository:c")
	assert.ErrorIs(t, err, credential.ErrScopes)
	for _, more = range []map[string]string{{"contents": "write"}, {"contents": "admin"}, {"contents": "all"}, {"issues": "read"}, {"metadata": "write"}} {
		r = newRig(t, pemOf(t, key.private), scheme("42"), "contents:read")
		_, err = r.call(actor)
		assert.ErrorContains(t, err, "more than was asked for", more)
	}
	more = nil
	r = newRig(t, pemOf(t, key.private), scheme("43"), "contents:read")
	_, err = r.call(actor)
	assert.ErrorIs(t, err, credential.ErrReauth)
	_, err = newRig(t, pemOf(t, key.private), scheme("4/../3")).call(actor)
	assert.ErrorIs(t, err, credential.ErrExchange)
}

func TestGoogleServiceAccount(t *testing.T) {
	key := keys(t)[1]
	as := newServer(t)
	as.token = func(w http.ResponseWriter, r *http.Request) {
		c := claims(t, r.PostForm.Get("assertion"), key)
		assert.Equal(t, "robot@p.iam.gserviceaccount.com", c["iss"])
		assert.Equal(t, as.URL+"/token", c["aud"])
		assert.Equal(t, "https://www.googleapis.com/auth/drive.readonly", c["scope"])
		assert.Equal(t, "alice@example.com", c["sub"])
		answer(w, 200, bearer("ya29.access-token"))
	}
	file, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "robot@p.iam.gserviceaccount.com",
		"private_key_id": "k1", "private_key": pemOf(t, key.private), "token_uri": "https://evil.example/token"})
	require.NoError(t, err)
	scheme := oauth.GoogleServiceAccount(&oauth.GoogleOptions{User: "alice@example.com", TokenEndpoint: as.URL + "/token"})
	r := newRig(t, string(file), scheme, "https://www.googleapis.com/auth/drive.readonly")
	got, err := r.call(actor)
	require.NoError(t, err)
	assert.Equal(t, "Bearer ya29.access-token", got)
	assert.NotEmpty(t, r.Scrubber().Count([]byte(pemOf(t, key.private))), "the key is found without the file around it")
	_, err = newRig(t, `{"type":"authorized_user"}`, scheme).call(actor)
	assert.ErrorIs(t, err, credential.ErrScheme)
}
