package governance

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// ErrHistory is wrapped by the errors of [Engine.Rebuild] and [Engine.Backfill].
var ErrHistory = errors.New("governance: the history cannot be used")

// visit begins a decision that looks back, or returns nil if it was given what
// there is to see. Whether anything in force reads history is not asked: labels
// that are found in a result stay for policies to come.
func (e *Engine) visit(r *Request, drops uint64) *visit {
	r.past = nil
	if r.History != nil {
		return nil
	}
	r.past = &visit{past: e.past, actor: r.Actor, drops: drops}
	return r.past
}

// inForce returns the snapshots to decide by, and how often facts had been
// forgotten at a time when both were in force.
func (e *Engine) inForce() (s, staged *Snapshot, drops uint64) {
	if e == nil || e.past == nil {
		return nil, nil, 0 // the zero Engine takes no bundle
	}
	for {
		drops = e.past.drops.Load()
		if s, staged = e.current.Load(), e.staged.Load(); drops == e.past.drops.Load() {
			return s, staged, drops
		}
	}
}

// counts reports whether s has a fact; nil has none.
func (s *Snapshot) counts(id defID) bool { return s != nil && s.defs[id] != nil }

// dropped are the facts of s that none of next has.
func (s *Snapshot) dropped(next ...*Snapshot) map[defID]bool {
	gone := map[defID]bool{}
	if s == nil {
		return gone
	}
	for id := range s.defs {
		if !slices.ContainsFunc(next, func(n *Snapshot) bool { return n.counts(id) }) {
			gone[id] = true
		}
	}
	return gone
}

// replace puts s into force, and forgets what nobody counts from now on: facts of
// the snapshot before, and those that were read from a log or a tape.
func (e *Engine) replace(s *Snapshot) {
	was, staged := e.current.Swap(s), e.staged.Load()
	gone := was.dropped(s, staged)
	for _, id := range e.past.knows() {
		if !s.counts(id) && !staged.counts(id) {
			gone[id] = true
		}
	}
	e.past.forget(gone)
}

// fresh are the facts of next that the engine knows nothing about and does not
// count, by name: they begin with an empty history.
func (e *Engine) fresh(next *Snapshot) map[string]*factDef {
	out := map[string]*factDef{}
	if e.past == nil {
		return out // of the zero Engine, which has no log and takes no bundle
	}
	now, staged := e.current.Load(), e.staged.Load()
	e.past.mu.Lock()
	defer e.past.mu.Unlock()
	for id, d := range next.defs {
		if !now.counts(id) && !staged.counts(id) && !e.past.known[id] {
			out[d.name] = d
		}
	}
	return out
}

// noteNew puts on record which facts begin with an empty history.
func (e *Engine) noteNew(next *Snapshot, detail map[string]string) map[string]string {
	var names []string
	for name := range e.fresh(next) {
		names = append(names, name)
	}
	if len(names) > 0 {
		slices.Sort(names)
		detail["facts_new"] = clip(strings.Join(names, " "))
	}
	return detail
}

func checkFactKey(opts *Options) error {
	if n := len(opts.orDefault().FactKey); n != 0 && n < minFactKey {
		return fmt.Errorf("governance: Options.FactKey has %d bytes: use at least %d random ones", n, minFactKey)
	}
	return nil
}

// Rebuild gives a new engine the history that is in an audit log, so that it
// decides as the engine before it would have: facts of any definition for as
// long as their windows reach back, and labels of sessions. Call it before the
// first Reload, with all records of the last 24 hours, or for labels of as long
// as a session may have lasted; what is earlier does no harm:
//
//	err := engine.Rebuild(audit.Scan(ctx, dir, audit.Filter{}))
//
// An act without an outcome on record counts as in [Result].Unsure. Facts with a
// key or of kind [DistinctWithin] need the [Options].FactKey that the log was
// written with. What a door decides but does not record, which is the action
// use_hosted_tool, cannot be rebuilt. A fact that was taken out of force and put
// back within its window is rebuilt without what happened meanwhile, where the
// engine before it had begun anew. On an error the engine has part of the history
// and should not be used.
func (e *Engine) Rebuild(records iter.Seq2[audit.Record, error]) error {
	if e == nil || e.past == nil {
		return ErrNoSnapshot
	}
	if err := checkFactKey(e.opts); err != nil {
		return err
	}
	if e.current.Load() != nil {
		return fmt.Errorf("%w: call Rebuild before the first Reload, so that nothing is decided before it", ErrHistory)
	}
	now := e.opts.clock()()
	open := map[uint64]*trace{}
	for r, err := range records {
		if err != nil {
			return fmt.Errorf("%w: %w", ErrHistory, err)
		}
		switch {
		case r.Intent != nil && r.Intent.Decision.Allowed():
			t, err := e.past.read(r.Intent)
			if err != nil {
				return fmt.Errorf("%w: record %d: %w", ErrHistory, r.Seq, err)
			}
			if t.at == 0 {
				t.at = r.Time.UnixNano()
			}
			t.adds = slices.DeleteFunc(t.adds, func(a addition) bool { return a.at <= now.Add(-a.def.window).UnixNano() })
			if err := e.past.enter(t); err != nil {
				return fmt.Errorf("%w: record %d: %w", ErrHistory, r.Seq, err)
			}
			open[r.Seq] = t
		case r.Outcome != nil && open[r.Call] != nil:
			v := visit{past: e.past, actor: open[r.Call].actor}
			v.finish(open[r.Call], ResultOf(*r.Outcome))
			v.close()
			delete(open, r.Call)
		}
	}
	return nil
}

// enter starts an act that is known to have been allowed.
func (p *past) enter(t *trace) error {
	v := visit{past: p, actor: t.actor, drops: p.drops.Load()}
	defer v.close()
	return v.start(t)
}

// read makes the trace of an intent from its record.
func (p *past) read(in *audit.Intent) (*trace, error) {
	t := &trace{actor: in.Actor, seq: p.seq.Add(1)}
	if err := p.readFacts(t, in.Decision.Facts); err != nil {
		return nil, err
	}
	if use := in.Credential; use != nil {
		return t, p.readFacts(t, use.Decision.Facts)
	}
	return t, nil
}

func (p *past) readFacts(t *trace, f *audit.Facts) error {
	if f == nil {
		return nil
	}
	if f.KeyID != "" && f.KeyID != p.keyID {
		return fmt.Errorf("its hashes have the key %s, the engine's is %s: set Options.FactKey to the same secret", clip(f.KeyID), p.keyID)
	}
	at := f.At.UnixNano()
	t.at, t.labels = max(t.at, at), append(t.labels, f.Labels...)
	for _, ev := range f.Add {
		def, ok := parseDef(ev.Fact, ev.Def)
		if !ok {
			return fmt.Errorf("the fact %q has the definition %q, which this version does not know", clip(ev.Fact), clip(ev.Def))
		}
		a := addition{def: def, key: &keyed{text: ev.Key}, value: &unkeyed, event: event{at: at, seq: t.seq, n: ev.Amount, reset: ev.Reset}}
		values := ev.Values
		if len(values) == 0 {
			values = []string{""}
		}
		for _, v := range values {
			if !unhex(&a.key.digest, ev.Key) || !unhex(&a.event.value, v) {
				return fmt.Errorf("the fact %q has a hash of another length", clip(ev.Fact))
			}
			t.adds = append(t.adds, a)
		}
		p.mu.Lock()
		p.known[def.id] = true
		p.mu.Unlock()
	}
	return nil
}

func unhex(d *digest, text string) bool {
	if text == "" {
		return true
	}
	b, err := hex.DecodeString(text)
	return err == nil && copy(d[:], b) == len(d) && len(b) == len(d)
}

// Backfilled says what [Engine.Backfill] could use.
type Backfilled struct {
	// Counted are the recorded calls that some new fact counts, or that put a
	// label on a session.
	Counted int
	// Unusable are allowed calls that cannot be read by the new bundle, such as
	// of tools that are not in it any more. They count for nothing.
	Unusable int
	// Facts are those that got a history, sorted by name.
	Facts []string
}

// Backfill gives the facts of a snapshot that are new to the engine the history
// that they would have had, and sessions the labels, from a tape of recorded
// requests. Call it between compiling a bundle and its Reload:
//
//	next, _, err := governance.Compile(ctx, bundle, opts)
//	_, err = engine.Backfill(ctx, next, governance.ReadTape(file), nil)
//	_, err = engine.Reload(ctx, bundle, by)
//
// ended says how calls ended, by the id of their decisions; a call that is not in
// it counts as in [Result].Unsure. Facts that the engine has already, those of a
// staged bundle among them, keep what they have; a fact is the same if its
// definition is, whatever its name. What is decided between the end of the tape
// and the Reload is missing from the new facts.
func (e *Engine) Backfill(ctx context.Context, next *Snapshot, tape iter.Seq2[Recorded, error], ended map[string]Result) (Backfilled, error) {
	var out Backfilled
	if e == nil || e.past == nil || next == nil {
		return out, ErrNoSnapshot
	}
	if err := checkFactKey(e.opts); err != nil {
		return out, err
	}
	fresh := map[defID]bool{}
	for name, d := range e.fresh(next) {
		fresh[d.id] = true
		out.Facts = append(out.Facts, name)
	}
	slices.Sort(out.Facts)
	for rec, err := range tape {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return out, fmt.Errorf("%w: %w", ErrHistory, err)
		}
		if !rec.Decision.Allowed() {
			continue
		}
		l, err := next.relook(&rec.Request)
		if err != nil {
			out.Unusable++
			continue
		}
		if l == nil {
			continue
		}
		t, err := e.past.trace(rec.Request.Actor, l, func(d *factDef) bool { return !fresh[d.id] })
		if err != nil {
			out.Unusable++
			continue
		}
		if len(t.adds)+len(t.labels) == 0 {
			continue
		}
		out.Counted++
		if err := e.past.enter(t); err != nil {
			return out, fmt.Errorf("%w: %w", ErrHistory, err)
		}
		r, ok := ended[rec.Decision.ID]
		if !ok {
			r.Unsure = true
		}
		v := visit{past: e.past, actor: t.actor}
		v.finish(t, r)
		v.close()
	}
	e.past.mu.Lock()
	defer e.past.mu.Unlock()
	for id := range fresh {
		e.past.known[id] = true
	}
	return out, nil
}

// relook reads a recorded request for what it adds to history.
func (s *Snapshot) relook(r *Request) (*look, error) {
	if err := errors.Join(r.checkText(), r.Actor.Validate()); err != nil {
		return nil, err
	}
	t, err := s.resolve(r)
	if err != nil {
		return nil, err
	}
	plan := s.facts[t.action]
	if plan == nil || !plan.feeds() {
		return nil, nil
	}
	context, err := r.context(&t, r.Time, nil)
	if err != nil {
		return nil, err
	}
	return &look{plan: plan, at: r.Time, context: context}, nil
}
