package inference

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"
)

const (
	// maxRate bounds rates, so that their arithmetic in nanoseconds fits.
	maxRate = 100_000_000
	// maxBuckets bounds the memory of rate limits: about 20 MB.
	maxBuckets = 1 << 17
	// maxDebt is how much of the future one call can use up: a backend that reports an
	// absurd count does not keep an agent away for ever.
	maxDebt = int64(24 * time.Hour)
)

// errBucketsFull denies: who is not counted could do anything.
var errBucketsFull = errors.New("inference: too many accounts have used up part of their rate in this minute to count one more")

// A rateError says that a rate has no room.
type rateError struct {
	name  string
	after time.Duration // until there is room; 0: never, it is larger than the rate
}

func (e *rateError) Error() string {
	if e.after == 0 {
		return fmt.Sprintf("inference: the call is larger than all of the rate %q", e.name)
	}
	return fmt.Sprintf("inference: the rate %q has no room for %s", e.name, e.after)
}

// A limiter counts under rates. Each account is a pair of token buckets, kept
// as the time at which they will be full again: the generic cell rate
// algorithm. An account that is full needs no memory.
type limiter struct {
	most int

	mu      sync.Mutex
	buckets map[rateKey]fullAt
	sweepAt int   // the number of accounts at which full ones are looked for
	swept   int64 // when they were looked for
}

type rateKey struct{ name, who string }

// fullAt is when an account's buckets are full, in Unix nanoseconds.
type fullAt struct{ requests, tokens int64 }

func newLimiter(most int) *limiter {
	return &limiter{most: most, buckets: map[rateKey]fullAt{}, sweepAt: min(1024, most)}
}

// A rateUse is what a call has taken.
type rateUse struct {
	key    rateKey
	limit  int64 // of tokens
	tokens int64
	at     int64 // when, in Unix nanoseconds
}

// cost is how long a bucket of limit a minute takes to fill by n. It rounds up,
// and saturates.
func cost(n, limit int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(time.Minute))
	lo, carry := bits.Add64(lo, uint64(limit-1), 0)
	if hi += carry; hi >= uint64(limit) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(limit))
	return int64(min(q, math.MaxInt64))
}

// take takes one request and so many tokens from every rate that applies, or
// nothing from any.
func (l *limiter) take(rates []RateLimit, p payer, tokens int64, at time.Time) ([]rateUse, error) {
	if len(rates) == 0 {
		return nil, nil
	}
	now := at.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	var (
		uses []rateUse
		next []fullAt
		more int // accounts that are not there yet
	)
	for _, r := range rates {
		for _, who := range p.in(r.Per, r.Of) {
			key := rateKey{r.Name, who}
			b, ok := l.buckets[key]
			if !ok {
				more++
			}
			for _, limit := range []struct {
				full     *int64
				n, limit int64
			}{{&b.requests, 1, r.Requests}, {&b.tokens, tokens, r.Tokens}} {
				if limit.limit == 0 {
					continue
				}
				if limit.n > limit.limit {
					return nil, &rateError{name: r.Name}
				}
				*limit.full = addSaturating(max(*limit.full, now), cost(limit.n, limit.limit))
				if over := *limit.full - now - int64(time.Minute); over > 0 {
					return nil, &rateError{r.Name, time.Duration(over)}
				}
			}
			uses, next = append(uses, rateUse{key, r.Tokens, tokens, now}), append(next, b)
		}
	}
	if len(l.buckets)+more > l.sweepAt {
		l.sweep(now)
	}
	if len(l.buckets)+more > l.most {
		return nil, errBucketsFull
	}
	for i, u := range uses {
		l.buckets[u.key] = next[i]
	}
	return uses, nil
}

// settle puts used in the place of what was taken. That may be more than a
// minute's worth: then there is no room until as much time has passed, for each
// call at most a day.
func (l *limiter) settle(uses []rateUse, used int64) {
	if len(uses) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range uses {
		b, ok := l.buckets[u.key]
		if u.limit == 0 || !ok && used <= u.tokens {
			continue // full by now
		}
		took := cost(u.tokens, u.limit)
		if !ok {
			b.tokens = addSaturating(u.at, took)
		}
		b.tokens = addSaturating(b.tokens-took, min(cost(max(used, 0), u.limit), maxDebt))
		l.buckets[u.key] = b
	}
}

// sweep forgets accounts that are full, each time the number of the others has
// doubled, and once a second when there are too many.
func (l *limiter) sweep(now int64) {
	if l.sweepAt == l.most && now-l.swept < int64(time.Second) && now >= l.swept {
		return
	}
	l.swept = now
	for key, b := range l.buckets {
		if b.requests <= now && b.tokens <= now {
			delete(l.buckets, key)
		}
	}
	l.sweepAt = min(max(1024, 2*len(l.buckets)), l.most)
}
