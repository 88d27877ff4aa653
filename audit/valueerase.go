package audit

import (
	"bytes"
	"context"
	"errors"
	"slices"
)

// How data keys and values are taken out of the files that hold them.

// A span is a line in a file.
type span struct {
	off int64
	n   int
}

// blanksAtOnce is how many lines are overwritten while writers wait.
const blanksAtOnce = 256

// blank overwrites lines in a file, durably. A file that is not being written to,
// and of which nothing is left, is emptied.
func (s *valueStore) blank(name string, spans []span, empty bool) error {
	for first := true; first || len(spans) > 0; first = false {
		some := spans[:min(len(spans), blanksAtOnce)]
		spans = spans[len(some):]
		if err := s.blankSome(name, some, empty && len(spans) == 0); err != nil {
			return err
		}
	}
	return nil
}

func (s *valueStore) blankSome(name string, spans []span, empty bool) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	defer func() { s.failed = err }()
	var f StorageFile
	switch name {
	case keysFile:
		f, empty = s.keys.f, false
	case valuesName(s.seg.n):
		f, empty = s.seg.f, false
	default:
		if f, err = s.st.Open(name); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	for _, sp := range spans {
		if err := writeAll(f, bytes.Repeat([]byte{' '}, sp.n), sp.off); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil || !empty {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	return f.Sync()
}

// lines calls f with the lines of a file that are not blank. It reports whether
// the file is complete: nothing will be added to it.
func (s *valueStore) lines(name string, f func(sp span, line []byte) error) (complete bool, err error) {
	r, err := s.st.Read(name)
	if err != nil {
		return false, err
	}
	defer r.Close()
	size, err := r.Size()
	if err != nil {
		return false, err
	}
	// What a writer is at work on is not read: it could be seen half done.
	s.mu.Lock()
	switch name {
	case keysFile:
		size = min(size, s.keys.used)
	case valuesName(s.seg.n):
		size = min(size, s.seg.used)
	default:
		complete = true
	}
	s.mu.Unlock()
	return complete, eachLine(r, size, func(off int64, n int, line []byte) error {
		if line != nil && len(bytes.Trim(line, " ")) == 0 {
			return nil
		}
		return f(span{off, n}, line)
	})
}

// eraseKeys destroys the data keys that gone chooses, and lines that hold none:
// an erasure that a crash cut off may have left them. It returns how many keys it
// destroyed, and those that are left.
func (s *valueStore) eraseKeys(gone func(keyLine) bool) (n int, left map[string]bool, err error) {
	s.keying.Lock()
	for p, k := range s.current {
		if gone(k.keyLine) {
			delete(s.current, p) // new values get a new key
		}
	}
	s.mu.Lock()
	waiting := slices.Clone(s.pending) // more can come only after keying
	s.mu.Unlock()
	for _, k := range waiting {
		if gone(k.keyLine) {
			s.drop(k)
			n++
		}
	}
	s.keying.Unlock()

	var spans []span
	left = map[string]bool{}
	_, err = s.lines(keysFile, func(sp span, line []byte) error {
		k, err := parseKeyLine(line)
		switch {
		case err != nil:
			spans = append(spans, sp)
		case gone(k):
			spans = append(spans, sp)
			s.forget(k.ID)
			n++
		default:
			left[k.ID] = true
		}
		return nil
	})
	if err == nil && len(spans) > 0 {
		err = s.blank(keysFile, spans, false)
	}
	return n, left, err
}

// drop keeps a key out of the file, if it is not there yet.
func (s *valueStore) drop(k *dataKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mine, k.ID)
	s.pending = slices.DeleteFunc(s.pending, func(p *dataKey) bool { return p == k })
}

func (s *valueStore) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mine, id)
}

// isMine reports whether this process made a key and values under it may be on
// their way.
func (s *valueStore) isMine(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	made, ok := s.mine[id]
	return ok && s.clock().Sub(made).Abs() < 2*keyLife
}

// unused reports whether a key goes when no value is left under it.
func (s *valueStore) unused(id string) bool { return !s.isMine(id) }

// eraseValues removes the values that gone chooses, and lines that are none. It
// returns how many values it removed, and the keys of those that are left.
func (s *valueStore) eraseValues(ctx context.Context, gone func(valueLine) bool) (n int, keys map[string]bool, err error) {
	names, err := s.st.List()
	if err != nil {
		return 0, nil, err
	}
	keys = map[string]bool{}
	for _, name := range names {
		if valuesNumber(name) == 0 {
			continue
		}
		var spans []span
		left := 0
		complete, err := s.lines(name, func(sp span, line []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			v, err := parseValueLine(line)
			switch {
			case err != nil:
				spans = append(spans, sp)
			case gone(v):
				spans = append(spans, sp)
				n++
			default:
				keys[v.Key] = true
				left++
			}
			return nil
		})
		if err == nil && len(spans) > 0 {
			err = s.blank(name, spans, complete && left == 0)
		}
		if err != nil {
			return n, keys, err
		}
	}
	return n, keys, nil
}
