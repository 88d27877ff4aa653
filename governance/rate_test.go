package governance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func use(policy string, count int, per time.Duration) []RateUse {
	return []RateUse{{policy, "a", Rate{count, per}}}
}

func TestRateLimiter(t *testing.T) {
	m := newMemoryRates(100)
	ctx, at := t.Context(), time.Unix(1_000_000, 0)
	take := func(uses ...RateUse) error {
		_, err := m.Take(ctx, at, uses)
		return err
	}
	three := RateUse{"p", "a", Rate{3, time.Minute}}
	for range 3 {
		require.NoError(t, take(three))
		at = at.Add(10 * time.Second)
	}
	var full *RateError
	require.ErrorAs(t, take(three), &full)
	assert.Equal(t, RateError{three, 30 * time.Second}, *full)
	assert.ErrorContains(t, full, `the 3/1m0s of policy "p"; there is room again in 30s`)

	// Others have counts of their own, by principal and by policy.
	require.NoError(t, take(RateUse{"p", "b", three.Rate}))
	require.NoError(t, take(RateUse{"q", "a", three.Rate}))
	// All of them or none: what one refuses, the other has not counted.
	require.Error(t, take(RateUse{"r", "a", Rate{1, time.Hour}}, three))
	require.NoError(t, take(RateUse{"r", "a", Rate{1, time.Hour}}))

	at = at.Add(30*time.Second - 1)
	require.Error(t, take(three), "a nanosecond early")
	at = at.Add(1)
	require.NoError(t, take(three))
	require.Error(t, take(three))

	// A clock that is set back makes no room.
	at = at.Add(-time.Hour)
	require.Error(t, take(three))
	at = at.Add(time.Hour)

	// The rate of a policy may change when it is loaded again.
	require.NoError(t, take(RateUse{"p", "a", Rate{4, time.Minute}}))
	require.Error(t, take(RateUse{"p", "a", Rate{2, time.Minute}}))
}

// What is given back can be used again, once.
func TestRateGivenBack(t *testing.T) {
	m := newMemoryRates(100)
	at := time.Unix(0, 0)
	give, err := m.Take(t.Context(), at, use("p", 2, time.Minute))
	require.NoError(t, err)
	_, err = m.Take(t.Context(), at, use("p", 2, time.Minute))
	require.NoError(t, err)
	give()
	assert.Equal(t, 1, m.count)
	_, err = m.Take(t.Context(), at, use("p", 2, time.Minute))
	require.NoError(t, err)
	_, err = m.Take(t.Context(), at, use("p", 2, time.Minute))
	require.Error(t, err)
	// After the span it is forgotten anyway.
	at = at.Add(time.Hour)
	give, err = m.Take(t.Context(), at, use("p", 1, time.Minute))
	require.NoError(t, err)
	at = at.Add(time.Hour)
	_, err = m.Take(t.Context(), at, use("p", 1, time.Minute))
	require.NoError(t, err)
	give()
	assert.Equal(t, 1, m.count, "not the use of another call")
}

// A limiter that can remember no more denies, and recovers by itself.
func TestRateLimiterFull(t *testing.T) {
	m := newMemoryRates(50)
	at := time.Unix(1_000_000, 0)
	for i := range 50 {
		_, err := m.Take(t.Context(), at, use(fmt.Sprint(i), 1, time.Minute))
		require.NoError(t, err)
	}
	_, err := m.Take(t.Context(), at, use("one more", 1, time.Minute))
	require.ErrorIs(t, err, ErrRatesFull)
	assert.Len(t, m.used, 50, "nothing is forgotten to make room")
	at = at.Add(time.Minute)
	_, err = m.Take(t.Context(), at, use("one more", 1, time.Minute))
	require.NoError(t, err)
	assert.Len(t, m.used, 1)
	assert.Equal(t, 1, m.count)
}

// No span of the rate's length ever holds more than the rate allows, and none
// is refused that could be had.
func TestRateLimiterIsExact(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range 50 {
		m := newMemoryRates(1000)
		rate := Rate{1 + rnd.IntN(5), time.Duration(1+rnd.IntN(20)) * time.Second}
		var used []time.Time
		at := time.Unix(0, 0)
		for range 200 {
			at = at.Add(time.Duration(rnd.IntN(5000)) * time.Millisecond)
			recent := 0
			for _, u := range used {
				if at.Sub(u) < rate.Per {
					recent++
				}
			}
			give, err := m.Take(t.Context(), at, []RateUse{{"p", "a", rate}})
			require.Equal(t, recent < rate.Count, err == nil, "seed %d", seed)
			if err == nil && rnd.IntN(4) == 0 {
				give()
			} else if err == nil {
				used = append(used, at)
			}
		}
	}
}

func TestRateLimiterConcurrently(t *testing.T) {
	m := newMemoryRates(1000)
	at := time.Unix(0, 0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := 0
	for range 8 {
		wg.Go(func() {
			for range 100 {
				give, err := m.Take(context.Background(), at, use("p", 50, time.Minute))
				if err != nil {
					continue
				}
				mu.Lock()
				got++
				back := got > 50
				mu.Unlock()
				if back {
					give()
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 50, m.count)
}

// A broken limiter denies; one that panics does too.
func TestBrokenLimiter(t *testing.T) {
	for name, l := range map[string]limiterFunc{
		"rate":  func() (func(), error) { return nil, errors.New("connection refused") },
		"panic": func() (func(), error) { panic("oh") },
	} {
		e := rated(t, &Options{Rates: l})
		d, err := e.Decide(t.Context(), ratedCall)
		assert.False(t, d.Allowed(), name)
		assert.Equal(t, name, d.Reason)
		assert.Equal(t, name == "panic", errors.Is(err, ErrPanic))
	}
	e := rated(t, &Options{Rates: limiterFunc(func() (func(), error) { return nil, nil })})
	d, err := e.Decide(t.Context(), ratedCall)
	require.NoError(t, err)
	assert.True(t, d.Allowed())
	d.Settle(Result{})
}

type limiterFunc func() (func(), error)

func (f limiterFunc) Take(context.Context, time.Time, []RateUse) (func(), error) { return f() }
