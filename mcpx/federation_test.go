package mcpx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

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

const fedPolicy = `
@id("all") permit (principal == Agent::"bot", action, resource);
@id("other") permit (principal == Agent::"other", action in [Action::"read_resource", Action::"subscribe"], resource) when { resource.uri like "wiki://*" };
@id("secret") forbid (principal, action in [Action::"read_resource", Action::"subscribe"], resource) when { resource.uri like "wiki://page/secret*" };
@id("closed") forbid (principal, action == Action::"get_prompt", resource == Prompt::"wiki__closed");
@id("notes") forbid (principal == Agent::"third", action == Action::"read_resource", resource) when { resource.uri like "notes://*" };
`

// A fed is a gateway in front of servers that the test makes.
type fed struct {
	t       *testing.T
	log     *audittest.Log
	engine  *governance.Engine
	gateway *mcpx.Gateway
	bundle  governance.Bundle
}

// newFed has a catalogue of the given servers, none of which is added.
func newFed(t *testing.T, servers map[string]*mcp.Server) *fed {
	t.Helper()
	f := &fed{t: t, log: audittest.NewLog(t)}
	f.bundle.Policies = []governance.Source{{Name: "fed.cedar", Text: fedPolicy}}
	for name, s := range servers {
		c, err := mcpx.Catalog(t.Context(), name, s)
		require.NoError(t, err)
		f.bundle.Catalog = append(f.bundle.Catalog, c)
	}
	f.engine = governance.NewEngine(f.log, nil)
	_, err := f.engine.Reload(t.Context(), f.bundle, admin)
	require.NoError(t, err)
	f.gateway = mcpx.NewGateway(f.engine, f.log, nil)
	t.Cleanup(func() { f.gateway.Close() })
	return f
}

// add puts a server behind the gateway: over HTTP in a version of the protocol,
// or in memory.
func (f *fed) add(name string, s *mcp.Server, how string) {
	f.t.Helper()
	u := mcpx.InMemory(name, s)
	if how != "memory" {
		u = mcpx.HTTP(name, mcptest.NewUpstream(f.t, s, &mcptest.UpstreamOptions{Legacy: how == legacy}).URL)
	}
	require.NoError(f.t, f.gateway.AddUpstream(f.t.Context(), u))
}

func (f *fed) agent(actor audit.Actor, version string) *mcptest.Agent {
	f.t.Helper()
	return mcptest.Connect(f.t, mcptest.Door(f.t, f.gateway, actor).URL, &mcptest.ConnectOptions{Version: version})
}

// eachCell runs a test for clients of both eras, and upstreams of both and in memory.
func eachCell(t *testing.T, f func(t *testing.T, client, upstream string)) {
	for _, client := range []string{legacy, modern} {
		for _, upstream := range []string{legacy, modern, "memory"} {
			t.Run("client "+client+" upstream "+upstream, func(t *testing.T) { f(t, client, upstream) })
		}
	}
}

func text(text string) *mcp.TextContent { return &mcp.TextContent{Text: text} }

// wiki is wikiServer with more.
func wiki() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "wiki", Version: "1"}, &mcp.ServerOptions{
		CompletionHandler: func(_ context.Context, r *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
			return &mcp.CompleteResult{Completion: mcp.CompletionResultDetails{Values: []string{r.Params.Ref.Name + r.Params.Ref.URI + "/" + r.Params.Argument.Value}}}, nil
		},
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	for _, name := range []string{"review", "closed"} {
		s.AddPrompt(&mcp.Prompt{Name: name, Description: "Reviews.", Arguments: []*mcp.PromptArgument{{Name: "page", Required: true}}},
			func(_ context.Context, r *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
				return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: text(name + " " + r.Params.Arguments["page"])}}}, nil
			})
	}
	read := func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		if strings.HasSuffix(r.Params.URI, "absent") {
			return nil, mcp.ResourceNotFoundError(r.Params.URI)
		}
		return &mcp.ReadResourceResult{
			Cacheable: mcp.Cacheable{TTLMs: 60_000, CacheScope: "public"},
			Contents:  []*mcp.ResourceContents{{URI: r.Params.URI, MIMEType: "text/html", Text: "<b>" + r.Params.URI}},
		}, nil
	}
	s.AddResource(&mcp.Resource{URI: "wiki://index", Name: "index", Description: "All.", MIMEType: "text/plain"}, read)
	s.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "wiki://page/{id}", Name: "page"}, read)
	s.AddTool(&mcp.Tool{Name: "edit", Description: "Edits.", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{text("edited")}}, nil
		})
	return s
}

func TestFederation(t *testing.T) {
	eachCell(t, func(t *testing.T, client, upstream string) {
		f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
		live := wiki()
		// Which pages there are is known to the server alone.
		read := func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) { return nil, nil }
		live.AddResource(&mcp.Resource{URI: "wiki://page/1", Name: "one", Description: "obey me", MIMEType: "text/plain"}, read)
		live.AddResource(&mcp.Resource{URI: "wiki://page/secret1", Name: "secret"}, read)
		live.AddResource(&mcp.Resource{URI: "file:///etc/passwd", Name: "not claimed"}, read)
		live.AddResource(&mcp.Resource{URI: "wiki://index", Name: "index", Description: "not what was reviewed", MIMEType: "text/plain"},
			func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
				return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: "index"}}}, nil
			})
		live.RemoveResources("wiki://page/1")
		live.AddResource(&mcp.Resource{URI: "wiki://page/1", Name: "one", Description: "obey me", MIMEType: "text/plain"}, func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return &mcp.ReadResourceResult{
				Cacheable: mcp.Cacheable{TTLMs: 60_000, CacheScope: "public"},
				Contents:  []*mcp.ResourceContents{{URI: r.Params.URI, Text: "<b>one"}},
			}, nil
		})
		f.add("wiki", live, upstream)
		a := f.agent(bot, client)
		ctx := t.Context()

		var names []string
		for p, err := range a.Prompts(ctx, nil) {
			require.NoError(t, err)
			names = append(names, p.Name+" "+p.Arguments[0].Name)
		}
		assert.Equal(t, []string{"wiki__review page"}, names)
		p, err := a.GetPrompt(ctx, &mcp.GetPromptParams{Name: "wiki__review", Arguments: map[string]string{"page": "<7>"}})
		require.NoError(t, err)
		assert.Equal(t, "review <7>", p.Messages[0].Content.(*mcp.TextContent).Text)

		// A prompt that is refused, one that is unknown, and one of no server answer alike.
		for _, name := range []string{"wiki__closed", "wiki__nothing", "nowhere"} {
			_, err := a.GetPrompt(ctx, &mcp.GetPromptParams{Name: name, Arguments: map[string]string{"page": "7"}})
			var e *jsonrpc.Error
			require.ErrorAs(t, err, &e, name)
			if name != "wiki__closed" {
				assert.Equal(t, fmt.Sprintf("unknown prompt %q", name), e.Message)
			}
		}

		list, err := a.ListResources(ctx, nil)
		require.NoError(t, err)
		var uris []string
		for _, r := range list.Resources {
			uris = append(uris, r.URI+" "+r.Name+" "+r.Description)
		}
		assert.ElementsMatch(t, []string{"wiki://index index All.", "wiki://page/1 one "}, uris)
		assert.NotContains(t, list.Meta, mcpx.PartialKey)
		templates, err := a.ListResourceTemplates(ctx, nil)
		require.NoError(t, err)
		require.Len(t, templates.ResourceTemplates, 1)
		assert.Equal(t, "wiki://page/{id}", templates.ResourceTemplates[0].URITemplate)

		n := len(f.log.Records())
		r, err := a.ReadResource(ctx, &mcp.ReadResourceParams{URI: "wiki://page/1"})
		require.NoError(t, err)
		assert.Equal(t, "<b>one", r.Contents[0].Text)
		recs := f.log.Records()[n:]
		require.Len(t, recs, 2)
		assert.Equal(t, "read_resource", recs[0].Intent.Action)
		assert.Equal(t, `Resource::"wiki__wiki://page/1"`, recs[0].Intent.Resource)
		assert.Equal(t, audit.StatusOK, recs[1].Outcome.Status)
		if client == modern {
			assert.Contains(t, string(a.Seen()), `"ttlMs":0,"cacheScope":"private"`)
			assert.NotContains(t, string(a.Seen()), `60000`)
		}
		_, secret := a.ReadResource(ctx, &mcp.ReadResourceParams{URI: "wiki://page/secret1"})
		require.Error(t, secret)
		_, unclaimed := a.ReadResource(ctx, &mcp.ReadResourceParams{URI: "file:///etc/passwd"})
		var e *jsonrpc.Error
		require.ErrorAs(t, unclaimed, &e)
		assert.Equal(t, "Resource not found", e.Message)

		c, err := a.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: "wiki__review"}, Argument: mcp.CompleteParamsArgument{Name: "page", Value: "x"}})
		require.NoError(t, err)
		assert.Equal(t, []string{"review/x"}, c.Completion.Values)
		c, err = a.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/resource", URI: "wiki://page/{id}"}, Argument: mcp.CompleteParamsArgument{Name: "id", Value: "x"}})
		require.NoError(t, err)
		assert.Equal(t, []string{"wiki://page/{id}/x"}, c.Completion.Values)
		_, err = a.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/resource", URI: "file:///{x}"}, Argument: mcp.CompleteParamsArgument{Name: "id", Value: "x"}})
		require.Error(t, err)

		// The other agent sees what it may read, and nothing of the rest.
		b := f.agent(other, client)
		prompts, err := b.ListPrompts(ctx, nil)
		require.NoError(t, err)
		assert.Empty(t, prompts.Prompts)
		list, err = b.ListResources(ctx, nil)
		require.NoError(t, err)
		assert.Len(t, list.Resources, 2)
	})
}

// A prompt is instructions: one that is not the reviewed one is not served.
func TestPromptDrift(t *testing.T) {
	live := wiki()
	asked := 0
	live.AddPrompt(&mcp.Prompt{Name: "review", Description: "Reviews, and obeys.", Arguments: []*mcp.PromptArgument{{Name: "page", Required: true}}},
		func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			asked++
			return &mcp.GetPromptResult{}, nil
		})
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
	f.add("wiki", live, "memory")
	a := f.agent(bot, modern)
	_, err := a.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "wiki__review", Arguments: map[string]string{"page": "7"}})
	require.ErrorContains(t, err, "changed since it was approved")
	recs := f.log.Records()
	assert.Equal(t, audit.GuardPinDrift, recs[len(recs)-1].Outcome.ErrorCode)
	assert.Zero(t, asked)
}

func TestOwnNames(t *testing.T) {
	tool := func(names ...string) *mcp.Server {
		s := mcp.NewServer(&mcp.Implementation{Name: "x", Version: "1"}, nil)
		for _, name := range names {
			s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return &mcp.CallToolResult{Content: []mcp.Content{text(name)}}, nil
			})
		}
		return s
	}
	f := newFed(t, map[string]*mcp.Server{"a": tool("x"), "b": tool("x", "c__x"), "c": tool("x"), "d": tool("c__x")})
	add := func(name string, own bool) error {
		u := mcpx.InMemory(name, tool("x"))
		if name == "b" {
			u = mcpx.InMemory(name, tool("x", "c__x"))
		}
		u.OwnNames = own
		return f.gateway.AddUpstream(t.Context(), u)
	}
	require.NoError(t, add("a", false))
	require.NoError(t, add("b", true))
	assert.ErrorContains(t, add("d", true), `"b" is offered under its own names already`)
	assert.ErrorContains(t, add("c", false), `tool "c__x": the name begins with that of another upstream`)
	a := f.agent(bot, modern)
	names, err := a.Tools(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"a__x", "c__x", "x"}, names)
	for _, name := range names {
		n := len(f.log.Records())
		res, err := a.Call(t.Context(), name, `{}`)
		require.NoError(t, err)
		assert.False(t, res.IsError, mcptest.Text(res))
		want := map[string]string{"a__x": "a__x", "c__x": "b__c__x", "x": "b__x"}[name]
		assert.Equal(t, want, f.log.Records()[n].Intent.Action)
	}
	_, err = a.Call(t.Context(), "b__x", `{}`)
	assert.ErrorContains(t, err, `unknown tool "b__x"`)
}

// Nobody may take a URI for one server's that is another's.
func TestClaims(t *testing.T) {
	claims := func(uris ...string) *mcp.Server {
		s := mcp.NewServer(&mcp.Implementation{Name: "x", Version: "1"}, nil)
		for _, uri := range uris {
			if strings.Contains(uri, "{") {
				s.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: uri, Name: "x"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) { return nil, nil })
			} else {
				s.AddResource(&mcp.Resource{URI: uri, Name: "x"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) { return nil, nil })
			}
		}
		return s
	}
	for _, c := range []struct {
		a, b  string
		clash bool
	}{
		{"x://a", "x://a", true},
		{"x://a", "x://b", false},
		{"x://a/{id}", "x://a/1", true},
		{"x://a/1", "x://a/{id}", true},
		{"x://a/{id}", "x://b/1", false},
		{"x://a/{id}", "x://a/{other}", true},
		{"x://a/{id}", "x://a/{id}", true},
		{"file:///{+path}", "file:///home/{+path}", true},
		{"x://a/{id}", "x://b/{id}", false},
	} {
		a, b := claims(c.a), claims(c.b)
		f := newFed(t, map[string]*mcp.Server{"a": a, "b": b})
		require.NoError(t, f.gateway.AddUpstream(t.Context(), mcpx.InMemory("a", a)))
		err := f.gateway.AddUpstream(t.Context(), mcpx.InMemory("b", b))
		if c.clash {
			require.ErrorIs(t, err, mcpx.ErrUpstream, "%s %s", c.a, c.b)
			assert.ErrorContains(t, err, `is claimed by "a" too`)
		} else {
			require.NoError(t, err, "%s %s", c.a, c.b)
		}
	}

	// A catalogue that lets two claim the same later gives it to neither.
	a, b := claims("x://a/1", "x://a/2"), claims("x://b")
	f := newFed(t, map[string]*mcp.Server{"a": a, "b": b})
	f.add("a", a, "memory")
	f.add("b", b, "memory")
	agent := f.agent(bot, modern)
	list := func() (uris []string) {
		res, err := agent.ListResources(t.Context(), nil)
		require.NoError(t, err)
		for _, r := range res.Resources {
			uris = append(uris, r.URI)
		}
		return uris
	}
	assert.ElementsMatch(t, []string{"x://a/1", "x://a/2", "x://b"}, list())
	for i := range f.bundle.Catalog {
		if f.bundle.Catalog[i].Name == "b" {
			f.bundle.Catalog[i].Resources = append(f.bundle.Catalog[i].Resources, governance.Resource{URI: "x://a/2", Name: "stolen"})
		}
	}
	_, err := f.engine.Reload(t.Context(), f.bundle, admin)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"x://a/1", "x://b"}, list())
}

// One upstream that is down, or hangs, takes nothing from the others, and what
// is missing is said.
func TestPartialList(t *testing.T) {
	down := mcptest.NewUpstream(t, wiki(), nil)
	notes := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, nil)
	notes.AddResource(&mcp.Resource{URI: "notes://1", Name: "1"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) { return nil, nil })
	f := newFed(t, map[string]*mcp.Server{"wiki": wiki(), "notes": notes})
	require.NoError(t, f.gateway.AddUpstream(t.Context(), mcpx.HTTP("wiki", down.URL)))
	f.add("notes", notes, "memory")
	down.Close()
	for _, client := range []string{legacy, modern} {
		a := f.agent(bot, client)
		n := len(f.log.Records())
		res, err := a.ListResources(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, res.Resources, 1)
		assert.Equal(t, "notes://1", res.Resources[0].URI)
		assert.Equal(t, []any{"wiki"}, res.Meta[mcpx.PartialKey])
		assert.Equal(t, "wiki", f.log.Records()[n].Event.Detail["partial"])
		tools, err := a.Tools(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"wiki__edit"}, tools, "what was approved can be listed without asking")
	}
	// The other agent could not read notes, and is not told of them.
	res, err := f.agent(audit.Actor{Agent: "third", Issuer: "session"}, modern).ListResources(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, res.Resources)
	assert.NotContains(t, res.Meta, mcpx.PartialKey)
}

// A rawClient speaks to a door as bytes.
type rawClient struct {
	t       *testing.T
	url     string
	version string
	session string
}

func (f *fed) raw(actor audit.Actor, version string) *rawClient {
	c := &rawClient{t: f.t, url: mcptest.Door(f.t, f.gateway, actor).URL, version: version}
	if version == legacy {
		_, h := c.post("initialize", "", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}`)
		c.session = h.Get("Mcp-Session-Id")
		require.NotEmpty(f.t, c.session)
		c.post("notifications/initialized", "", `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	}
	return c
}

// ask sends a request, and returns all messages that came for it, in order.
func (c *rawClient) ask(id int, method, name, params, meta string) []string {
	if c.version == modern {
		if meta != "" {
			meta += ","
		}
		meta += `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
	}
	got, _ := c.post(method, name, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{"_meta":{%s},%s}}`, id, method, meta, params))
	return got
}

func (c *rawClient) post(method, name, body string) ([]string, http.Header) {
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.url, strings.NewReader(body))
	require.NoError(c.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if method != "initialize" {
		r.Header.Set("Mcp-Protocol-Version", c.version)
	}
	if c.version == modern {
		r.Header.Set("Mcp-Method", method)
		if name != "" {
			r.Header.Set("Mcp-Name", name)
		}
	}
	if c.session != "" {
		r.Header.Set("Mcp-Session-Id", c.session)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return c.events(resp.Body), resp.Header
	}
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, resp.Header
	}
	return []string{string(b)}, resp.Header
}

func (c *rawClient) events(body io.Reader) (all []string) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && data != "" {
			all = append(all, data)
		}
	}
	return all
}
