package inference

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 29, 8, 49, 0, 0, time.UTC)
	for _, tc := range []struct {
		header, value string
		want          time.Duration
	}{
		{"Retry-After", "", 0},
		{"Retry-After", "0", 0},
		{"Retry-After", "7", 7 * time.Second},
		{"Retry-After", " 7 ", 7 * time.Second},
		{"Retry-After", "7.9", 7 * time.Second},
		{"Retry-After", "-7", 0},
		{"Retry-After", "+7", 0},
		{"Retry-After", "7s", 0},
		{"Retry-After", "3600", time.Hour},
		{"Retry-After", "99999999999999999999", 0},
		{"Retry-After", "18446744073709551615", time.Hour},
		{"Retry-After", "Sun, 29 Nov 2026 08:49:37 GMT", 37 * time.Second},
		{"Retry-After", "Sunday, 29-Nov-26 08:49:37 GMT", 37 * time.Second},
		{"Retry-After", "Sun Nov 29 08:49:37 2026", 37 * time.Second},
		{"Retry-After", "Sun, 29 Nov 2026 08:48:37 GMT", 0},
		{"Retry-After", "Sun, 29 Nov 2099 08:48:37 GMT", time.Hour},
		{"Retry-After", "tomorrow", 0},
		{"Retry-After-Ms", "1500", 1500 * time.Millisecond},
		{"Retry-After-Ms", "1500.25", 1500 * time.Millisecond},
	} {
		assert.Equal(t, tc.want, retryAfter(http.Header{tc.header: {tc.value}}, now), tc.value)
	}
	assert.Equal(t, time.Second, retryAfter(http.Header{"Retry-After-Ms": {"1000"}, "Retry-After": {"7"}}, now))
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("7", "")
	f.Add("Sun, 29 Nov 2026 08:49:37 GMT", "x")
	f.Add("", "1500.5")
	f.Fuzz(func(t *testing.T, after, ms string) {
		got := retryAfter(http.Header{"Retry-After": {after}, "Retry-After-Ms": {ms}}, time.Unix(1_800_000_000, 0))
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, maxRetryAfter)
	})
}

func TestPauses(t *testing.T) {
	r := Retry{Pause: time.Second, MaxWait: 5 * time.Second}
	for round, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if round == 0 {
			continue
		}
		got, ok := r.pause(round, math.Nextafter(1, 0), 0)
		assert.True(t, ok)
		assert.InDelta(t, want, got, 2)
	}
	got, ok := r.pause(1, 0, 3*time.Second)
	assert.True(t, ok)
	assert.Equal(t, 3*time.Second, got, "the backend's wish is the least")
	_, ok = r.pause(1, 0, 6*time.Second)
	assert.False(t, ok, "too long to be waited for")
	got, _ = Retry{Pause: time.Hour, MaxWait: time.Second}.pause(1_000_000, 0.5, 0)
	assert.Equal(t, 500*time.Millisecond, got)
}

func TestWhichAnswersAreTriedAgain(t *testing.T) {
	for status, want := range map[int]failing{
		200: answered, 400: answered, 401: answered, 404: answered, 408: answered, 500: answered, 501: answered,
		429: undone, 503: undone, 529: undone, 502: unsure, 504: unsure,
	} {
		assert.Equal(t, want, failingStatus(status), status)
	}
}
