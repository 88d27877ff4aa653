package openbao

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// A session keeps a token alive. It logs in when the first token is needed,
// renews each token at two thirds of its life, and logs in again when the
// server renews it no longer.
type session struct {
	client *client
	login  Login
	opts   Options

	stop    context.CancelFunc
	ctx     context.Context // ends with Close
	fresh   chan struct{}   // tells keep of a new token
	stopped chan struct{}   // closed when keep has returned

	mu      sync.Mutex
	held    *held
	running *attempt // the login that is under way
	refused *refusal // the login that was denied last
}

// A held token is immutable.
type held struct {
	grant
	got time.Time
}

func (h *held) life() time.Duration { return time.Duration(h.seconds) * time.Second }

// ended reports whether the token cannot be used any more.
func (h *held) ended(now time.Time) bool {
	return h.seconds != 0 && !now.Before(h.got.Add(h.life()))
}

// An attempt is one login for all who wait for it.
type attempt struct {
	done chan struct{}
	held *held
	err  error
}

// A refusal is remembered for a while: whoever tries a wrong secret id too
// often is locked out.
type refusal struct {
	err   error
	until time.Time
	wait  time.Duration
}

func newSession(c *client, l Login, o Options) *session {
	s := &session{client: c, login: l, opts: o, fresh: make(chan struct{}, 1), stopped: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	go s.keep()
	return s
}

// close ends the session and waits for what it does.
func (s *session) close() {
	s.stop()
	<-s.stopped
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if running != nil {
		<-running.done
	}
}

// token returns a token that is alive as far as is known. Many may wait for one
// login, each as long as its own context lets it.
func (s *session) token(ctx context.Context) (*held, error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Op: "login", kind: ErrUnavailable, cause: err, detail: "not begun"}
	}
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return nil, &Error{Op: "login", kind: ErrClosed}
	}
	now := s.opts.Clock()
	if s.held != nil && !s.held.ended(now) {
		defer s.mu.Unlock()
		return s.held, nil
	}
	if s.refused != nil && now.Before(s.refused.until) {
		defer s.mu.Unlock()
		return nil, s.refused.err
	}
	a := s.attemptLocked()
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.held, a.err
	case <-ctx.Done():
		return nil, failed(ctx, "login", ctx.Err())
	}
}

// attemptLocked returns the login that is under way, or begins one.
func (s *session) attemptLocked() *attempt {
	if s.running != nil {
		return s.running
	}
	a := &attempt{done: make(chan struct{})}
	s.running = a
	go func() {
		defer close(a.done)
		g, err := s.client.enter(s.ctx, s.login)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running = nil
		if err != nil {
			a.err = err
			s.refuseLocked(err)
			return
		}
		a.held = &held{grant: g, got: s.opts.Clock()}
		s.holdLocked(a.held)
	}()
	return a
}

func (s *session) holdLocked(h *held) {
	s.held, s.refused = h, nil
	select {
	case s.fresh <- struct{}{}:
	default:
	}
}

func (s *session) refuseLocked(err error) {
	if !errors.Is(err, ErrDenied) {
		return
	}
	wait := time.Second
	if s.refused != nil {
		wait = min(2*s.refused.wait, time.Minute)
	}
	s.refused = &refusal{err: err, until: s.opts.Clock().Add(wait), wait: wait}
}

// drop forgets a token that the server does not know any more.
func (s *session) drop(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == h {
		s.held = nil
	}
}

// do sends a request with a live token. A token that was revoked meanwhile is
// replaced, once; a token that is alive and not allowed to is [ErrDenied].
func (s *session) do(ctx context.Context, r call) (*answer, error) {
	again := r
	again.body = bytes.Clone(r.body) // the first sending wipes it
	defer clear(again.body)
	h, err := s.token(ctx)
	if err != nil {
		clear(r.body)
		return nil, err
	}
	a, err := s.client.with(ctx, h.token, r)
	if err == nil || !errors.Is(err, ErrDenied) || !s.login.repeats() || status(err) != 403 {
		return a, err
	}
	if _, alive := s.client.lookup(ctx, h.token); !errors.Is(alive, ErrDenied) {
		return nil, err
	}
	s.drop(h)
	if h, err = s.token(ctx); err != nil {
		return nil, err
	}
	return s.client.with(ctx, h.token, again)
}

func status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// keep renews tokens until the session is closed.
func (s *session) keep() {
	defer close(s.stopped)
	var wake <-chan time.Time
	failures := 0
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.fresh:
			failures = 0
		case <-wake:
			if err := s.renew(); err != nil {
				failures++
				s.opts.Log.Warn("openbao: the token was not renewed", "error", err, "failures", failures)
			} else {
				failures = 0
			}
		}
		wake = s.next(failures)
	}
}

// next returns when to renew: at two thirds of the token's life, give or take a
// twentieth of it, so that not all hosts come at once; after a failure sooner
// and sooner before the end, and never more than ten times in a second. It is nil
// for a token that cannot be renewed or replaced.
func (s *session) next(failures int) <-chan time.Time {
	s.mu.Lock()
	h := s.held
	s.mu.Unlock()
	if h == nil || h.seconds == 0 || !h.renewable && !s.login.repeats() {
		return nil
	}
	left := h.got.Add(h.life()).Sub(s.opts.Clock())
	wait := left - h.life()/3 + time.Duration((rand.Float64()-0.5)*0.1*float64(h.life()))
	if failures > 0 {
		if left <= 0 {
			return nil // the next request logs in
		}
		wait = left / 4
	}
	return time.After(max(wait, 100*time.Millisecond))
}

// renew gets a token with a longer life: the same one, or by a new login when
// the server gives it less than half of what it had.
func (s *session) renew() error {
	s.mu.Lock()
	h := s.held
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	var err error
	if h.renewable {
		var g grant
		if g, err = s.client.renew(s.ctx, h.token); err == nil && (g.seconds == 0 || 2*g.seconds >= h.seconds || !s.login.repeats()) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.held == h {
				// A renewed life may be short because the token's longest one ends.
				s.holdLocked(&held{grant: g, got: s.opts.Clock()})
			}
			return nil
		}
		if err != nil && !errors.Is(err, ErrDenied) {
			return err
		}
	}
	if !s.login.repeats() {
		return err
	}
	s.mu.Lock()
	a := s.attemptLocked()
	s.mu.Unlock()
	<-a.done
	return a.err
}
