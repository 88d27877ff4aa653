package governance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// exposure counts what became of mutants.
type exposure struct{ exposed, missed, unknown int }

// hunt looks for a witness against a mutant. Where it finds none, random
// requests show whether there was one to find.
func (e *exposure) hunt(t *testing.T, s *Snapshot, m Mutant, seed uint64, tries int, random func() Request) {
	t.Helper()
	rep, err := Diff(t.Context(), s, m.Snapshot, &Universe{Witnesses: 1, PerPair: 200, Seed: seed})
	require.NoError(t, err)
	ask := func(r Request) Change {
		r.counted, r.beside = true, true
		was, err := s.Decide(t.Context(), r)
		require.NoError(t, err)
		now, err := m.Snapshot.Decide(t.Context(), r)
		require.NoError(t, err)
		return compare(settled(was), settled(now))
	}
	if len(rep.Witnesses) > 0 {
		e.exposed++
		w := rep.Witnesses[0]
		require.NotContains(t, []Change{Same, OtherCause}, w.Change)
		require.Equal(t, w.Change, ask(w.Request), "no witness: %+v", w)
		return
	}
	for range tries {
		r := random()
		if c := ask(r); c == NowAllowed || c == NowDenied {
			e.missed++
			t.Logf("missed %s %s: %s%s", m.Policy.ID, m.Change, r.Name, r.details())
			return
		}
	}
	e.unknown++
}

// The goal: a witness against at least nine in ten mutants that random requests
// expose, over random worlds. What neither exposes is most often no change in
// effect.
func TestDiffExposesMutants(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	var e exposure
	for range max(2, rounds(80)) {
		s := randomLaw(t, r, 6)
		if s == nil {
			continue
		}
		for m := range s.Mutants() {
			if r.IntN(8) == 0 {
				e.hunt(t, s, m, r.Uint64(), 500, func() Request {
					target := pick(r, randomTargets...)
					return randomRequest(r, pick(r, randomActors...), target.action, target.server, target.name)
				})
			}
		}
	}
	t.Logf("random law: %d mutants exposed, %d missed, %d exposed by neither", e.exposed, e.missed, e.unknown)
	if n := e.exposed + e.missed; n >= 20 {
		assert.GreaterOrEqual(t, e.exposed*10, n*8, "fewer than 80 %%")
	}
}

func TestDiffExposesMutantsOfAnOffice(t *testing.T) {
	t.Parallel()
	snap, _, err := Compile(t.Context(), office(50), nil)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(7, 7)) // the figure is to be compared between runs
	var e exposure
	every := 8
	if os.Getenv("TWINWARD_SOAK") == "1" {
		every = 1
	}
	for m := range snap.Mutants() {
		if r.IntN(every) == 0 {
			e.hunt(t, snap, m, 1, 2_000, func() Request {
				p := pick(r, snap.profiles...)
				return Request{
					Actor: audit.Actor{Agent: pick(r, p.Agents...)}, Action: actionCallTool,
					Server: pick(r, slices.Collect(maps.Keys(p.Servers))...), Name: fmt.Sprintf("tool%d", r.IntN(5)),
					Args: fmt.Appendf(nil, `{"repo":"repo%d","path":"%s%d/%s"}`, r.IntN(8), pick(r, "/src/", "/src/", "/etc/", ""), r.IntN(8), pick(r, "a", "../a", "")),
				}
			})
		}
	}
	n := e.exposed + e.missed
	t.Logf("office of 50 policies: %d of %d mutants exposed (%d %%), %d exposed by neither", e.exposed, n, 100*e.exposed/n, e.unknown)
	assert.GreaterOrEqual(t, 100*e.exposed, 90*n)
}

func TestDiffReports(t *testing.T) {
	b := standupBundle(t)
	a, _, err := Compile(t.Context(), b, nil)
	require.NoError(t, err)
	b.Policies = []Source{{Name: "p.cedar", Text: strings.NewReplacer(
		`context.args.channel == "#engineering"`, `context.args.channel == "#general"`,
		`@id("own-credentials")`, "@id(\"own-secrets\")\n@rate(\"3/1m\")").Replace(b.Policies[0].Text)}}
	next, _, err := Compile(t.Context(), b, nil)
	require.NoError(t, err)

	same, err := Diff(t.Context(), a, a, nil)
	require.NoError(t, err)
	assert.Equal(t, DiffReport{A: a.Hash(), B: a.Hash(), Complete: true}, same)

	rep, err := Diff(t.Context(), a, next, nil)
	require.NoError(t, err)
	again, err := Diff(t.Context(), a, next, nil)
	require.NoError(t, err)
	assert.Equal(t, rep.Tried, again.Tried, "the same seed makes the same search")
	var out bytes.Buffer
	_, err = rep.WriteTo(&out)
	require.NoError(t, err)
	text := out.String()
	assert.Contains(t, text, "added: own-secrets\nremoved: own-credentials\nchanged: standup-in-engineering\n")
	assert.Regexp(t, `now-(allowed|denied): standup-bot call_tool on Tool::"slack__post_message" \{"channel":"#(engineering|general)","text":".*"\}`, text)
	assert.Contains(t, text, `other-obligations: standup-bot use_credential on Credential::"github": allow (own-credentials) -> allow (own-secrets) with rate=3/1m`)
	assert.True(t, rep.Complete)

	few, err := Diff(t.Context(), a, next, &Universe{Actors: []audit.Actor{{Agent: "stranger"}}})
	require.NoError(t, err)
	out.Reset()
	_, err = few.WriteTo(&out)
	require.NoError(t, err)
	assert.Contains(t, out.String(), "none found in ")
	assert.NotContains(t, out.String(), "equal")

	cut, err := Diff(t.Context(), a, next, &Universe{Max: 1})
	require.NoError(t, err)
	assert.False(t, cut.Complete)
	assert.LessOrEqual(t, cut.Tried, 20)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Diff(ctx, a, next, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = Diff(t.Context(), nil, next, nil)
	require.ErrorIs(t, err, ErrNoSnapshot)
}

// What the bundles differ in besides policies is looked at too.
func TestDiffSeesProfilesAndCatalogue(t *testing.T) {
	a, _, err := Compile(t.Context(), standupBundle(t), nil)
	require.NoError(t, err)
	b := standupBundle(t)
	g := b.Profiles[0].Servers["slack"]
	g.Tools = []string{"read_channel"}
	b.Profiles[0].Servers["slack"] = g
	narrow, _, err := Compile(t.Context(), b, nil)
	require.NoError(t, err)
	rep, err := Diff(t.Context(), a, narrow, &Universe{PerPair: 50})
	require.NoError(t, err)
	require.Len(t, rep.Witnesses, 1, "%+v", rep)
	assert.Equal(t, NowDenied, rep.Witnesses[0].Change)
	assert.Equal(t, "post_message", rep.Witnesses[0].Request.Name)

	b = standupBundle(t)
	for i := range b.Catalog {
		for j, tool := range b.Catalog[i].Tools {
			if tool.Name == "post_message" {
				b.Catalog[i].Tools = append(b.Catalog[i].Tools[:j:j], b.Catalog[i].Tools[j+1:]...)
				break
			}
		}
	}
	b.Profiles[0].Servers["slack"] = Grant{Tools: []string{"*"}}
	b.Policies = []Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in Action::"call_tool", resource);`}}
	gone, _, err := Compile(t.Context(), b, nil)
	require.NoError(t, err)
	rep, err = Diff(t.Context(), a, gone, &Universe{PerPair: 50})
	require.NoError(t, err)
	found := fmt.Sprint()
	for _, w := range rep.Witnesses {
		found += fmt.Sprintln(w.Change, w.Request.Name, w.B.Reason)
	}
	assert.Contains(t, found, "now-denied post_message unknown")
	assert.Contains(t, found, "now-allowed delete_message")
}

// Arguments of every form are tried.
func TestDiffTriesEveryForm(t *testing.T) {
	const schema = `{"type":"object","required":["free","many"],"properties":{
		"free":{"type":"object"},"many":{"type":"array","items":{"type":"object","required":["path","n"],"properties":{"path":{"type":"string"},"n":{"type":"integer"}}}},
		"to":{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"string"}}]},
		"when":{"type":"string","format":"date-time"},"ip":{"type":"string","format":"ipv4"},"ratio":{"type":"number"},"tags":{"type":"array","items":{"type":"string"}},
		"deep":{"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"boolean"}}}}}}}`
	with := func(condition string) *Snapshot {
		b := Bundle{
			Catalog: []Server{{Name: "s", Tools: []Tool{{ToolDefinition: ToolDefinition{Name: "t", InputSchema: []byte(schema)}, Class: Write}}}},
			Facts:   []Fact{{Name: "calls", Kind: CountWithin, On: []string{"s__t"}, Window: time.Hour, Per: "agent"}},
			Policies: []Source{{Name: "p.cedar", Text: `@id("p") permit (principal, action == Action::"s__t", resource) when { ` + condition + ` };
@id("f") forbid (principal, action == Action::"s__t", resource) when { context.facts.calls > 100 };`}},
		}
		s, rep, err := Compile(t.Context(), b, nil)
		require.NoError(t, err, "%v", rep)
		return s
	}
	never := with(`false && context.args has to`)
	for _, condition := range []string{
		`context.args.free.keys.contains("k")`,
		`context.args.many.path.contains("/x")`,
		`context.args has to && context.args.to has string && context.args.to.string == "a"`,
		`context.args has to && context.args.to has array && context.args.to.array.contains("a")`,
		`context.args has when && context.args.when == datetime("2026-01-01T00:00:00Z")`,
		`context.args has ip && context.args.ip.isInRange(ip("10.0.0.0/8"))`,
		`context.args has ratio && context.args.ratio.lessThan(decimal("0.5")) && context.args.ratio.greaterThan(decimal("0.4998"))`,
		`context.args has tags && context.args.tags.containsAll(["a", "b"])`,
		`context.args has deep && context.args.deep has a && context.args.deep.a has b && !context.args.deep.a.b`,
		`context.args has when && context.now < datetime("2020-01-01")`,
		`context has session && context.session == "s1"`,
		`principal.hasTag("scope") && principal.getTag("scope") like "write:*"`,
		`context.extra.contains("/something-new")`,
		`context.facts.calls == 17`,
		`context.labels.contains("crm")`,
		`principal is User || context has user && context.user == User::"ann"`,
		`principal == User::"ann" || context has user`,
	} {
		rep, err := Diff(t.Context(), never, with(condition), &Universe{Witnesses: 1})
		require.NoError(t, err)
		assert.Len(t, rep.Witnesses, 1, "%s: %d tries", condition, rep.Tried)
	}
}

func standupBundle(t testing.TB) Bundle {
	t.Helper()
	b, err := LoadBundle(os.DirFS("testdata/standup"))
	require.NoError(t, err)
	return b
}
