package governance

import (
	"context"
	"fmt"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// Visibility says whether some arguments could make a call allowed.
type Visibility int

// The answers of [Engine.Visible].
const (
	// Never: no arguments, claims or time would make it allowed.
	Never Visibility = iota
	// Conditional: it depends on what is not known before the call.
	Conditional
	// Always: every call with proper arguments is allowed.
	Always
)

// String returns never, conditional or always.
func (v Visibility) String() string {
	switch v {
	case Conditional:
		return "conditional"
	case Always:
		return "always"
	}
	return "never"
}

// A ToolRef names a tool, prompt or resource of a server.
type ToolRef struct{ Server, Name string }

// Visible answers for each tool, in order, whether the actor could ever call
// it. Arguments, claims and time are unknown, so that a tool which some
// argument could permit is never called Never. An obligation does not hide.
// The error is not nil only when nothing could be decided; all answers are
// Never then.
//
// Answers about tools are remembered in the snapshot, for the last thousand or
// so principals; those about prompts and resources are found out each time.
func (s *Snapshot) Visible(ctx context.Context, a audit.Actor, action string, tools []ToolRef) (out []Visibility, err error) {
	out = make([]Visibility, len(tools))
	if s == nil {
		return out, ErrNoSnapshot
	}
	defer func() {
		if p := recover(); p != nil {
			out, err = make([]Visibility, len(tools)), fmt.Errorf("%w: %v", ErrPanic, p)
		}
	}()
	if err := a.Validate(); err != nil {
		return out, err
	}
	if a.Profile != "" && a.Profile != s.members[a.Agent] {
		return out, nil
	}
	agent, user := uid(typeAgent, a.Agent), uid(typeUser, a.User)
	agentSees, userSees := s.seen.of(agent, len(s.tools)), sights(nil)
	if a.User != "" {
		userSees = s.seen.of(user, len(s.tools))
	}
	for i, ref := range tools {
		if err := ctx.Err(); err != nil {
			return make([]Visibility, len(tools)), err
		}
		r := Request{Actor: a, Action: action, Server: ref.Server, Name: ref.Name}
		if r.checkText() != nil {
			continue
		}
		t, err := s.resolve(&r)
		if err != nil {
			continue
		}
		out[i] = agentSees.once(&t, func() Visibility { return s.could(agent, &t) })
		if a.User != "" {
			out[i] = min(out[i], userSees.once(&t, func() Visibility { return s.could(user, &t) }))
		}
	}
	return out, nil
}

// could joins the possible outcomes of all policies for one principal.
func (s *Snapshot) could(principal types.EntityUID, t *target) Visibility {
	q := s.ask(principal, t, nil)
	defer s.give(q)
	// Where policies are only observed, their forbids and missing permits do not
	// deny, and all others do.
	observe := s.mode == Observe
	permit, always, deny := observe, observe, false
	for _, c := range q.find(s.law, t) {
		p := s.law.of(c)
		var o cedarx.Outcomes
		if p.readTags {
			// Tags hold claims, which are unknown too: look at the scope only.
			o = cedarx.IgnoringConditions(p.cedar, &q.store, principal, t.action, t.resource)
		} else {
			o = cedarx.WithUnknownContext(p.cedar, &q.store, principal, t.action, t.resource)
		}
		denies := cedarx.Outcomes(0)
		if p.forbid && (!observe || p.profile != "") {
			denies = cedarx.Matches
		}
		if s.errors.denies(p) {
			denies |= cedarx.Errs
		}
		if o != 0 && o&^denies == 0 {
			return Never // whatever comes of it denies
		}
		deny = deny || o&denies != 0
		if !p.forbid {
			permit = permit || o&cedarx.Matches != 0
			always = always || o == cedarx.Matches
		}
	}
	switch {
	case !permit:
		return Never
	case always && !deny:
		return Always
	}
	return Conditional
}
