package credential_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

var (
	actor = audit.Actor{Agent: "standup", Issuer: "session"}
	by    = audit.Change{By: "alice", Reason: "TICKET-1"}
)

// leaseFor returns a lease of a secret that is bound to server with scheme.
func leaseFor(t *testing.T, server *httptest.Server, secret string, scheme credential.Scheme) *credential.Lease {
	t.Helper()
	l, err := credential.NewLease(
		credential.LeaseRequest{Actor: actor, Credential: "github", Origin: server.URL},
		credential.Ref{Name: "github", Version: 3}, credential.NewSecret([]byte(secret)),
		credential.Binding{Origin: server.URL, Scheme: scheme}, nil)
	require.NoError(t, err)
	return l
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func TestLeaseChecks(t *testing.T) {
	good := credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"}
	secret := credential.NewSecret([]byte("some secret bytes"))
	bound := credential.Binding{Origin: "https://A.example:443"}
	ref := credential.Ref{Name: "k", Version: 1}

	l, err := credential.NewLease(good, ref, secret, bound, nil)
	require.NoError(t, err)
	assert.Equal(t, ref, l.Ref())
	assert.Equal(t, "k@1", l.Ref().String())
	assert.Equal(t, map[string]int{"k": 1}, l.Scrubber().Count([]byte("some secret bytes")))

	nobody, elsewhere, nowhere := good, good, good
	nobody.Actor = audit.Actor{}
	elsewhere.Origin = "https://b.example"
	nowhere.Origin = ""
	destroyed := credential.NewSecret([]byte("some secret bytes"))
	destroyed.Destroy()
	for _, c := range []struct {
		r    credential.LeaseRequest
		s    credential.Secret
		b    credential.Binding
		want error
	}{
		{nobody, secret, bound, audit.ErrNoActor},
		{good, secret, credential.Binding{}, credential.ErrUnbound},
		{elsewhere, secret, bound, credential.ErrOrigin},
		{nowhere, secret, bound, credential.ErrOrigin},
		{good, secret, credential.Binding{Origin: "http://a.example"}, credential.ErrOrigin},
		{good, secret, credential.Binding{Origin: "https://a.example/path"}, credential.ErrOrigin},
		{good, credential.NewSecret([]byte("short")), bound, credential.ErrLength},
		{good, destroyed, bound, credential.ErrDestroyed},
	} {
		l, err := credential.NewLease(c.r, ref, c.s, c.b, nil)
		assert.ErrorIs(t, err, c.want)
		assert.Nil(t, l)
	}
	_, err = credential.NewLease(elsewhere, ref, secret, bound, nil)
	var origin *credential.OriginError
	require.ErrorAs(t, err, &origin)
	assert.Equal(t, credential.OriginError{Credential: "k", Bound: "https://a.example", Got: "https://b.example"}, *origin)
}

func TestSchemes(t *testing.T) {
	const secret = "some-secret-bytes"
	for _, c := range []struct {
		scheme       credential.Scheme
		header, want string
	}{
		{nil, "Authorization", "Bearer " + secret},
		{credential.Bearer(), "Authorization", "Bearer " + secret},
		{credential.Header("x-api-key", ""), "X-Api-Key", secret},
		{credential.Header("Authorization", "token "), "Authorization", "token " + secret},
		{credential.Basic("git"), "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("git:"+secret))},
	} {
		var got http.Header
		server := serve(t, func(w http.ResponseWriter, r *http.Request) { got = r.Header })
		client := http.Client{Transport: leaseFor(t, server, secret, c.scheme).Transport(nil)}
		resp, err := client.Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, []string{c.want}, got.Values(c.header))
	}
}

func TestSchemesRefuse(t *testing.T) {
	var calls atomic.Int32
	server := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	for _, c := range []struct {
		secret string
		scheme credential.Scheme
	}{
		{"secret\r\nX-Injected: 1", credential.Bearer()},
		{"secret\x00bytes", credential.Header("X-Api-Key", "")},
		{"some-secret-bytes", credential.Header("bad name", "")},
		{"some-secret-bytes", credential.Header("", "")},
		{"some-secret-bytes", credential.Header("X-Api-Key", "a\nb")},
		{"some-secret-bytes", credential.Basic("a:b")},
	} {
		lease := leaseFor(t, server, c.secret, c.scheme)
		client := http.Client{Transport: lease.Transport(nil)}
		_, err := client.Get(server.URL)
		assert.ErrorIs(t, err, credential.ErrScheme)
		assert.Zero(t, lease.Uses(), "nothing carried it")
	}
	assert.Zero(t, calls.Load())
}

// The request that the caller holds never carries the secret, and the one that
// is sent carries no other.
func TestTransportWorksOnACopy(t *testing.T) {
	canary := credentialtest.Canary()
	var got *http.Request
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		_, _ = io.Copy(w, r.Body)
	})
	lease := leaseFor(t, server, canary, credential.Header("X-Api-Key", ""))
	req, err := http.NewRequest("POST", server.URL+"/path?query=1", strings.NewReader("body"))
	require.NoError(t, err)
	req.Host = "other.example"
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key"} {
		req.Header.Set(name, "from the agent")
	}
	req.Header["x-api-key"] = []string{"from the agent, who has not spelled it as others do"}
	req.Header.Set("X-Other", "kept")
	resp, err := lease.Transport(nil).RoundTrip(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, "body", string(body))
	assert.Equal(t, "from the agent", req.Header.Get("X-Api-Key"))
	assert.Equal(t, []string{canary}, got.Header.Values("X-Api-Key"))
	assert.Empty(t, got.Header["Authorization"])
	assert.Empty(t, got.Header["Proxy-Authorization"])
	assert.Empty(t, got.Header["Cookie"])
	assert.Equal(t, "kept", got.Header.Get("X-Other"))
	assert.Equal(t, strings.TrimPrefix(server.URL, "http://"), got.Host)
	assert.Same(t, req, resp.Request, "the copy with the secret stays inside")
	credentialtest.AssertNoLeak(t, lease.Scrubber(), fmt.Appendf(nil, "%+v %+v %+v", req, resp, resp.Request))
	assert.EqualValues(t, 1, lease.Uses())
}

func TestTransportRefusesOtherOrigins(t *testing.T) {
	var calls atomic.Int32
	server := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	other := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	lease := leaseFor(t, server, "some-secret-bytes", schemeFunc(func(*http.Request, []byte) error {
		t.Error("the secret was taken out for another origin")
		return nil
	}))
	rt := lease.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		calls.Add(1)
		return nil, errors.New("sent")
	}))
	port := strings.TrimPrefix(server.URL, "http://127.0.0.1:")
	for _, target := range []string{
		other.URL, "https://127.0.0.1:" + port, "http://127.0.0.2:" + port, "http://localhost:" + port,
		"http://user:pw@127.0.0.1:" + port, "http://127.0.0.1", "http://[::1]:" + port, "https://evil.example",
	} {
		closed := &closer{Reader: strings.NewReader("body")}
		req, err := http.NewRequest("POST", target, closed)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(req)
		assert.ErrorIs(t, err, credential.ErrOrigin, target)
		assert.Nil(t, resp)
		assert.True(t, closed.closed.Load(), "a RoundTripper closes the body also on errors")
	}
	assert.Zero(t, calls.Load(), "nothing was sent")
	assert.Zero(t, lease.Uses())
}

type closer struct {
	io.Reader
	closed atomic.Bool
}

func (c *closer) Close() error { c.closed.Store(true); return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRelease(t *testing.T) {
	var calls atomic.Int32
	server := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	lease := leaseFor(t, server, "some-secret-bytes", nil)
	client := http.Client{Transport: lease.Transport(nil)}
	resp, err := client.Get(server.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.False(t, lease.Released())
	lease.Release()
	lease.Release()
	assert.True(t, lease.Released())
	_, err = client.Get(server.URL)
	assert.ErrorIs(t, err, credential.ErrReleased)
	assert.EqualValues(t, 1, calls.Load())
	assert.EqualValues(t, 1, lease.Uses())
}

// The leak channels that other clients were caught with.

// 1. *url.Error prints the URL in full, with whatever a server put there.
func TestNoLeakThroughURLErrors(t *testing.T) {
	canary := credentialtest.Canary()
	for _, form := range []func(string) string{
		func(s string) string { return s },
		url.QueryEscape,
		func(s string) string { return base64.URLEncoding.EncodeToString([]byte("x" + s)) },
	} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/?api_key="+form(canary), http.StatusFound)
		})
		lease := leaseFor(t, server, canary, nil)
		client := http.Client{Transport: lease.Transport(nil)}
		_, err := client.Get(server.URL)
		require.ErrorIs(t, err, credential.ErrOrigin)
		credentialtest.AssertNoLeak(t, lease.Scrubber(), fmt.Appendf(nil, "%v %+v %#v", err, err, err))
	}
}

// 2. Errors of a transport quote what they choked on.
func TestNoLeakThroughErrors(t *testing.T) {
	canary := credentialtest.Canary()
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	lease := leaseFor(t, server, canary, nil)
	inner := fmt.Errorf("proxy said %q: %w", canary, context.DeadlineExceeded)
	client := http.Client{Transport: lease.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		return nil, inner
	}))}
	_, err := client.Get(server.URL)
	require.ErrorIs(t, err, context.DeadlineExceeded, "what kind of error it is stays known")
	mock := &recordT{}
	assert.NoError(mock, err)
	assert.Equal(mock, nil, errors.Unwrap(err)) // dumps it
	credentialtest.AssertNoLeak(t, lease.Scrubber(),
		fmt.Appendf(nil, "%v %+v %#v", err, err, err), []byte(mock.out.String()))
	var urlErr *url.Error
	require.ErrorAs(t, err, &urlErr)
	assert.True(t, urlErr.Timeout())
	for e := err; e != nil; e = errors.Unwrap(e) {
		credentialtest.AssertNoLeak(t, lease.Scrubber(), []byte(e.Error()))
	}
}

// 3. The request that a response points back to: see TestTransportWorksOnACopy.

// 4. On a redirect to another host net/http forwards X-Api-Key.
func TestNoLeakAcrossRedirects(t *testing.T) {
	canary := credentialtest.Canary()
	var stolen atomic.Pointer[http.Header]
	evil := serve(t, func(w http.ResponseWriter, r *http.Request) { stolen.Store(&r.Header) })
	for _, code := range []int{301, 302, 303, 307, 308} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/moved" {
				fmt.Fprint(w, r.Header.Get("X-Api-Key") == canary)
				return
			}
			target := evil.URL
			if r.URL.Path == "/within" {
				target = "/moved"
			}
			http.Redirect(w, r, target, code)
		})
		lease := leaseFor(t, server, canary, credential.Header("X-Api-Key", ""))
		client := http.Client{Transport: lease.Transport(nil)}
		_, err := client.Post(server.URL+"/away", "text/plain", strings.NewReader("body"))
		var origin *credential.OriginError
		require.ErrorAs(t, err, &origin, "%d", code)
		assert.Equal(t, evil.URL, origin.Got)
		assert.Nil(t, stolen.Load(), "the other host was never called")

		resp, err := client.Get(server.URL + "/within")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, "true", string(body), "within the origin each hop gets the secret anew")
		assert.EqualValues(t, 3, lease.Uses())
		// The client's own headers never had it, so nothing was there to forward.
		credentialtest.AssertNoLeak(t, lease.Scrubber(), fmt.Appendf(nil, "%+v", resp.Request.Response))
	}
}

// What a RoundTripper returns may be shared, so it is not written to.
func TestResponseHeadersAreCopied(t *testing.T) {
	const secret = "Canary-0123456789"
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	lease := leaseFor(t, server, secret, nil)
	shared := http.Header{"X-Echo": {"fine", "<" + secret + ">"}, secret: {"value"}, "X-Plain": {"fine"}}
	rt := lease.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: shared, Body: io.NopCloser(iotest.ErrReader(errors.New("lost " + secret)))}, nil
	}))
	req, err := http.NewRequest("GET", server.URL, nil)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.Header{"X-Echo": {"fine", "<[redacted:github]>"}, "X-Plain": {"fine"}}, resp.Header)
	assert.Equal(t, "<"+secret+">", shared["X-Echo"][1])
	assert.Contains(t, shared, secret)
	_, err = io.ReadAll(resp.Body)
	assert.EqualError(t, err, "lost [redacted:github]")
}

func TestNoLeakThroughResponseHeads(t *testing.T) {
	canary := credentialtest.Canary()
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		encoded := base64.StdEncoding.EncodeToString([]byte("user:" + canary))
		fmt.Fprintf(rw, "HTTP/1.1 401 no such token %[1]s\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n"+
			"WWW-Authenticate: Bearer error_description=\"%[1]s\"\r\nX-Echo: %[2]s\r\nX-Plain: fine\r\nX-%[1]s: name\r\n\r\n"+
			"4\r\nbody\r\n0\r\nX-Late: %[1]s\r\n\r\n", canary, encoded)
		assert.NoError(t, rw.Flush())
	})
	lease := leaseFor(t, server, canary, nil)
	resp, err := (&http.Client{Transport: lease.Transport(nil)}).Get(server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "body", string(body))
	assert.Equal(t, "fine", resp.Header.Get("X-Plain"))
	assert.Equal(t, "[redacted:github]", resp.Trailer.Get("X-Late"))
	assert.Contains(t, resp.Header.Get("Www-Authenticate"), "[redacted:github]")
	credentialtest.AssertNoLeak(t, lease.Scrubber(), fmt.Appendf(nil, "%+v", resp))
}

// A compressed body cannot be searched: gzip, which was asked for, is undone, and
// any other is refused, also when gzip is around it.
func TestContentCoding(t *testing.T) {
	canary := credentialtest.Canary()
	var coding atomic.Value
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		coding.Store(r.Header.Get("Accept-Encoding"))
		w.Header()["Content-Encoding"] = r.URL.Query()["as"]
		if r.URL.Query().Get("as") == "identity" {
			fmt.Fprint(w, canary)
			return
		}
		z := gzip.NewWriter(w)
		_, _ = z.Write([]byte(canary))
		_ = z.Close()
	})
	lease := leaseFor(t, server, canary, nil)
	client := http.Client{Transport: lease.Transport(nil)}
	for _, as := range []string{"gzip", "identity", "x-gzip", "GZIP", "gzip&as=identity", "gzip,%20identity"} {
		req, err := http.NewRequest("GET", server.URL+"?as="+as, nil)
		require.NoError(t, err)
		req.Header.Set("Accept-Encoding", "br, zstd")
		resp, err := client.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(lease.Scrubber().Reader(resp.Body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, "[redacted:github]", string(body))
		assert.Equal(t, "gzip", coding.Load())
	}
	for _, as := range []string{"br", "gzip&as=br", "gzip,%20br", "br&as=gzip", "gzip&as=gzip", "deflate"} {
		_, err := client.Get(server.URL + "?as=" + as)
		assert.ErrorIs(t, err, credential.ErrCoding, as)
	}
	for name, set := range map[string]func(*http.Request){
		"it has no body":        func(r *http.Request) { r.Method = http.MethodHead },
		"a part of gzip":        func(r *http.Request) { r.Header.Set("Range", "bytes=0-9") },
		"the caller wants none": func(r *http.Request) { r.Header.Set("Accept-Encoding", "identity") },
	} {
		req, err := http.NewRequest("GET", server.URL+"?as=identity", nil)
		require.NoError(t, err)
		set(req)
		resp, err := client.Do(req)
		require.NoError(t, err, name)
		resp.Body.Close()
		assert.Equal(t, "identity", coding.Load(), name)
		req.URL.RawQuery = "as=gzip"
		_, err = client.Do(req)
		assert.ErrorIs(t, err, credential.ErrCoding, name)
	}

	// Whoever undoes a coding below may not say which others are left.
	undone := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Uncompressed: true}, nil
	})
	_, err := (&http.Client{Transport: lease.Transport(undone)}).Get(server.URL)
	assert.ErrorIs(t, err, credential.ErrCoding)
}

// A scheme written elsewhere cannot send the request somewhere else.
func TestSchemeCannotRedirect(t *testing.T) {
	var calls atomic.Int32
	server := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	for _, f := range []func(r *http.Request){
		func(r *http.Request) { r.URL.Host = "evil.example" },
		func(r *http.Request) { r.URL = &url.URL{Scheme: "https", Host: "evil.example"} },
		func(r *http.Request) { r.Host = "evil.example" },
		func(r *http.Request) { r.URL.Host = "evil.example"; r.Host = "evil.example" },
		func(r *http.Request) { r.URL.Scheme = "https" },
		func(r *http.Request) { r.URL.User = url.User("x") },
	} {
		lease := leaseFor(t, server, "some-secret-bytes", schemeFunc(func(r *http.Request, b []byte) error { f(r); return nil }))
		_, err := (&http.Client{Transport: lease.Transport(nil)}).Get(server.URL)
		assert.ErrorIs(t, err, credential.ErrOrigin)
	}
	lease := leaseFor(t, server, "some-secret-bytes", schemeFunc(func(r *http.Request, b []byte) error {
		return fmt.Errorf("cannot use %s", b)
	}))
	_, err := (&http.Client{Transport: lease.Transport(nil)}).Get(server.URL)
	require.ErrorContains(t, err, "cannot use [redacted:github]")
	assert.Zero(t, calls.Load())
}

type schemeFunc func(r *http.Request, b []byte) error

func (f schemeFunc) Apply(r *http.Request, b []byte) error { return f(r, b) }

func TestTransportConcurrently(t *testing.T) {
	canary := credentialtest.Canary()
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 1000), r.Header.Get("Authorization"))
	})
	lease := leaseFor(t, server, canary, nil)
	client := http.Client{Transport: lease.Transport(nil)}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			resp, err := client.Get(server.URL)
			if !assert.NoError(t, err) {
				return
			}
			defer resp.Body.Close()
			r := lease.Scrubber().Reader(resp.Body)
			var out bytes.Buffer
			_, err = out.ReadFrom(r)
			assert.NoError(t, err)
			assert.True(t, strings.HasSuffix(out.String(), "xBearer [redacted:github]"))
			assert.Equal(t, map[string]int{"github": 1}, r.Found().Names())
		})
	}
	wg.Wait()
	assert.EqualValues(t, 16, lease.Uses())
}

// The codings of a body are one list, in however many lines they come.
func TestCodingInASecondLine(t *testing.T) {
	for _, first := range []string{"identity", ""} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Encoding"] = []string{first, "br"}
			io.WriteString(w, "what a browser would decode")
		})
		l := leaseFor(t, server, "some secret bytes", nil)
		resp, err := (&http.Client{Transport: l.Transport(nil)}).Get(server.URL)
		if !assert.ErrorIs(t, err, credential.ErrCoding, "%q", first) {
			resp.Body.Close()
		}
	}
}

// Headers in a spelling of their own do not get past the lease.
func TestNoOtherCredentialInAnySpelling(t *testing.T) {
	l, err := credential.NewLease(credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"},
		credential.Ref{Name: "k", Version: 1}, credential.NewSecret([]byte("some secret bytes")),
		credential.Binding{Origin: "https://a.example", Scheme: credential.Header("X-Api-Key", "")}, nil)
	require.NoError(t, err)
	var sent http.Header
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a.example", nil)
	require.NoError(t, err)
	for _, name := range []string{"authorization", "COOKIE", "proxy-Authorization", "accept-encoding"} {
		req.Header[name] = []string{"another"}
	}
	resp, err := l.Transport(base).RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.Header{"X-Api-Key": {"some secret bytes"}, "Accept-Encoding": {"gzip"}}, sent)
}

// Once the call is over, a request that was refused is not sent again.
func TestNoSecondTryAfterTheCall(t *testing.T) {
	for name, end := range map[string]func(*credential.Lease, context.CancelFunc){
		"released":   func(l *credential.Lease, _ context.CancelFunc) { l.Release() },
		"call ended": func(_ *credential.Lease, cancel context.CancelFunc) { cancel() },
	} {
		for _, late := range []bool{false, true} { // while the first is on its way, or while the other secret is had
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var l *credential.Lease
			l, err := credential.NewLease(credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"},
				credential.Ref{Name: "k", Version: 1}, credential.NewSecret([]byte("some secret bytes")),
				credential.Binding{Origin: "https://a.example"}, &credential.LeaseOptions{
					Context: ctx,
					Second: func(context.Context) (*credential.Other, error) {
						end(l, cancel)
						return &credential.Other{Secret: credential.NewSecret([]byte("another secret")), Done: func(int) error { return nil }}, nil
					},
				})
			require.NoError(t, err)
			sent := 0
			base := roundTripper(func(r *http.Request) (*http.Response, error) {
				if sent++; !late {
					end(l, cancel)
				}
				return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody}, nil
			})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a.example", nil)
			require.NoError(t, err)
			resp, err := l.Transport(base).RoundTrip(req)
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, http.StatusUnauthorized, resp.StatusCode)
			assert.Equal(t, 1, sent, "%s, late %v", name, late)
			assert.EqualValues(t, 1, l.Uses())
		}
	}
}
