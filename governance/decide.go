package governance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// Decide answers a request. It does no I/O and takes no lock. The error is not
// nil only when there was nothing to decide with: no snapshot, no actor, a
// cancelled context, a panic; the decision denies then too and names the cause.
func (s *Snapshot) Decide(ctx context.Context, r Request) (d Decision, err error) {
	start := Decision{Decision: audit.Decision{ID: audit.NewID(), Effect: audit.Deny, PolicyHash: s.Hash()}}
	defer func() {
		if p := recover(); p != nil {
			d, err = refuse(start, audit.GuardPanic, hintClosed), fmt.Errorf("%w: %v", ErrPanic, p)
		}
		if d.Resource == "" {
			d.Action, d.Resource = r.named()
		}
	}()
	if s == nil {
		return refuse(start, audit.GuardNoSnapshot, hintClosed), ErrNoSnapshot
	}
	if err := ctx.Err(); err != nil {
		return refuse(start, audit.GuardDeadline, hintClosed), err
	}
	if err := r.Actor.Validate(); err != nil {
		return refuse(start, audit.GuardNoActor, "Present a token, or act through a session's door."), err
	}
	d = s.decide(start, &r)
	if err := ctx.Err(); err != nil {
		return refuse(start, audit.GuardDeadline, hintClosed), err
	}
	return d, nil
}

// What an agent may be told.
const (
	hintClosed   = "Nothing can be decided at the moment."
	hintUnknown  = "There is no such thing here."
	hintNoPermit = "This is not permitted to you."
	hintForbid   = "This is forbidden, at least with these arguments."
	hintApprove  = "A person has to agree to this first."
	hintApproval = "The approval does not count: "
)

func refuse(d Decision, guard, hint string) Decision {
	d.Effect, d.Reason, d.Hint = audit.Deny, guard, hint
	return d
}

func (s *Snapshot) decide(d Decision, r *Request) Decision {
	if err := r.checkText(); err != nil {
		return refuse(d, audit.GuardArguments, err.Error())
	}
	profile := s.members[r.Actor.Agent]
	if r.Actor.Profile != "" && r.Actor.Profile != profile {
		return refuse(d, audit.GuardActor, hintClosed)
	}
	t, err := s.resolve(r)
	if err != nil {
		d.Hidden = true
		return refuse(d, audit.GuardUnknown, hintUnknown)
	}
	d.Action, d.Resource = string(t.action.ID), t.label
	if t.tool != nil {
		d.Pin, d.Class = t.tool.pin, t.tool.def.Class
	}
	if len(r.Claims) > argument.MaxSet {
		return refuse(d, audit.GuardToken, "The token has too many claims.")
	}
	now := r.Time
	if now.IsZero() {
		now = s.clock()
	}
	guard := audit.GuardArguments
	of := s.readsAbout(&t)
	ctx, err := r.context(&t, now, of)
	if a := r.Approval; a != nil && err == nil {
		if why := a.check(s, r, now); why != nil {
			guard, err = audit.GuardApproval, why
		} else {
			d.Approval, d.agreed, ctx["approval"] = a.record(), a, a.value(r)
		}
	}
	if err != nil {
		// What is outside the profile stays unknown, whatever was asked of it.
		if hit := s.ceiling(uid(typeAgent, r.Actor.Agent), &t); hit != nil {
			return s.notInProfile(d, hit)
		}
		hint := err.Error()
		switch {
		case guard == audit.GuardApproval:
			hint = hintApproval + hint + "."
		case errors.Is(err, argument.ErrStrict):
			guard = audit.GuardStrictJSON
		}
		return refuse(d, guard, hint)
	}
	if d.look, err = s.look(r, &t, ctx, now, of); err != nil {
		if hit := s.ceiling(uid(typeAgent, r.Actor.Agent), &t); hit != nil {
			return s.notInProfile(d, hit)
		}
		d.Errors = append(d.Errors, err.Error())
		return refuse(d, audit.GuardFacts, hintClosed)
	}
	var askers [2]asker
	var verdicts [2]verdict
	who := r.askers(askers[:0])
	out := s.conclude(d, r, &t, s.verdicts(verdicts[:0], s.law, who, &t, ctx))
	if s.observes(who, &t) && !r.beside {
		whole := s.tried(d, r, who, &t, ctx)
		out.compare(&whole, audit.WouldObserved)
	}
	if s.mode == Observe && out.byPolicy {
		return s.lift(out, r, s.verdicts(verdicts[:0], s.permits, who, &t, ctx), &t)
	}
	return out
}

func (s *Snapshot) notInProfile(d Decision, p *policy) Decision {
	d.Hidden = true
	d.Policies = []audit.Policy{p.ref}
	return refuse(d, audit.ReasonNotInProfile+":"+p.profile+"@"+shortHash(s.hash), hintUnknown)
}

// shortHash is the beginning of a snapshot's hash, for people to compare.
func shortHash(hash string) string { return strings.TrimPrefix(hash, hashPrefix)[:12] }

// conclude joins the verdicts about agent and user: both must allow. A denial
// names the policies of those who deny, an allowed request those of both.
func (s *Snapshot) conclude(d Decision, r *Request, t *target, verdicts []verdict) Decision {
	var denied *verdict
	for i := range verdicts {
		v := &verdicts[i]
		d.Errors = append(d.Errors, v.messages...)
		if !v.allowed && denied == nil {
			denied = v
		}
	}
	d.Policies = make([]audit.Policy, 0, 2)
	for i := range verdicts {
		if v := &verdicts[i]; v.allowed == (denied == nil) {
			for _, p := range v.reasons {
				if v.allowed || p.forbid {
					d.Policies = append(d.Policies, p.ref)
				}
			}
			d.Policies = append(d.Policies, v.errs...)
		}
	}
	if len(verdicts) > 1 || denied != nil && len(denied.errs) > 0 {
		byID := func(a, b audit.Policy) int { return strings.Compare(a.ID, b.ID) }
		slices.SortFunc(d.Policies, byID)
		d.Policies = slices.Compact(d.Policies)
	}
	slices.Sort(d.Errors)
	if denied != nil {
		return s.denial(d, t, denied, verdicts)
	}
	for i := range verdicts {
		for _, p := range verdicts[i].reasons {
			d.demand(p, verdicts[i].principal)
		}
	}
	return d.oblige(r)
}

// demand adds what a permit demands besides for this principal.
func (d *Decision) demand(p *policy, principal types.EntityUID) {
	for _, o := range p.duties {
		if !slices.Contains(d.Obligations, o) {
			d.Obligations = append(d.Obligations, o)
		}
	}
	if p.rate.Count > 0 {
		d.uses = append(d.uses, RateUse{p.id, label(principal), p.rate})
	}
}

// oblige allows if all that is demanded is met, or will be by the door.
func (d Decision) oblige(r *Request) Decision {
	suspended := false
	for _, o := range d.Obligations {
		switch {
		case o.Kind == ObligationRate && r.counted:
		case o.Kind == ObligationApproval && r.Approval != nil && slices.Contains(r.Approval.Groups, o.Value):
		case !slices.Contains(r.Enforces, o.Kind):
			return refuse(d, audit.GuardObligation, "This needs something that is not available here.")
		case o.Kind == ObligationApproval:
			suspended = true
		}
	}
	if suspended {
		d.Call, d.engine = r.call(), r.engine
		return refuse(d, audit.GuardApproval, hintApprove)
	}
	d.Effect = audit.Allow
	return d
}

// denial finds the cause. A profile's ceiling comes first whoever else denies,
// because it decides what the agent may know.
func (s *Snapshot) denial(d Decision, t *target, v *verdict, all []verdict) Decision {
	for i := range all {
		for _, p := range all[i].reasons {
			if p.profile != "" {
				d.Principal = label(all[i].principal)
				policies := d.Policies
				d = s.notInProfile(d, p)
				d.Policies = policies
				return d
			}
		}
	}
	d.Principal = label(v.principal)
	switch {
	case len(v.reasons) > 0 && v.reasons[0].forbid:
		d.byPolicy = !slices.ContainsFunc(all, func(v verdict) bool { return len(v.errs) > 0 })
		return refuse(d, v.reasons[0].id, hintForbid)
	case len(v.errs) > 0:
		return refuse(d, audit.GuardPolicyError, hintForbid)
	}
	d.byPolicy = !slices.ContainsFunc(all, func(v verdict) bool { return len(v.errs) > 0 })
	d.Nearest = v.nearest
	return refuse(d, audit.ReasonNoPermit, hintNoPermit)
}
