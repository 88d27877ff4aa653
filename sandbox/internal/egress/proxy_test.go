package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var proxyAddr = netip.MustParseAddrPort("127.0.0.1:3128")

// throughProxy is an HTTP client of a program that knows nothing but the proxy.
func (in *inside) throughProxy(user *url.Userinfo) *http.Client {
	tr := in.client().Transport.(*http.Transport)
	tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxyAddr.String(), User: user})
	tr.DialContext = func(context.Context, string, string) (net.Conn, error) { return in.ports[3128].dial(proxyAddr) }
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// noFlows asserts that a closed door holds no connection.
func (in *inside) noFlows() {
	in.t.Helper()
	for c, f := range in.door.open {
		_, isConn := c.(net.Conn)
		_, isUDP := c.(*net.UDPConn)
		assert.False(in.t, f != nil || isConn && !isUDP, "%T", c)
	}
}

func body(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return fmt.Sprintf("%d %s", res.StatusCode, strings.TrimSpace(string(b)))
}

// Names are decided in one place, whichever way they come.
func TestProxy(t *testing.T) {
	real := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "real %s %s %s %q", r.Host, r.RequestURI, r.Header.Get("X-Forwarded-For"), r.Header["Proxy-Authorization"])
	}))
	defer real.Close()
	in := newInside(t, []Rule{
		allow("tools.local", bothPorts), allow("api.example.com", []uint16{80}), allow("p.example.com", []uint16{80}), allow("later.local", bothPorts, "served"),
	}, func(c *Config) {
		c.Resolver = fakeResolver{"api.example.com.": ips("93.184.216.34"), "p.example.com.": ips("10.0.0.1")}
		c.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", real.Listener.Addr().String())
		}
	})
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "tools %s %s %s", r.Host, r.URL.Path, r.Proto)
	})))
	c := in.throughProxy(nil)
	assert.Equal(t, "200 tools tools.local /a HTTP/2.0", body(t, c, "https://tools.local/a"))
	assert.Equal(t, "200 tools tools.local /b HTTP/1.1", body(t, c, "http://tools.local/b"))
	assert.Equal(t, `200 real api.example.com /c?d  []`, body(t, c, "http://api.example.com/c?d"), "in origin form, and without what is for the proxy")
	assert.Equal(t, "403 the session's policy refuses this: unlisted-host", body(t, c, "http://evil.com/"))
	assert.Contains(t, body(t, c, "https://evil.com/"), "Forbidden")
	assert.Contains(t, body(t, c, "https://api.example.com/"), "Forbidden")
	assert.Equal(t, "403 the session's policy refuses this: not-served", body(t, c, "http://later.local/"))
	assert.Equal(t, "403 the session's policy refuses this: raw-address", body(t, c, "http://127.0.0.1/"))
	assert.Contains(t, body(t, c, "https://169.254.169.254/"), "Forbidden")
	assert.Equal(t, "502 the host did not answer", body(t, c, "http://p.example.com/"))
	rs := in.closed()
	ended(t, rs)
	assert.Equal(t, []string{
		CauseName + ` Host::"evil.com"`, CauseName + ` Host::"evil.com"`, CausePort + ` Host::"api.example.com"`,
		CauseNotServed + ` Host::"later.local"`, CauseAddress + ` Host::"127.0.0.1"`, CauseAddress + ` Host::"169.254.169.254"`,
		CausePrivate + ` Host::"p.example.com"`,
	}, causes(rs))
	in.noFlows()
}

// In a tunnel the name of TLS is checked as it is without one, also for a
// program that does not wait for the answer to CONNECT.
func TestProxyTunnelsOneName(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts), allow("other.local", bothPorts)}, nil)
	for _, n := range []string{"tools.local", "other.local"} {
		require.NoError(t, in.door.Handle(n, http.HandlerFunc(echo)))
	}
	for _, c := range []struct {
		sni   string
		early bool
		ok    bool
	}{{"tools.local", false, true}, {"tools.local", true, true}, {"other.local", false, false}, {"other.local", true, false}} {
		conn, err := in.ports[3128].dial(proxyAddr)
		require.NoError(t, err)
		const connect = "CONNECT tools.local:443 HTTP/1.1\r\nHost: tools.local:443\r\n\r\n"
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		var tc *tls.Conn
		if c.early {
			tc = tls.Client(&afterConnect{Conn: conn, head: connect}, &tls.Config{ServerName: c.sni, InsecureSkipVerify: true})
		} else {
			io.WriteString(conn, connect)
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "CONNECT"})
			require.NoError(t, err)
			require.Equal(t, 200, res.StatusCode)
			tc = tls.Client(conn, &tls.Config{ServerName: c.sni, InsecureSkipVerify: true})
		}
		assert.Equal(t, c.ok, tc.Handshake() == nil, "%+v", c)
		conn.Close()
	}
	rs := in.closed()
	sni := CauseSNI + ` Host::"tools.local"`
	assert.Equal(t, []string{sni, sni}, causes(rs))
	in.noFlows()
}

// afterConnect sends a CONNECT together with the first bytes, and drops the
// answer to it.
type afterConnect struct {
	net.Conn
	head string
	read bool
}

func (c *afterConnect) Write(p []byte) (int, error) {
	n := len(p)
	if c.head != "" {
		p, c.head = append([]byte(c.head), p...), ""
	}
	_, err := c.Conn.Write(p)
	return n, err
}

func (c *afterConnect) Read(p []byte) (int, error) {
	if !c.read {
		c.read = true
		if _, err := io.ReadFull(c.Conn, make([]byte, len(established))); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Targets that are not exactly a name and a port are refused, on record.
func TestProxySmuggling(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(echo)))
	for _, c := range []struct {
		request string
		want    int
	}{
		{"CONNECT tools.local:443 HTTP/1.1\r\nHost: evil.com\r\n\r\n", 200}, // the target decides
		{"CONNECT tools.local HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local: HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local:0443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local:+443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local:65979 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local:443:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT evil@tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local:443/path HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT http://tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT evil\x00.tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT evil%00.tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local\t:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT  tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools\u3002local:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT tools.local:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 400},
		{"CONNECT tools.local:443 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"CONNECT [::ffff:127.0.0.1]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"CONNECT [fe80::1%25lo]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"CONNECT 127.1:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT 2130706433:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT localhost:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET https://tools.local/ HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET ftp://tools.local/ HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET http://evil@tools.local/ HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET http://tools.local:x/ HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET http:tools.local/ HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET http:///a HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"OPTIONS * HTTP/1.1\r\nHost: tools.local\r\n\r\n", 400},
		{"GET http://tools.local/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", 200},
		{"GET http://tools.local/ HTTP/1.1\r\nHost: tools.local\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200}, // framed anew
		{"\x16\x03\x01\x00\x05hello", 400},
	} {
		conn, err := in.ports[3128].dial(proxyAddr)
		require.NoError(t, err)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, c.request)
		if c.request[0] == 0x16 {
			conn.(*net.TCPConn).CloseWrite()
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if assert.NoError(t, err, "%q", c.request) {
			assert.Equal(t, c.want, res.StatusCode, "%q", c.request)
		}
		conn.Close()
	}
	rs := in.closed()
	for _, r := range causes(rs) {
		if r != CauseHello+` Host::"tools.local"` { // of the tunnel in which nothing came
			assert.NotContains(t, r, "tools.local")
		}
	}
	ended(t, rs)
}

// FuzzAuthority: whatever is accepted is a name or address and a port that read
// the same again.
func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"a.example.com:443", "[::1]:80", "a:b:1", "x@y:1", "1.2.3.4:5", "a.b:", "a\x00.b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, known, err := authority(s, 0)
		if err != nil {
			return
		}
		again, knownAgain, err := authority(net.JoinHostPort(got.host, fmt.Sprint(got.port)), 0)
		require.NoError(t, err)
		require.Equal(t, got, again)
		require.Equal(t, known, knownAgain)
		if known {
			name, err := Canonical(got.host)
			require.NoError(t, err)
			require.Equal(t, name, got.host)
		}
	})
}
