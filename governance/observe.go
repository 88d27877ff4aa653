package governance

import (
	"cmp"
	"slices"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
)

// A Mode says whether what policies deny is denied.
type Mode int

const (
	// Enforce denies. It is the zero value.
	Enforce Mode = iota
	// Observe lets pass what policies deny, because no permit allows it or a
	// forbid does not, and records the denial as what would have been decided.
	// That, and nothing else, is weaker: what an agent's profile leaves out,
	// what is not in the catalogue, arguments that cannot be decided exactly,
	// a forbid that fails, and an obligation that is not met deny as always.
	//
	// It is for a host that gets to know what its agents do. Everything that
	// nobody has thought of is allowed meanwhile.
	Observe
)

// String returns enforce or observe.
func (m Mode) String() string {
	if m == Observe {
		return modeObserve
	}
	return modeEnforce
}

// laws sorts policies to the sets that are decided on together.
func (s *Snapshot) laws(all []*policy) {
	var enforced, observed, permits []*policy
	for _, p := range all {
		if p.observed {
			observed = append(observed, p)
			continue
		}
		enforced = append(enforced, p)
		if !p.forbid {
			permits = append(permits, p)
		}
	}
	s.law = s.index(enforced)
	if len(observed) > 0 {
		s.observed, s.whole = s.index(observed), s.index(all)
	}
	if s.mode == Observe {
		s.permits = s.index(permits)
	}
	s.reads = s.readsOf(cmp.Or(s.whole, s.law))
}

// observes reports whether a policy that is only observed could matter here.
func (s *Snapshot) observes(principals []asker, t *target) bool {
	if s.observed == nil {
		return false
	}
	for _, a := range principals {
		q := s.ask(a.uid, t, a.claims)
		found := len(q.find(s.observed, t)) > 0
		s.give(q)
		if found {
			return true
		}
	}
	return false
}

// tried decides as if everything were enforced. Whatever happens meanwhile, what
// is only observed does no harm.
func (s *Snapshot) tried(start Decision, r *Request, principals []asker, t *target, context types.RecordMap) (d Decision) {
	defer func() {
		if recover() != nil {
			d = refuse(start, audit.GuardPanic, hintClosed)
			delete(context, "user")
			delete(context, "agent")
		}
	}()
	return s.conclude(start, r, t, s.verdicts(nil, s.whole, principals, t, context))
}

// lift turns a denial by policies into what Observe makes of it: allowed by the
// permits that there are, forbids or not, with all that they demand.
func (s *Snapshot) lift(denied Decision, r *Request, permits []verdict, t *target) Decision {
	d := denied
	d.Policies, d.Reason, d.Nearest, d.Principal, d.Hint, d.byPolicy = nil, "", nil, "", "", false
	for i := range permits {
		permits[i].allowed = true
	}
	d = s.conclude(d, r, t, permits)
	d.Errors = denied.Errors // those of the permits are among them
	d.Would = append(slices.Clip(d.Would), denied.strict(audit.WouldEnforced))
	return d
}

// strict is the decision as it would be if it were enforced, with another name.
func (d *Decision) strict(source audit.WouldSource) audit.Would {
	for _, w := range d.Would {
		if w.Source == audit.WouldEnforced {
			w.Source = source
			return w
		}
	}
	return audit.Would{
		Source: source, PolicyHash: d.PolicyHash, Effect: d.Effect,
		Policies: d.Policies, Reason: d.Reason, Obligations: d.Obligations,
	}
}

// compare notes what other policies would have decided, if that is another
// effect or has another cause.
func (d *Decision) compare(other *Decision, source audit.WouldSource) {
	is, would := d.strict(source), other.strict(source)
	if is.Effect == would.Effect && cause(is.Reason) == cause(would.Reason) &&
		slices.EqualFunc(is.Policies, would.Policies, func(a, b audit.Policy) bool { return a.ID == b.ID }) &&
		slices.Equal(is.Obligations, would.Obligations) {
		return
	}
	// A decision's list may be shared with a copy of it.
	d.Would = append(slices.Clip(d.Would), would)
}

// An asker is a principal that a request is decided for.
type asker struct {
	uid    types.EntityUID
	claims map[string]string
	other  types.String    // the name of the other half in the context, or ""
	half   types.EntityUID // the other half
}

// askers are the agent and, when it acts for one, the user.
func (r *Request) askers(list []asker) []asker {
	agent := uid(typeAgent, r.Actor.Agent)
	if r.Actor.User == "" {
		return append(list, asker{uid: agent, claims: r.Claims})
	}
	user := uid(typeUser, r.Actor.User)
	return append(list, asker{agent, r.Claims, "user", user}, asker{user, nil, "agent", agent})
}

// verdicts asks Cedar for every principal, and appends what it says to out.
func (s *Snapshot) verdicts(out []verdict, law *law, principals []asker, t *target, context types.RecordMap) []verdict {
	for _, a := range principals {
		if a.other != "" {
			context[a.other] = a.half
		}
		out = append(out, s.evaluate(law, a.uid, t, types.NewRecord(context), a.claims))
		delete(context, a.other)
	}
	return out
}
