package egress

import (
	"bufio"
	"crypto/tls"
	"fmt"
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

	"github.com/twinward-dev/twinward/audit"
)

// A flood of refused requests is counted, and does not hide what else happens.
func TestInspectFlood(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	in := newInside(t, inspected(httpRules(t, "", []HTTPRule{{Path: "/ok"}}, nil)), o.reach)
	c := in.clientOf("2")
	const n = requestDenialsEach + 36
	for i := range n {
		res, _ := do(t, c, "GET", fmt.Sprintf("https://example.com/%d", i), nil)
		require.Equal(t, 403, res.StatusCode)
	}
	res, _ := do(t, c, "GET", "https://example.com/%5c", nil)
	require.Equal(t, 403, res.StatusCode)
	in.closed()
	ds := in.log.Denials()
	require.Len(t, ds, requestDenialsEach+2)
	assert.Equal(t, "/0", ds[0].Detail["path"])
	assert.Equal(t, CauseSpelling, ds[requestDenialsEach].Decision.Reason)
	assert.Equal(t, "36", ds[requestDenialsEach+1].Detail["repeated"])
}

// Requests of any size are refused before they take memory.
func TestInspectHeaderLimits(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	in := newInside(t, inspected(nil), o.reach)
	in.addr("example.com")
	for name, say := range map[string]string{
		"header":  "GET / HTTP/1.1\r\nHost: example.com\r\nX: " + long(maxHeader+8<<10) + "\r\n\r\n",
		"headers": "GET / HTTP/1.1\r\nHost: example.com\r\n" + strings.Repeat("X: yyyyyyyy\r\n", maxHeader/8) + "\r\n",
		"target":  "GET /" + long(maxHeader+8<<10) + " HTTP/1.1\r\nHost: example.com\r\n\r\n",
		"path":    "GET /" + long(maxPath) + " HTTP/1.1\r\nHost: example.com\r\n\r\n",
	} {
		c := in.dial("example.com", 80)
		go io.WriteString(c, say)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err, name)
		want := http.StatusRequestHeaderFieldsTooLarge
		if name == "path" {
			want = http.StatusForbidden
		}
		assert.Equal(t, want, res.StatusCode, name)
		c.Close()
	}
	assert.Empty(t, o.reached())
}

// When the session ends, whatever a request was doing ends, and nothing is left.
func TestInspectCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("door", func(t *testing.T) {
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ws" {
				upgrader(w, r)
				return
			}
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Write([]byte("x"))
			http.NewResponseController(w).Flush()
			io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/stays" {
				<-r.Context().Done()
			}
		})
		in := newInside(t, inspected(nil), o.reach)
		var bodies []io.Closer
		for _, protocol := range []string{"1", "2"} {
			c := in.clientOf(protocol)
			for _, base := range []string{"https://example.com", "http://example.com"} {
				do(t, c, "GET", base+"/", nil) // leaves an idle connection
				res, err := c.Get(base + "/stays")
				require.NoError(t, err)
				bodies = append(bodies, res.Body)
				r, w := io.Pipe()
				res, err = c.Post(base+"/upload", "", r)
				require.NoError(t, err)
				bodies = append(bodies, res.Body, w)
			}
		}
		ws := in.dial("example.com", 80)
		fmt.Fprintf(ws, "GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(ws), nil)
		require.NoError(t, err)
		require.Equal(t, 101, res.StatusCode)
		in.dial("example.com", 443) // says nothing
		in.dial("example.com", 80)
		rs := in.closed()
		outs := ended(t, rs)
		require.Len(t, outs, 13)
		cancelled := 0
		for _, out := range outs {
			cancelled += b2i(out.Status == audit.StatusCancelled)
		}
		assert.Equal(t, 9, cancelled)
		for _, b := range bodies {
			b.Close()
		}
	})
	settled(t, before)
}

// Connections to real hosts are bounded like those of programs.
func TestInspectUpstreamsAreBounded(t *testing.T) {
	stop := make(chan struct{})
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("x"))
		http.NewResponseController(w).Flush()
		if r.URL.Path == "/stays" {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}
	})
	defer close(stop)
	in := newInside(t, inspected(nil), func(c *Config) { o.reach(c); c.MaxConns = 3 })
	c := in.clientOf("2") // one connection here, one for each request there
	for range 3 {
		res, err := c.Get("http://example.com:80/stays")
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, 200, res.StatusCode)
	}
	// HTTP/2 in the clear shares its connection.
	assert.Equal(t, int64(1), in.door.inspector.pools.open.Load())
	in.door.inspector.pools.open.Add(2)
	res, body := do(t, c, "GET", "https://example.com/", nil)
	assert.Equal(t, 503, res.StatusCode)
	assert.Contains(t, body, "too_many_connections")
	in.door.inspector.pools.open.Add(-2)
}

func TestLeavesAreBounded(t *testing.T) {
	ca, err := NewCA(time.Now())
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range maxLeaves + 10 {
		wg.Go(func() {
			name := fmt.Sprintf("n%d.example.com", i)
			assert.Same(t, ca.config("same.example.com").RootCAs, ca.config("same.example.com").RootCAs)
			cert, err := ca.config(name).GetCertificate(&tls.ClientHelloInfo{ServerName: strings.ToUpper(name)})
			if assert.NoError(t, err) {
				assert.Len(t, cert.Certificate, 2)
			}
			_, err = ca.config(name).GetCertificate(&tls.ClientHelloInfo{ServerName: "other.example.com"})
			assert.Error(t, err)
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, len(ca.leaves), maxLeaves)
}

// Whatever bytes a program sends, only what the rules allow arrives, and as it
// was judged.
func FuzzInspect(f *testing.F) {
	const h = "Host: example.com\r\n"
	for _, s := range []string{
		"GET /ok HTTP/1.1\r\n" + h + "\r\n",
		"POST /ok HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /no HTTP/1.1\r\n" + h + "\r\n",
		"GET /ok/%2e%2e/no HTTP/1.1\r\n" + h + "Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
		"GET http://example.com/no HTTP/1.1\r\n" + h + "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /ok;/..%2fno HTTP/1.0\r\n" + h + " x: y\r\n\r\n",
	} {
		f.Add(s)
	}
	o := newOrigin(f, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	in := newInside(f, inspected(httpRules(f, "", []HTTPRule{{Methods: []string{"GET", "POST"}, Path: "/ok/**"}, {Methods: []string{"GET"}, Path: "/ok"}}, nil)), func(c *Config) {
		o.reach(c)
		c.Log = discard{}
	})
	at := netip.AddrPortFrom(in.addr("example.com"), 80)
	f.Fuzz(func(t *testing.T, say string) {
		c, err := in.ports[80].dial(at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			io.WriteString(c, say)
			io.WriteString(c, "\r\n\r\nGET /ok HTTP/1.1\r\n"+h+"Connection: close\r\n\r\n")
			c.(*net.TCPConn).CloseWrite()
		}()
		c.SetReadDeadline(time.Now().Add(time.Second))
		io.Copy(io.Discard, c)
		for _, line := range o.reached() {
			f := strings.Fields(line)
			if p, err := canonicalPath(strings.SplitN(f[2], "?", 2)[0]); len(f) != 3 || err != nil || p.text != strings.SplitN(f[2], "?", 2)[0] ||
				f[1] != "GET" && f[1] != "POST" || !strings.HasPrefix(p.text+"/", "/ok/") {
				t.Fatalf("%q let %q through", say, line)
			}
		}
		o.mu.Lock()
		o.lines = nil
		o.mu.Unlock()
	})
}
