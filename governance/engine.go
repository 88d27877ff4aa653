package governance

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// An Engine decides by the snapshot that is in force, and swaps it for a new
// one in one step. It is safe for concurrent use. A nil Engine denies
// everything.
type Engine struct {
	id        string // tells it from all others, for approvals
	log       audit.Recorder
	opts      *Options
	current   atomic.Pointer[Snapshot]
	staged    atomic.Pointer[Snapshot]  // decides beside it, or nil
	confirmed atomic.Pointer[time.Time] // see FreshUntil

	rates     RateLimiter
	approvals usedApprovals
	past      *past
	telemetry *telemetry // nil when nobody listens

	reload sync.Mutex // one at a time: on record in the order of taking effect
	mu     sync.Mutex // guards subs
	subs   map[int]func()
	next   int
}

// NewEngine returns an engine that denies everything until the first Reload.
// Reloads go on record in log; with a nil log there can be none.
func NewEngine(log audit.Recorder, opts *Options) *Engine {
	e := &Engine{id: audit.NewID(), log: log, opts: opts, rates: opts.orDefault().Rates, past: newPast(opts), telemetry: newTelemetry(opts)}
	if e.rates == nil {
		e.rates = NewRateLimiter()
	}
	return e
}

// Reload puts a bundle into force. It compiles first, then records who did it
// and why, with the new hash, and only then swaps: when any of that fails the
// engine goes on with what it has. A bundle of an older version is refused where
// [Options.MinVersion] says so. Decisions that have begun end with the
// snapshot they began with.
func (e *Engine) Reload(ctx context.Context, b Bundle, by audit.Change) (Report, error) {
	snap, rep, err := e.compile(ctx, audit.ActionReload, b, by)
	if err != nil {
		return rep, err
	}
	e.reload.Lock()
	if err := e.forward(snap); err != nil {
		e.reload.Unlock()
		return rep, err
	}
	err = e.record(ctx, audit.ActionReload, snap, e.current.Load(), by, e.noteNew(snap, map[string]string{
		"policies":  strconv.Itoa(rep.Policies),
		"generated": strconv.Itoa(rep.Generated),
		"tools":     strconv.Itoa(rep.Tools),
	}))
	if err == nil {
		e.replace(snap)
	}
	e.reload.Unlock()
	if err != nil {
		return rep, err
	}
	e.tell()
	return rep, nil
}

// compile makes a snapshot of a bundle on somebody's authority.
func (e *Engine) compile(ctx context.Context, action string, b Bundle, by audit.Change) (*Snapshot, Report, error) {
	if e == nil {
		return nil, Report{}, ErrNoSnapshot
	}
	if err := by.Validate(); err != nil {
		return nil, Report{}, fmt.Errorf("governance: %s: %w", action, err)
	}
	if err := checkFactKey(e.opts); err != nil {
		return nil, Report{}, err
	}
	return Compile(ctx, b, e.opts)
}

// Enforces reports whether b is the bundle in force: one that changes it must
// begin with it, or what others have changed since would be undone.
func (e *Engine) Enforces(ctx context.Context, b Bundle) (bool, error) {
	if e == nil || e.Hash() == "" {
		return false, ErrNoSnapshot
	}
	snap, _, err := Compile(ctx, b, e.opts)
	if err != nil {
		return false, err
	}
	return snap.Hash() == e.Hash(), nil
}

// Subscribe calls f after each reload that took effect, on the goroutine that
// reloaded, until cancel is called. It is meant for telling clients that their
// list of tools may have changed.
func (e *Engine) Subscribe(f func()) (cancel func()) {
	if e == nil || f == nil {
		return func() {}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.subs == nil {
		e.subs = map[int]func(){}
	}
	id := e.next
	e.next++
	e.subs[id] = f
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, id)
	}
}

func (e *Engine) tell() {
	e.mu.Lock()
	fs := make([]func(), 0, len(e.subs))
	for _, f := range e.subs {
		fs = append(fs, f)
	}
	e.mu.Unlock()
	for _, f := range fs {
		f()
	}
}

// Snapshot returns what is in force, or nil.
func (e *Engine) Snapshot() *Snapshot {
	if e == nil {
		return nil
	}
	return e.current.Load()
}

// Decide answers a request by the snapshot in force: see [Snapshot.Decide]. An
// error always comes with a denying decision that names its cause.
func (e *Engine) Decide(ctx context.Context, r Request) (Decision, error) {
	if e == nil || e.telemetry == nil {
		return e.answer(ctx, r)
	}
	return e.telemetry.observe(ctx, r, e.answer)
}

// answer decides, and keeps the request on the tape if there is one.
func (e *Engine) answer(ctx context.Context, r Request) (Decision, error) {
	if e == nil || e.opts == nil || e.opts.Tape == nil {
		return e.decide(ctx, r)
	}
	if r.Time.IsZero() {
		r.Time = e.opts.clock()()
	}
	d, err := e.decide(ctx, r)
	e.opts.Tape(recorded(r, d))
	return d, err
}

// Visible answers for each tool, in order, whether the actor could ever call
// it: see [Snapshot.Visible]. A stale engine shows nothing: see
// [Engine.FreshUntil].
func (e *Engine) Visible(ctx context.Context, a audit.Actor, action string, tools []ToolRef) ([]Visibility, error) {
	if e.stale() {
		return make([]Visibility, len(tools)), ErrStale
	}
	return e.Snapshot().Visible(ctx, a, action, tools)
}

// Hash identifies the snapshot in force, "" when there is none.
func (e *Engine) Hash() string { return e.Snapshot().Hash() }

// Tool returns the approved definition from the catalogue in force and its pin.
func (e *Engine) Tool(server, name string) (ToolDefinition, string, bool) {
	return e.Snapshot().Tool(server, name)
}

// Catalog returns the approved servers in force, sorted by name, or nil. They
// are shared: do not change them.
func (e *Engine) Catalog() []Server { return e.Snapshot().Catalog() }

// Tool returns an approved definition and its pin.
func (s *Snapshot) Tool(server, name string) (ToolDefinition, string, bool) {
	if s == nil {
		return ToolDefinition{}, "", false
	}
	t, ok := s.tools[toolRef{server, name}]
	if !ok {
		return ToolDefinition{}, "", false
	}
	return t.def.ToolDefinition, t.pin, true
}

// Catalog returns the approved servers, sorted by name. They are shared: do not
// change them.
func (s *Snapshot) Catalog() []Server {
	if s == nil {
		return nil
	}
	return s.catalog
}
