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
		x.policies[i].Policy = rest
	}
	words := (len(policies) + 63) / 64
	above := newLineage(entities)
	for _, d := range []*dimension{&x.principal, &x.action, &x.resource} {
		d.finish(words, entities, above)
	}
	x.scratch.New = func() any { return newScratchpad(words) }
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
	b := x.scratch.Get().(*scratchpad)
	defer x.scratch.Put(b)
	b.join(x.principal.matching(principal), x.action.matching(action), x.resource.matching(resource))
	for i := range b.numbers {
		dst = append(dst, x.policies[i])
	}
	return dst
}

// About yields what Find would find for one principal or another: the policies
// whose action and resource match, ordered by id.
func (x *Index) About(action, resource *types.Entity) iter.Seq[Policy] {
	return func(yield func(Policy) bool) {
		b := x.scratch.Get().(*scratchpad)
		defer x.scratch.Put(b)
		b.join(x.action.matching(action), x.resource.matching(resource))
		for i := range b.numbers {
			if !yield(x.policies[i]) {
				return
			}
		}
	}
}

// A scratchpad has room for working out which policies match.
type scratchpad struct {
	all, one []uint64 // bitmaps of all policies
	live     []int32  // the words of all that are not 0
}

func newScratchpad(words int) *scratchpad {
	return &scratchpad{make([]uint64, words), make([]uint64, words), make([]int32, 0, words)}
}

// join works out what is in some set of each list, and leaves it in the live
// words of all. After the first list only those words are looked at: others of
// one hold anything.
func (b *scratchpad) join(first []*set, more ...[]*set) {
	clear(b.all)
	for _, s := range first {
		s.mark(b.all)
	}
	b.live = b.live[:0]
	for i, w := range b.all {
		if w != 0 {
			b.live = append(b.live, int32(i))
		}
	}
	for _, sets := range more {
		for _, i := range b.live {
			b.one[i] = 0
		}
		for _, s := range sets {
			s.markIn(b.one, b.live)
		}
		for _, i := range b.live {
			b.all[i] &= b.one[i]
		}
	}
}

// numbers yields the policies that join left.
func (b *scratchpad) numbers(yield func(int) bool) {
	for _, i := range b.live {
		for w := b.all[i]; w != 0; w &= w - 1 {
			if !yield(int(i)<<6 + bits.TrailingZeros64(w)) {
				return
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
