package governance

import (
	"fmt"
	"slices"
	"sync"

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
}

// A question is what one evaluation needs; it is used again.
type question struct {
	store overlay
	asked index.Candidates
}

var questions = sync.Pool{New: func() any { return new(question) }}

// ask prepares a question about one principal. It must be given back.
func (s *Snapshot) ask(principal types.EntityUID, t *target, claims map[string]string) *question {
	q := questions.Get().(*question)
	q.store = overlay{static: s.entities, resource: t.dynamic, principal: s.principal(principal, claims)}
	q.store.resource.UID = t.resource
	return q
}

// give puts a question back. It keeps nothing of the request, and no more room
// than most requests need.
func (q *question) give() {
	q.store = overlay{}
	if q.asked = q.asked[:0]; cap(q.asked) > 1024 {
		q.asked = nil
	}
	questions.Put(q)
}

// find looks up the policies of law that the question is about, by id.
func (q *question) find(law *index.Index, t *target) index.Candidates {
	q.asked = law.Find(q.asked[:0], &q.store.principal, &types.Entity{UID: t.action}, &q.store.resource)
	return q.asked
}

// evaluate asks Cedar about one principal. The law is a set of policies that
// are decided on together: s.law, or another index of policies of s.
func (s *Snapshot) evaluate(law *index.Index, principal types.EntityUID, t *target, context types.Record, claims map[string]string) verdict {
	q := s.ask(principal, t, claims)
	defer q.give()
	q.find(law, t)
	request := cedar.Request{Principal: principal, Action: t.action, Resource: t.resource, Context: context}
	effect, diag := cedar.Authorize(&q.asked, &q.store, request)
	v := verdict{principal: principal, allowed: effect == cedar.Allow}
	if len(diag.Reasons) > 0 {
		v.reasons = make([]*policy, len(diag.Reasons))
		for i, reason := range diag.Reasons {
			v.reasons[i] = s.policies[reason.PolicyID]
		}
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
	defer q.give()
	q.asked = slices.DeleteFunc(q.find(s.law, t), func(p index.Policy) bool { return s.policies[p.ID].profile == "" })
	_, diag := cedar.Authorize(&q.asked, &q.store, cedar.Request{Principal: principal, Action: t.action, Resource: t.resource})
	if len(diag.Reasons) == 0 {
		return nil
	}
	return s.policies[diag.Reasons[0].PolicyID]
}

// nearest names up to three permits for the same action and resource: first
// those for this principal, whose conditions failed, then those for others.
func (s *Snapshot) nearest(principal types.EntityUID, t *target) []string {
	const most = 3
	var ids []string
	q := s.ask(principal, t, nil)
	defer q.give()
	add := func(p index.Policy) (full bool) {
		if id := string(p.ID); !s.policies[p.ID].forbid && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		return len(ids) == most
	}
	if slices.ContainsFunc(q.find(s.law, t), add) {
		return ids
	}
	for p := range s.law.About(&types.Entity{UID: t.action}, &q.store.resource) {
		if add(p) {
			break
		}
	}
	return ids
}
