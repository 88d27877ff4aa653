package governance

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// A Profile is what an administrator puts together for a set of agents: the
// servers, tools, models, hosts and credentials that exist for them.
//
// A profile is a ceiling and grants nothing: whatever it lists still needs a
// policy that permits it, and whatever it does not list is denied, whatever
// policies say, with the reason "not-in-profile". There is no second filter
// behind this: a profile compiles to Cedar entities and forbid policies, which
// stand in the same snapshot as all others and are named in decisions as
// "profile:<id>:<section>".
//
// Each section is a ceiling of its own. A section that is left out (nil) sets
// none; one that is present and empty closes everything of its kind.
//
//	id: standup
//	owner: platform-team
//	agents: [standup-bot]
//	servers:
//	  github:
//	    tools: [list_pull_requests, get_pull_request]
//	  slack:
//	    tools: [post_message]
//	models: [openai/gpt-5-mini]
//	hosts: [inference.local, tools.local]
//	credentials: [github, slack]
type Profile struct {
	// ID names the profile: 1 to 64 of A-Z, a-z, 0-9, _, . and -.
	ID string `yaml:"id"`
	// Owner answers for it; Description says what it is for. Both are for people.
	Owner       string `yaml:"owner"`
	Description string `yaml:"description"`
	// Agents are the ids of its members. An agent is in at most one profile.
	Agents []string `yaml:"agents"`
	// Servers lists MCP servers of the catalogue and what of them is there.
	Servers map[string]Grant `yaml:"servers"`
	// Models are "provider/model", or "provider/*" for all of a provider.
	Models []string `yaml:"models"`
	// HostedTools are tools that a model provider runs itself, "provider/tool"
	// or "provider/*".
	HostedTools []string `yaml:"hosted_tools"`
	// Hosts are names that may be reached: "api.example.com", or
	// "*.example.com" for every name below example.com.
	Hosts []string `yaml:"hosts"`
	// Credentials are names of secrets that may be used on the agents' behalf.
	Credentials []string `yaml:"credentials"`

	file, text string // for positions
}

// A Grant lists what of one MCP server is in a profile. What it does not list
// is not; "*" alone lists all.
type Grant struct {
	// Tools are names from the catalogue.
	Tools []string `yaml:"tools"`
	// Prompts are names of prompts.
	Prompts []string `yaml:"prompts"`
	// Resources are resource URIs, compared exactly.
	Resources []string `yaml:"resources"`
}

const maxProfileFile = 256 << 10

// maxProfileDepth is far above what a profile needs.
const maxProfileDepth = 16

// ParseProfile reads one profile from strict YAML: an unknown or repeated key,
// an empty value, an anchor, an alias or a second document is an error with
// file, line and column, which wraps [ErrBundle].
func ParseProfile(file string, text []byte) (Profile, error) {
	p, bad := parseProfile(file, text)
	if bad != nil {
		return Profile{}, fmt.Errorf("%w:\n%s", ErrBundle, bad)
	}
	return p, nil
}

func parseProfile(file string, text []byte) (Profile, *Finding) {
	bad := func(line, col int, msg, fix string) (Profile, *Finding) {
		return Profile{}, &Finding{Severity: Error, File: file, Line: line, Column: col, Message: msg, Fix: fix}
	}
	const keys = "keys are id, owner, description, agents, servers, models, hosted_tools, hosts and credentials"
	if len(text) > maxProfileFile {
		return bad(1, 1, "the file is too large", fmt.Sprintf("keep a profile under %d KiB", maxProfileFile>>10))
	}
	if line, ok := tooDeepYAML(string(text)); ok {
		return bad(line, 1, "the document nests too deeply", keys)
	}
	tree, err := parser.ParseBytes(text, 0)
	if err == nil && len(tree.Docs) != 1 {
		return bad(1, 1, fmt.Sprintf("the file has %d documents", len(tree.Docs)), "one profile a file")
	}
	var p Profile
	if err == nil {
		odd := &oddYAML{}
		if body := tree.Docs[0].Body; body != nil {
			ast.Walk(odd, body)
		}
		if odd.node != nil {
			at := odd.node.GetToken().Position
			return bad(at.Line, at.Column, odd.why, odd.fix)
		}
		err = yaml.UnmarshalWithOptions(text, &p, yaml.Strict())
	}
	if err != nil {
		var e yaml.Error
		if errors.As(err, &e) && e.GetToken() != nil && e.GetToken().Position != nil {
			at := e.GetToken().Position
			return bad(at.Line, at.Column, e.GetMessage(), keys)
		}
		return bad(1, 1, err.Error(), keys)
	}
	p.file, p.text = file, string(text)
	return p, nil
}

// oddYAML finds YAML that a reviewer may read differently from a parser. An
// empty section in particular must not be taken for one that was left out.
type oddYAML struct {
	node     ast.Node
	why, fix string
}

func (o *oddYAML) Visit(n ast.Node) ast.Visitor {
	if o.node != nil {
		return nil
	}
	switch n.(type) {
	case *ast.NullNode:
		o.node, o.why, o.fix = n, "empty value", "write [] or {} for none, or leave the key out"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		o.node, o.why, o.fix = n, "anchors, aliases, merges and tags are not used here", "write the value out"
	default:
		return o
	}
	return nil
}

// tooDeepYAML bounds flow nesting, block nesting by indentation, and runs of
// "- - -" or "- !t - !t", before a recursive parser sees them. Brackets inside
// quotes and comments count too, which only makes the bound stricter.
func tooDeepYAML(text string) (line int, deep bool) {
	depth := 0
	for i, l := range strings.Split(text, "\n") {
		body := strings.TrimLeft(l, " -?:\t")
		lead := l[:len(l)-len(body)]
		if strings.Count(lead, " ") > 4*maxProfileDepth || strings.Count(lead, "-")+strings.Count(lead, "?") > maxProfileDepth {
			return i + 1, true
		}
		if tagsIn(l) > maxProfileDepth {
			return i + 1, true
		}
		for _, c := range l {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
			if depth > maxProfileDepth {
				return i + 1, true
			}
		}
	}
	return 0, false
}

// tagsIn counts what could be tags and anchors of YAML in a line: they may stand
// between the signs of nested lists.
func tagsIn(line string) (n int) {
	for i, c := range []byte(line) {
		if (c == '!' || c == '&') && (i == 0 || strings.IndexByte(" \t\r", line[i-1]) >= 0) {
			n++
		}
	}
	return n
}
