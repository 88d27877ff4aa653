package governance_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A clock that stands still until it is told otherwise.
type clock struct {
	ns    atomic.Int64
	pause time.Duration // of each look at it, so that others get a turn
}

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time {
	if c.pause > 0 {
		time.Sleep(c.pause)
	}
	return time.Unix(0, c.ns.Load()).UTC()
}

func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// shop is a catalogue with tools whose calls can be counted.
func shop(facts, policies string) governance.Bundle {
	fs, err := governance.ParseFacts("facts/f.yaml", []byte(facts))
	if err != nil {
		panic(err)
	}
	labelled := tool("read", `{"type":"object"}`)
	labelled.Class, labelled.Labels = governance.Read, []string{"crm"}
	return governance.Bundle{
		Catalog: []governance.Server{
			{Name: "bank", Tools: []governance.Tool{
				tool("pay", `{"type":"object","properties":{"amount":{"type":"integer"},"to":{"type":"string"},"urgent":{"type":"boolean"},"fee":{"type":"integer"}},"required":["amount"]}`),
				tool("refund", `{"type":"object","properties":{"fee":{"type":"string"}}}`),
				tool("audit", `{"type":"object"}`),
			}},
			{Name: "crm", Tools: []governance.Tool{labelled}},
			{Name: "chat", Tools: []governance.Tool{
				tool("post", `{"type":"object","properties":{"channel":{"type":"string"},"to":{"type":"array","items":{"type":"string"}},"text":{"type":"string"}}}`),
				tool("edit", `{"type":"object","properties":{"channel":{"type":"string"}}}`),
			}},
		},
		Facts:    fs,
		Policies: []governance.Source{{Name: "p.cedar", Text: "@id(\"all\") permit (principal, action, resource);\n" + policies}},
	}
}

// A teller is an engine, its clock, and an agent to ask for.
type teller struct {
	*governance.Engine
	*clock
	t     testing.TB
	actor audit.Actor
}

func newTeller(t testing.TB, b governance.Bundle) *teller {
	t.Helper()
	c := newClock()
	e := governance.NewEngine(&recorder{}, &governance.Options{Clock: c.now})
	_, err := e.Reload(t.Context(), b, change)
	require.NoError(t, err)
	return &teller{Engine: e, clock: c, t: t, actor: audit.Actor{Agent: "a", Session: "s1"}}
}

func (x *teller) ask(tool, args string) governance.Decision {
	x.t.Helper()
	server, name, _ := strings.Cut(tool, "__")
	d, err := x.Decide(x.t.Context(), governance.Request{Actor: x.actor, Action: "call_tool", Server: server, Name: name, Args: []byte(args)})
	require.NoError(x.t, err)
	return d
}

// call asks, and settles what was allowed.
func (x *teller) call(tool, args string, r governance.Result) bool {
	x.t.Helper()
	d := x.ask(tool, args)
	d.Settle(r)
	return d.Allowed()
}

// value is the one fact that a decision about a tool sees.
func (x *teller) value(tool, args, fact string) any {
	x.t.Helper()
	d := x.ask(tool, args)
	d.Settle(governance.Result{}) // nothing was done
	require.NotNil(x.t, d.History(), "%+v", d)
	v, ok := d.History().Facts[fact]
	require.True(x.t, ok, fact)
	return v
}

var (
	done    = governance.Result{OK: true}
	unsure  = governance.Result{Unsure: true}
	reached = governance.Result{Reached: true}
	nothing = governance.Result{}
)

// reading makes every action read the facts, so that they are computed.
func reading(conditions ...string) string {
	var b strings.Builder
	for i, c := range conditions {
		fmt.Fprintf(&b, "@id(\"r%d\") forbid (principal, action, resource) when { %s };\n", i, c)
	}
	return b.String()
}

func TestSpendLimit(t *testing.T) {
	x := newTeller(t, shop(`
facts:
  - name: spent_1h
    kind: sum_within
    on: [bank__pay]
    of: /amount
    window: 1h
    per: agent
`, `@id("spend") forbid (principal, action == Action::"bank__pay", resource)
when { context.facts.spent_1h + context.args.amount > 1000 };`))
	assert.True(t, x.call("bank__pay", `{"amount":600}`, done))
	d := x.ask("bank__pay", `{"amount":401}`)
	assert.False(t, d.Allowed())
	assert.Equal(t, "spend", d.Reason)
	assert.Nil(t, d.Facts, "a denial adds nothing")
	assert.True(t, x.call("bank__pay", `{"amount":400}`, reached), "the denied call burned no budget")
	assert.True(t, x.call("bank__pay", `{"amount":400}`, nothing), "the failed one neither")
	assert.True(t, x.call("bank__pay", `{"amount":400}`, unsure))
	assert.False(t, x.call("bank__pay", `{"amount":1}`, done), "a cancelled call may have been done")
	assert.True(t, x.call("bank__pay", `{"amount":-900}`, done))
	assert.Equal(t, int64(1000), x.value("bank__pay", `{"amount":0}`, "spent_1h"))
	assert.False(t, x.call("bank__pay", `{"amount":1}`, done), "nobody earns budget back")

	x.advance(time.Hour - 1)
	assert.False(t, x.call("bank__pay", `{"amount":1}`, done))
	x.advance(1)
	assert.True(t, x.call("bank__pay", `{"amount":1000}`, done), "an hour old is too old")
	assert.Equal(t, int64(1000), x.value("bank__pay", `{"amount":0}`, "spent_1h"))

	other := *x
	other.actor.Agent = "b"
	assert.True(t, other.call("bank__pay", `{"amount":1000}`, done), "another agent has its own budget")
}

func TestSumSaturates(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: s, kind: sum_within, on: [bank__pay], of: /amount, window: 1h, per: agent}]
`, reading(`context.facts.s < 0`)))
	const most = `{"amount":9223372036854775807}`
	for range 3 {
		require.True(t, x.call("bank__pay", most, done))
	}
	assert.Equal(t, int64(1<<63-1), x.value("bank__pay", `{"amount":0}`, "s"))
	d := x.ask("bank__pay", most)
	x.advance(30 * time.Minute)
	x.call("bank__pay", `{"amount":5}`, done)
	d.Settle(nothing)
	x.advance(30 * time.Minute)
	assert.Equal(t, int64(5), x.value("bank__pay", `{"amount":0}`, "s"), "what went in comes out")
}

func TestDistinct(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: to_1h, kind: distinct_within, on: [chat__post], of: /to, window: 1h, per: session}]
`, reading(`context.facts.to_1h > 100`)))
	count := func() any { return x.value("bank__audit", `{}`, "to_1h") }
	assert.Equal(t, int64(0), count())
	x.call("chat__post", `{"to":["a","b"]}`, done)
	x.call("chat__post", `{}`, done)
	assert.Equal(t, int64(2), count())
	d := x.ask("chat__post", `{"to":["b","c","d"]}`)
	assert.Equal(t, int64(4), count(), "under way")
	d.Settle(nothing)
	assert.Equal(t, int64(2), count(), "taken back whole")
	x.advance(30 * time.Minute)
	x.call("chat__post", `{"to":["b"]}`, done)
	x.advance(30 * time.Minute)
	assert.Equal(t, int64(1), count(), "b is still there")
}

func TestCorrelation(t *testing.T) {
	x := newTeller(t, shop(`
facts:
  - name: here
    kind: count_within
    on: ["chat:write"]
    key: [/channel]
    window: 10m
    per: session
`, `@id("calm") forbid (principal, action in Action::"chat:write", resource) when { context.facts.here >= 2 };`))
	for _, ch := range []string{`"#a"`, `"#b"`} {
		assert.True(t, x.call("chat__post", `{"channel":`+ch+`}`, done))
		assert.True(t, x.call("chat__edit", `{"channel":`+ch+`}`, done))
		assert.False(t, x.call("chat__post", `{"channel":`+ch+`}`, done))
	}
	assert.True(t, x.call("chat__post", `{}`, done), "no channel is a channel of its own")
	assert.True(t, x.call("chat__post", `{}`, done))
	assert.False(t, x.call("chat__post", `{}`, done))
	assert.True(t, x.call("chat__post", `{"channel":""}`, done), "nor is it the empty one")
	x.actor.Session = "s2"
	assert.True(t, x.call("chat__post", `{"channel":"#a"}`, done), "another session")
	assert.True(t, x.call("bank__pay", `{"amount":1}`, done), "no channel, no such fact")
}

func TestWhere(t *testing.T) {
	x := newTeller(t, shop(`
facts:
  - name: n
    kind: count_within
    on: [bank__pay]
    where: {/urgent: [true], /to: [ann, bob]}
    window: 10m
    per: agent
`, reading(`context.facts.n > 9`)))
	for _, args := range []string{`{"amount":1}`, `{"amount":1,"urgent":true}`, `{"amount":1,"urgent":false,"to":"ann"}`, `{"amount":1,"urgent":true,"to":"Ann"}`} {
		x.call("bank__pay", args, done)
	}
	assert.Equal(t, int64(0), x.value("bank__audit", `{}`, "n"))
	x.call("bank__pay", `{"amount":1,"urgent":true,"to":"bob"}`, done)
	assert.Equal(t, int64(1), x.value("bank__audit", `{}`, "n"))
}

func TestFormerlySinceLast(t *testing.T) {
	x := newTeller(t, shop(`
facts:
  - {name: paid, kind: formerly, on: [bank__pay], window: 1h, per: session, counts: started}
  - {name: audited, kind: since, on: [bank__audit], reset: [bank__pay], window: 1h, per: session, counts: succeeded}
  - {name: dirty, kind: since, on: [bank__pay], reset: [bank__audit], window: 1h, per: session, counts: started}
  - {name: last_pay, kind: last, on: [bank__pay], window: 1h, per: session, counts: succeeded}
`, reading(`context.facts.paid && context.facts.audited && context.facts.dirty && context.facts has last_pay && context.facts.last_pay < datetime("2020-01-01")`)))
	see := func(paid, audited, dirty bool, last any) {
		t.Helper()
		d := x.ask("crm__read", `{}`)
		d.Settle(nothing)
		assert.Equal(t, map[string]any{"paid": paid, "audited": audited, "dirty": dirty, "last_pay": last}, d.History().Facts)
	}
	see(false, false, false, nil)

	d := x.ask("bank__audit", `{}`)
	see(false, false, false, nil) // not done yet
	d.Settle(unsure)
	see(false, false, false, nil) // nor known to be
	x.call("bank__audit", `{}`, done)
	see(false, true, false, nil)

	x.advance(time.Second)
	d = x.ask("bank__pay", `{"amount":1}`)
	see(true, false, true, nil) // it may be happening
	d.Settle(nothing)
	see(false, true, false, nil) // as if it never was

	first := x.now()
	x.call("bank__pay", `{"amount":1}`, done)
	see(true, false, true, first)
	x.advance(time.Second)
	d = x.ask("bank__audit", `{}`)
	see(true, false, true, first)
	d.Settle(done)
	see(true, true, false, first)
	d = x.ask("bank__pay", `{"amount":1}`) // in the same instant
	see(true, false, true, first)
	d.Settle(unsure)
	see(true, false, true, first)

	x.advance(time.Hour - time.Second)
	see(true, false, true, nil) // the second payment is younger than the first
	x.advance(time.Second)
	see(false, false, false, nil)
}

// What is read and what is reserved must not fall apart, or parallel calls
// overdraw.
func TestParallelBudget(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, `@id("ten") forbid (principal, action == Action::"chat__post", resource) when { context.facts.n >= 10 };`))
	x.pause = 100 * time.Microsecond // the engine looks at it between reading and reserving
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			d := x.ask("chat__post", fmt.Sprintf(`{"text":"%d"}`, i))
			if d.Allowed() {
				allowed.Add(1)
				d.Settle(done)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int64(10), allowed.Load())
}

// Half of the calls fail: however they overlap, ten are done in the end and no
// more than ten are ever under way or done.
func TestParallelBudgetWithFailures(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, `@id("ten") forbid (principal, action == Action::"chat__post", resource) when { context.facts.n >= 10 };`))
	var succeeded, held atomic.Int64
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for {
				d := x.ask("chat__post", `{}`)
				if !d.Allowed() {
					if succeeded.Load() == 10 {
						return
					}
					continue
				}
				assert.LessOrEqual(t, held.Add(1), int64(10))
				if i%2 == 0 {
					succeeded.Add(1)
					d.Settle(done)
					return
				}
				held.Add(-1)
				d.Settle(nothing)
				return
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int64(10), succeeded.Load())
}

func TestUnsettledCounts(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, reading(`context.facts.n > 100`)))
	d := x.ask("chat__post", `{}`)
	x.advance(time.Hour - 1)
	assert.Equal(t, int64(1), x.value("bank__audit", `{}`, "n"), "forgotten is used")
	x.advance(1)
	assert.Equal(t, int64(0), x.value("bank__audit", `{}`, "n"))
	d.Settle(nothing)
	assert.Equal(t, int64(0), x.value("bank__audit", `{}`, "n"), "too late to matter")
}

// What the engine refuses after all policies have allowed it counts for nothing.
func TestRefusedAfterPolicyCountsNothing(t *testing.T) {
	b := shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, reading(`context.facts.n > 100`))
	b.Policies[0].Text = strings.Replace(b.Policies[0].Text, `@id("all")`, `@id("all") @rate("1/1m")`, 1)
	x := newTeller(t, b)
	assert.True(t, x.call("chat__post", `{}`, done))
	d := x.ask("chat__post", `{}`)
	assert.Equal(t, audit.GuardRate, d.Reason)
	assert.Nil(t, d.Facts)
	x.advance(time.Minute)
	assert.Equal(t, int64(1), x.value("chat__post", `{}`, "n"))
}

func TestAgentAndUserCountOnce(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}]
`, reading(`context.facts.n >= 2`)))
	x.actor.User = "ann"
	assert.True(t, x.call("chat__post", `{}`, done))
	assert.True(t, x.call("chat__post", `{}`, done))
	assert.False(t, x.call("chat__post", `{}`, done))
}

func TestSessionlessActorsAreInstances(t *testing.T) {
	x := newTeller(t, shop("facts: []", reading(`context.labels.contains("crm")`)))
	x.actor = audit.Actor{Agent: "a", Instance: "1"}
	assert.True(t, x.call("crm__read", `{}`, done))
	assert.False(t, x.call("chat__post", `{}`, done))
	x.actor.Instance = "2"
	assert.True(t, x.call("chat__post", `{}`, done))
	x.actor = audit.Actor{Agent: "a", Session: "1"}
	assert.True(t, x.call("chat__post", `{}`, done), "a session is no instance")
}

func TestVerbsHaveFacts(t *testing.T) {
	x := newTeller(t, shop(`
facts: [{name: here, kind: count_within, on: [connect], key: [/host], window: 1h, per: session}]
`, `@id("n") forbid (principal, action == Action::"connect", resource) when { context.facts.here >= 1 };`))
	connect := func(host string) bool {
		d, err := x.Decide(t.Context(), governance.Request{Actor: x.actor, Action: "connect", Name: host, Attrs: map[string]any{"host": host}})
		require.NoError(t, err)
		d.Settle(done)
		return d.Allowed()
	}
	assert.True(t, connect("a.example"))
	assert.False(t, connect("a.example"))
	assert.True(t, connect("b.example"))
}

// An act that has succeeded counts once, however often a door says so.
func TestSettledTwiceCountsOnce(t *testing.T) {
	x := newTeller(t, shop("facts:\n  - name: n\n    kind: count_within\n    on: [bank__pay]\n    counts: succeeded\n    window: 1h\n    per: agent\n", reading("context.facts.n > 5")))
	d := x.ask("bank__pay", `{"amount":1}`)
	for range 3 {
		d.Settle(done)
	}
	assert.Equal(t, int64(1), x.value("bank__pay", `{"amount":1}`, "n"))
}
