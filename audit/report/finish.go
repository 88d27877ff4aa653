package report

import (
	"cmp"
	"maps"
	"slices"

	"github.com/twinward-dev/twinward/audit"
)

// finish turns what was counted into sorted lists.
func (c *collector) finish() *Summary {
	s := c.s
	if s.Written.IsZero() {
		s.Written = s.Last
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.open), func(a, b callKey) int {
		return cmp.Or(c.open[a].ref.Time.Compare(c.open[b].ref.Time), cmp.Compare(a.log, b.log), cmp.Compare(a.seq, b.seq))
	}) {
		p := c.open[k]
		p.op.count(unfinished, 1, p.ref)
		if p.row != nil {
			s.OpenRows.keep(*p.row, c.o.MaxRows)
		} else {
			s.OpenRows.LeftOut++
		}
	}
	for k, d := range c.denials {
		if k.action == Others {
			d.Action = Others
		}
		s.Denials = append(s.Denials, *d)
	}
	slices.SortFunc(s.Denials, func(a, b Denial) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Door, b.Door), cmp.Compare(a.Action, b.Action),
			cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.First.Seq, b.First.Seq), cmp.Compare(a.First.Origin, b.First.Origin))
	})
	denials := map[string][]*Denial{}
	for i := range s.Denials {
		d := &s.Denials[i]
		denials[d.Agent] = append(denials[d.Agent], d)
	}
	for _, name := range slices.Sorted(maps.Keys(c.agents)) {
		a := c.agents[name]
		for _, k := range slices.SortedFunc(maps.Keys(a.ops), func(x, y opKey) int {
			return cmp.Or(cmp.Compare(x.door, y.door), cmp.Compare(x.action, y.action))
		}) {
			op := a.ops[k]
			a.Tally.add(op.Tally)
			a.Operations = append(a.Operations, op.Operation)
		}
		a.Authorities = a.grants.list()
		a.Sentences = c.sentences(a, denials[a.Name])
		for _, k := range slices.SortedFunc(maps.Keys(a.events), func(x, y eventKey) int {
			return cmp.Or(cmp.Compare(x.kind, y.kind), cmp.Compare(x.action, y.action))
		}) {
			a.Events = append(a.Events, EventCount{audit.Kind(k.kind), k.action, *a.events[k]})
		}
		s.Total.add(a.Tally)
		s.Agents = append(s.Agents, a.Agent)
	}
	byName := func(a, b agentOf) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.agent, b.agent)) }
	for _, k := range slices.SortedFunc(maps.Keys(c.creds), byName) {
		u := *c.creds[k]
		u.Name, u.Agent = k.name, k.agent
		s.Credentials = append(s.Credentials, u)
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.models), byName) {
		m := *c.models[k]
		m.Model, m.Agent = k.name, k.agent
		s.Models = append(s.Models, m)
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.egress), byName) {
		e := *c.egress[k]
		e.Resource, e.Agent = k.name, k.agent
		s.Egress = append(s.Egress, e)
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.would), func(a, b wouldKey) int {
		return cmp.Or(cmp.Compare(a.agent, b.agent), cmp.Compare(a.action, b.action), cmp.Compare(a.source, b.source), cmp.Compare(a.effect, b.effect), cmp.Compare(a.reason, b.reason))
	}) {
		w := *c.would[k]
		w.Agent, w.Action, w.Source, w.Effect, w.Reason = k.agent, k.action, audit.WouldSource(k.source), audit.Effect(k.effect), k.reason
		s.Would = append(s.Would, w)
	}
	s.Timeline = c.times.timeline()
	return s
}
