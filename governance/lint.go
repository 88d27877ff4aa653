package governance

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// lint reports what is allowed to be written and is most likely a mistake. It
// is asked about policies that are right.
func (c *compiler) lint(p *policy) {
	c.characters(p)
	c.expired(p)
	if c.reaches(p) {
		c.impossible(p)
	}
	c.enums(p)
	c.hosts(p)
	c.open(p)
}

// impossible reports conditions that can never be true: a permit that permits
// nothing, and a forbid that is none.
func (c *compiler) impossible(p *policy) {
	const msg = "the policy can never apply"
	if word := cedarx.Contradiction(p.cedar); word != "" {
		c.finding(p, "impossible", SeverityWarning, word, msg+": its conditions exclude each other at "+word, "join alternatives with ||, or list them: [\"a\", \"b\"].contains(…)")
		return
	}
	if cedarx.MayBeImpossible(p.cedar) && c.validator.Impossible(p.cedar) {
		c.finding(p, "impossible", SeverityWarning, "", msg+": its conditions are false whatever is asked", "look for an attribute that nothing has, an entity of a type that cannot be there, or a literal false")
	}
}

// reaches reports whether the scope of p matches anything in the bundle, and
// says so if not.
func (c *compiler) reaches(p *policy) bool {
	if !c.members(p.principal) {
		c.finding(p, "no-members", SeverityWarning, string(p.principal.Any[0].ID), fmt.Sprintf("nobody is in %s", p.principal.Any[0]), "list its members in entities.json or the profile, or leave it if it is meant for members to come")
	}
	if a := c.area(p); len(a.tools) > 0 || a.verb {
		return true
	}
	if c.coversGroups(p) && !p.resource.Bounded {
		return false // said by validate
	}
	word := ""
	if len(p.resource.Any) > 0 {
		word = string(p.resource.Any[0].ID)
	}
	c.finding(p, "never-applies", SeverityWarning, word, "no action of the scope is ever asked for with a resource of the scope", "correct one of the two; a tool's action has the tool of the same name as its resource")
	return false
}

// members reports whether anybody can be matched by a principal's scope. Agents
// and users need not be listed anywhere; of a group that is not there, validate
// has told.
func (c *compiler) members(s cedarx.Scope) bool {
	if !s.Bounded {
		return true
	}
	for _, e := range s.Any {
		_, known := c.snap.entities[e]
		if e.Type == typeAgent || e.Type == typeUser || c.populated()[e] || !known {
			return true
		}
	}
	return false
}

// populated are the groups that an agent or a user of the bundle is in.
func (c *compiler) populated() map[types.EntityUID]bool {
	if c.groups == nil {
		c.groups = map[types.EntityUID]bool{}
		for id := range c.snap.entities {
			if id.Type == typeAgent || id.Type == typeUser {
				for _, above := range ancestors(c.snap.entities, id) {
					c.groups[above] = true
				}
			}
		}
	}
	return c.groups
}

// expired reports an @expires that has passed. A permit ends by itself, see
// [policy.expire]; a forbid does not, because it would open what it closes.
func (c *compiler) expired(p *policy) {
	if p.expires.IsZero() || c.snap.clock().Before(p.expires) {
		return
	}
	msg, fix := "the permit has expired and permits nothing", "remove it, or review it and set a later date"
	if p.forbid {
		msg, fix = "the forbid has expired and is still in force", "remove it if nothing needs it any more, or set a later date"
	}
	c.finding(p, "expired", SeverityWarning, "@expires", msg, fix)
}

// parseExpiry reads the value of @expires: a date, to the end of which, in UTC,
// the policy holds; or an instant (RFC 3339), before which it does.
func parseExpiry(v string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, v); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return time.Time{}, fmt.Errorf(`want a date such as "2026-12-31", or an instant such as "2026-12-31T18:00:00Z"`)
	}
	return t, nil
}

// expire makes a permit end by itself, with no reload and nobody watching: its
// @expires becomes its first condition. Its text stays what was written.
func (p *policy) expire() {
	if !p.forbid && !p.expires.IsZero() {
		p.cedar = cedarx.Until(p.cedar, p.expires)
	}
}

// enums reports texts that an argument can never be, because its schema lists
// what it can be.
func (c *compiler) enums(p *policy) {
	for _, test := range cedarx.TextTests(p.cedar) {
		for _, text := range test.Texts {
			var allowed []string
			never := true
			for _, t := range c.area(p).tools {
				at := t.args.At(test.Path)
				if at != nil && at.Kind == argument.KindSet {
					at = at.Elem
				}
				if at == nil {
					continue // tested with has, or an error
				}
				if at.Kind != argument.KindString || at.Enum == nil || at.Enum[text] {
					never = false
					break
				}
				for v := range at.Enum {
					allowed = append(allowed, v)
				}
			}
			if never && len(allowed) > 0 {
				slices.Sort(allowed)
				c.finding(p, "not-in-enum", SeverityWarning, text, fmt.Sprintf("context.args.%s is never %q", strings.Join(test.Path, "."), text), nearby(text, slices.Compact(allowed)))
			}
		}
	}
}

// hosts reports hosts in another form than requests have, which are brought to
// one form each: a permit for such a host permits nothing, a forbid forbids
// nothing.
func (c *compiler) hosts(p *policy) {
	said := map[types.EntityUID]bool{}
	for _, e := range cedarx.Entities(p.cedar) {
		form, err := hostForm(string(e.ID))
		if e.Type != typeHost || form == string(e.ID) || said[e] {
			continue
		}
		said[e] = true
		msg, fix := fmt.Sprintf("no request is ever for %s, because requests name that host in another form", e), fmt.Sprintf("write %s", uid(typeHost, form))
		if err != nil {
			msg, fix = fmt.Sprintf("no request is ever for %s: %s", e, err), `write a name in ASCII, such as Host::"api.example.com", all names below it, such as Host::"*.example.com", or an address`
		}
		c.finding(p, "host-form", SeverityWarning, string(e.ID), msg, fix)
	}
}

// open reports a permit that lets everybody do what cannot be undone, without a
// condition and without an obligation.
func (c *compiler) open(p *policy) {
	if p.forbid || p.principal.Bounded || len(p.duties) > 0 || !cedarx.Unconditional(p.cedar) {
		return
	}
	for _, t := range c.area(p).tools {
		if t.def.Class == Destructive {
			c.finding(p, "open-destructive", SeverityWarning, "", fmt.Sprintf("everybody may call %s, which is destructive", t.key), "say who: principal in Profile::\"…\"; or add a condition or @approval")
			return
		}
	}
}
