package egress

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// put changes the rules of a door.
func (in *inside) put(rules ...Rule) {
	in.t.Helper()
	r, err := in.door.Compile(rules, "sha256:next")
	require.NoError(in.t, err)
	require.NoError(in.t, in.door.Put(r))
}

// echoHost answers each line with itself, on any number of connections.
func echoHost(t *testing.T) (dial func(context.Context, netip.AddrPort) (net.Conn, error)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
}

// says reports whether what is said on c comes back.
func says(c net.Conn, text string) bool {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return false
	}
	b := make([]byte, len(text))
	_, err := io.ReadFull(c, b)
	return err == nil && string(b) == text
}

// New rules cut what they forbid, and nothing else.
func TestPutCutsWhatIsForbidden(t *testing.T) {
	dial := echoHost(t)
	port := []uint16{5432}
	a, b, p := allow("a.example.com", port), allow("b.example.com", port), allow("p.example.com", port, "private")
	in := newInside(t, []Rule{a, b, p, allow("tools.local", bothPorts)}, func(c *Config) {
		c.Resolver = fakeResolver{"a.example.com.": ips("93.184.216.34"), "b.example.com.": ips("93.184.216.34"), "p.example.com.": ips("10.0.0.1")}
		c.Dial = dial
	})
	conns := map[string]net.Conn{}
	for _, n := range []string{"a", "b", "p"} {
		conns[n] = in.dial(n+".example.com", 5432)
		require.True(t, says(conns[n], n))
	}
	released := make(chan struct{})
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "begun")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(released)
	})))
	res, err := in.client().Get("https://tools.local/")
	require.NoError(t, err)

	in.put(a, allow("**.example.com", port), allow("p.example.com", port), allow("tools.local", bothPorts))
	assert.True(t, says(conns["a"], "again"), "the same rule")
	assert.True(t, says(conns["b"], "again"), "another rule, which lets it through the same way")
	in.refused(conns["p"])
	in.put(a)
	in.refused(conns["b"])
	assert.True(t, says(conns["a"], "again"))
	<-released
	_, err = io.ReadAll(res.Body)
	assert.Error(t, err, "a response that was cut does not look complete")
	res.Body.Close()
	in.put(allow("a.example.com", port, "served"))
	in.refused(conns["a"])
	assert.Empty(t, in.ask("b.example.com.", 1).Answers, "the name is gone")
	assert.Len(t, in.ask("a.example.com.", 1).Answers, 1)

	rs := in.closed()
	assert.Empty(t, causes(rs)[1:], "one denial, of the name that is gone")
	codes := map[string]int{}
	for _, o := range ended(t, rs) {
		codes[o.ErrorCode]++
	}
	assert.Equal(t, map[string]int{outPolicy: 4}, codes)
}

// A list that cannot be put into force changes nothing.
func TestPutOfInvalidRules(t *testing.T) {
	in := newInside(t, []Rule{allow("a.example.com", []uint16{5432})}, nil)
	_, err := in.door.Compile([]Rule{{Ports: []uint16{1}, Protocol: "gopher"}}, "x")
	require.Error(t, err)
	assert.Len(t, in.ask("a.example.com.", 1).Answers, 1)
	r, err := in.door.Compile(nil, "x")
	require.NoError(t, err)
	in.closed()
	assert.ErrorIs(t, in.door.Put(r), ErrClosed)
}

// Requests of many programs while the rules come and go: once Put has returned,
// nothing is decided, served or dialled by what was before.
func TestNothingIsDecidedByStaleRules(t *testing.T) {
	requests, reloads := 600, 30
	switch {
	case os.Getenv("TWINWARD_SOAK") != "":
		requests, reloads = 10_000, 200
	case os.Getenv("TWINWARD_FULL") != "":
		requests, reloads = 1_000, 40
	}
	const port = 5432
	real, on := allow("a.example.com", []uint16{port}), allow("tools.local", bothPorts)
	var none atomic.Bool // the empty list is in force
	var stale, served, dialled atomic.Int64
	dial := echoHost(t)
	in := newInside(t, []Rule{real, on}, func(c *Config) {
		c.MaxConns = 1024
		c.Resolver = fakeResolver{"a.example.com.": ips("93.184.216.34")}
		c.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			if none.Load() && ctx.Err() == nil {
				stale.Add(1)
			}
			dialled.Add(1)
			return dial(ctx, to)
		}
	})
	tools, host := in.addr("tools.local"), in.addr("a.example.com")
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if none.Load() && r.Context().Err() == nil {
			stale.Add(1)
		}
		served.Add(1)
		io.WriteString(w, "ok")
	})))
	var left atomic.Int64
	left.Store(int64(requests))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				return in.ports[80].dial(netip.AddrPortFrom(tools, 80))
			}}
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: time.Minute}
			for left.Add(-1) >= 0 {
				if rand.IntN(4) > 0 {
					if res, err := client.Get("http://tools.local/"); err == nil {
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
					continue
				}
				c, err := in.ports[port].dial(netip.AddrPortFrom(host, port))
				if err != nil {
					continue
				}
				says(c, "x"+strconv.Itoa(rand.Int()))
				c.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	n := 0
	for busy := true; n < reloads || busy; n++ {
		in.put()
		none.Store(true)
		select {
		case <-done:
			busy = false
		case <-time.After(time.Millisecond):
		}
		none.Store(false)
		in.put(real, on)
		select {
		case <-done:
			busy = false
		case <-time.After(time.Millisecond):
		}
	}
	in.closed()
	assert.Zero(t, stale.Load())
	assert.NotZero(t, served.Load())
	assert.NotZero(t, dialled.Load())
	t.Logf("%d requests, %d reloads, %d served, %d dialled", requests, 2*n, served.Load(), dialled.Load())
}

// BenchmarkPut replaces a list of 200 rules by half of it while 200 connections
// are open, of which 100 are cut.
func BenchmarkPut(b *testing.B) {
	var rules []Rule
	for i := range 200 {
		rules = append(rules, allow(fmt.Sprintf("h%d.example.com", i), []uint16{5432}))
	}
	ca, err := NewCA(time.Now())
	require.NoError(b, err)
	d, err := New(Config{Rules: rules, Actor: theActor, Log: audittest.NewLog(b), CA: ca})
	require.NoError(b, err)
	defer d.Close()
	put := func(rules []Rule) {
		r, err := d.Compile(rules, "x")
		require.NoError(b, err)
		require.NoError(b, d.Put(r))
	}
	for b.Loop() {
		b.StopTimer()
		put(rules)
		var conns []net.Conn
		for i := range 200 {
			near, far := net.Pipe()
			conns = append(conns, near, far)
			_, ok := d.admit(&attempt{c: far, t: target{host: fmt.Sprintf("h%d.example.com", i), port: 5432}}, d.now(), rules[i])
			require.True(b, ok)
		}
		b.StartTimer()
		put(rules[:100])
		b.StopTimer()
		d.mu.Lock()
		clear(d.open)
		d.mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		b.StartTimer()
	}
}
