package report

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A page is what the template shows.
type page struct {
	Options
	Records     int
	First, Last time.Time

	Total     tally
	Agents    []agentOps
	Denials   rows
	Creds     []credUse
	Models    []modelUse
	Egress    []egressUse
	Probes    rows
	Admin     rows
	Gaps      rows
	OpenCalls rows

	ops    map[opKey]*tally
	creds  map[credKey]*credUse
	models map[modelKey]*modelUse
	egress map[egressKey]*egressUse
	open   map[uint64]audit.Record
}

// rows are single records, no more than the limit.
type rows struct {
	List    []audit.Record
	LeftOut int
}

// Count is how many there are, shown or not.
func (r rows) Count() int { return len(r.List) + r.LeftOut }

// A tally counts acts by how they ended.
type tally struct{ OK, Failed, Cancelled, Open, Denied int }

type (
	opKey     struct{ agent, door, action string }
	credKey   struct{ name, agent string }
	modelKey  struct{ model, agent string }
	egressKey struct{ resource, agent string }

	agentOps struct {
		Agent string
		Ops   []opTally
	}
	opTally struct {
		Door, Action string
		tally
	}
	credUse struct {
		Name, Agent string
		Uses        int
		Policies    []string
	}
	modelUse struct {
		Model, Agent          string
		Calls, Partial        int
		Input, Output         int64
		CacheRead, CacheWrite int64
		Reasoning             int64
	}
	egressUse struct {
		Resource, Agent string
		Allowed, Denied int
	}
)

func newPage(o Options) *page {
	return &page{
		Options: o,
		ops:     map[opKey]*tally{},
		creds:   map[credKey]*credUse{},
		models:  map[modelKey]*modelUse{},
		egress:  map[egressKey]*egressUse{},
		open:    map[uint64]audit.Record{},
	}
}

func (p *page) keep(to *rows, r audit.Record) {
	if len(to.List) >= p.MaxRows {
		to.LeftOut++
		return
	}
	to.List = append(to.List, r)
}

// at returns the entry of a map, made if absent.
func at[K comparable, V any](m map[K]*V, k K) *V {
	v, ok := m[k]
	if !ok {
		v = new(V)
		m[k] = v
	}
	return v
}

func (p *page) add(r audit.Record) {
	p.Records++
	if p.First.IsZero() {
		p.First = r.Time
	}
	p.Last = r.Time
	switch {
	case r.Intent != nil:
		p.intent(r)
	case r.Outcome != nil:
		p.outcome(r)
	case r.Event != nil:
		p.event(r)
	}
}

func (p *page) intent(r audit.Record) {
	in := r.Intent
	p.open[r.Seq] = r
	if c := in.Credential; c != nil {
		u := at(p.creds, credKey{c.Name, in.Actor.Agent})
		u.Uses++
		for _, id := range c.Decision.PolicyIDs() {
			if i, found := slices.BinarySearch(u.Policies, id); !found {
				u.Policies = slices.Insert(u.Policies, i, id)
			}
		}
	}
	if isEgress(in.Door, in.Action) {
		at(p.egress, egressKey{in.Resource, in.Actor.Agent}).Allowed++
	}
}

func (p *page) outcome(r audit.Record) {
	in, ok := p.open[r.Call]
	if !ok {
		return // its intent lies before the records that were asked for
	}
	delete(p.open, r.Call)
	op := at(p.ops, opKey{in.Intent.Actor.Agent, in.Intent.Door, in.Intent.Action})
	switch r.Outcome.Status {
	case audit.StatusOK:
		op.OK++
	case audit.StatusCancelled:
		op.Cancelled++
	default:
		op.Failed++
	}
	if u := r.Outcome.Usage; u != nil {
		m := at(p.models, modelKey{u.Model, in.Intent.Actor.Agent})
		m.Calls++
		if !u.Final {
			m.Partial++
		}
		m.Input += u.Input
		m.Output += u.Output
		m.CacheRead += u.CacheRead
		m.CacheWrite += u.CacheWrite
		m.Reasoning += u.Reasoning
	}
}

func (p *page) event(r audit.Record) {
	ev := r.Event
	switch {
	case ev.Kind == audit.KindDenial:
		at(p.ops, opKey{ev.Actor.Agent, ev.Door, ev.Action}).Denied++
		p.keep(&p.Denials, r)
		if isEgress(ev.Door, ev.Action) {
			at(p.egress, egressKey{ev.Resource, ev.Actor.Agent}).Denied++
		}
	case ev.Kind == audit.KindProbe || ev.Kind == audit.KindLeak:
		p.keep(&p.Probes, r)
	case ev.Kind == audit.KindGap:
		p.keep(&p.Gaps, r)
	case ev.Change != nil:
		p.keep(&p.Admin, r)
	}
}

func isEgress(door, action string) bool { return door == audit.DoorCompute && action == "connect" }

// finish turns what was counted into sorted tables.
func (p *page) finish() {
	if p.Now.IsZero() {
		p.Now = p.Last
	}
	for _, seq := range slices.Sorted(maps.Keys(p.open)) {
		r := p.open[seq]
		at(p.ops, opKey{r.Intent.Actor.Agent, r.Intent.Door, r.Intent.Action}).Open++
		p.keep(&p.OpenCalls, r)
	}
	keys := slices.SortedFunc(maps.Keys(p.ops), func(a, b opKey) int {
		return cmp.Or(cmp.Compare(a.agent, b.agent), cmp.Compare(a.door, b.door), cmp.Compare(a.action, b.action))
	})
	for _, k := range keys {
		t := *p.ops[k]
		p.Total.OK += t.OK
		p.Total.Failed += t.Failed
		p.Total.Cancelled += t.Cancelled
		p.Total.Open += t.Open
		p.Total.Denied += t.Denied
		if n := len(p.Agents); n == 0 || p.Agents[n-1].Agent != k.agent {
			p.Agents = append(p.Agents, agentOps{Agent: k.agent})
		}
		a := &p.Agents[len(p.Agents)-1]
		a.Ops = append(a.Ops, opTally{k.door, k.action, t})
	}
	for k, u := range p.creds {
		u.Name, u.Agent = k.name, k.agent
		p.Creds = append(p.Creds, *u)
	}
	for k, m := range p.models {
		m.Model, m.Agent = k.model, k.agent
		p.Models = append(p.Models, *m)
	}
	for k, e := range p.egress {
		e.Resource, e.Agent = k.resource, k.agent
		p.Egress = append(p.Egress, *e)
	}
	slices.SortFunc(p.Creds, func(a, b credUse) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Agent, b.Agent)) })
	slices.SortFunc(p.Models, func(a, b modelUse) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Agent, b.Agent))
	})
	slices.SortFunc(p.Egress, func(a, b egressUse) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Agent, b.Agent))
	})
}
