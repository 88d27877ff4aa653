package governance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The goal is 100,000 decisions a second on one core, in processor time, over a
// law of 1,000 policies; most of the tape are denials. decisions/cpu-s is the
// best pass over the tape, the others tell how busy the machine was; ×Decide is
// the time of one such decision beside that of Snapshot.Decide, in turns.
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
	replay, alone := time.Duration(1<<62), time.Duration(1<<62)
	for b.Loop() {
		for range 4 {
			start := cpu()
			rep, err := Replay(b.Context(), snap, func(yield func(Recorded, error) bool) {
				for _, r := range tape {
					if !yield(r, nil) {
						return
					}
				}
			})
			replay = min(replay, cpu()-start)
			if err != nil || rep.Flipped() || rep.Decided != len(tape) {
				b.Fatal(rep, err)
			}
			start = cpu()
			for i := range tape {
				if _, err := snap.Decide(b.Context(), tape[i].Request); err != nil {
					b.Fatal(err)
				}
			}
			alone = min(alone, cpu()-start)
		}
	}
	b.ReportMetric(float64(len(tape))/replay.Seconds(), "decisions/cpu-s")
	b.ReportMetric(float64(replay)/float64(alone), "×Decide")
}
