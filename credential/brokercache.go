package credential

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a lease waits for a store that does not answer before it
// goes on with what is known; and how long the store is left alone after it
// failed.
const (
	patience = 500 * time.Millisecond
	respite  = time.Second
)

var errSlow = errors.New("the store has not answered yet")

// An entry is what the broker has of one name.
type entry struct {
	name    string
	binding atomic.Pointer[Binding]
	bound   atomic.Bool // by Bind, whatever the store says
	grant   atomic.Bool // it is one
	known   atomic.Pointer[known]

	mu      sync.Mutex
	flight  *flight // the reading that is under way, or nil
	failed  time.Time
	failure error
	spec    *BindingSpec         // what binding was made of, if it is the store's
	seen    map[uint64]time.Time // when the versions were made that the scrubber knows
	given   *atomic.Bool         // of a grant: see consent
}

// known is what was read of the store at one time. It does not change.
type known struct {
	at                time.Time
	current, previous *live // nil: there is none
	unknown           bool  // the store has no such name
}

// live is a version that requests may carry.
type live struct {
	ref     Ref
	made    time.Time
	secret  Secret
	revoked atomic.Bool             // leases look at it
	divided atomic.Pointer[Binding] // for whose scheme the scrubber knows its parts
}

// A flight is one reading of the store, which many wait for.
type flight struct {
	began time.Time
	done  chan struct{}
	again bool // something changed meanwhile; under the entry's lock
	err   error
}

// entry returns what there is of a name, which may be nothing yet. Names come
// from the host's configuration, so they are not forgotten.
func (b *Broker) entry(name string) *entry {
	b.mu.RLock()
	e := b.names[name]
	b.mu.RUnlock()
	if e != nil {
		return e
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e = b.names[name]; e == nil {
		e = &entry{name: name}
		b.names[name] = e
	}
	return e
}

// grantEntry is entry for the name of a grant.
func (b *Broker) grantEntry(name string) *entry {
	e := b.entry(name)
	e.grant.Store(true)
	return e
}

// background runs f until [Broker.Close], and reports false after it.
func (b *Broker) background(f func()) bool {
	b.mu.RLock() // Close holds it while it ends the broker's life
	defer b.mu.RUnlock()
	if b.life.Err() != nil {
		return false
	}
	b.work.Go(f)
	return true
}

// fresh returns what may be used of an entry, and asks the store before if that
// is too old.
func (b *Broker) fresh(ctx context.Context, e *entry) (*known, error) {
	k := e.known.Load()
	if k != nil && k.unknown {
		k = nil
	}
	return b.recent(ctx, e, k)
}

// recent is fresh, where k is what is known of the entry: also that it is
// unknown, if that will do.
func (b *Broker) recent(ctx context.Context, e *entry, k *known) (*known, error) {
	now := b.opts.Now()
	if k != nil && now.Sub(k.at) < b.opts.Refresh {
		return k, nil
	}
	f := b.read(e, false)
	var giveUp <-chan time.Time
	if k != nil && now.Sub(k.at) < b.opts.MaxStale {
		timer := time.NewTimer(patience - now.Sub(f.began))
		defer timer.Stop()
		giveUp = timer.C
	}
	var err error
	select {
	case <-f.done:
		if err = f.err; err == nil {
			return e.known.Load(), nil
		}
	case <-giveUp:
		err = errSlow
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if giveUp == nil || errors.Is(err, ErrUnknown) {
		return nil, err
	}
	b.opts.Logger.Warn("credential: leasing what was read before", "credential", e.name, "read", k.at, "error", err)
	return k, nil
}

// read starts reading an entry from the store, or joins the reading that is
// under way. With changed, what is read is from after the call.
func (b *Broker) read(e *entry, changed bool) *flight {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := b.opts.Now()
	if f := e.flight; f != nil {
		f.again = f.again || changed
		return f
	}
	f := &flight{began: now, done: make(chan struct{})}
	if !changed && e.failure != nil && now.Sub(e.failed) < respite {
		f.err = e.failure
		close(f.done)
		return f
	}
	e.flight = f
	running := b.background(func() {
		for {
			err := b.load(e)
			e.mu.Lock()
			if f.again && b.life.Err() == nil {
				f.again = false
				e.mu.Unlock()
				continue
			}
			f.err, e.failure, e.failed, e.flight = err, err, b.opts.Now(), nil
			e.mu.Unlock()
			close(f.done)
			return
		}
	})
	if !running {
		f.err, e.flight = b.storeError(context.Canceled), nil
		close(f.done)
	}
	return f
}

// await waits for a reading that began after the call.
func (b *Broker) await(ctx context.Context, e *entry) error {
	f := b.read(e, true)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load reads an entry from the store once.
func (b *Broker) load(e *entry) error {
	ctx, cancel := context.WithTimeout(b.life, b.opts.StoreTimeout)
	defer cancel()
	for range 3 { // a version may change its state between the two readings
		at := b.opts.Now() // what is known is as old as the question
		list, err := b.store.List(ctx, e.name)
		if err != nil {
			return b.storeError(err)
		}
		if len(list) == 0 {
			e.publish(&known{at: at, unknown: true}) // its leases end
			return fmt.Errorf("%w: %q", ErrUnknown, e.name)
		}
		k, err := b.collect(ctx, e, at, list)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err == nil {
			err = b.follow(ctx, e)
		}
		if err != nil {
			return err
		}
		old := e.known.Load()
		e.publish(k)
		if e.grant.Load() {
			b.fadeRotated(old, k)
		}
		return nil
	}
	return b.storeError(ErrConflict)
}

// fadeRotated makes the scrubber forget, in an hour, the versions of a grant that
// newer ones have taken the place of: there is one with every token. What was
// withdrawn it goes on to know.
func (b *Broker) fadeRotated(old, now *known) {
	if old == nil || now.current == nil {
		return
	}
	for _, l := range []*live{old.current, old.previous} {
		if l != nil && now.find(l.ref) != l && l.ref.Version < now.current.ref.Version {
			b.tokens.fade(l.ref, l.secret, now.at.Add(time.Hour))
		}
	}
}

// collect reads the versions of a list that are not known yet.
func (b *Broker) collect(ctx context.Context, e *entry, at time.Time, list []Version) (*known, error) {
	k, old := &known{at: at}, e.known.Load()
	for _, v := range list {
		if v.State == StateDestroyed {
			continue
		}
		l := old.find(v.Ref)
		if l != nil && !l.made.Equal(v.Created) {
			l = nil // the name was deleted and made anew: another value
		}
		if l == nil {
			if made, ok := e.seen[v.Ref.Version]; ok && made.Equal(v.Created) && !v.State.Live() {
				continue
			}
			now, secret, err := b.store.Get(ctx, v.Ref)
			switch {
			case err == nil && now.State == v.State:
			case !v.State.Live():
				continue // only the scrubber would have liked to know
			case err == nil || errors.Is(err, ErrUnknown) || errors.Is(err, ErrDestroyed):
				return nil, ErrConflict
			default:
				return nil, b.storeError(err)
			}
			// A secret that cannot be scrubbed is refused by NewLease. To add one
			// again costs nothing.
			_ = b.scrubber.AddVersion(v.Ref, secret)
			if e.seen == nil {
				e.seen = make(map[uint64]time.Time)
			}
			e.seen[v.Ref.Version] = v.Created
			if !v.State.Live() {
				secret.Destroy()
				continue
			}
			l = &live{ref: v.Ref, made: v.Created, secret: secret}
		}
		switch v.State {
		case StateCurrent:
			k.current = l
		case StatePrevious:
			k.previous = l
		}
	}
	return k, nil
}

// follow takes over the binding that the store keeps, unless Bind said
// otherwise.
func (b *Broker) follow(ctx context.Context, e *entry) error {
	if b.bindings == nil || e.bound.Load() {
		return nil
	}
	spec, ok, err := b.bindings.Binding(ctx, e.name)
	if err != nil {
		return b.storeError(err)
	}
	var to *Binding
	if ok {
		if e.spec != nil && reflect.DeepEqual(*e.spec, spec) {
			return nil // and what was traded under it remains
		}
		made, err := b.opts.Binding(spec)
		if err != nil {
			return fmt.Errorf("binding of %q: %w", e.name, err)
		}
		if made.Origin, err = bareOrigin(made.Origin); err != nil {
			return fmt.Errorf("binding of %q: %w", e.name, err)
		}
		e.spec, to = &spec, &made
	} else {
		e.spec = nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.bound.Load() {
		e.binding.Store(to)
	}
	return nil
}

// find returns what is known of a version, or nil.
func (k *known) find(ref Ref) *live {
	switch {
	case k == nil:
	case k.current != nil && k.current.ref == ref:
		return k.current
	case k.previous != nil && k.previous.ref == ref:
		return k.previous
	}
	return nil
}

// publish makes k what is known, and ends the leases of what is not live any
// more.
func (e *entry) publish(k *known) {
	old := e.known.Swap(k)
	if k.current == nil {
		e.withdraw()
	}
	if old == nil {
		return
	}
	for _, l := range []*live{old.current, old.previous} {
		if l != nil && k.find(l.ref) != l {
			l.revoked.Store(true)
		}
	}
}

// consent returns what is set when the grant is withdrawn that there is now. A
// version of a grant that was only rotated ends nothing.
func (e *entry) consent() *atomic.Bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given == nil {
		e.given = new(atomic.Bool)
	}
	return e.given
}

// withdraw ends what was had for the grant that there was until now.
func (e *entry) withdraw() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given != nil {
		e.given.Store(true)
		e.given = nil
	}
}

// revoke ends the leases of a version before the store says so.
func (e *entry) revoke(l *live) {
	l.revoked.Store(true)
	if e.known.Load().current == l {
		e.withdraw()
	}
}

// storeError is an error of the store, scrubbed, because whoever wrote the
// store may not have thought of it.
func (b *Broker) storeError(err error) error {
	return b.scrubber.err(fmt.Errorf("%w: %w", ErrStore, err))
}

// watch listens to the store until the broker is closed.
func (b *Broker) watch(w Watcher) {
	for b.life.Err() == nil {
		for ref, err := range w.Watch(b.life) {
			switch {
			case err != nil:
				b.opts.Logger.Warn("credential: the store is not watched", "error", b.storeError(err))
			case ref == Ref{}:
				b.mu.RLock()
				all := make([]*entry, 0, len(b.names))
				for _, e := range b.names {
					all = append(all, e)
				}
				b.mu.RUnlock()
				for _, e := range all {
					b.read(e, true)
				}
			default:
				b.mu.RLock()
				e := b.names[ref.Name]
				b.mu.RUnlock()
				if e != nil {
					b.read(e, true)
				}
			}
		}
		select { // the loop should not have ended
		case <-b.life.Done():
		case <-time.After(respite):
		}
	}
}
