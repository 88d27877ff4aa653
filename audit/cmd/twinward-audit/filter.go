package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A selection is what the flags of show, tail and export choose.
type selection struct {
	audit.Filter
	action, policy, kind, decision string
	denied                         bool
	since, until                   moment
}

func (s *selection) register(fs *flag.FlagSet) {
	fs.StringVar(&s.Agent, "agent", "", "only this agent")
	fs.StringVar(&s.Door, "door", "", "only this door: tool, compute, model or admin")
	fs.StringVar(&s.action, "action", "", "only this action")
	fs.StringVar(&s.kind, "kind", "", "only events of this kind")
	fs.StringVar(&s.decision, "decision", "", "only what was decided so: allow or deny")
	fs.BoolVar(&s.denied, "denied", false, "only what was denied")
	fs.StringVar(&s.policy, "policy", "", "only what this policy decided, or was refused for this reason")
	fs.Var(&s.since, "since", "from this time on")
	fs.Var(&s.until, "until", "before this time")
	fs.Uint64Var(&s.Seq, "seq", 0, "from this record on")
}

// check turns the flags into a filter.
func (s *selection) check() error {
	if doors := []string{"", audit.DoorTool, audit.DoorCompute, audit.DoorModel, audit.DoorAdmin}; !slices.Contains(doors, s.Door) {
		return fmt.Errorf("%w: -door is one of %s", errUsage, strings.Join(doors[1:], ", "))
	}
	if s.denied {
		if s.decision == string(audit.Allow) {
			return fmt.Errorf("%w: -denied and -decision allow exclude each other", errUsage)
		}
		s.decision = string(audit.Deny)
	}
	if !slices.Contains([]string{"", string(audit.Allow), string(audit.Deny)}, s.decision) {
		return fmt.Errorf("%w: -decision is allow or deny", errUsage)
	}
	s.Effect, s.Kind = audit.Effect(s.decision), audit.Kind(s.kind)
	s.From, s.Until = s.since.Time, s.until.Time
	return nil
}

// A scan reads a log: [audit.Scan], or that of a verification.
type scan func(ctx context.Context, dir fs.FS, filter audit.Filter) iter.Seq2[audit.Record, error]

// records yields what is selected, outcomes with their calls.
func (s selection) records(ctx context.Context, dir fs.FS, read scan) iter.Seq2[audit.Record, error] {
	all := read(ctx, dir, s.Filter)
	if s.action == "" && s.policy == "" {
		return all
	}
	return func(yield func(audit.Record, error) bool) {
		calls := map[uint64]bool{}
		for r, err := range all {
			if err == nil && r.Outcome != nil {
				if !calls[r.Call] {
					continue
				}
				delete(calls, r.Call)
			} else if err == nil {
				if !s.matches(r) {
					continue
				}
				if r.Intent != nil {
					calls[r.Seq] = true
				}
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func (s selection) matches(r audit.Record) bool {
	var action string
	var reasons []string
	because := func(d *audit.Decision) {
		if d != nil {
			reasons = append(append(reasons, d.Reason), d.PolicyIDs()...)
		}
	}
	because(r.Decision())
	if in := r.Intent; in != nil {
		action = in.Action
		if in.Credential != nil {
			because(&in.Credential.Decision)
		}
	} else {
		action = r.Event.Action
	}
	return (s.action == "" || s.action == action) && (s.policy == "" || slices.Contains(reasons, s.policy))
}

// A moment is a flag: a time, a date, or how long ago.
type moment struct {
	time.Time
	text string
}

func (m *moment) String() string { return m.text }

func (m *moment) Set(s string) error {
	m.text = s
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			m.Time = t
			return nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("want a time (2026-11-28T09:00:00Z), a date (2026-11-28) or how long ago (36h)")
	}
	m.Time = time.Now().Add(-d)
	return nil
}
