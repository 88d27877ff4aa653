package audit

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
)

// Between any two sizes there is a proof that other code accepts, from memory and
// from the segments, and between any two trees that do not fit there is none.
func TestGrowth(t *testing.T) {
	const most = 70
	log, err := Open(filepath.Join(t.TempDir(), "log"), &Options{SegmentSize: 3000})
	require.NoError(t, err)
	defer log.Close()
	recent := &growth{}
	log.recent = recent
	roots := make([]tlog.Hash, most+1)
	for n := 1; n <= most; n++ {
		require.NoError(t, log.Append(context.Background(), Event{Kind: KindProbe}))
		roots[n] = log.last.Root
	}
	require.Greater(t, log.seg.n, 2)
	for old := 1; old <= most; old++ {
		for size := old; size <= most; size++ {
			proof, err := recent.since(uint64(old), uint64(size)).proof()
			require.NoError(t, err)
			if old == size {
				require.Empty(t, proof)
				continue
			}
			require.NoError(t, tlog.CheckTree(proof, int64(size), roots[size], int64(old), roots[old]), "%d %d", old, size)
			require.Error(t, tlog.CheckTree(proof, int64(size), roots[size], int64(old), roots[old-1]))
			if old%7 == 0 && size%3 == 0 {
				log.recent = nil
				read, err := log.consistency(context.Background(), uint64(old), uint64(size))
				log.recent = recent
				require.NoError(t, err)
				require.Equal(t, proof, read)
			}
		}
	}
	_, err = log.consistency(context.Background(), 9, 8)
	require.ErrorIs(t, err, ErrInvalid)
	_, err = log.consistency(context.Background(), 9, most+1)
	require.ErrorIs(t, err, ErrTampered)
}

// What is kept in memory is bounded, and what is left is still right.
func TestGrowthForgets(t *testing.T) {
	g, whole := &growth{}, &growth{}
	n := maxRecent + 10
	for i := range n {
		leaf := tlog.RecordHash([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		g.add(leaf)
		whole.leaves = append(whole.leaves, leaf)
	}
	require.LessOrEqual(t, len(g.leaves), maxRecent)
	require.Nil(t, g.since(5, uint64(n)))
	old := uint64(maxRecent - 3)
	proof, err := g.since(old, uint64(n)).proof()
	require.NoError(t, err)
	all, err := whole.since(old, uint64(n)).proof()
	require.NoError(t, err)
	require.Equal(t, all, proof)
}
