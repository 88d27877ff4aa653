package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twinward-dev/twinward/governance"
)

// FollowOptions change how a host follows the store. nil and the zero value are
// safe.
type FollowOptions struct {
	// MaxStale bounds how long the host goes on by a policy that it could not
	// confirm to be the current one, counted from the last time that it could.
	// Zero is one minute.
	MaxStale time.Duration
	// Poll is how often it asks, besides being notified. Zero is a quarter of
	// MaxStale; more than half of it is an error.
	Poll time.Duration
	// Clock has to be that of the engine; nil is time.Now.
	Clock func() time.Time
	// Logger is told of reloads and of what fails. nil is told nothing.
	Logger *slog.Logger
}

// Follow keeps an engine at the current version, until ctx ends, whose error it
// returns. It asks the store when it is notified, and at every Poll, and each
// answer keeps the engine deciding for another MaxStale, see
// [governance.Engine.FreshUntil].
//
// A current version that this host cannot put into force, because it does not
// compile, lacks a signature that the host requires, or cannot be put on record,
// is no answer: the host knows then that its own policy was replaced, and denies
// everything after MaxStale. So does a store that cannot be reached, one that
// was rewound ([ErrRewound]), and one that holds nothing. Follow goes on trying
// in all these cases.
func (s *Store) Follow(ctx context.Context, e *governance.Engine, opts *FollowOptions) error {
	f, err := s.follower(e, opts)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		err := f.listen(ctx)
		if ctx.Err() != nil {
			break
		}
		f.log.Warn("the current policy could not be confirmed", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(f.retry):
		}
	}
	return ctx.Err()
}

type follower struct {
	store    *Store
	engine   *governance.Engine
	maxStale time.Duration
	poll     time.Duration
	retry    time.Duration // after a failure
	clock    func() time.Time
	log      *slog.Logger

	applied pointer // the last that is in force here
	seen    int64   // the highest seq that was ever seen
}

func (s *Store) follower(e *governance.Engine, opts *FollowOptions) (*follower, error) {
	if e == nil {
		return nil, errors.New("governance/postgres: follow: there is no engine")
	}
	if opts == nil {
		opts = &FollowOptions{}
	}
	f := &follower{store: s, engine: e, maxStale: opts.MaxStale, poll: opts.Poll, clock: opts.Clock, log: opts.Logger}
	if f.maxStale == 0 {
		f.maxStale = time.Minute
	}
	if f.poll == 0 {
		f.poll = f.maxStale / 4
	}
	if f.maxStale < 0 || f.poll <= 0 || f.poll > f.maxStale/2 {
		return nil, fmt.Errorf("governance/postgres: follow: MaxStale %v and Poll %v: a host has to ask at least twice within MaxStale", f.maxStale, f.poll)
	}
	f.retry = min(f.poll, time.Second)
	if f.clock == nil {
		f.clock = time.Now
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	// Nothing is known yet, so that the bound holds from here on.
	f.engine.FreshUntil(f.clock().Add(f.maxStale))
	return f, nil
}

// listen follows on one connection until something fails.
func (f *follower) listen(ctx context.Context) error {
	// A connection that the network has lost answers nothing, for hours.
	open, cancel := context.WithTimeout(ctx, f.maxStale)
	defer cancel()
	pooled, err := f.store.pool.Acquire(open)
	if err != nil {
		return err
	}
	// It listens and may be broken: it does not go back to the pool.
	conn := pooled.Hijack()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(end) // nothing is lost with it
	}()
	// First listen, then look: what comes in between is notified.
	if _, err := conn.Exec(open, "listen "+channel); err != nil {
		return err
	}
	for {
		if err := f.confirm(ctx, conn); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, f.poll)
		_, err := conn.WaitForNotification(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
	}
}

// confirm asks what is current and puts it into force if it is not.
func (f *follower) confirm(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, f.maxStale)
	defer cancel()
	asked := f.clock() // before: the answer may be as old as the question
	now, err := latest(ctx, conn)
	if err != nil {
		return err
	}
	if now.seq < f.seen {
		return fmt.Errorf("%w: number %d is the last, and %d was seen", ErrRewound, now.seq, f.seen)
	}
	f.seen = now.seq
	if now != f.applied {
		if err := f.apply(ctx, conn, now); err != nil {
			return err
		}
		f.applied = now
	}
	f.engine.FreshUntil(asked.Add(f.maxStale))
	return nil
}

func (f *follower) apply(ctx context.Context, conn *pgx.Conn, now pointer) error {
	v, archive, err := read(ctx, conn, now.version, true)
	if err != nil {
		return err
	}
	b, err := unpack(archive, v)
	if err != nil {
		return err
	}
	if _, err := f.engine.Reload(ctx, b, now.by); err != nil {
		return fmt.Errorf("version %d: %w", v.ID, err)
	}
	f.log.Info("policy is in force", "version", v.ID, "hash", f.engine.Hash(), "by", now.by.By)
	return nil
}
