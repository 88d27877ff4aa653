package governance

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// An actionFacts is what history means for one action. It is immutable.
type actionFacts struct {
	reads       []factRead // what policies for this action ask for
	watches     []factWatch
	keys        []keyPaths // each used by some of these
	labels      []string   // what a call puts on the session
	readsLabels bool
}

type factRead struct {
	def  *factDef
	name types.String
	key  int         // in keys, or -1
	none types.Value // without any history
}

// A factWatch is a fact that counts this action.
type factWatch struct {
	def   *factDef
	key   int
	where []condition
	of    []string
	many  bool // it is a set
	value int  // in keys, if it is one value that is told apart
	reset bool
}

// keyPaths are the arguments that a fact is kept apart by.
type keyPaths [][]string

type condition struct {
	path []string
	any  []types.Value
}

// feeds reports whether a call leaves a trace.
func (a *actionFacts) feeds() bool { return len(a.watches) > 0 || len(a.labels) > 0 }

// asks reports whether a decision depends on history.
func (a *actionFacts) asks() bool { return len(a.reads) > 0 || a.readsLabels }

// A place is the type of an argument, or of an attribute of another action.
type place struct {
	cedar    string
	unit     string // what its values mean, beyond the type in Cedar
	optional bool
}

var scalars = []string{"String", "Long", "Bool", "decimal", "datetime", "ipaddr"}

// placeOf finds where a pointer leads to.
func placeOf(t *tool, verb string, path []string) (place, bool) {
	if t == nil {
		cedar, ok := verbs[verb].attrs[path[0]]
		return place{cedar: cedar, optional: true}, ok && len(path) == 1
	}
	at, optional := t.args, false
	for _, name := range path {
		i, ok := at.ByName[name]
		if !ok {
			return place{}, false
		}
		f := at.Fields[i]
		at, optional = f.Typ, optional || !f.Required || f.Typ.Nullable
	}
	var b strings.Builder
	at.CedarType(&b)
	return place{b.String(), unitOf(at), optional}, true
}

// unitOf is what else than its Cedar type two arguments have to share.
func unitOf(t *argument.Type) string {
	switch {
	case t.Kind == argument.KindSet:
		return unitOf(t.Elem)
	case t.Kind == argument.KindLong && t.Scale > 0:
		return fmt.Sprintf("scale %d", t.Scale)
	case t.Kind == argument.KindText:
		return "json"
	}
	return ""
}

// units are the types and units that the fact's arguments have in the actions
// that it watches. Another tool with the same ones changes nothing.
func (f Fact) units(deeds []deed) (out []string) {
	for _, p := range f.paths() {
		path, _ := pointer(p)
		var in []string
		for _, d := range deeds {
			if at, ok := placeOf(d.tool, d.name, path); ok && (d.in(f.On) || d.in(f.Reset)) {
				in = append(in, at.cedar+" "+at.unit)
			}
		}
		slices.Sort(in)
		out = append(out, strings.Join(slices.Compact(in), ", "))
	}
	return out
}

// A deed is an action as facts see it: a tool, or another action.
type deed struct {
	name   string
	action types.EntityUID
	tool   *tool
	groups []string // a tool's
}

// deeds are all actions, sorted.
func (s *Snapshot) deeds() []deed {
	var out []deed
	for name := range verbs {
		out = append(out, deed{name: name, action: uid(typeAction, name)})
	}
	for ref, t := range s.tools {
		out = append(out, deed{t.key, t.action, t, []string{classAction(ref.server, t.def.Class), string(t.def.Class), actionCallTool}})
	}
	slices.SortFunc(out, func(a, b deed) int { return strings.Compare(a.name, b.name) })
	return out
}

func (d deed) in(names []string) bool {
	return slices.Contains(names, d.name) || slices.ContainsFunc(d.groups, func(g string) bool { return slices.Contains(names, g) })
}

var labelText = regexp.MustCompile(`^[a-z0-9][a-z0-9_.:-]*$`)

func isLabel(s string) bool { return len(s) <= 64 && labelText.MatchString(s) }

const (
	maxToolLabels    = 16
	maxSessionLabels = 256
)

// facts checks the bundle's facts and labels, finds what each action does to
// them and can be told about them, and gives that to the schema.
func (c *compiler) facts() {
	c.factTypes = factTypes{}
	c.snap.facts = map[types.EntityUID]*actionFacts{}
	c.snap.defs = map[defID]*factDef{}
	deeds := c.snap.deeds()
	for _, d := range deeds {
		c.snap.facts[d.action] = &actionFacts{}
	}
	for _, s := range c.bundle.Catalog {
		for _, t := range s.Tools {
			for _, l := range t.Labels {
				if !isLabel(l) || len(t.Labels) > maxToolLabels {
					s.finding(c.rep, l, fmt.Sprintf("tool %q of server %q: label %q", t.Name, s.Name, l), fmt.Sprintf("use at most %d labels of a-z, 0-9, _, ., : and -, up to 64 each", maxToolLabels))
				}
			}
			if of := c.snap.facts[uid(typeAction, toolKey(s.Name, t.Name))]; of != nil {
				of.labels = slices.Compact(slices.Sorted(slices.Values(t.Labels)))
			}
		}
	}
	if len(c.bundle.Facts) > MaxFacts {
		c.rep.add(Finding{Code: "fact", Severity: SeverityError, Message: fmt.Sprintf("the bundle has %d facts", len(c.bundle.Facts)), Fix: fmt.Sprintf("keep at most %d", MaxFacts)})
		return
	}
	names := slices.Collect(maps.Keys(groupNames(deeds)))
	slices.Sort(names)
	seen := map[string]bool{}
	for _, f := range c.bundle.Facts {
		bad := func(word, msg, fix string) { c.rep.add(f.finding("fact", SeverityError, word, msg, fix)) }
		def := f.define(bad)
		if seen[f.Name] {
			bad("name:", fmt.Sprintf("two facts are called %q", f.Name), "rename one")
		}
		seen[f.Name] = true
		for _, a := range slices.Concat(f.On, f.Reset) {
			if !slices.Contains(names, a) {
				bad(a, fmt.Sprintf("fact %q watches %q, which is no action", f.Name, a), nearby(a, names))
			}
		}
		if def == nil {
			continue
		}
		def.identify(f, f.units(deeds))
		if twin := c.snap.defs[def.id]; twin != nil {
			bad(f.Name, fmt.Sprintf("facts %q and %q are the same", twin.name, f.Name), "remove one")
			continue
		}
		c.snap.defs[def.id] = def
		c.plan(f, def, deeds, bad)
	}
}

// factTypes are the attributes of context.facts in the schema, by action.
type factTypes map[string][]string

// declare names the type that most actions share, those without keyed facts.
func (f factTypes) declare() string {
	if len(f) == 0 {
		return ""
	}
	return "type Facts = " + f.common() + ";\n"
}

// common is the shortest record: every action has at least the facts without a
// key, and some verb has no others.
func (f factTypes) common() string { return "{ " + strings.Join(f["list_tools"], ", ") + " }" }

// attr is context.facts of one action, after other attributes.
func (f factTypes) attr(action string) string {
	if len(f) == 0 {
		return ""
	}
	if own := "{ " + strings.Join(f[action], ", ") + " }"; own != f.common() {
		return ", facts: " + own
	}
	return ", facts: Facts"
}

// groupNames are all that can stand in On.
func groupNames(deeds []deed) map[string]bool {
	out := map[string]bool{actionCallTool: true}
	for _, c := range classes {
		out[string(c)] = true
	}
	for _, d := range deeds {
		out[d.name] = true
		for _, g := range d.groups {
			out[g] = true
			server, _, ok := strings.Cut(g, ":")
			for _, c := range classes {
				if ok { // a server has all three groups, used or not
					out[classAction(server, c)] = true
				}
			}
		}
	}
	return out
}

// plan enters one fact at the actions that it watches and at those that can be
// told about it.
func (c *compiler) plan(f Fact, def *factDef, deeds []deed, bad func(word, msg, fix string)) {
	var keyTypes []string
	var summed *place
	for _, d := range deeds {
		for _, reset := range []bool{false, true} {
			on := f.On
			if reset {
				on = f.Reset
			}
			if !d.in(on) {
				continue
			}
			w, types, ok := f.watch(def, d, reset, bad)
			if !ok {
				return
			}
			if keyTypes == nil {
				keyTypes = types
			}
			if !slices.Equal(keyTypes, types) {
				bad(f.Name, fmt.Sprintf("fact %q: the arguments that are its key have other types or units in %s than in other actions", f.Name, d.name), "watch actions where they have the same ones")
				return
			}
			if f.Kind == SumWithin {
				p, _ := placeOf(d.tool, d.name, w.of)
				if summed == nil {
					summed = &p
				}
				if summed.unit != p.unit {
					bad(f.Of, fmt.Sprintf("fact %q: %s of %s is in another unit than in other actions", f.Name, f.Of, d.name), `pin it alike in the catalogue, or write a fact for each unit`)
					return
				}
			}
			of := c.snap.facts[d.action]
			w.key = of.keyIndex(f.Key)
			if f.Kind == DistinctWithin && !w.many {
				w.value = of.keyIndex([]string{f.Of})
			}
			of.watches = append(of.watches, w)
		}
	}
	optional := ""
	if f.Kind == Last {
		optional = "?"
	}
	for _, d := range deeds {
		if len(f.Key) > 0 {
			types, ok := f.keyTypes(d)
			if !ok || !slices.Equal(types, keyTypes) {
				continue // there is nothing to keep it apart by
			}
		}
		of := c.snap.facts[d.action]
		of.reads = append(of.reads, factRead{def: def, name: types.String(f.Name), key: of.keyIndex(f.Key), none: nothing(f.Kind)})
		c.factTypes[d.name] = append(c.factTypes[d.name], cedarx.Quote(f.Name)+optional+": "+factKinds[f.Kind])
	}
}

func (f Fact) keyTypes(d deed) ([]string, bool) {
	var out []string
	for _, k := range f.Key {
		path, _ := pointer(k)
		p, ok := placeOf(d.tool, d.name, path)
		if !ok || !slices.Contains(scalars, p.cedar) {
			return nil, false
		}
		out = append(out, p.cedar+" "+p.unit)
	}
	return out, true
}

// watch checks that the fact can be computed from one action that it watches.
func (f Fact) watch(def *factDef, d deed, reset bool, bad func(word, msg, fix string)) (w factWatch, keyTypes []string, ok bool) {
	w = factWatch{def: def, reset: reset}
	no := func(pointer, why, fix string) (factWatch, []string, bool) {
		bad(pointer, fmt.Sprintf("fact %q: %s of %s %s", f.Name, pointer, d.name, why), fix)
		return w, nil, false
	}
	for _, k := range f.Key {
		path, _ := pointer(k)
		p, found := placeOf(d.tool, d.name, path)
		if !found || !slices.Contains(scalars, p.cedar) {
			return no(k, "is no argument with one value", "a key is text, a number, a boolean, a time or an address that every watched action has")
		}
		keyTypes = append(keyTypes, p.cedar+" "+p.unit)
	}
	if reset {
		return w, keyTypes, true // it resets whatever its arguments are
	}
	for _, where := range slices.Sorted(maps.Keys(f.Where)) {
		path, _ := pointer(where)
		p, found := placeOf(d.tool, d.name, path)
		cond := condition{path: path}
		for _, v := range f.Where[where] {
			val, cedar := whereValue(v)
			if !found || cedar == "" || cedar != p.cedar {
				return no(where, fmt.Sprintf("cannot be %v", v), "compare an argument that every watched action has with text, whole numbers or booleans, as its type is")
			}
			cond.any = append(cond.any, val)
		}
		if len(cond.any) == 0 {
			return no(where, "has no value to compare with", "list the values")
		}
		w.where = append(w.where, cond)
	}
	if f.Of != "" {
		w.of, _ = pointer(f.Of)
		p, found := placeOf(d.tool, d.name, w.of)
		w.many = strings.HasPrefix(p.cedar, "Set<")
		switch element := strings.TrimSuffix(strings.TrimPrefix(p.cedar, "Set<"), ">"); {
		case f.Kind == SumWithin && (!found || p.cedar != "Long" || p.optional):
			return no(f.Of, "cannot be summed", `only a required whole number can; pin a number in the catalogue with "as": "long" or "scaled(2)"`)
		case f.Kind == DistinctWithin && (!found || !slices.Contains(scalars, element)):
			return no(f.Of, "cannot be told apart", "it is one value or a list of such, in every watched action")
		}
	}
	return w, keyTypes, true
}

func whereValue(v any) (types.Value, string) {
	switch v := v.(type) {
	case string:
		return types.String(v), "String"
	case bool:
		return types.Boolean(v), "Bool"
	case int:
		return types.Long(v), "Long"
	case int64:
		return types.Long(v), "Long"
	case uint64:
		if v < 1<<63 {
			return types.Long(v), "Long"
		}
	}
	return nil, ""
}

// keyIndex returns where the key is in a.keys, -1 for none.
func (a *actionFacts) keyIndex(key []string) int {
	if len(key) == 0 {
		return -1
	}
	var paths keyPaths
	for _, k := range key {
		p, _ := pointer(k)
		paths = append(paths, p)
	}
	for i, k := range a.keys {
		if slices.EqualFunc(k, paths, slices.Equal) {
			return i
		}
	}
	a.keys = append(a.keys, paths)
	return len(a.keys) - 1
}

// factUse keeps for each action what policies for it read, and warns of what
// nobody does.
func (c *compiler) factUse() {
	known := map[string]bool{}
	for _, a := range c.snap.facts {
		for _, l := range a.labels {
			known[l] = true
		}
	}
	labels := slices.Sorted(maps.Keys(known))
	used := map[types.String]bool{}
	wanted := map[types.EntityUID]map[types.String]bool{}
	deeds := c.snap.deeds()
	for _, p := range c.all {
		names, all := cedarx.ContextReads(p.cedar, "facts")
		_, reads := cedarx.ContextReads(p.cedar, "labels")
		if !all && len(names) == 0 && !reads {
			continue
		}
		for _, d := range deeds {
			if !p.action.Matches(d.action, ancestors(c.snap.entities, d.action)) {
				continue
			}
			of := c.snap.facts[d.action]
			of.readsLabels = of.readsLabels || reads
			for _, r := range of.reads {
				if all || slices.Contains(names, string(r.name)) {
					if wanted[d.action] == nil {
						wanted[d.action] = map[types.String]bool{}
					}
					wanted[d.action][r.name], used[r.name] = true, true
				}
			}
		}
		for _, l := range cedarx.Contained(p.cedar, "labels") {
			if !known[l] {
				c.finding(p, "unknown-label", SeverityWarning, l, fmt.Sprintf("no tool in the catalogue has the label %q", l), nearby(l, labels))
			}
		}
	}
	for action, of := range c.snap.facts {
		of.reads = slices.DeleteFunc(of.reads, func(r factRead) bool { return !wanted[action][r.name] })
	}
	for _, f := range c.bundle.Facts {
		if !used[types.String(f.Name)] {
			c.rep.add(f.finding("unused-fact", SeverityWarning, f.Name, fmt.Sprintf("no policy reads the fact %q", f.Name), "remove it, or write the policy"))
		}
	}
}
