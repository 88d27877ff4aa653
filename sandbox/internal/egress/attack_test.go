package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Over HTTP/2 a request says its host in three places. A handler never sees one
// that disagrees with the connection's name.
func TestHTTP2RequestsOfManyHosts(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	var seen []string
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Host+" "+r.URL.Host+" "+r.URL.Path+" "+r.Header.Get("Host"))
	})))
	do := func(method string, fields ...string) string {
		c := tls.Client(in.dial("tools.local", 443), &tls.Config{ServerName: "tools.local", InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		require.NoError(t, c.Handshake())
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, http2.ClientPreface)
		f := http2.NewFramer(c, c)
		require.NoError(t, f.WriteSettings())
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		enc.WriteField(hpack.HeaderField{Name: ":method", Value: method})
		for i := 0; i < len(fields); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		require.NoError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			frame, err := f.ReadFrame()
			switch h := frame.(type) {
			case *http2.MetaHeadersFrame:
				return h.PseudoValue("status")
			case *http2.RSTStreamFrame, *http2.GoAwayFrame:
				return "refused"
			}
			if err != nil {
				return "refused"
			}
		}
	}
	https := []string{":scheme", "https", ":authority", "tools.local", ":path", "/a"}
	assert.Equal(t, "200", do("GET", https...))
	for _, fields := range [][]string{
		{":scheme", "https", ":authority", "evil.com", ":path", "/a"},
		{":scheme", "https", ":authority", "tools.local", ":path", "https://evil.com/a"},
		{":scheme", "https", ":authority", "evil@tools.local", ":path", "/a"},
		{":scheme", "https", ":authority", "tools.local:80", ":path", "/a"},
		{":scheme", "https", ":path", "/a", "host", "evil.com"},
		{":scheme", "https", ":path", "/a"},
	} {
		assert.Contains(t, []string{"421", "400", "refused"}, do("GET", fields...), "%v", fields)
	}
	assert.Contains(t, []string{"421", "400", "refused"}, do("CONNECT", ":authority", "tools.local"))
	in.closed()
	assert.Equal(t, []string{"tools.local  /a "}, seen)
}

// While programs connect as fast as they can, a name goes from the real host to
// a handler: once Handle has returned, not a byte more reaches the real host,
// and nothing is answered by anybody else.
func TestHandleRacesConnections(t *testing.T) {
	rounds := 15
	if os.Getenv("TWINWARD_FULL") == "1" {
		rounds = 100
	}
	if os.Getenv("TWINWARD_SOAK") == "1" {
		rounds = 1000
	}
	for range rounds {
		var late, handled atomic.Bool
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					b := make([]byte, 64)
					for {
						n, err := c.Read(b)
						if err != nil {
							return
						}
						if handled.Load() && bytes.Contains(b[:n], []byte("after")) {
							late.Store(true)
						}
						c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal"))
					}
				}()
			}
		}()
		in := newInside(t, []Rule{allow("api.example.com", bothPorts)}, func(c *Config) {
			c.Resolver = fakeResolver{"api.example.com.": ips("93.184.216.34")}
			c.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
				return net.Dial("tcp", l.Addr().String())
			}
		})
		a := in.addr("api.example.com")
		var programs sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			programs.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c, err := in.ports[80].dial(netip.AddrPortFrom(a, 80))
					if err != nil {
						return
					}
					when := "before"
					if handled.Load() {
						when = "after" // this connection is made after Handle returned
					}
					fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n", when)
					c.SetDeadline(time.Now().Add(20 * time.Second))
					b, _ := io.ReadAll(io.LimitReader(c, 40))
					if when == "after" && bytes.Contains(b, []byte("real")) {
						late.Store(true)
					}
					c.Close()
				}
			})
		}
		require.NoError(t, in.door.Handle("api.example.com", http.HandlerFunc(echo)))
		handled.Store(true)
		res, err := in.client().Get("http://api.example.com/after")
		require.NoError(t, err)
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		assert.Contains(t, string(b), "standup")
		close(stop)
		programs.Wait()
		in.closed()
		l.Close()
		require.False(t, late.Load(), "the real host was reached through a name that is served")
	}
}

// The narrowest moment: the handler is registered while the real host is being
// dialled.
func TestHandleDuringDial(t *testing.T) {
	var in *inside
	heard := make(chan []byte, 1)
	in = newInside(t, []Rule{allow("api.example.com", []uint16{80, 5432})}, func(c *Config) {
		c.Resolver = fakeResolver{"api.example.com.": ips("93.184.216.34")}
		c.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
			near, far, err := tcpPair()
			if err != nil {
				return nil, err
			}
			go func() {
				defer near.Close()
				b, _ := io.ReadAll(near)
				heard <- b
			}()
			return far, in.door.Handle("api.example.com", http.HandlerFunc(echo))
		}
	})
	in.refused(in.dial("api.example.com", 5432), "secret")
	assert.Empty(t, <-heard)
	o := ended(t, in.closed())
	require.Len(t, o, 1)
	assert.Equal(t, "handler-registered", o[0].ErrorCode)
}

// Browsers send an ECH extension that means nothing. For a name that is served
// it is ignored: there is only one hello that this process can read.
func TestServedNamesIgnoreECH(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(echo)))
	c := in.dial("tools.local", 443)
	c.Write(record(append([]byte{1}, vec(3, helloBody(ext(0, vec(2, append([]byte{0}, vec(2, []byte("tools.local"))...))), ext(0xfe0d, []byte{0})))...)))
	io.ReadAll(c) // crypto/tls wants more than this hello
	rs := in.closed()
	assert.Empty(t, causes(rs))
	assert.Len(t, ended(t, rs), 1)
}
