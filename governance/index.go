package governance

import (
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/index"
)

// A law is a set of policies that are decided on together, found by their scope.
// A snapshot can hold several over the same entities, such as what is enforced
// and what is only observed. It is immutable.
type law struct {
	*index.Index
	policies []*policy     // by their number in the index
	tools    []index.Place // by the number of a tool: tools are asked about all the time
	permits  [][]string    // by the number of a tool: the first few for anybody
}

// index makes a law of policies, which are sorted by id.
func (s *Snapshot) index(policies []*policy) *law {
	list := make([]index.Policy, len(policies))
	for i, p := range policies {
		list[i] = index.Policy{ID: cedar.PolicyID(p.id), Policy: p.cedar}
	}
	l := &law{Index: index.New(list, s.entities), policies: policies, tools: make([]index.Place, len(s.tools)), permits: make([][]string, len(s.tools))}
	for _, t := range s.tools {
		at := &l.tools[t.number]
		l.Locate(at, &types.Entity{UID: t.action}, &types.Entity{UID: t.resource})
		l.permits[t.number] = l.addPermits(nil, l.About(at))
	}
	return l
}

// maxNearest bounds the permits that a denial names.
const maxNearest = 3

// addPermits adds ids of permits among candidates to a list without repeating
// any, until there are maxNearest.
func (l *law) addPermits(ids []string, candidates iter.Seq[index.Policy]) []string {
	for c := range candidates {
		if len(ids) == maxNearest {
			break
		}
		// Asking c and not l.of(c) touches less memory.
		if id := string(c.ID); c.Policy.Effect() == cedar.Permit && !slices.Contains(ids, id) {
			if ids == nil {
				ids = make([]string, 0, maxNearest)
			}
			ids = append(ids, id)
		}
	}
	return ids
}

// nearest names permits for the action and resource of a question: first those
// for its principal, whose conditions failed, then those for others.
func (l *law) nearest(q *question, t *target) []string {
	ids := l.addPermits(nil, slices.Values(q.asked))
	if t.tool == nil {
		return l.addPermits(ids, l.About(&q.at))
	}
	for _, id := range l.permits[t.tool.number] {
		if len(ids) < maxNearest && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// of returns the policy that a candidate stands for.
func (l *law) of(c index.Policy) *policy { return l.policies[c.Number] }

// place says where the policies about a question stand.
func (q *question) place(l *law, t *target) *index.Place {
	if t.tool != nil {
		return &l.tools[t.tool.number]
	}
	l.Locate(&q.at, &types.Entity{UID: t.action}, &q.store.resource)
	return &q.at
}

// find looks up the policies of a law that the question is about, by id.
func (q *question) find(l *law, t *target) index.Candidates {
	q.asked = l.Find(q.asked[:0], &q.store.principal, q.place(l, t))
	return q.asked
}
