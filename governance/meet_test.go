package governance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// rated is an engine with rates over one tool.
func rated(t *testing.T, opts *Options) *Engine {
	t.Helper()
	e := NewEngine(audittest.NewLog(t), opts)
	_, err := e.Reload(t.Context(), Bundle{
		Catalog: []Server{{Name: "s", Tools: []Tool{{
			ToolDefinition: ToolDefinition{Name: "t", InputSchema: json.RawMessage(`{"type":"object","properties":{"x":{"type":"string"}}}`)},
			Class:          Write,
		}}}},
		Policies: []Source{{Name: "p.cedar", Text: `
@id("two") @rate("2/1m") permit (principal, action == Action::"s__t", resource);
@id("one") @rate("1/1h") permit (principal, action == Action::"s__t", resource) when { context.args has x };
@id("not-eve") forbid (principal == User::"eve", action, resource);`}},
	}, audit.Change{By: "a", Reason: "r"})
	require.NoError(t, err)
	return e
}

var ratedCall = Request{Actor: audit.Actor{Agent: "a"}, Action: "call_tool", Server: "s", Name: "t"}

func TestRates(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := rated(t, &Options{Clock: func() time.Time { return now }})
	decide := func(agent, user, args string) Decision {
		t.Helper()
		r := ratedCall
		r.Actor = audit.Actor{Agent: agent, User: user}
		r.Args = json.RawMessage(args)
		d, err := e.Decide(t.Context(), r)
		require.NoError(t, err)
		return d
	}
	for range 2 {
		require.True(t, decide("a", "", `{}`).Allowed())
	}
	d := decide("a", "", `{}`)
	assert.False(t, d.Allowed())
	assert.Equal(t, audit.GuardRate, d.Reason)
	assert.Equal(t, "That was often enough for now. Try again in 1m0s.", d.Hint)
	assert.Equal(t, []audit.Obligation{{Kind: "rate", Value: "2/1m", Policy: "two"}}, d.Obligations)

	// Each agent has its own count; each user too, for every agent together.
	require.True(t, decide("b", "ann", `{}`).Allowed())
	require.True(t, decide("c", "ann", `{}`).Allowed())
	assert.Equal(t, audit.GuardRate, decide("d", "ann", `{}`).Reason)
	require.True(t, decide("d", "", `{}`).Allowed(), "what ann's count refused is not on d's")
	require.True(t, decide("d", "", `{}`).Allowed())

	// Every rate must have room: the hour's is used up first here.
	now = now.Add(time.Minute)
	require.True(t, decide("a", "", `{"x":""}`).Allowed())
	assert.Equal(t, audit.GuardRate, decide("a", "", `{"x":""}`).Reason)
	require.True(t, decide("a", "", `{}`).Allowed())
	assert.Equal(t, audit.GuardRate, decide("a", "", `{}`).Reason)

	// A denial counts nothing.
	for range 5 {
		assert.Equal(t, "not-eve", decide("e", "eve", `{}`).Reason)
	}
	require.True(t, decide("e", "", `{}`).Allowed())
	require.True(t, decide("e", "", `{}`).Allowed())

	// A snapshot alone counts nothing, so that it cannot allow by itself.
	got, err := e.Snapshot().Decide(t.Context(), ratedCall)
	require.NoError(t, err)
	assert.Equal(t, audit.GuardObligation, got.Reason)
}

// A call that was not made gives its use back; one that the other side saw does
// not.
// What is done further under a decision has an ID of its own, and gives back
// nothing of what the decision has reserved.
func TestAgainSettlesNothing(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := rated(t, &Options{Clock: func() time.Time { return now }})
	var first Decision
	for range 2 {
		d, err := e.Decide(t.Context(), ratedCall)
		require.NoError(t, err)
		first = d
	}
	again := first.Again()
	assert.True(t, again.Allowed())
	assert.NotEqual(t, first.ID, again.ID)
	assert.Nil(t, again.Facts)
	again.Settle(Result{})
	d, err := e.Decide(t.Context(), ratedCall)
	require.NoError(t, err)
	assert.False(t, d.Allowed(), "the rate is still reserved")
	first.Settle(Result{})
	d, err = e.Decide(t.Context(), ratedCall)
	require.NoError(t, err)
	assert.True(t, d.Allowed())
}

func TestRatesAreSettled(t *testing.T) {
	for _, c := range []struct {
		result Result
		back   bool
	}{
		{Result{}, true}, {Result{OK: true}, false}, {Result{Unsure: true}, false}, {Result{Reached: true}, false},
	} {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		e := rated(t, &Options{Clock: func() time.Time { return now }})
		var first Decision
		for i := range 2 {
			d, err := e.Decide(t.Context(), ratedCall)
			require.NoError(t, err)
			require.True(t, d.Allowed())
			if i == 0 {
				first = d
			}
		}
		first.Settle(c.result)
		first.Settle(Result{})
		d, err := e.Decide(t.Context(), ratedCall)
		require.NoError(t, err)
		assert.Equal(t, c.back, d.Allowed(), "%+v", c.result)
	}
}

// A staged snapshot counts nothing.
func TestStagedCountsNothing(t *testing.T) {
	e := rated(t, nil)
	b := Bundle{Catalog: e.Catalog(), Policies: []Source{{Name: "p.cedar", Text: `@id("two") @rate("1/1m") permit (principal, action == Action::"s__t", resource);`}}}
	_, err := e.Stage(t.Context(), b, audit.Change{By: "a", Reason: "r"})
	require.NoError(t, err)
	for range 2 {
		d, err := e.Decide(t.Context(), ratedCall)
		require.NoError(t, err)
		assert.True(t, d.Allowed())
		require.Len(t, d.Would, 1)
		assert.Equal(t, []audit.Obligation{{Kind: "rate", Value: "1/1m", Policy: "two"}}, d.Would[0].Obligations)
	}
}
