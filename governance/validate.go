package governance

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// validate reports what is wrong with a policy that parses: what the schema
// does not allow, and names of things that are not in the bundle. It is false
// when the policy is wrong.
func (c *compiler) validate(p *policy) bool {
	before := len(c.rep.Findings)
	for _, e := range cedarx.Entities(p.cedar) {
		known, severity := c.known(e)
		if known {
			continue
		}
		c.finding(p, "unknown-entity", severity, string(e.ID), fmt.Sprintf("there is no %s", e), nearby(string(e.ID), c.snap.idsOf(e.Type)))
	}
	for _, msg := range mistakes(c.validator.Policy(p.cedar)) {
		switch {
		case strings.Contains(msg, "unrecognized action"):
			continue // reported above, with a hint
		case strings.Contains(msg, "unable to find an applicable action") && len(c.rep.Findings) > before:
			continue // follows from another mistake
		case strings.Contains(msg, "unable to find an applicable action") && c.coversGroups(p):
			// "No destructive tool" is a good rule while there is none.
			c.finding(p, "never-applies", SeverityWarning, "", "the policy covers no tool at present", "leave it if it is meant for tools to come")
			continue
		}
		code, word, fix := explain(msg, c.snap)
		c.finding(p, code, SeverityError, word, msg, fix)
	}
	c.comparisons(p)
	return !slices.ContainsFunc(c.rep.Findings[before:], func(f Finding) bool { return f.Severity == SeverityError || f.Code == "never-applies" })
}

// mistakes returns the messages of a validator: one for each mistake, not for
// each action that the policy covers. It is the first by the alphabet, because
// the validator looks at the actions in any order.
func mistakes(errs []error) []string {
	var gists []string
	first := map[string]string{}
	for _, err := range errs {
		msg := err.Error()
		gist, _, _ := strings.Cut(msg, " in context for ")
		gist, _, _ = strings.Cut(gist, " on entity type ")
		if known, ok := first[gist]; !ok {
			gists = append(gists, gist)
			first[gist] = msg
		} else {
			first[gist] = min(known, msg)
		}
	}
	for i, gist := range gists {
		gists[i] = first[gist]
	}
	return gists
}

// comparisons warns of those that can never be true, because the argument
// reaches policy as JSON: a forbid would be none.
func (c *compiler) comparisons(p *policy) {
	said := map[string]bool{}
	for _, cmp := range cedarx.Comparisons(p.cedar) {
		keys := c.asJSON(p, cmp.Path)
		if len(keys) == 0 {
			continue
		}
		canonical, err := argument.CanonicalJSON(cmp.Text)
		if err == nil && canonical == cmp.Text {
			continue
		}
		path := strings.Join(cmp.Path, ".")
		for _, key := range keys {
			msg := fmt.Sprintf("context.args.%s of %s is JSON, and never equals %q", path, key, cmp.Text)
			if !said[msg] {
				c.finding(p, "compares-json", SeverityWarning, cmp.Path[len(cmp.Path)-1], msg, fmt.Sprintf("compare it with %s, or use like", cedarx.Quote(cedarx.Quote(cmp.Text))))
			}
			said[msg] = true
		}
	}
}

// asJSON returns the tools that p covers in which the argument, or each of its
// values, is JSON, sorted.
func (c *compiler) asJSON(p *policy, path []string) (keys []string) {
	for _, t := range c.area(p).tools {
		at := t.args.At(path)
		for at != nil && at.Kind == argument.KindSet {
			at = at.Elem
		}
		if at != nil && at.Kind == argument.KindText {
			keys = append(keys, t.key)
		}
	}
	return keys
}

// known reports whether the bundle holds an entity that a policy names, and how
// bad it is if not. Agents and users need not be listed; hosts, models and the
// like are not listed anywhere.
func (c *compiler) known(e types.EntityUID) (bool, Severity) {
	switch e.Type {
	case typeAction, typeTool, typeServer, typeProfile:
		_, ok := c.snap.entities[e]
		return ok, SeverityError
	case typeTeam, typeRole:
		_, ok := c.snap.entities[e]
		return ok, SeverityWarning
	}
	return true, ""
}

// coversGroups reports whether a policy is about groups of tools only.
func (c *compiler) coversGroups(p *policy) bool {
	for _, e := range p.action.Any {
		name := string(e.ID)
		if i := strings.LastIndexByte(name, ':'); i >= 0 {
			name = name[i+1:]
		}
		if name != actionCallTool && !slices.Contains(classes, Class(name)) {
			return false
		}
	}
	return p.action.Bounded && !p.action.Exact
}

func (c *compiler) finding(p *policy, code string, severity Severity, word, msg, fix string) {
	f := located(code, p.src.Name, "", "", msg, fix)
	f.Line, f.Column = p.where.at(p.start + offsetOf(p.text, word))
	f.Severity, f.Policy = severity, p.id
	c.rep.add(f)
}

// offsetOf finds a name in a policy, as a whole word if it can.
func offsetOf(text, word string) int {
	if word == "" {
		return 0
	}
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return max(0, strings.Index(text, word))
		}
		start, end := from+i, from+i+len(word)
		if (start == 0 || !isWord(text[start-1])) && (end == len(text) || !isWord(text[end])) {
			return start
		}
		from = end
	}
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

var quotedName = regexp.MustCompile("`([^`]+)`")

// explain finds the word that a validator's message is about, and what to do.
func explain(msg string, s *Snapshot) (code, word, fix string) {
	code = "type"
	fix = "see the package documentation for the vocabulary"
	if strings.Contains(msg, "applicable action") {
		return "never-applies", "", "no action of the scope applies to such a principal and resource; " + fix
	}
	m := quotedName.FindStringSubmatch(msg)
	if m == nil {
		return code, "", fix
	}
	path := strings.Trim(m[1], `"`)
	word = path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case strings.Contains(msg, "optional attribute"):
		code = "unguarded"
		fix = fmt.Sprintf("it may be absent; test it first: context has %s && …", path)
	case strings.Contains(msg, "access to tag"):
		code = "unguarded"
		fix = fmt.Sprintf("it may be absent; test it first: hasTag(%q) && …", path)
	case strings.Contains(msg, "not found"):
		names := s.attributeNames()
		if slices.Contains(names, word) {
			fix = "not everything that the policy covers has it; narrow the action, or test it first with has"
		} else {
			fix = nearby(word, names)
		}
	case strings.Contains(msg, "entity type"):
		fix = nearby(word, typeNames)
	}
	return code, word, fix
}

var typeNames = []string{"Action", "Agent", "Credential", "Host", "HostedTool", "Model", "Profile", "Prompt", "Provider", "Resource", "Role", "Sandbox", "Server", "Team", "Tool", "User"}

// idsOf returns the ids of all entities of a type, sorted.
func (s *Snapshot) idsOf(t types.EntityType) []string {
	var ids []string
	for e := range s.entities {
		if e.Type == t {
			ids = append(ids, string(e.ID))
		}
	}
	slices.Sort(ids)
	return ids
}

// attributeNames are all names that some context has.
func (s *Snapshot) attributeNames() []string {
	set := map[string]bool{"now": true, "session": true, "user": true, "agent": true, "approval": true, "groups": true, "labels": true, "facts": true, "args": true, "nulls": true, "extra": true, "derived": true}
	for _, v := range verbs {
		for a := range v.attrs {
			set[a] = true
		}
	}
	for _, d := range s.defs {
		set[d.name] = true
	}
	for _, t := range s.tools {
		for _, f := range t.args.Fields {
			set[f.Name] = true
		}
		for _, d := range t.derived {
			set[d.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
