package cedarx

import (
	"slices"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func parse(t testing.TB, conditions string) *cedar.Policy {
	t.Helper()
	var p cedar.Policy
	require.NoError(t, p.UnmarshalCedar([]byte("permit (principal, action, resource) "+conditions+";")))
	return &p
}

func textsOf(cs []Clause) (out []string) {
	for _, c := range cs {
		out = append(out, c.String())
	}
	return out
}

func TestClausesAreConjuncts(t *testing.T) {
	for conditions, want := range map[string][]string{
		"": nil,
		`when { context.a == 1 && context.b == 2 } when { context.c }`: {"context.a == 1", "context.b == 2", "context.c"},
		`unless { context.a == 1 || context.b < 2 }`:                   {"context.a != 1", "context.b >= 2"},
		`unless { context.a == 1 && context.b }`:                       {"!(context.a == 1 && context.b)"},
		`when { !(context.a || !context.b) }`:                          {"!context.a", "context.b"},
		`when { context.a || context.b }`:                              {"context.a || context.b"},
		`unless { context.s like "a*" }`:                               {`!(context.s like "a*")`},
	} {
		assert.Equal(t, want, textsOf(Clauses(parse(t, conditions))), conditions)
	}
}

// Evaluating the clauses in order comes to the same as the policy itself, for
// every value of what it reads, absent and of another type among them.
func TestClausesMeanThePolicy(t *testing.T) {
	values := []types.Value{nil, types.True, types.False, types.Long(1), types.String("x")}
	for _, conditions := range []string{
		`when { context.a && context.b }`, `unless { context.a && context.b }`, `when { context.a || context.b }`,
		`unless { context.a || context.b }`, `when { !(context.a || !(context.b && context.a)) } unless { context.b }`,
		`unless { !context.a } unless { context has b && context.b == 1 }`, `when { context.a == 1 && !(context.b == "x") }`,
		`unless { context.a < 2 || context.b like "x*" }`, `when { if context has a then context.a else context.b }`,
	} {
		p := parse(t, conditions)
		for _, a := range values {
			for _, b := range values {
				m := types.RecordMap{}
				if a != nil {
					m["a"] = a
				}
				if b != nil {
					m["b"] = b
				}
				uid := types.NewEntityUID("T", "x")
				env := Env{Principal: uid, Action: uid, Resource: uid, Context: types.NewRecord(m), Entities: types.EntityMap{}}
				effect, diag := cedar.Authorize(cedar.PolicyMap{"p": p}, types.EntityMap{}, cedar.Request{Principal: uid, Action: uid, Resource: uid, Context: types.NewRecord(m)})
				holds, failed := true, false
				for _, c := range Clauses(p) {
					ok, err := c.Holds(env)
					if err != nil || !ok {
						holds, failed = false, err != nil
						break
					}
				}
				require.Equal(t, effect == cedar.Allow, holds, "%s a=%v b=%v", conditions, a, b)
				require.Equal(t, len(diag.Errors) > 0, failed, "%s a=%v b=%v", conditions, a, b)
			}
		}
	}
}

func TestTermsAndMentions(t *testing.T) {
	c := Clauses(parse(t, `when { context has args && ["x"].contains(context.args.repo) || context.args.n < 5 ||
		principal.getTag("scope") == "w" || resource in Server::"s" || context.args.p like "/a*b*" || context.at.lessThan(decimal("1.0")) }`))[0]
	var terms []string
	for _, term := range c.Terms() {
		terms = append(terms, term.String())
	}
	assert.Equal(t, []string{"context.args.repo", "context.args.n", `principal.getTag("scope")`, "resource", "context.args.p", "context.at"}, terms)

	var got []string
	for _, m := range c.Mentions() {
		text := m.Op
		if m.Value != nil {
			text += " " + string(m.Value.MarshalCedar())
		}
		for _, p := range m.Parts {
			text += " " + p + "|"
		}
		got = append(got, m.Path[len(m.Path)-1]+" "+text)
	}
	slices.Sort(got)
	assert.Equal(t, []string{`args has`, `at lessThan decimal("1.0")`, `n < 5`, `p like /a| b| |`, `repo one of ["x"]`, `resource in Server::"s"`, `tag:scope == "w"`}, got)
}

func TestMutants(t *testing.T) {
	p := parse(t, `when { context.n < 5 && ["x", "y"].contains(context.s) } unless { {a: context.b}.a || context.s like "q*" }`)
	var got []string
	seen := map[string]bool{string(p.MarshalCedar()): true}
	for _, m := range Mutants(p) {
		got = append(got, m.Change)
		text := string(m.Policy.MarshalCedar())
		require.False(t, seen[text], "twice, or no change: %s", text)
		seen[text] = true
		require.NoError(t, new(cedar.Policy).UnmarshalCedar([]byte(text)), "%s", text)
	}
	assert.Contains(t, got, "without: context.n < 5")
	assert.Contains(t, got, "not: context.n < 5")
	assert.Contains(t, got, "context.n < 5 -> context.n <= 5")
	assert.Contains(t, got, "context.n < 5 -> context.n < 6")
	assert.Contains(t, got, `["x", "y"].contains(context.s) -> ["x"].contains(context.s)`)
	assert.Contains(t, got, `["x", "y"].contains(context.s) -> ["x", "y~"].contains(context.s)`)
	assert.Contains(t, got, `!(context.s like "q*") -> !(context.s like "q")`)
	t.Log(len(got))
}
