package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Broker is the [Vault] over a [Store]. It knows where each secret may go,
// hands out leases, keeps what it has read of the store for a short while, and
// makes its scrubber know every version before anybody can send it.
//
// What is leased is at most [BrokerOptions].Refresh behind the store, and at
// once up to date with changes that went through this broker or that a
// [Watcher] told of. While the store is down or slow, leases go on with what is
// known of it for [BrokerOptions].MaxStale; then they fail with [ErrStore]. So
// a version that somebody else revoked is leased for at most Refresh longer, or
// MaxStale if the store cannot be asked.
//
// It is safe for concurrent use.
type Broker struct {
	store    Store
	bindings BindingStore   // the store, if it is one
	log      audit.Recorder // nil: no records, see [NewMemory]
	opts     BrokerOptions
	scrubber *Scrubber

	tokens *tokens // what secrets were traded for
	grants gate    // one exchange of a grant at a time

	admin chan struct{} // holds one token while an administrative act is done

	mu    sync.RWMutex
	names map[string]*entry

	life context.Context // of what runs in the background
	end  context.CancelFunc
	work sync.WaitGroup
}

// BrokerOptions are what can be changed about a [Broker].
type BrokerOptions struct {
	// Refresh is how old what is known of a secret may be before the store is
	// asked again. Zero means 30 seconds.
	Refresh time.Duration
	// MaxStale is how old it may be while the store does not answer. Zero means
	// 5 minutes; less than Refresh means Refresh.
	MaxStale time.Duration
	// StoreTimeout bounds each reading of a secret from the store. Zero means 10
	// seconds.
	StoreTimeout time.Duration
	// LeaseTTL is how long a lease can be used. Zero means 15 minutes.
	LeaseTTL time.Duration
	// Binding makes the bindings that a [BindingStore] keeps. Nil means
	// [BindingSpec.Binding], which knows no OAuth; the package oauth does.
	Binding func(BindingSpec) (Binding, error)
	// Client sends the requests by which secrets are traded for tokens. It must
	// not follow redirects. Nil means that each [Exchanger] uses its own.
	Client *http.Client
	// Logger hears of stores that do not answer. Nil means silence.
	Logger *slog.Logger
	// Now is the clock. Nil means [time.Now].
	Now func() time.Time
}

// NewBroker returns a vault over store. Every act that changes something is
// recorded in log before it takes effect; with a nil log there are none. Nil
// opts means the defaults. [Broker.Close] ends what runs in the background.
func NewBroker(store Store, log audit.Recorder, opts *BrokerOptions) (*Broker, error) {
	if store == nil {
		return nil, errors.New("credential: a broker needs a store")
	}
	b := newBroker(store, audit.OrRefuse(log), opts)
	if w, ok := store.(Watcher); ok {
		b.background(func() { b.watch(w) })
	}
	return b, nil
}

func newBroker(store Store, log audit.Recorder, opts *BrokerOptions) *Broker {
	b := &Broker{
		store: store, log: log, scrubber: new(Scrubber),
		admin: make(chan struct{}, 1), names: make(map[string]*entry),
	}
	if opts != nil {
		b.opts = *opts
	}
	o := &b.opts
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&o.Refresh, 30 * time.Second}, {&o.MaxStale, 5 * time.Minute},
		{&o.StoreTimeout, 10 * time.Second}, {&o.LeaseTTL, 15 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	o.MaxStale = max(o.MaxStale, o.Refresh)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Binding == nil {
		o.Binding = BindingSpec.Binding
	}
	b.bindings, _ = store.(BindingStore)
	b.life, b.end = context.WithCancel(context.Background())
	b.tokens, b.grants = newTokens(b.life, b.background, o.Now), newGate()
	b.tokens.forget = func(ref Ref, token Secret) { _ = b.scrubber.Remove(ref, token) }
	return b
}

// Close ends what runs in the background and waits for it. Later leases live
// from what is known already.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.end()
	b.mu.Unlock()
	b.work.Wait()
	return nil
}

// Lease implements [Vault].
func (b *Broker) Lease(ctx context.Context, r LeaseRequest) (*Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if (Ref{Name: r.Credential}).Canary() {
		return nil, fmt.Errorf("%w: %q", ErrCanary, r.Credential)
	}
	e := b.entry(r.Credential)
	bound, err := b.boundTo(ctx, e)
	if err != nil {
		return nil, err
	}
	m, err := b.material(ctx, r, e, bound)
	if err != nil {
		return nil, err
	}
	ttl := b.opts.LeaseTTL
	if r.TTL > 0 {
		ttl = min(ttl, r.TTL)
	}
	now := b.opts.Now()
	expires := now.Add(ttl)
	if !m.ends.IsZero() && m.ends.Before(expires) {
		expires = m.ends
	}
	return NewLease(r, m.ref, m.secret, *bound, &LeaseOptions{
		Scrubber: b.scrubber, Context: ctx, Expires: expires, Now: b.opts.Now,
		Revoked: m.revoked, Second: m.second, Grant: m.grant,
	})
}

// Binding returns where a secret may go, or the error with which [Broker.Lease]
// would say that nobody has said so.
func (b *Broker) Binding(ctx context.Context, credential string) (Binding, error) {
	bound, err := b.boundTo(ctx, b.entry(credential))
	if err != nil {
		return Binding{}, err
	}
	return *bound, nil
}

// boundTo returns the binding that Bind has made, or else the store's.
func (b *Broker) boundTo(ctx context.Context, e *entry) (*Binding, error) {
	if b.bindings != nil && !e.bound.Load() {
		if _, err := b.fresh(ctx, e); err != nil {
			return nil, err
		}
	}
	if bound := e.binding.Load(); bound != nil {
		return bound, nil
	}
	if _, err := b.usable(ctx, e); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %q", ErrUnbound, e.name)
}

// Scrubber knows every version that the broker has read of the store.
func (b *Broker) Scrubber() *Scrubber { return b.scrubber }

// Preload makes the broker and its scrubber know all secrets of the store,
// also those that are never leased here.
func (b *Broker) Preload(ctx context.Context) error {
	list, err := b.store.List(ctx, "")
	if err != nil {
		return b.storeError(err)
	}
	var failed []error
	last := ""
	for _, v := range list {
		if v.Ref.Name == last {
			continue
		}
		last = v.Ref.Name
		_, err := b.fresh(ctx, b.entry(last))
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
