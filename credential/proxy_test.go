package credential_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// A proxied is an API that knows its token, the proxy before it, and what both
// have seen.
type proxied struct {
	t      *testing.T
	api    *httptest.Server
	door   *httptest.Server
	proxy  *credential.ProxyHandler
	vault  *credential.Broker
	secret string
	log    *journal

	mu       sync.Mutex
	use      credential.Use // what authorize returns
	deny     error
	endErr   error
	outcomes []audit.Outcome
	seen     []*http.Request // at the API
	ended    chan struct{}
}

func newProxied(t *testing.T, api http.HandlerFunc) *proxied {
	t.Helper()
	p := &proxied{t: t, secret: credentialtest.Canary(), log: &journal{}, ended: make(chan struct{}, 100)}
	p.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, r.Clone(context.Background()))
		p.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+p.secret {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		api(w, r)
	}))
	t.Cleanup(p.api.Close)
	p.vault = credentialtest.NewVault(t, p.api, map[string]string{"api": p.secret})
	p.serve(p.vault)
	return p
}

// serve puts a proxy with this vault before the API.
func (p *proxied) serve(vault credential.Vault) {
	p.use = credential.Use{
		Lease: credential.LeaseRequest{Credential: "api", Purpose: "http", Decision: "d1"},
		Event: audit.Event{Door: "compute", Action: "connect", Resource: `Host::"api"`}, Log: p.log,
		End: func(ctx context.Context, out audit.Outcome) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.outcomes = append(p.outcomes, out)
			p.ended <- struct{}{}
			return p.endErr
		},
	}
	p.proxy = credential.Proxy(p.api.URL, vault, func(r *http.Request) (credential.Use, error) { return p.use, p.deny })
	p.door = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.proxy.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), actor)))
	}))
	p.t.Cleanup(p.door.Close)
}

func (p *proxied) do(method, path string, edit func(*http.Request)) (*http.Response, string, error) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.door.URL+path, nil)
	require.NoError(p.t, err)
	if edit != nil {
		edit(req)
	}
	client := *p.door.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	credentialtest.AssertNoLeak(p.t, p.vault.Scrubber(), b, fmt.Appendf(nil, "%+v %+v", resp.Header, resp.Trailer))
	return resp, string(b), err
}

// outcome returns the one outcome so far.
func (p *proxied) outcome() audit.Outcome {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		require.FailNow(p.t, "no outcome")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(p.t, p.outcomes, 1)
	return p.outcomes[0]
}

func TestProxyPassesRequestsOn(t *testing.T) {
	p := newProxied(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Api", "yes")
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("Alt-Svc", `h3=":443"`)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), b)
	})
	resp, body, err := p.do(http.MethodPost, "/repos/a%2Fb/x?q=1&q=2", func(r *http.Request) {
		r.Body = io.NopCloser(strings.NewReader("hello"))
		r.ContentLength = 5
		for _, h := range []string{"Authorization", "Proxy-Authorization", "Cookie", "X-HTTP-Method-Override", "X_Http_Method_Override", "X-Original-Uri", "Range", "X-Forwarded-For", "X-Secret-Hop"} {
			r.Header.Set(h, "the agent's")
		}
		r.Header.Set("Connection", "X-Secret-Hop")
		r.Header.Set("Accept", "application/json")
	})
	require.NoError(t, err)
	assert.Equal(t, http.StatusCreated, resp.StatusCode)
	assert.Equal(t, "POST /repos/a%2Fb/x?q=1&q=2 hello", body)
	assert.Equal(t, "yes", resp.Header.Get("X-Api"))
	assert.Empty(t, resp.Header.Values("Set-Cookie"))
	assert.Empty(t, resp.Header.Values("Alt-Svc"))
	require.Len(t, p.seen, 1)
	assert.Equal(t, "application/json", p.seen[0].Header.Get("Accept"))
	for name, values := range p.seen[0].Header {
		assert.NotContains(t, values, "the agent's", name)
	}
	out := p.outcome()
	assert.Equal(t, audit.Outcome{Status: audit.StatusOK, Bytes: int64(len(body)), CredentialVersion: 1}, out)
	assert.Empty(t, p.log.events)
}

func TestProxyRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		method, path string
		edit         func(*proxied)
		header       string
		status       int
		code         string
		recorded     string // how the outcome of what authorize allowed is called; empty: there is none
	}{
		"denied":    {"GET", "/", func(p *proxied) { p.deny = errors.New("no-permit") }, "", 403, "denied", ""},
		"no record": {"GET", "/", func(p *proxied) { p.use.End = nil }, "", 503, "no_audit", ""},
		"no room": {"GET", "/", func(p *proxied) {
			p.deny = fmt.Errorf("no-permit is not why: %w: %w", credential.ErrNoAudit, audit.ErrFull)
		}, "", 503, "no_audit", ""},
		"trace":         {"TRACE", "/", nil, "", 405, "method", audit.GuardHTTPMethod},
		"upgrade":       {"GET", "/", nil, "websocket", 405, "method", audit.GuardUpgrade},
		"dots":          {"GET", "/repos/../admin", nil, "", 400, "path", audit.GuardAmbiguousPath},
		"encoded dots":  {"GET", "/repos/%2e%2e/admin", nil, "", 400, "path", audit.GuardAmbiguousPath},
		"encoded slash": {"GET", "/repos%2f..%2fadmin", nil, "", 400, "path", audit.GuardAmbiguousPath},
		"backslash":     {"GET", "/repos/..%5Cadmin", nil, "", 400, "path", audit.GuardAmbiguousPath},
		"backslash, and no disk": {"GET", "/repos/..%5Cadmin", func(p *proxied) { p.endErr = audit.ErrFull }, "", 503, "no_audit",
			audit.GuardAmbiguousPath},
		"backslash, and denied": {"GET", "/repos/..%5Cadmin", func(p *proxied) { p.deny = errors.New("no-permit") }, "", 403, "denied", ""},
		"unknown secret":        {"GET", "/", func(p *proxied) { p.use.Lease.Credential = "other" }, "", 502, "credential", audit.GuardCredential},
		"origin": {"GET", "/", func(p *proxied) {
			p.proxy = credential.Proxy("http://api.example", p.vault, func(*http.Request) (credential.Use, error) { return p.use, nil })
		}, "", 500, "not-set-up", ""},
		"no authorize": {"GET", "/", func(p *proxied) { p.proxy = credential.Proxy(p.api.URL, p.vault, nil) }, "", 500, "not-set-up", ""},
		"no vault": {"GET", "/", func(p *proxied) {
			p.proxy = credential.Proxy(p.api.URL, nil, func(*http.Request) (credential.Use, error) { return p.use, nil })
		}, "", 500, "not-set-up", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, func(w http.ResponseWriter, r *http.Request) { t.Error("reached") })
			if tc.edit != nil {
				tc.edit(p)
			}
			resp, body, err := p.do(tc.method, tc.path, func(r *http.Request) {
				if tc.header != "" {
					r.Header.Set("Upgrade", tc.header)
					r.Header.Set("Connection", "Upgrade")
				}
			})
			require.NoError(t, err)
			assert.Equal(t, tc.status, resp.StatusCode)
			assert.Contains(t, body, `"code":"`+tc.code+`"`)
			assert.Empty(t, p.seen)
			assert.NotContains(t, body, "no-permit", "why is for the operator")
			if tc.recorded == "" {
				assert.Empty(t, p.outcomes)
				return
			}
			assert.Equal(t, audit.Outcome{Status: audit.StatusFailed, ErrorCode: tc.recorded}, p.outcome())
		})
	}
}

func TestProxyAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		status   int
		header   map[string]string
		want     int
		code     string
		location string
	}{
		"redirect within":    {302, map[string]string{"Location": "ORIGIN/new?a=b#c"}, 302, "", "/new?a=b#c"},
		"relative redirect":  {307, map[string]string{"Location": "../x"}, 307, "", "/x"},
		"redirect to root":   {302, map[string]string{"Location": "ORIGIN"}, 302, "", "/"},
		"path like a host":   {302, map[string]string{"Location": "ORIGIN//evil.example/x"}, 502, "upstream-redirect", ""},
		"redirect elsewhere": {302, map[string]string{"Location": "https://evil.example/"}, 502, "upstream-redirect", ""},
		"redirect to a port": {302, map[string]string{"Location": "http://127.0.0.1:1/"}, 502, "upstream-redirect", ""},
		"no scheme":          {302, map[string]string{"Location": "//evil.example/"}, 502, "upstream-redirect", ""},
		"a script":           {302, map[string]string{"Location": "javascript:alert(1)"}, 502, "upstream-redirect", ""},
		"unauthorized":       {401, map[string]string{"WWW-Authenticate": "Basic realm=x"}, 502, "upstream-unauthorized", ""},
		"coded":              {200, map[string]string{"Content-Encoding": "br"}, 502, "upstream-encoding", ""},
		"not found":          {404, nil, 404, "", ""},
		"not modified":       {304, map[string]string{"Etag": "x"}, 304, "", ""},
		"no content":         {204, nil, 204, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var p *proxied
			p = newProxied(t, func(w http.ResponseWriter, r *http.Request) {
				for k, v := range tc.header {
					w.Header().Set(k, strings.ReplaceAll(v, "ORIGIN", p.api.URL))
				}
				w.WriteHeader(tc.status)
			})
			resp, body, err := p.do(http.MethodGet, "/a/b", nil)
			require.NoError(t, err)
			assert.Equal(t, tc.want, resp.StatusCode)
			assert.Equal(t, tc.location, resp.Header.Get("Location"))
			assert.Empty(t, resp.Header.Get("WWW-Authenticate"))
			out := p.outcome()
			if tc.code != "" {
				assert.Contains(t, body, `"code":"`+tc.code+`"`)
				assert.Equal(t, tc.code, out.ErrorCode)
				assert.Equal(t, audit.StatusFailed, out.Status)
			}
			assert.Len(t, p.seen, 1, "redirects are not followed")
		})
	}
}

// An answer with a status that no server may send is none.
func TestProxyOddStatus(t *testing.T) {
	p := newProxied(t, nil)
	p.proxy.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 7, Status: "007 odd", Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})
	resp, body, err := p.do(http.MethodGet, "/", nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
	assert.Contains(t, body, "upstream-broken")
	assert.Equal(t, audit.StatusFailed, p.outcome().Status)
}

// Every part of an answer, whole and streamed, that could hold the secret.
func TestProxySearchesAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		answer  func(w http.ResponseWriter, secret string)
		surface string
	}{
		"body": {func(w http.ResponseWriter, s string) { io.WriteString(w, "it is "+s) }, "body"},
		"error": {func(w http.ResponseWriter, s string) {
			http.Error(w, base64.StdEncoding.EncodeToString([]byte(s)), 500)
		}, "body"},
		"header": {func(w http.ResponseWriter, s string) { w.Header().Set("X-Echo", s) }, "headers"},
		"stream": {func(w http.ResponseWriter, s string) {
			for i := range s {
				io.WriteString(w, s[i:i+1])
				_ = http.NewResponseController(w).Flush()
			}
		}, "body"},
		"long": {func(w http.ResponseWriter, s string) {
			io.WriteString(w, strings.Repeat("x", 1<<20)+s+strings.Repeat("y", 1<<20))
		}, "body"},
		"gzip": {func(w http.ResponseWriter, s string) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			io.WriteString(z, "it is "+s)
			z.Close()
		}, "body"},
		"trailer": {func(w http.ResponseWriter, s string) {
			w.Header().Set("Trailer", "X-End")
			io.WriteString(w, strings.Repeat("x", 300<<10))
			w.Header().Set("X-End", s)
		}, "headers"},
	} {
		for _, block := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, block %v", name, block), func(t *testing.T) {
				var p *proxied
				p = newProxied(t, func(w http.ResponseWriter, r *http.Request) { tc.answer(w, p.secret) })
				p.proxy.Leaks.Block = block
				resp, body, err := p.do(http.MethodGet, "/", nil)
				if !block {
					require.NoError(t, err)
					assert.Contains(t, body+fmt.Sprint(resp.Header, resp.Trailer), "[redacted:api]")
				} else if err == nil {
					assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
					assert.Contains(t, body, "withheld")
				}
				out := p.outcome()
				assert.Equal(t, []string{"scrubbed:api:1"}, out.Checks)
				require.Len(t, p.log.events, 1)
				ev := p.log.events[0]
				assert.Equal(t, audit.KindLeak, ev.Kind)
				assert.Equal(t, actor, ev.Actor)
				assert.Equal(t, `Host::"api"`, ev.Resource)
				assert.Equal(t, tc.surface, ev.Detail["surface"])
				if block {
					assert.Equal(t, "withheld", out.ErrorCode)
					assert.NotContains(t, body, "y")
				}
			})
		}
	}
}

// An answer whose outcome cannot be recorded does not go out, or not whole.
func TestProxyWithoutOutcome(t *testing.T) {
	for name, size := range map[string]int{"whole": 10, "stream": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size)) })
			p.endErr = errors.New("disk full")
			resp, body, err := p.do(http.MethodGet, "/", nil)
			if name == "whole" {
				require.NoError(t, err)
				assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
				assert.Contains(t, body, "no_audit")
			} else {
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
		})
	}
}

// What is written is there at once, over HTTP/1.1 and HTTP/2.
func TestProxyStreams(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			next := make(chan string)
			secret := credentialtest.Canary()
			api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, proto, r.Proto)
				assert.Equal(t, "Bearer "+secret, r.Header.Get("Authorization"))
				w.Header().Set("Content-Type", "text/event-stream")
				for s := range next {
					io.WriteString(w, s)
					_ = http.NewResponseController(w).Flush()
				}
			}))
			api.EnableHTTP2 = proto == "HTTP/2.0"
			api.StartTLS()
			defer api.Close()
			p := newProxied(t, nil)
			p.api = api
			p.secret = secret
			p.vault = credentialtest.NewVault(t, api, map[string]string{"api": secret})
			p.serve(p.vault)
			p.proxy.Transport = api.Client().Transport
			door := httptest.NewUnstartedServer(p.door.Config.Handler)
			door.EnableHTTP2 = api.EnableHTTP2
			door.StartTLS()
			defer door.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, door.URL, nil)
			require.NoError(t, err)
			go func() { next <- "data: 1\n\n" }()
			resp, err := door.Client().Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			assert.Equal(t, proto, resp.Proto)
			buf := make([]byte, 100)
			for i, want := range []string{"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"} {
				if i > 0 {
					next <- want
				}
				n, err := io.ReadFull(resp.Body, buf[:len(want)])
				require.NoError(t, err)
				assert.Equal(t, want, string(buf[:n]))
			}
			close(next)
			_, err = resp.Body.Read(buf)
			require.Equal(t, io.EOF, err)
			assert.EqualValues(t, 27, p.outcome().Bytes)
		})
	}
}

// A revoked agent's request ends, and the origin hears of it.
func TestProxyEndsWithItsContext(t *testing.T) {
	left := make(chan struct{})
	p := newProxied(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	})
	ctx, revoke := context.WithCancel(t.Context())
	p.use.Context = ctx
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.door.URL, nil)
	require.NoError(t, err)
	resp, err := p.door.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	revoke()
	_, err = io.ReadAll(resp.Body)
	require.Error(t, err)
	<-left
	assert.Equal(t, audit.StatusCancelled, p.outcome().Status)
}

// The secret is tried again with its other version while it is rotated, for a
// request whose body is small enough to be kept.
func TestProxyDuringRotation(t *testing.T) {
	p := newProxied(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	_, err := p.vault.Rotate(t.Context(), "api", credential.NewSecret([]byte("a-new-secret-that-is-not-known-yet")), by)
	require.NoError(t, err)
	resp, body, err := p.do(http.MethodPost, "/", func(r *http.Request) {
		r.Body = io.NopCloser(strings.NewReader("hello"))
		r.ContentLength = 5
	})
	require.NoError(t, err)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "hello", body)
	assert.Len(t, p.seen, 2)
}

// A panic on the way is an outcome, too, and what it says goes nowhere.
func TestProxyPanics(t *testing.T) {
	p := newProxied(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Authorization")) })
	var said bytes.Buffer
	p.proxy.Logger = slog.New(slog.NewTextHandler(&said, nil))
	p.proxy.Transport = roundTripper(func(r *http.Request) (*http.Response, error) { panic(r.Header.Get("Authorization")) })
	_, err := p.door.Client().Get(p.door.URL + "/")
	require.Error(t, err)
	out := p.outcome()
	assert.Equal(t, audit.StatusFailed, out.Status)
	assert.Equal(t, audit.GuardPanic, out.ErrorCode)
	p.door.Close() // waits for what is still being said
	credentialtest.AssertNoLeak(t, p.vault.Scrubber(), said.Bytes())

	p = newProxied(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Authorization")) })
	p.proxy.Leaks.Act = func(context.Context, credential.Leak) error { panic(p.secret) }
	resp, body, err := p.do("GET", "/", nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
	assert.Contains(t, body, "withheld")
	assert.Equal(t, "withheld", p.outcome().ErrorCode)
}
