package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// An Authority is the chain of people behind some acts of an agent: who answers
// for the agent, who put the policy into force that allowed them, who approved
// single calls, and who granted the credentials. All of it is as of the time of
// the acts, computed from events in the logs; what they do not say is in
// Missing, in words.
type Authority struct {
	// Owner answers for the agent, and Profile is what it acted with.
	Owner   string `json:"owner,omitempty"`
	Profile string `json:"profile,omitempty"`
	// Registered is the act that said so.
	Registered *Act `json:"registered,omitempty"`
	// PolicyHash identifies the policy that allowed the acts, and Deployed is the
	// act that put it into force.
	PolicyHash string `json:"policy_hash,omitempty"`
	Deployed   *Act   `json:"deployed,omitempty"`
	// Author and Reviewer signed the policy's bundle, where it was signed.
	Author   string `json:"author,omitempty"`
	Reviewer string `json:"reviewer,omitempty"`
	// Approvals are the people who agreed to single calls.
	Approvals []Approver `json:"approvals,omitempty"`
	// Credentials are those that were used.
	Credentials []Granted `json:"credentials,omitempty"`
	// Missing says what of the chain is not on record.
	Missing []string `json:"missing,omitempty"`
	// Acts counts the acts, from First to Last.
	Acts  uint64 `json:"acts"`
	First Ref    `json:"first"`
	Last  Ref    `json:"last"`

	agent, origin string
	launched      *Ref
}

// An Act is an administrative act: who did it and why.
type Act struct {
	Ref
	Action   string `json:"action"`
	Resource string `json:"resource"`
	By       string `json:"by"`
	Reason   string `json:"reason"`

	author, reviewer string
}

// An Approver agreed to a number of calls.
type Approver struct {
	By    string `json:"by"`
	Calls uint64 `json:"calls"`
	Last  Ref    `json:"last"`
}

// A Granted credential was used, and its owner let it be: Bound said where it
// may go, and Rotated put its current value there. Both are the newest such acts
// before the use; one of them may be absent.
type Granted struct {
	Name    string `json:"name"`
	Uses    uint64 `json:"uses"`
	Bound   *Act   `json:"bound,omitempty"`
	Rotated *Act   `json:"rotated,omitempty"`
}

// A register knows the newest acts of people on everything.
type register struct {
	agents   map[string]registration
	policies map[agentOf]*Act // by hash and origin; an empty origin is any
	launches map[agentOf]*Ref // of sandboxes with that policy, likewise
	bound    map[string]*Act
	rotated  map[string]*Act
}

type registration struct {
	owner, profile string
	act            *Act
}

// maxKnown bounds each list of a register. People do not do more.
const maxKnown = 100_000

func newRegister() register {
	return register{map[string]registration{}, map[agentOf]*Act{}, map[agentOf]*Ref{}, map[string]*Act{}, map[string]*Act{}}
}

func put[K comparable, V any](m map[K]V, k K, v V) {
	if _, ok := m[k]; ok || len(m) < maxKnown {
		m[k] = v
	}
}

// see takes note of an event. Events come in the order of time.
func (g *register) see(row Row) {
	ev := row.Record.Event
	act := &Act{Ref: row.Ref(), Action: ev.Action, Resource: ev.Resource}
	if ev.Change != nil {
		act.By, act.Reason = ev.Change.By, ev.Change.Reason
	}
	hash := ev.Detail[audit.DetailPolicyHash]
	switch {
	case ev.Kind == audit.KindLaunch && hash != "":
		ref := row.Ref()
		put(g.launches, agentOf{hash, row.Origin}, &ref)
		put(g.launches, agentOf{hash, ""}, &ref)
	case ev.Change == nil:
	case ev.Kind == audit.KindPolicy && hash != "" && (ev.Action == audit.ActionReload || ev.Action == audit.ActionPromote):
		act.author, act.reviewer = ev.Detail[audit.DetailAuthor], ev.Detail[audit.DetailReviewer]
		put(g.policies, agentOf{hash, row.Origin}, act)
		put(g.policies, agentOf{hash, ""}, act)
	case ev.Kind == audit.KindIdentity:
		owner, has := ev.Detail[audit.DetailOwner]
		if has { // it says anew who answers for the agent, and with what profile
			put(g.agents, nameOf(ev.Resource), registration{owner, ev.Detail[audit.DetailProfile], act})
		}
	case ev.Kind == audit.KindCredential && ev.Action == audit.ActionRotateCredential:
		put(g.rotated, nameOf(ev.Resource), act)
	case ev.Kind == audit.KindCredential && ev.Action == "bind_credential":
		put(g.bound, nameOf(ev.Resource), act)
	}
}

// grants are the authorities of one agent.
type grants struct {
	all   []*Authority
	byKey map[grantKey]int
}

type grantKey struct {
	profile, hash, origin string
	registered, deployed  *Act
}

// under returns the authority of an intent and its number.
func (g *grants) under(known *register, row Row) (*Authority, int) {
	in := row.Record.Intent
	reg := known.agents[in.Actor.Agent]
	hash := in.Decision.PolicyHash
	deployed := known.policies[agentOf{hash, row.Origin}]
	if deployed == nil {
		deployed = known.policies[agentOf{hash, ""}]
	}
	key := grantKey{in.Actor.Profile, hash, row.Origin, reg.act, deployed}
	n, ok := g.byKey[key]
	switch {
	case ok:
	case len(g.all) > maxAuthorities: // the last one stands for all others
		n = maxAuthorities
	default:
		if g.byKey == nil {
			g.byKey = map[grantKey]int{}
		}
		n = len(g.all)
		g.byKey[key] = n
		a := &Authority{
			Owner: reg.owner, Profile: in.Actor.Profile, Registered: reg.act, PolicyHash: hash, Deployed: deployed,
			First: row.Ref(), agent: in.Actor.Agent, origin: row.Origin,
		}
		if a.Profile == "" {
			a.Profile = reg.profile
		}
		if deployed != nil {
			a.Author, a.Reviewer = deployed.author, deployed.reviewer
		}
		if a.launched = known.launches[agentOf{hash, row.Origin}]; a.launched == nil {
			a.launched = known.launches[agentOf{hash, ""}]
		}
		if n == maxAuthorities {
			*a = Authority{First: row.Ref(), Missing: []string{"too many different authorities to list: ask for a shorter period"}}
		}
		g.all = append(g.all, a)
	}
	a := g.all[n]
	a.Acts++
	a.Last = row.Ref()
	if by := in.Decision.Approval; by != nil {
		a.approved(by.By, row.Ref())
	}
	if use := in.Credential; use != nil {
		a.used(use.Name, known)
	}
	return a, n
}

func (a *Authority) approved(by string, at Ref) {
	i := slices.IndexFunc(a.Approvals, func(p Approver) bool { return p.By == by })
	if i < 0 {
		if i = len(a.Approvals); i > fewest*fewest {
			by = Others
			i--
		} else {
			a.Approvals = append(a.Approvals, Approver{})
		}
	}
	p := &a.Approvals[i]
	p.By, p.Last = by, at
	p.Calls++
}

func (a *Authority) used(name string, known *register) {
	bound, rotated := known.bound[name], known.rotated[name]
	i := slices.IndexFunc(a.Credentials, func(c Granted) bool { return c.Name == name && c.Bound == bound && c.Rotated == rotated })
	if i < 0 {
		if i = len(a.Credentials); i > fewest*fewest {
			i--
			a.Credentials[i].Name, a.Credentials[i].Bound, a.Credentials[i].Rotated = Others, nil, nil
		} else {
			a.Credentials = append(a.Credentials, Granted{Name: name, Bound: bound, Rotated: rotated})
		}
	}
	a.Credentials[i].Uses++
}

// list ends the counting: it says what is missing.
func (g *grants) list() []Authority {
	var all []Authority
	for _, a := range g.all {
		a.Missing = append(a.Missing, a.missing()...)
		all = append(all, *a)
	}
	return all
}

func (a *Authority) missing() []string {
	if len(a.Missing) > 0 {
		return nil
	}
	var m []string
	add := func(format string, args ...any) { m = append(m, fmt.Sprintf(format, args...)) }
	switch {
	case a.Registered == nil:
		add("No registration of this agent is on record before %s: who answers for it is not known.", a.First)
	case a.Owner == "":
		add("The registration in %s names no owner.", a.Registered.Ref)
	}
	switch {
	case a.PolicyHash == "":
		add("The decisions name no policy set: who put it into force is not known.")
	case a.Deployed == nil && a.launched != nil:
		add("The policy is a sandbox's own, in force with the launch in %s: who wrote it is not on record.", *a.launched)
	case a.Deployed == nil:
		add("That this policy was put into force is not on record before %s.", a.First)
	}
	for _, c := range a.Credentials {
		if c.Bound == nil && c.Rotated == nil {
			add("Who granted the credential %q is not on record: no binding and no rotation of it before its use.", c.Name)
		}
	}
	return m
}

// String is the chain in one line.
func (a Authority) String() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if a.Owner != "" {
		add("owner %s", a.Owner)
	}
	if a.Profile != "" {
		add("profile %s", a.Profile)
	}
	if r := a.Registered; r != nil {
		add("registered by %s", r.who())
	}
	if a.PolicyHash != "" {
		add("policy %s", a.PolicyHash)
	}
	if d := a.Deployed; d != nil {
		add("put into force by %s", d.who())
	}
	if a.Author != "" {
		add("signed by %s", a.Author)
	}
	if a.Reviewer != "" {
		add("reviewed by %s", a.Reviewer)
	}
	for _, p := range a.Approvals {
		add("%s approved by %s", plural(p.Calls, "call", "calls"), p.By)
	}
	for _, c := range a.Credentials {
		if c.Bound != nil {
			add("credential %s bound by %s", c.Name, c.Bound.who())
		}
		if c.Rotated != nil {
			add("credential %s set by %s", c.Name, c.Rotated.who())
		}
	}
	parts = append(parts, a.Missing...)
	return strings.Join(parts, "; ")
}

func (a Act) who() string { return fmt.Sprintf("%s (%s, %s)", a.By, a.Reason, a.Ref) }
