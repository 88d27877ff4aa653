package governance

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestNamesAreBounded tries the longest name of each kind, and one byte more.
func TestNamesAreBounded(t *testing.T) {
	name := func(n int) string { return strings.Repeat("a", n) }
	compile := func(b Bundle) string {
		_, rep, _ := Compile(context.Background(), b, nil)
		return fmt.Sprint(rep.Findings)
	}
	for _, c := range []struct {
		kind    string
		longest int
		refused func(string) bool
	}{
		{"group", 128, func(s string) bool { return group(s) != "" }},
		{"label", 64, func(s string) bool { return !isLabel(s) }},
		{"policy", 128, func(s string) bool {
			return strings.Contains(compile(Bundle{Policies: []Source{{Name: "p.cedar", Text: `@id("` + s + `") permit (principal, action, resource);`}}}), "policy-id")
		}},
		{"profile", 64, func(s string) bool {
			return strings.Contains(compile(Bundle{Profiles: []Profile{{ID: s}}}), "the profile's id is")
		}},
		{"server", 32, func(s string) bool {
			var rep Report
			checkServer(Server{Name: s}, &rep)
			return strings.Contains(fmt.Sprint(rep.Findings), "server name")
		}},
		{"tool", 96, func(s string) bool {
			var rep Report
			checkServer(Server{Name: "s", Tools: toolNamed(s)}, &rep)
			return strings.Contains(fmt.Sprint(rep.Findings), "tool name")
		}},
		{"fact", 64, func(s string) (refused bool) {
			Fact{Name: s}.define(func(_, msg, _ string) { refused = refused || strings.Contains(msg, "a fact is called") })
			return refused
		}},
	} {
		assert.False(t, c.refused(name(c.longest)), c.kind)
		assert.True(t, c.refused(name(c.longest+1)), c.kind)
		assert.True(t, c.refused(""), c.kind)
	}
}

func toolNamed(name string) []Tool {
	var t Tool
	t.Name = name
	return []Tool{t}
}
