package strictyaml

import (
	"errors"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type config struct {
	Name  string            `yaml:"name"`
	Count int               `yaml:"count"`
	List  []string          `yaml:"list"`
	Map   map[string]string `yaml:"map"`
	In    []config          `yaml:"in"`
}

func TestUnmarshal(t *testing.T) {
	var c config
	require.NoError(t, Unmarshal("c.yaml", []byte("---\nname: \"a * b ! c\"\ncount: 3\nlist: [a, \"&b\"]\nmap: {k: v}\nin:\n  - name: x\n    list: []\n"), 1000, &c))
	assert.Equal(t, config{Name: "a * b ! c", Count: 3, List: []string{"a", "&b"}, Map: map[string]string{"k": "v"}, In: []config{{Name: "x", List: []string{}}}}, c)
}

// Every error has its place and its remedy.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "c.yaml: the file is empty",
		"# nothing":                        "c.yaml: the file is empty",
		"name: a\nnmae: b\n":               `c.yaml:2:1: unknown field "nmae"`,
		"in:\n  - nmae: b\n":               `c.yaml:2:5: unknown field "nmae"`,
		"name: a\nname: b\n":               `c.yaml:2:1: mapping key "name" already defined at [1:1] (keep one of them)`,
		"name:\n":                          "c.yaml:1:7: empty value (write [] or {} for none, or leave the key out)",
		"list: [~]\n":                      "c.yaml:1:8: empty value",
		"name: &x a\n":                     "c.yaml:1:7: anchors, aliases, merges and tags are not used here",
		"list: [*.example.com]\n":          "c.yaml:1:8: anchors, aliases, merges and tags are not used here (write the value out; text that begins with * goes in quotes)",
		"name: !!str 5\n":                  "c.yaml:1:7: anchors",
		"<<: {name: a}\n":                  "c.yaml:1:1: anchors",
		"name: a\n---\nname: b\n":          "c.yaml:3:1: a second document",
		"count: many\n":                    "c.yaml:1:8: ",
		"name: [\n":                        "c.yaml:1:7: ",
		"\tname: a":                        "c.yaml:1:",
		strings.Repeat("x", 1001):          "c.yaml: the file has 1001 bytes",
		"name: a\nlist: [[[[[[[[[[[[[[[[[": "c.yaml:2:1: it is nested too deeply",
	} {
		var c config
		err := Unmarshal("c.yaml", []byte(text), 1000, &c)
		require.Error(t, err, text)
		var e *Error
		require.True(t, errors.As(err, &e), text)
		assert.Truef(t, strings.HasPrefix(err.Error(), want), "%q: %s", text, err)
	}
}

// What would exhaust the stack of a recursive parser does not reach it.
func TestDeep(t *testing.T) {
	const n = 200_000
	for name, text := range map[string]string{
		"brackets":            strings.Repeat("[", n),
		"braces":              strings.Repeat("{a: ", n),
		"lists on a line":     strings.Repeat("- ", n),
		"behind a key":        "a: " + strings.Repeat("- ", n),
		"keys on a line":      strings.Repeat("a: ", n),
		"complex keys":        strings.Repeat("? ", n),
		"values":              strings.Repeat(": ", n),
		"tags in lists":       strings.Repeat("- !t ", n),
		"anchors in lists":    strings.Repeat("- &t ", n),
		"tags":                strings.Repeat("!t ", n),
		"indentation":         indented(600),
		"behind many bracket": strings.Repeat("]", n) + strings.Repeat("[", n),
	} {
		_, err := Parse("c.yaml", []byte(text), 10<<20)
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), "nested too deeply", name)
	}
	for _, text := range []string{
		"text: |\n  ------------------------------------\n  a - b - c: d\n",
		strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth),
		indented(40),
	} {
		_, err := Parse("c.yaml", []byte(text), 1<<20)
		require.NoError(t, err, text)
	}
}

func indented(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String() + strings.Repeat(" ", levels) + "b: c\n"
}

// FuzzUnmarshal: nothing panics, every error has a message, and what is read
// holds none of the forms that are refused.
func FuzzUnmarshal(f *testing.F) {
	f.Add("name: a\nlist: [b]\nmap: {c: d}\n")
	f.Add("name: &x a\nlist: [*x]\n")
	f.Add("in:\n  - in:\n      - name: |\n          a\n")
	f.Add("? a\n: - - b\n")
	f.Fuzz(func(t *testing.T, text string) {
		var c config
		err := Unmarshal("c.yaml", []byte(text), 64<<10, &c)
		if err == nil {
			body, err := Parse("c.yaml", []byte(text), 64<<10)
			require.NoError(t, err)
			ast.Walk(visitor(func(n ast.Node) {
				switch n.(type) {
				case *ast.NullNode, *ast.AliasNode, *ast.AnchorNode, *ast.TagNode, *ast.MergeKeyNode:
					t.Fatalf("%T was read", n)
				}
			}), body)
			return
		}
		var e *Error
		require.True(t, errors.As(err, &e))
		require.NotEmpty(t, e.Message)
		require.Equal(t, e.Line > 0, e.Column > 0)
	})
}

type visitor func(ast.Node)

func (v visitor) Visit(n ast.Node) ast.Visitor {
	v(n)
	return v
}
