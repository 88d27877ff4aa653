package governance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// world makes a bundle of n policies over ten tools of two servers, in the
// shapes that people write: one argument compared, a set of values, a pattern,
// a class of tools, and a few forbids for everybody.
func world(n int) governance.Bundle {
	var b governance.Bundle
	for _, server := range []string{"alpha", "beta"} {
		s := governance.Server{Name: server}
		for i := range 5 {
			s.Tools = append(s.Tools, governance.Tool{
				ToolDefinition: governance.ToolDefinition{
					Name: fmt.Sprintf("tool_%c", 'a'+i),
					InputSchema: json.RawMessage(`{"type":"object","required":["repo","path"],"properties":{
						"repo":{"type":"string"},"path":{"type":"string"},"count":{"type":"integer"},
						"draft":{"type":"boolean"},"labels":{"type":"array","items":{"type":"string"}}}}`),
				},
				Class: []governance.Class{governance.Read, governance.Write, governance.Destructive}[i%3],
			})
		}
		b.Catalog = append(b.Catalog, s)
	}
	for i := range 20 {
		b.Profiles = append(b.Profiles, governance.Profile{
			ID:      fmt.Sprintf("profile%d", i),
			Agents:  []string{fmt.Sprintf("agent%d", i)},
			Servers: map[string]governance.Grant{"alpha": {Tools: []string{"*"}}, "beta": {Tools: []string{"tool_a", "tool_b"}}},
		})
	}
	var text strings.Builder
	for i := range n {
		profile := i % 20
		tool := fmt.Sprintf("%s__tool_%c", []string{"alpha", "beta"}[i/20%2], 'a'+i/40%5)
		switch i % 10 {
		case 0, 1, 2, 3:
			fmt.Fprintf(&text, "@id(\"p%05d\")\npermit (principal in Profile::\"profile%d\", action == Action::%q, resource)\nwhen { context.args.repo == \"repo%d\" };\n", i, profile, tool, i%50)
		case 4, 5:
			fmt.Fprintf(&text, "@id(\"p%05d\")\npermit (principal in Profile::\"profile%d\", action in Action::\"read\", resource in Server::\"alpha\")\nwhen { [\"repo%d\", \"repo%d\"].contains(context.args.repo) };\n", i, profile, i%50, i%7)
		case 6, 7:
			fmt.Fprintf(&text, "@id(\"p%05d\")\npermit (principal in Profile::\"profile%d\", action == Action::%q, resource)\nwhen { context.args.path like \"/src/%d/*\" };\n", i, profile, tool, i)
		case 8:
			fmt.Fprintf(&text, "@id(\"p%05d\")\nforbid (principal in Profile::\"profile%d\", action in Action::\"destructive\", resource)\nunless { context.args.repo == \"sandbox\" };\n", i, profile)
		case 9:
			fmt.Fprintf(&text, "@id(\"p%05d\")\nforbid (principal in Profile::\"profile%d\", action == Action::%q, resource)\nwhen { context.args.path like \"*..*\" };\n", i, profile, tool)
		}
	}
	text.WriteString("@id(\"zz-everybody\")\nforbid (principal, action in Action::\"call_tool\", resource)\nwhen { context.args.path like \"/etc/*\" };\n")
	b.Policies = []governance.Source{{Name: "policies/world.cedar", Text: text.String()}}
	return b
}

const args150 = `{"repo":"repo0","path":"/src/0/governance/decide.go","count":42,"draft":false,"labels":["bug","urgent","customer"],"extra":"something of no interest here"}`

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		snap, rep, err := governance.Compile(b.Context(), world(n), nil)
		require.NoError(b, err, "%v", rep)
		for _, args := range []string{args150, `{"repo":"repo0","path":"/"}`} {
			b.Run(fmt.Sprintf("policies=%d/args=%dB", n, len(args)), func(b *testing.B) {
				r := governance.Request{
					Actor: audit.Actor{Agent: "agent0"}, Action: "call_tool", Server: "alpha", Name: "tool_a", Args: []byte(args),
				}
				b.ReportAllocs()
				for b.Loop() {
					d, err := snap.Decide(context.Background(), r)
					if err != nil || !d.Allowed() {
						b.Fatal(d.Reason, d.Hint, err)
					}
				}
			})
		}
	}
}

func BenchmarkVisible(b *testing.B) {
	snap, _, err := governance.Compile(b.Context(), world(1000), nil)
	require.NoError(b, err)
	var tools []governance.ToolRef
	for i := range 100 {
		tools = append(tools, governance.ToolRef{Server: []string{"alpha", "beta"}[i%2], Name: fmt.Sprintf("tool_%c", 'a'+i%5)})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := snap.Visible(context.Background(), audit.Actor{Agent: "agent0"}, "call_tool", tools); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			w := world(n)
			for b.Loop() {
				if _, rep, err := governance.Compile(b.Context(), w, nil); err != nil {
					b.Fatal(rep, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/policy")
		})
	}
}
