package mcpx_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest/npmtest"
)

// everything is the go-sdk's server for MCP's conformance suite, run twice: the
// SDK serves versions with and without sessions from different handlers.
type everything struct{ legacy, modern string }

func newEverything(t *testing.T) everything {
	t.Helper()
	bin := sdkProgram(t, "everything-server")
	serve := func(flag string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := l.Addr().String()
		require.NoError(t, l.Close())
		cmd := exec.CommandContext(t.Context(), bin, "-http", addr, flag)
		cmd.Env = []string{}
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		require.Eventually(t, func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		}, time.Minute, 5*time.Millisecond, "the server does not listen")
		return "http://" + addr
	}
	return everything{legacy: serve("-stateless=false"), modern: serve("-stateless=true")}
}

// sdkProgram builds one of the go-sdk's programs for the conformance suite.
func sdkProgram(t *testing.T, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/modelcontextprotocol/go-sdk/conformance/"+name).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

// permitAll lets bot do what the upstream offers: the suite asks whether the
// protocol is kept, not who may do what.
const permitAll = `@id("all") permit (principal == Agent::"bot", action, resource);`

// through serves a gateway with one upstream, under its own names, for a client
// that cannot send a bearer token: a shim adds it.
func through(t *testing.T, log audit.Recorder, upstream string, catalog governance.Server) string {
	t.Helper()
	return throughGateway(t, log, upstream, catalog, false)
}

// throughGateway is through by the SDK alone, if slow.
func throughGateway(t *testing.T, log audit.Recorder, upstream string, catalog governance.Server, slow bool) string {
	t.Helper()
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "all.cedar", Text: permitAll}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	const resource = "http://127.0.0.1/mcp"
	g := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Resource: resource, Resumable: true})
	t.Cleanup(func() { g.Close() })
	if slow {
		mcpx.SlowOnly(g)
	}
	u := mcpx.HTTP(catalog.Name, upstream)
	u.OwnNames, u.Roots = true, true
	require.NoError(t, g.AddUpstream(t.Context(), u))
	h := g.Handler(always{bot})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer x")
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL + "/mcp"
}

// always takes any token for an actor's.
type always struct{ actor audit.Actor }

func (a always) Verify(context.Context, string, string) (audit.Actor, time.Time, error) {
	return a.actor, time.Now().Add(time.Hour), nil
}

// judge runs the suite's scenarios that a revision of the protocol requires, and
// returns its checks by "scenario/check": true for those that passed.
func judge(t *testing.T, args ...string) map[string]bool {
	t.Helper()
	return judgeIn(t, nil, args...)
}

// judgeIn is judge with more in the environment of the suite.
func judgeIn(t *testing.T, env []string, args ...string) map[string]bool {
	t.Helper()
	got := make(map[string]bool)
	for _, c := range checks(t, env, args...) {
		passed := c.Status != "FAILURE"
		if was, twice := got[c.ID]; twice {
			passed = passed && was
		}
		if got[c.ID] = passed; !passed {
			t.Logf("%s: %s", c.ID, c.ErrorMessage)
		}
	}
	return got
}

// A check is one of the suite's. Its ID is "scenario/check".
type check struct{ ID, Status, ErrorMessage string }

func checks(t *testing.T, env []string, args ...string) (all []check) {
	t.Helper()
	out := t.TempDir()
	cmd := npmtest.Command(t.Context(), t, npmtest.Conformance, append(args, "-o", out)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	text, err := cmd.CombinedOutput()
	if _, failed := err.(*exec.ExitError); err != nil && !failed { // which it does if a check fails
		require.NoError(t, err)
	}
	files, err := filepath.Glob(filepath.Join(out, "*", "checks.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "%s", text)
	stamp := regexp.MustCompile(`-\d{4}-\d\d-\d\dT[\d-]+Z$`)
	for _, file := range files {
		scenario := stamp.ReplaceAllString(filepath.Base(filepath.Dir(file)), "")
		var of []check
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &of))
		for _, c := range of {
			c.ID = scenario + "/" + c.ID
			all = append(all, c)
		}
	}
	return all
}

// unkeyed are what no client of the newer era can get from a server of the older
// one: it asks without saying by which name, and one thing after the other. The suite
// wants the name "user_name" for a form with one field, "name"; nothing in the
// question says so.
var unkeyed = regexp.MustCompile(`^server-input-required-result-(basic-elicitation/sep-2322-elicitation|multiple-input-requests/sep-2322-multiple-inputs)-`)

// pending is what the suite runs without counting it: an upstream with sessions
// that ends a stream in the middle of a call, for the client to come again. The
// go-sdk's server gives its events no ids, so that nobody can, and the answer is lost
// to all: see TestPollingConformance for one that does.
var pending = regexp.MustCompile(`^server-server-sse-polling/`)

// The suite judges the gateway in front of a server as it judges the server, for
// clients and servers of both eras of the protocol.
func TestServerConformance(t *testing.T) {
	npmtest.Dir(t)
	up := newEverything(t)
	direct := map[string]map[string]bool{
		legacy: judge(t, "server", "--url", up.legacy, "--requirements", legacy),
		modern: judge(t, "server", "--url", up.modern, "--requirements", modern),
	}
	for version, checks := range direct {
		require.Greater(t, len(checks), 50, version)
	}
	for upstream, url := range map[string]string{legacy: up.legacy, modern: up.modern} {
		text, err := mcpx.ReadCatalog(t.Context(), "everything", &mcp.StreamableClientTransport{Endpoint: url})
		require.NoError(t, err)
		catalog, err := governance.ParseCatalog("everything.json", text)
		require.NoError(t, err)
		for _, client := range []string{legacy, modern} {
			var same map[string]bool
			if client == legacy && upstream == modern {
				// Its tools ask in a way that no server without sessions can.
				same = judge(t, "server", "--url", url, "--requirements", client)
			}
			t.Run("client "+client+" upstream "+upstream, func(t *testing.T) {
				got := judge(t, "server", "--url", through(t, audittest.NewLog(t), url, catalog), "--requirements", client)
				var worse []string
				for check, passed := range direct[client] {
					if passed && !got[check] && (same == nil || same[check]) && !pending.MatchString(check) {
						worse = append(worse, check)
					}
				}
				for check, passed := range got {
					if _, known := direct[client][check]; !known && (same == nil || same[check]) && !passed && !pending.MatchString(check) {
						worse = append(worse, check)
					}
				}
				if client == modern && upstream == legacy {
					worse = slices.DeleteFunc(worse, unkeyed.MatchString)
				}
				slices.Sort(worse)
				assert.Empty(t, worse, "these pass without the gateway")
				t.Logf("%d checks, %d of them without the gateway", len(got), len(direct[client]))
			})
		}
	}
}

// Of a server that ends a stream and keeps what comes, the suite's client gets the
// rest through the gateway as it does without it.
func TestPollingConformance(t *testing.T) {
	npmtest.Dir(t)
	srv := mcp.NewServer(&mcp.Implementation{Name: "polling", Version: "1"}, nil)
	srv.AddTool(&mcp.Tool{Name: "test_reconnection", Description: "Ends the stream.", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(_ context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			req.Extra.CloseSSEStream(mcp.CloseSSEStreamArgs{RetryAfter: 10 * time.Millisecond})
			time.Sleep(100 * time.Millisecond)
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "Reconnection test completed"}}}, nil
		})
	up := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return srv },
		&mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)}))
	t.Cleanup(func() {
		up.CloseClientConnections()
		up.Close()
	})
	catalog, err := mcpx.Catalog(t.Context(), "polling", srv)
	require.NoError(t, err)
	const resumed = "server-server-sse-polling/server-sse-disconnect-resume"
	run := func(url string) (status string) {
		for _, c := range checks(t, nil, "server", "--url", url, "--scenario", "server-sse-polling") {
			assert.NotEqual(t, "FAILURE", c.Status, "%s: %s", c.ID, c.ErrorMessage)
			if c.ID == resumed {
				status = c.Status
			}
		}
		return status
	}
	assert.Equal(t, "SUCCESS", run(up.URL), "without the gateway")
	for _, slow := range []bool{false, true} {
		log := audittest.NewLog(t)
		got := run(throughGateway(t, log, up.URL, catalog, slow))
		if slow { // else there is one answer, in one piece
			assert.Equal(t, "SUCCESS", got)
		}
		recs := log.Records()
		out := recs[len(recs)-1].Outcome
		require.NotNil(t, out)
		assert.Equal(t, audit.StatusOK, out.Status)
	}
}
