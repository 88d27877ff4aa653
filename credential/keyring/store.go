package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// A Store is a [credential.WritableStore] in the user's keyring. It is safe for
// concurrent use, also by several processes of the user. A call that is given
// up because its context is done keeps a goroutine, and the calls behind it
// waiting, until the keyring answers.
type Store struct {
	box  box
	opts Options
	turn chan struct{}
}

// New returns the store of a service. It does not talk to the keyring yet.
func New(opts *Options) (*Store, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Store{box{o.Service, o.ring}, o, make(chan struct{}, 1)}, nil
}

// keepDead is how many revoked and destroyed versions of a name are kept.
const keepDead = 4

// The items of a service: itemNames, and for each name one of states and, for
// each version, one of a value (or more, if it is long).
const itemNames = "names"

func itemStates(name string) string          { return "states/" + name }
func itemValue(name string, n uint64) string { return fmt.Sprintf("value/%s@%d", name, n) }
func (v version) item(name string) string    { return itemValue(name, v.Number) }
func (v version) dead() bool {
	return v.State == credential.StateRevoked || v.State == credential.StateDestroyed
}
func (v version) ref(name string) credential.Ref {
	return credential.Ref{Name: name, Version: v.Number}
}

// A version is one element of an item of states, which is a JSON array of them
// in the order of their numbers.
type version struct {
	Number  uint64           `json:"n"`
	State   credential.State `json:"s"`
	Created int64            `json:"c"` // milliseconds since 1970
	Changed int64            `json:"t,omitempty"`
	Note    string           `json:"note,omitempty"`
	Parts   int              `json:"p"` // items of the value
}

func (v version) public(name string) credential.Version {
	out := credential.Version{
		Ref: v.ref(name), State: v.State, Note: v.Note,
		Created: time.UnixMilli(v.Created).UTC(), Changed: time.UnixMilli(v.Created).UTC(),
	}
	if v.Changed != 0 {
		out.Changed = time.UnixMilli(v.Changed).UTC()
	}
	return out
}

// Get implements [credential.Store].
func (s *Store) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	type found struct {
		version credential.Version
		secret  credential.Secret
	}
	got, err := within(ctx, s.turn, func() (found, error) {
		// A version may be destroyed between the reading of its state and of its
		// value, by another process: then the second look says so.
		for try := 0; ; try++ {
			f, err := s.get(ref)
			if !errors.Is(err, errAbsent) {
				return found(f), err
			}
			if try == 1 {
				return found{version: f.version}, fmt.Errorf("%w: %s", credential.ErrDestroyed, f.version.Ref)
			}
		}
	})
	return got.version, got.secret, err
}

type got struct {
	version credential.Version
	secret  credential.Secret
}

func (s *Store) get(ref credential.Ref) (got, error) {
	versions, err := s.states(ref.Name)
	if err != nil {
		return got{}, err
	}
	i := slices.IndexFunc(versions, func(v version) bool {
		return v.Number == ref.Version || ref.Version == 0 && v.State == credential.StateCurrent
	})
	switch {
	case i < 0 && ref.Version == 0 && len(versions) > 0:
		return got{}, fmt.Errorf("%w: %q", credential.ErrNoCurrent, ref.Name)
	case i < 0:
		return got{}, fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
	}
	v := versions[i]
	if v.State == credential.StateDestroyed {
		return got{version: v.public(ref.Name)}, fmt.Errorf("%w: %s", credential.ErrDestroyed, v.ref(ref.Name))
	}
	secret, err := s.box.value(v.item(ref.Name), v.Parts)
	return got{v.public(ref.Name), secret}, err
}

// List implements [credential.Store].
func (s *Store) List(ctx context.Context, name string) ([]credential.Version, error) {
	return within(ctx, s.turn, func() ([]credential.Version, error) {
		names := []string{name}
		if name == "" {
			var err error
			if names, err = s.names(); err != nil {
				return nil, err
			}
		}
		var list []credential.Version
		for _, name := range names {
			versions, err := s.states(name)
			if err != nil {
				return nil, err
			}
			for _, v := range versions {
				list = append(list, v.public(name))
			}
		}
		return list, nil
	})
}

// Put implements [credential.WritableStore].
func (s *Store) Put(ctx context.Context, name string, secret credential.Secret, after uint64, note string) (credential.Ref, error) {
	if err := credential.CheckName(name); err != nil {
		return credential.Ref{}, err
	}
	return within(ctx, s.turn, func() (credential.Ref, error) {
		return locked(ctx, s.opts.LockFile, func() (credential.Ref, error) {
			versions, err := s.states(name)
			if err != nil {
				return credential.Ref{}, err
			}
			var newest uint64
			if len(versions) > 0 {
				newest = versions[len(versions)-1].Number
			}
			if newest != after {
				return credential.Ref{}, fmt.Errorf("%w: the newest version of %q is %d", credential.ErrConflict, name, newest)
			}
			// The states are written last: what they do not name is not there.
			v := version{Number: newest + 1, State: credential.StatePending, Created: s.opts.Clock().UnixMilli(), Note: note}
			if err := s.addName(name); err != nil {
				return credential.Ref{}, err
			}
			if v.Parts, err = s.box.setValue(v.item(name), secret); err != nil {
				return credential.Ref{}, err
			}
			kept, forgotten := forget(append(versions, v))
			if err := s.setStates(name, kept); err != nil {
				return credential.Ref{}, err
			}
			for _, old := range forgotten {
				// What fails here is left over, and is named nowhere.
				_ = s.box.removeValue(old.item(name), old.Parts)
			}
			return v.ref(name), nil
		})
	})
}

// forget returns the versions without the oldest dead ones beyond keepDead.
func forget(versions []version) (kept, forgotten []version) {
	dead := 0
	for _, v := range slices.Backward(versions) {
		if v.dead() {
			if dead++; dead > keepDead {
				forgotten = append(forgotten, v)
				continue
			}
		}
		kept = append(kept, v)
	}
	slices.Reverse(kept)
	return kept, forgotten
}

// SetState implements [credential.WritableStore].
func (s *Store) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := credential.CheckMove(from, to); err != nil {
		return err
	}
	_, err := within(ctx, s.turn, func() (struct{}, error) {
		return locked(ctx, s.opts.LockFile, func() (struct{}, error) { return struct{}{}, s.move(ref, from, to) })
	})
	return err
}

func (s *Store) move(ref credential.Ref, from, to credential.State) error {
	versions, err := s.states(ref.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(versions, func(v version) bool { return v.Number == ref.Version })
	if i < 0 {
		return fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
	}
	if versions[i].State != from {
		return fmt.Errorf("%w: %s is %s", credential.ErrConflict, ref, versions[i].State)
	}
	now := s.opts.Clock().UnixMilli()
	set := func(v *version, to credential.State) { v.State, v.Changed = to, now }
	if to == credential.StateCurrent {
		for j := range versions {
			switch v := &versions[j]; v.State {
			case credential.StatePrevious:
				set(v, credential.StateRevoked)
			case credential.StateCurrent:
				set(v, credential.StatePrevious)
			}
		}
	}
	set(&versions[i], to)
	if to == credential.StateDestroyed {
		// First the value: should we end here, what is there is called revoked,
		// has no value, and can be destroyed again.
		if err := s.box.removeValue(versions[i].item(ref.Name), versions[i].Parts); err != nil {
			return err
		}
	}
	return s.setStates(ref.Name, versions)
}

// names returns the sorted names.
func (s *Store) names() ([]string, error) {
	var names []string
	if err := s.read(itemNames, &names); err != nil {
		return nil, err
	}
	if !slices.IsSorted(names) || slices.ContainsFunc(names, func(n string) bool { return credential.CheckName(n) != nil }) {
		return nil, fmt.Errorf("%w: %s", ErrDamaged, itemNames)
	}
	return names, nil
}

func (s *Store) addName(name string) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	i, ok := slices.BinarySearch(names, name)
	if ok {
		return nil
	}
	return s.write(itemNames, slices.Insert(names, i, name))
}

// states returns the versions of a name, which are none if it is unknown.
func (s *Store) states(name string) ([]version, error) {
	if credential.CheckName(name) != nil {
		return nil, nil // nobody can have put it
	}
	var versions []version
	if err := s.read(itemStates(name), &versions); err != nil {
		return nil, err
	}
	var last uint64
	for _, v := range versions {
		if v.Number <= last || v.Parts < 1 || !slices.Contains(knownStates, v.State) {
			return nil, fmt.Errorf("%w: %s", ErrDamaged, itemStates(name))
		}
		last = v.Number
	}
	return versions, nil
}

var knownStates = []credential.State{
	credential.StatePending, credential.StateCurrent, credential.StatePrevious,
	credential.StateRevoked, credential.StateDestroyed,
}

func (s *Store) setStates(name string, versions []version) error {
	return s.write(itemStates(name), versions)
}

// read decodes an item, and leaves into alone if there is none.
func (s *Store) read(item string, into any) error {
	text, err := s.box.get(item)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err == nil && json.Unmarshal([]byte(text), into) != nil {
		err = fmt.Errorf("%w: %s", ErrDamaged, item)
	}
	return err
}

func (s *Store) write(item string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.box.set(item, string(text))
}

var _ credential.WritableStore = (*Store)(nil)
