package credential_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// A grantor is the other side of grants: it rotates the refresh token with
// every use and, as good servers do, ends the whole grant when an old one is
// used again.
type grantor struct {
	*trader
	mu   sync.Mutex
	now  map[string]string // user → refresh token that is good
	n    int
	life time.Duration
}

func (*grantor) UsesGrant() {}

func newGrantor() *grantor {
	g := &grantor{now: make(map[string]string), life: time.Hour}
	g.trader = newTrader(g.rotate)
	g.subject = func(a audit.Actor) string { return a.User }
	return g
}

func (g *grantor) issue(user string) string {
	g.n++
	g.now[user] = fmt.Sprintf("refresh-%s-%d", user, g.n)
	return g.now[user]
}

func (g *grantor) consent(user string) credential.Secret {
	g.mu.Lock()
	defer g.mu.Unlock()
	return secret(g.issue(user))
}

func (g *grantor) rotate(_ context.Context, x credential.Exchange) (credential.Token, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var used string
	if err := x.Grant.Use(func(b []byte) error { used = string(b); return nil }); err != nil {
		return credential.Token{}, err
	}
	user := strings.Split(used, "-")[1]
	if user != x.Actor.User {
		return credential.Token{}, errors.New("somebody else's grant")
	}
	if g.now[user] != used {
		delete(g.now, user)
		return credential.Token{}, credential.ErrReauth
	}
	t := until(g.life, fmt.Sprintf("access-%s-%d", user, g.n))
	next := secret(g.issue(user))
	t.Replace = &next
	return t, nil
}

var (
	alice = audit.Actor{Agent: "a", User: "alice"}
	bob   = audit.Actor{Agent: "a", User: "bob"}
)

// faulty is a store that fails on demand, or ends the host in the middle.
type faulty struct {
	*credential.MemoryStore
	put, setState atomic.Pointer[error]
}

func (f *faulty) fail(at *atomic.Pointer[error], err error) { at.Store(&err) }

func (f *faulty) Put(ctx context.Context, name string, s credential.Secret, after uint64, note string) (credential.Ref, error) {
	if err := f.put.Load(); err != nil {
		return credential.Ref{}, *err
	}
	return f.MemoryStore.Put(ctx, name, s, after, note)
}

func (f *faulty) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	if err := f.setState.Load(); err != nil {
		return *err
	}
	return f.MemoryStore.SetState(ctx, ref, from, to)
}

// host is one process over a store that others may share.
func (f *faulty) host(t *testing.T, g *grantor) *credential.Broker {
	b, err := credential.NewBroker(f, audit.OrRefuse(newLog(t)), nil)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: g}, by))
	return b
}

func newFaulty() *faulty {
	return &faulty{MemoryStore: credential.NewMemoryStore(map[string]credential.Secret{"k": secret("the client's secret")})}
}

func leaseOf(b *credential.Broker, a audit.Actor) error {
	_, err := b.Lease(context.Background(), credential.LeaseRequest{Actor: a, Credential: "k", Origin: "https://a.example"})
	return err
}

func TestGrant(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	b := store.host(t, g)
	err := leaseOf(b, alice)
	var missing *credential.GrantError
	require.ErrorAs(t, err, &missing)
	assert.Equal(t, &credential.GrantError{Credential: "k", Actor: alice}, missing)
	assert.ErrorIs(t, err, credential.ErrNoGrant)
	assert.NotErrorIs(t, err, credential.ErrReauth)

	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	require.NoError(t, leaseOf(b, alice))
	require.NoError(t, leaseOf(b, alice))
	assert.EqualValues(t, 1, g.asked.Load())
	assert.ErrorIs(t, leaseOf(b, bob), credential.ErrNoGrant, "it is alice's")
	for _, s := range []string{"access-alice-1", "refresh-alice-1", "refresh-alice-2"} {
		assert.NotEmpty(t, b.Scrubber().Count([]byte(s)), s)
	}
	versions, err := store.List(t.Context(), credential.GrantName("k", "alice"))
	require.NoError(t, err)
	require.Len(t, versions, 2)
	assert.Equal(t, credential.StateCurrent, versions[1].State)

	require.NoError(t, b.WithdrawGrant(t.Context(), "k", "alice", by))
	err = leaseOf(b, alice)
	assert.ErrorIs(t, err, credential.ErrNoGrant)
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	require.NoError(t, leaseOf(b, alice))
	assert.ErrorIs(t, b.WithdrawGrant(t.Context(), "k", "carol", by), credential.ErrUnknown)
	assert.ErrorIs(t, b.PutGrant(t.Context(), "k", "carol", g.consent("carol"), audit.Change{}), audit.ErrNoAuthority)
}

// A rotated refresh token that cannot be stored: its access token is not used,
// the other side is not asked again, and once the store works all goes on.
func TestGrantIsStoredBeforeItsTokenIsUsed(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	b := store.host(t, g)
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	full := errors.New("disk full")
	store.fail(&store.put, full)
	assert.ErrorIs(t, leaseOf(b, alice), full)
	assert.ErrorIs(t, leaseOf(b, alice), full, "it waits before it tries again")
	store.put.Store(nil)
	require.Eventually(t, func() bool { return leaseOf(b, alice) == nil }, time.Minute, 20*time.Millisecond)
	assert.EqualValues(t, 1, g.asked.Load())
}

// The host ends after the other side has rotated and before that is stored:
// the user has to consent again, and is asked to.
func TestGrantLostInACrash(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	first := store.host(t, g)
	require.NoError(t, first.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	store.fail(&store.put, errors.New("the power is out"))
	require.Error(t, leaseOf(first, alice))
	require.NoError(t, first.Close())
	store.put.Store(nil)

	second := store.host(t, g)
	err := leaseOf(second, alice)
	assert.ErrorIs(t, err, credential.ErrReauth)
	assert.ErrorIs(t, err, credential.ErrNoGrant)
	asked := g.asked.Load()
	assert.ErrorIs(t, leaseOf(second, alice), credential.ErrReauth)
	assert.Equal(t, asked, g.asked.Load(), "a storm of attempts could lock the account")
	require.NoError(t, second.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	assert.NoError(t, leaseOf(second, alice), "a new consent is tried at once")
}

// The host ends after the new refresh token is stored and before it is current.
func TestGrantStoredAndNotPromoted(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	first := store.host(t, g)
	require.NoError(t, first.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	store.fail(&store.setState, errors.New("the power is out"))
	require.NoError(t, leaseOf(first, alice))
	require.NoError(t, first.Close())
	store.setState.Store(nil)
	second := store.host(t, g)
	assert.NoError(t, leaseOf(second, alice))
	assert.EqualValues(t, 2, g.asked.Load())
}

// Two hosts share the store. One rotates; the other's next attempt uses what
// the first has stored, though it knew an older one.
func TestGrantOfTwoHosts(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	one, two := store.host(t, g), store.host(t, g)
	require.NoError(t, one.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	for range 5 {
		require.NoError(t, leaseOf(one, alice))
		require.NoError(t, leaseOf(two, alice))
	}
}

// A racing store stores a rotated grant, as another host would, at the worst moment
// of a withdrawal.
type racing struct {
	*credential.MemoryStore
	race func()
}

func (s *racing) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	if to == credential.StateRevoked && s.race != nil {
		s.race()
		s.race = nil
	}
	return s.MemoryStore.SetState(ctx, ref, from, to)
}

func TestWithdrawWhileAnotherHostStores(t *testing.T) {
	store := &racing{MemoryStore: credential.NewMemoryStore(map[string]credential.Secret{"k": secret("the client's secret")})}
	b, err := credential.NewBroker(store, audit.OrRefuse(newLog(t)), nil)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	g := newGrantor()
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: g}, by))
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	name := credential.GrantName("k", "alice")
	store.race = func() {
		ref, err := store.Put(t.Context(), name, g.consent("alice"), 1, "grant")
		require.NoError(t, err)
		require.NoError(t, store.MemoryStore.SetState(t.Context(), ref, credential.StatePending, credential.StateCurrent))
	}
	require.NoError(t, b.WithdrawGrant(t.Context(), "k", "alice", by))
	versions, err := store.List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, versions, 2)
	for _, v := range versions {
		assert.Equal(t, credential.StateRevoked, v.State, v.Ref)
	}
}

// Agents of two users, at the same time, with tokens so short that each is
// renewed all the time: each gets what its own user granted.
func TestGrantsAreNotMixedUp(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	g.life = 2 * time.Millisecond
	b := store.host(t, g)
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	require.NoError(t, b.PutGrant(t.Context(), "k", "bob", g.consent("bob"), by))
	var all sync.WaitGroup
	for i := range 8 {
		who := []audit.Actor{alice, bob}[i%2]
		all.Go(func() {
			for g.asked.Load() < 40 && t.Context().Err() == nil {
				l, err := b.Lease(context.Background(), credential.LeaseRequest{Actor: who, Credential: "k", Origin: "https://a.example"})
				if errors.Is(err, credential.ErrExchange) {
					continue // it took longer than the token lives
				}
				if !assert.NoError(t, err) {
					return
				}
				rt := catch(func(token string) {
					assert.True(t, strings.HasPrefix(token, "Bearer access-"+who.User+"-"), token)
				})
				if resp, err := l.Transport(rt).RoundTrip(get("https://a.example")); err == nil {
					resp.Body.Close()
				}
			}
		})
	}
	all.Wait()
}

// A grant that one host withdraws while another one is using it stays
// withdrawn, though the refresh token that comes back is new.
func TestGrantWithdrawnWhileInUse(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	one, two := store.host(t, g), store.host(t, g)
	require.NoError(t, one.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	g.exchange = func(ctx context.Context, x credential.Exchange) (credential.Token, error) {
		assert.NoError(t, two.WithdrawGrant(t.Context(), "k", "alice", by))
		return g.rotate(ctx, x)
	}
	require.ErrorIs(t, leaseOf(one, alice), credential.ErrNoGrant)
	list, err := store.List(t.Context(), credential.GrantName("k", "alice"))
	require.NoError(t, err)
	for _, v := range list {
		assert.False(t, v.State.Live() || v.State == credential.StatePending, "%+v", v)
	}
	g.exchange = g.rotate
	require.NoError(t, two.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	assert.NoError(t, leaseOf(two, alice), "a new consent counts")
}

// sentBy tries to use a lease, and returns the token that went out.
func sentBy(l *credential.Lease) (token string, err error) {
	resp, err := l.Transport(catch(func(t string) { token = t })).RoundTrip(get("https://a.example"))
	if err == nil {
		resp.Body.Close()
	}
	return token, err
}

func (f *faulty) lease(t *testing.T, b *credential.Broker, a audit.Actor) *credential.Lease {
	l, err := b.Lease(t.Context(), credential.LeaseRequest{Actor: a, Credential: "k", Origin: "https://a.example"})
	require.NoError(t, err)
	return l
}

// Revoking the client's secret ends what users' grants were traded for with it:
// the leases that are out, and the tokens that are kept. They get others when
// there is another secret.
func TestGrantedTokenEndsWithTheClientSecret(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	b := store.host(t, g)
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	l := store.lease(t, b, alice)
	_, err := b.Rotate(t.Context(), "k", secret("the client's second secret"), by)
	require.NoError(t, err)
	require.NoError(t, leaseOf(b, alice))
	assert.EqualValues(t, 1, g.asked.Load(), "to rotate it ends nothing")
	require.NoError(t, b.Revoke(t.Context(), credential.Ref{Name: "k", Version: 1}, by))
	token, err := sentBy(l)
	assert.ErrorIs(t, err, credential.ErrRevoked, "the lease that is out")
	assert.Empty(t, token)
	require.NoError(t, leaseOf(b, alice))
	assert.EqualValues(t, 2, g.asked.Load(), "the token that was kept is not used any more")
	require.NoError(t, b.Revoke(t.Context(), credential.Ref{Name: "k", Version: 2}, by))
	assert.ErrorIs(t, leaseOf(b, alice), credential.ErrNoCurrent)
	assert.EqualValues(t, 2, g.asked.Load())
}

// The same when another host has revoked it, and this one is not told.
func TestClientSecretRevokedElsewhere(t *testing.T) {
	g := newGrantor()
	store := &untold{store: credential.NewMemoryStore(map[string]credential.Secret{"k": secret("the client's secret")})}
	var later atomic.Int64
	b, err := credential.NewBroker(store, audit.OrRefuse(newLog(t)), &credential.BrokerOptions{
		Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: g}, by))
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	require.NoError(t, leaseOf(b, alice))
	require.NoError(t, store.SetState(t.Context(), credential.Ref{Name: "k", Version: 1}, credential.StateCurrent, credential.StateRevoked))
	later.Store(int64(time.Minute))
	assert.ErrorIs(t, leaseOf(b, alice), credential.ErrNoCurrent)
}

// That a public client has no secret is known for as long as other things are:
// the store is not asked for each lease, and may be down for a while.
func TestPublicClient(t *testing.T) {
	g := newGrantor()
	store := &untold{store: credential.NewMemoryStore(nil)}
	var later atomic.Int64
	b, err := credential.NewBroker(store, audit.OrRefuse(newLog(t)), &credential.BrokerOptions{
		Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: g}, by))
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	require.NoError(t, leaseOf(b, alice))
	asked := store.asked.Load()
	later.Store(int64(10 * time.Second))
	require.NoError(t, leaseOf(b, alice))
	assert.Equal(t, asked, store.asked.Load())
	store.down.Store(true)
	later.Store(int64(time.Minute))
	require.NoError(t, leaseOf(b, alice))
	later.Store(int64(10 * time.Minute))
	assert.ErrorIs(t, leaseOf(b, alice), credential.ErrStore)
}

// An untold store tells nobody of changes, and may be down.
type untold struct {
	store credential.WritableStore
	asked atomic.Int64
	down  atomic.Bool
}

func (s *untold) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	return s.store.Get(ctx, ref)
}

func (s *untold) List(ctx context.Context, name string) ([]credential.Version, error) {
	s.asked.Add(1)
	if s.down.Load() {
		return nil, errors.New("the store is down")
	}
	return s.store.List(ctx, name)
}

func (s *untold) Put(ctx context.Context, name string, v credential.Secret, after uint64, note string) (credential.Ref, error) {
	return s.store.Put(ctx, name, v, after, note)
}

func (s *untold) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	return s.store.SetState(ctx, ref, from, to)
}

// Withdrawing a grant, here or on another host, ends the leases that are out,
// and a new consent does not bring them back. That the grant is rotated ends none.
func TestWithdrawalEndsLeases(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	here, there := store.host(t, g), store.host(t, g)
	for _, by2 := range []*credential.Broker{here, there} {
		require.NoError(t, here.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
		require.NoError(t, here.PutGrant(t.Context(), "k", "bob", g.consent("bob"), by))
		l, other := store.lease(t, here, alice), store.lease(t, here, bob)
		for range 3 { // another host uses the grant, and so rotates it
			// It hears a moment later that there is a grant again.
			require.Eventually(t, func() bool { return leaseOf(there, alice) == nil }, time.Minute, time.Millisecond)
			require.NoError(t, leaseOf(here, alice))
		}
		_, err := sentBy(l)
		require.NoError(t, err)
		require.NoError(t, by2.WithdrawGrant(t.Context(), "k", "alice", by))
		ended := func() bool {
			_, err := sentBy(l)
			return errors.Is(err, credential.ErrRevoked)
		}
		if by2 == here {
			assert.True(t, ended())
		} else {
			require.Eventually(t, ended, time.Minute, time.Millisecond)
		}
		assert.ErrorIs(t, leaseOf(here, alice), credential.ErrNoGrant)
		require.NoError(t, here.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
		require.NoError(t, leaseOf(here, alice))
		assert.True(t, ended())
		_, err = sentBy(other)
		assert.NoError(t, err, "it is bob's")
	}
}

// Leases here end also if the store does not take the withdrawal.
func TestWithdrawalThatIsNotStored(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	b := store.host(t, g)
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	l := store.lease(t, b, alice)
	down := errors.New("disk full")
	store.fail(&store.setState, down)
	require.ErrorIs(t, b.WithdrawGrant(t.Context(), "k", "alice", by), down)
	_, err := sentBy(l)
	assert.ErrorIs(t, err, credential.ErrRevoked)
}

// Every token brings a new grant: those that are over are not searched for for
// ever.
func TestRotatedGrantsAreForgotten(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	g.life = 30 * 24 * time.Hour
	var later atomic.Int64
	b, err := credential.NewBroker(store, audit.OrRefuse(newLog(t)), &credential.BrokerOptions{
		Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: g}, by))
	grant := func() {
		t.Helper()
		consent := g.consent("alice")
		require.NoError(t, b.PutGrant(t.Context(), "k", "alice", consent, by))
		consent.Destroy()
		require.NoError(t, leaseOf(b, alice))
	}
	known := func(s string) bool { return len(b.Scrubber().Count([]byte(s))) > 0 }
	grant() // 1, which becomes 2
	grant() // 3, which becomes 4
	redeemed := secret("a grant that was redeemed")
	require.NoError(t, b.Redeem(t.Context(), "k", bob, func(_ context.Context, x credential.Exchange) (credential.Secret, error) {
		x.Learn(secret("a code on the way"))
		return redeemed, nil
	}, by))
	for _, s := range []string{"refresh-alice-1", "refresh-alice-2", "refresh-alice-3", "refresh-alice-4", "a code on the way"} {
		assert.True(t, known(s), s)
	}
	later.Store(int64(2 * time.Hour))
	grant() // 5, which becomes 6
	for _, s := range []string{"refresh-alice-1", "refresh-alice-2", "a code on the way"} {
		require.Eventually(t, func() bool { return !known(s) }, time.Minute, time.Millisecond, s)
	}
	for _, s := range []string{"refresh-alice-5", "refresh-alice-6", "access-alice-1", "access-alice-5", "a grant that was redeemed"} {
		assert.True(t, known(s), s)
	}
}

// The client's secret is what a lease names, and its grant apart; a token that
// comes back is the grant's.
func TestGrantedLeaseNamesBoth(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	b := store.host(t, g)
	name := credential.GrantName("k", "alice")
	for range 3 {
		require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	}
	l := store.lease(t, b, alice)
	assert.Equal(t, credential.Ref{Name: "k", Version: 1}, l.Ref())
	assert.Equal(t, credential.Ref{Name: name, Version: 4}, l.Grant())
	_, found := b.Scrubber().Redact([]byte("access-alice-3"))
	assert.Equal(t, credential.Found{{Ref: l.Grant(), Encoding: "raw"}: 1}, found)

	// What a leak policy does with it ends the grant, and nobody else's.
	require.NoError(t, b.Revoke(t.Context(), l.Grant(), by))
	_, err := sentBy(l)
	assert.ErrorIs(t, err, credential.ErrRevoked)
	assert.ErrorIs(t, leaseOf(b, alice), credential.ErrNoGrant)

	public := newFaulty()
	public.MemoryStore = credential.NewMemoryStore(nil)
	b = public.host(t, g)
	require.NoError(t, b.PutGrant(t.Context(), "k", "bob", g.consent("bob"), by))
	l = public.lease(t, b, bob)
	assert.Equal(t, credential.Ref{Name: "k"}, l.Ref(), "it has no secret")
	assert.Equal(t, credential.Ref{Name: credential.GrantName("k", "bob"), Version: 2}, l.Grant())
}

// A token endpoint that takes its time holds up consents for that grant, and
// nothing else that people have to do.
func TestSlowExchangeDoesNotHoldUpRevoking(t *testing.T) {
	g, store := newGrantor(), newFaulty()
	b := store.host(t, g)
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	asked, answer := make(chan struct{}), make(chan struct{})
	g.exchange = func(ctx context.Context, x credential.Exchange) (credential.Token, error) {
		close(asked)
		<-answer
		return credential.Token{}, errors.New("no")
	}
	var all sync.WaitGroup
	all.Go(func() { assert.Error(t, leaseOf(b, alice)) })
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	all.Go(func() {
		assert.ErrorIs(t, b.PutGrant(ctx, "k", "alice", secret("another consent"), by), context.Canceled)
	})
	for range 100 { // so that the consent comes to where it waits
		runtime.Gosched()
	}
	time.Sleep(10 * time.Millisecond)
	soon, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	assert.NoError(t, b.Revoke(soon, credential.Ref{Name: "k", Version: 1}, by))
	cancel()
	close(answer)
	all.Wait()
}

// What a user has consented to is not used up by somebody who does not say why.
func TestRedeemSaysWhoFirst(t *testing.T) {
	b := newFaulty().host(t, newGrantor())
	redeem := func(context.Context, credential.Exchange) (credential.Secret, error) {
		t.Error("redeemed")
		return credential.Secret{}, errors.New("redeemed")
	}
	assert.ErrorContains(t, b.Redeem(t.Context(), "k", alice, redeem, audit.Change{}), `grant of "k"`)
	assert.ErrorIs(t, b.Redeem(t.Context(), "another", alice, redeem, by), credential.ErrUnknown)
}

// A store that quotes what it was given gives it away to nobody.
func TestStoreThatQuotes(t *testing.T) {
	store := newFaulty()
	b := store.host(t, newGrantor())
	const value = "a value that is new to everybody"
	store.fail(&store.put, errors.New("cannot store "+value))
	_, err := b.Put(t.Context(), "k", secret(value), "", by)
	assert.ErrorContains(t, err, "cannot store [redacted:k]")
	_, err = b.Rotate(t.Context(), "k", secret(value), by)
	assert.ErrorContains(t, err, "cannot store [redacted:k]")
	assert.Empty(t, b.Scrubber().Count([]byte(value)), "nobody has it")
}
