package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// A Wish is a connection or request that policy refused and somebody wants to
// allow: what its record says of it.
type Wish struct {
	Host string
	Port uint16
	// Method and Path, in canonical form, are those of a request; empty when
	// only the connection is known.
	Method, Path string
	// Program is to have it, by its path; empty means any.
	Program string
}

// Suggest returns a policy that grants wishes and, as far as rules can say it,
// nothing more, in normal form, and the text that a person puts into the policy
// file for them. p stays as it is. An error says why no rule can grant one of
// them, and which: deny wins over what is allowed, a handler serves the name, or
// it is allowed already.
func (p *Policy) Suggest(wishes ...Wish) (next *Policy, text string, err error) {
	n := p.normal()
	w := &yamlWriter{}
	var granted []Rule // one for each name and port, without what it says
	for _, a := range wishes {
		name, err := egress.Canonical(a.Host)
		if err != nil {
			return nil, "", fmt.Errorf("policy: %q: %w", a.Host, err)
		}
		fresh, err := a.rules(name, n.Network.deciding(name, a.Port))
		if err != nil {
			return nil, "", err
		}
		again := slices.ContainsFunc(granted, func(r Rule) bool { return r.only(name, a.Port) })
		if replaced := n.Network.clear(name, a.Port); replaced && !again {
			fmt.Fprintf(w, "# in place of what network.allow says about %s on port %d:\n", name, a.Port)
		}
		if !again {
			granted = append(granted, Rule{Host: name, Ports: []uint16{a.Port}})
		}
		n.Network.Allow = append(n.Network.Allow, fresh...)
	}
	if err := n.Validate(); err != nil {
		return nil, "", err
	}
	if len(granted) > 0 {
		w.line(0, "network:")
		w.line(1, "allow:")
	}
	for _, g := range granted {
		for _, r := range n.Network.Allow {
			if r.only(g.Host, g.Ports[0]) {
				w.rule(r)
			}
		}
	}
	return n.normal(), w.String(), nil
}

// only reports whether a rule is for one name and port alone.
func (r Rule) only(name string, port uint16) bool {
	return r.Host == name && len(r.Ports) == 1 && r.Ports[0] == port
}

// clear takes a port out of the rules for a name, and reports whether there were
// any.
func (net *Network) clear(name string, port uint16) (had bool) {
	var kept []Rule
	for _, r := range net.Allow {
		if r.Host == name && slices.Contains(r.Ports, port) {
			had = true
			if r.Ports = slices.DeleteFunc(slices.Clone(r.Ports), func(p uint16) bool { return p == port }); len(r.Ports) == 0 {
				continue
			}
		}
		kept = append(kept, r)
	}
	net.Allow = kept
	return had
}

// deciding returns the rules of a network in normal form that decide about a
// name and port: those of the most specific pattern.
func (net Network) deciding(name string, port uint16) (of []Rule) {
	var narrow egress.Pattern
	for _, r := range net.Allow {
		pattern, err := egress.ParsePattern(r.Host)
		switch {
		case err != nil || !pattern.Match(name) || !slices.Contains(r.Ports, port):
		case len(of) > 0 && pattern.String() == narrow.String():
			of = append(of, r)
		case len(of) == 0 || narrow.Covers(pattern):
			of, narrow = []Rule{r}, pattern
		}
	}
	return of
}

// rules returns the rules for a name that grant a wish besides what the deciding
// ones grant now: copies of those, and one more.
func (a Wish) rules(name string, deciding []Rule) ([]Rule, error) {
	fresh := Rule{}
	if a.Method != "" {
		fresh.Protocol, fresh.Rules = ProtocolHTTPS, []HTTPRule{a.request()}
		if a.Port == 80 {
			fresh.Protocol = ProtocolHTTP
		}
	}
	out := slices.Clone(deciding)
	if i := a.decider(deciding); i >= 0 {
		r := deciding[i]
		switch {
		case r.served():
			return nil, fmt.Errorf("policy: %s is served by a handler, which decides", name)
		case r.Protocol == "" || a.Method == "":
			return nil, fmt.Errorf("policy: %s on port %d is allowed already", name, a.Port)
		case slices.ContainsFunc(r.Deny, func(h HTTPRule) bool { return h.Methods == nil || slices.Contains(h.Methods, a.Method) }):
			return nil, fmt.Errorf("policy: some %s requests to %s are denied, and deny wins over what is allowed: change it by hand", a.Method, name)
		}
		fresh = r
		if r.Access != "" {
			fresh.Rules, fresh.Access = []HTTPRule{{Methods: presets[r.Access], Path: "/**"}}, ""
		}
		fresh.Rules = joined(append(slices.Clone(fresh.Rules), a.request()))
		// Other programs keep what they have.
		others := slices.DeleteFunc(slices.Clone(r.Programs), func(q Program) bool { return q.Path == a.Program })
		switch {
		case r.Programs == nil && a.Program == "", r.Programs != nil && len(others) == 0:
			out = slices.Delete(out, i, i+1)
		case r.Programs != nil:
			out[i].Programs = others
			fresh.Programs = slices.DeleteFunc(slices.Clone(r.Programs), func(q Program) bool { return q.Path != a.Program })
		}
	}
	if a.Program != "" && fresh.Programs == nil {
		fresh.Programs = []Program{{Path: a.Program}}
	}
	out = append(out, fresh)
	for i := range out {
		out[i].Host, out[i].Ports = name, []uint16{a.Port}
	}
	return out, nil
}

// decider returns which of the rules decides about the program of a wish, or -1.
func (a Wish) decider(deciding []Rule) int {
	if i := slices.IndexFunc(deciding, func(r Rule) bool {
		return slices.ContainsFunc(r.Programs, func(q Program) bool { return q.Path == a.Program })
	}); i >= 0 {
		return i
	}
	return slices.IndexFunc(deciding, func(r Rule) bool { return r.Programs == nil })
}

func (a Wish) request() HTTPRule {
	h := HTTPRule{Methods: []string{strings.ToUpper(a.Method)}, Path: a.Path}
	if a.Method == "GET" {
		h.Methods = append(h.Methods, "HEAD")
	}
	return h
}
