package mcpx_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// An agent that subscribes and takes it back, again and again, leaves nothing
// behind while its session and the child go on.
func TestTurnsOfSubscribingLeaveNothing(t *testing.T) {
	c := &children{kind: "wiki"}
	f := newFed(t, map[string]*mcp.Server{"wiki": mortalWiki(false)})
	require.NoError(t, f.gateway.AddUpstream(t.Context(), mcpx.Stdio("wiki", c.command)))
	a, _ := listener(t, mcptest.Door(t, f.gateway, bot).URL, legacy)
	turns := func(n int) int {
		for range n {
			require.NoError(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "wiki://page/2"}))
			require.NoError(t, a.Unsubscribe(t.Context(), &mcp.UnsubscribeParams{URI: "wiki://page/2"}))
		}
		return runtime.NumGoroutine()
	}
	before := turns(5)
	turns(200)
	require.Eventually(t, func() bool { return runtime.NumGoroutine() < before+20 }, time.Minute, 10*time.Millisecond)
}
