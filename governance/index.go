package governance

import (
	"github.com/cedar-policy/cedar-go"

	"github.com/twinward-dev/twinward/governance/internal/index"
)

// index makes a law of policies: they are decided on together, and found by
// their scope. A snapshot can hold several over the same entities, such as what
// is enforced and what is only observed.
func (s *Snapshot) index(policies []*policy) *index.Index {
	list := make([]index.Policy, len(policies))
	for i, p := range policies {
		list[i] = index.Policy{ID: cedar.PolicyID(p.id), Policy: p.cedar}
	}
	return index.New(list, s.entities)
}
