package governance

import (
	"strconv"
	"strings"
	"sync"

	"github.com/twinward-dev/twinward/audit"
)

// A Result says how an allowed act ended, for [Decision.Settle]. The zero
// Result says that nothing was done.
type Result struct {
	// OK: the act succeeded. What the decision reserved is used up.
	OK bool
	// Unsure: nobody can tell whether the act was done, such as after a
	// cancelled call. A budget counts it as done, a precondition as not done.
	Unsure bool
	// Reached: the act failed, but the other side saw it and may have answered.
	// What the answer may have told the agent cannot be taken back, so the
	// labels of the call stay.
	Reached bool
	// Labels were found in the result itself, in addition to those that the
	// catalogue gives the tool. They stay whatever else is said here.
	Labels []string
}

// used reports whether a budget counts the act.
func (r Result) used() bool { return r.OK || r.Unsure }

// ResultOf reads from an outcome how the act ended. Doors settle with it, and a
// history that is rebuilt from the log reads it the same way.
//
//   - ok: OK.
//   - failed with "tool-error" (the isError of an MCP tool), "error" (its protocol
//     error), "input-required" (it wants to know more first),
//     "upstream-unauthorized", "upstream-error-event" or an HTTP status that
//     blames the request, such as "upstream-429", but for 408: the other side says
//     that it did not do it. Reached; it uses up no budget.
//   - failed or cancelled with "credential", "consent" (its user has not given any),
//     "upstream-down", "not-started", "not-begun", "name-not-found", "unreachable"
//     or "private-address": nothing was done.
//   - cancelled, or failed with anything else, a time-out, a program's exit code
//     or an answer withheld among it: Unsure. Else an agent could spend and
//     cancel for ever.
func ResultOf(o audit.Outcome) Result {
	r := Result{Labels: o.Labels}
	if o.Status == audit.StatusOK {
		r.OK = true
		return r
	}
	code, failed := o.ErrorCode, o.Status == audit.StatusFailed
	switch code {
	case "credential", "consent", "upstream-down", "not-started", "not-begun", "name-not-found", "unreachable", audit.GuardPrivateRange:
		return r
	case "tool-error", "error", "input-required", "upstream-unauthorized", "upstream-error-event":
		r.Reached = failed
	default:
		status, ok := strings.CutPrefix(code, "upstream-")
		n, err := strconv.Atoi(status)
		r.Reached = failed && ok && err == nil && n >= 400 && n < 500 && n != 408
	}
	r.Unsure = !r.Reached
	return r
}

// Again returns the decision for a further act under the same permission, such as
// cancelling what it began; [Engine.Again] asks the policies whether it may go on.
// It has an ID of its own and has reserved nothing: settling it counts nothing, and
// leaves what d reserved to d.
func (d Decision) Again() Decision {
	d.ID = audit.NewID()
	d.Facts, d.uses, d.hold = nil, nil, nil
	return d
}

// Settle tells the engine how the act that the decision allowed has ended. What
// the decision reserved, in facts and rates, is then used up or given back. A
// door calls it once, after the outcome is on record; the second and later
// calls, and calls on the zero Decision or a denial, do nothing. It is safe for
// concurrent use.
//
// A decision that is never settled counts as used: forgetting it can only deny
// too much.
func (d Decision) Settle(r Result) {
	if d.hold != nil {
		d.hold.settle(r)
	}
}

// A hold is what an allowing decision has reserved. Copies of a decision share
// it.
type hold struct {
	mu   sync.Mutex
	done bool
	ends []func(Result)

	// What it adds to history: every allowed act of an engine may add labels, and
	// few add more, so this is kept small.
	past  *past
	actor audit.Actor
	at    int64
	trace *trace
}

// onSettle has end called once when the decision is settled, after what it adds
// to history. It must be called before the decision leaves the engine.
func (d *Decision) onSettle(end func(Result)) {
	if d.hold == nil {
		d.hold = &hold{}
	}
	d.hold.ends = append(d.hold.ends, end)
}

func (h *hold) settle(r Result) {
	h.mu.Lock()
	done, ends := h.done, h.ends
	h.done, h.ends = true, nil
	h.mu.Unlock()
	if done {
		return
	}
	if h.past != nil && (!h.trace.empty() || len(r.Labels) > 0) {
		h.remember(r)
	}
	for _, end := range ends {
		end(r)
	}
}

// remember enters in history how the act has ended.
func (h *hold) remember(r Result) {
	t := h.trace
	if t == nil {
		t = &trace{actor: h.actor, at: h.at}
	}
	v := visit{past: h.past, actor: h.actor}
	defer v.close()
	v.finish(t, r)
}
