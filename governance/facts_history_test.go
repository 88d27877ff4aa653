package governance_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A snapshot has no history: it denies what asks for some, unless it is given.
func TestSnapshotWithoutHistory(t *testing.T) {
	x := newTeller(t, shop(`
facts:
  - {name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}
  - {name: when, kind: last, on: [chat__post], window: 1h, per: agent, counts: started}
`, `@id("ten") forbid (principal, action == Action::"chat__post", resource)
when { context.facts.n >= 10 || context.facts has when && context.now.durationSince(context.facts.when) < duration("1s") };
@id("l") forbid (principal, action == Action::"chat__edit", resource) when { context.labels.contains("crm") };`))
	s := x.Snapshot()
	post := governance.Request{Actor: x.actor, Action: "call_tool", Server: "chat", Name: "post", Time: x.now()}
	edit := post
	edit.Name = "edit"
	ask := func(r governance.Request, h *governance.History) governance.Decision {
		r.History = h
		d, err := s.Decide(t.Context(), r)
		require.NoError(t, err)
		return d
	}
	for _, h := range []*governance.History{
		nil,
		{},
		{Facts: map[string]any{"n": int64(1)}},
		{Facts: map[string]any{"n": true, "when": nil}},
		{Facts: map[string]any{"n": "1", "when": nil}},
		{Facts: map[string]any{"n": nil, "when": nil}},
		{Facts: map[string]any{"n": 1, "when": 1}},
	} {
		d := ask(post, h)
		assert.Equal(t, audit.GuardFacts, d.Reason, "%+v", h)
		assert.False(t, d.Allowed())
	}
	assert.True(t, ask(post, &governance.History{Facts: map[string]any{"n": 1, "when": nil}}).Allowed())
	assert.Equal(t, "ten", ask(post, &governance.History{Facts: map[string]any{"n": int64(10), "when": nil}}).Reason)
	assert.Equal(t, "ten", ask(post, &governance.History{Facts: map[string]any{"n": 1, "when": x.now()}}).Reason)
	assert.Equal(t, audit.GuardFacts, ask(edit, nil).Reason)
	assert.True(t, ask(edit, &governance.History{}).Allowed())
	assert.Equal(t, "l", ask(edit, &governance.History{Labels: []string{"crm"}}).Reason)
	read := post
	read.Server, read.Name = "crm", "read"
	assert.True(t, ask(read, nil).Allowed(), "nothing about it asks for history")

	// What an engine's decision saw decides the same again.
	x.call("chat__post", `{}`, done)
	d := x.ask("chat__post", `{}`)
	require.False(t, d.Allowed())
	assert.Equal(t, d.Reason, ask(post, d.History()).Reason)
	// With a history of its own, an engine counts nothing.
	post.History = &governance.History{Facts: map[string]any{"n": 1, "when": nil}}
	d, err := x.Decide(t.Context(), post)
	require.NoError(t, err)
	assert.True(t, d.Allowed())
	assert.Nil(t, d.Facts)
	assert.Equal(t, int64(1), x.ask("chat__post", `{}`).History().Facts["n"])
}

// What is outside of an agent's profile is unknown to it, with or without
// history.
func TestProfileComesBeforeHistory(t *testing.T) {
	b := shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, reading(`context.facts.n > 100`))
	b.Profiles = []governance.Profile{{ID: "p", Agents: []string{"a"}, Servers: map[string]governance.Grant{"bank": {Tools: []string{"*"}}}}}
	x := newTeller(t, b)
	d, err := x.Snapshot().Decide(t.Context(), governance.Request{Actor: x.actor, Action: "call_tool", Server: "chat", Name: "post"})
	require.NoError(t, err)
	assert.True(t, d.Hidden)
	assert.Contains(t, d.Reason, audit.ReasonNotInProfile)
}

func TestVisibleWithFacts(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, `@id("n") forbid (principal, action == Action::"chat__post", resource) when { context.facts.n >= 1 };
@id("l") forbid (principal, action == Action::"chat__edit", resource) when { context.labels.contains("crm") };`))
	tools := []governance.ToolRef{{Server: "chat", Name: "post"}, {Server: "chat", Name: "edit"}, {Server: "bank", Name: "pay"}}
	x.call("chat__post", `{}`, done)
	x.call("crm__read", `{}`, done)
	got, err := x.Visible(t.Context(), x.actor, "call_tool", tools)
	require.NoError(t, err)
	assert.Equal(t, []governance.Visibility{governance.Conditional, governance.Conditional, governance.Always}, got)
}
