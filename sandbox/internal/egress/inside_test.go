package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// An inside is a program's view of a door, without the sandbox: DNS over real
// loopback sockets, and connections whose local address at the door is the one
// that was dialled.
type inside struct {
	t     testing.TB
	door  *Door
	log   *audittest.Log
	dns   netip.AddrPort
	dnsT  netip.AddrPort
	ports map[uint16]*fakeListener
}

var theActor = audit.Actor{Agent: "standup", Issuer: "session", Session: "s1"}

// newInside opens a door with the rules; edit may change the rest.
func newInside(t testing.TB, rules []Rule, edit func(*Config)) *inside {
	t.Helper()
	ca, err := NewCA(time.Now())
	require.NoError(t, err)
	log := audittest.NewLog(t)
	c := Config{Rules: rules, PolicyHash: "sha256:test", Actor: theActor, Log: log, CA: ca, Resolver: fakeResolver{}, ProxyPort: 3128}
	if edit != nil {
		edit(&c)
	}
	d, err := New(c)
	require.NoError(t, err)
	in := &inside{t: t, door: d, log: log, ports: make(map[uint16]*fakeListener)}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := Listeners{TCP: make(map[uint16]net.Listener), DNSUDP: udp, DNSTCP: tcp}
	for _, p := range []uint16{80, 443, 8443, 5432, 3128} {
		in.ports[p] = newFakeListener()
		l.TCP[p] = in.ports[p]
	}
	in.dns = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	in.dnsT = tcp.Addr().(*net.TCPAddr).AddrPort()
	require.NoError(t, d.Serve(l))
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	return in
}

// allow makes a rule; words are "private" and "served".
func allow(host string, ports []uint16, words ...string) Rule {
	p, err := ParsePattern(host)
	if err != nil {
		panic(err)
	}
	r := Rule{Host: p, Ports: ports}
	for _, w := range words {
		r.Private = r.Private || w == "private"
		r.Served = r.Served || w == "served"
	}
	return r
}

// ask sends one query over UDP and returns the reply.
func (in *inside) ask(name string, kind dnsmessage.Type) dnsmessage.Message {
	in.t.Helper()
	c, err := net.Dial("udp", in.dns.String())
	require.NoError(in.t, err)
	defer c.Close()
	_, err = c.Write(question(in.t, name, kind))
	require.NoError(in.t, err)
	buf := make([]byte, 1500)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(buf)
	require.NoError(in.t, err)
	var m dnsmessage.Message
	require.NoError(in.t, m.Unpack(buf[:n]))
	return m
}

func question(t testing.TB, name string, kind dnsmessage.Type) []byte {
	n, err := dnsmessage.NewName(name)
	require.NoError(t, err)
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	require.NoError(t, err)
	return b
}

// addr resolves an allowed name as a program would.
func (in *inside) addr(name string) netip.Addr {
	in.t.Helper()
	m := in.ask(strings.TrimSuffix(name, ".")+".", dnsmessage.TypeA)
	require.Len(in.t, m.Answers, 1, "%s", name)
	return netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A)
}

func (in *inside) dial(name string, port uint16) net.Conn {
	in.t.Helper()
	return in.dialAddr(in.addr(name), port)
}

func (in *inside) dialAddr(a netip.Addr, port uint16) net.Conn {
	in.t.Helper()
	c, err := in.ports[port].dial(netip.AddrPortFrom(a, port))
	require.NoError(in.t, err)
	in.t.Cleanup(func() { c.Close() })
	return c
}

// client is an HTTP client of a program inside, which trusts the session's CA.
func (in *inside) client() *http.Client {
	pool := x509.NewCertPool()
	require.True(in.t, pool.AppendCertsFromPEM(in.door.conf.CA.PEM()))
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			host, port, _ := strings.Cut(addr, ":")
			p := map[string]uint16{"80": 80, "443": 443, "8443": 8443}[port]
			return in.ports[p].dial(netip.AddrPortFrom(in.addr(host), p))
		},
	}
	in.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// refused asserts that the door resets c without a byte, at the latest when the
// program has said something.
func (in *inside) refused(c net.Conn, say ...string) {
	in.t.Helper()
	for _, s := range say {
		if _, err := io.WriteString(c, s); err != nil {
			return // the reset came first, and is reported once only
		}
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := c.Read(make([]byte, 1))
	require.Zero(in.t, n)
	require.Error(in.t, err)
	require.False(in.t, errors.Is(err, io.EOF), "a refusal is a reset, not an end")
	var ne net.Error
	require.False(in.t, errors.As(err, &ne) && ne.Timeout(), "neither refused nor answered")
}

// closed closes the door and returns what is on record.
func (in *inside) closed() []audit.Record {
	in.t.Helper()
	require.NoError(in.t, in.door.Close())
	return in.log.Records()
}

// causes lists the denials on record as "cause resource".
func causes(rs []audit.Record) []string {
	var out []string
	for _, r := range rs {
		if r.Event != nil && r.Event.Kind == audit.KindDenial {
			out = append(out, r.Event.Decision.Reason+" "+r.Event.Resource)
		}
	}
	return out
}

// ended returns the outcomes on record, which must be as many as the intents.
func ended(t *testing.T, rs []audit.Record) []audit.Outcome {
	t.Helper()
	var out []audit.Outcome
	intents := 0
	for _, r := range rs {
		if r.Intent != nil {
			intents++
		}
		if r.Outcome != nil {
			out = append(out, *r.Outcome)
		}
	}
	require.Len(t, out, intents, "every intent has one outcome")
	return out
}

// A fakeListener is the door's socket for one port. Its connections are real
// ones over loopback, but say that they were dialled at any address.
type fakeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newFakeListener() *fakeListener {
	return &fakeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *fakeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *fakeListener) dial(to netip.AddrPort) (net.Conn, error) {
	near, far, err := tcpPair()
	if err != nil {
		return nil, err
	}
	select {
	case l.conns <- &dialled{far, net.TCPAddrFromAddrPort(to)}:
		return near, nil
	case <-l.done:
		near.Close()
		far.Close()
		return nil, net.ErrClosed
	}
}

type dialled struct {
	*net.TCPConn
	at net.Addr
}

func (d *dialled) LocalAddr() net.Addr { return d.at }

// tcpPair returns both ends of one loopback connection.
func tcpPair() (near, far *net.TCPConn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	n, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	for {
		f, err := l.Accept()
		if err != nil {
			n.Close()
			return nil, nil, err
		}
		if f.RemoteAddr().String() == n.LocalAddr().String() {
			return n.(*net.TCPConn), f.(*net.TCPConn), nil
		}
		f.Close()
	}
}

// A fakeResolver knows a few names; keys end with a dot.
type fakeResolver map[string][]netip.Addr

func (r fakeResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	a, ok := r[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return a, nil
}

func ips(texts ...string) []netip.Addr {
	out := make([]netip.Addr, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

// settled waits until at most n goroutines run.
func settled(t *testing.T, n int) {
	t.Helper()
	for range 10_000 {
		if runtime.NumGoroutine() <= n {
			return
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond) // only to let others run; nothing depends on it
	}
	buf := make([]byte, 1<<20)
	t.Fatalf("%d goroutines, want at most %d:\n%s", runtime.NumGoroutine(), n, buf[:runtime.Stack(buf, true)])
}
