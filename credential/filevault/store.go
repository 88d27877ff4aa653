package filevault

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

func (b *body) clone() body {
	c := body{Secrets: slices.Clone(b.Secrets)}
	for i := range c.Secrets {
		c.Secrets[i].Versions = slices.Clone(c.Secrets[i].Versions)
	}
	return c
}

// find returns the index of a name, or of where it belongs.
func (b *body) find(name string) (int, bool) {
	return slices.BinarySearchFunc(b.Secrets, name, func(s secret, name string) int { return cmp.Compare(s.Name, name) })
}

// version returns one version, or the current one for number 0, or nil.
func (s *secret) version(number uint64) *version {
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Number == number || number == 0 && v.State == credential.StateCurrent {
			return v
		}
	}
	return nil
}

func (v *version) describe(name string) credential.Version {
	return credential.Version{
		Ref: credential.Ref{Name: name, Version: v.Number}, State: v.State,
		Created: v.Created, Changed: v.Changed, Note: v.Note,
	}
}

// Get implements [credential.Store].
func (s *Store) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	no := func(err error) (credential.Version, credential.Secret, error) {
		return credential.Version{}, credential.Secret{}, err
	}
	if err := ctx.Err(); err != nil {
		return no(err)
	}
	g, err := s.current(ctx)
	if err != nil {
		return no(err)
	}
	i, ok := g.body.find(ref.Name)
	if !ok {
		return no(fmt.Errorf("%w: %q", credential.ErrUnknown, ref.Name))
	}
	v := g.body.Secrets[i].version(ref.Version)
	switch {
	case v == nil && ref.Version == 0:
		return no(fmt.Errorf("%w: %q", credential.ErrNoCurrent, ref.Name))
	case v == nil:
		return no(fmt.Errorf("%w: %s", credential.ErrUnknown, ref))
	case v.State == credential.StateDestroyed:
		return v.describe(ref.Name), credential.Secret{}, fmt.Errorf("%w: %s", credential.ErrDestroyed, ref)
	}
	value, err := s.keys.open(ref.Name, v)
	if err != nil {
		return no(err)
	}
	return v.describe(ref.Name), credential.NewSecret(value), nil
}

// List implements [credential.Store].
func (s *Store) List(ctx context.Context, name string) ([]credential.Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	var list []credential.Version
	for _, sec := range g.body.Secrets {
		if name == "" || name == sec.Name {
			for _, v := range sec.Versions {
				list = append(list, v.describe(sec.Name))
			}
		}
	}
	return list, nil
}

// Put implements [credential.WritableStore].
func (s *Store) Put(ctx context.Context, name string, value credential.Secret, after uint64, note string) (credential.Ref, error) {
	if err := credential.CheckName(name); err != nil {
		return credential.Ref{}, err
	}
	if len(note) > maxNote {
		return credential.Ref{}, fmt.Errorf("%w: a note of %d bytes", ErrTooLarge, len(note))
	}
	ref := credential.Ref{Name: name}
	err := s.save(ctx, func(b *body, generation uint64) error {
		i, ok := b.find(name)
		var newest uint64
		if ok {
			versions := b.Secrets[i].Versions
			newest = versions[len(versions)-1].Number
		}
		if newest != after {
			return fmt.Errorf("%w: the newest version of %q is %d", credential.ErrConflict, name, newest)
		}
		if !ok {
			b.Secrets = slices.Insert(b.Secrets, i, secret{Name: name})
		}
		ref.Version = newest + 1
		now := s.now().UTC()
		v := version{Number: ref.Version, State: credential.StatePending, Created: now, Changed: now, Note: note}
		err := value.Use(func(bytes []byte) error {
			if len(bytes) > credential.MaxLength {
				return credential.ErrLength
			}
			return s.keys.seal(name, &v, generation, bytes)
		})
		if err != nil {
			return err
		}
		sec := &b.Secrets[i]
		sec.Versions = forget(append(sec.Versions, v))
		if len(sec.Versions) > maxVersions {
			return fmt.Errorf("%w: %q", ErrNoRoom, name)
		}
		return nil
	})
	if err != nil {
		return credential.Ref{}, err
	}
	return ref, nil
}

// forget drops the oldest dead versions beyond keepDead.
func forget(versions []version) []version {
	dead := 0
	for i := len(versions) - 1; i >= 0; i-- {
		if state := versions[i].State; state == credential.StateRevoked || state == credential.StateDestroyed {
			if dead++; dead > keepDead {
				versions = slices.Delete(versions, i, i+1)
			}
		}
	}
	return versions
}

// SetState implements [credential.WritableStore]. What is destroyed is gone from
// the file; the generation before still has it until the next change.
func (s *Store) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	if err := cmp.Or(ctx.Err(), credential.CheckMove(from, to)); err != nil {
		return err
	}
	return s.save(ctx, func(b *body, generation uint64) error {
		i, ok := b.find(ref.Name)
		if !ok || ref.Version == 0 {
			return fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
		}
		sec := &b.Secrets[i]
		v := sec.version(ref.Version)
		if v == nil {
			return fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
		}
		if v.State != from {
			return fmt.Errorf("%w: %s is %s", credential.ErrConflict, ref, v.State)
		}
		if to == credential.StateCurrent {
			for j := range sec.Versions {
				var err error
				switch other := &sec.Versions[j]; {
				case other == v:
				case other.State == credential.StatePrevious:
					err = s.move(ref.Name, other, credential.StateRevoked, generation)
				case other.State == credential.StateCurrent:
					err = s.move(ref.Name, other, credential.StatePrevious, generation)
				}
				if err != nil {
					return err
				}
			}
		}
		return s.move(ref.Name, v, to, generation)
	})
}

// move changes the state that a value is bound to.
func (s *Store) move(name string, v *version, to credential.State, generation uint64) error {
	v.Changed = s.now().UTC()
	if v.Changed.Before(v.Created) { // the clock was set back
		v.Changed = v.Created
	}
	if to == credential.StateDestroyed {
		v.State, v.Sealed, v.Key, v.Value = to, 0, nil, nil
		return nil
	}
	value, err := s.keys.open(name, v)
	if err != nil {
		return err
	}
	defer clear(value)
	v.State = to
	return s.keys.seal(name, v, generation, value)
}

// Binding implements [credential.BindingStore].
func (s *Store) Binding(ctx context.Context, name string) (credential.BindingSpec, bool, error) {
	if err := ctx.Err(); err != nil {
		return credential.BindingSpec{}, false, err
	}
	g, err := s.current(ctx)
	if err != nil {
		return credential.BindingSpec{}, false, err
	}
	i, ok := g.body.find(name)
	if !ok || g.body.Secrets[i].Binding == nil {
		return credential.BindingSpec{}, false, nil
	}
	return *g.body.Secrets[i].Binding, true, nil
}

// SetBinding implements [credential.BindingStore].
func (s *Store) SetBinding(ctx context.Context, name string, to credential.BindingSpec) error {
	if err := to.Validate(); err != nil {
		return err
	}
	return s.save(ctx, func(b *body, _ uint64) error {
		i, ok := b.find(name)
		if !ok {
			return fmt.Errorf("%w: %q", credential.ErrUnknown, name)
		}
		b.Secrets[i].Binding = &to
		return nil
	})
}

// Watch implements [credential.Watcher], by looking at the file now and then.
func (s *Store) Watch(ctx context.Context) iter.Seq2[credential.Ref, error] {
	return func(yield func(credential.Ref, error) bool) {
		var last *generation
		failing := false
		tick := time.NewTicker(s.poll)
		defer tick.Stop()
		for ctx.Err() == nil {
			g, err := s.current(ctx)
			switch {
			case err != nil:
				if !failing && !yield(credential.Ref{}, err) {
					return
				}
				failing = true
			case last == nil || failing:
				if !yield(credential.Ref{}, nil) {
					return
				}
				failing, last = false, g
			case g != last:
				for _, ref := range g.body.changes(&last.body) {
					if !yield(ref, nil) {
						return
					}
				}
				last = g
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}
}

// changes returns what is new in b, or in another state than in old, or gone. A
// change of a binding is one of the newest version.
func (b *body) changes(old *body) (refs []credential.Ref) {
	type seen struct {
		state   credential.State
		binding string
	}
	all := func(b *body) map[credential.Ref]seen {
		states := make(map[credential.Ref]seen)
		for _, s := range b.Secrets {
			for i, v := range s.Versions {
				now := seen{state: v.State}
				if i == len(s.Versions)-1 && s.Binding != nil {
					now.binding = fmt.Sprintf("%+v", *s.Binding)
				}
				states[credential.Ref{Name: s.Name, Version: v.Number}] = now
			}
		}
		return states
	}
	before, now := all(old), all(b)
	for ref, is := range now {
		if before[ref] != is {
			refs = append(refs, ref)
		}
	}
	for ref := range before {
		if _, ok := now[ref]; !ok {
			refs = append(refs, ref)
		}
	}
	return refs
}
