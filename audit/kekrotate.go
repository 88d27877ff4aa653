package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
)

// ActionRotateKEK is the action of a [KindKEK] event.
const ActionRotateKEK = "rotate_kek"

// KEKs returns a KEK that wraps with newest and also unwraps what an older one
// wrapped. A host whose KEKs are kept elsewhere opens a log with it after a
// rotation that did not get to its end.
func KEKs(newest KEK, older ...KEK) KEK { return kekRing{newest, older} }

type kekRing struct {
	KEK
	older []KEK
}

// each yields the KEKs that k is made of, newest first.
func each(k KEK) iter.Seq[KEK] {
	return func(yield func(KEK) bool) {
		r, ok := k.(kekRing)
		if !ok {
			if k != nil {
				yield(k)
			}
			return
		}
		for _, part := range append([]KEK{r.KEK}, r.older...) {
			for one := range each(part) {
				if !yield(one) {
					return
				}
			}
		}
	}
}

// kekNamed returns the one of k with an id, or nil.
func kekNamed(k KEK, id string) KEK {
	for one := range each(k) {
		if one.ID() == id {
			return one
		}
	}
	return nil
}

// RotateKEK makes next the log's [KEK] and wraps every data key anew with it, so
// that the one of before can be destroyed. It returns how many keys it wrapped.
//
// The KEK of before must be able to unwrap. A nil next is allowed with a KEKFile,
// which then gets a new key and in the end holds no other; otherwise the host
// keeps next durably before, and opens the log with it from now on: while this
// has not returned nil, with [KEKs] of both. Values can be read all the time, by
// who has both.
//
// Two events of [KindKEK] say who and why, before and after. After a crash or an
// error, do it again with the same next (or nil). Backups of the data keys are under
// the KEK of before: destroy both together. The values stay as they are.
func (l *Log) RotateKEK(ctx context.Context, next KEK, by Change) (int, error) {
	if l == nil {
		return 0, ErrNoLog
	}
	if err := by.Validate(); err != nil {
		return 0, err
	}
	if l.values == nil {
		return 0, ErrNoValues
	}
	l.private.Lock()
	defer l.private.Unlock()
	s := l.values
	s.keying.Lock()
	old := s.kek
	s.keying.Unlock()
	next, err := s.prepareKEK(next, old)
	if err != nil {
		return 0, err
	}
	ring := KEKs(next, old)
	if err := s.canRewrap(next, ring); err != nil {
		return 0, err
	}
	detail := map[string]string{"new": next.ID()}
	say := func(more map[string]string) error {
		d := maps.Clone(detail)
		maps.Copy(d, more)
		return l.append(ctx, Event{Kind: KindKEK, Door: DoorAdmin, Action: ActionRotateKEK, Resource: "values", Change: &by, Detail: d})
	}
	if err := say(map[string]string{"state": "begun"}); err != nil {
		return 0, err
	}
	s.changeKEK(ring)
	n, err := s.rewrap(ctx, next, ring)
	if err != nil {
		return n, fmt.Errorf("audit: wrapping data keys anew: it is not done, do it again: %w", err)
	}
	s.changeKEK(next)
	if k, ok := next.(localKEK); ok && s.kekFile != "" {
		if err := saveKEKs(s.kekFile, k); err != nil {
			return n, fmt.Errorf("%w: the old key-encryption key is still in %s: %w", ErrKey, s.kekFile, err)
		}
	}
	return n, say(map[string]string{"state": "done", "keys": strconv.Itoa(n)})
}

// prepareKEK returns the KEK to rotate to. In a KEKFile it is put before that of
// now; if none is given it is made, unless a rotation that was cut off has done so.
func (s *valueStore) prepareKEK(next, now KEK) (KEK, error) {
	ring, ringed := now.(kekRing)
	switch {
	case next != nil:
	case s.kekFile == "":
		return nil, fmt.Errorf("%w: no key-encryption key to rotate to", ErrKey)
	case ringed:
		return ring.KEK, nil
	default:
		next = NewKEK()
	}
	local, ok := next.(localKEK)
	if !ok || s.kekFile == "" {
		return next, nil
	}
	keks := []localKEK{local}
	for k := range each(now) {
		if k, ok := k.(localKEK); ok && !slices.ContainsFunc(keks, func(have localKEK) bool { return have.id == k.id }) {
			keks = append(keks, k)
		}
	}
	if len(keks) > maxKEKs {
		return nil, fmt.Errorf("%w: %s would hold %d keys: end the rotation that was begun first, without a new key", ErrKey, s.kekFile, len(keks))
	}
	if err := saveKEKs(s.kekFile, keks...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return next, nil
}

// changeKEK has new data keys wrapped with kek, those that are in use too.
func (s *valueStore) changeKEK(kek KEK) {
	s.keying.Lock()
	defer s.keying.Unlock()
	s.kek = kek
	s.keks++
	clear(s.current)
}

// canRewrap finds out before anything is changed whether all can be.
func (s *valueStore) canRewrap(next KEK, ring KEK) error {
	if next.ID() == "" {
		return fmt.Errorf("%w: a key-encryption key without an id", ErrKey)
	}
	_, err := s.lines(keysFile, func(_ span, line []byte) error {
		if k, err := parseKeyLine(line); err == nil && kekNamed(ring, k.KEK) == nil {
			return fmt.Errorf("%w: a data key is under the key-encryption key %q, which was not given: open the log with audit.KEKs", ErrKey, k.KEK)
		}
		return nil
	})
	return err
}

// rewrap replaces the lines of data keys that are not under next: new lines go
// behind all others, durably, before the old ones are overwritten. So each key can
// be read at any time, and of two lines of one key the later counts.
func (s *valueStore) rewrap(ctx context.Context, next KEK, ring KEK) (int, error) {
	if err := s.writeKeys(); err != nil { // of before
		return 0, err
	}
	var old []keyLine
	var spans []span
	done := map[string]bool{}
	_, err := s.lines(keysFile, func(sp span, line []byte) error {
		k, err := parseKeyLine(line)
		switch {
		case err != nil: // an erasure takes it
		case k.KEK == next.ID():
			done[k.ID] = true
		default:
			old, spans = append(old, k), append(spans, sp)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var fresh []byte
	n := 0
	for _, k := range slices.DeleteFunc(old, func(k keyLine) bool { return done[k.ID] }) {
		line, err := k.rewrapped(ctx, next, ring)
		if err != nil {
			return 0, fmt.Errorf("the data key %s: %w", k.ID, err)
		}
		fresh = append(fresh, line...)
		n++
	}
	if err := s.addKeys(fresh); err != nil {
		return 0, err
	}
	return n, s.blank(keysFile, spans, false)
}

func (k keyLine) rewrapped(ctx context.Context, next KEK, ring KEK) ([]byte, error) {
	secret, err := kekNamed(ring, k.KEK).Unwrap(ctx, k.Wrapped, k.bound())
	if err == nil && len(secret) != keySize {
		err = errors.New("it is not a key")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: unwrapping: %w", ErrKey, err)
	}
	defer clear(secret)
	k.KEK = next.ID()
	if k.Wrapped, err = wrap(ctx, next, secret, k.bound()); err != nil {
		return nil, fmt.Errorf("%w: wrapping: %w", ErrKey, err)
	}
	return k.encode()
}

// writeKeys makes the keys durable that are not yet.
func (s *valueStore) writeKeys() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	defer func() { s.failed = err }()
	return s.flushKeys()
}

// addKeys appends lines to the file of keys, durably.
func (s *valueStore) addKeys(lines []byte) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil || len(lines) == 0 {
		return s.failed
	}
	defer func() { s.failed = err }()
	if err := s.keys.write(lines, 0, 0); err != nil {
		return err
	}
	return s.keys.f.Sync()
}
