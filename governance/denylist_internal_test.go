package governance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// What denylists finds by audiences and areas is what a look at every pair of
// policies finds.
func TestDenylistsLikePairByPair(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	found := 0
	for range 20 {
		b := office(60)
		for i := range 4 { // a team in a profile's team, and one beside it
			b.Entities = append(b.Entities, types.Entity{UID: uid(typeUser, fmt.Sprint("u", i)), Parents: types.NewEntityUIDSet(uid(typeTeam, fmt.Sprint("p", i%3)))})
		}
		b.Policies = []Source{{Name: "p.cedar", Text: randomLists(r, 40)}}
		var rep Report
		c := compiler{bundle: b.sorted(), rep: &rep, snap: &Snapshot{clock: time.Now}}
		for _, step := range []func(context.Context){c.catalog, c.profiles, c.schema, c.entities} {
			step(t.Context())
		}
		c.all = parsePolicies(&b.Policies[0], &rep)
		require.NoError(t, rep.Err())
		rep.Findings = nil
		c.denylists()
		var got []string
		for _, f := range rep.Findings {
			assert.Equal(t, "denylist", f.Code)
			got = append(got, f.Policy+" "+f.Message)
		}
		want := pairByPair(&c)
		require.Equal(t, want, got, "%s", b.Policies[0].Text)
		found += len(got)
	}
	assert.NotZero(t, found)
}

// randomLists writes policies for few principals, tools and arguments, so that
// they get into each other's way.
func randomLists(r *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		principal := pick(r, "principal", `principal in Profile::"p0"`, `principal in Profile::"p1"`, `principal in Team::"p0"`, `principal in Team::"p1"`,
			`principal in Team::"company"`, `principal == Agent::"agent0-0"`, `principal is User`, `principal is Agent in Team::"p1"`, `principal is User in Team::"p0"`, `principal == User::"u1"`)
		action := pick(r, `action in Action::"call_tool"`, `action == Action::"server0__tool0"`, `action in Action::"server1:read"`, `action in [Action::"read", Action::"server0__tool2"]`)
		resource := pick(r, "resource", "resource", `resource in Server::"server0"`, `resource in Profile::"p1"`)
		arg := "context.args." + pick(r, "repo", "path")
		test := pick(r, arg+` == "a"`, `["a", "b"].contains(`+arg+`)`, arg+` like "a*"`, "!("+arg+` == "a")`, "context.now > context.now")
		fmt.Fprintf(&b, "@id(\"p%02d\") %s (%s, %s, %s) %s { %s };\n", i, pick(r, "permit", "forbid"), principal, action, resource, pick(r, "when", "when", "unless"), test)
	}
	return b.String()
}

// pairByPair finds denylists by the definition alone.
func pairByPair(c *compiler) (out []string) {
	covers := func(p *policy) (keys []string) {
		for _, t := range c.snap.tools {
			if p.action.Matches(t.action, ancestors(c.snap.entities, t.action)) && p.resource.Matches(t.resource, ancestors(c.snap.entities, t.resource)) {
				keys = append(keys, t.key)
			}
		}
		return keys
	}
	shareTool := func(p, q *policy) bool {
		of := covers(q)
		return slices.ContainsFunc(covers(p), func(k string) bool { return slices.Contains(of, k) })
	}
	inside := func(e, group types.EntityUID) bool {
		return e == group || slices.Contains(ancestors(c.snap.entities, e), group)
	}
	shares := func(a, b cedarx.Scope) bool {
		if a.Type != "" && b.Type != "" && a.Type != b.Type {
			return false
		}
		if !a.Bounded || !b.Bounded {
			return true
		}
		for _, x := range a.Any {
			for _, y := range b.Any {
				if inside(x, y) || inside(y, x) {
					return true
				}
				for e := range c.snap.entities { // tools stand in profiles as well
					if slices.Contains(ownEntities, e.Type) && inside(e, x) && inside(e, y) {
						return true
					}
				}
			}
		}
		return false
	}
	limits := func(p *policy, path string) bool {
		return slices.ContainsFunc(cedarx.TextTests(p.cedar), func(t cedarx.TextTest) bool {
			return t.Positive != p.forbid && strings.Join(t.Path, ".") == path
		})
	}
	// Permits for the principals that came first come first.
	var order []string
	for _, p := range c.all {
		if who := fmt.Sprint(p.principal); !slices.Contains(order, who) {
			order = append(order, who)
		}
	}
	permits := slices.DeleteFunc(slices.Clone(c.all), func(p *policy) bool { return p.forbid })
	slices.SortStableFunc(permits, func(a, b *policy) int {
		return slices.Index(order, fmt.Sprint(a.principal)) - slices.Index(order, fmt.Sprint(b.principal))
	})
	for _, p := range c.all {
		if !p.forbid {
			continue
		}
	tests:
		for _, t := range cedarx.TextTests(p.cedar) {
			path := strings.Join(t.Path, ".")
			if !t.Positive || !c.freeText(p, t.Path) {
				continue
			}
			for _, q := range c.all {
				if q.forbid && limits(q, path) && shares(p.principal, q.principal) && shareTool(p, q) {
					continue tests
				}
			}
			for _, q := range permits {
				if !limits(q, path) && shares(p.principal, q.principal) && shareTool(p, q) {
					out = append(out, fmt.Sprintf("%s the forbid closes some values of context.args.%s, which is free text, and %q permits all others", p.id, path, q.id))
					break tests
				}
			}
		}
	}
	return out
}
