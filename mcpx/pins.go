package mcpx

import (
	"encoding/json"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/governance"
)

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
