package inference

import (
	"sync"
	"time"
)

// A Breaker keeps calls away from a model of a backend that does not answer, so
// that agents get their refusal at once and the backend its rest. The zero value
// is the default.
type Breaker struct {
	// Failures is how many calls in a row must fail before no more are sent. Zero
	// means 5; below zero, calls are always sent. What fails is a call that finds no
	// connection, gets no first byte, or is answered with 502, 503, 504 or 529.
	Failures int `yaml:"failures"`
	// Open is how long no call is sent then; after it, one call in each such span
	// is sent to see whether the backend answers again. Zero means 30 seconds.
	Open time.Duration `yaml:"open"`
}

func (b Breaker) withDefaults() Breaker {
	if b.Failures == 0 {
		b.Failures = 5
	}
	if b.Open <= 0 {
		b.Open = 30 * time.Second
	}
	return b
}

// A breaker is the state of a [Breaker] for one target. What counts as a failure
// is the caller's to say; a call that came to no verdict, because its client
// left, says nothing. The clock is the caller's too.
type breaker struct {
	mu       sync.Mutex
	rule     Breaker
	failures int       // in a row
	until    time.Time // no call before; means something only when failures are enough
	rests    time.Time // the backend asked not to be called before
}

// allow reports whether a call may be sent at now. When the breaker is open and
// its time is over it allows the one call of the next span.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.isOpen() {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(b.rule.Open)
	return true
}

// ready says how willingly a call is sent at now: 0 is at once, 1 when there is
// no other, 2 not at all. It changes nothing.
func (b *breaker) ready(now time.Time) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.isOpen() && now.Before(b.until):
		return 2
	case now.Before(b.rests):
		return 1
	}
	return 0
}

// wait returns how long from now no call is sent.
func (b *breaker) wait(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.until.Sub(now), 0)
}

// success closes the breaker.
func (b *breaker) success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = 0
}

// failure counts, and opens the breaker when it is enough.
func (b *breaker) failure(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < b.rule.Failures {
		b.failures++
	}
	if b.isOpen() {
		b.until = now.Add(b.rule.Open)
	}
}

// rest notes that the backend asked not to be called before t. Calls that have
// no other target are sent all the same: the backend then says so itself.
func (b *breaker) rest(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rests = t
}

// rested returns how long from now the backend asked not to be called.
func (b *breaker) rested(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.rests.Sub(now), 0)
}

func (b *breaker) isOpen() bool { return b.rule.Failures > 0 && b.failures >= b.rule.Failures }
