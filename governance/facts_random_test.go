package governance_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

// Everything that facts can be about, in windows short enough for a test.
const manyFacts = `
facts:
  - {name: n, kind: count_within, on: ["chat:write"], window: 20s, per: agent}
  - {name: here, kind: count_within, on: [chat__post, chat__edit], key: [/channel], window: 15s, per: session}
  - {name: urgent, kind: count_within, on: [bank__pay], where: {/urgent: [true]}, window: 30s, per: agent, counts: succeeded}
  - {name: spent, kind: sum_within, on: [bank__pay], of: /amount, window: 25s, per: agent}
  - {name: spent_to, kind: sum_within, on: [bank__pay], of: /amount, key: [/to, /urgent], window: 10s, per: session}
  - {name: people, kind: distinct_within, on: [chat__post], of: /to, window: 20s, per: session}
  - {name: channels, kind: distinct_within, on: [chat__post, chat__edit], of: /channel, window: 30s, per: agent, counts: succeeded}
  - {name: paid, kind: formerly, on: [bank__pay], window: 10s, per: session, counts: started}
  - {name: audited, kind: since, on: [bank__audit], reset: [bank__pay], window: 30s, per: session, counts: succeeded}
  - {name: dirty, kind: since, on: [bank__pay], reset: [bank__audit], window: 30s, per: agent, counts: started}
  - {name: last_post, kind: last, on: [chat__post], key: [/channel], window: 20s, per: agent, counts: succeeded}
`

// A deed is one allowed act as a naive model remembers it: all of them, for ever.
type deed struct {
	at      time.Time
	actor   audit.Actor
	tool    string
	channel string
	to      []string
	amount  int64
	payee   string
	urgent  bool
	end     governance.Result
	ended   bool
}

func (d *deed) started() bool   { return !d.ended || d.end.OK || d.end.Unsure }
func (d *deed) succeeded() bool { return d.ended && d.end.OK }

// model computes every fact that the request can be told, from first principles.
func model(deeds []*deed, now *deed) map[string]any {
	within := func(session bool, window time.Duration, counts func(*deed) bool, tools ...string) []*deed {
		var out []*deed
		for _, d := range deeds {
			if d.actor.Agent == now.actor.Agent && (!session || d.actor.Session == now.actor.Session) &&
				now.at.Sub(d.at) < window && slices.Contains(tools, d.tool) && counts(d) {
				out = append(out, d)
			}
		}
		return out
	}
	filter := func(list []*deed, f func(*deed) bool) []*deed {
		return slices.DeleteFunc(list, func(d *deed) bool { return !f(d) })
	}
	sum := func(list []*deed) (n int64) {
		for _, d := range list {
			if a := max(0, d.amount); n > math.MaxInt64-a {
				n = math.MaxInt64
			} else {
				n += a
			}
		}
		return n
	}
	latest := func(list []*deed) (at time.Time) {
		for _, d := range list {
			if d.at.After(at) {
				at = d.at
			}
		}
		return at
	}
	different := func(list []*deed, f func(*deed) []string) int64 {
		set := map[string]bool{}
		for _, d := range list {
			for _, v := range f(d) {
				set[v] = true
			}
		}
		return int64(len(set))
	}
	started, succeeded := (*deed).started, (*deed).succeeded
	sameChannel := func(d *deed) bool { return d.channel == now.channel }
	posts := []string{"chat__post", "chat__edit"}

	audits, pays := latest(within(true, time.Minute, succeeded, "bank__audit")), latest(within(true, time.Minute, started, "bank__pay"))
	dirty, clean := latest(within(false, time.Minute, started, "bank__pay")), latest(within(false, time.Minute, succeeded, "bank__audit"))
	ago := func(t time.Time) time.Duration { return now.at.Sub(t) }
	out := map[string]any{
		"n":        int64(len(within(false, 20*time.Second, started, posts...))),
		"urgent":   int64(len(filter(within(false, 30*time.Second, succeeded, "bank__pay"), func(d *deed) bool { return d.urgent }))),
		"spent":    sum(within(false, 25*time.Second, started, "bank__pay")),
		"people":   different(within(true, 20*time.Second, started, "chat__post"), func(d *deed) []string { return d.to }),
		"channels": different(within(false, 30*time.Second, succeeded, posts...), func(d *deed) []string { return nonEmpty(d.channel) }),
		"paid":     len(within(true, 10*time.Second, started, "bank__pay")) > 0,
		"audited":  !audits.IsZero() && ago(audits) < 30*time.Second && audits.After(pays),
		"dirty":    !dirty.IsZero() && ago(dirty) < 30*time.Second && !clean.After(dirty),
	}
	switch now.tool {
	case "chat__post", "chat__edit":
		out["here"] = int64(len(filter(within(true, 15*time.Second, started, posts...), sameChannel)))
		out["last_post"] = nil
		if last := latest(filter(within(false, 20*time.Second, succeeded, "chat__post"), sameChannel)); !last.IsZero() {
			out["last_post"] = last.Truncate(time.Millisecond)
		}
	case "bank__pay":
		out["spent_to"] = sum(filter(within(true, 10*time.Second, started, "bank__pay"), func(d *deed) bool {
			return d.payee == now.payee && d.urgent == now.urgent
		}))
	}
	return out
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// A random trace: the engine says at every step what a naive model says, and an
// engine that is rebuilt from the audit log at any point, through the bytes of
// the log, says the same from then on.
func TestFactsAgainstModelAndRebuild(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	steps := 1_000
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		steps = 20_000
	case os.Getenv("TWINWARD_FULL") == "1":
		steps = 2_000
	}
	bundle := shop(manyFacts, `
@id("budget") forbid (principal, action == Action::"bank__pay", resource) when { context.facts.spent > 500 };
@id("leak") forbid (principal, action == Action::"chat__post", resource) when { context.labels.contains("crm") && context.facts.n > 3 };`)
	bundle.Policies[0].Text += factReaders(bundle)
	clk := newClock()
	opts := &governance.Options{Clock: clk.now, FactKey: []byte("0123456789abcdef0123456789abcdef")}
	start := func() *governance.Engine { return governance.NewEngine(&recorder{}, opts) }
	reload := func(e *governance.Engine) {
		t.Helper()
		_, err := e.Reload(t.Context(), bundle, change)
		require.NoError(t, err)
	}
	log := audittest.NewLog(t)
	live := start()
	reload(live)

	var deeds []*deed
	type openCall struct {
		*deed
		governance.Decision
		audit.Call
	}
	var open []openCall
	outcomes := []audit.Outcome{
		{Status: audit.StatusOK}, {Status: audit.StatusOK}, {Status: audit.StatusOK},
		{Status: audit.StatusFailed, ErrorCode: "tool-error"}, {Status: audit.StatusFailed, ErrorCode: "upstream-down"},
		{Status: audit.StatusCancelled, ErrorCode: "cancelled"}, {Status: audit.StatusFailed, ErrorCode: "timeout"},
		{Status: audit.StatusOK, Labels: []string{"pii"}},
	}
	random := func() (*deed, governance.Request) {
		d := &deed{at: clk.now(), actor: audit.Actor{
			Agent: fmt.Sprintf("a%d", rnd.IntN(2)), Session: fmt.Sprintf("s%d", rnd.IntN(2)),
		}}
		args := "{"
		switch rnd.IntN(6) {
		case 0, 1:
			d.tool = "chat__post"
			for range rnd.IntN(3) {
				d.to = append(d.to, fmt.Sprintf("p%d", rnd.IntN(4)))
			}
			list := ""
			for i, p := range d.to {
				if i > 0 {
					list += ","
				}
				list += `"` + p + `"`
			}
			args += `"to":[` + list + `]`
			fallthrough
		case 2:
			if d.tool == "" {
				d.tool = "chat__edit"
			} else {
				args += ","
			}
			if d.channel = fmt.Sprintf("#%d", rnd.IntN(3)); d.channel == "#2" {
				d.channel = ""
				args = trimComma(args)
			} else {
				args += fmt.Sprintf(`"channel":%q`, d.channel)
			}
		case 3:
			d.tool = "bank__audit"
		case 4:
			d.tool, d.amount, d.payee, d.urgent = "bank__pay", rnd.Int64N(120)-10, fmt.Sprintf("x%d", rnd.IntN(2)), rnd.IntN(2) == 0
			args += fmt.Sprintf(`"amount":%d,"to":%q,"urgent":%t`, d.amount, d.payee, d.urgent)
		case 5:
			d.tool = "crm__read"
		}
		server, name := splitTool(d.tool)
		return d, governance.Request{Actor: d.actor, Action: "call_tool", Server: server, Name: name, Args: []byte(args + "}")}
	}
	// see asks without doing anything.
	see := func(e *governance.Engine, r governance.Request) governance.Decision {
		d, err := e.Decide(t.Context(), r)
		require.NoError(t, err)
		d.Settle(governance.Result{})
		return d
	}
	allowed, rebuilt := 0, 0
	for step := range steps {
		switch {
		case len(open) > 0 && (rnd.IntN(3) == 0 || len(open) > 8):
			i := rnd.IntN(len(open))
			o := open[i]
			open = slices.Delete(open, i, i+1)
			if rnd.IntN(20) == 0 {
				break // the door forgets it
			}
			out := outcomes[rnd.IntN(len(outcomes))]
			require.NoError(t, o.End(t.Context(), out))
			o.end, o.ended = governance.ResultOf(out), true
			o.Settle(o.end)
		case rnd.IntN(3) == 0:
			clk.advance(time.Duration(rnd.Int64N(int64(3 * time.Second))))
		default:
			dd, req := random()
			d, err := live.Decide(t.Context(), req)
			require.NoError(t, err)
			h := d.History()
			require.NotNil(t, h)
			require.Equal(t, model(deeds, dd), h.Facts, "step %d: %s %s", step, dd.tool, req.Args)
			if !d.Allowed() {
				require.Nil(t, d.Facts)
				break
			}
			allowed++
			call, err := log.Begin(t.Context(), audit.Intent{
				Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: req.Actor, Decision: d.Decision, Args: req.Args,
			})
			require.NoError(t, err)
			deeds = append(deeds, dd)
			open = append(open, openCall{dd, d, call})
		}
		if rnd.IntN(steps/20) != 0 {
			continue
		}
		rebuilt++
		again := start()
		require.NoError(t, again.Rebuild(log.Query(t.Context(), audit.Filter{})))
		reload(again)
		for range 4 {
			for range 12 {
				_, req := random()
				a, b := see(live, req), see(again, req)
				require.Equal(t, a.History(), b.History(), "step %d: %s", step, req.Args)
				require.Equal(t, a.Effect, b.Effect)
				require.Equal(t, a.Reason, b.Reason)
			}
			clk.advance(time.Duration(rnd.Int64N(int64(10 * time.Second))))
		}
	}
	t.Logf("%d calls, rebuilt %d times", allowed, rebuilt)
	assert.Greater(t, allowed, steps/10)
	assert.NotZero(t, rebuilt)
}

func trimComma(s string) string {
	if s[len(s)-1] == ',' {
		return s[:len(s)-1]
	}
	return s
}

func splitTool(key string) (server, name string) {
	for i := range key {
		if key[i] == '_' {
			return key[:i], key[i+2:]
		}
	}
	return key, ""
}

// factReaders writes policies that read every fact wherever it is there, and
// never apply.
func factReaders(b governance.Bundle) string {
	var text string
	never := map[governance.FactKind]string{
		governance.CountWithin: " < 0", governance.SumWithin: " < 0", governance.DistinctWithin: " < 0",
		governance.Formerly: " && false", governance.Since: " && false",
	}
	on := map[string]string{
		"here": `action in [Action::"chat__post", Action::"chat__edit"]`, "last_post": `action in [Action::"chat__post", Action::"chat__edit"]`,
		"spent_to": `action == Action::"bank__pay"`,
	}
	for _, f := range b.Facts {
		scope := on[f.Name]
		if scope == "" {
			scope = "action"
		}
		cond := "context.facts." + f.Name + never[f.Kind]
		if f.Kind == governance.Last {
			cond = `context.facts has ` + f.Name + ` && context.facts.` + f.Name + ` < datetime("2000-01-01")`
		}
		text += fmt.Sprintf("@id(%q) forbid (principal, %s, resource) when { %s };\n", "read-"+f.Name, scope, cond)
	}
	return text
}
