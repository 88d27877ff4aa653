package index_test

import (
	"slices"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/corpustest"
	"github.com/twinward-dev/twinward/governance/internal/index"
)

// indexed makes an index of a policy set.
func indexed(policies cedar.PolicyIterator, entities types.EntityMap) *index.Index {
	var list []index.Policy
	for id, p := range policies.All() {
		list = append(list, index.Policy{ID: id, Policy: p})
	}
	return index.New(list, entities)
}

// find looks up a request as the evaluator's store knows its entities, and
// leaves its place in at.
func find(x *index.Index, at *index.Place, entities types.EntityMap, r cedar.Request) index.Candidates {
	get := func(id types.EntityUID) *types.Entity {
		if e, ok := entities[id]; ok {
			return &e
		}
		return &types.Entity{UID: id}
	}
	x.Locate(at, get(r.Action), get(r.Resource))
	return x.Find(nil, get(r.Principal), at)
}

// ids returns the determining and the failing policies, sorted.
func ids(d cedar.Diagnostic) (reasons, errs []cedar.PolicyID) {
	for _, r := range d.Reasons {
		reasons = append(reasons, r.PolicyID)
	}
	for _, e := range d.Errors {
		errs = append(errs, e.PolicyID)
	}
	slices.Sort(reasons)
	slices.Sort(errs)
	return reasons, errs
}

// On the corpus of cedar-go, the candidates give the decision, the reasons and
// the errors that all policies give, and that Rust Cedar gave.
func TestCorpus(t *testing.T) {
	requests, policies, asked := 0, 0, 0
	var at index.Place // used again, by indexes of all sizes
	cases := corpustest.Load(t, 10)
	for _, c := range cases {
		var entities types.EntityMap
		require.NoError(t, entities.UnmarshalJSON(c.Entities), c.Name)
		x := indexed(c.Policies, entities)
		for i, r := range c.Requests {
			candidates := find(x, &at, entities, r.Request)
			decision, diag := cedar.Authorize(candidates, entities, r.Request)
			reasons, errs := ids(diag)
			linear, diag := cedar.Authorize(c.Policies, entities, r.Request)
			linearReasons, linearErrs := ids(diag)

			require.Equal(t, linear, decision, "%s, request %d", c.Name, i)
			require.Equal(t, linearReasons, reasons, "%s, request %d", c.Name, i)
			require.Equal(t, linearErrs, errs, "%s, request %d", c.Name, i)
			require.Equal(t, r.Decision, decision, "%s, request %d", c.Name, i)
			require.ElementsMatch(t, r.Reasons, reasons, "%s, request %d", c.Name, i)
			require.ElementsMatch(t, r.Errors, errs, "%s, request %d", c.Name, i)
			requests++
			policies += x.Len()
			asked += len(candidates)
		}
	}
	t.Logf("%d cases, %d requests; %d of %d policies asked", len(cases), requests, asked, policies)
	require.NotZero(t, requests)
	require.Less(t, asked, policies)
}

// The corpus has one policy in most sets, so here the policies of many are put
// together and asked with the entities and requests of each. Rust Cedar has not
// decided that; cedar.Authorize over all of them is what counts.
func TestCorpusTogether(t *testing.T) {
	const together = 64
	requests, policies, asked := 0, 0, 0
	var at index.Place // used again, by indexes of all sizes
	for cases := range slices.Chunk(corpustest.Load(t, 20), together) {
		all := cedar.PolicyMap{}
		for _, c := range cases {
			for id, p := range c.Policies.All() {
				all[cedar.PolicyID(c.Name)+id] = p
			}
		}
		for _, c := range cases {
			var entities types.EntityMap
			require.NoError(t, entities.UnmarshalJSON(c.Entities), c.Name)
			x := indexed(all, entities)
			for i, r := range c.Requests {
				candidates := find(x, &at, entities, r.Request)
				decision, diag := cedar.Authorize(candidates, entities, r.Request)
				reasons, errs := ids(diag)
				linear, diag := cedar.Authorize(all, entities, r.Request)
				linearReasons, linearErrs := ids(diag)
				require.Equal(t, linear, decision, "%s, request %d", c.Name, i)
				require.Equal(t, linearReasons, reasons, "%s, request %d", c.Name, i)
				require.Equal(t, linearErrs, errs, "%s, request %d", c.Name, i)
				requests++
				policies += x.Len()
				asked += len(candidates)
			}
		}
	}
	t.Logf("%d requests; %d of %d policies asked", requests, asked, policies)
	require.Less(t, asked, policies)
}
