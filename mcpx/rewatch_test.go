package mcpx_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// mortalWiki is wiki with tools that change a page and that end the process.
func mortalWiki(changed bool) *mcp.Server {
	s := wiki()
	schema := json.RawMessage(`{"type":"object"}`)
	s.AddTool(&mcp.Tool{Name: "touch", Description: "Changes a page.", InputSchema: schema}, func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{}, s.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: "wiki://page/1"})
	})
	s.AddTool(&mcp.Tool{Name: "die", Description: "Ends.", InputSchema: schema}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		os.Exit(3)
		return nil, nil
	})
	if changed {
		s.RemoveTools("edit")
		s.AddTool(&mcp.Tool{Name: "edit", Description: "Edits, and tells everybody.", InputSchema: schema}, nil)
	}
	return s
}

// listener is a client that hears of changes.
func listener(t *testing.T, url, version string) (*mcp.ClientSession, chan string) {
	t.Helper()
	heard := make(chan string, 4096)
	a, err := mcp.NewClient(&mcp.Implementation{Name: "a", Version: "1"}, &mcp.ClientOptions{
		ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) { heard <- r.Params.URI },
	}).Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: url}, &mcp.ClientSessionOptions{ProtocolVersion: version})
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	require.NoError(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "wiki://page/1"}))
	return a, heard
}

// until does something again and again until the client hears of it.
func until(t *testing.T, heard chan string, do func()) {
	t.Helper()
	for n := 0; ; n++ {
		require.Less(t, n, 3000, "nothing was heard")
		do()
		select {
		case uri := <-heard:
			assert.Equal(t, "wiki://page/1", uri)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// drained takes what was heard already.
func drained(heard chan string) {
	for {
		select {
		case <-heard:
		default:
			return
		}
	}
}

// A child that has died is subscribed at again when it has been started again, and
// its clients are told that something may have changed. What it offers is looked at
// anew.
func TestSubscriptionsOutliveTheirServer(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) {
			c := &children{kind: "wiki"}
			f := newFed(t, map[string]*mcp.Server{"wiki": mortalWiki(false)})
			mcpx.SetRewatch(f.gateway, time.Millisecond)
			require.NoError(t, f.gateway.AddUpstream(t.Context(), mcpx.Stdio("wiki", c.command)))
			a, heard := listener(t, mcptest.Door(t, f.gateway, bot).URL, version)
			call := func(tool string) *mcp.CallToolResult {
				res, err := a.CallTool(t.Context(), &mcp.CallToolParams{Name: "wiki__" + tool, Arguments: json.RawMessage(`{}`)})
				require.NoError(t, err)
				return res
			}
			until(t, heard, func() { require.False(t, call("touch").IsError) })
			require.False(t, call("edit").IsError)
			drained(heard)

			c.mu.Lock()
			c.kind = "wiki-changed"
			c.mu.Unlock()
			assert.True(t, call("die").IsError)
			until(t, heard, func() { /* nothing: the gateway says so by itself */ })
			drained(heard)
			until(t, heard, func() { require.False(t, call("touch").IsError) })
			assert.Equal(t, "pin-drift", denial(t, call("edit")).Reason)
			c.mu.Lock()
			assert.Len(t, c.all, 2, "one process after the other, and no more")
			c.mu.Unlock()

			// Who wants to know no more is no reason to start one.
			require.NoError(t, a.Unsubscribe(t.Context(), &mcp.UnsubscribeParams{URI: "wiki://page/1"}))
			assert.True(t, call("die").IsError)
			require.NoError(t, f.gateway.Close())
			assert.Len(t, c.all, 2)
		})
	}
}

// So is a server with sessions at a URL that has forgotten them.
func TestSubscriptionsOutliveTheirSession(t *testing.T) {
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	mcpx.SetRewatch(f.gateway, time.Millisecond)
	var now atomic.Pointer[mcp.StreamableHTTPHandler]
	live := wiki()
	restart := func() {
		for ss := range live.Sessions() {
			ss.Close()
		}
		now.Store(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return live }, nil))
	}
	restart()
	door := mcptest.Door(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }), bot)
	require.NoError(t, f.gateway.AddUpstream(t.Context(), mcpx.HTTP("wiki", door.URL)))
	_, heard := listener(t, mcptest.Door(t, f.gateway, bot).URL, legacy)
	touch := func() {
		require.NoError(t, live.ResourceUpdated(t.Context(), &mcp.ResourceUpdatedNotificationParams{URI: "wiki://page/1"}))
	}
	until(t, heard, touch)
	drained(heard)
	restart()
	until(t, heard, func() { /* nothing */ })
	until(t, heard, touch)
}

// What policy does not permit any more is not subscribed to again, and no process
// starts for it.
func TestSubscriptionsAgainMeetPolicy(t *testing.T) {
	c := &children{kind: "wiki"}
	f := newFed(t, map[string]*mcp.Server{"wiki": mortalWiki(false)})
	logged := &lines{}
	gw := mcpx.NewGateway(f.engine, f.log, &mcpx.GatewayOptions{Logger: slog.New(slog.NewTextHandler(logged, nil))})
	t.Cleanup(func() { gw.Close() })
	mcpx.SetRewatch(gw, time.Millisecond)
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.Stdio("wiki", c.command)))
	a, heard := listener(t, mcptest.Door(t, gw, bot).URL, legacy)
	permitted := f.bundle.Policies[0].Text
	f.bundle.Policies[0].Text = permitted + `@id("no-more") forbid (principal, action == Action::"subscribe", resource);`
	_, err := f.engine.Reload(t.Context(), f.bundle, admin)
	require.NoError(t, err)
	_, err = a.CallTool(t.Context(), &mcp.CallToolParams{Name: "wiki__die", Arguments: json.RawMessage(`{}`)})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Count(logged.String(), "could not be subscribed to again") >= 2 }, time.Minute, time.Millisecond)
	require.Len(t, f.log.Denials(), 1, "however often it is tried")
	assert.Equal(t, "no-more", f.log.Denials()[0].Decision.Reason)
	c.mu.Lock()
	assert.Len(t, c.all, 1)
	c.mu.Unlock()
	drained(heard)
	f.bundle.Policies[0].Text = permitted
	_, err = f.engine.Reload(t.Context(), f.bundle, admin)
	require.NoError(t, err)
	until(t, heard, func() { /* it is tried again */ })
}
