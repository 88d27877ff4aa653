package governance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// law compiles policies over one server "s" with one tool "t".
func law(t testing.TB, policies string, profiles ...governance.Profile) *governance.Snapshot {
	t.Helper()
	b := only("unused")
	b.Policies[0].Text = policies
	b.Profiles = profiles
	b.Entities = []types.Entity{
		{UID: types.NewEntityUID("Agent", "veteran"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Role", "senior")),
			Tags: types.NewRecord(types.RecordMap{"tier": types.String("gold")})},
		{UID: types.NewEntityUID("Role", "senior")},
		{UID: types.NewEntityUID("User", "ann"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "red"))},
		{UID: types.NewEntityUID("Team", "red"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "all"))},
		{UID: types.NewEntityUID("Team", "all")},
	}
	snap, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err, "%v", rep)
	return snap
}

func decide(t testing.TB, s *governance.Snapshot, r governance.Request) governance.Decision {
	t.Helper()
	d, err := s.Decide(t.Context(), r)
	require.NoError(t, err)
	if !d.Allowed() {
		assert.NotEmpty(t, d.Reason, "a denial without a cause")
		assert.NotEmpty(t, d.Hint)
	}
	assert.Len(t, d.ID, 26)
	return d
}

func toolCall(agent, args string) governance.Request {
	return governance.Request{Actor: actor(agent), Action: "call_tool", Server: "s", Name: "t", Args: json.RawMessage(args)}
}

// A forbid that fails would be left out by Cedar, and so allow exactly what its
// author was afraid of.
func TestFailingForbidDenies(t *testing.T) {
	s := law(t, `
@id("all") permit (principal, action, resource);
@id("product") forbid (principal, action == Action::"s__t", resource)
when { context.args has i && context.args has j && context.args.i * context.args.j > 100 };`)
	d := decide(t, s, toolCall("a", `{"i":10,"j":10}`))
	assert.True(t, d.Allowed())
	assert.Empty(t, d.Errors)
	d = decide(t, s, toolCall("a", `{"i":11,"j":10}`))
	assert.Equal(t, "product", d.Reason)
	d = decide(t, s, toolCall("a", `{"i":9223372036854775807,"j":2}`))
	assert.False(t, d.Allowed())
	assert.Equal(t, audit.GuardPolicyError, d.Reason)
	assert.Equal(t, []string{"product"}, d.PolicyIDs())
	require.Len(t, d.Errors, 1)
	assert.Contains(t, d.Errors[0], "product at p.cedar:3:1: ")
}

// A permit that fails permits nothing, and spoils nothing either.
func TestFailingPermit(t *testing.T) {
	s := law(t, `
@id("sum") permit (principal, action == Action::"s__t", resource)
when { context.args has i && context.args.i + 1 > 0 };
@id("x") permit (principal, action == Action::"s__t", resource)
when { context.args has x };`)
	d := decide(t, s, toolCall("a", `{"i":9223372036854775807}`))
	assert.Equal(t, audit.ReasonNoPermit, d.Reason)
	assert.Len(t, d.Errors, 1)
	d = decide(t, s, toolCall("a", `{"i":9223372036854775807,"x":""}`))
	assert.True(t, d.Allowed())
	assert.Len(t, d.Errors, 1)
	assert.Equal(t, []string{"x"}, d.PolicyIDs())
}

func TestAgentAndUser(t *testing.T) {
	s := law(t, `
@id("agent") permit (principal == Agent::"a", action in Action::"call_tool", resource);
@id("user") permit (principal in Team::"all", action in Action::"call_tool", resource);
@id("not-for-ann") forbid (principal == Agent::"a", action == Action::"s__t", resource)
when { context has user && context.user == User::"ann" && context.args has x && context.args.x == "secret" };
@id("not-by-a") forbid (principal is User, action == Action::"s__t", resource)
when { context has agent && context.agent == Agent::"a" && context.args has x && context.args.x == "agentless" };`)
	for _, c := range []struct {
		agent, user, args string
		allow             bool
		reason, policies  string
		principal         string
	}{
		{"a", "", `{}`, true, "", "agent", ""},
		{"a", "ann", `{}`, true, "", "agent user", ""},
		{"a", "bob", `{}`, false, "no-permit", "", `User::"bob"`},
		{"b", "ann", `{}`, false, "no-permit", "", `Agent::"b"`},
		{"b", "bob", `{}`, false, "no-permit", "", `Agent::"b"`},
		{"a", "ann", `{"x":"secret"}`, false, "not-for-ann", "not-for-ann", `Agent::"a"`},
		{"a", "", `{"x":"secret"}`, true, "", "agent", ""},
		{"a", "ann", `{"x":"agentless"}`, false, "not-by-a", "not-by-a", `User::"ann"`},
	} {
		r := toolCall(c.agent, c.args)
		r.Actor.User = c.user
		d := decide(t, s, r)
		name := fmt.Sprintf("%s for %q %s", c.agent, c.user, c.args)
		assert.Equal(t, c.allow, d.Allowed(), name)
		assert.Equal(t, c.reason, d.Reason, name)
		assert.Equal(t, c.policies, strings.Join(d.PolicyIDs(), " "), name)
		assert.Equal(t, c.principal, d.Principal, name)
	}
}

func TestActor(t *testing.T) {
	s := law(t, `@id("all") permit (principal, action, resource);`, governance.Profile{ID: "p", Agents: []string{"a"}})
	d, err := s.Decide(t.Context(), governance.Request{Action: "call_tool", Server: "s", Name: "t"})
	require.ErrorIs(t, err, audit.ErrNoActor)
	assert.Equal(t, audit.GuardNoActor, d.Reason)
	for _, c := range []struct{ agent, profile, reason string }{
		{"a", "", ""},
		{"a", "p", ""},
		{"a", "q", audit.GuardActor},
		{"stranger", "", ""},
		{"stranger", "p", audit.GuardActor},
	} {
		r := toolCall(c.agent, `{}`)
		r.Actor.Profile = c.profile
		assert.Equal(t, c.reason, decide(t, s, r).Reason, "%s of %q", c.agent, c.profile)
		v, err := s.Visible(t.Context(), r.Actor, "call_tool", []governance.ToolRef{{Server: "s", Name: "t"}})
		require.NoError(t, err)
		assert.Equal(t, c.reason == "", v[0] == governance.Always)
	}
}

// Claims are tags: never memberships, and never in the place of what the bundle
// says.
func TestClaims(t *testing.T) {
	s := law(t, `
@id("senior") permit (principal in Role::"senior", action == Action::"s__t", resource)
when { context.args has i };
@id("scope") permit (principal, action == Action::"s__t", resource)
when { principal.hasTag("scope") && principal.getTag("scope") == "post" };
@id("gold") permit (principal, action == Action::"s__t", resource)
when { principal.hasTag("tier") && principal.getTag("tier") == "gold" };`)
	for _, c := range []struct {
		agent, user string
		claims      map[string]string
		want        string
	}{
		{"a", "", nil, "no-permit"},
		{"a", "", map[string]string{"scope": "post"}, "scope"},
		{"a", "", map[string]string{"scope": "post read"}, "no-permit"},
		{"a", "", map[string]string{"role": "senior", "Role": "senior", "parents": "Role::\"senior\""}, "no-permit"},
		{"a", "", map[string]string{"tier": "gold"}, "gold"},
		{"veteran", "", nil, "gold"},
		{"veteran", "", map[string]string{"tier": "tin", "scope": "post"}, "gold scope"},
		{"a", "ann", map[string]string{"scope": "post"}, "no-permit"}, // the token is the agent's
	} {
		r := toolCall(c.agent, `{}`)
		r.Actor.User, r.Claims = c.user, c.claims
		d := decide(t, s, r)
		got := d.Reason
		if d.Allowed() {
			got = strings.Join(d.PolicyIDs(), " ")
		}
		assert.Equal(t, c.want, got, "%s %v", c.agent, c.claims)
	}
	many := map[string]string{}
	for i := range 1000 {
		many[fmt.Sprint(i)] = ""
	}
	r := toolCall("a", `{}`)
	r.Claims = many
	assert.Equal(t, audit.GuardToken, decide(t, s, r).Reason)
}

func TestObligations(t *testing.T) {
	s := law(t, `
@id("b") @approval("lead") @max_bytes("1000") permit (principal, action == Action::"s__t", resource) when { context.args has x };
@id("a") @rate("10/1m") permit (principal == User::"ann", action == Action::"s__t", resource);
@id("c") permit (principal, action == Action::"s__t", resource) when { context.args has i };`)
	all := []string{"approval", "rate", "max_bytes", "redact"}
	for _, c := range []struct {
		args, user string
		enforces   []string
		reason     string
		want       string
	}{
		{`{"i":1}`, "", nil, "", ""},
		{`{"x":""}`, "", nil, "obligation", "approval=lead by b, max_bytes=1000 by b"},
		{`{"x":""}`, "", []string{"approval"}, "obligation", "approval=lead by b, max_bytes=1000 by b"},
		{`{"x":""}`, "", []string{"approval", "max_bytes"}, "approval", "approval=lead by b, max_bytes=1000 by b"}, // the door can ask a person
		{`{"x":"","i":1}`, "", nil, "obligation", "approval=lead by b, max_bytes=1000 by b"},                       // the free permit does not lift what the other demands
		{`{"i":1}`, "ann", all, "", "rate=10/1m by a"},
	} {
		r := toolCall("a", c.args)
		r.Actor.User, r.Enforces = c.user, c.enforces
		d := decide(t, s, r)
		var got []string
		for _, o := range d.Obligations {
			got = append(got, o.Kind+"="+o.Value+" by "+o.Policy)
		}
		assert.Equal(t, c.reason, d.Reason, "%+v", c)
		assert.Equal(t, c.reason == "", d.Allowed(), "%+v", c)
		assert.Equal(t, c.want, strings.Join(got, ", "), "%+v", c)
	}
}

func TestNearest(t *testing.T) {
	s := law(t, `
@id("e") permit (principal == Agent::"a", action == Action::"s__t", resource) when { context.args has x };
@id("d") permit (principal == Agent::"b", action in Action::"write", resource);
@id("c") permit (principal == Agent::"c", action == Action::"connect", resource);
@id("b") permit (principal is User, action in Action::"call_tool", resource in Server::"s");
@id("a") permit (principal == Agent::"e", action == Action::"s__t", resource);
@id("f") forbid (principal == Agent::"f", action == Action::"s__t", resource);`)
	d := decide(t, s, toolCall("a", `{}`))
	assert.Equal(t, audit.ReasonNoPermit, d.Reason)
	// First what is there for this principal, then what is there for others.
	assert.Equal(t, []string{"e", "a", "b"}, d.Nearest)
	d = decide(t, s, governance.Request{Actor: actor("a"), Action: "connect", Name: "x.example"})
	assert.Equal(t, []string{"c"}, d.Nearest)
}

// Each section of a profile is a ceiling of its own, whatever is permitted.
func TestProfileCeilings(t *testing.T) {
	everything := `@id("all") permit (principal, action, resource);`
	full := governance.Profile{
		ID: "p", Agents: []string{"a"},
		Servers:     map[string]governance.Grant{"s": {Tools: []string{"t"}, Prompts: []string{"hello"}, Resources: []string{"file:///a"}}},
		Models:      []string{"openai/gpt-5", "local/*"},
		HostedTools: []string{"openai/web_search"},
		Hosts:       []string{"api.example.com", "*.internal.example"},
		Credentials: []string{"github"},
	}
	empty := governance.Profile{
		ID: "p", Agents: []string{"a"}, Servers: map[string]governance.Grant{},
		Models: []string{}, HostedTools: []string{}, Hosts: []string{}, Credentials: []string{},
	}
	open := governance.Profile{ID: "p", Agents: []string{"a"}}
	for _, c := range []struct {
		action, server, name string
		inside               bool
		section              string
	}{
		{"call_tool", "s", "t", true, "tools"},
		{"call_tool", "s", "u", false, "tools"},
		{"call_tool", "z", "t", false, "tools"},
		{"get_prompt", "s", "hello", true, "tools"},
		{"complete", "s", "hello", true, "tools"},
		{"get_prompt", "s", "bye", false, "tools"},
		{"get_prompt", "z", "hello", false, "tools"},
		{"read_resource", "s", "file:///a", true, "tools"},
		{"subscribe", "s", "file:///a", true, "tools"},
		{"read_resource", "s", "file:///b", false, "tools"},
		{"list_tools", "s", "", true, "servers"},
		{"list_tools", "z", "", false, "servers"},
		{"elicit", "z", "", false, "servers"},
		{"sample", "z", "", false, "servers"},
		{"invoke_model", "openai", "gpt-5", true, "models"},
		{"invoke_model", "openai", "gpt-5-pro", false, "models"},
		{"embed", "local", "anything", true, "models"},
		{"count_tokens", "other", "gpt-5", false, "models"},
		{"list_models", "openai", "", true, "providers"},
		{"list_models", "other", "", false, "providers"},
		{"use_hosted_tool", "openai", "web_search", true, "hosted_tools"},
		{"use_hosted_tool", "openai", "computer", false, "hosted_tools"},
		{"connect", "", "api.example.com", true, "hosts"},
		{"connect", "", "API.Example.com.", true, "hosts"},
		{"connect", "", "db.internal.example", true, "hosts"},
		{"connect", "", "a.b.internal.example", true, "hosts"},
		{"connect", "", "internal.example", false, "hosts"},
		{"connect", "", "evil-internal.example", false, "hosts"},
		{"connect", "", "api.example.com.evil.net", false, "hosts"},
		{"connect", "", "10.0.0.1", false, "hosts"},
		{"use_credential", "", "github", true, "credentials"},
		{"use_credential", "", "slack", false, "credentials"},
	} {
		for name, profile := range map[string]governance.Profile{"full": full, "empty": empty, "open": open} {
			b := only("x")
			b.Policies[0].Text = everything
			b.Catalog[0].Tools = append(b.Catalog[0].Tools, tool("u", `{"type":"object"}`))
			b.Catalog = append(b.Catalog, governance.Server{Name: "z", Tools: []governance.Tool{tool("t", `{"type":"object"}`)}})
			b.Profiles = []governance.Profile{profile}
			s, rep, err := governance.Compile(t.Context(), b, nil)
			require.NoError(t, err, "%v", rep)
			r := governance.Request{Actor: actor("a"), Action: c.action, Server: c.server, Name: c.name}
			d := decide(t, s, r)
			allowed := name == "open" || name == "full" && c.inside
			assert.Equal(t, allowed, d.Allowed(), "%s: %+v: %s", name, c, d.Reason)
			assert.Equal(t, !allowed, d.Hidden, "%s: %+v", name, c)
			visible, err := s.Visible(t.Context(), r.Actor, c.action, []governance.ToolRef{{Server: c.server, Name: c.name}})
			require.NoError(t, err)
			assert.Equal(t, allowed, visible[0] == governance.Always, "%s: %+v", name, c)
			if !allowed {
				assert.Equal(t, "not-in-profile:p@"+s.Hash()[len("sha256:"):][:12], d.Reason)
				assert.Equal(t, []string{"profile:p:" + c.section}, d.PolicyIDs())
			}
			r.Actor = actor("stranger")
			assert.True(t, decide(t, s, r).Allowed(), "a ceiling is for the profile's agents")
		}
	}
}

// A profile grants nothing by itself.
func TestProfileGrantsNothing(t *testing.T) {
	s := law(t, `@id("x") permit (principal == Agent::"other", action, resource);`,
		governance.Profile{ID: "p", Agents: []string{"a"}, Servers: map[string]governance.Grant{"s": {Tools: []string{"*"}}}})
	d := decide(t, s, toolCall("a", `{}`))
	assert.Equal(t, audit.ReasonNoPermit, d.Reason)
	assert.False(t, d.Hidden)
}

// The names of server and tool cannot be cut differently.
func TestToolKeyIsUnambiguous(t *testing.T) {
	b := only("x")
	b.Policies[0].Text = `@id("all") permit (principal, action, resource);`
	b.Catalog[0].Tools = append(b.Catalog[0].Tools, tool("b__c", `{"type":"object"}`))
	s, _, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	r := governance.Request{Actor: actor("a"), Action: "call_tool", Server: "s", Name: "b__c"}
	assert.True(t, decide(t, s, r).Allowed())
	r.Server, r.Name = "s__b", "c"
	d := decide(t, s, r)
	assert.Equal(t, audit.GuardUnknown, d.Reason)
	assert.True(t, d.Hidden)
}

func TestAttrs(t *testing.T) {
	s := law(t, `
@id("https") permit (principal, action == Action::"connect", resource in Host::"*.example.com")
when { context has port && context.port == 443 && context has scheme && context.scheme == "https" };
@id("address") permit (principal, action == Action::"connect", resource in Host::"*.1");
@id("models") permit (principal, action == Action::"invoke_model", resource in Provider::"openai")
when { context has tools && ["web"].containsAll(context.tools) && context has stream && context.stream };
@id("exec") permit (principal, action == Action::"exec", resource == Sandbox::"box")
when { context has session && context.session == "s1" && context.now > datetime("2026-01-01T00:00:00Z") };`)
	for _, c := range []struct {
		r    governance.Request
		want string
	}{
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"port": 443, "scheme": "https"}}, ""},
		{governance.Request{Action: "connect", Name: "a.b.example.com", Attrs: map[string]any{"port": int64(443), "scheme": "https"}}, ""},
		{governance.Request{Action: "connect", Name: "example.com", Attrs: map[string]any{"port": 443, "scheme": "https"}}, "no-permit"},
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"port": 80, "scheme": "https"}}, "no-permit"},
		{governance.Request{Action: "connect", Name: "10.0.0.1"}, "no-permit"},
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"port": "443"}}, "arguments"},
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"port": 443.0}}, "arguments"},
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"ports": 443}}, "arguments"},
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"path": "\xff"}}, "arguments"},
		{governance.Request{Action: "connect", Name: "api.example.com", Attrs: map[string]any{"now": 1}}, "arguments"},
		{governance.Request{Action: "call_tool", Server: "s", Name: "t", Attrs: map[string]any{"approval": true}}, "arguments"},
		{governance.Request{Action: "invoke_model", Server: "openai", Name: "m", Attrs: map[string]any{"tools": []string{"web"}, "stream": true}}, ""},
		{governance.Request{Action: "invoke_model", Server: "openai", Name: "m", Attrs: map[string]any{"tools": []string{"web", "shell"}, "stream": true}}, "no-permit"},
		{governance.Request{Action: "invoke_model", Server: "openai", Name: "m", Attrs: map[string]any{"tools": slices.Repeat([]string{"x"}, 300)}}, "arguments"},
		{governance.Request{Action: "invoke_model", Server: "other", Name: "m", Attrs: map[string]any{"tools": []string{}, "stream": true}}, "no-permit"},
		{governance.Request{Action: "exec", Name: "box", Time: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}, ""},
		{governance.Request{Action: "exec", Name: "box", Time: time.Date(2025, 5, 1, 0, 0, 0, 0, time.UTC)}, "no-permit"},
		{governance.Request{Action: "exec", Name: "box2", Time: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}, "no-permit"},
		{governance.Request{Action: "execute", Name: "box"}, "unknown"},
		{governance.Request{Action: "", Name: "box"}, "unknown"},
		{governance.Request{Action: "read", Server: "s", Name: "t"}, "unknown"},
		{governance.Request{Action: "s__t", Server: "s", Name: "t"}, "unknown"},
		{governance.Request{Action: "list_tools", Server: "nope"}, "unknown"},
		{governance.Request{Action: "connect", Name: "\xff"}, "arguments"},
		{governance.Request{Action: "connect", Name: strings.Repeat("x", 5000)}, "arguments"},
		{governance.Request{Action: "get_prompt", Server: "s", Name: "p", Args: []byte(`{"a":1,"a":2}`)}, "strict-json"},
	} {
		c.r.Actor = actor("a")
		c.r.Actor.Session = "s1"
		assert.Equal(t, c.want, decide(t, s, c.r).Reason, "%+v", c.r)
	}
}

// A host is in one form, however it was written, and only an address is below no
// domain.
func TestHostsHaveOneForm(t *testing.T) {
	s := law(t, `
@id("all") permit (principal, action, resource);
@id("corp") forbid (principal, action, resource in Host::"*.corp2");
@id("meta") forbid (principal, action, resource == Host::"169.254.169.254");
@id("lo") forbid (principal, action, resource == Host::"::1");`)
	for host, want := range map[string]string{
		"db.corp2":               "corp",
		"DB.Corp2.":              "corp",
		"169.254.169.254":        "meta",
		"169.254.169.254.":       "meta",
		"2852039166":             "meta",
		"0xA9FEA9FE":             "meta",
		"::ffff:169.254.169.254": "meta",
		"[::1]":                  "lo",
		"0:0::1":                 "lo",
		"0251.0376.169.254":      "unknown",
		"fe80::1%eth0":           "unknown",
		"two words":              "unknown",
		"":                       "unknown",
		"corp2":                  "",
		"169.254.169.253":        "",
	} {
		assert.Equal(t, want, decide(t, s, governance.Request{Actor: actor("a"), Action: "connect", Name: host}).Reason, host)
	}
}

func TestClock(t *testing.T) {
	b := only("x")
	b.Policies[0].Text = `@id("x") permit (principal, action, resource) when { context.now < datetime("2026-01-01") };`
	now := time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)
	s, _, err := governance.Compile(t.Context(), b, &governance.Options{Clock: func() time.Time { return now }})
	require.NoError(t, err)
	assert.True(t, decide(t, s, toolCall("a", `{}`)).Allowed())
	now = now.AddDate(0, 0, 1)
	assert.False(t, decide(t, s, toolCall("a", `{}`)).Allowed())
}

func TestDeadline(t *testing.T) {
	s := law(t, `@id("all") permit (principal, action, resource);`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d, err := s.Decide(ctx, toolCall("a", `{}`))
	require.ErrorIs(t, err, context.Canceled)
	assert.False(t, d.Allowed())
	assert.Equal(t, audit.GuardDeadline, d.Reason)
	v, err := s.Visible(ctx, actor("a"), "call_tool", []governance.ToolRef{{Server: "s", Name: "t"}})
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, governance.Never, v[0])

	// Over while it was being decided: late is denied as well.
	late := &lateContext{Context: t.Context()}
	d, err = s.Decide(late, toolCall("a", `{}`))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, audit.GuardDeadline, d.Reason)
	assert.Empty(t, d.Policies)
}

// lateContext is fine once, and over afterwards.
type lateContext struct {
	context.Context
	asked int
}

func (c *lateContext) Err() error {
	if c.asked++; c.asked > 1 {
		return context.DeadlineExceeded
	}
	return nil
}

// A breakdown anywhere is a denial.
func TestPanicDenies(t *testing.T) {
	b := only("x")
	s, _, err := governance.Compile(t.Context(), b, &governance.Options{Clock: func() time.Time { panic("clock") }})
	require.NoError(t, err)
	d, err := s.Decide(t.Context(), toolCall("a", `{}`))
	require.ErrorIs(t, err, governance.ErrPanic)
	assert.False(t, d.Allowed())
	assert.Equal(t, audit.GuardPanic, d.Reason)
}

func TestDecisionIDs(t *testing.T) {
	s := law(t, `@id("all") permit (principal, action, resource);`)
	seen := map[string]bool{}
	for range 1000 {
		id := decide(t, s, toolCall("a", `{}`)).ID
		require.False(t, seen[id])
		seen[id] = true
	}
}

// Reasons and errors come in one order, whatever order policies stand in.
func TestDeterministic(t *testing.T) {
	var policies []string
	for i := range 20 {
		policies = append(policies, fmt.Sprintf(`@id("f%02d") forbid (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i * %d > 0 };`, i, i+1))
	}
	want := ""
	for range 10 {
		s := law(t, strings.Join(policies, "\n"))
		d := decide(t, s, toolCall("a", `{"i":922337203685477580}`))
		got := strings.Join(d.PolicyIDs(), " ") + fmt.Sprint(len(d.Errors)) + d.Reason
		assert.True(t, slices.IsSorted(d.PolicyIDs()))
		assert.True(t, slices.IsSorted(d.Errors))
		if want == "" {
			want = got
		}
		assert.Equal(t, want, got)
		slices.Reverse(policies)
	}
}

// A test in one clause guards the clauses after it, because all of them must
// hold.
func TestClausesAreOneCondition(t *testing.T) {
	s := law(t, `
@id("p") permit (principal, action == Action::"s__t", resource)
when { context.args has i }
unless { context.args.i > 5 };`)
	assert.True(t, decide(t, s, toolCall("a", `{"i":5}`)).Allowed())
	assert.False(t, decide(t, s, toolCall("a", `{"i":6}`)).Allowed())
	assert.False(t, decide(t, s, toolCall("a", `{}`)).Allowed())
}
