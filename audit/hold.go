package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const (
	actionHold    = "hold"
	actionRelease = "release"
)

// A Held is a legal hold that is in force.
type Held struct {
	Matter  string  // the case, as the organisation names it
	Subject Subject // zero means everything
	Change  Change  // who ordered it, and why
	Seq     uint64  // the record of it
}

// Hold forbids [Log.Erase] and [Log.Prune] to destroy values of a subject, until
// the matter is released. The zero Subject means all values, those to come too. A
// matter may hold several subjects, one call each. The log itself is where holds
// are kept: they are events of [KindHold].
func (l *Log) Hold(ctx context.Context, matter string, s Subject, by Change) error {
	detail, err := s.onRecord().detail()
	if err != nil {
		return err
	}
	return l.hold(ctx, actionHold, matter, detail, by)
}

// Release ends all holds of a matter. It fails with [ErrInvalid] if there is none.
func (l *Log) Release(ctx context.Context, matter string, by Change) error {
	return l.hold(ctx, actionRelease, matter, nil, by)
}

func (l *Log) hold(ctx context.Context, action, matter string, detail map[string]string, by Change) error {
	if l == nil {
		return ErrNoLog
	}
	if err := by.Validate(); err != nil {
		return err
	}
	if matter = onRecord(matter); strings.TrimSpace(matter) == "" {
		return fmt.Errorf("%w: a hold needs the name of its matter", ErrInvalid)
	}
	l.private.Lock()
	defer l.private.Unlock()
	if action == actionRelease {
		holds, err := l.holds(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(holds, func(h Held) bool { return h.Matter == matter }) {
			return fmt.Errorf("%w: nothing is held for the matter %q", ErrInvalid, matter)
		}
	}
	return l.append(ctx, Event{Kind: KindHold, Door: DoorAdmin, Action: action, Resource: matter, Change: &by, Detail: detail})
}

// Holds returns the holds in force, oldest first. It reads the whole log.
func (l *Log) Holds(ctx context.Context) ([]Held, error) {
	if l == nil {
		return nil, ErrNoLog
	}
	l.private.Lock()
	defer l.private.Unlock()
	return l.holds(ctx)
}

func (l *Log) holds(ctx context.Context) ([]Held, error) {
	var said []Record
	var kept unsigned
	for r, err := range l.Query(ctx, Filter{}) {
		if err != nil {
			return nil, err
		}
		if kept.see(&r); r.Event != nil && r.Event.Kind == KindHold {
			said = append(said, r)
		}
	}
	var list []Held
	forged := kept.real()
	for _, r := range said {
		ev := r.Event
		if ev.Action == actionRelease {
			if !forged.has(r.Seq) {
				list = slices.DeleteFunc(list, func(h Held) bool { return h.Matter == ev.Resource })
			}
			continue
		}
		h := Held{Matter: ev.Resource, Seq: r.Seq}
		var err error
		if h.Subject, err = parseSubject(ev.Detail); err != nil {
			return nil, fmt.Errorf("record %d: %w", r.Seq, err)
		}
		if ev.Change != nil {
			h.Change = *ev.Change
		}
		list = append(list, h)
	}
	return list, nil
}
