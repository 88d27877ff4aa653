package governance

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/twinward-dev/twinward/governance/internal/argument"
)

func (c *compiler) catalog(context.Context) {
	c.rep.Findings = append(c.rep.Findings, c.bundle.findings...)
	c.servers = map[string]Server{}
	c.snap.servers = map[string]bool{}
	c.snap.tools = map[toolRef]*tool{}
	c.snap.catalog = c.bundle.Catalog
	for _, s := range c.bundle.Catalog {
		checkServer(s, c.rep)
		checkOffers(s, c.rep)
		if _, twice := c.servers[s.Name]; twice {
			s.finding(c.rep, s.Name, fmt.Sprintf("server %q is in the catalogue twice", s.Name), "merge the two files")
		}
		c.servers[s.Name] = s
		c.snap.servers[s.Name] = true
		for _, d := range s.Tools {
			t, err := makeTool(s.Name, d)
			if err != nil {
				s.finding(c.rep, d.Name, fmt.Sprintf("tool %q of server %q: %s", d.Name, s.Name, err), "correct the catalogue file and review it")
				continue
			}
			t.number = len(c.snap.tools)
			c.snap.tools[toolRef{s.Name, d.Name}] = t
			c.rep.Tools++
			if at := d.Hidden(); len(at) > 0 && !d.HiddenText {
				f := located("hidden-character", s.fileName(), s.text, `"`+d.Name+`"`, fmt.Sprintf("tool %q holds characters that cannot be seen, or that change what is seen around them, at %s", d.Name, strings.Join(at[:min(len(at), 5)], ", ")), `it may hold words for a model that a reviewer does not see, and gateways do not offer it; read it in hexadecimal, and say "hiddenText": true if it is in order`)
				f.Severity = SeverityWarning
				c.rep.add(f)
			}
			for _, n := range t.notes {
				s.note(c.rep, n, d.Name)
			}
		}
	}
}

func makeTool(server string, d Tool) (*tool, error) {
	pin, err := d.Pin()
	if err != nil {
		return nil, err
	}
	if len(d.InputSchema) == 0 {
		return nil, fmt.Errorf("no inputSchema")
	}
	args, typer, err := argument.NewType(d.InputSchema, d.As)
	if err != nil {
		return nil, err
	}
	from := make(map[string]argument.DerivedFrom, len(d.Derived))
	for name, w := range d.Derived {
		from[name] = argument.DerivedFrom{From: w.From, Facet: string(w.Facet)}
	}
	derived, err := typer.Derive(from)
	if err != nil {
		return nil, err
	}
	if len(d.Annotations) > 0 {
		var h hints
		if err := json.Unmarshal(d.Annotations, &h); err != nil {
			return nil, fmt.Errorf("annotations: %w", err)
		}
	}
	key := toolKey(server, d.Name)
	t := &tool{def: d, pin: pin, key: key, args: args, derived: derived, notes: typer.Notes(), action: uid(typeAction, key), resource: uid(typeTool, key)}
	t.label = t.resource.String()
	t.makeOutput()
	return t, nil
}
