// Package agentidtest is the conformance suite of [agentid.Store]: who writes a
// store of their own runs it.
package agentidtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential/agentid"
)

// wait bounds how long something that must happen may take.
const wait = 30 * time.Second

// TestStore runs the suite. Open returns two connections to one store that is
// empty, as two hosts have it.
func TestStore(t *testing.T, open func(t *testing.T) (a, b agentid.Store)) {
	for name, f := range map[string]func(*testing.T, agentid.Store, agentid.Store){
		"entries": entries, "conflict": conflict, "order": order, "listen": listen, "grants": grants, "drop": drop, "keys": keys, "once": once,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t)
			f(t, a, b)
		})
	}
}

func entry(id string, version uint64) agentid.Entry {
	return agentid.Entry{
		Agent:  agentid.Agent{ID: id, Owner: "team-a", Profile: "p", Keys: []byte(`{"keys":[]}`), CertName: "c", Issuer: "https://idp.example", Expires: time.Unix(2_000_000_000, 0)},
		Secret: sha256.Sum256([]byte(id)), State: agentid.Active, Life: 7, Version: version,
	}
}

func entries(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	c, err := b.Changes(ctx, 0)
	require.NoError(t, err)
	require.Empty(t, c.Agents)
	want := entry("standup", 1)
	require.NoError(t, a.Put(ctx, want))
	require.NoError(t, a.Put(ctx, agentid.Entry{Agent: agentid.Agent{ID: "least", Owner: "o"}, State: agentid.Active, Version: 1}))
	later, err := b.Changes(ctx, c.Seq)
	require.NoError(t, err)
	require.Greater(t, later.Seq, c.Seq)
	require.Len(t, later.Agents, 2)
	for _, got := range later.Agents {
		if got.ID == "least" {
			assert.Equal(t, agentid.Entry{Agent: agentid.Agent{ID: "least", Owner: "o"}, State: agentid.Active, Version: 1}, got)
			continue
		}
		assert.True(t, want.Expires.Equal(got.Expires))
		got.Expires = want.Expires
		assert.Equal(t, want, got)
	}
	none, err := b.Changes(ctx, later.Seq)
	require.NoError(t, err)
	assert.Equal(t, later.Seq, none.Seq)
	assert.Empty(t, none.Agents)

	want.State, want.Life, want.Version, want.Ended = agentid.Frozen, 8, 2, time.Unix(1_900_000_000, 0)
	require.NoError(t, b.Put(ctx, want))
	last, err := a.Changes(ctx, later.Seq)
	require.NoError(t, err)
	require.Len(t, last.Agents, 1)
	assert.Equal(t, agentid.Frozen, last.Agents[0].State)
	assert.Equal(t, uint64(8), last.Agents[0].Life)
	assert.True(t, want.Ended.Equal(last.Agents[0].Ended))
}

func conflict(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	assert.ErrorIs(t, a.Put(ctx, entry("standup", 2)), agentid.ErrConflict, "there is no version 1")
	var won atomic.Int32
	for v := uint64(1); v <= 5; v++ {
		won.Store(0)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				err := []agentid.Store{a, b}[i%2].Put(ctx, entry("standup", v))
				if err == nil {
					won.Add(1)
					return
				}
				assert.ErrorIs(t, err, agentid.ErrConflict)
			})
		}
		wg.Wait()
		assert.Equal(t, int32(1), won.Load(), "one wins")
	}
	assert.ErrorIs(t, a.Put(ctx, entry("standup", 1)), agentid.ErrConflict)
	assert.ErrorIs(t, a.Put(ctx, entry("standup", 7)), agentid.ErrConflict)
}

// order: who asks while many write misses nothing.
func order(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	const writers, each = 4, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				assert.NoError(t, []agentid.Store{a, b}[w%2].Put(ctx, entry(fmt.Sprintf("a%d-%d", w, i), 1)))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen := map[string]bool{}
	seq := uint64(0)
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		c, err := b.Changes(ctx, seq)
		require.NoError(t, err)
		require.GreaterOrEqual(t, c.Seq, seq)
		seq = c.Seq
		for _, e := range c.Agents {
			seen[e.ID] = true
		}
	}
	assert.Len(t, seen, writers*each)
}

func listen(t *testing.T, a, b agentid.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	woken := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() { ended <- b.Listen(ctx, func() { woken <- struct{}{} }) }()
	// It may begin to listen a moment later, and may wake by itself now and then.
	const enough = 10
	heard := 0
	for v, end := uint64(1), time.Now().Add(wait); heard < enough && time.Now().Before(end); v++ {
		require.NoError(t, a.Put(t.Context(), entry("standup", v)))
		select {
		case <-woken:
			heard++
		case <-time.After(50 * time.Millisecond):
		}
	}
	assert.Equal(t, enough, heard)
	cancel()
	select {
	case err := <-ended:
		assert.Error(t, err)
	case <-time.After(wait):
		t.Error("Listen does not end with its context")
	}
}

func grants(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	require.NoError(t, a.Put(ctx, entry("standup", 1)))
	want := agentid.Grant{
		Token: sha256.Sum256([]byte("token")), Agent: "standup", Life: 7, Audience: "https://tools.local", Expires: time.Now().Add(time.Hour).Truncate(time.Second),
		User: "alice", Chain: []agentid.Link{{Agent: "other", Life: 3}}, KeyID: "k", Cert: "c",
	}
	_, err := b.Grant(ctx, want.Token)
	assert.ErrorIs(t, err, agentid.ErrToken)
	require.NoError(t, a.AddGrant(ctx, want))
	got, err := b.Grant(ctx, want.Token)
	require.NoError(t, err)
	assert.True(t, want.Expires.Equal(got.Expires))
	got.Expires = want.Expires
	assert.Equal(t, want, got)
}

func drop(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	require.NoError(t, a.Put(ctx, entry("standup", 1)))
	g := agentid.Grant{Token: sha256.Sum256([]byte("token")), Agent: "standup", Life: 7, Audience: "https://tools.local", Expires: time.Now().Add(time.Hour)}
	require.NoError(t, a.AddGrant(ctx, g))
	before, err := b.Changes(ctx, 0)
	require.NoError(t, err)
	require.NoError(t, a.Drop(ctx, agentid.Dropped{Token: g.Token, Expires: g.Expires}))
	require.NoError(t, a.Drop(ctx, agentid.Dropped{Token: g.Token, Expires: g.Expires}), "twice is as good as once")
	_, err = b.Grant(ctx, g.Token)
	assert.ErrorIs(t, err, agentid.ErrToken)
	c, err := b.Changes(ctx, before.Seq)
	require.NoError(t, err)
	require.NotEmpty(t, c.Dropped)
	assert.Equal(t, g.Token, c.Dropped[0].Token)
}

func keys(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	require.NoError(t, a.AddKey(ctx, agentid.Key{ID: "k1", JWK: []byte(`{"kty":"OKP"}`), Expires: time.Now().Add(time.Hour)}))
	c, err := b.Changes(ctx, 0)
	require.NoError(t, err)
	require.Len(t, c.Keys, 1)
	assert.Equal(t, "k1", c.Keys[0].ID)
	assert.Equal(t, `{"kty":"OKP"}`, string(c.Keys[0].JWK))
}

func once(t *testing.T, a, b agentid.Store) {
	ctx := t.Context()
	key := agentid.Hash(sha256.Sum256([]byte("proof")))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			err := []agentid.Store{a, b}[i%2].Once(ctx, key, time.Now().Add(time.Hour))
			if err == nil {
				won.Add(1)
				return
			}
			assert.ErrorIs(t, err, agentid.ErrReplay)
		})
	}
	wg.Wait()
	assert.Equal(t, int32(1), won.Load(), "one wins")
	gone := agentid.Hash(sha256.Sum256([]byte("old")))
	require.NoError(t, a.Once(ctx, gone, time.Now().Add(-time.Hour)))
	assert.NoError(t, b.Once(ctx, gone, time.Now().Add(time.Hour)), "forgotten")
}
