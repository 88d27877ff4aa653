package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/governance"
)

// Server returns the recorded tools as a part of a bundle's catalogue, to
// compile and to test policies with while no server is at hand. It is not for
// serving: without their prose its definitions are drift to every live server.
// See [Connector.Approve] for that. name "" is the connector's id. The error is
// [ErrUnverified] if there is no record.
func (c *Connector) Server(name string) (governance.Server, error) {
	if name == "" {
		name = c.ID
	}
	if c.record == nil {
		return governance.Server{}, fmt.Errorf("%w (%s)", ErrUnverified, c.ID)
	}
	s := governance.Server{Name: name}
	for _, t := range c.record.Tools {
		s.Tools = append(s.Tools, c.tool(governance.ToolDefinition{Name: t.Name, InputSchema: bytes.Clone(t.InputSchema)}))
	}
	return s, nil
}

// tool is a definition with what the catalogue knows about it. A tool that it
// does not know is destructive.
func (c *Connector) tool(d governance.ToolDefinition) governance.Tool {
	class, ok := c.Class(d.Name)
	if !ok {
		class = governance.Destructive
	}
	return governance.Tool{ToolDefinition: d, Class: class, As: c.As[d.Name], Derived: c.Derived[d.Name]}
}

// A DriftError says how a live server differs from its record. Either its
// version is another one, or somebody has changed it: compare, and review.
type DriftError struct {
	// Connector is the connector's id.
	Connector string
	// Changed are tools with another definition than the one recorded, Missing
	// those that are gone, New those that were not there. All are sorted.
	Changed, Missing, New []string
	// Same holds the tools that are as recorded, for a caller who goes on with
	// these alone.
	Same governance.Server
}

func (e *DriftError) Error() string {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"changed", e.Changed}, {"missing", e.Missing}, {"new", e.New}} {
		if n := len(p.names); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", n, p.what, shorten(p.names)))
		}
	}
	return fmt.Sprintf("catalog: the tools of %q are not those that were recorded: %s; run the recorded version, or review them", e.Connector, strings.Join(parts, ", "))
}

func shorten(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// Approve lists the tools that the server behind t has now, holds each to its
// recorded pin, and returns them with their classes for the catalogue of a
// bundle: the definitions are the server's own, word for word. Any difference is
// a [*DriftError], and [ErrUnverified] says that there is nothing to compare
// with. name "" is the connector's id.
func (c *Connector) Approve(ctx context.Context, name string, t mcp.Transport) (governance.Server, error) {
	if name == "" {
		name = c.ID
	}
	if c.record == nil {
		return governance.Server{}, fmt.Errorf("%w (%s)", ErrUnverified, c.ID)
	}
	live, err := list(ctx, name, t)
	if err != nil {
		return governance.Server{}, err
	}
	drift := &DriftError{Connector: c.ID, Same: governance.Server{Name: name}}
	now := map[string]governance.ToolDefinition{}
	for _, tool := range live.Tools {
		now[tool.Name] = tool.ToolDefinition
	}
	for _, was := range c.record.Tools {
		d, ok := now[was.Name]
		delete(now, was.Name)
		if !ok {
			drift.Missing = append(drift.Missing, was.Name)
			continue
		}
		if pin, err := d.Pin(); err != nil || pin != was.Pin {
			drift.Changed = append(drift.Changed, was.Name)
			continue
		}
		drift.Same.Tools = append(drift.Same.Tools, c.tool(d))
	}
	for added := range now {
		drift.New = append(drift.New, added)
	}
	slices.Sort(drift.New)
	if len(drift.Changed)+len(drift.Missing)+len(drift.New) > 0 {
		return governance.Server{}, drift
	}
	return drift.Same, nil
}

// Review lists the tools that the server behind t has now as a catalogue file
// for a person to review, as [mcpx.ReadCatalog] does, with the classes of this
// catalogue for tools that it knows by name. All others are destructive until
// the reviewer says otherwise, whatever the server's annotations claim. name ""
// is the connector's id.
//
// [mcpx.ReadCatalog]: https://pkg.go.dev/github.com/twinward-dev/twinward/mcpx#ReadCatalog
func (c *Connector) Review(ctx context.Context, name string, t mcp.Transport) ([]byte, error) {
	if name == "" {
		name = c.ID
	}
	live, err := list(ctx, name, t)
	if err != nil {
		return nil, err
	}
	for i, tool := range live.Tools {
		live.Tools[i] = c.tool(tool.ToolDefinition)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(live); err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return []byte(governance.EscapeHidden(b.String())), nil
}
