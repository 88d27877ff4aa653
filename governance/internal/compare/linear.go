package compare

import (
	"context"
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/index"
)

// A linear is cedar-go as it comes: it asks every policy about every request.
type linear struct {
	all      cedar.PolicyMap
	entities types.EntityMap
	requests []cedar.Request
}

func newLinear(t *twinward, requests []request) (*linear, error) {
	l := &linear{all: cedar.PolicyMap{}, entities: t.snap.Entities()}
	for _, p := range t.snap.Policies() {
		if p.Profile != "" {
			continue // ceilings, which none of the others has either
		}
		policy := new(cedar.Policy)
		if err := policy.UnmarshalCedar([]byte(p.Text)); err != nil {
			return nil, err
		}
		l.all[types.PolicyID(p.ID)] = policy
	}
	for _, r := range requests {
		l.requests = append(l.requests, cedar.Request{
			Principal: types.NewEntityUID("Agent", types.String(r.agent)),
			Action:    types.NewEntityUID("Action", types.String(r.action())),
			Resource:  types.NewEntityUID("Tool", types.String(r.action())),
			Context: types.NewRecord(types.RecordMap{"args": types.NewRecord(types.RecordMap{
				"repo": types.String(r.repo), "path": types.String(r.path), "count": types.Long(r.count), "draft": types.False,
				"labels": types.NewSet(types.String("bug"), types.String("urgent"), types.String("customer")),
			})}),
		})
	}
	return l, nil
}

func (l *linear) decide(i int) answer {
	return cedarAnswer(cedar.Authorize(l.all, l.entities, l.requests[i]))
}

func cedarAnswer(effect cedar.Decision, diag cedar.Diagnostic) answer {
	ids := make([]string, len(diag.Reasons))
	for k, r := range diag.Reasons {
		ids[k] = string(r.PolicyID)
	}
	slices.Sort(ids)
	return answer{effect == cedar.Allow, ids}
}

// An indexed is our index with cedar-go behind it.
type indexed struct {
	*linear
	index *index.Index
	found index.Candidates
	place index.Place
}

func newIndexed(l *linear) *indexed {
	var all []index.Policy
	for _, id := range slices.Sorted(maps.Keys(l.all)) {
		all = append(all, index.Policy{ID: id, Policy: l.all[id]})
	}
	return &indexed{linear: l, index: index.New(all, l.entities)}
}

func (x *indexed) decide(i int) answer {
	r := &x.requests[i]
	principal, action, resource := x.entities[r.Principal], x.entities[r.Action], x.entities[r.Resource]
	x.index.Locate(&x.place, &action, &resource)
	x.found = x.index.Find(x.found[:0], &principal, &x.place)
	return cedarAnswer(cedar.Authorize(&x.found, x.entities, *r))
}

var background = context.Background()
