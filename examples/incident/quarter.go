package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/twinward-dev/twinward/audit"
)

// segment is the host's log, which is short enough to be one file.
var segment = audit.SegmentName(1)

// quarter looks at what the auditor's report says, and shows it: the open calls,
// and each row with its chain of authorisation.
func (n *night) quarter(q quarter, v verdict) {
	for _, r := range q.OpenRows.List {
		n.seen.Open = append(n.seen.Open, fmt.Sprintf("record %d: %s %s", r.Record.Seq, r.Record.Intent.Actor.Agent, r.Record.Intent.Action))
	}
	if len(n.seen.Open) != len(v.Open) {
		n.wrong("the report names %d open calls of %d", len(n.seen.Open), len(v.Open))
	}
	var wrongs []string
	wrongs, n.seen.Rows = q.broken()
	n.seen.NoChain = len(wrongs)
	for _, w := range wrongs {
		n.wrong("the quarter: %s", w)
	}
	n.people(q)
	n.show.Say("Open when the power went: %s\n", strings.Join(n.seen.Open, "; "))
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AGENT\tWHAT\tTIMES\tOWNER\tPROFILE BY\tPOLICIES\tDEPLOYED BY\tAPPROVED BY\tGRANTED BY")
	for _, agent := range q.Agents {
		for _, r := range agent.Operations {
			if r.allowed() == 0 {
				continue
			}
			var who columns
			for _, i := range r.Authorities {
				who.add(agent.Authorities[i], r.Action)
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", agent.Name, r.Action, r.allowed(), who.owner.of(), who.profile.of(), len(who.policy), who.deployed.of(), who.approved.of(), who.granted.of())
		}
	}
	_ = t.Flush() // into memory
	n.show.Say("%s", table.String())
}

// people makes sure that the quarter names everybody who had a part in it.
func (n *night) people(q quarter) {
	var who columns
	for _, agent := range q.Agents {
		for _, c := range agent.Authorities {
			who.add(c, "")
		}
	}
	for what, is := range map[string]struct {
		named words
		want  []string
	}{
		"owner":       {who.owner, []string{owner}},
		"profile":     {who.profile, []string{"night " + promoter.By}},
		"deployed by": {who.deployed, []string{deployer}},
		"approved by": {who.approved, []string{approver}},
		"granted by":  {who.granted, []string{granter}},
	} {
		if !slices.Equal(is.named, is.want) {
			n.wrong("the quarter: %s: %v, and it was %v", what, is.named, is.want)
		}
	}
	if want := n.opts.rounds + 1; len(who.policy) != want {
		n.wrong("the quarter knows %d versions of the policy, and there were %d", len(who.policy), want)
	}
}

// words are different ones, in the order in which they came.
type words []string

func (w *words) add(s string) {
	if s != "" && !slices.Contains(*w, s) {
		*w = append(*w, s)
	}
}

func (w words) of() string {
	if len(w) == 0 {
		return "-"
	}
	return strings.Join(w, ", ")
}

// columns are the people in some chains.
type columns struct{ owner, profile, policy, deployed, approved, granted words }

func (c *columns) add(chain chain, action string) {
	by := func(a *act) string {
		if a == nil {
			return ""
		}
		return a.By
	}
	c.owner.add(chain.Owner)
	c.profile.add(chain.Profile + " " + by(chain.Registered))
	c.policy.add(chain.PolicyHash)
	c.deployed.add(by(chain.Deployed))
	if action == "" || action == approvable {
		for _, a := range chain.Approvals {
			c.approved.add(a.By)
		}
	}
	if action != "exec" { // which needs no credential
		for _, g := range chain.Credentials {
			c.granted.add(by(g.Bound))
			c.granted.add(by(g.Rotated))
		}
	}
}
