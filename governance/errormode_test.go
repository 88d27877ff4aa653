package governance_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// Each mode with a forbid that fails, a permit that fails, and both, beside one
// permit that is fine.
func TestErrorMode(t *testing.T) {
	const (
		fine   = `@id("fine") permit (principal, action == Action::"s__t", resource);` + "\n"
		forbid = `@id("forbid") forbid (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i + 1 > 5 };` + "\n"
		permit = `@id("permit") permit (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i + 1 > 5 };` + "\n"
		never  = `@id("never") forbid (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i == 0 };` + "\n"
	)
	const overflows = `{"i":9223372036854775807}`
	forbidError, permitError := "forbid at p.cedar:2:1: ", "permit at p.cedar:2:1: "
	type want struct {
		reason string // "" allows
		blamed []string
		sees   governance.Visibility
	}
	policyError := audit.GuardPolicyError
	for policies, c := range map[string]struct {
		strict, any, cedar want
		errs               []string
	}{
		fine + forbid: {
			strict: want{policyError, []string{"forbid"}, governance.Conditional},
			any:    want{policyError, []string{"forbid"}, governance.Conditional},
			cedar:  want{"", []string{"fine"}, governance.Conditional},
			errs:   []string{forbidError},
		},
		fine + permit: {
			strict: want{"", []string{"fine"}, governance.Always},
			any:    want{policyError, []string{"permit"}, governance.Conditional},
			cedar:  want{"", []string{"fine"}, governance.Always},
			errs:   []string{permitError},
		},
		fine + forbid + never: {
			strict: want{policyError, []string{"forbid"}, governance.Conditional},
			any:    want{policyError, []string{"forbid"}, governance.Conditional},
			cedar:  want{"", []string{"fine"}, governance.Conditional},
			errs:   []string{forbidError},
		},
		// A permit alone that fails permits nothing, in every mode.
		"\n" + permit: {
			strict: want{audit.ReasonNoPermit, nil, governance.Conditional},
			any:    want{policyError, []string{"permit"}, governance.Conditional},
			cedar:  want{audit.ReasonNoPermit, nil, governance.Conditional},
			errs:   []string{permitError},
		},
	} {
		for mode, w := range map[governance.ErrorMode]want{
			governance.DenyOnForbidError: c.strict, governance.DenyOnAnyError: c.any, governance.CedarSemantics: c.cedar,
			governance.ErrorMode(7): c.any, // unknown is as strict as any
		} {
			b := only("unused")
			b.Policies[0].Text = policies
			s, rep, err := governance.Compile(t.Context(), b, &governance.Options{ErrorMode: mode})
			require.NoError(t, err, "%v", rep)
			d := decide(t, s, toolCall("a", overflows))
			assert.Equal(t, w.reason, d.Reason, "%s\n%s", mode, policies)
			assert.Equal(t, w.reason == "", d.Allowed(), "%s\n%s", mode, policies)
			assert.ElementsMatch(t, w.blamed, d.PolicyIDs(), "%s\n%s", mode, policies)
			require.Len(t, d.Errors, len(c.errs))
			for i, e := range c.errs {
				assert.Contains(t, d.Errors[i], e)
			}
			v, err := s.Visible(t.Context(), actor("a"), "call_tool", []governance.ToolRef{{Server: "s", Name: "t"}})
			require.NoError(t, err)
			assert.Equal(t, w.sees, v[0], "%s\n%s", mode, policies)
		}
	}
}

// A snapshot of another mode decides otherwise, so it is another snapshot.
func TestErrorModeIsInTheHash(t *testing.T) {
	seen := map[string]bool{}
	for mode := range governance.CedarSemantics + 1 {
		s, _, err := governance.Compile(t.Context(), only("p"), &governance.Options{ErrorMode: mode})
		require.NoError(t, err)
		assert.False(t, seen[s.Hash()], "%s", mode)
		seen[s.Hash()] = true
	}
}

// Errors are told in the same words and the same order each time.
func TestErrorsAreStable(t *testing.T) {
	s := law(t, `
@id("z") permit (principal, action == Action::"s__t", resource)
when { context.args has i && {b: context.args.i + 1, a: context.args.i * 2, c: context.args.i + 3, d: context.args.i + 4} == {b: 1, a: 1, c: 1, d: 1} };
@id("a") permit (principal, action == Action::"s__t", resource)
when { context.args has i && context.args.i + 1 > 0 };`)
	first := decide(t, s, toolCall("a", `{"i":9223372036854775807}`)).Errors
	require.Len(t, first, 2)
	assert.Contains(t, first[0], "a at p.cedar:4:1: ")
	assert.Contains(t, first[1], "z at p.cedar:2:1: ")
	assert.Contains(t, first[1], "multiply", "of a record, the first by name")
	for range 50 {
		assert.Equal(t, first, decide(t, s, toolCall("a", `{"i":9223372036854775807}`)).Errors)
	}
}

// What the determining policies say about themselves is in the decision.
func TestDecisionCarriesAnnotations(t *testing.T) {
	s := law(t, `
@id("p") @owner("platform") @reason("everybody reads") permit (principal, action, resource);
@id("f") @owner("security") @severity("high") @reason("no big numbers") forbid (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i > 5 };`)
	allowed := decide(t, s, toolCall("a", `{}`))
	assert.Equal(t, []audit.Policy{{ID: "p", Position: "p.cedar:2:1", Reason: "everybody reads", Owner: "platform"}}, allowed.Policies)
	denied := decide(t, s, toolCall("a", `{"i":6}`))
	assert.Equal(t, []audit.Policy{{ID: "f", Position: "p.cedar:3:1", Severity: "high", Reason: "no big numbers", Owner: "security"}}, denied.Policies)
}
