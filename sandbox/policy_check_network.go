package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

func (n *Network) check(bad report, f *Filesystem) {
	if len(n.Allow) > maxRules {
		bad("network.allow", fmt.Sprintf("%d rules", len(n.Allow)), fmt.Sprintf("list at most %d", maxRules))
		return
	}
	all := make(map[uint16]bool)
	for i, r := range n.Allow {
		field := fmt.Sprintf("network.allow[%d]", i)
		r.check(field, bad)
		checkPrograms(field+".programs", r.Programs, f, bad)
		for _, p := range r.Ports {
			all[p] = true
		}
	}
	if len(all) > maxAllPorts {
		bad("network.allow", fmt.Sprintf("%d different ports", len(all)), fmt.Sprintf("allow at most %d: each is a listener inside", maxAllPorts))
	}
}

func (r *Rule) check(field string, bad report) {
	checkHost(field+".host", r.Host, bad)
	if r.Private && r.Served {
		bad(field+".private", "a name that is served is never dialled", "write private or served, not both")
	}
	if len(r.Ports) > maxPorts {
		bad(field+".ports", fmt.Sprintf("%d ports", len(r.Ports)), fmt.Sprintf("list at most %d", maxPorts))
	}
	for i, p := range r.Ports {
		at := fmt.Sprintf("%s.ports[%d]", field, i)
		switch {
		case p == 0:
			bad(at, "0 is not a port", "write 1 to 65535")
		case p == 53:
			bad(at, "port 53 is the session's own DNS", "leave it out; names are resolved for every rule")
		case r.Served && p != 443 && p != 80:
			bad(at, fmt.Sprintf("%d is not served", p), "names are served on 443 (TLS) and 80 (plain HTTP)")
		}
	}
	r.checkRequests(field, bad)
}

func checkHost(field, host string, bad report) {
	switch p, err := egress.ParsePattern(host); {
	case host == "":
		bad(field, "it is missing", "write the name of a host")
	case strings.Contains(host, "/"):
		bad(field, fmt.Sprintf("%q is a URL or has a path", host), "write the host's name only")
	case strings.Count(host, ":") == 1:
		name, port, _ := strings.Cut(host, ":")
		bad(field, fmt.Sprintf("%q has a port", host), fmt.Sprintf("write host: %q and ports: [%s]", name, port))
	case err != nil:
		bad(field, fmt.Sprintf("%q: %v", host, err), "write a name such as api.example.com, or *.example.com; addresses are not reachable, names are")
	case strings.HasSuffix(host, "."):
		bad(field, fmt.Sprintf("%q ends with a dot", host), "write it without")
	case p.Match("localhost") || strings.HasSuffix(p.String(), ".localhost"):
		bad(field, "localhost is the session itself", "give the host's service a name and serve it with Session.Handle")
	}
}

// checkServed reports what is wrong with the names that handlers serve.
func (p *Policy) checkServed(bad report) {
	if len(p.Services) > maxRules {
		bad("services", fmt.Sprintf("%d names", len(p.Services)), fmt.Sprintf("list at most %d", maxRules))
		return
	}
	seen := make(map[string]bool)
	for i, s := range p.Services {
		field := fmt.Sprintf("services[%d]", i)
		checkHost(field, s, bad)
		if seen[strings.ToLower(s)] {
			bad(field, fmt.Sprintf("%q is listed twice", s), "remove one")
		}
		seen[strings.ToLower(s)] = true
	}
	if p.Inference != nil {
		checkHost("inference.host", cmp.Or(p.Inference.Host, InferenceHost), bad)
		checkPrograms("inference.programs", p.Inference.Programs, &p.Filesystem, bad)
	}
}

// checkOverlaps reports rules between which the door would have to guess: of all
// that match a connection, those of the most specific pattern decide, and the
// first of them whose programs fit.
func (p *Policy) checkOverlaps(bad report, where func(field string) string) {
	if len(p.Network.Allow) > maxRules || len(p.Services) > maxRules {
		return // said already
	}
	var all []claim
	add := func(field string, r Rule) {
		c, err := newClaim(field, r)
		if err != nil {
			return // said already
		}
		for _, o := range all {
			if problem := c.disputes(o); problem != "" {
				bad(field, fmt.Sprintf(problem, c.Host, o.Host, where(o.field)), "let both say the same, or let their hosts, ports or programs differ")
				break
			}
		}
		all = append(all, c)
	}
	for i, r := range p.Network.Allow {
		add(fmt.Sprintf("network.allow[%d]", i), r)
	}
	for i, s := range p.Services {
		add(fmt.Sprintf("services[%d]", i), servedRule(s, nil))
	}
	if p.Inference != nil {
		add("inference", servedRule(cmp.Or(p.Inference.Host, InferenceHost), p.Inference.Programs))
	}
}

// A claim is what a rule says, and of which connections.
type claim struct {
	Rule
	field       string
	pattern     egress.Pattern
	words, with string // without and with the programs
}

func newClaim(field string, r Rule) (claim, error) {
	r = r.normal()
	pattern, err := egress.ParsePattern(r.Host)
	words := fmt.Sprintf("%t %t %q %q %q %q", r.Private, r.served(), r.Protocol, r.Access, r.Rules, r.Deny)
	return claim{Rule: r, field: field, pattern: pattern, words: words, with: fmt.Sprintf("%s %q", words, r.Programs)}, err
}

// disputes returns how two rules disagree about one connection, or "".
func (c claim) disputes(o claim) string {
	switch {
	case c.with == o.with || !samePort(c.Ports, o.Ports) || !c.pattern.Overlaps(o.pattern):
		return ""
	case c.pattern.String() == o.pattern.String():
		if c.words != o.words && sameProgram(c.Programs, o.Programs) {
			return "%q can be the same connection as %q in %s, which says otherwise"
		}
		return ""
	case c.pattern.Covers(o.pattern) || o.pattern.Covers(c.pattern):
		return "" // the narrower one decides
	}
	return "some names match both %q and %q in %s, which says otherwise, and neither is the narrower one"
}

func samePort(a, b []uint16) bool {
	return slices.ContainsFunc(a, func(p uint16) bool { return slices.Contains(b, p) })
}

// sameProgram reports whether two lists can decide about the same program. One
// that names it comes before one for any.
func sameProgram(a, b []Program) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return slices.ContainsFunc(a, func(p Program) bool {
		return slices.ContainsFunc(b, func(o Program) bool { return p.Path == o.Path })
	})
}
