package sandbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// A shellSource is one endpoint of one block, translated: what it says about
// requests and who may use it.
type shellSource struct {
	field    string
	pattern  egress.Pattern
	ports    []uint16
	judged   bool
	allow    []HTTPRule
	deny     []HTTPRule
	programs []string // by their path
	globs    []string // of programs: they restrict, but give nothing
}

// hosts writes the network part. Of all rules that match a name and port, ours
// lets those of the most specific pattern decide and theirs joins all. So for
// each pattern and port, what every endpoint around it says is joined here, for
// each program.
func (i *importer) hosts(o *shellPolicy, p *Policy) {
	sources := i.sources(o, &p.Filesystem)
	if len(i.errs) > 0 {
		return // what is made of the rest means nothing
	}
	exact := false
	var patterns []egress.Pattern
	for _, s := range sources {
		exact = exact || s.pattern.Exact()
		if !slices.ContainsFunc(patterns, func(q egress.Pattern) bool { return q.String() == s.pattern.String() }) {
			patterns = append(patterns, s.pattern)
		}
	}
	if exact {
		i.tightened("network_policies", "names lead to public addresses only; a host of the local network wants private: true")
	}
	for _, pattern := range patterns {
		i.rulesOf(pattern, sources, p)
	}
}

// rulesOf writes the rules of one pattern.
func (i *importer) rulesOf(pattern egress.Pattern, sources []shellSource, p *Policy) {
	type said struct {
		rule Rule
		at   string
	}
	byWords := make(map[string]*said) // words and programs
	var order []string
	ports := make(map[uint16]bool)
	for _, s := range sources {
		if s.pattern.String() == pattern.String() {
			for _, port := range s.ports {
				ports[port] = true
			}
		}
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		var around []shellSource
		for _, s := range sources {
			if s.pattern.Covers(pattern) && slices.Contains(s.ports, port) {
				around = append(around, s)
			}
		}
		at := around[slices.IndexFunc(around, func(s shellSource) bool { return s.pattern.String() == pattern.String() })].field
		rules := i.join(pattern, port, around, at)
		for _, r := range rules {
			key := fmt.Sprintf("%q %q %q %q %q", r.Protocol, r.Access, r.Rules, r.Deny, r.Programs)
			if byWords[key] == nil {
				byWords[key] = &said{rule: r, at: at}
				order = append(order, key)
			}
			byWords[key].rule.Ports = append(byWords[key].rule.Ports, port)
		}
	}
	for _, key := range order {
		s := byWords[key]
		s.rule.Host = pattern.String()
		p.Network.Allow = append(p.Network.Allow, s.rule)
		i.origins = append(i.origins, s.at)
	}
}

// join returns the rules, without host and port, that all endpoints around a
// pattern make together on a port: one for each set of programs that is treated
// alike.
func (i *importer) join(pattern egress.Pattern, port uint16, around []shellSource, at string) []Rule {
	var all []string
	for _, s := range around {
		all = append(all, s.programs...)
	}
	var rules []Rule
	for _, program := range set(all) {
		r := Rule{Protocol: ProtocolTCP}
		for _, s := range around {
			grants := slices.Contains(s.programs, program)
			if !grants && !slices.ContainsFunc(s.globs, func(g string) bool { return wideMatch(g, program) }) {
				continue
			}
			if s.judged {
				r.Protocol = ProtocolHTTPS
				r.Deny = append(r.Deny, s.deny...)
				if grants {
					r.Rules = append(r.Rules, s.allow...)
				}
			}
		}
		if r.Protocol == ProtocolTCP {
			r.Protocol = ""
		} else {
			if port == 80 {
				r.Protocol = ProtocolHTTP
			}
			if r.Rules, r.Deny = joined(r.Rules), joined(r.Deny); len(r.Rules) == 0 {
				i.tightened(at, "%s on port %d: no request of %s is allowed by a rule of its own, so it may not connect", pattern, port, program)
				continue
			}
			r.Rules, r.Access = preset(r.Rules)
		}
		same := slices.IndexFunc(rules, func(o Rule) bool {
			return fmt.Sprintf("%q %q %q %q", o.Protocol, o.Access, o.Rules, o.Deny) == fmt.Sprintf("%q %q %q %q", r.Protocol, r.Access, r.Rules, r.Deny)
		})
		if same < 0 {
			same, rules = len(rules), append(rules, r)
		}
		rules[same].Programs = append(rules[same].Programs, Program{Path: program})
	}
	if len(rules) == 0 && len(all) > 0 { // a broader rule must not decide instead
		r := Rule{Protocol: ProtocolHTTPS, Access: AccessFull, Deny: []HTTPRule{{Path: "/**"}}}
		if port == 80 {
			r.Protocol = ProtocolHTTP
		}
		for _, program := range set(all) {
			r.Programs = append(r.Programs, Program{Path: program})
		}
		return []Rule{r}
	}
	if len(rules) > 1 {
		i.note(&i.report.Differs, at, "%s on port %d: the programs are not treated alike there, and each is judged by its own rules here, not by those of the program that started it as well", pattern, port)
	}
	if len(rules) > 0 && rules[0].Protocol == ProtocolHTTPS && port != 443 {
		i.tightened(at, "port %d is taken for HTTPS; plain HTTP is refused on it", port)
	}
	return rules
}

// sources translates every endpoint by itself.
func (i *importer) sources(o *shellPolicy, f *Filesystem) (all []shellSource) {
	for _, b := range o.blocks {
		var programs, globs []string
		for _, bin := range b.binaries {
			problem, fix := checkProgramPath(bin.path)
			switch {
			case strings.ContainsAny(bin.path, "*?[{\\"):
				globs = append(globs, bin.path)
				i.tightened(bin.field, "%q is a pattern, which gives nothing here: list the programs", bin.path)
			case problem != "":
				i.refuse(bin.field+".path", fmt.Sprintf("%q %s", bin.path, problem), fix)
			case f.writable(bin.path):
				i.tightened(bin.field, "%s can be replaced by the session itself, so it may not connect: its sha256 is needed", bin.path)
				globs = append(globs, bin.path) // it still restricts
			default:
				programs = append(programs, bin.path)
			}
		}
		if len(b.endpoints) > 0 && len(b.binaries) == 0 {
			i.dropped(b.field, "no binary may use it")
		}
		if len(b.binaries) > 0 && len(programs) == 0 {
			i.refuse(b.field, "none of its binaries can be said here", "list programs by their path, in places that are read-only")
		}
		if len(programs) > 0 {
			i.tightened("network_policies", "the program that connects must be on a list itself; one that started it does not count")
		}
		for _, e := range b.endpoints {
			if s, ok := i.source(e); ok {
				s.programs, s.globs = set(programs), globs
				all = append(all, s)
			}
		}
	}
	return all
}

func (i *importer) source(e shellEndpoint) (s shellSource, ok bool) {
	errs := len(i.errs)
	s = shellSource{field: e.field, ports: e.allPorts(), judged: e.judged()}
	checkHost(e.field+".host", e.host, i.refuse)
	s.pattern, _ = egress.ParsePattern(e.host)
	if len(s.ports) == 0 {
		i.refuse(e.field, "it has no port", "write port: 443")
	}
	if slices.Contains(s.ports, 53) {
		i.refuse(e.field, "port 53 is the session's own DNS", "leave it out; names are resolved for every rule")
	}
	switch strings.ToLower(e.protocol) {
	case "", "tcp", "rest":
	default:
		i.refuse(e.field+".protocol", fmt.Sprintf("%q cannot be said here: methods and paths are judged, not bodies", e.protocol),
			"serve the name with Session.Handle and a handler that judges them, such as a gateway of package mcpx")
	}
	switch e.tls {
	case "", "terminate", "passthrough":
	case "skip":
		if s.judged {
			i.tightened(e.field+".tls", "TLS ends at the door all the same, as requests are judged")
		}
	default:
		i.refuse(e.field+".tls", fmt.Sprintf("%q is not a value of it", e.tls), "leave it out")
	}
	switch {
	case e.enforcement != "" && e.enforcement != "audit" && e.enforcement != "enforce":
		i.refuse(e.field+".enforcement", fmt.Sprintf("%q is not a value of it", e.enforcement), "write enforce")
	case s.judged && e.enforcement != "enforce":
		i.tightened(e.field, "requests that the rules do not allow are refused; they are only logged there, as enforcement is not enforce")
	}
	if s.judged {
		i.requestsOf(e, &s)
	}
	return s, len(i.errs) == errs
}

var presets = map[Access][]string{
	AccessReadOnly:  {"GET", "HEAD", "OPTIONS"},
	AccessReadWrite: {"GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"},
	AccessFull:      nil,
}

// requestsOf translates what an endpoint says about requests.
func (i *importer) requestsOf(e shellEndpoint, s *shellSource) {
	methods, known := presets[Access(e.access)]
	switch {
	case e.access != "" && e.allow != nil:
		i.refuse(e.field+".access", "both access and rules say what is allowed", "keep one of them")
	case e.access != "" && !known:
		i.refuse(e.field+".access", fmt.Sprintf("%q is not a value of it", e.access), "write read-only, read-write or full")
	case e.access != "":
		if path, ok := i.allowPath(e.field+".path", "/**", e.path); ok {
			s.allow = append(s.allow, HTTPRule{Methods: methods, Path: path})
		}
	case e.allow == nil:
		i.refuse(e.field, "nothing says which requests are allowed", "add access or rules")
	}
	for _, q := range e.allow {
		methods, ok := i.methods(q)
		switch {
		case q.query:
			i.refuse(q.field+".query", "queries are not judged, and without it more would be allowed", "leave the rule out, or allow the path with every query")
			continue
		case q.path == "":
			i.refuse(q.field, "the path is missing", "write path: /** for any")
			continue
		case !ok:
			continue
		}
		if path, ok := i.allowPath(q.field+".path", q.path, e.path); ok {
			s.allow = append(s.allow, HTTPRule{Methods: methods, Path: path})
		}
	}
	for _, q := range e.deny {
		methods, ok := i.methods(q)
		if !ok {
			continue
		}
		if q.query {
			i.tightened(q.field+".query", "the requests are refused with every query")
		}
		if path, ok := i.denyPath(q, e.path); ok {
			s.deny = append(s.deny, HTTPRule{Methods: methods, Path: path})
		}
	}
}

// methods returns the methods of a rule; nil is any. HEAD goes with GET.
func (i *importer) methods(q shellRequest) ([]string, bool) {
	m := strings.ToUpper(q.method)
	switch {
	case m == "*":
		return nil, true
	case m == "GET":
		return []string{"GET", "HEAD"}, true
	case m == "":
		i.refuse(q.field, "the method is missing", `write one such as GET, or "*"`)
	case !isMethod(m) || m == "CONNECT":
		i.refuse(q.field+".method", fmt.Sprintf("%q is not a method of requests", q.method), "write one such as GET")
	default:
		return []string{m}, true
	}
	return nil, false
}

// joined joins the methods of rules about one path.
func joined(list []HTTPRule) []HTTPRule {
	byPath := make(map[string]HTTPRule)
	for _, h := range list {
		old, ok := byPath[h.Path]
		switch {
		case !ok:
			byPath[h.Path] = HTTPRule{Methods: set(h.Methods), Path: h.Path}
		case old.Methods == nil || h.Methods == nil:
			byPath[h.Path] = HTTPRule{Path: h.Path}
		default:
			byPath[h.Path] = HTTPRule{Methods: set(append(slices.Clone(old.Methods), h.Methods...)), Path: h.Path}
		}
	}
	var out []HTTPRule
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		out = append(out, byPath[path])
	}
	return out
}

// preset returns the word for a list of rules, if there is one.
func preset(list []HTTPRule) ([]HTTPRule, Access) {
	if len(list) == 1 && list[0].Path == "/**" {
		for word, methods := range presets {
			if slices.Equal(list[0].Methods, methods) && (methods == nil) == (list[0].Methods == nil) {
				return nil, word
			}
		}
	}
	return list, ""
}
