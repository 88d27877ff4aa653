package mcpx_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

// factServer has tools whose calls policies count: pay fails as it is told, read
// returns what must not leave, post is where it could.
func factServer(t *testing.T) (*mcp.Server, governance.Bundle, *atomic.Int64) {
	s := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "1"}, nil)
	var paid atomic.Int64
	type pay struct {
		Amount int    `json:"amount"`
		How    string `json:"how,omitempty"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "pay"}, func(ctx context.Context, _ *mcp.CallToolRequest, in pay) (*mcp.CallToolResult, any, error) {
		switch in.How {
		case "refused":
			return &mcp.CallToolResult{IsError: true}, nil, nil
		case "panic":
			panic("inside of pay")
		case "slow":
			<-ctx.Done()
			return nil, nil, ctx.Err()
		}
		paid.Add(int64(in.Amount))
		return &mcp.CallToolResult{}, nil, nil
	})
	for _, name := range []string{"read", "post"} {
		mcp.AddTool(s, &mcp.Tool{Name: name}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{}, nil, nil
		})
	}
	catalog, err := mcpx.Catalog(t.Context(), "shop", s)
	require.NoError(t, err)
	for i := range catalog.Tools {
		if catalog.Tools[i].Name == "read" {
			catalog.Tools[i].Labels = []string{"crm"}
		}
	}
	facts, err := governance.ParseFacts("facts.yaml", []byte(`
facts:
  - {name: spent, kind: sum_within, on: [shop__pay], of: /amount, window: 1h, per: agent}
`))
	require.NoError(t, err)
	return s, governance.Bundle{
		Catalog: []governance.Server{catalog},
		Facts:   facts,
		Policies: []governance.Source{{Name: "p.cedar", Text: `
@id("all") permit (principal, action, resource);
@id("budget") forbid (principal, action == Action::"shop__pay", resource) when { context.facts.spent + context.args.amount > 100 };
@id("leak") forbid (principal, action == Action::"shop__post", resource) when { context.labels.contains("crm") };`}},
	}, &paid
}

// The way of a call settles what its decision reserved, however the call ends,
// and what is on record is enough to begin again with.
func TestCallsSettle(t *testing.T) {
	server, bundle, paid := factServer(t)
	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{Identify: as(bot)}))
	o := &own{server: server, log: log, engine: engine}
	cs := o.connect(t, modern)
	call := func(ctx context.Context, tool, how string, amount int) bool {
		args := map[string]any{}
		if tool == "pay" {
			args = map[string]any{"amount": amount, "how": how}
		}
		res, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
		return err == nil && !res.IsError
	}
	spent := func(e *governance.Engine) int64 {
		d, err := e.Decide(t.Context(), governance.Request{Actor: bot, Action: "call_tool", Server: "shop", Name: "pay", Args: []byte(`{"amount":0}`)})
		require.NoError(t, err)
		d.Settle(governance.Result{})
		return d.History().Facts["spent"].(int64)
	}
	assert.True(t, call(t.Context(), "pay", "", 20))
	assert.False(t, call(t.Context(), "pay", "", 81), "over budget")
	assert.Equal(t, int64(20), spent(engine), "a denial uses up nothing")
	assert.False(t, call(t.Context(), "pay", "refused", 30))
	assert.Equal(t, int64(20), spent(engine), "nor does what the tool did not do")
	assert.False(t, call(t.Context(), "pay", "panic", 7))
	assert.Equal(t, int64(27), spent(engine), "nobody knows what it did before")
	log.Fail(fmt.Errorf("disk full"))
	assert.False(t, call(t.Context(), "pay", "", 30))
	log.Fail(nil)
	assert.Equal(t, int64(27), spent(engine), "what is not recorded is not done")

	assert.True(t, call(t.Context(), "post", "", 0))
	assert.True(t, call(t.Context(), "read", "", 0))
	assert.False(t, call(t.Context(), "post", "", 0), "it has read the CRM")

	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { call(t.Context(), "pay", "", 10) })
	}
	wg.Wait()
	assert.Equal(t, int64(97), spent(engine))
	assert.Equal(t, int64(90), paid.Load(), "seven of them, and 20 before")

	again := governance.NewEngine(log, nil)
	require.NoError(t, again.Rebuild(log.Query(t.Context(), audit.Filter{})))
	_, err = again.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	assert.Equal(t, int64(97), spent(again))
	d, err := again.Decide(t.Context(), governance.Request{Actor: bot, Action: "call_tool", Server: "shop", Name: "post"})
	require.NoError(t, err)
	assert.Equal(t, "leak", d.Reason)
}

// Cancelling a payment does not get its budget back.
func TestCancelledCallsCount(t *testing.T) {
	server, bundle, _ := factServer(t)
	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
	server.AddReceivingMiddleware(mcpx.Govern(engine, log, &mcpx.GovernOptions{Identify: as(bot)}))
	o := &own{server: server, log: log, engine: engine}
	cs := o.connect(t, modern)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "pay", Arguments: map[string]any{"amount": 60, "how": "slow"}})
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(log.Records()) == 2 }, time.Minute, time.Millisecond) // reload, intent
	cancel()
	require.Error(t, <-ended)
	require.Eventually(t, func() bool { return len(log.Records()) == 3 }, time.Minute, time.Millisecond)
	assert.Equal(t, audit.StatusCancelled, log.Records()[2].Outcome.Status)
	res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "pay", Arguments: map[string]any{"amount": 60}})
	require.NoError(t, err)
	assert.True(t, res.IsError)
}
