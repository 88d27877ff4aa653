package governance

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// denylists reports forbids that close some spellings of a text and leave the
// others open: "#executive" is forbidden, "#Executive" and "＃executive" are
// not. They are no mistake where every permit for the same argument lists what
// it permits, or where a forbid closes all but a list.
func (c *compiler) denylists() {
	var closed []*limit    // forbids that limit an argument
	var permits [][]*limit // by principal's scope, which many have in common
	whom := map[string]int{}
	for _, p := range c.all {
		who := fmt.Sprint(p.principal)
		if _, known := whom[who]; !known {
			whom[who] = len(permits)
			permits = append(permits, nil)
		}
		l := &limit{policy: p, paths: map[string]bool{}}
		for _, t := range cedarx.TextTests(p.cedar) {
			if t.Positive != p.forbid {
				l.paths[strings.Join(t.Path, "\x00")] = true
			}
		}
		switch {
		case !p.forbid:
			permits[whom[who]] = append(permits[whom[who]], l)
		case len(l.paths) > 0:
			closed = append(closed, l)
		}
	}
	found := map[string]*policy{}
	for _, p := range c.all {
		if !p.forbid {
			continue
		}
		for _, t := range cedarx.TextTests(p.cedar) {
			if !t.Positive || !c.freeText(p, t.Path) {
				continue
			}
			path := strings.Join(t.Path, "\x00")
			key := fmt.Sprint(p.principal, p.action, p.resource, path)
			permit, known := found[key]
			if !known {
				permit = c.openPermit(p, path, closed, permits)
				found[key] = permit
			}
			if permit == nil {
				continue
			}
			c.finding(p, "denylist", SeverityWarning, t.Path[len(t.Path)-1],
				fmt.Sprintf("the forbid closes some values of context.args.%s, which is free text, and %q permits all others", strings.Join(t.Path, "."), permit.id),
				"list the permitted values in the permit instead; another spelling passes a forbid")
			break
		}
	}
}

// A limit is a policy and the arguments that it limits to some texts: a permit
// that demands one of them, a forbid that closes all others.
type limit struct {
	policy *policy
	paths  map[string]bool
}

// openPermit returns a permit that covers what the forbid p does and
// does not limit the argument, unless a forbid limits it for all.
func (c *compiler) openPermit(p *policy, path string, closed []*limit, permits [][]*limit) *policy {
	for _, l := range closed {
		if l.paths[path] && c.shares(p.principal, l.policy.principal) && c.shareTool(p, l.policy) {
			return nil // it closes all but some texts
		}
	}
	for _, same := range permits {
		if len(same) == 0 || !c.shares(p.principal, same[0].policy.principal) {
			continue
		}
		for _, l := range same {
			if !l.paths[path] && c.shareTool(p, l.policy) {
				return l.policy
			}
		}
	}
	return nil
}

// shareTool reports whether some tool is in the scope of both policies.
func (c *compiler) shareTool(p, q *policy) bool {
	key := fmt.Sprint(p.action, p.resource, q.action, q.resource)
	both, ok := c.common[key]
	if !ok {
		of := map[*tool]bool{}
		for _, t := range c.covers(p) {
			of[t] = true
		}
		for _, t := range c.covers(q) {
			both = both || of[t]
		}
		if c.common == nil {
			c.common = map[string]bool{}
		}
		c.common[key] = both
	}
	return both
}

// shares reports whether somebody may be in both scopes. Agents and users who
// are not listed are in no group.
func (c *compiler) shares(a, b cedarx.Scope) bool {
	if a.Type != "" && b.Type != "" && a.Type != b.Type {
		return false
	}
	if !a.Bounded || !b.Bounded {
		return true
	}
	for _, x := range a.Any {
		for _, y := range b.Any {
			if x == y || c.inside(x)[y] || c.inside(y)[x] {
				return true
			}
			for e := range c.inside(x) {
				if c.inside(y)[e] {
					return true
				}
			}
		}
	}
	return false
}

// inside returns the entities of the bundle that stand in a group.
func (c *compiler) inside(group types.EntityUID) map[types.EntityUID]bool {
	if c.insides == nil {
		c.insides = map[types.EntityUID]map[types.EntityUID]bool{}
		for id := range c.snap.entities {
			switch id.Type {
			case typeAgent, typeUser, typeTeam, typeRole:
			default:
				continue
			}
			for _, a := range ancestors(c.snap.entities, id) {
				if c.insides[a] == nil {
					c.insides[a] = map[types.EntityUID]bool{}
				}
				c.insides[a][id] = true
			}
		}
	}
	return c.insides[group]
}

// freeText reports whether an argument is a text that may be anything, in one of
// the tools that p covers.
func (c *compiler) freeText(p *policy, path []string) bool {
	for _, t := range c.covers(p) {
		at := t.args.at(path)
		if at != nil && at.kind == kindSet {
			at = at.elem
		}
		if at != nil && at.kind == kindString && at.enum == nil {
			return true
		}
	}
	return false
}
