package openbao

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/internal/vaulttest"
)

// counted returns the address of a proxy before v, and how often each path was
// asked for.
func counted(t *testing.T, v *vaulttest.Server) (address string, count func(path string) int64) {
	t.Helper()
	target, err := url.Parse(v.Address)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	counts := make(map[string]*atomic.Int64)
	for _, path := range []string{"/v1/auth/approle/login", "/v1/auth/token/renew-self", "/v1/auth/token/lookup-self"} {
		counts[path] = new(atomic.Int64)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := counts[r.URL.Path]; c != nil {
			c.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, func(path string) int64 { return counts[path].Load() }
}

// until waits for a condition, and fails after a minute.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, 20*time.Millisecond, what)
}

// A token is renewed while nobody uses it; when the server gives it no more
// time, there is a new login.
func TestTokenIsRenewed(t *testing.T) {
	v := vaulttest.Start(t)
	address, count := counted(t, v)
	s, err := New(address, role(t, v, "2s", "5s"), &Options{Folder: folder()})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)
	first := count("/v1/auth/approle/login")
	require.EqualValues(t, 1, first)
	until(t, "a renewal", func() bool { return count("/v1/auth/token/renew-self") >= 1 })
	until(t, "a new login", func() bool { return count("/v1/auth/approle/login") >= 2 })
	logins := count("/v1/auth/approle/login")
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, logins, count("/v1/auth/approle/login"), "the list needed no login")
}

// A server that is away when the token should be renewed is asked again, sooner
// and sooner; when it is away until the token has ended, the next call logs in.
func TestRenewalDuringAnOutage(t *testing.T) {
	v := vaulttest.Start(t)
	target, err := url.Parse(v.Address)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	var away atomic.Bool
	var failed, renewed, logins atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case away.Load():
			failed.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return
		case r.URL.Path == "/v1/auth/token/renew-self":
			renewed.Add(1)
		case r.URL.Path == "/v1/auth/approle/login":
			logins.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	s, err := New(server.URL, role(t, v, "3s", "1h"), &Options{Folder: folder()})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)

	away.Store(true)
	until(t, "two renewals that fail", func() bool { return failed.Load() >= 2 })
	away.Store(false)
	until(t, "one that does not", func() bool { return renewed.Load() >= 1 || logins.Load() >= 2 })
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)

	before := logins.Load()
	away.Store(true)
	until(t, "the end of the token", func() bool {
		s.session.mu.Lock()
		defer s.session.mu.Unlock()
		return s.session.held == nil || s.session.held.ended(time.Now())
	})
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrUnavailable)
	away.Store(false)
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)
	require.Greater(t, logins.Load(), before)
}

// A token that somebody revokes is replaced within the call that notices.
func TestRevokedTokenIsReplaced(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{})
	_, err := s.Put(t.Context(), "kept", secret("a value to keep"), 0, "")
	require.NoError(t, err)
	h, err := s.session.token(t.Context())
	require.NoError(t, err)
	v.Admin(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": reveal(t, h.token)})
	_, err = s.Put(t.Context(), "kept", secret("another value"), 1, "")
	require.NoError(t, err)
	list, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, list, 2)
}

func TestStaticToken(t *testing.T) {
	v := vaulttest.Start(t)
	made := v.Admin(t, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"twinward"}, "ttl": "2s", "renewable": true})
	address, count := counted(t, v)
	s, err := New(address, Token(secret(made["client_token"].(string))), &Options{Folder: folder()})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)
	until(t, "two renewals", func() bool { return count("/v1/auth/token/renew-self") >= 2 })
	_, err = s.List(t.Context(), "")
	require.NoError(t, err)
	v.Admin(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": made["client_token"]})
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrDenied)
}

// A token that may do too little is denied, with no storm of logins.
func TestPolicyThatDenies(t *testing.T) {
	v := vaulttest.Start(t)
	address, count := counted(t, v)
	s, err := New(address, AppRole(v.RoleID, secret(v.SecretID)), &Options{Mount: "elsewhere"})
	require.NoError(t, err)
	defer s.Close()
	for range 5 {
		_, err = s.List(t.Context(), "")
		require.ErrorIs(t, err, ErrDenied)
	}
	require.EqualValues(t, 1, count("/v1/auth/approle/login"))
}

func TestWrongSecretID(t *testing.T) {
	v := vaulttest.Start(t)
	s, err := New(v.Address, AppRole(v.RoleID, secret("00000000-not-the-secret-id")), nil)
	require.NoError(t, err)
	defer s.Close()
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrDenied)
	require.NotContains(t, err.Error(), "not-the-secret-id")
}

// The service account's token is read anew for each login: Kubernetes replaces
// it every hour.
func TestKubernetes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	var sent []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/auth/cluster-a/login" {
			var in struct{ Role, JWT string }
			body, _ := io.ReadAll(r.Body)
			if json.Unmarshal(body, &in) != nil || in.Role != `the "role"` {
				w.WriteHeader(400)
				return
			}
			sent = append(sent, in.JWT)
			_, _ = io.WriteString(w, `{"auth":{"client_token":"hvs.k8s","lease_duration":3600}}`)
			return
		}
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"errors":[]}`)
	}))
	defer server.Close()
	s, err := New(server.URL, Kubernetes(`the "role"`, file).At("cluster-a"), nil)
	require.NoError(t, err)
	defer s.Close()
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, jwt := range []string{"header.first.signature", "header.second.signature"} {
		require.NoError(t, os.WriteFile(file, []byte(jwt+"\n"), 0o600))
		h, err := s.session.token(t.Context())
		require.NoError(t, err)
		s.session.drop(h)
	}
	require.Equal(t, []string{"header.first.signature", "header.second.signature"}, sent)
	require.NoError(t, os.WriteFile(file, make([]byte, credential.MaxLength+1), 0o600))
	_, err = s.List(t.Context(), "")
	require.ErrorContains(t, err, "too long")
}

// Who can do nothing for a token does not wake up for it, ten times in a second.
func TestNothingIsDueForATokenThatJustEnds(t *testing.T) {
	for _, c := range []struct {
		login     Login
		renewable bool
		due       bool
	}{
		{Token(credential.NewSecret([]byte("a token"))), false, false},
		{Token(credential.NewSecret([]byte("a token"))), true, true},
		{AppRole("role", credential.NewSecret([]byte("a secret id"))), false, true},
	} {
		s := &session{login: c.login, opts: Options{Clock: time.Now}, held: &held{grant: grant{seconds: 60, renewable: c.renewable}, got: time.Now()}}
		require.Equal(t, c.due, s.next(0) != nil)
	}
}
