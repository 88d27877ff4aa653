// Package policytest holds policies to golden cases: questions, and the answers
// that a bundle must give.
//
//	func TestPolicies(t *testing.T) {
//		bundle, err := governance.LoadBundle(os.DirFS("policy"))
//		...
//		policytest.Run(t, bundle, policytest.Case{
//			Name:    "no announcements",
//			Request: governance.Request{Actor: audit.Actor{Agent: "standup-bot"}, Action: "call_tool", Server: "slack", Name: "post_message", Args: args},
//			Expect:  audit.Deny,
//		})
//	}
//
// Most cases stand in the bundle itself, in tests/*.json, where people who write
// policies find them. A file holds a list of cases in either of two forms, which
// may be mixed. The form of this module:
//
//	[{
//	  "name": "the standup goes to #engineering",
//	  "agent": "standup-bot",
//	  "tool": "slack__post_message",
//	  "args": {"channel": "#engineering", "text": "done"},
//	  "expect": "allow"
//	}, {
//	  "agent": "standup-bot", "user": "ann",
//	  "action": "connect", "resource": "api.github.com", "attrs": {"port": 443},
//	  "expect": "deny", "reason": "no-permit"
//	}]
//
// Its members are name; agent, user and session, who asks; tool, or action with
// server and resource, what is asked for; args, attrs, claims and time, how;
// history, {"facts": {"posts": 3}, "labels": ["crm"]}, what happened before;
// enforces, the obligations that the door can meet, all of them when it is left
// out; approved, groups of which a person has agreed to just this call, without
// which a call that needs it is denied with the reason "approval"; expect, "allow"
// or "deny"; reason, the cause of the denial, without a hash; and policies, ids of
// which all must be among those that determined the answer.
//
// And the form of the Cedar command line's run-tests, which asks Cedar and
// nothing else, so that the same file can be run by both:
//
//	[{
//	  "request": {"principal": "Agent::\"standup-bot\"", "action": "Action::\"slack__post_message\"",
//	              "resource": "Tool::\"slack__post_message\"", "context": {"args": {"channel": "#engineering"}}},
//	  "entities": [],
//	  "decision": "allow", "reason": ["standup-in-engineering"], "num_errors": 0
//	}]
//
// There the reasons must be among the determining policies, the entities are
// added to those of the bundle, and an answer fails the case too if this module
// would deny what Cedar allows because a forbid failed.
//
// Cases that all pass can still hold very little. [Report].NeverDecisive lists
// policies that determined no answer, and [Mutate] changes policies in small
// ways and counts how many of the changes some case notices.
package policytest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A Case is one question, and the answer that policy must give.
type Case struct {
	// Name says what the case shows; it may be empty.
	Name string
	// Request is what is asked. A nil Enforces stands for every kind of
	// obligation, unlike at a door: a case is about the policy. What its History
	// leaves out has not happened; a fact that no policy reads fails the case.
	Request governance.Request
	// Approved are groups of which a person has agreed to just this call.
	Approved []string
	// Expect is the effect. Required.
	Expect audit.Effect
	// Reason is the cause of the denial, without the hash of a snapshot; ""
	// takes any.
	Reason string
	// Policies must all be among those that determined the answer.
	Policies []string

	file  string
	index int
	cedar *cedarCase
}

// String names the case for messages: file, place in it, and name.
func (c Case) String() string {
	file := c.file
	if file == "" {
		file = "case"
	}
	text := fmt.Sprintf("%s[%d]", file, c.index)
	if c.Name != "" {
		text += fmt.Sprintf(" %q", c.Name)
	}
	return text
}

// everything is what a door that can meet any obligation says of itself.
var everything = []string{
	governance.ObligationApproval, governance.ObligationMaxBytes, governance.ObligationRate, governance.ObligationRedact, governance.ObligationRecordPrompt,
}

// A Failure is a case with another answer than expected.
type Failure struct {
	Case Case
	// Message says what was expected and what came, in one line.
	Message string
}

// String is one line: file, place, name and message.
func (f Failure) String() string { return f.Case.String() + ": " + f.Message }

// A Report says how a bundle did.
type Report struct {
	// Cases counts those that were run.
	Cases int
	// Failures are those with another answer than expected, in order.
	Failures []Failure
	// NeverDecisive are the policies that people wrote which determined no
	// answer, sorted by id: no case is about them.
	NeverDecisive []audit.Policy
}

// Err is nil when no case failed; its text has one line for each that did.
func (r Report) Err() error {
	if len(r.Failures) == 0 {
		return nil
	}
	lines := make([]string, len(r.Failures))
	for i, f := range r.Failures {
		lines[i] = f.String()
	}
	return fmt.Errorf("policytest: %d of %d cases failed:\n%s", len(r.Failures), r.Cases, strings.Join(lines, "\n"))
}

// Run compiles a bundle and runs its own cases and those given. What fails is an
// error of t; policies that no case is about are logged.
func Run(t testing.TB, b governance.Bundle, cases ...Case) Report {
	t.Helper()
	snap, rep, err := governance.Compile(t.Context(), b, nil)
	if err != nil {
		t.Errorf("%v", err)
		return Report{}
	}
	for _, f := range rep.Findings {
		t.Logf("%s", f)
	}
	own, err := Cases(b)
	if err != nil {
		t.Errorf("%v", err)
	}
	cases = slices.Clone(cases)
	for i := range cases {
		if cases[i].file == "" {
			cases[i].index = i
		}
	}
	r := Check(t.Context(), snap, append(own, cases...))
	for _, f := range r.Failures {
		t.Errorf("%s", f)
	}
	for _, p := range r.NeverDecisive {
		t.Logf("%s: no case is about policy %q", p.Position, p.ID)
	}
	return r
}

// Check runs cases against a snapshot.
func Check(ctx context.Context, s *governance.Snapshot, cases []Case) Report {
	r := Report{Cases: len(cases)}
	a := newAsker(s)
	decisive := map[string]bool{}
	for _, c := range cases {
		policies, problem := a.ask(ctx, c)
		if problem != "" {
			r.Failures = append(r.Failures, Failure{c, problem})
		}
		for _, id := range policies {
			decisive[id] = true
		}
	}
	for _, p := range s.Policies() {
		if p.Profile == "" && !p.Observed && !decisive[p.ID] {
			r.NeverDecisive = append(r.NeverDecisive, audit.Policy{ID: p.ID, Position: p.Position})
		}
	}
	return r
}

// An asker runs cases against one snapshot.
type asker struct {
	snap *governance.Snapshot
	law  *cedarLaw // made when first needed
}

func newAsker(s *governance.Snapshot) *asker { return &asker{snap: s} }

// ask runs one case. It returns the policies that determined the answer, and
// what is wrong with it.
func (a *asker) ask(ctx context.Context, c Case) (policies []string, problem string) {
	if c.Expect != audit.Allow && c.Expect != audit.Deny {
		return nil, fmt.Sprintf(`expects %q: say "allow" or "deny"`, c.Expect)
	}
	if c.cedar != nil {
		if a.law == nil {
			a.law = newCedarLaw(a.snap)
		}
		return a.law.ask(c)
	}
	r := c.Request
	if r.Enforces == nil {
		r.Enforces = everything
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	if r.History == nil {
		r.History = a.snap.NoHistory()
	} else {
		h := a.snap.NoHistory()
		for _, name := range slices.Sorted(maps.Keys(r.History.Facts)) {
			if _, ok := h.Facts[name]; !ok {
				return nil, fmt.Sprintf("its history has the fact %q, which no policy reads", name)
			}
		}
		maps.Copy(h.Facts, r.History.Facts)
		h.Labels = r.History.Labels
		r.History = h
	}
	d, err := a.snap.Decide(ctx, r)
	if c.Approved != nil && d.Reason == audit.GuardApproval {
		by := audit.Change{By: "policytest", Reason: "the case says that it was approved"}
		if r.Approval, err = d.Approve(by, c.Approved, r.Time, time.Hour); err == nil {
			d, err = a.snap.Decide(ctx, r)
		}
	}
	policies = d.PolicyIDs()
	reason, _, _ := strings.Cut(d.Reason, "@")
	switch {
	case err != nil:
		problem = err.Error()
	case d.Effect != c.Expect:
		problem = fmt.Sprintf("want %s, got %s", c.Expect, answer(d))
	case c.Reason != "" && c.Reason != reason:
		problem = fmt.Sprintf("want %s because of %s, got %s", c.Expect, c.Reason, answer(d))
	default:
		for _, id := range c.Policies {
			if !slices.Contains(policies, id) {
				problem = fmt.Sprintf("want %s by %s, got %s", c.Expect, id, answer(d))
			}
		}
	}
	return policies, problem
}

// answer is a decision in a few words.
func answer(d governance.Decision) string {
	by := strings.Join(d.PolicyIDs(), ", ")
	if d.Allowed() {
		return "allow by " + by
	}
	text := "deny because of " + d.Reason
	if by != "" && by != d.Reason {
		text += " by " + by
	}
	if len(d.Nearest) > 0 {
		text += "; nearest is " + strings.Join(d.Nearest, ", ")
	}
	if d.Reason == audit.GuardArguments || d.Reason == audit.GuardStrictJSON {
		text += ": " + d.Hint
	}
	return text
}
