package governance

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

const readsCatalog = `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"array","items":{"type":"string"}},"c":{"type":"object","properties":{"d":{"type":"integer"}}},"n":{"type":"integer"}}}`

// What policies read, wherever they say so, is made; a fact's arguments are too.
func TestReads(t *testing.T) {
	tool := func(name string, class Class) Tool {
		return Tool{ToolDefinition: ToolDefinition{Name: name, InputSchema: []byte(readsCatalog)}, Class: class}
	}
	catalog := []Server{{Name: "s", Tools: []Tool{tool("look", Read), tool("put", Write), tool("drop", Destructive)}}}
	law := func(t *testing.T, text string, opts *Options, facts ...Fact) map[string]*reads {
		s, rep, err := Compile(t.Context(), Bundle{Catalog: catalog, Policies: []Source{{Name: "p.cedar", Text: text}}, Facts: facts}, opts)
		require.NoError(t, err, "%v", rep.Findings)
		out := map[string]*reads{}
		for ref, tl := range s.tools {
			out[ref.name] = s.reads[tl.number]
		}
		return out
	}
	names := func(r *reads) (out []string) {
		if r == nil {
			return []string{"everything"}
		}
		for name, read := range map[string]bool{"now": r.now, "session": r.session, "labels": r.labels, "nulls": r.args.Nulls, "extra": r.args.Extra, "derived": r.derived} {
			if read {
				out = append(out, name)
			}
		}
		if r.args.Fields == nil {
			out = append(out, "args")
		}
		for i, read := range r.args.Fields {
			if read {
				out = append(out, "args."+[]string{"a", "b", "c", "n"}[i])
			}
		}
		slices.Sort(out)
		return out
	}
	got := law(t, `
@id("1") permit (principal, action == Action::"s__look", resource) when { context.args has a && context.args.a == "x" };
@id("2") permit (principal, action in Action::"write", resource) unless { context.extra.isEmpty() };
@id("3") forbid (principal, action in [Action::"s:read", Action::"s__drop"], resource) when { context has session && context.session == "s" };
@id("4") @mode("observe") forbid (principal, action in Action::"call_tool", resource) when { context.labels.contains("l") };
@id("5") forbid (principal, action == Action::"s__drop", resource) when { context.args has c && context.args.c has d && context.args.c.d > 1 };
@id("6") @expires("2999-01-01") permit (principal, action == Action::"s__drop", resource);
`, nil)
	assert.Equal(t, []string{"args.a", "labels", "session"}, names(got["look"]))
	assert.Equal(t, []string{"extra", "labels"}, names(got["put"]))
	assert.Equal(t, []string{"args.c", "labels", "now", "session"}, names(got["drop"]))

	got = law(t, `
@id("1") permit (principal, action == Action::"s__look", resource) when { context.args == context.args };
@id("2") permit (principal, action == Action::"s__put", resource) when { context == context };
@id("3") permit (principal, action, resource) when { context.now > datetime("2020-01-01") };
@id("4") permit (principal, action == Action::"s__drop", resource) when { context.facts.f < 3 };
`, nil, Fact{Name: "f", Kind: DistinctWithin, On: []string{"s__drop"}, Of: "/n", Per: "agent", Window: 1e12, Where: map[string][]any{"/a": {"x"}}})
	assert.Equal(t, []string{"args", "now"}, names(got["look"]))
	assert.Equal(t, []string{"everything"}, names(got["put"]))
	assert.Equal(t, []string{"args.a", "args.n", "now"}, names(got["drop"]), "what the fact looks at")
}

// A mutant reads what its own policies read.
func TestMutantsRead(t *testing.T) {
	s := compiled(t, Bundle{
		Catalog: []Server{{Name: "s", Tools: []Tool{{ToolDefinition: ToolDefinition{Name: "t", InputSchema: []byte(readsCatalog)}, Class: Read}}}},
		Policies: []Source{{Name: "p.cedar", Text: `
@id("1") permit (principal, action == Action::"s__t", resource) when { context.args has a && context.args.a == "x" };`}},
	})
	require.Equal(t, []bool{true, false, false, false}, s.reads[0].args.Fields)
	removed := false
	for m := range s.Mutants() {
		removed = removed || m.Change == "removed" && !m.Snapshot.reads[0].args.Fields[0]
	}
	require.True(t, removed)
}

// With only what is read, a decision is what it is with everything.
func TestDecisionsFromReads(t *testing.T) {
	s := compiled(t, office(100))
	whole := s.with("", nil)
	for i := range whole.reads {
		whole.reads[i] = nil
	}
	effects := map[audit.Effect]int{}
	for _, v := range s.visitors(t, 200) {
		got, err := s.Decide(t.Context(), v.Request)
		require.NoError(t, err)
		want, err := whole.Decide(t.Context(), v.Request)
		require.NoError(t, err)
		got.ID, want.ID = "", ""
		require.Equal(t, want, got)
		effects[got.Effect]++
	}
	require.Len(t, slices.Collect(maps.Keys(effects)), 2, "only %v: the test shows nothing", effects)
}
