package credential_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

const origin = "https://a.example"

var ask = credential.LeaseRequest{Actor: actor, Credential: "k", Origin: origin}

func secretOf(v string) credential.Secret { return credential.NewSecret([]byte(v)) }

// newBroker returns a broker of one bound secret over a store that can fail,
// and that store and the one behind it.
func newBroker(t *testing.T, opts *credential.BrokerOptions) (*credential.Broker, *credentialtest.Store, *credential.MemoryStore) {
	behind := credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf("secret-version-1")})
	store := credentialtest.WrapStore(behind)
	b, err := credential.NewBroker(store, audittest.NewLog(t), opts)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: origin}, by))
	return b, store, behind
}

// noted is a base transport that remembers what it was sent.
type noted struct{ sent []string }

func (n *noted) RoundTrip(r *http.Request) (*http.Response, error) {
	n.sent = append(n.sent, r.Header.Get("Authorization"))
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

func send(l *credential.Lease, base http.RoundTripper) error {
	resp, err := (&http.Client{Transport: l.Transport(base)}).Get(origin)
	if err == nil {
		_ = resp.Body.Close()
	}
	return err
}

func TestLeaseEnds(t *testing.T) {
	now := time.Now()
	b, _, _ := newBroker(t, &credential.BrokerOptions{Now: func() time.Time { return now }, LeaseTTL: time.Minute})
	base := &noted{}
	lease := func(ctx context.Context, change func(*credential.LeaseRequest)) *credential.Lease {
		r := ask
		change(&r)
		l, err := b.Lease(ctx, r)
		require.NoError(t, err)
		require.NoError(t, send(l, base), "at first it can be used")
		return l
	}
	plain := func(*credential.LeaseRequest) {}

	long := lease(t.Context(), func(r *credential.LeaseRequest) { r.TTL = time.Hour })
	short := lease(t.Context(), func(r *credential.LeaseRequest) { r.TTL = time.Second })
	assert.Equal(t, now.Add(time.Minute), long.Expires(), "no longer than the broker allows")
	now = now.Add(time.Second)
	assert.ErrorIs(t, send(short, base), credential.ErrExpired)
	assert.NoError(t, send(long, base))
	now = now.Add(time.Minute)
	assert.ErrorIs(t, send(long, base), credential.ErrExpired)
	assert.EqualValues(t, 2, long.Uses(), "a refused use is none")

	twice := lease(t.Context(), func(r *credential.LeaseRequest) { r.MaxUses = 2 })
	assert.NoError(t, send(twice, base))
	assert.ErrorIs(t, send(twice, base), credential.ErrExpired)
	assert.EqualValues(t, 2, twice.Uses())
	_, err := b.Lease(t.Context(), credential.LeaseRequest{Actor: actor, Credential: "k", Origin: origin, MaxUses: -1})
	assert.ErrorIs(t, err, credential.ErrExpired)

	call, end := context.WithCancelCause(t.Context())
	tied := lease(call, plain)
	end(audit.ErrRevoked)
	assert.True(t, tied.Released())
	err = send(tied, base)
	assert.ErrorIs(t, err, credential.ErrReleased)
	assert.ErrorIs(t, err, audit.ErrRevoked, "and says why its call ended")

	released := lease(t.Context(), plain)
	released.Release()
	assert.ErrorIs(t, send(released, base), credential.ErrReleased)
	assert.Len(t, base.sent, 7, "nothing else was sent")
}

func TestLeaseUsesConcurrently(t *testing.T) {
	b, _, _ := newBroker(t, nil)
	r := ask
	r.MaxUses = 10
	l, err := b.Lease(t.Context(), r)
	require.NoError(t, err)
	var sent atomic.Int64
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		sent.Add(1)
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				_ = send(l, base)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 10, sent.Load())
	assert.EqualValues(t, 10, l.Uses())
}

// A version's life, through the broker: what is leased, and what leases that
// are out may do.
func TestBrokerVersions(t *testing.T) {
	ctx := t.Context()
	b, _, store := newBroker(t, nil)
	base := &noted{}
	lease := func() *credential.Lease {
		l, err := b.Lease(ctx, ask)
		require.NoError(t, err)
		return l
	}
	one := lease()
	two, err := b.Put(ctx, "k", secretOf("secret-version-2"), "from the vendor's page", by)
	require.NoError(t, err)
	assert.Equal(t, one.Ref(), lease().Ref(), "pending is not leased")
	assert.Equal(t, 1, b.Scrubber().Count([]byte("secret-version-2"))["k"], "but known")
	require.NoError(t, b.Promote(ctx, two, by))
	assert.Equal(t, two, lease().Ref())
	require.NoError(t, send(one, base), "the previous version still works")

	require.NoError(t, b.Promote(ctx, one.Ref(), by), "and can be taken back")
	assert.Equal(t, one.Ref(), lease().Ref())
	require.NoError(t, b.Promote(ctx, two, by))

	second := lease()
	three, err := b.Rotate(ctx, "k", secretOf("secret-version-3"), by)
	require.NoError(t, err)
	assert.ErrorIs(t, send(one, base), credential.ErrRevoked, "the one before the previous is over")
	require.NoError(t, send(second, base))
	require.NoError(t, b.Revoke(ctx, second.Ref(), by))
	assert.ErrorIs(t, send(second, base), credential.ErrRevoked)
	assert.ErrorIs(t, b.Promote(ctx, second.Ref(), by), credential.ErrState)
	assert.ErrorIs(t, b.Destroy(ctx, three, by), credential.ErrState, "not while it is used")

	third := lease()
	require.NoError(t, b.Revoke(ctx, three, by))
	assert.ErrorIs(t, send(third, base), credential.ErrRevoked)
	_, err = b.Lease(ctx, ask)
	assert.ErrorIs(t, err, credential.ErrNoCurrent)
	require.NoError(t, b.Destroy(ctx, three, by))
	_, _, err = store.Get(ctx, three)
	assert.ErrorIs(t, err, credential.ErrDestroyed)
	assert.Equal(t, []string{"Bearer secret-version-1", "Bearer secret-version-2"}, base.sent)

	assert.ErrorIs(t, b.Revoke(ctx, credential.Ref{Name: "k", Version: 9}, by), credential.ErrUnknown)
	assert.ErrorIs(t, b.Revoke(ctx, two, audit.Change{By: "alice"}), audit.ErrNoAuthority)
	_, err = b.Put(ctx, "k", secretOf("short"), "", by)
	assert.ErrorIs(t, err, credential.ErrLength)
	_, err = b.Put(ctx, "a name", secretOf("long enough"), "", by)
	assert.ErrorIs(t, err, credential.ErrName)
}

func TestBrokerRecords(t *testing.T) {
	ctx := t.Context()
	log := &journal{}
	store := credential.NewMemoryStore(nil)
	b, err := credential.NewBroker(store, log, nil)
	require.NoError(t, err)
	defer b.Close()
	one, err := b.Put(ctx, "k", secretOf("secret-version-1"), "a note", by)
	require.NoError(t, err)
	require.NoError(t, b.Promote(ctx, one, by))
	two, err := b.Rotate(ctx, "k", secretOf("secret-version-2"), by)
	require.NoError(t, err)
	// An act is on record before the store hears of it, and does not happen if
	// it cannot be.
	acts := []func() error{
		func() error { _, err := b.Put(ctx, "k", secretOf("secret-version-3"), "", by); return err },
		func() error { return b.Promote(ctx, one, by) },
		func() error { return b.Revoke(ctx, two, by) },
		func() error { _, err := b.Rotate(ctx, "k", secretOf("secret-version-4"), by); return err },
	}
	before, err := store.List(ctx, "")
	require.NoError(t, err)
	log.err = errors.New("disk full")
	for i, act := range acts {
		assert.ErrorIs(t, act(), log.err, "act %d", i)
	}
	after, err := store.List(ctx, "")
	require.NoError(t, err)
	assert.Equal(t, before, after)
	log.err = nil
	require.NoError(t, b.Revoke(ctx, one, by))
	require.NoError(t, b.Destroy(ctx, one, by))
	var recorded []string
	for _, ev := range log.events {
		assert.Equal(t, audit.KindCredential, ev.Kind)
		assert.Equal(t, `Credential::"k"`, ev.Resource)
		assert.Equal(t, &by, ev.Change)
		recorded = append(recorded, ev.Action+" "+ev.Detail["version"])
	}
	assert.Equal(t, []string{
		"put_credential 1", "rotate_credential 1", "rotate_credential 2", "revoke_credential 1", "destroy_credential 1",
	}, recorded)
}

// A store that is down or slow: leases go on with what is known for a while,
// then there are none; and soon after it is back there are.
func TestBrokerStaleness(t *testing.T) {
	down := errors.New("sealed: the error holds secret-version-1")
	synctest.Test(t, func(t *testing.T) {
		b, store, _ := newBroker(t, &credential.BrokerOptions{Refresh: 30 * time.Second, MaxStale: 5 * time.Minute, StoreTimeout: 10 * time.Second})
		lease := func() error {
			l, err := b.Lease(t.Context(), ask)
			if err == nil {
				l.Release()
			}
			return err
		}
		reads := store.Reads()
		for range 1000 {
			require.NoError(t, lease())
		}
		assert.Equal(t, reads, store.Reads(), "what is fresh is not read again")
		time.Sleep(30 * time.Second)
		require.NoError(t, lease())
		assert.Equal(t, reads+1, store.Reads(), "one list, and no value that is known")

		store.Fail(down)
		time.Sleep(5*time.Minute - time.Second)
		for range 100 {
			require.NoError(t, lease())
		}
		assert.Equal(t, reads+2, store.Reads(), "a store that failed is left alone for a second")
		time.Sleep(2 * time.Second)
		err := lease()
		require.ErrorIs(t, err, credential.ErrStore)
		require.ErrorIs(t, err, down)
		assert.NotContains(t, err.Error(), "secret-version-1")
		require.ErrorIs(t, lease(), credential.ErrStore)
		store.Fail(nil)
		time.Sleep(time.Second)
		require.NoError(t, lease())

		unblock := store.Block()
		time.Sleep(31 * time.Second)
		began := time.Now()
		require.NoError(t, lease())
		require.NoError(t, lease())
		assert.Equal(t, 500*time.Millisecond, time.Since(began), "the two wait as long as one")
		time.Sleep(5 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began = time.Now()
		_, err = b.Lease(ctx, ask)
		require.ErrorIs(t, err, context.DeadlineExceeded, "nobody waits longer than their own time")
		assert.Equal(t, 3*time.Second, time.Since(began))
		require.ErrorIs(t, lease(), credential.ErrStore)
		assert.Equal(t, 10*time.Second, time.Since(began), "nor than the broker's")
		time.Sleep(time.Second)
		go func() { time.Sleep(time.Second); unblock() }()
		require.NoError(t, lease())
	})
}

// A thousand callers of a store that does not answer ask it once.
func TestBrokerStampede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store, _ := newBroker(t, nil)
		time.Sleep(time.Hour)
		reads := store.Reads()
		unblock := store.Block()
		var wg sync.WaitGroup
		var failed atomic.Int64
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%2*8)*time.Second)
				defer cancel()
				if _, err := b.Lease(ctx, ask); err != nil {
					failed.Add(1)
				}
			})
		}
		time.Sleep(5 * time.Second)
		unblock()
		wg.Wait()
		assert.EqualValues(t, 500, failed.Load(), "those whose time was over")
		assert.Equal(t, reads+1, store.Reads())
	})
}

// What somebody else changes in the store is seen after Refresh; at once if the
// store can be watched; and what is taken away there ends the leases.
func TestBrokerSeesChanges(t *testing.T) {
	for _, watched := range []bool{false, true} {
		t.Run(fmt.Sprint("watched ", watched), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				store := credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf("secret-version-1")})
				var seen credential.Store = store
				if !watched {
					seen = credentialtest.WrapStore(store)
				}
				b, err := credential.NewBroker(seen, audittest.NewLog(t), nil)
				require.NoError(t, err)
				defer b.Close()
				require.NoError(t, b.Bind(ctx, "k", credential.Binding{Origin: origin}, by))
				old, err := b.Lease(ctx, ask)
				require.NoError(t, err)
				synctest.Wait()

				two, err := store.Put(ctx, "k", secretOf("secret-version-2"), 1, "")
				require.NoError(t, err)
				require.NoError(t, store.SetState(ctx, two, credential.StatePending, credential.StateCurrent))
				require.NoError(t, store.SetState(ctx, old.Ref(), credential.StatePrevious, credential.StateRevoked))
				synctest.Wait()
				if !watched {
					require.NoError(t, send(old, &noted{}))
					time.Sleep(30 * time.Second)
				}
				l, err := b.Lease(ctx, ask)
				require.NoError(t, err)
				assert.Equal(t, two, l.Ref())
				assert.ErrorIs(t, send(old, &noted{}), credential.ErrRevoked)
			})
		})
	}
}

// What is revoked stays so, also if the store cannot be told.
func TestBrokerRevokesWithoutTheStore(t *testing.T) {
	b, store, _ := newBroker(t, nil)
	l, err := b.Lease(t.Context(), ask)
	require.NoError(t, err)
	deaf := &deafStore{Store: store}
	b2, err := credential.NewBroker(deaf, audittest.NewLog(t), nil)
	require.NoError(t, err)
	defer b2.Close()
	require.NoError(t, b2.Bind(t.Context(), "k", credential.Binding{Origin: origin}, by))
	l2, err := b2.Lease(t.Context(), ask)
	require.NoError(t, err)
	require.Error(t, b2.Revoke(t.Context(), l2.Ref(), by))
	assert.ErrorIs(t, send(l2, &noted{}), credential.ErrRevoked)
	_, err = b2.Lease(t.Context(), ask)
	assert.ErrorIs(t, err, credential.ErrRevoked)
	assert.NoError(t, send(l, &noted{}), "another broker does not know")
}

type deafStore struct{ *credentialtest.Store }

func (deafStore) SetState(context.Context, credential.Ref, credential.State, credential.State) error {
	return errors.New("down")
}

func TestBrokerReadOnly(t *testing.T) {
	store := credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf("secret-version-1")})
	b, err := credential.NewBroker(struct{ credential.Store }{store}, audittest.NewLog(t), nil)
	require.NoError(t, err)
	defer b.Close()
	_, err = b.Rotate(t.Context(), "k", secretOf("secret-version-2"), by)
	assert.ErrorIs(t, err, credential.ErrReadOnly)
	require.NoError(t, b.Preload(t.Context()))
	assert.Equal(t, map[string]int{"k": 1}, b.Scrubber().Count([]byte("secret-version-1")))
	_, err = credential.NewBroker(nil, nil, nil)
	assert.Error(t, err)
}

func TestBrokerClosed(t *testing.T) {
	b, _, _ := newBroker(t, nil)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	_, err := b.Lease(t.Context(), ask)
	assert.NoError(t, err, "what is known is known")
	_, err = b.Lease(t.Context(), credential.LeaseRequest{Actor: actor, Credential: "other", Origin: origin})
	assert.ErrorIs(t, err, credential.ErrStore)
}

// Rotations under load, with two live versions: no call fails, because the
// other side takes the previous version until its successor's successor, and is
// asked with it while it has not learned the new one.
func TestRotationsUnderLoad(t *testing.T) {
	rotations := 20
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		rotations = 1000
	case os.Getenv("TWINWARD_FULL") == "1":
		rotations = 100
	}
	ctx := t.Context()
	var live sync.Map
	value := func(i int) string { return fmt.Sprintf("secret-version-%d", i) }
	live.Store("Bearer "+value(1), true)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := live.Load(r.Header.Get("Authorization")); !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	store := credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf(value(1))})
	b, err := credential.NewBroker(store, audittest.NewLog(t), nil)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Bind(ctx, "k", credential.Binding{Origin: server.URL}, by))

	stop := make(chan struct{})
	var callers sync.WaitGroup
	var calls [4]atomic.Int64
	var failed atomic.Int64
	for worker := range calls {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				l, err := b.Lease(ctx, credential.LeaseRequest{Actor: actor, Credential: "k", Origin: server.URL})
				if err == nil {
					var resp *http.Response
					if resp, err = (&http.Client{Transport: l.Transport(nil)}).Get(server.URL); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						if resp.StatusCode != http.StatusOK {
							err = errors.New(resp.Status)
						}
					}
					l.Release()
				}
				if err != nil && failed.Add(1) == 1 {
					t.Error(err)
				}
				calls[worker].Add(1)
			}
		})
	}
	for i := 2; i <= rotations+1; i++ {
		for worker := range calls { // so that no call is two rotations behind
			for n := calls[worker].Load() + 2; calls[worker].Load() < n; {
				time.Sleep(50 * time.Microsecond)
			}
		}
		learn := func() { live.Store("Bearer "+value(i), true) }
		if i%2 == 0 {
			learn()
		}
		_, err := b.Rotate(ctx, "k", secretOf(value(i)), by)
		require.NoError(t, err)
		if i%2 == 1 { // the vendor is slow: the previous version is tried after a 401
			time.Sleep(time.Duration(i%5) * 200 * time.Microsecond)
			learn()
		}
		live.Delete("Bearer " + value(i-2))
	}
	close(stop)
	callers.Wait()
	var made int64
	for worker := range calls {
		made += calls[worker].Load()
	}
	t.Logf("%d rotations, %d calls, %d failed", rotations, made, failed.Load())
	assert.Zero(t, failed.Load())
}

// remade is a store behind which names can be deleted and made anew, as people
// do with other tools: the versions count from 1 again.
type remade struct {
	credential.Store
	now *credential.MemoryStore
}

func (r *remade) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	return r.now.Get(ctx, ref)
}

func (r *remade) List(ctx context.Context, name string) ([]credential.Version, error) {
	return r.now.List(ctx, name)
}

func TestNameMadeAnew(t *testing.T) {
	for _, noticed := range []bool{true, false} { // that the name was away
		now := time.Now()
		store := &remade{now: credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf("the first secret")})}
		b, err := credential.NewBroker(store, audittest.NewLog(t), &credential.BrokerOptions{Now: func() time.Time { return now }})
		require.NoError(t, err)
		t.Cleanup(func() { b.Close() })
		require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: origin}, by))
		old, err := b.Lease(t.Context(), ask)
		require.NoError(t, err)

		if noticed {
			now = now.Add(time.Hour)
			store.now = credential.NewMemoryStore(nil)
			_, err = b.Lease(t.Context(), ask)
			require.ErrorIs(t, err, credential.ErrUnknown)
		}
		now = now.Add(time.Hour)
		store.now = credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf("quite another")})
		l, err := b.Lease(t.Context(), ask)
		require.NoError(t, err)
		base := &noted{}
		require.NoError(t, send(l, base))
		assert.Equal(t, []string{"Bearer quite another"}, base.sent, "noticed %v", noticed)
		assert.Equal(t, map[string]int{"k": 1}, b.Scrubber().Count([]byte("quite another")), "what is leased can be found")
		assert.Equal(t, map[string]int{"k": 1}, b.Scrubber().Count([]byte("the first secret")), "and what was")
		assert.ErrorIs(t, send(old, base), credential.ErrRevoked)
	}
}

// A store that is down, or that can only be read, does not keep a secret in use.
func TestRevokeWithoutTheStore(t *testing.T) {
	b, store, _ := newBroker(t, nil)
	l, err := b.Lease(t.Context(), ask)
	require.NoError(t, err)
	down := errors.New("down")
	store.Fail(down)
	assert.ErrorIs(t, b.Revoke(t.Context(), l.Ref(), by), down)
	base := &noted{}
	assert.ErrorIs(t, send(l, base), credential.ErrRevoked)
	_, err = b.Lease(t.Context(), ask)
	assert.ErrorIs(t, err, credential.ErrRevoked)
	store.Fail(nil)
	require.NoError(t, b.Revoke(t.Context(), l.Ref(), by), "once the store is back")

	readOnly, err := credential.NewBroker(struct{ credential.Store }{credential.NewMemoryStore(map[string]credential.Secret{"k": secretOf("secret-version-1")})}, audittest.NewLog(t), nil)
	require.NoError(t, err)
	t.Cleanup(func() { readOnly.Close() })
	require.NoError(t, readOnly.Bind(t.Context(), "k", credential.Binding{Origin: origin}, by))
	l, err = readOnly.Lease(t.Context(), ask)
	require.NoError(t, err)
	assert.ErrorIs(t, readOnly.Revoke(t.Context(), l.Ref(), by), credential.ErrReadOnly)
	assert.ErrorIs(t, send(l, base), credential.ErrRevoked)
	_, err = readOnly.Lease(t.Context(), ask)
	assert.ErrorIs(t, err, credential.ErrRevoked)
	assert.Empty(t, base.sent)
}
