package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// Events arrive one by one, and a program that leaves ends the request.
func TestInspectEvents(t *testing.T) {
	eachWay(t, func(t *testing.T, protocol, base string) {
		next, left := make(chan struct{}), make(chan struct{})
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				http.NewResponseController(w).Flush()
				<-next
			}
			<-r.Context().Done()
			close(left)
		})
		in := newInside(t, inspected(nil), o.reach)
		res, err := in.clientOf(protocol).Get(base + "/")
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
		out := ended(t, in.closed())
		require.Len(t, out, 1)
		assert.Equal(t, audit.StatusCancelled, out[0].Status)
	})
}

// A gRPC call streams both ways at once and ends in trailers; one that is not
// allowed ends as gRPC has it.
func TestInspectGRPC(t *testing.T) {
	for _, base := range []string{"https://example.com", "http://example.com"} {
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
			assert.Equal(t, "trailers", r.Header.Get("Te"))
			http.NewResponseController(w).Flush()
			for {
				m, err := frame(r.Body)
				if err != nil {
					break
				}
				writeFrame(w, append([]byte("re: "), m...))
				http.NewResponseController(w).Flush()
			}
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set("Grpc-Message", "done")
		})
		rules := httpRules(t, "", []HTTPRule{{Methods: []string{"POST"}, Path: "/echo.Echo/*"}}, []HTTPRule{{Path: "/echo.Echo/Delete"}})
		in := newInside(t, inspected(rules), o.reach)
		c := in.clientOf("2")
		call := func(method string, body io.Reader) *http.Response {
			req, err := http.NewRequest("POST", base+"/echo.Echo/"+method, body)
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/grpc")
			req.Header.Set("Te", "trailers")
			res, err := c.Do(req)
			require.NoError(t, err)
			return res
		}
		r, w := io.Pipe()
		res := call("Chat", r)
		for i := range 20 {
			writeFrame(w, []byte("message "+strconv.Itoa(i)))
			m, err := frame(res.Body)
			require.NoError(t, err)
			assert.Equal(t, "re: message "+strconv.Itoa(i), string(m))
		}
		w.Close()
		_, err := frame(res.Body)
		assert.ErrorIs(t, err, io.EOF)
		res.Body.Close()
		assert.Equal(t, "0", res.Trailer.Get("Grpc-Status"))
		assert.Equal(t, "done", res.Trailer.Get("Grpc-Message"))

		res = call("Delete", bytes.NewReader(nil))
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Empty(t, b)
		assert.Equal(t, "7 application/grpc 200", fmt.Sprint(res.Header.Get("Grpc-Status"), " ", res.Header.Get("Content-Type"), " ", res.StatusCode))
		assert.Contains(t, res.Header.Get("Grpc-Message"), "not%20allowed")
		assert.NotEmpty(t, res.Header.Get("Decision-Id"))
		assert.Len(t, o.reached(), 1)
	}
}

// frame reads one message of gRPC (a zero byte and its length go before it).
func frame(r io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFrame(w io.Writer, b []byte) {
	w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...))
}

// upgraded returns a server that turns connections into an echo of lines.
func upgrader(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "no upgrade", http.StatusUpgradeRequired)
		return
	}
	c, b, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: x\r\n\r\n", r.Header.Get("Upgrade"))
	io.Copy(c, b)
}

// A connection that was upgraded is judged at its beginning, and cut when rules
// do not allow it any more.
func TestInspectUpgrade(t *testing.T) {
	o := newOrigin(t, upgrader)
	get := func(paths ...string) *HTTPRules {
		var rs []HTTPRule
		for _, p := range paths {
			rs = append(rs, HTTPRule{Methods: []string{"GET"}, Path: p})
		}
		return httpRules(t, "", rs, nil)
	}
	in := newInside(t, inspected(get("/a", "/b")), o.reach)
	open := func(path, early string) (net.Conn, *bufio.Reader, int) {
		c := in.dial("example.com", 80)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		// What is sent before the answer is not lost.
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n%s", path, early)
		b := bufio.NewReader(c)
		res, err := http.ReadResponse(b, nil)
		require.NoError(t, err)
		return c, b, res.StatusCode
	}
	says := func(c net.Conn, b *bufio.Reader, line string) bool {
		fmt.Fprintln(c, line)
		got, err := b.ReadString('\n')
		return err == nil && got == line+"\n"
	}
	_, _, status := open("/c", "")
	assert.Equal(t, 403, status)
	a, ab, status := open("/a", "early\n")
	require.Equal(t, 101, status)
	line, err := ab.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "early\n", line)
	b, bb, status := open("/b", "")
	require.Equal(t, 101, status)
	assert.True(t, says(a, ab, "one"))
	assert.True(t, says(b, bb, "one"))

	in.put(inspected(get("/a"))...)
	assert.True(t, says(a, ab, "two"), "still allowed")
	_, err = bb.ReadByte()
	assert.Error(t, err)
	in.put()
	_, err = ab.ReadByte()
	assert.Error(t, err)
	rs := in.closed()
	outs := ended(t, rs)
	require.Len(t, outs, 2)
	for _, o := range outs {
		assert.Equal(t, outPolicy, o.ErrorCode)
		assert.Equal(t, "status:101", o.Checks[0])
	}
	assert.ElementsMatch(t, []int64{4, 14}, []int64{outs[0].Bytes, outs[1].Bytes})
}

// After new rules, requests on living connections are judged by them.
func TestInspectPut(t *testing.T) {
	eachWay(t, func(t *testing.T, protocol, base string) {
		stop := make(chan struct{})
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				w.Write([]byte("begun"))
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-stop:
				}
			}
		})
		defer close(stop)
		in := newInside(t, inspected(httpRules(t, "full", nil, nil)), o.reach)
		c := in.clientOf(protocol)
		status := func(method string) int { r, _ := do(t, c, method, base+"/", nil); return r.StatusCode }
		assert.Equal(t, 200, status("PUT"))
		res, err := c.Post(base+"/", "", nil)
		require.NoError(t, err)
		in.put(inspected(httpRules(t, "read-only", nil, nil))...)
		_, err = io.ReadAll(res.Body)
		assert.Error(t, err, "what the rules forbid is cut in the middle")
		res.Body.Close()
		assert.Equal(t, 403, status("PUT"))
		assert.Equal(t, 200, status("GET"))
		assert.Len(t, o.reached(), 3)
	})
}

// Bodies of any size go through whole, without being held here.
func TestInspectLargeBodies(t *testing.T) {
	size := int64(24 << 20)
	if os.Getenv("TWINWARD_FULL") == "" {
		size = 4 << 20
	}
	sum := func(h hash.Hash) string { return fmt.Sprintf("%x", h.Sum(nil)) }
	eachWay(t, func(t *testing.T, protocol, base string) {
		o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			h := sha256.New()
			if r.Method == "POST" {
				io.Copy(h, r.Body)
				fmt.Fprint(w, sum(h))
				return
			}
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			w.Header().Set("Trailer", "X-Sum")
			io.Copy(io.MultiWriter(w, h), noise(size))
		})
		in := newInside(t, inspected(nil), o.reach)
		c := in.clientOf(protocol)
		h := sha256.New()
		res, err := c.Post(base+"/", "", io.TeeReader(noise(size), h))
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, sum(h), string(b))
		res, err = c.Get(base + "/")
		require.NoError(t, err)
		h = sha256.New()
		n, err := io.Copy(h, res.Body)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, size, n)
		assert.Equal(t, string(b), sum(h), "the noise is the same")
		for _, out := range ended(t, in.closed()) {
			// The end of the session may overtake the last step of the last one.
			assert.Contains(t, []audit.Status{audit.StatusOK, audit.StatusCancelled}, out.Status)
			assert.Contains(t, out.Checks, "status:200")
		}
	})
}

func noise(size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), size)
}

// No answer is cut short, however the request and the answer overlap.
func TestInspectLosesNoStream(t *testing.T) {
	n := 400
	switch {
	case os.Getenv("TWINWARD_SOAK") != "":
		n = 10_000
	case os.Getenv("TWINWARD_FULL") != "":
		n = 1_000
	}
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 20 { // before the request was read to its end
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
		}
		io.Copy(io.Discard, r.Body)
	})
	want := ""
	for i := range 20 {
		want += fmt.Sprintf("data: %d\n\n", i)
	}
	in := newInside(t, inspected(httpRules(t, "full", nil, nil)), o.reach)
	var lost atomic.Int64
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for i := range 4 {
		c := in.clientOf([]string{"1", "2"}[i%2])
		base := []string{"https://example.com", "http://example.com"}[i/2]
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				res, err := c.Post(base+"/", "application/json", strings.NewReader(strings.Repeat("x", 190)))
				if err != nil {
					lost.Add(1)
					continue
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(b) != want {
					lost.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, lost.Load())
	assert.Len(t, ended(t, in.closed()), n)
}

// A redirect is followed by the program, so it comes back to the door; a name
// that changes its address is judged at each connection.
func TestInspectRedirectAndRebinding(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
		}
		w.Header().Set("Connection", "close")
	})
	var turn atomic.Int64
	in := newInside(t, append(inspected(nil), func() Rule {
		r := allow("10.example.com", []uint16{443})
		r.Protocol = ProtocolHTTPS
		return r
	}()), func(c *Config) {
		o.reach(c)
		resolver := c.Resolver
		c.Resolver = resolverFunc(func(host string) ([]netip.Addr, error) {
			if host == "example.com." && turn.Load() == 1 {
				return ips("169.254.169.254"), nil
			}
			return resolver.LookupNetIP(t.Context(), "ip", host)
		})
	})
	c := in.clientOf("1")
	c.CheckRedirect = nil
	res, body := do(t, c, "GET", "https://example.com/away?to=https://10.example.com/x", nil)
	assert.Equal(t, 403, res.StatusCode)
	assert.Contains(t, body, "ssrf_denied")
	turn.Store(1)
	in.put(inspected(nil)...) // no connection is left over
	res, body = do(t, c, "GET", "https://example.com/", nil)
	assert.Equal(t, 403, res.StatusCode, body)
	assert.Len(t, o.reached(), 1)
}

type resolverFunc func(host string) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	return f(host)
}
