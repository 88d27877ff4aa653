package governance

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
)

// Limits of what an engine remembers, in entries: an event, a series (one fact
// for one value of its key) and a label of a session are one each, of some 100
// bytes. What would go beyond denies.
const (
	maxAgentEntries  = 250_000
	maxEngineEntries = 4 << 20
	// idleSession is when a session that has labels is taken to be over.
	idleSession = 7 * 24 * time.Hour
)

var (
	errFull     = errors.New("there is no room for more history")
	errNoAmount = errors.New("what a fact sums is no whole number")
)

// A past is an engine's memory of what agents did. It belongs to no snapshot.
type past struct {
	clock  func() time.Time
	key    [32]byte
	keyID  string
	seed   maphash.Seed
	seq    atomic.Uint64
	size   atomic.Int64 // entries
	shards [64]shard
	turn   atomic.Uint64 // see sweepAnother
	most   limits

	mu    sync.Mutex
	known map[defID]bool   // facts whose history was rebuilt or back-filled
	gone  map[defID]parted // facts that were forgotten of late
	drops atomic.Uint64    // how many times some were
}

// parted is when a fact was forgotten.
type parted struct {
	drop uint64
	at   int64
}

type limits struct{ agent, engine int }

type shard struct {
	mu     sync.Mutex
	agents map[string]*agentPast
	swept  int64 // when
	size   int   // entries
	next   int   // size at which to sweep
}

// A chapter holds the series of an agent, or of one session of it.
type chapter map[seriesKey]series

// A seriesKey is the fact and the digest of its key.
type seriesKey [len(defID{}) + len(digest{})]byte

func (d *factDef) series(key *digest) (k seriesKey) {
	copy(k[:], d.id[:])
	copy(k[len(d.id):], key[:])
	return k
}

type agentPast struct {
	chapter
	sessions map[sessionKey]*sessionPast
	size     int // entries, those that have expired since the last sweep included
}

// A sessionKey is a session of an agent. Without one, each instance is.
type sessionKey struct {
	of           bool
	id, instance string
}

func sessionOf(a audit.Actor) sessionKey {
	if a.Session != "" {
		return sessionKey{of: true, id: a.Session}
	}
	return sessionKey{of: true, instance: a.Instance}
}

// minFactKey is the least length of Options.FactKey.
const minFactKey = 32

func newPast(opts *Options) *past {
	p := &past{clock: opts.clock(), seed: maphash.MakeSeed(), known: map[defID]bool{}, gone: map[defID]parted{}, most: limits{maxAgentEntries, maxEngineEntries}}
	secret := opts.orDefault().FactKey
	if len(secret) == 0 {
		secret = make([]byte, minFactKey)
		rand.Read(secret) // never fails
	}
	p.key = sha256.Sum256(append([]byte("twinward facts\n"), secret...))
	id := sha256.Sum256(append([]byte("id\n"), p.key[:]...))
	p.keyID = hex.EncodeToString(id[:6])
	return p
}

// hash is the digest of argument values, nil for an absent one. Half of a
// SHA-256 under a secret of fixed length: who reads the log cannot try values.
func (p *past) hash(values ...types.Value) *digest {
	b := make([]byte, 0, 128)
	b = append(b, p.key[:]...)
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, 0)
		case types.String:
			b = binary.AppendUvarint(append(b, 1), uint64(len(v)))
			b = append(b, v...)
		default:
			text := v.MarshalCedar()
			b = binary.AppendUvarint(append(b, 2), uint64(len(text)))
			b = append(b, text...)
		}
	}
	sum := sha256.Sum256(b)
	return (*digest)(sum[:])
}

// keyed is what some facts are kept apart by, or tell apart.
type keyed struct {
	digest
	text   string // in hexadecimal, for the record
	absent bool   // there is no such argument
}

var unkeyed keyed

// keyed is that of a key of the plan.
func (p *past) keyed(l *look, key int) *keyed {
	if key < 0 {
		return &unkeyed
	}
	if l.keys == nil {
		l.keys = make([]*keyed, len(l.plan.keys))
	}
	if l.keys[key] == nil {
		paths := l.plan.keys[key]
		values := make([]types.Value, len(paths), maxFactPaths)
		for i, path := range paths {
			values[i], _ = l.valueAt(path)
		}
		l.keys[key] = p.newKeyed(values...)
		l.keys[key].absent = len(values) == 1 && values[0] == nil
	}
	return l.keys[key]
}

func (p *past) newKeyed(values ...types.Value) *keyed {
	d := p.hash(values...)
	return &keyed{digest: *d, text: hex.EncodeToString(d[:])}
}

// room reports whether an act can be entered, after dropping what has expired if
// that is needed. A full memory is swept once a second at most.
func (p *past) room(sh *shard, a *agentPast, t *trace) bool {
	need := 2*len(t.adds) + len(t.labels) + 1
	fits := func() bool {
		return (a == nil || a.size+need <= p.most.agent) && int(p.size.Load())+need <= p.most.engine
	}
	if due := sh.size > sh.next; due || !fits() && (t.at-sh.swept >= int64(time.Second) || t.at < sh.swept) {
		p.sweep(sh, t.at)
		sh.next = max(8192, 2*sh.size)
	}
	if fits() {
		return true
	}
	p.sweepAnother(sh, t.at)
	return fits()
}

// sweepAnother drops what has expired in one shard more, each in turn: agents that
// do nothing any more would take up the engine's room for ever.
func (p *past) sweepAnother(than *shard, now int64) {
	sh := &p.shards[p.turn.Add(1)%uint64(len(p.shards))]
	// Whoever waits for a lock while holding one may wait for ever.
	if sh == than || !sh.mu.TryLock() {
		return
	}
	defer sh.mu.Unlock()
	if now-sh.swept >= int64(time.Second) || now < sh.swept {
		p.sweep(sh, now)
	}
}

// sweep drops what counts for nothing any more.
func (p *past) sweep(sh *shard, now int64) {
	sh.swept = now
	before := sh.size
	sh.size = 0
	for name, a := range sh.agents {
		a.size = 0
		a.size += a.sweep(now)
		for k, s := range a.sessions {
			n := s.sweep(now)
			if s.seen < now-int64(idleSession) {
				s.labels, s.full, s.fresh = map[string]*labelPast{}, false, false
			}
			if n += len(s.labels); n == 0 && !s.full {
				delete(a.sessions, k)
			} else {
				a.size += n + 1
			}
		}
		if sh.size += a.size; a.size == 0 {
			delete(sh.agents, name)
		}
	}
	p.size.Add(int64(sh.size - before))
}

// sweep drops series that have nothing to say any more, and returns the size of
// the rest.
func (c chapter) sweep(now int64) (size int) {
	for k, s := range c {
		if n := s.size(now); n > 0 {
			size += n + 1
		} else {
			delete(c, k)
		}
	}
	return size
}

// forget drops facts that are no longer declared: what they missed from now on
// would make their history wrong.
func (p *past) forget(gone map[defID]bool) {
	if len(gone) == 0 {
		return
	}
	p.part(gone) // first, so that nothing enters behind the sweep below
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, a := range sh.agents {
			a.forget(gone)
			for _, s := range a.sessions {
				s.forget(gone)
			}
		}
		sh.next = 0
		sh.mu.Unlock()
	}
}

// knows are the facts whose history was read from a log or a tape.
func (p *past) knows() []defID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.known))
}

// part notes that facts are forgotten from now on.
func (p *past) part(gone map[defID]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, drop := p.clock().UnixNano(), p.drops.Load()+1
	maps.DeleteFunc(p.known, func(id defID, _ bool) bool { return gone[id] })
	// No act of before is within a window any more.
	maps.DeleteFunc(p.gone, func(_ defID, g parted) bool { return g.at <= now-int64(MaxFactWindow) })
	for id := range gone {
		p.gone[id] = parted{drop, now}
	}
	p.drops.Store(drop)
}

// prune takes from an act the facts that were forgotten since it began: entered
// now, it would stand alone in a history that misses what came between.
func (p *past) prune(t *trace) {
	if p.drops.Load() == t.drops {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.adds = slices.DeleteFunc(t.adds, func(a addition) bool { return p.gone[a.def.id].drop > t.drops })
}

func (c chapter) forget(gone map[defID]bool) {
	maps.DeleteFunc(c, func(k seriesKey, _ series) bool { return gone[defID(k[:len(defID{})])] })
}
