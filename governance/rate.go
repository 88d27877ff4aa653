package governance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A RateLimiter counts uses under the rates of policies. An [Engine] asks it
// once for each request that is otherwise allowed and whose permits have rates.
// Implementations are safe for concurrent use. Hosts that share a rate bring
// one over a store that they share.
type RateLimiter interface {
	// Take uses up one of every rate, or of none. The error is an
	// [*RateError] when one has no room; any other denies as well. give, which
	// may be nil, gives the uses back, and is called at most once: when nothing
	// was done after all.
	Take(ctx context.Context, now time.Time, uses []RateUse) (give func(), err error)
}

// A RateUse is one use under the rate of a policy. Every principal that a
// policy permits has a count of its own under it.
type RateUse struct {
	Policy    string
	Principal string // such as `Agent::"standup-bot"`
	Rate      Rate
}

// A RateError says that a rate has no room.
type RateError struct {
	RateUse
	// After is how long it takes until there is room again.
	After time.Duration
}

// Error names policy, principal and rate.
func (e *RateError) Error() string {
	return fmt.Sprintf("governance: %s has used up the %s of policy %q; there is room again in %s", e.Principal, e.Rate, e.Policy, e.After)
}

// ErrRatesFull is returned when a limiter can remember no more. It denies.
var ErrRatesFull = errors.New("governance: the rate limiter is full, so that nothing more can be counted; wait, or set fewer or smaller rates")

// maxRateEntries bounds the memory of a limiter: about 64 bytes each at most.
const maxRateEntries = 1 << 20

// NewRateLimiter returns a limiter in memory. It is exact: no span of a rate's
// length holds more uses than the rate allows. It remembers about a million
// uses, and when those are all recent it denies with [ErrRatesFull]. What it
// counted is gone with the process.
func NewRateLimiter() RateLimiter { return newMemoryRates(maxRateEntries) }

func newMemoryRates(most int) *memoryRates {
	return &memoryRates{most: most, used: map[rateKey]*rateWindow{}}
}

type rateKey struct{ policy, principal string }

// A rateWindow holds the times of recent uses, oldest first.
type rateWindow struct {
	times []int64 // Unix nanoseconds
	per   time.Duration
}

// prune forgets uses that no span of per up to now holds.
func (w *rateWindow) prune(now int64) (forgot int) {
	for forgot < len(w.times) && w.times[forgot] <= now-int64(w.per) {
		forgot++
	}
	w.times = slices.Delete(w.times, 0, forgot)
	return forgot
}

type memoryRates struct {
	most int

	mu    sync.Mutex
	used  map[rateKey]*rateWindow
	count int   // of all times
	swept int64 // when all windows were pruned last
}

func (m *memoryRates) Take(_ context.Context, at time.Time, uses []RateUse) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := at.UnixNano()
	for _, u := range uses {
		w := m.used[rateKey{u.Policy, u.Principal}]
		if w == nil {
			continue
		}
		w.per = u.Rate.Per
		m.count -= w.prune(now)
		if n := len(w.times); n >= u.Rate.Count {
			free := w.times[n-u.Rate.Count] + int64(u.Rate.Per)
			return nil, &RateError{u, time.Duration(free - now)}
		}
	}
	if m.count+len(uses) > m.most {
		m.sweep(now)
		if m.count+len(uses) > m.most {
			return nil, ErrRatesFull
		}
	}
	for _, u := range uses {
		key := rateKey{u.Policy, u.Principal}
		w := m.used[key]
		if w == nil {
			w = &rateWindow{per: u.Rate.Per}
			m.used[key] = w
		}
		// At the end, unless the clock was set back; what lies in the future then
		// goes on counting.
		i, _ := slices.BinarySearch(w.times, now)
		w.times = slices.Insert(w.times, i, now)
	}
	m.count += len(uses)
	uses = slices.Clone(uses)
	return func() { m.give(now, uses) }, nil
}

// give takes back one use of each at a time.
func (m *memoryRates) give(at int64, uses []RateUse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range uses {
		key := rateKey{u.Policy, u.Principal}
		w := m.used[key]
		if w == nil {
			continue
		}
		if i, found := slices.BinarySearch(w.times, at); found {
			w.times = slices.Delete(w.times, i, i+1)
			m.count--
		}
		if len(w.times) == 0 {
			delete(m.used, key)
		}
	}
}

// sweep prunes every window, at most once a second: a full limiter must not
// cost every call a walk over all of it.
func (m *memoryRates) sweep(now int64) {
	if now-m.swept < int64(time.Second) {
		return
	}
	m.swept = now
	for key, w := range m.used {
		m.count -= w.prune(now)
		if len(w.times) == 0 {
			delete(m.used, key)
		}
	}
}
