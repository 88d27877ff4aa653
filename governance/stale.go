package governance

import (
	"errors"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// ErrStale is returned once the time is over that [Engine.FreshUntil] gave.
var ErrStale = errors.New("governance: the policy in force could not be confirmed in time, so that everything is denied until it is")

// FreshUntil says until when the engine may take the policy that it has for the
// one in force elsewhere; from then on it denies everything, with the guard
// "stale-policy", until a later time is given. Who carries policy to many hosts
// calls it each time that it has seen the current one, so that a host which is
// cut off from the others does not go on by rules that were withdrawn. It holds
// without anybody watching. The zero time is no bound, which is how an engine
// starts; a nil Engine denies anyhow.
func (e *Engine) FreshUntil(t time.Time) {
	if e == nil {
		return
	}
	if t.IsZero() {
		e.confirmed.Store(nil)
		return
	}
	e.confirmed.Store(&t)
}

// stale reports whether the time given to FreshUntil is over, by the monotonic
// clock or by the wall clock: the first stands still while a machine is
// suspended, and the second can be set back.
func (e *Engine) stale() bool {
	if e == nil {
		return false // it has no snapshot either
	}
	until := e.confirmed.Load()
	if until == nil {
		return false
	}
	now := e.opts.clock()()
	return !now.Before(*until) || !now.Round(0).Before(until.Round(0))
}

// outdated is the denial of a stale engine.
func (s *Snapshot) outdated(r *Request) (Decision, error) {
	d := refuse(Decision{Decision: audit.Decision{ID: audit.NewID(), Effect: audit.Deny, PolicyHash: s.Hash()}}, audit.GuardStale, hintClosed)
	d.Action, d.Resource = r.named()
	return d, ErrStale
}
