package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Rotate makes key the log's key. The record of it (a [KindKey] event) and the
// checkpoint that covers it are signed with the key before; every checkpoint
// after it with the new one. Who pinned an earlier key still verifies the log:
// the log itself says, under the key that they trust, which one came next.
//
// The new key must have the log's origin ([NewKey]) and be stored durably
// before, except that a log with a key file writes it there itself. Old keys stay
// in that file, or go to [Options.OldKeys]: they open commitments of their time.
// Whoever stole an old key can still forge a log that ends before the rotation,
// or forks there, which only an [Anchor] reveals: publish a checkpoint
// ([Log.Checkpoint]) right after.
func (l *Log) Rotate(ctx context.Context, key *Key, by Change) error {
	if l == nil {
		return ErrNoLog
	}
	if err := errors.Join(ctx.Err(), by.Validate()); err != nil {
		return err
	}
	l.rotating.Lock()
	defer l.rotating.Unlock()
	old := l.key.Load()
	switch {
	case key == nil:
		return fmt.Errorf("%w: no key to rotate to", ErrKey)
	case key.Origin() != old.Origin():
		return fmt.Errorf("%w: it is a key for %q, the log is %q", ErrKey, key.Origin(), old.Origin())
	case key.VerifierKey() == old.VerifierKey():
		return fmt.Errorf("%w: it is the log's key already", ErrKey)
	}
	ring := append([]*Key{key}, l.ring...)
	if l.keyFile != "" {
		if err := saveKeys(l.keyFile, ring); err != nil {
			return err
		}
	}
	l.ring = ring
	enc, err := body{Event: &Event{
		Kind: KindKey, Door: DoorAdmin, Action: "rotate_log_key", Resource: "log", Change: &by,
		Detail: map[string]string{"old": old.VerifierKey(), "new": key.VerifierKey()},
	}}.encode()
	if err != nil {
		return err
	}
	b, _, _, err := l.add(ctx, entry{enc: enc, rotate: key})
	if err != nil {
		return err
	}
	return l.wait(context.WithoutCancel(ctx), b) // it is in line: it will happen
}

const (
	timeWord     = `,"time":"`
	rotationWord = `",` + `"event":{"kind":"` + string(KindKey) + `",`
)

// isRotation reports whether a record is the event of a rotation, without
// decoding it: only the log writes such, and in one way.
func isRotation(line []byte) bool {
	at := bytes.IndexByte(line, ',') + len(timeWord) + len(timeFormat)
	return at < len(line) && bytes.HasPrefix(line[at:], []byte(rotationWord))
}

// takeRotation reads which key comes after the next checkpoint.
func (lr *lineReader) takeRotation(line []byte) error {
	r, err := parseRecord(line)
	if err != nil {
		return err
	}
	if r.Event == nil || r.Event.Kind != KindKey { // JSON can take back what it began with
		return errors.New("it begins as a rotation and is none")
	}
	before := lr.key
	if lr.nextKey != "" {
		before = lr.nextKey
	}
	next := r.Event.Detail["new"]
	if r.Event.Detail["old"] != before {
		return errors.New("a rotation from a key that was not in force")
	}
	if err := checkVerifierKey(next); err != nil {
		return fmt.Errorf("a rotation to what is no key: %w", err)
	}
	lr.nextKey = next
	return nil
}

// takeKeys checks that a key of the log signed its last checkpoint, which vouches
// for all before it; [Verify] also checks each earlier one. It returns the key for
// the next checkpoint, and the one after it if the key is being rotated.
func (l *Log) takeKeys(lr *lineReader) (key, next *Key, err error) {
	if lr.last.Origin != l.ring[0].Origin() {
		return nil, nil, fmt.Errorf("%w: it is the key of %q, the log is %q", ErrKey, l.ring[0].Origin(), lr.last.Origin)
	}
	if err := l.keySet().verify(lr.last); err != nil {
		return nil, nil, tamperedf("the checkpoint after record %d: %w", lr.last.Size, err)
	}
	v, err := lr.verifier(lr.lastKey)
	if err == nil {
		err = lr.last.verify(v)
	}
	if err != nil {
		return nil, nil, tamperedf("the checkpoint after record %d: %w", lr.last.Size, err)
	}
	at := len(l.ring)
	find := func(vkey string) (*Key, error) {
		for i, k := range l.ring[:at] {
			if k.VerifierKey() == vkey {
				at = i // nothing signed vouches for nextKey: only a newer one comes after
				return k, nil
			}
		}
		return nil, fmt.Errorf("%w: the log was rotated to the key %s, which was not given", ErrKey, vkey)
	}
	if key, err = find(lr.key); err != nil || lr.nextKey == "" {
		return key, nil, err
	}
	next, err = find(lr.nextKey)
	return key, next, err
}

// keySet are the verifiers of all keys that the log has had, as far as known.
func (l *Log) keySet() keySet {
	set := keySet{}
	for _, k := range l.ring {
		set[k.VerifierKey()] = k.verifier
	}
	return set
}
