package mcpx_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// own is an author's server with everything on it.
type own struct {
	server *mcp.Server
	log    *audittest.Log
	engine *governance.Engine
	ran    []string // what reached a handler

	catalog governance.Server
}

const ownPolicy = `
@id("notes") permit (principal == Agent::"bot", action == Action::"notes__add", resource)
  when { context.args.text like "note*" };
@id("boom") permit (principal == Agent::"bot", action == Action::"notes__boom", resource);
@id("prompt") permit (principal == Agent::"bot", action == Action::"get_prompt", resource == Prompt::"notes__daily");
@id("resource") permit (principal == Agent::"bot", action in [Action::"read_resource", Action::"subscribe"], resource == Resource::"notes__notes://open");
@id("complete") permit (principal == Agent::"bot", action == Action::"complete", resource);
`

func newOwn(t testing.TB, page int) *own {
	t.Helper()
	o := &own{log: audittest.NewLog(t)}
	ran := func(what string) { o.ran = append(o.ran, what) }
	o.server = mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, &mcp.ServerOptions{
		PageSize: page,
		CompletionHandler: func(context.Context, *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
			ran("complete")
			return &mcp.CompleteResult{}, nil
		},
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { ran("subscribe"); return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { ran("unsubscribe"); return nil },
	})
	type text struct {
		Text string `json:"text"`
	}
	for _, name := range []string{"add", "boom", "secret", "zap"} {
		mcp.AddTool(o.server, &mcp.Tool{Name: name, Description: name}, func(_ context.Context, _ *mcp.CallToolRequest, in text) (*mcp.CallToolResult, any, error) {
			ran(name)
			if name == "boom" {
				panic("inside of boom")
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: name + " " + in.Text}}}, nil, nil
		})
	}
	for _, name := range []string{"daily", "secret"} {
		o.server.AddPrompt(&mcp.Prompt{Name: name}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			ran("prompt " + name)
			return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{}}, nil
		})
	}
	for _, uri := range []string{"notes://open", "notes://secret"} {
		o.server.AddResource(&mcp.Resource{URI: uri, Name: uri}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			ran("read " + uri)
			return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: uri, Text: "x"}}, Cacheable: mcp.Cacheable{TTLMs: 60_000}}, nil
		})
	}
	require.NoError(t, mcp.AddReceivingCustomMethod(o.server, "notes/custom", func(context.Context, *mcp.ServerSession, *mcp.CallToolParamsRaw) (*mcp.CallToolResult, error) {
		ran("custom")
		return &mcp.CallToolResult{}, nil
	}))
	catalog, err := mcpx.Catalog(t.Context(), "notes", o.server)
	require.NoError(t, err)
	o.catalog = catalog
	o.engine = governance.NewEngine(o.log, nil)
	o.reload(t, ownPolicy)
	return o
}

// reload puts other policies into force.
func (o *own) reload(t testing.TB, policies string) {
	t.Helper()
	_, err := o.engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "own.cedar", Text: policies}},
		Catalog:  []governance.Server{o.catalog},
		Profiles: []governance.Profile{{ID: "p", Owner: "o", Agents: []string{"bot"}, Servers: map[string]governance.Grant{
			"notes": {Tools: []string{"add", "boom", "zap"}, Prompts: []string{"daily"}, Resources: []string{"notes://open"}},
		}}},
	}, admin)
	require.NoError(t, err)
}

func as(a audit.Actor) func(context.Context, mcp.Request) (audit.Actor, error) {
	return func(context.Context, mcp.Request) (audit.Actor, error) { return a, nil }
}

// connect opens an in-memory session.
func (o *own) connect(t testing.TB, version string) *mcp.ClientSession {
	t.Helper()
	here, there := mcp.NewInMemoryTransports()
	ss, err := o.server.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), here, &mcp.ClientSessionOptions{ProtocolVersion: version})
	require.NoError(t, err)
	t.Cleanup(func() { cs.Close(); ss.Wait() })
	return cs
}

func (o *own) last(t testing.TB) audit.Record {
	all := o.log.Records()
	require.NotEmpty(t, all)
	return all[len(all)-1]
}

func TestGovern(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) {
			o := newOwn(t, 1) // pages of one item: lists must still be whole
			o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
			cs := o.connect(t, version)
			ctx := t.Context()

			tools, err := cs.ListTools(ctx, nil)
			require.NoError(t, err)
			require.Len(t, tools.Tools, 2)
			assert.Equal(t, "add", tools.Tools[0].Name, "kept although arguments decide")
			assert.Equal(t, "boom", tools.Tools[1].Name)
			assert.Empty(t, tools.NextCursor, "a cursor would name a hidden tool")
			assert.Equal(t, audit.KindList, o.last(t).Event.Kind)
			assert.Equal(t, "2", o.last(t).Event.Detail["shown"])
			if version == modern {
				assert.Equal(t, "private", tools.CacheScope)
			}
			prompts, err := cs.ListPrompts(ctx, nil)
			require.NoError(t, err)
			require.Len(t, prompts.Prompts, 1)
			assert.Equal(t, "daily", prompts.Prompts[0].Name)
			resources, err := cs.ListResources(ctx, nil)
			require.NoError(t, err)
			require.Len(t, resources.Resources, 1)
			assert.Equal(t, "notes://open", resources.Resources[0].URI)
			templates, err := cs.ListResourceTemplates(ctx, nil)
			require.NoError(t, err)
			assert.Empty(t, templates.ResourceTemplates)
			_, err = cs.ListTools(ctx, &mcp.ListToolsParams{Cursor: "x"})
			require.Error(t, err)

			n := len(o.log.Records())
			res, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "note this"}})
			require.NoError(t, err)
			require.False(t, res.IsError, mcptest.Text(res))
			recs := o.log.Records()[n:]
			require.Len(t, recs, 2)
			assert.Equal(t, audit.StatusOK, recs[1].Outcome.Status)
			assert.EqualValues(t, len("add note this"), recs[1].Outcome.Bytes)
			for range 50 {
				res, err = cs.CallTool(ctx, &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "other"}})
				require.NoError(t, err)
				assert.Equal(t, "policy", denial(t, res).Reason)
			}
			assert.Equal(t, audit.ReasonNoPermit, o.last(t).Event.Decision.Reason)
			res, err = cs.CallTool(ctx, &mcp.CallToolParams{Name: "add", Arguments: json.RawMessage(`{"text":"note","text":"x"}`)})
			require.NoError(t, err)
			assert.Equal(t, "arguments", denial(t, res).Reason)
			assert.Equal(t, audit.GuardStrictJSON, o.last(t).Event.Decision.Reason)

			_, hidden := cs.CallTool(ctx, &mcp.CallToolParams{Name: "secret"})
			_, absent := cs.CallTool(ctx, &mcp.CallToolParams{Name: "nothing"})
			var e1, e2 *jsonrpc.Error
			require.ErrorAs(t, hidden, &e1)
			require.ErrorAs(t, absent, &e2)
			assert.Equal(t, &jsonrpc.Error{Code: -32602, Message: `unknown tool "secret"`}, e1)
			assert.Equal(t, &jsonrpc.Error{Code: -32602, Message: `unknown tool "nothing"`}, e2)

			res, err = cs.CallTool(ctx, &mcp.CallToolParams{Name: "boom", Arguments: map[string]any{"text": "x"}})
			require.NoError(t, err)
			assert.Equal(t, "panic", denial(t, res).Reason)
			assert.NotContains(t, mcptest.Text(res), "inside of")
			assert.Equal(t, audit.GuardPanic, o.last(t).Outcome.ErrorCode)

			_, err = cs.GetPrompt(ctx, &mcp.GetPromptParams{Name: "daily"})
			require.NoError(t, err)
			_, err = cs.GetPrompt(ctx, &mcp.GetPromptParams{Name: "secret"})
			require.ErrorContains(t, err, `unknown prompt "secret"`)
			read, err := cs.ReadResource(ctx, &mcp.ReadResourceParams{URI: "notes://open"})
			require.NoError(t, err)
			if version == modern {
				assert.Equal(t, mcp.Cacheable{CacheScope: "private"}, read.Cacheable)
			}
			_, err = cs.ReadResource(ctx, &mcp.ReadResourceParams{URI: "notes://secret"})
			require.ErrorContains(t, err, "Resource not found")
			_, err = cs.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: "daily"}, Argument: mcp.CompleteParamsArgument{Name: "a", Value: "b"}})
			require.NoError(t, err)
			want := []string{"add", "boom", "prompt daily", "read notes://open", "complete"}
			if version == legacy {
				require.NoError(t, cs.Subscribe(ctx, &mcp.SubscribeParams{URI: "notes://open"}))
				require.Error(t, cs.Subscribe(ctx, &mcp.SubscribeParams{URI: "notes://secret"}))
				require.NoError(t, cs.Unsubscribe(ctx, &mcp.UnsubscribeParams{URI: "notes://open"}))
				//lint:ignore SA1019 clients of the older era still send it
				require.Error(t, cs.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: "debug"}), "no policy permits it")
				require.NoError(t, cs.Ping(ctx, nil))
				want = append(want, "subscribe", "unsubscribe")
			}
			assert.Equal(t, want, o.ran)
		})
	}
}

func TestGovernDeniesCustomMethods(t *testing.T) {
	o := newOwn(t, 0)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	here, there := mcp.NewInMemoryTransports()
	_, err := o.server.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	require.NoError(t, mcp.AddSendingCustomMethod[*mcp.CallToolParamsRaw, *mcp.CallToolResult](client, "notes/custom"))
	cs, err := client.Connect(t.Context(), here, nil)
	require.NoError(t, err)
	defer cs.Close()
	_, err = mcp.CallCustomMethod[*mcp.CallToolParamsRaw, *mcp.CallToolResult](t.Context(), cs, "notes/custom", &mcp.CallToolParamsRaw{Name: "x"})
	var e *jsonrpc.Error
	require.ErrorAs(t, err, &e)
	assert.EqualValues(t, -32601, e.Code)
	assert.Equal(t, audit.GuardMethod, o.last(t).Event.Decision.Reason)
	assert.Empty(t, o.ran)
}

func TestGovernDeniesWithout(t *testing.T) {
	for name, c := range map[string]struct {
		govern func(o *own) mcp.Middleware
		reason string
		guard  string
	}{
		"engine": {func(o *own) mcp.Middleware { return mcpx.Govern(nil, o.log, &mcpx.GovernOptions{Identify: as(bot)}) }, "no-policy", audit.GuardNoSnapshot},
		"log":    {func(o *own) mcp.Middleware { return mcpx.Govern(o.engine, nil, &mcpx.GovernOptions{Identify: as(bot)}) }, "no-policy", ""},
		"policy": {func(o *own) mcp.Middleware {
			return mcpx.Govern(governance.NewEngine(o.log, nil), o.log, &mcpx.GovernOptions{Server: "notes", Identify: as(bot)})
		}, "no-policy", audit.GuardNoSnapshot},
		"options": {func(o *own) mcp.Middleware { return mcpx.Govern(o.engine, o.log, nil) }, "no-actor", audit.GuardNoActor},
		"actor": {func(o *own) mcp.Middleware {
			return mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(audit.Actor{})})
		}, "no-actor", audit.GuardNoActor},
		"identity": {func(o *own) mcp.Middleware {
			return mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: func(context.Context, mcp.Request) (audit.Actor, error) {
				return bot, errors.New("not sure")
			}})
		}, "no-actor", audit.GuardNoActor},
		"panicking identity": {func(o *own) mcp.Middleware {
			return mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: func(context.Context, mcp.Request) (audit.Actor, error) { panic("x") }})
		}, "internal", audit.GuardPanic},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOwn(t, 0)
			o.server.AddReceivingMiddleware(c.govern(o))
			cs := o.connect(t, modern)
			n := len(o.log.Records())
			res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "note"}})
			require.NoError(t, err)
			assert.Equal(t, c.reason, denial(t, res).Reason)
			_, err = cs.ListTools(t.Context(), nil)
			require.Error(t, err)
			assert.Empty(t, o.ran)
			if c.guard != "" {
				recs := o.log.Records()[n:]
				require.Len(t, recs, 2)
				assert.Equal(t, c.guard, recs[0].Event.Decision.Reason)
			}
		})
	}
}

func TestGovernRefusesDebugSwitches(t *testing.T) {
	o := newOwn(t, 0)
	t.Setenv("MCPGODEBUG", "x=1")
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	res, err := o.connect(t, modern).CallTool(t.Context(), &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "note"}})
	require.NoError(t, err)
	assert.Contains(t, mcptest.Text(res), "MCPGODEBUG")
	assert.Empty(t, o.ran)
}

func TestGovernDrift(t *testing.T) {
	o := newOwn(t, 0)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	cs := o.connect(t, modern)
	add := func(name, description string) {
		o.server.AddTool(&mcp.Tool{Name: name, Description: description, InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			o.ran = append(o.ran, "evil")
			return &mcp.CallToolResult{}, nil
		})
	}
	add("add", "changed")
	add("new", "not approved")
	o.server.RemoveTools("boom")
	res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "note"}})
	require.NoError(t, err)
	assert.Equal(t, "pin-drift", denial(t, res).Reason)
	assert.Equal(t, audit.GuardPinDrift, o.last(t).Event.Decision.Reason)
	_, err = cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "new"})
	require.ErrorContains(t, err, `unknown tool "new"`)
	assert.Equal(t, audit.GuardUnknown, o.last(t).Event.Decision.Reason)
	_, err = cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "boom", Arguments: map[string]any{"text": "x"}})
	require.ErrorContains(t, err, `unknown tool "boom"`)
	tools, err := cs.ListTools(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, tools.Tools)
	assert.Equal(t, "add", o.last(t).Event.Detail["drift"])
	assert.Empty(t, o.ran)
}

func TestGovernAuditDown(t *testing.T) {
	o := newOwn(t, 0)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	cs := o.connect(t, modern)
	o.log.Fail(errors.New("disk full"))
	res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "note"}})
	require.NoError(t, err)
	assert.Equal(t, "audit", denial(t, res).Reason)
	_, err = cs.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "daily"})
	var e *jsonrpc.Error
	require.ErrorAs(t, err, &e)
	assert.EqualValues(t, mcpx.CodeDenied, e.Code)
	var d mcpx.Denial
	require.NoError(t, json.Unmarshal(e.Data, &d))
	assert.Equal(t, "audit", d.Reason)
	_, err = cs.ListTools(t.Context(), nil)
	require.Error(t, err)
	assert.Empty(t, o.ran)
}

// Over HTTP the actor comes from the verified token of each request.
func TestGovernRevoked(t *testing.T) {
	o, agents := newOwn(t, 0), newAgents()
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot), Agents: agents}))
	cs := o.connect(t, modern)
	add := &mcp.CallToolParams{Name: "add", Arguments: map[string]any{"text": "note 1"}}
	res, err := cs.CallTool(t.Context(), add)
	require.NoError(t, err)
	require.False(t, res.IsError)
	agents.revoke("bot")
	res, err = cs.CallTool(t.Context(), add)
	require.NoError(t, err)
	assert.Equal(t, audit.GuardRevoked, denial(t, res).Reason)
	assert.Equal(t, audit.GuardRevoked, o.last(t).Event.Decision.Reason)
	assert.Equal(t, []string{"add"}, o.ran)
}

func TestGovernOverHTTP(t *testing.T) {
	o := newOwn(t, 0)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{
		Identify: func(context.Context, mcp.Request) (audit.Actor, error) {
			panic("not asked over HTTP")
		},
	}))
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return o.server }, nil)
	verify := mcpx.TokenVerifier(tokens{}, "https://gw.example/mcp")
	srv := httptest.NewServer(auth.RequireBearerToken(verify, nil)(h))
	defer srv.Close()
	plain := httptest.NewServer(h)
	defer plain.Close()

	a := mcptest.Connect(t, srv.URL, &mcptest.ConnectOptions{Token: "bot", Version: legacy})
	res, err := a.Call(t.Context(), "add", `{"text":"note"}`)
	require.NoError(t, err)
	require.False(t, res.IsError, mcptest.Text(res))
	b := mcptest.Connect(t, srv.URL, &mcptest.ConnectOptions{Token: "other", Version: legacy})
	res, err = b.Call(t.Context(), "add", `{"text":"note"}`)
	require.NoError(t, err)
	assert.Equal(t, "policy", denial(t, res).Reason)
	_, err = mcptest.TryConnect(t, srv.URL, &mcptest.ConnectOptions{Token: "wrong"})
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "verifier text")
	c := mcptest.Connect(t, plain.URL, &mcptest.ConnectOptions{Version: legacy})
	res, err = c.Call(t.Context(), "add", `{"text":"note"}`)
	require.NoError(t, err)
	assert.Equal(t, "no-actor", denial(t, res).Reason)
	assert.Equal(t, []string{"add"}, o.ran)
}

func TestListenIsGoverned(t *testing.T) {
	o := newOwn(t, 0)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	cs := o.connect(t, modern)
	require.NoError(t, cs.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "notes://secret"})) // the answer comes on the stream
	require.Eventually(t, func() bool {
		for _, d := range o.log.Denials() {
			if d.Resource == `Resource::"notes__notes://secret"` {
				return true
			}
		}
		return false
	}, time.Minute, time.Millisecond)
	assert.Empty(t, o.ran)
}

func TestCatalog(t *testing.T) {
	o := newOwn(t, 1)
	here, there := mcp.NewInMemoryTransports()
	_, err := o.server.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	b, err := mcpx.ReadCatalog(t.Context(), "notes", here)
	require.NoError(t, err)
	var s governance.Server
	require.NoError(t, json.Unmarshal(b, &s))
	assert.Equal(t, "notes", s.Name)
	require.Len(t, s.Tools, 4)
	assert.Equal(t, governance.Destructive, s.Tools[0].Class, "says nothing, so the worst is assumed")
	direct, err := mcpx.Catalog(t.Context(), "notes", o.server)
	require.NoError(t, err)
	for i := range s.Tools {
		p1, err := s.Tools[i].Pin()
		require.NoError(t, err)
		p2, err := direct.Tools[i].Pin()
		require.NoError(t, err)
		assert.Equal(t, p1, p2)
	}
	for _, name := range []string{"", "A", "a_b", strings.Repeat("a", 33)} {
		_, err = mcpx.Catalog(t.Context(), name, o.server)
		require.ErrorIs(t, err, mcpx.ErrCatalog)
	}
	gone, _ := mcp.NewInMemoryTransports()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = mcpx.ReadCatalog(ctx, "notes", gone)
	require.ErrorIs(t, err, mcpx.ErrCatalog)
	_, err = mcpx.Catalog(t.Context(), "notes", nil)
	assert.ErrorIs(t, err, mcpx.ErrCatalog)
	_, err = mcpx.ReadCatalog(t.Context(), "notes", nil)
	assert.ErrorIs(t, err, mcpx.ErrCatalog)
}

// Identify is for stdio. A client of the SDK's SSE endpoint is not taken for
// the one at the other end of the pipe.
func TestIdentifyIsNotAskedOverSSE(t *testing.T) {
	w := newWorld(t, nil)
	s := slackServer()
	s.AddReceivingMiddleware(mcpx.Govern(w.engine, w.log, &mcpx.GovernOptions{
		Server:   "slack",
		Identify: func(context.Context, mcp.Request) (audit.Actor, error) { return bot, nil },
	}))
	srv := httptest.NewServer(mcp.NewSSEHandler(func(*http.Request) *mcp.Server { return s }, nil))
	defer srv.Close()
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "x", Version: "1"}, nil).Connect(t.Context(), &mcp.SSEClientTransport{Endpoint: srv.URL}, nil)
	require.NoError(t, err)
	defer cs.Close()
	res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "post_message", Arguments: json.RawMessage(`{"channel":"#engineering","text":"x"}`)})
	require.NoError(t, err)
	assert.Equal(t, "no-actor", denial(t, res).Reason)
}
