package tell

import "github.com/twinward-dev/twinward/audit"

// LineOf returns the line for a record that says what was decided. A list is
// such a record: it holds what the agent may know about.
func LineOf(step string, rec audit.Record) (Line, bool) {
	l := Line{Step: step, Door: rec.Door(), Decision: string(audit.Allow), Policies: []string{}, Record: rec.Seq, Agent: rec.Actor().Agent}
	if d := rec.Decision(); d != nil {
		l.Decision, l.Policies, l.Reason = string(d.Effect), d.PolicyIDs(), d.Reason
	}
	switch {
	case rec.Intent != nil:
		l.Action, l.Resource = rec.Intent.Action, rec.Intent.Resource
		return l, true
	case rec.Event != nil:
		l.Action, l.Resource = rec.Event.Action, rec.Event.Resource
		if rec.Event.Kind == audit.KindList {
			l.Reason = rec.Event.Detail["shown"] + " of " + rec.Event.Detail["of"] + " shown"
			return l, true
		}
		// The door records a repeated denial once, and at the end how often it
		// came again; that is not another decision.
		return l, rec.Event.Decision != nil && rec.Event.Detail["repeated"] == ""
	}
	return l, false
}
