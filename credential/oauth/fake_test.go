package oauth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

var (
	by    = audit.Change{By: "alice", Reason: "TICKET-1"}
	actor = audit.Actor{Agent: "standup", Issuer: "session"}
	alice = audit.Actor{Agent: "standup", Issuer: "session", User: "alice"}
	bob   = audit.Actor{Agent: "standup", Issuer: "session", User: "bob"}
)

// A fakeServer is an authorization server whose answers a test writes.
type fakeServer struct {
	*httptest.Server
	t        *testing.T
	asked    atomic.Int64 // token requests
	metadata func(m map[string]any)
	token    func(w http.ResponseWriter, r *http.Request)

	mu   sync.Mutex
	seen []url.Values
}

func newServer(t *testing.T) *fakeServer {
	f := &fakeServer{t: t, metadata: func(map[string]any) {}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		m := map[string]any{"issuer": f.URL, "token_endpoint": f.URL + "/token", "authorization_endpoint": f.URL + "/authorize",
			"authorization_response_iss_parameter_supported": true, "code_challenge_methods_supported": []string{"S256"}}
		f.metadata(m)
		answer(w, 200, m)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		r.ParseForm()
		f.mu.Lock()
		f.seen = append(f.seen, r.PostForm)
		f.mu.Unlock()
		f.token(w, r)
	})
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

// last is the newest token request.
func (f *fakeServer) last() url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[len(f.seen)-1]
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func bearer(token string) map[string]any {
	return map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600}
}

// A rig is a broker with one secret k that may go to a resource, which says what
// token it was sent.
type rig struct {
	*credential.Broker
	t        *testing.T
	resource *httptest.Server
	store    *credential.MemoryStore
	log      *audittest.Log
	sent     chan string
	clock    atomic.Int64
}

func newRig(t *testing.T, secret string, scheme credential.Scheme, scopes ...string) *rig {
	t.Helper()
	r := &rig{t: t, log: audittest.NewLog(t), sent: make(chan string, 100)}
	r.resource = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasPrefix(q.URL.Path, "/.well-known/") {
			http.NotFound(w, q)
			return
		}
		r.sent <- q.Header.Get("Authorization")
	}))
	t.Cleanup(r.resource.Close)
	secrets := map[string]credential.Secret{}
	if secret != "" {
		secrets["k"] = credential.NewSecret([]byte(secret))
	}
	r.store = credential.NewMemoryStore(secrets)
	var err error
	r.Broker, err = credential.NewBroker(r.store, r.log, &credential.BrokerOptions{Now: r.now})
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	require.NoError(t, r.Bind(t.Context(), "k", credential.Binding{Origin: r.resource.URL, Scheme: scheme, Scopes: scopes}, by))
	return r
}

func (r *rig) now() time.Time { return time.Now().Add(time.Duration(r.clock.Load())) }

func (r *rig) lease(a audit.Actor, scopes ...string) (*credential.Lease, error) {
	return r.Lease(r.t.Context(), credential.LeaseRequest{Actor: a, Credential: "k", Origin: r.resource.URL, Scopes: scopes})
}

// call makes one request and returns the token that the resource was sent.
func (r *rig) call(a audit.Actor, scopes ...string) (string, error) {
	l, err := r.lease(a, scopes...)
	if err != nil {
		return "", err
	}
	defer l.Release()
	req, err := http.NewRequestWithContext(r.t.Context(), "GET", r.resource.URL, nil)
	require.NoError(r.t, err)
	resp, err := l.Transport(nil).RoundTrip(req)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	return <-r.sent, nil
}

// noLeak fails unless err says nothing of what the broker knows.
func (r *rig) noLeak(err error) {
	credentialtest.AssertNoLeak(r.t, r.Scrubber(), []byte(fmt.Sprintf("%v %+v %#v", err, err, err)))
}

func pemOf(t *testing.T, key crypto.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

type signingKey struct {
	alg     jose.SignatureAlgorithm
	private crypto.Signer
}

func keys(t *testing.T) []signingKey {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return []signingKey{{jose.ES256, ec}, {jose.RS256, rs}, {jose.EdDSA, ed}}
}

// claims verifies a JWT with another library's hands and returns what it says.
func claims(t *testing.T, jwt string, k signingKey) map[string]any {
	t.Helper()
	parsed, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{k.alg})
	require.NoError(t, err)
	payload, err := parsed.Verify(k.private.Public())
	require.NoError(t, err)
	var c map[string]any
	require.NoError(t, json.Unmarshal(payload, &c))
	return c
}

func fixed(token string) func(context.Context, audit.Actor) (credential.Secret, error) {
	return func(_ context.Context, a audit.Actor) (credential.Secret, error) {
		return credential.NewSecret([]byte(token + a.User)), nil
	}
}

func drain(r io.Reader) string { b, _ := io.ReadAll(r); return string(b) }

type credentialActor struct {
	audit.Actor
	name string
}

// notCounter counts what the broker's scrubber does not find.
type notCounter struct{ *credential.Broker }

func (n notCounter) Count(b []byte) map[string]int {
	if len(n.Scrubber().Count(b)) == 0 {
		return map[string]int{"not found": 1}
	}
	return nil
}
