package governance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// An office is a law of n policies as a company might write it: the more
// policies there are, the more profiles they are for, some 25 for each and
// written together, so that a request has about as many policies to do with at
// every size. Ten to a hundred tools of up to twenty servers; agents stand in a
// team, which stands in another.
//
//	40 %  permit, one argument compared, one tool
//	20 %  permit, argument in a set, a class of a server's tools
//	20 %  permit, argument like a pattern, one tool
//	10 %  forbid unless approved, all destructive tools
//	10 %  forbid, path with "..", one tool
//	  4   forbids for everybody
func office(n int) Bundle {
	var b Bundle
	const schema = `{"type":"object","required":["repo","path"],"properties":{
		"repo":{"type":"string"},"path":{"type":"string"},"count":{"type":"integer"},
		"draft":{"type":"boolean"},"labels":{"type":"array","items":{"type":"string"}}}}`
	tools := min(100, max(10, n/10))
	var servers []string
	for i := range tools / 5 {
		s := Server{Name: fmt.Sprintf("server%d", i)}
		servers = append(servers, s.Name)
		for j := range 5 {
			s.Tools = append(s.Tools, Tool{ToolDefinition: ToolDefinition{Name: fmt.Sprintf("tool%d", j), InputSchema: []byte(schema)}, Class: classes[j%3]})
		}
		b.Catalog = append(b.Catalog, s)
	}
	b.Entities = append(b.Entities, types.Entity{UID: uid(typeTeam, "company")})
	profiles := max(1, n/25)
	for i := range profiles {
		p := Profile{ID: fmt.Sprintf("p%d", i), Servers: map[string]Grant{}}
		for k := range 3 {
			p.Servers[servers[(i+k)%len(servers)]] = Grant{Tools: []string{"*"}}
		}
		team := uid(typeTeam, p.ID)
		b.Entities = append(b.Entities, types.Entity{UID: team, Parents: types.NewEntityUIDSet(uid(typeTeam, "company"))})
		for k := range 3 {
			a := fmt.Sprintf("agent%d-%d", i, k)
			p.Agents = append(p.Agents, a)
			b.Entities = append(b.Entities, types.Entity{UID: uid(typeAgent, a), Parents: types.NewEntityUIDSet(team)})
		}
		b.Profiles = append(b.Profiles, p)
	}
	r := rand.New(rand.NewPCG(1, 1))
	var text strings.Builder
	for i := range n - 4 {
		profile := min(i/25, profiles-1)
		// Of the tools that the profile has.
		server := servers[(profile+r.IntN(3))%len(servers)]
		tool := toolKey(server, fmt.Sprintf("tool%d", r.IntN(5)))
		head := func(effect string, action string, resource string) {
			fmt.Fprintf(&text, "@id(\"a%05d\")\n%s (principal in Profile::\"p%d\", action %s, resource%s)\n", i, effect, profile, action, resource)
		}
		one := fmt.Sprintf("== Action::%q", tool)
		switch i % 10 {
		case 0, 1, 2, 3:
			head("permit", one, "")
			fmt.Fprintf(&text, "when { context.args.repo == \"repo%d\" };\n", r.IntN(8))
		case 4, 5:
			head("permit", fmt.Sprintf("in Action::%q", server+":"+string(pick(r, classes...))), fmt.Sprintf(" in Server::%q", server))
			fmt.Fprintf(&text, "when { [\"repo%d\", \"repo%d\"].contains(context.args.repo) };\n", r.IntN(8), r.IntN(8))
		case 6, 7:
			head("permit", one, "")
			fmt.Fprintf(&text, "when { context.args.path like \"/src/%d/*\" };\n", r.IntN(8))
		case 8:
			head("forbid", `in Action::"destructive"`, "")
			text.WriteString("unless { context.args.repo == \"repo0\" };\n")
		case 9:
			head("forbid", one, "")
			text.WriteString("when { context.args.path like \"*..*\" };\n")
		}
	}
	for i, c := range []string{`context.args.path like "/etc/*"`, `context.args.repo == "secret"`, `context.args has count && context.args.count > 1000`, `context.args.path == ""`} {
		fmt.Fprintf(&text, "@id(\"z%d\")\nforbid (principal, action in Action::\"call_tool\", resource)\nwhen { %s };\n", i, c)
	}
	b.Policies = []Source{{Name: "office.cedar", Text: text.String()}}
	return b
}

const officeArgs = `{"repo":"repo0","path":"/src/0/governance/decide.go","count":42,"draft":false,"labels":["bug","urgent","customer"],"x":"something of no interest"}`

// An officeRequest is ready to be decided, in both ways.
type officeRequest struct {
	Request
	target  target
	context types.Record
	store   overlay
	cedar   cedar.Request
}

// visitors makes requests of random agents for tools of their profiles.
func (s *Snapshot) visitors(tb testing.TB, n int) []officeRequest {
	r := rand.New(rand.NewPCG(2, 2))
	out := make([]officeRequest, n)
	for i := range out {
		p := s.profiles[r.IntN(len(s.profiles))]
		var servers []string
		for name := range p.Servers {
			servers = append(servers, name)
		}
		slices.Sort(servers)
		req := Request{Actor: audit.Actor{Agent: pick(r, p.Agents...)}, Action: actionCallTool, Server: pick(r, servers...), Name: fmt.Sprintf("tool%d", r.IntN(5))}
		req.Args = []byte(strings.Replace(officeArgs, "repo0", fmt.Sprintf("repo%d", r.IntN(8)), 1))
		t, err := s.resolve(&req)
		require.NoError(tb, err)
		c, err := req.context(&t, time.Now(), s.readsAbout(&t))
		require.NoError(tb, err)
		principal := uid(typeAgent, req.Actor.Agent)
		out[i] = officeRequest{req, t, types.NewRecord(c), overlay{static: s.entities, resource: t.dynamic, principal: s.principal(principal, nil)},
			cedar.Request{Principal: principal, Action: t.action, Resource: t.resource, Context: types.NewRecord(c)}}
	}
	return out
}

func compiled(tb testing.TB, b Bundle) *Snapshot {
	tb.Helper()
	s, rep, err := Compile(tb.Context(), b, nil)
	require.NoError(tb, err, "%v", rep.Findings)
	return s
}

var sizes = []int{10, 100, 1_000, 10_000}

// One decision on arguments that are Cedar values already, and one from JSON,
// at four sizes in turns, against cedar.Authorize over all policies in the same
// run. Times are processor time, garbage collection included, in the best round
// of 256 different requests: the others tell how busy the machine was.
// t(10k)/t(100) is how a decision grows.
func BenchmarkDecision(b *testing.B) {
	const batch, rounds = 256, 8
	type world struct {
		s                       *Snapshot
		all                     cedar.PolicyMap
		requests                []officeRequest
		decision, whole, linear time.Duration // of one, in the best round
		allocs, wholeAllocs     float64
		linears                 int
	}
	var worlds []*world
	for _, n := range sizes {
		w := &world{s: compiled(b, office(n)), all: cedar.PolicyMap{}}
		for id, p := range w.s.policies {
			w.all[id] = p.cedar
		}
		w.requests = w.s.visitors(b, batch)
		w.allocs, w.wholeAllocs = w.s.allocs(w.requests)
		worlds = append(worlds, w)
	}
	runtime.GC()
	round := func(best *time.Duration, n int, do func()) {
		start := cpu()
		do()
		if one := (cpu() - start) / time.Duration(n); *best == 0 || one < *best {
			*best = one
		}
	}
	for b.Loop() {
		for _, w := range worlds {
			for range rounds {
				round(&w.decision, batch, func() {
					for i := range w.requests {
						r := &w.requests[i]
						w.s.evaluate(w.s.law, r.cedar.Principal, &r.target, r.context, nil)
					}
				})
			}
			for range rounds {
				round(&w.whole, batch, func() {
					for i := range w.requests {
						if _, err := w.s.Decide(context.Background(), w.requests[i].Request); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			some := max(1, 2*batch/len(w.all))
			round(&w.linear, some, func() {
				for range some {
					r := &w.requests[w.linears%batch]
					w.linears++
					cedar.Authorize(w.all, &r.store, r.cedar)
				}
			})
		}
	}
	for i, w := range worlds {
		n := sizes[i]
		b.ReportMetric(float64(w.decision.Nanoseconds())/1e3, fmt.Sprintf("µs/decision@%d", n))
		b.ReportMetric(float64(w.whole.Nanoseconds())/1e3, fmt.Sprintf("µs/args+decision@%d", n))
		b.ReportMetric(float64(w.linear)/float64(w.decision), fmt.Sprintf("×linear@%d", n))
		b.ReportMetric(w.allocs, fmt.Sprintf("allocs/decision@%d", n))
		b.ReportMetric(w.wholeAllocs, fmt.Sprintf("allocs/args+decision@%d", n))
	}
	b.ReportMetric(float64(worlds[3].decision)/float64(worlds[1].decision), "t(10k)/t(100)")
	b.ReportMetric(0, "ns/op")
}

// allocs are those of one decision, on average over requests, without and with
// the conversion of arguments.
func (s *Snapshot) allocs(requests []officeRequest) (decision, whole float64) {
	decision = testing.AllocsPerRun(1, func() {
		for i := range requests {
			r := &requests[i]
			s.evaluate(s.law, r.cedar.Principal, &r.target, r.context, nil)
		}
	})
	whole = testing.AllocsPerRun(1, func() {
		for i := range requests {
			if _, err := s.Decide(context.Background(), requests[i].Request); err != nil {
				panic(err)
			}
		}
	})
	return decision / float64(len(requests)), whole / float64(len(requests))
}
