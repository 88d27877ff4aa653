package audit

import (
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// A tree is the right edge of an RFC 6962 Merkle tree: the roots of the perfect
// subtrees that make up its leaves, largest first. It holds one hash for each
// set bit of size, so that adding a leaf and taking the root need no other
// state. Only appending is possible, which is all that a log does.
type tree struct {
	size  uint64
	roots []tlog.Hash
}

// add appends the leaf of one record's bytes, and returns its hash.
func (t *tree) add(record []byte) tlog.Hash {
	leaf := tlog.RecordHash(record)
	t.addLeaf(leaf)
	return leaf
}

// addAll appends leaves by their hashes.
func (t *tree) addAll(leaves []tlog.Hash) {
	for _, leaf := range leaves {
		t.addLeaf(leaf)
	}
}

func (t *tree) addLeaf(h tlog.Hash) {
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.roots) - 1
		h = tlog.NodeHash(t.roots[last], h)
		t.roots = t.roots[:last]
	}
	t.roots = append(t.roots, h)
	t.size++
}

// subtree returns the root of a perfect subtree, if it is on the right edge.
func (t *tree) subtree(start, width uint64) (tlog.Hash, bool) {
	at := uint64(0)
	for i, rest := 0, t.size; rest > 0; i++ {
		w := uint64(1) << (bits.Len64(rest) - 1)
		if at == start && w == width {
			return t.roots[i], true
		}
		at, rest = at+w, rest-w
	}
	return tlog.Hash{}, false
}

// root returns the hash of the whole tree, [tlog.TreeHash] of the same records.
func (t *tree) root() tlog.Hash {
	if t.size == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	h := t.roots[len(t.roots)-1]
	for i := len(t.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.roots[i], h)
	}
	return h
}

// newTree returns the tree whose right edge is roots. Its size says how many
// they must be.
func newTree(size uint64, roots []tlog.Hash) (tree, bool) {
	return tree{size: size, roots: slices.Clone(roots)}, bits.OnesCount64(size) == len(roots)
}
