package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"
)

const (
	// keyLife is how long one data key is used.
	keyLife = 30 * 24 * time.Hour
	// maxCurrent is for how many pairs of agent and user the key in use is
	// remembered. One that was forgotten gets a new key.
	maxCurrent = 1 << 14
)

// A dataKey encrypts the values of one pair of agent and user. Each process makes
// its own, so that it never needs to unwrap one.
type dataKey struct {
	keyLine
	secret []byte
}

type pair struct{ agent, user string }

// keep returns the commitment to a value and, sealed, the line that keeps it. The
// caller calls release, also after an error, once the record is in line.
func (s *valueStore) keep(ctx context.Context, a Actor, value []byte) (c *Commitment, line []byte, release func(), err error) {
	p := pair{onRecord(a.Agent), onRecord(a.User)}
	for {
		k, err := s.key(ctx, p)
		if err != nil {
			return nil, nil, func() {}, err
		}
		s.gate.RLock()
		s.keying.Lock()
		current := s.current[p] == k
		s.keying.Unlock()
		if !current { // it was erased, or is under the KEK of before
			s.gate.RUnlock()
			continue
		}
		c, opening := keepTo(value)
		return c, appendValueLine(nil, valueLine{c.Salt, k.ID, c.seal(k.secret, opening, value)}), s.gate.RUnlock, nil
	}
}

// key returns the data key for new values of a pair. One caller asks the KEK for
// it, the others wait for that one, none of them longer than their context.
func (s *valueStore) key(ctx context.Context, p pair) (*dataKey, error) {
	for {
		now := s.clock().UTC()
		s.keying.Lock()
		if k := s.current[p]; k != nil && now.Sub(k.Made).Abs() < keyLife {
			s.keying.Unlock()
			return k, nil
		}
		made := s.making[p]
		if made == nil {
			s.making[p] = make(chan struct{})
			kek, n := s.kek, s.keks
			s.keying.Unlock()
			if k, err := s.makeKey(ctx, p, kek, n, now); k != nil || err != nil {
				return k, err
			}
			continue
		}
		s.keying.Unlock()
		select {
		case <-made:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
	}
}

// makeKey makes the key that [valueStore.key] has announced. It returns none if
// kek, the n-th, is not that of the store any more.
func (s *valueStore) makeKey(ctx context.Context, p pair, kek KEK, n int, now time.Time) (k *dataKey, err error) {
	defer func() {
		s.keying.Lock()
		defer s.keying.Unlock()
		close(s.making[p])
		delete(s.making, p)
		switch {
		case err != nil || k == nil: // or a panic
		case s.keks != n:
			k = nil
		default:
			s.use(p, k, now)
		}
	}()
	id := make([]byte, 8)
	made := &dataKey{secret: make([]byte, keySize)}
	rand.Read(id)
	rand.Read(made.secret)
	made.keyLine = keyLine{ID: hex.EncodeToString(id), Made: now, Agent: p.agent, User: p.user, KEK: kek.ID()}
	if made.Wrapped, err = wrap(ctx, kek, made.secret, made.bound()); err == nil {
		_, err = made.encode()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: wrapping a data key: %w", ErrKey, err)
	}
	return made, nil
}

func wrap(ctx context.Context, kek KEK, secret, bound []byte) ([]byte, error) {
	wrapped, err := kek.Wrap(ctx, secret, bound)
	if err == nil && len(wrapped) == 0 {
		err = errors.New("it answered nothing")
	}
	return wrapped, err
}

// use makes k the key of a pair, and forgets those whose time is over. The caller
// holds keying.
func (s *valueStore) use(p pair, k *dataKey, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.current) >= maxCurrent || now.Sub(s.swept).Abs() >= time.Hour {
		s.swept = now
		maps.DeleteFunc(s.current, func(_ pair, k *dataKey) bool { return now.Sub(k.Made).Abs() >= keyLife })
		if len(s.current) >= maxCurrent {
			clear(s.current)
		}
		maps.DeleteFunc(s.mine, func(_ string, made time.Time) bool { return now.Sub(made).Abs() >= 2*keyLife })
	}
	s.current[p] = k
	s.pending, s.mine[k.ID] = append(s.pending, k), now
}
