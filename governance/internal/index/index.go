// Package index finds the policies that a Cedar request is about, without
// looking at the others.
//
// Think of the index at the end of a book of law, kept three times: by who, by
// what they do, and to what. Each entry lists the numbers of paragraphs. A
// request looks up itself and everything above it in all three, and the
// paragraphs that stand in all three answers are those whose scope matches.
//
// The index works for any policies and any entities; it knows no vocabulary.
// What it finds is exact: a policy is found if and only if its scope matches.
// Therefore it hands out policies without their scope, and what is left of them,
// the conditions, is evaluated by cedar.Authorize and nothing else. That this
// gives the decisions, reasons and errors of cedar.Authorize over all policies
// is held by tests on cedar-go's corpus and on random worlds.
package index

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A Policy is a policy and the id under which decisions report it.
type Policy struct {
	ID     cedar.PolicyID
	Policy *cedar.Policy
}

// An Index holds policies by scope. It is immutable, and safe for concurrent
// use.
//
// Finding takes time in proportion to the policies found, plus one machine word
// for every 64 policies held; the index takes memory in proportion to the
// entities that scopes name.
type Index struct {
	policies                    []Policy // without scope, sorted by id; their places are the numbers in sets
	principal, action, resource dimension
	scratch                     sync.Pool // *scratchpad
}

// New makes an index of policies, whose ids must differ, over the entities that
// requests will be decided with. It keeps no reference to entities, and none to
// the slice of policies.
func New(policies []Policy, entities types.EntityMap) *Index {
	x := &Index{policies: slices.Clone(policies)}
	slices.SortFunc(x.policies, func(a, b Policy) int { return cmp.Compare(a.ID, b.ID) })
	for i, p := range x.policies {
		principal, action, resource := cedarx.Scopes(p.Policy)
		x.principal.add(int32(i), principal)
		x.action.add(int32(i), action)
		x.resource.add(int32(i), resource)
		x.policies[i].Policy = cedarx.WithoutScope(p.Policy)
	}
	words := (len(policies) + 63) / 64
	above := newLineage(entities)
	for _, d := range []*dimension{&x.principal, &x.action, &x.resource} {
		d.finish(words, entities, above)
	}
	x.scratch.New = func() any { return &scratchpad{make([]uint64, words), make([]uint64, words)} }
	return x
}

// Len returns the number of policies held.
func (x *Index) Len() int { return len(x.policies) }

// Find appends to dst the policies whose scope matches, ordered by id, and
// returns the extended slice.
//
// The parents of an entity are taken from those that the index was made with;
// only for an entity that is not among them do the parents given here count.
// Such an entity must not itself be above a known one.
func (x *Index) Find(dst Candidates, principal, action, resource *types.Entity) Candidates {
	buf := x.scratch.Get().(*scratchpad)
	defer x.scratch.Put(buf)
	found := buf.join(x.principal.matching(principal), x.action.matching(action), x.resource.matching(resource))
	n := 0
	for _, w := range found {
		n += bits.OnesCount64(w)
	}
	dst = slices.Grow(dst, n)
	for i := range numbers(found) {
		dst = append(dst, x.policies[i])
	}
	return dst
}

// About yields what Find would find for one principal or another: the policies
// whose action and resource match, ordered by id.
func (x *Index) About(action, resource *types.Entity) iter.Seq[Policy] {
	return func(yield func(Policy) bool) {
		buf := x.scratch.Get().(*scratchpad)
		defer x.scratch.Put(buf)
		for i := range numbers(buf.join(x.action.matching(action), x.resource.matching(resource))) {
			if !yield(x.policies[i]) {
				return
			}
		}
	}
}

// A scratchpad has room for two bitmaps of all policies.
type scratchpad [2][]uint64

// join returns the bitmap of what is in some set of each list. It is part of
// the scratchpad.
func (b *scratchpad) join(of ...[]*set) []uint64 {
	all, one := b[0], b[1]
	for i, sets := range of {
		into := one
		if i == 0 {
			into = all
		}
		clear(into)
		for _, s := range sets {
			s.mark(into)
		}
		if i > 0 {
			for i, w := range one {
				all[i] &= w
			}
		}
	}
	return all
}

// numbers yields the places of the bits that are set.
func numbers(bitmap []uint64) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range bitmap {
			for ; w != 0; w &= w - 1 {
				if !yield(i<<6 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// Candidates are the policies whose scope matches a request, ordered by id.
// Their scope is left out: they are for evaluating that request only. It is a
// cedar.PolicyIterator.
type Candidates []Policy

// All yields the policies in order.
func (c Candidates) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i := range c {
			if !yield(c[i].ID, c[i].Policy) {
				return
			}
		}
	}
}
