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

var errFull = errors.New("there is no room for more history")

// A past is an engine's memory of what agents did. It belongs to no snapshot.
type past struct {
	clock  func() time.Time
	key    [32]byte
	keyID  string
	seed   maphash.Seed
	seq    atomic.Uint64
	size   atomic.Int64 // entries
	shards [64]shard
	most   limits

	mu    sync.Mutex
	known map[defID]bool // facts whose history was rebuilt or back-filled
}

type limits struct{ agent, engine int }

type shard struct {
	mu     sync.Mutex
	agents map[string]*agentPast
	swept  int64 // when
	size   int   // entries
	next   int   // size at which to sweep
}

type agentPast struct {
	series   map[seriesKey]series
	sessions map[sessionKey]*sessionPast
	size     int // entries, those that have expired since the last sweep included
}

type seriesKey struct {
	session sessionKey // zero for a fact of the agent
	def     defID
	key     digest
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
	p := &past{clock: opts.clock(), seed: maphash.MakeSeed(), known: map[defID]bool{}, most: limits{maxAgentEntries, maxEngineEntries}}
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
		if v == nil {
			b = append(b, 0)
			continue
		}
		text := v.MarshalCedar()
		b = binary.AppendUvarint(append(b, 1), uint64(len(text)))
		b = append(b, text...)
	}
	sum := sha256.Sum256(b)
	return (*digest)(sum[:])
}

// digest is that of a key of the plan.
func (p *past) digest(l *look, key int) digest {
	if key < 0 {
		return digest{}
	}
	if l.digests == nil {
		l.digests = make([]*digest, len(l.plan.keys))
	}
	if l.digests[key] == nil {
		values := make([]types.Value, len(l.plan.keys[key]))
		for i, path := range l.plan.keys[key] {
			values[i], _ = l.valueAt(path)
		}
		l.digests[key] = p.hash(values...)
	}
	return *l.digests[key]
}

// A visit is one decision's access to the past of its actor. From the first
// view until close, no other decision of the actor comes between: what is seen
// is still so when the act is reserved.
type visit struct {
	past  *past
	actor audit.Actor
	shard *shard // locked; nil before
	agent *agentPast
}

// close may be called on nil, and more than once.
func (v *visit) close() {
	if v != nil && v.shard != nil {
		v.shard.mu.Unlock()
		v.shard, v.agent = nil, nil
	}
}

// open locks the past of the actor. Two views of one visit, by two snapshots,
// share it.
func (v *visit) open() {
	if v.shard != nil {
		return
	}
	v.shard = &v.past.shards[maphash.String(v.past.seed, v.actor.Agent)%uint64(len(v.past.shards))]
	v.shard.mu.Lock()
	v.agent = v.shard.agents[v.actor.Agent]
}

// view fills in what policies ask for.
func (v *visit) view(l *look) error {
	v.open()
	now := l.at.UnixNano()
	if len(l.plan.reads) > 0 {
		l.facts = make(types.RecordMap, len(l.plan.reads))
	}
	session := sessionOf(v.actor)
	for i := range l.plan.reads {
		r := &l.plan.reads[i]
		val := nothing(r.def.kind)
		if v.agent != nil {
			k := seriesKey{def: r.def.id, key: v.past.digest(l, r.key)}
			if r.def.session {
				k.session = session
			}
			if s := v.agent.series[k]; s != nil {
				val = s.value(now)
			}
		}
		if val != nil {
			l.facts[r.name] = val
		}
	}
	if v.agent == nil {
		return nil
	}
	if s := v.agent.sessions[session]; s != nil {
		if s.seen = max(s.seen, now); !l.plan.readsLabels {
			return nil
		}
		if s.full {
			return errFull
		}
		l.labels, l.context["labels"] = s.view()
	}
	return nil
}

// nothing is the value of a fact that has no history.
func nothing(k FactKind) types.Value {
	switch factKinds[k] {
	case "Long":
		return types.Long(0)
	case "Bool":
		return types.False
	}
	return nil
}

// An addition is one event and the series that it belongs to.
type addition struct {
	def *factDef
	key digest
	event
}

// waits reports whether the event counts only once the act has succeeded.
func (a addition) waits() bool { return (a.def.counts == Succeeded) != a.reset }

// A trace is what one act leaves in the past of its actor.
type trace struct {
	actor  audit.Actor
	at     int64
	seq    uint64
	adds   []addition
	labels []string
}

func (t *trace) series(a *addition) seriesKey {
	k := seriesKey{def: a.def.id, key: a.key}
	if a.def.session {
		k.session = sessionOf(t.actor)
	}
	return k
}

// start enters an act that has been allowed. On errFull nothing is entered.
func (v *visit) start(t *trace) error {
	v.open()
	if !v.past.room(v.shard, v.agent, t) {
		return errFull
	}
	v.agent = v.shard.agents[v.actor.Agent] // room may have swept it away
	v.make()
	for i := range t.adds {
		a := &t.adds[i]
		s := v.of(t, a)
		full := false
		if a.waits() {
			full = s.size(a.at) >= maxEvents
		} else if full = s.add(a.event, true); !full {
			v.grow(1)
		}
		if full {
			v.undo(t.adds[:i], t)
			return errFull
		}
	}
	if len(t.labels) > 0 {
		v.session(t.actor, t.at).start(t, v)
	}
	return nil
}

func (v *visit) undo(adds []addition, t *trace) {
	for i := range adds {
		if a := &adds[i]; !a.waits() {
			v.grow(-v.of(t, a).settle(a.event, false))
		}
	}
}

// finish enters how an act has ended.
func (v *visit) finish(t *trace, r Result) {
	v.open()
	v.make()
	for i := range t.adds {
		a := &t.adds[i]
		switch s := v.of(t, a); {
		case !a.waits():
			v.grow(-s.settle(a.event, r.used()))
		case r.OK && !s.add(a.event, false):
			v.grow(1)
		}
	}
	if len(t.labels) > 0 || len(r.Labels) > 0 {
		v.session(t.actor, t.at).finish(t, r, v)
	}
}

func (v *visit) make() {
	if v.agent != nil {
		return
	}
	if v.shard.agents == nil {
		v.shard.agents = map[string]*agentPast{}
	}
	v.agent = &agentPast{series: map[seriesKey]series{}, sessions: map[sessionKey]*sessionPast{}}
	v.shard.agents[v.actor.Agent] = v.agent
}

func (v *visit) of(t *trace, a *addition) series {
	k := t.series(a)
	s := v.agent.series[k]
	if s == nil {
		s = newSeries(a.def)
		v.agent.series[k] = s
		v.grow(1)
	}
	return s
}

func (v *visit) grow(n int) {
	v.agent.size += n
	v.shard.size += n
	v.past.size.Add(int64(n))
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
	return fits()
}

// sweep drops what counts for nothing any more.
func (p *past) sweep(sh *shard, now int64) {
	sh.swept = now
	before := sh.size
	sh.size = 0
	for name, a := range sh.agents {
		a.size = 0
		for k, s := range a.series {
			if n := s.size(now); n > 0 {
				a.size += n + 1
			} else {
				delete(a.series, k)
			}
		}
		for k, s := range a.sessions {
			if s.seen < now-int64(idleSession) {
				delete(a.sessions, k)
			} else {
				a.size += len(s.labels) + 1
			}
		}
		if sh.size += a.size; a.size == 0 {
			delete(sh.agents, name)
		}
	}
	p.size.Add(int64(sh.size - before))
}

// forget drops facts that are no longer declared: what they missed from now on
// would make their history wrong.
func (p *past) forget(gone map[defID]*factDef) {
	if len(gone) == 0 {
		return
	}
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, a := range sh.agents {
			maps.DeleteFunc(a.series, func(k seriesKey, _ series) bool { return gone[k.def] != nil })
		}
		sh.next = 0
		sh.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.known, func(id defID, _ bool) bool { return gone[id] != nil })
}

// A sessionPast is what stays of a session. It is never empty.
type sessionPast struct {
	labels map[string]*labelPast
	seen   int64 // when the session was last active
	full   bool  // a label had no room: nothing can be said any more
	names  []string
	set    types.Set
	fresh  bool // names and set are up to date
}

// A labelPast is a label that stays, or that may still go again.
type labelPast struct {
	stays bool
	open  []uint64
}

func (v *visit) session(a audit.Actor, at int64) *sessionPast {
	k := sessionOf(a)
	s := v.agent.sessions[k]
	if s == nil {
		s = &sessionPast{labels: map[string]*labelPast{}}
		v.agent.sessions[k] = s
		v.grow(1)
	}
	s.seen = max(s.seen, at)
	return s
}

func (s *sessionPast) view() ([]string, types.Set) {
	if !s.fresh {
		s.names = slices.Sorted(maps.Keys(s.labels))
		s.set, s.fresh = labelSet(s.names), true
	}
	return s.names, s.set
}

func (s *sessionPast) label(name string, v *visit) *labelPast {
	l := s.labels[name]
	if l == nil {
		if len(s.labels) == maxSessionLabels {
			s.full = true
			return nil
		}
		l = &labelPast{}
		s.labels[name], s.fresh = l, false
		v.grow(1)
	}
	return l
}

func (s *sessionPast) start(t *trace, v *visit) {
	for _, name := range t.labels {
		if l := s.label(name, v); l != nil && !l.stays {
			if l.open = append(l.open, t.seq); len(l.open) > maxOpen {
				l.stays, l.open = true, nil
			}
		}
	}
}

func (s *sessionPast) finish(t *trace, r Result, v *visit) {
	for _, name := range t.labels {
		l := s.labels[name]
		if r.used() || r.Reached {
			if l = s.label(name, v); l != nil {
				l.stays, l.open = true, nil
			}
			continue
		}
		if l == nil {
			continue
		}
		if l.open = slices.DeleteFunc(l.open, func(seq uint64) bool { return seq == t.seq }); !l.stays && len(l.open) == 0 {
			delete(s.labels, name)
			s.fresh = false
			v.grow(-1)
		}
	}
	for _, name := range r.Labels {
		if !labelText.MatchString(name) {
			s.full = true // it cannot be told to policies, so they are told nothing
			continue
		}
		if l := s.label(name, v); l != nil {
			l.stays, l.open = true, nil
		}
	}
}

// reserve enters what an allowed act adds to the past, so that the next decision
// sees it, and puts it on record. The decision becomes a denial when there is no
// room.
//
// staged is the look of a snapshot beside s: facts that are new in it are counted
// already, so that they have a history when it is promoted.
func (v *visit) reserve(d *Decision, s *Snapshot, staged *look) {
	if v == nil || !d.Allowed() {
		return
	}
	p, t := v.past, &trace{actor: v.actor, at: v.past.clock().UnixNano()} // a result may have labels, whatever it is of
	if d.look != nil && d.look.plan.feeds() {
		t = p.trace(v.actor, d.look, nil)
	}
	if staged != nil && staged.plan.feeds() {
		next := p.trace(v.actor, staged, func(d *factDef) bool { return s.defs[d.id] != nil })
		if len(t.adds)+len(t.labels) == 0 {
			t = next
		} else {
			t.join(next)
		}
	}
	if len(t.adds)+len(t.labels) > 0 {
		if len(t.adds) > maxAdditions || v.start(t) != nil {
			*d = d.withdraw(audit.GuardFacts, hintFull)
			return
		}
		d.Facts = p.onRecord(t)
	}
	d.onSettle(func(r Result) {
		if len(t.adds)+len(t.labels)+len(r.Labels) == 0 {
			return
		}
		v := visit{past: p, actor: t.actor}
		defer v.close()
		v.finish(t, r)
	})
}

// maxAdditions bounds what one act adds, which goes on record with it.
const maxAdditions = 2048

const hintFull = "Too much has happened to keep count of. Try again later."

// join adds what another snapshot counts.
func (t *trace) join(next *trace) {
	for _, a := range next.adds {
		a.seq, a.at = t.seq, t.at
		t.adds = append(t.adds, a)
	}
	t.labels = slices.Compact(slices.Sorted(slices.Values(slices.Concat(t.labels, next.labels))))
}

// trace computes what an act adds to the past. skip, if not nil, leaves facts
// out.
func (p *past) trace(actor audit.Actor, l *look, skip func(*factDef) bool) *trace {
	t := &trace{actor: actor, at: l.at.UnixNano(), seq: p.seq.Add(1), labels: l.plan.labels}
	for i := range l.plan.watches {
		w := &l.plan.watches[i]
		if skip != nil && skip(w.def) || !l.matches(w.where) {
			continue
		}
		a := addition{def: w.def, key: p.digest(l, w.key), event: event{at: t.at, seq: t.seq, reset: w.reset}}
		var of types.Value
		if len(w.of) > 0 && !w.reset {
			of, _ = l.valueAt(w.of)
		}
		switch w.def.kind {
		case SumWithin:
			n, _ := of.(types.Long)
			a.n = max(0, int64(n))
		case DistinctWithin:
			switch of := of.(type) {
			case nil:
				continue
			case types.Set:
				for e := range of.All() {
					a.value = *p.hash(e)
					t.adds = append(t.adds, a)
				}
				continue
			default:
				a.value = *p.hash(of)
			}
		}
		t.adds = append(t.adds, a)
	}
	return t
}

// onRecord is the trace as the audit log keeps it.
func (p *past) onRecord(t *trace) *audit.Facts {
	out := &audit.Facts{At: time.Unix(0, t.at).UTC(), Labels: t.labels, Add: make([]audit.FactEvent, len(t.adds))}
	for i := range t.adds {
		a := &t.adds[i]
		e := &out.Add[i]
		*e = audit.FactEvent{Fact: a.def.name, Def: a.def.text, Amount: a.n, Reset: a.reset}
		if a.key != (digest{}) {
			e.Key, out.KeyID = hex.EncodeToString(a.key[:]), p.keyID
		}
		if a.value != (digest{}) {
			e.Value, out.KeyID = hex.EncodeToString(a.value[:]), p.keyID
		}
	}
	return out
}
