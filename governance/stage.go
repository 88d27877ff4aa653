package governance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/twinward-dev/twinward/audit"
)

// Errors of staging.
var (
	// ErrNotStaged is returned when there is no staged snapshot, or another one
	// than was meant.
	ErrNotStaged = errors.New("governance: no such staged snapshot: see Engine.Staged for what is staged now, and Engine.Stage")
)

// Stage compiles a bundle and holds it beside the one in force: from now on
// every request is decided by both, and where the staged one would have decided
// otherwise, or for another cause, the decision says so in Would. A staged snapshot
// that fails or panics is on record as that and does no harm; it costs time,
// though, about that of another decision.
//
// Facts that are new in it are counted from now on, so that they have a history
// when it is promoted; labels of its catalogue are not given. A new fact is held
// to the limits of all facts: where there is no more room for what an act adds
// to it, the act is denied with the guard "facts", as if it were in force.
//
// Another Stage replaces it, and Reload leaves it. Who staged it and why goes on
// record.
func (e *Engine) Stage(ctx context.Context, b Bundle, by audit.Change) (Report, error) {
	snap, rep, err := e.compile(ctx, "stage", b, by)
	if err != nil {
		return rep, err
	}
	e.reload.Lock()
	defer e.reload.Unlock()
	if err := e.record(ctx, "stage", snap, e.staged.Load(), by, e.noteNew(snap, map[string]string{})); err != nil {
		return rep, err
	}
	// What the replaced one alone counted would have a hole from now on.
	e.past.forget(e.staged.Swap(snap).dropped(snap, e.current.Load()))
	return rep, nil
}

// Staged returns the staged snapshot, or nil.
func (e *Engine) Staged() *Snapshot {
	if e == nil {
		return nil
	}
	return e.staged.Load()
}

// Promote puts the staged snapshot into force. The hash names the one that was
// watched: if another is staged meanwhile, nothing happens and the error is
// [ErrNotStaged]. Who promoted it and why goes on record first; if it cannot,
// nothing happens.
func (e *Engine) Promote(ctx context.Context, hash string, by audit.Change) error {
	if err := e.swap(ctx, audit.ActionPromote, hash, by, e.replace); err != nil {
		return err
	}
	e.tell()
	return nil
}

// Unstage gives the staged snapshot up. The hash and by are as for Promote.
func (e *Engine) Unstage(ctx context.Context, hash string, by audit.Change) error {
	return e.swap(ctx, "unstage", hash, by, func(s *Snapshot) {
		e.staged.Store(nil) // first, so that nothing counts any more what is forgotten
		e.past.forget(s.dropped(e.current.Load()))
	})
}

func (e *Engine) swap(ctx context.Context, action, hash string, by audit.Change, do func(*Snapshot)) error {
	if e == nil {
		return ErrNoSnapshot
	}
	if err := by.Validate(); err != nil {
		return fmt.Errorf("governance: %s: %w", action, err)
	}
	e.reload.Lock()
	defer e.reload.Unlock()
	s := e.staged.Load()
	if s == nil || s.hash != hash {
		return ErrNotStaged
	}
	if action == audit.ActionPromote {
		if err := e.forward(s); err != nil {
			return err
		}
	}
	if err := e.record(ctx, action, s, e.current.Load(), by, nil); err != nil {
		return err
	}
	do(s)
	e.staged.Store(nil)
	return nil
}

// record puts a change of what is staged on record.
func (e *Engine) record(ctx context.Context, action string, s, before *Snapshot, by audit.Change, more map[string]string) error {
	detail := map[string]string{audit.DetailPolicyHash: s.hash, "replaces": before.Hash()}
	maps.Copy(detail, more)
	err := audit.OrRefuse(e.log).Append(ctx, audit.Event{
		Kind:     audit.KindPolicy,
		Door:     audit.DoorAdmin,
		Action:   action,
		Resource: "Policy::" + strconv.Quote(s.hash),
		Change:   &by,
		Detail:   s.signed(detail),
	})
	if err != nil {
		return fmt.Errorf("governance: %s: the change could not be put on record, so nothing has changed: %w", action, err)
	}
	return nil
}

// beside decides by a snapshot that is not in force.
func (s *Snapshot) beside(r Request) (d Decision) {
	start := Decision{Decision: audit.Decision{Effect: audit.Deny, PolicyHash: s.hash}}
	defer func() {
		if recover() != nil {
			d = refuse(start, audit.GuardPanic, hintClosed)
		}
	}()
	r.beside = true
	return s.decide(start, &r)
}
