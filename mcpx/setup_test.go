package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

const (
	legacy = "2025-11-25"
	modern = "2026-07-28"
)

var (
	bot   = audit.Actor{Agent: "bot", Issuer: "session"}
	other = audit.Actor{Agent: "other", Issuer: "session"}
	admin = audit.Change{By: "test", Reason: "test"}
	token = "ghp_Secret0123456789abcdefghijklmnopqrs"
)

// policy of the tests: bot may read github and post to #engineering; the other
// agent may only read.
const policy = `
@id("read") permit (principal, action in Action::"github:read", resource);
@id("standup") permit (principal == Agent::"bot", action == Action::"slack__post_message", resource)
  when { context.args.channel == "#engineering" };
@id("no-executive") forbid (principal, action == Action::"slack__post_message", resource)
  when { context.args.channel like "*executive*" };
@id("nothing-that-deletes") forbid (principal, action in Action::"destructive", resource);
@id("key") permit (principal == Agent::"bot", action == Action::"use_credential", resource == Credential::"github");
`

// profiles of the tests: snowflake is there for nobody.
func profiles() []governance.Profile {
	return []governance.Profile{{
		ID: "standup", Owner: "test", Agents: []string{"bot", "other"},
		Servers: map[string]governance.Grant{
			"github": {Tools: []string{"*"}},
			"slack":  {Tools: []string{"post_message", "delete_message"}, Resources: []string{"logging"}},
		},
	}}
}

// A world is a gateway with three servers, all of which count.
type world struct {
	t       testing.TB
	log     *audittest.Log
	engine  *governance.Engine
	vault   *credential.Broker
	gateway *mcpx.Gateway
	github  *mcptest.Upstream
	slack   *mcptest.Upstream
	snow    *mcptest.Upstream
	servers map[string]*mcp.Server
	agents  *agents
	logged  *lines
}

type setup struct {
	legacy  bool // upstreams
	options func(*mcpx.GatewayOptions)
	tools   func(map[string]*mcp.Server) // changes servers before the catalogue is written
	policy  string
	log     audit.Recorder // instead of the world's own
}

func newWorld(t testing.TB, s *setup) *world {
	t.Helper()
	if s == nil {
		s = &setup{}
	}
	w := &world{t: t, log: audittest.NewLog(t), servers: map[string]*mcp.Server{}, agents: newAgents(), logged: &lines{}}
	w.servers["github"] = githubServer()
	w.servers["slack"] = slackServer()
	w.servers["snowflake"] = snowServer()
	if s.tools != nil {
		s.tools(w.servers)
	}
	bundle := governance.Bundle{
		Policies: []governance.Source{{Name: "test.cedar", Text: policy + s.policy}},
		Profiles: profiles(),
	}
	for _, name := range []string{"github", "slack", "snowflake"} {
		c, err := mcpx.Catalog(t.Context(), name, w.servers[name])
		require.NoError(t, err)
		bundle.Catalog = append(bundle.Catalog, c)
	}
	var rec audit.Recorder = w.log
	if s.log != nil {
		rec = s.log
	}
	w.engine = governance.NewEngine(w.log, nil)
	_, err := w.engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)

	w.github = mcptest.NewUpstream(t, w.servers["github"], &mcptest.UpstreamOptions{Token: token, Legacy: s.legacy})
	w.slack = mcptest.NewUpstream(t, w.servers["slack"], &mcptest.UpstreamOptions{Legacy: s.legacy})
	w.snow = mcptest.NewUpstream(t, w.servers["snowflake"], nil)
	w.vault = credential.NewMemory(map[string]credential.Secret{"github": credential.NewSecret([]byte(token))})
	require.NoError(t, w.vault.Bind(t.Context(), "github", credential.Binding{Origin: w.github.URL}, admin))

	opts := &mcpx.GatewayOptions{Vault: w.vault, Agents: w.agents, Logger: slog.New(slog.NewTextHandler(w.logged, nil))}
	if s.options != nil {
		s.options(opts)
	}
	w.gateway = mcpx.NewGateway(w.engine, rec, opts)
	t.Cleanup(func() { w.gateway.Close() })
	gh := mcpx.HTTP("github", w.github.URL)
	gh.Credential = "github"
	for _, u := range []*mcpx.Upstream{gh, mcpx.HTTP("slack", w.slack.URL), mcpx.HTTP("snowflake", w.snow.URL)} {
		require.NoError(t, w.gateway.AddUpstream(t.Context(), u))
	}
	return w
}

// agent connects actor through a door of its own.
func (w *world) agent(actor audit.Actor, version string) *mcptest.Agent {
	w.t.Helper()
	return mcptest.Connect(w.t, mcptest.Door(w.t, w.gateway, actor).URL, &mcptest.ConnectOptions{Version: version})
}

// mark returns the records made since the last mark.
func (w *world) since(n int) []audit.Record {
	all := w.log.Records()
	return all[n:]
}

func (w *world) mark() int { return len(w.log.Records()) }

type prArgs struct {
	Repo  string `json:"repo"`
	State string `json:"state,omitempty"`
}

type prOut struct {
	ID    int64    `json:"id"`
	Title []string `json:"title"`
}

func githubServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "github", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "list_prs", Description: "Lists pull requests.", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(_ context.Context, _ *mcp.CallToolRequest, in prArgs) (*mcp.CallToolResult, prOut, error) {
			return nil, prOut{ID: 9007199254740993, Title: []string{"fix " + in.Repo}}, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "delete_repo", Description: "Deletes."},
		func(context.Context, *mcp.CallToolRequest, prArgs) (*mcp.CallToolResult, any, error) {
			return nil, nil, nil
		})
	s.AddTool(&mcp.Tool{Name: "big", Description: "Answers with numbers that floats cannot hold.", InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{StructuredContent: json.RawMessage(`{"id":9007199254740993,"u":12345678901234567890,"f":1e-7}`)}, nil
		})
	// leak sends back the credential that it got, as a careless server would.
	s.AddTool(&mcp.Tool{Name: "leak", Description: "Leaks.", InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			auth := r.Extra.Header.Get("Authorization")
			return &mcp.CallToolResult{
				Content:           []mcp.Content{&mcp.TextContent{Text: "sent: " + auth}},
				StructuredContent: json.RawMessage(`{"n":9007199254740993,"auth":` + fmt.Sprintf("%q", auth) + `}`),
			}, nil
		})
	s.AddTool(&mcp.Tool{Name: "fail", Description: "Fails.", InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return nil, &jsonrpc.Error{Code: -31000, Message: "broken with " + r.Extra.Header.Get("Authorization")}
		})
	return s
}

type postArgs struct {
	Channel string `json:"channel"`
	Text    string `json:"text"`
}

func slackServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "slack", Version: "1"}, nil)
	no := false
	mcp.AddTool(s, &mcp.Tool{Name: "post_message", Description: "Posts.", Annotations: &mcp.ToolAnnotations{DestructiveHint: &no}},
		func(_ context.Context, _ *mcp.CallToolRequest, in postArgs) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "posted to " + in.Channel}}}, nil, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "delete_message", Description: "Deletes."},
		func(context.Context, *mcp.CallToolRequest, prArgs) (*mcp.CallToolResult, any, error) {
			return nil, nil, nil
		})
	return s
}

func snowServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "snowflake", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "query", Description: "Queries.", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(context.Context, *mcp.CallToolRequest, struct {
			SQL string `json:"sql"`
		}) (*mcp.CallToolResult, any, error) {
			return nil, nil, nil
		})
	return s
}

// agents is a registry in which everybody lives until revoked.
type agents struct {
	mu      sync.Mutex
	revoked map[string]bool
	cancel  map[string][]context.CancelCauseFunc
	live    int // contexts that have not ended
}

func newAgents() *agents {
	return &agents{revoked: map[string]bool{}, cancel: map[string][]context.CancelCauseFunc{}}
}

var errRevoked = fmt.Errorf("revoked")

func (a *agents) Context(ctx context.Context, who audit.Actor) (context.Context, context.CancelFunc, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked[who.Agent] {
		return nil, nil, errRevoked
	}
	ctx, cancel := context.WithCancelCause(ctx)
	a.cancel[who.Agent] = append(a.cancel[who.Agent], cancel)
	a.live++
	return ctx, sync.OnceFunc(func() {
		cancel(nil)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.live--
	}), nil
}

// idle reports whether nobody is watched.
func (a *agents) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live == 0
}

func (a *agents) reinstate(agent string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.revoked, agent)
}

func (a *agents) revoke(agent string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[agent] = true
	for _, c := range a.cancel[agent] {
		c(errRevoked)
	}
}

// lines collects the operator's log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// denial reads what an agent is told.
func denial(t testing.TB, res *mcp.CallToolResult) mcpx.Denial {
	t.Helper()
	require.True(t, res.IsError, "%s", mcptest.Text(res))
	b, err := json.Marshal(res.Meta[mcpx.DenialKey])
	require.NoError(t, err)
	var d mcpx.Denial
	require.NoError(t, json.Unmarshal(b, &d))
	require.NotEmpty(t, d.DecisionID, "%s: %s", mcptest.Text(res), b)
	require.NotEmpty(t, d.NextStep)
	return d
}
