package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

var serverName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// Catalog writes down the tools that server has now, for an author who governs
// a server of their own:
//
//	bundle.Catalog = append(bundle.Catalog, must(mcpx.Catalog(ctx, "tickets", server)))
//
// Your own code is trusted, so nobody has to review this; tools that are added
// later, or changed, are drift until it is written down again. Call it before
// [Govern] is added. The class of each tool comes from your own annotations:
// read for readOnlyHint, write for destructiveHint false, else destructive.
//
// For a server that others wrote, use [ReadCatalog] and review the file.
func Catalog(ctx context.Context, name string, server *mcp.Server) (governance.Server, error) {
	if server == nil {
		return governance.Server{}, fmt.Errorf("%w: server is nil", ErrCatalog)
	}
	here, there := mcp.NewInMemoryTransports()
	ss, err := server.Connect(ctx, there, nil)
	if err != nil {
		return governance.Server{}, fmt.Errorf("%w: %w", ErrCatalog, err)
	}
	defer ss.Close()
	return readCatalog(ctx, name, here)
}

// ReadCatalog lists a live server's tools as a catalogue file (JSON) for a
// person to review and to store in the bundle's catalog folder. The class of
// each tool is a proposal from the server's own annotations, and destructive
// when it says nothing: a reviewer has to look at each one, because a server
// may lie.
func ReadCatalog(ctx context.Context, server string, t mcp.Transport) ([]byte, error) {
	s, err := readCatalog(ctx, server, t)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCatalog, err)
	}
	return b.Bytes(), nil
}

func readCatalog(ctx context.Context, name string, t mcp.Transport) (governance.Server, error) {
	none := governance.Server{}
	if t == nil {
		return none, fmt.Errorf("%w: transport is nil", ErrCatalog)
	}
	if !serverName.MatchString(name) {
		return none, fmt.Errorf("%w: server name %q: use 1 to 32 of a-z, 0-9 and -", ErrCatalog, name)
	}
	if _, overHTTP := t.(*mcp.StreamableClientTransport); !overHTTP {
		t = &tap{Transport: t, wire: new(wire)} // so that ctx ends it
	}
	cs, err := newClient(nil).Connect(ctx, t, nil)
	if err != nil {
		return none, fmt.Errorf("%w: %w", ErrCatalog, err)
	}
	defer cs.Close()
	s := governance.Server{Name: name, Tools: []governance.Tool{}}
	for tool, err := range cs.Tools(ctx, nil) {
		if err != nil {
			return none, fmt.Errorf("%w: listing the tools of %q: %w", ErrCatalog, name, err)
		}
		d, err := definition(tool)
		if err != nil {
			return none, fmt.Errorf("%w: tool %q: %w", ErrCatalog, tool.Name, err)
		}
		s.Tools = append(s.Tools, governance.Tool{ToolDefinition: d, Class: classOf(tool.Annotations)})
	}
	return s, nil
}

// classOf proposes a class. MCP's own default is destructive.
func classOf(a *mcp.ToolAnnotations) governance.Class {
	switch {
	case a == nil:
		return governance.Destructive
	case a.ReadOnlyHint:
		return governance.Read
	case a.DestructiveHint != nil && !*a.DestructiveHint:
		return governance.Write
	}
	return governance.Destructive
}

// definition returns what a pin covers of a tool.
func definition(t *mcp.Tool) (governance.ToolDefinition, error) {
	d := governance.ToolDefinition{Name: t.Name, Title: t.Title, Description: t.Description}
	var err error
	if d.InputSchema, err = json.Marshal(t.InputSchema); err != nil {
		return d, err
	}
	if t.OutputSchema != nil {
		if d.OutputSchema, err = json.Marshal(t.OutputSchema); err != nil {
			return d, err
		}
	}
	if t.Annotations != nil {
		d.Annotations, err = json.Marshal(t.Annotations)
	}
	return d, err
}

// normal returns a definition with its annotations as the SDK spells them, so
// that a catalogue file need not spell out what is at its default.
func normal(d governance.ToolDefinition) governance.ToolDefinition {
	if len(d.Annotations) == 0 {
		return d
	}
	var a mcp.ToolAnnotations
	if json.Unmarshal(d.Annotations, &a) != nil {
		return d // it will match nothing
	}
	d.Annotations, _ = json.Marshal(&a)
	return d
}

// A pinboard compares live definitions with approved ones and remembers the
// hashes, since neither kind of definition ever changes in place.
type pinboard struct {
	mu       sync.Mutex
	live     map[*mcp.Tool]string // by the SDK's tool
	approved map[string]string    // by the catalogue's own pin
}

// maxPins bounds a pinboard; a server that replaces its tools all the time
// starts it anew.
const maxPins = 8192

// same reports whether t is the tool that was approved.
func (p *pinboard) same(t *mcp.Tool, approved governance.ToolDefinition, pin string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live == nil || len(p.live)+len(p.approved) > maxPins {
		p.live, p.approved = make(map[*mcp.Tool]string), make(map[string]string)
	}
	want, ok := p.approved[pin]
	if !ok {
		var err error
		if want, err = normal(approved).Pin(); err != nil {
			return false
		}
		p.approved[pin] = want
	}
	got, ok := p.live[t]
	if !ok {
		d, err := definition(t)
		if err != nil {
			return false
		}
		if got, err = d.Pin(); err != nil {
			return false
		}
		p.live[t] = got
	}
	return got == want
}

// toTool makes the tool that is offered from its approved definition.
func toTool(name string, d governance.ToolDefinition) (*mcp.Tool, error) {
	t := &mcp.Tool{Name: name, Title: d.Title, Description: d.Description, InputSchema: d.InputSchema}
	if len(d.OutputSchema) > 0 {
		t.OutputSchema = d.OutputSchema
	}
	if len(d.Annotations) > 0 {
		t.Annotations = new(mcp.ToolAnnotations)
		if err := json.Unmarshal(d.Annotations, t.Annotations); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// newClient makes a client that offers a server nothing: no roots, no sampling,
// no elicitation, and no caching, since what it caches is not keyed by who asks.
func newClient(opts *mcp.ClientOptions) *mcp.Client {
	if opts == nil {
		opts = &mcp.ClientOptions{}
	}
	opts.Capabilities = &mcp.ClientCapabilities{}
	opts.MultiRoundTrip = &mcp.MultiRoundTripOptions{Disabled: true}
	c := mcp.NewClient(&mcp.Implementation{Name: "twinward", Version: "1"}, opts)
	c.AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			res, err := next(ctx, method, req)
			switch r := res.(type) {
			case *mcp.ListToolsResult:
				r.TTLMs = 0
			case *mcp.ReadResourceResult:
				r.TTLMs = 0
			}
			return res, err
		}
	})
	return c
}

// ownServer is the site of an author's own server: its tools are where the
// middleware is.
type ownServer struct {
	engine *governance.Engine
	server string
	pins   pinboard
}

func newOwnServer(engine *governance.Engine, server string) *ownServer {
	return &ownServer{engine: engine, server: server}
}

func (s *ownServer) name() string {
	if s.server != "" || s.engine == nil {
		return s.server
	}
	if all := s.engine.Catalog(); len(all) == 1 {
		return all[0].Name
	}
	return ""
}

func (s *ownServer) tool(name string) (string, string) { return s.name(), name }
func (s *ownServer) credential(string) string          { return "" }
func (s *ownServer) refresh()                          {}

// live finds the tool that would run, among those that the server has now.
func (s *ownServer) live(ctx context.Context, q *query, server, tool string) string {
	ss, _ := q.req.GetSession().(*mcp.ServerSession)
	cursor := ""
	for range maxPages {
		res, err := q.next(ctx, methodListTools, &mcp.ListToolsRequest{
			Session: ss, Extra: q.req.GetExtra(), Params: &mcp.ListToolsParams{Cursor: cursor},
		})
		page, ok := res.(*mcp.ListToolsResult)
		if err != nil || !ok || page == nil {
			return audit.GuardPinDrift // what would run cannot be seen
		}
		for _, t := range page.Tools {
			if t.Name == tool {
				return s.compare(t, server, tool)
			}
		}
		if page.NextCursor == "" {
			break
		}
		cursor = page.NextCursor
	}
	return audit.GuardUnknown
}

// compare returns the guard that refuses a live tool, or "".
func (s *ownServer) compare(t *mcp.Tool, server, tool string) string {
	approved, pin, ok := s.engine.Tool(server, tool)
	if !ok {
		return audit.GuardUnknown
	}
	if !s.pins.same(t, approved, pin) {
		return audit.GuardPinDrift
	}
	return ""
}
