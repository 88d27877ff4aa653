package governance

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A Universe is where [Diff] looks for requests. nil and the zero value look
// at everything that the two snapshots know of, within the default bounds.
type Universe struct {
	// Actors are who asks; nil takes every agent that either bundle or a policy
	// names, one that none names, and users alike. Agents that no policy could
	// tell apart are tried once.
	Actors []audit.Actor
	// PerPair is the number of requests to try for each actor and target; 0 is
	// 500. Max is the number in all; 0 is 500,000.
	PerPair, Max int
	// Witnesses is how many to find before stopping; 0 is 100. At most one is
	// reported for each actor and target.
	Witnesses int
	// Seed makes another search; the same seed makes the same one.
	Seed uint64
}

func (u *Universe) orDefault() Universe {
	var out Universe
	if u != nil {
		out = *u
	}
	for _, n := range []struct {
		of *int
		is int
	}{{&out.PerPair, 500}, {&out.Max, 500_000}, {&out.Witnesses, 100}} {
		if *n.of <= 0 {
			*n.of = n.is
		}
	}
	return out
}

// Texts that no policy is likely to name.
const (
	strangerName = "somebody-new"
	strangerText = "something-new"
)

// A dim is one thing that requests differ in, and what it can be. No value at
// all is always among its choices.
type dim struct {
	key    string // its path in Cedar, joined by dots
	values []any  // JSON text for arguments, else what a Request takes
	set    func(*Request, any)
	arg    []string // its path below the arguments, or nil
	needed bool
}

// A space is all that is tried for one target.
type space struct {
	base Request
	dims []dim
}

// request makes the request of an assignment; -1 leaves a thing out.
func (sp *space) request(actor audit.Actor, pick []int) Request {
	r := sp.base
	r.Actor = actor
	r.Attrs, r.Claims = map[string]any{}, map[string]string{}
	r.History = &History{Facts: maps.Clone(sp.base.History.Facts)}
	args := map[string]any{}
	for i, d := range sp.dims {
		switch {
		case pick[i] < 0:
		case d.arg != nil:
			put(args, d.arg, d.values[pick[i]])
		default:
			d.set(&r, d.values[pick[i]])
		}
	}
	if r.Action == actionCallTool {
		r.Args, _ = json.Marshal(args)
	}
	return r
}

func put(m map[string]any, path []string, v any) {
	for _, name := range path[:len(path)-1] {
		next, ok := m[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[name] = next
		}
		m = next
	}
	m[path[len(path)-1]] = v
}

// makeSpace finds what could matter for a target: the constants that policies
// about it compare with, their neighbours, something that none names, and
// nothing.
func makeSpace(base Request, t *tool, about []*policy) *space {
	sp := &space{base: base}
	known := map[string][]cedarx.Mention{}
	for _, p := range about {
		for _, m := range cedarx.Mentions(p.cedar) {
			key := strings.Join(m.Path, ".")
			known[key] = append(known[key], m)
		}
	}
	if t != nil {
		extra := map[string][]string{} // by JSON Pointer, what makes a facet true
		for name, d := range t.def.Derived {
			for _, m := range known["context.derived."+name] {
				for _, c := range textsOf(m) {
					extra[d.From] = append(extra[d.From], d.Facet.unfolded(c)...)
				}
			}
		}
		sp.args(t.args, nil, known, extra, true)
		if !t.args.Closed {
			sp.dims = append(sp.dims, dim{key: "context.extra", arg: []string{strangerText}, values: []any{1}})
		}
	} else {
		for _, name := range slices.Sorted(maps.Keys(verbs[base.Action].attrs)) {
			values := attrValues(verbs[base.Action].attrs[name], known["context."+name])
			sp.dims = append(sp.dims, dim{key: "context." + name, values: values, set: func(r *Request, v any) { r.Attrs[name] = v }})
		}
	}
	var sessions, times []any
	for _, m := range known["context.session"] {
		for _, c := range textsOf(m) {
			sessions = append(sessions, c)
		}
	}
	sp.dims = append(sp.dims, dim{key: "context.session", values: append(sessions, strangerText), set: func(r *Request, v any) { r.Actor.Session = v.(string) }})
	for _, m := range known["context.now"] {
		if at, ok := m.Value.(types.Datetime); ok {
			for _, d := range []time.Duration{-time.Millisecond, 0, time.Millisecond} {
				times = append(times, at.Time().Add(d))
			}
		}
	}
	if len(times) > 0 {
		sp.dims = append(sp.dims, dim{key: "context.now", values: times, set: func(r *Request, v any) { r.Time = v.(time.Time) }})
	}
	for _, name := range slices.Sorted(maps.Keys(base.History.Facts)) {
		zero := base.History.Facts[name]
		d := dim{key: "context.facts." + name, set: func(r *Request, v any) { r.History.Facts[name] = v }}
		switch zero.(type) {
		case bool:
			d.values = []any{true}
		case int64:
			d.values = attrValues("Long", known[d.key])
		default:
			d.values = []any{time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)}
		}
		sp.dims = append(sp.dims, d)
	}
	var labels []any
	for _, m := range known["context.labels"] {
		for _, c := range textsOf(m) {
			labels = append(labels, []string{c})
		}
	}
	if labels != nil {
		sp.dims = append(sp.dims, dim{key: "context.labels", values: labels, set: func(r *Request, v any) { r.History.Labels = v.([]string) }})
	}
	for _, key := range slices.Sorted(maps.Keys(known)) {
		name, ok := strings.CutPrefix(key, "principal.tag:")
		if !ok {
			continue
		}
		values := []any{strangerText}
		for _, m := range known[key] {
			for _, c := range textsOf(m) {
				values = append(values, c)
			}
		}
		sp.dims = append(sp.dims, dim{key: key, values: values, set: func(r *Request, v any) { r.Claims[name] = v.(string) }})
	}
	return sp
}

// args adds the arguments of a record.
func (sp *space) args(t *argument.Type, path []string, known map[string][]cedarx.Mention, extra map[string][]string, needed bool) {
	for _, f := range t.Fields {
		at := append(slices.Clone(path), f.Name)
		needed := needed && f.Required
		if f.Typ.Kind == argument.KindRecord {
			sp.args(f.Typ, at, known, extra, needed)
			continue
		}
		key := "context.args." + strings.Join(at, ".")
		d := dim{key: key, arg: at, needed: needed}
		for _, text := range typeTexts(f.Typ, key, known, extra[f.Path]) {
			same := func(o any) bool { return string(o.(json.RawMessage)) == text }
			if !slices.ContainsFunc(d.values, same) && len(d.values) < 256 {
				d.values = append(d.values, json.RawMessage(text))
			}
		}
		sp.dims = append(sp.dims, d)
	}
}

// own returns, for each dimension, the places of the values that p itself is
// about.
func (sp *space) own(t *tool, p *policy) [][]int {
	mine := makeSpace(sp.base, t, []*policy{p})
	said := map[string]bool{}
	for _, m := range cedarx.Mentions(p.cedar) {
		said[strings.Join(m.Path, ".")] = true
	}
	at := map[string]dim{}
	for _, d := range mine.dims {
		at[d.key] = d
	}
	out := make([][]int, len(sp.dims))
	for i, d := range sp.dims {
		if !said[d.key] && len(at[d.key].values) < 2 {
			continue
		}
		for _, v := range at[d.key].values {
			same := func(o any) bool { return fmt.Sprint(o) == fmt.Sprint(v) }
			if n := slices.IndexFunc(d.values, same); n >= 0 {
				out[i] = append(out[i], n)
			}
		}
	}
	return out
}

// draw picks values at random: mostly what the chosen policies are about, else
// anything, and sometimes nothing.
func (sp *space) draw(r *rand.Rand, chosen ...[][]int) []int {
	pick := make([]int, len(sp.dims))
	for i, d := range sp.dims {
		var own []int
		for _, c := range chosen {
			if len(c[i]) > 0 && (own == nil || r.IntN(2) == 0) {
				own = c[i]
			}
		}
		absent := 2
		if own != nil {
			absent = 8
		}
		switch {
		case !d.needed && r.IntN(absent) == 0:
			pick[i] = -1
		case own != nil && r.IntN(8) > 0:
			pick[i] = own[r.IntN(len(own))]
		default:
			pick[i] = r.IntN(len(d.values))
		}
	}
	return pick
}
