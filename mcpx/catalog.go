package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/governance"
)

// catalogTime bounds how long a server may take to say what it has.
const catalogTime = time.Minute

var serverName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// Catalog writes down the tools, prompts and resources that server has now, for
// an author who governs a server of their own:
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

// ReadCatalog lists a live server's tools, prompts and resources as a catalogue
// file (JSON) for a person to review and to store in the bundle's catalog
// folder. The class of each tool is a proposal from the server's own
// annotations, and destructive when it says nothing: a reviewer has to look at
// each one, because a server may lie. The URIs and URI templates are what the
// server claims for itself: behind a [Gateway] no two servers may claim the
// same, and a reviewer takes out what belongs to one user only.
//
// A server that has not answered all of it within a minute is given up; ctx may
// end it sooner.
//
// Schemas are as the server wrote them. Characters that cannot be seen are
// written as escape sequences, so that a reviewer sees them: see
// [governance.ToolDefinition.Hidden].
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
	return []byte(governance.EscapeHidden(b.String())), nil
}

func readCatalog(ctx context.Context, name string, t mcp.Transport) (governance.Server, error) {
	none := governance.Server{}
	if t == nil {
		return none, fmt.Errorf("%w: transport is nil", ErrCatalog)
	}
	if !serverName.MatchString(name) {
		return none, fmt.Errorf("%w: server name %q: use 1 to 32 of a-z, 0-9 and -", ErrCatalog, name)
	}
	ctx, cancel := context.WithTimeout(ctx, catalogTime)
	defer cancel()
	w := newWire()
	if st, overHTTP := t.(*mcp.StreamableClientTransport); overHTTP {
		t = tapped(st, w)
	}
	// With a tap, ctx ends it, and what it lists can be had as it was written.
	cs, err := newClient(everyCap()).Connect(ctx, &tap{Transport: t, wire: w}, nil)
	if err != nil {
		return none, fmt.Errorf("%w: %w", ErrCatalog, err)
	}
	defer cs.Close()
	s := governance.Server{Name: name, Tools: []governance.Tool{}}
	for tool, err := range cs.Tools(ctx, nil) {
		if err != nil {
			return none, fmt.Errorf("%w: listing the tools of %q: %w", ErrCatalog, name, err)
		}
		d, err := definition(w.written(tool))
		if err != nil {
			return none, fmt.Errorf("%w: tool %q: %w", ErrCatalog, tool.Name, err)
		}
		s.Tools = append(s.Tools, governance.Tool{ToolDefinition: d, Class: classOf(tool.Annotations)})
	}
	if err := readOffers(ctx, cs, &s); err != nil {
		return none, fmt.Errorf("%w: listing what %q offers: %w", ErrCatalog, name, err)
	}
	return s, nil
}

// readOffers adds what a server offers besides tools.
func readOffers(ctx context.Context, cs *mcp.ClientSession, s *governance.Server) error {
	caps := cs.InitializeResult().Capabilities
	if caps == nil {
		return nil
	}
	if caps.Prompts != nil {
		for p, err := range cs.Prompts(ctx, nil) {
			if err != nil {
				return err
			}
			s.Prompts = append(s.Prompts, promptOf(p))
		}
	}
	if caps.Resources == nil {
		return nil
	}
	for r, err := range cs.Resources(ctx, nil) {
		if err != nil {
			return err
		}
		s.Resources = append(s.Resources, resourceOf(r))
	}
	for r, err := range cs.ResourceTemplates(ctx, nil) {
		if err != nil {
			return err
		}
		s.ResourceTemplates = append(s.ResourceTemplates, governance.ResourceTemplate{
			URITemplate: r.URITemplate, Name: r.Name, Title: r.Title, Description: r.Description, MIMEType: r.MIMEType,
		})
	}
	return nil
}

func promptOf(p *mcp.Prompt) governance.Prompt {
	d := governance.Prompt{Name: p.Name, Title: p.Title, Description: p.Description}
	for _, a := range p.Arguments {
		if a != nil {
			d.Arguments = append(d.Arguments, governance.PromptArgument{Name: a.Name, Title: a.Title, Description: a.Description, Required: a.Required})
		}
	}
	return d
}

func resourceOf(r *mcp.Resource) governance.Resource {
	return governance.Resource{URI: r.URI, Name: r.Name, Title: r.Title, Description: r.Description, MIMEType: r.MIMEType}
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
