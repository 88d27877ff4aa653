package mcpx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A Drift is a tool that a live server has and that is not the one which was
// approved, so that calls of it are refused.
type Drift struct {
	// Server and Tool name it, by the server's own name.
	Server string `json:"server"`
	Tool   string `json:"tool"`
	// Approved and Live are the pins of both definitions. Live is empty for a
	// tool that is gone.
	Approved string `json:"approved"`
	Live     string `json:"live,omitempty"`
	// Changes are the places that differ, Hidden those of the live definition with
	// characters that cannot be seen.
	Changes []governance.Difference `json:"changes"`
	Hidden  []string                `json:"hidden,omitempty"`
	// Definition is what the server has now.
	Definition governance.ToolDefinition `json:"definition"`
	// Since is when a call saw it first.
	Since time.Time `json:"since"`
}

// String is one line for each place that differs.
func (d Drift) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s__%s", d.Server, d.Tool)
	if d.Live == "" {
		b.WriteString(": the server does not have it any more")
	}
	for _, c := range d.Changes {
		fmt.Fprintf(&b, "\n%s: %s -> %s", c.At, orNothing(c.Old), orNothing(c.New))
	}
	return b.String()
}

func orNothing(s string) string {
	if s == "" {
		return "(nothing)"
	}
	return s
}

// ErrPin is returned by [Gateway.Approve] for a definition that no live server
// has shown, or has replaced since.
var ErrPin = errors.New("mcpx: no live tool has this pin: look at Gateway.Drifts again, and approve what you have seen")

// ErrBundle is returned by [Gateway.Approve] for a bundle that is not in force.
var ErrBundle = errors.New("mcpx: this bundle is not in force, and what was changed since would be undone: take the one that was loaded last")

// maxDrifts bounds what is remembered for the operator.
const maxDrifts = 1024

// drifts are the differences that calls have met.
type drifts struct {
	mu  sync.Mutex
	now map[string]Drift // by offered name
}

func (d *drifts) note(server, tool string, approved governance.ToolDefinition, pin string, live *mcp.Tool) {
	n := Drift{Server: server, Tool: tool, Approved: pin, Since: time.Now()}
	if live != nil {
		var err error
		if n.Definition, err = definition(live); err == nil {
			n.Live, _ = n.Definition.Pin()
		}
	}
	key := server + "__" + tool
	d.mu.Lock()
	defer d.mu.Unlock()
	old, known := d.now[key]
	if known && old.Live == n.Live && old.Approved == pin {
		return
	}
	if d.now == nil {
		d.now = make(map[string]Drift)
	}
	if !known && len(d.now) >= maxDrifts {
		return
	}
	if live != nil {
		n.Changes, n.Hidden = normal(approved).Differences(n.Definition), n.Definition.Hidden()
	}
	d.now[key] = n
}

// drop forgets a tool that is the approved one again.
func (d *drifts) drop(server, tool string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.now) > 0 {
		delete(d.now, server+"__"+tool)
	}
}

// Drifts are the tools of live servers that calls have found to differ from what
// was approved, sorted by name: what changed, from what to what. It forgets a
// tool once a call finds that it is as approved.
func (g *Gateway) Drifts() []Drift {
	g.pool.drifts.mu.Lock()
	defer g.pool.drifts.mu.Unlock()
	out := make([]Drift, 0, len(g.pool.drifts.now))
	for _, key := range slices.Sorted(maps.Keys(g.pool.drifts.now)) {
		out = append(out, g.pool.drifts.now[key])
	}
	return out
}

// Approve puts the live definition of a tool in the place of the approved one:
// that with the pin, as [Drift.Live] says it, and no other. It takes the bundle
// in force, and returns it with the definition changed, for you to store; class
// and everything else that people said of the tool stays. The approval goes on
// record with the changes first, and then the engine reloads the bundle, which
// compiles the policies against the new schema. If that fails, nothing has
// changed.
//
// It is for a change that you have looked at. A server's first catalogue is
// written with [ReadCatalog].
func (g *Gateway) Approve(ctx context.Context, b governance.Bundle, server, tool, pin string, by audit.Change) (governance.Bundle, error) {
	if err := by.Validate(); err != nil {
		return b, fmt.Errorf("mcpx: approve: %w", err)
	}
	if g.gov.broken != nil {
		return b, g.gov.broken
	}
	g.pool.drifts.mu.Lock()
	d, ok := g.pool.drifts.now[server+"__"+tool]
	g.pool.drifts.mu.Unlock()
	if !ok || pin == "" || d.Live != pin {
		return b, fmt.Errorf("%w (%s of %s__%s)", ErrPin, clip(pin, 80), server, tool)
	}
	if now, err := g.gov.engine.Enforces(ctx, b); err != nil {
		return b, fmt.Errorf("mcpx: approve: %w", err)
	} else if !now {
		return b, ErrBundle
	}
	i := slices.IndexFunc(b.Catalog, func(s governance.Server) bool { return s.Name == server })
	if i < 0 {
		return b, fmt.Errorf("mcpx: approve: the bundle has no server %q", server)
	}
	tools := slices.Clone(b.Catalog[i].Tools)
	j := slices.IndexFunc(tools, func(t governance.Tool) bool { return t.Name == tool })
	if j < 0 {
		return b, fmt.Errorf("mcpx: approve: the bundle has no tool %q of server %q", tool, server)
	}
	if was, err := tools[j].Pin(); err != nil || was != d.Approved {
		return b, fmt.Errorf("%w: the bundle has another definition than the one that was compared", ErrPin)
	}
	next := b
	next.Catalog = slices.Clone(b.Catalog)
	tools[j].ToolDefinition = d.Definition
	tools[j].HiddenText = tools[j].HiddenText && len(d.Hidden) == 0
	next.Catalog[i].Tools = tools
	if _, _, err := governance.Compile(ctx, next, nil); err != nil {
		return b, fmt.Errorf("mcpx: approve: %w", err)
	}
	places := make([]string, len(d.Changes))
	for k, c := range d.Changes {
		places[k] = c.At
	}
	err := g.gov.log.Append(ctx, audit.Event{
		Kind: audit.KindPolicy, Door: audit.DoorTool, Action: audit.ActionApproveTool, Resource: "Tool::" + strconv.Quote(server+"__"+tool),
		Change: &by, ToolPin: pin, Detail: map[string]string{"replaces": d.Approved, "changed": clip(strings.Join(places, " "), 512)},
	})
	if err != nil {
		return b, fmt.Errorf("mcpx: approve: %w", err)
	}
	if _, err := g.gov.engine.Reload(ctx, next, by); err != nil {
		return b, fmt.Errorf("mcpx: approve: %w", err)
	}
	g.pool.drifts.drop(server, tool)
	return next, nil
}
