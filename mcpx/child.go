package mcpx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// What a child process was given it keeps. So it ends when its secret does, and
// makes room for another one when the secret is rotated.

// childTimes are changed by tests only.
type childTimes struct {
	// check is how often the vault is asked whether a child's secret is still
	// the one to use.
	check time.Duration
	// start is how long a replacement may take to start; at most half of the
	// time that the call has.
	start time.Duration
	// pause is how long nothing is started after a replacement failed.
	pause time.Duration
	// spare is how long a child that has the version before is kept without a
	// call, in case the new version does not work.
	spare time.Duration
	// rewatch is how long at least after a server has ended its resources are
	// subscribed to again.
	rewatch time.Duration
	// leave is how long a server may take to hear that a subscription is taken back.
	leave time.Duration
}

var usualTimes = childTimes{
	check: time.Second, start: 10 * time.Second, pause: 10 * time.Second, spare: time.Minute,
	rewatch: time.Second, leave: cancelWait,
}

// refusedLease reports whether the error says that the secret must not be used,
// and not only that nobody knows at the moment.
func refusedLease(err error) bool {
	for _, is := range []error{
		credential.ErrRevoked, credential.ErrNoCurrent, credential.ErrUnknown, credential.ErrDestroyed,
		credential.ErrUnbound, credential.ErrOrigin,
	} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// behind reports whether the session is that of a child with another secret
// than the leased one.
func (s *session) behind(lease *credential.Lease) bool {
	return lease != nil && s != nil && (s.wire.lease.Revoked() || !s.wire.lease.Same(lease))
}

// safely opens a session. The command is the host's code.
func (o opener) safely(ctx context.Context) (s *session, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("mcpx: panic while the server was started: %v", r)
		}
	}()
	return o.open(ctx)
}

// replacement opens the session that takes the place of old, which has another
// secret. If it does not start, and the secret of old may still be used, it is
// old for some time. The caller holds l's gate.
func (p *pool) replacement(ctx context.Context, l *link, old *session, o opener) (*session, error) {
	serves := func() bool { return !old.wire.dead.Load() && !old.wire.lease.Revoked() }
	if !serves() {
		return o.safely(ctx)
	}
	p.mu.Lock()
	stuck := !l.stuck.IsZero() && time.Since(l.stuck) < p.times.pause
	p.mu.Unlock()
	if stuck {
		return old, nil
	}
	limit := p.times.start
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/2)
	}
	trial, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		s   *session
		err error
	}
	opened := make(chan result)
	if !p.background(func() {
		s, err := o.safely(trial)
		select {
		case opened <- result{s, err}:
		case <-trial.Done():
			if s != nil {
				s.cs.Close()
			}
		}
	}) {
		return nil, ErrClosed
	}
	var r result
	select {
	case r = <-opened:
	case <-trial.Done():
		r.err = trial.Err()
	}
	if r.err == nil {
		p.mu.Lock()
		l.stuck = time.Time{}
		p.mu.Unlock()
		return r.s, nil
	}
	if ctx.Err() != nil || !serves() {
		return nil, r.err
	}
	p.mu.Lock()
	l.stuck = time.Now()
	p.mu.Unlock()
	o.spare(r.err)
	return old, nil
}

// background runs f, which close waits for, or reports false after close.
func (p *pool) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.ending.Go(f)
	return true
}

// watch ends a child when its secret was revoked, when it has had an old version
// for a while and nobody calls, or when the pool is closed. A vault that does
// not answer ends no child; nor does it give leases for calls.
func (p *pool) watch(l *link, s *session, vault func(context.Context) (*credential.Lease, error)) {
	if s.wire.lease == nil {
		return
	}
	p.background(func() {
		defer func() {
			_ = s.wire.cut()
			_ = s.cs.Close()
		}()
		tick := time.NewTicker(p.times.check)
		defer tick.Stop()
		var since time.Time // the child has had an old version
		for {
			select {
			case <-tick.C:
			case <-p.life.Done():
				return
			}
			behind, err := p.ask(s, vault)
			switch {
			case refusedLease(err):
				p.forget(l, s)
				return
			case err != nil: // nobody knows
			case !behind:
				since = time.Time{}
			case since.IsZero():
				since = time.Now()
			}
			if p.leave(l, s, since) {
				return
			}
		}
	})
}

// ask reports whether the vault has another secret for a child by now.
func (p *pool) ask(s *session, vault func(context.Context) (*credential.Lease, error)) (behind bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("mcpx: panic in the vault: %v", r)
		}
	}()
	ctx, cancel := context.WithTimeout(p.life, time.Minute)
	defer cancel()
	lease, err := vault(ctx)
	if err != nil {
		return false, err
	}
	if lease == nil {
		return false, errNoLease
	}
	defer lease.Release()
	return s.behind(lease), nil
}

// leave reports whether a child should end that has had an old version since
// then, if not zero, and takes it out of its place.
func (p *pool) leave(l *link, s *session, since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	here := l.now != nil && l.now.wire == s.wire
	if here && l.users > 0 || s.wire.users > 0 {
		return false // the calls replace it, and it ends with the last
	}
	old := !since.IsZero() && time.Since(since) >= p.times.spare && time.Since(l.stuck) >= p.times.spare
	if here && !old && !s.wire.dead.Load() && !s.wire.lease.Revoked() {
		return false
	}
	if here {
		l.now = nil
	}
	return true
}

// forget takes a child out of its place whatever it does. The caller ends it.
func (p *pool) forget(l *link, s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.now != nil && l.now.wire == s.wire {
		l.now = nil
	}
	s.wire.dead.Store(true)
}

// dropAll is drop for all of an actor's sessions with a server.
func (p *pool) dropAll(key poolKey) {
	p.mu.Lock()
	keys := slices.Collect(maps.Keys(p.links))
	p.mu.Unlock()
	for _, k := range keys {
		if k.server == key.server && k.owner == key.owner {
			p.drop(k)
		}
	}
}

// drop ends the child of key, whose secret must not be used any more.
func (p *pool) drop(key poolKey) {
	p.mu.Lock()
	l := p.links[key]
	var s *session
	if l != nil {
		s = l.now
	}
	p.mu.Unlock()
	if s != nil && s.wire.lease != nil {
		p.forget(l, s)
		p.background(func() {
			_ = s.wire.cut()
			_ = s.cs.Close()
		})
	}
}
