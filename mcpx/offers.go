package mcpx

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/yosida95/uritemplate/v3"

	"github.com/twinward-dev/twinward/governance"
)

// Offers are what a gateway offers of the catalogue in force: the tools and
// prompts of its upstreams by the names that clients use, and which of them owns
// which URI. They never change; a new catalogue makes new ones.
type offers struct {
	hash      string            // of the snapshot; "" is none
	bare      string            // the upstream under its own names, or ""
	tools     map[string]string // pins by offered name
	prompts   map[string]string // pins by offered name
	templates map[string]claim  // by URI template
	uris      map[string]string // servers by claimed URI
	catalog   map[string]governance.Server
}

// A claim is a URI template of a server.
type claim struct {
	server string
	pin    string
	match  *regexp.Regexp
}

// newOffers reads what the upstreams may offer. What two of them claim belongs to
// neither; it reports those.
func newOffers(catalog []governance.Server, upstreams map[string]*Upstream) (*offers, []error) {
	o := &offers{
		tools: make(map[string]string), prompts: make(map[string]string),
		templates: make(map[string]claim), uris: make(map[string]string), catalog: make(map[string]governance.Server),
	}
	for name, u := range upstreams {
		if u.OwnNames {
			o.bare = name
		}
	}
	var errs []error
	for _, s := range catalog {
		if upstreams[s.Name] != nil {
			o.catalog[s.Name] = s
		}
	}
	for _, s := range catalog {
		if upstreams[s.Name] == nil {
			continue
		}
		for _, r := range s.ResourceTemplates {
			t, err := uritemplate.New(r.URITemplate)
			if err != nil {
				errs = append(errs, fmt.Errorf("template %q of %q: %w", r.URITemplate, s.Name, err))
				continue
			}
			pin, _ := r.Pin()
			if _, taken := o.templates[r.URITemplate]; !taken { // else disputed, see below
				o.templates[r.URITemplate] = claim{s.Name, pin, t.Regexp()}
			}
		}
		for _, r := range s.Resources {
			if _, taken := o.uris[r.URI]; !taken {
				o.uris[r.URI] = s.Name
			}
		}
	}
	disputed := make(map[string]bool)
	for _, s := range catalog {
		if upstreams[s.Name] == nil {
			continue
		}
		for what, other := range o.disputes(s) {
			disputed[what] = true
			errs = append(errs, fmt.Errorf("%q is claimed by %q and by %q, so it is neither's", what, s.Name, other))
		}
	}
	for what := range disputed {
		delete(o.uris, what)
		delete(o.templates, what)
	}
	return o, errs
}

// disputes returns which claims of s, and which of others that they meet, could
// be about the same URI, with the other server. Templates are taken to meet when
// one's literal beginning begins the other's.
func (o *offers) disputes(s governance.Server) map[string]string {
	out := make(map[string]string)
	for _, r := range s.Resources {
		if other, ok := o.uris[r.URI]; ok && other != s.Name {
			out[r.URI] = other
		}
		for text, c := range o.templates {
			if c.server != s.Name && c.match.MatchString(r.URI) {
				out[r.URI], out[text] = c.server, c.server
			}
		}
	}
	for _, r := range s.ResourceTemplates {
		t, err := uritemplate.New(r.URITemplate)
		if err != nil {
			continue
		}
		for text, c := range o.templates {
			if c.server != s.Name && (strings.HasPrefix(literal(text), literal(r.URITemplate)) || strings.HasPrefix(literal(r.URITemplate), literal(text))) {
				out[r.URITemplate], out[text] = c.server, c.server
			}
		}
		match := t.Regexp()
		for uri, server := range o.uris {
			if server != s.Name && match.MatchString(uri) {
				out[r.URITemplate], out[uri] = server, server
			}
		}
	}
	return out
}

// literal is what every URI of a template begins with.
func literal(template string) string {
	before, _, _ := strings.Cut(template, "{")
	return before
}

// name is what clients call a tool or prompt of a server.
func (o *offers) name(server, own string) string {
	if server == o.bare {
		return own
	}
	return server + "__" + own
}

// route finds the server that a client's name means.
func (o *offers) route(k kind, name string) (server, own string) {
	switch k {
	case kindTool, kindPrompt:
		server, own, ok := strings.Cut(name, "__")
		if _, known := o.catalog[server]; ok && known && server != o.bare {
			return server, own
		}
		if o.bare != "" {
			return o.bare, name
		}
		if !ok {
			return "", name
		}
		return server, own
	case kindTemplate:
		return o.templates[name].server, name
	case kindResource:
		if server, ok := o.uris[name]; ok {
			return server, name
		}
		if dotted(name) {
			return "", name
		}
		for _, c := range o.templates { // those of one server, or they would be disputed
			if c.match.MatchString(name) {
				return c.server, name
			}
		}
	}
	return "", name
}

// dotted reports whether a URI has segments "." or "..", written out or encoded,
// which whoever reads it may take away (RFC 3986 §6.2.2.3). Policy would decide
// about one resource, and another would be read.
func dotted(uri string) bool {
	plain := strings.NewReplacer("%2e", ".", "%2f", "/", "%5c", "/", `\`, "/", "?", "/", "#", "/").Replace(strings.ToLower(uri))
	_, plain, _ = strings.Cut(plain, ":")
	for segment := range strings.SplitSeq(plain, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// prompt returns the pin of an approved prompt.
func (o *offers) prompt(server, own string) (pin string, ok bool) {
	pin, ok = o.prompts[o.name(server, own)]
	return pin, ok
}

// refresh makes the server offer what the catalogue in force approves.
func (g *Gateway) refresh() {
	if o := g.offered.Load(); o.hash != "" && o.hash == g.gov.engine.Hash() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	hash := g.gov.engine.Hash()
	was := g.offered.Load()
	if hash != "" && hash == was.hash {
		return
	}
	now, errs := newOffers(g.gov.engine.Catalog(), g.upstreams)
	now.hash = hash
	for _, s := range now.catalog {
		for _, t := range s.Tools {
			name := now.name(s.Name, t.Name)
			pin, err := t.Pin()
			if at := t.Hidden(); err == nil && len(at) > 0 && !t.HiddenText {
				err = fmt.Errorf("it holds characters that cannot be seen, at %s: review it, and say \"hiddenText\": true in the catalogue if it is in order", strings.Join(at[:min(len(at), 5)], ", "))
			}
			if err == nil && was.tools[name] != pin {
				err = g.offerTool(name, t.ToolDefinition)
			}
			if err == nil && now.shadowed(s.Name, t.Name) {
				err = errShadowed
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("tool %q: %w", name, err))
				continue
			}
			now.tools[name] = pin
		}
		for _, p := range s.Prompts {
			name := now.name(s.Name, p.Name)
			pin, err := p.Pin()
			if err == nil && was.prompts[name] != pin {
				err = g.offerPrompt(name, p)
			}
			if err == nil && now.shadowed(s.Name, p.Name) {
				err = errShadowed
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("prompt %q: %w", name, err))
				continue
			}
			now.prompts[name] = pin
		}
		for _, r := range s.ResourceTemplates {
			if c, ok := now.templates[r.URITemplate]; ok && was.templates[r.URITemplate].pin != c.pin {
				if err := g.offerTemplate(r); err != nil {
					delete(now.templates, r.URITemplate)
					errs = append(errs, fmt.Errorf("resource template %q: %w", r.URITemplate, err))
				}
			}
		}
	}
	g.server.RemoveTools(gone(was.tools, now.tools)...)
	g.server.RemovePrompts(gone(was.prompts, now.prompts)...)
	g.server.RemoveResourceTemplates(gone(was.templates, now.templates)...)
	g.offered.Store(now)
	for _, err := range errs {
		g.gov.logger.Error("mcpx: something in the catalogue cannot be offered", "error", err)
	}
}

// errShadowed is what a name of the upstream with its own names gets that means
// something else.
var errShadowed = errors.New("the name begins with that of another upstream, which it would be taken for")

// shadowed reports whether a name of the upstream with its own names would be
// taken for one of another upstream, or of the gateway itself.
func (o *offers) shadowed(server, own string) bool {
	got, _ := o.route(kindTool, o.name(server, own))
	return got != server || server == o.bare && strings.HasPrefix(own, ownPrefix)
}

// gone are the keys that are not there any more.
func gone[V any](was, now map[string]V) (names []string) {
	for name := range was {
		if _, ok := now[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// Tools, prompts and templates are registered with the SDK, which lists them,
// compares headers with the tools' schemas, and tells clients of changes. What
// is done with them is [Gateway.do]; their handlers are never called.

var errUngoverned = errors.New("mcpx: the request did not pass through governance")

// offerTool registers a tool. The SDK panics on what it does not like.
func (g *Gateway) offerTool(name string, d governance.ToolDefinition) (err error) {
	defer caught(&err)
	t, err := toTool(name, d)
	if err != nil {
		return err
	}
	g.server.AddTool(t, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, errUngoverned
	})
	return nil
}

func (g *Gateway) offerPrompt(name string, p governance.Prompt) (err error) {
	defer caught(&err)
	out := &mcp.Prompt{Name: name, Title: p.Title, Description: p.Description}
	for _, a := range p.Arguments {
		out.Arguments = append(out.Arguments, &mcp.PromptArgument{Name: a.Name, Title: a.Title, Description: a.Description, Required: a.Required})
	}
	g.server.AddPrompt(out, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return nil, errUngoverned
	})
	return nil
}

func (g *Gateway) offerTemplate(r governance.ResourceTemplate) (err error) {
	defer caught(&err)
	g.server.AddResourceTemplate(&mcp.ResourceTemplate{
		URITemplate: r.URITemplate, Name: r.Name, Title: r.Title, Description: r.Description, MIMEType: r.MIMEType,
	}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return nil, errUngoverned
	})
	return nil
}

func caught(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%v", p)
	}
}
