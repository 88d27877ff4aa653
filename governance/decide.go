package governance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
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
		d.Pin = t.tool.pin
	}
	if len(r.Claims) > maxSet {
		return refuse(d, audit.GuardToken, "The token has too many claims.")
	}
	now := r.Time
	if now.IsZero() {
		now = s.clock()
	}
	agent := uid(typeAgent, r.Actor.Agent)
	ctx, err := r.context(t, now)
	if err != nil {
		// What is outside the profile stays unknown, whatever was asked of it.
		if hit := s.ceiling(agent, t); hit != nil {
			return s.notInProfile(d, hit)
		}
		guard := audit.GuardArguments
		if errors.Is(err, errStrict) {
			guard = audit.GuardStrictJSON
		}
		return refuse(d, guard, err.Error())
	}
	if r.Actor.User == "" {
		return s.conclude(d, r, s.evaluate(agent, t, ctx, r.Claims))
	}
	user := uid(typeUser, r.Actor.User)
	ctx["user"] = user
	first := s.evaluate(agent, t, ctx, r.Claims)
	delete(ctx, "user")
	ctx["agent"] = agent
	return s.conclude(d, r, first, s.evaluate(user, t, ctx, nil))
}

// A verdict is what Cedar said about one principal.
type verdict struct {
	principal types.EntityUID
	target    target
	asked     candidates
	allowed   bool
	reasons   []*policy // that determined it, by id
	errs      []audit.Policy
	messages  []string
	broken    bool // a forbid failed
}

// evaluate asks Cedar about one principal.
func (s *Snapshot) evaluate(principal types.EntityUID, t target, context types.RecordMap, claims map[string]string) verdict {
	store := overlay{static: s.entities, resource: t.dynamic, principal: s.principal(principal, claims)}
	v := verdict{principal: principal, target: t}
	v.asked = s.index[t.action].candidates(principal, s.above[principal])
	effect, diag := cedar.Authorize(v.asked, &store, cedar.Request{
		Principal: principal,
		Action:    t.action,
		Resource:  t.resource,
		Context:   types.NewRecord(context),
	})
	v.allowed = effect == cedar.Allow
	if len(diag.Reasons) > 0 {
		v.reasons = make([]*policy, len(diag.Reasons))
		for i, reason := range diag.Reasons {
			v.reasons[i] = s.policies[reason.PolicyID]
		}
	}
	for _, e := range diag.Errors {
		p := s.policies[e.PolicyID]
		v.messages = append(v.messages, fmt.Sprintf("%s at %s: %s", p.id, p.pos, e.Message))
		if p.forbid {
			// Cedar leaves out a forbid that fails, which would allow exactly
			// what its author was afraid of.
			v.broken, v.allowed = true, false
			v.errs = append(v.errs, audit.Policy{ID: p.id, Position: p.pos})
		}
	}
	return v
}

// principal is the stored entity, or one without memberships. Claims are tags
// where the bundle has none of that name.
func (s *Snapshot) principal(id types.EntityUID, claims map[string]string) types.Entity {
	e, ok := s.entities[id]
	if !ok {
		e = types.Entity{UID: id}
	}
	if len(claims) == 0 {
		return e
	}
	tags := make(types.RecordMap, len(claims)+e.Tags.Len())
	for k, v := range claims {
		tags[types.String(k)] = types.String(v)
	}
	for k, v := range e.Tags.All() {
		tags[k] = v
	}
	e.Tags = types.NewRecord(tags)
	return e
}

// ceiling returns the policy of a profile that closes t for principal, or nil.
// Such policies read nothing of the context.
func (s *Snapshot) ceiling(principal types.EntityUID, t target) *policy {
	var of candidates
	for _, p := range s.index[t.action].candidates(principal, s.above[principal]) {
		if p.profile != "" {
			of = append(of, p)
		}
	}
	store := overlay{static: s.entities, resource: t.dynamic, principal: s.principal(principal, nil)}
	_, diag := cedar.Authorize(of, &store, cedar.Request{Principal: principal, Action: t.action, Resource: t.resource})
	if len(diag.Reasons) == 0 {
		return nil
	}
	return s.policies[diag.Reasons[0].PolicyID]
}

func (s *Snapshot) notInProfile(d Decision, p *policy) Decision {
	d.Hidden = true
	d.Policies = []audit.Policy{{ID: p.id, Position: p.pos}}
	return refuse(d, audit.ReasonNotInProfile+":"+p.profile+"@"+shortHash(s.hash), hintUnknown)
}

// shortHash is the beginning of a snapshot's hash, for people to compare.
func shortHash(hash string) string { return strings.TrimPrefix(hash, hashPrefix)[:12] }

// conclude joins the verdicts about agent and user: both must allow. A denial
// names the policies of those who deny, an allowed request those of both.
func (s *Snapshot) conclude(d Decision, r *Request, verdicts ...verdict) Decision {
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
					d.Policies = append(d.Policies, audit.Policy{ID: p.id, Position: p.pos})
				}
			}
			d.Policies = append(d.Policies, v.errs...)
		}
	}
	if len(verdicts) > 1 || denied != nil && denied.broken {
		byID := func(a, b audit.Policy) int { return strings.Compare(a.ID, b.ID) }
		slices.SortFunc(d.Policies, byID)
		d.Policies = slices.Compact(d.Policies)
	}
	slices.Sort(d.Errors)
	if denied != nil {
		return s.denial(d, denied, verdicts)
	}
	for i := range verdicts {
		for _, p := range verdicts[i].reasons {
			for _, o := range p.duties {
				if !slices.Contains(d.Obligations, o) {
					d.Obligations = append(d.Obligations, o)
				}
			}
		}
	}
	for _, o := range d.Obligations {
		if !slices.Contains(r.Enforces, o.Kind) {
			return refuse(d, audit.GuardObligation, "This needs something that is not available here.")
		}
	}
	d.Effect = audit.Allow
	return d
}

// denial finds the cause. A profile's ceiling comes first whoever else denies,
// because it decides what the agent may know.
func (s *Snapshot) denial(d Decision, v *verdict, all []verdict) Decision {
	for i := range all {
		for _, p := range all[i].reasons {
			if p.profile != "" {
				d.Principal = all[i].principal.String()
				policies := d.Policies
				d = s.notInProfile(d, p)
				d.Policies = policies
				return d
			}
		}
	}
	d.Principal = v.principal.String()
	switch {
	case len(v.reasons) > 0 && v.reasons[0].forbid:
		return refuse(d, v.reasons[0].id, hintForbid)
	case v.broken:
		return refuse(d, audit.GuardPolicyError, hintForbid)
	}
	d.Nearest = s.nearest(v)
	return refuse(d, audit.ReasonNoPermit, hintNoPermit)
}

// nearest names up to three permits for the same action and resource: first
// those for this principal, whose conditions failed, then those for others.
func (s *Snapshot) nearest(v *verdict) []string {
	const most = 3
	var ids []string
	var above []types.EntityUID
	if v.target.tool == nil {
		above = slices.Collect(v.target.dynamic.Parents.All())
	} else {
		e := s.entities[v.target.resource]
		above = slices.Collect(e.Parents.All())
	}
	for _, list := range [][]*policy{v.asked, s.index[v.target.action].permits} {
		for _, p := range list {
			if len(ids) == most {
				return ids
			}
			if !p.forbid && p.resource.Matches(v.target.resource, above) && !slices.Contains(ids, p.id) {
				ids = append(ids, p.id)
			}
		}
	}
	return ids
}
