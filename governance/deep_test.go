package governance

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// The longest chains that a policy may hold are compiled and decided with, or
// refused before they are parsed. None of them takes the program with it.
func TestLongChains(t *testing.T) {
	for name, c := range map[string]struct{ before, unit, after, refused string }{
		"not":          {"", "!", "true", "signs in a row"},
		"not, spaced":  {"", "!\n", "true", "signs in a row"},
		"minus":        {"", "-", "1 == 1", "signs in a row"},
		"dots":         {"context", ".a", " == 1", "a path of more"},
		"has":          {"context has a", ".a", "", "a path of more"},
		"has, spaced":  {"context has a", " . a", "", "a path of more"},
		"brackets":     {"", "(", "true", "nest deeper"},
		"sets":         {"", "[", "1", "nest deeper"},
		"records":      {"", "{a:", "1", "nest deeper"},
		"if in if":     {"", "if ", "true", "does not parse"},
		"index":        {"context", `["a"]`, " == 1", "not found"},
		"methods":      {"context", ".contains(1)", "", "unexpected type"},
		"and":          {"true", "&&true", "", ""},
		"or":           {"false", "||false", "", ""},
		"plus":         {"1", "+1", " == 1", ""},
		"times":        {"1", "*1", " == 1", ""},
		"if":           {"", "if true then true else ", "true", ""},
		"has and":      {"context has session", "&&context has session", "", ""},
		"alternatives": {"true", "&&(context has session||context has user)", "", ""},
		"elements":     {"[1", ",1", "].contains(1)", ""},
	} {
		const head = `@id("x") forbid (principal, action == Action::"connect", resource) when { `
		n := (maxPolicy - len(head) - len(c.before) - len(c.after) - 8) / len(c.unit)
		b := Bundle{Policies: []Source{{Name: "p", Text: head + c.before + strings.Repeat(c.unit, n) + c.after + " };"}}}
		snap, _, err := Compile(t.Context(), b, nil)
		if c.refused != "" {
			assert.ErrorContains(t, err, c.refused, name)
			continue
		}
		require.NoError(t, err, name)
		d, err := snap.Decide(t.Context(), Request{Actor: audit.Actor{Agent: "a", Session: "s"}, Action: "connect", Name: "h.example"})
		require.NoError(t, err, name)
		assert.False(t, d.Allowed(), name)
	}
}
