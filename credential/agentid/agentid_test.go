package agentid

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

var by = audit.Change{By: "alice", Reason: "TICKET-1"}

// A journal is a log that remembers, and fails on demand.
type journal struct {
	audit.Recorder
	mu     sync.Mutex
	events []audit.Event
	err    error
	before func(ctx context.Context, ev audit.Event)
}

func (j *journal) Append(ctx context.Context, ev audit.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.before != nil {
		j.before(ctx, ev)
	}
	if j.err == nil {
		j.events = append(j.events, ev)
	}
	return j.err
}

func (j *journal) actions() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for _, ev := range j.events {
		out = append(out, fmt.Sprintf("%s %s %s", ev.Kind, ev.Action, ev.Resource))
	}
	return out
}

// A clock stands still until it is told otherwise.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_800_000_000, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func newRegistry(t testing.TB, opts *Options) (*Registry, *journal) {
	t.Helper()
	log := &journal{}
	r, err := NewRegistry(log, opts)
	require.NoError(t, err)
	return r, log
}

func register(t testing.TB, r *Registry, id string) string {
	t.Helper()
	s, err := r.Register(context.Background(), Agent{ID: id, Owner: "team-a", Profile: "standup"}, by)
	require.NoError(t, err)
	var text string
	require.NoError(t, s.Use(func(b []byte) error { text = string(b); return nil }))
	return text
}

func TestNewRegistry(t *testing.T) {
	for _, opts := range []Options{
		{Issuer: "http://issuer.example"}, {Issuer: "https://issuer.example/"}, {Issuer: "HTTPS://issuer.example"},
		{Issuer: "https://issuer.example?x"}, {Issuer: "https://issuer.example#x"}, {Issuer: "issuer"},
		{TokenTTL: time.Millisecond}, {TokenTTL: 2 * time.Hour}, {TokenTTL: -1}, {Resource: "tools"},
	} {
		_, err := NewRegistry(&journal{}, &opts)
		assert.Error(t, err, "%+v", opts)
	}
	for _, opts := range []*Options{nil, {}, {Issuer: "https://issuer.example/a/b"}, {Issuer: "http://127.0.0.1:8080"}} {
		_, err := NewRegistry(&journal{}, opts)
		assert.NoError(t, err)
	}
}

func TestRegister(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, nil)
	log.before = func(context.Context, audit.Event) {
		_, err := r.Lookup("standup")
		assert.ErrorIs(t, err, ErrUnknown, "on record before it takes effect")
	}
	secret := register(t, r, "standup")
	log.before = nil
	assert.Len(t, secret, 47)
	assert.NotEqual(t, secret, register(t, r, "other"))
	assert.Equal(t, audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "register_agent", Resource: `Agent::"standup"`,
		Change: &by, Detail: map[string]string{"owner": "team-a", "profile": "standup"},
	}, log.events[0])
	got, err := r.Lookup("standup")
	require.NoError(t, err)
	assert.Equal(t, Agent{ID: "standup", Owner: "team-a", Profile: "standup"}, got)

	for _, c := range []struct {
		a  Agent
		by audit.Change
	}{
		{Agent{ID: "new", Owner: "x"}, audit.Change{By: "alice"}},
		{Agent{ID: "new", Owner: "x"}, audit.Change{Reason: "because"}},
		{Agent{ID: "new"}, by},
		{Agent{ID: "", Owner: "x"}, by},
		{Agent{ID: ".new", Owner: "x"}, by},
		{Agent{ID: "new agent", Owner: "x"}, by},
		{Agent{ID: "n\u00e9w", Owner: "x"}, by},
		{Agent{ID: strings.Repeat("a", 129), Owner: "x"}, by},
		{Agent{ID: "standup", Owner: "x"}, by},
	} {
		_, err := r.Register(ctx, c.a, c.by)
		assert.Error(t, err, "%+v", c)
	}
	_, err = r.Register(ctx, Agent{ID: "standup", Owner: "mallory"}, by)
	assert.ErrorIs(t, err, ErrExists)
	_, err = r.Register(ctx, Agent{ID: "new", Owner: "x"}, audit.Change{})
	assert.ErrorIs(t, err, audit.ErrNoAuthority)
	assert.Len(t, log.events, 2)

	log.err = errors.New("disk full")
	_, err = r.Register(ctx, Agent{ID: "new", Owner: "x"}, by)
	require.ErrorIs(t, err, log.err)
	_, err = r.Lookup("new")
	assert.ErrorIs(t, err, ErrUnknown, "no record, no agent")

	none, err := NewRegistry(nil, nil)
	require.NoError(t, err)
	_, err = none.Register(ctx, Agent{ID: "new", Owner: "x"}, by)
	assert.ErrorIs(t, err, audit.ErrNoLog)
}

func TestActor(t *testing.T) {
	r, _ := newRegistry(t, nil)
	register(t, r, "standup")
	a, err := r.Actor("standup")
	require.NoError(t, err)
	assert.Equal(t, audit.Actor{Agent: "standup", Issuer: "session", Profile: "standup"}, a)
	_, err = r.Actor("other")
	assert.ErrorIs(t, err, ErrUnknown)
	require.NoError(t, r.Revoke(context.Background(), "standup", by))
	a, err = r.Actor("standup")
	assert.ErrorIs(t, err, ErrRevoked)
	assert.Zero(t, a)
}

func TestContext(t *testing.T) {
	ctx := context.Background()
	r, _ := newRegistry(t, nil)
	register(t, r, "standup")
	actor, err := r.Actor("standup")
	require.NoError(t, err)

	for _, c := range []struct {
		actor audit.Actor
		want  error
	}{
		{audit.Actor{}, ErrUnknown},
		{audit.Actor{Agent: "other"}, ErrUnknown},
		{audit.Actor{Agent: "standup", Profile: "admin"}, ErrActor},
		{audit.Actor{Agent: "standup"}, ErrActor},
	} {
		got, _, err := r.Context(ctx, c.actor)
		assert.ErrorIs(t, err, c.want)
		assert.Nil(t, got)
	}

	parent, cancelParent := context.WithCancel(context.WithValue(ctx, clock{}, "kept"))
	first, cancelFirst, err := r.Context(parent, actor)
	require.NoError(t, err)
	second, cancelSecond, err := r.Context(ctx, actor)
	require.NoError(t, err)
	defer cancelSecond()
	assert.Equal(t, "kept", first.Value(clock{}))
	assert.NoError(t, first.Err())
	cancelFirst()
	cancelFirst()
	assert.ErrorIs(t, first.Err(), context.Canceled)
	assert.NotErrorIs(t, context.Cause(first), ErrRevoked)
	assert.NoError(t, second.Err(), "one call ends, the other goes on")
	assert.Len(t, r.agents["standup"].running, 1, "nothing is kept of a call that ended")

	require.NoError(t, r.Revoke(ctx, "standup", by))
	assert.ErrorIs(t, second.Err(), context.Canceled)
	assert.ErrorIs(t, context.Cause(second), ErrRevoked)
	_, _, err = r.Context(ctx, actor)
	assert.ErrorIs(t, err, ErrRevoked)
	cancelParent()
}

// A caller that forgets the CancelFunc still leaves nothing behind once its own
// context has ended.
func TestContextForgotten(t *testing.T) {
	r, _ := newRegistry(t, nil)
	register(t, r, "standup")
	actor, err := r.Actor("standup")
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(context.Background())
		_, _, err := r.Context(parent, actor) //nolint:govet // on purpose
		require.NoError(t, err)
		cancel()
		synctest.Wait()
		assert.Empty(t, r.agents["standup"].running)
	})
}

func TestRevoke(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, nil)
	register(t, r, "standup")
	actor, err := r.Actor("standup")
	require.NoError(t, err)
	call, cancel, err := r.Context(ctx, actor)
	require.NoError(t, err)
	defer cancel()

	assert.ErrorIs(t, r.Revoke(ctx, "standup", audit.Change{}), audit.ErrNoAuthority)
	assert.ErrorIs(t, r.Revoke(ctx, "other", by), ErrUnknown)
	assert.NoError(t, call.Err(), "neither did anything")

	// The log is down and the caller has left: it takes effect all the same.
	log.err = errors.New("disk full")
	gone, leave := context.WithCancel(ctx)
	leave()
	log.before = func(ctx context.Context, _ audit.Event) {
		assert.NoError(t, ctx.Err(), "the record is tried although the caller has left")
		assert.ErrorIs(t, context.Cause(call), ErrRevoked, "effect first")
	}
	err = r.Revoke(gone, "standup", by)
	assert.ErrorIs(t, err, ErrNotRecorded)
	assert.ErrorIs(t, err, log.err)
	_, err = r.Actor("standup")
	assert.ErrorIs(t, err, ErrRevoked)

	// Repeating it brings it on record.
	log.err, log.before = nil, nil
	require.NoError(t, r.Revoke(ctx, "standup", by))
	assert.Equal(t, []string{`identity register_agent Agent::"standup"`, `identity revoke_agent Agent::"standup"`}, log.actions())
	assert.Equal(t, &by, log.events[1].Change)
}

func TestReinstate(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	token := issueFor(t, r, "standup", secret, "https://tools.local/mcp")
	require.NoError(t, r.Revoke(ctx, "standup", by))

	assert.ErrorIs(t, r.Reinstate(ctx, "standup", audit.Change{}), audit.ErrNoAuthority)
	assert.ErrorIs(t, r.Reinstate(ctx, "other", by), ErrUnknown)
	log.err = errors.New("disk full")
	assert.ErrorIs(t, r.Reinstate(ctx, "standup", by), log.err)
	_, err := r.Actor("standup")
	assert.ErrorIs(t, err, ErrRevoked, "no record, no power")

	log.err = nil
	require.NoError(t, r.Reinstate(ctx, "standup", by))
	_, err = r.Actor("standup")
	assert.NoError(t, err)
	_, _, err = r.Verify(ctx, token, "https://tools.local/mcp")
	assert.ErrorIs(t, err, ErrRevoked, "tokens from before stay void")
	token = issueFor(t, r, "standup", secret, "https://tools.local/mcp")
	_, _, err = r.Verify(ctx, token, "https://tools.local/mcp")
	assert.NoError(t, err)
}

// A log that hangs does not hold up a revocation.
func TestRevokeWhileTheLogHangs(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, nil)
	register(t, r, "standup")
	actor, err := r.Actor("standup")
	require.NoError(t, err)
	call, cancel, err := r.Context(ctx, actor)
	require.NoError(t, err)
	defer cancel()
	hanging, release := make(chan struct{}), make(chan struct{})
	log.before = func(_ context.Context, ev audit.Event) {
		if ev.Action == "register_agent" {
			close(hanging)
			<-release
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := r.Register(ctx, Agent{ID: "new", Owner: "x"}, by)
		assert.NoError(t, err)
	})
	<-hanging
	wg.Go(func() { assert.NoError(t, r.Revoke(ctx, "standup", by)) })
	<-call.Done()
	assert.ErrorIs(t, context.Cause(call), ErrRevoked)
	close(release)
	wg.Wait()
}

// A revocation is not undone by a reinstatement that was under way.
func TestRevokeWhileReinstating(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, nil)
	register(t, r, "standup")
	require.NoError(t, r.Revoke(ctx, "standup", by))
	again := make(chan error, 1)
	log.before = func(_ context.Context, ev audit.Event) {
		if ev.Action != "reinstate_agent" {
			return
		}
		life := lifeOf(r, "standup")
		go func() { again <- r.Revoke(ctx, "standup", by) }()
		for lifeOf(r, "standup") == life { // until it took effect; its record waits for this one
			runtime.Gosched()
		}
	}
	assert.ErrorIs(t, r.Reinstate(ctx, "standup", by), ErrRevoked)
	require.NoError(t, <-again)
	_, err := r.Actor("standup")
	assert.ErrorIs(t, err, ErrRevoked)
}

func lifeOf(r *Registry, id string) uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.agents[id].Life
}

// None starts after Revoke has returned, and all that had started are
// cancelled by then.
func TestRevokeWithCallsInFlight(t *testing.T) {
	ctx := context.Background()
	r, _ := newRegistry(t, nil)
	register(t, r, "standup")
	register(t, r, "bystander")
	actor, err := r.Actor("standup")
	require.NoError(t, err)
	bystander, err := r.Actor("bystander")
	require.NoError(t, err)
	other, cancel, err := r.Context(ctx, bystander)
	require.NoError(t, err)
	defer cancel()

	const n = 1000
	var revoked atomic.Bool
	var started atomic.Int32
	var wg sync.WaitGroup
	half := make(chan struct{})
	for range n {
		wg.Go(func() {
			late := revoked.Load()
			call, cancel, err := r.Context(ctx, actor)
			if started.Add(1) == n/2 {
				close(half)
			}
			if err != nil {
				assert.ErrorIs(t, err, ErrRevoked)
				return
			}
			assert.False(t, late, "started after Revoke had returned")
			defer cancel()
			<-call.Done()
			assert.ErrorIs(t, context.Cause(call), ErrRevoked)
		})
	}
	<-half
	require.NoError(t, r.Revoke(ctx, "standup", by))
	revoked.Store(true)
	wg.Wait()
	assert.NoError(t, other.Err(), "other agents go on")
}

func BenchmarkContext(b *testing.B) {
	r, _ := newRegistry(b, nil)
	register(b, r, "standup")
	actor, _ := r.Actor("standup")
	b.ReportAllocs()
	for b.Loop() {
		_, cancel, err := r.Context(context.Background(), actor)
		if err != nil {
			b.Fatal(err)
		}
		cancel()
	}
}

func BenchmarkRevoke1000(b *testing.B) {
	ctx := context.Background()
	r, _ := newRegistry(b, nil)
	register(b, r, "standup")
	actor, _ := r.Actor("standup")
	for b.Loop() {
		b.StopTimer()
		_ = r.Reinstate(ctx, "standup", by)
		for range 1000 {
			if _, _, err := r.Context(ctx, actor); err != nil { //nolint:govet // ended by Revoke
				b.Fatal(err)
			}
		}
		b.StartTimer()
		_ = r.Revoke(ctx, "standup", by)
	}
}

// Also where nobody asks for changes, as in a process of its own, what has expired
// does not pile up.
func TestMemoryStoreForgets(t *testing.T) {
	c := &clock{}
	m := NewMemoryStore(c.now)
	for i := range 100 {
		until := c.now().Add(time.Minute)
		require.NoError(t, m.Drop(t.Context(), Dropped{Token: Hash{byte(i)}, Expires: until}))
		require.NoError(t, m.AddKey(t.Context(), Key{ID: fmt.Sprint(i), Expires: until}))
		c.advance(time.Minute)
	}
	assert.Len(t, m.dropped, 1)
	assert.Len(t, m.keys, 1)
}
