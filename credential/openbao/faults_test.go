package openbao

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/internal/vaulttest"
)

const (
	canaryToken = "hvs.canary-token-0123456789"
	canaryBody  = "canary-in-a-body-0123456789"
)

// faulty opens a store at a server that answers everything with h.
func faulty(t *testing.T, h http.HandlerFunc, opts Options) *Store {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return at(t, server.URL, opts)
}

func at(t *testing.T, address string, opts Options) *Store {
	t.Helper()
	s, err := New(address, AppRole("role", secret("canary-secret-id-0123456789")), &opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// loggedIn answers logins and leaves the rest to h.
func loggedIn(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/auth/approle/login":
			_, _ = fmt.Fprintf(w, `{"auth":{"client_token":%q,"lease_duration":3600,"renewable":true}}`, canaryToken)
		case "/v1/auth/token/lookup-self":
			_, _ = io.WriteString(w, `{"data":{"ttl":3600}}`)
		default:
			h(w, r)
		}
	}
}

func TestErrorsSayWhatToDoAndNothingElse(t *testing.T) {
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	body := `{"errors":["` + canaryBody + `"]}`
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the redirect was followed, with the token %q", r.Header.Get("X-Vault-Token"))
	}))
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		want      error
		retryable bool
	}{
		"sealed":         {status(503, `{"errors":["Vault is sealed"]}`), ErrSealed, true},
		"a busy server":  {status(503, body), ErrUnavailable, true},
		"a rate limit":   {status(429, body), ErrUnavailable, true},
		"a broken one":   {status(500, body), ErrUnavailable, true},
		"a bad gateway":  {status(502, "<html>"+canaryBody), ErrUnavailable, true},
		"no permission":  {status(403, body), ErrDenied, false},
		"no engine":      {status(404, body), ErrDenied, false},
		"a page":         {status(200, "<html>"+canaryBody), ErrAnswer, false},
		"a teapot":       {status(418, canaryBody), ErrAnswer, false},
		"nothing":        {status(200, ""), ErrAnswer, false},
		"no data":        {status(200, `{}`), ErrAnswer, false},
		"twice":          {status(200, `{"data":{"current_version":1,"current_version":2}}`), ErrAnswer, false},
		"twice, told":    {status(200, `{"data":{"`+canaryBody+`":1,"`+canaryBody+`":2}}`), ErrAnswer, false},
		"more behind":    {status(200, `{"data":{}} {"x":"`+canaryBody+`"}`), ErrAnswer, false},
		"no UTF-8":       {status(200, "{\"data\":{\"x\":\"\xff\"}}"), ErrAnswer, false},
		"a wrong type":   {status(200, `{"data":{"current_version":"`+canaryBody+`"}}`), ErrAnswer, false},
		"a wrong time":   {status(200, `{"data":{"current_version":1,"versions":{"1":{"created_time":"`+canaryBody+`"}}}}`), ErrAnswer, false},
		"a wrong number": {status(200, `{"data":{"current_version":1,"versions":{"01":{"created_time":"2026-01-02T03:04:05Z"}}}}`), ErrAnswer, false},
		"deep":           {status(200, strings.Repeat("[", 100_000)), ErrAnswer, false},
		"100 MB": {func(w http.ResponseWriter, _ *http.Request) {
			page := []byte(strings.Repeat(canaryBody, 4096))
			for range 100 << 20 / len(page) {
				if _, err := w.Write(page); err != nil {
					return
				}
			}
			t.Error("all of it was read")
		}, ErrAnswer, false},
		"a redirect to another origin": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/"+canaryBody, http.StatusTemporaryRedirect)
		}, ErrAnswer, false},
		"a redirect in circles": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, ErrAnswer, false},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if assert.NoError(t, err) {
				_, _ = io.WriteString(conn, canaryBody+"\r\n\r\n")
				_ = conn.Close()
			}
		}, ErrUnavailable, true},
		"a cut": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"data":`)
		}, ErrUnavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := faulty(t, loggedIn(c.answer), Options{})
			_, _, err := s.Get(t.Context(), credential.Ref{Name: "github"})
			require.ErrorIs(t, err, c.want)
			_, listErr := s.List(t.Context(), "")
			require.ErrorIs(t, listErr, c.want)
			_, putErr := s.Put(t.Context(), "github", secret("canary-value-0123456789"), 0, "")
			require.ErrorIs(t, putErr, c.want)
			for _, err := range []error{err, listErr, putErr} {
				require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), "canary")
				var e *Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, c.retryable, e.Retryable())
				require.NotErrorIs(t, err, credential.ErrUnknown)
			}
		})
	}
}

// A server whose folders have folders, without end.
func TestEndlessFolders(t *testing.T) {
	var asked atomic.Int64
	s := faulty(t, loggedIn(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, `{"data":{"keys":["a/","b/","c/","d/","e/","f/","g/","h/"]}}`)
	}), Options{})
	_, err := s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrAnswer)
	require.LessOrEqual(t, asked.Load(), int64(maxNames/8+1))
}

// Between the reading of the states and of the value, the entry is made anew:
// the value is that of another version 1.
func TestEntryMadeAnewMeanwhile(t *testing.T) {
	s := faulty(t, loggedIn(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/metadata/"):
			_, _ = io.WriteString(w, `{"data":{"current_version":1,"versions":{"1":{"created_time":"2026-01-02T03:04:05Z"}}}}`)
		case strings.Contains(r.URL.Path, "-states/"):
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"errors":[]}`)
		default:
			_, _ = io.WriteString(w, `{"data":{"data":{"value":"another one"},"metadata":{"version":1,"created_time":"2026-02-03T04:05:06Z"}}}`)
		}
	}), Options{})
	_, _, err := s.Get(t.Context(), credential.Ref{Name: "github"})
	require.ErrorIs(t, err, credential.ErrConflict)
}

func TestServerThatIsDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := "http://" + l.Addr().String()
	require.NoError(t, l.Close())
	s := at(t, address, Options{})
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrUnavailable)
	require.Contains(t, err.Error(), "connection refused")
}

// A server that hangs holds nobody longer than they wait, and is asked once.
func TestManyWaitForOneLogin(t *testing.T) {
	var logins atomic.Int64
	release := make(chan struct{})
	s := faulty(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/auth/approle/login" {
			logins.Add(1)
			<-release
		}
		loggedIn(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"errors":[]}`)
		})(w, r)
	}, Options{})
	var impatient, patient sync.WaitGroup
	for range 100 {
		impatient.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := s.List(ctx, "")
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
		patient.Go(func() {
			_, err := s.List(t.Context(), "")
			assert.NoError(t, err)
		})
	}
	impatient.Wait() // while the login hangs
	close(release)
	patient.Wait()
	require.EqualValues(t, 1, logins.Load())
}

func TestSlowServer(t *testing.T) {
	hang := make(chan struct{})
	s := faulty(t, loggedIn(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":`)
		w.(http.Flusher).Flush()
		<-hang
	}), Options{Timeout: 20 * time.Millisecond})
	defer close(hang)
	_, err := s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.List(ctx, "")
	require.ErrorIs(t, err, context.Canceled)
}

// Whoever tries a wrong secret id is not locked out by our trying again.
func TestDeniedLoginIsNotRepeatedAtOnce(t *testing.T) {
	var logins atomic.Int64
	var now atomic.Int64
	s := faulty(t, func(w http.ResponseWriter, _ *http.Request) {
		logins.Add(1)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"errors":["invalid role or secret ID"]}`)
	}, Options{Clock: func() time.Time { return time.Unix(now.Load(), 0) }})
	for range 10 {
		_, err := s.List(t.Context(), "")
		require.ErrorIs(t, err, ErrDenied)
	}
	require.EqualValues(t, 1, logins.Load())
	now.Add(2)
	_, err := s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrDenied)
	require.EqualValues(t, 2, logins.Load())
}

func TestClosed(t *testing.T) {
	s := faulty(t, loggedIn(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"errors":[]}`)
	}), Options{})
	_, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrClosed)
}

func TestHeaders(t *testing.T) {
	var got http.Header
	s := faulty(t, loggedIn(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"errors":[]}`)
	}), Options{Namespace: "team/one"})
	_, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, "team/one", got.Get("X-Vault-Namespace"))
	require.Equal(t, "true", got.Get("X-Vault-Request"))
	require.Equal(t, canaryToken, got.Get("X-Vault-Token"))
	require.Equal(t, "identity", got.Get("Accept-Encoding"))
}

func TestAddressesThatNoSecretGoesTo(t *testing.T) {
	for _, address := range []string{"", "http://vault.example:8200", "https://user:pw@vault.example", "ftp://vault.example"} {
		_, err := New(address, Token(secret("hvs.token")), nil)
		require.ErrorIs(t, err, credential.ErrOrigin)
	}
	for _, o := range []Options{{Mount: "a//b"}, {Folder: "../x"}, {Mount: "a?b"}, {Namespace: "a\nb"}, {Timeout: -1}} {
		_, err := New("https://vault.example", Token(secret("hvs.token")), &o)
		require.Error(t, err)
	}
	for _, l := range []Login{{}, Token(credential.Secret{}), Token(secret("with a line's end\n")), AppRole("r", secret("s")).At("../x")} {
		_, err := New("https://vault.example", l, nil)
		require.Error(t, err)
	}
}

// A proxy that fails every other request before a real server: each call either
// succeeds or says that it can be repeated, and with repetition all is done
// exactly once.
func TestFlapping(t *testing.T) {
	v := vaulttest.Start(t)
	target, err := url.Parse(v.Address)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 4 {
		case 1: // before the server sees it
			panic(http.ErrAbortHandler)
		case 3: // after the server has done it
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	s, err := New(server.URL, AppRole(v.RoleID, secret(v.SecretID)), &Options{Folder: folder()})
	require.NoError(t, err)
	defer s.Close()
	again := func(what func() error, done ...error) {
		t.Helper()
		for range 100 {
			err := what()
			if err == nil {
				return
			}
			for _, d := range done {
				if errors.Is(err, d) {
					return // an earlier attempt was, in spite of its error
				}
			}
			require.ErrorIs(t, err, ErrUnavailable)
		}
		t.Fatal("never")
	}
	const puts = 5
	for i := range uint64(puts) {
		again(func() error {
			_, err := s.Put(t.Context(), "flapping", secret(fmt.Sprintf("value number %d", i+1)), i, "")
			return err
		}, credential.ErrConflict)
		again(func() error {
			return s.SetState(t.Context(), credential.Ref{Name: "flapping", Version: i + 1}, credential.StatePending, credential.StateCurrent)
		}, credential.ErrConflict)
	}
	calm := open(t, v, Options{Folder: s.opts.Folder})
	list, err := calm.List(t.Context(), "flapping")
	require.NoError(t, err)
	require.Len(t, list, puts)
	_, value, err := calm.Get(t.Context(), credential.Ref{Name: "flapping"})
	require.NoError(t, err)
	require.Equal(t, "value number 5", reveal(t, value))
}

func TestSealedServer(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{})
	_, err := s.List(t.Context(), "")
	require.NoError(t, err)
	v.Seal(t)
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrSealed)
	require.ErrorIs(t, err, ErrUnavailable)
	v.Unseal(t)
	require.Eventually(t, func() bool {
		_, err = s.List(t.Context(), "")
		return err == nil
	}, time.Minute, 50*time.Millisecond, "%v", err)
}
