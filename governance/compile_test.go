package governance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

const postPolicy = `@id("post")
permit (principal, action == Action::"slack__post_message", resource)
when { context.args.channel == "#engineering" };
`

// folder is the standup bundle with some files replaced; "" removes one.
func folder(t testing.TB, changes map[string]string) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{}
	for _, name := range []string{
		"policies/standup.cedar", "profiles/standup.yaml",
		"catalog/github.json", "catalog/slack.json", "catalog/snowflake.json",
	} {
		text, err := os.ReadFile("testdata/standup/" + name)
		require.NoError(t, err)
		fsys[name] = &fstest.MapFile{Data: text}
	}
	for name, text := range changes {
		if text == "" {
			delete(fsys, name)
			continue
		}
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// Every mistake gives one clear line: where, what, and what to do.
func TestMistakes(t *testing.T) {
	slack, err := os.ReadFile("testdata/standup/catalog/slack.json")
	require.NoError(t, err)
	catalog := func(old, new string) map[string]string {
		require.Contains(t, string(slack), old)
		return map[string]string{"catalog/slack.json": strings.Replace(string(slack), old, new, 1)}
	}
	policy := func(text string) map[string]string { return map[string]string{"policies/new.cedar": text} }
	profile := func(text string) map[string]string { return map[string]string{"profiles/new.yaml": text} }
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string // findings, each a prefix … fragments in order
	}{
		{"no id", policy("\npermit (principal, action, resource);"),
			[]string{`policies/new.cedar:2:1: error: a policy has no @id`, `@id("what-it-says")`}},
		{"odd id", policy(`@id("a b") permit (principal, action, resource);`),
			[]string{`policies/new.cedar:1:1: error: policy "a b": the @id is not usable`}},
		{"id of a profile's policy", policy(`@id("profile:standup:tools") permit (principal, action, resource);`),
			[]string{`policies/new.cedar:1:1: error:`, `the @id is not usable`}},
		{"id of a guard", policy("@id(\"revoked\") permit (principal, action, resource);"),
			[]string{`policies/new.cedar:1:1: error: policy "revoked": the @id is what decisions call a guard's refusal`, `[policy-id]`}},
		{"id of a reason", policy("@id(\"not-in-profile\") permit (principal, action, resource);"),
			[]string{`policies/new.cedar:1:1: error: policy "not-in-profile": the @id is what decisions call a guard's refusal`}},
		{"id taken", policy("// again\n  @id(\"github-read\") permit (principal, action, resource);"),
			[]string{`error: policy "github-read": the @id is taken by the policy at policies/`}},
		{"does not parse", policy("@id(\"a\")\npermit (principal, action resource);"),
			[]string{`policies/new.cedar:2:35: error: parser error: does not parse at ")"`}},
		{"does not end", policy("@id(\"a\")\npermit (principal, action, resource)"),
			[]string{`policies/new.cedar:1:1: error: a policy does not end (end it with ";")`}},
		{"two in one", policy("@id(\"a\") permit (principal, action, resource) permit (principal, action, resource);"),
			[]string{`policies/new.cedar:1:`, `error: `}},
		{"string does not end", policy("@id(\"a\n) permit (principal, action, resource);"),
			[]string{`policies/new.cedar:1:5: error: a string does not end`}},
		{"block comment", policy("/* x */ @id(\"a\") permit (principal, action, resource);"),
			[]string{`policies/new.cedar:1:1: error: unexpected "/" (comments begin with //`}},
		{"not UTF-8", policy("@id(\"a\") permit (principal, action, resource); // \xff"),
			[]string{`policies/new.cedar:1:1: error: the file is not valid UTF-8`}},
		{"too deep", policy("@id(\"a\") permit (principal, action, resource) when { " + strings.Repeat("(", 800_000)),
			[]string{`policies/new.cedar:1:117: error: brackets nest deeper than 64`}},
		{"too deep behind a quote in a comment", policy("// \"\n@id(\"a\") permit (principal, action, resource) when { " + strings.Repeat("[", 800_000)),
			[]string{`policies/new.cedar:2:117: error: brackets nest deeper than 64`}},
		{"signs", policy("@id(\"a\") permit (principal, action, resource) when { " + strings.Repeat("! ", 5) + "true };"),
			[]string{`policies/new.cedar:1:62: error: more than 4 signs in a row`}},
		{"path", policy("@id(\"a\") permit (principal, action, resource) when { context has a" + strings.Repeat(".a", 17) + " };"),
			[]string{`policies/new.cedar:1:99: error: a path of more than 16 names`}},
		{"too long", policy("@id(\"a\") permit (principal, action, resource) when { " + strings.Repeat("true && ", 3_000) + "true };"),
			[]string{`policies/new.cedar:1:1: error: a policy is longer than 16 KiB`}},
		{"too long by a string", policy("@id(\"a\") permit (principal, action, resource) when { \"" + strings.Repeat("x", 20_000) + "\" == \"\" };"),
			[]string{`policies/new.cedar:1:1: error: a policy is longer than 16 KiB`}},
		{"unknown tool", policy("@id(\"a\") permit (principal, action == Action::\"slack__post_mesage\", resource);"),
			[]string{`policies/new.cedar:1:48: error: policy "a": there is no Action::"slack__post_mesage" (did you mean slack__post_message?)`}},
		{"unknown tool as resource", policy("@id(\"a\") permit (principal, action, resource == Tool::\"slack__pots_message\");"),
			[]string{`policies/new.cedar:1:56: error: policy "a": there is no Tool::"slack__pots_message" (did you mean slack__post_message?)`}},
		{"unknown server in a condition", policy("@id(\"a\") permit (principal, action, resource) when { resource in Server::\"slak\" };"),
			[]string{`policies/new.cedar:1:75: error: policy "a": there is no Server::"slak" (did you mean slack?)`}},
		{"unknown profile", policy("@id(\"a\") permit (principal in Profile::\"standpu\", action, resource);"),
			[]string{`policies/new.cedar:1:41: error: policy "a": there is no Profile::"standpu" (did you mean standup?)`}},
		{"unknown argument", policy(strings.Replace(postPolicy, "args.channel", "args.chanel", 1)),
			[]string{`policies/new.cedar:3:21: error: policy "post": attribute`, `(did you mean channel?)`}},
		{"unknown part of the context", policy("@id(\"a\") forbid (principal, action == Action::\"slack__post_message\", resource)\nwhen { context.lables.contains(\"crm\") };"),
			[]string{`policies/new.cedar:2:16: error: policy "a": attribute`, `(did you mean labels?)`}},
		{"argument that only some tools have", policy("@id(\"a\") forbid (principal, action in Action::\"slack:read\", resource)\nwhen { context.args.user == \"ceo\" };"),
			[]string{`policies/new.cedar:2:21: error: policy "a": attribute`, `not everything that the policy covers has it`}},
		{"wrong type", policy(strings.Replace(postPolicy, `"#engineering"`, `7`, 1)),
			[]string{`policies/new.cedar:1:1: error: policy "post": the types Long and String are not compatible`}},
		{"optional argument", policy("@id(\"a\") permit (principal, action == Action::\"github__list_pull_requests\", resource)\nwhen { context.args.state == \"open\" };"),
			[]string{`policies/new.cedar:2:21: error: policy "a":`, `test it first: context has args.state`}},
		{"optional attribute", policy("@id(\"a\") permit (principal, action == Action::\"connect\", resource)\nwhen { context.port == 443 };"),
			[]string{`policies/new.cedar:2:16: error: policy "a":`, `test it first: context has port`}},
		{"unguarded tag", policy("@id(\"a\") permit (principal is Agent, action, resource)\nwhen { principal.getTag(\"scope\") == \"x\" };"),
			[]string{`policies/new.cedar:2:26: error: policy "a":`, `test it first: hasTag("scope")`}},
		{"unknown type", policy("@id(\"a\") permit (principal, action, resource is Toll);"),
			[]string{`policies/new.cedar:1:49: error: policy "a":`, `(did you mean Tool?)`}},
		{"never applicable", policy("@id(\"a\") permit (principal, action == Action::\"connect\", resource is Tool);"),
			[]string{`policies/new.cedar:1:1: error: policy "a": unable to find an applicable action`}},
		{"misspelt obligation", policy("@id(\"a\")\n@aproval(\"lead\") permit (principal, action, resource);"),
			[]string{`policies/new.cedar:2:1: error: policy "a": unknown annotation @aproval (did you mean approval?)`}},
		{"obligation on a forbid", policy("@id(\"a\") @approval(\"lead\") forbid (principal, action, resource);"),
			[]string{`policies/new.cedar:1:10: error: policy "a": @approval on a forbid demands nothing`}},
		{"odd rate", policy("@id(\"a\") @rate(\"ten\") permit (principal, action, resource);"),
			[]string{`policies/new.cedar:1:10: error: policy "a": @rate("ten"): want a count of 1 to 10000 and a duration`}},
		{"odd limit", policy("@id(\"a\") @max_bytes(\"-1\") permit (principal, action, resource);"),
			[]string{`@max_bytes("-1"): want a number of bytes`}},
		{"empty approval", policy("@id(\"a\") @approval permit (principal, action, resource);"),
			[]string{`@approval(""): want the name of one group`}},
		{"two groups", policy("@id(\"a\") @approval(\"a, b\") permit (principal, action, resource);"),
			[]string{`@approval("a, b"): want the name of one group`}},
		{"an obligation twice", policy("@id(\"a\") @rate(\"1/1m\")\n@rate(\"10/1m\") permit (principal, action, resource);"),
			[]string{`policies/new.cedar:2:6: error: parser error: does not parse at`, `duplicate annotation: @rate`}},
		{"odd redaction", policy("@id(\"a\") @redact(\"$.a[0]\") permit (principal, action, resource);"),
			[]string{`@redact("$.a[0]"): want [*] or ['name'] at "[0]"`}},
		{"odd mode", policy("@id(\"a\") @mode(\"observed\") permit (principal, action, resource);"),
			[]string{`@mode("observed"): want one of observe, enforce`}},
		{"mode without a value", policy("@id(\"a\") @mode forbid (principal, action, resource);"),
			[]string{`@mode(""): want one of observe, enforce`}},
		{"odd severity", policy("@id(\"a\") @severity(\"hihg\") forbid (principal, action, resource);"),
			[]string{`@severity("hihg"): want one of info, low, medium, high, critical`}},
		{"reason without a text", policy("@id(\"a\") @reason(\"\") forbid (principal, action, resource);"),
			[]string{`@reason(""): want a text of at most 1024 bytes`}},

		{"unknown key", profile("id: x\nagents: [y]\ntools: [z]\n"),
			[]string{`profiles/new.yaml:3:1: error: unknown field "tools" (keys are id, owner`}},
		{"unknown key of a server", profile("id: x\nservers:\n  slack:\n    tool: [post_message]\n"),
			[]string{`profiles/new.yaml:4:5: error: unknown field "tool"`}},
		{"key twice", profile("id: x\nid: y\n"), []string{`profiles/new.yaml:2:1: error: `, `already defined`}},
		{"empty section", profile("id: x\nmodels:\nhosts: []\n"),
			[]string{`profiles/new.yaml:2:8: error: empty value (write [] or {} for none`}},
		{"empty server", profile("id: x\nservers:\n  slack:\n"), []string{`profiles/new.yaml:3:10: error: empty value`}},
		{"alias", profile("id: x\nagents: &a [y]\nmodels: *a\n"), []string{`profiles/new.yaml:2:`, `anchors, aliases`}},
		{"two documents", profile("id: x\n---\nid: y\n"), []string{`profiles/new.yaml:3:1: error: a second document`}},
		{"no YAML", profile("id: [x\n"), []string{`profiles/new.yaml:1:`, `error: `}},
		{"list for a text", profile("id: x\nowner: [a]\n"), []string{`profiles/new.yaml:2:8: error: `}},
		{"deep YAML", profile("id: " + strings.Repeat("[", 100_000)), []string{`profiles/new.yaml:1:1: error: it is nested too deeply`}},
		{"deep YAML by tagged dashes", profile("agents: \n" + strings.Repeat("- !t ", 40_000)), []string{`profiles/new.yaml:2:1: error: it is nested too deeply`}},
		{"deep YAML by dashes", profile("agents: \n" + strings.Repeat("- ", 100_000)), []string{`profiles/new.yaml:2:1: error: it is nested too deeply`}},
		{"empty file", profile("\n"), []string{`profiles/new.yaml:1:1: error: the file is empty`}},
		{"odd profile id", profile("id: a/b\n"), []string{`profiles/new.yaml:1:1: error: the profile's id is "a/b"`}},
		{"profile id taken", profile("id: standup\n"), []string{`two profiles have the id "standup"`}},
		{"agent in two profiles", profile("id: x\nagents: [standup-bot]\n"), []string{`agent "standup-bot" is in the profiles "standup" and "x"`}},
		{"profile with an unknown server", profile("id: x\nservers:\n  slak: {tools: []}\n"),
			[]string{`profiles/new.yaml:3:3: error: the catalogue has no server "slak" (did you mean slack?)`}},
		{"profile with an unknown tool", profile("id: x\nservers:\n  slack: {tools: [post_mesage]}\n"),
			[]string{`profiles/new.yaml:3:19: error: the catalogue has no tool "post_mesage" of server "slack" (did you mean post_message?)`}},
		{"odd model", profile("id: x\nmodels: [gpt-5]\n"), []string{`profiles/new.yaml:2:10: error: "gpt-5" is no model`}},
		{"odd host", profile("id: x\nhosts: [\"https://a.b\"]\n"), []string{`profiles/new.yaml:2:10: error: "https://a.b" is no host name`}},
		{"another form of a host", profile("id: x\nhosts: [\"*.Example.com\"]\n"), []string{`"*.Example.com" is no host name that requests have (write "*.example.com")`}},
		{"another form of an address", profile("id: x\nhosts: [\"0x7f.1\"]\n"), []string{`(write "127.0.0.1")`}},
		{"wildcard amid a host", profile("id: x\nhosts: [\"a.*.b\"]\n"), []string{`is no host name`}},
		{"every credential", profile("id: x\ncredentials: [\"*\"]\n"), []string{`"*" is no credential`}},

		{"unknown member", catalog(`"class": "write"`, `"clas": "write"`),
			[]string{`catalog/slack.json:12:7: error: at "/tools/0/clas": unknown object member name`}},
		{"no class", catalog(`,
      "class": "write"`, ``), []string{`catalog/slack.json:5:15: error: tool "post_message" of server "slack" has class ""`}},
		{"odd class", catalog(`"class": "write"`, `"class": "rite"`), []string{`has class "rite" (say "class":`}},
		{"not JSON", catalog(`"class": "write"`, `"class": write`), []string{`catalog/slack.json:12:16: error: `}},
		{"tool twice", catalog(`"read_channel"`, `"post_message"`), []string{`tool "post_message" of server "slack" is listed twice`}},
		{"look-alike", catalog(`"read_channel"`, `"P0st-message"`), []string{`catalog/slack.json:15:15: error: tools "post_message" and "P0st-message" of server "slack" look alike`}},
		{"odd tool name", catalog(`"read_channel"`, `"read channel"`), []string{`tool name "read channel" of server "slack"`}},
		{"odd server name", catalog(`"slack"`, `"Slack_"`), []string{`catalog/slack.json:2:13: error: server name "Slack_"`}},
		{"server twice", catalog(`"slack"`, `"github"`), []string{`server "github" is in the catalogue twice`}},
		{"remote schema", catalog(`{"id": {"type": "string"}}`, `{"id": {"$ref": "https://example.com/id"}}`),
			[]string{`catalog/slack.json:27:15: error: tool "delete_message" of server "slack": inputSchema: $ref "https://example.com/id" leaves the schema`}},
		{"schema that is no object", catalog(`"inputSchema": {"type": "object", "properties": {"id"`, `"inputSchema": {"type": "array", "properties": {"id"`),
			[]string{`inputSchema: its type is not "object"`}},
		{"odd pin", catalog(`"class": "write"`, `"class": "write", "as": {"/channel": "long"}`), []string{`"as" pins "/channel" as "long", and the inputSchema has no such value`}},
		{"odd annotations", catalog(`{"destructiveHint": true}`, `{"destructiveHint": "yes"}`), []string{`tool "delete_message" of server "slack": annotations:`}},

		{"entities: not JSON", map[string]string{"entities.json": `[{]`}, []string{`entities.json:1:1: error: `}},
		{"entities: a tool", map[string]string{"entities.json": `[{"uid":{"type":"Tool","id":"slack__post_message"},"attrs":{},"parents":[]}]`},
			[]string{`entities.json: error: Tool::"slack__post_message": entities of this type are generated`}},
		{"entities: membership in a profile", map[string]string{"entities.json": `[{"uid":{"type":"Agent","id":"x"},"attrs":{},"parents":[{"type":"Profile","id":"standup"}]}]`},
			[]string{`Agent::"x": membership in a profile is given by the profile`}},
		{"entities: unknown attribute", map[string]string{"entities.json": `[{"uid":{"type":"Agent","id":"x"},"attrs":{"colour":"red"},"parents":[]}]`},
			[]string{`Agent::"x": `}},
		{"entities: circle", map[string]string{"entities.json": `[{"uid":{"type":"Team","id":"a"},"attrs":{},"parents":[{"type":"Team","id":"b"}]},{"uid":{"type":"Team","id":"b"},"attrs":{},"parents":[{"type":"Team","id":"a"}]}]`},
			[]string{`is its own ancestor`}},

		{"stray file", map[string]string{"policies/readme.txt": "x"}, []string{`policies/readme.txt: error: only *.cedar files belong here`}},
		{"yml", map[string]string{"profiles/x.yml": "id: x"}, []string{`profiles/x.yml: error: only *.yaml files belong here`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := governance.LoadBundle(folder(t, c.files))
			var rep governance.Report
			if err == nil {
				var snap *governance.Snapshot
				snap, rep, err = governance.Compile(t.Context(), b, nil)
				assert.Nil(t, snap)
				assert.Empty(t, rep.Hash)
			}
			require.Error(t, err)
			require.ErrorIs(t, err, governance.ErrBundle)
			for _, f := range rep.Findings {
				assert.Regexp(t, "^[a-z-]+$", f.Code, "%s", f)
			}
			rest := err.Error()
			for _, want := range c.want {
				_, after, ok := strings.Cut(rest, want)
				require.True(t, ok, "%q is not in:\n%s", want, err)
				rest = after
			}
			assert.Len(t, strings.Split(strings.TrimSpace(err.Error()), "\n"), 2, "one line for one mistake:\n%s", err)
		})
	}
}

// All mistakes are reported at once, in order, and a warning blocks nothing.
func TestReport(t *testing.T) {
	b, err := governance.LoadBundle(folder(t, map[string]string{
		"policies/a.cedar": "@id(\"w\") permit (principal in Team::\"nobody\", action, resource);\npermit (principal, action, resource);",
		"policies/b.cedar": "permit (principal, action, resource);",
	}))
	require.NoError(t, err)
	_, rep, err := governance.Compile(t.Context(), b, nil)
	require.Error(t, err)
	var at []string
	for _, f := range rep.Findings {
		at = append(at, f.Position()+" "+string(f.Severity))
	}
	assert.Equal(t, []string{"policies/a.cedar:2:1 error", "policies/b.cedar:1:1 error", "policies/a.cedar:1:38 warning"}, at)

	b.Policies = b.Policies[:1]
	b.Policies[0].Text = strings.Split(b.Policies[0].Text, "\n")[0]
	for codes, blocks := range map[string]bool{"": false, "*": true, "unknown-entity": true, "unknown": false} {
		snap, rep, err := governance.Compile(t.Context(), b, &governance.Options{WarningsBlock: []string{codes}})
		assert.Equal(t, blocks, err != nil, codes)
		assert.Equal(t, blocks, snap == nil, codes)
		require.Len(t, rep.Findings, 1)
		assert.Equal(t, blocks, rep.Findings[0].Severity == governance.SeverityError, codes)
	}
	snap, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	require.Len(t, rep.Findings, 1)
	assert.Equal(t, governance.SeverityWarning, rep.Findings[0].Severity)
	assert.Equal(t, "unknown-entity", rep.Findings[0].Code)
	assert.Equal(t, snap.Hash(), rep.Hash)
	assert.Equal(t, 1, rep.Policies)
	assert.Equal(t, 6, rep.Generated)
	assert.Equal(t, 6, rep.Tools)
}

// A rule for a class of tools stands while the class is empty.
func TestRuleForNoTool(t *testing.T) {
	b := governance.Bundle{
		Catalog:  []governance.Server{{Name: "s"}},
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("a") forbid (principal, action in [Action::"destructive", Action::"s:write"], resource);`}},
	}
	_, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	require.Len(t, rep.Findings, 1)
	assert.Contains(t, rep.Findings[0].String(), `p.cedar:1:1: warning: policy "a": the policy covers no tool at present`)
}

// A text that is compared with JSON never equals it, which a forbid must not
// keep to itself.
func TestComparisonWithJSON(t *testing.T) {
	schema := `{"type":"object","properties":{"to":{"description":"anything"},"s":{"type":"string"},"o":{"type":"object","properties":{"any":true}},"files":{"type":"array","items":{"type":"object","properties":{"meta":{},"name":{"type":"string"}}}}}}`
	for condition, want := range map[string]string{
		`context.args has to && context.args.to == "#x"`:                            `context.args.to of s__t is JSON, and never equals "#x" (compare it with "\"#x\"", or use like)`,
		`context.args has to && "#x" != context.args.to`:                            `context.args.to of s__t is JSON`,
		`context.args has to && ["#x"].contains(context.args.to)`:                   `context.args.to of s__t is JSON`,
		`context.args has o && context.args.o has any && context.args.o.any == "t"`: `context.args.o.any of s__t is JSON`,
		`context.args has files && context.args.files.meta.contains("t")`:           `context.args.files.meta of s__t is JSON`,
		`context.args has files && ["t"].containsAny(context.args.files.meta)`:      `context.args.files.meta of s__t is JSON`,
		`context.args has files && context.args.files.meta.containsAll(["t"])`:      `context.args.files.meta of s__t is JSON`,
		`context.args has files && context.args.files.name.contains("t")`:           "",
		`context.args has files && context.args.files.meta.contains("\"t\"")`:       "",
		`context.args has to && context.args.to == "\"#x\""`:                        "",
		`context.args has to && context.args.to == "5"`:                             "",
		`context.args has to && context.args.to like "*#x*"`:                        "",
		`context.args has s && context.args.s == "#x"`:                              "",
	} {
		_, rep, err := governance.Compile(t.Context(), governance.Bundle{
			Catalog:  []governance.Server{{Name: "s", Tools: []governance.Tool{{ToolDefinition: governance.ToolDefinition{Name: "t", InputSchema: []byte(schema)}, Class: governance.Read}}}},
			Policies: []governance.Source{{Name: "p.cedar", Text: `@id("a") forbid (principal, action == Action::"s__t", resource) when { ` + condition + ` };`}},
		}, nil)
		require.NoError(t, err, condition)
		if want == "" {
			assert.Empty(t, rep.Findings, condition)
			continue
		}
		require.Len(t, rep.Findings, 1, condition)
		assert.Equal(t, governance.SeverityWarning, rep.Findings[0].Severity)
		assert.Contains(t, rep.Findings[0].String(), want)
	}
}

func TestCompileStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	snap, _, err := governance.Compile(ctx, world(10), nil)
	assert.Nil(t, snap)
	assert.ErrorIs(t, err, context.Canceled)
}

// The hash is the same for the same law, however it was put together, and
// different for every change that could change a decision.
func TestHash(t *testing.T) {
	hash := func(b governance.Bundle) string {
		snap, rep, err := governance.Compile(t.Context(), b, nil)
		require.NoError(t, err, "%v", rep)
		return snap.Hash()
	}
	load := func(changes map[string]string) governance.Bundle {
		b, err := governance.LoadBundle(folder(t, changes))
		require.NoError(t, err)
		return b
	}
	same := hash(load(nil))
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", same)
	shuffled := load(nil)
	shuffled.Catalog[0], shuffled.Catalog[2] = shuffled.Catalog[2], shuffled.Catalog[0]
	assert.Equal(t, same, hash(shuffled))
	text, _ := os.ReadFile("testdata/standup/policies/standup.cedar")
	assert.Equal(t, same, hash(load(map[string]string{"policies/standup.cedar": "", "policies/z.cedar": "// moved\n\n" + string(text)})), "positions are not law")

	slack, _ := os.ReadFile("testdata/standup/catalog/slack.json")
	profile, _ := os.ReadFile("testdata/standup/profiles/standup.yaml")
	seen := map[string]string{same: "nothing"}
	for name, changes := range map[string]map[string]string{
		"policy":      {"policies/standup.cedar": strings.Replace(string(text), "#engineering", "#general", 1)},
		"annotation":  {"policies/standup.cedar": strings.Replace(string(text), `@reason(`, `@owner(`, 1)},
		"description": {"catalog/slack.json": strings.Replace(string(slack), "Delete a message.", "Delete all messages.", 1)},
		"class":       {"catalog/slack.json": strings.Replace(string(slack), `"class": "destructive"`, `"class": "write"`, 1)},
		"schema":      {"catalog/slack.json": strings.Replace(string(slack), `"required": ["user"]`, `"required": []`, 1)},
		"profile":     {"profiles/standup.yaml": strings.Replace(string(profile), "read_dm, ", "", 1)},
		"host":        {"profiles/standup.yaml": strings.Replace(string(profile), "tools.local", "tools.example", 1)},
		"agent":       {"profiles/standup.yaml": strings.Replace(string(profile), "[standup-bot]", "[standup-bot, other]", 1)},
		"entity":      {"entities.json": `[{"uid":{"type":"Agent","id":"standup-bot"},"attrs":{"trust":1},"parents":[]}]`},
	} {
		h := hash(load(changes))
		assert.Empty(t, seen[h], "%s changes nothing", name)
		seen[h] = name
	}
}

func TestPin(t *testing.T) {
	def := governance.ToolDefinition{
		Name: "t", Title: "T", Description: "d",
		InputSchema:  json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}}}`),
		OutputSchema: json.RawMessage(`{"type":"object"}`),
		Annotations:  json.RawMessage(`{"readOnlyHint":true}`),
	}
	pin, err := def.Pin()
	require.NoError(t, err)
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", pin)
	spelt := def
	spelt.InputSchema = json.RawMessage(" {\"properties\" : {\"a\":{\"type\":\"\\u0073tring\"}}, \"type\":\"object\"}\n")
	same, err := spelt.Pin()
	require.NoError(t, err)
	assert.Equal(t, pin, same)

	pins := map[string]bool{pin: true}
	for _, change := range []func(*governance.ToolDefinition){
		func(d *governance.ToolDefinition) { d.Name = "u" },
		func(d *governance.ToolDefinition) { d.Title = "U" },
		func(d *governance.ToolDefinition) { d.Title, d.Description = "d", "T" },
		func(d *governance.ToolDefinition) { d.Description = "d " },
		func(d *governance.ToolDefinition) { d.InputSchema = json.RawMessage(`{"type":"object"}`) },
		func(d *governance.ToolDefinition) { d.OutputSchema = nil },
		func(d *governance.ToolDefinition) { d.Annotations = json.RawMessage(`{"readOnlyHint":false}`) },
		func(d *governance.ToolDefinition) { d.Annotations = nil },
		func(d *governance.ToolDefinition) { d.OutputSchema, d.Annotations = d.Annotations, d.OutputSchema },
	} {
		other := def
		change(&other)
		p, err := other.Pin()
		require.NoError(t, err)
		assert.False(t, pins[p], "%+v", other)
		pins[p] = true
	}
	for _, bad := range []string{`{"a":1,"a":2}`, `{`, `{} {}`, `"\ud800"`} {
		d := def
		d.InputSchema = json.RawMessage(bad)
		_, err := d.Pin()
		assert.Error(t, err, bad)
	}
	d := def
	d.Description = "\xff"
	_, err = d.Pin()
	assert.Error(t, err)
}

// A bundle made in Go, without files.
func TestBundleInGo(t *testing.T) {
	b := governance.Bundle{
		Policies: []governance.Source{{Name: "test.cedar", Text: `@id("all") permit (principal in Team::"red", action, resource);`}},
		Catalog: []governance.Server{{Name: "s", Tools: []governance.Tool{{
			ToolDefinition: governance.ToolDefinition{Name: "t", InputSchema: json.RawMessage(`{"type":"object"}`)}, Class: governance.Read,
		}}}},
		Entities: []types.Entity{
			{UID: types.NewEntityUID("Agent", "a"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "red"))},
			{UID: types.NewEntityUID("Team", "red")},
		},
	}
	snap, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err, "%v", rep)
	for agent, want := range map[string]bool{"a": true, "b": false} {
		d, err := snap.Decide(t.Context(), governance.Request{Actor: actor(agent), Action: "call_tool", Server: "s", Name: "t"})
		require.NoError(t, err)
		assert.Equal(t, want, d.Allowed(), agent)
	}
	b.Catalog[0].Tools[0].Class = ""
	b.Profiles = []governance.Profile{{ID: "x", Servers: map[string]governance.Grant{"nope": {}}}}
	_, _, err = governance.Compile(t.Context(), b, nil)
	assert.ErrorContains(t, err, "catalog/s: error: tool \"t\"")
}

// brokenFS cannot be read.
type brokenFS struct{ fstest.MapFS }

var errDisk = errors.New("disk on fire")

func (b brokenFS) Open(name string) (fs.File, error) { return nil, fmt.Errorf("%s: %w", name, errDisk) }

func TestLoadBundleFails(t *testing.T) {
	_, err := governance.LoadBundle(brokenFS{})
	assert.ErrorIs(t, err, errDisk)
	big := maps.Clone(folder(t, nil))
	big["profiles/standup.yaml"] = &fstest.MapFile{Data: []byte("# " + strings.Repeat("x", 1<<20))}
	_, err = governance.LoadBundle(big)
	assert.ErrorContains(t, err, "profiles/standup.yaml: larger than 256 KiB")
	_, err = governance.LoadBundle(fstest.MapFS{"policy/a.cedar": &fstest.MapFile{}})
	require.ErrorIs(t, err, governance.ErrBundle)
	assert.ErrorContains(t, err, "is it the right one?")
	_, err = governance.LoadBundle(os.DirFS(t.TempDir() + "/absent"))
	require.ErrorIs(t, err, governance.ErrBundle)
	require.ErrorIs(t, err, fs.ErrNotExist)
	snap, _, err := governance.Compile(t.Context(), governance.Bundle{}, nil)
	require.NoError(t, err)
	d, err := snap.Decide(t.Context(), governance.Request{Actor: bot, Action: "connect", Name: "a.example"})
	require.NoError(t, err)
	assert.Equal(t, "no-permit", d.Reason, "an empty bundle permits nothing")
}

// What an operator should know about a tool is said, and none of it blocks.
func TestNotesOnTools(t *testing.T) {
	maps := governance.Tool{Class: governance.Read, ToolDefinition: governance.ToolDefinition{Name: "geocode", InputSchema: json.RawMessage(
		`{"type":"object","properties":{"lat":{"type":"number"},"lon":{"type":"number"},"zoom":{"type":"integer"},"near":{"type":"array","items":{"type":"object","properties":{"lat":{"type":"number"}}}},"mail":{"type":"string","pattern":"^(?!\\.)"}}}`)}}
	compile := func(tl governance.Tool, policy string) (*governance.Snapshot, governance.Report, error) {
		return governance.Compile(t.Context(), governance.Bundle{
			Catalog:  []governance.Server{{Name: "maps", Tools: []governance.Tool{tl}}},
			Policies: []governance.Source{{Name: "p.cedar", Text: policy}},
		}, nil)
	}
	plain, rep, err := compile(maps, "")
	require.NoError(t, err)
	require.Len(t, rep.Findings, 2)
	assert.Equal(t, governance.SeverityWarning, rep.Findings[0].Severity)
	assert.Contains(t, rep.Findings[0].Message, `cannot be checked here: pattern "^(?!\\.)"`)
	assert.Equal(t, governance.SeverityInfo, rep.Findings[1].Severity)
	assert.Contains(t, rep.Findings[1].Message, "decimal, exact in four places: /lat, /lon, /near/*/lat")

	maps.As = map[string]string{"lat": "scaled(7)", "lon": "text", "/near/*/lat": "long"}
	pinned, rep, err := compile(maps, `@id("a") permit (principal, action, resource) when { context has args && context.args has lat && context.args.lat < 0 && context.args has lon && context.args.lon == "1.5" };`)
	require.NoError(t, err, "%v", rep)
	require.Len(t, rep.Findings, 1)

	// Pins and facets are part of what decides, also where Cedar's types are the same.
	again, _, err := compile(maps, "")
	require.NoError(t, err)
	maps.As["lat"] = "scaled(6)"
	other, _, err := compile(maps, "")
	require.NoError(t, err)
	maps.Derived = map[string]governance.Derived{"all": {Facet: governance.SHA256}}
	derived, _, err := compile(maps, "")
	require.NoError(t, err)
	hashes := []string{plain.Hash(), pinned.Hash(), again.Hash(), other.Hash(), derived.Hash()}
	slices.Sort(hashes)
	assert.Len(t, slices.Compact(hashes), 5)
}

// No policy reads the text of an argument that may be longer than what can be
// decided on.
func TestLargeTextIsNotRead(t *testing.T) {
	tl := governance.Tool{Class: governance.Write, As: map[string]string{"body": "large"}, ToolDefinition: governance.ToolDefinition{Name: "post", InputSchema: json.RawMessage(
		`{"type":"object","properties":{"body":{"type":"string"}},"required":["body"]}`)}}
	for condition, ok := range map[string]bool{
		`context.args.body == "x"`:           false,
		`context.args.body like "*x*"`:       false,
		`context.args.body.length < 1000000`: true,
		`context.args.body.sha256 == "00"`:   true,
		`context.args.body == {"length":1}`:  false,
	} {
		_, rep, err := governance.Compile(t.Context(), governance.Bundle{
			Catalog:  []governance.Server{{Name: "s", Tools: []governance.Tool{tl}}},
			Policies: []governance.Source{{Name: "p.cedar", Text: `@id("a") permit (principal, action == Action::"s__post", resource) when { ` + condition + ` };`}},
		}, nil)
		assert.Equal(t, ok, err == nil, "%s: %v", condition, rep.Findings)
	}
}
