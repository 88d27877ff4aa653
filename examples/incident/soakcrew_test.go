//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// This file is what the soak does with agents, and how it waits for what they do.

// patiently does something until it says that it is done.
func patiently(ctx context.Context, what func() string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what(), ctx.Err())
		}
	}
}

// A mark is how many calls of some kinds of some agents had been answered, or had
// failed, at a time.
type mark struct {
	s   *soak
	was map[tally]int
}

func (s *soak) mark(failed bool, agents []int, kinds []string) mark {
	m := mark{s, map[tally]int{}}
	for _, n := range agents {
		for _, kind := range kinds {
			t := tally{n, kind, failed}
			m.was[t] = s.notes.count(t)
		}
	}
	return m
}

// more waits until each of them has had so many more.
func (m mark) more(ctx context.Context, more int) error {
	var missing tally
	what := func() string {
		end := "is answered"
		if missing.failed {
			end = "fails"
		}
		return fmt.Sprintf("%s of %s %s", missing.kind, soakName(missing.agent), end)
	}
	return patiently(ctx, what, func() (bool, error) {
		if err := m.s.notes.read(); err != nil {
			return false, err
		}
		for t, was := range m.was {
			if m.s.notes.count(t) < was+more {
				missing = t
				return false, nil
			}
		}
		return true, nil
	})
}

// A life is one run of an agent.
type life struct{ agent, number int }

func (l life) place(dir string) string {
	return filepath.Join(dir, "work", fmt.Sprintf("%s-%d", soakName(l.agent), l.number))
}

func (s *soak) life(n int) life { return life{n, s.lives[n]} }

// running are the agents at work.
func (s *soak) running() []int { return slices.Clone(s.crew) }

func (s *soak) start(ctx context.Context, n int) error {
	s.lives[n]++
	config, err := json.Marshal(soakLife{Number: n, Life: s.lives[n], Port: s.cfg.Port, Mark: s.cfg.Mark})
	if err != nil {
		return err
	}
	s.notes.open(s.life(n).place(s.cfg.Dir))
	if _, err := s.ask(ctx, "start "+string(config)); err != nil {
		return err
	}
	s.crew = append(s.crew, n)
	return nil
}

// stop has an agent end in good order.
func (s *soak) stop(ctx context.Context, n int) error {
	if _, err := s.ask(ctx, "stop "+soakName(n)); err != nil {
		return err
	}
	return s.left(n)
}

// left reads what an agent that has ended has left behind.
func (s *soak) left(n int) error {
	s.crew = slices.DeleteFunc(s.crew, func(m int) bool { return m == n })
	return s.notes.close(s.life(n).place(s.cfg.Dir))
}

// hire registers a new agent. The host, if there is one, has heard of it then.
func (s *soak) hire(ctx context.Context) (n int, err error) {
	s.hired++
	if err := s.agents(ctx, "register", s.hired, "-owner", owner, "-profile", "soak"); err != nil || s.machine == nil {
		return s.hired, err
	}
	_, err = s.ask(ctx, "await "+soakName(s.hired)+" active")
	return s.hired, err
}

// dismiss revokes an agent that is not at work, for good.
func (s *soak) dismiss(ctx context.Context, n int) error {
	if err := s.agents(ctx, "kill", n); err != nil {
		return err
	}
	s.gone = append(s.gone, n)
	_, err := s.ask(ctx, "await "+soakName(n)+" revoked")
	return err
}

// agents runs the real command, in another process than the host.
func (s *soak) agents(ctx context.Context, verb string, n int, args ...string) error {
	args = append([]string{"agents " + verb, "-db", s.cfg.DB}, append(args, soakName(n))...)
	return s.office.vault(ctx, operator, incident, "", args...)
}

// ask has the host do something. One at a time may.
func (s *soak) ask(ctx context.Context, command string) (map[string]string, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	w, err := s.machine.ask(ctx, command)
	if err != nil {
		err = fmt.Errorf("%.60s: %w", command, err)
	}
	return w.Said, err
}

// knock tries a door as an agent, and notes what came of it as if it were the
// agent's own.
func (s *soak) knock(ctx context.Context, n int, door string) (trace, said string, err error) {
	s.knocks++
	traceparent := fmt.Sprintf("00-%08x%024x-%016x-01", n, s.knocks, s.knocks)
	answer, err := s.ask(ctx, fmt.Sprintf("knock %s %s %s", soakName(n), traceparent, door))
	s.knocked[traceID(traceparent)] = true
	return traceID(traceparent), answer["said"], err
}

// reached is how many requests with a trace have reached a vendor.
func (s *soak) reached(trace string) int {
	return len(s.world.entries(func(e entry) bool { return e.trace == trace && e.token > 0 }))
}

// total is how many requests have reached a vendor in this age of the host, and how
// many bytes the server of files has written about its own.
func (s *soak) total() int {
	n := len(s.world.entries(func(entry) bool { return true }))
	if st, err := os.Stat(s.journal()); err == nil {
		n += int(st.Size())
	}
	return n
}

func (s *soak) journal() string { return filepath.Join(s.cfg.Dir, "files", "journal") }

// rotate renews the secret of a vendor: pending, current, and the one before
// revoked, once the steady agents have come with the new one.
func (s *soak) rotate(ctx context.Context, vendor string) error {
	s.versions[vendor]++
	version := s.versions[vendor]
	if err := s.office.renew(ctx, s.world.world, vendor, version); err != nil {
		return err
	}
	for _, n := range s.steady {
		err := s.world.await(ctx, soakName(n)+" uses the new token of "+vendor, func() bool {
			return len(s.world.entries(func(e entry) bool { return e.vendor == vendor && numberOf(e.trace) == n && e.token == version })) > 0
		})
		if err != nil {
			return err
		}
	}
	s.world.withdraw(vendor)
	return s.office.vault(ctx, granter, fmt.Sprintf("SEC-%d: not used any more", version), "",
		append([]string{"revoke"}, append(s.office.store(), fmt.Sprintf("%s@%d", vendor, version-1))...)...)
}

// calmly reloads policies and rotates secrets, which no call may notice, until it
// is told to stop.
func (s *soak) calmly(ctx context.Context, stop <-chan struct{}) error {
	for {
		for _, act := range []func() error{
			func() error {
				s.reloads++
				_, err := s.ask(ctx, fmt.Sprintf("reload %d", s.reloads))
				return err
			},
			func() error {
				vendor := vendors[s.rotations%len(vendors)]
				s.rotations++
				return s.rotate(ctx, vendor)
			},
		} {
			select {
			case <-stop:
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			s.calm.RLock()
			err := act()
			s.calm.RUnlock()
			if err != nil {
				return errors.Join(errors.New("a calm act"), err)
			}
		}
	}
}
