//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A fault is something that makes calls fail, from a time until all is well again.
type fault struct {
	name     string
	agents   []int    // nil: all
	kinds    []string // nil: all
	from, to time.Time
	said     *regexp.Regexp // what an agent is told
	codes    *regexp.Regexp // on record, where there is an outcome; nil: there is none that says it failed
}

// excuses reports whether a call failed because of it.
func (f *fault) excuses(r remark, codes []string) bool {
	for _, code := range codes {
		if f.codes == nil || !f.codes.MatchString(code) {
			return false
		}
	}
	return (f.agents == nil || slices.Contains(f.agents, r.agent())) && (f.kinds == nil || slices.Contains(f.kinds, r.kind)) &&
		!r.ended.Before(f.from) && (f.to.IsZero() || !r.began.After(f.to)) && f.said.MatchString(r.said)
}

// begin puts a fault on the list, before it is made.
func (s *soak) begin(f fault) *fault {
	f.from = time.Now()
	s.faults = append(s.faults, &f)
	s.counts[f.name]++
	return &f
}

// of are the kinds of task that need one of the vendors, those that are held among
// them or not.
func of(held bool, vendors ...string) (all []string) {
	for kind, vendor := range kinds {
		if slices.Contains(vendors, vendor) && (held || !strings.HasSuffix(kind, "-held")) {
			all = append(all, kind)
		}
	}
	slices.Sort(all)
	return all
}

var everything = []string{"github", "slack", "files", "model", "forge", "web", ""}

// What agents are told, and what is on record. That a connection is cut is a reset for
// HTTP/1.1 and, for HTTP/2, an error of the stream.
var (
	down       = regexp.MustCompile("cannot be reached|could not be reached|failed|ended|502|EOF|reset by peer|not closed cleanly|has not answered lately")
	broken     = regexp.MustCompile("^upstream-(down|broken|open)$")
	shut       = regexp.MustCompile("reset by peer|no such host|refused|EOF") // the last in the middle of a handshake
	revoked    = regexp.MustCompile("revoked|may not act any more|ended|EOF|reset by peer|stream error|403|refused|killed|cancel|audit|not closed cleanly")
	isRevoked  = regexp.MustCompile("^(revoked|not-begun)$")
	anything   = regexp.MustCompile("")
	unrecorded = regexp.MustCompile("audit|reset by peer|stream error|error: 503")
	withheld   = regexp.MustCompile("audit|reset by peer|stream error|error: 50[23]|EOF|not closed cleanly|could not be recorded|record the outcome")
)

// death has a vendor die, and come back.
func (s *soak) death(vendor string) func(context.Context) error {
	return func(ctx context.Context) error {
		f := s.begin(fault{name: "death of " + vendor, kinds: of(true, vendor), said: down, codes: broken})
		fails := s.mark(true, s.steady, of(true, vendor))
		s.world.die(vendor)
		if err := fails.more(ctx, 1); err != nil {
			return err
		}
		works := s.mark(false, s.running(), of(false, vendor))
		if err := errors.Join(s.world.rise(vendor), works.more(ctx, 1)); err != nil {
			return err
		}
		f.to = time.Now()
		return nil
	}
}

// cut has the model break off in the middle of its streams.
func (s *soak) cut(ctx context.Context) error {
	f := s.begin(fault{name: "cut streams", kinds: []string{"talk"}, said: down, codes: broken})
	fails := s.mark(true, s.steady, f.kinds)
	s.world.cutting.Store(true)
	if err := fails.more(ctx, 2); err != nil {
		return err
	}
	works := s.mark(false, s.running(), f.kinds)
	s.world.cutting.Store(false)
	if err := works.more(ctx, 1); err != nil {
		return err
	}
	f.to = time.Now()
	return nil
}

// killChildren kills all servers of files.
func (s *soak) killChildren(ctx context.Context) error {
	f := s.begin(fault{name: "killed children", kinds: of(true, "files"), said: down, codes: broken})
	fails, works := s.mark(true, s.steady, []string{"file-held"}), s.mark(false, s.running(), []string{"file"})
	pids := withArgument(s.cfg.Mark, "soak-files")
	if len(pids) == 0 {
		return errors.New("no server of files runs")
	}
	if err := errors.Join(kill(pids), fails.more(ctx, 1), works.more(ctx, 2)); err != nil {
		return err
	}
	f.to = time.Now()
	return nil
}

// shut takes the web away from one session, and gives it back.
func (s *soak) shut(ctx context.Context) error {
	name, agents := soakName(s.steady[0]), s.steady[:1]
	f := s.begin(fault{name: "shut networks", agents: agents, kinds: of(true, "web"), said: shut})
	fails := s.mark(true, agents, f.kinds)
	if _, err := s.ask(ctx, "network "+name+" shut"); err != nil {
		return err
	}
	if err := fails.more(ctx, 1); err != nil {
		return err
	}
	works := s.mark(false, agents, f.kinds)
	if _, err := s.ask(ctx, "network "+name+" open"); err != nil {
		return err
	}
	if err := works.more(ctx, 1); err != nil {
		return err
	}
	f.to = time.Now()
	return nil
}

// revoke ends an agent with the real command, and brings it back.
func (s *soak) revoke(ctx context.Context) error {
	n := s.fickle
	f := s.begin(fault{name: "revocations", agents: []int{n}, said: revoked, codes: isRevoked})
	if err := s.end(ctx, n); err != nil {
		return err
	}
	if err := s.agents(ctx, "reinstate", n); err != nil {
		return err
	}
	if _, err := s.ask(ctx, "await "+soakName(n)+" active"); err != nil {
		return err
	}
	works := s.mark(false, []int{n}, of(false, everything...))
	if err := errors.Join(s.start(ctx, n), works.more(ctx, 1)); err != nil {
		return err
	}
	f.to = time.Now()
	return nil
}

// fresh has a new agent work, and ends it for good.
func (s *soak) fresh(ctx context.Context) error {
	n, err := s.hire(ctx)
	if err != nil {
		return err
	}
	works := s.mark(false, []int{n}, of(false, everything...))
	if err := errors.Join(s.start(ctx, n), works.more(ctx, 1)); err != nil {
		return err
	}
	f := s.begin(fault{name: "new agents", agents: []int{n}, said: revoked, codes: isRevoked})
	if err := s.end(ctx, n); err != nil {
		return err
	}
	f.to = time.Now()
	s.gone = append(s.gone, n)
	return s.refused(ctx, n)
}

// end revokes an agent at work, and waits until nothing of it is there.
func (s *soak) end(ctx context.Context, n int) error {
	s.killed[s.life(n)] = true
	if err := s.agents(ctx, "kill", n); err != nil {
		return err
	}
	said, err := s.ask(ctx, "gone "+soakName(n))
	if err != nil {
		return err
	}
	if !strings.Contains(said["cause"], "revoked") {
		return fmt.Errorf("%s has ended, because of %q", soakName(n), said["cause"])
	}
	return errors.Join(s.left(n), s.refused(ctx, n))
}

// refused checks that an agent that was revoked gets nowhere.
func (s *soak) refused(ctx context.Context, n int) error {
	for _, door := range []string{"read", "spend"} {
		trace, said, err := s.knock(ctx, n, door)
		if err != nil {
			return err
		}
		if !strings.Contains(said, "revoked") && !strings.HasPrefix(said, "403") || s.reached(trace) > 0 {
			return fmt.Errorf("%s, which was revoked, is told %q", soakName(n), said)
		}
	}
	return nil
}

// again ends a session in good order and starts it anew.
func (s *soak) again(ctx context.Context) error {
	s.counts["sessions"]++
	n := s.steady[1]
	if err := s.stop(ctx, n); err != nil {
		return err
	}
	works := s.mark(false, []int{n}, of(false, everything...))
	return errors.Join(s.start(ctx, n), works.more(ctx, 1))
}

// full fills the disk of the log: every act is refused, and none gets to a vendor,
// until there is room again.
func (s *soak) full(ctx context.Context) error {
	s.calm.Lock() // acts of people are refused, too
	defer s.calm.Unlock()
	tasks := of(false, everything...)
	f := s.begin(fault{name: "full disks", said: unrecorded})
	// A call may just have been recorded, and the start of its server is not any more.
	child := s.begin(fault{name: "children that full disks hindered", kinds: of(true, "files"), said: down, codes: broken})
	fails := s.mark(true, s.running(), tasks)
	if _, err := s.ask(ctx, "full yes"); err != nil {
		return err
	}
	if err := fails.more(ctx, 2); err != nil { // with the second of each, what was under way is over
		return err
	}
	before := s.total()
	if err := fails.more(ctx, 4); err != nil {
		return err
	}
	if n := s.total() - before; n != 0 {
		return fmt.Errorf("%d requests reached a vendor while nothing could be recorded", n)
	}
	works := s.mark(false, s.running(), tasks)
	if _, err := s.ask(ctx, "full no"); err != nil {
		return err
	}
	if err := works.more(ctx, 1); err != nil {
		return err
	}
	f.to, child.to = time.Now(), time.Now()
	return nil
}
