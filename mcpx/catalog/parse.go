package catalog

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/governance/strictyaml"
)

// Limits of what is read. They are far above what the catalogue needs.
const (
	maxFile   = 128 << 10
	maxRecord = 4 << 20
	maxTools  = 2048
)

var (
	connectorID = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	toolName    = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,96}$`)
	ruleID      = regexp.MustCompile(`^[a-z0-9-]{1,48}$`)
	parameter   = regexp.MustCompile(`\$\{([a-z_]{1,32})\}`)
	inBraces    = regexp.MustCompile(`\{[a-z_]{1,32}\}`)
	variable    = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
	headerName  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// printable are the characters of a condition.
var printable = func() string {
	b := []byte{'\n'}
	for c := byte(' '); c <= '~'; c++ {
		b = append(b, c)
	}
	return string(b)
}()

// classes in the order in which they are written.
var classes = []governance.Class{governance.Read, governance.Write, governance.Destructive}

// facts are the keys of sources.
var facts = []string{"server", "auth", "origins", "scopes", "tools"}

// Parse reads one connector from strict YAML, and what was recorded of its
// server from JSON; record is empty for a connector that is unverified. Use it
// for connectors of your own, in the form of the files in this package's data
// folder. file is what errors call the text. The error wraps [ErrData] and names
// everything that is wrong, with file, line and column.
func Parse(file string, text, record []byte) (*Connector, error) {
	var c Connector
	if err := strictyaml.Unmarshal(file, text, maxFile, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrData, err)
	}
	k := check{file: file, text: string(text)}
	k.connector(&c)
	if len(record) > 0 {
		r, err := ParseRecord(strings.TrimSuffix(file, ".yaml")+".tools.json", record)
		if err != nil {
			return nil, err
		}
		c.record = &r
	}
	k.recorded(&c)
	if err := errors.Join(k.found...); err != nil {
		return nil, fmt.Errorf("%w:\n%w", ErrData, err)
	}
	return &c, nil
}

// A check gathers what is wrong with a file.
type check struct {
	file, text string
	found      []error
}

// bad reports a mistake at the first place where the file has the text near.
func (k *check) bad(near, message, fix string) {
	e := &strictyaml.Error{File: k.file, Line: 1, Column: 1, Message: message, Fix: fix}
	if at := strings.Index(k.text, near); near != "" && at >= 0 {
		e.Line += strings.Count(k.text[:at], "\n")
		e.Column = at - strings.LastIndexByte(k.text[:at], '\n')
	}
	k.found = append(k.found, e)
}

func (k *check) connector(c *Connector) {
	if !connectorID.MatchString(c.ID) {
		k.bad("id:", fmt.Sprintf("id %q", c.ID), "use 1 to 32 of a-z, 0-9 and -")
	}
	if c.Name == "" || c.Vendor == "" {
		k.bad("", "name or vendor is missing", "say what it is and who offers it")
	}
	k.where(c)
	k.auth(c)
	for _, o := range c.Origins {
		filled := inBraces.ReplaceAllString(o, "x")
		if got, err := credential.Origin(filled); err != nil || got != filled {
			k.bad(o, fmt.Sprintf("origin %q is not in canonical form", o), "write scheme://host[:port] in lower case, without a default port or a path")
		}
	}
	for class := range c.Scopes {
		if !slices.Contains(classes, class) {
			k.bad(string(class)+":", fmt.Sprintf("scopes of class %q", class), "classes are read, write and destructive")
		}
	}
	k.tools(c)
	k.rules(c)
	k.sources(c)
}

// where checks transport, endpoint and package.
func (k *check) where(c *Connector) {
	switch c.Transport {
	case "http", "sse":
		at, err := url.Parse(inBraces.ReplaceAllString(c.Endpoint, "x"))
		if err != nil || at.Host == "" || at.User != nil || at.Scheme != "https" {
			k.bad("endpoint:", fmt.Sprintf("endpoint %q", c.Endpoint), "want the https URL of the server; the customer's own parts go in braces, as in {account}")
		}
		if c.Package != nil {
			k.bad("package:", "a package and an endpoint", "make two connectors: they may have other tools")
		}
	case "stdio":
		p := c.Package
		if p == nil || p.Name == "" || p.Version == "" || !slices.Contains([]string{"npm", "pypi", "go"}, p.Registry) {
			k.bad("package:", "transport stdio without a whole package", "say registry (npm, pypi or go), name and version")
		} else if bad := slices.ContainsFunc(slices.Collect(maps.Keys(p.Env)), func(name string) bool { return !variable.MatchString(name) }); bad {
			k.bad("env:", "an odd variable", "write it as the program wants it")
		} else if strings.HasPrefix(p.Name, "-") || strings.ContainsAny(p.Name+p.Version, " \t\n\\;&|$`'\"") {
			k.bad("package:", "an odd name or version of a package", "write them as the registry does")
		}
		if c.Endpoint != "" {
			k.bad("endpoint:", "an endpoint with transport stdio", "leave it out")
		}
	default:
		k.bad("transport:", fmt.Sprintf("transport %q", c.Transport), "use http, sse or stdio")
	}
}

// auth checks each way as it would be once a customer has completed it.
func (k *check) auth(c *Connector) {
	if len(c.Auth) == 0 {
		k.bad("auth:", "no auth", "say how, or type: none")
	}
	for i, a := range c.Auth {
		near := "type: " + a.Type
		if a.Type == TypeNone {
			if len(c.Auth) > 1 {
				k.bad(near, "none and another way", "keep one of them")
			}
			if c.Auth[i] = (credential.BindingSpec{Type: TypeNone}); a.Name+a.Format+a.User+a.Origin != "" {
				k.bad(near, "none with more words", "leave them out")
			}
			continue
		}
		if a.Origin != "" || len(a.Scopes) > 0 {
			k.bad(near, "an origin or scopes inside auth", "write them as origins and scopes of the connector")
			continue
		}
		if err := completed(a).Validate(); err != nil {
			k.bad(near, err.Error(), "see credential.BindingSpec for the words")
		}
		process := a.Type == credential.TypeEnv || a.Type == credential.TypeDescriptor
		if process && c.Transport != "stdio" {
			k.bad(near, "a secret of a child process for a server that is none", "use bearer, header or oauth_authorization_code")
		}
		if a.Type == credential.TypeEnv && !variable.MatchString(a.Name) || a.Type == credential.TypeHeader && !headerName.MatchString(a.Name) {
			k.bad(near, fmt.Sprintf("name %q", a.Name), "write it as the server wants it")
		}
	}
}

// completed fills in what is a customer's own.
func completed(s credential.BindingSpec) credential.BindingSpec {
	fill := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	fill(&s.Origin, "https://example.com")
	switch s.Type {
	case credential.TypeEnv, credential.TypeDescriptor:
		s.Origin = "stdio://example"
	case credential.TypeBasic:
		fill(&s.User, "user")
	case credential.TypeSigV4:
		fill(&s.Region, "us-east-1")
		fill(&s.Service, "service")
	case credential.TypeGitHubApp:
		fill(&s.AppID, "1")
		fill(&s.InstallationID, "1")
	case credential.TypeOAuthClientCredentials, credential.TypeOAuthRefreshToken, credential.TypeOAuthAuthorizationCode,
		credential.TypeOAuthTokenExchange, credential.TypeOAuthJWTBearer, credential.TypeOAuthIDJAG:
		fill(&s.Issuer, "https://issuer.example.com")
		fill(&s.ClientID, "client")
		if s.Type == credential.TypeOAuthIDJAG {
			fill(&s.IdentityProvider, "https://idp.example.com")
		}
	}
	return s
}

func (k *check) tools(c *Connector) {
	seen, n := map[string]governance.Class{}, 0
	for _, class := range slices.Sorted(maps.Keys(c.Tools)) {
		if !slices.Contains(classes, class) {
			k.bad(string(class)+":", fmt.Sprintf("tools of class %q", class), "classes are read, write and destructive")
		}
		for _, name := range c.Tools[class] {
			n++
			if !toolName.MatchString(name) {
				k.bad(name, fmt.Sprintf("tool name %q", name), "use 1 to 96 of A-Z, a-z, 0-9, _, . and -")
			}
			if other, twice := seen[name]; twice {
				k.bad(name, fmt.Sprintf("tool %q is in the classes %s and %s", name, other, class), "keep the stronger one")
			}
			seen[name] = class
		}
	}
	if n > maxTools {
		k.bad("tools:", fmt.Sprintf("%d tools", n), fmt.Sprintf("at most %d are read", maxTools))
	}
	for _, name := range append(slices.Sorted(maps.Keys(c.As)), slices.Sorted(maps.Keys(c.Derived))...) {
		if _, ok := seen[name]; !ok {
			k.bad(name+":", fmt.Sprintf("as or derived for %q, which is no tool of this connector", name), "correct the name")
		}
	}
}

func (k *check) rules(c *Connector) {
	seen := map[string]bool{}
	for _, r := range c.Rules {
		near := "id: " + r.ID
		if !ruleID.MatchString(r.ID) || seen[r.ID] {
			k.bad(near, fmt.Sprintf("rule id %q is odd or taken", r.ID), "use 1 to 48 of a-z, 0-9 and -, each once")
		}
		seen[r.ID] = true
		if len(r.Tools) == 0 || strings.TrimSpace(r.When) == "" {
			k.bad(near, fmt.Sprintf("rule %q has no tools or no condition", r.ID), `write "true" for a permit without a condition`)
		}
		if rest := parameter.ReplaceAllString(r.When, ""); strings.ContainsAny(rest, "{};") || strings.Contains(rest, "//") || strings.Trim(rest, printable) != "" {
			k.bad(near, fmt.Sprintf("the condition of rule %q is more than one expression", r.ID), "no braces, semicolons and comments, and printable ASCII only")
		}
		for _, name := range r.Tools {
			if class, ok := c.Class(name); !ok || class == governance.Destructive {
				k.bad(near, fmt.Sprintf("rule %q permits %q, which is no tool of class read or write", r.ID, name), "destructive tools are never permitted to begin with")
			}
		}
		want := map[string]bool{}
		for _, m := range parameter.FindAllStringSubmatch(r.When, -1) {
			want[m[1]] = true
			if len(r.Example[m[1]]) == 0 {
				k.bad(near, fmt.Sprintf("rule %q has no example for %s", r.ID, m[0]), "give values to test it with")
			}
		}
		for name := range r.Example {
			if !want[name] {
				k.bad(near, fmt.Sprintf("rule %q has an example for %q, which it does not use", r.ID, name), "remove it")
			}
		}
	}
}

// sources checks that each fact has its page.
func (k *check) sources(c *Connector) {
	need := []string{"server", "auth"}
	if len(c.Origins) > 0 {
		need = append(need, "origins")
	}
	if len(c.Scopes) > 0 {
		need = append(need, "scopes")
	}
	if len(c.Tools) > 0 && c.Status == Unverified {
		need = append(need, "tools")
	}
	for _, fact := range need {
		if c.Sources[fact] == "" {
			k.bad("sources:", "no source for "+fact, "name the public page that says so")
		}
	}
	for fact, page := range c.Sources {
		if !slices.Contains(facts, fact) {
			k.bad(fact+":", fmt.Sprintf("source of %q", fact), "facts are "+strings.Join(facts, ", "))
		}
		if at, err := url.Parse(page); err != nil || at.Scheme != "https" || at.Host == "" || at.User != nil {
			k.bad(page, fmt.Sprintf("source %q", page), "want an https URL")
		}
	}
}

// recorded checks that status, classes and record agree: each recorded tool has
// a class, and each class names recorded tools only.
func (k *check) recorded(c *Connector) {
	if (c.record != nil) != (c.Status == Verified) || (c.Status != Verified && c.Status != Unverified) {
		k.bad("status:", fmt.Sprintf("status %q", c.Status), "verified is what has a record, and unverified what has none")
		return
	}
	if c.record == nil {
		return
	}
	if p := c.Package; p != nil && c.record.Package != p.Registry+":"+p.Name+"@"+p.Version {
		k.bad("version:", fmt.Sprintf("the record is of %s", c.record.Package), "record this version, and review its tools")
	}
	known := map[string]bool{}
	for _, t := range c.record.Tools {
		known[t.Name] = true
		if _, ok := c.Class(t.Name); !ok {
			k.bad("tools:", fmt.Sprintf("the recorded tool %q has no class", t.Name), "look at what it does, and put it in one")
		}
	}
	for _, class := range classes {
		for _, name := range c.Tools[class] {
			if !known[name] {
				k.bad(name, fmt.Sprintf("tool %q was not recorded", name), "remove it, or record the server again")
			}
		}
	}
}
