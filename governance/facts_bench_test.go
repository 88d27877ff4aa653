package governance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// BenchmarkFacts measures what 100 facts cost a decision, of all kinds and half of
// them kept apart by an argument, next to the same decision with a policy of the
// same length about arguments. µs/facts is the difference, for one call that is
// decided and settled.
//
// In ten, the facts are about ten tools, so that each call is counted by ten and
// its policy reads ten. In all, every call is counted by all of them and its
// policy reads all of them.
func BenchmarkFacts(b *testing.B) {
	b.Run("ten", func(b *testing.B) { benchFacts(b, 10) })
	b.Run("all", func(b *testing.B) { benchFacts(b, 1) })
}

func benchFacts(b *testing.B, tools int) {
	const n = 100
	kinds := []FactKind{CountWithin, SumWithin, DistinctWithin, Formerly, Last}
	var facts []Fact
	about, plain := "", ""
	for i := range n {
		tool := i / 10 % tools
		f := Fact{Name: fmt.Sprintf("f%d", i), Kind: kinds[i%len(kinds)], On: []string{fmt.Sprintf("s__t%d", tool)}, Per: []string{"agent", "session"}[i%2], Window: time.Minute + time.Duration(i)*time.Second}
		cond := fmt.Sprintf("context.facts.f%d < 0", i)
		switch f.Kind {
		case SumWithin:
			f.Of = "/n"
		case DistinctWithin:
			f.Of = "/k"
		case Formerly:
			f.Counts, cond = Succeeded, fmt.Sprintf("context.facts.f%d && false", i)
		case Last:
			f.Counts, cond = Started, fmt.Sprintf("context.facts has f%d && false", i)
		}
		if i%4 < 2 {
			f.Key = []string{"/k"}
		}
		facts = append(facts, f)
		if tool == 0 {
			about += " || " + cond
			plain += " || context.args.n < 0"
		}
	}
	engine := func(facts []Fact, cond string) *Engine {
		e := NewEngine(audittest.NewLog(b), nil)
		server := Server{Name: "s"}
		text := "@id(\"all\") permit (principal, action, resource);\n@id(\"f\") forbid (principal, action == Action::\"s__t0\", resource) when { context.args.n < 0" + cond + " };\n"
		for i := range tools {
			server.Tools = append(server.Tools, Tool{
				ToolDefinition: ToolDefinition{Name: fmt.Sprintf("t%d", i), InputSchema: []byte(`{"type":"object","properties":{"k":{"type":"string"},"n":{"type":"integer"}},"required":["n"]}`)},
				Class:          Write,
			})
		}
		_, err := e.Reload(b.Context(), Bundle{Catalog: []Server{server}, Facts: facts, Policies: []Source{{Name: "p.cedar", Text: text}}}, audit.Change{By: "a", Reason: "b"})
		require.NoError(b, err)
		return e
	}
	with, without := engine(facts, about), engine(nil, plain)
	r := Request{Actor: audit.Actor{Agent: "a", Session: "s"}, Action: actionCallTool, Server: "s", Name: "t0", Args: []byte(`{"k":"#engineering","n":3}`)}
	one := func(e *Engine) time.Duration {
		start := time.Now()
		d, _ := e.Decide(b.Context(), r)
		d.Settle(Result{OK: true})
		took := time.Since(start)
		if !d.Allowed() {
			b.Fatal(d.Reason, d.Errors)
		}
		return took
	}
	// A history to look back on.
	at := time.Now().Add(-time.Minute)
	for range 500 {
		r.Time = at
		at = at.Add(120 * time.Millisecond)
		one(with)
	}
	var a, z []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(120 * time.Millisecond) // as much enters the window as leaves it
		r.Time = at
		a, z = append(a, one(with)), append(z, one(without))
	}
	median := func(d []time.Duration) float64 {
		return float64(middle(d).Nanoseconds()) / 1000
	}
	b.ReportMetric(median(a), "µs/decision")
	b.ReportMetric(median(z), "µs/without")
	b.ReportMetric(median(a)-median(z), "µs/facts")
	b.ReportMetric(float64(with.past.size.Load()), "entries")
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
