package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// rules compares the rules of two policies, pattern by pattern and port by port.
func (d *differ) rules(old, next []Rule) {
	type spot struct {
		host string
		port uint16
	}
	var spots []spot
	index := func(rules []Rule) map[spot][]Rule {
		of := make(map[spot][]Rule)
		for _, r := range rules {
			for _, p := range r.Ports {
				s := spot{r.Host, p}
				r.Ports = nil
				of[s] = append(of[s], r)
				if !slices.Contains(spots, s) {
					spots = append(spots, s)
				}
			}
		}
		return of
	}
	was, is := index(old), index(next)
	slices.SortFunc(spots, func(a, b spot) int {
		return compareRules(Rule{Host: a.host, Ports: []uint16{a.port}}, Rule{Host: b.host, Ports: []uint16{b.port}})
	})
	for _, s := range spots {
		d.spot(fmt.Sprintf("%s on port %d", s.host, s.port), was[s], is[s], around(s.host, s.port, old), around(s.host, s.port, next))
	}
}

// around reports whether a rule of a broader or crossing pattern speaks of a
// pattern's names as well.
func around(host string, port uint16, rules []Rule) bool {
	p, err := egress.ParsePattern(host)
	return err != nil || slices.ContainsFunc(rules, func(r Rule) bool {
		q, err := egress.ParsePattern(r.Host)
		return r.Host != host && slices.Contains(r.Ports, port) && (err != nil || q.Overlaps(p) && !p.Covers(q))
	})
}

// spot compares what two policies say about one pattern and port.
func (d *differ) spot(at string, old, next []Rule, wasAround, isAround bool) {
	const field = "network.allow"
	switch {
	case len(old) == 0 && wasAround:
		d.add(field, Other, "%s has a rule of its own, where a broader one decided", at)
	case len(old) == 0:
		d.add(field, Wider, "%s can be reached%s", at, how(next))
	case len(next) == 0 && isAround:
		d.add(field, Other, "%s has no rule of its own any more, and a broader one decides", at)
	case len(next) == 0:
		d.add(field, Narrower, "%s cannot be reached any more", at)
	case len(old) == 1 && len(next) == 1:
		d.words(at, old[0], next[0])
	case !slices.EqualFunc(old, next, func(a, b Rule) bool { return compareRules(a, b) == 0 }):
		d.add(field, Other, "%s: the rules of its programs differ", at)
	}
}

func how(rules []Rule) string {
	if len(rules) == 1 && rules[0].Served {
		return ", served by a handler"
	}
	return ""
}

// words compares two rules about the same names and port.
func (d *differ) words(at string, a, b Rule) {
	const field = "network.allow"
	flag := func(old, next bool, more Effect, on, off string) {
		if old == next {
			return
		}
		less := map[Effect]Effect{Wider: Narrower, Narrower: Wider}[more]
		if next {
			d.add(field, more, "%s %s", at, on)
		} else {
			d.add(field, less, "%s %s", at, off)
		}
	}
	flag(a.Private, b.Private, Wider, "may lead to addresses of the local network", "may not lead to addresses of the local network any more")
	flag(a.served(), b.served(), Narrower, "is served by a handler and not dialled", "is dialled, not served by a handler")
	d.programs(field, at+": ", a.Programs, b.Programs)
	switch {
	case a.Protocol == b.Protocol:
	case b.Protocol == "":
		d.add(field, Wider, "%s: requests are not judged any more", at)
		return
	case a.Protocol == "":
		d.add(field, Narrower, "%s: requests are judged, as %s", at, b.Protocol)
		return
	default:
		d.add(field, Other, "%s: from %s to %s", at, a.Protocol, b.Protocol)
	}
	d.requests(at, "allowed", a.requests(), b.requests(), Wider)
	d.requests(at, "denied", a.Deny, b.Deny, Narrower)
}

// requests returns what a rule allows, its access written out.
func (r Rule) requests() []HTTPRule {
	if r.Access == "" {
		return r.Rules
	}
	return []HTTPRule{{Methods: presets[r.Access], Path: "/**"}}
}

// requests compares lists of requests; more is the effect of an entry that is
// added. An entry that another one covers changes nothing, which is not seen
// unless paths are equal.
func (d *differ) requests(at, verb string, old, next []HTTPRule, more Effect) {
	less := map[Effect]Effect{Wider: Narrower, Narrower: Wider}[more]
	added, removed := without(next, old), without(old, next)
	if len(added) > 0 {
		d.add("network.allow", more, "%s: %s is %s", at, quoted(added), verb)
	}
	if len(removed) > 0 {
		d.add("network.allow", less, "%s: %s is %s no more", at, quoted(removed), verb)
	}
}

// without returns what of a is not said by b, method by method.
func without(a, b []HTTPRule) (rest []HTTPRule) {
	for _, h := range a {
		same := slices.DeleteFunc(slices.Clone(b), func(o HTTPRule) bool { return o.Path != h.Path })
		switch {
		case slices.ContainsFunc(same, func(o HTTPRule) bool { return o.Methods == nil }):
			continue
		case h.Methods == nil:
			var but []string
			for _, o := range same {
				but = append(but, o.Methods...)
			}
			if len(but) > 0 {
				h.Methods = []string{"any method but " + strings.Join(set(but), ", ")}
			}
			rest = append(rest, h)
			continue
		}
		left := slices.DeleteFunc(slices.Clone(h.Methods), func(m string) bool {
			return slices.ContainsFunc(same, func(o HTTPRule) bool { return slices.Contains(o.Methods, m) })
		})
		if len(left) > 0 {
			rest = append(rest, HTTPRule{Methods: left, Path: h.Path})
		}
	}
	return rest
}
