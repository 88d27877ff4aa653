package egress

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/twinward-dev/twinward/audit"
)

// A snapshot is an allow-list in force, with what belongs to it. It never
// changes; [Door.Put] replaces it.
type snapshot struct {
	rules ruleSet
	hash  string
	asks  *asks
}

// refusal is the decision of a guard of this door.
func (s *snapshot) refusal(cause string) audit.Decision {
	d := audit.Refusal(audit.NewID(), cause)
	d.PolicyHash = s.hash
	return d
}

// choose returns the rule that decides about an attempt, or the cause for which
// there is none. Where no rule does, a person may be asked.
func (d *Door) choose(s *snapshot, a *attempt) (r Rule, cause, why string) {
	if rules := s.rules.find(a.t.host, a.t.port); rules != nil {
		if rules[0].Programs == nil { // then no other names any: see newRuleSet
			return rules[0], "", ""
		}
		// Not even a rule for any program decides about one that hides: one that
		// names it may be tighter.
		if err := d.look(a); err != nil {
			return Rule{}, causeOf(err), err.Error()
		}
		a.room.hashFor(rules, a.holders)
		r, ok := a.room.pick(rules, a.holders, func(r Rule) bool { return secure(a.t.port, r) })
		if !ok {
			return Rule{}, CauseProgram, describe(a.holders)
		}
		return r, "", ""
	}
	if d.askable(a.t.host) {
		return d.ask(s, a)
	}
	if s.rules.listed(a.t.host) {
		return Rule{}, CausePort, ""
	}
	return Rule{}, CauseName, ""
}

// Rules are an allow-list that was checked by [Door.Compile].
type Rules struct{ snap *snapshot }

// Compile checks an allow-list and changes nothing. hash identifies it in
// records.
func (d *Door) Compile(rules []Rule, hash string) (*Rules, error) {
	s, err := newRuleSet(rules)
	if err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	return &Rules{&snapshot{rules: s, hash: hash, asks: &asks{byPlace: make(map[place]*inquiry)}}}, nil
}

// Put puts r into force in place of what was. When it returns, every decision is
// made by r, and each connection that r would not have let through the same way
// is cut; the others live on.
func (d *Door) Put(r *Rules) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	d.snap.Store(r.snap)
	for c, f := range d.open {
		if f == nil {
			continue // not decided: admit will see that the rules are others
		}
		if _, ok := f.under(r.snap); !ok {
			f.cutOff(outPolicy)
			reset(c)
		}
	}
	d.mu.Unlock()
	d.recheck()
	return nil
}

// recheck judges requests in flight again, after the rules have changed.
func (d *Door) recheck() { d.inspector.recheck() }

// now returns the rules in force.
func (d *Door) now() *snapshot { return d.snap.Load() }

// Why a connection that had been granted was ended here: error codes of its
// outcome.
const (
	outPolicy  = "policy-changed"
	outHandler = "handler-registered"
)

// A flow is a connection that was granted.
type flow struct {
	target
	rule    Rule      // that decided
	snap    *snapshot // under which it did
	holders []holder  // of the program's side, if they were looked for
	room    *room
	handler http.Handler    // serves it; nil: the real host
	ctx     context.Context // done when the flow is over or cut
	cancel  context.CancelFunc

	// Under the door's lock:
	private bool   // it was dialled to a private address
	cut     string // why it was cut, "" while it was not
}

// cutOff notes why f ends. The caller holds the door's lock and resets f's
// connections.
func (f *flow) cutOff(code string) {
	if f.cut == "" {
		f.cut = code
	}
	f.cancel()
}

// under returns the rule that decides about f in s. It is false when f could
// not go on under it as it is.
func (f *flow) under(s *snapshot) (Rule, bool) {
	rules := s.rules.find(f.host, f.port)
	if rules == nil && f.rule.asked && s == f.snap {
		return f.rule, true
	}
	if rules == nil {
		return Rule{}, false
	}
	r, ok := f.room.pick(rules, f.holders, func(r Rule) bool { return secure(f.port, r) })
	if !ok {
		return Rule{}, false
	}
	if r.Protocol != f.rule.Protocol || f.handler == nil && (r.Served || f.private && !r.Private) {
		return Rule{}, false
	}
	return r, true
}

// current returns the rule that applies to f now. It is false when f was cut.
func (d *Door) current(f *flow) (Rule, bool) {
	if f.ctx.Err() != nil {
		return Rule{}, false
	}
	return f.under(d.now())
}

// cutCode returns why f was cut, or "".
func (d *Door) cutCode(f *flow) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f.cut
}

// admit makes a a flow that was decided under s: from here on, whoever changes
// what s says cuts it. It is false when s is not in force any more, or the door
// is closed. If the name has a handler, the flow leads there.
func (d *Door) admit(a *attempt, s *snapshot, r Rule) (*flow, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.snap.Load() != s {
		return nil, false
	}
	f := &flow{target: a.t, rule: r, snap: s, handler: d.handlers[a.t.host], holders: a.holders, room: d.room}
	f.ctx, f.cancel = context.WithCancel(d.ctx)
	d.open[a.c] = f
	return f, true
}

// leave ends f, whose connection c is about to be closed.
func (d *Door) leave(c io.Closer, f *flow) {
	f.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
}

// holdReal notes the connection to the real host of a flow. It is false when
// the flow was cut in the meantime.
func (d *Door) holdReal(up io.Closer, f *flow, private bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || f.cut != "" {
		return false
	}
	// The rules may have changed while it was dialled, and could not know this.
	f.private = private
	if _, ok := f.under(d.snap.Load()); !ok {
		f.cutOff(outPolicy)
		return false
	}
	d.open[up] = f
	d.tasks.Add(1)
	return true
}
