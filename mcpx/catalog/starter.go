package catalog

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/governance"
)

// StarterOptions are the options of [Connector.Starter]; nil is the zero value.
type StarterOptions struct {
	// Server is what policy calls the server; "" is the connector's id.
	Server string
	// Values fill the parameters of the connector's rules, such as the owners of
	// repositories that may be written to. A rule whose parameters are not all
	// here is left out.
	Values map[string][]string
	// Credential names the server's secret in the vault; "" is the server's name.
	Credential string
}

// Starter writes the policies to begin with, for one profile:
//
//   - tools of class read are permitted, but for those that a rule is about;
//   - these, and tools of class write, are permitted by the connector's rules,
//     as far as opts gives their values;
//   - destructive tools are forbidden, whatever else permits them;
//   - the server's secret may be used for this server and for nothing else.
//
// Put them into a bundle, read them, and make them yours. The profile has to
// list the server, too.
func (c *Connector) Starter(profile string, opts *StarterOptions) (governance.Source, error) {
	if opts == nil {
		opts = &StarterOptions{}
	}
	server, credential := opts.Server, opts.Credential
	if server == "" {
		server = c.ID
	}
	if credential == "" {
		credential = server
	}
	if !connectorID.MatchString(server) {
		return governance.Source{}, fmt.Errorf("catalog: server name %q: use 1 to 32 of a-z, 0-9 and -", server)
	}
	for _, text := range []string{profile, credential} {
		if err := plain(text); err != nil {
			return governance.Source{}, fmt.Errorf("catalog: the profile's or the credential's name %q: %w", text, err)
		}
	}
	w := writer{profile: profile, server: server}
	fmt.Fprintf(&w, "// %s: reads are permitted, writes under conditions, and nothing is destroyed.\n", c.Name)
	if c.record == nil || len(c.Tools[governance.Read]) > 0 {
		w.policy("permit", "read", fmt.Sprintf(`action in Action::"%s:read"`, server), c.unruled(server))
	}
	for _, r := range c.rules(opts.Values) {
		clause, err := fill(r.When, opts.Values)
		if err != nil {
			return governance.Source{}, fmt.Errorf("catalog: rule %q of %q: %w", r.ID, c.ID, err)
		}
		if clause = "when { " + clause + " }"; strings.TrimSpace(r.When) == "true" {
			clause = ""
		}
		w.policy("permit", r.ID, "action in "+actions(server, r.Tools, "    "), clause)
	}
	w.policy("forbid", "no-destructive", fmt.Sprintf(`action in Action::"%s:destructive"`, server), "")
	if c.secret() {
		fmt.Fprintf(&w, "\n@id(\"%s-credential\")\npermit (\n  principal in Profile::%q,\n  action == Action::\"use_credential\",\n  resource == Credential::%q\n)\nwhen { context has server && context.server == %q };\n", server, profile, credential, server)
	}
	return governance.Source{Name: "policies/" + server + ".cedar", Text: w.String()}, nil
}

// unruled is the clause that leaves out tools of class read that are in a rule,
// or "".
func (c *Connector) unruled(server string) string {
	var names []string
	for _, r := range c.Rules {
		for _, name := range r.Tools {
			if class, _ := c.Class(name); class == governance.Read && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "unless {\n  action in " + actions(server, names, "    ") + "\n}"
}

// actions is a set of the actions of tools.
func actions(server string, tools []string, indent string) string {
	set := make([]string, len(tools))
	for i, name := range tools {
		set[i] = fmt.Sprintf(`Action::"%s__%s"`, server, name)
	}
	return "[\n" + indent + strings.Join(set, ",\n"+indent) + "\n  ]"
}

// rules returns those whose parameters all have values.
func (c *Connector) rules(values map[string][]string) (out []Rule) {
	for _, r := range c.Rules {
		missing := slices.ContainsFunc(parameter.FindAllStringSubmatch(r.When, -1), func(m []string) bool {
			return len(values[m[1]]) == 0
		})
		if !missing {
			out = append(out, r)
		}
	}
	return out
}

// Parameters returns the names of the values that the connector's rules ask
// for, sorted.
func (c *Connector) Parameters() (names []string) {
	for _, r := range c.Rules {
		for _, m := range parameter.FindAllStringSubmatch(r.When, -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// secret reports whether requests to the server carry one.
func (c *Connector) secret() bool { return len(c.Auth) > 0 && c.Auth[0].Type != TypeNone }

// below is the question whether a path lies below a folder.
var below = regexp.MustCompile(`under\(([a-z_.]+), \$\{([a-z_]{1,32})\}\)`)

// fill puts sets of text in the places of parameters.
func fill(when string, values map[string][]string) (string, error) {
	var bad error
	when = below.ReplaceAllStringFunc(when, func(m string) string {
		part := below.FindStringSubmatch(m)
		var any []string
		for _, folder := range values[part[2]] {
			if err := plain(folder); err != nil || strings.Contains(folder, "*") {
				bad = errors.Join(fmt.Errorf("folder %q: no asterisks", folder), err)
			}
			any = append(any, part[1]+" like "+strconv.Quote(strings.TrimRight(folder, "/")+"/*"))
		}
		return "(" + strings.Join(any, " || ") + ")"
	})
	out := parameter.ReplaceAllStringFunc(when, func(m string) string {
		var quoted []string
		for _, v := range values[parameter.FindStringSubmatch(m)[1]] {
			if err := plain(v); err != nil {
				bad = fmt.Errorf("value %q: %w", v, err)
			}
			quoted = append(quoted, strconv.Quote(v))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	})
	return strings.TrimSpace(out), bad
}

// plain refuses what Go and Cedar might quote differently, and what a reviewer
// of the policies cannot see.
func plain(s string) error {
	if s == "" || len(s) > 256 {
		return errors.New("use 1 to 256 characters")
	}
	for _, r := range s {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return errors.New("use printable ASCII without quotes and backslashes; write a policy of your own for others")
		}
	}
	return nil
}

// A writer writes policies about one server for one profile.
type writer struct {
	strings.Builder
	profile, server string
}

// policy writes one; clause is what stands behind its scope, or "".
func (w *writer) policy(effect, id, action, clause string) {
	fmt.Fprintf(w, "\n@id(\"%s-%s\")\n%s (\n  principal in Profile::%q,\n  %s,\n  resource in Server::%q\n)", w.server, id, effect, w.profile, action, w.server)
	if clause != "" {
		w.WriteString("\n" + clause)
	}
	w.WriteString(";\n")
}
