package agentid

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// A flaky is a store that one host cannot reach when told so.
type flaky struct {
	Store
	mu   sync.Mutex
	down error
	lost bool // all that it held
}

func (f *flaky) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

func (f *flaky) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *flaky) forgot() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

func (f *flaky) Put(ctx context.Context, e Entry) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Store.Put(ctx, e)
}

func (f *flaky) Changes(ctx context.Context, seq uint64) (Changes, error) {
	if err := f.err(); err != nil {
		return Changes{}, err
	}
	if f.forgot() {
		return Changes{}, nil
	}
	return f.Store.Changes(ctx, seq)
}

func (f *flaky) Listen(ctx context.Context, wake func()) error {
	return f.Store.Listen(ctx, func() {
		if f.err() == nil {
			wake()
		}
	})
}

func (f *flaky) Grant(ctx context.Context, token Hash) (Grant, error) {
	if err := f.err(); err != nil {
		return Grant{}, err
	}
	return f.Store.Grant(ctx, token)
}

// A host is a registry that follows a store over a connection of its own.
type host struct {
	*Registry
	line *flaky
	log  *journal
}

func newHost(t testing.TB, s Store) *host {
	t.Helper()
	line := &flaky{Store: s}
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example", Store: line})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Follow(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.ErrorIs(t, <-done, context.Canceled)
	})
	return &host{r, line, log}
}

func TestTwoHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := NewMemoryStore(nil)
		a, b := newHost(t, s), newHost(t, s)
		synctest.Wait()
		secret := register(t, a.Registry, "standup")
		_, err := b.Register(ctx, Agent{ID: "standup", Owner: "mallory"}, by)
		assert.ErrorIs(t, err, ErrExists)
		token := issueFor(t, a.Registry, "standup", secret, tools)
		actor, _, err := b.Verify(ctx, token, tools)
		require.NoError(t, err, "issued on one host, verified on another")
		assert.Equal(t, audit.Actor{Agent: "standup", Issuer: "https://issuer.example", Profile: "standup"}, actor)
		_, _, err = b.Verify(ctx, token[:len(token)-1]+"_", tools)
		assert.ErrorIs(t, err, ErrToken)
		here, there := started(t, a.Registry, "standup"), started(t, b.Registry, "standup")

		require.NoError(t, a.Revoke(ctx, "standup", by))
		assert.ErrorIs(t, context.Cause(here), ErrRevoked)
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(there), ErrRevoked)
		_, _, err = b.Verify(ctx, token, tools)
		assert.ErrorIs(t, err, ErrRevoked)
		assert.Equal(t, 401, ask(b.Registry, basic("standup", secret), grant(tools)).Code)

		require.NoError(t, b.Reinstate(ctx, "standup", by))
		synctest.Wait()
		for _, h := range []*host{a, b} {
			_, _, err = h.Verify(ctx, token, tools)
			assert.ErrorIs(t, err, ErrRevoked, "tokens from before stay void")
		}
		there = started(t, b.Registry, "standup")
		require.NoError(t, a.Freeze(ctx, "standup", by))
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(there), audit.ErrFrozen)
		require.NoError(t, a.Reinstate(ctx, "standup", by))
		synctest.Wait()

		there = started(t, b.Registry, "standup")
		require.NoError(t, a.Assign(ctx, "standup", "triage", by))
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(there), ErrActor)
		agents, err := b.Agents()
		require.NoError(t, err)
		require.Len(t, agents, 1)
		assert.Equal(t, "triage", agents[0].Profile)
	})
}

// A host that was away while an agent was revoked and reinstated does not go on
// with what it had started before.
func TestMissedRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := NewMemoryStore(nil)
		a, b := newHost(t, s), newHost(t, s)
		synctest.Wait()
		register(t, a.Registry, "standup")
		synctest.Wait()
		call := started(t, b.Registry, "standup")
		b.line.set(errors.New("cable"))
		require.NoError(t, a.Revoke(ctx, "standup", by))
		require.NoError(t, a.Reinstate(ctx, "standup", by))
		synctest.Wait()
		assert.NoError(t, call.Err())
		b.line.set(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(call), ErrRevoked)
	})
}

func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := NewMemoryStore(nil)
		r, _ := newRegistry(t, &Options{Store: s})
		_, err := r.Actor("standup")
		assert.ErrorIs(t, err, ErrStale, "nobody follows yet")
		_, err = r.Agents()
		assert.ErrorIs(t, err, ErrStale)

		h := newHost(t, s)
		synctest.Wait()
		secret := register(t, h.Registry, "standup")
		token := issueFor(t, h.Registry, "standup", secret, tools)
		call := started(t, h.Registry, "standup")
		h.line.set(errors.New("cable"))
		time.Sleep(9 * time.Second)
		assert.NoError(t, call.Err())
		_, _, err = h.Verify(ctx, token, tools)
		assert.NoError(t, err)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(call), ErrStale)
		_, _, err = h.Verify(ctx, token, tools)
		assert.ErrorIs(t, err, ErrStale)
		_, err = h.Actor("standup")
		assert.ErrorIs(t, err, ErrStale)
		_, _, err = h.Context(ctx, audit.Actor{Agent: "standup", Profile: "standup"})
		assert.ErrorIs(t, err, ErrStale)
		assert.Equal(t, 401, ask(h.Registry, basic("standup", secret), grant(tools)).Code)

		h.line.set(nil)
		time.Sleep(time.Second)
		_, _, err = h.Verify(ctx, token, tools)
		assert.NoError(t, err)
	})
}

// An end that the store did not take holds here, and gets there later, even if
// another host has ended and reinstated the agent meanwhile.
func TestEndWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := NewMemoryStore(nil)
		a, b := newHost(t, s), newHost(t, s)
		synctest.Wait()
		secret := register(t, a.Registry, "standup")
		synctest.Wait()
		a.line.set(errors.New("cable"))
		err := a.Revoke(ctx, "standup", by)
		assert.ErrorIs(t, err, ErrNotShared)
		assert.NotErrorIs(t, err, ErrNotRecorded)
		assert.Equal(t, `identity revoke_agent Agent::"standup"`, a.log.actions()[1])
		_, err = a.Actor("standup")
		assert.ErrorIs(t, err, ErrRevoked)
		assert.Error(t, a.Reinstate(ctx, "standup", by), "not without the store")

		require.NoError(t, b.Revoke(ctx, "standup", by))
		require.NoError(t, b.Reinstate(ctx, "standup", by))
		token := issueFor(t, b.Registry, "standup", secret, tools)
		there := started(t, b.Registry, "standup")
		a.line.set(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(there), ErrRevoked)
		for _, h := range []*host{a, b} {
			_, err = h.Actor("standup")
			assert.ErrorIs(t, err, ErrRevoked)
		}
		require.NoError(t, a.Reinstate(ctx, "standup", by))
		synctest.Wait()
		for _, h := range []*host{a, b} {
			_, err = h.Actor("standup")
			assert.NoError(t, err)
			_, _, err = h.Verify(ctx, token, tools)
			assert.ErrorIs(t, err, ErrRevoked)
		}
	})
}

// An end that was left over, and that somebody else has shared, does not undo a
// reinstatement.
func TestLeftOverEnd(t *testing.T) {
	ctx := context.Background()
	r, _ := newRegistry(t, nil)
	register(t, r, "standup")
	require.NoError(t, r.Revoke(ctx, "standup", by))
	require.NoError(t, r.Reinstate(ctx, "standup", by))
	require.NoError(t, r.share(ctx, "standup", Revoked, true))
	_, err := r.Actor("standup")
	assert.NoError(t, err)
}

// A revoked agent is not turned into a frozen one by a host that did not know.
func TestFreezeLosesAgainstRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := NewMemoryStore(nil)
		a, b := newHost(t, s), newHost(t, s)
		synctest.Wait()
		register(t, a.Registry, "standup")
		synctest.Wait()
		b.line.set(errors.New("cable"))
		require.NoError(t, a.Revoke(ctx, "standup", by))
		assert.ErrorIs(t, b.Freeze(ctx, "standup", by), ErrNotShared)
		b.line.set(nil)
		time.Sleep(time.Second)
		_, err := b.Actor("standup")
		assert.ErrorIs(t, err, ErrRevoked)
		assert.NotErrorIs(t, err, ErrFrozen)
	})
}

func TestRewound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, NewMemoryStore(nil))
		synctest.Wait()
		register(t, h.Registry, "standup")
		synctest.Wait()
		h.line.mu.Lock()
		h.line.lost = true
		h.line.mu.Unlock()
		assert.ErrorIs(t, h.Sync(context.Background()), ErrRewound)
		time.Sleep(10 * time.Second)
		_, err := h.Actor("standup")
		assert.ErrorIs(t, err, ErrStale)
	})
}

// A backup is put back, and others go on from there, before a host that was cut
// off meanwhile asks again: it must not take their later changes for those that it
// has not seen, for it would miss the earlier ones.
func TestRewoundAndGoneOn(t *testing.T) {
	for name, away := range map[string]bool{"seen rewound": false, "cut off meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				h := newHost(t, NewMemoryStore(nil))
				synctest.Wait()
				register(t, h.Registry, "standup")
				register(t, h.Registry, "other")
				require.NoError(t, h.Assign(ctx, "other", "p", by)) // the backup has none of this
				synctest.Wait()

				backup := NewMemoryStore(nil)
				there, _ := newRegistry(t, &Options{Store: backup})
				register(t, there, "standup")
				if away {
					h.line.set(errors.New("cable"))
				}
				h.line.mu.Lock()
				h.line.Store = backup
				h.line.mu.Unlock()
				time.Sleep(time.Second)
				require.NoError(t, there.Revoke(ctx, "standup", by))
				for _, id := range []string{"other", "c", "d", "e"} {
					register(t, there, id)
				}
				h.line.set(nil)
				time.Sleep(20 * time.Second)
				_, err := h.Actor("standup")
				assert.ErrorIs(t, err, ErrStale, "it cannot know what it has missed")
				assert.ErrorIs(t, h.Sync(ctx), ErrRewound)
			})
		})
	}
}

// A store that was away and is as it was is followed again.
func TestBackAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := NewMemoryStore(nil)
		a, b := newHost(t, s), newHost(t, s)
		synctest.Wait()
		for _, id := range []string{"standup", "other", "frozen"} {
			register(t, a.Registry, id)
		}
		require.NoError(t, a.Freeze(ctx, "frozen", by))
		synctest.Wait()
		b.line.set(errors.New("cable"))
		assert.ErrorIs(t, b.Revoke(ctx, "other", by), ErrNotShared)
		require.NoError(t, a.Assign(ctx, "standup", "p", by))
		time.Sleep(20 * time.Second)
		b.line.set(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, h := range []*host{a, b} {
			actor, err := h.Actor("standup")
			require.NoError(t, err)
			assert.Equal(t, "p", actor.Profile)
			_, err = h.Actor("other")
			assert.ErrorIs(t, err, ErrRevoked)
			_, err = h.Actor("frozen")
			assert.ErrorIs(t, err, ErrFrozen)
		}
	})
}

func TestFollowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newRegistry(t, &Options{Store: NewMemoryStore(nil)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Follow(ctx) }()
		synctest.Wait()
		register(t, r, "standup")
		call := started(t, r, "standup")
		cancel()
		assert.ErrorIs(t, <-done, context.Canceled)
		assert.ErrorIs(t, context.Cause(call), ErrStale, "nobody would hear of a revocation any more")
		_, err := r.Actor("standup")
		assert.ErrorIs(t, err, ErrStale)
	})
	own, _ := newRegistry(t, nil)
	assert.Error(t, own.Follow(context.Background()))
	for _, opts := range []Options{{MaxStale: -1}, {MaxStale: time.Second, Poll: 600 * time.Millisecond}, {Poll: -1}} {
		_, err := NewRegistry(&journal{}, &opts)
		assert.Error(t, err)
	}
}

// A crowd is a store that counts who asks it for tokens at a time, and takes a
// while to answer.
type crowd struct {
	Store
	now, most atomic.Int32
}

func (c *crowd) Grant(ctx context.Context, token Hash) (Grant, error) {
	if n := c.now.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	defer c.now.Add(-1)
	pause(ctx, 100*time.Millisecond)
	return Grant{}, ErrToken
}

// Who makes up tokens does not keep the store busy.
func TestUnknownTokensAreAskedForAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &crowd{Store: NewMemoryStore(nil)}
		h := newHost(t, s)
		synctest.Wait()
		var refused, waited atomic.Int32
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				made, _ := newToken(tokenPrefix)
				_, _, err := h.Verify(context.Background(), string(made), tools)
				if errors.Is(err, ErrToken) {
					refused.Add(1)
				} else if errors.Is(err, context.DeadlineExceeded) {
					waited.Add(1)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, int32(maxAsking), s.most.Load())
		assert.Equal(t, int32(100), refused.Load()+waited.Load())
		assert.NotZero(t, waited.Load())
	})
}
