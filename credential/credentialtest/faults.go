package credentialtest

import (
	"context"
	"sync"

	"github.com/twinward-dev/twinward/credential"
)

// A Store stands before another one and is down or slow on demand. It is a
// [credential.WritableStore] without a watch, and safe for concurrent use.
type Store struct {
	next credential.WritableStore

	mu    sync.Mutex
	err   error
	block chan struct{} // closed when calls may go on; nil if they may now
	reads int
}

// WrapStore returns a Store before next.
func WrapStore(next credential.WritableStore) *Store { return &Store{next: next} }

// Fail makes every later call fail with err, until Fail(nil).
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Block makes every later call wait, until the function that it returns is
// called or the call's own context is done.
func (s *Store) Block() (unblock func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	block := make(chan struct{})
	s.block = block
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(block)
		s.block = nil
	})
}

// Reads counts the calls of Get and List so far.
func (s *Store) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *Store) fault(ctx context.Context, reads int) error {
	s.mu.Lock()
	s.reads += reads
	block := s.block
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Get implements [credential.Store].
func (s *Store) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	if err := s.fault(ctx, 1); err != nil {
		return credential.Version{}, credential.Secret{}, err
	}
	return s.next.Get(ctx, ref)
}

// List implements [credential.Store].
func (s *Store) List(ctx context.Context, name string) ([]credential.Version, error) {
	if err := s.fault(ctx, 1); err != nil {
		return nil, err
	}
	return s.next.List(ctx, name)
}

// Put implements [credential.WritableStore].
func (s *Store) Put(ctx context.Context, name string, secret credential.Secret, after uint64, note string) (credential.Ref, error) {
	if err := s.fault(ctx, 0); err != nil {
		return credential.Ref{}, err
	}
	return s.next.Put(ctx, name, secret, after, note)
}

// SetState implements [credential.WritableStore].
func (s *Store) SetState(ctx context.Context, ref credential.Ref, from, to credential.State) error {
	if err := s.fault(ctx, 0); err != nil {
		return err
	}
	return s.next.SetState(ctx, ref, from, to)
}
