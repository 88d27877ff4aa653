package governance

import (
	"slices"

	"github.com/cedar-policy/cedar-go/types"
)

// Memberships are the profiles and teams that an agent is in, by the bundle and
// through other teams too. Both are sorted.
type Memberships struct{ Profiles, Teams []string }

// Memberships returns those of an agent, and none for one that nobody knows or
// without a policy in force.
func (e *Engine) Memberships(agent string) Memberships { return e.Snapshot().Memberships(agent) }

// Memberships returns those of an agent, as [Engine.Memberships] does.
func (s *Snapshot) Memberships(agent string) Memberships {
	var out Memberships
	if s == nil {
		return out
	}
	seen := map[types.EntityUID]bool{}
	for next := []types.EntityUID{uid(typeAgent, agent)}; len(next) > 0; {
		e := next[len(next)-1]
		next = next[:len(next)-1]
		for parent := range s.entities[e].Parents.All() {
			if seen[parent] {
				continue
			}
			seen[parent] = true
			next = append(next, parent)
			switch parent.Type {
			case typeProfile:
				out.Profiles = append(out.Profiles, string(parent.ID))
			case typeTeam:
				out.Teams = append(out.Teams, string(parent.ID))
			}
		}
	}
	slices.Sort(out.Profiles)
	slices.Sort(out.Teams)
	return out
}
