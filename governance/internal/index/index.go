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

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A Policy is a policy and the id under which decisions report it.
type Policy struct {
	ID     cedar.PolicyID
	Policy *cedar.Policy
	// Number is the place in the order of ids, from 0. New sets it.
	Number int
}

// An Index holds policies by scope. It is immutable, and safe for concurrent
// use.
//
// Finding takes time in proportion to the policies found and to those that are
// listed for the principal, but at most one machine word for every 64 policies
// for each entry that the principal is under; the index takes memory in
// proportion to the entities that scopes name.
type Index struct {
	policies                    []Policy // without scope, sorted by id; their places are the numbers in sets
	words                       int      // of a bitmap of all policies
	principal, action, resource dimension
}

// New makes an index of policies, whose ids must differ, over the entities that
// requests will be decided with. It keeps no reference to entities, and none to
// the slice of policies.
func New(policies []Policy, entities types.EntityMap) *Index {
	x := &Index{policies: slices.Clone(policies)}
	slices.SortFunc(x.policies, func(a, b Policy) int { return cmp.Compare(a.ID, b.ID) })
	bare := map[string]*cedar.Policy{}
	for i, p := range x.policies {
		principal, action, resource := cedarx.Scopes(p.Policy)
		x.principal.add(int32(i), principal)
		x.action.add(int32(i), action)
		x.resource.add(int32(i), resource)
		// Many policies differ in scope only. That they share what is evaluated
		// keeps it near the processor.
		gist := cedarx.Gist(p.Policy)
		rest := bare[gist]
		if rest == nil || !cedarx.SameConditions(rest, p.Policy) {
			rest = cedarx.WithoutScope(p.Policy)
			bare[gist] = rest
		}
		x.policies[i].Policy, x.policies[i].Number = rest, i
	}
	x.words = (len(policies) + 63) / 64
	above := newLineage(entities)
	for _, d := range []*dimension{&x.principal, &x.action, &x.resource} {
		d.finish(x.words, entities, above)
	}
	return x
}

// Len returns the number of policies held.
func (x *Index) Len() int { return len(x.policies) }

// All returns all policies, ordered by id, as Find would hand them out. The slice
// is shared: do not change it.
func (x *Index) All() Candidates { return x.policies }

// A Place says which policies of one index match an action and a resource,
// whoever asks. It can be kept for what is asked about often. The zero value is
// ready for Locate.
type Place struct {
	bits, spare []uint64 // of all policies
}

// Locate makes at the place of an action and a resource. Room that at has is
// used again.
//
// The parents of an entity are taken from those that the index was made with;
// only for an entity that is not among them do the parents given here count.
// Such an entity must not itself be above a known one.
func (x *Index) Locate(at *Place, action, resource *types.Entity) {
	at.bits = bitmap(at.bits, x.words, x.action.matching(action))
	at.spare = bitmap(at.spare, x.words, x.resource.matching(resource))
	for i, w := range at.spare {
		at.bits[i] &= w
	}
}

// bitmap makes the union of sets, in room that there is if it will do.
func bitmap(room []uint64, words int, sets []*set) []uint64 {
	if cap(room) < words {
		room = make([]uint64, words)
	}
	room = room[:words]
	clear(room)
	for _, s := range sets {
		s.mark(room)
	}
	return room
}

// Find appends to dst the policies whose scope matches a principal at a place of
// this index, ordered by id, and returns the extended slice. For the parents of
// the principal, see Locate.
func (x *Index) Find(dst Candidates, principal *types.Entity, at *Place) Candidates {
	var few [64]int32 // most requests find less than that
	found := few[:0]
	for _, s := range x.principal.matching(principal) {
		found = s.within(found, at.bits)
	}
	slices.Sort(found)
	for _, i := range slices.Compact(found) { // a policy can stand under two entries
		dst = append(dst, x.policies[i])
	}
	return dst
}

// About yields what Find would find for one principal or another, ordered by id.
func (x *Index) About(at *Place) iter.Seq[Policy] {
	return func(yield func(Policy) bool) {
		for i, w := range at.bits {
			for ; w != 0; w &= w - 1 {
				if !yield(x.policies[i<<6+bits.TrailingZeros64(w)]) {
					return
				}
			}
		}
	}
}

// Candidates are the policies whose scope matches a request, ordered by id.
// What they hold is for evaluating that request only: effect and conditions,
// without scope, annotations and position. It is a cedar.PolicyIterator.
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
