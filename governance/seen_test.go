package governance

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// Asked a second time, by many at once, Visible gives the answers that it finds
// when it remembers nothing, and remembers a bounded number of principals.
func TestVisibleRemembers(t *testing.T) {
	s := compiled(t, office(100))
	var tools []ToolRef
	for _, server := range s.Catalog() {
		for _, tool := range server.Tools {
			tools = append(tools, ToolRef{server.Name, tool.Name})
		}
	}
	actors := make([]audit.Actor, 0, 20)
	want := map[audit.Actor][]Visibility{}
	for _, p := range s.profiles {
		for _, id := range p.Agents {
			a := audit.Actor{Agent: id, User: "u"}
			for _, a := range []audit.Actor{{Agent: id}, a} {
				actors = append(actors, a)
				for _, ref := range tools { // each from a fresh memory
					s.seen.row = nil
					v, err := s.Visible(t.Context(), a, actionCallTool, []ToolRef{ref})
					require.NoError(t, err)
					want[a] = append(want[a], v[0])
				}
			}
		}
	}
	var tally [3]int
	for _, list := range want {
		for _, v := range list {
			tally[v]++
		}
	}
	require.NotZero(t, tally[Never])
	require.NotZero(t, tally[Conditional])

	s.seen.row = nil
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				for _, a := range actors {
					v, err := s.Visible(t.Context(), a, actionCallTool, tools)
					assert.NoError(t, err)
					assert.Equal(t, want[a], v, "%v", a)
				}
			}
		})
	}
	wg.Wait()
	for i := range maxSeen + 100 {
		_, err := s.Visible(t.Context(), audit.Actor{Agent: fmt.Sprint("other", i)}, actionCallTool, tools[:1])
		require.NoError(t, err)
		require.LessOrEqual(t, len(s.seen.row), maxSeen)
	}
	v, err := s.Visible(t.Context(), actors[0], actionCallTool, tools)
	require.NoError(t, err)
	assert.Equal(t, want[actors[0]], v, "after others have come and gone")
}

// What is asked for again is not worked out again.
func TestVisibleRemembersTools(t *testing.T) {
	s := compiled(t, office(100))
	tools := []ToolRef{{"server0", "tool0"}, {"server0", "tool1"}}
	ask := func() {
		_, err := s.Visible(t.Context(), audit.Actor{Agent: "agent0-0"}, actionCallTool, tools)
		require.NoError(t, err)
	}
	ask()
	law := s.law
	s.law = nil // whoever asks the index now panics
	ask()
	s.law = law
}

func BenchmarkVisibleTools(b *testing.B) {
	s := compiled(b, office(1000))
	var tools []ToolRef
	for _, server := range s.Catalog() {
		for _, tool := range server.Tools {
			tools = append(tools, ToolRef{server.Name, tool.Name})
		}
	}
	require.Len(b, tools, 100)
	a := audit.Actor{Agent: "agent0-0"}
	for _, forget := range []bool{true, false} {
		b.Run(map[bool]string{true: "first", false: "again"}[forget], func(b *testing.B) {
			b.ReportAllocs()
			start := cpu()
			for b.Loop() {
				if forget {
					s.seen.row = nil
				}
				if _, err := s.Visible(b.Context(), a, actionCallTool, tools); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}
