package governance

import (
	"errors"
	"fmt"

	"github.com/twinward-dev/twinward/governance/strictyaml"
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
	var p Profile
	if err := strictyaml.Unmarshal(file, text, maxProfileFile, &p); err != nil {
		return Profile{}, yamlFinding(file, err, "keys are id, owner, description, agents, servers, models, hosted_tools, hosts and credentials")
	}
	p.file, p.text = file, string(text)
	return p, nil
}

// yamlFinding is the finding for a YAML file that cannot be read; fix is used
// where the reader has no better one.
func yamlFinding(file string, err error, fix string) *Finding {
	f := Finding{Code: "syntax", Severity: SeverityError, File: file, Line: 1, Column: 1, Message: err.Error(), Fix: fix}
	if e, ok := errors.AsType[*strictyaml.Error](err); ok {
		f.Line, f.Column, f.Message = max(1, e.Line), max(1, e.Column), e.Message
		if e.Fix != "" {
			f.Fix = e.Fix
		}
	}
	return &f
}
