package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/twinward-dev/twinward/audit"
)

// granted is a token for what the actor's user granted.
func (b *Broker) granted(ctx context.Context, r LeaseRequest, e *entry, bound *Binding, x GrantExchanger) (material, error) {
	subject := x.Subject(r.Actor)
	name := GrantName(r.Credential, subject)
	g := b.grantEntry(name)
	k, err := b.fresh(ctx, g)
	if errors.Is(err, ErrUnknown) || err == nil && k.current == nil {
		return material{}, &GrantError{Credential: r.Credential, Actor: r.Actor}
	}
	if err != nil {
		return material{}, err
	}
	v := k.current
	if v.revoked.Load() {
		if g.known.Load() != k {
			return b.granted(ctx, r, e, bound, x) // rotated meanwhile, and more than once
		}
		return material{}, &GrantError{Credential: r.Credential, Actor: r.Actor, Ended: true}
	}
	if _, err := b.client(ctx, e); err != nil {
		return material{}, err
	}
	key := tokenKey{name: r.Credential, grant: name, binding: bound, subject: subject}
	do := func(ctx context.Context, slot *tokenSlot) (Token, uint64, error) {
		t, version, err := b.tradeGrant(ctx, r, e, g, bound, x, slot)
		if err == nil {
			err = b.scrubber.AddVersion(key.of(version), t.Value)
		}
		return t, version, b.exchangeError(r.Credential, err)
	}
	h, err := b.tokens.get(ctx, key, wanted{version: v.ref.Version, orLater: true}, do)
	if err != nil {
		return material{}, err
	}
	return material{
		ref: Ref{r.Credential, h.client}, grant: key.of(h.version), secret: h.secret,
		ends: h.ends, revoked: h.revoked.any, second: b.renewal(r, h.version, key, h, do),
	}, nil
}

// client returns the current secret of the client that grants are traded with,
// or nil for a public client, which has none.
func (b *Broker) client(ctx context.Context, e *entry) (*live, error) {
	k, err := b.recent(ctx, e, e.known.Load())
	switch {
	case errors.Is(err, ErrUnknown), err == nil && k.unknown:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return k.use(e.name)
}

// tradeGrant trades a grant for a token, one at a time for each grant. If that
// rotated the grant, the new one is durable before the token is returned: a
// crash in between costs the grant, so that the user has to consent again, and
// never leaves a token in use whose grant is lost.
func (b *Broker) tradeGrant(ctx context.Context, r LeaseRequest, e, g *entry, bound *Binding, x GrantExchanger, slot *tokenSlot) (Token, uint64, error) {
	store, ok := b.store.(WritableStore)
	if !ok {
		return Token{}, 0, fmt.Errorf("a grant may be rotated at any time: %w", ErrReadOnly)
	}
	if err := b.grants.lock(ctx, g.name); err != nil {
		return Token{}, 0, err
	}
	defer b.grants.unlock(g.name)
	ask := b.exchange(r, bound, 0, slot.token())
	c, err := b.client(ctx, e)
	if err != nil {
		return Token{}, 0, err
	}
	if slot.unsaved != nil {
		return b.saveGrant(ctx, store, g, slot, r.Credential, r.Actor)
	}
	slot.traded, slot.client = ends{g.consent()}, 0
	if c != nil {
		ask.Secret = c.secret
		slot.traded, slot.client = append(slot.traded, &c.revoked), c.ref.Version
	}
	var used uint64
	for {
		v, grant, err := newestGrant(ctx, store, g.name)
		if errors.Is(err, ErrUnknown) {
			return Token{}, 0, &GrantError{Credential: r.Credential, Actor: r.Actor}
		}
		if err != nil {
			return Token{}, 0, b.storeError(err)
		}
		ask.Learn(grant)
		ask.Grant = grant
		t, err := x.Exchange(ctx, ask)
		if errors.Is(err, ErrReauth) {
			if v.Ref.Version != used {
				used = v.Ref.Version // another host may have rotated it meanwhile: look once more
				if list, e := store.List(ctx, g.name); e == nil && len(list) > 0 && list[len(list)-1].Ref.Version != used {
					continue
				}
			}
			b.opts.Logger.Warn("credential: a grant is no longer accepted", "credential", r.Credential, "grant", v.Ref, "error", b.clean(err))
			return Token{}, v.Ref.Version, &GrantError{Credential: r.Credential, Actor: r.Actor, Ended: true}
		}
		if err != nil {
			return Token{}, v.Ref.Version, err
		}
		if t.Replace == nil {
			return t, v.Ref.Version, nil
		}
		ask.Learn(*t.Replace)
		slot.unsaved, slot.after = &t, v.Ref.Version
		return b.saveGrant(ctx, store, g, slot, r.Credential, r.Actor)
	}
}

// saveGrant stores a rotated grant. Until that has worked it is kept here, and
// the token with it.
func (b *Broker) saveGrant(ctx context.Context, store WritableStore, g *entry, slot *tokenSlot, credential string, a audit.Actor) (Token, uint64, error) {
	t := *slot.unsaved
	ref, err := rotateGrant(ctx, store, g.name, *t.Replace, slot.after)
	if errors.Is(err, errWithdrawn) {
		slot.unsaved = nil
		_ = b.await(ctx, g)
		return Token{}, slot.after, &GrantError{Credential: credential, Actor: a, Ended: true}
	}
	if errors.Is(err, ErrConflict) {
		slot.unsaved = nil // a newer grant is there
	}
	if err != nil {
		return Token{}, slot.after, b.storeError(fmt.Errorf("the grant was rotated and cannot be stored: %w", err))
	}
	slot.unsaved = nil
	_ = b.await(ctx, g) // else it is noticed later
	return t, ref.Version, nil
}

// PutGrant stores what a subject granted for the use of a credential, in place
// of what they granted before. The subject is what the binding's
// [GrantExchanger] calls them.
func (b *Broker) PutGrant(ctx context.Context, credential, subject string, grant Secret, by audit.Change) error {
	name := GrantName(credential, subject)
	err := b.actOnGrant(ctx, name, by, func(g *entry) error {
		store, versions, err := b.versions(ctx, name)
		if err != nil {
			return err
		}
		var newest uint64
		if n := len(versions); n > 0 {
			newest = versions[n-1].Ref.Version
		}
		detail := map[string]string{"grant": name, "version": strconv.FormatUint(newest+1, 10)}
		if err := b.record(ctx, "grant_credential", credential, by, detail); err != nil {
			return err
		}
		if err := b.learn(Ref{Name: credential}, grant.Clone()); err != nil { // the caller may destroy it
			return err
		}
		if err := putGrant(ctx, store, name, grant, newest); err != nil {
			return b.clean(err)
		}
		return b.await(ctx, g)
	})
	if err != nil {
		return fmt.Errorf("grant of %q: %w", credential, err)
	}
	return nil
}

// Redeem gets and stores a grant of the actor's user: redeem trades what the
// user's consent brought, such as an authorization code, with the secret of the
// client, and returns what is to be stored.
func (b *Broker) Redeem(ctx context.Context, credential string, a audit.Actor, redeem func(context.Context, Exchange) (Secret, error), by audit.Change) error {
	if err := by.Validate(); err != nil { // before what was consented to is used up
		return fmt.Errorf("grant of %q: %w", credential, err)
	}
	e := b.entry(credential)
	bound, err := b.boundTo(ctx, e)
	if err != nil {
		return err
	}
	x, ok := bound.Scheme.(GrantExchanger)
	if !ok {
		return fmt.Errorf("%w: %q needs no grant", ErrScheme, credential)
	}
	ask := b.exchange(LeaseRequest{Credential: credential, Actor: a}, bound, 0, Secret{})
	c, err := b.client(ctx, e)
	if err != nil {
		return err
	}
	if c != nil {
		ask.Secret = c.secret
	}
	grant, err := redeem(ctx, ask)
	if err != nil {
		return b.exchangeError(credential, err)
	}
	return b.PutGrant(ctx, credential, x.Subject(a), grant, by)
}

// actOnGrant waits until nobody uses a grant and then does an act. It waits
// first: a token endpoint that takes its time must not hold up other acts, such
// as revoking a secret.
func (b *Broker) actOnGrant(ctx context.Context, name string, by audit.Change, do func(*entry) error) error {
	if err := by.Validate(); err != nil {
		return err
	}
	if err := b.grants.lock(ctx, name); err != nil {
		return err
	}
	defer b.grants.unlock(name)
	b.grantEntry(name)
	return b.act(ctx, name, by, do)
}

// WithdrawGrant ends the use of what a subject granted. Leases that are out
// refuse with [ErrRevoked], and later ones fail with a [*GrantError]; tokens that
// the other side gave out live on there until they expire. That there is no grant
// is [ErrUnknown].
func (b *Broker) WithdrawGrant(ctx context.Context, credential, subject string, by audit.Change) error {
	name := GrantName(credential, subject)
	err := b.actOnGrant(ctx, name, by, func(g *entry) error {
		store, versions, err := b.versions(ctx, name)
		if err != nil {
			return err
		}
		if len(versions) == 0 {
			return ErrUnknown
		}
		if err := b.record(ctx, "withdraw_grant", credential, by, map[string]string{"grant": name}); err != nil {
			return err
		}
		g.withdraw()
		if err := revokeAll(ctx, store, name); err != nil {
			return b.clean(err)
		}
		return b.await(ctx, g)
	})
	if err != nil {
		return fmt.Errorf("withdrawal of a grant of %q: %w", credential, err)
	}
	return nil
}

// revokeAll revokes the versions of a grant until none is left: another host may be
// storing a rotated one at the same time.
func revokeAll(ctx context.Context, store WritableStore, name string) error {
	for {
		list, err := store.List(ctx, name)
		if err != nil {
			return err
		}
		left := false
		for _, v := range list {
			if !v.State.Live() && v.State != StatePending {
				continue
			}
			left = true
			if err := store.SetState(ctx, v.Ref, v.State, StateRevoked); err != nil && (!errors.Is(err, ErrConflict) || ctx.Err() != nil) {
				return err
			}
		}
		if !left {
			return nil
		}
	}
}

// putGrant stores what a subject has granted anew, after the given version.
func putGrant(ctx context.Context, store WritableStore, name string, grant Secret, after uint64) error {
	ref, err := store.Put(ctx, name, grant, after, "grant")
	if err == nil {
		err = store.SetState(ctx, ref, StatePending, StateCurrent)
	}
	if err != nil {
		return err
	}
	if list, err := store.List(ctx, name); err == nil {
		forgetGrants(ctx, store, list, ref)
	}
	return nil
}

var errWithdrawn = errors.New("the grant was withdrawn while it was used")

// rotateGrant stores a grant in place of the one that was used for it. Another
// host may have withdrawn that one meanwhile; then the new one is withdrawn as
// well: it must not bring the grant back to life.
func rotateGrant(ctx context.Context, store WritableStore, name string, grant Secret, used uint64) (Ref, error) {
	ref, err := store.Put(ctx, name, grant, used, "grant")
	if err != nil {
		return Ref{}, err
	}
	// If this fails it is durable all the same: newestGrant finds it.
	promoted := store.SetState(ctx, ref, StatePending, StateCurrent)
	list, err := store.List(ctx, name)
	if err != nil {
		return Ref{}, err
	}
	n := len(list)
	if n == 0 || list[n-1].Ref != ref {
		return ref, nil // another host has gone on from it
	}
	if n > 1 && list[n-2].Ref.Version == used && list[n-2].State.Live() {
		if promoted == nil {
			forgetGrants(ctx, store, list, ref)
		}
		return ref, nil
	}
	if state := list[n-1].State; state.Live() || state == StatePending {
		if err := store.SetState(ctx, ref, state, StateRevoked); err != nil {
			return Ref{}, err
		}
	}
	return Ref{}, errWithdrawn
}

// forgetGrants destroys those before the one that is current: a refresh token
// that was used is of no use.
func forgetGrants(ctx context.Context, store WritableStore, list []Version, current Ref) {
	for _, v := range list {
		if v.Ref.Version < current.Version && v.State == StateRevoked {
			_ = store.SetState(ctx, v.Ref, StateRevoked, StateDestroyed)
		}
	}
}

// newestGrant returns the newest version of a grant. One that is pending was
// stored by a host that ended before it could make it current.
func newestGrant(ctx context.Context, store WritableStore, name string) (Version, Secret, error) {
	list, err := store.List(ctx, name)
	if err != nil {
		return Version{}, Secret{}, err
	}
	if len(list) == 0 {
		return Version{}, Secret{}, ErrUnknown
	}
	v := list[len(list)-1]
	switch v.State {
	case StatePending:
		if n := len(list); n > 1 && !list[n-2].State.Live() {
			return Version{}, Secret{}, ErrUnknown // what it was had for was withdrawn
		}
		if err := store.SetState(ctx, v.Ref, StatePending, StateCurrent); err != nil && !errors.Is(err, ErrConflict) {
			return Version{}, Secret{}, err
		}
	case StateCurrent:
	default:
		return Version{}, Secret{}, ErrUnknown // withdrawn
	}
	return store.Get(ctx, v.Ref)
}

// A gate lets one through at a time for each name.
type gate struct {
	tokens chan map[string]chan struct{}
}

func newGate() gate {
	g := gate{make(chan map[string]chan struct{}, 1)}
	g.tokens <- make(map[string]chan struct{})
	return g
}

func (g gate) of(name string) chan struct{} {
	all := <-g.tokens
	defer func() { g.tokens <- all }()
	c := all[name]
	if c == nil {
		c = make(chan struct{}, 1)
		all[name] = c
	}
	return c
}

func (g gate) lock(ctx context.Context, name string) error {
	select {
	case g.of(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) unlock(name string) { <-g.of(name) }

// Client is the one that the broker's exchanges use; nil if each has its own.
func (b *Broker) Client() *http.Client { return b.opts.Client }
