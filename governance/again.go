package governance

import (
	"context"
	"errors"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
)

// ErrNotAllowed is returned by [Engine.Again] for an act that was not allowed, or
// was another one: of another action or resource, of another agent or user, or
// decided by another engine.
var ErrNotAllowed = errors.New("governance: only an act that was allowed can go on")

// Again answers whether an act that first allowed may go on, such as when it is
// asked how it stands, or given what it waits for. r is the request of the act.
// Everything is asked anew, by the policies in force now and for the session as it
// is now, and a stale engine denies, with these differences to [Engine.Decide]:
//
//   - Nothing is counted, reserved or used up: the act has done so. Settling the
//     decision does nothing.
//   - Facts are those by which first was decided, since they count the act itself
//     by now, and so are not the labels that only the act has put on its session.
//     Facts that have come into force since are as they are now.
//   - The approval that first was given counts for the same request, also when it
//     has expired, as long as the policies are those that it was given for.
//
// It is not on the tape, and not compared with what is staged. The error is that
// of Decide, or [ErrNotAllowed].
func (e *Engine) Again(ctx context.Context, first Decision, r Request) (Decision, error) {
	again := func(ctx context.Context, r Request) (Decision, error) { return e.again(ctx, &first, r) }
	if e == nil || e.telemetry == nil {
		return again(ctx, r)
	}
	return e.telemetry.observe(ctx, r, again)
}

func (e *Engine) again(ctx context.Context, first *Decision, r Request) (Decision, error) {
	stale := e.stale() // before the snapshot is taken, as in decide
	s, _, drops := e.inForce()
	switch {
	case s == nil:
		return s.Decide(ctx, r)
	case stale:
		return s.outdated(&r)
	case !first.allows(e.past, r.Actor):
		d := Decision{Decision: audit.Decision{ID: audit.NewID(), PolicyHash: s.hash}}
		d.Action, d.Resource = r.named()
		return refuse(d, audit.GuardState, hintClosed), ErrNotAllowed
	}
	r.engine, r.counted, r.further, r.Approval = e.id, true, true, nil
	if a := first.agreed; a != nil && a.Policy == s.hash {
		r.Approval = a
	}
	v := e.visit(&r, drops)
	defer v.close()
	if v != nil {
		v.first = first
	}
	d, err := s.Decide(ctx, r)
	v.touch()
	if d.Allowed() && (d.Action != first.Action || d.Resource != first.Resource) {
		return refuse(d, audit.GuardState, hintClosed), ErrNotAllowed
	}
	return d, err
}

// allows reports whether d allowed an act of this agent and user, in any session of
// theirs, as far as d has kept that: one that was decided with a history from
// outside, or itself allowed an act to go on, has not.
func (d *Decision) allows(p *past, a audit.Actor) bool {
	h := d.hold
	return d.Allowed() && (h == nil || h.past == nil || h.past == p && h.actor.Agent == a.Agent && h.actor.User == a.User)
}

// asBefore puts the facts into l that a further step of an act is decided by.
func (v *visit) asBefore(l *look) {
	if v.first == nil || v.first.look == nil {
		return
	}
	before := v.first.look
	for _, r := range l.plan.reads {
		for _, old := range before.plan.reads {
			if old.def.id != r.def.id {
				continue
			}
			if val := before.facts[old.name]; val != nil {
				l.facts[r.name] = val
			} else {
				delete(l.facts, r.name)
			}
		}
	}
}

// seq is that of the act which goes on, or 0.
func (v *visit) seq() uint64 {
	if v.first == nil || v.first.hold == nil || v.first.hold.trace == nil {
		return 0
	}
	return v.first.hold.trace.seq
}

// without is view but for what the act seq alone may have put there.
func (s *sessionPast) without(seq uint64) (names []string, set types.Set) {
	if seq == 0 {
		return s.view()
	}
	all, _ := s.view()
	for _, name := range all {
		if l := s.labels[name]; l.stays || len(l.open) != 1 || l.open[0] != seq {
			names = append(names, name)
		}
	}
	return names, labelSet(names)
}
