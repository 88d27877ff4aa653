package mcpx_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
)

// A credential with which a list was asked for in vain was not used well.
func TestListThatFailsIsOnRecord(t *testing.T) {
	w := newWorld(t, &setup{
		tools: func(s map[string]*mcp.Server) {
			s["github"].AddResource(&mcp.Resource{URI: "repo://1", Name: "1"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) { return nil, nil })
		},
		policy: `@id("reads") permit (principal == Agent::"bot", action == Action::"read_resource", resource);`,
	})
	a := w.agent(bot, modern)
	_, err := a.ListResources(t.Context(), nil)
	require.NoError(t, err)
	outcomes := func() (all []audit.Outcome) {
		for _, r := range w.log.Records() {
			if r.Outcome != nil {
				all = append(all, *r.Outcome)
			}
		}
		return all
	}
	require.Len(t, outcomes(), 1)
	assert.Equal(t, audit.StatusOK, outcomes()[0].Status)
	w.github.Close()
	_, err = w.agent(other, modern).ListResources(t.Context(), nil) // who may not use it
	require.NoError(t, err)
	require.Len(t, outcomes(), 1)
	_, err = a.ListResources(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, outcomes(), 2)
	assert.Equal(t, audit.StatusFailed, outcomes()[1].Status)
	assert.NotEmpty(t, outcomes()[1].ErrorCode)
}

// Of a request for several subscriptions of which one is refused, none is made,
// and none is on record as made.
func TestSubscriptionsThatWereNotMade(t *testing.T) {
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	f.add("wiki", wiki(), "memory")
	f.raw(bot, modern).ask(1, "subscriptions/listen", "", `"notifications":{"resourceSubscriptions":["wiki://page/1","wiki://page/secret1"]}`, "")
	var refused, ended int
	for _, r := range f.log.Records() {
		if r.Outcome != nil {
			ended++
			assert.Equal(t, audit.StatusFailed, r.Outcome.Status)
			assert.Equal(t, "not-begun", r.Outcome.ErrorCode)
		}
		if r.Event != nil && r.Event.Kind == audit.KindDenial {
			refused++
		}
	}
	assert.Equal(t, 1, ended)
	assert.Equal(t, 1, refused)
}

// All that a completion sends to a server is on record.
func TestCompletionsAreOnRecord(t *testing.T) {
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	f.add("wiki", wiki(), "memory")
	f.raw(bot, modern).ask(1, "completion/complete", "", `"ref":{"type":"ref/prompt","name":"wiki__review"},"argument":{"name":"page","value":"what leaves"},"context":{"arguments":{"a":"and this"}}`, "")
	var intents int
	for _, r := range f.log.Records() {
		if r.Intent != nil {
			intents++
			assert.NotNil(t, r.Args, "at least its hash")
		}
	}
	assert.Equal(t, 1, intents)
}

// That a client leaves says nothing of the server whose resources it wanted.
func TestWhoLeavesAListSparesTheServer(t *testing.T) {
	entered := make(chan bool, 1)
	var first atomic.Bool
	live := older(wiki())
	live.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if method == "resources/list" && !first.Swap(true) {
				entered <- true
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return next(ctx, method, req)
		}
	})
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	logged := &lines{}
	f.gateway = mcpx.NewGateway(f.engine, f.log, &mcpx.GatewayOptions{Logger: slog.New(slog.NewTextHandler(logged, nil))})
	t.Cleanup(func() { f.gateway.Close() })
	f.add("wiki", live, "memory")
	a := f.agent(bot, legacy)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := a.ListResources(ctx, nil)
		left <- err
	}()
	<-entered
	leave()
	assert.ErrorIs(t, <-left, context.Canceled)
	require.Eventually(t, func() bool { return strings.Contains(logged.String(), "cannot be asked for its resources") }, time.Minute, time.Millisecond)
	list, err := a.ListResources(t.Context(), nil)
	require.NoError(t, err)
	assert.NotContains(t, list.Meta, mcpx.PartialKey)
	assert.NotEmpty(t, list.Resources)
}
