package governance_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

var change = audit.Change{By: "alice", Reason: "OPS-1"}

// recorder is a log that a test can look into and break.
type recorder struct {
	mu     sync.Mutex
	events []audit.Event
	before func() error
}

func (r *recorder) Begin(context.Context, audit.Intent) (audit.Call, error) {
	return nil, errors.New("an engine begins nothing")
}

func (r *recorder) Append(_ context.Context, ev audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.before != nil {
		if err := r.before(); err != nil {
			return err
		}
	}
	r.events = append(r.events, ev)
	return nil
}

// only is a bundle with one agent, one tool, and one permit of the given id.
func only(id string) governance.Bundle {
	return governance.Bundle{
		Catalog: []governance.Server{{Name: "s", Tools: []governance.Tool{tool("t", `{"type":"object","properties":{"x":{"type":"string"},"i":{"type":"integer"},"j":{"type":"integer"}}}`)}}},
		Policies: []governance.Source{{Name: "p.cedar", Text: fmt.Sprintf(
			`@id(%q) permit (principal == Agent::"a", action in Action::"call_tool", resource);`, id)}},
	}
}

func tool(name, schema string) governance.Tool {
	return governance.Tool{ToolDefinition: governance.ToolDefinition{Name: name, InputSchema: []byte(schema)}, Class: governance.Write}
}

var request = governance.Request{Actor: actor("a"), Action: "call_tool", Server: "s", Name: "t"}

func TestNoSnapshotDenies(t *testing.T) {
	var none *governance.Engine
	var noSnap *governance.Snapshot
	type decider interface {
		Decide(context.Context, governance.Request) (governance.Decision, error)
		Visible(context.Context, audit.Actor, string, []governance.ToolRef) ([]governance.Visibility, error)
		Hash() string
		Tool(server, name string) (governance.ToolDefinition, string, bool)
		Catalog() []governance.Server
	}
	for name, e := range map[string]decider{
		"nil engine": none, "new engine": governance.NewEngine(&recorder{}, nil), "zero engine": &governance.Engine{}, "nil snapshot": noSnap,
	} {
		d, err := e.Decide(t.Context(), request)
		require.ErrorIs(t, err, governance.ErrNoSnapshot, name)
		assert.False(t, d.Allowed(), name)
		assert.Equal(t, audit.GuardNoSnapshot, d.Reason, name)
		assert.NotEmpty(t, d.ID, name)
		assert.Equal(t, `Tool::"s__t"`, d.Resource, name)
		v, err := e.Visible(t.Context(), request.Actor, "call_tool", []governance.ToolRef{{Server: "s", Name: "t"}})
		require.ErrorIs(t, err, governance.ErrNoSnapshot, name)
		assert.Equal(t, []governance.Visibility{governance.Never}, v, name)
		assert.Empty(t, e.Hash(), name)
		assert.Nil(t, e.Catalog(), name)
		_, _, ok := e.Tool("s", "t")
		assert.False(t, ok, name)
	}
	assert.Nil(t, none.Snapshot())
	_, err := none.Reload(t.Context(), only("x"), change)
	assert.ErrorIs(t, err, governance.ErrNoSnapshot)
	none.Subscribe(func() {})()
}

func TestReload(t *testing.T) {
	log := &recorder{}
	e := governance.NewEngine(log, nil)
	told := 0
	cancel := e.Subscribe(func() { told++ })

	rep, err := e.Reload(t.Context(), only("one"), change)
	require.NoError(t, err)
	first := e.Hash()
	assert.Equal(t, rep.Hash, first)
	assert.Equal(t, 1, told)
	require.Len(t, log.events, 1)
	ev := log.events[0]
	assert.Equal(t, audit.KindPolicy, ev.Kind)
	assert.Equal(t, audit.DoorAdmin, ev.Door)
	assert.Equal(t, &change, ev.Change)
	assert.Equal(t, first, ev.Detail["policy_hash"])
	assert.Empty(t, ev.Detail["replaces"])

	// Whatever goes wrong, the last good one stays, and nobody is told.
	kept := func(why string) {
		t.Helper()
		assert.Equal(t, first, e.Hash(), why)
		d, err := e.Decide(t.Context(), request)
		require.NoError(t, err)
		assert.True(t, d.Allowed(), why)
		assert.Equal(t, []string{"one"}, d.PolicyIDs(), why)
		assert.Equal(t, 1, told, why)
	}
	broken := only("two")
	broken.Policies[0].Text = "permit"
	rep, err = e.Reload(t.Context(), broken, change)
	require.ErrorIs(t, err, governance.ErrBundle)
	assert.NotEmpty(t, rep.Findings)
	kept("a bundle that does not compile")
	require.Len(t, log.events, 1, "nothing came into force")

	for _, by := range []audit.Change{{}, {By: "alice"}, {Reason: "x"}} {
		_, err = e.Reload(t.Context(), only("two"), by)
		require.ErrorIs(t, err, audit.ErrNoAuthority)
		kept("nobody answers for it")
	}

	full := errors.New("disk full")
	log.before = func() error { return full }
	_, err = e.Reload(t.Context(), only("two"), change)
	require.ErrorIs(t, err, full)
	kept("a log that is full")

	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = e.Reload(ctx, only("two"), change)
	require.ErrorIs(t, err, context.Canceled)
	kept("a context that is done")

	// On record first, in force afterwards.
	log.before = func() error {
		assert.Equal(t, first, e.Hash(), "in force before it was on record")
		return nil
	}
	_, err = e.Reload(t.Context(), only("two"), change)
	require.NoError(t, err)
	assert.NotEqual(t, first, e.Hash())
	require.Len(t, log.events, 2)
	assert.Equal(t, first, log.events[1].Detail["replaces"])
	assert.Equal(t, 2, told)
	cancel()
	log.before = nil
	_, err = e.Reload(t.Context(), only("three"), change)
	require.NoError(t, err)
	assert.Equal(t, 2, told)
}

func TestReloadWithoutLog(t *testing.T) {
	for _, e := range []*governance.Engine{governance.NewEngine(nil, nil), {}} {
		_, err := e.Reload(t.Context(), only("one"), change)
		require.ErrorIs(t, err, audit.ErrNoLog)
		assert.Empty(t, e.Hash())
	}
}

// The real log takes it, and holds who and why.
func TestReloadOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	e := governance.NewEngine(log, nil)
	_, err := e.Reload(t.Context(), only("one"), change)
	require.NoError(t, err)
	recs := log.Records()
	require.Len(t, recs, 1)
	assert.Equal(t, "alice", recs[0].Event.Change.By)
	assert.Equal(t, e.Hash(), recs[0].Event.Detail["policy_hash"])
}

// A decision is by one snapshot from beginning to end, while others come and go.
func TestNoTornDecision(t *testing.T) {
	e := governance.NewEngine(&recorder{}, nil)
	bundles := []governance.Bundle{only("one"), only("two")}
	owner := map[string]string{}
	for i, b := range bundles {
		rep, err := e.Reload(t.Context(), b, change)
		require.NoError(t, err)
		owner[rep.Hash] = []string{"one", "two"}[i]
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	decided := make([]int, 4)
	for w := range decided {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d, err := e.Decide(t.Context(), request)
				if !assert.NoError(t, err) || !assert.Equal(t, owner[d.PolicyHash], strings.Join(d.PolicyIDs(), " ")) {
					return
				}
				decided[w]++
			}
		})
	}
	for i := range 100 {
		_, err := e.Reload(t.Context(), bundles[i%2], change)
		require.NoError(t, err)
	}
	close(stop)
	wg.Wait()
}

func TestToolAndCatalog(t *testing.T) {
	e := governance.NewEngine(&recorder{}, nil)
	b := only("one")
	b.Catalog = append(b.Catalog, governance.Server{Name: "a"})
	_, err := e.Reload(t.Context(), b, change)
	require.NoError(t, err)
	def, pin, ok := e.Tool("s", "t")
	require.True(t, ok)
	want, err := def.Pin()
	require.NoError(t, err)
	assert.Equal(t, want, pin)
	d, err := e.Decide(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, pin, d.Pin)
	_, _, ok = e.Tool("s", "u")
	assert.False(t, ok)
	require.Len(t, e.Catalog(), 2)
	assert.Equal(t, "a", e.Catalog()[0].Name)
}
