package egress

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBucket(t *testing.T) {
	b, now := newBucket(10), time.Now()
	n := 0
	for range 30 {
		if b.take(now) {
			n++
		}
	}
	assert.Equal(t, 10, n)
	now = now.Add(500 * time.Millisecond)
	for range 30 {
		if b.take(now) {
			n++
		}
	}
	assert.Equal(t, 15, n)
	assert.True(t, b.take(now.Add(time.Hour)))
}

// Not a byte more passes than a session or a connection may carry.
func TestByteLimits(t *testing.T) {
	const mb = 1 << 20
	send := func(l Limits, bytes int) (back int, in *inside) {
		dial := echoHost(t)
		in = newInside(t, []Rule{allow("a.example.com", []uint16{5432})}, func(c *Config) {
			c.Resolver, c.Dial, c.Limits = anyHost{}, dial, l
		})
		c := in.dial("a.example.com", 5432)
		go io.WriteString(c, strings.Repeat("x", bytes))
		c.SetDeadline(time.Now().Add(20 * time.Second))
		n, _ := io.CopyN(io.Discard, c, int64(bytes))
		return int(n), in
	}
	for _, c := range []struct {
		name   string
		limits Limits
		most   int
	}{
		{"sent", Limits{Sent: mb}, mb},
		{"received", Limits{Received: mb}, mb},
		{"sent by one", Limits{ConnectionSent: mb}, mb},
		{"received by one", Limits{ConnectionReceived: 100_000}, 100_000},
		{"none", Limits{}, 3 * mb},
	} {
		n, in := send(c.limits, 3*mb)
		assert.LessOrEqual(t, n, c.most, c.name)
		rs := in.closed()
		out := ended(t, rs)
		require.Len(t, out, 1)
		if c.name == "none" {
			assert.Equal(t, 3*mb, n)
			continue
		}
		assert.Equal(t, CauseBytes, out[0].ErrorCode, c.name)
		assert.Equal(t, []string{CauseBytes + ` Host::"a.example.com"`}, causes(rs), c.name)
	}
	// Two connections share what the session has.
	_, in := send(Limits{Received: 3 * mb}, 2*mb)
	c := in.dial("a.example.com", 5432)
	go io.WriteString(c, strings.Repeat("x", 2*mb))
	n, err := io.CopyN(io.Discard, c, 2*mb)
	assert.Error(t, err)
	assert.LessOrEqual(t, n, int64(mb))
}

func TestByteLimitOfServedNames(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, func(c *Config) { c.Limits.ConnectionReceived = 64 << 10 })
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 1<<20))
	})))
	res, err := in.client().Get("http://tools.local/")
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	assert.Error(t, err)
	assert.LessOrEqual(t, len(b), 64<<10)
	assert.Equal(t, []string{CauseBytes + ` Host::"tools.local"`}, causes(in.closed()))
}

func TestRates(t *testing.T) {
	in := newInside(t, []Rule{allow("a.example.com", []uint16{5432})}, func(c *Config) {
		c.Resolver, c.Dial = anyHost{}, echoHost(t)
		c.Limits = Limits{ConnectionsPerSecond: 1, QueriesPerSecond: 1}
	})
	addr := in.addr("a.example.com")
	for _, b := range []*bucket{in.door.queries, in.door.conns} {
		b.mu.Lock()
		b.at = time.Now().Add(time.Hour) // no time passes
		b.mu.Unlock()
	}
	assert.True(t, says(in.dialAddr(addr, 5432), "hello"))
	in.refused(in.dialAddr(addr, 5432))
	assert.Nil(t, in.door.resolve(question(t, "a.example.com.", 1)))
	assert.Equal(t, []string{CauseRate + ` Host::"a.example.com"`, CauseRate + ` Host::"*"`}, causes(in.closed()))
}
