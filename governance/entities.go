package governance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

const maxEntitiesFile = 16 << 20

// parseEntities reads Cedar's JSON form of entities.
func parseEntities(file string, text []byte) ([]types.Entity, *Finding) {
	var m types.EntityMap
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, &Finding{Code: "syntax", Severity: SeverityError, File: file, Line: 1, Column: 1, Message: err.Error(),
			Fix: "see https://docs.cedarpolicy.com/auth/entities-syntax.html"}
	}
	out := slices.Collect(maps.Values(m))
	slices.SortFunc(out, func(a, b types.Entity) int { return strings.Compare(a.UID.String(), b.UID.String()) })
	return out, nil
}

// ownEntities are the types that a bundle may bring. All others are generated,
// so that nothing can stand in the place of a tool or a profile.
var ownEntities = []types.EntityType{typeAgent, typeUser, typeTeam, typeRole}

// checkEntities reports entities that do not fit the schema, or that claim what
// only profiles may give.
func checkEntities(es []types.Entity, v *cedarx.Validator, rep *Report) {
	bad := func(e types.Entity, msg, fix string) {
		rep.add(Finding{Code: "entities", Severity: SeverityError, File: "entities.json", Message: fmt.Sprintf("%s: %s", e.UID, msg), Fix: fix})
	}
	seen := map[types.EntityUID]bool{}
	for _, e := range es {
		if seen[e.UID] {
			bad(e, "listed twice", "keep one")
		}
		seen[e.UID] = true
		if !slices.Contains(ownEntities, e.UID.Type) {
			bad(e, "entities of this type are generated", "entities.json may hold Agent, User, Team and Role")
			continue
		}
		for p := range e.Parents.All() {
			if p.Type == typeProfile {
				bad(e, "membership in a profile is given by the profile", "list the agent under agents in the profile's file")
			}
		}
		if err := v.Entity(e); err != nil {
			bad(e, err.Error(), "see the schema in the package documentation")
		}
	}
	if cycle := cyclic(es); cycle != "" {
		rep.add(Finding{Code: "entities", Severity: SeverityError, File: "entities.json", Message: cycle + " is its own ancestor", Fix: "break the circle"})
	}
}

// cyclic names an entity that is above itself, or "".
func cyclic(es []types.Entity) string {
	byUID := make(types.EntityMap, len(es))
	for _, e := range es {
		byUID[e.UID] = e
	}
	for _, e := range es {
		if slices.Contains(ancestors(byUID, e.UID), e.UID) {
			return e.UID.String()
		}
	}
	return ""
}

// ancestors returns everything above uid, each once, in a fixed order.
func ancestors(es types.EntityMap, uid types.EntityUID) []types.EntityUID {
	var out []types.EntityUID
	seen := map[types.EntityUID]bool{}
	todo := []types.EntityUID{uid}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		e, ok := es[next]
		if !ok {
			continue
		}
		for p := range e.Parents.All() {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
				todo = append(todo, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b types.EntityUID) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// staticEntities makes all entities of a bundle.
func staticEntities(b Bundle, tools map[toolRef]*tool) types.EntityMap {
	es := types.EntityMap{}
	add := func(e types.Entity) { es[e.UID] = e }
	for _, e := range b.Entities {
		add(e)
	}
	for _, p := range b.Profiles {
		attrs := types.RecordMap{}
		if p.Owner != "" {
			attrs["owner"] = types.String(p.Owner)
		}
		if p.Description != "" {
			attrs["description"] = types.String(p.Description)
		}
		add(types.Entity{UID: uid(typeProfile, p.ID), Attributes: types.NewRecord(attrs)})
		for _, a := range p.Agents {
			agent, ok := es[uid(typeAgent, a)]
			if !ok {
				agent = types.Entity{UID: uid(typeAgent, a)}
			}
			parents := append(slices.Collect(agent.Parents.All()), uid(typeProfile, p.ID))
			agent.Parents = types.NewEntityUIDSet(parents...)
			add(agent)
		}
	}
	action := func(id string, parents ...string) {
		var ps []types.EntityUID
		for _, p := range parents {
			ps = append(ps, uid(typeAction, p))
		}
		add(types.Entity{UID: uid(typeAction, id), Parents: types.NewEntityUIDSet(ps...)})
	}
	action(actionCallTool)
	for _, c := range classes {
		action(string(c), actionCallTool)
	}
	for v := range verbs {
		action(v)
	}
	for _, s := range b.Catalog {
		add(types.Entity{UID: uid(typeServer, s.Name)})
		for _, c := range classes {
			action(classAction(s.Name, c), string(c), actionCallTool)
		}
	}
	for ref, t := range tools {
		// Every ancestor is a parent, which saves the evaluator a walk.
		action(t.key, classAction(ref.server, t.def.Class), string(t.def.Class), actionCallTool)
		parents := []types.EntityUID{uid(typeServer, ref.server)}
		for _, p := range b.Profiles {
			if g, ok := p.Servers[ref.server]; ok && holds(g.Tools, ref.name) {
				parents = append(parents, uid(typeProfile, p.ID))
			}
		}
		hints := t.hints()
		add(types.Entity{UID: t.resource, Parents: types.NewEntityUIDSet(parents...), Attributes: types.NewRecord(types.RecordMap{
			"name":        types.String(ref.name),
			"class":       types.String(t.def.Class),
			"pin":         types.String(t.pin),
			"readOnly":    types.Boolean(hints.ReadOnly),
			"destructive": types.Boolean(hints.Destructive),
			"idempotent":  types.Boolean(hints.Idempotent),
			"openWorld":   types.Boolean(hints.OpenWorld),
		})})
	}
	return es
}

// hints are a tool's annotations, with the defaults of the MCP specification.
type hints struct {
	ReadOnly    bool `json:"readOnlyHint"`
	Destructive bool `json:"destructiveHint"`
	Idempotent  bool `json:"idempotentHint"`
	OpenWorld   bool `json:"openWorldHint"`
}

func (t *tool) hints() hints {
	h := hints{Destructive: true, OpenWorld: true}
	if len(t.def.Annotations) > 0 {
		_ = json.Unmarshal(t.def.Annotations, &h) // checked when the bundle was compiled
	}
	return h
}

// An overlay adds the entities of one request to those of the bundle. What the
// bundle holds wins, except that the principal may carry tags.
type overlay struct {
	static              types.EntityMap
	principal, resource types.Entity
}

func (o *overlay) Get(id types.EntityUID) (types.Entity, bool) {
	if id == o.principal.UID {
		return o.principal, true
	}
	if e, ok := o.static[id]; ok {
		return e, true
	}
	if id == o.resource.UID {
		return o.resource, true
	}
	return types.Entity{}, false
}
