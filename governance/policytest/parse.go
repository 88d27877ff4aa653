package policytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// ErrCases is wrapped by every error about a file of cases.
var ErrCases = errors.New("policytest: the cases are not usable")

// Limits of one file.
const (
	maxFile  = 16 << 20
	maxCases = 100_000
)

// Cases returns the cases of a bundle's tests/*.json.
func Cases(b governance.Bundle) ([]Case, error) {
	var out []Case
	for _, src := range b.Tests {
		cases, err := Parse(src.Name, []byte(src.Text))
		if err != nil {
			return nil, err
		}
		out = append(out, cases...)
	}
	return out, nil
}

// Parse reads one file of cases, in strict JSON. Every error wraps [ErrCases]
// and names the file and the place of the case in it, counted from 0.
func Parse(file string, text []byte) ([]Case, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("%w: %s: larger than %d MiB", ErrCases, file, maxFile>>20)
	}
	var list []jsontext.Value
	if err := jsonv2.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%w: %s: a file of cases is a list of objects: %w", ErrCases, file, err)
	}
	if len(list) > maxCases {
		return nil, fmt.Errorf("%w: %s: more than %d cases", ErrCases, file, maxCases)
	}
	out := make([]Case, len(list))
	for i, v := range list {
		var c Case
		var head struct {
			Request jsontext.Value `json:"request"`
		}
		err := jsonv2.Unmarshal(v, &head)
		switch {
		case err != nil:
		case head.Request != nil:
			c, err = parseCedar(v)
		default:
			c, err = parseOwn(v)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s[%d]: %w", ErrCases, file, i, err)
		}
		c.file, c.index = file, i
		out[i] = c
	}
	return out, nil
}

type own struct {
	Name     string              `json:"name"`
	Agent    string              `json:"agent"`
	User     string              `json:"user"`
	Session  string              `json:"session"`
	Tool     string              `json:"tool"`
	Action   string              `json:"action"`
	Server   string              `json:"server"`
	Resource string              `json:"resource"`
	Args     jsontext.Value      `json:"args"`
	Attrs    map[string]any      `json:"attrs"`
	Claims   map[string]string   `json:"claims"`
	Time     time.Time           `json:"time"`
	Enforces []string            `json:"enforces"`
	Approved []string            `json:"approved"`
	History  *governance.History `json:"history"`
	Expect   audit.Effect        `json:"expect"`
	Reason   string              `json:"reason"`
	Policies []string            `json:"policies"`
}

// parseOwn reads a case in the form of this module.
func parseOwn(v jsontext.Value) (Case, error) {
	var o own
	if err := jsonv2.Unmarshal(v, &o, jsonv2.RejectUnknownMembers(true)); err != nil {
		return Case{}, err
	}
	c := Case{Name: o.Name, Expect: o.Expect, Reason: o.Reason, Policies: o.Policies, Approved: o.Approved}
	r := &c.Request
	*r = governance.Request{
		Actor:  audit.Actor{Agent: o.Agent, User: o.User, Session: o.Session},
		Action: o.Action, Server: o.Server, Name: o.Resource,
		Args: json.RawMessage(o.Args), Attrs: o.Attrs, Claims: o.Claims, Time: o.Time, Enforces: o.Enforces, History: o.History,
	}
	if o.Agent == "" {
		return c, errors.New(`"agent" is missing: who asks?`)
	}
	if o.Expect != audit.Allow && o.Expect != audit.Deny {
		return c, fmt.Errorf(`"expect" is %q: say "allow" or "deny"`, o.Expect)
	}
	if o.Reason != "" && o.Expect == audit.Allow {
		return c, errors.New(`"reason" is the cause of a denial; name the permits in "policies"`)
	}
	switch {
	case o.Tool != "":
		server, tool, ok := strings.Cut(o.Tool, "__")
		if !ok || o.Action != "" && o.Action != "call_tool" || o.Server != "" || o.Resource != "" {
			return c, errors.New(`"tool" is "<server>__<tool>", and stands for "action", "server" and "resource"`)
		}
		r.Action, r.Server, r.Name = "call_tool", server, tool
	case o.Action == "":
		return c, errors.New(`what is asked for? say "tool", or "action" with "server" and "resource"`)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Attrs)) {
		a, err := attr(o.Attrs[name])
		if err != nil {
			return c, fmt.Errorf("attrs.%s: %w", name, err)
		}
		o.Attrs[name] = a
	}
	return c, nil
}

// attr turns JSON into what a door would say.
func attr(v any) (any, error) {
	switch v := v.(type) {
	case string, bool:
		return v, nil
	case float64:
		if v == float64(int64(v)) && v >= -1<<53 && v <= 1<<53 {
			return int64(v), nil
		}
	case []any:
		out := make([]string, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("a list holds strings")
			}
			out[i] = s
		}
		return out, nil
	}
	return nil, errors.New("want a string, true or false, a whole number or a list of strings")
}

// parseCedar reads a case in the form of the Cedar command line.
func parseCedar(v jsontext.Value) (Case, error) {
	var in struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Request     struct {
			Principal jsontext.Value `json:"principal"`
			Action    jsontext.Value `json:"action"`
			Resource  jsontext.Value `json:"resource"`
			Context   jsontext.Value `json:"context"`
		} `json:"request"`
		Entities  jsontext.Value `json:"entities"`
		Decision  string         `json:"decision"`
		Reason    []string       `json:"reason"`
		NumErrors int            `json:"num_errors"`
	}
	if err := jsonv2.Unmarshal(v, &in, jsonv2.RejectUnknownMembers(true)); err != nil {
		return Case{}, err
	}
	c := Case{Name: in.Name, Policies: in.Reason, Expect: audit.Effect(strings.ToLower(in.Decision)), cedar: &cedarCase{errors: in.NumErrors}}
	if c.Name == "" {
		c.Name = in.Description
	}
	if c.Expect != audit.Allow && c.Expect != audit.Deny {
		return c, fmt.Errorf(`"decision" is %q: say "allow" or "deny"`, in.Decision)
	}
	for _, part := range []struct {
		name string
		text jsontext.Value
		uid  *types.EntityUID
	}{
		{"principal", in.Request.Principal, &c.cedar.request.Principal},
		{"action", in.Request.Action, &c.cedar.request.Action},
		{"resource", in.Request.Resource, &c.cedar.request.Resource},
	} {
		uid, err := entity(part.text)
		if err != nil {
			return c, fmt.Errorf("request.%s: %w", part.name, err)
		}
		*part.uid = uid
	}
	c.cedar.request.Context = types.NewRecord(nil)
	if in.Request.Context != nil {
		if err := json.Unmarshal(in.Request.Context, &c.cedar.request.Context); err != nil {
			return c, fmt.Errorf("request.context: %w", err)
		}
	}
	if in.Entities != nil {
		if err := json.Unmarshal(in.Entities, &c.cedar.entities); err != nil {
			return c, fmt.Errorf("entities: %w", err)
		}
	}
	return c, nil
}

// entity reads `Type::"id"`, or its JSON form.
func entity(v jsontext.Value) (types.EntityUID, error) {
	var uid types.EntityUID
	var text string
	if json.Unmarshal(v, &text) != nil {
		err := json.Unmarshal(v, &uid)
		return uid, err
	}
	if err := uid.UnmarshalCedar([]byte(text)); err != nil {
		return uid, fmt.Errorf(`%q is no entity; write Type::"id"`, text)
	}
	return uid, nil
}
