package audit

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The short way to write a time gives what the package time does.
func TestAppendTime(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 1000 {
		at := time.Unix(rnd.Int64N(300_000_000_000)-60_000_000_000, rnd.Int64N(1e9)/max(1, rnd.Int64N(3)*1e6))
		require.Equal(t, at.UTC().Format(timeFormat), string(appendTime(nil, at)), "seed %d", seed)
	}
}
