package governance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// SuggestOptions change what [Suggest] writes. nil and the zero value are
// usable.
type SuggestOptions struct {
	// MaxValues is how many different values of an argument are listed one by
	// one; 0 is 8. Of more, texts get the path that they have in common, and
	// numbers their bounds.
	MaxValues int
	// Free are arguments to leave alone, as "<server>__<tool>/<argument>".
	// Left alone anyway are texts that read like prose, times, and what is of
	// several types, a list of objects, or an object without named properties.
	Free []string
}

// A Suggestion is a bundle that allows what was observed, and little else.
type Suggestion struct {
	// Bundle is the given one with its permits replaced. Its forbids, profiles
	// and everything else are as before.
	Bundle Bundle
	// Source is the file of suggested permits, which is also in the bundle.
	Source Source
	// Observed counts the allowed requests on the tape, which Bundle allows all;
	// Policies the suggested permits.
	Observed, Policies int
	// Unused are what agents could do before and cannot now, as "<profile or
	// agent>: <server>__<tool>", sorted.
	Unused []string
	// Diff holds examples of requests that were allowed before and are denied
	// now, and the other way round: see [Suggest].
	Diff DiffReport
}

// ErrSuggest is wrapped by the error of [Suggest] when what it wrote does not
// hold: the tape is not of this bundle, or there is nothing on it.
var ErrSuggest = errors.New("governance: no policies can be suggested")

// maxObserved bounds the calls that Suggest keeps in memory.
const maxObserved = 1_000_000

// Suggest writes permits with the least privilege that allows what a tape says
// was allowed: one for each profile (or agent, outside of profiles), action,
// resource and set of obligations, with a condition for each argument. They are
// checked by [Compile], and proven by deciding every observed request again.
// They carry @generated. What nobody did while the tape ran is denied, so that
// they are to be read by people before they are put into force, and best first
// staged beside the bundle that they come from.
//
// Arguments of the tape become constants of policies. Conditions on time, claims,
// session, history and approvals are not learnt, so that a permit can allow what
// such a condition of the old ones did not: look for "now-allowed" in Diff.
func Suggest(ctx context.Context, base Bundle, tape iter.Seq2[Recorded, error], opts *SuggestOptions) (Suggestion, error) {
	before, _, err := Compile(ctx, base, nil)
	if err != nil {
		return Suggestion{}, err
	}
	w := suggester{snap: before, most: 8, free: map[string]bool{}, groups: map[string]*observedGroup{}}
	if opts != nil {
		if opts.MaxValues > 0 {
			w.most = opts.MaxValues
		}
		for _, f := range opts.Free {
			w.free[f] = true
		}
	}
	var kept []Recorded
	for r, err := range tape {
		if err != nil {
			return Suggestion{}, err
		}
		if !r.Decision.Allowed() {
			continue
		}
		if len(kept) == maxObserved {
			return Suggestion{}, fmt.Errorf("%w: more than %d allowed requests; give a part of the tape", ErrSuggest, maxObserved)
		}
		if err := w.observe(r); err != nil {
			return Suggestion{}, fmt.Errorf("%w: allowed request %d does not fit the bundle: %w", ErrSuggest, len(kept)+1, err)
		}
		kept = append(kept, r)
	}
	if len(kept) == 0 {
		return Suggestion{}, fmt.Errorf("%w: nothing on the tape was allowed", ErrSuggest)
	}
	out := Suggestion{Source: Source{Name: "policies/suggested.cedar"}, Observed: len(kept)}
	out.Source.Text, out.Policies = w.text()
	out.Bundle = withPermits(base, out.Source)
	after, _, err := Compile(ctx, out.Bundle, nil)
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrSuggest, err)
	}
	rep, err := Replay(ctx, after, func(yield func(Recorded, error) bool) {
		for _, r := range kept {
			if !yield(r, nil) {
				return
			}
		}
	})
	if err != nil {
		return out, err
	}
	if rep.Allowed != len(kept) {
		return out, fmt.Errorf("%w: %d of %d observed requests would be denied, such as number %d (%s): were they recorded with this bundle?",
			ErrSuggest, len(kept)-rep.Allowed, len(kept), rep.Flips[0].Index, outcome(rep.Flips[0].Now))
	}
	if out.Unused, err = unused(ctx, before, after); err != nil {
		return out, err
	}
	out.Diff, err = Diff(ctx, before, after, &Universe{Max: 20_000, PerPair: 100, Witnesses: 20})
	return out, err
}

// withPermits replaces the permits of a bundle.
func withPermits(base Bundle, with Source) Bundle {
	out := base
	out.Policies = nil
	for i := range base.Policies {
		var text []string
		for _, p := range parsePolicies(&base.Policies[i], &Report{}) {
			if p.forbid {
				text = append(text, p.text)
			}
		}
		if len(text) > 0 {
			out.Policies = append(out.Policies, Source{Name: base.Policies[i].Name, Text: strings.Join(text, "\n\n") + "\n"})
		}
	}
	out.Policies = append(out.Policies, with)
	return out
}

// unused lists the tools that agents could call before and cannot now.
func unused(ctx context.Context, before, after *Snapshot) ([]string, error) {
	agents := map[string]string{} // agent → how it is called
	for _, p := range before.profiles {
		if len(p.Agents) > 0 {
			agents[p.Agents[0]] = p.ID
		}
	}
	for e := range before.entities {
		if e.Type == typeAgent && before.members[string(e.ID)] == "" {
			agents[string(e.ID)] = string(e.ID)
		}
	}
	var refs []ToolRef
	for ref := range before.tools {
		refs = append(refs, ToolRef{ref.server, ref.name})
	}
	var out []string
	for agent, name := range agents {
		was, err := before.Visible(ctx, audit.Actor{Agent: agent}, actionCallTool, refs)
		if err != nil {
			return nil, err
		}
		now, err := after.Visible(ctx, audit.Actor{Agent: agent}, actionCallTool, refs)
		if err != nil {
			return nil, err
		}
		for i, ref := range refs {
			if was[i] != Never && now[i] == Never {
				out = append(out, name+": "+toolKey(ref.Server, ref.Name))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// A suggester gathers what was observed.
type suggester struct {
	snap   *Snapshot
	most   int
	free   map[string]bool
	groups map[string]*observedGroup
}

// An observedGroup becomes one permit.
type observedGroup struct {
	who, id    string // scope of the principal, and what to call it
	users      map[string]bool
	action     types.EntityUID
	resource   types.EntityUID
	tool       *tool
	duties     []audit.Obligation
	n          int
	from, to   time.Time
	record     observedRecord // args, or attributes of the context
	extra      bool
	attributes map[string]string
}

func (w *suggester) observe(r Recorded) error {
	q := r.Request
	t, err := w.snap.resolve(&q)
	if err != nil {
		return err
	}
	m, err := q.context(&t, q.Time, nil)
	if err != nil {
		return err
	}
	who, id := "principal == "+uid(typeAgent, q.Actor.Agent).String(), q.Actor.Agent
	if p := w.snap.members[q.Actor.Agent]; p != "" {
		who, id = "principal in "+uid(typeProfile, p).String(), p
	}
	w.add(who, id, &t, m, r)
	if q.Actor.User != "" {
		w.add("principal is User", "users", &t, m, r).users[q.Actor.User] = true
	}
	return nil
}

func (w *suggester) add(who, id string, t *target, m types.RecordMap, r Recorded) *observedGroup {
	key := strings.Join(append([]string{who, t.action.String(), t.resource.String()}, duties(r.Decision)...), "\x00")
	g := w.groups[key]
	if g == nil {
		g = &observedGroup{
			who: who, id: id, users: map[string]bool{}, action: t.action, resource: t.resource, tool: t.tool,
			duties: r.Decision.Obligations, from: r.Request.Time,
		}
		w.groups[key] = g
	}
	g.n++
	if r.Request.Time.Before(g.from) {
		g.from = r.Request.Time
	}
	if r.Request.Time.After(g.to) {
		g.to = r.Request.Time
	}
	if t.tool != nil {
		args, _ := m["args"].(types.Record)
		g.record.add(args)
		if extra, ok := m["extra"].(types.Set); ok && extra.Len() > 0 {
			g.extra = true
		}
		return g
	}
	attrs := types.RecordMap{}
	for name := range verbs[r.Request.Action].attrs {
		if v, ok := m[types.String(name)]; ok {
			attrs[types.String(name)] = v
		}
	}
	g.attributes = verbs[r.Request.Action].attrs
	g.record.add(types.NewRecord(attrs))
	return g
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// text writes the permits, in a fixed order.
func (w *suggester) text() (string, int) {
	var b strings.Builder
	b.WriteString("// Suggested from recorded requests: read before use.\n")
	taken := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(w.groups)) {
		g := w.groups[key]
		resource := "resource"
		id := "suggested/" + notInID.ReplaceAllString(g.id, "-") + "/" + notInID.ReplaceAllString(string(g.action.ID), "-")
		if g.tool == nil {
			resource += " == " + g.resource.String()
			id += "/" + notInID.ReplaceAllString(string(g.resource.ID), "-")
		}
		head := fmt.Sprintf("permit (%s, action == %s, %s)", g.who, g.action, resource)
		if conditions := w.conditions(g); len(conditions) > 0 {
			head += "\nwhen {\n  " + strings.Join(conditions, " &&\n  ") + "\n}"
		}
		for _, duties := range layers(g.duties) {
			own := id[:min(len(id), 120)]
			for n, plain := 2, own; taken[own]; n++ {
				own = fmt.Sprintf("%s/%d", plain, n)
			}
			taken[own] = true
			fmt.Fprintf(&b, "\n@id(%s)\n@generated(%s)\n", cedarx.Quote(own),
				cedarx.Quote(fmt.Sprintf("from %d requests, %s to %s", g.n, g.from.UTC().Format(time.DateOnly), g.to.UTC().Format(time.DateOnly))))
			for _, d := range duties {
				fmt.Fprintf(&b, "@%s(%s)\n", d.Kind, cedarx.Quote(d.Value))
			}
			b.WriteString(head + ";\n")
		}
	}
	return b.String(), len(taken)
}

// layers are obligations as annotations. A policy has one of a kind; where two
// permits demanded different ones, two permits will.
func layers(list []audit.Obligation) [][]audit.Obligation {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b audit.Obligation) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Value, b.Value))
	})
	sorted = slices.CompactFunc(sorted, func(a, b audit.Obligation) bool { return a.Kind == b.Kind && a.Value == b.Value })
	out := make([][]audit.Obligation, 1)
	n := 0
	for i, o := range sorted {
		if n++; i == 0 || sorted[i-1].Kind != o.Kind {
			n = 0
		}
		if n == len(out) {
			out = append(out, nil)
		}
		out[n] = append(out[n], o)
	}
	return out
}
