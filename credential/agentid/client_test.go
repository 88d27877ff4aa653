package agentid

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
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
)

const issuer = "https://issuer.example"

// keyed registers an agent with the test's P-256 key.
func keyed(t testing.TB, r *Registry, id string) {
	t.Helper()
	k := testKeys()
	_, err := r.Register(context.Background(), Agent{ID: id, Owner: "team-a", Profile: "standup",
		Keys: []byte(text(t, keySet(jwk(t, k.ec.Public(), "ec", "sig"), jwk(t, k.rsa.Public(), "rsa", "sig"))))}, by)
	require.NoError(t, err)
}

func assertionForm(assertion string) string {
	return grant(tools) + "&" + url.Values{"client_assertion_type": {assertionType}, "client_assertion": {assertion}}.Encode()
}

func goodAssertion(now time.Time) obj {
	return obj{"iss": "standup", "sub": "standup", "aud": issuer, "exp": now.Add(time.Minute).Unix(), "iat": now.Unix(), "jti": "1"}
}

func TestPrivateKeyJWT(t *testing.T) {
	ctx := context.Background()
	c, k := &clock{}, testKeys()
	r, log := newRegistry(t, &Options{Issuer: issuer, Clock: c.now})
	keyed(t, r, "standup")
	keyed(t, r, "other")
	register(t, r, "keyless")
	head, claims := obj{"alg": "ES256", "kid": "ec", "typ": "JWT"}, goodAssertion(c.now())
	n := 0
	fresh := func(change obj) obj {
		n++
		return with(with(claims, obj{"jti": string(rune('a'+n/26)) + string(rune('a'+n%26))}), change)
	}
	for name, good := range map[string]string{
		"issuer":       compact(t, text(t, head), text(t, fresh(nil)), k.ec),
		"endpoint":     compact(t, text(t, head), text(t, fresh(obj{"aud": issuer + "/token"})), k.ec),
		"array":        compact(t, text(t, head), text(t, fresh(obj{"aud": []string{issuer}})), k.ec),
		"RS256":        compact(t, text(t, obj{"alg": "RS256", "kid": "rsa"}), text(t, fresh(nil)), k.rsa),
		"typ":          compact(t, text(t, with(head, obj{"typ": "client-authentication+jwt"})), text(t, fresh(nil)), k.ec),
		"five minutes": compact(t, text(t, head), text(t, fresh(obj{"exp": c.now().Add(5 * time.Minute).Unix()})), k.ec),
		"no iat":       compact(t, text(t, head), text(t, fresh(obj{"iat": nil})), k.ec),
	} {
		w := ask(r, nil, assertionForm(good))
		require.Equal(t, 200, w.Code, name)
		assert.Equal(t, 401, ask(r, nil, assertionForm(good)).Code, "%s: good once", name)
		var got struct {
			AccessToken string `json:"access_token"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		actor, _, err := r.Verify(ctx, got.AccessToken, tools)
		require.NoError(t, err)
		assert.Equal(t, "standup", actor.Agent)
	}
	assert.Equal(t, "private_key_jwt", log.events[3].Detail["method"])

	refusal := ask(r, basic("nobody", "x"), grant(tools)).Body.String()
	sign := func(change obj) string { return compact(t, text(t, head), text(t, fresh(change)), k.ec) }
	bad := map[string]string{
		"another aud":      sign(obj{"aud": "https://other.example"}),
		"two aud":          sign(obj{"aud": []string{issuer, "https://other.example"}}),
		"no aud":           sign(obj{"aud": nil}),
		"resource as aud":  sign(obj{"aud": tools}),
		"iss":              sign(obj{"iss": "other"}),
		"no iss":           sign(obj{"iss": nil}),
		"unknown":          sign(obj{"iss": "nobody", "sub": "nobody"}),
		"keyless":          sign(obj{"iss": "keyless", "sub": "keyless"}),
		"expired":          sign(obj{"exp": c.now().Add(-skew).Unix()}),
		"no exp":           sign(obj{"exp": nil}),
		"too long":         sign(obj{"exp": c.now().Add(5*time.Minute + 2*skew).Unix()}),
		"nbf":              sign(obj{"nbf": c.now().Add(2 * skew).Unix()}),
		"iat":              sign(obj{"iat": c.now().Add(2 * skew).Unix()}),
		"no jti":           sign(obj{"jti": nil}),
		"long jti":         sign(obj{"jti": strings.Repeat("a", 257)}),
		"another key":      compact(t, text(t, head), text(t, fresh(nil)), k.ec2),
		"none":             compact(t, text(t, with(head, obj{"alg": "none"})), text(t, fresh(nil)), nil),
		"HS256":            compact(t, text(t, with(head, obj{"alg": "HS256"})), text(t, fresh(nil)), []byte("ec")),
		"wrong kid":        compact(t, text(t, with(head, obj{"kid": "rsa"})), text(t, fresh(nil)), k.ec),
		"no kid of two":    compact(t, text(t, with(head, obj{"kid": nil})), text(t, fresh(nil)), k.ec),
		"jwk":              compact(t, text(t, with(head, obj{"kid": nil, "jwk": jwk(t, k.ec2.Public(), "", "")})), text(t, fresh(nil)), k.ec2),
		"access token":     compact(t, text(t, with(head, obj{"typ": "at+jwt"})), text(t, fresh(nil)), k.ec),
		"sub twice":        compact(t, text(t, head), `{"sub":"other",`+text(t, fresh(nil))[1:], k.ec),
		"not a token":      "x",
		"empty":            "",
		"a client's token": issueFor(t, r, "keyless2", register(t, r, "keyless2"), tools),
	}
	for name, b := range bad {
		w := ask(r, nil, assertionForm(b))
		assert.Equal(t, 401, w.Code, name)
		assert.Equal(t, refusal, w.Body.String(), name)
	}
	good := func() string { return sign(nil) }
	for name, form := range map[string]string{
		"no type":          grant(tools) + "&client_assertion=" + good(),
		"another type":     grant(tools) + "&client_assertion_type=saml&client_assertion=" + good(),
		"other client_id":  assertionForm(good()) + "&client_id=other",
		"nothing but type": grant(tools) + "&client_assertion_type=" + url.QueryEscape(assertionType),
	} {
		assert.Equal(t, 401, ask(r, nil, form).Code, name)
	}
	assert.Equal(t, 401, ask(r, basic("standup", "x"), assertionForm(good())).Code, "two ways at once")
	require.NoError(t, r.Revoke(ctx, "standup", by))
	assert.Equal(t, 401, ask(r, nil, assertionForm(good())).Code)
	assert.Equal(t, audit.GuardRevoked, log.events[len(log.events)-1].Decision.Reason)
}

// Of two requests with one assertion at two hosts one wins.
func TestAssertionIsGoodOnceOnAllHosts(t *testing.T) {
	s := NewMemoryStore(nil)
	k := testKeys()
	a, _ := newRegistry(t, &Options{Issuer: issuer, Store: s})
	b, _ := newRegistry(t, &Options{Issuer: issuer, Store: s})
	require.NoError(t, a.Sync(context.Background()))
	keyed(t, a, "standup")
	require.NoError(t, b.Sync(context.Background()))
	form := assertionForm(compact(t, text(t, obj{"alg": "ES256", "kid": "ec"}), text(t, goodAssertion(time.Now())), k.ec))
	assert.Equal(t, 200, ask(a, nil, form).Code)
	assert.Equal(t, 401, ask(b, nil, form).Code)
}

// A dpopper makes proofs.
type dpopper struct {
	t testing.TB
	c *clock
	n int
}

func (d *dpopper) proof(method, target, token string, change obj) string {
	d.n++
	o := obj{"htm": method, "htu": target, "iat": d.c.now().Unix(), "jti": strings.Repeat("j", d.n)}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		o["ath"] = b64(sum[:])
	}
	return compact(d.t, text(d.t, obj{"alg": "ES256", "typ": "dpop+jwt", "jwk": jwk(d.t, testKeys().ec2.Public(), "", "")}), text(d.t, with(o, change)), testKeys().ec2)
}

// call sends a request to a resource behind WithProof, and returns what Verify
// there says.
func call(r *Registry, method, path string, change func(*http.Request)) (actor audit.Actor, err error) {
	h := WithProof(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		actor, _, err = r.Verify(req.Context(), token, tools)
	}))
	req := httptest.NewRequest(method, path, nil)
	change(req)
	h.ServeHTTP(httptest.NewRecorder(), req)
	return actor, err
}

// The request that came is not changed, whoever looks at it afterwards.
func TestWithProofWorksOnACopy(t *testing.T) {
	for scheme, inside := range map[string]string{"DPoP": "Bearer t", "Bearer": "Bearer t"} {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Authorization", scheme+" t")
		req.Header.Set("DPoP", "a proof")
		WithProof(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			assert.Equal(t, inside, req.Header.Get("Authorization"))
			assert.Empty(t, req.Header.Values("DPoP"))
		})).ServeHTTP(httptest.NewRecorder(), req)
		assert.Equal(t, scheme+" t", req.Header.Get("Authorization"))
		assert.Equal(t, "a proof", req.Header.Get("DPoP"))
	}
}

func TestDPoP(t *testing.T) {
	ctx := context.Background()
	c, k := &clock{}, testKeys()
	d := &dpopper{t: t, c: c}
	r, log := newRegistry(t, &Options{Issuer: issuer, Clock: c.now})
	secret := register(t, r, "standup")
	bearer := issueFor(t, r, "standup", secret, tools)
	get := func(proofs ...string) *httptest.ResponseRecorder {
		return ask(r, func(req *http.Request) {
			basic("standup", secret)(req)
			req.Header["Dpop"] = proofs
		}, grant(tools))
	}
	good := d.proof("POST", issuer+"/token", "", nil)
	w := get(good)
	require.Equal(t, 200, w.Code, "%s", w.Body)
	var got struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	assert.Equal(t, "DPoP", got.TokenType)
	assert.Contains(t, log.events[len(log.events)-1].Detail["bound"], "key ")
	for name, proofs := range map[string][]string{
		"replay":      {good},
		"two":         {d.proof("POST", issuer+"/token", "", nil), d.proof("POST", issuer+"/token", "", nil)},
		"empty":       {""},
		"another URL": {d.proof("POST", tools, "", nil)},
		"another htm": {d.proof("GET", issuer+"/token", "", nil)},
		"with an ath": {d.proof("POST", issuer+"/token", "x", nil)},
		"not a proof": {compact(t, text(t, goodHeader()), "{}", k.ec)},
		"private jwk": {compact(t, text(t, obj{"alg": "ES256", "typ": "dpop+jwt", "jwk": with(jwk(t, k.ec2.Public(), "", ""), obj{"d": private(t, k.ec2)})}), text(t, obj{"htm": "POST", "htu": issuer + "/token", "iat": c.now().Unix(), "jti": "p"}), k.ec2)},
		"another key": {compact(t, text(t, obj{"alg": "ES256", "typ": "dpop+jwt", "jwk": jwk(t, k.ec.Public(), "", "")}), text(t, obj{"htm": "POST", "htu": issuer + "/token", "iat": c.now().Unix(), "jti": "q"}), k.ec2)},
		"shared":      {compact(t, text(t, obj{"alg": "HS256", "typ": "dpop+jwt", "jwk": obj{"kty": "oct", "k": "AAAA"}}), text(t, obj{"htm": "POST", "htu": issuer + "/token", "iat": c.now().Unix(), "jti": "s"}), []byte{0, 0, 0})},
	} {
		w := get(proofs...)
		assert.Equal(t, 400, w.Code, name)
		assert.Contains(t, w.Body.String(), "invalid_dpop_proof", name)
	}
	assert.Equal(t, map[string]string{"refused": "proof"}, log.events[len(log.events)-1].Detail)

	token := got.AccessToken
	send := func(scheme, token string, proofs ...string) func(*http.Request) {
		return func(req *http.Request) {
			req.Header.Set("Authorization", scheme+" "+token)
			req.Header["Dpop"] = proofs
		}
	}
	actor, err := call(r, "POST", "/mcp?x=1", send("DPoP", token, d.proof("POST", "HTTPS://tools.local:443/mcp?y#z", token, nil)))
	require.NoError(t, err)
	assert.Equal(t, "standup", actor.Agent)
	_, err = call(r, "POST", "/mcp", send("Bearer", bearer))
	assert.NoError(t, err, "one that is not bound needs no proof")
	replay := d.proof("POST", tools, token, nil)
	_, err = call(r, "POST", "/mcp", send("dpop", token, replay))
	require.NoError(t, err)
	proof := func(change obj) string { return d.proof("POST", tools, token, change) }
	for name, f := range map[string]func(*http.Request){
		"replay":             send("DPoP", token, replay),
		"as bearer":          send("Bearer", token, proof(nil)),
		"no proof":           send("DPoP", token),
		"two proofs":         send("DPoP", token, proof(nil), proof(nil)),
		"method":             send("DPoP", token, proof(obj{"htm": "GET"})),
		"method's case":      send("DPoP", token, proof(obj{"htm": "post"})),
		"host":               send("DPoP", token, proof(obj{"htu": "https://other.local/mcp"})),
		"path":               send("DPoP", token, proof(obj{"htu": "https://tools.local/mcp/x"})),
		"scheme":             send("DPoP", token, proof(obj{"htu": "http://tools.local/mcp"})),
		"no htu":             send("DPoP", token, proof(obj{"htu": nil})),
		"no ath":             send("DPoP", token, proof(obj{"ath": nil})),
		"another's ath":      send("DPoP", token, d.proof("POST", tools, bearer, nil)),
		"old":                send("DPoP", token, proof(obj{"iat": c.now().Add(-proofAge - time.Second).Unix()})),
		"future":             send("DPoP", token, proof(obj{"iat": c.now().Add(skew + time.Second).Unix()})),
		"no iat":             send("DPoP", token, proof(obj{"iat": nil})),
		"no jti":             send("DPoP", token, proof(obj{"jti": nil})),
		"too long":           send("DPoP", token, proof(obj{"x": strings.Repeat("a", maxToken)})),
		"jti too long":       send("DPoP", token, proof(obj{"jti": strings.Repeat("a", 300)})),
		"typ":                send("DPoP", token, compact(t, text(t, obj{"alg": "ES256", "typ": "JWT", "jwk": jwk(t, k.ec2.Public(), "", "")}), text(t, obj{"htm": "POST", "htu": tools, "iat": c.now().Unix(), "jti": "t", "ath": func() string { s := sha256.Sum256([]byte(token)); return b64(s[:]) }()}), k.ec2)),
		"token not bound":    send("DPoP", bearer, d.proof("POST", tools, bearer, nil)),
		"another's key":      send("DPoP", token, compact(t, text(t, obj{"alg": "ES256", "typ": "dpop+jwt", "jwk": jwk(t, k.ec.Public(), "", "")}), text(t, obj{"htm": "POST", "htu": tools, "iat": c.now().Unix(), "jti": "k", "ath": func() string { s := sha256.Sum256([]byte(token)); return b64(s[:]) }()}), k.ec)),
		"proof as the token": send("DPoP", replay, replay),
	} {
		_, err := call(r, "POST", "/mcp", f)
		assert.Error(t, err, name)
	}
	_, _, err = r.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrProof, "without WithProof a bound token is none")
}

func TestTLSClientAuth(t *testing.T) {
	ctx := context.Background()
	const name = "spiffe://example.org/standup"
	client, other, nameless, pool := clientCertificate(t, name), clientCertificate(t, "spiffe://example.org/other"), clientCertificate(t), x509.NewCertPool()
	for _, c := range []tls.Certificate{client, other, nameless} {
		pool.AddCert(c.Leaf)
	}
	server := httptest.NewUnstartedServer(nil)
	server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	server.StartTLS()
	defer server.Close()
	r, log := newRegistry(t, &Options{Issuer: server.URL})
	_, err := r.Register(ctx, Agent{ID: "standup", Owner: "team-a", CertName: name}, by)
	require.NoError(t, err)
	secret := register(t, r, "secretive")
	var verified error
	mux := http.NewServeMux()
	mux.Handle("/", r.Handler())
	mux.Handle("/mcp", WithProof(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		_, _, verified = r.Verify(req.Context(), token, tools)
	})))
	server.Config.Handler = mux
	as := func(certs ...tls.Certificate) *http.Client {
		t := server.Client().Transport.(*http.Transport).Clone()
		t.TLSClientConfig.Certificates = certs
		t.DisableKeepAlives = true
		return &http.Client{Transport: t}
	}
	get := func(c *http.Client, id string) (int, string) {
		resp, err := c.Post(server.URL+"/token", "application/x-www-form-urlencoded", strings.NewReader(grant(tools)+"&client_id="+id))
		require.NoError(t, err)
		defer resp.Body.Close()
		var got struct {
			AccessToken string `json:"access_token"`
		}
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
		return resp.StatusCode, got.AccessToken
	}
	status, token := get(as(client), "standup")
	require.Equal(t, 200, status)
	last := log.events[len(log.events)-1].Detail
	assert.Equal(t, "tls_client_auth", last["method"])
	assert.Equal(t, "certificate "+certHash(client.Leaf.Raw), last["bound"])
	for _, c := range []struct {
		client *http.Client
		id     string
	}{{as(), "standup"}, {as(other), "standup"}, {as(nameless), "standup"}, {as(client), "secretive"}, {as(client), "nobody"}} {
		status, _ := get(c.client, c.id)
		assert.Equal(t, 401, status)
	}
	use := func(c *http.Client, token string) error {
		req, _ := http.NewRequest("POST", server.URL+"/mcp", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := c.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return verified
	}
	// A server that asks for certificates and does not verify them has proved nothing.
	unverified := ask(r, func(req *http.Request) {
		req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{client.Leaf}}
	}, grant(tools)+"&client_id=standup")
	assert.Equal(t, 401, unverified.Code)
	assert.NoError(t, use(as(client), token))
	assert.ErrorIs(t, use(as(other), token), ErrProof)
	assert.ErrorIs(t, use(as(), token), ErrProof)
	_ = secret
}

func TestKeysOfAnAgent(t *testing.T) {
	k := testKeys()
	for name, set := range map[string]string{
		"not JSON":      "x",
		"trailing":      text(t, keySet(jwk(t, k.ec.Public(), "a", ""))) + "{}",
		"keys twice":    `{"keys":[],"keys":[]}`,
		"kid twice":     text(t, keySet(jwk(t, k.ec.Public(), "a", ""), jwk(t, k.ec2.Public(), "a", ""))),
		"private":       text(t, keySet(with(jwk(t, k.ec.Public(), "a", ""), obj{"d": private(t, k.ec)}))),
		"shared":        `{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`,
		"encryption":    text(t, keySet(jwk(t, k.ec.Public(), "a", "enc"))),
		"weak":          text(t, keySet(jwk(t, k.weak.Public(), "a", ""))),
		"off the curve": `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AQ","y":"AQ"}]}`,
		"too many":      `{"keys":[` + strings.Repeat(`{},`, 40) + `{}]}`,
		"a string":      `{"keys":["x"]}`,
		"too large":     `{"keys":[],"x":"` + strings.Repeat("a", maxKeySet) + `"}`,
	} {
		_, err := parsePublicKeys([]byte(set))
		assert.Error(t, err, name)
	}
	_, err := parsePublicKeys([]byte(text(t, keySet(jwk(t, k.ec.Public(), "a", ""), jwk(t, k.ed.Public(), "b", "sig"), jwk(t, k.rsa.Public(), "c", ""), jwk(t, k.ec384.Public(), "d", "")))))
	assert.NoError(t, err)
}

func FuzzPublicKeys(f *testing.F) {
	k := testKeys()
	f.Add([]byte(text(f, keySet(jwk(f, k.ec.Public(), "a", "sig")))))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","x5c":["AAAA"]}]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := parsePublicKeys(set)
		if err != nil {
			return
		}
		for _, k := range keys {
			require.True(t, k.IsPublic())
			require.NotEmpty(t, thumbprint(k))
		}
	})
}

func FuzzDPoP(f *testing.F) {
	c := &clock{}
	r, _ := newRegistry(f, &Options{Issuer: issuer, Clock: c.now})
	key := ed25519.NewKeyFromSeed(make([]byte, 32)) // the same in all of the fuzzer's processes
	good := compact(f, text(f, obj{"alg": "EdDSA", "typ": "dpop+jwt", "jwk": jwk(f, key.Public(), "", "")}),
		text(f, obj{"htm": "POST", "htu": tools, "iat": c.now().Unix(), "jti": "1"}), key)
	parts := strings.Split(good, ".")
	f.Add(good)
	f.Add(parts[0] + ".e30." + parts[2])
	f.Fuzz(func(t *testing.T, text string) {
		_, err := r.dpop(context.Background(), &proof{method: "POST", dpop: []string{text}}, tools, "")
		if err == nil && text != good {
			t.Fatalf("accepted: %q", text)
		}
	})
}
