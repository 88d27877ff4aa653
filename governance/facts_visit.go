package governance

import (
	"hash/maphash"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
)

// A visit is one decision's access to the past of its actor. From the first
// view until close, no other decision of the actor comes between: what is seen
// is still so when the act is reserved.
type visit struct {
	past  *past
	actor audit.Actor
	drops uint64    // as of the snapshots that decide
	first *Decision // of the act that goes on, see Engine.Again; or nil
	shard *shard    // locked; nil before
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

// touch notes that the session of the actor is active, whatever it asks for, so
// that what is known of it stays.
func (v *visit) touch() {
	if v == nil || v.past.size.Load() == 0 {
		return
	}
	if v.open(); v.agent == nil {
		return
	}
	if s := v.agent.sessions[sessionOf(v.actor)]; s != nil {
		s.seen = max(s.seen, v.past.clock().UnixNano())
	}
}

// view fills in what policies ask for.
func (v *visit) view(l *look) error {
	v.open()
	now := l.at.UnixNano()
	if len(l.plan.reads) > 0 {
		l.facts = make(types.RecordMap, len(l.plan.reads))
	}
	var own, session chapter
	if v.agent != nil {
		own = v.agent.chapter
		if s := v.agent.sessions[sessionOf(v.actor)]; s != nil {
			session = s.chapter
			if l.plan.readsLabels {
				if s.full {
					return errFull
				}
				l.labels, l.context["labels"] = s.without(v.seq())
			}
		}
	}
	for i := range l.plan.reads {
		r := &l.plan.reads[i]
		from := own
		if r.def.session {
			from = session
		}
		val := r.none
		if len(from) > 0 {
			if s := from[r.def.series(&v.past.keyed(l, r.key).digest)]; s != nil {
				val = s.value(now)
			}
		}
		if val != nil {
			l.facts[r.name] = val
		}
	}
	v.asBefore(l)
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
	def   *factDef
	key   *keyed
	value *keyed
	event
}

// waits reports whether the event counts only once the act has succeeded.
func (a addition) waits() bool { return (a.def.counts == Succeeded) != a.reset }

// A trace is what one act leaves in the past of its actor.
type trace struct {
	actor  audit.Actor
	at     int64
	seq    uint64
	drops  uint64 // see past.prune
	adds   []addition
	labels []string

	session *sessionPast // while it is entered
}

// start enters an act that has been allowed. On errFull nothing is entered.
func (v *visit) start(t *trace) error {
	v.open()
	t.drops = v.drops
	v.past.prune(t)
	if !v.past.room(v.shard, v.agent, t) {
		return errFull
	}
	v.agent = v.shard.agents[v.actor.Agent] // room may have swept it away
	v.make(t)
	added := 0
	for i := range t.adds {
		a := &t.adds[i]
		s := v.of(t, a)
		full := false
		if a.waits() {
			full = s.size(a.at) >= maxEvents
		} else if full = s.add(a.event, true); !full {
			added++
		}
		if full {
			v.grow(added)
			v.undo(t.adds[:i], t)
			return errFull
		}
	}
	v.grow(added)
	if len(t.labels) > 0 {
		v.session(t).start(t, v)
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
	v.past.prune(t)
	v.make(t)
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
		v.session(t).finish(t, r, v)
	}
}

// make begins what the act needs to be entered.
func (v *visit) make(t *trace) {
	t.session = nil
	if v.agent != nil {
		return
	}
	if v.shard.agents == nil {
		v.shard.agents = map[string]*agentPast{}
	}
	v.agent = &agentPast{chapter: chapter{}, sessions: map[sessionKey]*sessionPast{}}
	v.shard.agents[v.actor.Agent] = v.agent
}

// of finds the series of an addition, or begins it.
func (v *visit) of(t *trace, a *addition) series {
	in := v.agent.chapter
	if a.def.session {
		in = v.session(t).chapter
	}
	k := a.def.series(&a.key.digest)
	s := in[k]
	if s == nil {
		s = newSeries(a.def)
		in[k] = s
		v.grow(1)
	}
	return s
}

func (v *visit) grow(n int) {
	v.agent.size += n
	v.shard.size += n
	v.past.size.Add(int64(n))
}
