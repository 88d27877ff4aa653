package governance

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// rounds scales a long loop: all of it in a soak, a tenth in a full run, and a
// taste of it otherwise.
func rounds(full int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return full
	case os.Getenv("TWINWARD_FULL") == "1":
		return full / 10
	}
	return full / 500
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomLaw makes policies of every scope and of conditions that are true,
// false, unknown before the call, and failing, over two servers with three
// tools each.
func randomLaw(t *testing.T, r *rand.Rand, n int) *Snapshot {
	const schema = `{"type":"object","properties":{"s":{"type":"string"},"i":{"type":"integer"}},"required":["s"]}`
	var b Bundle
	for _, name := range []string{"x", "y"} {
		s := Server{Name: name}
		for i := range 3 {
			s.Tools = append(s.Tools, Tool{ToolDefinition: ToolDefinition{Name: fmt.Sprintf("t%d", i), InputSchema: []byte(schema)}, Class: classes[i]})
		}
		b.Catalog = append(b.Catalog, s)
	}
	b.Profiles = []Profile{
		{ID: "p", Agents: []string{"a0"}, Servers: map[string]Grant{"x": {Tools: []string{"*"}}, "y": {Tools: []string{"t0"}}}, Hosts: []string{"*.example.com"}},
		{ID: "q", Agents: []string{"a1"}},
	}
	b.Entities = []types.Entity{
		{UID: uid(typeAgent, "a2"), Parents: types.NewEntityUIDSet(uid(typeTeam, "red"))},
		{UID: uid(typeUser, "u0"), Parents: types.NewEntityUIDSet(uid(typeTeam, "red"))},
		{UID: uid(typeTeam, "red"), Parents: types.NewEntityUIDSet(uid(typeTeam, "all"))},
		{UID: uid(typeTeam, "all")},
	}
	var text strings.Builder
	for i := range n {
		principal := pick(r, "principal", "principal", "principal is Agent", "principal is User", `principal == Agent::"a0"`, `principal in Profile::"p"`,
			`principal in Profile::"q"`, `principal in Team::"all"`, `principal in Team::"red"`, `principal is User in Team::"all"`, `principal == User::"u0"`)
		tool := pick(r, "x__t0", "x__t1", "y__t0", "y__t2")
		action, resource, tools := "", "", true
		switch r.IntN(6) {
		case 0:
			action, resource, tools = "action", "resource", false
		case 1:
			action, resource = fmt.Sprintf("action == Action::%q", tool), "resource"
		case 2:
			action, resource = `action in Action::"call_tool"`, pick(r, "resource", `resource in Server::"x"`, `resource is Tool in Server::"y"`, `resource in Profile::"p"`)
		case 3:
			action, resource = fmt.Sprintf("action in [Action::%q, Action::%q]", pick(r, "x:read", "y:write", "destructive"), tool), "resource is Tool"
		case 4:
			action, resource = fmt.Sprintf("action in Action::%q", pick(r, "read", "write", "x:write", "y:destructive")), "resource"
		case 5:
			action, resource, tools = `action == Action::"connect"`, pick(r, "resource", `resource == Host::"a.example.com"`, `resource in Host::"*.example.com"`), false
		}
		var conditions []string
		for range r.IntN(3) {
			c := pick(r,
				`principal.hasTag("k") && principal.getTag("k") == "v"`,
				`context has session && context.session == "s"`,
				`context.now < datetime("2030-01-01")`,
				`principal in Team::"red"`,
				`!(principal in Profile::"p")`,
				`(principal in Team::"all" || context has session)`,
				`(context has session && principal is User)`,
				`if principal is Agent then context has session else true`,
				`9223372036854775807 + 1 > 0`,
				`(principal in Team::"red" && 9223372036854775807 + 1 > 0)`,
				`context has session || principal is Agent`,
			)
			if tools && r.IntN(2) == 0 {
				c = pick(r,
					`context.args.s == "v"`,
					`context.args.s like "*e*"`,
					`context.args has i && context.args.i + 1 > 5`,
					`if context.args has i then context.args.i < 5 else true`,
					`context.extra.isEmpty()`,
					`{"a": context.args.s} == {"a": "v"}`,
					`{"a": {"b": context.args.s}, "p": principal in Team::"all"} == {"a": {"b": "v"}, "p": true}`,
					`[context.args.s].containsAny(["v", "zed"])`,
					`if context.args.s == "v" then principal in Team::"red" else false`,
					`(context.args.s == "v" || 9223372036854775807 + 1 > 0)`,
					`context.args.s == "v" && principal in Team::"all"`,
					`["v", "w"].contains(context.args.s) && resource.class == "read"`,
					`resource.class == "write" || context.args.s == "w"`,
				)
			}
			conditions = append(conditions, pick(r, "when", "when", "unless")+" { "+c+" }")
		}
		fmt.Fprintf(&text, "@id(\"r%03d\") %s (%s, %s, %s)\n%s;\n", i, pick(r, "permit", "permit", "permit", "forbid"), principal, action, resource, strings.Join(conditions, "\n"))
	}
	b.Policies = []Source{{Name: "random.cedar", Text: text.String()}}
	snap, rep, err := Compile(t.Context(), b, nil)
	if err != nil {
		// Types that never meet, such as a user in a profile: the validator
		// says so, and such a law is simply not used.
		require.Contains(t, err.Error(), "unable to find an applicable action", "%v\n%s", rep.Findings, text.String())
		return nil
	}
	return snap
}

// randomRequest asks something, often something that policies talk about.
func randomRequest(r *rand.Rand, a audit.Actor, action, server, name string) Request {
	req := Request{Actor: a, Action: action, Server: server, Name: name}
	req.Actor.Session = pick(r, "", "s", "z")
	req.Time = pick(r, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC))
	if r.IntN(2) == 0 {
		req.Claims = map[string]string{"k": pick(r, "v", "w")}
	}
	if action == actionCallTool {
		args := fmt.Sprintf(`{"s":%q`, pick(r, "v", "w", "zed"))
		if r.IntN(2) == 0 {
			args += fmt.Sprintf(`,"i":%d`, pick[int64](r, 0, 5, 6, 9223372036854775807))
		}
		if r.IntN(4) == 0 {
			args += `,"other":1`
		}
		req.Args = []byte(args + "}")
	}
	return req
}

var (
	randomActors = []audit.Actor{
		{Agent: "a0"}, {Agent: "a1"}, {Agent: "a2"}, {Agent: "a3"},
		{Agent: "a1", User: "u0"}, {Agent: "a2", User: "u0"}, {Agent: "a2", User: "u1"},
	}
	randomTargets = []struct{ action, server, name string }{
		{"call_tool", "x", "t0"}, {"call_tool", "x", "t1"}, {"call_tool", "x", "t2"}, {"call_tool", "y", "t0"},
		{"call_tool", "y", "t1"}, {"call_tool", "y", "t2"}, {"connect", "", "a.example.com"}, {"connect", "", "other.example"},
	}
)

// What Visible says holds for every call that is then made: nothing that can be
// called is hidden, and what is always allowed always is.
func TestVisibleIsSound(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	var tally [3]int
	var allowed, checked int
	// A few worlds may lack one of the answers: then a few more.
	for n := range max(100, rounds(1_000)) {
		if n >= max(4, rounds(1_000)) && !slices.Contains(tally[:], 0) {
			break
		}
		s := randomLaw(t, r, 1+r.IntN(8))
		if s == nil {
			continue
		}
		for _, a := range randomActors {
			for _, target := range randomTargets {
				v, err := s.Visible(t.Context(), a, target.action, []ToolRef{{target.server, target.name}})
				require.NoError(t, err)
				tally[v[0]]++
				for range 12 {
					req := randomRequest(r, a, target.action, target.server, target.name)
					d, err := s.Decide(t.Context(), req)
					require.NoError(t, err)
					checked++
					switch {
					case d.Allowed():
						allowed++
						require.NotEqual(t, Never, v[0], "hidden, but allowed: %+v\n%s", req, lawText(s))
					default:
						require.NotEqual(t, Always, v[0], "always, but denied by %s %v: %+v\n%s", d.Reason, d.Errors, req, lawText(s))
					}
				}
			}
		}
	}
	t.Logf("%d calls, %d allowed; never %d, conditional %d, always %d", checked, allowed, tally[Never], tally[Conditional], tally[Always])
	for v, n := range tally { // counted over thousands of answers
		require.NotZero(t, n, "no %s in this run: the test shows nothing", Visibility(v))
	}
}

// The index leaves out nothing, and nor does the context: every decision has the
// same effect, reasons and errors as Cedar's own over all policies with
// everything.
func TestIndexIsExact(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	different, fewer := 0, 0
	for range max(4, rounds(1_000)) {
		s := randomLaw(t, r, 1+r.IntN(30))
		if s == nil {
			continue
		}
		all := cedar.PolicyMap{}
		for id, p := range s.policies {
			all[id] = p.cedar
		}
		for range 40 {
			target := pick(r, randomTargets...)
			req := randomRequest(r, pick(r, randomActors...), target.action, target.server, target.name)
			tgt, err := s.resolve(&req)
			require.NoError(t, err)
			context, err := req.context(&tgt, req.Time, nil)
			require.NoError(t, err)
			part, err := req.context(&tgt, req.Time, s.readsAbout(&tgt))
			require.NoError(t, err)
			for _, principal := range []types.EntityUID{uid(typeAgent, req.Actor.Agent), uid(typeUser, "u0")} {
				got := s.evaluate(s.law, principal, &tgt, types.NewRecord(part), req.Claims)
				store := overlay{static: s.entities, resource: tgt.dynamic, principal: s.principal(principal, req.Claims)}
				effect, diag := cedar.Authorize(all, &store, cedar.Request{Principal: principal, Action: tgt.action, Resource: tgt.resource, Context: types.NewRecord(context)})
				want, have := map[types.PolicyID]bool{}, map[types.PolicyID]bool{}
				broken := false
				for _, reason := range diag.Reasons {
					want[reason.PolicyID] = true
				}
				for _, e := range diag.Errors {
					want["error in "+e.PolicyID] = true
					broken = broken || s.policies[e.PolicyID].forbid
				}
				for _, p := range got.reasons {
					have[types.PolicyID(p.id)] = true
				}
				for _, m := range got.messages {
					id, _, _ := strings.Cut(m, " at ")
					have[types.PolicyID("error in "+id)] = true
				}
				require.Equal(t, want, have, "%s %+v\n%s", principal, req, lawText(s))
				require.Equal(t, effect == cedar.Allow && !broken, got.allowed, "%s %+v\n%s", principal, req, lawText(s))
				different++
				q := s.ask(principal, &tgt, req.Claims)
				if len(q.find(s.law, &tgt)) < len(all) {
					fewer++
				}
				s.give(q)
			}
		}
	}
	t.Logf("%d decisions, %d with fewer policies asked", different, fewer)
	require.NotZero(t, fewer)
}

func lawText(s *Snapshot) string {
	var b strings.Builder
	for _, id := range sortedIDs(s) {
		b.Write(s.policies[id].cedar.MarshalCedar())
		b.WriteString("\n")
	}
	return b.String()
}

func sortedIDs(s *Snapshot) []types.PolicyID { return slices.Sorted(maps.Keys(s.policies)) }
