package compare

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A stand is one world with all engines in it.
type stand struct {
	size     int
	lanes    []*lane
	requests []request
}

// A lane is one engine in one of the two races.
type lane struct {
	name string
	engine
	against *lane // whom it is measured by, nil for ours
	linear  bool
	used    time.Duration
	asked   int
}

func (l *lane) micros() float64 { return float64(l.used.Nanoseconds()) / float64(l.asked) / 1e3 }

func newStand(tb testing.TB, size, requests int) *stand {
	tb.Helper()
	w := newWorld(size)
	s := &stand{size: size, requests: w.requests(requests)}
	t, err := newTwinward(w, s.requests)
	require.NoError(tb, err)
	l, err := newLinear(t, s.requests)
	require.NoError(tb, err)
	o, err := newOPA(w, s.requests)
	require.NoError(tb, err)
	c, err := newCEL(w, s.requests)
	require.NoError(tb, err)
	values, json := &lane{name: "ours", engine: newIndexed(l)}, &lane{name: "ours-json", engine: t}
	s.lanes = []*lane{
		values, {name: "cedar-go", engine: l, against: values, linear: true}, {name: "opa", engine: o, against: values}, {name: "cel-go", engine: c, against: values, linear: true},
		json, {name: "opa-json", engine: opaJSON{o}, against: json},
	}
	return s
}

// agree requires that all engines answer alike, for the same reasons, and that
// there is something to agree on.
func (s *stand) agree(tb testing.TB) {
	tb.Helper()
	allowed, forbidden, none := 0, 0, 0
	for i := range s.requests {
		want := s.lanes[0].decide(i)
		for _, l := range s.lanes[1:] {
			got := l.decide(i)
			require.Equal(tb, want.allow, got.allow, "%s, %d policies: %+v", l.name, s.size, s.requests[i])
			require.ElementsMatch(tb, want.ids, got.ids, "%s, %d policies: %+v", l.name, s.size, s.requests[i])
		}
		switch {
		case want.allow:
			allowed++
		case len(want.ids) > 0:
			forbidden++
		default:
			none++
		}
	}
	tb.Logf("%d policies: %d allowed, %d forbidden, %d not permitted", s.size, allowed, forbidden, none)
	require.NotZero(tb, allowed)
	require.NotZero(tb, forbidden)
	require.NotZero(tb, none)
}

func TestSameDecisions(t *testing.T) {
	for _, size := range []int{10, 100, 1_000} {
		newStand(t, size, 128).agree(t)
	}
}

// cpu is the processor time that this process has used, garbage collection
// included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// All engines on the same requests, in turns. Times are processor time;
// ×name@n is how many times as long as ours the other one takes.
func BenchmarkEngines(b *testing.B) {
	var stands []*stand
	for _, size := range []int{10, 100, 1_000, 10_000} {
		s := newStand(b, size, 256)
		s.agree(b)
		stands = append(stands, s)
	}
	runtime.GC()
	for b.Loop() {
		for _, s := range stands {
			for _, l := range s.lanes {
				n := len(s.requests)
				if l.linear { // a few do
					n = max(2, min(n, 20_000/s.size))
				}
				start := cpu()
				for i := range n {
					l.decide((l.asked + i) % len(s.requests))
				}
				l.used += cpu() - start
				l.asked += n
			}
		}
	}
	for _, s := range stands {
		for _, l := range s.lanes {
			b.ReportMetric(l.micros(), fmt.Sprintf("µs/%s@%d", l.name, s.size))
			if l.against != nil {
				b.ReportMetric(l.micros()/l.against.micros(), fmt.Sprintf("×%s@%d", l.name, s.size))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}
