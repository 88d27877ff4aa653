package index

import (
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A dimension is one part of the scope, such as the principal: which policies
// stand under which entry.
type dimension struct {
	any  set                       // no restriction
	is   map[types.EntityType]*set // "is T"
	eq   map[types.EntityUID]*set  // "== E"
	in   map[types.EntityUID]*set  // "in E", "in [E, …]"
	isIn map[typedUID]*set         // "is T in E"

	above lineage
	known map[types.EntityUID][]*set // what matches the entities that have entries
}

type typedUID struct {
	typ types.EntityType
	uid types.EntityUID
}

func (d *dimension) add(i int32, s cedarx.Scope) {
	switch {
	case !s.Bounded && s.Type == "":
		d.any.add(i)
	case !s.Bounded:
		put(&d.is, s.Type, i)
	}
	for _, e := range s.Any {
		switch {
		case s.Exact:
			put(&d.eq, e, i)
		case s.Type != "":
			put(&d.isIn, typedUID{s.Type, e}, i)
		default:
			put(&d.in, e, i)
		}
	}
}

func put[K comparable](m *map[K]*set, k K, i int32) {
	if *m == nil {
		*m = map[K]*set{}
	}
	s := (*m)[k]
	if s == nil {
		s = &set{}
		(*m)[k] = s
	}
	s.add(i)
}

// finish packs the sets and works out what matches every known entity.
func (d *dimension) finish(words int, entities types.EntityMap, above lineage) {
	d.above = above
	d.any.pack(words)
	for _, s := range d.is {
		s.pack(words)
	}
	for _, s := range d.isIn {
		s.pack(words)
	}
	for _, m := range []map[types.EntityUID]*set{d.eq, d.in} {
		for _, s := range m {
			s.pack(words)
		}
	}
	d.known = map[types.EntityUID][]*set{}
	for uid := range entities {
		if own := d.entries(nil, uid, above[uid]); len(own) > 0 {
			d.known[uid] = append(own, d.typed(uid.Type)...)
		}
	}
}

// matching returns the sets whose union are the policies that match e. It is
// never nil.
func (d *dimension) matching(e *types.Entity) []*set {
	if sets, ok := d.known[e.UID]; ok {
		return sets
	}
	return d.stranger(e)
}

// stranger works out what matches an entity that is not known, or of which no
// scope says anything but its type.
func (d *dimension) stranger(e *types.Entity) []*set {
	sets := d.entries(make([]*set, 0, 8), e.UID, nil)
	for p := range e.Parents.All() {
		sets = d.below(sets, e.UID.Type, p)
		for _, a := range d.above[p] {
			sets = d.below(sets, e.UID.Type, a)
		}
	}
	return append(sets, d.typed(e.UID.Type)...)
}

// entries appends what matches uid by its name and by what is above it.
func (d *dimension) entries(sets []*set, uid types.EntityUID, above []types.EntityUID) []*set {
	if s := d.eq[uid]; s != nil {
		sets = append(sets, s)
	}
	sets = d.below(sets, uid.Type, uid)
	for _, a := range above {
		sets = d.below(sets, uid.Type, a)
	}
	return sets
}

// below appends what matches an entity of type t because it is e or below e.
func (d *dimension) below(sets []*set, t types.EntityType, e types.EntityUID) []*set {
	if s := d.in[e]; s != nil {
		sets = append(sets, s)
	}
	if len(d.isIn) > 0 {
		if s := d.isIn[typedUID{t, e}]; s != nil {
			sets = append(sets, s)
		}
	}
	return sets
}

// typed returns what matches every entity of a type.
func (d *dimension) typed(t types.EntityType) []*set {
	sets := []*set{&d.any}
	if s := d.is[t]; s != nil {
		sets = append(sets, s)
	}
	return sets
}

// lineage holds, for each known entity below others, everything above it.
type lineage map[types.EntityUID][]types.EntityUID

func newLineage(entities types.EntityMap) lineage {
	l := lineage{}
	for uid, e := range entities {
		if e.Parents.Len() == 0 {
			continue
		}
		seen := map[types.EntityUID]bool{}
		todo := []types.EntityUID{uid}
		for len(todo) > 0 {
			next := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			parents := entities[next].Parents
			for p := range parents.All() {
				if !seen[p] {
					seen[p] = true
					todo = append(todo, p)
				}
			}
		}
		l[uid] = slices.Collect(maps.Keys(seen))
	}
	return l
}
