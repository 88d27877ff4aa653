package governance

import (
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go/types"
)

// A sessionPast is what stays of a session.
type sessionPast struct {
	chapter
	labels map[string]*labelPast
	seen   int64 // when the session was last active
	full   bool  // a label had no room: nothing can be said any more
	names  []string
	set    types.Set
	fresh  bool // names and set are up to date
}

// A labelPast is a label that stays, or that may still go again.
type labelPast struct {
	stays bool
	open  []uint64
}

// session finds the session of an act, or begins it.
func (v *visit) session(t *trace) *sessionPast {
	if t.session != nil {
		return t.session
	}
	k := sessionOf(t.actor)
	s := v.agent.sessions[k]
	if s == nil {
		s = &sessionPast{chapter: chapter{}, labels: map[string]*labelPast{}}
		v.agent.sessions[k] = s
		v.grow(1)
	}
	s.seen = max(s.seen, t.at)
	t.session = s
	return s
}

func (s *sessionPast) view() ([]string, types.Set) {
	if !s.fresh {
		s.names = slices.Sorted(maps.Keys(s.labels))
		s.set, s.fresh = labelSet(s.names), true
	}
	return s.names, s.set
}

func (s *sessionPast) label(name string, v *visit) *labelPast {
	l := s.labels[name]
	if l == nil {
		if len(s.labels) == maxSessionLabels {
			s.full = true
			return nil
		}
		l = &labelPast{}
		s.labels[name], s.fresh = l, false
		v.grow(1)
	}
	return l
}

func (s *sessionPast) start(t *trace, v *visit) {
	for _, name := range t.labels {
		if l := s.label(name, v); l != nil && !l.stays {
			if l.open = append(l.open, t.seq); len(l.open) > maxOpen {
				l.stays, l.open = true, nil
			}
		}
	}
}

func (s *sessionPast) finish(t *trace, r Result, v *visit) {
	for _, name := range t.labels {
		l := s.labels[name]
		if r.used() || r.Reached {
			if l = s.label(name, v); l != nil {
				l.stays, l.open = true, nil
			}
			continue
		}
		if l == nil {
			continue
		}
		if l.open = slices.DeleteFunc(l.open, func(seq uint64) bool { return seq == t.seq }); !l.stays && len(l.open) == 0 {
			delete(s.labels, name)
			s.fresh = false
			v.grow(-1)
		}
	}
	for _, name := range r.Labels {
		if !isLabel(name) {
			s.full = true // it cannot be told to policies, so they are told nothing
			continue
		}
		if l := s.label(name, v); l != nil {
			l.stays, l.open = true, nil
		}
	}
}
