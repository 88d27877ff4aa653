package credential

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

// NewMemory returns a vault in memory for tests and examples: a [Broker] over
// [NewMemoryStore], which keeps no record of what people do to it. Nothing has
// to be closed. A host that records uses [NewBroker].
func NewMemory(secrets map[string]Secret) *Broker {
	b := newBroker(NewMemoryStore(secrets), nil, nil)
	// Secrets that cannot be scrubbed cannot be leased either: NewLease refuses
	// them with an error that names them.
	for name, s := range secrets {
		_ = b.scrubber.AddVersion(Ref{name, 1}, s)
	}
	return b
}

// A MemoryStore is a [WritableStore] and [Watcher] in memory.
type MemoryStore struct {
	mu       sync.Mutex
	names    map[string][]memoryVersion // ordered by version
	watchers map[*memoryWatch]struct{}
}

type memoryVersion struct {
	Version
	secret Secret
}

// keepDead is how many revoked and destroyed versions of a name are kept.
const keepDead = 16

// NewMemoryStore returns a store that holds the given secrets, each as version
// 1, current. It keeps copies.
func NewMemoryStore(secrets map[string]Secret) *MemoryStore {
	m := &MemoryStore{
		names:    make(map[string][]memoryVersion, len(secrets)),
		watchers: make(map[*memoryWatch]struct{}),
	}
	now := time.Now()
	for name, s := range secrets {
		v := Version{Ref: Ref{name, 1}, State: StateCurrent, Created: now, Changed: now}
		m.names[name] = []memoryVersion{{v, s.Clone()}}
	}
	return m
}

// Get implements [Store].
func (m *MemoryStore) Get(ctx context.Context, ref Ref) (Version, Secret, error) {
	if err := ctx.Err(); err != nil {
		return Version{}, Secret{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.find(ref)
	switch {
	case v == nil && ref.Version == 0 && len(m.names[ref.Name]) > 0:
		return Version{}, Secret{}, fmt.Errorf("%w: %q", ErrNoCurrent, ref.Name)
	case v == nil:
		return Version{}, Secret{}, fmt.Errorf("%w: %s", ErrUnknown, ref)
	case v.State == StateDestroyed:
		return v.Version, Secret{}, fmt.Errorf("%w: %s", ErrDestroyed, v.Ref)
	}
	return v.Version, v.secret.Clone(), nil
}

// find returns one version, or the current one for version 0. The lock is held.
func (m *MemoryStore) find(ref Ref) *memoryVersion {
	versions := m.names[ref.Name]
	for i := range versions {
		if v := &versions[i]; v.Ref == ref || ref.Version == 0 && v.State == StateCurrent {
			return v
		}
	}
	return nil
}

// List implements [Store].
func (m *MemoryStore) List(ctx context.Context, name string) ([]Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	names := []string{name}
	if name == "" {
		names = slices.Sorted(maps.Keys(m.names))
	}
	var list []Version
	for _, name := range names {
		for _, v := range m.names[name] {
			list = append(list, v.Version)
		}
	}
	return list, nil
}

// Put implements [WritableStore].
func (m *MemoryStore) Put(ctx context.Context, name string, s Secret, after uint64, note string) (Ref, error) {
	if err := cmp.Or(ctx.Err(), CheckName(name)); err != nil {
		return Ref{}, err
	}
	if err := s.Use(func([]byte) error { return nil }); err != nil {
		return Ref{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := m.names[name]
	var newest uint64
	if n := len(versions); n > 0 {
		newest = versions[n-1].Ref.Version
	}
	if newest != after {
		return Ref{}, fmt.Errorf("%w: the newest version of %q is %d", ErrConflict, name, newest)
	}
	now := time.Now()
	v := Version{Ref: Ref{name, newest + 1}, State: StatePending, Created: now, Changed: now, Note: note}
	m.names[name] = forget(append(versions, memoryVersion{v, s.Clone()}))
	m.tell(v.Ref)
	return v.Ref, nil
}

// forget drops the oldest dead versions beyond keepDead.
func forget(versions []memoryVersion) []memoryVersion {
	dead := 0
	for i := len(versions) - 1; i >= 0; i-- {
		if v := versions[i]; v.State == StateRevoked || v.State == StateDestroyed {
			if dead++; dead > keepDead {
				v.secret.Destroy()
				versions = slices.Delete(versions, i, i+1)
			}
		}
	}
	return versions
}

// SetState implements [WritableStore].
func (m *MemoryStore) SetState(ctx context.Context, ref Ref, from, to State) error {
	if err := cmp.Or(ctx.Err(), CheckMove(from, to)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.find(ref)
	if v == nil || ref.Version == 0 {
		return fmt.Errorf("%w: %s", ErrUnknown, ref)
	}
	if v.State != from {
		return fmt.Errorf("%w: %s is %s", ErrConflict, ref, v.State)
	}
	now := time.Now()
	if to == StateCurrent {
		versions := m.names[ref.Name]
		for i := range versions {
			switch other := &versions[i]; {
			case other == v:
			case other.State == StatePrevious:
				other.State, other.Changed = StateRevoked, now
				m.tell(other.Ref)
			case other.State == StateCurrent:
				other.State, other.Changed = StatePrevious, now
				m.tell(other.Ref)
			}
		}
	}
	v.State, v.Changed = to, now
	if to == StateDestroyed {
		v.secret.Destroy()
	}
	m.tell(ref)
	return nil
}

// A memoryWatch is what one watcher has not been told yet.
type memoryWatch struct {
	wake    chan struct{}    // holds one token if there is news
	changed map[Ref]struct{} // under the store's lock
}

// tell notes a change for all watchers. The lock is held.
func (m *MemoryStore) tell(ref Ref) {
	for w := range m.watchers {
		w.changed[ref] = struct{}{}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Watch implements [Watcher].
func (m *MemoryStore) Watch(ctx context.Context) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		w := &memoryWatch{make(chan struct{}, 1), make(map[Ref]struct{})}
		m.mu.Lock()
		m.watchers[w] = struct{}{}
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.watchers, w)
		}()
		if !yield(Ref{}, nil) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			m.mu.Lock()
			changed := w.changed
			w.changed = make(map[Ref]struct{})
			m.mu.Unlock()
			for ref := range changed {
				if !yield(ref, nil) {
					return
				}
			}
		}
	}
}
