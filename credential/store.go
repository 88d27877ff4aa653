package credential

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// A State is where a version of a secret is in its life.
//
//	pending ──► current ──► previous ──► revoked ──► destroyed
//	                ▲            │
//	                └────────────┘ (back, when the new one does not work)
//
// A version is pending until somebody has tried it. Of each name at most one
// version is current, which is what leases get, and at most one is previous,
// which still works while the other side learns the new one. Pending and
// current versions can be revoked as well.
type State string

const (
	StatePending   State = "pending"
	StateCurrent   State = "current"
	StatePrevious  State = "previous"
	StateRevoked   State = "revoked"   // never used again; its value is kept so that it is recognised in what comes back
	StateDestroyed State = "destroyed" // the value is gone
)

// moves are the changes of state that people ask for. A version becomes
// previous, or is revoked in that place, when another one becomes current: that
// is no change of its own.
var moves = map[State][]State{
	StatePending:  {StateCurrent, StateRevoked, StateDestroyed},
	StateCurrent:  {StateRevoked},
	StatePrevious: {StateCurrent, StateRevoked},
	StateRevoked:  {StateDestroyed},
}

// CheckMove returns [ErrState] unless a version may go from one state to the
// other by [WritableStore.SetState].
func CheckMove(from, to State) error {
	if !slices.Contains(moves[from], to) {
		return fmt.Errorf("%w: from %s to %s", ErrState, from, to)
	}
	return nil
}

// Live reports whether a request may carry a version in this state.
func (s State) Live() bool { return s == StateCurrent || s == StatePrevious }

// A Version describes one version of a secret. It can be logged.
type Version struct {
	Ref     Ref       `json:"ref"`
	State   State     `json:"state"`
	Created time.Time `json:"created,omitzero"` // does not change
	Changed time.Time `json:"changed,omitzero"` // when the state did, or Created
	Note    string    `json:"note,omitempty"`   // free words of whoever put it; never a secret
}

// A Store keeps secrets in versions. This is the least of it: reading. Stores
// that can be written also implement [WritableStore], and those that tell of
// changes [Watcher].
//
// A store is safe for concurrent use and returns soon after the context is
// done. The bytes of a version never change; if a name can be deleted and made
// anew, so that its versions count from 1 again, their Created tells them apart.
// No error and no list holds a value. Run credentialtest.TestStore on your own.
type Store interface {
	// Get returns one version, or the current one if ref.Version is 0. The
	// secret belongs to the caller, who may destroy it. The error is
	// [ErrUnknown] if there is no such name or version, [ErrNoCurrent] if the
	// name has versions and none is current, and [ErrDestroyed], together with
	// the Version, if the value is gone.
	Get(ctx context.Context, ref Ref) (Version, Secret, error)
	// List returns the versions of one name, or of all names if it is empty,
	// ordered by name and version. A name that is not there has none. A store
	// may forget versions that are revoked or destroyed, but never the newest.
	List(ctx context.Context, name string) ([]Version, error)
}

// A WritableStore is a [Store] whose secrets can be changed. When a method
// returns nil, the change is durable, as far as the store is. When it returns
// an error that is none of those named here, the change may have been made.
type WritableStore interface {
	Store
	// Put adds a version, which is pending, if the newest version of the name
	// is after (0: there is none yet), and returns its number, which is larger.
	// Else the error is [ErrConflict]. The store keeps a copy of the secret.
	Put(ctx context.Context, name string, s Secret, after uint64, note string) (Ref, error)
	// SetState moves one version along if it is in the state from, else the
	// error is [ErrConflict]; it is [ErrState] for moves that [CheckMove]
	// refuses, and [ErrUnknown]. What becomes current makes the current version
	// previous and revokes the one that was previous, all at once. Destroying
	// makes the value unreadable for good.
	SetState(ctx context.Context, ref Ref, from, to State) error
}

// A Watcher is a [Store] that tells of changes, whoever made them.
type Watcher interface {
	// Watch yields a zero Ref as soon as the watch stands, and then, for every
	// change, the Ref that was put or changed its state: at least once, perhaps
	// later changes together with earlier ones. A zero Ref after the first says
	// that changes may have been missed: look at everything. An error says that
	// the store cannot be watched for the moment; the loop goes on and yields a
	// zero Ref when it can again. It ends when the context is done.
	Watch(ctx context.Context) iter.Seq2[Ref, error]
}

// A BindingStore is a [Store] that also keeps where its secrets may go. A
// [Broker] follows it for names that nobody called [Broker.Bind] for.
type BindingStore interface {
	Store
	// Binding returns what is kept for a name, and whether anything is.
	Binding(ctx context.Context, name string) (BindingSpec, bool, error)
	// SetBinding replaces it. The error is [ErrUnknown] if there is no such
	// name, and [ErrSpec] for specs that do not validate.
	SetBinding(ctx context.Context, name string, to BindingSpec) error
}

// Errors of stores.
var (
	// ErrConflict is returned when a secret was changed by somebody else in the
	// meantime.
	ErrConflict = errors.New("credential: the secret has changed meanwhile: read it again, then decide again")
	// ErrState is returned for a change of state that is not allowed.
	ErrState = errors.New("credential: a version cannot change its state in that way")
	// ErrNoCurrent is returned when no version of a secret may be used yet, or
	// any more.
	ErrNoCurrent = errors.New("credential: no version of the secret is current: promote one")
	// ErrReadOnly is returned for changes of a store that is not a
	// [WritableStore].
	ErrReadOnly = errors.New("credential: the store can only be read: change the secret where it is kept")
	// ErrName is returned for names that a store does not take: see [CheckName].
	ErrName = errors.New("credential: the name of a secret has 1 to 128 characters out of a-z, A-Z, 0-9, dot, dash, underscore and slash, with no empty or dotted part between slashes")
)

// CheckName returns [ErrName] unless every store can keep a secret under that
// name: in a path, in a URL, in a file.
func CheckName(name string) error {
	if len(name) == 0 || len(name) > 128 {
		return ErrName
	}
	start := 0
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '/' {
			if part := name[start:i]; part == "" || part == "." || part == ".." {
				return ErrName
			}
			start = i + 1
			continue
		}
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return ErrName
		}
	}
	return nil
}
