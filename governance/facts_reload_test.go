package governance_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

func TestReloadKeepsHistory(t *testing.T) {
	const facts = `
facts:
  - {name: %s, kind: count_within, on: [chat__post], window: %s, per: agent}
`
	bundle := func(name, window string) governance.Bundle {
		return shop(fmt.Sprintf(facts, name, window), reading(`context.facts.`+name+` > 100`))
	}
	x := newTeller(t, bundle("n", "1h"))
	reload := func(b governance.Bundle) {
		_, err := x.Reload(t.Context(), b, change)
		require.NoError(t, err)
	}
	x.call("chat__post", `{}`, done)
	d := x.ask("chat__post", `{}`)
	reload(bundle("n", "1h"))
	assert.Equal(t, int64(2), x.value("bank__audit", `{}`, "n"))
	d.Settle(nothing)
	assert.Equal(t, int64(1), x.value("bank__audit", `{}`, "n"), "a call from before is settled after")
	reload(bundle("m", "1h"))
	assert.Equal(t, int64(1), x.value("bank__audit", `{}`, "m"), "a new name is not a new fact")
	reload(bundle("m", "2h"))
	assert.Equal(t, int64(0), x.value("bank__audit", `{}`, "m"), "another window is")
	x.call("chat__post", `{}`, done)
	reload(bundle("m", "1h"))
	assert.Equal(t, int64(0), x.value("bank__audit", `{}`, "m"), "half a history is none")
}

// The same amount in other units is another fact: what was counted in the old ones
// says nothing in the new.
func TestUnitsMakeTheFact(t *testing.T) {
	bundle := func(as string) governance.Bundle {
		b := shop(`
facts:
  - {name: spent, kind: sum_within, on: [bank__pay], of: /amount, window: 1h, per: agent}
  - {name: n, kind: count_within, on: ["bank:write"], window: 1h, per: agent}
`, reading(`context.facts.spent < 0 || context.facts.n < 0`))
		pay := &b.Catalog[0].Tools[0]
		*pay = tool("pay", `{"type":"object","properties":{"amount":{"type":"number"}},"required":["amount"]}`)
		pay.As = map[string]string{"amount": as}
		return b
	}
	x := newTeller(t, bundle("long"))
	x.call("bank__pay", `{"amount":7}`, done)
	see := func(b governance.Bundle, spent int64) {
		t.Helper()
		_, err := x.Reload(t.Context(), b, change)
		require.NoError(t, err)
		assert.Equal(t, spent, x.value("bank__audit", `{}`, "spent"))
		assert.Equal(t, int64(1), x.value("bank__audit", `{}`, "n"))
	}
	same := bundle("long")
	same.Catalog[0].Tools = append(same.Catalog[0].Tools, tool("other", `{"type":"object"}`))
	see(same, 7)
	see(bundle("scaled(2)"), 0)
}

// Seven euros and seven cents are no fourteen, and no key of the same name.
func TestUnitsAreNotMixed(t *testing.T) {
	amounts := func(pay, refund, fact string) error {
		b := shop("facts: ["+fact+"]", "")
		for i, as := range []string{pay, refund} {
			one := &b.Catalog[0].Tools[i]
			*one = tool(one.Name, `{"type":"object","properties":{"amount":{"type":"number"}},"required":["amount"]}`)
			one.As = map[string]string{"amount": as}
		}
		_, _, err := governance.Compile(t.Context(), b, nil)
		return err
	}
	const (
		sum   = `{name: n, kind: sum_within, on: [bank__pay, bank__refund], of: /amount, window: 1h, per: agent}`
		keyed = `{name: n, kind: count_within, on: [bank__pay, bank__refund], key: [/amount], window: 1h, per: agent}`
	)
	require.NoError(t, amounts("scaled(2)", "scaled(2)", sum))
	require.NoError(t, amounts("long", "long", keyed))
	require.ErrorContains(t, amounts("scaled(2)", "long", sum), "in another unit")
	require.ErrorContains(t, amounts("scaled(2)", "long", keyed), "other types or units")
}

// A call that was under way when its fact was dropped comes too late: alone it
// would be a history without the reset that nobody counted.
func TestReloadDropsFactsOfCallsUnderWay(t *testing.T) {
	with := shop(`
facts: [{name: checked, kind: since, on: [bank__audit], reset: [bank__refund], counts: succeeded, window: 2h, per: agent}]
`, `@id("need") forbid (principal, action == Action::"bank__pay", resource) unless { context.facts.checked };`)
	x := newTeller(t, with)
	reload := func(b governance.Bundle) {
		_, err := x.Reload(t.Context(), b, change)
		require.NoError(t, err)
		x.advance(time.Second)
	}
	d := x.ask("bank__audit", `{}`)
	reload(shop("facts: []", ""))
	d.Settle(done)
	x.advance(time.Second)
	assert.True(t, x.call("bank__refund", `{}`, done))
	reload(with)
	assert.False(t, x.call("bank__pay", `{"amount":1}`, done))
	assert.True(t, x.call("bank__audit", `{}`, done))
	assert.True(t, x.call("bank__pay", `{"amount":1}`, done), "what begins now counts again")
}
