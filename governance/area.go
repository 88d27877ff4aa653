package governance

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// An area is what policies with one action and one resource in their scope
// cover. A bundle has few of them, so that each is worked out once.
type area struct {
	tools []*tool  // sorted by key
	bits  []uint64 // the same, by their numbers
	verb  bool     // an action that is no tool is in it
}

// shares reports whether some tool is in both.
func (a *area) shares(b *area) bool {
	for i, w := range a.bits {
		if w&b.bits[i] != 0 {
			return true
		}
	}
	return false
}

// area returns what the scope of p covers.
func (c *compiler) area(p *policy) *area {
	if a := c.areaOf[p]; a != nil {
		return a
	}
	key := string(p.resource.AppendKey(p.action.AppendKey(nil)))
	a := c.areas[key]
	if a == nil {
		a = c.survey(p)
		if c.areas == nil {
			c.areas, c.areaOf = map[string]*area{}, map[*policy]*area{}
		}
		c.areas[key] = a
	}
	c.areaOf[p] = a
	return a
}

// survey works out an area.
func (c *compiler) survey(p *policy) *area {
	a := &area{bits: make([]uint64, (len(c.snap.tools)+63)/64), verb: c.coversVerb(p)}
	for _, t := range c.snap.tools {
		if p.action.Matches(t.action, c.above(t.action)) && p.resource.Matches(t.resource, c.above(t.resource)) {
			a.tools = append(a.tools, t)
			a.bits[t.number/64] |= 1 << (t.number % 64)
		}
	}
	slices.SortFunc(a.tools, func(x, y *tool) int { return strings.Compare(x.key, y.key) })
	return a
}

// coversVerb reports whether the scope of p matches an action that is no tool.
// What such actions are about is not in the bundle, so that any resource of the
// right type may come.
func (c *compiler) coversVerb(p *policy) bool {
	for name, v := range verbs {
		action := uid(typeAction, name)
		if !p.action.Matches(action, c.above(action)) {
			continue
		}
		if p.resource.Type != "" && p.resource.Type != v.resource {
			continue
		}
		if !p.resource.Bounded {
			return true
		}
		for _, e := range p.resource.Any {
			if e.Type == v.resource || !p.resource.Exact && slices.Contains(above[v.resource], e.Type) {
				return true
			}
		}
	}
	return false
}

// above are the types that a resource stands in.
var above = map[types.EntityType][]types.EntityType{
	typePrompt:     {typeServer, typeProfile},
	typeResource:   {typeServer, typeProfile},
	typeHost:       {typeHost, typeProfile},
	typeModel:      {typeProvider, typeProfile},
	typeHostedTool: {typeProvider, typeProfile},
	typeCredential: {typeProfile},
}

// above returns the ancestors of an action or a tool of the bundle, which are
// asked for again and again.
func (c *compiler) above(id types.EntityUID) []types.EntityUID {
	found, ok := c.aboves[id]
	if !ok {
		if c.aboves == nil {
			c.aboves = map[types.EntityUID][]types.EntityUID{}
		}
		found = ancestors(c.snap.entities, id)
		c.aboves[id] = found
	}
	return found
}
