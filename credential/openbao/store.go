package openbao

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// A Store is a [credential.WritableStore] and [credential.Watcher] over one
// folder of a key-value engine. It is safe for concurrent use.
type Store struct {
	session *session
	opts    Options
}

// New returns the store at address, the server's https URL (or http on a
// loopback address), of which the origin counts. It does not connect yet: the
// first use does. Close ends its goroutine.
func New(address string, login Login, opts *Options) (*Store, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := login.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(address, o)
	if err != nil {
		return nil, err
	}
	return &Store{newSession(c, login, o), o}, nil
}

// Close ends the renewal of the token, which the server will forget in time.
// Later uses fail.
func (s *Store) Close() error {
	s.session.close()
	s.session.client.http.CloseIdleConnections()
	return nil
}

// Get implements [credential.Store].
func (s *Store) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	if err := ctx.Err(); err != nil {
		return credential.Version{}, credential.Secret{}, err
	}
	e, err := s.entry(ctx, ref.Name)
	if err != nil {
		return credential.Version{}, credential.Secret{}, err
	}
	number := ref.Version
	if number == 0 {
		if len(e.versions) == 0 {
			return credential.Version{}, credential.Secret{}, fmt.Errorf("%w: %q", credential.ErrUnknown, ref.Name)
		}
		if number = e.in(credential.StateCurrent); number == 0 {
			return credential.Version{}, credential.Secret{}, fmt.Errorf("%w: %q", credential.ErrNoCurrent, ref.Name)
		}
	}
	v, ok := e.version(number)
	if !ok {
		return credential.Version{}, credential.Secret{}, fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
	}
	if v.State == credential.StateDestroyed {
		return v, credential.Secret{}, fmt.Errorf("%w: %s", credential.ErrDestroyed, v.Ref)
	}
	secret, err := s.readValue(ctx, ref.Name, number, e.versions[number].CreatedTime)
	if err != nil {
		return credential.Version{}, credential.Secret{}, err
	}
	return v, secret, nil
}

// List implements [credential.Store]. A list of all names takes two requests a
// name, and one a folder.
func (s *Store) List(ctx context.Context, name string) ([]credential.Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	names := []string{name}
	if name == "" {
		var err error
		if names, err = s.names(ctx); err != nil {
			return nil, err
		}
	}
	var list []credential.Version
	for _, name := range names {
		e, err := s.entry(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, number := range slices.Sorted(maps.Keys(e.versions)) {
			v, _ := e.version(number)
			list = append(list, v)
		}
	}
	return list, nil
}

// Put implements [credential.WritableStore]. When only the note could not be
// stored, it returns both the version and an error.
func (s *Store) Put(ctx context.Context, name string, secret credential.Secret, after uint64, note string) (credential.Ref, error) {
	if err := errors.Join(ctx.Err(), credential.CheckName(name)); err != nil {
		return credential.Ref{}, err
	}
	body, err := valueBody(secret, after)
	if err != nil {
		return credential.Ref{}, err
	}
	defer clear(body)
	e, err := s.entry(ctx, name)
	if err != nil {
		return credential.Ref{}, err
	}
	if e.newest != after {
		return credential.Ref{}, fmt.Errorf("%w: the newest version of %q is %d", credential.ErrConflict, name, e.newest)
	}
	// Nothing that may still be wanted may fall out at the old end.
	if wanted := after + 2 - e.oldestWanted(after+1); e.maxVersions < wanted {
		if err := s.keepVersions(ctx, name, wanted+32); err != nil {
			return credential.Ref{}, err
		}
	}
	// From here on a new version is pending, and no longer current by itself.
	if e.states == nil {
		if err := s.writeStates(ctx, e, e.adopted()); err != nil && !errors.Is(err, credential.ErrConflict) {
			return credential.Ref{}, err
		}
	}
	written, err := s.writeValue(ctx, name, body)
	if err != nil {
		return credential.Ref{}, err
	}
	ref := credential.Ref{Name: name, Version: written.Version}
	if note != "" {
		if err := s.annotate(ctx, ref, written.CreatedTime, note); err != nil {
			return ref, fmt.Errorf("openbao: %s is stored, and its note is not: %w", ref, err)
		}
	}
	return ref, nil
}

// SetState implements [credential.WritableStore].
func (s *Store) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	if err := errors.Join(ctx.Err(), credential.CheckMove(from, to)); err != nil {
		return err
	}
	for range maxRaces {
		e, err := s.entry(ctx, ref.Name)
		if err != nil {
			return err
		}
		v, ok := e.version(ref.Version)
		if !ok {
			return fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
		}
		raw := e.versions[ref.Version]
		if to == credential.StateDestroyed && v.State == to && !raw.Destroyed {
			return s.destroy(ctx, ref) // begun before, and not finished
		}
		if v.State != from {
			return fmt.Errorf("%w: %s is %s", credential.ErrConflict, ref, v.State)
		}
		err = s.writeStates(ctx, e, e.moved(ref.Version, to, s.opts.Clock()))
		if errors.Is(err, credential.ErrConflict) {
			continue // somebody else was faster: look again
		}
		if err == nil && to == credential.StateDestroyed {
			err = s.destroy(ctx, ref)
		}
		return err
	}
	return fmt.Errorf("%w: %q", credential.ErrConflict, ref.Name)
}

// maxRaces is how often the states are read again because somebody else changed
// them first: each time, another one's change was made.
const maxRaces = 100

// annotate adds a note to a version that was just put.
func (s *Store) annotate(ctx context.Context, ref credential.Ref, created, note string) error {
	for range maxRaces {
		e, err := s.entry(ctx, ref.Name)
		if err != nil {
			return err
		}
		next := e.adopted()
		line := next[ref.Version]
		if line.State == "" {
			line = stateLine{State: credential.StatePending, Created: created}
		}
		line.Note = note
		next[ref.Version] = line
		if err = s.writeStates(ctx, e, next); !errors.Is(err, credential.ErrConflict) {
			return err
		}
	}
	return credential.ErrConflict
}

// An entry is what the engine knows of one name, apart from values.
type entry struct {
	name        string
	newest      uint64
	maxVersions uint64
	versions    map[uint64]versionMeta

	states        map[uint64]stateLine // nil: nobody has written any
	statesVersion uint64               // for compare-and-swap
}

// A versionMeta is what the engine says of a version.
type versionMeta struct {
	CreatedTime  string `json:"created_time"`
	DeletionTime string `json:"deletion_time"`
	Destroyed    bool   `json:"destroyed"`
}

// gone reports whether the value cannot be read: the version was destroyed, or
// deleted with another tool, which can be undone.
func (m versionMeta) gone() bool { return m.Destroyed || m.DeletionTime != "" }

// A stateLine is what we say of a version.
type stateLine struct {
	State   credential.State `json:"state"`
	Changed time.Time        `json:"changed,omitzero"`
	Note    string           `json:"note,omitempty"`
	// Created is the version's creation as the engine spells it. An entry that
	// was deleted and made anew starts again at version 1, and must not inherit
	// the states of the old one.
	Created string `json:"created"`
}

// version returns one version and its state.
func (e *entry) version(number uint64) (credential.Version, bool) {
	meta, ok := e.versions[number]
	if !ok {
		return credential.Version{}, false
	}
	created, _ := time.Parse(time.RFC3339Nano, meta.CreatedTime) // checked when it was read
	v := credential.Version{
		Ref:   credential.Ref{Name: e.name, Version: number},
		State: credential.StatePending, Created: created, Changed: created,
	}
	if line, ok := e.states[number]; ok && line.Created == meta.CreatedTime {
		v.State, v.Note = line.State, line.Note
		if !line.Changed.IsZero() {
			v.Changed = line.Changed
		}
	} else if e.states == nil {
		switch number {
		case e.newest:
			v.State = credential.StateCurrent
		case e.newest - 1:
			v.State = credential.StatePrevious
		default:
			v.State = credential.StateRevoked
		}
	}
	if meta.gone() {
		v.State = credential.StateDestroyed
	}
	return v, true
}

// in returns the version in that state, or 0.
func (e *entry) in(state credential.State) uint64 {
	for number := range e.versions {
		if v, _ := e.version(number); v.State == state {
			return number
		}
	}
	return 0
}

// oldestWanted returns the oldest version that is neither revoked nor
// destroyed, or else.
func (e *entry) oldestWanted(otherwise uint64) uint64 {
	oldest := otherwise
	for number := range e.versions {
		v, _ := e.version(number)
		if v.State != credential.StateRevoked && v.State != credential.StateDestroyed {
			oldest = min(oldest, number)
		}
	}
	return oldest
}

// adopted returns the states as they are now, in lines for all versions that
// are not simply pending.
func (e *entry) adopted() map[uint64]stateLine {
	lines := make(map[uint64]stateLine, len(e.versions))
	for number, meta := range e.versions {
		v, _ := e.version(number)
		if v.State == credential.StatePending && v.Note == "" {
			continue
		}
		line := stateLine{State: v.State, Note: v.Note, Created: meta.CreatedTime}
		if !v.Changed.Equal(v.Created) {
			line.Changed = v.Changed
		}
		if old, ok := e.states[number]; ok && old.Created == meta.CreatedTime && meta.DeletionTime != "" && !meta.Destroyed {
			line.State = old.State // what was deleted elsewhere can come back
		}
		lines[number] = line
	}
	return lines
}

// moved returns the states after one version has gone to another state.
func (e *entry) moved(number uint64, to credential.State, now time.Time) map[uint64]stateLine {
	lines := e.adopted()
	set := func(number uint64, to credential.State) {
		line := lines[number]
		line.State, line.Changed, line.Created = to, now.UTC(), e.versions[number].CreatedTime
		lines[number] = line
	}
	if to == credential.StateCurrent {
		for other, line := range lines {
			switch {
			case other == number:
			case line.State == credential.StatePrevious:
				set(other, credential.StateRevoked)
			case line.State == credential.StateCurrent:
				set(other, credential.StatePrevious)
			}
		}
	}
	set(number, to)
	return lines
}

// path returns where an entry lies: kind is data, metadata or destroy.
func (s *Store) path(kind, folder, name string) string {
	path := s.opts.Mount + "/" + kind + "/" + folder
	if name != "" {
		path += "/" + name // CheckName leaves nothing to escape
	}
	return path
}

func (s *Store) statesFolder() string { return s.opts.Folder + "-states" }

// maxNames is how many secrets and folders a store may have.
const maxNames = 10_000

// names returns all names, sorted.
func (s *Store) names(ctx context.Context) ([]string, error) {
	var names []string
	seen := 0
	for folders := []string{""}; len(folders) > 0; folders = folders[1:] {
		keys, err := s.listFolder(ctx, strings.TrimSuffix(folders[0], "/"))
		if err != nil {
			return nil, err
		}
		if seen += len(keys); seen > maxNames {
			return nil, &Error{Op: "list the names", kind: ErrAnswer, detail: "more names than a store may have"}
		}
		for _, key := range keys {
			full := folders[0] + key
			name, folder := strings.CutSuffix(full, "/")
			switch {
			case credential.CheckName(name) != nil: // another tool's, and no secret of ours
			case folder:
				folders = append(folders, full)
			default:
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// versionNumber reads a key of the engine's version map.
func versionNumber(key string) (uint64, bool) {
	n, err := strconv.ParseUint(key, 10, 64)
	return n, err == nil && n > 0 && strconv.FormatUint(n, 10) == key
}
