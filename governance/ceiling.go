package governance

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// The sections of a profile, as they are called in YAML.
const (
	sectionServers     = "servers"
	sectionModels      = "models"
	sectionHostedTools = "hosted_tools"
	sectionHosts       = "hosts"
	sectionCredentials = "credentials"
)

var profileID = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// ceiling writes the forbid policies of a profile. They hold for whatever the
// profile's agents do, whatever any other policy says; each names the section
// that left the thing out.
func (p Profile) ceiling() string {
	var b strings.Builder
	forbid := func(section string, outside string, actions ...string) {
		for i, a := range actions {
			actions[i] = "Action::" + cedarx.Quote(a)
		}
		fmt.Fprintf(&b, "@id(%s)\nforbid (principal in Profile::%s, action in [%s], resource)%s;\n",
			cedarx.Quote(generatedPrefix+p.ID+":"+section), cedarx.Quote(p.ID), strings.Join(actions, ", "), outside)
	}
	in := fmt.Sprintf("\nunless { resource in Profile::%s }", cedarx.Quote(p.ID))
	if p.Servers != nil {
		forbid("tools", in, append(verbsOn(typePrompt, typeResource), actionCallTool)...)
		forbid(sectionServers, oneOf(typeServer, slices.Sorted(maps.Keys(p.Servers))), verbsOn(typeServer)...)
	}
	if p.Models != nil {
		forbid(sectionModels, in, verbsOn(typeModel)...)
		forbid("providers", oneOf(typeProvider, providersOf(p.Models)), verbsOn(typeProvider)...)
	}
	if p.HostedTools != nil {
		forbid(sectionHostedTools, in, verbsOn(typeHostedTool)...)
	}
	if p.Hosts != nil {
		forbid(sectionHosts, in, verbsOn(typeHost)...)
	}
	if p.Credentials != nil {
		forbid(sectionCredentials, in, verbsOn(typeCredential)...)
	}
	return b.String()
}

// verbsOn returns the actions on resources of these types, sorted.
func verbsOn(resources ...types.EntityType) []string {
	var out []string
	for name, v := range verbs {
		if slices.Contains(resources, v.resource) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// oneOf is the condition "unless resource is one of these", or none for none.
func oneOf(t types.EntityType, ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = string(t) + "::" + cedarx.Quote(id)
	}
	return "\nunless { resource in [" + strings.Join(quoted, ", ") + "] }"
}

func providersOf(models []string) []string {
	var out []string
	for _, m := range models {
		provider, _, _ := strings.Cut(m, "/")
		out = append(out, provider)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// check reports what is wrong with a profile, given the catalogue.
func (p Profile) check(catalog map[string]Server, rep *Report) {
	bad := func(word, msg, fix string) { p.finding(rep, word, msg, fix) }
	if len(p.ID) > 64 || !profileID.MatchString(p.ID) {
		bad("id:", fmt.Sprintf("the profile's id is %q", p.ID), "use 1 to 64 of A-Z, a-z, 0-9, _, . and -")
	}
	for _, a := range p.Agents {
		if a == "" {
			bad("agents", "an agent without a name", "remove it")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Servers)) {
		server, ok := catalog[name]
		if !ok {
			bad(name, fmt.Sprintf("the catalogue has no server %q", name), nearby(name, slices.Sorted(maps.Keys(catalog))))
			continue
		}
		known := toolNames(server)
		for _, t := range p.Servers[name].Tools {
			if t != "*" && !slices.Contains(known, t) {
				bad(t, fmt.Sprintf("the catalogue has no tool %q of server %q", t, name), nearby(t, known))
			}
		}
	}
	for _, m := range slices.Concat(p.Models, p.HostedTools) {
		if provider, name, ok := strings.Cut(m, "/"); !ok || provider == "" || name == "" {
			bad(m, fmt.Sprintf("%q is no model", m), `write "provider/name" or "provider/*"`)
		}
	}
	for _, h := range p.Hosts {
		switch form, err := hostForm(h); {
		case err != nil:
			bad(h, fmt.Sprintf("%q is no host name: %s", h, err), `write "api.example.com" or "*.example.com", in lower case and without a port`)
		case form != h:
			bad(h, fmt.Sprintf("%q is no host name that requests have", h), fmt.Sprintf("write %q", form))
		}
	}
	for _, c := range p.Credentials {
		if c == "" || c == "*" {
			bad("credentials", fmt.Sprintf("%q is no credential", c), "name each one")
		}
	}
}

// name is what positions in the profile refer to.
func (p Profile) name() string {
	if p.file == "" {
		return "profile " + p.ID
	}
	return p.file
}

// finding reports a mistake at the first place where the profile says word.
func (p Profile) finding(rep *Report, word, msg, fix string) {
	rep.add(located("profile", p.name(), p.text, word, msg, fix))
}

// located is a blocking finding at the first place where text, if known, has
// word.
func located(code, file, text, word, msg, fix string) Finding {
	f := Finding{Code: code, Severity: SeverityError, File: file, Message: msg, Fix: fix}
	if text != "" {
		f.Line, f.Column = newLines(text).at(max(0, strings.Index(text, word)))
	}
	return f
}

func toolNames(s Server) []string {
	names := make([]string, len(s.Tools))
	for i, t := range s.Tools {
		names[i] = t.Name
	}
	return names
}

// holds reports whether a list names a thing, outright or by "*".
func holds(list []string, name string) bool {
	return slices.Contains(list, name) || slices.Contains(list, "*")
}

// holdsModel is holds for "provider/name" and "provider/*".
func holdsModel(list []string, provider, name string) bool {
	return slices.Contains(list, provider+"/"+name) || slices.Contains(list, provider+"/*")
}
