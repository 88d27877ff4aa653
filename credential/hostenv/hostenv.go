// Package hostenv reads secrets out of the host's own environment variables and
// files: a [credential.Store] for a laptop, and for containers that are given
// their secrets as files.
//
// Only what the host lists by name can be reached. It is read-only: to rotate a
// secret, write a new file beside and rename it into the place of the old one; a
// file that is still being written is taken for what is in it by then. The store
// notices, makes the new content the current version, and keeps the one before as
// the previous version, so that the other side may be a little late. Versions count
// from 1 when the store is made; they are not the same in another process.
//
//	store, err := hostenv.New(map[string]hostenv.Source{
//		"github": {Env: "GITHUB_TOKEN"},
//		"slack":  {File: "/home/ann/.config/slack-token"},
//	}, nil)
//
// A file must be a regular one that only its owner can read, and the owner must
// be this process's user or root; a symbolic link counts as what it leads to.
// Windows has no such bits: there, this is not checked. One line's end at the
// end of a file is not part of the secret.
//
// An environment variable stays readable for everybody who can read this
// process's environment, and child processes inherit it unless their
// environment is set. Prefer files.
package hostenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// A Source says where one secret is: in a variable or in a file.
type Source struct {
	// Env is the name of an environment variable.
	Env string `json:"env,omitempty" yaml:"env,omitempty"`
	// File is an absolute path.
	File string `json:"file,omitempty" yaml:"file,omitempty"`
	// AllowOthersToRead accepts a file that more than its owner can read, as
	// container engines mount them. Files that others can write are refused all
	// the same.
	AllowOthersToRead bool `json:"allow_others_to_read,omitempty" yaml:"allow_others_to_read,omitempty"`
}

func (s Source) validate() error {
	switch {
	case (s.Env == "") == (s.File == ""):
		return errors.New("want either a variable or a file")
	case strings.ContainsAny(s.Env, "=\x00"):
		return errors.New("no environment variable has that name")
	case s.File != "" && !filepath.IsAbs(s.File):
		return errors.New("the path of the file must be absolute")
	}
	return nil
}

// where names the source, for errors.
func (s Source) where() string {
	if s.Env != "" {
		return "variable " + s.Env
	}
	return "file " + s.File
}

// Options of a [Store]. The zero value is safe.
type Options struct {
	// Poll is how often [Store.Watch] looks for changes. Zero means 2 seconds.
	Poll time.Duration
	// Clock tells the time. Nil means time.Now.
	Clock func() time.Time
}

var (
	// ErrExposed is returned for a file that others can read or change: make it
	// readable for its owner only.
	ErrExposed = errors.New("hostenv: others can read or change the file: chmod 600 it, and let its owner be this user or root")
	// ErrSource is returned when a variable or file is there and holds no
	// secret: it is empty, too long, or no regular file.
	ErrSource = errors.New("hostenv: that is no secret")
)

// A Store reads the host's variables and files. It implements
// [credential.Store] and [credential.Watcher], and is safe for concurrent use.
type Store struct {
	sources map[string]Source
	poll    time.Duration
	now     func() time.Time

	mu    sync.Mutex
	known map[string]*history
}

// A history is what was read of one name: at most two versions are kept.
type history struct {
	current  held
	previous held // without a version if there is none
	missing  bool // the source is not there at the moment
}

type held struct {
	version credential.Version
	secret  credential.Secret
}

// New returns a store of the named sources. It reads nothing yet.
func New(sources map[string]Source, opts *Options) (*Store, error) {
	s := &Store{sources: maps.Clone(sources), poll: 2 * time.Second, now: time.Now, known: make(map[string]*history)}
	if opts != nil {
		if opts.Poll < 0 {
			return nil, errors.New("hostenv: Poll is no negative time")
		}
		if opts.Poll > 0 {
			s.poll = opts.Poll
		}
		if opts.Clock != nil {
			s.now = opts.Clock
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		if err := errors.Join(credential.CheckName(name), sources[name].validate()); err != nil {
			return nil, fmt.Errorf("hostenv: secret %q: %w", name, err)
		}
	}
	return s, nil
}

// Get implements [credential.Store]. A source that is not there is
// [credential.ErrUnknown], or [credential.ErrNoCurrent] if it was there before.
func (s *Store) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.look(ctx, ref.Name)
	if err != nil {
		return credential.Version{}, credential.Secret{}, err
	}
	if h == nil {
		return credential.Version{}, credential.Secret{}, fmt.Errorf("%w: %q", credential.ErrUnknown, ref.Name)
	}
	for _, v := range h.versions() {
		if v.version.Ref == ref || ref.Version == 0 && v.version.State == credential.StateCurrent {
			return v.version, v.secret.Clone(), nil
		}
	}
	if ref.Version == 0 {
		return credential.Version{}, credential.Secret{}, fmt.Errorf("%w: %q: the %s is gone", credential.ErrNoCurrent, ref.Name, s.sources[ref.Name].where())
	}
	return credential.Version{}, credential.Secret{}, fmt.Errorf("%w: %s", credential.ErrUnknown, ref)
}

// List implements [credential.Store].
func (s *Store) List(ctx context.Context, name string) ([]credential.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{name}
	if name == "" {
		names = slices.Sorted(maps.Keys(s.sources))
	}
	var list []credential.Version
	for _, name := range names {
		h, err := s.look(ctx, name)
		if err != nil {
			return nil, err
		}
		if h == nil {
			continue
		}
		for _, v := range h.versions() {
			list = append(list, v.version)
		}
	}
	return list, nil
}

// versions returns what is kept, the oldest first.
func (h *history) versions() []held {
	var all []held
	if h.previous.version.Ref.Version != 0 {
		all = append(all, h.previous)
	}
	v := h.current
	if h.missing {
		v.version.State = credential.StatePrevious
		if len(all) > 0 {
			all[0].version.State = credential.StateRevoked
		}
	}
	return append(all, v)
}

// look reads a source again and returns its history, which is nil for a name
// that was never there. The lock is held.
func (s *Store) look(ctx context.Context, name string) (*history, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	source, ok := s.sources[name]
	if !ok {
		return nil, nil
	}
	h := s.known[name]
	secret, err := source.read()
	if errors.Is(err, fs.ErrNotExist) {
		if h != nil {
			h.missing = true
		}
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", name, err)
	}
	now := s.now()
	fresh := held{credential.Version{
		Ref: credential.Ref{Name: name, Version: 1}, State: credential.StateCurrent,
		Created: now, Changed: now, Note: source.where(),
	}, secret}
	switch {
	case h == nil:
		h = &history{current: fresh}
		s.known[name] = h
	case h.current.secret.Equal(secret):
		secret.Destroy()
		h.missing = false
	default:
		fresh.version.Ref.Version = h.current.version.Ref.Version + 1
		h.previous.secret.Destroy()
		h.previous = h.current
		h.previous.version.State, h.previous.version.Changed = credential.StatePrevious, now
		h.current, h.missing = fresh, false
	}
	return h, nil
}

// Watch implements [credential.Watcher]: it reads all sources every
// [Options.Poll] and yields what has changed.
func (s *Store) Watch(ctx context.Context) iter.Seq2[credential.Ref, error] {
	return func(yield func(credential.Ref, error) bool) {
		var known map[credential.Ref]credential.State // nil before the first look, and after a failed one
		tick := time.NewTicker(s.poll)
		defer tick.Stop()
		for {
			list, err := s.List(ctx, "")
			if ctx.Err() != nil {
				return
			}
			next := make(map[credential.Ref]credential.State, len(list))
			for _, v := range list {
				next[v.Ref] = v.State
			}
			switch {
			case err != nil:
				next = nil
				if !yield(credential.Ref{}, err) {
					return
				}
			case known == nil:
				if !yield(credential.Ref{}, nil) {
					return
				}
			default:
				for ref, state := range next {
					if known[ref] != state && !yield(ref, nil) {
						return
					}
				}
				for ref := range known {
					if _, ok := next[ref]; !ok && !yield(ref, nil) {
						return
					}
				}
			}
			known = next
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

var (
	_ credential.Store   = (*Store)(nil)
	_ credential.Watcher = (*Store)(nil)
)
