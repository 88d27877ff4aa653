package governance_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// again asks whether what first allowed may go on.
func (x *teller) again(first governance.Decision, tool, args string) governance.Decision {
	x.t.Helper()
	server, name, _ := strings.Cut(tool, "__")
	d, err := x.Again(x.t.Context(), first, governance.Request{Actor: x.actor, Action: "call_tool", Server: server, Name: name, Args: []byte(args)})
	require.NoError(x.t, err)
	d.Settle(done) // which does nothing
	return d
}

// An act that goes on is held to the labels that its session has by now, but not to
// what it has itself put there and counted.
func TestAgain(t *testing.T) {
	x := newTeller(t, shop(`facts: [{name: paid, kind: sum_within, on: [bank__pay], of: /amount, window: 1h, per: agent}]`, `
@id("too-much") forbid (principal, action == Action::"bank__pay", resource) when { context.facts.paid + context.args.amount > 100 };
@id("no-leak") forbid (principal, action in [Action::"chat:write", Action::"bank:write"], resource) when { context.labels.contains("crm") };
@id("once") forbid (principal, action == Action::"crm__read", resource) when { context.labels.contains("crm") };`))
	const pay = `{"amount":60}`
	first := x.ask("bank__pay", pay)
	require.True(t, first.Allowed(), "%+v", first)
	assert.Equal(t, "too-much", x.ask("bank__pay", pay).Reason, "a second one is too much")
	d := x.again(first, "bank__pay", pay)
	assert.True(t, d.Allowed(), "%+v", d)
	assert.NotEqual(t, first.ID, d.ID)
	assert.Nil(t, d.Facts)
	assert.Equal(t, "too-much", x.ask("bank__pay", pay).Reason, "settling it gave nothing back")

	read := x.ask("crm__read", `{}`)
	require.True(t, read.Allowed())
	assert.Equal(t, "no-leak", x.again(first, "bank__pay", pay).Reason, "what was read since")
	assert.Equal(t, "once", x.ask("crm__read", `{}`).Reason)
	assert.True(t, x.again(read, "crm__read", `{}`).Allowed(), "its own label does not hinder it")
	other := x.actor
	x.actor.Session = "s2"
	assert.True(t, x.again(first, "bank__pay", pay).Allowed(), "another session")
	x.actor = other
	read.Settle(done)
	assert.Equal(t, "once", x.again(read, "crm__read", `{}`).Reason, "now the answer is there")
	first.Settle(nothing)
	assert.Equal(t, "no-leak", x.ask("bank__pay", pay).Reason)
}

// A fact that came into force since is as it is now, also if it has the name of
// another one.
func TestAgainMeetsNewFacts(t *testing.T) {
	const policy = `@id("too-much") forbid (principal, action == Action::"bank__pay", resource) when { context.facts.n > 0 };`
	x := newTeller(t, shop(`facts: [{name: n, kind: count_within, on: [bank__refund], window: 1h, per: agent}]`, policy))
	first := x.ask("bank__pay", `{"amount":1}`)
	require.True(t, first.Allowed())
	assert.True(t, x.call("bank__refund", `{}`, done))
	assert.True(t, x.again(first, "bank__pay", `{"amount":1}`).Allowed(), "as it was")
	_, err := x.Reload(t.Context(), shop(`facts: [{name: n, kind: count_within, on: [bank__audit], window: 1h, per: agent}]`, policy), change)
	require.NoError(t, err)
	assert.True(t, x.again(first, "bank__pay", `{"amount":1}`).Allowed())
	assert.True(t, x.call("bank__audit", `{}`, done))
	assert.Equal(t, "too-much", x.again(first, "bank__pay", `{"amount":1}`).Reason)
}

// What a person agreed to goes on for as long as the policies are the same.
func TestAgainIsApproved(t *testing.T) {
	d := newDesk(t, needsLead)
	r := approvable(`{"x":"1"}`)
	r.Approval = d.approve(d.ask(r), "lead")
	first := d.ask(r)
	require.True(t, first.Allowed())
	r.Approval = nil
	again := func(first governance.Decision, r governance.Request) governance.Decision {
		got, _ := d.Again(t.Context(), first, r)
		return got
	}
	d.now = d.now.Add(48 * time.Hour)
	got := again(first, r)
	assert.True(t, got.Allowed(), got.Hint)
	assert.Equal(t, first.Approval, got.Approval)
	assert.True(t, again(first, r).Allowed(), "and each time")

	other := r
	other.Args = []byte(`{"x":"2"}`)
	assert.Equal(t, audit.GuardApproval, again(first, other).Reason)
	other = r
	other.Actor.Instance = "2"
	assert.Equal(t, audit.GuardApproval, again(first, other).Reason)
	d.load(needsLead + "\n" + `@id("q") forbid (principal == Agent::"z", action, resource);`)
	got = again(first, r)
	assert.Equal(t, audit.GuardApproval, got.Reason)
	assert.NotEmpty(t, got.Call, "a person may be asked once more")
	d.load(`@id("all") permit (principal, action, resource);`)
	assert.True(t, again(first, r).Allowed(), "nobody need agree any more")
}

// Only what was allowed goes on, and nothing at an engine that must not decide.
func TestAgainIsOfAnAllowedAct(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	e := governance.NewEngine(&recorder{}, &governance.Options{Clock: func() time.Time { return now }})
	_, err := e.Again(t.Context(), governance.Decision{}, request)
	require.ErrorIs(t, err, governance.ErrNoSnapshot)
	_, err = e.Reload(t.Context(), only("p"), change)
	require.NoError(t, err)
	first, err := e.Decide(t.Context(), request)
	require.NoError(t, err)
	require.True(t, first.Allowed())
	again := func(first governance.Decision, r governance.Request, want error) governance.Decision {
		t.Helper()
		d, err := e.Again(t.Context(), first, r)
		require.ErrorIs(t, err, want)
		assert.False(t, d.Allowed())
		return d
	}
	not := func(first governance.Decision, r governance.Request) {
		t.Helper()
		assert.Equal(t, audit.GuardState, again(first, r, governance.ErrNotAllowed).Reason)
	}
	not(governance.Decision{}, request)
	denied := first
	denied.Effect = audit.Deny
	not(denied, request)
	another := first
	another.Resource = `Tool::"s__u"`
	not(another, request)
	of := request
	of.Actor.Agent = "another"
	not(first, of)
	of = request
	of.Actor.User = "ann"
	not(first, of)
	twin := governance.NewEngine(&recorder{}, nil)
	_, err = twin.Reload(t.Context(), only("p"), change)
	require.NoError(t, err)
	elsewhere, err := twin.Decide(t.Context(), request)
	require.NoError(t, err)
	require.True(t, elsewhere.Allowed())
	not(elsewhere, request)
	e.FreshUntil(now)
	assert.Equal(t, "stale-policy", again(first, request, governance.ErrStale).Reason)
	seen, err := e.Visible(t.Context(), request.Actor, "call_tool", []governance.ToolRef{{Server: "s", Name: "t"}})
	require.ErrorIs(t, err, governance.ErrStale)
	assert.Equal(t, []governance.Visibility{governance.Never}, seen)
	e.FreshUntil(time.Time{})
	d, err := e.Again(t.Context(), first, request)
	require.NoError(t, err)
	assert.True(t, d.Allowed())
	var none *governance.Engine
	_, err = none.Again(t.Context(), first, request)
	require.ErrorIs(t, err, governance.ErrNoSnapshot)
}
