package governance_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A desk is an engine whose policies ask for approval, at a time that stands
// still.
type desk struct {
	*governance.Engine
	t   *testing.T
	now time.Time
}

func newDesk(t *testing.T, policies string) *desk {
	t.Helper()
	d := &desk{t: t, now: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)}
	d.Engine = governance.NewEngine(&recorder{}, &governance.Options{Clock: func() time.Time { return d.now }})
	d.load(policies)
	return d
}

func (d *desk) load(policies string) {
	b := only("unused")
	b.Policies[0].Text = policies
	_, err := d.Reload(d.t.Context(), b, change)
	require.NoError(d.t, err)
}

func (d *desk) ask(r governance.Request) governance.Decision {
	d.t.Helper()
	got, err := d.Decide(d.t.Context(), r)
	require.NoError(d.t, err)
	return got
}

func (d *desk) approve(got governance.Decision, groups ...string) *governance.Approval {
	d.t.Helper()
	a, err := got.Approve(audit.Change{By: "lena", Reason: "fine"}, groups, d.now, time.Hour)
	require.NoError(d.t, err)
	return a
}

const needsLead = `@id("p") @approval("lead") permit (principal, action == Action::"s__t", resource);`

func approvable(args string) governance.Request {
	r := toolCall("a", args)
	r.Enforces = []string{"approval"}
	return r
}

func TestApproval(t *testing.T) {
	d := newDesk(t, needsLead)
	r := approvable(`{"x":"1"}`)
	first := d.ask(r)
	assert.Equal(t, audit.GuardApproval, first.Reason)
	assert.Equal(t, []string{"p"}, first.PolicyIDs())
	assert.Equal(t, "A person has to agree to this first.", first.Hint)
	demands, err := first.Demands()
	require.NoError(t, err)
	assert.Equal(t, []string{"lead"}, demands.Approvals)

	d.now = d.now.Add(time.Minute)
	r.Approval = d.approve(first, "lead", "staff")
	// It may have been somewhere else meanwhile.
	text, err := json.Marshal(r.Approval)
	require.NoError(t, err)
	r.Approval = new(governance.Approval)
	require.NoError(t, json.Unmarshal(text, r.Approval))
	d.now = d.now.Add(time.Minute)

	second := d.ask(r)
	assert.True(t, second.Allowed(), second.Hint)
	assert.Equal(t, &audit.Approval{ID: first.ID, By: "lena", Reason: "fine", Groups: []string{"lead", "staff"}, At: d.now.Add(-time.Minute)}, second.Approval)
	assert.Empty(t, second.Call)

	third := d.ask(r)
	assert.Equal(t, audit.GuardApproval, third.Reason, "it is good for one call")
	assert.Equal(t, "The approval does not count: used already.", third.Hint)

	// A door that cannot ask anybody is told so.
	r.Approval, r.Enforces = nil, nil
	assert.Equal(t, audit.GuardObligation, d.ask(r).Reason)
}

// Whatever differs from what was agreed to, the answer is no.
func TestApprovalIsBound(t *testing.T) {
	d := newDesk(t, needsLead)
	r := approvable(`{"x":"1"}`)
	r.Actor.User = "ann"
	first := d.ask(r)
	good := d.approve(first, "lead")
	for name, change := range map[string]func(r *governance.Request, a *governance.Approval){
		"value":     func(r *governance.Request, _ *governance.Approval) { r.Args = json.RawMessage(`{"x":"2"}`) },
		"spelling":  func(r *governance.Request, _ *governance.Approval) { r.Args = json.RawMessage(`{"x": "1"}`) },
		"agent":     func(r *governance.Request, _ *governance.Approval) { r.Actor.Agent = "b" },
		"user":      func(r *governance.Request, _ *governance.Approval) { r.Actor.User = "bob" },
		"no user":   func(r *governance.Request, _ *governance.Approval) { r.Actor.User = "" },
		"session":   func(r *governance.Request, _ *governance.Approval) { r.Actor.Session = "other" },
		"action":    func(r *governance.Request, _ *governance.Approval) { r.Action, r.Name, r.Args = "get_prompt", "t", nil },
		"group":     func(_ *governance.Request, a *governance.Approval) { a.Groups = []string{"staff"} },
		"no group":  func(_ *governance.Request, a *governance.Approval) { a.Groups = nil },
		"nobody":    func(_ *governance.Request, a *governance.Approval) { a.By = "" },
		"no reason": func(_ *governance.Request, a *governance.Approval) { a.Reason = "" },
		"no id":     func(_ *governance.Request, a *governance.Approval) { a.ID = "" },
		"call":      func(_ *governance.Request, a *governance.Approval) { a.Call = "" },
		"policy":    func(_ *governance.Request, a *governance.Approval) { a.Policy = "" },
		"future":    func(_ *governance.Request, a *governance.Approval) { a.At = d.now.Add(1) },
		"expired":   func(_ *governance.Request, a *governance.Approval) { a.Expires = d.now },
		"for too long": func(_ *governance.Request, a *governance.Approval) {
			a.Expires = a.At.Add(governance.MaxApproval + 1)
		},
		"engine":          func(_ *governance.Request, a *governance.Approval) { a.Engine = "" },
		"too many groups": func(_ *governance.Request, a *governance.Approval) { a.Groups = append(make([]string, 300), "lead") },
	} {
		r, a := r, *good
		change(&r, &a)
		r.Approval = &a
		got := d.ask(r)
		assert.False(t, got.Allowed(), name)
		assert.Equal(t, audit.GuardApproval, got.Reason, name)
	}
	// None of these attempts has used it up.
	r.Approval = good
	assert.True(t, d.ask(r).Allowed())
}

// An approval is for the policies that asked for it.
func TestApprovalIsForThesePolicies(t *testing.T) {
	d := newDesk(t, needsLead)
	r := approvable(`{}`)
	a := d.approve(d.ask(r), "lead")
	d.load(needsLead + `@id("q") permit (principal == Agent::"z", action, resource);`)
	r.Approval = a
	got := d.ask(r)
	assert.Equal(t, "The approval does not count: for other policies than those in force.", got.Hint)
	r.Approval = nil
	r.Approval = d.approve(d.ask(r), "lead")
	assert.True(t, d.ask(r).Allowed())
}

// Whatever else denies goes on denying, and uses nothing up.
func TestApprovalOpensNothingElse(t *testing.T) {
	d := newDesk(t, needsLead+`
@id("two") @approval("legal") permit (principal, action == Action::"s__t", resource) when { context.args has x };
@id("self") forbid (principal, action, resource) when { context has approval && context has user && context.approval.by == context.user };
@id("late") forbid (principal, action, resource) when { context has approval && context.now > context.approval.at.offset(duration("10m")) };
@id("hourly") @rate("1/1h") permit (principal, action == Action::"s__t", resource) when { context.args has j };`)
	// All groups of all permits.
	r := approvable(`{"x":""}`)
	first := d.ask(r)
	demands, err := first.Demands()
	require.NoError(t, err)
	assert.Equal(t, []string{"lead", "legal"}, demands.Approvals)
	r.Approval = d.approve(first, "lead")
	got := d.ask(r)
	assert.Equal(t, audit.GuardApproval, got.Reason)
	r.Approval = d.approve(got, "lead", "legal")
	assert.True(t, d.ask(r).Allowed())

	r = approvable(`{}`)
	r.Actor.User = "lena"
	r.Approval = d.approve(d.ask(r), "lead")
	assert.Equal(t, "self", d.ask(r).Reason, "nobody approves for himself")

	r = approvable(`{}`)
	r.Approval = d.approve(d.ask(r), "lead")
	d.now = d.now.Add(11 * time.Minute)
	assert.Equal(t, "late", d.ask(r).Reason)

	r = approvable(`{"j":1}`)
	r.Approval = d.approve(d.ask(r), "lead")
	assert.True(t, d.ask(r).Allowed())
	r.Approval = nil
	r.Approval = d.approve(d.ask(r), "lead")
	assert.Equal(t, audit.GuardRate, d.ask(r).Reason)
	d.now = d.now.Add(59*time.Minute + 59*time.Second)
	r.Approval.Expires = d.now.Add(time.Minute)
	assert.Equal(t, "late", d.ask(r).Reason)
}

// An approval has to be good still when it is used up, whatever time a door says:
// one that has expired may have been used and forgotten.
func TestApprovalExpiresByTheEnginesClock(t *testing.T) {
	d := newDesk(t, needsLead)
	r := approvable(`{}`)
	r.Approval = d.approve(d.ask(r), "lead")
	r.Time = d.now
	d.now = d.now.Add(time.Hour)
	got := d.ask(r)
	assert.Equal(t, audit.GuardApproval, got.Reason)
	assert.Equal(t, "The approval does not count: expired.", got.Hint)
	d.now = d.now.Add(-1)
	assert.True(t, d.ask(r).Allowed())
}

// Policies can ask for an approval without the annotation, and read the rest of
// it.
func TestApprovalInPolicies(t *testing.T) {
	d := newDesk(t, `
@id("p") @approval("any") permit (principal, action == Action::"s__t", resource);
@id("q") forbid (principal, action == Action::"s__t", resource)
when { context has approval && !(context.approval.groups.contains("any") && context.approval.by == User::"lena" &&
  context.approval.args == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" && context.approval.policy like "sha256:*") };`)
	r := approvable(`{}`)
	r.Approval = d.approve(d.ask(r), "any")
	assert.True(t, d.ask(r).Allowed())
	r = approvable(`{ }`) // other bytes
	r.Approval = d.approve(d.ask(r), "any")
	assert.Equal(t, "q", d.ask(r).Reason)
}

// What is outside a profile stays unknown, with an approval or without.
func TestApprovalRevealsNothing(t *testing.T) {
	s := law(t, needsLead, governance.Profile{ID: "c", Agents: []string{"a"}, Servers: map[string]governance.Grant{}})
	r := approvable(`{}`)
	r.Approval = &governance.Approval{}
	d := decide(t, s, r)
	assert.Contains(t, d.Reason, "not-in-profile")
	assert.True(t, d.Hidden)
}

// Two engines with the same policies do not both count one approval, whatever
// the one knows of the other.
func TestApprovalIsForThisEngine(t *testing.T) {
	one, other := newDesk(t, needsLead), newDesk(t, needsLead)
	require.Equal(t, one.Hash(), other.Hash())
	r := approvable(`{}`)
	r.Approval = one.approve(one.ask(r), "lead")
	assert.Equal(t, "The approval does not count: asked for by another engine, which knows whether it was used.", other.ask(r).Hint)
	assert.True(t, one.ask(r).Allowed())

	// A snapshot alone remembers nothing, and so counts what a snapshot asked for.
	s := one.Snapshot()
	r.Approval, r.Time = nil, one.now
	r.Approval = one.approve(decide(t, s, r), "lead")
	assert.True(t, decide(t, s, r).Allowed())
	assert.Equal(t, audit.GuardApproval, one.ask(r).Reason)
}

func TestApprove(t *testing.T) {
	d := newDesk(t, needsLead)
	first := d.ask(approvable(`{}`))
	_, err := first.Approve(audit.Change{By: "lena"}, nil, d.now, time.Hour)
	require.ErrorIs(t, err, audit.ErrNoAuthority)
	for _, good := range []time.Duration{0, -1, governance.MaxApproval + 1} {
		_, err = first.Approve(change, nil, d.now, good)
		require.Error(t, err)
	}
	for _, other := range []governance.Decision{{}, d.ask(toolCall("a", `{}`)), d.ask(toolCall("a", `[]`))} {
		_, err = other.Approve(change, nil, d.now, time.Hour)
		require.ErrorIs(t, err, governance.ErrNotSuspended)
	}
}
