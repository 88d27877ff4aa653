// Package compare decides the same requests with this module's engine and with
// others, and measures them in turns. It is a module of its own, so that nobody
// who uses Twinward links those.
//
//	cd governance/internal/compare && go test -bench . -benchtime 5x
//
// The worlds are those of package governance's own benchmark: some 25 policies
// for each profile, so that a request has about as many policies to do with at
// every size.
//
//	40 %  permit, one argument compared, one tool
//	20 %  permit, argument in a set, a class of a server's tools
//	20 %  permit, argument like a pattern, one tool
//	10 %  forbid unless approved, all destructive tools
//	10 %  forbid, path with "..", one tool
//	  4   forbids for everybody
//
// There are two races. In the one, inputs are ready-made values: our index with
// cedar-go behind it, cedar-go alone, OPA and cel-go. In the other, they begin
// with the JSON of the arguments, as a call does: ours as hosts use it, which
// checks arguments against the tool's schema, decides on the agent's profile and
// explains denials, and OPA. OPA and cel-go are given the agent's profile; ours
// finds it.
package compare

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// A rule is one policy, in no engine's language.
type rule struct {
	id      string
	forbid  bool
	profile string // "" is everybody
	action  string // "" is any, or any of class
	server  string // with class: the server's tools of it
	class   string
	test    test
}

// A test is the condition of a rule.
type test struct {
	kind   string // equal, other, in, prefix, infix, above
	arg    string // repo, path or count
	values []string
	number int
}

type world struct {
	rules    []rule
	servers  []string
	profiles []profile
}

type profile struct {
	id      string
	servers []string
	agents  []string
}

const toolsPerServer = 5

var classes = []string{"read", "write", "destructive"}

func classOf(tool int) string { return classes[tool%3] }

func newWorld(n int) world {
	var w world
	for i := range min(100, max(10, n/10)) / toolsPerServer {
		w.servers = append(w.servers, fmt.Sprintf("server%d", i))
	}
	profiles := max(1, n/25)
	for i := range profiles {
		p := profile{id: fmt.Sprintf("p%d", i)}
		for k := range 3 {
			s := w.servers[(i+k)%len(w.servers)]
			if !slices.Contains(p.servers, s) {
				p.servers = append(p.servers, s)
			}
			p.agents = append(p.agents, fmt.Sprintf("agent%d-%d", i, k))
		}
		w.profiles = append(w.profiles, p)
	}
	r := rand.New(rand.NewPCG(1, 1))
	repo := func() string { return fmt.Sprintf("repo%d", r.IntN(8)) }
	for i := range n - 4 {
		p := w.profiles[i%profiles]
		server := p.servers[r.IntN(len(p.servers))]
		ru := rule{id: fmt.Sprintf("a%05d", i), profile: p.id, action: fmt.Sprintf("%s__tool%d", server, r.IntN(toolsPerServer))}
		switch i / profiles % 10 {
		case 0, 1, 2, 3:
			ru.test = test{kind: "equal", arg: "repo", values: []string{repo()}}
		case 4, 5:
			ru.action, ru.server, ru.class = "", server, classes[r.IntN(3)]
			ru.test = test{kind: "in", arg: "repo", values: []string{repo(), repo()}}
		case 6, 7:
			ru.test = test{kind: "prefix", arg: "path", values: []string{fmt.Sprintf("/src/%d/", r.IntN(8))}}
		case 8:
			ru.forbid, ru.action, ru.class = true, "", "destructive"
			ru.test = test{kind: "other", arg: "repo", values: []string{"repo0"}}
		case 9:
			ru.forbid = true
			ru.test = test{kind: "infix", arg: "path", values: []string{".."}}
		}
		w.rules = append(w.rules, ru)
	}
	for i, t := range []test{
		{kind: "prefix", arg: "path", values: []string{"/etc/"}},
		{kind: "equal", arg: "repo", values: []string{"secret"}},
		{kind: "above", arg: "count", number: 1000},
		{kind: "equal", arg: "path", values: []string{""}},
	} {
		w.rules = append(w.rules, rule{id: fmt.Sprintf("z%d", i), forbid: true, test: t})
	}
	return w
}

// A request is a call of a tool that the agent's profile has.
type request struct {
	agent, profile string
	server, tool   string
	class          string
	repo, path     string
	count          int
}

func (r request) action() string { return r.server + "__" + r.tool }

func (r request) args() string {
	return fmt.Sprintf(`{"repo":%q,"path":%q,"count":%d,"draft":false,"labels":["bug","urgent","customer"],"x":"something of no interest"}`, r.repo, r.path, r.count)
}

func (w world) requests(n int) []request {
	r := rand.New(rand.NewPCG(2, 2))
	out := make([]request, n)
	for i := range out {
		p := w.profiles[r.IntN(len(w.profiles))]
		tool := r.IntN(toolsPerServer)
		out[i] = request{
			agent: p.agents[r.IntN(len(p.agents))], profile: p.id,
			server: p.servers[r.IntN(len(p.servers))], tool: fmt.Sprintf("tool%d", tool), class: classOf(tool),
			repo: fmt.Sprintf("repo%d", r.IntN(8)), path: fmt.Sprintf("/src/%d/governance/decide.go", r.IntN(8)), count: 42,
		}
		switch r.IntN(20) {
		case 0:
			out[i].path = "/src/1/../../etc/passwd"
		case 1:
			out[i].repo = "secret"
		case 2:
			out[i].count = 1001
		}
	}
	return out
}

// An answer is allow or deny, and the rules that determined it, sorted.
type answer struct {
	allow bool
	ids   []string
}

// answerOf joins the rules that hold.
func answerOf(permits, forbids []string) answer {
	if len(forbids) > 0 {
		slices.Sort(forbids)
		return answer{false, forbids}
	}
	slices.Sort(permits)
	return answer{len(permits) > 0, permits}
}

// An engine decides one request, given by its number.
type engine interface {
	decide(i int) answer
}
