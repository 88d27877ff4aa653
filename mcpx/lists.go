package mcpx

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// maxPages bounds how often one list is continued.
const maxPages = 1000

// Lists are answered in one page, in the server's order. A cursor of the SDK
// names the last item of the page before it is filtered, and so would tell an
// agent about things it must not know.

func (g *governor) listTools(ctx context.Context, q *query) (mcp.Result, error) {
	g.site.refresh()
	var out mcp.ListToolsResult
	var drift []string
	err := pages(ctx, q, func(cursor string, extra *mcp.RequestExtra, ss *mcp.ServerSession) mcp.Request {
		return &mcp.ListToolsRequest{Session: ss, Extra: extra, Params: &mcp.ListToolsParams{Cursor: cursor, Meta: metaOf(q.req)}}
	}, func(res mcp.Result) (string, bool) {
		page, ok := res.(*mcp.ListToolsResult)
		if !ok || page == nil {
			return "", false
		}
		tools := out.Tools
		out = *page
		for _, t := range page.Tools {
			server, tool := g.site.route(kindTool, t.Name)
			switch g.liveTool(t, server, tool) {
			case "":
				tools = append(tools, t)
			case audit.GuardPinDrift:
				drift = append(drift, clip(t.Name, 64))
			}
		}
		out.Tools = tools
		return page.NextCursor, true
	})
	if err != nil {
		return nil, err
	}
	of := len(out.Tools)
	ref := func(t *mcp.Tool) governance.ToolRef {
		server, tool := g.site.route(kindTool, t.Name)
		return governance.ToolRef{Server: server, Name: tool}
	}
	out.Tools, err = visible(ctx, g, q, "call_tool", out.Tools, ref)
	if err != nil {
		return g.refuse(ctx, q, unseen(err))
	}
	tools, withheld, no := listed(ctx, g, q, out.Tools, ref)
	if no != nil {
		return g.refuse(ctx, q, *no)
	}
	out.Tools = tools
	out.NextCursor, out.Meta, out.Cacheable = "", maps.Clone(out.Meta), mcp.Cacheable{CacheScope: "private"}
	notes := make(map[string]string)
	if len(withheld) > 0 {
		notes["withheld"] = clip(strings.Join(withheld, " "), 512)
	}
	if len(drift) > 0 {
		notes["drift"] = clip(strings.Join(drift, " "), 512)
	}
	if gw, ok := g.site.(*Gateway); ok {
		out.Tools = gw.shorten(out.Tools, notes)
	}
	return g.shown(ctx, q, "list_tools", &out, len(out.Tools), of, notes)
}

// liveTool compares a listed tool with the catalogue. The gateway lists what it
// took from the catalogue, so there only its own tools are at stake.
func (g *governor) liveTool(t *mcp.Tool, server, tool string) string {
	if own, ok := g.site.(*ownServer); ok {
		return own.compare(t, server, tool)
	}
	return ""
}

func (g *governor) listPrompts(ctx context.Context, q *query) (mcp.Result, error) {
	g.site.refresh()
	var out mcp.ListPromptsResult
	err := pages(ctx, q, func(cursor string, extra *mcp.RequestExtra, ss *mcp.ServerSession) mcp.Request {
		return &mcp.ListPromptsRequest{Session: ss, Extra: extra, Params: &mcp.ListPromptsParams{Cursor: cursor, Meta: metaOf(q.req)}}
	}, func(res mcp.Result) (string, bool) {
		page, ok := res.(*mcp.ListPromptsResult)
		if !ok || page == nil {
			return "", false
		}
		all := append(out.Prompts, page.Prompts...)
		out = *page
		out.Prompts = all
		return page.NextCursor, true
	})
	if err != nil {
		return nil, err
	}
	of := len(out.Prompts)
	out.Prompts, err = visible(ctx, g, q, "get_prompt", out.Prompts, func(p *mcp.Prompt) governance.ToolRef {
		server, own := g.site.route(kindPrompt, p.Name)
		return governance.ToolRef{Server: server, Name: own}
	})
	if err != nil {
		return g.refuse(ctx, q, unseen(err))
	}
	out.NextCursor, out.Meta, out.Cacheable = "", maps.Clone(out.Meta), mcp.Cacheable{CacheScope: "private"}
	return g.shown(ctx, q, "list_prompts", &out, len(out.Prompts), of, nil)
}

func (g *governor) listResources(ctx context.Context, q *query) (mcp.Result, error) {
	g.site.refresh()
	var out mcp.ListResourcesResult
	notes := make(map[string]string)
	if live, ok := g.site.(*Gateway); ok {
		if cursorOf(q.req) != "" {
			return nil, errCursor
		}
		var missing []string
		if out.Resources, missing = live.resources(ctx, q); len(missing) > 0 {
			notes["partial"] = clip(strings.Join(missing, " "), 512)
			o := live.offered.Load()
			missing = slices.DeleteFunc(missing, func(server string) bool { return !live.mayRead(ctx, q.actor, o.catalog[server]) })
			if len(missing) > 0 {
				out.Meta = mcp.Meta{PartialKey: missing}
			}
		}
	} else if err := pages(ctx, q, func(cursor string, extra *mcp.RequestExtra, ss *mcp.ServerSession) mcp.Request {
		return &mcp.ListResourcesRequest{Session: ss, Extra: extra, Params: &mcp.ListResourcesParams{Cursor: cursor, Meta: metaOf(q.req)}}
	}, func(res mcp.Result) (string, bool) {
		page, ok := res.(*mcp.ListResourcesResult)
		if !ok || page == nil {
			return "", false
		}
		all := append(out.Resources, page.Resources...)
		out = *page
		out.Resources = all
		return page.NextCursor, true
	}); err != nil {
		return nil, err
	}
	var err error
	of := len(out.Resources)
	out.Resources, err = visible(ctx, g, q, "read_resource", out.Resources, func(r *mcp.Resource) governance.ToolRef {
		server, own := g.site.route(kindResource, r.URI)
		return governance.ToolRef{Server: server, Name: own}
	})
	if err != nil {
		return g.refuse(ctx, q, unseen(err))
	}
	out.NextCursor, out.Meta, out.Cacheable = "", maps.Clone(out.Meta), mcp.Cacheable{CacheScope: "private"}
	return g.shown(ctx, q, "list_resources", &out, len(out.Resources), of, notes)
}

func (g *governor) listTemplates(ctx context.Context, q *query) (mcp.Result, error) {
	g.site.refresh()
	var out mcp.ListResourceTemplatesResult
	err := pages(ctx, q, func(cursor string, extra *mcp.RequestExtra, ss *mcp.ServerSession) mcp.Request {
		return &mcp.ListResourceTemplatesRequest{Session: ss, Extra: extra, Params: &mcp.ListResourceTemplatesParams{Cursor: cursor, Meta: metaOf(q.req)}}
	}, func(res mcp.Result) (string, bool) {
		page, ok := res.(*mcp.ListResourceTemplatesResult)
		if !ok || page == nil {
			return "", false
		}
		all := append(out.ResourceTemplates, page.ResourceTemplates...)
		out = *page
		out.ResourceTemplates = all
		return page.NextCursor, true
	})
	if err != nil {
		return nil, err
	}
	of := len(out.ResourceTemplates)
	out.ResourceTemplates, err = visible(ctx, g, q, "read_resource", out.ResourceTemplates, func(r *mcp.ResourceTemplate) governance.ToolRef {
		server, own := g.site.route(kindTemplate, r.URITemplate)
		return governance.ToolRef{Server: server, Name: own}
	})
	if err != nil {
		return g.refuse(ctx, q, unseen(err))
	}
	out.NextCursor, out.Meta, out.Cacheable = "", maps.Clone(out.Meta), mcp.Cacheable{CacheScope: "private"}
	return g.shown(ctx, q, "list_resource_templates", &out, len(out.ResourceTemplates), of, nil)
}

var errCursor = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "unknown cursor: this list has one page"}

// pages collects a whole list from the server.
func pages(ctx context.Context, q *query, ask func(cursor string, extra *mcp.RequestExtra, ss *mcp.ServerSession) mcp.Request, take func(mcp.Result) (next string, ok bool)) error {
	if cursorOf(q.req) != "" {
		return errCursor
	}
	ss, _ := q.req.GetSession().(*mcp.ServerSession)
	cursor := ""
	for range maxPages {
		res, err := q.next(ctx, q.method, ask(cursor, q.req.GetExtra(), ss))
		if err != nil {
			return err
		}
		next, ok := take(res)
		if !ok {
			return fmt.Errorf("mcpx: %s answered with %T", q.method, res)
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
	return fmt.Errorf("mcpx: %s goes on for more than %d pages", q.method, maxPages)
}

func cursorOf(req mcp.Request) string {
	p := req.GetParams()
	if p == nil || isNil(p) {
		return ""
	}
	switch p := p.(type) {
	case *mcp.ListToolsParams:
		return p.Cursor
	case *mcp.ListPromptsParams:
		return p.Cursor
	case *mcp.ListResourcesParams:
		return p.Cursor
	case *mcp.ListResourceTemplatesParams:
		return p.Cursor
	}
	return ""
}

func metaOf(req mcp.Request) mcp.Meta {
	p := req.GetParams()
	if p == nil || isNil(p) {
		return nil
	}
	return p.GetMeta()
}

// visible keeps the items that the actor could use with some arguments. The
// items themselves are shared with the server and not touched.
func visible[T any](ctx context.Context, g *governor, q *query, action string, items []T, ref func(T) governance.ToolRef) ([]T, error) {
	out := make([]T, 0, len(items)) // never JSON null
	if len(items) == 0 {
		return out, nil
	}
	refs := make([]governance.ToolRef, len(items))
	for i, item := range items {
		refs[i] = ref(item)
	}
	vis, err := g.engine.Visible(ctx, q.actor, action, refs)
	if err != nil || len(vis) != len(items) {
		return nil, fmt.Errorf("mcpx: visibility of %d items: %w", len(items), err)
	}
	for i, v := range vis {
		if v != governance.Never {
			out = append(out, items[i])
		}
	}
	return out, nil
}

// shown records what an actor was shown, and only then shows it.
func (g *governor) shown(ctx context.Context, q *query, action string, res mcp.Result, n, of int, notes map[string]string) (mcp.Result, error) {
	server := g.site.name()
	if server == "" {
		server = "*"
	}
	detail := map[string]string{"shown": strconv.Itoa(n), "of": strconv.Itoa(of), audit.DetailPolicyHash: g.engine.Hash()}
	maps.Copy(detail, notes)
	err := g.log.Append(ctx, audit.Event{
		Kind: audit.KindList, Door: audit.DoorTool, Action: action, Resource: `Server::` + strconv.Quote(server),
		Actor: q.actor, Detail: detail, Trace: q.trace,
	})
	if err != nil {
		g.logger.Error("mcpx: a list could not be recorded, so it is refused", "action", action, "error", err)
		r := refused(codeAudit)
		r.retryable = true
		return q.answer(r)
	}
	return res, nil
}

// discover marks the handshake's answer as one actor's.
func discover(res mcp.Result, err error) (mcp.Result, error) {
	if d, ok := res.(*mcp.DiscoverResult); ok && d != nil && err == nil {
		out := *d
		out.Meta, out.Cacheable = maps.Clone(d.Meta), mcp.Cacheable{CacheScope: "private"}
		return &out, nil
	}
	return res, err
}

// private marks what was read as one actor's.
func private(res mcp.Result, err error) (mcp.Result, error) {
	if d, ok := res.(*mcp.ReadResourceResult); ok && d != nil && err == nil {
		out := *d
		out.Meta, out.Cacheable = maps.Clone(d.Meta), mcp.Cacheable{CacheScope: "private"}
		return &out, nil
	}
	return res, err
}
