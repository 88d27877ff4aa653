package governance_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// lawIn is law with options.
func lawIn(t testing.TB, opts *governance.Options, policies string, profiles ...governance.Profile) *governance.Snapshot {
	t.Helper()
	b := only("unused")
	b.Policies[0].Text = policies
	b.Profiles = profiles
	snap, rep, err := governance.Compile(t.Context(), b, opts)
	require.NoError(t, err, "%v", rep)
	return snap
}

func would(d governance.Decision) (out []string) {
	for _, w := range d.Would {
		out = append(out, w.String())
	}
	return out
}

// A policy that is only observed changes nothing, and what it would have
// changed is on record.
func TestObservedPolicies(t *testing.T) {
	s := law(t, `
@id("base") permit (principal, action == Action::"s__t", resource) when { context.args has i };
@id("no-x") @mode("observe") forbid (principal, action == Action::"s__t", resource) when { context.args has x };
@id("allow-j") @mode("observe") permit (principal, action == Action::"s__t", resource) when { context.args has j };
@id("allow-1") @mode("observe") @max_bytes("9") permit (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i == 1 };
@id("breaks") @mode("observe") forbid (principal, action == Action::"s__t", resource)
when { context.args has i && context.args has j && context.args.i * context.args.j < 0 };
@id("on") @mode("enforce") forbid (principal, action == Action::"s__t", resource) when { context.args has x && context.args.x == "on" };`)
	for _, c := range []struct {
		args   string
		effect audit.Effect
		reason string
		would  []string
	}{
		{`{"i":0}`, audit.Allow, "", nil},
		{`{"i":0,"x":""}`, audit.Allow, "", []string{"deny if observed: no-x"}},
		{`{"j":0}`, audit.Deny, "no-permit", []string{"allow if observed: allow-j"}},
		{`{"j":0,"x":""}`, audit.Deny, "no-permit", []string{"deny if observed: no-x"}},
		{`{}`, audit.Deny, "no-permit", nil},
		{`{"i":0,"j":0}`, audit.Allow, "", []string{"allow if observed: allow-j, base"}},
		{`{"i":1}`, audit.Allow, "", []string{"deny if observed: obligation"}},
		{`{"i":9223372036854775807,"j":2}`, audit.Allow, "", []string{"deny if observed: policy-error"}},
		{`{"i":0,"x":"on"}`, audit.Deny, "on", []string{"deny if observed: no-x"}},
		{`{"i":"0"}`, audit.Deny, "arguments", nil},
	} {
		d := decide(t, s, toolCall("a", c.args))
		assert.Equal(t, c.effect, d.Effect, c.args)
		assert.Equal(t, c.reason, d.Reason, c.args)
		assert.Equal(t, c.would, would(d), c.args)
		for _, w := range d.Would {
			assert.Equal(t, s.Hash(), w.PolicyHash)
		}
		for _, id := range append(d.PolicyIDs(), d.Nearest...) {
			assert.Contains(t, []string{"base", "on"}, id, "a policy that is not enforced determines nothing")
		}
		assert.Empty(t, d.Obligations)
	}
	// The obligation of an observed permit is on record too.
	r := toolCall("a", `{"i":1}`)
	r.Enforces = []string{"max_bytes"}
	d := decide(t, s, r)
	assert.Empty(t, d.Obligations)
	require.Len(t, d.Would, 1)
	assert.Equal(t, []audit.Obligation{{Kind: "max_bytes", Value: "9", Policy: "allow-1"}}, d.Would[0].Obligations)
}

// When an agent acts for a user, what is observed is decided for both.
func TestObservedForUser(t *testing.T) {
	s := law(t, `
@id("all") permit (principal, action == Action::"s__t", resource);
@id("not-ann") @mode("observe") forbid (principal == User::"ann", action == Action::"s__t", resource);
@id("for") @mode("observe") permit (principal is Agent, action == Action::"s__t", resource) when { context has user };
@id("half") @mode("observe") permit (principal is User, action == Action::"s__t", resource) when { context has agent };`)
	r := toolCall("a", `{}`)
	assert.Empty(t, decide(t, s, r).Would)
	r.Actor.User = "ann"
	assert.Equal(t, []string{"deny if observed: not-ann"}, would(decide(t, s, r)))
	r.Actor.User = "bob"
	assert.Equal(t, []string{"allow if observed: all, for, half"}, would(decide(t, s, r)))
}

// Observed policies neither hide nor show tools.
func TestObservedIsInvisible(t *testing.T) {
	ref := []governance.ToolRef{{Server: "s", Name: "t"}}
	for policies, want := range map[string]governance.Visibility{
		`@id("p") @mode("observe") permit (principal, action, resource);`: governance.Never,
		`@id("p") permit (principal, action, resource);
		 @id("q") @mode("observe") forbid (principal, action, resource);`: governance.Always,
		`@id("p") @mode("enforce") permit (principal, action, resource);`: governance.Always,
	} {
		got, err := law(t, policies).Visible(t.Context(), actor("a"), "call_tool", ref)
		require.NoError(t, err)
		assert.Equal(t, want, got[0], policies)
	}
}

// An engine that observes lets pass what policies deny, and nothing else.
func TestObserveMode(t *testing.T) {
	policies := `
@id("base") @max_bytes("5") permit (principal, action == Action::"s__t", resource) when { context.args has i };
@id("no-x") forbid (principal, action == Action::"s__t", resource) when { context.args has x };
@id("no-ann") forbid (principal == User::"ann", action == Action::"s__t", resource);
@id("sum") forbid (principal, action == Action::"s__t", resource) when { context.args has j && context.args.j + 1 < 0 };`
	profile := governance.Profile{ID: "p", Agents: []string{"inside", "outside"}, Servers: map[string]governance.Grant{"s": {Tools: []string{"t"}}}}
	closed := governance.Profile{ID: "closed", Agents: []string{"closed"}, Servers: map[string]governance.Grant{}}
	observe := lawIn(t, &governance.Options{Mode: governance.Observe}, policies, profile, closed)
	enforce := lawIn(t, nil, policies, profile, closed)
	assert.Equal(t, enforce.Hash(), observe.Hash(), "the mode is the engine's, not the law's")

	call := func(agent, user, args string, enforces ...string) governance.Request {
		r := toolCall(agent, args)
		r.Actor.User, r.Enforces = user, enforces
		return r
	}
	unknown := call("a", "", `{}`)
	unknown.Name = "absent"
	for _, c := range []struct {
		r        governance.Request
		reason   string // when observing
		policies []string
		would    []string
	}{
		{call("a", "", `{}`), "", []string{}, []string{"deny if enforced: no-permit"}},
		{call("a", "", `{"x":""}`), "", []string{}, []string{"deny if enforced: no-x"}},
		{call("a", "", `{"i":1}`, "max_bytes"), "", []string{"base"}, nil},
		// The permit's demand stays, whether a forbid is there or not.
		{call("a", "", `{"i":1,"x":""}`, "max_bytes"), "", []string{"base"}, []string{"deny if enforced: no-x"}},
		{call("a", "", `{"i":1,"x":""}`), "obligation", []string{"base"}, []string{"deny if enforced: no-x"}},
		{call("a", "ann", `{"i":1}`, "max_bytes"), "", []string{"base"}, []string{"deny if enforced: no-ann"}},
		{call("a", "ann", `{}`), "", []string{}, []string{"deny if enforced: no-permit"}},
		// All else is as strict as ever.
		{call("a", "", `{"i":1}`), "obligation", []string{"base"}, nil},
		{call("a", "", `{"j":9223372036854775807}`), "policy-error", []string{"sum"}, nil},
		{call("a", "", `{"j":9223372036854775807,"x":""}`), "no-x", []string{"no-x", "sum"}, nil},
		{call("a", "ann", `{"j":9223372036854775807}`), "policy-error", []string{"no-ann", "sum"}, nil},
		{call("a", "", `{"i":"1"}`), "arguments", nil, nil},
		{call("a", "", `{"i":1,"i":1}`), "strict-json", nil, nil},
		{unknown, "unknown", nil, nil},
		{governance.Request{}, "no-actor", nil, nil},
	} {
		d, err := observe.Decide(t.Context(), c.r)
		if c.reason != "no-actor" {
			require.NoError(t, err)
		}
		assert.Equal(t, c.reason, d.Reason, "%+v", c.r)
		assert.Equal(t, c.reason == "", d.Allowed(), "%+v", c.r)
		assert.Equal(t, c.would, would(d), "%+v", c.r)
		if c.policies != nil {
			assert.ElementsMatch(t, c.policies, d.PolicyIDs(), "%+v", c.r)
		}
		was, _ := enforce.Decide(t.Context(), c.r)
		if len(c.would) > 0 {
			assert.False(t, was.Allowed())
			assert.Equal(t, was.Policies, d.Would[0].Policies)
		} else {
			assert.Equal(t, was.Effect, d.Effect, "observing changed %+v", c.r)
		}
	}
	rep, err := governance.Diff(t.Context(), enforce, observe, nil)
	require.NoError(t, err)
	require.NotEmpty(t, rep.Witnesses, "one law, two modes")
	assert.Equal(t, governance.NowAllowed, rep.Witnesses[0].Change)

	d := decide(t, observe, call("closed", "", `{"i":1}`, "max_bytes"))
	assert.Contains(t, d.Reason, "not-in-profile:closed@")
	assert.True(t, d.Hidden)

	ref := []governance.ToolRef{{Server: "s", Name: "t"}, {Server: "s", Name: "absent"}}
	for agent, want := range map[string][]governance.Visibility{
		"inside": {governance.Conditional, governance.Never}, // the sum may fail
		"closed": {governance.Never, governance.Never},
	} {
		got, err := observe.Visible(t.Context(), actor(agent), "call_tool", ref)
		require.NoError(t, err)
		assert.Equal(t, want, got, agent)
	}
	free := lawIn(t, &governance.Options{Mode: governance.Observe}, `@id("no") forbid (principal, action, resource);`)
	got, err := free.Visible(t.Context(), actor("a"), "call_tool", ref)
	require.NoError(t, err)
	assert.Equal(t, []governance.Visibility{governance.Always, governance.Never}, got)
}

// Both at once: what is observed is compared with what would be enforced.
func TestObservedPoliciesInObserveMode(t *testing.T) {
	s := lawIn(t, &governance.Options{Mode: governance.Observe}, `
@id("base") permit (principal, action == Action::"s__t", resource) when { context.args has i };
@id("more") @mode("observe") permit (principal, action == Action::"s__t", resource) when { context.args has j };`)
	d := decide(t, s, toolCall("a", `{"j":1}`))
	assert.True(t, d.Allowed())
	assert.Equal(t, []string{"allow if observed: more", "deny if enforced: no-permit"}, would(d))
	d = decide(t, s, toolCall("a", `{}`))
	assert.True(t, d.Allowed())
	assert.Equal(t, []string{"deny if enforced: no-permit"}, would(d))
}

// A staged snapshot is asked beside the one in force, until it is promoted.
func TestStage(t *testing.T) {
	log := &recorder{}
	e := governance.NewEngine(log, nil)
	told := 0
	e.Subscribe(func() { told++ })
	ask := func(args string) governance.Decision {
		t.Helper()
		d, err := e.Decide(t.Context(), toolCall("a", args))
		require.NoError(t, err)
		return d
	}
	_, err := e.Reload(t.Context(), only("old"), change)
	require.NoError(t, err)
	first := e.Hash()
	assert.Nil(t, e.Staged())
	assert.Empty(t, ask(`{}`).Would)

	next := only("new")
	next.Policies[0].Text = `@id("old") permit (principal, action == Action::"s__t", resource) when { context.args has x };
@id("no") forbid (principal, action == Action::"s__t", resource) when { context.args has j };`
	rep, err := e.Stage(t.Context(), next, change)
	require.NoError(t, err)
	staged := e.Staged().Hash()
	assert.Equal(t, rep.Hash, staged)
	assert.Equal(t, first, e.Hash(), "nothing is in force by being staged")
	assert.Equal(t, 1, told)

	assert.Empty(t, ask(`{"x":""}`).Would, "the same policy, the same effect")
	d := ask(`{}`)
	assert.True(t, d.Allowed())
	assert.Equal(t, first, d.PolicyHash)
	assert.Equal(t, []audit.Would{{Source: audit.WouldStaged, PolicyHash: staged, Effect: audit.Deny, Policies: []audit.Policy{}, Reason: "no-permit"}}, d.Would)
	assert.Equal(t, []string{"deny if staged: no"}, would(ask(`{"x":"","j":1}`)))
	assert.Equal(t, []string(nil), would(ask(`{"j":"1"}`)), "both refuse the arguments")

	// It is promoted by the one who watched it, or not at all.
	for _, f := range []func(context.Context, string, audit.Change) error{e.Promote, e.Unstage} {
		assert.ErrorIs(t, f(t.Context(), first, change), governance.ErrNotStaged)
		assert.ErrorIs(t, f(t.Context(), "", change), governance.ErrNotStaged)
		assert.ErrorIs(t, f(t.Context(), staged, audit.Change{}), audit.ErrNoAuthority)
		log.before = func() error { return errors.New("disk full") }
		assert.ErrorContains(t, f(t.Context(), staged, change), "disk full")
		log.before = nil
		assert.Equal(t, first, e.Hash())
		assert.Equal(t, staged, e.Staged().Hash())
	}
	_, err = e.Stage(t.Context(), next, audit.Change{By: "alice"})
	require.ErrorIs(t, err, audit.ErrNoAuthority)
	broken := only("x")
	broken.Policies[0].Text = "permit"
	_, err = e.Stage(t.Context(), broken, change)
	require.ErrorIs(t, err, governance.ErrBundle)
	log.before = func() error { return errors.New("disk full") }
	_, err = e.Stage(t.Context(), only("x"), change)
	require.ErrorContains(t, err, "disk full")
	log.before = nil
	assert.Equal(t, staged, e.Staged().Hash(), "whatever goes wrong, what is staged stays")

	require.NoError(t, e.Promote(t.Context(), staged, change))
	assert.Equal(t, staged, e.Hash())
	assert.Nil(t, e.Staged())
	assert.Equal(t, 2, told)
	d = ask(`{}`)
	assert.False(t, d.Allowed())
	assert.Empty(t, d.Would)

	_, err = e.Stage(t.Context(), only("third"), change)
	require.NoError(t, err)
	third := e.Staged().Hash()
	require.NoError(t, e.Unstage(t.Context(), third, change))
	assert.Nil(t, e.Staged())
	assert.ErrorIs(t, e.Promote(t.Context(), third, change), governance.ErrNotStaged)
	assert.Equal(t, 2, told)

	var acts []string
	for _, ev := range log.events {
		assert.Equal(t, audit.KindPolicy, ev.Kind)
		assert.Equal(t, &change, ev.Change)
		acts = append(acts, ev.Action+" "+ev.Detail["policy_hash"]+" "+ev.Detail["replaces"])
	}
	assert.Equal(t, []string{"reload " + first + " ", "stage " + staged + " ", "promote " + staged + " " + first, "stage " + third + " ", "unstage " + third + " " + staged}, acts)

	var none *governance.Engine
	assert.Nil(t, none.Staged())
	assert.ErrorIs(t, none.Promote(t.Context(), "", change), governance.ErrNoSnapshot)
	_, err = none.Stage(t.Context(), only("x"), change)
	assert.ErrorIs(t, err, governance.ErrNoSnapshot)
}

// A catalogue is staged with its policies: a tool that only the next one knows
// is denied, and would be allowed.
func TestStagedCatalogue(t *testing.T) {
	e := governance.NewEngine(&recorder{}, nil)
	_, err := e.Reload(t.Context(), only("p"), change)
	require.NoError(t, err)
	next := only("p")
	next.Catalog[0].Tools = append(next.Catalog[0].Tools, tool("u", `{"type":"object"}`))
	_, err = e.Stage(t.Context(), next, change)
	require.NoError(t, err)
	r := toolCall("a", `{}`)
	r.Name = "u"
	d, err := e.Decide(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, "unknown", d.Reason)
	assert.Equal(t, []string{"allow if staged: p"}, would(d))
	v, err := e.Visible(t.Context(), r.Actor, "call_tool", []governance.ToolRef{{Server: "s", Name: "u"}})
	require.NoError(t, err)
	assert.Equal(t, governance.Never, v[0], "what is staged is not shown")
}

// Labels of a staged catalogue are not given to sessions.
func TestStagedLabelsAreNotGiven(t *testing.T) {
	b := func() governance.Bundle {
		return shop("facts: []", `@id("pay") forbid (principal, action == Action::"bank__pay", resource) unless { context.labels.contains("crm") };`)
	}
	x := newTeller(t, b())
	next := b()
	next.Catalog[0].Tools[2].Labels = []string{"crm"} // of bank__audit
	_, err := x.Stage(t.Context(), next, change)
	require.NoError(t, err)
	assert.True(t, x.call("bank__audit", `{}`, done))
	assert.False(t, x.call("bank__pay", `{"amount":1}`, done))
	assert.True(t, x.call("crm__read", `{}`, done))
	assert.True(t, x.call("bank__pay", `{"amount":1}`, done))
}

// A profile's denial names the snapshot; that is no other cause.
func TestStagedProfile(t *testing.T) {
	e := governance.NewEngine(&recorder{}, nil)
	b := only("p")
	b.Profiles = []governance.Profile{{ID: "c", Agents: []string{"a"}, Servers: map[string]governance.Grant{}}}
	_, err := e.Reload(t.Context(), b, change)
	require.NoError(t, err)
	next := only("q")
	next.Profiles = b.Profiles
	_, err = e.Stage(t.Context(), next, change)
	require.NoError(t, err)
	require.NotEqual(t, e.Hash(), e.Staged().Hash())
	d, err := e.Decide(t.Context(), toolCall("a", `{}`))
	require.NoError(t, err)
	assert.Contains(t, d.Reason, "not-in-profile:c@")
	assert.Empty(t, d.Would)
}

// Decisions, staging and promoting may happen at once.
func TestStageConcurrently(t *testing.T) {
	e := governance.NewEngine(&recorder{}, nil)
	_, err := e.Reload(t.Context(), only("p"), change)
	require.NoError(t, err)
	first := e.Hash()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				d, err := e.Decide(context.Background(), toolCall("a", `{}`))
				if assert.NoError(t, err) && assert.True(t, d.Allowed()) && d.PolicyHash == first && len(d.Would) > 0 {
					assert.Equal(t, "allow if staged: q", d.Would[0].String())
				}
			}
		})
	}
	for range 20 {
		_, err := e.Stage(t.Context(), only("q"), change)
		require.NoError(t, err)
		require.NoError(t, e.Promote(t.Context(), e.Staged().Hash(), change))
		_, err = e.Reload(t.Context(), only("p"), change)
		require.NoError(t, err)
	}
	wg.Wait()
}

// Where no policy is observed that is about a request, only the look for one
// costs something: no second evaluation.
func TestObservingElsewhereIsCheap(t *testing.T) {
	policies := `@id("p") permit (principal, action == Action::"s__t", resource);`
	elsewhere := policies + `@id("q") @mode("observe") permit (principal, action == Action::"connect", resource);`
	allocs := func(s *governance.Snapshot) float64 {
		r := governance.Request{Actor: actor("a"), Action: "call_tool", Server: "s", Name: "t", Args: json.RawMessage(`{}`)}
		return testing.AllocsPerRun(200, func() {
			if d, err := s.Decide(context.Background(), r); err != nil || !d.Allowed() {
				panic(d.Reason)
			}
		})
	}
	here := policies + `@id("q") @mode("observe") permit (principal, action, resource);`
	plain := allocs(law(t, policies))
	assert.LessOrEqual(t, allocs(law(t, elsewhere)), plain+4)
	assert.Greater(t, allocs(law(t, here)), plain+4)
}
