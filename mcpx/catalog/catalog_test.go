package catalog_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx/catalog"
)

func all(t testing.TB) []*catalog.Connector {
	t.Helper()
	cs, err := catalog.All()
	require.NoError(t, err)
	return cs
}

// Everything that a reader relies on holds for every entry.
func TestCatalog(t *testing.T) {
	cs := all(t)
	assert.GreaterOrEqual(t, len(cs), 40)
	assert.True(t, slices.IsSortedFunc(cs, func(a, b *catalog.Connector) int { return strings.Compare(a.ID, b.ID) }))
	seen := map[string]bool{}
	verified := 0
	for _, c := range cs {
		t.Run(c.ID, func(t *testing.T) {
			assert.False(t, seen[c.ID], "twice")
			seen[c.ID] = true
			one, err := catalog.Load(c.ID)
			require.NoError(t, err)
			assert.Equal(t, c, one, "its file has its name")
			assert.Regexp(t, `^[a-z0-9-]{1,32}$`, c.ID)
			for _, o := range c.Origins {
				if !strings.Contains(o, "{") {
					got, err := credential.Origin(o)
					require.NoError(t, err)
					assert.Equal(t, o, got)
				}
			}
			for fact, page := range c.Sources {
				assert.True(t, strings.HasPrefix(page, "https://"), "%s: %s", fact, page)
			}
			assert.NotEmpty(t, c.Sources["server"])
			assert.NotEmpty(t, c.Sources["auth"])
			assert.Equal(t, c.Status == catalog.Verified, c.Record() != nil)
			policies, err := c.Starter("starter", &catalog.StarterOptions{Values: examples(c)})
			require.NoError(t, err)
			for _, spec := range c.Bindings("", governance.Read, governance.Write) {
				assert.NotEmpty(t, spec.Type)
				assert.Contains(t, policies.Text, "use_credential")
				if c.Transport != "stdio" {
					assert.NotEmpty(t, spec.Origin, "a secret that is bound to no origin")
				}
			}
			if c.Record() == nil {
				return
			}
			verified++
			for _, tool := range c.Record().Tools {
				_, ok := c.Class(tool.Name)
				assert.True(t, ok, "%s has no class", tool.Name)
			}
		})
	}
	assert.GreaterOrEqual(t, verified, 20)
	t.Logf("%d connectors, %d verified", len(cs), verified)
}

var (
	someone = audit.Actor{Agent: "starter-bot", Session: "s1"}
	probe   = governance.Tool{Class: governance.Destructive, ToolDefinition: governance.ToolDefinition{
		Name: "a-destructive-probe", InputSchema: json.RawMessage(`{"type":"object"}`),
	}}
)

// examples are the values that the rules of a connector are tested with.
func examples(c *catalog.Connector) map[string][]string {
	values := map[string][]string{}
	for _, r := range c.Rules {
		for name, v := range r.Example {
			values[name] = v
		}
	}
	return values
}

// starter compiles the starter policies of a verified connector against its
// recorded tools, and one more that destroys.
func starter(t testing.TB, c *catalog.Connector, opts *catalog.StarterOptions) (*governance.Snapshot, governance.Server) {
	t.Helper()
	server, err := c.Server("")
	require.NoError(t, err)
	server.Tools = append(server.Tools, probe)
	policies, err := c.Starter("starter", opts)
	require.NoError(t, err)
	snap, rep, err := governance.Compile(t.Context(), governance.Bundle{
		Catalog:  []governance.Server{server},
		Policies: []governance.Source{policies},
		Profiles: []governance.Profile{{
			ID: "starter", Owner: "tests", Agents: []string{someone.Agent},
			Servers: map[string]governance.Grant{c.ID: {Tools: []string{"*"}}},
		}},
	}, nil)
	require.NoError(t, err, policies.Text)
	for _, f := range rep.Findings {
		if f.Code != "schema-unchecked" { // of a tool's own schema, and left to the tool
			assert.Equal(t, governance.SeverityInfo, f.Severity, "%s", f)
		}
	}
	return snap, server
}

func decide(t testing.TB, snap *governance.Snapshot, server, tool string, args json.RawMessage) governance.Decision {
	t.Helper()
	d, err := snap.Decide(t.Context(), governance.Request{Actor: someone, Action: "call_tool", Server: server, Name: tool, Args: args})
	require.NoError(t, err)
	return d
}

// The starter policies of every verified connector compile against its recorded
// tools; with them reads are allowed, nothing that destroys can be reached with
// any arguments, and writes are as conditional as their rules.
func TestStarterPolicies(t *testing.T) {
	for _, c := range all(t) {
		if c.Status != catalog.Verified {
			continue
		}
		t.Run(c.ID, func(t *testing.T) {
			snap, server := starter(t, c, &catalog.StarterOptions{Values: examples(c)})
			var refs []governance.ToolRef
			for _, tool := range server.Tools {
				refs = append(refs, governance.ToolRef{Server: server.Name, Name: tool.Name})
			}
			visible, err := snap.Visible(t.Context(), someone, "call_tool", refs)
			require.NoError(t, err)
			ruled := map[string]bool{}
			for _, r := range c.Rules {
				for _, name := range r.Tools {
					ruled[name] = true
				}
			}
			allowed, denied := 0, 0
			for i, tool := range server.Tools {
				args := sample(t, tool.InputSchema)
				d := decide(t, snap, server.Name, tool.Name, args)
				switch tool.Class {
				case governance.Read:
					if ruled[tool.Name] {
						assert.NotEqual(t, governance.Never, visible[i], tool.Name)
						continue
					}
					assert.Equal(t, governance.Always, visible[i], tool.Name)
					if tool.Name == "netlify-coding-rules" {
						assert.Equal(t, "arguments", d.Reason, "its schema has an empty enum, so nothing is valid")
						continue
					}
					assert.Equal(t, audit.Allow, d.Effect, "%s %s: %s", tool.Name, args, d.Reason)
					allowed++
				case governance.Destructive:
					assert.Equal(t, governance.Never, visible[i], tool.Name)
					assert.Equal(t, audit.Deny, d.Effect, "%s %s", tool.Name, args)
					denied++
				case governance.Write:
					assert.Equal(t, ruled[tool.Name], visible[i] != governance.Never, tool.Name)
				}
			}
			if len(c.Tools[governance.Read]) > 0 {
				assert.Positive(t, allowed)
			}
			assert.Positive(t, denied)
			stranger, err := snap.Decide(t.Context(), governance.Request{Actor: audit.Actor{Agent: "stranger"}, Action: "call_tool", Server: server.Name, Name: server.Tools[0].Name, Args: json.RawMessage(`{}`)})
			require.NoError(t, err)
			assert.Equal(t, audit.Deny, stranger.Effect)
		})
	}
}

// sample makes arguments that a schema takes: its required members, each the
// least of its type.
func sample(t testing.TB, schema json.RawMessage) json.RawMessage {
	t.Helper()
	var root map[string]any
	require.NoError(t, json.Unmarshal(schema, &root))
	out, err := json.Marshal(value(t, root, root, 0))
	require.NoError(t, err)
	return out
}

func value(t testing.TB, root, s map[string]any, depth int) any {
	if depth > 20 {
		return nil
	}
	if ref, ok := s["$ref"].(string); ok {
		at := any(root)
		for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			if list, ok := at.([]any); ok {
				i, err := strconv.Atoi(part)
				require.NoError(t, err, ref)
				at = list[i]
				continue
			}
			at = at.(map[string]any)[part]
		}
		return value(t, root, at.(map[string]any), depth+1)
	}
	if v, ok := s["const"]; ok {
		return v
	}
	if v, ok := s["enum"].([]any); ok && len(v) > 0 {
		return v[0]
	}
	for _, k := range []string{"anyOf", "oneOf", "allOf"} {
		if v, ok := s[k].([]any); ok {
			return value(t, root, v[0].(map[string]any), depth+1)
		}
	}
	typ, _ := s["type"].(string)
	if many, ok := s["type"].([]any); ok {
		typ = many[0].(string)
	}
	switch typ {
	case "string":
		return text(s)
	case "integer", "number":
		n := 1.0
		if m, ok := s["minimum"].(float64); ok {
			n = max(n, m)
		}
		if m, ok := s["maximum"].(float64); ok {
			n = min(n, m)
		}
		return n
	case "boolean":
		return false
	case "array":
		least, _ := s["minItems"].(float64)
		out := []any{}
		items, _ := s["items"].(map[string]any)
		for range int(least) {
			out = append(out, value(t, root, items, depth+1))
		}
		return out
	case "null":
		return nil
	}
	out := map[string]any{}
	properties, _ := s["properties"].(map[string]any)
	required, _ := s["required"].([]any)
	for _, name := range required {
		p, _ := properties[name.(string)].(map[string]any)
		out[name.(string)] = value(t, root, p, depth+1)
	}
	return out
}

func text(s map[string]any) string {
	switch s["format"] {
	case "uri", "url":
		return "https://docs.example.com/"
	case "date-time":
		return "2026-01-02T03:04:05Z"
	case "date":
		return "2026-01-02"
	case "email":
		return "a@example.com"
	case "uuid":
		return "0f3b2c1d-0000-4000-8000-000000000001"
	}
	least, _ := s["minLength"].(float64)
	return strings.Repeat("a", max(1, int(least)))
}

// Without values, the rules that want some are left out.
func TestStarterWithoutValues(t *testing.T) {
	c, err := catalog.Load("github")
	require.NoError(t, err)
	assert.Equal(t, []string{"owners"}, c.Parameters())
	snap, server := starter(t, c, nil)
	for _, name := range c.Tools[governance.Write] {
		i := slices.IndexFunc(server.Tools, func(tool governance.Tool) bool { return tool.Name == name })
		d := decide(t, snap, "github", name, sample(t, server.Tools[i].InputSchema))
		assert.Equal(t, audit.Deny, d.Effect, name)
	}
}

// What an administrator gives cannot become policy.
func TestStarterRefusesOddNames(t *testing.T) {
	c, err := catalog.Load("github")
	require.NoError(t, err)
	for _, bad := range []string{`x"]); permit(principal, action, resource);//`, "a\nb", `\u{2a}`, "", "ünicode", strings.Repeat("x", 257)} {
		_, err := c.Starter("p", &catalog.StarterOptions{Values: map[string][]string{"owners": {bad}}})
		assert.Error(t, err, bad)
		_, err = c.Starter(bad, nil)
		assert.Error(t, err, bad)
		if bad != "" {
			_, err = c.Starter("p", &catalog.StarterOptions{Server: bad})
			assert.Error(t, err, bad)
			_, err = c.Starter("p", &catalog.StarterOptions{Credential: bad})
			assert.Error(t, err, bad)
		}
	}
}

// A folder is a folder, and no pattern.
func TestStarterFolders(t *testing.T) {
	c, err := catalog.Load("filesystem")
	require.NoError(t, err)
	_, err = c.Starter("p", &catalog.StarterOptions{Values: map[string][]string{"folders": {"/work/*"}}})
	assert.ErrorContains(t, err, "no asterisks")
	policies, err := c.Starter("p", &catalog.StarterOptions{Values: map[string][]string{"folders": {"/a/", "/b"}}})
	require.NoError(t, err)
	assert.Contains(t, policies.Text, `(context.derived.path like "/a/*" || context.derived.path like "/b/*")`)
}

// A rule's condition is decided by the arguments.
func TestStarterConditions(t *testing.T) {
	for _, try := range []struct {
		id, tool, args string
		want           audit.Effect
	}{
		{"github", "create_issue", `{"owner":"acme","repo":"shop","title":"x"}`, audit.Allow},
		{"github", "create_issue", `{"owner":"evil","repo":"shop","title":"x"}`, audit.Deny},
		{"github", "push_files", `{"owner":"acme","repo":"shop","branch":"fix","files":[],"message":"m"}`, audit.Allow},
		{"github", "push_files", `{"owner":"acme","repo":"shop","branch":"main","files":[],"message":"m"}`, audit.Deny},
		{"slack", "slack_post_message", `{"channel_id":"C0123456789","text":"done"}`, audit.Allow},
		{"slack", "slack_post_message", `{"channel_id":"C9999999999","text":"done"}`, audit.Deny},
		{"filesystem", "write_file", `{"path":"/workspace/out/a","content":"x"}`, audit.Allow},
		{"filesystem", "write_file", `{"path":"/workspace/out/../../etc/passwd","content":"x"}`, audit.Deny},
		{"filesystem", "write_file", `{"path":"/workspace/output","content":"x"}`, audit.Deny},
		{"postgres", "query", `{"sql":"SELECT 1"}`, audit.Allow},
		{"postgres", "query", `{"sql":"DROP TABLE users"}`, audit.Deny},
		{"postgres", "query", `{"sql":"SELECT 1; DROP TABLE users"}`, audit.Deny},
		{"postgres", "query", `{}`, audit.Deny},
		{"gmail", "send_email", `{"to":["ann@example.com"],"subject":"s","body":"b"}`, audit.Allow},
		{"gmail", "send_email", `{"to":["ann@example.com","x@evil.test"],"subject":"s","body":"b"}`, audit.Deny},
		{"gmail", "send_email", `{"to":["ann@example.com"],"bcc":["x@evil.test"],"subject":"s","body":"b"}`, audit.Deny},
		{"gmail", "send_email", `{"to":["ann@example.com"],"attachments":["/etc/passwd"],"subject":"s","body":"b"}`, audit.Deny},
		{"playwright", "browser_navigate", `{"url":"https://docs.example.com/a"}`, audit.Allow},
		{"playwright", "browser_navigate", `{"url":"https://docs.example.com@evil.test/"}`, audit.Deny},
		{"playwright", "browser_navigate", `{"url":"file:///etc/passwd"}`, audit.Deny},
		{"git", "git_commit", `{"message":"m"}`, audit.Allow},
		{"git", "git_commit", `{"message":"m","noVerify":true}`, audit.Deny},
		{"kubernetes", "resources_scale", `{"apiVersion":"apps/v1","kind":"Deployment","name":"a","namespace":"staging","scale":2}`, audit.Allow},
		{"kubernetes", "resources_scale", `{"apiVersion":"apps/v1","kind":"Deployment","name":"a","scale":2}`, audit.Deny},
		{"kubernetes", "resources_get", `{"apiVersion":"apps/v1","kind":"Deployment","name":"a"}`, audit.Allow},
		{"kubernetes", "resources_get", `{"apiVersion":"v1","kind":"Secret","name":"a"}`, audit.Deny},
		{"kubernetes", "configuration_view", `{}`, audit.Deny},
		{"jira", "jira_post", `{"path":"/rest/api/3/issue/A-1/comment","body":{}}`, audit.Allow},
		{"jira", "jira_post", `{"path":"/rest/api/3/user","body":{}}`, audit.Deny},
	} {
		t.Run(fmt.Sprint(try.tool, try.args), func(t *testing.T) {
			c, err := catalog.Load(try.id)
			require.NoError(t, err)
			snap, _ := starter(t, c, &catalog.StarterOptions{Values: examples(c)})
			d := decide(t, snap, try.id, try.tool, json.RawMessage(try.args))
			assert.Equal(t, try.want, d.Effect, "%v", d.Decision)
		})
	}
}
