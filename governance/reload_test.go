package governance

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// While laws are swapped under it, every decision is that of one law as a whole:
// what it names and the hash that it carries belong together. Under -race this
// also shows that a reload shares nothing with decisions.
func TestReloadTearsNoDecision(t *testing.T) {
	e := NewEngine(audittest.NewLog(t), nil)
	bundle := func(policies string) Bundle {
		b := office(10)
		b.Policies = []Source{{Name: "p.cedar", Text: policies}}
		return b
	}
	laws := []Bundle{
		bundle(`@id("one") permit (principal, action, resource); @id("never") forbid (principal, action, resource) when { context.now < datetime("1970-01-01") };`),
		bundle(`@id("two") permit (principal, action, resource);`),
		bundle(`@id("none") forbid (principal, action, resource);`),
	}
	reason := map[string]string{} // by hash
	reload := func(i int) {
		_, err := e.Reload(t.Context(), laws[i], audit.Change{By: "alice", Reason: "OPS-1"})
		assert.NoError(t, err)
	}
	for i, id := range []string{"one", "two", "none"} {
		reload(i)
		reason[e.Hash()] = id
	}
	require.Len(t, reason, len(laws))

	r := Request{Actor: audit.Actor{Agent: "agent0-0", Issuer: "session"}, Action: actionCallTool, Server: "server0", Name: "tool0", Args: []byte(officeArgs)}
	tools := []ToolRef{{"server0", "tool0"}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var decisions [3]int
	for i := range decisions {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d, err := e.Decide(t.Context(), r)
				if !assert.NoError(t, err) || !assert.Equal(t, []string{reason[d.PolicyHash]}, d.PolicyIDs()) ||
					!assert.Equal(t, reason[d.PolicyHash] != "none", d.Allowed()) {
					return
				}
				_, err = e.Visible(t.Context(), r.Actor, actionCallTool, tools)
				if !assert.NoError(t, err) {
					return
				}
				decisions[i]++
			}
		})
	}
	for i := range 60 {
		reload(i % len(laws))
	}
	close(stop)
	wg.Wait()
	t.Logf("decisions of each goroutine: %v", decisions)
}

// Compiling and swapping in ten thousand policies, in processor time.
func BenchmarkReload(b *testing.B) {
	e := NewEngine(audittest.NewLog(b), nil)
	w := office(10_000)
	start := cpu()
	for b.Loop() {
		if _, err := e.Reload(b.Context(), w, audit.Change{By: "alice", Reason: "OPS-1"}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
}
