package compare

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// bundle writes the world as a bundle.
func (w world) bundle() governance.Bundle {
	var b governance.Bundle
	const schema = `{"type":"object","required":["repo","path"],"properties":{
		"repo":{"type":"string"},"path":{"type":"string"},"count":{"type":"integer"},
		"draft":{"type":"boolean"},"labels":{"type":"array","items":{"type":"string"}}}}`
	for _, name := range w.servers {
		s := governance.Server{Name: name}
		for j := range toolsPerServer {
			s.Tools = append(s.Tools, governance.Tool{
				ToolDefinition: governance.ToolDefinition{Name: fmt.Sprintf("tool%d", j), InputSchema: json.RawMessage(schema)},
				Class:          governance.Class(classOf(j)),
			})
		}
		b.Catalog = append(b.Catalog, s)
	}
	company := types.NewEntityUID("Team", "company")
	b.Entities = append(b.Entities, types.Entity{UID: company})
	for _, p := range w.profiles {
		grants := map[string]governance.Grant{}
		for _, s := range p.servers {
			grants[s] = governance.Grant{Tools: []string{"*"}}
		}
		b.Profiles = append(b.Profiles, governance.Profile{ID: p.id, Agents: p.agents, Servers: grants})
		team := types.NewEntityUID("Team", types.String(p.id))
		b.Entities = append(b.Entities, types.Entity{UID: team, Parents: types.NewEntityUIDSet(company)})
		for _, a := range p.agents {
			b.Entities = append(b.Entities, types.Entity{UID: types.NewEntityUID("Agent", types.String(a)), Parents: types.NewEntityUIDSet(team)})
		}
	}
	var text strings.Builder
	for _, r := range w.rules {
		text.WriteString(r.cedar())
	}
	b.Policies = []governance.Source{{Name: "office.cedar", Text: text.String()}}
	return b
}

// cedar is the rule as a Cedar policy.
func (r rule) cedar() string {
	effect, principal, action, resource := "permit", "principal", `action in Action::"call_tool"`, "resource"
	if r.forbid {
		effect = "forbid"
	}
	if r.profile != "" {
		principal = fmt.Sprintf("principal in Profile::%q", r.profile)
	}
	switch {
	case r.action != "":
		action = fmt.Sprintf("action == Action::%q", r.action)
	case r.server != "":
		action, resource = fmt.Sprintf("action in Action::%q", r.server+":"+r.class), fmt.Sprintf("resource in Server::%q", r.server)
	case r.class != "":
		action = fmt.Sprintf("action in Action::%q", r.class)
	}
	arg, cond := "context.args."+r.test.arg, ""
	switch r.test.kind {
	case "equal":
		cond = fmt.Sprintf("%s == %q", arg, r.test.values[0])
	case "other":
		cond = fmt.Sprintf("%s != %q", arg, r.test.values[0])
	case "in":
		cond = fmt.Sprintf("[%q, %q].contains(%s)", r.test.values[0], r.test.values[1], arg)
	case "prefix":
		cond = fmt.Sprintf("%s like \"%s*\"", arg, r.test.values[0])
	case "infix":
		cond = fmt.Sprintf("%s like \"*%s*\"", arg, r.test.values[0])
	case "above":
		cond = "context.args has " + r.test.arg + " && " + arg + " > " + strconv.Itoa(r.test.number)
	}
	return fmt.Sprintf("@id(%q)\n%s (%s, %s, %s)\nwhen { %s };\n", r.id, effect, principal, action, resource, cond)
}

type twinward struct {
	snap     *governance.Snapshot
	requests []governance.Request
}

func newTwinward(w world, requests []request) (*twinward, error) {
	snap, rep, err := governance.Compile(context.Background(), w.bundle(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", err, rep)
	}
	t := &twinward{snap: snap}
	for _, r := range requests {
		t.requests = append(t.requests, governance.Request{
			Actor: audit.Actor{Agent: r.agent}, Action: "call_tool", Server: r.server, Name: r.tool, Args: json.RawMessage(r.args()),
		})
	}
	return t, nil
}

func (t *twinward) decide(i int) answer {
	d, err := t.snap.Decide(context.Background(), t.requests[i])
	if err != nil {
		panic(err)
	}
	return answer{d.Allowed(), d.PolicyIDs()}
}
