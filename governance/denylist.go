package governance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// denylists reports forbids that close some spellings of a text and leave the
// others open: "#executive" is forbidden, "#Executive" and "＃executive" are
// not. They are no mistake where every permit for the same argument lists what
// it permits, or where a forbid closes all but a list.
func (c *compiler) denylists() {
	crowd := crowd{c: c, of: map[string]*audience{}}
	type denial struct {
		who   *audience
		where *area
		path  string
	}
	type test struct {
		policy *policy
		denial
		name []string
	}
	var tests []test
	for _, p := range c.all {
		who, where := crowd.audience(p.principal), c.area(p)
		var limited []string
		for _, t := range cedarx.TextTests(p.cedar) {
			path := strings.Join(t.Path, "\x00")
			if t.Positive != p.forbid {
				limited = append(limited, path)
			} else if p.forbid && c.freeText(p, t.Path) {
				tests = append(tests, test{p, denial{who, where, path}, t.Path})
			}
		}
		switch {
		case !p.forbid:
			who.permits = append(who.permits, limit{p, where, limited})
		case len(limited) > 0:
			who.closes = append(who.closes, limit{p, where, limited})
		}
	}
	found := map[denial]*policy{}
	var last *policy
	for _, t := range tests {
		if t.policy == last {
			continue // once for each policy
		}
		permit, known := found[t.denial]
		if !known {
			permit = crowd.openPermit(t.who, t.where, t.path)
			found[t.denial] = permit
		}
		if permit == nil {
			continue
		}
		last = t.policy
		c.finding(t.policy, "denylist", SeverityWarning, t.name[len(t.name)-1],
			fmt.Sprintf("the forbid closes some values of context.args.%s, which is free text, and %q permits all others", strings.Join(t.name, "."), permit.id),
			"list the permitted values in the permit instead; another spelling passes a forbid")
	}
}

// A limit is a policy and the arguments that it limits to some texts: a permit
// that demands one of them, a forbid that closes all others.
type limit struct {
	policy *policy
	where  *area
	paths  []string
}

// An audience is one principal's scope and the policies that have it, of each
// kind in order.
type audience struct {
	number  int
	scope   cedarx.Scope
	permits []limit
	closes  []limit     // forbids that limit an argument
	meets   []*audience // those that somebody may be in as well, in order
}

// A crowd holds all audiences, in the order in which they first came.
type crowd struct {
	c       *compiler
	all     []*audience
	of      map[string]*audience
	members map[types.EntityUID][]*audience // which a principal is in, of those that are bounded
}

func (w *crowd) audience(s cedarx.Scope) *audience {
	key := string(s.AppendKey(nil))
	a := w.of[key]
	if a == nil {
		a = &audience{number: len(w.all), scope: s}
		w.of[key] = a
		w.all = append(w.all, a)
	}
	return a
}

// openPermit returns a permit that covers what a forbid for who does and does
// not limit the argument, unless a forbid limits it for all.
func (w *crowd) openPermit(who *audience, where *area, path string) *policy {
	meets := w.meeting(who)
	for _, a := range meets {
		for _, l := range a.closes {
			if slices.Contains(l.paths, path) && where.shares(l.where) {
				return nil // it closes all but some texts
			}
		}
	}
	for _, a := range meets {
		for _, l := range a.permits {
			if !slices.Contains(l.paths, path) && where.shares(l.where) {
				return l.policy
			}
		}
	}
	return nil
}

// meeting returns the audiences that somebody may be in who is in a. Agents and
// users who are not listed are in no group.
func (w *crowd) meeting(a *audience) []*audience {
	if a.meets != nil {
		return a.meets // a itself at least
	}
	if w.members == nil {
		w.members = map[types.EntityUID][]*audience{}
		for _, b := range w.all {
			for e := range w.inside(b) {
				w.members[e] = append(w.members[e], b)
			}
		}
	}
	meets := map[*audience]bool{}
	for e := range w.inside(a) {
		for _, b := range w.members[e] {
			meets[b] = true
		}
	}
	for _, b := range w.all {
		if (meets[b] || !a.scope.Bounded || !b.scope.Bounded) && (a.scope.Type == "" || b.scope.Type == "" || a.scope.Type == b.scope.Type) {
			a.meets = append(a.meets, b)
		}
	}
	return a.meets
}

// inside returns the groups and principals that a bounded scope names, and those
// of the bundle that stand in them.
func (w *crowd) inside(a *audience) map[types.EntityUID]bool {
	all := map[types.EntityUID]bool{}
	for _, x := range a.scope.Any {
		all[x] = true
		for e := range w.c.inside(x) {
			all[e] = true
		}
	}
	return all
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
	for _, t := range c.area(p).tools {
		at := t.args.At(path)
		if at != nil && at.Kind == argument.KindSet {
			at = at.Elem
		}
		if at != nil && at.Kind == argument.KindString && at.Enum == nil {
			return true
		}
	}
	return false
}
