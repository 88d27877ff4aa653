package agentid

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// A Hash is the SHA-256 of a token or a client secret, which are random enough
// to need no salt and no slow hash. Stores see nothing else of them.
type Hash [sha256.Size]byte

// A State is whether an agent may act.
type State string

const (
	// Active agents act.
	Active State = "active"
	// Frozen agents may not act, and what they left behind is kept for forensics.
	Frozen State = "frozen"
	// Revoked agents may not act.
	Revoked State = "revoked"
)

// An Entry is what a store holds of an agent. Its strings are not secret.
type Entry struct {
	Agent
	// Secret is the hash of the client secret.
	Secret Hash
	State  State
	// Life is one more with every end of the agent. Tokens and contexts of an
	// earlier life stay void after it was reinstated. It never decreases.
	Life uint64
	// Ended is when that was, the last time. Zero means never.
	Ended time.Time
	// Version is 1 for the first entry of an agent and one more with each change.
	Version uint64
}

// A Grant is what a store holds of an issued token that is opaque.
type Grant struct {
	Token    Hash
	Agent    string
	Life     uint64 // of the agent, when the token was issued
	Audience string // canonical
	Expires  time.Time
	// User is the person that the agent acts for, and Chain the agents through
	// whom that authority came, the latest first. Both may be empty.
	User  string
	Chain []Link
	// KeyID is the RFC 7638 thumbprint of the key that must prove each use (DPoP,
	// cnf.jkt), and Cert the hash of the client certificate that must (mTLS,
	// cnf.x5t#S256), both in base64url. Empty means that whoever holds the token
	// may use it.
	KeyID, Cert string
}

// A Link is an agent in the life in which it handed a user's authority on.
type Link struct {
	Agent string `json:"agent"`
	Life  uint64 `json:"life"`
}

// A Key is the public half of a key that one host signs tokens with. The
// private half stays in that host's memory.
type Key struct {
	ID  string
	JWK []byte // JSON
	// Expires is when the last token signed with it has.
	Expires time.Time
}

// A Dropped token is void although it has not expired.
type Dropped struct {
	Token   Hash
	Expires time.Time
}

// Changes are what happened in a store after some point. Seq is the point to go
// on from.
type Changes struct {
	Seq     uint64
	Agents  []Entry
	Dropped []Dropped
	Keys    []Key
}

// A Store holds what the hosts that share it have to agree on. A [Registry]
// keeps a copy of it in memory, which [Registry.Follow] keeps current: no
// request of an agent waits for the store, but for the first that a host sees
// with a token from another one.
//
// Methods are safe for concurrent use and return once the change is durable.
type Store interface {
	// Put stores an entry if its Version is one more than the stored one's, or 1
	// and there is none. Otherwise the error is [ErrConflict].
	Put(ctx context.Context, e Entry) error
	// Changes returns what changed after seq; 0 is the beginning. Something may be
	// in two answers, and nothing in none.
	Changes(ctx context.Context, seq uint64) (Changes, error)
	// Listen calls wake, which returns at once, when there may be changes, until
	// ctx ends or the store cannot be listened to any more. It may be unreliable:
	// followers also ask on their own.
	Listen(ctx context.Context, wake func()) error

	// AddGrant stores a token and Grant returns it, or [ErrToken].
	AddGrant(ctx context.Context, g Grant) error
	Grant(ctx context.Context, token Hash) (Grant, error)
	// Drop makes a token void on all hosts, also one that is not stored.
	Drop(ctx context.Context, d Dropped) error
	// AddKey publishes a key.
	AddKey(ctx context.Context, k Key) error
	// Once returns [ErrReplay] if key was given to it before and is to be
	// remembered until later than now. Of callers at the same time one wins.
	Once(ctx context.Context, key Hash, until time.Time) error
}

var (
	// ErrConflict is returned when two people changed an agent at once: look at it
	// again, and repeat.
	ErrConflict = errors.New("agentid: the agent was changed by somebody else in the meantime")
	// ErrReplay is returned for what is good for one use and was used before.
	ErrReplay = errors.New("agentid: used before")
	// ErrRewound is returned when a store's history is shorter than it was, as
	// after a backup was put back, or another than it was. The registry denies
	// everything, until there is another one: what is missing cannot be known.
	ErrRewound = errors.New("agentid: the store has lost changes that were seen before: revocations may be missing in it")
)

// maxOnce bounds what a [MemoryStore] remembers of [Store.Once]: further keys are
// refused rather than an earlier one forgotten.
const maxOnce = 1 << 18

var errOnceFull = errors.New("agentid: too many proofs at once")

// A MemoryStore is a [Store] in memory: for one host, or for tests of several.
type MemoryStore struct {
	now func() time.Time

	mu      sync.Mutex
	seq     uint64
	agents  map[string]Entry
	changed map[string]uint64 // the seq of each agent's newest entry
	dropped []Dropped
	keys    []Key
	grants  map[Hash]Grant
	expiry  expiryQueue
	once    onceCache
	wakers  map[*func()]struct{}
}

// NewMemoryStore returns an empty store. A nil clock is time.Now.
func NewMemoryStore(clock func() time.Time) *MemoryStore {
	if clock == nil {
		clock = time.Now
	}
	return &MemoryStore{
		now: clock, agents: map[string]Entry{}, changed: map[string]uint64{}, grants: map[Hash]Grant{},
		wakers: map[*func()]struct{}{},
	}
}

// Put implements [Store].
func (m *MemoryStore) Put(_ context.Context, e Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agents[e.ID].Version+1 != e.Version {
		return ErrConflict
	}
	m.agents[e.ID] = e
	m.advance()
	m.changed[e.ID] = m.seq
	return nil
}

// advance counts a change and tells listeners. The caller holds mu.
func (m *MemoryStore) advance() {
	m.seq++
	for wake := range m.wakers {
		(*wake)()
	}
}

// Changes implements [Store].
func (m *MemoryStore) Changes(_ context.Context, seq uint64) (Changes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := Changes{Seq: m.seq}
	if seq == m.seq {
		return out, nil
	}
	for id, at := range m.changed {
		if at > seq {
			out.Agents = append(out.Agents, m.agents[id])
		}
	}
	m.forget()
	out.Dropped, out.Keys = slices.Clone(m.dropped), slices.Clone(m.keys)
	return out, nil
}

// forget drops what has expired and is looked for in no other way. The caller holds
// mu.
func (m *MemoryStore) forget() {
	now := m.now()
	m.dropped = slices.DeleteFunc(m.dropped, func(d Dropped) bool { return !now.Before(d.Expires) })
	m.keys = slices.DeleteFunc(m.keys, func(k Key) bool { return !now.Before(k.Expires) })
}

// Listen implements [Store].
func (m *MemoryStore) Listen(ctx context.Context, wake func()) error {
	m.mu.Lock()
	m.wakers[&wake] = struct{}{}
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.wakers, func(w *func(), _ struct{}) bool { return w == &wake })
	return ctx.Err()
}

// AddGrant implements [Store].
func (m *MemoryStore) AddGrant(_ context.Context, g Grant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expiry.forget(m.now(), func(h Hash) { delete(m.grants, h) })
	m.grants[g.Token] = g
	m.expiry.add(g.Token, g.Expires)
	return nil
}

// Grant implements [Store].
func (m *MemoryStore) Grant(_ context.Context, token Hash) (Grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.grants[token]
	if !ok {
		return Grant{}, ErrToken
	}
	return g, nil
}

// Drop implements [Store].
func (m *MemoryStore) Drop(_ context.Context, d Dropped) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.grants, d.Token)
	m.forget() // a registry that shares its store with nobody asks for no changes
	m.dropped = append(m.dropped, d)
	m.advance()
	return nil
}

// AddKey implements [Store].
func (m *MemoryStore) AddKey(_ context.Context, k Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
	m.keys = append(m.keys, k)
	m.advance()
	return nil
}

// Once implements [Store].
func (m *MemoryStore) Once(_ context.Context, key Hash, until time.Time) error {
	return m.once.once(m.now(), key, until)
}

// A onceCache remembers keys until they expire.
type onceCache struct {
	mu     sync.Mutex
	seen   map[Hash]struct{}
	expiry expiryQueue
}

func (c *onceCache) once(now time.Time, key Hash, until time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expiry.forget(now, func(h Hash) { delete(c.seen, h) })
	if _, ok := c.seen[key]; ok {
		return ErrReplay
	}
	if len(c.seen) >= maxOnce {
		return errOnceFull
	}
	if c.seen == nil {
		c.seen = map[Hash]struct{}{}
	}
	c.seen[key] = struct{}{}
	c.expiry.add(key, until)
	return nil
}
