//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// memory is what one age of the host has learned and the next has to know.
type memory struct {
	spender int // an agent that has had some of its pages, and of its budget
	had     int // of each
}

// learn has a new agent page somebody and ask the model for much, but not as often
// as it may, and a tool drift.
func (s *soak) learn(ctx context.Context) error {
	n, err := s.hire(ctx)
	if err != nil {
		return err
	}
	s.memory = &memory{n, 3}
	if err := errors.Join(s.spend(ctx, s.memory.had, true), s.try(ctx, n, "issue", true)); err != nil {
		return err
	}
	s.world.drifted.Store(true)
	// A session's view of a server's tools counts for a while: this is another's.
	if n, err = s.hire(ctx); err != nil {
		return err
	}
	return errors.Join(s.try(ctx, n, "issue", false), s.dismiss(ctx, n))
}

// remember checks that a new age of the host knows what the last one has learned.
func (s *soak) remember(ctx context.Context) error {
	if s.memory == nil {
		return nil
	}
	n := s.memory.spender
	err := errors.Join(
		s.spend(ctx, pages-s.memory.had, true), s.spend(ctx, 1, false), // facts and budgets
		s.try(ctx, n, "issue", false), // pins
		s.dismiss(ctx, n),
	)
	for _, n := range s.gone[max(0, len(s.gone)-10):] { // the registry
		err = errors.Join(err, s.refused(ctx, n))
	}
	if startErr := s.start(ctx, n); startErr == nil || !strings.Contains(startErr.Error(), "revoked") {
		err = errors.Join(err, fmt.Errorf("a session of %s, which was revoked, was started: %w", soakName(n), startErr))
	}
	s.world.drifted.Store(false)
	return err
}

// spend has the spender page somebody and ask the model so often.
func (s *soak) spend(ctx context.Context, times int, may bool) error {
	for range times {
		if err := errors.Join(s.try(ctx, s.memory.spender, "page", may), s.try(ctx, s.memory.spender, "spend", may)); err != nil {
			return err
		}
	}
	return nil
}

// try has an agent do something once, which it may do or not.
func (s *soak) try(ctx context.Context, n int, door string, may bool) error {
	trace, said, err := s.knock(ctx, n, door)
	if err != nil {
		return err
	}
	s.sayings[fmt.Sprintf("%s %t: %s", door, may, short(said))]++
	done := strings.HasPrefix(said, "200 ") && !strings.Contains(said, `"isError":true`)
	reached := s.reached(trace)
	if done != may || done != (reached == 1) {
		return fmt.Errorf("%s of %s: it may: %t; %d requests have reached a vendor, and it is told %s", door, soakName(n), may, reached, said)
	}
	return nil
}
