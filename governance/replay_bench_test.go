package governance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The goal is 100,000 decisions a second on one core, in processor time.
func BenchmarkReplay(b *testing.B) {
	snap, _, err := Compile(b.Context(), office(1000), nil)
	require.NoError(b, err)
	var tape []Recorded
	for _, v := range snap.visitors(b, 1000) {
		v.Request.Time = time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
		d, err := snap.Decide(b.Context(), v.Request)
		require.NoError(b, err)
		tape = append(tape, recorded(v.Request, d))
	}
	b.ReportAllocs()
	n, start := 0, cpu()
	for b.Loop() {
		rep, err := Replay(b.Context(), snap, func(yield func(Recorded, error) bool) {
			for _, r := range tape {
				if !yield(r, nil) {
					return
				}
			}
		})
		if err != nil || rep.Flipped() {
			b.Fatal(rep, err)
		}
		n += rep.Decided
	}
	b.ReportMetric(float64(n)/(cpu()-start).Seconds(), "decisions/cpu-s")
}
