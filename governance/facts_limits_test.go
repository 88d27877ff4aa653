package governance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// counting is an engine with one tool and facts about it.
func counting(t testing.TB, now func() time.Time, facts ...Fact) *Engine {
	t.Helper()
	text := "@id(\"all\") permit (principal, action, resource);\n"
	for _, f := range facts {
		never := "< 0"
		if factKinds[f.Kind] == "Bool" {
			never = "&& false"
		}
		text += fmt.Sprintf("@id(%q) forbid (principal, action == Action::\"s__t\", resource) when { context.facts.%s %s };\n", "r-"+f.Name, f.Name, never)
	}
	text += `@id("labels") forbid (principal, action == Action::"s__t", resource) when { context.labels.contains("x") };`
	e := NewEngine(audittest.NewLog(t), &Options{Clock: now})
	_, err := e.Reload(t.Context(), Bundle{
		Catalog: []Server{{Name: "s", Tools: []Tool{{
			ToolDefinition: ToolDefinition{Name: "t", InputSchema: []byte(`{"type":"object","properties":{"k":{"type":"string"},"n":{"type":"integer"},"set":{"type":"array","items":{"type":"string"}}},"required":["n"]}`)},
			Class:          Write,
		}}}},
		Facts:    facts,
		Policies: []Source{{Name: "p.cedar", Text: text}},
	}, audit.Change{By: "a", Reason: "b"})
	require.NoError(t, err)
	return e
}

func countCall(t testing.TB, e *Engine, agent, args string) Decision {
	d, err := e.Decide(t.Context(), Request{Actor: audit.Actor{Agent: agent, Session: "s"}, Action: actionCallTool, Server: "s", Name: "t", Args: []byte(args)})
	require.NoError(t, err)
	return d
}

// A standing clock that can be moved.
func movable() (now func() time.Time, move func(time.Duration)) {
	var at atomic.Int64
	at.Store(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC).UnixNano())
	return func() time.Time { return time.Unix(0, at.Load()) }, func(d time.Duration) { at.Add(int64(d)) }
}

// What does not fit denies, and is not forgotten; what has expired makes room.
func TestFactMemoryIsBounded(t *testing.T) {
	now, move := movable()
	e := counting(t, now, Fact{Name: "k", Kind: CountWithin, On: []string{"s__t"}, Key: []string{"/k"}, Window: time.Minute, Per: "agent"})
	e.past.most = limits{agent: 100, engine: 150}
	fill := func(agent string) (n int) {
		for ; ; n++ {
			require.Less(t, n, 1000, "no end to it")
			d := countCall(t, e, agent, fmt.Sprintf(`{"k":"%d","n":1}`, n))
			if !d.Allowed() {
				require.Equal(t, audit.GuardFacts, d.Reason)
				require.Nil(t, d.Facts)
				require.NotEmpty(t, d.Hint)
				return n
			}
			d.Settle(Result{OK: true})
		}
	}
	n := fill("a")
	assert.InDelta(t, 50, n, 2, "an event and a series for each")
	assert.InDelta(t, 25, fill("b"), 2, "what the whole engine has left")
	assert.Equal(t, int64(1), countCall(t, e, "a", `{"k":"0","n":1}`).History().Facts["k"].(int64), "a denial still sees it")
	move(time.Minute)
	assert.Equal(t, n, fill("a"), "all of it is too old now")
}

// What agents that do nothing any more have left takes up the engine's room no
// longer than it counts.
func TestIdleAgentsMakeRoom(t *testing.T) {
	now, move := movable()
	e := counting(t, now, Fact{Name: "k", Kind: CountWithin, On: []string{"s__t"}, Key: []string{"/k"}, Window: time.Minute, Per: "agent"})
	e.past.most = limits{agent: 1000, engine: 200}
	for i := range 90 {
		d := countCall(t, e, fmt.Sprintf("idle-%d", i), `{"n":1}`) // in most of the shards
		require.True(t, d.Allowed(), i)
		d.Settle(Result{OK: true})
	}
	try := func() (allowed bool) {
		for i := range 20 * len(e.past.shards) {
			d := countCall(t, e, "busy", fmt.Sprintf(`{"k":"%d","n":1}`, i))
			if !d.Allowed() {
				continue
			}
			d.Settle(Result{OK: true})
			if i > 50 {
				return true
			}
		}
		return false
	}
	assert.False(t, try(), "what still counts stays")
	move(time.Minute)
	assert.True(t, try())
}

func TestFailedCallsTakeNoRoom(t *testing.T) {
	now, _ := movable()
	e := counting(t, now, Fact{Name: "k", Kind: CountWithin, On: []string{"s__t"}, Window: time.Minute, Per: "agent"})
	e.past.most = limits{agent: 10, engine: 10}
	for range 100 {
		d := countCall(t, e, "a", `{"n":1}`)
		require.True(t, d.Allowed())
		d.Settle(Result{Reached: true})
	}
}

// One series is bounded too, and a call that cannot be counted everywhere is
// counted nowhere.
func TestFullSeriesDenies(t *testing.T) {
	now, move := movable()
	e := counting(t, now,
		Fact{Name: "a", Kind: CountWithin, On: []string{"s__t"}, Key: []string{"/k"}, Window: 2 * time.Minute, Per: "agent"},
		Fact{Name: "b", Kind: DistinctWithin, Of: "/set", On: []string{"s__t"}, Window: time.Minute, Per: "agent"},
		Fact{Name: "c", Kind: CountWithin, On: []string{"s__t"}, Window: time.Minute, Per: "agent", Counts: Succeeded},
	)
	var list string
	for i := range 250 {
		list += fmt.Sprintf(`"%d",`, i)
	}
	args := func(k string) string { return `{"n":1,"k":"` + k + `","set":[` + list[:len(list)-1] + `]}` }
	for range maxEvents / 250 {
		d := countCall(t, e, "x", args("one"))
		require.True(t, d.Allowed())
		d.Settle(Result{OK: true})
	}
	d := countCall(t, e, "x", args("two"))
	assert.Equal(t, audit.GuardFacts, d.Reason)
	d = countCall(t, e, "x", `{"n":1,"k":"two"}`)
	require.True(t, d.Allowed(), "it adds nothing to the full one")
	assert.Equal(t, map[string]any{"a": int64(0), "b": int64(250), "c": int64(40)}, d.History().Facts)
	d.Settle(Result{OK: true})
	move(time.Minute)
	d = countCall(t, e, "x", args("two"))
	require.True(t, d.Allowed())
	assert.Equal(t, map[string]any{"a": int64(1), "b": int64(0), "c": int64(0)}, d.History().Facts)
}

// What only counts when it succeeds is refused while it still can be.
func TestFullSuccessesDeny(t *testing.T) {
	now, _ := movable()
	e := counting(t, now, Fact{Name: "c", Kind: CountWithin, On: []string{"s__t"}, Window: time.Minute, Per: "agent", Counts: Succeeded})
	for range maxEvents {
		countCall(t, e, "x", `{"n":1}`).Settle(Result{OK: true})
	}
	assert.Equal(t, audit.GuardFacts, countCall(t, e, "x", `{"n":1}`).Reason)
}

func TestLabelsAreBounded(t *testing.T) {
	now, move := movable()
	e := counting(t, now)
	for i := range maxSessionLabels {
		d := countCall(t, e, "x", `{"n":1}`)
		require.True(t, d.Allowed())
		d.Settle(Result{OK: true, Labels: []string{fmt.Sprintf("l%d", i)}})
	}
	d := countCall(t, e, "x", `{"n":1}`)
	require.True(t, d.Allowed())
	assert.Len(t, d.History().Labels, maxSessionLabels)
	d.Settle(Result{OK: true, Labels: []string{"one-more"}})
	assert.Equal(t, audit.GuardFacts, countCall(t, e, "x", `{"n":1}`).Reason, "it cannot be told any more what the session knows")
	countCall(t, e, "y", `{"n":1}`).Settle(Result{OK: true, Labels: []string{"No Label"}})
	assert.Equal(t, audit.GuardFacts, countCall(t, e, "y", `{"n":1}`).Reason)

	// A session that has been idle for long is over, but not before.
	countCall(t, e, "z", `{"n":1}`).Settle(Result{OK: true, Labels: []string{"x"}})
	sh := func(agent string) *shard {
		v := visit{past: e.past, actor: audit.Actor{Agent: agent}}
		v.open()
		defer v.close()
		return v.shard
	}
	sweep := func() {
		s := sh("z")
		s.mu.Lock()
		defer s.mu.Unlock()
		e.past.sweep(s, now().UnixNano())
	}
	move(idleSession)
	sweep()
	assert.Equal(t, "labels", countCall(t, e, "z", `{"n":1}`).Reason, "this keeps it alive")
	move(idleSession)
	sweep()
	assert.Equal(t, "labels", countCall(t, e, "z", `{"n":1}`).Reason)
	move(idleSession + 1)
	sweep()
	assert.True(t, countCall(t, e, "z", `{"n":1}`).Allowed())
}

// Sums of the sizes that limits are about are those of a fresh count.
func TestSizesAddUp(t *testing.T) {
	now, move := movable()
	e := counting(t, now,
		Fact{Name: "a", Kind: CountWithin, On: []string{"s__t"}, Key: []string{"/k"}, Window: time.Minute, Per: "agent"},
		Fact{Name: "b", Kind: DistinctWithin, Of: "/set", On: []string{"s__t"}, Window: time.Minute, Per: "session"},
		Fact{Name: "c", Kind: Formerly, On: []string{"s__t"}, Window: time.Hour, Per: "agent", Counts: Succeeded},
	)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				d := countCall(t, e, fmt.Sprintf("a%d", i%5), fmt.Sprintf(`{"n":1,"k":"%d","set":["%d","%d"]}`, i%7, i, w))
				d.Settle([]Result{{OK: true}, {}, {Unsure: true}, {Reached: true, Labels: []string{fmt.Sprint("l", i%3)}}}[(i+w)%4])
			}
		})
	}
	wg.Wait()
	before := e.past.size.Load()
	total := 0
	for i := range e.past.shards {
		e.past.sweep(&e.past.shards[i], now().UnixNano())
		total += e.past.shards[i].size
	}
	assert.Equal(t, int64(total), e.past.size.Load())
	assert.LessOrEqual(t, int64(total), before, "what was counted on the way is never too little")
	move(24 * time.Hour)
	for i := range e.past.shards {
		e.past.sweep(&e.past.shards[i], now().UnixNano())
	}
	move(idleSession)
	for i := range e.past.shards {
		e.past.sweep(&e.past.shards[i], now().UnixNano())
		assert.Empty(t, e.past.shards[i].agents)
	}
	assert.Zero(t, e.past.size.Load())
}

// A session keeps its labels while it is active, with whatever tools, and loses
// them when it has been idle for long.
func TestActiveSessionKeepsLabels(t *testing.T) {
	now, move := movable()
	e := counting(t, now)
	labels := func() (n int) {
		for i := range e.past.shards {
			e.past.sweep(&e.past.shards[i], now().UnixNano())
			for _, a := range e.past.shards[i].agents {
				for _, s := range a.sessions {
					n += len(s.labels)
				}
			}
		}
		return n
	}
	d := countCall(t, e, "a", `{"n":1}`)
	d.Settle(Result{OK: true, Labels: []string{"x"}})
	for range 8 {
		move(24 * time.Hour)
		d, err := e.Decide(t.Context(), Request{Actor: audit.Actor{Agent: "a", Session: "s"}, Action: "connect", Name: "example.com"})
		require.NoError(t, err)
		require.True(t, d.Allowed())
		d.Settle(Result{OK: true})
	}
	assert.Equal(t, 1, labels())
	move(idleSession + 1)
	assert.Equal(t, 0, labels())
}

// A decision by a snapshot that is replaced meanwhile enters nothing for facts that
// went with it, and what is known of these does not grow.
func TestForgottenFactsStayForgotten(t *testing.T) {
	now, move := movable()
	e := counting(t, now, Fact{Name: "a", Kind: CountWithin, On: []string{"s__t"}, Window: time.Hour, Per: "agent"})
	p, s := e.past, e.current.Load()
	add := func(drops uint64) int {
		at := now().UnixNano()
		v := visit{past: p, actor: audit.Actor{Agent: "a"}, drops: drops}
		defer v.close()
		tr := &trace{actor: v.actor, at: at}
		for _, def := range s.defs {
			tr.adds = append(tr.adds, addition{def: def, key: &unkeyed, value: &unkeyed, event: event{at: at}})
		}
		require.NoError(t, v.start(tr))
		return len(v.agent.chapter)
	}
	begun := p.drops.Load()
	assert.Equal(t, 1, add(begun))
	p.forget(s.dropped())
	assert.Equal(t, 0, add(begun))
	assert.Equal(t, 1, add(p.drops.Load()))
	move(MaxFactWindow)
	p.forget(map[defID]bool{{1}: true})
	assert.Len(t, p.gone, 1)
}

// What a call adds stands in one record of the audit log: with every fact that a
// bundle can have, and a full set of values, it is refused by name and not by the
// log.
func TestAdditionsFitARecord(t *testing.T) {
	now, _ := movable()
	var facts []Fact
	for i := range MaxFacts {
		facts = append(facts, Fact{
			Name: fmt.Sprintf("a_rather_long_name_of_a_fact_that_goes_on_record_%d", i), Kind: CountWithin,
			On: []string{"s__t"}, Key: []string{"/k"}, Window: time.Minute + time.Duration(i)*time.Second, Per: "agent",
		})
	}
	var list string
	for i := range 256 {
		list += fmt.Sprintf(`,"%d"`, i)
	}
	args := `{"n":1,"k":"x","set":[` + list[1:] + `]}`
	e := counting(t, now, facts...)
	assert.Equal(t, audit.GuardFacts, countCall(t, e, "a", args).Reason)

	facts = append(facts[:100], Fact{Name: "set", Kind: DistinctWithin, Of: "/set", On: []string{"s__t"}, Window: time.Minute, Per: "agent"})
	log := audittest.NewLog(t)
	d := countCall(t, counting(t, now, facts...), "a", args)
	require.True(t, d.Allowed(), d.Errors)
	require.Len(t, d.Facts.Add, 101)
	assert.Len(t, d.Facts.Add[100].Values, 256)
	call, err := log.Begin(t.Context(), audit.Intent{Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: audit.Actor{Agent: "a"}, Decision: d.Decision})
	require.NoError(t, err)
	require.NoError(t, call.End(t.Context(), audit.Outcome{Status: audit.StatusOK}))
}

// A session whose labels could not be kept is over like any other, and may begin
// again.
func TestFullSessionEnds(t *testing.T) {
	now, move := movable()
	e := counting(t, now)
	label := func(name string) {
		countCall(t, e, "a", `{"n":1}`).Settle(Result{OK: true, Labels: []string{name}})
	}
	sweep := func() {
		for i := range e.past.shards {
			e.past.sweep(&e.past.shards[i], now().UnixNano())
		}
	}
	d := countCall(t, e, "a", `{"n":1}`)
	d.Settle(Result{OK: true, Labels: []string{"No Label"}})
	move(idleSession + 1)
	sweep()
	assert.Zero(t, e.past.size.Load())
	label("x")
	assert.Equal(t, "labels", countCall(t, e, "a", `{"n":1}`).Reason)
}
