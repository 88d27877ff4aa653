package mcpx

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/governance"
)

// definition returns what a pin covers of a tool.
func definition(t *mcp.Tool) (governance.ToolDefinition, error) {
	d := governance.ToolDefinition{Name: t.Name, Title: t.Title, Description: t.Description}
	var err error
	if d.InputSchema, err = written(t.InputSchema); err != nil {
		return d, err
	}
	if t.OutputSchema != nil {
		if d.OutputSchema, err = written(t.OutputSchema); err != nil {
			return d, err
		}
	}
	if t.Annotations != nil {
		d.Annotations, err = json.Marshal(t.Annotations)
	}
	return d, err
}

// written is a schema as JSON: as it was written, where that is known.
func written(schema any) (json.RawMessage, error) {
	if raw, ok := schema.(json.RawMessage); ok {
		return raw, nil
	}
	return json.Marshal(schema)
}

// asWritten holds the schemas of a server's last lists of tools as it wrote
// them: the SDK's own are sorted anew, with numbers that are floats.
type asWritten struct {
	mu    sync.Mutex
	tools map[string]schemas
}

type schemas struct {
	Name   string          `json:"name"`
	Input  json.RawMessage `json:"inputSchema"`
	Output json.RawMessage `json:"outputSchema"`
}

// listed reads the result of tools/list.
func (w *wire) listed(result json.RawMessage) {
	var list struct {
		Tools []schemas `json:"tools"`
	}
	if json.Unmarshal(result, &list) != nil {
		return // the SDK will say so
	}
	w.asWritten.mu.Lock()
	defer w.asWritten.mu.Unlock()
	if w.asWritten.tools == nil || len(w.asWritten.tools)+len(list.Tools) > maxLiveTools {
		w.asWritten.tools = make(map[string]schemas)
	}
	for _, t := range list.Tools {
		w.asWritten.tools[t.Name] = t
	}
}

// written returns a tool that was just listed, with its schemas as they were
// written.
func (w *wire) written(t *mcp.Tool) *mcp.Tool {
	w.asWritten.mu.Lock()
	defer w.asWritten.mu.Unlock()
	raw, ok := w.asWritten.tools[t.Name]
	if !ok {
		return t
	}
	out := *t
	if t.InputSchema != nil && len(raw.Input) > 0 {
		out.InputSchema = raw.Input
	}
	if t.OutputSchema != nil && len(raw.Output) > 0 {
		out.OutputSchema = raw.Output
	}
	return &out
}

// tapped is a transport over HTTP whose connection may be tapped: see tapConn.
func tapped(t *mcp.StreamableClientTransport, w *wire) mcp.Transport {
	w.http = true
	client := http.Client{}
	if t.HTTPClient != nil {
		client = *t.HTTPClient
	}
	base := client.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	client.Transport = &carrier{base: base, wire: w}
	out := *t
	out.HTTPClient = &client
	return &out
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
