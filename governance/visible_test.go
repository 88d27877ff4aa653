package governance_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// What can never be called is never shown, and what might be is.
func TestVisible(t *testing.T) {
	all := `@id("all") permit (principal, action, resource);` + "\n"
	for policies, want := range map[string]governance.Visibility{
		"":  governance.Never,
		all: governance.Always,
		all + `@id("f") forbid (principal, action in Action::"write", resource);`:                                     governance.Never,
		all + `@id("f") forbid (principal, action == Action::"s__t", resource) when { 9223372036854775807 + 1 > 0 };`: governance.Never,
		all + `@id("f") forbid (principal, action == Action::"s__t", resource) when { context.args has x };`:          governance.Conditional,
		all + `@id("f") forbid (principal, action, resource) unless { principal.hasTag("mfa") };`:                     governance.Conditional,
		// A clause that fails with an error comes before one that is false.
		all + `@id("f") forbid (principal, action == Action::"s__t", resource) when { 9223372036854775807 + 1 > 0 } unless { principal == Agent::"a" };`:                       governance.Never,
		all + `@id("f") forbid (principal, action == Action::"s__t", resource) when { context.args has x && 9223372036854775807 + 1 > 0 } unless { principal == Agent::"a" };`: governance.Conditional,
		all + `@id("f") forbid (principal == Agent::"b", action, resource);`:                                                                                                   governance.Always,
		`@id("p") permit (principal, action == Action::"s__t", resource) when { context.args has x && context.args.x == "y" };`:                                                governance.Conditional,
		`@id("p") permit (principal, action == Action::"s__t", resource) when { context.args has x && false };`:                                                                governance.Never,
		`@id("p") permit (principal, action == Action::"s__t", resource) when { context.args has x && principal in Role::"senior" };`:                                          governance.Never,
		`@id("p") permit (principal, action == Action::"s__t", resource) when { 9223372036854775807 + 1 > 0 };`:                                                                governance.Never,
		`@id("p") permit (principal, action == Action::"s__t", resource) when { principal.hasTag("s") && principal.getTag("s") == "x" };`:                                      governance.Conditional,
		`@id("p") @approval("lead") permit (principal, action == Action::"s__t", resource);`:                                                                                   governance.Always,
	} {
		s := law(t, policies)
		v, err := s.Visible(t.Context(), actor("a"), "call_tool", []governance.ToolRef{{Server: "s", Name: "t"}, {Server: "s", Name: "none"}, {Server: "none", Name: "t"}})
		require.NoError(t, err)
		assert.Equal(t, []governance.Visibility{want, governance.Never, governance.Never}, v, "%s", policies)
	}
	_, err := law(t, all).Visible(t.Context(), audit.Actor{}, "call_tool", nil)
	assert.ErrorIs(t, err, audit.ErrNoActor)
}
