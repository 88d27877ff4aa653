package cedarx

import (
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestContextReads(t *testing.T) {
	for _, c := range []struct {
		when  string
		names []string
		all   bool
	}{
		{`true`, nil, false},
		{`context.facts.a > 1 && context.facts.b`, []string{"a", "b"}, false},
		{`context.facts has a && context.facts.a == context.facts.a`, []string{"a"}, false},
		{`context.args.facts.a == 1 && context.now == context.now`, nil, false},
		{`context has facts`, nil, true},
		{`context has facts.a`, []string{"a"}, true},
		{`context.facts == {a: 1}`, nil, true},
		{`context.facts.a == 1 && context.facts == {a: 1}`, []string{"a"}, true},
		{`context == {}`, nil, true},
		{`[context].contains(context)`, nil, true},
		{`principal.facts.a == 1`, nil, false},
		{`if context.facts.a == 1 then true else {x: context.facts}.x == {}`, []string{"a"}, true},
	} {
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte("permit(principal, action, resource) when { "+c.when+" };")), c.when)
		names, all := ContextReads(&p, "facts")
		assert.Equal(t, c.names, names, c.when)
		assert.Equal(t, c.all, all, c.when)
	}
}

func TestContained(t *testing.T) {
	var p cedar.Policy
	require.NoError(t, p.UnmarshalCedar([]byte(`permit(principal, action, resource)
		when { context.labels.contains("a") || context.labels.containsAny(["b","c"]) }
		unless { ["d"].contains(context.args.x) || context.args.labels.contains("e") };`)))
	assert.Equal(t, []string{"a", "b", "c"}, Contained(&p, "labels"))
}
