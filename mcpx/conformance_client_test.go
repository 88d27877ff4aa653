package mcpx_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest/npmtest"
)

// What the suite asks of clients, by the version of the protocol that its server
// speaks. Left out is how a client gets a token from an authorization server:
// behind a gateway the vault does that, see TestAuthorizationConformance.
var clientScenarios = map[string][]string{
	legacy: {"initialize", "tools_call", "sse-retry", "elicitation-sep1034-client-defaults", "json-schema-2020-12-preservation"},
	modern: {"tools_call", "request-metadata", "http-standard-headers", "http-custom-headers", "http-invalid-tool-headers", "sep-2322-client-request-state", "json-schema-ref-no-deref", "json-schema-2020-12-preservation"},
}

// The suite's servers judge a client behind the gateway as they judge the same
// client without it.
func TestClientConformance(t *testing.T) {
	npmtest.Dir(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	client := sdkProgram(t, "everything-client")
	env := []string{"MCPX_TEST_CHILD=through", "MCPX_CLIENT=" + client, "GORACE=" + os.Getenv("GORACE")}
	for _, version := range []string{legacy, modern} {
		for _, scenario := range clientScenarios[version] {
			t.Run(version+" "+scenario, func(t *testing.T) {
				args := []string{"client", "--scenario", scenario, "--spec-version", version, "--command"}
				direct := judge(t, append(args, client)...)
				got := judgeIn(t, env, append(args, exe)...)
				var worse []string
				for check, passed := range direct {
					if passed && !got[check] {
						worse = append(worse, check)
					}
				}
				for check, passed := range got {
					if _, known := direct[check]; !known && !passed {
						worse = append(worse, check)
					}
				}
				slices.Sort(worse)
				assert.Empty(t, worse, "these pass without the gateway")
				t.Logf("%d checks, %d of them without the gateway", len(got), len(direct))
			})
		}
	}
}

// conformanceThrough is the client that the suite runs: a plain one, at a gateway
// in front of the suite's server.
func conformanceThrough() error {
	ctx := context.Background()
	url := os.Args[len(os.Args)-1]
	text, err := mcpx.ReadCatalog(ctx, "suite", &mcp.StreamableClientTransport{Endpoint: url, DisableStandaloneSSE: true})
	if err != nil {
		return err
	}
	catalog, err := governance.ParseCatalog("suite.json", text)
	if err != nil {
		return err
	}
	for i := range catalog.Tools { // 3.14159 is no Cedar decimal: what a reviewer says of it
		if t := &catalog.Tools[i]; t.Name == "test_custom_headers" {
			t.As = map[string]string{"/float_val": "text"}
		}
	}
	dir, err := os.MkdirTemp("", "twinward-suite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log, err := audit.Open(dir+"/log", nil)
	if err != nil {
		return err
	}
	defer log.Close()
	engine := governance.NewEngine(log, nil)
	if _, err := engine.Reload(ctx, governance.Bundle{
		Policies: []governance.Source{{Name: "all.cedar", Text: permitAll}},
		Catalog:  []governance.Server{catalog},
	}, admin); err != nil {
		return err
	}
	g := mcpx.NewGateway(engine, log, nil)
	defer g.Close()
	u := mcpx.HTTP("suite", url)
	u.OwnNames = true
	if err := g.AddUpstream(ctx, u); err != nil {
		return err
	}
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), bot)))
	}))
	defer door.Close()
	defer door.CloseClientConnections()
	cmd := exec.Command(os.Getenv("MCPX_CLIENT"), door.URL)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
