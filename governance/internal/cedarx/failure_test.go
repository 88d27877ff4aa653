package cedarx

import (
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/corpustest"
)

// Whatever cedar-go says on one day or another, Failure says one of it, and
// always the same.
func TestFailureIsStable(t *testing.T) {
	failed, varied := 0, 0
	for _, c := range corpustest.Load(t, 25) {
		var entities types.EntityMap
		require.NoError(t, entities.UnmarshalJSON(c.Entities), c.Name)
		for _, r := range c.Requests {
			for _, id := range r.Errors {
				p := c.Policies.Get(id)
				said := map[string]bool{}
				random := ErrsAtRandom(p)
				runs := 4
				if random {
					runs = 16
				}
				for range runs {
					_, diag := cedar.Authorize(cedar.PolicyMap{id: p}, entities, r.Request)
					said[diag.Errors[0].Message] = true
				}
				failed++
				if !random {
					require.Len(t, said, 1, c.Name)
					continue
				}
				env := Env{Entities: entities, Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context}
				first := Failure(p, env)
				require.Error(t, first, c.Name)
				for range 8 {
					require.EqualError(t, Failure(p, env), first.Error(), c.Name)
				}
				if len(said) > 1 {
					require.True(t, said[first.Error()], "%s: %s is none of %v", c.Name, first, said)
					varied++
				}
			}
		}
	}
	t.Logf("%d failures, %d with a text that varies", failed, varied)
	assert.NotZero(t, failed)
}

func TestFailure(t *testing.T) {
	for _, c := range []struct {
		text, want string
		random     bool
	}{
		{`permit (principal, action, resource) when { {b: 1 + true, a: 1 + "x", c: 9223372036854775807 + 1} == {} };`, "expected long, got string", true},
		{`permit (principal, action, resource) when { {b: {d: 1 + true, c: "x" like "x" && 1 < "y"}, x: 1 + "a"} == {} };`, "expected comparable value, got string", true},
		{`permit (principal, action, resource) when { if {a: 1, b: 2} == {} then 1 + true == 1 else {b: 1 + true, a: 1 + "x"} == {} };`, "expected long, got string", true},
		{`permit (principal, action, resource) when { {a: 1, b: 2} has a } unless { context.gone };`, "does not have the attribute", true},
		{`permit (principal, action, resource) when { {a: 1 + true} == {} };`, "expected long, got bool", false},
		{`permit (principal, action, resource) when { [1 + true, 1 + "x"] == [] };`, "expected long, got bool", false},
	} {
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte(c.text)))
		assert.Equal(t, c.random, ErrsAtRandom(&p), c.text)
		assert.ErrorContains(t, Failure(&p, Env{Entities: types.EntityMap{}, Context: types.Record{}}), c.want, c.text)
	}
	var p cedar.Policy
	require.NoError(t, p.UnmarshalCedar([]byte(`permit (principal, action, resource) when { {a: 1, b: 2} == {} };`)))
	assert.NoError(t, Failure(&p, Env{Entities: types.EntityMap{}, Context: types.Record{}}))
}
