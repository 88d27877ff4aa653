package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// realHost is a server on loopback that doors reach as if it were the host of
// any name on any port: Dial leads to it.
func realHost(t *testing.T) (srv *httptest.Server, dial func(context.Context, netip.AddrPort) (net.Conn, error), dialled *atomic.Pointer[netip.AddrPort]) {
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the real %s %s", r.Host, r.URL.Path)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dialled = new(atomic.Pointer[netip.AddrPort])
	return srv, func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		dialled.Store(&to)
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}, dialled
}

// get fetches https://host/ over c, as a client that trusts the real server.
func get(srv *httptest.Server, c net.Conn, sni string) (string, error) {
	s := tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
	if err := s.Handshake(); err != nil {
		return "", err
	}
	fmt.Fprintf(s, "GET /p HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", sni)
	b, err := io.ReadAll(s)
	if !strings.HasPrefix(string(b), "HTTP/1.1 200") {
		return "", errors.Join(err, errors.New(string(b)))
	}
	return string(b), err
}

func TestRelay(t *testing.T) {
	srv, dial, dialled := realHost(t)
	in := newInside(t, []Rule{allow("*.example.com", []uint16{443})}, func(c *Config) {
		c.Resolver = fakeResolver{"api.example.com.": ips("127.0.0.1", "93.184.216.34")}
		c.Dial = dial
	})
	body, err := get(srv, in.dial("api.example.com", 443), "Api.Example.com")
	require.NoError(t, err)
	assert.Contains(t, body, "the real Api.Example.com /p")
	assert.Equal(t, netip.MustParseAddrPort("93.184.216.34:443"), *dialled.Load(), "the loopback answer is passed over")

	rs := in.closed()
	require.Empty(t, causes(rs))
	outs := ended(t, rs)
	require.Len(t, outs, 1)
	assert.Greater(t, outs[0].Bytes, int64(500))
	assert.Equal(t, []string{"network.allow:*.example.com"}, rs[0].Intent.Decision.PolicyIDs())
	assert.Equal(t, `Host::"api.example.com"`, rs[0].Intent.Resource)
}

// Bytes pass both ways unchanged, and the end of one direction does not end the
// other.
func TestRelayHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %d", len(b))
	}()
	in := newInside(t, []Rule{allow("db.example.com", []uint16{5432}, "private")}, func(c *Config) {
		c.Resolver = fakeResolver{"db.example.com.": ips("127.0.0.1")}
		c.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return net.Dial("tcp", l.Addr().String())
		}
	})
	c := in.dial("db.example.com", 5432).(*net.TCPConn)
	const n = 1 << 20
	_, err = c.Write(make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "got 1048576", string(b))
	// The outcome is on record once the door has seen both ends.
	o := ended(t, in.closed())[0]
	assert.Equal(t, int64(11), o.Bytes)
	assert.Equal(t, []string{"sent:1048576"}, o.Checks)
}

func TestRelayRefusesPrivateAddresses(t *testing.T) {
	own := ""
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && classify(p.Addr()) == public {
			own = p.Addr().String()
		}
	}
	for _, c := range []struct {
		addrs   string
		private bool // may be dialled when the rule says private
	}{
		{"127.0.0.1", true}, {"10.0.0.1", true}, {"100.64.1.1", true}, {"fd00::1", true}, {"::1", true}, {"::ffff:192.168.0.1", true},
		{own, true},
		{"169.254.169.254", false}, {"fe80::1", false}, {"64:ff9b::a00:1", false}, {"2002:a00:1::", false}, {"2001::1", false},
		{"224.0.0.1", false}, {"0.0.0.0", false}, {"::", false}, {"255.255.255.255", false}, {"198.18.1.0", false}, {"100.100.100.200", false},
	} {
		if c.addrs == "" {
			continue
		}
		for _, says := range []bool{false, true} {
			want := says && c.private
			_, dial, dialled := realHost(t)
			rule := allow("x.example.com", []uint16{5432})
			rule.Private = says
			in := newInside(t, []Rule{rule}, func(conf *Config) {
				conf.Resolver = fakeResolver{"x.example.com.": ips(c.addrs)}
				conf.Dial = dial
			})
			conn := in.dial("x.example.com", 5432)
			if want {
				conn.(*net.TCPConn).CloseWrite()
				io.ReadAll(conn)
				assert.NotNil(t, dialled.Load(), c.addrs)
				assert.Empty(t, causes(in.closed()), c.addrs)
				continue
			}
			in.refused(conn)
			assert.Nil(t, dialled.Load(), c.addrs)
			rs := in.closed()
			assert.Equal(t, []string{CausePrivate + ` Host::"x.example.com"`}, causes(rs), c.addrs)
			o := ended(t, rs)
			require.Len(t, o, 1, "the lookup happened under an intent")
			assert.Equal(t, audit.StatusFailed, o[0].Status)
			assert.Equal(t, CausePrivate, o[0].ErrorCode)
		}
	}
}

func TestRelayRefusesOtherNames(t *testing.T) {
	srv, dial, dialled := realHost(t)
	in := newInside(t, []Rule{allow("api.example.com", []uint16{443}), allow("cdn.example.com", []uint16{443})}, func(c *Config) {
		c.Resolver = fakeResolver{"api.example.com.": ips("93.184.216.34")}
		c.Dial = dial
	})
	for _, sni := range []string{"cdn.example.com", "evil.com", ""} {
		_, err := get(srv, in.dial("api.example.com", 443), sni)
		require.Error(t, err, sni)
	}
	hello := record(append([]byte{1}, vec(3, helloBody(ext(0, vec(2, append([]byte{0}, vec(2, []byte("api.example.com"))...))), ext(0xfe0d, []byte{0})))...))
	c := in.dial("api.example.com", 443)
	in.refused(c, string(hello))
	c = in.dial("api.example.com", 443)
	in.refused(c, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	for _, raw := range []string{"93.184.216.34", "169.254.169.254", "198.18.9.9", "127.0.0.1", "::1", "2606:4700::1111"} {
		in.refused(in.dialAddr(netip.MustParseAddr(raw), 443))
	}
	rs := in.closed()
	assert.Nil(t, dialled.Load())
	assert.Empty(t, ended(t, rs), "nothing was begun")
	api := ` Host::"api.example.com"`
	assert.Equal(t, []string{
		CauseSNI + api, CauseSNI + api, CauseSNI + api, CauseECH + api, CauseHello + api,
		CauseAddress + ` Host::"93.184.216.34"`, CauseAddress + ` Host::"169.254.169.254"`, CauseAddress + ` Host::"198.18.9.9"`,
		CauseAddress + ` Host::"127.0.0.1"`, CauseAddress + ` Host::"::1"`, CauseAddress + ` Host::"2606:4700::1111"`,
	}, causes(rs))
	assert.Equal(t, "443", in.log.Denials()[0].Detail["port"])
}

// TLS on any other port is looked at as well, even when it comes byte by byte.
func TestRelayChecksTLSOnOtherPorts(t *testing.T) {
	srv, dial, _ := realHost(t)
	in := newInside(t, []Rule{allow("api.example.com", []uint16{8443})}, func(c *Config) {
		c.Resolver = fakeResolver{"api.example.com.": ips("93.184.216.34")}
		c.Dial = dial
	})
	body, err := get(srv, in.dial("api.example.com", 8443), "api.example.com")
	require.NoError(t, err)
	assert.Contains(t, body, "the real api.example.com")
	_, err = get(srv, in.dial("api.example.com", 8443), "evil.com")
	require.Error(t, err)
	_, err = get(srv, byteByByte{in.dial("api.example.com", 8443)}, "evil.com")
	require.Error(t, err)
	body, err = get(srv, byteByByte{in.dial("api.example.com", 8443)}, "api.example.com")
	require.NoError(t, err)
	assert.Contains(t, body, "the real api.example.com")
	in.refused(in.dial("api.example.com", 8443), "\x16\x03\x01\x00\x04\x02\x00\x00\x00")
	rs := in.closed()
	api := ` Host::"api.example.com"`
	assert.Equal(t, []string{CauseSNI + api, CauseSNI + api, CauseHello + api}, causes(rs))
	outs := ended(t, rs)
	require.Len(t, outs, 5)
	refused := 0
	for _, o := range outs {
		if o.ErrorCode == CauseSNI || o.ErrorCode == CauseHello {
			refused++
			assert.Equal(t, []string{"sent:0"}, o.Checks)
		}
	}
	assert.Equal(t, 3, refused)
}

type byteByByte struct{ net.Conn }

func (b byteByByte) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestRelayUpstreamDown(t *testing.T) {
	in := newInside(t, []Rule{allow("gone.example.com", []uint16{443, 5432}), allow("down.example.com", []uint16{5432})}, func(c *Config) {
		c.Resolver = fakeResolver{"down.example.com.": ips("93.184.216.34", "93.184.216.35")}
		tries := 0
		c.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
			tries++
			return nil, fmt.Errorf("refused %d", tries)
		}
	})
	in.refused(in.dial("gone.example.com", 5432))
	in.refused(in.dial("down.example.com", 5432))
	var codes []string
	for _, o := range ended(t, in.closed()) {
		codes = append(codes, string(o.Status)+" "+o.ErrorCode)
	}
	assert.ElementsMatch(t, []string{"failed name-not-found", "failed unreachable"}, codes)
}

// A handler takes over a name at once: what leads to the real host is cut, and
// nothing new is dialled.
func TestHandleCutsRelays(t *testing.T) {
	_, dial, dialled := realHost(t)
	in := newInside(t, []Rule{allow("api.example.com", []uint16{443, 80, 5432})}, func(c *Config) {
		c.Resolver = fakeResolver{"api.example.com.": ips("93.184.216.34")}
		c.Dial = dial
	})
	c := in.dial("api.example.com", 5432)
	c.Write([]byte("x"))
	for dialled.Load() == nil {
		in.ask("api.example.com.", 1) // passes the time
	}
	require.NoError(t, in.door.Handle("api.example.com", http.HandlerFunc(echo)))
	in.refused(c)
	dialled.Store(nil)
	res, err := in.client().Get("http://api.example.com/")
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.Contains(t, string(b), "standup")
	in.refused(in.dial("api.example.com", 5432))
	in.closed()
	assert.Nil(t, dialled.Load())
}

// An engine decides after the rules, with what the door knows.
type engine func(governance.Request) (governance.Decision, error)

func (e engine) Decide(_ context.Context, r governance.Request) (governance.Decision, error) {
	return e(r)
}

func TestEngineDecides(t *testing.T) {
	var asked []governance.Request
	answer := func(effect audit.Effect, reason string, err error) engine {
		return func(r governance.Request) (governance.Decision, error) {
			asked = append(asked, r)
			return governance.Decision{
				Decision: audit.Decision{ID: "d1", Effect: effect, Reason: reason, PolicyHash: "sha256:bundle"},
				Action:   "connect", Resource: `Host::"tools.local"`,
			}, err
		}
	}
	try := func(e engine) (rs []audit.Record) {
		in := newInside(t, []Rule{allow("tools.local", bothPorts)}, func(c *Config) { c.Decider = e })
		require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(echo)))
		c := in.dial("tools.local", 80)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: tools.local\r\nConnection: close\r\n\r\n")
		io.ReadAll(c)
		in.refused(in.dialAddr(netip.MustParseAddr("9.9.9.9"), 80)) // the engine is not asked
		return in.closed()
	}
	rs := try(answer(audit.Allow, "", nil))
	assert.Equal(t, []string{CauseAddress + ` Host::"9.9.9.9"`}, causes(rs))
	assert.Len(t, ended(t, rs), 1)
	assert.Equal(t, "sha256:bundle", rs[0].Intent.Decision.PolicyHash)
	require.Len(t, asked, 1)
	assert.Equal(t, governance.Request{
		Actor: theActor, Action: "connect", Name: "tools.local",
		Attrs: map[string]any{"host": "tools.local", "port": int64(80), "scheme": "http"},
	}, asked[0])

	rs = try(answer(audit.Deny, "no-permit", nil))
	assert.Equal(t, []string{`no-permit Host::"tools.local"`, CauseAddress + ` Host::"9.9.9.9"`}, causes(rs))
	assert.Equal(t, "d1", rs[0].Event.Decision.ID)
	assert.Empty(t, ended(t, rs))

	rs = try(answer(audit.Allow, "", errors.New("broken")))
	assert.Equal(t, audit.GuardPolicyError+` Host::"tools.local"`, causes(rs)[0], "an error denies, whatever comes with it")
	rs = try(answer("", audit.GuardNoSnapshot, errors.New("none")))
	assert.Equal(t, audit.GuardNoSnapshot+` Host::"tools.local"`, causes(rs)[0])
}
