package mcpx_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A protectedServer is an MCP server that takes the tokens of an authorization
// server, for this very resource.
type protectedServer struct {
	as       *agentid.Registry
	url      string
	stubborn atomic.Bool  // takes no token at all
	asked    atomic.Int64 // requests for tokens
	calls    atomic.Int64 // tools/call that were let in
	refused  atomic.Int64 // tools/call that were not
	later    atomic.Int64 // nanoseconds by which the vault's clock is ahead
}

// oauthWorld is a gateway whose one upstream is a protectedServer.
func oauthWorld(t *testing.T, old bool) (*protectedServer, *mcptest.Agent, *audittest.Log) {
	t.Helper()
	log := audittest.NewLog(t)
	p := &protectedServer{}
	srv := httptest.NewUnstartedServer(nil)
	p.url = "http://" + srv.Listener.Addr().String()
	var err error
	p.as, err = agentid.NewRegistry(audittest.NewLog(t), &agentid.Options{Issuer: p.url})
	require.NoError(t, err)
	secret, err := p.as.Register(t.Context(), agentid.Agent{ID: "gateway", Owner: "test"}, admin)
	require.NoError(t, err)
	server := childServer()
	tools := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: !old})
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", func(w http.ResponseWriter, r *http.Request) {
		call := r.Header.Get("Mcp-Method") == "tools/call" || old && r.Header.Get("Mcp-Session-Id") != "" && r.ContentLength > 100
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if _, _, err := p.as.Verify(r.Context(), token, p.url+"/mcp"); err != nil || p.stubborn.Load() {
			if call {
				p.refused.Add(1)
			}
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", error_description="`+token+`"`)
			http.Error(w, "not with "+token, http.StatusUnauthorized)
			return
		}
		if call {
			p.calls.Add(1)
		}
		tools.ServeHTTP(w, r)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			p.asked.Add(1)
		}
		p.as.Handler().ServeHTTP(w, r)
	})
	srv.Config.Handler = mux
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})

	vault, err := credential.NewBroker(credential.NewMemoryStore(map[string]credential.Secret{"child": secret}), log, &credential.BrokerOptions{
		Now: func() time.Time { return time.Now().Add(time.Duration(p.later.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { vault.Close() })
	require.NoError(t, vault.Bind(t.Context(), "child", credential.Binding{
		Origin: p.url, Scheme: oauth.ClientCredentials(oauth.Client{Issuer: p.url, ID: "gateway", Resource: p.url + "/mcp"}),
	}, admin))
	catalog, err := mcpx.Catalog(t.Context(), "child", childServer())
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in [Action::"call_tool", Action::"use_credential"], resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Vault: vault})
	t.Cleanup(func() { gw.Close() })
	u := mcpx.HTTP("child", p.url+"/mcp")
	u.Credential = "child"
	require.NoError(t, gw.AddUpstream(t.Context(), u))
	a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
	t.Cleanup(func() { assert.Empty(t, vault.Scrubber().Count(a.Seen()), "the agent sees no token") })
	return p, a, log
}

// A token that an upstream takes no longer is traded for a new one exactly once,
// however many calls find out at the same time, and every call is done once. When
// that does not help, the agent is told clearly.
func TestUpstreamOAuth(t *testing.T) {
	for _, era := range []string{legacy, modern} {
		t.Run(era, func(t *testing.T) {
			p, a, log := oauthWorld(t, era == legacy)
			many := func(n int) (results []*mcp.CallToolResult) {
				var wg sync.WaitGroup
				results = make([]*mcp.CallToolResult, n)
				for i := range n {
					wg.Go(func() {
						res, err := a.Call(t.Context(), "child__pid", `{"padding":"`+strings.Repeat("x", 100)+`"}`)
						if assert.NoError(t, err) {
							results[i] = res
						}
					})
				}
				wg.Wait()
				return results
			}
			good := func(results []*mcp.CallToolResult) {
				t.Helper()
				for _, res := range results {
					if assert.NotNil(t, res) {
						assert.False(t, res.IsError, mcptest.Text(res))
					}
				}
			}
			good(many(8))
			assert.EqualValues(t, 1, p.asked.Load(), "one request for a token, for all")
			assert.EqualValues(t, 8, p.calls.Load())

			// Its tokens become void.
			require.NoError(t, p.as.Revoke(t.Context(), "gateway", admin))
			require.NoError(t, p.as.Reinstate(t.Context(), "gateway", admin))
			p.later.Store(int64(11 * time.Second))
			good(many(8))
			assert.EqualValues(t, 2, p.asked.Load(), "one request for another one")
			assert.EqualValues(t, 16, p.calls.Load(), "no call was done twice")

			// No token helps: tried once with another one, and then said.
			p.later.Store(int64(22 * time.Second))
			p.stubborn.Store(true)
			before, at := p.refused.Load(), len(log.Records())
			for i := range 2 {
				res := many(1)[0]
				require.NotNil(t, res)
				assert.Equal(t, "upstream-unauthorized", denial(t, res).Reason)
				assert.Contains(t, mcptest.Text(res), "An operator has to renew it")
				assert.EqualValues(t, 3, p.asked.Load(), "call %d", i)
				assert.EqualValues(t, before+2, p.refused.Load(), "the next session is refused at once, so that no call goes out")
			}
			assert.EqualValues(t, 16, p.calls.Load())
			var codes []string
			for _, rec := range log.Records()[at:] {
				if rec.Outcome != nil {
					codes = append(codes, string(rec.Outcome.Status)+" "+rec.Outcome.ErrorCode)
				}
			}
			assert.Equal(t, []string{string(audit.StatusFailed) + " upstream-unauthorized", string(audit.StatusFailed) + " upstream-unauthorized"}, codes)
		})
	}
}
