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
		if !t.args.closed {
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
func (sp *space) args(t *argType, path []string, known map[string][]cedarx.Mention, extra map[string][]string, needed bool) {
	for _, f := range t.fields {
		at := append(slices.Clone(path), f.name)
		needed := needed && f.required
		if f.typ.kind == kindRecord {
			sp.args(f.typ, at, known, extra, needed)
			continue
		}
		key := "context.args." + strings.Join(at, ".")
		d := dim{key: key, arg: at, needed: needed}
		for _, text := range f.typ.texts(key, known, extra[f.path]) {
			same := func(o any) bool { return string(o.(json.RawMessage)) == text }
			if !slices.ContainsFunc(d.values, same) && len(d.values) < 256 {
				d.values = append(d.values, json.RawMessage(text))
			}
		}
		sp.dims = append(sp.dims, d)
	}
}

// texts are what an argument can be, as JSON: what policies say of it, what they
// do not, and null where that is allowed. extra are texts that derived facets
// are about.
func (t *argType) texts(key string, known map[string][]cedarx.Mention, extra []string) []string {
	var out []string
	switch t.kind {
	case kindUnion: // one of its fields
		for _, f := range t.fields {
			out = append(out, f.typ.texts(key+"."+f.name, known, extra)...)
		}
	case kindMap:
		for _, m := range known[key+".keys"] {
			for _, name := range textsOf(m) {
				out = append(out, "{"+quoted(name)+":1}")
			}
		}
		for _, m := range known[key+".json"] {
			for _, v := range textsOf(m) {
				if canonical, err := canonicalJSON(v); err == nil && strings.HasPrefix(canonical, "{") {
					out = append(out, canonical)
				}
			}
		}
	case kindColumns:
		out = append(out, "[]")
		for _, f := range t.elem.fields {
			for _, v := range f.typ.texts(key+"."+f.name, known, extra) {
				out = append(out, "["+t.elem.object(f.name, v)+"]")
			}
		}
	case kindSet:
		out = append(out, "[]")
		one := t.elem.texts(key, known, extra)
		for _, v := range one {
			out = append(out, "["+v+"]")
		}
		for _, m := range known[key] {
			var all []string
			for _, v := range valuesOf(m) {
				if list := t.elem.json(v); len(list) > 0 {
					all = append(all, list[0])
				}
			}
			if len(all) > 0 {
				out = append(out, "["+strings.Join(all, ",")+"]", "["+strings.Join(append(all, t.elem.fresh()), ",")+"]")
			}
		}
	default:
		for _, m := range known[key] {
			for _, v := range valuesOf(m) {
				out = append(out, t.json(v)...)
			}
			for _, text := range patternTexts(m) {
				out = append(out, quoted(text))
			}
			for _, other := range known[key] { // what matches both
				if m.Op == "like" && other.Op == "like" {
					out = append(out, quoted(strings.Join(m.Parts, strings.Join(other.Parts, "x"))))
				}
			}
		}
		for _, text := range extra {
			out = append(out, quoted(text))
		}
		for _, e := range slices.Sorted(maps.Keys(t.enum)) {
			if t.kind == kindString {
				e = quoted(e)
			}
			out = append(out, e)
		}
		if t.kind == kindBool {
			out = append(out, "true", "false")
		}
	}
	out = append(out, t.fresh())
	if t.nullable {
		out = append(out, "null")
	}
	return out
}

// object writes an object with one member as given and what else it needs.
func (t *argType) object(name, value string) string {
	var members []string
	for _, f := range t.fields {
		switch {
		case f.name == name:
			members = append(members, quoted(f.name)+":"+value)
		case f.required:
			members = append(members, quoted(f.name)+":"+f.typ.fresh())
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// valuesOf are the constants of a mention, a set's one by one.
func valuesOf(m cedarx.Mention) []types.Value {
	if set, ok := m.Value.(types.Set); ok {
		out := slices.Collect(set.All())
		slices.SortFunc(out, func(a, b types.Value) int {
			return strings.Compare(string(a.MarshalCedar()), string(b.MarshalCedar()))
		})
		return out
	}
	if m.Value == nil {
		return nil
	}
	return []types.Value{m.Value}
}

// textsOf are the texts that a mention is about.
func textsOf(m cedarx.Mention) []string {
	out := patternTexts(m)
	for _, v := range valuesOf(m) {
		switch v := v.(type) {
		case types.String:
			out = append(out, string(v))
		case types.Long:
			out = append(out, v.String())
		}
	}
	return out
}

// patternTexts are texts that match a pattern, with nothing and with something
// for its wildcards.
func patternTexts(m cedarx.Mention) []string {
	if m.Op != "like" {
		return nil
	}
	return []string{strings.Join(m.Parts, ""), strings.Join(m.Parts, "x"), strings.Join(m.Parts, "/")}
}

// json writes a constant as arguments that reach policy as it, and its
// neighbours; nothing for what they cannot be.
func (t *argType) json(v types.Value) []string {
	switch v := v.(type) {
	case types.String:
		switch t.kind {
		case kindText:
			if canonical, err := canonicalJSON(string(v)); err == nil {
				return []string{canonical}
			}
			return nil
		case kindString:
			return []string{quoted(string(v))}
		}
	case types.Long:
		var out []string
		for _, n := range []types.Long{v, v - 1, v + 1} {
			if t.kind == kindLong && t.scale > 0 {
				out = append(out, fmt.Sprintf("%de-%d", n, t.scale))
			} else if t.kind == kindLong {
				out = append(out, n.String())
			}
		}
		return out
	case types.Decimal:
		if t.kind == kindDecimal {
			text := v.String()
			out := []string{text}
			for _, d := range []float64{-0.0001, 0.0001} {
				out = append(out, fmt.Sprintf("%.4f", v.Float()+d))
			}
			return out
		}
	case types.Datetime:
		if t.kind == kindTime || t.kind == kindDate {
			layout := time.RFC3339Nano
			if t.kind == kindDate {
				layout = time.DateOnly
			}
			var out []string
			for _, d := range []time.Duration{0, -time.Millisecond, time.Millisecond} {
				out = append(out, quoted(v.Time().UTC().Add(d).Format(layout)))
			}
			return out
		}
	case types.IPAddr:
		if t.kind == kindIPv4 || t.kind == kindIPv6 {
			return []string{quoted(v.Prefix().Addr().String())}
		}
	case types.Boolean:
		if t.kind == kindBool {
			return []string{fmt.Sprint(bool(v))}
		}
	}
	return nil
}

// fresh is a value that no policy is likely to name.
func (t *argType) fresh() string {
	switch t.kind {
	case kindLong, kindDecimal:
		return "7777"
	case kindBool:
		return "true"
	case kindTime:
		return `"2001-02-03T04:05:06Z"`
	case kindDate:
		return `"2001-02-03"`
	case kindIPv4:
		return `"198.51.100.77"`
	case kindIPv6:
		return `"2001:db8::77"`
	case kindText, kindMap:
		return `{}`
	case kindSet, kindColumns:
		return `[]`
	case kindRecord:
		return t.object("", "")
	case kindUnion:
		if len(t.fields) > 0 {
			return t.fields[0].typ.fresh()
		}
	}
	return quoted(strangerText)
}

func quoted(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

// unfolded returns texts of which the facet is the given one.
func (f Facet) unfolded(is string) []string {
	switch f {
	case CleanPath, Folded:
		return []string{is}
	case URLScheme:
		return []string{is + "://" + strangerName + "/"}
	case URLHost:
		return []string{"https://" + is + "/"}
	case URLPort:
		return []string{"https://" + strangerName + ":" + is + "/"}
	case EmailDomains:
		return []string{"a@" + is}
	case SQLVerb:
		return []string{is + " 1"}
	}
	return nil
}

// attrValues are what an attribute of a door can be.
func attrValues(typ string, known []cedarx.Mention) []any {
	var texts []string
	out := []any{}
	for _, m := range known {
		texts = append(texts, textsOf(m)...)
		for _, v := range valuesOf(m) {
			if n, ok := v.(types.Long); ok && typ == "Long" {
				out = append(out, int64(n), int64(n)-1, int64(n)+1)
			}
		}
	}
	switch typ {
	case "Long":
		return append(out, int64(7777))
	case "Bool":
		return []any{true, false}
	case "Set<String>":
		for _, text := range texts {
			out = append(out, []string{text})
		}
		return append(out, texts, append(slices.Clone(texts), strangerText), []string{})
	}
	for _, text := range texts {
		out = append(out, text)
	}
	return append(out, strangerText)
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
