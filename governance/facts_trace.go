package governance

import (
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
)

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
	p := v.past
	var t *trace // nil for an act that adds nothing
	var err error
	if d.look != nil && d.look.plan.feeds() {
		t, err = p.trace(v.actor, d.look, nil)
	}
	if staged != nil && staged.plan.feeds() && err == nil {
		var next *trace
		next, err = p.trace(v.actor, staged, func(d *factDef) bool { return s.counts(d.id) })
		switch {
		case err != nil:
		case t.empty():
			next.labels = nil // of a catalogue that is not in force
			t = next
		default:
			t.join(next)
		}
	}
	var record *audit.Facts
	if err == nil && !t.empty() {
		if record, err = p.onRecord(t); err == nil {
			err = v.start(t)
		}
	}
	if err != nil {
		*d = d.withdraw(audit.GuardFacts, hintFull)
		d.Errors = append(d.Errors, err.Error())
		return
	}
	d.Facts = record
	// The result may have labels, whatever it is of.
	d.hold = &hold{past: p, actor: v.actor, at: p.clock().UnixNano(), trace: t}
}

// empty reports whether an act adds nothing.
func (t *trace) empty() bool { return t == nil || len(t.adds)+len(t.labels) == 0 }

// maxOnRecord bounds what one act adds, in bytes of its record, which has room
// for more than that.
const maxOnRecord = 40 << 10

const hintFull = "Too much has happened to keep count of. Try again later."

// join adds what another snapshot counts, and not its labels: they would be those
// of a catalogue that is not in force.
func (t *trace) join(next *trace) {
	for _, a := range next.adds {
		a.seq, a.at = t.seq, t.at
		t.adds = append(t.adds, a)
	}
}

// trace computes what an act adds to the past. skip, if not nil, leaves facts
// out.
func (p *past) trace(actor audit.Actor, l *look, skip func(*factDef) bool) (*trace, error) {
	t := &trace{actor: actor, at: l.at.UnixNano(), seq: p.seq.Add(1), labels: l.plan.labels}
	t.adds = make([]addition, 0, len(l.plan.watches))
	for i := range l.plan.watches {
		w := &l.plan.watches[i]
		if skip != nil && skip(w.def) || !l.matches(w.where) {
			continue
		}
		a := addition{def: w.def, key: p.keyed(l, w.key), value: &unkeyed, event: event{at: t.at, seq: t.seq, reset: w.reset}}
		switch {
		case w.reset:
		case w.def.kind == SumWithin:
			of, _ := l.valueAt(w.of)
			n, ok := of.(types.Long)
			if !ok {
				return nil, errNoAmount // which the schema rules out
			}
			a.n = int64(n)
		case w.def.kind == DistinctWithin && w.many:
			of, _ := l.valueAt(w.of)
			set, _ := of.(types.Set)
			for e := range set.All() {
				a.value = p.newKeyed(e)
				a.event.value = a.value.digest
				t.adds = append(t.adds, a)
			}
			continue
		case w.def.kind == DistinctWithin:
			if a.value = p.keyed(l, w.value); a.value.absent {
				continue
			}
			a.event.value = a.value.digest
		}
		t.adds = append(t.adds, a)
	}
	return t, nil
}

// onRecord is the trace as the audit log keeps it. The values of one set are one
// event.
func (p *past) onRecord(t *trace) (*audit.Facts, error) {
	out := &audit.Facts{At: time.Unix(0, t.at).UTC(), Labels: t.labels, Add: make([]audit.FactEvent, 0, len(t.adds))}
	size := 0
	for i := range t.adds {
		a := &t.adds[i]
		if a.value != &unkeyed {
			out.KeyID = p.keyID
			if size += len(a.value.text) + 3; i > 0 && a.def == t.adds[i-1].def {
				e := &out.Add[len(out.Add)-1]
				e.Values = append(e.Values, a.value.text)
				continue
			}
		}
		e := audit.FactEvent{Fact: a.def.name, Def: a.def.text, Key: a.key.text, Amount: a.n, Reset: a.reset}
		if a.key != &unkeyed {
			out.KeyID = p.keyID
		}
		if a.value != &unkeyed {
			e.Values = []string{a.value.text}
		}
		size += len(e.Fact) + len(e.Def) + len(e.Key) + 100
		out.Add = append(out.Add, e)
	}
	if size > maxOnRecord {
		return nil, errFull
	}
	return out, nil
}
