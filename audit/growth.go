package audit

import (
	"context"
	"fmt"
	"math"

	"golang.org/x/mod/sumdb/tlog"
)

// maxRecent is how many leaves are kept in memory for proofs of growth. From
// what is further back they are made by reading the log.
const maxRecent = 1 << 16

// A growth is a tree and the leaves that came after it. It proves that the tree
// is the beginning of the later one, which is what a witness asks for.
type growth struct {
	from   tree
	leaves []tlog.Hash
}

// add appends a leaf.
func (g *growth) add(leaf tlog.Hash) {
	if len(g.leaves) == maxRecent {
		const drop = maxRecent / 2
		g.from.addAll(g.leaves[:drop])
		g.leaves = append(g.leaves[:0], g.leaves[drop:]...)
	}
	g.leaves = append(g.leaves, leaf)
}

// since returns the growth from size old to size, or nil if it does not know it.
func (g *growth) since(old, size uint64) *growth {
	if old < g.from.size || old > size || size > g.from.size+uint64(len(g.leaves)) {
		return nil
	}
	from, _ := newTree(g.from.size, g.from.roots)
	from.addAll(g.leaves[:old-g.from.size])
	return &growth{from: from, leaves: append([]tlog.Hash(nil), g.leaves[old-g.from.size:size-g.from.size]...)}
}

// proof returns the RFC 6962 consistency proof from the tree to that with the
// leaves.
func (g *growth) proof() ([]tlog.Hash, error) {
	size := g.from.size + uint64(len(g.leaves))
	if g.from.size == 0 || g.from.size == size {
		return nil, nil
	}
	return tlog.ProveTree(int64(size), int64(g.from.size), g)
}

// ReadHashes implements [tlog.HashReader] for perfect subtrees that are on the
// right edge of the tree, or in the leaves after it: a proof needs no other.
func (g *growth) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		start, width := uint64(n)<<level, uint64(1)<<level
		if start >= g.from.size && start+width <= g.from.size+uint64(len(g.leaves)) {
			hashes[i] = tileRoot(g.leaves[start-g.from.size:][:width])
			continue
		}
		h, ok := g.from.subtree(start, width)
		if !ok {
			return nil, fmt.Errorf("audit: no hash for %d records from %d", width, start)
		}
		hashes[i] = h
	}
	return hashes, nil
}

// consistency proves that the log's first old records are the first of its first
// size.
func (l *Log) consistency(ctx context.Context, old, size uint64) ([]tlog.Hash, error) {
	if old > size {
		return nil, fmt.Errorf("%w: a proof from %d records to %d", ErrInvalid, old, size)
	}
	if old == 0 || old == size {
		return nil, nil
	}
	l.mu.Lock()
	var g *growth
	if l.recent != nil {
		g = l.recent.since(old, size)
	}
	l.mu.Unlock()
	if g != nil {
		return g.proof()
	}
	return tlog.ProveTree(int64(size), int64(old), tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return l.readSubtrees(ctx, indexes)
	}))
}

// readSubtrees reads the roots of perfect subtrees from the segments. Its memory is
// that of the answer, however much of the log there is between them.
func (l *Log) readSubtrees(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	type subtree struct {
		start, width uint64
		tree         tree // of the leaves so far
		done         bool
	}
	subtrees := make([]subtree, len(indexes))
	first, last := uint64(math.MaxUint64), uint64(0)
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		s := subtree{start: uint64(n) << level, width: uint64(1) << level}
		subtrees[i] = s
		first, last = min(first, s.start), max(last, s.start+s.width)
	}
	src := l.live()
	start, err := startAt(src, src.end.seg, first)
	if err != nil {
		return nil, err
	}
	lr := newLineReader(src, start)
	defer lr.Close()
	lr.skip = func(uint64) bool { return true }
	lr.leaf = func(_ []byte, hash tlog.Hash) {
		at := lr.tree.size - 1
		for i := range subtrees {
			if s := &subtrees[i]; at >= s.start && at < s.start+s.width {
				s.tree.addLeaf(hash)
				s.done = s.tree.size == s.width
			}
		}
	}
	lr.until = last
	if err := lr.all(ctx); err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, len(indexes))
	for i, s := range subtrees {
		if !s.done {
			return nil, tamperedf("records %d to %d are not all there", s.start+1, s.start+s.width)
		}
		hashes[i] = s.tree.root()
	}
	return hashes, nil
}
