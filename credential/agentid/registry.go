package agentid

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// A Registry holds the agents of one host, in memory. It is safe for concurrent
// use, starts no goroutines, and remembers tokens and client secrets only as
// hashes.
type Registry struct {
	log      audit.Recorder
	issuer   string
	path     string // of the issuer's URL
	resource string // the default audience, or empty
	ttl      time.Duration
	now      func() time.Time
	refused  refusals

	admin sync.Mutex // one administrative act at a time, but for Revoke

	mu     sync.RWMutex
	agents map[string]*agent
	tokens map[hash]*token
	queue  []*token // all tokens, the oldest first
}

type hash [sha256.Size]byte

// An agent's fields change under the registry's lock.
type agent struct {
	Agent
	secret  hash
	revoked bool
	life    uint64 // one more with every revocation: tokens of an earlier life are void
	tokens  int
	running map[*running]struct{}
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
		log: audit.OrRefuse(log), ttl: opts.TokenTTL, now: opts.Clock,
		agents: make(map[string]*agent), tokens: make(map[hash]*token),
	}
	if r.ttl == 0 {
		r.ttl = 5 * time.Minute
	}
	if r.ttl < time.Second || r.ttl > time.Hour {
		return nil, fmt.Errorf("agentid: TokenTTL is %v, want 1s to 1h", r.ttl)
	}
	if r.now == nil {
		r.now = time.Now
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
	if opts.Resource != "" {
		var err error
		if r.resource, err = canonicalResource(opts.Resource); err != nil {
			return nil, fmt.Errorf("agentid: default resource: %w", err)
		}
	}
	return r, nil
}

// Register adds an agent, once that is on record, and returns its client
// secret. The secret cannot be had again; an agent that only runs in sandbox
// sessions does not need it.
func (r *Registry) Register(ctx context.Context, a Agent, by audit.Change) (credential.Secret, error) {
	if err := errors.Join(by.Validate(), a.validate()); err != nil {
		return credential.Secret{}, err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	if _, err := r.lifeOf(a.ID); err == nil {
		return credential.Secret{}, fmt.Errorf("%w: %q", ErrExists, a.ID)
	}
	detail := map[string]string{audit.DetailOwner: a.Owner}
	if a.Profile != "" {
		detail[audit.DetailProfile] = a.Profile
	}
	if err := r.record(ctx, "register_agent", a.ID, by, detail); err != nil {
		return credential.Secret{}, err
	}
	secret, sum := newToken("ags_")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.agents[a.ID] = &agent{Agent: a, secret: sum, running: make(map[*running]struct{})}
	return credential.NewSecret(secret), nil
}

// Revoke ends an agent: before it returns, its tokens are void, its contexts
// are cancelled with [ErrRevoked], and new ones are refused. It takes effect
// before it is recorded, also when the log hangs or is down or ctx is done; the
// error then matches [ErrNotRecorded], and the call can be repeated to get it
// on record.
func (r *Registry) Revoke(ctx context.Context, agentID string, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return err
	}
	// Not under admin, which somebody may hold who waits for the log.
	r.mu.Lock()
	a, ok := r.agents[agentID]
	if !ok {
		r.mu.Unlock()
		return fmt.Errorf("%w: %q", ErrUnknown, agentID)
	}
	a.revoked = true
	a.life++
	ending := a.running
	a.running = make(map[*running]struct{})
	r.mu.Unlock()
	for c := range ending {
		c.cancel(ErrRevoked)
	}
	detail := map[string]string{"cancelled": strconv.Itoa(len(ending))}
	if err := r.record(context.WithoutCancel(ctx), "revoke_agent", agentID, by, detail); err != nil {
		return fmt.Errorf("%w: revocation of %q: %w", ErrNotRecorded, agentID, err)
	}
	return nil
}

// Reinstate lets a revoked agent act again, once that is on record. Its client
// secret is as before; tokens and contexts from before stay ended. The error is
// [ErrRevoked] if it was revoked once more in the meantime.
func (r *Registry) Reinstate(ctx context.Context, agentID string, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	life, err := r.lifeOf(agentID)
	if err != nil {
		return err
	}
	if err := r.record(ctx, "reinstate_agent", agentID, by, nil); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.agents[agentID]
	if a.life != life {
		return fmt.Errorf("%w: %q, again, while it was being reinstated", ErrRevoked, agentID)
	}
	a.revoked = false
	return nil
}

// Lookup returns the agent as registered. The error is [ErrRevoked] for an
// agent that was revoked, and then the agent is returned too, or [ErrUnknown].
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
// cause [ErrRevoked], before [Registry.Revoke] returns. Sessions, calls and
// streams run under it. The error is [ErrUnknown], [ErrRevoked] or [ErrActor],
// and then nothing may start. The CancelFunc must be called when the work is
// over; the context is nil when there is an error.
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
	child, cancel := context.WithCancelCause(ctx)
	c := &running{cancel}
	a.running[c] = struct{}{}
	forget := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(a.running, c)
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

// live returns the agent, and with it ErrRevoked if it is revoked. The caller
// holds mu.
func (r *Registry) live(agentID string) (*agent, error) {
	a, ok := r.agents[agentID]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: %q", ErrUnknown, agentID)
	case a.revoked:
		return a, fmt.Errorf("%w: %q", ErrRevoked, agentID)
	}
	return a, nil
}

// lifeOf returns the number of the agent's life, or ErrUnknown. Agents are
// added under admin only, and never removed.
func (r *Registry) lifeOf(agentID string) (uint64, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	a, err := r.live(agentID)
	if a == nil {
		return 0, err
	}
	return a.life, nil
}

func (r *Registry) record(ctx context.Context, action, agentID string, by audit.Change, detail map[string]string) error {
	return r.log.Append(ctx, audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: action,
		Resource: "Agent::" + strconv.Quote(agentID), Change: &by, Detail: detail,
	})
}

// newToken returns prefix and 32 random bytes, and the hash to remember it by.
// Nothing that random needs a salt or a slow hash.
func newToken(prefix string) ([]byte, hash) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	b := base64.RawURLEncoding.AppendEncode([]byte(prefix), random[:])
	return b, sha256.Sum256(b)
}
