package governance

import (
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// An actionIndex holds the policies whose scope can match one action. It only
// leaves out policies that cannot match; those it returns are evaluated with
// their scope by cedar-go, which stays the only evaluator.
type actionIndex struct {
	anyone  []*policy                     // no entity in the principal's scope
	of      map[types.EntityUID][]*policy // by the entity in the principal's scope
	permits []*policy                     // all permits, for naming the nearest
}

// makeIndex sorts policies, which come ordered by id, to the actions that can
// be asked for. A tool's action has one resource, therefore the resource's
// scope is applied here too.
func makeIndex(all []*policy, s *Snapshot) map[types.EntityUID]*actionIndex {
	index := make(map[types.EntityUID]*actionIndex, len(s.tools)+len(verbs))
	put := func(action types.EntityUID, resource types.EntityUID) {
		above := ancestors(s.entities, action)
		resAbove := ancestors(s.entities, resource)
		ai := &actionIndex{of: map[types.EntityUID][]*policy{}}
		for _, p := range all {
			if !p.action.Matches(action, above) {
				continue
			}
			if !resource.IsZero() && !p.resource.Matches(resource, resAbove) {
				continue
			}
			if !p.principal.Bounded {
				ai.anyone = append(ai.anyone, p)
			}
			for _, e := range p.principal.Any {
				ai.of[e] = append(ai.of[e], p)
			}
			if !p.forbid {
				ai.permits = append(ai.permits, p)
			}
		}
		index[action] = ai
	}
	for _, t := range s.tools {
		put(t.action, t.resource)
	}
	for v := range verbs {
		put(uid(typeAction, v), types.EntityUID{})
	}
	return index
}

// candidates are policies to evaluate, ordered by id. It is a
// cedar.PolicyIterator.
type candidates []*policy

// All yields the policies in order.
func (c candidates) All() iter.Seq2[types.PolicyID, *cedar.Policy] {
	return func(yield func(types.PolicyID, *cedar.Policy) bool) {
		for _, p := range c {
			if !yield(types.PolicyID(p.id), p.cedar) {
				return
			}
		}
	}
}

// candidates returns what can match a principal with these ancestors.
func (ai *actionIndex) candidates(principal types.EntityUID, above []types.EntityUID) candidates {
	n, own := 0, ai.of[principal]
	n += len(own)
	for _, a := range above {
		n += len(ai.of[a])
	}
	if n == 0 {
		return ai.anyone // shared, and only read
	}
	out := make(candidates, 0, n+len(ai.anyone))
	out = append(append(out, ai.anyone...), own...)
	for _, a := range above {
		out = append(out, ai.of[a]...)
	}
	slices.SortFunc(out, func(a, b *policy) int { return strings.Compare(a.id, b.id) })
	return out
}
