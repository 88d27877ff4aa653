package governance

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSplitPolicies(t *testing.T) {
	for text, want := range map[string]int{
		"":                          0,
		" \n\t// only a comment":    0,
		"// ( \"\n":                 0,
		"a;":                        1,
		"a; b ;\n// ;\nc;":          3,
		`a ";" "\";" "\\";`:         1,
		"a // \"\n;":                1,
		`a "// not a comment" ; b;`: 2,
	} {
		spans, err := splitPolicies(text)
		require.Nil(t, err, text)
		assert.Len(t, spans, want, text)
	}
	for text, want := range map[string]string{
		"a":                                   "does not end",
		"a; b":                                "does not end",
		`a "x`:                                "a string does not end",
		`a "x\";`:                             "a string does not end",
		"a \"x\n\";":                          "a string does not end",
		"a \"x\\\n\";":                        "a string does not end",
		"a /* ; */;":                          `unexpected "/"`,
		"a / b;":                              `unexpected "/"`,
		"a (;);":                              `";" inside brackets`,
		"a );":                                `unexpected ")"`,
		"a \xff;":                             "UTF-8",
		strings.Repeat("a;", maxPolicies+1):   "more than",
		strings.Repeat("x", maxPolicyFile+1):  "the file has",
		strings.Repeat("(", maxPolicyDepth+1): "nest deeper",
		strings.Repeat("({[", 22) + "a" + strings.Repeat("]})", 22) + ";": "nest deeper",
		"a" + strings.Repeat(" + 1", maxPolicy/4) + ";":                   "longer than",
	} {
		_, err := splitPolicies(text)
		require.NotNil(t, err, "%.40s", text)
		assert.Contains(t, err.msg, want, "%.40s", text)
	}
	ok := strings.Repeat("(", maxPolicyDepth) + strings.Repeat(")", maxPolicyDepth) + ";"
	_, err := splitPolicies(ok)
	assert.Nil(t, err)
}

// FuzzPolicies: what the splitter accepts cannot hurt the parser, and the two
// agree on where policies begin.
func FuzzPolicies(f *testing.F) {
	for _, seed := range []string{
		`@id("a") permit (principal, action, resource);`,
		"// c\n@id(\"a\")\nforbid (principal == Agent::\"x\", action in [Action::\"a\"], resource is Tool in Server::\"s\") when { context.args.x like \"*\\*;\" } unless { !-1 == 2 };\n@id(\"b\") permit (principal, action, resource);",
		`permit (principal, action, resource) when { "\u{1F600};" == "\"" };`,
		`@id("a") forbid (principal, action == Action::"s__t", resource) when { context.args has a && context.args.a == "раураl" && !(context.args has b && context.args.b != "z") };`,
		`@id("a") @expires("2020-01-01") permit (principal in Team::"x", action in Action::"call_tool", resource in Server::"s") when { context.args has n && context.args.n > 3 && context.args.n < 2 };`,
		`permit (principal, action, resource) when { if true then {"a": [1]} has a.b else ip("1.2.3.4").isIpv4() };`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spans, scanErr := splitPolicies(text)
		if scanErr != nil {
			return
		}
		list, err := cedar.NewPolicyListFromBytes("f", []byte(text))
		if err == nil {
			require.Len(t, spans, len(list))
		}
		var rep Report
		src := &Source{Name: "f", Text: text}
		parsed := parsePolicies(src, &rep)
		if err != nil {
			require.True(t, rep.blocked(), "parsed piece by piece, but not as a whole: %v", err)
		}
		for _, p := range parsed {
			require.Equal(t, text[p.start:p.start+len(p.text)], p.text)
		}
		for _, f := range rep.Findings {
			require.Positive(t, f.Line)
			require.Positive(t, f.Column)
		}
		// Validator, lints and index: all findings have a code, and nothing breaks.
		_, whole, err := Compile(t.Context(), Bundle{Policies: []Source{*src}, Catalog: fuzzCatalog}, nil)
		if err != nil {
			require.NotContains(t, err.Error(), "compiling it failed", "%v", err)
		}
		for _, f := range whole.Findings {
			require.NotEmpty(t, f.Code, "%v", f)
		}
	})
}

var fuzzCatalog = []Server{{Name: "s", Tools: []Tool{{
	ToolDefinition: ToolDefinition{Name: "t", InputSchema: []byte(`{"type":"object","properties":{"a":{"type":"string"},"b":{"enum":["x","y"]},"n":{"type":"integer"},"l":{"type":"array","items":{"type":"string"}}}}`)},
	Class:          Destructive,
}}}}

// FuzzProfile: a profile that loads says what it says, and nothing panics.
func FuzzProfile(f *testing.F) {
	f.Add("id: a\nagents: [b]\nservers: {s: {tools: [t]}}\nmodels: []\n")
	f.Add("id: &x a\nowner: *x\n")
	f.Add("id: a\nhosts:\n  - \"*.example.com\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, bad := parseProfile("f", []byte(text))
		if bad != nil {
			require.NotEmpty(t, bad.Message)
			require.Positive(t, bad.Line)
			return
		}
		var rep Report
		p.check(nil, &rep)
		if rep.blocked() {
			return
		}
		spans, scanErr := splitPolicies(p.ceiling())
		if scanErr != nil {
			return // too large, which Compile reports
		}
		for _, sp := range spans {
			pol, err := parseOne("f", p.ceiling()[sp.start:sp.end])
			require.NoError(t, err)
			require.True(t, pol.forbid)
			require.True(t, strings.HasPrefix(pol.id, generatedPrefix+p.ID+":"))
		}
	})
}

// FuzzCatalog: a catalogue that compiles has a schema that resolves.
func FuzzCatalog(f *testing.F) {
	f.Add(`{"server":"s","tools":[{"name":"t","inputSchema":{"type":"object","properties":{"a\"b":{"type":"number"}}},"class":"read","as":{"a\"b":"long"}}]}`)
	f.Add(`{"server":"s","tools":[{"name":"t","inputSchema":{"type":"object","properties":{"x":{"$ref":"#/$defs/y"}},"$defs":{"y":{"anyOf":[{"type":"null"},{"enum":[1,"a"]}]}}},"class":"write"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, bad := parseCatalog("f", []byte(text))
		if bad != nil {
			return
		}
		_, rep, err := Compile(t.Context(), Bundle{Catalog: []Server{s}}, nil)
		if err != nil {
			require.NotContains(t, err.Error(), "failed", "%v", err)
			for _, f := range rep.Findings {
				require.NotContains(t, f.Message, "the schema of the catalogue", "%s", f)
			}
		}
	})
}

// Only internal/cedarx may touch the experimental half of cedar-go, and nobody
// its batch evaluator, which allows what cedar.Authorize denies.
func TestExperimentalImports(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range file.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			if !strings.HasPrefix(name, "github.com/cedar-policy/cedar-go/x/") {
				continue
			}
			seen++
			assert.Equal(t, filepath.Join("internal", "cedarx"), filepath.Dir(path), "%s imports %s", path, name)
			assert.NotContains(t, name, "/batch", path)
		}
		return nil
	})
	require.NoError(t, err)
	assert.NotZero(t, seen)
}
