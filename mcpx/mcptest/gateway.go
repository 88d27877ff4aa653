package mcptest

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

// GatewayOptions are the options of [NewGateway]; nil is the zero value.
type GatewayOptions struct {
	// Tokens are the bearer tokens that servers want, by name, of at least
	// [credential.MinLength] bytes. Each is in the vault as the credential of that
	// name, so that policies permit its use as Credential::"<server>".
	Tokens map[string]string
	// Legacy says that the servers speak only protocol versions with sessions.
	Legacy bool
	// Gateway are the options of the gateway. Its Vault is replaced if there are
	// Tokens.
	Gateway mcpx.GatewayOptions
}

// A Gateway is a governed gateway in front of servers of a test.
type Gateway struct {
	*mcpx.Gateway
	// Log is what was put on record.
	Log *audittest.Log
	// Engine decides, by Bundle: the catalogue of the servers as they were when the
	// gateway was made, and the policies.
	Engine *governance.Engine
	Bundle governance.Bundle
	// Upstreams count what reaches the servers, by name.
	Upstreams map[string]*Upstream

	t testing.TB
}

// by is who changes policies in tests.
var by = audit.Change{By: "mcptest", Reason: "a test"}

// NewGateway serves servers, by the names that policies give them, behind a gateway
// until the test ends. All their tools, prompts and resources count as approved; what
// agents may do is what the policies say, a text in Cedar.
func NewGateway(t testing.TB, policies string, servers map[string]*mcp.Server, opts *GatewayOptions) *Gateway {
	t.Helper()
	if opts == nil {
		opts = &GatewayOptions{}
	}
	g := &Gateway{Log: audittest.NewLog(t), Upstreams: make(map[string]*Upstream), t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("mcptest: gateway: %v", err)
		}
	}
	names := slices.Sorted(maps.Keys(servers))
	for _, name := range names {
		c, err := mcpx.Catalog(t.Context(), name, servers[name])
		must(err)
		g.Bundle.Catalog = append(g.Bundle.Catalog, c)
	}
	g.Engine = governance.NewEngine(g.Log, nil)
	g.SetPolicies(policies)
	secrets := make(map[string]credential.Secret)
	for name, token := range opts.Tokens {
		if len(token) < credential.MinLength {
			t.Fatalf("mcptest: the token of %q is too short to be found again: use %d bytes or more", name, credential.MinLength)
		}
		secrets[name] = credential.NewSecret([]byte(token))
	}
	own := opts.Gateway
	vault := credential.NewMemory(secrets)
	if len(secrets) > 0 {
		own.Vault = vault
	}
	g.Gateway = mcpx.NewGateway(g.Engine, g.Log, &own)
	t.Cleanup(func() { _ = g.Gateway.Close() })
	for _, name := range names {
		up := NewUpstream(t, servers[name], &UpstreamOptions{Token: opts.Tokens[name], Legacy: opts.Legacy})
		g.Upstreams[name] = up
		u := mcpx.HTTP(name, up.URL)
		if opts.Tokens[name] != "" {
			must(vault.Bind(t.Context(), name, credential.Binding{Origin: up.URL}, by))
			u.Credential = name
		}
		must(g.AddUpstream(t.Context(), u))
	}
	return g
}

// SetPolicies puts other policies into force.
func (g *Gateway) SetPolicies(policies string) {
	g.t.Helper()
	next := g.Bundle
	next.Policies = []governance.Source{{Name: "test.cedar", Text: policies}}
	if _, err := g.Engine.Reload(g.t.Context(), next, by); err != nil {
		g.t.Fatalf("mcptest: policies: %v", err)
	}
	g.Bundle = next
}

// Agent connects an agent through a door of its own: every request of it carries
// actor.
func (g *Gateway) Agent(actor audit.Actor, opts *ConnectOptions) *Agent {
	g.t.Helper()
	return Connect(g.t, Door(g.t, g.Gateway, actor).URL, opts)
}

// Denied returns what an agent is told about a call that was refused, and whether it
// was.
func Denied(res *mcp.CallToolResult) (mcpx.Denial, bool) {
	var d mcpx.Denial
	if res == nil || res.Meta[mcpx.DenialKey] == nil {
		return d, false
	}
	text, err := json.Marshal(res.Meta[mcpx.DenialKey])
	return d, err == nil && json.Unmarshal(text, &d) == nil && cmp.Or(d.DecisionID, d.Reason) != ""
}
