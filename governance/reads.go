package governance

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// reads are the parts of the context of a tool that somebody reads: policies
// about it, and facts that watch it. To make a Cedar record takes longer than to
// decide, so what nobody reads is checked and then left out. nil stands for
// everything.
type reads struct {
	now, session, labels, derived bool

	args argument.Selection
}

// arguments are what is read of the arguments.
func (r *reads) arguments() *argument.Selection {
	if r == nil {
		return nil
	}
	return &r.args
}

// add adds a part that a policy reads of t.
func (r *reads) add(read cedarx.Read, t *tool) {
	switch read.Attr {
	case "now":
		r.now = true
	case "session":
		r.session = true
	case "labels":
		r.labels = true
	case "nulls":
		r.args.Nulls = true
	case "extra":
		r.args.Extra = true
	case "derived":
		r.derived = true
	case "args":
		r.arg(read.Below, t)
	}
}

// arg adds a field of the arguments; "" is all of them.
func (r *reads) arg(name string, t *tool) {
	if name == "" {
		r.args.Fields = nil
	} else if i, ok := t.args.ByName[name]; ok && r.args.Fields != nil {
		r.args.Fields[i] = true
	}
}

// readsOf works out for each tool, by its number, what is read of its context if
// nothing but policies of l is asked about it.
func (s *Snapshot) readsOf(l *law) []*reads {
	// Few actions stand in the scopes of many policies. Whether a scope takes in
	// members does not matter: to read too much is no mistake.
	type readers struct {
		parts map[cedarx.Read]bool
		whole bool
	}
	scopes := map[types.EntityUID]*readers{}
	anything := []types.EntityUID{{}} // which stands above every action
	type found struct {
		parts []cedarx.Read
		whole bool
	}
	known := map[*cedar.Policy]found{} // many are the same but for their scope
	for _, c := range l.All() {
		reads, seen := known[c.Policy]
		if !seen {
			reads.parts, reads.whole = cedarx.Reads(c.Policy) // what is evaluated, and nothing else
			known[c.Policy] = reads
		}
		if len(reads.parts) == 0 && !reads.whole {
			continue
		}
		of := anything
		if scope := l.of(c).action; scope.Bounded {
			of = scope.Any
		}
		for _, action := range of {
			in := scopes[action]
			if in == nil {
				in = &readers{parts: map[cedarx.Read]bool{}}
				scopes[action] = in
			}
			in.whole = in.whole || reads.whole
			for _, part := range reads.parts {
				in.parts[part] = true
			}
		}
	}
	out := make([]*reads, len(s.tools))
	for _, t := range s.tools {
		r, whole := &reads{args: argument.Selection{Fields: make([]bool, len(t.args.Fields))}}, false
		for _, action := range slices.Concat(ancestors(s.entities, t.action), []types.EntityUID{t.action}, anything) {
			if in := scopes[action]; in != nil {
				whole = whole || in.whole
				for part := range in.parts {
					r.add(part, t)
				}
			}
		}
		if whole {
			continue
		}
		if plan := s.facts[t.action]; plan != nil {
			for _, path := range plan.paths() {
				r.arg(path[0], t)
			}
		}
		out[t.number] = r
	}
	return out
}

// paths are the arguments that facts look at.
func (a *actionFacts) paths() (out [][]string) {
	for _, k := range a.keys {
		out = append(out, k...)
	}
	for _, w := range a.watches {
		for _, c := range w.where {
			out = append(out, c.path)
		}
		if len(w.of) > 0 {
			out = append(out, w.of)
		}
	}
	return out
}
