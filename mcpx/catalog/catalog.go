package catalog

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// A Status says how much of a connector was seen, and not only read about.
type Status string

const (
	// Verified connectors carry the answer of a real server to tools/list, and
	// their starter policies are tested against it.
	Verified Status = "verified"
	// Unverified connectors are known from public pages alone: from a service
	// that answers only to its customers, or a package that nobody ran here.
	Unverified Status = "unverified"
)

// A Connector is one MCP server that others offer, and what has to be known to
// put it behind the gateway. Treat it as read-only.
type Connector struct {
	// ID names the connector, and its server in policies unless you say
	// otherwise: [a-z0-9-]{1,32}.
	ID string `yaml:"id"`
	// Name is the application's name for people; Vendor is who offers the server.
	Name   string `yaml:"name"`
	Vendor string `yaml:"vendor"`
	Status Status `yaml:"status"`
	// Note is what an administrator should know besides; may be empty.
	Note string `yaml:"note"`
	// Transport is "http" for streamable HTTP, "stdio" for a child process, or
	// "sse" for the HTTP transport of 2024, which package mcpx does not speak:
	// put a proxy between.
	Transport string `yaml:"transport"`
	// Endpoint is the URL of a server that its vendor runs. A part in braces,
	// such as {account}, is the customer's own.
	Endpoint string `yaml:"endpoint"`
	// Package is the program of a server that you run, with transport stdio.
	Package *Package `yaml:"package"`
	// Auth are the ways to authenticate, the preferred first, in the words of
	// credential's bindings. What is the customer's own, such as the issuer of an
	// identity provider, is not in them: see [Connector.Bindings]. The type "none"
	// stands alone. Several of type env are all needed.
	Auth []credential.BindingSpec `yaml:"auth"`
	// Origins are those that the secret goes to, as [credential.Origin] writes
	// them; with {account} where a customer has one of their own. None for a
	// server that has no secret, or that reaches what its settings say.
	Origins []string `yaml:"origins"`
	// Scopes are the least that the secret needs for tools of a class, in the
	// vendor's words.
	Scopes map[governance.Class][]string `yaml:"scopes"`
	// Tools are the names of the tools by the class that each has by default.
	// Those of a verified connector are all that were recorded.
	Tools map[governance.Class][]string `yaml:"tools"`
	// As pins how arguments reach policy, by tool: see [governance.Tool].
	As map[string]map[string]string `yaml:"as"`
	// Derived are facets of arguments, by tool: see [governance.Tool].
	Derived map[string]map[string]governance.Derived `yaml:"derived"`
	// Rules permit tools that write, and narrow some that read: see
	// [Connector.Starter].
	Rules []Rule `yaml:"rules"`
	// Recording is how the server was started to record its tools.
	Recording *Recording `yaml:"recording"`
	// Sources are the public pages that say so, by what they say: "server",
	// "auth", "origins", "scopes", "tools".
	Sources map[string]string `yaml:"sources"`

	record *Record
}

// A Package is a program from a public registry.
type Package struct {
	// Registry is "npm", "pypi" or "go".
	Registry string `yaml:"registry"`
	// Name is the package's name; of Go, the import path of its command.
	Name string `yaml:"name"`
	// Version is the one that was looked at. Pin it: another one is drift.
	Version string `yaml:"version"`
	// License is what it is offered under (SPDX), where the package itself does
	// not say so in a form that programs read.
	License string `yaml:"license"`
	// Args are the program's arguments. A part in braces is yours to fill in.
	Args []string `yaml:"args"`
	// Env are variables that the program needs and that are no secrets. A part in
	// braces is yours to fill in.
	Env map[string]string `yaml:"env"`
}

// Command is how the program is started with its registry's own tool. It
// installs the package first where it is not there: in a sandbox, install it
// beforehand.
func (p *Package) Command() []string {
	switch p.Registry {
	case "npm":
		return append([]string{"npx", "--yes", p.Name + "@" + p.Version}, p.Args...)
	case "pypi":
		return append([]string{"uvx", p.Name + "@" + p.Version}, p.Args...)
	}
	return append([]string{"go", "run", p.Name + "@" + p.Version}, p.Args...)
}

// A Rule permits tools of class write, and narrows those of class read, by a
// condition on their arguments.
type Rule struct {
	// ID becomes the policy's, after the server's name.
	ID string `yaml:"id"`
	// Tools are names of class read or write. Those of class read are permitted
	// by their rules and no longer by their class.
	Tools []string `yaml:"tools"`
	// When is a Cedar expression. ${name} in it becomes the set of values that
	// the administrator gives, and under(path, ${name}) the question whether
	// path lies below one of the folders that are given. Without values the rule
	// is left out.
	When string `yaml:"when"`
	// Example are values that show what is meant; tests use them.
	Example map[string][]string `yaml:"example"`
}

// A Recording is how a server was started, without its network, to be recorded.
type Recording struct {
	// Args stand in for those of the package.
	Args []string `yaml:"args"`
	// Env is set besides a made-up secret in each variable that Auth names.
	Env map[string]string `yaml:"env"`
	// Files are written into its folder first, by their paths there.
	Files map[string]string `yaml:"files"`
	// With are packages that had to be installed beside it, as name@version.
	With []string `yaml:"with"`
}

// Record returns what the server answered when it was recorded, or nil.
func (c *Connector) Record() *Record { return c.record }

// TypeNone is the type of [Connector].Auth for a server that has no secret.
const TypeNone = "none"

// Bindings say where the server's secrets may go and how, for tools of the given
// classes: the first way of Auth, to the first of Origins, with the least
// scopes; for a child process one for each variable, to stdio://<server>. They
// are to be completed with what is your own (an account in the origin, issuer
// and client, region): Validate tells what is missing. server "" is the
// connector's id. There are none for a server without secrets.
func (c *Connector) Bindings(server string, classes ...governance.Class) (out []credential.BindingSpec) {
	if server == "" {
		server = c.ID
	}
	var scopes []string
	for _, class := range classes {
		for _, scope := range c.Scopes[class] {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	for i, spec := range c.Auth {
		switch {
		case spec.Type == TypeNone:
			return nil
		case i > 0 && spec.Type != credential.TypeEnv:
			return out // another way to do the same
		case spec.Type == credential.TypeEnv, spec.Type == credential.TypeDescriptor:
			spec.Origin = credential.ProcessOrigin(server)
		case len(c.Origins) > 0:
			spec.Origin = c.Origins[0]
		}
		spec.Scopes = slices.Clone(scopes)
		out = append(out, spec)
	}
	return out
}

// Class returns the default class of a tool, and false for a tool that the
// connector does not know.
func (c *Connector) Class(tool string) (governance.Class, bool) {
	for class, names := range c.Tools {
		for _, name := range names {
			if name == tool {
				return class, true
			}
		}
	}
	return "", false
}

//go:embed data
var files embed.FS

var (
	// ErrUnknown is returned by [Load] for an id that is not in the catalogue.
	ErrUnknown = errors.New("catalog: no such connector: see All for those that there are")
	// ErrUnverified is returned where recorded tools are needed and there are
	// none.
	ErrUnverified = errors.New("catalog: the tools of this connector were never recorded: use Review, look at each tool, and store the file in your bundle")
	// ErrData is wrapped by every error about the text of a data file.
	ErrData = errors.New("catalog: the data file is not usable")
)

// Load returns one connector of the catalogue. Each call reads it anew.
func Load(id string) (*Connector, error) {
	if !connectorID.MatchString(id) {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, id)
	}
	return load(files, id)
}

// All returns the whole catalogue, sorted by id.
func All() ([]*Connector, error) {
	entries, err := files.ReadDir("data")
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	var all []*Connector
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok {
			continue
		}
		c, err := load(files, id)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Connector) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

func load(fsys fs.FS, id string) (*Connector, error) {
	file := path.Join("data", id+".yaml")
	text, err := fs.ReadFile(fsys, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, id)
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	record, err := fs.ReadFile(fsys, path.Join("data", id+".tools.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return Parse(file, text, record)
}
