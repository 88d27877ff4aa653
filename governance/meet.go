package governance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// decide answers by the snapshot in force, compares with the staged one, and
// meets what the engine itself has to meet.
func (e *Engine) decide(ctx context.Context, r Request) (d Decision, err error) {
	// Before the snapshot is taken: who confirms has stored the new one first.
	stale := e.stale()
	s, next, drops := e.inForce()
	if s == nil {
		return s.Decide(ctx, r)
	}
	if stale {
		return s.outdated(&r)
	}
	r.engine, r.counted = e.id, e.rates != nil
	v := e.visit(&r, drops)
	defer v.close()
	d, err = s.Decide(ctx, r)
	v.touch()
	if err != nil {
		return d, err
	}
	defer func() {
		// A limiter may be the host's own.
		if p := recover(); p != nil {
			d, err = d.withdraw(audit.GuardPanic, hintClosed), fmt.Errorf("%w: %v", ErrPanic, p)
		}
	}()
	var other Decision
	if next != nil {
		other = next.beside(r)
		d.compare(&other, audit.WouldStaged)
	}
	v.reserve(&d, s, other.look)
	v.close()
	if d.Allowed() && (len(d.uses) > 0 || r.Approval != nil) {
		return e.meet(ctx, &r, d)
	}
	return d, nil
}

// meet counts rates and uses up the approval of an allowed request.
func (e *Engine) meet(ctx context.Context, r *Request, d Decision) (Decision, error) {
	now := e.opts.clock()()
	if len(d.uses) > 0 {
		give, err := e.rates.Take(ctx, now, d.uses)
		if err != nil {
			return d.withdraw(audit.GuardRate, rateHint(err)), nil
		}
		if give != nil {
			d.onSettle(func(r Result) {
				// What the other side has seen counts, whatever came of it: a
				// rate protects it from that too.
				if !r.used() && !r.Reached {
					give()
				}
			})
		}
	}
	if r.Approval != nil {
		if err := e.approvals.use(r.Approval, now); err != nil {
			return d.withdraw(audit.GuardApproval, hintApproval+err.Error()+"."), nil
		}
	}
	return d, nil
}

// withdraw turns an allowed decision into a denial and gives back what it holds.
func (d Decision) withdraw(guard, hint string) Decision {
	d.Settle(Result{})
	d.Facts = nil
	return refuse(d, guard, hint)
}

func rateHint(err error) string {
	var full *RateError
	if errors.As(err, &full) && full.After > 0 {
		return fmt.Sprintf("That was often enough for now. Try again in %s.", (full.After + time.Second - 1).Truncate(time.Second))
	}
	return "That was often enough for now."
}
