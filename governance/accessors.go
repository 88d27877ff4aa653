package governance

import (
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// PolicyInfo describes one policy of a snapshot.
type PolicyInfo struct {
	// ID and Position are as decisions name them.
	ID, Position string
	// Text is the policy as it was written, or as it was generated.
	Text string
	// Forbid: it is a forbid and no permit.
	Forbid bool
	// Profile is the profile that the policy was generated from, "" for those
	// that people wrote.
	Profile string
	// Observed: it is evaluated and never applied.
	Observed bool
	// Annotations are those in the text, by name.
	Annotations map[string]string
}

// Policies returns all policies, sorted by id.
func (s *Snapshot) Policies() []PolicyInfo {
	if s == nil {
		return nil
	}
	out := make([]PolicyInfo, 0, len(s.policies))
	for _, p := range s.policies {
		info := PolicyInfo{ID: p.id, Position: p.pos, Text: p.text, Forbid: p.forbid, Profile: p.profile, Observed: p.observed, Annotations: map[string]string{}}
		for k, v := range p.cedar.Annotations() {
			info.Annotations[string(k)] = string(v)
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b PolicyInfo) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Schema is the Cedar schema that policies were checked against, in Cedar's
// own syntax: every action, with the types of its context.
func (s *Snapshot) Schema() string {
	if s == nil {
		return ""
	}
	return s.schema
}

// Entities returns a copy of all entities that are there for every request:
// those of the bundle, and those generated from its profiles and catalogue.
func (s *Snapshot) Entities() types.EntityMap {
	if s == nil {
		return nil
	}
	return maps.Clone(s.entities)
}

// NoHistory returns a history in which nothing has happened: every fact of the
// bundle is zero, and there is no label. It is for asking a bare snapshot.
func (s *Snapshot) NoHistory() *History {
	h := &History{Facts: map[string]any{}}
	if s == nil {
		return h
	}
	for _, plan := range s.facts {
		for _, r := range plan.reads {
			switch factKinds[r.def.kind] {
			case "Long":
				h.Facts[r.def.name] = int64(0)
			case "Bool":
				h.Facts[r.def.name] = false
			default:
				h.Facts[r.def.name] = nil
			}
		}
	}
	return h
}

// CheckSyntax parses policies by themselves: syntax, limits, ids and
// annotations. It returns how many there are, and what is wrong with them, worst
// first. Whether what they name exists only [Compile] can tell.
func CheckSyntax(sources []Source) (policies int, findings []Finding) {
	var rep Report
	first := map[string]*policy{}
	for i := range sources {
		for _, p := range parsePolicies(&sources[i], &rep) {
			policies++
			if other, twice := first[p.id]; twice {
				line, col := newLines(sources[i].Text).at(p.start)
				rep.add(Finding{Code: "policy-id", Severity: SeverityError, File: sources[i].Name, Line: line, Column: col, Policy: p.id,
					Message: "the @id is taken by the policy at " + other.pos, Fix: "give each policy its own"})
			}
			first[p.id] = p
		}
	}
	rep.sort()
	return policies, rep.Findings
}
