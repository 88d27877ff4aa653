package inference

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestBreaker(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &breaker{rule: Breaker{Failures: 3, Open: time.Minute}.withDefaults()}
	for range 2 {
		b.failure(now)
		assert.True(t, b.allow(now), "not enough yet")
	}
	b.success()
	for range 2 {
		b.failure(now)
	}
	assert.True(t, b.allow(now), "only failures in a row count")
	b.failure(now)
	assert.False(t, b.allow(now))
	assert.Equal(t, 2, b.ready(now))
	assert.Equal(t, time.Minute, b.wait(now))

	now = now.Add(time.Minute)
	assert.Equal(t, 0, b.ready(now))
	assert.True(t, b.allow(now), "one call is sent to see")
	assert.False(t, b.allow(now), "and no second one")
	now = now.Add(time.Minute)
	assert.True(t, b.allow(now), "the first came to no verdict: another one is sent")
	b.failure(now)
	assert.False(t, b.allow(now.Add(59*time.Second)))
	now = now.Add(time.Minute)
	assert.True(t, b.allow(now))
	b.success()
	assert.True(t, b.allow(now))
	assert.True(t, b.allow(now))
	b.failure(now)
	assert.True(t, b.allow(now), "it counts from the start")
}

func TestBreakerThatIsOff(t *testing.T) {
	b := &breaker{rule: Breaker{Failures: -1}.withDefaults()}
	for range 100 {
		b.failure(time.Unix(0, 0))
	}
	assert.True(t, b.allow(time.Unix(0, 0)))
}

// A backend that asks for a rest is called when there is no other.
func TestRest(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &breaker{rule: Breaker{}.withDefaults()}
	b.rest(now.Add(time.Second))
	assert.Equal(t, 1, b.ready(now))
	assert.True(t, b.allow(now))
	assert.Equal(t, 0, b.ready(now.Add(time.Second)))
}
