package governance

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// A target is what a request is about, in Cedar's terms.
type target struct {
	action   types.EntityUID
	resource types.EntityUID
	dynamic  types.Entity // the resource, when the bundle does not hold it
	tool     *tool
	label    string // the resource, for the record
}

var (
	errUnknownAction = errors.New("no such action")
	errUnknownServer = errors.New("no such server")
	errUnknownTool   = errors.New("no such tool")
	errUnknownHost   = errors.New("no such host")
)

// resolve finds what a request is about. A tool or server that is not in the
// catalogue does not exist.
func (s *Snapshot) resolve(r *Request) (target, error) {
	if r.Action == actionCallTool {
		t, ok := s.tools[toolRef{r.Server, r.Name}]
		if !ok {
			return target{}, errUnknownTool
		}
		return target{action: t.action, resource: t.resource, tool: t, label: t.label}, nil
	}
	v, ok := verbs[r.Action]
	if !ok {
		return target{}, fmt.Errorf("%w: %q", errUnknownAction, r.Action)
	}
	if v.section == sectionServers && !s.servers[r.Server] {
		return target{}, fmt.Errorf("%w: %q", errUnknownServer, r.Server)
	}
	e := types.Entity{}
	var parents []types.EntityUID
	profiles := func(has func(p *Profile) bool) {
		for i := range s.profiles {
			if has(&s.profiles[i]) {
				parents = append(parents, uid(typeProfile, s.profiles[i].ID))
			}
		}
	}
	nameAttr := types.String("name")
	switch v.resource {
	case typeServer:
		e.UID = uid(typeServer, r.Server)
	case typePrompt, typeResource:
		e.UID = uid(v.resource, toolKey(r.Server, r.Name))
		parents = append(parents, uid(typeServer, r.Server))
		if v.resource == typeResource {
			nameAttr = "uri"
		}
		profiles(func(p *Profile) bool {
			g, ok := p.Servers[r.Server]
			return ok && (v.resource == typePrompt && holds(g.Prompts, r.Name) || v.resource == typeResource && holds(g.Resources, r.Name))
		})
	case typeHost:
		host, err := requestedHost(r.Name)
		if err != nil {
			return target{}, fmt.Errorf("%w: %w", errUnknownHost, err)
		}
		e.UID = uid(typeHost, host)
		for rest := host; ; {
			_, tail, ok := strings.Cut(rest, ".")
			if !ok || tail == "" || argument.IsAddress(host) {
				break
			}
			parents = append(parents, uid(typeHost, "*."+tail))
			rest = tail
		}
		profiles(func(p *Profile) bool { return holdsHost(p.Hosts, host) })
	case typeProvider:
		e.UID = uid(typeProvider, r.Server)
	case typeModel, typeHostedTool:
		e.UID = uid(v.resource, r.Server+"/"+r.Name)
		parents = append(parents, uid(typeProvider, r.Server))
		profiles(func(p *Profile) bool {
			list := p.Models
			if v.resource == typeHostedTool {
				list = p.HostedTools
			}
			return holdsModel(list, r.Server, r.Name)
		})
	case typeCredential:
		e.UID = uid(typeCredential, r.Name)
		profiles(func(p *Profile) bool { return holds(p.Credentials, r.Name) })
	default: // Sandbox
		e.UID = uid(v.resource, r.Name)
	}
	e.Parents = types.NewEntityUIDSet(parents...)
	switch v.resource {
	case typeServer, typeProvider, typeSandbox:
	case typeHost:
		e.Attributes = types.NewRecord(types.RecordMap{nameAttr: e.UID.ID})
	default:
		e.Attributes = types.NewRecord(types.RecordMap{nameAttr: types.String(r.Name)})
	}
	return target{action: uid(typeAction, r.Action), resource: e.UID, dynamic: e, label: label(e.UID)}, nil
}

// requestedHost is the one form of a host that a request names, which policies
// and profiles are about: see [URLHost].
func requestedHost(s string) (string, error) {
	if strings.Contains(s, ":") && !strings.HasPrefix(s, "[") {
		s = "[" + s + "]"
	}
	return argument.CanonicalHost(s)
}

// hostForm is the one form of a host, or of a wildcard for the hosts below a
// name, as policies and profiles name it.
func hostForm(s string) (string, error) {
	name, wild := strings.CutPrefix(s, "*.")
	host, err := requestedHost(name)
	switch {
	case err != nil || !wild:
		return host, err
	case argument.IsAddress(host):
		return "", errors.New("nothing is below an address")
	}
	return "*." + host, nil
}

// holdsHost reports whether a list of hosts names host, outright or by a
// wildcard above it.
func holdsHost(list []string, host string) bool {
	for _, l := range list {
		if l == host {
			return true
		}
		if suffix, ok := strings.CutPrefix(l, "*"); ok && strings.HasSuffix(host, suffix) && len(host) > len(suffix) && !argument.IsAddress(host) {
			return true
		}
	}
	return false
}

// named describes the target of a request that could not be resolved.
func (r *Request) named() (action, resource string) {
	t := typeTool
	if v, ok := verbs[r.Action]; ok {
		t = v.resource
	}
	name := r.Name
	if r.Server != "" {
		name = toolKey(r.Server, r.Name)
	}
	return clip(r.Action), label(uid(t, clip(name)))
}

func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}

// checkText refuses names that policy could not compare reliably.
func (r *Request) checkText() error {
	for _, s := range []string{r.Server, r.Name, r.Actor.Agent, r.Actor.User, r.Actor.Session} {
		if len(s) > argument.MaxName {
			return fmt.Errorf("a name of %d bytes", len(s))
		}
		if !utf8.ValidString(s) {
			return errors.New("a name is not valid UTF-8")
		}
	}
	return nil
}

// readsAbout are the parts of the context of t that somebody reads.
func (s *Snapshot) readsAbout(t *target) *reads {
	if t.tool == nil {
		return nil
	}
	return s.reads[t.tool.number]
}

// context is Cedar's context of a request, but for the other half of an agent
// that acts for a user. It checks everything, and holds what is read.
func (r *Request) context(t *target, now time.Time, of *reads) (types.RecordMap, error) {
	m := make(types.RecordMap, 6+len(r.Attrs))
	if of == nil || of.now {
		m["now"] = types.NewDatetime(now)
	}
	if r.Actor.Session != "" && (of == nil || of.session) {
		m["session"] = types.String(r.Actor.Session)
	}
	attrs := verbs[r.Action].attrs
	for name, v := range r.Attrs {
		want, ok := attrs[name]
		if !ok {
			return nil, fmt.Errorf("attribute %q is not in the vocabulary of action %q", clip(name), clip(r.Action))
		}
		c, got, err := attrValue(v)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		if got != want {
			return nil, fmt.Errorf("attribute %q is a %s, want %s", name, got, want)
		}
		m[types.String(name)] = c
	}
	if t.tool == nil {
		if len(r.Args) > 0 {
			return m, argument.CheckStrict(r.Args)
		}
		return m, nil
	}
	src := "{}"
	if len(r.Args) > 0 {
		if err := argument.CheckStrict(r.Args); err != nil {
			return nil, err
		}
		src = string(r.Args)
	}
	a, argErr := argument.Convert(t.tool.args, src, of.arguments())
	if argErr != nil {
		return nil, argErr
	}
	m["args"] = a.Args
	if of == nil || of.args.Nulls {
		m["nulls"] = a.Nulls
	}
	if of == nil || of.args.Extra {
		m["extra"] = a.Extra
	}
	if len(t.tool.derived) > 0 {
		d, argErr := argument.Derive(t.tool.derived, src)
		if argErr != nil {
			return nil, argErr
		}
		if of == nil || of.derived {
			m["derived"] = d
		}
	}
	return m, nil
}

func attrValue(v any) (types.Value, string, error) {
	text := func(s string) (types.String, error) {
		if len(s) > argument.MaxText || !utf8.ValidString(s) {
			return "", errors.New("too long, or not valid UTF-8")
		}
		return types.String(s), nil
	}
	switch v := v.(type) {
	case string:
		s, err := text(v)
		return s, "String", err
	case bool:
		return types.Boolean(v), "Bool", nil
	case int:
		return types.Long(v), "Long", nil
	case int64:
		return types.Long(v), "Long", nil
	case []string:
		if len(v) > argument.MaxSet {
			return nil, "", fmt.Errorf("more than %d values", argument.MaxSet)
		}
		set := make([]types.Value, len(v))
		for i, s := range v {
			t, err := text(s)
			if err != nil {
				return nil, "", err
			}
			set[i] = t
		}
		return types.NewSet(set...), "Set<String>", nil
	}
	return nil, "", fmt.Errorf("%T is not string, bool, int, int64 or []string", v)
}
