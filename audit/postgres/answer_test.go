//go:build unix

package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/postgres"
)

// A cutter is a wire to the server that breaks when it is told to: before the
// server has seen what is stored, or after it has, and before the client hears so.
type cutter struct {
	t      testing.TB
	socket string // the server's
	net.Listener

	arm     atomic.Int32 // what to do with the next batch: see the constants
	lost    atomic.Int64 // answers that were cut off
	unasked atomic.Int64 // requests that were
	wg      sync.WaitGroup
}

const (
	asked    int32 = iota + 1 // cut the request off
	answered                  // cut the answer off
)

func newCutter(t testing.TB, db database) *cutter {
	dir := strings.Fields(strings.SplitN(db.DSN(), "host=", 2)[1])[0]
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), ".s.PGSQL.5432"))
	require.NoError(t, err)
	c := &cutter{t: t, socket: filepath.Join(dir, ".s.PGSQL.5432"), Listener: l}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.wg.Wait()
	})
	return c
}

// connect returns a pool of connections over the wire.
func (c *cutter) connect(db database) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(fmt.Sprintf("host=%s user=postgres dbname=%s", filepath.Dir(c.Addr().String()), db.name))
	require.NoError(c.t, err)
	pool, err := pgxpool.NewWithConfig(c.t.Context(), config)
	require.NoError(c.t, err)
	c.t.Cleanup(pool.Close)
	return pool
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", c.socket)
	if err != nil {
		return
	}
	defer server.Close()
	var storing atomic.Bool // a batch is on its way
	c.wg.Go(func() {
		defer server.Close()
		c.pass(client, server, func(b []byte) bool {
			if bytes.Contains(b, []byte(`{"seq":`)) {
				storing.Store(true)
				if c.arm.CompareAndSwap(asked, 0) {
					c.unasked.Add(1)
					return false
				}
			}
			return true
		})
	})
	c.pass(server, client, func(b []byte) bool {
		// The server says so when it has committed: it answers the whole request
		// at once.
		if storing.Load() && bytes.Contains(b, []byte("INSERT 0 1\x00")) {
			storing.Store(false)
			if c.arm.CompareAndSwap(answered, 0) {
				c.lost.Add(1)
				return false
			}
		}
		return true
	})
}

// pass copies until see says to cut.
func (c *cutter) pass(from, to net.Conn, see func([]byte) bool) {
	buf := make([]byte, 1<<20)
	for {
		n, err := from.Read(buf)
		if n > 0 && !see(buf[:n]) {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// A batch whose answer was lost is stored once, and one that never arrived is,
// too: nobody who was told that an act is on record was told wrongly, and no act
// is there twice.
func testAnswerIsLost(t *testing.T, server database, pool *pgxpool.Pool) {
	wire := newCutter(t, server)
	key := newKey(t, origin)
	log, err := postgres.Open(t.Context(), wire.connect(server), origin, &postgres.Options{Log: audit.Options{Key: key}})
	require.NoError(t, err)
	fill(t, log, 3) // the statement is prepared

	var acts atomic.Int64
	stop := make(chan struct{})
	var mu sync.Mutex
	done := map[uint64]string{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("call-%d-%d", w, i)
				call, err := log.Begin(context.Background(), intent(name))
				if !assert.NoError(t, err) {
					return
				}
				if !assert.NoError(t, call.End(context.Background(), audit.Outcome{Status: audit.StatusOK, ErrorCode: name})) {
					return
				}
				acts.Add(1)
				mu.Lock()
				done[call.Record()] = name
				mu.Unlock()
			}
		})
	}
	const cuts = 40
	for k := range cuts {
		how := answered
		if k%4 == 3 {
			how = asked
		}
		wire.arm.Store(how)
		require.Eventually(t, func() bool { return wire.arm.Load() == 0 || t.Failed() }, time.Minute, time.Millisecond)
		before := acts.Load()
		require.Eventually(t, func() bool { return acts.Load() > before+10 || t.Failed() }, time.Minute, time.Millisecond, "after cut %d", k)
	}
	close(stop)
	wg.Wait()
	require.NoError(t, log.Close())
	assert.EqualValues(t, cuts*3/4, wire.lost.Load())
	assert.EqualValues(t, cuts/4, wire.unasked.Load())

	rep := verify(t, pool, key)
	assert.True(t, rep.Closed)
	assert.Empty(t, rep.Open)
	assert.EqualValues(t, 6+2*acts.Load(), rep.Records)
	for r, err := range audit.Scan(t.Context(), postgres.FS(t.Context(), pool, origin), audit.Filter{}) {
		require.NoError(t, err)
		if r.Outcome != nil && r.Seq > 6 {
			require.Equal(t, done[r.Call], r.Outcome.ErrorCode)
			delete(done, r.Call)
		}
	}
	assert.Empty(t, done)
}
