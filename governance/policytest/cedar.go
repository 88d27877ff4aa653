package policytest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A cedarCase is a case in the form of the Cedar command line.
type cedarCase struct {
	request  cedar.Request
	entities types.EntityMap
	errors   int
}

// A cedarLaw are the policies and entities of a snapshot, as plain Cedar.
type cedarLaw struct {
	policies cedar.PolicyMap
	forbid   map[cedar.PolicyID]bool
	entities types.EntityMap
	err      error
}

func newCedarLaw(s *governance.Snapshot) *cedarLaw {
	l := &cedarLaw{policies: cedar.PolicyMap{}, forbid: map[cedar.PolicyID]bool{}, entities: s.Entities()}
	for _, p := range s.Policies() {
		var c cedar.Policy
		if err := c.UnmarshalCedar([]byte(p.Text)); err != nil {
			l.err = fmt.Errorf("policy %q: %w", p.ID, err)
			return l
		}
		l.policies[cedar.PolicyID(p.ID)] = &c
		l.forbid[cedar.PolicyID(p.ID)] = p.Forbid
	}
	return l
}

// ask runs a case as the Cedar command line does.
func (l *cedarLaw) ask(c Case) (policies []string, problem string) {
	if l.err != nil {
		return nil, l.err.Error()
	}
	entities := l.entities
	if len(c.cedar.entities) > 0 {
		entities = maps.Clone(entities)
		maps.Copy(entities, c.cedar.entities)
	}
	effect, diag := cedar.Authorize(l.policies, entities, c.cedar.request)
	for _, r := range diag.Reasons {
		policies = append(policies, string(r.PolicyID))
	}
	slices.Sort(policies)
	got := audit.Deny
	if effect == cedar.Allow {
		got = audit.Allow
	}
	text := fmt.Sprintf("%s by [%s]", got, strings.Join(policies, ", "))
	if got != c.Expect {
		return policies, fmt.Sprintf("want %s, got %s", c.Expect, text)
	}
	for _, id := range c.Policies {
		if !slices.Contains(policies, id) {
			return policies, fmt.Sprintf("want %s by %s, got %s", c.Expect, id, text)
		}
	}
	if len(diag.Errors) != c.cedar.errors {
		return policies, fmt.Sprintf("want %d errors, got %d: %v", c.cedar.errors, len(diag.Errors), diag.Errors)
	}
	for _, e := range diag.Errors {
		if got == audit.Allow && l.forbid[e.PolicyID] {
			return policies, fmt.Sprintf("Cedar allows, but an engine denies: forbid %s fails", e.PolicyID)
		}
	}
	return policies, ""
}
