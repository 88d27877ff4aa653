package governance

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
	"github.com/twinward-dev/twinward/governance/internal/index"
)

// A verdict is what Cedar said about one principal.
type verdict struct {
	principal types.EntityUID
	allowed   bool
	reasons   []*policy      // that determined it, by id
	errs      []audit.Policy // that failed, and deny because of that
	messages  []string       // of all that failed
	nearest   []string       // permits, when none allows and nothing forbids
}

// A question is what one evaluation needs; the snapshot uses it again.
type question struct {
	store overlay
	at    index.Place // of what is no tool
	asked index.Candidates
}

// ask prepares a question about one principal. It must be given back.
func (s *Snapshot) ask(principal types.EntityUID, t *target, claims map[string]string) *question {
	q, ok := s.questions.Get().(*question)
	if !ok {
		q = new(question)
	}
	q.store = overlay{static: s.entities, resource: t.dynamic, principal: s.principal(principal, claims)}
	q.store.resource.UID = t.resource
	return q
}

// give puts a question back. It keeps nothing of the request, and no more room
// than most requests need.
func (s *Snapshot) give(q *question) {
	q.store = overlay{}
	if q.asked = q.asked[:0]; cap(q.asked) > 1024 {
		q.asked = nil
	}
	s.questions.Put(q)
}

// evaluate asks Cedar about one principal. The law is s.law, or another one of s.
func (s *Snapshot) evaluate(l *law, principal types.EntityUID, t *target, context types.Record, claims map[string]string) verdict {
	q := s.ask(principal, t, claims)
	defer s.give(q)
	q.find(l, t)
	request := cedar.Request{Principal: principal, Action: t.action, Resource: t.resource, Context: context}
	effect, diag := cedar.Authorize(&q.asked, &q.store, request)
	v := verdict{principal: principal, allowed: effect == cedar.Allow}
	if len(diag.Reasons) > 0 {
		v.reasons = make([]*policy, len(diag.Reasons))
		for i, reason := range diag.Reasons {
			v.reasons[i] = s.policies[reason.PolicyID]
		}
	} else {
		v.nearest = l.nearest(q, t)
	}
	for _, e := range diag.Errors {
		p := s.policies[e.PolicyID]
		v.messages = append(v.messages, fmt.Sprintf("%s at %s: %s", p.id, p.pos, p.failure(e.Message, &q.store, &request)))
		if s.errors.denies(p) {
			v.allowed = false
			v.errs = append(v.errs, p.ref)
		}
	}
	return v
}

// failure is what p failed with, which the evaluator says, in words that are the
// same for the same request.
func (p *policy) failure(said string, entities types.EntityGetter, r *cedar.Request) string {
	if !p.atRandom {
		return said
	}
	env := cedarx.Env{Entities: entities, Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context}
	if err := cedarx.Failure(p.cedar, env); err != nil {
		return err.Error()
	}
	return said
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
func (s *Snapshot) ceiling(principal types.EntityUID, t *target) *policy {
	q := s.ask(principal, t, nil)
	defer s.give(q)
	q.asked = slices.DeleteFunc(q.find(s.law, t), func(c index.Policy) bool { return s.law.of(c).profile == "" })
	_, diag := cedar.Authorize(&q.asked, &q.store, cedar.Request{Principal: principal, Action: t.action, Resource: t.resource})
	if len(diag.Reasons) == 0 {
		return nil
	}
	return s.policies[diag.Reasons[0].PolicyID]
}

// about returns the policies that are about t for one principal or another,
// sorted by id.
func (s *Snapshot) about(t *target) (out []*policy) {
	q := s.ask(types.EntityUID{}, t, nil)
	defer s.give(q)
	for c := range s.law.About(q.place(s.law, t)) {
		out = append(out, s.law.of(c))
	}
	return out
}
