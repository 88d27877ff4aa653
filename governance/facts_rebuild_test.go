package governance_test

import (
	"bufio"
	"bytes"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

const spendFact = `
facts:
  - {name: spent, kind: sum_within, on: [bank__pay], of: /amount, key: [/to], window: 1h, per: agent}
`

// A budget of 100 for each payee.
func spendBundle() governance.Bundle {
	return shop(spendFact, `@id("budget") forbid (principal, action == Action::"bank__pay", resource) when { context.facts.spent + context.args.amount > 100 };
@id("leak") forbid (principal, action == Action::"chat__post", resource) when { context.labels.contains("crm") };`)
}

var factKey = []byte("an example of thirty-two bytes !")

const spenderEnv = "TWINWARD_GOVERNANCE_TEST_SPENDER"

// TestSpender is the process that TestKillAndRestart kills: it reads the CRM and
// then pays for ever, one at a time, two calls under way, and says what it did.
func TestSpender(t *testing.T) {
	dir := os.Getenv(spenderEnv)
	if dir == "" {
		return // run by TestKillAndRestart, as a process of its own
	}
	log, err := audit.Open(dir, nil)
	require.NoError(t, err)
	e := governance.NewEngine(log, &governance.Options{FactKey: factKey})
	_, err = e.Reload(t.Context(), spendBundle(), change)
	require.NoError(t, err)
	act := func(tool, args string) (governance.Decision, audit.Call) {
		server, name := splitTool(tool)
		d, err := e.Decide(t.Context(), governance.Request{Actor: actor("a"), Action: "call_tool", Server: server, Name: name, Args: []byte(args)})
		require.NoError(t, err)
		require.True(t, d.Allowed(), d.Reason)
		c, err := log.Begin(t.Context(), audit.Intent{Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: actor("a"), Decision: d.Decision, Args: []byte(args)})
		require.NoError(t, err)
		return d, c
	}
	act("crm__read", `{}`)
	for i := 0; ; i++ {
		d, c := act("bank__pay", `{"amount":1,"to":"x"}`)
		fmt.Println("begun")
		out := audit.Outcome{Status: audit.StatusOK}
		if i%3 == 0 {
			out = audit.Outcome{Status: audit.StatusFailed, ErrorCode: "tool-error"}
		}
		require.NoError(t, c.End(t.Context(), out))
		d.Settle(governance.ResultOf(out))
		fmt.Println("ended", out.Status)
		if i == 60 {
			select {} // until killed
		}
	}
}

func TestKillAndRestart(t *testing.T) {
	for _, after := range []int{1, 17, 50} { // lines that it says
		dir := t.TempDir()
		child := exec.Command(os.Args[0], "-test.run=^TestSpender$")
		child.Env = append(os.Environ(), spenderEnv+"="+dir)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		lines := bufio.NewScanner(out)
		begun, failed := 0, 0
		for n := 0; n < after && lines.Scan(); n++ {
			switch lines.Text() {
			case "begun":
				begun++
			case "ended failed":
				failed++
			}
		}
		require.NoError(t, child.Process.Kill())
		for lines.Scan() {
			switch lines.Text() {
			case "begun":
				begun++
			case "ended failed":
				failed++
			}
		}
		_ = child.Wait()
		require.NotZero(t, begun)

		// What is in the log is at least what the process said; an intent without
		// its outcome counts.
		used := 0
		fails := map[uint64]bool{}
		records, err := os.OpenRoot(dir)
		require.NoError(t, err)
		defer records.Close()
		for r, err := range audit.Scan(t.Context(), records.FS(), audit.Filter{}) {
			require.NoError(t, err)
			if r.Intent != nil && r.Intent.Action == "bank__pay" {
				used++
			}
			if r.Outcome != nil && r.Outcome.Status == audit.StatusFailed && !fails[r.Call] {
				fails[r.Call] = true
				used--
			}
		}
		require.GreaterOrEqual(t, used, begun-failed-1)

		e := governance.NewEngine(&recorder{}, &governance.Options{FactKey: factKey})
		require.NoError(t, e.Rebuild(audit.Scan(t.Context(), records.FS(), audit.Filter{})))
		_, err = e.Reload(t.Context(), spendBundle(), change)
		require.NoError(t, err)
		pay := func(to string, amount int) governance.Decision {
			d, err := e.Decide(t.Context(), governance.Request{Actor: actor("a"), Action: "call_tool", Server: "bank", Name: "pay", Args: fmt.Appendf(nil, `{"amount":%d,"to":%q}`, amount, to)})
			require.NoError(t, err)
			d.Settle(governance.Result{})
			return d
		}
		assert.Equal(t, int64(used), pay("x", 1).History().Facts["spent"])
		assert.False(t, pay("x", 101-used).Allowed())
		assert.True(t, pay("x", 100-used).Allowed())
		assert.True(t, pay("y", 100).Allowed(), "the other payee's budget is whole")
		d, err := e.Decide(t.Context(), governance.Request{Actor: actor("a"), Action: "call_tool", Server: "chat", Name: "post"})
		require.NoError(t, err)
		assert.Equal(t, "leak", d.Reason, "it had begun to read the CRM")
	}
}

// The log holds hashes of what facts are kept apart by, and no argument.
func TestArgumentsStayOutOfTheLog(t *testing.T) {
	c := newClock()
	log := audittest.NewLog(t)
	e := governance.NewEngine(log, &governance.Options{Clock: c.now, FactKey: factKey})
	_, err := e.Reload(t.Context(), spendBundle(), change)
	require.NoError(t, err)
	d, err := e.Decide(t.Context(), governance.Request{Actor: actor("a"), Action: "call_tool", Server: "bank", Name: "pay", Args: []byte(`{"amount":42,"to":"very-secret-payee"}`)})
	require.NoError(t, err)
	call, err := log.Begin(t.Context(), audit.Intent{Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: actor("a"), Decision: d.Decision})
	require.NoError(t, err)
	require.NoError(t, call.End(t.Context(), audit.Outcome{Status: audit.StatusOK}))
	require.Len(t, d.Facts.Add, 1)
	assert.Len(t, d.Facts.Add[0].Key, 32)
	assert.Equal(t, int64(42), d.Facts.Add[0].Amount)
	assert.NotEmpty(t, d.Facts.KeyID)
	for _, r := range log.Records() {
		text, err := r.MarshalJSON()
		require.NoError(t, err)
		assert.NotContains(t, string(text), "very-secret")
	}
	// With another key, hashes cannot be guessed to be the same.
	other := governance.NewEngine(log, &governance.Options{Clock: c.now})
	err = other.Rebuild(log.Query(t.Context(), audit.Filter{}))
	require.ErrorIs(t, err, governance.ErrHistory)
	assert.Contains(t, err.Error(), "FactKey")
	_, err = other.Reload(t.Context(), spendBundle(), change)
	require.NoError(t, err)
	o, err := other.Decide(t.Context(), governance.Request{Actor: actor("a"), Action: "call_tool", Server: "bank", Name: "pay", Args: []byte(`{"amount":42,"to":"very-secret-payee"}`)})
	require.NoError(t, err)
	assert.NotEqual(t, d.Facts.Add[0].Key, o.Facts.Add[0].Key)
}

func TestRebuildRefuses(t *testing.T) {
	intent := func(change func(*audit.Facts)) iter.Seq2[audit.Record, error] {
		f := &audit.Facts{At: time.Now(), Add: []audit.FactEvent{{Fact: "n", Def: "count_within:1h0m0s:agent:started:0123456789abcdef"}}}
		change(f)
		return func(yield func(audit.Record, error) bool) {
			yield(audit.Record{Seq: 1, Intent: &audit.Intent{Actor: actor("a"), Decision: audit.Decision{Effect: audit.Allow, Facts: f}}}, nil)
		}
	}
	fresh := func() *governance.Engine { return governance.NewEngine(&recorder{}, nil) }
	require.NoError(t, fresh().Rebuild(intent(func(*audit.Facts) {})))
	for _, change := range []func(*audit.Facts){
		func(f *audit.Facts) { f.KeyID = "0123" },
		func(f *audit.Facts) { f.Add[0].Def = "" },
		func(f *audit.Facts) { f.Add[0].Def = "count_within:1h0m0s:agent:started" },
		func(f *audit.Facts) { f.Add[0].Def = "count_within:1h:agent:started:0123456789abcdef" },
		func(f *audit.Facts) { f.Add[0].Def = "count_within:25h0m0s:agent:started:0123456789abcdef" },
		func(f *audit.Facts) { f.Add[0].Def = "counts_within:1h0m0s:agent:started:0123456789abcdef" },
		func(f *audit.Facts) { f.Add[0].Def = "count_within:1h0m0s:agent:started:0123456789abcde" },
		func(f *audit.Facts) { f.Add[0].Def = "count_within:1h0m0s:agent:later:0123456789abcdef" },
		func(f *audit.Facts) { f.Add[0].Def = "count_within:1h0m0s:team:started:0123456789abcdef" },
		func(f *audit.Facts) { f.Add[0].Key = "00" },
		func(f *audit.Facts) { f.Add[0].Values = []string{"x"} },
	} {
		require.ErrorIs(t, fresh().Rebuild(intent(change)), governance.ErrHistory)
	}
	e := fresh()
	_, err := e.Reload(t.Context(), spendBundle(), change)
	require.NoError(t, err)
	require.ErrorIs(t, e.Rebuild(intent(func(*audit.Facts) {})), governance.ErrHistory, "too late: decisions may have been made")
	short := governance.NewEngine(&recorder{}, &governance.Options{FactKey: []byte("short")})
	require.Error(t, short.Rebuild(intent(func(*audit.Facts) {})))
	_, err = short.Reload(t.Context(), spendBundle(), change)
	require.ErrorContains(t, err, "FactKey")
}

// A rule that is new today knows what happened before it.
func TestBackfill(t *testing.T) {
	c := newClock()
	var tape bytes.Buffer
	w := governance.NewTapeWriter(&tape)
	opts := &governance.Options{Clock: c.now, Tape: w.Record}
	log := &recorder{}
	e := governance.NewEngine(log, opts)
	before := spendBundle()
	before.Facts, before.Policies[0].Text = nil, `@id("all") permit (principal, action, resource);`
	for i := range before.Catalog {
		for j := range before.Catalog[i].Tools {
			before.Catalog[i].Tools[j].Labels = nil
		}
	}
	_, err := e.Reload(t.Context(), before, change)
	require.NoError(t, err)
	ended := map[string]governance.Result{}
	act := func(tool, args string, r *governance.Result) {
		server, name := splitTool(tool)
		d, err := e.Decide(t.Context(), governance.Request{Actor: audit.Actor{Agent: "a", Session: "s"}, Action: "call_tool", Server: server, Name: name, Args: []byte(args)})
		require.NoError(t, err)
		require.True(t, d.Allowed(), d.Reason)
		if r != nil {
			ended[d.ID] = *r
			d.Settle(*r)
		}
	}
	act("bank__pay", `{"amount":1,"to":"x"}`, &done) // too long ago
	c.advance(time.Hour)
	act("bank__pay", `{"amount":2,"to":"x"}`, &done)
	act("bank__pay", `{"amount":4,"to":"x"}`, &nothing)
	act("bank__pay", `{"amount":8,"to":"x"}`, nil)
	act("bank__pay", `{"amount":16,"to":"y"}`, &done)
	act("crm__read", `{}`, &done)
	require.NoError(t, w.Err())

	next, _, err := governance.Compile(t.Context(), spendBundle(), opts)
	require.NoError(t, err)
	got, err := e.Backfill(t.Context(), next, governance.ReadTape(&tape), ended)
	require.NoError(t, err)
	assert.Equal(t, governance.Backfilled{Counted: 6, Facts: []string{"spent"}}, got)
	_, err = e.Reload(t.Context(), spendBundle(), change)
	require.NoError(t, err)
	x := &teller{Engine: e, clock: c, t: t, actor: audit.Actor{Agent: "a", Session: "s"}}
	assert.Equal(t, int64(10), x.value("bank__pay", `{"amount":0,"to":"x"}`, "spent"))
	assert.Equal(t, int64(16), x.value("bank__pay", `{"amount":0,"to":"y"}`, "spent"))
	assert.Equal(t, "leak", x.ask("chat__post", `{}`).Reason)

	// What the engine has, it keeps.
	got, err = e.Backfill(t.Context(), next, governance.ReadTape(bytes.NewReader(nil)), nil)
	require.NoError(t, err)
	assert.Empty(t, got.Facts)

	names := func() (out []string) {
		for _, ev := range log.events {
			out = append(out, ev.Detail["facts_new"])
		}
		return out
	}
	assert.Equal(t, []string{"", ""}, names(), "no fact began with nothing")
	renamed := spendBundle()
	renamed.Facts[0].Window = 2 * time.Hour
	_, err = e.Reload(t.Context(), renamed, change)
	require.NoError(t, err)
	assert.Equal(t, []string{"", "", "spent"}, names(), "that one did, which is on record")
}

// A staged rule counts from the day it is staged.
func TestStagedFactsAreCounted(t *testing.T) {
	both := governance.Fact{Name: "n", Kind: governance.CountWithin, On: []string{"bank__pay"}, Window: time.Hour, Per: "agent"}
	before, after := spendBundle(), spendBundle()
	before.Facts, after.Facts = []governance.Fact{both}, append(after.Facts, both)
	before.Policies[0].Text = `@id("all") permit (principal, action, resource);`
	after.Policies[0].Text += reading(`context.facts.n > 100`)
	x := newTeller(t, before)
	x.call("bank__pay", `{"amount":1,"to":"x"}`, done)
	rep, err := x.Stage(t.Context(), after, change)
	require.NoError(t, err)
	assert.True(t, x.call("bank__pay", `{"amount":60,"to":"x"}`, done))
	assert.True(t, x.call("bank__pay", `{"amount":60,"to":"x"}`, nothing))
	d := x.ask("bank__pay", `{"amount":60,"to":"x"}`)
	d.Settle(nothing)
	assert.True(t, d.Allowed())
	require.Len(t, d.Would, 1)
	assert.Equal(t, "budget", d.Would[0].Reason)
	require.NoError(t, x.Promote(t.Context(), rep.Hash, change))
	assert.Equal(t, int64(2), x.value("bank__audit", `{}`, "n"), "what both have is counted once")
	assert.Equal(t, int64(60), x.value("bank__pay", `{"amount":0,"to":"x"}`, "spent"))
}

// What a staged bundle counts is not dropped by a reload in between that leaves it
// out, nor filled in once more from a tape.
func TestStagedFactsAreKept(t *testing.T) {
	var tape bytes.Buffer
	w := governance.NewTapeWriter(&tape)
	c := newClock()
	log := &recorder{}
	e := governance.NewEngine(log, &governance.Options{Clock: c.now, Tape: w.Record})
	x := &teller{Engine: e, clock: c, t: t, actor: audit.Actor{Agent: "a", Session: "s"}}
	counted := shop(`facts: [{name: n, kind: count_within, on: [bank__pay], window: 1h, per: agent}]`, reading(`context.facts.n > 100`))
	_, err := x.Reload(t.Context(), counted, change)
	require.NoError(t, err)
	assert.True(t, x.call("bank__pay", `{"amount":1}`, done))
	next := counted
	next.Policies = []governance.Source{{Name: "p.cedar", Text: counted.Policies[0].Text + `@id("more") forbid (principal == Agent::"z", action, resource);`}}
	rep, err := x.Stage(t.Context(), next, change)
	require.NoError(t, err)
	_, err = x.Reload(t.Context(), shop("facts: []", ""), change)
	require.NoError(t, err)
	assert.True(t, x.call("bank__pay", `{"amount":1}`, done))

	require.NoError(t, w.Err())
	got, err := x.Backfill(t.Context(), x.Staged(), governance.ReadTape(&tape), nil)
	require.NoError(t, err)
	assert.Equal(t, governance.Backfilled{}, got)
	require.NoError(t, x.Promote(t.Context(), rep.Hash, change))
	assert.Equal(t, int64(2), x.value("bank__audit", `{}`, "n"))

	var began []string
	for _, ev := range log.events {
		began = append(began, ev.Action+" "+ev.Detail["facts_new"])
	}
	assert.Equal(t, []string{"reload n", "stage ", "reload ", "promote "}, began)
	other := shop(`facts: [{name: m, kind: count_within, on: [bank__pay], window: 2h, per: agent}]`, reading(`context.facts.m > 100`))
	_, err = x.Stage(t.Context(), other, change)
	require.NoError(t, err)
	assert.Equal(t, "m", log.events[4].Detail["facts_new"], "a staged fact begins when it is staged")
}

// What was read from the log of a fact that the first bundle does not count is
// forgotten: it would miss what comes now.
func TestRebuiltFactsAreForgotten(t *testing.T) {
	with, without := shop(checkedFact, needsCheck), shop("facts: []", "")
	x := newTeller(t, with)
	d := x.ask("bank__audit", `{}`)
	records := func(yield func(audit.Record, error) bool) {
		_ = yield(audit.Record{Seq: 1, Intent: &audit.Intent{Actor: x.actor, Decision: d.Decision}}, nil) &&
			yield(audit.Record{Seq: 2, Call: 1, Outcome: &audit.Outcome{Status: audit.StatusOK}}, nil)
	}
	for _, c := range []struct {
		loads []governance.Bundle
		paid  bool
	}{
		{[]governance.Bundle{with}, true},
		{[]governance.Bundle{without, with}, false},
	} {
		y := &teller{Engine: governance.NewEngine(&recorder{}, &governance.Options{Clock: x.now}), clock: x.clock, t: t, actor: x.actor}
		require.NoError(t, y.Rebuild(records))
		for i, b := range c.loads {
			_, err := y.Reload(t.Context(), b, change)
			require.NoError(t, err)
			if i < len(c.loads)-1 {
				y.advance(time.Second)
				assert.True(t, y.call("bank__refund", `{}`, done), "the reset that nobody sees")
			}
		}
		assert.Equal(t, c.paid, y.call("bank__pay", `{"amount":1}`, done))
	}
}

func TestTapeHasHistory(t *testing.T) {
	var tape bytes.Buffer
	w := governance.NewTapeWriter(&tape)
	c := newClock()
	e := governance.NewEngine(&recorder{}, &governance.Options{Clock: c.now, Tape: w.Record})
	_, err := e.Reload(t.Context(), spendBundle(), change)
	require.NoError(t, err)
	x := &teller{Engine: e, clock: c, t: t, actor: audit.Actor{Agent: "a", Session: "s"}}
	var want []bool
	for i := range 6 {
		want = append(want, x.call("bank__pay", `{"amount":30,"to":"x"}`, done))
		if i == 2 {
			want = append(want, x.call("crm__read", `{}`, done), x.call("chat__post", `{}`, done))
		}
	}
	assert.Equal(t, []bool{true, true, true, true, false, false, false, false}, want)
	require.NoError(t, w.Err())
	text := tape.String()
	assert.Contains(t, text, `"history":{"facts":{"spent":60}}`)
	var got []bool
	for rec, err := range governance.ReadTape(strings.NewReader(text)) {
		require.NoError(t, err)
		d, err := e.Snapshot().Decide(t.Context(), rec.Request)
		require.NoError(t, err)
		got = append(got, d.Allowed())
	}
	assert.Equal(t, want, got, "a bare snapshot decides the tape as the engine did")
	assert.False(t, slices.Contains(want[5:], true))
}

// The permission to use a credential is on record inside of the intent that
// needs it.
func TestRebuildCredentialUse(t *testing.T) {
	b := shop(`
facts: [{name: n, kind: count_within, on: [use_credential], window: 1h, per: agent}]
`, reading(`context.facts.n > 100`))
	x := newTeller(t, b)
	d, err := x.Decide(t.Context(), governance.Request{Actor: x.actor, Action: "use_credential", Name: "key"})
	require.NoError(t, err)
	require.NotNil(t, d.Facts)
	use := x.ask("bank__audit", `{}`)
	records := func(yield func(audit.Record, error) bool) {
		_ = yield(audit.Record{Seq: 1, Intent: &audit.Intent{Actor: x.actor, Decision: use.Decision, Credential: &audit.CredentialUse{Name: "key", Decision: d.Decision}}}, nil) &&
			yield(audit.Record{Seq: 2, Call: 1, Outcome: &audit.Outcome{Status: audit.StatusOK}}, nil)
	}
	e := governance.NewEngine(&recorder{}, &governance.Options{Clock: x.now})
	require.NoError(t, e.Rebuild(records))
	_, err = e.Reload(t.Context(), b, change)
	require.NoError(t, err)
	again := &teller{Engine: e, clock: x.clock, t: t, actor: x.actor}
	assert.Equal(t, int64(1), again.value("bank__audit", `{}`, "n"))
}

const (
	checkedFact = `
facts:
  - {name: checked, kind: since, on: [bank__audit], reset: [bank__refund], counts: succeeded, window: 2h, per: agent}
`
	needsCheck = `@id("need") forbid (principal, action == Action::"bank__pay", resource) unless { context.facts.checked };`
)

// A staged fact that is given up is forgotten: it would miss what comes now.
func TestStagedFactsAreForgotten(t *testing.T) {
	for name, end := range map[string]func(*teller) error{
		"another is staged": func(x *teller) error {
			_, err := x.Stage(t.Context(), shop("facts: []", ""), change)
			return err
		},
		"unstaged": func(x *teller) error { return x.Unstage(t.Context(), x.Staged().Hash(), change) },
	} {
		x := newTeller(t, shop("facts: []", ""))
		_, err := x.Stage(t.Context(), shop(checkedFact, needsCheck), change)
		require.NoError(t, err)
		assert.True(t, x.call("bank__audit", `{}`, done))
		require.NoError(t, end(x), name)
		x.advance(time.Second)
		assert.True(t, x.call("bank__refund", `{}`, done), "the reset that nobody sees")
		_, err = x.Reload(t.Context(), shop(checkedFact, needsCheck), change)
		require.NoError(t, err)
		assert.False(t, x.call("bank__pay", `{"amount":1}`, done), name)
	}
}
