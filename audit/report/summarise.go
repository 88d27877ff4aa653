package report

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/entity"
)

// Summarise reads the records of one log once and returns the answers.
//
// Give it all records of the log, in order, as from [audit.Scan] with the zero
// [audit.Filter], and leave the choice of agent and period to the options: who
// authorised an act is often on record long before the period, and how an act
// ended may be on record after it. From records that were filtered already it
// makes the same counts, and says of the rest that it is missing.
func Summarise(records iter.Seq2[audit.Record, error], opts *Options) (*Summary, error) {
	o := opts.withDefaults()
	log := Log{Records: records, Verified: o.Verified, Failure: o.Failure}
	if o.Verified != nil {
		log.Origin = o.Verified.Origin
	}
	return summarise([]Log{log}, o)
}

// A Log is one of several logs that make one summary.
type Log struct {
	// Origin is the log's name. It tells the logs apart: each has its own.
	Origin  string
	Records iter.Seq2[audit.Record, error]
	// Verified and Failure are what verifying this log found.
	Verified *audit.VerifyReport
	Failure  error
}

// SummariseLogs is [Summarise] over the logs of several hosts, or over parts of
// one log that were archived under names of their own. Records are taken in the
// order of their times, so that an agent that was registered on one host is
// known when it acts on another. [Options.Verified] and [Options.Failure] are
// not used.
func SummariseLogs(logs []Log, opts *Options) (*Summary, error) {
	seen := map[string]bool{}
	for _, l := range logs {
		if seen[l.Origin] {
			return nil, fmt.Errorf("report: two logs have the name %q: their records could not be told apart", l.Origin)
		}
		seen[l.Origin] = true
	}
	return summarise(logs, opts.withDefaults())
}

func summarise(logs []Log, o Options) (*Summary, error) {
	c := newCollector(logs, o)
	for r, err := range merge(logs) {
		if err != nil {
			return nil, fmt.Errorf("report: %w", err)
		}
		c.add(r)
	}
	return c.finish(), nil
}

type (
	opKey    struct{ door, action string }
	causeKey struct{ agent, door, action, resource, reason, policies, hash string }
	agentOf  struct{ name, agent string }
	wouldKey struct{ agent, action, source, effect, reason string }
	eventKey struct{ kind, action string }
	callKey  struct {
		log int
		seq uint64
	}
)

// An agentState is an [Agent] being counted.
type agentState struct {
	Agent
	ops    map[opKey]*opState
	events map[eventKey]*uint64
	grants grants
}

// An opState is an [Operation] being counted.
type opState struct {
	Operation
	firsts [5]Ref // by status: the first of each
}

// A pending call waits for its outcome.
type pending struct {
	op    *opState
	agent *agentState
	grant *Authority
	row   *Row // nil when too many calls are open
	ref   Ref
	cred  *CredentialUse
}

// A collector counts records. It is what makes a [Summary].
type collector struct {
	o    Options
	s    *Summary
	logs []Log

	agents  map[string]*agentState
	denials map[causeKey]*Denial
	creds   map[agentOf]*CredentialUse
	models  map[agentOf]*ModelUse
	egress  map[agentOf]*Egress
	would   map[wouldKey]*Would
	open    map[callKey]pending
	known   register
	times   histogram
}

func newCollector(logs []Log, o Options) *collector {
	c := &collector{
		o: o, logs: logs,
		s:       &Summary{Title: o.Title, Written: o.Now, Agent: o.Agent, From: o.From, To: o.To},
		agents:  map[string]*agentState{},
		denials: map[causeKey]*Denial{},
		creds:   map[agentOf]*CredentialUse{},
		models:  map[agentOf]*ModelUse{},
		egress:  map[agentOf]*Egress{},
		would:   map[wouldKey]*Would{},
		open:    map[callKey]pending{},
		known:   newRegister(),
	}
	for _, l := range logs {
		st := LogStatement{Origin: l.Origin, Verified: l.Verified}
		if l.Failure != nil {
			st.Failure = l.Failure.Error()
		}
		c.s.Logs = append(c.s.Logs, st)
	}
	return c
}

func (c *collector) add(r merged) {
	c.s.Logs[r.log].Read++
	if out := r.Record.Outcome; out != nil {
		c.outcome(r, out)
		return
	}
	t := r.Record.Time
	if !c.o.To.IsZero() && !t.Before(c.o.To) {
		return
	}
	row := Row{c.logs[r.log].Origin, r.Record}
	if r.Record.Event != nil {
		c.known.see(row)
	}
	if t.Before(c.o.From) {
		return
	}
	switch {
	case r.Record.Intent != nil:
		c.intent(r, row)
	case r.Record.Event != nil:
		c.event(row)
	}
}

// counted notes that a record is one of those that the summary is about.
func (c *collector) counted(t time.Time) {
	c.s.Records++
	if c.s.First.IsZero() || t.Before(c.s.First) {
		c.s.First = t
	}
	if t.After(c.s.Last) {
		c.s.Last = t
	}
}

func (c *collector) wanted(agent string) bool { return c.o.Agent == "" || c.o.Agent == agent }

func (c *collector) agent(a audit.Actor) *agentState {
	st, made := group(c.agents, maxAgents, a.Agent, Others)
	if made {
		st.Name = a.Agent
		if len(c.agents) > maxAgents {
			st.Name = Others
		}
		st.ops, st.events = map[opKey]*opState{}, map[eventKey]*uint64{}
	}
	st.Users.add(a.User)
	return st
}

func (a *agentState) op(door, action string, at Ref) *opState {
	op, made := group(a.ops, maxOperations, opKey{door, action}, opKey{door, Others})
	if made {
		op.Door, op.Action, op.First = door, action, at
		if len(a.ops) > maxOperations {
			op.Action = Others
		}
	}
	op.Last = at
	return op
}

// count counts n acts that ended in a way, and reports whether they were the
// first.
func (op *opState) count(status int, n uint64, at Ref) (first bool) {
	if first = op.firsts[status].Seq == 0; first {
		op.firsts[status] = at
	}
	*op.Tally.of(status) += n
	return first
}

// cite keeps a record that the summary refers to, should it be known.
func (c *collector) cite(row *Row) {
	if row != nil {
		c.s.CitedRows.keep(*row, c.o.MaxRows)
	}
}

// The ways in which an act ends, in the order in which they are told.
const (
	done = iota
	failed
	cancelled
	unfinished
	denied
)

var statusWords = [...]string{"done", "failed", "cancelled", "open", "denied"}

func (t *Tally) of(status int) *uint64 {
	return [...]*uint64{&t.Done, &t.Failed, &t.Cancelled, &t.Open, &t.Denied}[status]
}

func (c *collector) intent(r merged, row Row) {
	in := r.Record.Intent
	if !c.wanted(in.Actor.Agent) {
		return
	}
	c.counted(r.Record.Time)
	ref := row.Ref()
	a := c.agent(in.Actor)
	op := a.op(in.Door, in.Action, ref)
	op.Resources.add(nameOf(in.Resource))
	op.Policies.add(in.Decision.PolicyIDs()...)
	p := pending{op: op, agent: a, ref: ref}
	grant, n := a.grants.under(&c.known, row)
	p.grant = grant
	if i, found := slices.BinarySearch(op.Authorities, n); !found && len(op.Authorities) < fewest {
		op.Authorities = slices.Insert(op.Authorities, i, n)
	}
	if use := in.Credential; use != nil {
		u, _ := group(c.creds, maxGroups, agentOf{use.Name, in.Actor.Agent}, agentOf{Others, Others})
		u.Uses++
		u.Last = ref
		u.Policies.add(use.Decision.PolicyIDs()...)
		p.cred = u
	}
	if isEgress(in.Door, in.Action) {
		e, _ := group(c.egress, maxGroups, agentOf{in.Resource, in.Actor.Agent}, agentOf{Others, Others})
		e.Allowed++
	}
	c.notApplied(in.Actor.Agent, in.Action, &in.Decision, ref)
	if len(c.open) <= c.o.MaxRows {
		p.row = &row
	}
	c.open[callKey{r.log, r.Record.Seq}] = p
	c.times.count(r.Record.Time, false, 1)
}

func (c *collector) outcome(r merged, out *audit.Outcome) {
	key := callKey{r.log, r.Record.Call}
	p, ok := c.open[key]
	if !ok {
		return // its intent is not among the records that were asked for
	}
	delete(c.open, key)
	c.counted(p.ref.Time) // the outcome belongs to its intent, whenever it came
	status := failed
	switch out.Status {
	case audit.StatusOK:
		status = done
	case audit.StatusCancelled:
		status = cancelled
	}
	if p.op.count(status, 1, p.ref) {
		c.cite(p.row)
	}
	sum(&p.op.Bytes, out.Bytes)
	if p.cred != nil && out.CredentialVersion != 0 {
		p.cred.Versions.add(strconv.FormatUint(out.CredentialVersion, 10))
	}
	if u := out.Usage; u != nil {
		m, _ := group(c.models, maxGroups, agentOf{u.Model, p.agent.Name}, agentOf{Others, Others})
		m.Calls++
		if !u.Final {
			m.Partial++
		}
		sum(&m.Input, u.Input)
		sum(&m.Output, u.Output)
		sum(&m.CacheRead, u.CacheRead)
		sum(&m.CacheWrite, u.CacheWrite)
		sum(&m.Reasoning, u.Reasoning)
		charged := cmp.Or(u.Charged, u.Cost)
		sum(&m.Cost, u.Cost)
		sum(&m.Charged, charged)
		sum(&p.agent.Cost, u.Cost)
		sum(&p.agent.Charged, charged)
	}
}

// sum adds a count that others told: it is never below 0, and neither is the sum.
func sum(of *int64, n int64) { *of += min(max(n, 0), math.MaxInt64-*of) }

func (c *collector) event(row Row) {
	ev, ref := row.Record.Event, row.Ref()
	// What people did with the rules is for every reader; the rest is about one
	// agent.
	if ev.Actor.IsZero() && (ev.Change != nil || ev.Kind == audit.KindGap) {
		if c.o.Agent == "" || ev.Kind == audit.KindGap || concerns(ev, c.o.Agent) {
			c.counted(ref.Time)
			c.people(ev, row)
		}
		return
	}
	if !c.wanted(ev.Actor.Agent) {
		return
	}
	c.counted(ref.Time)
	c.people(ev, row)
	switch ev.Kind {
	case audit.KindDenial:
		c.denial(ev, row)
		return
	case audit.KindProbe, audit.KindLeak, audit.KindCanary:
		c.s.ProbeRows.keep(row, c.o.MaxRows)
	}
	if ev.Actor.IsZero() {
		return // about the host itself
	}
	a := c.agent(ev.Actor)
	n, _ := group(a.events, maxOperations, eventKey{string(ev.Kind), ev.Action}, eventKey{Others, Others})
	*n++
}

// people keeps the acts of people and the repairs of the log.
func (c *collector) people(ev *audit.Event, row Row) {
	switch {
	case ev.Kind == audit.KindGap:
		c.s.GapRows.keep(row, c.o.MaxRows)
	case ev.Change != nil:
		c.s.AdminRows.keep(row, c.o.MaxRows)
	}
}

// concerns reports whether an administrative act is about an agent, or about
// everybody. An act on another agent is not.
func concerns(ev *audit.Event, agent string) bool {
	return ev.Kind != audit.KindIdentity || nameOf(ev.Resource) == agent
}

func (c *collector) denial(ev *audit.Event, row Row) {
	ref, n := row.Ref(), ev.Count()
	a := c.agent(ev.Actor)
	op := a.op(ev.Door, ev.Action, ref)
	op.count(denied, n, ref)
	c.s.DenialRows.keep(row, c.o.MaxRows)
	c.times.count(ref.Time, true, n)
	if isEgress(ev.Door, ev.Action) {
		e, _ := group(c.egress, maxGroups, agentOf{ev.Resource, ev.Actor.Agent}, agentOf{Others, Others})
		e.Denied += n
	}
	var d audit.Decision
	if ev.Decision != nil {
		d = *ev.Decision
	}
	key := causeKey{a.Name, op.Door, op.Action, ev.Resource, d.Reason, strings.Join(d.PolicyIDs(), "\x00"), d.PolicyHash}
	g, made := group(c.denials, maxGroups, key, causeKey{agent: a.Name, door: op.Door, action: Others})
	if made {
		*g = Denial{Agent: a.Name, Door: op.Door, Action: op.Action, Resource: ev.Resource, Reason: d.Reason, Cause: Cause(d), Policies: d.Policies, PolicyHash: d.PolicyHash, First: ref}
		if len(c.denials) > maxGroups {
			g.Action, g.Resource, g.Reason, g.Cause, g.Policies, g.PolicyHash = Others, "", "", "denied for various causes", nil, ""
		}
	}
	g.Count += n
	g.Last = ref
	c.notApplied(ev.Actor.Agent, ev.Action, &d, ref)
}

func (c *collector) notApplied(agent, action string, d *audit.Decision, ref Ref) {
	for _, w := range d.Would {
		g, made := group(c.would, maxGroups, wouldKey{agent, action, string(w.Source), string(w.Effect), w.Reason}, wouldKey{Others, Others, "", "", ""})
		if made {
			g.First = ref
		}
		g.Count++
	}
}

func isEgress(door, action string) bool { return door == audit.DoorCompute && action == "connect" }

// nameOf returns the name in a resource such as Tool::"github__list_prs", or the
// resource as it is.
func nameOf(resource string) string {
	_, name := entity.Split(resource)
	return name
}
