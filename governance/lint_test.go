package governance_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

// lintBundle has a few tools, a team with and one without members, and policies.
func lintBundle(policies string) governance.Bundle {
	tool := func(name string, class governance.Class, schema string) governance.Tool {
		return governance.Tool{ToolDefinition: governance.ToolDefinition{Name: name, InputSchema: json.RawMessage(schema)}, Class: class}
	}
	return governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: policies}},
		Catalog: []governance.Server{{Name: "s", Tools: []governance.Tool{
			tool("post", governance.Write, `{"type":"object","required":["channel","text","state","n"],"properties":{"channel":{"type":"string"},"text":{"type":"string"},
				"state":{"enum":["open","closed"]},"n":{"type":"integer"},"labels":{"type":"array","items":{"type":"string"}},"urgent":{"type":"boolean"}}}`),
			tool("look", governance.Read, `{"type":"object","required":["channel"],"properties":{"channel":{"type":"string"}}}`),
			tool("drop", governance.Destructive, `{"type":"object"}`),
		}}, {Name: "t", Tools: []governance.Tool{tool("look", governance.Read, `{"type":"object"}`)}}},
		Entities: []types.Entity{
			{UID: types.NewEntityUID("Team", "red")}, {UID: types.NewEntityUID("Team", "blue")}, {UID: types.NewEntityUID("Team", "empty")},
			{UID: types.NewEntityUID("Agent", "a"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "red"))},
			{UID: types.NewEntityUID("Agent", "b"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "blue"))},
		},
	}
}

// Each lint speaks up where it should, at the place, and is silent beside it.
func TestLints(t *testing.T) {
	post := func(condition string) string {
		return `@id("x") permit (principal in Team::"red", action == Action::"s__post", resource)` + "\nwhen { " + condition + " };"
	}
	connect := func(condition string) string {
		return `@id("x") permit (principal in Team::"red", action == Action::"connect", resource)` + "\nwhen { " + condition + " };"
	}
	args := func(condition string) string {
		return post(strings.NewReplacer("$", "context.args.").Replace(condition))
	}
	for _, c := range []struct {
		policies string
		want     []string // code @ line:column, in the report's order
		says     string
	}{
		// Hosts in the form that requests have, and in others.
		{connect(`resource == Host::"api.example.com"`), nil, ""},
		{connect(`resource in Host::"*.example.com"`), nil, ""},
		{connect(`resource in [Host::"169.254.169.254", Host::"::1", Host::"a_b.internal"]`), nil, ""},
		{connect(`resource == Host::"EXAMPLE.com."`), []string{"host-form @ 2:27"}, `write Host::"example.com"`},
		{connect(`resource in Host::"*.EXAMPLE.com"`), []string{"host-form @ 2:27"}, `write Host::"*.example.com"`},
		{connect(`resource == Host::"2852039166" || resource == Host::"2852039166"`), []string{"host-form @ 2:27"}, `write Host::"169.254.169.254"`},
		{connect(`resource == Host::"0x7f.1"`), []string{"host-form @ 2:27"}, `write Host::"127.0.0.1"`},
		{connect(`resource == Host::"[::ffff:127.0.0.1]"`), []string{"host-form @ 2:27"}, `write Host::"127.0.0.1"`},
		{connect(`resource == Host::"2001:DB8:0::1"`), []string{"host-form @ 2:27"}, `write Host::"2001:db8::1"`},
		{connect(`[Host::"*", Host::"api.example.com:443"].contains(resource)`), []string{"host-form @ 2:16", "host-form @ 2:27"}, "write a name in ASCII"},
		{connect(`resource in Host::"*.0.0.1"`), []string{"host-form @ 2:27"}, "nothing is below an address"},
		{`@id("x") forbid (principal, action == Action::"connect", resource == Host::"0177.0.0.1");`, []string{"host-form @ 1:77"}, "could be several IP addresses"},

		// Conditions that exclude each other, and those that do not.
		{args(`$channel == "a" && $channel == "b"`), []string{"impossible @ 2:21"}, "its conditions exclude each other at channel"},
		{args(`$channel == "a" && "b" == $channel`), []string{"impossible @ 2:21"}, ""},
		{args(`$channel == "a" && $text == "b"`), nil, ""},
		{args(`$channel == "a" || $channel == "b"`), nil, ""},
		{args(`$channel == "a" && $channel != "a"`), []string{"impossible @ 2:21"}, ""},
		{args(`$channel == "a" && !($channel == "a")`), []string{"impossible @ 2:21"}, ""},
		{args(`!($channel == "a") && !($channel == "b")`), nil, ""},
		{args(`$channel == "a" && !($channel == "b")`), nil, ""},
		{args(`$channel == "a" && ($channel == "b" || $text == "c" && $channel == "d")`), []string{"impossible @ 2:21"}, ""},
		{args(`$channel == "a" && ($channel == "b" || $text == "c")`), nil, ""},
		{args(`(($channel == "a" || $channel == "b") && ($channel == "c" || $channel == "b"))`), nil, ""},
		{args(`(($channel == "a" || $channel == "b") && ($channel == "c" || $channel == "d"))`), []string{"impossible @ 2:23"}, ""},
		{args(`["a", "b"].contains($channel) && ["c"].contains($channel)`), []string{"impossible @ 2:41"}, ""},
		{args(`["a", "b"].contains($channel) && ["b", "c"].contains($channel)`), nil, ""},
		{args(`["a", "b"].contains($channel) && !["a", "b", "c"].contains($channel)`), []string{"impossible @ 2:41"}, ""},
		{args(`["a", "b"].contains($channel) && !["a"].contains($channel)`), nil, ""},
		{args(`$channel like "a*" && $channel == "b"`), []string{"impossible @ 2:21"}, ""},
		{args(`$channel like "a*" && $channel == "ab"`), nil, ""},
		{args(`$channel like "a*" && $channel like "b*"`), nil, ""}, // not looked at
		{args(`!($channel like "a*") && $channel == "ab"`), []string{"impossible @ 2:23"}, ""},
		{args(`$n > 5 && $n < 3`), []string{"impossible @ 2:21"}, ""},
		{args(`$n > 5 && $n <= 6`), nil, ""},
		{args(`$n > 5 && $n < 6`), []string{"impossible @ 2:21"}, ""},
		{args(`$n >= 5 && 5 >= $n`), nil, ""},
		{args(`5 < $n && !($n >= 4)`), []string{"impossible @ 2:25"}, ""},
		{args(`$n == 7 && $n < 3`), []string{"impossible @ 2:21"}, ""},
		{args(`$n > 9223372036854775807`), []string{"impossible @ 2:21"}, ""},
		{args(`$n >= 9223372036854775807`), nil, ""},
		{args(`if $n == 1 then $channel == "a" && $channel == "b" else $n == 1`), []string{"impossible @ 2:24"}, ""},
		{args(`if $n == 1 then $channel == "a" else $n == 2`), nil, ""},
		{args(`context.args has urgent && $urgent && !$urgent`), []string{"impossible @ 2:25"}, ""},
		{args(`context.args has urgent && $urgent && $n == 1`), nil, ""},
		{args(`context has session && !(context has session)`), []string{"impossible @ 2:20"}, ""},
		{args(`$channel == "a"`) + args(`true`)[:0], nil, ""},
		{`@id("x") permit (principal in Team::"red", action == Action::"s__post", resource) when { context.args.n == 1 } unless { context.args.n == 1 };`, []string{"impossible @ 1:103"}, ""},
		{`@id("x") permit (principal == Agent::"a", action, resource) when { principal == Agent::"b" };`, []string{"impossible @ 1:18"}, ""},
		{`@id("x") permit (principal == Agent::"a", action, resource in Server::"t") when { principal == Agent::"a" };`, nil, ""},
		{`@id("x") forbid (principal, action, resource) when { false };`, []string{"impossible @ 1:54"}, ""},
		{`@id("x") forbid (principal, action, resource) when { 1 == 2 };`, []string{"impossible @ 1:54"}, ""},
		{`@id("x") forbid (principal, action, resource) unless { true };`, []string{"impossible @ 1:56"}, ""},
		// What only the types know.
		{`@id("x") forbid (principal, action, resource) when { context has chanel };`, []string{"impossible @ 1:1"}, "false whatever is asked"},
		{`@id("x") forbid (principal, action == Action::"s__post", resource) when { principal is Tool };`, []string{"impossible @ 1:1"}, ""},
		{`@id("x") forbid (principal, action == Action::"s__post", resource) when { resource in Profile::"p" && principal in Server::"s" };`, []string{"unknown-entity @ 1:97"}, ""},
		{`@id("x") forbid (principal, action == Action::"s__post", resource) when { principal in Server::"s" };`, []string{"impossible @ 1:1"}, ""},
		{`@id("x") forbid (principal, action == Action::"s__post", resource) when { principal is User };`, nil, ""},
		{`@id("x") forbid (principal, action, resource) when { context has channel };`, []string{"impossible @ 1:1"}, ""},
		{`@id("x") forbid (principal, action, resource) when { context has args };`, nil, ""},

		// Scopes that match nothing.
		{`@id("x") forbid (principal, action == Action::"s__post", resource == Tool::"s__look");`, []string{"never-applies @ 1:77"}, "no action of the scope"},
		{`@id("x") forbid (principal, action == Action::"s__post", resource == Tool::"s__post");`, nil, ""},
		{`@id("x") forbid (principal, action == Action::"s__post", resource in Server::"t");`, []string{"never-applies @ 1:79"}, ""},
		{`@id("x") forbid (principal, action in Action::"destructive", resource in Server::"t");`, []string{"never-applies @ 1:83"}, ""},
		{`@id("x") forbid (principal, action in Action::"destructive", resource in Server::"s");`, nil, ""},
		{`@id("x") forbid (principal, action in Action::"t:write", resource);`, []string{"never-applies @ 1:1"}, "covers no tool at present"},
		{`@id("x") forbid (principal, action == Action::"connect", resource == Host::"a.example");`, nil, ""},
		{`@id("x") forbid (principal, action == Action::"connect", resource in Host::"*.example");`, nil, ""},
		{`@id("x") forbid (principal, action == Action::"connect", resource in Provider::"x");`, []string{"never-applies @ 1:1"}, ""},
		{`@id("x") forbid (principal, action == Action::"get_prompt", resource in Server::"s");`, nil, ""},
		{`@id("x") forbid (principal in Team::"empty", action, resource);`, []string{"no-members @ 1:38"}, "nobody is in"},
		{`@id("x") forbid (principal in Team::"red", action, resource);`, nil, ""},
		{`@id("x") forbid (principal == Agent::"not-listed", action, resource);`, nil, ""},

		// Everybody may destroy.
		{`@id("x") permit (principal, action, resource);`, []string{"open-destructive @ 1:1"}, "everybody may call s__drop"},
		{`@id("x") permit (principal is Agent, action in Action::"call_tool", resource);`, []string{"open-destructive @ 1:1"}, ""},
		{`@id("x") permit (principal, action in Action::"read", resource);`, nil, ""},
		{`@id("x") permit (principal in Team::"red", action, resource);`, nil, ""},
		{`@id("x") @approval("leads") permit (principal, action, resource);`, nil, ""},
		{`@id("x") permit (principal, action, resource) when { context has session };`, nil, ""},
		{`@id("x") forbid (principal, action, resource);`, nil, ""},

		// What an argument can never be.
		{args(`$state == "opne"`), []string{"not-in-enum @ 2:31"}, `context.args.state is never "opne" (did you mean open?)`},
		{args(`["open", "clsoed"].contains($state)`), []string{"not-in-enum @ 2:18"}, ""},
		{args(`$state == "open"`), nil, ""},
		{args(`$channel == "opne"`), nil, ""},

		// Characters.
		{args(`$channel == "p` + "\u0430" + `ypal"`), []string{"mixed-script @ 2:32"}, `mixes letters of Cyrillic and Latin`},
		{args(`$channel == "p\u{430}ypal"`), nil, ""},
		{args(`$channel == "` + "\u0441\u0435\u043e" + `"`), []string{"confusable @ 2:32"}, "is Cyrillic and looks like Latin"},
		{args(`$channel == "новости"`), nil, ""},
		{args(`$channel == "日本語のnews"`), nil, ""},
		{args(`$channel == "ｅxec"`), []string{"confusable @ 2:32"}, "is not in normal form"},
		{args(`$channel == "café"`), nil, ""},
		{args(`$channel == "cafe` + "\u0301" + `"`), []string{"confusable @ 2:32"}, "is not in normal form"},
		{`@id("x") @reason("сообщение о paypаl") ` + strings.TrimPrefix(args(`$n == 1`), `@id("x") `), nil, ""},
		{`@id("x") permit (principal == Agent::"b` + "\u043e" + `t", action, resource);`, []string{"mixed-script @ 1:38"}, ""},
		{args(`$channel == "a` + "\u200b" + `b"`), []string{"hidden-character @ 2:34"}, "U+200B cannot be seen"},
		{args(`$channel == "a\u{200b}b"`), nil, ""},
		{"// \u202e comment\n" + args(`$n == 1`), []string{"hidden-character @ 1:4"}, "U+202E"},
		{"// fine: \u2714\ufe0f 👩\u200d💻 ü\n" + args(`$n == 1`), nil, ""},

		// Lists of what is forbidden.
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args.channel == "#exec" };`, []string{"denylist @ 3:88"}, `free text, and "x" permits all others`},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args.channel like "*exec*" };`, []string{"denylist @ 3:88"}, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { ["a"].contains(context.args.channel) };`, []string{"denylist @ 3:103"}, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) unless { !(context.args.channel == "#exec") };`, []string{"denylist @ 3:92"}, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args has labels && context.args.labels.contains("secret") };`, []string{"denylist @ 3:92"}, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) unless { context.args.channel == "#exec" };`, nil, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args.channel != "#exec" };`, nil, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args.state == "open" };`, nil, ""},
		{args(`$channel == "#eng"`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args.channel like "*exec*" };`, nil, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal in Team::"blue", action == Action::"s__post", resource) when { context.args.channel like "*exec*" };`, nil, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__look", resource) when { context.args.channel like "*exec*" };`, nil, ""},
		{args(`$n == 1`) + "\n" + `@id("y") forbid (principal, action == Action::"s__post", resource) when { context.args.channel like "*exec*" };` + "\n" +
			`@id("z") forbid (principal, action == Action::"s__post", resource) unless { ["#eng", "#exec2"].contains(context.args.channel) };`, nil, ""},
	} {
		b := lintBundle(c.policies)
		_, rep, err := governance.Compile(t.Context(), b, nil)
		var got []string
		for _, f := range rep.Findings {
			got = append(got, fmt.Sprintf("%s @ %d:%d", f.Code, f.Line, f.Column))
			assert.NotEmpty(t, f.Fix, f)
			assert.Equal(t, "p.cedar", f.File)
		}
		if !assert.Equal(t, c.want, got, "%s\n%v %v", c.policies, rep.Findings, err) {
			continue
		}
		if c.says != "" {
			assert.Contains(t, rep.Findings[0].String(), c.says)
		}
		if len(c.want) == 1 && (err == nil || !strings.Contains(c.want[0], "hidden") && !strings.Contains(c.want[0], "unknown") && c.want[0] != "never-applies @ 1:1") {
			assert.NoError(t, err, "a lint warns: %s", c.policies)
			code, _, _ := strings.Cut(c.want[0], " ")
			_, _, err := governance.Compile(t.Context(), b, &governance.Options{WarningsBlock: []string{code}})
			assert.ErrorIs(t, err, governance.ErrBundle, "and blocks where it is told to")
		}
	}
}

// A permit ends at its @expires by itself, in a running engine; a forbid stays.
func TestExpires(t *testing.T) {
	at := func(s string) func() time.Time {
		now, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		return func() time.Time { return now }
	}
	const policies = `@id("permit") @expires("2026-12-31") permit (principal in Team::"red", action == Action::"s__look", resource);
@id("all") permit (principal in Team::"red", action == Action::"t__look", resource);
@id("instant") @expires("2026-12-31T12:00:00+01:00") permit (principal in Team::"red", action == Action::"s__post", resource);
@id("forbid") @expires("2026-06-30") forbid (principal, action == Action::"t__look", resource) when { context has session };`
	snap, rep, err := governance.Compile(t.Context(), lintBundle(policies), &governance.Options{Clock: at("2026-05-01T00:00:00Z")})
	require.NoError(t, err)
	assert.Empty(t, rep.Findings)
	for _, c := range []struct {
		now, server, tool, args, session string
		want                             bool
	}{
		{"2026-12-31T23:59:59Z", "s", "look", `{"channel":"c"}`, "", true},
		{"2027-01-01T00:00:00Z", "s", "look", `{"channel":"c"}`, "", false},
		{"2026-12-31T10:59:59Z", "s", "post", `{"channel":"c","text":"t","state":"open","n":1}`, "", true},
		{"2026-12-31T11:00:00Z", "s", "post", `{"channel":"c","text":"t","state":"open","n":1}`, "", false},
		{"2028-01-01T00:00:00Z", "t", "look", `{}`, "", true},
		{"2028-01-01T00:00:00Z", "t", "look", `{}`, "one", false},
	} {
		a := actor("a")
		a.Session = c.session
		d, err := snap.Decide(t.Context(), governance.Request{Actor: a, Action: "call_tool", Server: c.server, Name: c.tool, Args: []byte(c.args), Time: at(c.now)()})
		require.NoError(t, err)
		assert.Equal(t, c.want, d.Allowed(), "%+v %s", c, d.Reason)
	}

	same, rep, err := governance.Compile(t.Context(), lintBundle(policies), &governance.Options{Clock: at("2027-01-01T00:00:00Z")})
	require.NoError(t, err)
	assert.Equal(t, snap.Hash(), same.Hash(), "the hash does not depend on the day")
	var said []string
	for _, f := range rep.Findings {
		said = append(said, fmt.Sprintf("%s %s %d:%d %s", f.Severity, f.Code, f.Line, f.Column, f.Policy))
	}
	assert.Equal(t, []string{"warning expired 1:15 permit", "warning expired 3:16 instant", "warning expired 4:15 forbid"}, said)

	_, rep, err = governance.Compile(t.Context(), lintBundle(`@id("x") @expires("soon") permit (principal, action, resource);`), nil)
	require.Error(t, err)
	assert.Contains(t, rep.Findings[0].String(), `p.cedar:1:10: error: policy "x": @expires("soon"): want a date such as "2026-12-31"`)
}

// Invisible words in a tool's description are for a model and not for whoever
// approves it.
func TestHiddenCharactersElsewhere(t *testing.T) {
	b := lintBundle(`@id("x") forbid (principal, action, resource);`)
	b.Catalog[0].Tools[1].Description = "Looks.\U000e0041\U000e0042"
	_, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	require.Len(t, rep.Findings, 1)
	assert.Contains(t, rep.Findings[0].String(), `catalog/s: warning: tool "look" holds characters that cannot be seen, or that change what is seen around them, at /description: U+E0041 (`)
	b.Catalog[0].Tools[1].Description = "Looks."
	b.Catalog[0].Tools[1].InputSchema = []byte(`{"type":"object","properties":{"a":{"type":"string","enum":["\u200b"]}}}`)
	_, rep, err = governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(rep.Findings), "/inputSchema/properties/a/enum/0: U+200B")
	b.Catalog[0].Tools[1].HiddenText = true
	_, rep, err = governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	assert.Empty(t, rep.Findings)

	_, err = governance.LoadBundle(folder(t, map[string]string{"profiles/x.yaml": "id: x\nhosts: [\"a\u200b.example\"]\n"}))
	require.NoError(t, err)
	loaded, err := governance.LoadBundle(folder(t, map[string]string{"profiles/x.yaml": "id: x\ndescription: \"a\u200b\"\n"}))
	require.NoError(t, err)
	_, _, err = governance.Compile(t.Context(), loaded, nil)
	assert.ErrorContains(t, err, "profiles/x.yaml:2:16: error: the character U+200B cannot be seen")
}

// A bundle with thousands of mistakes is not reported for minutes.
func TestReportIsBounded(t *testing.T) {
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "@id(\"p%d\") permit (principal, action == Action::\"s__absent\", resource);\n", i)
	}
	_, rep, err := governance.Compile(t.Context(), lintBundle(text.String()), nil)
	require.Error(t, err)
	assert.Len(t, rep.Findings, 1002)
	assert.Contains(t, err.Error(), "the other policies were not looked at")

	// Of what does not even parse as well.
	for _, broken := range []string{
		strings.Repeat(`@id("p") permit (principal, action, resource) when { 1 2 };`, 5000),
		`@id("p") ` + strings.Repeat(`@a("") permit (principal, action, resource);`, 5000),
	} {
		_, rep, err = governance.Compile(t.Context(), lintBundle(broken), nil)
		require.Error(t, err)
		assert.Len(t, rep.Findings, 1002)
		assert.Contains(t, err.Error(), "the other policies were not looked at")
	}

	// A large catalogue says much, and is no reason to refuse the policies.
	b := lintBundle("")
	schema := json.RawMessage(`{"type":"object","properties":{"n":{"type":"number"}}}`)
	for i := range 1100 {
		b.Catalog[0].Tools = append(b.Catalog[0].Tools, governance.Tool{ToolDefinition: governance.ToolDefinition{Name: fmt.Sprint("t", i), InputSchema: schema}, Class: governance.Read})
	}
	b.Policies[0].Text = `@id("p") permit (principal, action, resource);`
	_, rep, err = governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	assert.Greater(t, len(rep.Findings), 1100)
}

// Where an offset is does not depend on how long its line is.
func TestPositionsInLongLines(t *testing.T) {
	long := strings.Repeat("é€ ", 3000)
	text := "// " + long + "\n@id(\"a\") permit (principal, action, resource) when { \"" + strings.Repeat("é", 4000) + "\" == \"x\" };" +
		"@id(\"b\") permit (principal, action == Action::\"s__absent\", resource);"
	_, rep, err := governance.Compile(t.Context(), lintBundle(text), nil)
	require.Error(t, err)
	line := text[strings.IndexByte(text, '\n')+1:]
	want := utf8.RuneCountInString(line[:strings.Index(line, "s__absent")]) + 1
	assert.Equal(t, [2]int{2, want}, [2]int{rep.Findings[0].Line, rep.Findings[0].Column})
}

// One mistake that shows at many actions is told once, and always of the same.
func TestReportIsTheSameEachTime(t *testing.T) {
	b := lintBundle(`@id("x") permit (principal, action, resource) when { context.nothing == 1 };`)
	_, first, err := governance.Compile(t.Context(), b, nil)
	require.ErrorIs(t, err, governance.ErrBundle)
	require.Len(t, first.Findings, 1)
	for range 20 {
		_, rep, _ := governance.Compile(t.Context(), b, nil)
		require.Equal(t, first, rep)
	}
}
