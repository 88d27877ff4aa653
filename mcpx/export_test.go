package mcpx

import "time"

// SetChildTimes changes how soon child processes are ended and replaced. Call it
// before the first call.
func SetChildTimes(g *Gateway, check, start, pause, spare time.Duration) {
	g.pool.times = childTimes{check: check, start: start, pause: pause, spare: spare, rewatch: usualTimes.rewatch, leave: usualTimes.leave}
}

// SetRewatch changes how soon what a server has forgotten is subscribed to again.
func SetRewatch(g *Gateway, d time.Duration) { g.pool.times.rewatch = d }

// SetLeave changes how long a server may take to hear that a subscription is taken
// back.
func SetLeave(g *Gateway, d time.Duration) { g.pool.times.leave = d }

// SetFarewell changes how long a server may take to hear that its task was given up.
func SetFarewell(g *Gateway, d time.Duration) { g.farewells.patience = d }

// SlowOnly has the SDK carry every call.
func SlowOnly(g *Gateway) { g.slow = true }

// SetParkTime changes how long a call waits for its client to call again.
func SetParkTime(g *Gateway, d time.Duration) { g.gov.parkTime = d }

// SetEndedTime changes how long a task can be asked for once it has ended.
func SetEndedTime(g *Gateway, d time.Duration) { g.gov.endedTime = d }
