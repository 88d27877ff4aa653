package mcpx

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// Which resources there are is different for each actor and from day to day, so
// their list comes from the upstreams, each asked with the actor's own session.
// What an upstream lists that the catalogue does not say is its own is left out.

// PartialKey is where a list that lacks something has, in its _meta, the names of
// the servers that could not be asked. The record of the list names them too.
const PartialKey = "dev.twinward/partial"

const (
	// listWait bounds how long a list waits for one upstream.
	listWait = 10 * time.Second
	// sickFor is how long an upstream that could not be asked is left in peace.
	sickFor = 10 * time.Second
	// maxResources bounds what is listed of one upstream.
	maxResources = 10_000
)

// resources asks all upstreams that claim any, and returns which of them have not
// answered.
func (g *Gateway) resources(ctx context.Context, q *query) (all []*mcp.Resource, missing []string) {
	o := g.offered.Load()
	var servers []string
	for name, s := range o.catalog {
		if len(s.Resources)+len(s.ResourceTemplates) > 0 {
			servers = append(servers, name)
		}
	}
	slices.Sort(servers)
	lists := make([][]*mcp.Resource, len(servers))
	failed := make([]bool, len(servers))
	var wait sync.WaitGroup
	for i, server := range servers {
		wait.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					g.gov.logger.Error("mcpx: panic while resources were listed", "server", server, "panic", p)
					failed[i] = true
				}
			}()
			lists[i], failed[i] = g.resourcesOf(ctx, q, server, o)
		})
	}
	wait.Wait()
	for i, server := range servers {
		all = append(all, lists[i]...)
		if failed[i] {
			missing = append(missing, server)
		}
	}
	return all, missing
}

// resourcesOf asks one upstream. One whose credential the actor may not use has
// nothing for them, and is not missing.
func (g *Gateway) resourcesOf(ctx context.Context, q *query, server string, o *offers) (_ []*mcp.Resource, missing bool) {
	key := poolKey{server: server, owner: owner(q.actor)}
	u := g.upstream(server)
	if u == nil || g.sick.still(key) {
		return nil, true
	}
	f := &flight{q: q.silent(ctx), actor: q.actor, kind: kindResource, server: server, trace: q.trace}
	if _, ok := g.gov.useCredential(ctx, f); !ok {
		return nil, false
	}
	defer f.key.Settle(governance.Result{OK: true})
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	list, err := g.askResources(ctx, f, u)
	if err != nil {
		if f.q.outer.Err() == nil { // else the client has left, which says nothing of the server
			g.sick.add(key)
		}
		g.gov.logger.Warn("mcpx: a server cannot be asked for its resources", "server", server, "error", err)
		return nil, true
	}
	approved := make(map[string]governance.Resource, len(o.catalog[server].Resources))
	for _, r := range o.catalog[server].Resources {
		approved[r.URI] = r
	}
	out := make([]*mcp.Resource, 0, len(list))
	for _, r := range list {
		if owner, _ := o.route(kindResource, r.URI); owner != server {
			continue
		}
		c := &mcp.Resource{URI: r.URI, Name: r.Name, Title: r.Title, MIMEType: r.MIMEType, Size: r.Size}
		if a, ok := approved[r.URI]; ok { // the words that were reviewed
			c.Name, c.Title, c.Description, c.MIMEType = a.Name, a.Title, a.Description, a.MIMEType
		}
		c.Name = cmp.Or(c.Name, c.URI)
		out = append(out, c)
	}
	return out, false
}

// askResources lists what one upstream has, in the actor's session. The use of a
// credential for it is on record before and after.
func (g *Gateway) askResources(ctx context.Context, f *flight, u *Upstream) (list []*mcp.Resource, err error) {
	if f.credential != nil {
		call, failure := g.gov.log.Begin(ctx, audit.Intent{
			Door: audit.DoorTool, Action: f.key.Action, Resource: f.key.Resource,
			Actor: f.actor, Decision: f.key.Decision, Trace: f.trace,
		})
		if failure != nil || call == nil {
			return nil, errors.Join(failure, errNotRecorded)
		}
		defer func() {
			out := f.out
			if out.Status = audit.StatusOK; err != nil {
				out.Status, out.ErrorCode = audit.StatusFailed, "error"
				if fail, ok := asFailure(err); ok {
					out.ErrorCode = fail.code
				}
			}
			if call.End(context.WithoutCancel(ctx), out) != nil {
				list, err = nil, errNotRecorded
			}
		}()
	}
	p, err := g.reach(ctx, f, u)
	defer p.end()
	if err != nil {
		return nil, err
	}
	if caps := p.s.cs.InitializeResult().Capabilities; caps == nil || caps.Resources == nil {
		return nil, nil
	}
	for r, err := range p.s.cs.Resources(carried{p.ctx, p.c}, nil) {
		if err != nil {
			return nil, g.explain(p.outer, p.ctx, u, f, p.c, p.s, err)
		}
		if list = append(list, r); len(list) > maxResources {
			return nil, fmt.Errorf("mcpx: it lists more than %d resources", maxResources)
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	clean, found := g.redact(p.c, text)
	if len(found) == 0 {
		return list, nil
	}
	if err := g.leaked(p.ctx, f, "list", found); err != nil {
		return nil, err
	}
	list = nil
	return list, json.Unmarshal(clean, &list)
}

// errNotRecorded is why nothing is shown of what was listed with a credential.
var errNotRecorded = errors.New("mcpx: the use of the credential could not be recorded")

// patients are upstreams that could not be asked a short while ago.
type patients struct {
	mu    sync.Mutex
	until map[poolKey]time.Time
}

func (p *patients) still(key poolKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until[key])
}

func (p *patients) add(key poolKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.until, func(_ poolKey, until time.Time) bool { return now.After(until) })
	if p.until == nil {
		p.until = make(map[poolKey]time.Time)
	}
	p.until[key] = now.Add(sickFor)
}

// mayRead reports whether the actor could see anything that a server claims.
func (g *Gateway) mayRead(ctx context.Context, a audit.Actor, s governance.Server) bool {
	var refs []governance.ToolRef
	for _, r := range s.Resources {
		refs = append(refs, governance.ToolRef{Server: s.Name, Name: r.URI})
	}
	for _, r := range s.ResourceTemplates {
		refs = append(refs, governance.ToolRef{Server: s.Name, Name: r.URITemplate})
	}
	vis, err := g.gov.engine.Visible(ctx, a, "read_resource", refs)
	return err == nil && slices.ContainsFunc(vis, func(v governance.Visibility) bool { return v != governance.Never })
}
