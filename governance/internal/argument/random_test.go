package argument

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// rounds scales a long loop: all of it in a soak, a tenth in a full run, and a
// taste of it otherwise.
func rounds(full int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return full
	case os.Getenv("TWINWARD_FULL") == "1":
		return full / 10
	}
	return full / 500
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }
