package audit

import (
	"context"
	"fmt"
	"maps"
	"strconv"
)

// Actions of a [KindErasure] event.
const (
	ActionErase = "erase_values"
	ActionPrune = "prune_values"
)

// Erased counts what an erasure destroyed.
type Erased struct {
	// Values are the arguments of single records.
	Values int `json:"values"`
	// Keys are those that values were encrypted with.
	Keys int `json:"keys"`
	// Held are values that stayed because of a legal hold, where that does not
	// forbid the whole.
	Held int `json:"held"`
}

// Erase makes the values of a subject unreadable, and leaves every record,
// checkpoint and proof as it is. The data keys of the subject are destroyed first,
// durably, so that no copy of the values can be read any more by whoever has not
// copied the data keys too; then the values are overwritten. What is left says
// that there were arguments and how long they were, and nobody can test a guess.
//
// The values of single records ([Subject.Records]) are overwritten with their
// openings, but a data key may belong to others as well and stays: an older copy
// of the values can then still be read.
//
// Two events of [KindErasure] say who and why, before and after. Records that are
// on their way while Erase runs are erased with the others if their subject is.
// A legal hold on any value that would be erased forbids all ([ErrHeld]). After a
// crash, do it again: it is done to the end, and then to nothing. It reads all
// values, and the log where holds or numbers of records have to be looked up.
//
// Erase is about values. The names of agent and user stay in records: use
// pseudonyms where these must go too. So does what [LevelCommitted] left, which
// holds no arguments, but a holder of the log's key who guesses them can tell that
// the guess is right.
func (l *Log) Erase(ctx context.Context, s Subject, by Change) (Erased, error) {
	if l == nil {
		return Erased{}, ErrNoLog
	}
	if s.IsZero() {
		return Erased{}, fmt.Errorf("%w: nobody is named whose values are to be erased", ErrInvalid)
	}
	s = s.onRecord()
	detail, err := s.detail()
	if err != nil {
		return Erased{}, err
	}
	return l.destroy(ctx, ActionErase, detail, by, func(holds []Held) (destruction, error) {
		var d destruction
		if len(s.Records) == 0 {
			for _, h := range holds {
				if hit, err := l.meets(ctx, s, h); err != nil || hit {
					return d, heldBy(err, h)
				}
			}
			d.key = func(k keyLine) bool { return s.fits(k.Agent, k.User) }
			return d, nil
		}
		d.salts = map[[saltSize]byte]bool{}
		listed := map[uint64]bool{}
		for _, n := range s.Records {
			listed[n] = true
		}
		acts := acts{}
		for r, err := range l.Query(ctx, Filter{}) {
			if err != nil {
				return d, err
			}
			r = acts.of(r)
			if !listed[r.Seq] && !listed[r.Call] || !r.Commitment().kept() || !s.fits(r.Actor().Agent, r.Actor().User) {
				continue
			}
			for _, h := range holds {
				if h.Subject.mayCover(r) {
					return d, heldBy(nil, h)
				}
			}
			d.salts[[saltSize]byte(r.Commitment().Salt)] = true
		}
		return d, nil
	})
}

// kept reports whether there was a value; salts of other lengths are no log's.
func (c *Commitment) kept() bool { return c != nil && c.Kept && len(c.Salt) == saltSize }

func heldBy(err error, h Held) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %q", ErrHeld, h.Matter)
}

// meets reports whether a hold is on anything of a subject without numbers.
func (l *Log) meets(ctx context.Context, s Subject, h Held) (bool, error) {
	if len(h.Subject.Records) == 0 {
		return (s.Agent == "" || h.Subject.Agent == "" || s.Agent == h.Subject.Agent) &&
			(s.User == "" || h.Subject.User == "" || s.User == h.Subject.User), nil
	}
	acts := acts{}
	for r, err := range l.Query(ctx, Filter{}) {
		if err != nil {
			return false, err
		}
		if r = acts.of(r); r.Commitment().kept() && h.Subject.mayCover(r) && s.mayCover(r) {
			return true, nil
		}
	}
	return false, nil
}

// A destruction is what is to be destroyed.
type destruction struct {
	key    func(keyLine) bool // data keys, with the values under them
	salts  map[[saltSize]byte]bool
	held   int
	unused func(id string) bool // keys that go if no value is left under them
}

// destroy does one between the two records of it. The plan is made when nobody
// can change the holds.
func (l *Log) destroy(ctx context.Context, action string, detail map[string]string, by Change, plan func([]Held) (destruction, error)) (Erased, error) {
	if err := by.Validate(); err != nil {
		return Erased{}, err
	}
	if l.values == nil {
		return Erased{}, ErrNoValues
	}
	l.private.Lock()
	defer l.private.Unlock()
	holds, err := l.holds(ctx)
	if err != nil {
		return Erased{}, err
	}
	d, err := plan(holds)
	if err != nil {
		return Erased{}, err
	}
	e := Erased{Held: d.held}
	ev := Event{Kind: KindErasure, Door: DoorAdmin, Action: action, Resource: "values", Change: &by}
	say := func(more map[string]string) error {
		ev.Detail = maps.Clone(detail)
		maps.Copy(ev.Detail, more)
		return l.append(ctx, ev)
	}
	if err := say(map[string]string{"state": "begun"}); err != nil {
		return Erased{}, err
	}
	if err := l.values.destroy(ctx, d, &e); err != nil {
		return e, fmt.Errorf("audit: erasing values: it is not done, do it again: %w", err)
	}
	return e, say(map[string]string{"state": "done", "values": strconv.Itoa(e.Values), "keys": strconv.Itoa(e.Keys)})
}

func (s *valueStore) destroy(ctx context.Context, d destruction, e *Erased) error {
	if d.key == nil {
		d.key = func(keyLine) bool { return false }
	}
	s.gate.Lock() // what was sealed with a key that goes is in line before the record of the end
	n, left, err := s.eraseKeys(d.key)
	s.gate.Unlock()
	e.Keys += n
	if err != nil {
		return err
	}
	n, used, err := s.eraseValues(ctx, func(v valueLine) bool {
		return d.salts[[saltSize]byte(v.Salt)] || !left[v.Key] && !s.isMine(v.Key)
	})
	e.Values += n
	if err != nil || d.unused == nil {
		return err
	}
	n, _, err = s.eraseKeys(func(k keyLine) bool { return !used[k.ID] && d.unused(k.ID) })
	e.Keys += n
	return err
}
