package mcpx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A server without sessions that tells no more of a resource is asked again.
func TestSubscriptionsOutliveTheirRequest(t *testing.T) {
	f := newForgetfulOf(t, modern)
	_, heard := listener(t, f.url, legacy)
	until(t, heard, f.touch)
	for _, end := range []func(){f.forget, f.door.CloseClientConnections} {
		drained(heard)
		n := subscribed(f.log)
		end()
		require.Eventually(t, func() bool { return subscribed(f.log) > n }, time.Minute, time.Millisecond)
		until(t, heard, f.touch)
	}
}

// older has a server speak versions with sessions only.
func older(s *mcp.Server) *mcp.Server {
	s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if method == "server/discover" {
				return nil, &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "unknown"}
			}
			return next(ctx, method, req)
		}
	})
	return s
}

// A server that does not let a client subscribe has said no, which is what the client
// hears and the record says; it goes on with whatever else it does.
func TestSubscribingIsRefused(t *testing.T) {
	says := &jsonrpc.Error{Code: -31999, Message: "not this page"}
	for _, c := range []struct {
		name, how string
		server    func() *mcp.Server
		want      string
	}{
		{"none can be had, older", "memory", func() *mcp.Server { return older(mcp.NewServer(&mcp.Implementation{Name: "wiki"}, nil)) }, ""},
		{"none can be had", "memory", func() *mcp.Server { return mcp.NewServer(&mcp.Implementation{Name: "wiki"}, nil) }, "does not tell of changes"},
		{"none can be had, http", modern, func() *mcp.Server { return mcp.NewServer(&mcp.Implementation{Name: "wiki"}, nil) }, "does not tell of changes"},
		{"not this one, older", "memory", func() *mcp.Server { return older(mcp.NewServer(&mcp.Implementation{Name: "wiki"}, refusing(says))) }, "not this page"},
		{"not this one, older, http", legacy, func() *mcp.Server { return mcp.NewServer(&mcp.Implementation{Name: "wiki"}, refusing(says)) }, "not this page"},
		{"not this one", "memory", func() *mcp.Server { return mcp.NewServer(&mcp.Implementation{Name: "wiki"}, refusing(says)) }, "not this page"},
		{"not this one, http", modern, func() *mcp.Server { return mcp.NewServer(&mcp.Implementation{Name: "wiki"}, refusing(says)) }, "not this page"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
			live := c.server()
			live.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "wiki://page/{id}", Name: "page"}, nil)
			entered, let := make(chan bool), make(chan bool)
			live.AddTool(&mcp.Tool{Name: "edit", Description: "Edits.", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				entered <- true
				<-let
				return &mcp.CallToolResult{Content: []mcp.Content{text("edited")}}, nil
			})
			f.add("wiki", live, c.how)
			a := f.agent(bot, legacy)
			called := make(chan *mcp.CallToolResult, 1)
			go func() {
				res, err := a.Call(t.Context(), "wiki__edit", `{}`)
				assert.NoError(t, err)
				called <- res
			}()
			<-entered
			sessions := func() int { return len(slices.Collect(live.Sessions())) }
			before := sessions()
			for range 2 {
				assert.ErrorContains(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "wiki://page/1"}), c.want)
				_, err := a.ListResources(t.Context(), nil)
				require.NoError(t, err)
			}
			if c.how == "memory" {
				assert.Equal(t, before, sessions(), "it is the same process")
			}
			close(let)
			assert.False(t, (<-called).IsError)
			for _, r := range f.log.Records() {
				if r.Outcome != nil && r.Call <= uint64(len(f.log.Records())) && f.log.Records()[r.Call-1].Intent.Action == "subscribe" {
					assert.Equal(t, audit.StatusFailed, r.Outcome.Status)
				}
			}
		})
	}
}

func refusing(why error) *mcp.ServerOptions {
	return &mcp.ServerOptions{
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return why },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	}
}

// A server that does not answer the request to listen holds nobody for ever.
func TestSubscribingTakesNoLongerThanACall(t *testing.T) {
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	live := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return wiki() }, &mcp.StreamableHTTPOptions{Stateless: true})
	door := mcptest.Door(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if bytes.Contains(body, []byte("subscriptions/listen")) {
			<-r.Context().Done()
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		live.ServeHTTP(w, r)
	}), bot)
	gw := mcpx.NewGateway(f.engine, f.log, &mcpx.GatewayOptions{CallTimeout: 100 * time.Millisecond})
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("wiki", door.URL)))
	a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, &mcptest.ConnectOptions{Version: legacy})
	assert.ErrorContains(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "wiki://page/1"}), "timeout")
	closed := make(chan error, 1)
	go func() { closed <- gw.Close() }()
	select {
	case err := <-closed:
		assert.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the gateway does not close")
	}
}

// Who hears with a credential that is good no more subscribes again, with the one that
// is.
func TestSubscriptionsOutliveTheirCredential(t *testing.T) {
	cut := map[string]func(*forgetful){
		"revoked": func(f *forgetful) {
			for _, next := range []string{"ghp_Another0123456789abcdefghijklmnopqr", "ghp_AThird0123456789abcdefghijklmnopqrs"} {
				_, err := f.secrets.Rotate(t.Context(), "wiki", credential.NewSecret([]byte(next)), admin)
				require.NoError(t, err)
			}
		},
		"not accepted": func(f *forgetful) {
			var refused atomic.Bool
			status := func() int {
				if refused.Swap(true) {
					return 0
				}
				return http.StatusUnauthorized
			}
			f.get.Store(&status)
		},
	}
	for name, cut := range cut {
		t.Run(name, func(t *testing.T) {
			f := newForgetful(t)
			_, heard := listener(t, f.url, legacy)
			until(t, heard, f.touch)
			drained(heard)
			cut(f)
			f.door.CloseClientConnections()
			until(t, heard, func() { /* the gateway says so by itself */ })
			require.Eventually(t, func() bool { return subscribed(f.log) == 2 }, time.Minute, time.Millisecond)
			until(t, heard, f.touch)
			assert.Equal(t, 2, begun(f.log))
		})
	}
}

// A server that wants no such stream of us, though it took the subscription, is not
// subscribed at again and again.
func TestAStreamThatWasNeverHadIsNotLost(t *testing.T) {
	f := newForgetful(t)
	var gets atomic.Int64
	none := func() int {
		gets.Add(1)
		return http.StatusForbidden
	}
	f.get.Store(&none)
	a, _ := listener(t, f.url, legacy)
	require.Eventually(t, func() bool { return gets.Load() == 1 }, time.Minute, time.Millisecond)
	for range 100 {
		require.NoError(t, a.Ping(t.Context(), nil))
	}
	assert.EqualValues(t, 1, gets.Load())
	assert.Equal(t, 1, begun(f.log))
}

// What is subscribed to for an agent ends at the server with the agent, which is told
// of nothing more; the refusal to go on is on record once.
func TestSubscriptionsEndWithTheirAgent(t *testing.T) {
	f := newForgetful(t)
	_, heard := listener(t, f.url, legacy)
	until(t, heard, f.touch)
	sessions := func() int { return len(slices.Collect(f.live.Sessions())) }
	require.Eventually(t, func() bool { return sessions() == 1 }, time.Minute, time.Millisecond) // the one that asked what there is ends
	f.agents.revoke(bot.Agent)
	require.Eventually(t, func() bool { return sessions() == 0 }, time.Minute, time.Millisecond)
	f.tried(2)
	var denials int
	for _, d := range f.log.Denials() {
		if d.Action == "resources/subscribe" {
			denials++
			assert.Equal(t, audit.GuardRevoked, d.Decision.Reason)
			assert.Equal(t, "wiki://page/1", d.Resource)
		}
	}
	assert.Equal(t, 1, denials)
	n := begun(f.log)
	f.agents.reinstate(bot.Agent)
	require.Eventually(t, func() bool { return begun(f.log) == n+1 && sessions() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, f.gateway.Close())
	require.Eventually(t, f.agents.idle, time.Minute, time.Millisecond, "nobody is watched any more")
}

// Nothing is subscribed to again while that cannot be on record, while the server does
// not own the resource any more, or while nobody can say whether the agent lives.
func TestSubscribingAgainNeedsAllOfIt(t *testing.T) {
	reload := func(f *forgetful, c []governance.Server) {
		f.bundle.Catalog = c
		_, err := f.engine.Reload(t.Context(), f.bundle, admin)
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		reason string
		lack   func(f *forgetful) (mend func())
	}{
		"the record": {"", func(f *forgetful) func() {
			f.log.Fail(errors.New("disk full"))
			return func() { f.log.Fail(nil) }
		}},
		"the route": {audit.GuardUnknown, func(f *forgetful) func() {
			whole := f.bundle.Catalog
			less := slices.Clone(whole)
			less[0].ResourceTemplates = nil
			reload(f, less)
			return func() { reload(f, whole) }
		}},
		"the registry": {"", func(f *forgetful) func() {
			no := func() { panic("the host's own code") }
			f.whose.Store(&no)
			return func() { f.whose.Store(nil) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForgetful(t)
			_, heard := listener(t, f.url, legacy)
			until(t, heard, f.touch)
			n := begun(f.log)
			mend := c.lack(f)
			f.forget()
			f.tried(1)
			posts := f.posts.Load()
			f.tried(3)
			assert.Equal(t, posts, f.posts.Load(), "the server is not asked")
			assert.Equal(t, n, begun(f.log))
			if denials := f.log.Denials(); c.reason == "" {
				assert.Empty(t, denials)
			} else if assert.Len(t, denials, 1) {
				assert.Equal(t, c.reason, denials[0].Decision.Reason)
			}
			drained(heard)
			mend()
			until(t, heard, func() { /* nothing */ })
			until(t, heard, f.touch)
		})
	}
}

// Of two clients of an actor, the one that waits for the other's subscription does not
// fail because the other leaves.
func TestSubscribingOutlivesWhoBegan(t *testing.T) {
	entered := make(chan bool, 1)
	var first atomic.Bool
	live := older(mcp.NewServer(&mcp.Implementation{Name: "wiki", Version: "1"}, &mcp.ServerOptions{
		SubscribeHandler: func(ctx context.Context, _ *mcp.SubscribeRequest) error {
			if first.Swap(true) {
				return nil
			}
			entered <- true
			<-ctx.Done()
			return ctx.Err()
		},
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	}))
	live.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "wiki://page/{id}", Name: "page"}, nil)
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	f.add("wiki", live, "memory")
	a, b := f.agent(bot, legacy), f.agent(bot, legacy)
	ctx, leave := context.WithCancel(t.Context())
	left, got := make(chan error, 1), make(chan error, 1)
	page := &mcp.SubscribeParams{URI: "wiki://page/1"}
	go func() { left <- a.Subscribe(ctx, page) }()
	<-entered
	go func() { got <- b.Subscribe(t.Context(), page) }()
	require.Eventually(t, func() bool { return begun(f.log) == 2 }, time.Minute, time.Millisecond)
	for range 10 {
		require.NoError(t, b.Ping(t.Context(), nil)) // so that it waits, most likely
	}
	leave()
	assert.ErrorIs(t, <-left, context.Canceled)
	assert.NoError(t, <-got)
}

// What takes a subscription back is over before the next one of the same resource
// begins.
func TestUnsubscribingIsNotOvertaken(t *testing.T) {
	for era, of := range map[string]func(*mcp.Server) *mcp.Server{legacy: older, modern: func(s *mcp.Server) *mcp.Server { return s }} {
		t.Run(era, func(t *testing.T) { notOvertaken(t, of) })
	}
}

func notOvertaken(t *testing.T, of func(*mcp.Server) *mcp.Server) {
	order, let := make(chan string, 16), make(chan struct{})
	live := of(mcp.NewServer(&mcp.Implementation{Name: "wiki", Version: "1"}, &mcp.ServerOptions{
		SubscribeHandler: func(context.Context, *mcp.SubscribeRequest) error {
			order <- "subscribe"
			return nil
		},
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error {
			order <- "unsubscribe"
			<-let
			order <- "unsubscribed"
			return nil
		},
	}))
	live.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "wiki://page/{id}", Name: "page"}, nil)
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	mcpx.SetLeave(f.gateway, time.Minute)
	f.add("wiki", live, "memory")
	a, _ := listener(t, mcptest.Door(t, f.gateway, bot).URL, legacy)
	page := "wiki://page/1"
	assert.Equal(t, "subscribe", <-order)
	require.NoError(t, a.Unsubscribe(t.Context(), &mcp.UnsubscribeParams{URI: page}))
	assert.Equal(t, "unsubscribe", <-order)

	ctx, giveUp := context.WithCancel(t.Context())
	again := make(chan error, 2)
	subscribe := func(ctx context.Context) {
		from := begun(f.log)
		go func() { again <- a.Subscribe(ctx, &mcp.SubscribeParams{URI: page}) }()
		require.Eventually(t, func() bool { return begun(f.log) > from }, time.Minute, time.Millisecond)
		for range 10 {
			require.NoError(t, a.Ping(t.Context(), nil))
		}
	}
	subscribe(ctx)
	giveUp()
	assert.ErrorIs(t, <-again, context.Canceled)
	subscribe(t.Context())
	assert.Empty(t, order)
	close(let)
	require.NoError(t, <-again)
	assert.Equal(t, "unsubscribed", <-order)
	assert.Equal(t, "subscribe", <-order)
}
