package inference

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Retry says how a call goes on when a target does not answer it. The zero
// value is the default: each target of the route is asked once, in order, and
// none is waited for.
//
// A call is sent again only while nothing of an answer went to the client, and
// only after one of these:
//
//	what came                          sent again
//	no connection                      always
//	429, 503, 529                      always: the backend did not do it
//	502, 504, the connection broke     unless the call uses hosted tools
//	off before an answer, or none
//	came in time
//	anything else, 500 among it        never: the client is told
//
// In the third row the model may have run, and then the call is paid for twice;
// it is repeated all the same, because a model call changes nothing. With hosted
// tools it may change something, so that it is not. A call that got no answer in
// time goes to other targets and not to the same again.
type Retry struct {
	// Attempts is how many requests a call may make in all, at most 10. Zero means
	// one for each target of the route. When there are more attempts than targets,
	// the targets are asked again, after a pause.
	Attempts int `yaml:"attempts"`
	// Pause is the longest time before the first time that targets are asked
	// again; it doubles each time. The time is random below it. Zero means 500 ms.
	Pause time.Duration `yaml:"pause"`
	// MaxWait bounds the pauses. A target whose Retry-After is longer is not asked
	// again. Zero means 10 seconds.
	MaxWait time.Duration `yaml:"max_wait"`
}

// maxAttempts bounds what one call may send, and what is on record of it.
const maxAttempts = 10

func (r Retry) withDefaults() Retry {
	if r.Pause <= 0 {
		r.Pause = 500 * time.Millisecond
	}
	if r.MaxWait <= 0 {
		r.MaxWait = 10 * time.Second
	}
	return r
}

// pause returns how long to wait before targets are asked for the round-th time
// again, from 1, and false when that is too long. random is in [0,1).
func (r Retry) pause(round int, random float64, retryAfter time.Duration) (time.Duration, bool) {
	if retryAfter > r.MaxWait {
		return 0, false
	}
	longest := r.Pause
	for range round - 1 {
		if longest >= r.MaxWait/2 {
			longest = r.MaxWait
			break
		}
		longest *= 2
	}
	longest = min(longest, r.MaxWait)
	return max(time.Duration(random*float64(longest)), retryAfter), true
}

// maxRetryAfter bounds what a backend may ask for.
const maxRetryAfter = time.Hour

// retryAfter returns the time that a backend asks not to be called for, from
// now, and at most an hour: Retry-After-Ms as the OpenAI SDKs read it, or
// Retry-After in seconds or as a date (RFC 9110, 10.2.3). It is zero if the
// backend does not say, or not so that it can be understood.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, ok := number(h.Get("Retry-After-Ms")); ok {
		return bounded(ms, time.Millisecond)
	}
	value := h.Get("Retry-After")
	if s, ok := number(value); ok {
		return bounded(s, time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// number reads digits, with a fraction that is left out.
func number(s string) (uint64, bool) {
	s, _, _ = strings.Cut(strings.TrimSpace(s), ".")
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

func bounded(n uint64, unit time.Duration) time.Duration {
	if n >= uint64(maxRetryAfter/unit) {
		return maxRetryAfter
	}
	return time.Duration(n) * unit
}

// A failing says what an attempt that did not bring an answer means.
type failing uint8

const (
	answered failing = iota // it did: the client gets it
	undone                  // the backend has surely not done it
	unsure                  // it may have
)

// failingStatus sorts the answers of backends.
func failingStatus(status int) failing {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, statusOverloaded:
		return undone
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return unsure
	}
	return answered
}

// breaks reports whether an answer says that the backend does not work, so that
// it counts for the [Breaker]. 500 does not: one agent's bad request can be its
// cause, and the model would be closed for all; nor does the limit that all share.
func breaks(status int) bool {
	return status != http.StatusTooManyRequests && failingStatus(status) != answered
}

// statusOverloaded is Anthropic's.
const statusOverloaded = 529
