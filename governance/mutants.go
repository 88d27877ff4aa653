package governance

import (
	"iter"
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A Mutant is a snapshot in which one policy says something slightly different:
// a condition left out or turned around, a comparison off by one, a wider scope,
// or nothing at all. Tests that cannot tell it from the original do not hold
// the policy. It is for tests and never for deciding.
type Mutant struct {
	// Policy is the policy that was changed.
	Policy audit.Policy
	// Change says how, such as "without: context.args.n < 5".
	Change string
	// Snapshot has the hash of the original.
	Snapshot *Snapshot
}

// Mutants yields the mutants of all policies that people wrote and that are
// enforced, in a fixed order: by policy id, the removed policy first.
func (s *Snapshot) Mutants() iter.Seq[Mutant] {
	return func(yield func(Mutant) bool) {
		if s == nil {
			return
		}
		for _, id := range slices.Sorted(maps.Keys(s.policies)) {
			p := s.policies[id]
			if p.profile != "" || p.observed {
				continue
			}
			if !yield(Mutant{p.ref, "removed", s.with(id, nil)}) {
				return
			}
			for _, m := range cedarx.Mutants(p.cedar) {
				changed := *p
				changed.cedar = m.Policy
				changed.text = string(m.Policy.MarshalCedar())
				changed.readTags = cedarx.ReadsTags(m.Policy)
				changed.principal, changed.action, changed.resource = cedarx.Scopes(m.Policy)
				if !yield(Mutant{p.ref, m.Change, s.with(id, &changed)}) {
					return
				}
			}
		}
	}
}

// with returns a snapshot with one policy replaced, or removed for nil.
func (s *Snapshot) with(id types.PolicyID, p *policy) *Snapshot {
	c := Snapshot{
		hash: s.hash, clock: s.clock, catalog: s.catalog, servers: s.servers, tools: s.tools, profiles: s.profiles,
		members: s.members, entities: s.entities, mode: s.mode, errors: s.errors, schema: s.schema,
		facts: s.facts, defs: s.defs,
		policies: maps.Clone(s.policies),
	}
	delete(c.policies, id)
	if p != nil {
		c.policies[id] = p
	}
	all := make([]*policy, 0, len(c.policies))
	for _, id := range slices.Sorted(maps.Keys(c.policies)) {
		all = append(all, c.policies[id])
	}
	c.laws(all)
	return &c
}
