package egress

import (
	"net/http"
	"sync"
	"time"
)

// An idler closes a connection that has had no request for too long, as
// [http.Server.IdleTimeout] does. That one leaves a timer behind on connections of
// HTTP/2 that end with a stream open, by which all that they know, the whole session,
// stays in memory for as long again. The zero value is ready.
type idler struct {
	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// enter takes note of a state of the connection, which shut closes.
func (i *idler) enter(s http.ConnState, most time.Duration, shut func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
		i.timer = nil
	}
	switch s {
	case http.StateIdle:
		if !i.over {
			i.timer = time.AfterFunc(most, shut)
		}
	case http.StateClosed, http.StateHijacked:
		i.over = true
	}
}
