package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

var bothPorts = []uint16{443, 80}

// echo answers with what it was asked, and who for.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s %s %q %s", r.Proto, r.Method, r.Host, audit.ActorFrom(r.Context()).Agent, r.Header["X-Mine"], body)
}

func TestServedName(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts, "served")}, nil)
	require.NoError(t, in.door.Handle("Tools.Local.", http.HandlerFunc(echo)))
	c := in.client()
	for url, proto := range map[string]string{"https://tools.local/x": "HTTP/2.0", "http://tools.local/x": "HTTP/1.1"} {
		req, err := http.NewRequest("POST", url, strings.NewReader("hello"))
		require.NoError(t, err)
		req.Header.Set("X-Mine", "untouched")
		res, err := c.Do(req)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, proto+` POST tools.local standup ["untouched"] hello`, string(b))
	}
	c.CloseIdleConnections()

	rs := in.closed()
	require.Len(t, rs, 4, "one intent and one outcome a connection")
	for _, o := range ended(t, rs) {
		assert.Contains(t, []audit.Status{audit.StatusOK, audit.StatusCancelled}, o.Status)
		assert.Greater(t, o.Bytes, int64(100))
		require.Len(t, o.Checks, 1)
		assert.Regexp(t, `^sent:[1-9][0-9]{2,}$`, o.Checks[0])
	}
	i := rs[0].Intent
	require.NotNil(t, i)
	assert.Equal(t, audit.DoorCompute, i.Door)
	assert.Equal(t, "connect", i.Action)
	assert.Equal(t, `Host::"tools.local"`, i.Resource)
	assert.Equal(t, theActor, i.Actor)
	assert.Equal(t, []string{"network.allow:tools.local"}, i.Decision.PolicyIDs())
	assert.Equal(t, "sha256:test", i.Decision.PolicyHash)
	assert.NotEmpty(t, i.Decision.ID)
}

func TestTLSOfServedNames(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts), allow("other.local", bothPorts)}, nil)
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(echo)))
	require.NoError(t, in.door.Handle("other.local", http.HandlerFunc(echo)))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(in.door.conf.CA.PEM())

	c := tls.Client(in.dial("tools.local", 443), &tls.Config{ServerName: "tools.local", RootCAs: pool, NextProtos: []string{"http/1.1"}})
	require.NoError(t, c.Handshake())
	leaf := c.ConnectionState().PeerCertificates[0]
	assert.Equal(t, []string{"tools.local"}, leaf.DNSNames)
	assert.False(t, leaf.IsCA)
	assert.Equal(t, "http/1.1", c.ConnectionState().NegotiatedProtocol)
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: tools.local:443\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Contains(t, string(b), "HTTP/1.1 GET tools.local:443 standup")

	// TLS for another name, for none, or no TLS at all.
	for _, conf := range []*tls.Config{{ServerName: "other.local", RootCAs: pool}, {InsecureSkipVerify: true}} {
		raw := in.dial("tools.local", 443)
		require.Error(t, tls.Client(raw, conf).Handshake())
	}
	raw := in.dial("tools.local", 443)
	in.refused(raw, "GET / HTTP/1.1\r\nHost: tools.local\r\n\r\n")

	// A program that does not trust the CA.
	require.Error(t, tls.Client(in.dial("tools.local", 443), &tls.Config{ServerName: "tools.local"}).Handshake())

	rs := in.closed()
	assert.Equal(t, []string{
		CauseSNI + ` Host::"tools.local"`, CauseSNI + ` Host::"tools.local"`, CauseHello + ` Host::"tools.local"`,
	}, causes(rs))
	assert.Equal(t, "other.local", in.log.Denials()[0].Detail["sni"])
	outs := ended(t, rs)
	require.Len(t, outs, 2)
	failed := 0
	for _, o := range outs {
		if o.ErrorCode == "tls-handshake" {
			failed++
		}
	}
	assert.LessOrEqual(t, failed, 1)
}

func TestRequestsForAnotherHostAreMisdirected(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts), allow("other.local", bothPorts)}, nil)
	reached := 0
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ })))
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: other.local\r\n",
		"GET / HTTP/1.1\r\nHost: tools.local:8080\r\n",
		"GET / HTTP/1.1\r\nHost: \r\n",
		"GET / HTTP/1.0\r\n",
		"GET http://other.local/ HTTP/1.1\r\nHost: tools.local\r\n",
		"GET http://x@tools.local/ HTTP/1.1\r\nHost: tools.local\r\n",
		"CONNECT tools.local:80 HTTP/1.1\r\nHost: tools.local\r\n",
	} {
		c := in.dial("tools.local", 80)
		fmt.Fprint(c, head+"\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err, "%q", head)
		assert.Equal(t, http.StatusMisdirectedRequest, res.StatusCode, "%q", head)
		assert.True(t, res.Close, "%q", head)
	}
	// net/http itself refuses what is not even one request.
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: tools.local\r\nHost: other.local\r\n",
		"GET / HTTP/1.1\r\n",
		"GET / HTTP/1.1\r\nHost: tools.local\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
		"GET / HTTP/1.1\r\nHost: tools.local@other.local\r\n",
	} {
		c := in.dial("tools.local", 80)
		fmt.Fprint(c, head+"\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err, "%q", head)
		assert.GreaterOrEqual(t, res.StatusCode, 400, "%q", head)
	}
	// The same over HTTP/2, where the path may carry a host of its own.
	req, err := http.NewRequest("GET", "https://tools.local/", nil)
	require.NoError(t, err)
	req.Host = "other.local"
	res, err := in.client().Do(req)
	require.NoError(t, err)
	res.Body.Close()
	assert.Equal(t, 2, res.ProtoMajor)
	assert.Equal(t, http.StatusMisdirectedRequest, res.StatusCode)

	rs := in.closed()
	assert.Zero(t, reached)
	want := make([]string, 8) // seven on port 80, one on 443
	for i := range want {
		want[i] = CauseHost + ` Host::"tools.local"`
	}
	assert.Equal(t, want, causes(rs))
	ended(t, rs)
}

func TestNotServed(t *testing.T) {
	rules := []Rule{allow("tools.local", []uint16{443, 80, 8443}, "served")}
	in := newInside(t, rules, func(c *Config) {
		c.Resolver = fakeResolver{"tools.local.": ips("93.184.216.34")}
		c.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
			t.Error("a served name was dialled")
			return nil, errors.New("no")
		}
	})
	in.refused(in.dial("tools.local", 80)) // before there is a handler
	in.refused(in.dial("tools.local", 443))
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(echo)))
	in.refused(in.dial("tools.local", 8443)) // not a port of handlers
	in.refused(in.dial("tools.local", 5432)) // not in the rule
	assert.Equal(t, []string{
		CauseNotServed + ` Host::"tools.local"`, CauseNotServed + ` Host::"tools.local"`, CauseNotServed + ` Host::"tools.local"`,
		CausePort + ` Host::"tools.local"`,
	}, causes(in.closed()))
}

func TestHandleErrors(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts), allow("db.local", []uint16{5432}), allow("*.example.com", []uint16{443})}, nil)
	h := http.HandlerFunc(echo)
	require.NoError(t, in.door.Handle("a.example.com", h))
	assert.ErrorIs(t, in.door.Handle("A.example.com", h), ErrHandled)
	assert.ErrorIs(t, in.door.Handle("other.local", h), ErrNotAllowed)
	assert.ErrorIs(t, in.door.Handle("db.local", h), ErrNotAllowed)
	assert.Error(t, in.door.Handle("*.example.com", h))
	assert.Error(t, in.door.Handle("tools.local", nil))
	require.NoError(t, in.door.Close())
	assert.ErrorIs(t, in.door.Handle("tools.local", h), ErrClosed)
}

// A stream reaches the program piece by piece, and a program that leaves ends
// the handler's context.
func TestStreamingAndLeaving(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	left := make(chan struct{})
	next := make(chan struct{})
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			<-next
		}
		<-r.Context().Done()
		left <- struct{}{}
	})))
	for _, url := range []string{"https://tools.local/", "http://tools.local/"} {
		res, err := in.client().Get(url)
		require.NoError(t, err)
		b := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := b.ReadString('\n')
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("data: %d\n", i), line)
			b.ReadString('\n')
			next <- struct{}{}
		}
		res.Body.Close()
		<-left
	}
}

// A hijacked connection, which is how WebSocket works, lives until either side
// or the session ends it.
func TestUpgrade(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	over := make(chan error, 1)
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			over <- err
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, err = io.Copy(c, b)
		over <- err
	})))
	c := in.dial("tools.local", 80)
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: tools.local\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	fmt.Fprintf(c, "ping\n")
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "ping\n", line)
	rs := in.closed()
	assert.Error(t, <-over, "the session's end ends it")
	assert.Equal(t, audit.StatusCancelled, ended(t, rs)[0].Status)
}

// Nothing is served that is not on record, and nothing leaks.
func TestNoRecordNoService(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	reached := false
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })))
	in.addr("tools.local")
	in.log.Fail(errors.New("disk full"))
	c := in.dial("tools.local", 80)
	in.refused(c, "GET / HTTP/1.1\r\nHost: tools.local\r\n\r\n")
	in.refused(in.dialAddr(netip.MustParseAddr("9.9.9.9"), 80)) // refused, though not recorded
	in.log.Fail(nil)
	assert.Empty(t, in.closed())
	assert.False(t, reached)

	ca, err := NewCA(time.Now())
	require.NoError(t, err)
	d, err := New(Config{Actor: theActor, CA: ca})
	require.NoError(t, err)
	_, err = d.rec.begin(t.Context(), target{}, grant{})
	assert.ErrorIs(t, err, audit.ErrNoLog)
	require.NoError(t, d.Close())
	_, err = New(Config{CA: ca})
	assert.ErrorIs(t, err, audit.ErrNoActor)
	_, err = New(Config{Actor: theActor})
	assert.Error(t, err)
}

// A panic of what the host gave us is over one connection, and refuses it.
func TestPanicRefuses(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, func(c *Config) {
		c.Decider = engine(func(governance.Request) (governance.Decision, error) { panic("no") })
	})
	reached := false
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })))
	for range 2 {
		c := in.dial("tools.local", 80)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: tools.local\r\n\r\n")
		b, _ := io.ReadAll(c)
		assert.Empty(t, b)
	}
	in.closed()
	assert.False(t, reached)
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("door", func(t *testing.T) {
		in := newInside(t, []Rule{allow("tools.local", bothPorts), allow("example.com", []uint16{443, 5432})}, func(c *Config) {
			c.Resolver = fakeResolver{"example.com.": ips("93.184.216.34")}
			c.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
				_, far, err := tcpPair()
				return far, err
			}
		})
		entered := make(chan struct{})
		require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			<-r.Context().Done()
		})))
		var clients sync.WaitGroup
		for _, url := range []string{"https://tools.local/", "http://tools.local/"} {
			clients.Go(func() { in.client().Get(url) })
			<-entered
		}
		in.dial("tools.local", 443)       // says nothing
		in.dial("example.com", 5432)      // relayed, says nothing
		c := in.dial("example.com", 5432) // relayed, has said something
		c.Write([]byte("x"))
		rs := in.closed()
		clients.Wait()
		require.NoError(t, in.door.Close())
		assert.GreaterOrEqual(t, len(ended(t, rs)), 2)
		assert.ErrorIs(t, in.door.Serve(Listeners{TCP: map[uint16]net.Listener{80: newFakeListener()}}), ErrClosed)
	})
	settled(t, before)
}

func TestConnectionsAreBounded(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, func(c *Config) { c.MaxConns = 2 })
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(echo)))
	a := in.addr("tools.local")
	keep := func() net.Conn {
		c := in.dialAddr(a, 80)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: tools.local\r\n\r\n")
		_, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		return c
	}
	keep()
	second := keep()
	in.refused(in.dialAddr(a, 80))
	second.Close()
	for { // its place becomes free when the door has seen it go
		c := in.dialAddr(a, 80)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: tools.local\r\n\r\n")
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			require.Equal(t, 200, res.StatusCode)
			break
		}
	}
	rs := in.closed()
	assert.Equal(t, CauseLimit+` Host::"tools.local"`, causes(rs)[0])
	assert.Len(t, ended(t, rs), 3)
}

// A request that was read in the moment before its connection was cut is not
// served.
func TestRequestReadBeforeTheCut(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	served := 0
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ })))
	_, far, err := tcpPair()
	require.NoError(t, err)
	s := in.door.now()
	a := &attempt{c: far, t: target{host: "tools.local", port: 80, proto: "tcp"}, known: true}
	f, ok := in.door.admit(a, s, s.rules.find("tools.local", 80)[0])
	require.True(t, ok)
	defer in.door.leave(far, f)
	ask := func() (aborted any) {
		defer func() { aborted = recover() }()
		r := httptest.NewRequest(http.MethodGet, "http://tools.local/", nil)
		r = r.WithContext(context.WithValue(r.Context(), connKey{}, &webConn{Conn: far, flow: f, door: in.door}))
		in.door.web.ServeHTTP(httptest.NewRecorder(), r)
		return nil
	}
	assert.Nil(t, ask())
	rules, err := in.door.Compile(nil, "sha256:none")
	require.NoError(t, err)
	require.NoError(t, in.door.Put(rules))
	assert.Equal(t, http.ErrAbortHandler, ask())
	assert.Equal(t, 1, served)
}
