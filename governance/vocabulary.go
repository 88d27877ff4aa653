package governance

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// The Cedar types of this vocabulary.
const (
	typeAction     types.EntityType = "Action"
	typeAgent      types.EntityType = "Agent"
	typeUser       types.EntityType = "User"
	typeTeam       types.EntityType = "Team"
	typeRole       types.EntityType = "Role"
	typeProfile    types.EntityType = "Profile"
	typeServer     types.EntityType = "Server"
	typeTool       types.EntityType = "Tool"
	typePrompt     types.EntityType = "Prompt"
	typeResource   types.EntityType = "Resource"
	typeHost       types.EntityType = "Host"
	typeSandbox    types.EntityType = "Sandbox"
	typeProvider   types.EntityType = "Provider"
	typeModel      types.EntityType = "Model"
	typeHostedTool types.EntityType = "HostedTool"
	typeCredential types.EntityType = "Credential"
)

// actionCallTool is the one action whose Cedar action depends on the request:
// every tool has its own, so that its arguments are typed.
const actionCallTool = "call_tool"

// A verb is an action that is not a tool.
type verb struct {
	resource types.EntityType
	section  string            // the profile section that is its ceiling
	attrs    map[string]string // what a door may say in Request.Attrs, by Cedar type
}

var (
	modelAttrs = map[string]string{
		"protocol": "String", "stream": "Bool", "max_output": "Long",
		"tools": "Set<String>", "betas": "Set<String>", "budget": "Long", "spent": "Long", "est_input": "Long",
	}
	verbs = map[string]verb{
		"list_tools":      {typeServer, sectionServers, nil},
		"sample":          {typeServer, sectionServers, nil},
		"elicit":          {typeServer, sectionServers, nil},
		"get_prompt":      {typePrompt, sectionServers, nil},
		"read_resource":   {typeResource, sectionServers, nil},
		"subscribe":       {typeResource, sectionServers, nil},
		"complete":        {typePrompt, sectionServers, map[string]string{"argument": "String"}},
		"connect":         {typeHost, sectionHosts, map[string]string{"host": "String", "port": "Long", "scheme": "String", "method": "String", "path": "String", "program": "String"}},
		"exec":            {typeSandbox, "", map[string]string{"program": "String", "args_digest": "String", "policy_hash": "String"}},
		"invoke_model":    {typeModel, sectionModels, modelAttrs},
		"embed":           {typeModel, sectionModels, modelAttrs},
		"count_tokens":    {typeModel, sectionModels, modelAttrs},
		"list_models":     {typeProvider, sectionModels, nil},
		"use_hosted_tool": {typeHostedTool, sectionHostedTools, map[string]string{"protocol": "String", "model": "String"}},
		"use_credential":  {typeCredential, sectionCredentials, map[string]string{"server": "String", "tool": "String", "purpose": "String"}},
	}
)

// commonContext is in the context of every action. The other half of an agent
// that acts for a user is there by name: user when the agent is decided, agent
// when the user is. labels are those of the session: see [Tool].Labels.
const commonContext = `now: datetime, session?: String, user?: User, agent?: Agent, approval?: Approval, labels: Set<String>`

const fixedSchema = `type Approval = { by: User, groups: Set<String>, at: datetime, args: String, policy: String };
entity Profile { owner?: String, description?: String };
entity Team in [Team];
entity Role in [Role];
entity User in [Team, Role] { email?: String } tags String;
entity Agent in [Profile, Role, Team] { kind?: String, trust?: Long, owner?: User } tags String;
entity Server;
entity Tool in [Server, Profile] { name: String, class: String, pin: String, readOnly: Bool, destructive: Bool, idempotent: Bool, openWorld: Bool };
entity Prompt in [Server, Profile] { name: String };
entity Resource in [Server, Profile] { uri: String };
entity Host in [Host, Profile] { name: String };
entity Sandbox;
entity Provider;
entity Model in [Provider, Profile] { name: String };
entity HostedTool in [Provider, Profile] { name: String };
entity Credential in [Profile] { name: String };
action "call_tool";
action "read", "write", "destructive" in ["call_tool"];
`

// schemaText is the Cedar schema of a catalogue and of facts. It depends on
// nothing else.
func schemaText(servers []Server, tools map[toolRef]*tool, facts factTypes) string {
	var b strings.Builder
	b.WriteString(fixedSchema)
	b.WriteString(facts.declare())
	for _, name := range slices.Sorted(maps.Keys(verbs)) {
		v := verbs[name]
		fmt.Fprintf(&b, "action %q appliesTo { principal: [Agent, User], resource: [%s], context: { %s", name, v.resource, commonContext)
		for _, a := range slices.Sorted(maps.Keys(v.attrs)) {
			fmt.Fprintf(&b, ", %s?: %s", a, v.attrs[a])
		}
		b.WriteString(facts.attr(name) + " } };\n")
	}
	for _, s := range servers {
		for _, c := range classes {
			fmt.Fprintf(&b, "action %q in [%q];\n", classAction(s.Name, c), c)
		}
		for _, t := range s.Tools {
			of, key := tools[toolRef{s.Name, t.Name}], toolKey(s.Name, t.Name)
			fmt.Fprintf(&b, "action %q in [%q] appliesTo { principal: [Agent, User], resource: [Tool], context: { %s, nulls: Set<String>, extra: Set<String>, args: ", key, classAction(s.Name, t.Class), commonContext)
			of.args.CedarType(&b)
			if len(of.derived) > 0 {
				b.WriteString(", derived: " + argument.DerivedType(of.derived))
			}
			b.WriteString(facts.attr(key) + " } };\n")
		}
	}
	return b.String()
}

// classAction is the group of all tools of a server that have one class.
func classAction(server string, c Class) string { return server + ":" + string(c) }

func uid(t types.EntityType, id string) types.EntityUID {
	return types.NewEntityUID(t, types.String(id))
}

// label is an entity as Cedar prints it, which looks at each character for one to
// escape and takes its time: most names have none.
func label(e types.EntityUID) string {
	for i := range len(e.ID) {
		if c := e.ID[i]; c < ' ' || c > '~' || c == '"' || c == '\'' || c == '\\' {
			return e.String()
		}
	}
	return string(e.Type) + `::"` + string(e.ID) + `"`
}
