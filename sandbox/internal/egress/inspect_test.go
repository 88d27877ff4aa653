package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// An origin is a real server that a door reaches as example.com, over TLS on
// ports 443 and 8443 and in the clear on port 80. It notes what reached it.
type origin struct {
	secure, clear *httptest.Server
	mu            sync.Mutex
	lines         []string // request lines, with the protocol
	conns         atomic.Int64
	all           http.HandlerFunc
}

func newOrigin(t testing.TB, h http.HandlerFunc) *origin {
	o := &origin{all: h}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.lines = append(o.lines, r.Proto+" "+r.Method+" "+r.RequestURI)
		o.mu.Unlock()
		o.all(w, r)
	})
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	start := func(secure bool) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Config.Protocols = &p
		s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
			if st == http.StateNew {
				o.conns.Add(1)
			}
		}
		s.EnableHTTP2 = true
		if secure {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		return s
	}
	o.secure, o.clear = start(true), start(false)
	return o
}

// reach makes a door find the origin.
func (o *origin) reach(c *Config) {
	c.Resolver = fakeResolver{"example.com.": ips("93.184.216.34"), "10.example.com.": ips("10.0.0.1"), "other.example.com.": ips("93.184.216.35")}
	c.Roots = x509.NewCertPool()
	c.Roots.AddCert(o.secure.Certificate())
	c.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		s := o.secure
		if to.Port() == 80 {
			s = o.clear
		}
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
}

// reached returns the requests that have come so far.
func (o *origin) reached() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines)
}

// inspected makes the rules for example.com: https on 443 and 8443, http on 80.
func inspected(h *HTTPRules) []Rule {
	s, c := allow("example.com", []uint16{443, 8443}), allow("example.com", []uint16{80})
	s.Protocol, s.HTTP, c.Protocol, c.HTTP = ProtocolHTTPS, h, ProtocolHTTP, h
	return []Rule{s, c}
}

// clientOf is a client of the program inside for one version of HTTP.
func (in *inside) clientOf(protocol string) *http.Client {
	c := in.client()
	var p http.Protocols
	p.SetHTTP1(protocol == "1")
	p.SetHTTP2(protocol == "2")
	p.SetUnencryptedHTTP2(protocol == "2")
	tr := c.Transport.(*http.Transport)
	tr.Protocols, tr.ForceAttemptHTTP2, tr.DisableCompression = &p, false, true
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// eachWay runs f for HTTP/1.1 and HTTP/2, each over TLS and in the clear.
func eachWay(t *testing.T, f func(t *testing.T, protocol, base string)) {
	for _, protocol := range []string{"1", "2"} {
		for _, base := range []string{"https://example.com", "http://example.com"} {
			t.Run(base[:strings.Index(base, ":")]+protocol, func(t *testing.T) { f(t, protocol, base) })
		}
	}
}

func do(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	res, err := c.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(b)
}

// What is allowed arrives as it was sent, what is not does not arrive.
func TestInspect(t *testing.T) {
	eachWay(t, func(t *testing.T, protocol, base string) {
		var got http.Header
		var host string
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			got, host = r.Header.Clone(), r.Host
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Answer", "as it is")
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "got %s", b)
		})
		rules := httpRules(t, "", []HTTPRule{{Methods: []string{"GET", "POST"}, Path: "/ok/**"}}, []HTTPRule{{Path: "/ok/not/**"}})
		in := newInside(t, inspected(rules), o.reach)
		c := in.clientOf(protocol)

		res, body := do(t, c, "POST", base+"/ok/./a//b%7e?q=1&q=%2F", strings.NewReader("hello"),
			"X-Mine", "1", "X-Mine", "2", "X-Forwarded-For", "9.9.9.9", "Forwarded", "for=x", "User-Agent", "mine", "Accept-Encoding", "br", "Cookie", "c=1")
		assert.Equal(t, http.StatusTeapot, res.StatusCode)
		assert.Equal(t, "got hello", body)
		assert.Equal(t, []string{"a=1", "b=2"}, res.Header["Set-Cookie"])
		assert.Equal(t, "as it is", res.Header.Get("X-Answer"))
		assert.Equal(t, "example.com", host)
		assert.Equal(t, http.Header{
			"X-Mine": {"1", "2"}, "X-Forwarded-For": {"9.9.9.9"}, "Forwarded": {"for=x"}, "User-Agent": {"mine"},
			"Accept-Encoding": {"br"}, "Cookie": {"c=1"}, "Content-Length": {"5"},
		}, got)

		// Nothing of ours is in a bare request.
		do(t, c, "GET", base+"/ok/bare", nil, "User-Agent", "")
		assert.Equal(t, http.Header{}, got)

		for line, reason := range map[string]string{
			"PUT /ok/a":        CauseMethod,
			"GET /elsewhere":   CausePath,
			"GET /ok/not/this": CauseDeny,
			"GET /ok/Not":      CauseDeny,
			"GET /ok/%5c":      CauseSpelling,
		} {
			method, path, _ := strings.Cut(line, " ")
			res, body := do(t, c, method, base+path, nil)
			var p problem
			require.NoError(t, json.Unmarshal([]byte(body), &p), "%s: %s", line, body)
			assert.Equal(t, http.StatusForbidden, res.StatusCode, line)
			assert.Equal(t, []string{"policy_denied", reason, method, path, "example.com"}, []string{p.Error, p.Reason, p.Method, p.Path, p.Host}, line)
			assert.NotEmpty(t, p.DecisionID)
			assert.NotEmpty(t, p.NextSteps)
		}
		version := map[string]string{"1": "HTTP/1.1", "2": "HTTP/2.0"}[protocol]
		if strings.HasPrefix(base, "https") {
			version = "HTTP/2.0" // the origin offers it
		}
		assert.Equal(t, []string{version + " POST /ok/a/b~?q=1&q=%2F", version + " GET /ok/bare"}, o.reached())

		rs := in.closed()
		assert.Len(t, causes(rs), 5)
		outs := ended(t, rs)
		require.Len(t, outs, 2, "one intent and one outcome for each request that went out")
		assert.Equal(t, audit.StatusOK, outs[0].Status)
		assert.Equal(t, int64(9), outs[0].Bytes)
		assert.Equal(t, []string{"status:418", "sent:5"}, outs[0].Checks)
		assert.Equal(t, []string{"network.allow:example.com#rules[0]"}, rs[0].Intent.Decision.PolicyIDs())
		assert.Equal(t, "connect", rs[0].Intent.Action)
		for _, r := range rs {
			if r.Event != nil && r.Event.Decision.Reason == CauseDeny {
				assert.Equal(t, []string{"network.allow:example.com#deny[0]"}, r.Event.Decision.PolicyIDs())
				assert.Equal(t, "GET", r.Event.Detail["method"])
				assert.Contains(t, []string{"/ok/not/this", "/ok/Not"}, r.Event.Detail["path"])
			}
		}
	})
}

// Each request is decided by the engine, with its method and path.
func TestInspectAsksTheEngine(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	var mu sync.Mutex
	var asked []string
	in := newInside(t, inspected(nil), func(c *Config) {
		o.reach(c)
		c.Decider = engine(func(r governance.Request) (governance.Decision, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, fmt.Sprint(r.Action, r.Attrs))
			d := governance.Decision{Decision: audit.Decision{ID: audit.NewID(), Effect: audit.Allow}}
			if strings.HasPrefix(r.Attrs["path"].(string), "/no") {
				d.Decision = audit.Refusal(audit.NewID(), "not-there")
			}
			return d, nil
		})
	})
	c := in.clientOf("1")
	status := func(method, path string, header ...string) int {
		res, body := do(t, c, method, "https://example.com:8443"+path, nil, header...)
		assert.NotContains(t, body, "not-there", "policy text stays here")
		return res.StatusCode
	}
	assert.Equal(t, 200, status("GET", "/a"))
	assert.Equal(t, 403, status("GET", "/no"))
	assert.Equal(t, 200, status("PUT", "/b"))
	assert.Equal(t, 403, status("GET", "/a/../no"))
	assert.Equal(t, 200, status("GET", "/@s%2fn"))
	assert.Equal(t, 403, status("GET", "/no%3ax"))
	assert.Equal(t, 403, status("GET", "/a", "X-Http-Method-Override", "PUT"))
	at := func(method, path string) string {
		return "connect" + fmt.Sprint(map[string]any{"host": "example.com", "port": int64(8443), "scheme": "https", "method": method, "path": path})
	}
	assert.Equal(t, []string{
		at("GET", "/a"), at("GET", "/no"), at("PUT", "/b"), at("GET", "/no"), at("GET", "/@s%2Fn"), at("GET", "/@s/n"), at("GET", "/no%3Ax"),
	}, asked, "never once for a connection, and both readings of what has two")
	assert.Len(t, o.reached(), 3)
	assert.Equal(t, int64(1), o.conns.Load(), "all over one connection")
	assert.Len(t, causes(in.closed()), 4)
}

// A program that says two things is refused, and nothing of it goes out.
func TestInspectSmuggling(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Empty(t, r.Header.Get("Upgrade")+r.Header.Get("Http2-Settings"), "nothing is offered that would hide requests")
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "ok")
	})
	rules := httpRules(t, "", []HTTPRule{{Methods: []string{"GET", "POST"}, Path: "/ok"}}, nil)
	in := newInside(t, inspected(rules), o.reach)
	in.addr("example.com")
	// talk sends text on one connection and returns the statuses that come back,
	// up to n of them unless the connection ends before.
	talk := func(text string, n int) (out []int) {
		c := in.dial("example.com", 80)
		defer c.Close()
		fmt.Fprint(c, text)
		b := bufio.NewReader(c)
		for n == 0 || len(out) < n {
			res, err := http.ReadResponse(b, nil)
			if err != nil {
				return out
			}
			out = append(out, res.StatusCode)
			if _, err := io.Copy(io.Discard, res.Body); err != nil || n == 0 {
				return out
			}
		}
		return out
	}
	const h = "Host: example.com\r\n"
	const hidden = "GET /hidden HTTP/1.1\r\n" + h + "\r\n"
	for name, x := range map[string]struct {
		say  string
		want []int
	}{
		"plain":               {"GET /ok HTTP/1.1\r\n" + h + "\r\n", []int{200}},
		"pipelined":           {"GET /ok HTTP/1.1\r\n" + h + "\r\n" + hidden + "GET /ok HTTP/1.1\r\n" + h + "\r\n", []int{200, 403, 200}},
		"CL.CL":               {"POST /ok HTTP/1.1\r\n" + h + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + hidden, []int{400}},
		"CL list":             {"POST /ok HTTP/1.1\r\n" + h + "Content-Length: 0, 5\r\n\r\n" + hidden, []int{400}},
		"CL plus":             {"POST /ok HTTP/1.1\r\n" + h + "Content-Length: +5\r\n\r\n" + hidden, []int{400}},
		"CL hex":              {"POST /ok HTTP/1.1\r\n" + h + "Content-Length: 0x5\r\n\r\n" + hidden, []int{400}},
		"CL space":            {"POST /ok HTTP/1.1\r\n" + h + "Content-Length : 5\r\n\r\n" + hidden, []int{400}},
		"CL underscore":       {"POST /ok HTTP/1.1\r\n" + h + "Content_Length: 5\r\n\r\n", []int{400}},
		"TE.TE":               {"POST /ok HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden, []int{501}},
		"TE list":             {"POST /ok HTTP/1.1\r\n" + h + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + hidden, []int{501}},
		"TE x":                {"POST /ok HTTP/1.1\r\n" + h + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden, []int{501}},
		"TE tab":              {"POST /ok HTTP/1.1\r\n" + h + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + hidden, []int{400}},
		"obs-fold name":       {"GET /ok HTTP/1.1\r\n" + h + " X: y\r\n\r\n", []int{400}},
		"NUL in a header":     {"GET /ok HTTP/1.1\r\n" + h + "X: a\x00b\r\n\r\n", []int{400}},
		"two hosts":           {"GET /ok HTTP/1.1\r\n" + h + "Host: other.example.com\r\n\r\n", []int{400}},
		"no host":             {"GET /ok HTTP/1.1\r\n\r\n", []int{400}},
		"other host":          {"GET /ok HTTP/1.1\r\nHost: other.example.com\r\n\r\n", []int{421}},
		"host and port":       {"GET /ok HTTP/1.1\r\nHost: Example.com:80\r\n\r\n", []int{200}},
		"host, other port":    {"GET /ok HTTP/1.1\r\nHost: example.com:81\r\n\r\n", []int{421}},
		"host underscore":     {"GET /ok HTTP/1.1\r\n" + h + "_Host: x\r\nHost_: y\r\n\r\n", []int{200}},
		"absolute":            {"GET http://example.com/ok HTTP/1.1\r\n" + h + "\r\n", []int{400}},
		"absolute, other":     {"GET http://other.example.com/ok HTTP/1.1\r\n" + h + "\r\n", []int{421}},
		"absolute, user":      {"GET http://u:p@example.com/ok HTTP/1.1\r\n" + h + "\r\n", []int{421}},
		"CONNECT":             {"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n", []int{421}},
		"asterisk":            {"OPTIONS * HTTP/1.1\r\n" + h + "\r\n", []int{400}},
		"fragment":            {"GET /ok#x HTTP/1.1\r\n" + h + "\r\n", []int{403}},
		"fragment in query":   {"GET /ok?a#x HTTP/1.1\r\n" + h + "\r\n", []int{400}},
		"space in target":     {"GET /ok x HTTP/1.1\r\n" + h + "\r\n", []int{400}},
		"no slash":            {"GET ok HTTP/1.1\r\n" + h + "\r\n", []int{400}},
		"two slashes":         {"GET //other.example.com/../ok HTTP/1.1\r\n" + h + "\r\n", []int{200}},
		"dots":                {"GET /ok/../hidden HTTP/1.1\r\n" + h + "\r\n", []int{403}},
		"dots above":          {"GET /../ok HTTP/1.1\r\n" + h + "\r\n", []int{403}},
		"bad percent":         {"GET /ok%zz HTTP/1.1\r\n" + h + "\r\n", []int{400}},
		"override":            {"POST /ok HTTP/1.1\r\n" + h + "X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n", []int{403}},
		"override underscore": {"POST /ok HTTP/1.1\r\n" + h + "x_http_method_override: DELETE\r\nContent-Length: 0\r\n\r\n", []int{403}},
		"override in query":   {"POST /ok?a=b&%5fmethod=DELETE HTTP/1.1\r\n" + h + "Content-Length: 0\r\n\r\n", []int{403}},
		"override of path":    {"GET /ok HTTP/1.1\r\n" + h + "X-Original-URL: /hidden\r\n\r\n", []int{403}},
		"offer of h2c":        {"GET /ok HTTP/1.1\r\n" + h + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", []int{200}},
		"h2c and websocket":   {"GET /ok HTTP/1.1\r\n" + h + "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", []int{403}},
		"TLS inside":          {"GET /ok HTTP/1.1\r\n" + h + "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n", []int{403}},
	} {
		before := len(o.reached())
		got := talk(x.say, len(x.want))
		assert.Equal(t, x.want, got, name)
		assert.NotContains(t, strings.Join(o.reached(), "\n"), "hidden", name)
		served := 0
		for _, s := range got {
			served += b2i(s == 200)
		}
		assert.Equal(t, served, len(o.reached())-before, "%s: what arrives is what was answered", name)
	}
	// Both lengths: chunks win (RFC 9112, section 6.3), and the message is written
	// anew, so that there is nothing to be read differently.
	for _, say := range []string{
		"POST /ok HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1;ext=\"x\"\r\nx\r\n0\r\n\r\n",
		"POST /ok HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n" + hidden,
		"POST /ok HTTP/1.1\r\n" + h + "X-A: b\r\n folded: x\r\nContent-Length: 1\r\n\r\nx",
		"POST /ok HTTP/1.1\n" + "Host: example.com\nContent-Length: 1\n\nx",
	} {
		got := talk(say, 0)
		require.NotEmpty(t, got, say)
		assert.Equal(t, 200, got[0], say)
		assert.NotContains(t, strings.Join(o.reached(), "\n"), "hidden", say)
	}
	// A chunk that ends in a bare LF breaks the body off.
	assert.NotContains(t, talk("POST /ok HTTP/1.1\r\n"+h+"Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", 0), 200)
	rs := in.closed()
	assert.Contains(t, causes(rs), CauseRequest+` Host::"example.com"`, "what net/http refused is on record too")
	ended(t, rs)
}

// TLS is looked into only for the name, and the real host is verified.
func TestInspectTLS(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS != nil) })
	plain := allow("other.example.com", []uint16{443})
	plain.Protocol = ProtocolHTTPS
	in := newInside(t, append(inspected(nil), plain), o.reach)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(in.door.conf.CA.PEM())
	for _, conf := range []*tls.Config{{ServerName: "other.example.com", RootCAs: pool}, {InsecureSkipVerify: true}} {
		for _, port := range []uint16{443, 8443} {
			require.Error(t, tls.Client(in.dial("example.com", port), conf).Handshake())
		}
	}
	in.refused(in.dial("example.com", 8443), "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
	_, body := do(t, in.clientOf("2"), "GET", "https://example.com/", nil)
	assert.Equal(t, "true", body)

	// The origin's certificate is for example.com only.
	res, body := do(t, in.clientOf("1"), "GET", "https://other.example.com/", nil)
	if res.StatusCode == http.StatusBadGateway {
		assert.Contains(t, body, "upstream_certificate")
	} else {
		assert.Contains(t, o.secure.Certificate().DNSNames, "*.example.com")
	}
	rs := in.closed()
	assert.Equal(t, 4, strings.Count(strings.Join(causes(rs), " "), CauseSNI))
	assert.Contains(t, causes(rs), CauseHello+` Host::"example.com"`)
}

func TestInspectUpstreamFailures(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			w.Header().Set("Content-Length", "10")
			w.Write([]byte("half"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		panic(http.ErrAbortHandler)
	})
	rules := inspected(nil)
	private, gone := allow("10.example.com", []uint16{443}), allow("gone.example.com", []uint16{443})
	private.Protocol, gone.Protocol = ProtocolHTTPS, ProtocolHTTPS
	in := newInside(t, append(rules, private, gone), func(c *Config) {
		o.reach(c)
		c.Roots = x509.NewCertPool()
	})
	for _, protocol := range []string{"1", "2"} {
		c := in.clientOf(protocol)
		for url, want := range map[string]string{
			"https://example.com/":      "502 upstream_certificate upstream-certificate",
			"https://10.example.com/":   "403 ssrf_denied " + CausePrivate,
			"https://gone.example.com/": "502 upstream_unreachable name-not-found",
			"http://example.com/":       "502 upstream_broken upstream-broken",
		} {
			res, body := do(t, c, "GET", url, nil)
			var p problem
			require.NoError(t, json.Unmarshal([]byte(body), &p), body)
			assert.Equal(t, want, fmt.Sprint(res.StatusCode, " ", p.Error, " ", p.Reason), url)
		}
		res, err := c.Get("http://example.com/cut")
		require.NoError(t, err)
		_, err = io.ReadAll(res.Body)
		assert.Error(t, err, "what was cut does not look whole")
		res.Body.Close()
	}
	rs := in.closed()
	codes := map[string]int{}
	for _, out := range ended(t, rs) {
		codes[out.ErrorCode]++
	}
	assert.Equal(t, map[string]int{"upstream-certificate": 2, CausePrivate: 2, "name-not-found": 2, "upstream-broken": 2, "broken": 2}, codes)
	assert.Equal(t, 2, len(causes(rs)), "the private address")
	assert.NotContains(t, strings.Join(o.reached(), ""), "HTTP/2.0 GET / ", "no request was sent to a host that was not verified")
}

// Nothing is sent that is not on record.
func TestInspectWithoutLog(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	in := newInside(t, inspected(nil), o.reach)
	in.addr("example.com")
	in.log.Fail(errors.New("disk full"))
	res, body := do(t, in.clientOf("1"), "GET", "https://example.com/", nil)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Contains(t, body, "no_audit")
	in.log.Fail(nil)
	assert.Empty(t, o.reached())
}

// A served name can have request rules too.
func TestInspectServedName(t *testing.T) {
	rule := allow("api.local", bothPorts, "served")
	rule.Protocol, rule.HTTP = ProtocolHTTPS, httpRules(t, "read-only", nil, nil)
	rule.Ports = []uint16{443}
	in := newInside(t, []Rule{rule}, nil)
	res := func(method string) (int, string) {
		r, b := do(t, in.clientOf("2"), method, "https://api.local/a/../%62", nil)
		return r.StatusCode, b
	}
	in.refused(in.dial("api.local", 443))
	require.NoError(t, in.door.Handle("api.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, r.URL.Path, r.RequestURI, audit.ActorFrom(r.Context()).Agent)
	})))
	status, body := res("GET")
	assert.Equal(t, 200, status)
	assert.Equal(t, "GET/b/bstandup", body)
	status, _ = res("POST")
	assert.Equal(t, 403, status)
	assert.Equal(t, []string{CauseNotServed + ` Host::"api.local"`, CauseMethod + ` Host::"api.local"`}, causes(in.closed()))
}

// 1xx answers and trailers go through in both directions.
func TestInspectHintsAndTrailers(t *testing.T) {
	eachWay(t, func(t *testing.T, protocol, base string) {
		var trailer http.Header
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			io.Copy(io.Discard, r.Body)
			trailer = r.Trailer
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprint(w, "body")
			w.Header().Set("X-Sum", "4")
			w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
		})
		in := newInside(t, inspected(nil), o.reach)
		hints := []string{}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, h.Get("Link")))
				return nil
			},
		}), "POST", base+"/", io.MultiReader(strings.NewReader("some"), strings.NewReader("thing")))
		require.NoError(t, err)
		req.Trailer = http.Header{"X-Check": {"9"}}
		res, err := in.clientOf(protocol).Do(req)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, "body", string(b))
		assert.Contains(t, hints, "103</a.css>; rel=preload")
		assert.Equal(t, "9", trailer.Get("X-Check"))
		assert.Equal(t, http.Header{"X-Sum": {"4"}, "X-Late": {"yes"}}, res.Trailer)

		res, body := do(t, in.clientOf(protocol), "HEAD", base+"/", nil)
		assert.Equal(t, 200, res.StatusCode)
		assert.Empty(t, body)
	})
}
