//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/agentid/agentidtest"
)

var by = audit.Change{By: "alice", Reason: "TICKET-1"}

// eventually bounds what must happen, on a machine with other work to do.
const eventually = 30 * time.Second

// A link is one host's line to the server, which can be cut: then nothing
// arrives any more, and nobody is told until it is mended.
type link struct {
	mu     sync.Mutex
	cut    bool
	cables []net.Conn
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
	for _, c := range l.cables { // of what was sent meanwhile nothing arrived
		_ = c.Close()
	}
	l.cables = nil
}

func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
}

func (l *link) whole() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cut
}

func (l *link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	for !l.whole() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cables = append(l.cables, c)
	return &cable{Conn: c, link: l}, nil
}

type cable struct {
	net.Conn
	link *link
}

// Read swallows what arrives while the line is cut.
func (c *cable) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || c.link.whole() {
			return n, err
		}
	}
}

func (c *cable) Write(b []byte) (int, error) {
	if !c.link.whole() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func connect(t testing.TB, s *pgtest.Server, l *link) *pgxpool.Pool {
	t.Helper()
	conf, err := pgxpool.ParseConfig(s.DSN())
	require.NoError(t, err)
	conf.MaxConns = 4
	if l != nil {
		conf.ConnConfig.DialFunc = l.dial
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), conf)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func open(t testing.TB, s *pgtest.Server, l *link) *Store {
	t.Helper()
	pool := connect(t, s, l)
	require.NoError(t, Migrate(context.Background(), pool))
	store, err := Open(context.Background(), pool)
	require.NoError(t, err)
	return store
}

// host returns a registry that follows the store.
func host(t testing.TB, store agentid.Store, opts agentid.Options) *agentid.Registry {
	t.Helper()
	opts.Store = store
	r, err := agentid.NewRegistry(audittest.NewLog(t), &opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Follow(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.ErrorIs(t, <-done, context.Canceled)
	})
	require.Eventually(t, func() bool { _, err := r.Agents(); return err == nil }, eventually, time.Millisecond)
	return r
}

func register(t testing.TB, r *agentid.Registry, id string) {
	t.Helper()
	_, err := r.Register(context.Background(), agentid.Agent{ID: id, Owner: "team-a"}, by)
	require.NoError(t, err)
}

// started waits until a host knows an agent, and starts something as it.
func started(t testing.TB, r *agentid.Registry, id string) context.Context {
	t.Helper()
	var actor audit.Actor
	require.Eventually(t, func() bool {
		var err error
		actor, err = r.Actor(id)
		return err == nil
	}, eventually, time.Millisecond)
	call, cancel, err := r.Context(context.Background(), actor)
	require.NoError(t, err)
	t.Cleanup(cancel)
	return call
}

func awaitEnd(t testing.TB, call context.Context, cause error) {
	t.Helper()
	select {
	case <-call.Done():
		assert.ErrorIs(t, context.Cause(call), cause)
	case <-time.After(eventually):
		t.Fatal("it goes on")
	}
}

func TestStore(t *testing.T) {
	s := pgtest.Start(t)
	agentidtest.TestStore(t, func(t *testing.T) (a, b agentid.Store) {
		pool := connect(t, s, nil)
		_, err := pool.Exec(context.Background(), `drop schema public cascade; create schema public`)
		require.NoError(t, err)
		return open(t, s, nil), open(t, s, nil)
	})
}

func TestSchema(t *testing.T) {
	ctx := context.Background()
	s := pgtest.Start(t)
	pool := connect(t, s, nil)
	_, err := Open(ctx, pool)
	assert.ErrorIs(t, err, ErrSchema)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { assert.NoError(t, Migrate(ctx, pool)) })
	}
	wg.Wait()
	store, err := Open(ctx, pool)
	require.NoError(t, err)

	// The database itself refuses to bring a revoked agent's life back.
	r := host(t, store, agentid.Options{})
	register(t, r, "standup")
	require.NoError(t, r.Revoke(ctx, "standup", by))
	for _, sql := range []string{
		`update twinward_agent set state = 'active'`,
		`update twinward_agent set version = version + 1, life = life - 1`,
		`update twinward_agent set state = 'unknown', version = version + 1`,
	} {
		_, err = pool.Exec(ctx, sql)
		assert.Error(t, err, sql)
	}
	_, err = pool.Exec(ctx, `insert into twinward_agent_schema (version) values (99)`)
	require.NoError(t, err)
	_, err = Open(ctx, pool)
	assert.ErrorIs(t, err, ErrSchema)
}

// Who is revoked on one host ends on all.
func TestRevokeOnEveryHost(t *testing.T) {
	ctx := context.Background()
	s := pgtest.Start(t)
	hosts := make([]*agentid.Registry, 4)
	for i := range hosts {
		hosts[i] = host(t, open(t, s, nil), agentid.Options{})
	}
	register(t, hosts[0], "standup")
	for round := range 4 {
		var calls []context.Context
		for _, h := range hosts {
			calls = append(calls, started(t, h, "standup"))
		}
		cause := agentid.ErrRevoked
		if round%2 == 0 {
			require.NoError(t, hosts[round].Revoke(ctx, "standup", by))
		} else {
			cause = agentid.ErrFrozen
			require.NoError(t, hosts[round].Freeze(ctx, "standup", by))
		}
		for i, call := range calls {
			awaitEnd(t, call, cause)
			_, err := hosts[i].Actor("standup")
			assert.ErrorIs(t, err, cause)
		}
		require.NoError(t, hosts[(round+1)%4].Reinstate(ctx, "standup", by))
	}
}

// Without notifications a host finds out by asking.
func TestRevokeWithoutNotification(t *testing.T) {
	s := pgtest.Start(t)
	a, b := host(t, open(t, s, nil), agentid.Options{}), host(t, deaf{open(t, s, nil)}, agentid.Options{})
	register(t, a, "standup")
	call := started(t, b, "standup")
	require.NoError(t, a.Revoke(context.Background(), "standup", by))
	awaitEnd(t, call, agentid.ErrRevoked)
}

// deaf is a store that nobody is notified by.
type deaf struct{ agentid.Store }

func (deaf) Listen(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// A host whose line is cut, without being told, denies everything after MaxStale
// and not before, and goes on when the line is back.
func TestHostLosesTheStore(t *testing.T) {
	ctx := context.Background()
	s := pgtest.Start(t)
	line := &link{}
	a := host(t, open(t, s, nil), agentid.Options{})
	b := host(t, open(t, s, line), agentid.Options{MaxStale: 5 * time.Second})
	register(t, a, "standup")
	register(t, a, "other")
	call, other := started(t, b, "standup"), started(t, b, "other")
	line.sever()
	lost := time.Now()
	require.NoError(t, a.Revoke(ctx, "standup", by))
	awaitEnd(t, call, agentid.ErrStale)
	awaitEnd(t, other, agentid.ErrStale)
	t.Logf("everything ended %v after the line was cut", time.Since(lost))
	_, err := b.Actor("other")
	assert.ErrorIs(t, err, agentid.ErrStale)
	assert.Error(t, b.Reinstate(ctx, "standup", by))
	assert.ErrorIs(t, b.Revoke(ctx, "other", by), agentid.ErrNotShared)

	line.mend()
	mended := time.Now()
	require.Eventually(t, func() bool { _, err := b.Actor("standup"); return errors.Is(err, agentid.ErrRevoked) }, eventually, time.Millisecond)
	require.Eventually(t, func() bool { _, err := a.Actor("other"); return errors.Is(err, agentid.ErrRevoked) }, eventually, time.Millisecond,
		"what b had ended without the store gets there")
	t.Logf("all is known %v after it was mended", time.Since(mended))
}

// The server is killed and comes back, again and again, while agents are
// registered, revoked and looked at. What was acknowledged is there; who was
// revoked is never seen again.
func TestKilledUnderLoad(t *testing.T) {
	kills := 3
	if os.Getenv("TWINWARD_SOAK") != "" {
		kills = 30
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	ctx := context.Background()
	s := pgtest.Start(t)
	a := host(t, open(t, s, nil), agentid.Options{MaxStale: time.Minute, Poll: 50 * time.Millisecond})
	b := host(t, open(t, s, nil), agentid.Options{MaxStale: time.Minute, Poll: 50 * time.Millisecond})

	var mu sync.Mutex
	var registered, revoked []string
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("a%d-%d", w, i)
				if _, err := a.Register(ctx, agentid.Agent{ID: id, Owner: "o"}, by); err != nil {
					time.Sleep(5 * time.Millisecond) // the server is away
					continue
				}
				mu.Lock()
				registered = append(registered, id)
				mu.Unlock()
				if i%2 == 0 {
					continue
				}
				// Done here in any case, and in the store now or later.
				if err := a.Revoke(ctx, id, by); err == nil || errors.Is(err, agentid.ErrNotShared) {
					mu.Lock()
					revoked = append(revoked, id)
					mu.Unlock()
				} else {
					t.Errorf("revoke: %v", err)
				}
				if _, err := a.Actor(id); !errors.Is(err, agentid.ErrRevoked) {
					t.Errorf("%s acts after it was revoked: %v", id, err)
				}
			}
		})
	}
	wg.Go(func() { // on the other host nobody comes back
		gone := map[string]bool{}
		for {
			select {
			case <-stop:
				return
			default:
			}
			all, err := b.Agents()
			if err != nil {
				continue
			}
			for _, e := range all {
				if e.State == agentid.Revoked {
					gone[e.ID] = true
				} else if gone[e.ID] {
					t.Errorf("%s came back", e.ID)
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	for range kills {
		time.Sleep(time.Duration(100+rnd.IntN(300)) * time.Millisecond)
		s.Kill()
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		s.Run()
	}
	time.Sleep(200 * time.Millisecond)
	close(stop)
	wg.Wait()
	t.Logf("%d registered, %d revoked, %d kills", len(registered), len(revoked), kills)
	require.NotEmpty(t, revoked)

	fresh := host(t, open(t, s, nil), agentid.Options{})
	for _, id := range registered {
		want := error(nil)
		if slices.Contains(revoked, id) {
			want = agentid.ErrRevoked
		}
		for _, h := range []*agentid.Registry{fresh, b} {
			if !assert.Eventually(t, func() bool {
				_, err := h.Actor(id)
				return errors.Is(err, want) && (err == nil) == (want == nil)
			}, eventually, time.Millisecond, id) {
				return
			}
		}
	}
}

// A thousand calls on each of three hosts: all are cancelled, and on each host
// none starts after the first was seen to be.
func TestRevokeWithCallsInFlightOnEveryHost(t *testing.T) {
	ctx := context.Background()
	s := pgtest.Start(t)
	const calls = 1000
	var hosts []*agentid.Registry
	for range 3 {
		hosts = append(hosts, host(t, open(t, s, nil), agentid.Options{}))
	}
	register(t, hosts[0], "standup")
	register(t, hosts[0], "bystander")
	var ended, late atomic.Int32
	var wg sync.WaitGroup
	for _, h := range hosts {
		bystander := started(t, h, "bystander")
		defer func() { assert.NoError(t, bystander.Err(), "other agents go on") }()
		started(t, h, "standup")
		var over atomic.Bool
		for range calls {
			call, cancel, err := h.Context(ctx, audit.Actor{Agent: "standup"})
			require.NoError(t, err)
			wg.Go(func() {
				defer cancel()
				<-call.Done()
				over.Store(true)
				if errors.Is(context.Cause(call), agentid.ErrRevoked) {
					ended.Add(1)
				}
			})
		}
		wg.Go(func() { // somebody goes on trying
			for {
				was := over.Load()
				_, cancel, err := h.Context(ctx, audit.Actor{Agent: "standup"})
				if err != nil {
					return
				}
				cancel()
				if was {
					late.Add(1)
				}
			}
		})
	}
	begin := time.Now()
	require.NoError(t, hosts[1].Revoke(ctx, "standup", by))
	wg.Wait()
	t.Logf("%d calls on %d hosts ended within %v", ended.Load(), len(hosts), time.Since(begin))
	assert.Equal(t, int32(calls*len(hosts)), ended.Load())
	assert.Zero(t, late.Load())
}

// A proof is good once, on all hosts.
func TestProofsAreGoodOnceOnAllHosts(t *testing.T) {
	ctx := context.Background()
	s := pgtest.Start(t)
	a, b := open(t, s, nil), open(t, s, nil)
	key := agentid.Hash{1}
	require.NoError(t, a.Once(ctx, key, time.Now().Add(time.Minute)))
	s.Kill()
	s.Run()
	require.Eventually(t, func() bool { return errors.Is(b.Once(ctx, key, time.Now().Add(time.Minute)), agentid.ErrReplay) }, eventually, 10*time.Millisecond,
		"not even after a crash")
}

// BenchmarkRevokeOnAnotherHost measures from the call of Revoke on one host until
// what ran on another has been cancelled.
func BenchmarkRevokeOnAnotherHost(b *testing.B) {
	ctx := context.Background()
	s := pgtest.Start(b)
	here, there := host(b, open(b, s, nil), agentid.Options{}), host(b, open(b, s, nil), agentid.Options{})
	register(b, here, "standup")
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		call := started(b, there, "standup")
		b.StartTimer()
		begin := time.Now()
		if err := here.Revoke(ctx, "standup", by); err != nil {
			b.Fatal(err)
		}
		<-call.Done()
		took = append(took, time.Since(begin))
		b.StopTimer()
		if err := here.Reinstate(ctx, "standup", by); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
}
