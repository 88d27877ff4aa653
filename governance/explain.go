package governance

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// An Audience says for whom an explanation is.
type Audience int

// The audiences of [Snapshot.Explain].
const (
	// ForAgent tells nothing of policies: whether it is allowed, and a hint.
	ForAgent Audience = iota
	// ForOperator tells everything, argument values included.
	ForOperator
)

// An Explanation says why a request is decided as it is, and what would change
// that.
type Explanation struct {
	// Allowed is the decision; Hint is what the agent may be told of a denial.
	Allowed bool
	Hint    string

	// All that follows is for operators only.

	// Reason is the cause of a denial.
	Reason string
	// Errors are what policies failed with.
	Errors []string
	// Obligations are what the permits demand of the door.
	Obligations []audit.Obligation
	// Forbids are those that apply, and what makes them.
	Forbids []Clauses
	// Permits are those that came nearest, nearest first, and what they lack;
	// of an allowed request, those that apply.
	Permits []Clauses
}

// Clauses are conditions of one policy that decide about a request.
type Clauses struct {
	// Policy is what they stand in.
	Policy audit.Policy
	// Principal is who was asked about, `Agent::"…"` or `User::"…"`.
	Principal string
	// Conditions of a permit are those that are not met, of a forbid all that
	// it has.
	Conditions []Condition
}

// A Condition is one condition and what it came to.
type Condition struct {
	// Text is Cedar, such as `context.args.channel == "#engineering"`.
	Text string
	// Is says what it read, by Cedar's name for it, each as Cedar or "absent".
	Is []Reading
	// Passing are values that would meet it, as Cedar, where it lists them.
	Passing []string
	// Error says why it could not be evaluated.
	Error string
}

// A Reading is a part of the request and its value.
type Reading struct{ Name, Value string }

// nearestExplained bounds the permits that an explanation names.
const nearestExplained = 5

// Explain decides a request and says why. Only policies for the same action and
// resource are looked at, and every condition is evaluated by cedar-go. It costs
// more than a decision: ask on demand and not for every denial. The error is
// that of [Snapshot.Decide].
//
// What operators are told holds values of arguments in clear.
func (s *Snapshot) Explain(ctx context.Context, r Request, to Audience) (x Explanation, err error) {
	d, err := s.Decide(ctx, r)
	x = Explanation{Allowed: d.Allowed(), Hint: d.Hint}
	if err != nil {
		if to == ForOperator {
			x.Reason = d.Reason
		}
		return x, err
	}
	defer func() {
		if p := recover(); p != nil {
			x, err = Explanation{Hint: hintClosed}, fmt.Errorf("%w: %v", ErrPanic, p)
		}
	}()
	asked, t, known := s.situations(&r)
	if to != ForOperator {
		if known && d.Reason == audit.ReasonNoPermit {
			x.Hint = hintArguments(s.unmet(asked, t), x.Hint)
		}
		return x, nil
	}
	x.Reason, x.Errors, x.Obligations = d.Reason, d.Errors, d.Obligations
	if !known {
		return x, nil
	}
	if d.Allowed() || len(d.Obligations) > 0 {
		x.Permits = s.applying(asked, d, false)
		return x, nil
	}
	x.Forbids = s.applying(asked, d, true)
	if len(x.Forbids) == 0 {
		x.Permits = s.unmet(asked, t)
	}
	return x, nil
}

// A situation is what Cedar is asked about one principal of a request.
type situation struct {
	principal types.EntityUID
	above     []types.EntityUID
	env       cedarx.Env
	allowed   bool
}

// situations returns those of agent and user. It reports false where a guard
// refuses before Cedar is asked.
func (s *Snapshot) situations(r *Request) ([]situation, *target, bool) {
	if r.checkText() != nil || len(r.Claims) > argument.MaxSet {
		return nil, nil, false
	}
	t, err := s.resolve(r)
	if err != nil {
		return nil, nil, false
	}
	now := r.Time
	if now.IsZero() {
		now = s.clock()
	}
	m, err := r.context(&t, now, nil)
	if err == nil {
		_, err = s.look(r, &t, m, now, nil)
	}
	if err != nil {
		return nil, nil, false
	}
	if r.Approval != nil {
		if r.Approval.check(s, r, now) != nil {
			return nil, nil, false
		}
		m["approval"] = r.Approval.value(r)
	}
	var out []situation
	for _, a := range r.askers(nil) {
		if a.other != "" {
			m[a.other] = a.half
		}
		store := &overlay{static: s.entities, resource: t.dynamic, principal: s.principal(a.uid, a.claims)}
		store.resource.UID = t.resource
		context := types.NewRecord(m)
		out = append(out, situation{
			principal: a.uid,
			above:     ancestors(s.entities, a.uid),
			env:       cedarx.Env{Entities: store, Principal: a.uid, Action: t.action, Resource: t.resource, Context: context},
			allowed:   s.evaluate(s.law, a.uid, &t, context, a.claims).allowed,
		})
		delete(m, a.other)
	}
	return out, &t, true
}

// applying explains the policies that determined the decision.
func (s *Snapshot) applying(asked []situation, d Decision, forbid bool) []Clauses {
	var out []Clauses
	for _, ref := range d.Policies {
		p := s.policies[types.PolicyID(ref.ID)]
		if p == nil || p.forbid != forbid {
			continue
		}
		for _, a := range asked {
			if !p.principal.Matches(a.principal, a.above) {
				continue
			}
			c := Clauses{Policy: ref, Principal: a.principal.String()}
			for _, clause := range cedarx.Clauses(p.cedar) {
				c.Conditions = append(c.Conditions, a.condition(clause))
			}
			out = append(out, c)
		}
	}
	return out
}

// unmet ranks the permits for the action and resource by how little they lack.
// Who asks weighs more than what with: an agent cannot change it.
func (s *Snapshot) unmet(asked []situation, t *target) []Clauses {
	type ranked struct {
		Clauses
		lacks int
	}
	var all []ranked
	for _, a := range asked {
		if a.allowed {
			continue
		}
		for _, p := range s.about(t) {
			if p.forbid {
				continue
			}
			c := ranked{Clauses: Clauses{Policy: audit.Policy{ID: p.id, Position: p.pos}, Principal: a.principal.String()}}
			if !p.principal.Matches(a.principal, a.above) {
				c.lacks += 10
				c.Conditions = append(c.Conditions, s.scopeCondition(p, a))
			}
			for _, clause := range cedarx.Clauses(p.cedar) {
				if ok, err := clause.Holds(a.env); !ok || err != nil {
					c.lacks++
					c.Conditions = append(c.Conditions, a.condition(clause))
				}
			}
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(x, y ranked) int {
		return cmp.Or(x.lacks-y.lacks, strings.Compare(x.Policy.ID, y.Policy.ID))
	})
	var out []Clauses
	for _, c := range all[:min(len(all), nearestExplained)] {
		out = append(out, c.Clauses)
	}
	return out
}

// scopeCondition says who a permit is for.
func (s *Snapshot) scopeCondition(p *policy, a situation) Condition {
	c := Condition{Text: "principal"}
	if p.principal.Type != "" {
		c.Text += " is " + string(p.principal.Type)
	}
	if p.principal.Bounded {
		op := " in "
		if p.principal.Exact {
			op = " == "
		}
		c.Text += op + joined(p.principal.Any)
	}
	is := a.principal.String()
	if len(a.above) > 0 {
		is += " in " + joined(a.above)
	}
	c.Is = []Reading{{"principal", clip(is)}}
	return c
}

func joined(list []types.EntityUID) string {
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.String()
	}
	return strings.Join(out, ", ")
}

// condition describes a clause and what it came to.
func (a situation) condition(clause cedarx.Clause) Condition {
	c := Condition{Text: clause.String()}
	if _, err := clause.Holds(a.env); err != nil {
		c.Error = clip(err.Error())
	}
	for _, term := range clause.Terms() {
		reading := Reading{term.String(), "absent"}
		if v, err := term.Value(a.env); err == nil {
			reading.Value = printed(v)
		}
		c.Is = append(c.Is, reading)
	}
	if mentions := clause.Mentions(); len(mentions) == 1 && len(c.Is) == 1 && !strings.HasPrefix(c.Text, "!") {
		switch m := mentions[0]; m.Op {
		case "==":
			c.Passing = []string{printed(m.Value)}
		case "one of":
			if set, ok := m.Value.(types.Set); ok {
				c.Passing = elements(set)
			}
		}
	}
	return c
}

// printed is a value as Cedar, bounded.
func printed(v types.Value) string {
	if set, ok := v.(types.Set); ok { // whose order is none
		return clip("[" + strings.Join(elements(set), ", ") + "]")
	}
	return clip(string(v.MarshalCedar()))
}

func elements(set types.Set) []string {
	var out []string
	for v := range set.All() {
		out = append(out, printed(v))
	}
	slices.Sort(out)
	return out
}

// hintArguments names the arguments that a permit for this very principal asks
// about, and none of the values: which would do is not for the agent.
func hintArguments(near []Clauses, otherwise string) string {
	if len(near) == 0 || len(near[0].Conditions) == 0 {
		return otherwise
	}
	var names []string
	for _, c := range near[0].Conditions {
		for _, is := range c.Is {
			name, ok := strings.CutPrefix(is.Name, "context.args.")
			if !ok {
				return otherwise
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return otherwise
	}
	return "This is not permitted to you with this value of " + strings.Join(names, ", ") + "."
}

// String is the explanation in lines of plain English. It is as confidential
// as the explanation.
func (x Explanation) String() string {
	var b strings.Builder
	verdict := "denied"
	if x.Allowed {
		verdict = "allowed"
	}
	b.WriteString(verdict)
	if x.Reason != "" {
		b.WriteString(": " + x.Reason)
	}
	b.WriteString("\n")
	if x.Hint != "" {
		fmt.Fprintf(&b, "hint for the agent: %s\n", x.Hint)
	}
	for _, e := range x.Errors {
		fmt.Fprintf(&b, "error: %s\n", e)
	}
	for _, c := range x.Forbids {
		fmt.Fprintf(&b, "forbid %s applies to %s", c.Policy.ID, c.Principal)
		c.write(&b, " because ")
	}
	for _, o := range x.Obligations {
		fmt.Fprintf(&b, "permit %s demands @%s(%s)\n", o.Policy, o.Kind, cedarx.Quote(o.Value))
	}
	for _, c := range x.Permits {
		if x.Allowed || len(x.Obligations) > 0 {
			fmt.Fprintf(&b, "permit %s applies to %s", c.Policy.ID, c.Principal)
			c.write(&b, " because ")
			continue
		}
		fmt.Fprintf(&b, "permit %s", c.Policy.ID)
		if len(c.Conditions) == 0 {
			b.WriteString(" applies")
		}
		c.write(&b, " needs ")
	}
	return b.String()
}

func (c Clauses) write(b *strings.Builder, word string) {
	for i, cond := range c.Conditions {
		if i == 0 {
			b.WriteString(word)
		} else {
			b.WriteString("; and ")
		}
		b.WriteString(cond.String())
	}
	fmt.Fprintf(b, " (%s)\n", c.Policy.Position)
}

// String is one line, such as
//
//	context.args.repo in ["a", "b"]; it is "c"
func (c Condition) String() string {
	text := c.Text
	if len(c.Passing) > 1 && len(c.Is) == 1 {
		text = c.Is[0].Name + " in [" + strings.Join(c.Passing, ", ") + "]"
	}
	if len(c.Is) == 1 {
		return text + "; it is " + c.Is[0].Value
	}
	is := make([]string, len(c.Is))
	for i, r := range c.Is {
		is[i] = r.Name + " is " + r.Value
	}
	if len(is) > 0 {
		text += "; " + strings.Join(is, ", ")
	}
	return text
}
