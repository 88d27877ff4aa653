package governance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A Witness is a request that two snapshots decide differently. Both were asked.
type Witness struct {
	Change  Change
	Request Request
	A, B    audit.Decision
}

// A DiffReport says how two snapshots were found to differ.
type DiffReport struct {
	// A and B are the hashes.
	A, B string
	// Added, Removed and Changed are ids of policies, sorted.
	Added, Removed, Changed []string
	// Tried counts requests, over Pairs of an actor and a target about which the
	// snapshots have different things to say.
	Tried, Pairs int
	// Complete is false when a bound of the [Universe] ended the search.
	Complete bool
	// Witnesses are what was found, one at most for each actor and target. None
	// means none found in so many tries, and never that there is none.
	Witnesses []Witness
}

// Diff searches for requests that two snapshots decide differently. It needs no
// solver: it looks only where the policies that could apply differ, tries
// constants that they compare with, their neighbours, something else, and
// nothing, and asks both snapshots. Every witness is therefore real, and what
// is not found may still exist. Rates are taken to have room, and a call that
// waits for approval counts as allowed with that obligation. The error is that
// of the context.
func Diff(ctx context.Context, a, b *Snapshot, u *Universe) (DiffReport, error) {
	rep := DiffReport{A: a.Hash(), B: b.Hash(), Complete: true}
	if a == nil || b == nil {
		return rep, ErrNoSnapshot
	}
	d := differ{a: a, b: b, u: u.orDefault(), rep: &rep}
	d.changed()
	if rep.A == rep.B && a.mode == b.mode && len(rep.Added)+len(rep.Removed)+len(rep.Changed) == 0 {
		return rep, nil
	}
	d.r = rand.New(rand.NewPCG(d.u.Seed, 1))
	d.same = reflect.DeepEqual(a.entities, b.entities) && a.errors == b.errors && a.mode == b.mode
	targets := d.targets()
	for _, actor := range d.actors() {
		for _, target := range targets {
			if err := ctx.Err(); err != nil {
				return rep, err
			}
			if len(rep.Witnesses) >= d.u.Witnesses || rep.Tried >= d.u.Max {
				rep.Complete = false
				return rep, nil
			}
			d.pair(ctx, actor, target)
		}
	}
	return rep, ctx.Err()
}

type differ struct {
	a, b   *Snapshot
	u      Universe
	r      *rand.Rand
	rep    *DiffReport
	differ map[string]bool // ids of policies that are not the same in both
	same   bool            // everything but policies and tools is
	spaces map[string]*targetSpace
}

// targetSpace is a space with what policies about it are about.
type targetSpace struct {
	*space
	tool *tool
	own  map[*policy][][]int
}

// changed compares the policies by what they say, and not by how it is written.
func (d *differ) changed() {
	d.differ = map[string]bool{}
	said := func(p *policy) string { return string(p.cedar.MarshalCedar()) }
	for id, p := range d.a.policies {
		switch q, ok := d.b.policies[id]; {
		case !ok:
			d.rep.Removed = append(d.rep.Removed, p.id)
		case said(p) != said(q):
			d.rep.Changed = append(d.rep.Changed, p.id)
		default:
			continue
		}
		d.differ[p.id] = true
	}
	for id, p := range d.b.policies {
		if _, ok := d.a.policies[id]; !ok {
			d.rep.Added = append(d.rep.Added, p.id)
			d.differ[p.id] = true
		}
	}
	slices.Sort(d.rep.Added)
	slices.Sort(d.rep.Removed)
	slices.Sort(d.rep.Changed)
}

// pair searches for one actor and target.
func (d *differ) pair(ctx context.Context, actor audit.Actor, target Request) {
	var differing, about []*policy
	for _, s := range []*Snapshot{d.a, d.b} {
		ask := target
		ask.Actor = actor
		t, err := s.resolve(&ask)
		if err != nil {
			continue
		}
		for _, who := range ask.askers(nil) {
			q := s.ask(who.uid, &t, nil)
			for _, c := range q.find(s.law, &t) {
				p := s.law.of(c)
				if slices.Contains(about, p) {
					continue
				}
				about = append(about, p)
				if d.differ[p.id] {
					differing = append(differing, p)
				}
			}
			s.give(q)
		}
	}
	sp := d.space(target)
	if len(differing) == 0 {
		if d.same && d.sameTool(target) {
			return
		}
		if differing = about; len(about) == 0 {
			return // nothing permits it in either
		}
	}
	d.rep.Pairs++
	for n := range d.u.PerPair {
		if d.rep.Tried >= d.u.Max || ctx.Err() != nil {
			return
		}
		chosen := [][][]int{sp.ownOf(differing[n%len(differing)]), sp.ownOf(about[d.r.IntN(len(about))])}
		pick := sp.draw(d.r, chosen...)
		if w, ok := d.try(ctx, sp.request(actor, pick)); ok {
			d.rep.Witnesses = append(d.rep.Witnesses, d.smaller(ctx, sp, actor, pick, w))
			return
		}
	}
}

func (sp *targetSpace) ownOf(p *policy) [][]int {
	own, ok := sp.own[p]
	if !ok {
		own = sp.space.own(sp.tool, p)
		sp.own[p] = own
	}
	return own
}

// try asks both snapshots.
func (d *differ) try(ctx context.Context, r Request) (Witness, bool) {
	d.rep.Tried++
	r.counted, r.beside = true, true
	was, errA := d.a.Decide(ctx, r)
	now, errB := d.b.Decide(ctx, r)
	if errA != nil || errB != nil {
		return Witness{}, false
	}
	change := compare(settled(was), settled(now))
	if change == Same || change == OtherCause {
		return Witness{}, false
	}
	return Witness{change, r, was.Decision, now.Decision}, true
}

// settled takes a call that waits for approval for one that is allowed.
func settled(d Decision) audit.Decision {
	if d.Reason == audit.GuardApproval && d.Call != "" {
		d.Effect = audit.Allow
	}
	return d.Decision
}

// smaller leaves out of a witness whatever does not matter.
func (d *differ) smaller(ctx context.Context, sp *targetSpace, actor audit.Actor, pick []int, w Witness) Witness {
	for i := range pick {
		if pick[i] < 0 {
			continue
		}
		old := pick[i]
		pick[i] = -1
		if v, ok := d.try(ctx, sp.request(actor, pick)); ok && v.Change == w.Change {
			w = v
			continue
		}
		pick[i] = old
	}
	return w
}

// space makes the space of a target once.
func (d *differ) space(target Request) *targetSpace {
	key := Request{Action: target.Action, Server: target.Server, Name: target.Name}
	name := key.Action + " " + key.Server + " " + key.Name
	if d.spaces == nil {
		d.spaces = map[string]*targetSpace{}
	}
	if sp, ok := d.spaces[name]; ok {
		return sp
	}
	var about []*policy
	var shape *tool
	for _, s := range []*Snapshot{d.a, d.b} {
		t, err := s.resolve(&key)
		if err != nil {
			continue
		}
		if t.tool != nil {
			shape = t.tool
		}
		about = append(about, s.about(&t)...)
	}
	key.Enforces = []string{ObligationApproval, ObligationMaxBytes, ObligationRate, ObligationRedact, ObligationRecordPrompt}
	key.History = d.a.NoHistory()
	maps.Copy(key.History.Facts, d.b.NoHistory().Facts)
	sp := &targetSpace{makeSpace(key, shape, about), shape, map[*policy][][]int{}}
	d.spaces[name] = sp
	return sp
}

// sameTool reports whether a target is the same thing in both.
func (d *differ) sameTool(r Request) bool {
	if r.Action != actionCallTool {
		return true
	}
	x, y := d.a.tools[toolRef{r.Server, r.Name}], d.b.tools[toolRef{r.Server, r.Name}]
	if x == nil || y == nil {
		return x == y
	}
	one, _ := json.Marshal(x.def)
	other, _ := json.Marshal(y.def)
	return string(one) == string(other)
}

// targets are what can be asked for: every tool of either catalogue, and of
// every other action what policies and profiles name and what they do not.
func (d *differ) targets() []Request {
	seen := map[[3]string]bool{}
	add := func(action, server, name string) { seen[[3]string{action, server, name}] = true }
	named := map[types.EntityType]map[string]bool{}
	note := func(t types.EntityType, id string) {
		if named[t] == nil {
			named[t] = map[string]bool{}
		}
		named[t][id] = true
	}
	for _, s := range []*Snapshot{d.a, d.b} {
		for ref := range s.tools {
			add(actionCallTool, ref.server, ref.name)
		}
		for server := range s.servers {
			note(typeServer, server)
			for _, t := range []types.EntityType{typePrompt, typeResource} {
				note(t, toolKey(server, strangerName))
			}
		}
		for _, p := range s.policies {
			for _, e := range cedarx.Entities(p.cedar) {
				note(e.Type, string(e.ID))
			}
		}
		for _, p := range s.profiles {
			for _, h := range p.Hosts {
				note(typeHost, h)
			}
			for _, m := range p.Models {
				note(typeModel, m)
			}
			for _, m := range p.HostedTools {
				note(typeHostedTool, m)
			}
			for _, c := range p.Credentials {
				note(typeCredential, c)
			}
			for server, g := range p.Servers {
				for _, name := range g.Prompts {
					note(typePrompt, toolKey(server, name))
				}
				for _, name := range g.Resources {
					note(typeResource, toolKey(server, name))
				}
			}
		}
	}
	for _, t := range []types.EntityType{typeHost, typeCredential, typeSandbox} {
		note(t, strangerName)
	}
	for m := range maps.Keys(named[typeModel]) {
		provider, _, _ := strings.Cut(m, "/")
		note(typeProvider, provider)
	}
	note(typeProvider, strangerName)
	for p := range maps.Keys(named[typeProvider]) {
		note(typeModel, p+"/"+strangerName)
		note(typeHostedTool, p+"/"+strangerName)
	}
	for action, v := range verbs {
		for id := range named[v.resource] {
			server, name := "", strings.Replace(id, "*", strangerName, 1)
			switch v.resource {
			case typeServer, typeProvider:
				server, name = id, ""
			case typePrompt, typeResource:
				server, name, _ = strings.Cut(name, "__")
			case typeModel, typeHostedTool:
				server, name, _ = strings.Cut(name, "/")
			}
			add(action, server, name)
		}
	}
	keys := slices.Collect(maps.Keys(seen))
	slices.SortFunc(keys, func(a, b [3]string) int { return slices.Compare(a[:], b[:]) })
	out := make([]Request, len(keys))
	for i, k := range keys {
		out[i] = Request{Action: k[0], Server: k[1], Name: k[2]}
	}
	return out
}

// actors are who can ask: of agents and users that no policy could tell apart,
// one each.
func (d *differ) actors() []audit.Actor {
	if d.u.Actors != nil {
		return d.u.Actors
	}
	named := map[types.EntityUID]bool{}
	all := map[types.EntityType]map[string]bool{typeAgent: {strangerName: true}, typeUser: {strangerName: true}}
	note := func(e types.EntityUID) {
		if ids := all[e.Type]; ids != nil {
			ids[string(e.ID)] = true
		}
	}
	for _, s := range []*Snapshot{d.a, d.b} {
		for id := range s.entities {
			note(id)
		}
		for _, p := range s.policies {
			for _, e := range cedarx.Entities(p.cedar) {
				note(e)
				named[e] = true
			}
		}
	}
	distinct := func(t types.EntityType) []string {
		var out []string
		seen := map[string]bool{}
		for _, id := range slices.Sorted(maps.Keys(all[t])) {
			e := uid(t, id)
			look := ""
			if named[e] {
				look = id
			}
			for _, s := range []*Snapshot{d.a, d.b} {
				stored := s.entities[e]
				look += fmt.Sprint(" ", ancestors(s.entities, e), stored.Attributes, stored.Tags)
			}
			if !seen[look] {
				seen[look] = true
				out = append(out, id)
			}
		}
		return out
	}
	var out []audit.Actor
	agents, users := distinct(typeAgent), distinct(typeUser)
	for _, agent := range agents {
		out = append(out, audit.Actor{Agent: agent})
	}
	for _, agent := range agents {
		for _, user := range users {
			out = append(out, audit.Actor{Agent: agent, User: user})
		}
	}
	return out
}

// WriteTo writes the report for people. It shows the arguments of witnesses,
// which are made up.
func (r DiffReport) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, list := range []struct {
		word string
		ids  []string
	}{{"added", r.Added}, {"removed", r.Removed}, {"changed", r.Changed}} {
		if len(list.ids) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", list.word, strings.Join(list.ids, ", "))
		}
	}
	found := "none"
	if n := len(r.Witnesses); n > 0 {
		found = fmt.Sprint(n)
	}
	fmt.Fprintf(&b, "%s found in %d requests over %d pairs of actor and target", found, r.Tried, r.Pairs)
	if !r.Complete {
		b.WriteString("; the search was cut short")
	}
	b.WriteString("\n")
	for _, v := range r.Witnesses {
		who := v.Request.Actor.Agent
		if v.Request.Actor.User != "" {
			who += " for " + v.Request.Actor.User
		}
		action, resource := v.Request.named()
		fmt.Fprintf(&b, "%s: %s %s on %s%s: %s -> %s\n", v.Change, who, action, resource, v.Request.details(), outcome(v.A), outcome(v.B))
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// details are what else a request says, in a fixed order.
func (r Request) details() string {
	var b strings.Builder
	if len(r.Args) > 0 {
		b.WriteString(" " + clip(string(r.Args)))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Attrs)) {
		fmt.Fprintf(&b, " %s=%v", k, r.Attrs[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.Claims)) {
		fmt.Fprintf(&b, " claim %s=%s", k, r.Claims[k])
	}
	if r.Actor.Session != "" {
		b.WriteString(" session=" + r.Actor.Session)
	}
	if r.History != nil {
		for _, k := range slices.Sorted(maps.Keys(r.History.Facts)) {
			if v := r.History.Facts[k]; v != nil && v != false && v != int64(0) {
				fmt.Fprintf(&b, " fact %s=%v", k, v)
			}
		}
		for _, l := range r.History.Labels {
			b.WriteString(" label " + l)
		}
	}
	if !r.Time.IsZero() {
		b.WriteString(" at " + r.Time.UTC().Format("2006-01-02T15:04:05.999Z"))
	}
	return b.String()
}
