package agentid

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Registry holds the agents of one host, or, over a shared [Store], of many.
// It is safe for concurrent use, and remembers tokens and client secrets only as
// hashes. Besides [Registry.Follow] it starts goroutines only to ask external issuers
// for their keys, for some seconds each.
type Registry struct {
	log      audit.Recorder
	issuer   string
	path     string // of the issuer's URL
	resource string // the default audience, or empty
	ttl      time.Duration
	jwt      bool // tokens are signed ones
	now      func() time.Time
	logger   *slog.Logger
	refused  refusals

	store    Store
	shared   bool // with other hosts, so that it can be stale
	maxStale time.Duration
	poll     time.Duration
	syncing  chan struct{} // holds one: who has it asks the store for changes
	asking   chan struct{} // holds maxAsking: who has one asks it for a token

	admin sync.Mutex // one administrative act at a time, but for ends

	mu       sync.RWMutex
	seq      uint64
	reread   bool      // the next question is for everything
	rewound  bool      // the store has lost changes, and nothing is asked any more
	fresh    time.Time // until when what follows may be relied on
	watchdog *time.Timer
	agents   map[string]*agent
	tokens   map[Hash]*token
	expiry   expiryQueue // of tokens
	dropped  map[Hash]time.Time

	foreign map[string]*foreign // by URL
	signing signing
}

// An agent's fields change under the registry's lock.
type agent struct {
	Entry
	unstored bool // its end is not in the store yet
	tokens   int
	running  map[*running]struct{}
	lapse    *time.Timer // ends what runs when the registration expires
}

// A running is a context that ends with the agent.
type running struct{ cancel context.CancelCauseFunc }

// NewRegistry returns a registry without agents. Nil opts are the defaults; a
// nil log refuses every act with [audit.ErrNoLog].
func NewRegistry(log audit.Recorder, opts *Options) (*Registry, error) {
	if opts == nil {
		opts = &Options{}
	}
	r := &Registry{
		log: audit.OrRefuse(log), ttl: opts.TokenTTL, now: opts.Clock, logger: opts.Logger,
		store: opts.Store, shared: opts.Store != nil, maxStale: opts.MaxStale, poll: opts.Poll, syncing: make(chan struct{}, 1), asking: make(chan struct{}, maxAsking),
		agents: make(map[string]*agent), tokens: make(map[Hash]*token), dropped: make(map[Hash]time.Time),
		foreign: make(map[string]*foreign),
	}
	if r.ttl == 0 {
		r.ttl = 5 * time.Minute
	}
	if r.ttl < time.Second || r.ttl > time.Hour {
		return nil, fmt.Errorf("agentid: TokenTTL is %v, want 1s to 1h", r.ttl)
	}
	if r.jwt = opts.JWT; r.jwt {
		r.ttl = min(r.ttl, maxJWTLife)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	if r.store == nil {
		r.store = NewMemoryStore(r.now)
	}
	if r.maxStale == 0 {
		r.maxStale = 10 * time.Second
	}
	if r.poll == 0 {
		r.poll = min(r.maxStale/2, time.Second/2)
	}
	if r.maxStale < 0 || r.poll <= 0 || r.poll > r.maxStale/2 {
		return nil, fmt.Errorf("agentid: MaxStale %v and Poll %v: a host has to ask at least twice within MaxStale", r.maxStale, r.poll)
	}
	if opts.Issuer != "" {
		issuer, err := canonicalResource(opts.Issuer)
		if err != nil {
			return nil, fmt.Errorf("agentid: issuer: %w", err)
		}
		u, err := url.Parse(issuer)
		if err != nil || u.RawQuery != "" || u.ForceQuery || issuer != opts.Issuer {
			// Clients compare the issuer as a string (RFC 8414, 3.3).
			return nil, fmt.Errorf("agentid: issuer %q: want it as %q and without query", opts.Issuer, issuer)
		}
		r.issuer, r.path = issuer, u.Path
	}
	for _, i := range opts.Issuers {
		f, err := newForeign(i, opts.HTTP, r.now)
		if err != nil {
			return nil, err
		}
		if r.foreign[i.URL] != nil || i.URL == r.issuer {
			return nil, fmt.Errorf("agentid: issuer %q is there twice", i.URL)
		}
		r.foreign[i.URL] = f
	}
	if opts.Resource != "" {
		var err error
		if r.resource, err = canonicalResource(opts.Resource); err != nil {
			return nil, fmt.Errorf("agentid: default resource: %w", err)
		}
	}
	return r, nil
}

// Lookup returns the agent as registered. The error is [ErrRevoked],
// [ErrFrozen] or [ErrLapsed] for an agent that has ended, and then the agent is
// returned too, or [ErrUnknown] or [ErrStale].
func (r *Registry) Lookup(agentID string) (Agent, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	a, err := r.live(agentID)
	if a == nil {
		return Agent{}, err
	}
	return a.Agent, err
}

// Actor returns the actor of a registered, live agent, for the host that is
// about to start a session as that agent. Its issuer is "session".
func (r *Registry) Actor(agentID string) (audit.Actor, error) {
	a, err := r.Lookup(agentID)
	if err != nil {
		return audit.Actor{}, err
	}
	return audit.Actor{Agent: a.ID, Issuer: "session", Profile: a.Profile}, nil
}

// Context returns a context that ends with the agent: it is cancelled, with
// cause [ErrRevoked] or [ErrFrozen], before [Registry.Revoke] or
// [Registry.Freeze] returns, when the agent's registration expires with
// [ErrLapsed], when it is given another profile or issuer with [ErrActor], and when the
// store is lost with [ErrStale]. Sessions, calls and streams run under it. The
// error is one of these, or [ErrUnknown], and then nothing may start. The
// CancelFunc must be called when the work is over; the context is nil when there
// is an error.
func (r *Registry) Context(ctx context.Context, actor audit.Actor) (context.Context, context.CancelFunc, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.live(actor.Agent)
	if err != nil {
		return nil, nil, err
	}
	if actor.Profile != a.Profile {
		return nil, nil, fmt.Errorf("%w: %q, and agent %q has %q", ErrActor, actor.Profile, a.ID, a.Profile)
	}
	if r.foreign[actor.Issuer] != nil && actor.Issuer != a.Issuer {
		return nil, nil, fmt.Errorf("%w: %q does not speak for agent %q", ErrActor, actor.Issuer, a.ID)
	}
	child, cancel := context.WithCancelCause(ctx)
	c := &running{cancel}
	a.running[c] = struct{}{}
	if a.lapse == nil {
		r.awaitLapse(a)
	}
	forget := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(a.running, c); len(a.running) == 0 && a.lapse != nil {
			a.lapse.Stop()
			a.lapse = nil
		}
	}
	// Should the parent end and nobody call the CancelFunc.
	stop := context.AfterFunc(child, forget)
	return child, func() {
		if stop() {
			forget()
		}
		cancel(context.Canceled)
	}, nil
}

// awaitLapse has what runs under an agent end when its registration, as it is now,
// expires. The caller holds mu.
func (r *Registry) awaitLapse(a *agent) {
	if a.lapse != nil {
		a.lapse.Stop()
		a.lapse = nil
	}
	if len(a.running) == 0 || a.Expires.IsZero() {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(max(a.Expires.Sub(r.now()), time.Millisecond), func() {
		r.mu.Lock()
		if a.lapse != timer { // there is a later one
			r.mu.Unlock()
			return
		}
		a.lapse = nil
		if a.Expires.IsZero() || r.now().Before(a.Expires) {
			r.awaitLapse(a) // by the registry's clock it is not time yet
			r.mu.Unlock()
			return
		}
		ending := a.stop()
		r.mu.Unlock()
		cancelAll(ending, ErrLapsed)
	})
	a.lapse = timer
}

// live returns the agent, and with it an error unless it may act. The caller
// holds mu.
func (r *Registry) live(agentID string) (*agent, error) {
	if err := r.stale(); err != nil {
		return nil, err
	}
	a, ok := r.agents[agentID]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, agentID)
	}
	if err := r.ended(a); err != nil {
		return a, fmt.Errorf("%w: %q", err, agentID)
	}
	return a, nil
}

// ended returns why an agent may not act, or nil. The caller holds mu.
func (r *Registry) ended(a *agent) error {
	switch {
	case a.State == Frozen:
		return ErrFrozen
	case a.State != Active:
		return ErrRevoked
	case !a.Expires.IsZero() && !r.now().Before(a.Expires):
		return ErrLapsed
	}
	return nil
}

// cause is the bare error of an end, with which contexts are cancelled.
func (s State) cause() error {
	if s == Frozen {
		return ErrFrozen
	}
	return ErrRevoked
}

// Agents returns all agents, ended ones too, in no order.
func (r *Registry) Agents() ([]Entry, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := r.stale(); err != nil {
		return nil, err
	}
	all := make([]Entry, 0, len(r.agents))
	for _, a := range r.agents {
		all = append(all, a.Entry)
	}
	return all, nil
}

// newToken returns prefix and 32 random bytes, and the hash to remember it by.
// Nothing that random needs a salt or a slow hash.
func newToken(prefix string) ([]byte, Hash) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	b := base64.RawURLEncoding.AppendEncode([]byte(prefix), random[:])
	return b, sha256.Sum256(b)
}

var errNotFollowed = errors.New("agentid: this registry has a store of its own: there is nothing to follow")
