package mcpx

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Whatever comes when nobody wants it any more is ended, and each once.
func TestPlace(t *testing.T) {
	ended := map[string]int{}
	sub := func(name string) *subscription { return newSubscription(nil, func() { ended[name]++ }) }
	p := newPlace(t.Context())
	first := sub("first")
	p.take(first)
	first.end() // as it is when it was lost
	p.take(sub("second"))
	assert.Equal(t, map[string]int{"first": 1}, ended)
	p.leave()
	p.leave()
	<-p.life.Done()
	p.take(sub("late"))
	assert.Equal(t, map[string]int{"first": 1, "second": 1, "late": 1}, ended)
}

// Nothing goes on for a watch that has ended.
func TestWatchIsKeptWhileItLasts(t *testing.T) {
	g := &Gateway{pool: newPool()}
	w := &watch{place: newPlace(t.Context())}
	w.place.take(newSubscription(make(chan struct{}), func() {}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.keepWatch(watchKey{}, w, &flight{}, &Upstream{})
	}()
	w.place.leave()
	<-done
}
