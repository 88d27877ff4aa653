package egress

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// What a rule's Protocol may be.
const (
	// ProtocolTCP is the zero value: bytes are copied. On port 443, and wherever
	// a program begins with TLS, the name in it is checked; what is said is not.
	ProtocolTCP = ""
	// ProtocolHTTPS ends TLS here, with a certificate of the session's CA, judges
	// each request and makes a TLS connection of its own to the real host.
	ProtocolHTTPS = "https"
	// ProtocolHTTP judges each request of plain HTTP.
	ProtocolHTTP = "http"
)

// A Rule allows connections to the names of a pattern on some ports. Of all
// rules that match a name and port one alone decides; see [ruleSet.find].
type Rule struct {
	Host  Pattern
	Ports []uint16
	// Private allows real destinations at private addresses.
	Private bool
	// Served says that a handler of this process must serve the names: they are
	// never dialled, not even before the handler is there.
	Served bool
	// Protocol says what is spoken, and with it whether requests are looked at.
	Protocol string
	// HTTP judges the requests of ProtocolHTTPS and ProtocolHTTP; nil allows all
	// that are for this host. It must be nil for ProtocolTCP.
	HTTP *HTTPRules
	// Programs may connect; nil means any program.
	Programs []Program

	asked bool // a person's answer, no rule of the policy
}

// A Program is an executable inside the session. SHA256 is lower-case
// hexadecimal, or empty: then the file must lie where nothing inside can write.
type Program struct {
	Path, SHA256 string
}

// A ruleSet is an allow-list, most specific rule first.
type ruleSet []Rule

// newRuleSet checks and orders rules. Two rules that would decide about the same
// connection and say different things are an error: which of them was meant is
// not for a door to guess.
func newRuleSet(rules []Rule) (ruleSet, error) {
	s := slices.Clone(rules)
	slices.SortStableFunc(s, func(a, b Rule) int {
		if c := a.Host.compare(b.Host); c != 0 {
			return c
		}
		return cmp.Compare(b2i(a.Programs == nil), b2i(b.Programs == nil))
	})
	for i := range s {
		a := &s[i]
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("rule for %s: %w", a.Host, err)
		}
		for j := i + 1; j < len(s) && s[j].Host.text == a.Host.text; j++ {
			if b := &s[j]; a.overlaps(b) && !a.agrees(b) {
				return nil, fmt.Errorf("two rules for %s say different things about one connection", a.Host)
			}
		}
	}
	return s, nil
}

func (r *Rule) check() error {
	switch r.Protocol {
	case ProtocolTCP:
		if r.HTTP != nil {
			return fmt.Errorf("request rules without the protocol http or https")
		}
	case ProtocolHTTPS, ProtocolHTTP:
	default:
		return fmt.Errorf("protocol %q is unknown", r.Protocol)
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// overlaps reports whether two rules of one pattern can decide about the same
// connection: a port in common, and a program too, or neither names any.
func (r *Rule) overlaps(o *Rule) bool {
	if !slices.ContainsFunc(r.Ports, func(p uint16) bool { return slices.Contains(o.Ports, p) }) {
		return false
	}
	if r.Programs == nil || o.Programs == nil {
		return r.Programs == nil && o.Programs == nil
	}
	return slices.ContainsFunc(r.Programs, func(p Program) bool {
		return slices.ContainsFunc(o.Programs, func(q Program) bool { return p.Path == q.Path })
	})
}

// agrees reports whether it does not matter which of the two decides.
func (r *Rule) agrees(o *Rule) bool {
	return r.Private == o.Private && r.Served == o.Served && r.Protocol == o.Protocol && r.HTTP.equal(o.HTTP)
}

// find returns the rules that decide about a name and port: those of the most
// specific pattern that matches, and no others. A rule for api.example.com is
// the whole truth about that name on its ports; **.example.com, which speaks of
// many, adds nothing to it and takes nothing away. So no rule is widened by the
// words of another one, and a tight rule stays tight when somebody adds a broad
// one beside it. Of several that are returned, the first decides whose programs
// fit; one that names programs comes before one for any program.
func (s ruleSet) find(name string, port uint16) (of []Rule) {
	for i := range s {
		r := &s[i]
		if len(of) > 0 && r.Host.text != of[0].Host.text {
			break
		}
		if slices.Contains(r.Ports, port) && r.Host.Match(name) {
			of = append(of, *r)
		}
	}
	return of
}

// listed reports whether a rule allows name on some port.
func (s ruleSet) listed(name string) bool {
	return slices.ContainsFunc(s, func(r Rule) bool { return r.Host.Match(name) })
}

// compare orders patterns, the more specific first: an exact name, then more
// labels after the last star, then stars that stand for one label, then more
// letters. The text breaks the tie, so that the order is always the same.
func (p Pattern) compare(o Pattern) int {
	key := func(p Pattern) [4]int {
		if p.Exact() {
			return [4]int{1, 0, 0, 0}
		}
		tail := 0
		for i := len(p.labels) - 1; !strings.Contains(p.labels[i], "*"); i-- {
			tail++
		}
		return [4]int{0, tail, -b2i(p.labels[0] == "**"), len(strings.ReplaceAll(p.text, "*", ""))}
	}
	a, b := key(p), key(o)
	if c := slices.Compare(b[:], a[:]); c != 0 {
		return c
	}
	return strings.Compare(p.text, o.text)
}
