//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
	"github.com/twinward-dev/twinward/mcpx/mcptest/npmtest"
	"github.com/twinward-dev/twinward/sandbox"
)

// An api is a vendor's API with a real token check.
type api struct {
	mu      sync.Mutex
	token   string
	answer  func(w http.ResponseWriter, r *http.Request, ok bool)
	granted []string // requests with the right token
	refused int
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ok := r.Header.Get("Authorization") == "Bearer "+a.token
	if ok {
		a.granted = append(a.granted, r.Method+" "+r.URL.Path)
	} else {
		a.refused++
	}
	w.Header().Set("Content-Type", "application/json")
	a.answer(w, r, ok)
}

func (a *api) want(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = token
}

func (a *api) seen() ([]string, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.granted), a.refused
}

func githubAPI(w http.ResponseWriter, r *http.Request, ok bool) {
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message":"Bad credentials"}`)
		return
	}
	fmt.Fprintf(w, `{"total_count":1,"incomplete_results":false,"items":[{"title":"Retry webhooks","asked":%q}]}`, r.URL.Query().Get("q"))
}

func slackAPI(w http.ResponseWriter, r *http.Request, ok bool) {
	if !ok {
		fmt.Fprint(w, `{"ok":false,"error":"invalid_auth"}`)
		return
	}
	var post struct{ Channel, Text string }
	json.NewDecoder(r.Body).Decode(&post)
	fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":"1.2"}`, post.Channel)
}

// A server that goes wherever it is told to.
const hostile = `
import readline from "node:readline";
import fs from "node:fs";
import net from "node:net";
const answer = {
	initialize: (p) => ({protocolVersion: p.protocolVersion, capabilities: {tools: {}}, serverInfo: {name: "hostile", version: "1"}}),
	"tools/list": () => ({tools: [{name: "go", description: "Goes.", inputSchema: {type: "object", properties: {url: {type: "string"}}}, annotations: {readOnlyHint: true}}]}),
	"tools/call": async (p) => ({content: [{type: "text", text: await go(p.arguments.url)}]}),
};
async function go(url) {
	try {
		if (url.startsWith("tcp://")) {
			const {hostname, port} = new URL(url);
			return await new Promise((ok, no) => { net.connect({host: hostname.replace(/[\[\]]/g, ""), port}, () => ok("connected")).on("error", no); });
		}
		if (url.startsWith("file://")) return "read " + fs.readFileSync(new URL(url));
		return "status " + (await fetch(url, {signal: AbortSignal.timeout(5000)})).status;
	} catch (e) { return "no: " + e; }
}
readline.createInterface({input: process.stdin}).on("line", async (line) => {
	const m = JSON.parse(line);
	if (m.id === undefined) return;
	const reply = answer[m.method] ? {result: await answer[m.method](m.params)} : {error: {code: -32601, message: "no such method"}};
	process.stdout.write(JSON.stringify({jsonrpc: "2.0", id: m.id, ...reply}) + "\n");
});
`

// Servers that others have written, from npm as they are, each in a sandbox
// session that opens its vendor's origin and nothing else. Who serves that
// origin here is the test.
func TestServersFromNPM(t *testing.T) {
	node := npmtest.Node(t)
	if missing := sandbox.Probe().Missing; len(missing) > 0 {
		t.Fatalf("no sandbox here: %v", missing) // npmtest has skipped in plain mode
	}
	t.Setenv("HOST_SECRET", "hunter2")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var strays []string
	host := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { strays = append(strays, r.URL.Path) }))
	host.Listener.Close()
	host.Listener = listener
	host.Start()
	defer host.Close()

	s := newSite(t)
	s.secret("github", credential.BindingSpec{Origin: credential.ProcessOrigin("github"), Type: "env", Name: "GITHUB_PERSONAL_ACCESS_TOKEN"})
	s.secret("slack", credential.BindingSpec{Origin: credential.ProcessOrigin("slack"), Type: "env", Name: "SLACK_BOT_TOKEN"})
	public := t.TempDir()
	require.NoError(t, os.WriteFile(public+"/hostile.mjs", []byte(hostile), 0o644)) // the session runs as another user
	s.write("bundle/policies/rules.cedar", `
@id("all") permit (principal, action in [Action::"call_tool", Action::"list_tools"], resource);
@id("key") permit (principal, action == Action::"use_credential", resource) when { context has server && Credential::"github" == resource && context.server == "github" };
@id("slack-key") permit (principal, action == Action::"use_credential", resource) when { context has server && Credential::"slack" == resource && context.server == "slack" };
@id("one-channel") forbid (principal, action == Action::"slack__slack_post_message", resource) unless { context.args.channel_id == "C1" };
`)
	servers := []struct {
		name, script, reaches string
		args                  []string
		env                   map[string]string
		secret                string
	}{
		{name: "everything", script: npmtest.Script(t, npmtest.Everything)},
		{name: "filesystem", script: npmtest.Script(t, npmtest.Filesystem), args: []string{"/sandbox"}},
		{name: "memory", script: npmtest.Script(t, npmtest.Memory), env: map[string]string{"MEMORY_FILE_PATH": "/sandbox/memory.jsonl"}},
		{name: "github", script: npmtest.Script(t, npmtest.GitHub), reaches: "api.github.com", secret: "github"},
		{name: "slack", script: npmtest.Script(t, npmtest.Slack), reaches: "slack.com", env: map[string]string{"SLACK_TEAM_ID": "T1"}, secret: "slack"},
		{name: "hostile", script: public + "/hostile.mjs", reaches: "vendor.example"},
	}
	var text strings.Builder
	for _, v := range servers {
		// An operator reads the catalogue once, with a token that is worth nothing.
		args := append([]string{v.script}, v.args...)
		cmd := exec.CommandContext(t.Context(), node, args...)
		if v.name == "filesystem" {
			cmd.Args[2] = s.dir
		}
		cmd.Env = []string{"GITHUB_PERSONAL_ACCESS_TOKEN=none", "SLACK_BOT_TOKEN=none", "SLACK_TEAM_ID=T1", "MEMORY_FILE_PATH=" + s.dir + "/memory.jsonl"}
		s.catalog(v.name, &mcp.CommandTransport{Command: cmd})

		policy := sandbox.Policy{Filesystem: sandbox.Filesystem{ReadOnly: append(slices.DeleteFunc(sandbox.SystemPaths(), missing), npmtest.Dir(t), public)}}
		if v.reaches != "" {
			policy.Network.Allow = []sandbox.Rule{{Host: v.reaches, Ports: []uint16{443}, Served: true}}
		}
		s.write(v.name+".yaml", string(policy.YAML()))
		command, _ := json.Marshal(append([]string{node}, args...))
		env, _ := json.Marshal(v.env)
		if v.env == nil {
			env = []byte("{}")
		}
		fmt.Fprintf(&text, "  - {name: %s, command: %s, env: %s, sandbox: %s.yaml, credential: %q}\n", v.name, command, env, v.name, v.secret)
	}
	g := s.start("agents:\n" + s.agent("alice") + s.agent("bob") + "servers:\n" + text.String())
	apis := map[string]*api{
		"github":  {token: s.secrets["github"], answer: githubAPI},
		"slack":   {token: s.secrets["slack"], answer: slackAPI},
		"hostile": {answer: func(w http.ResponseWriter, _ *http.Request, _ bool) { fmt.Fprint(w, "{}") }},
	}
	names := map[string]string{"github": "api.github.com", "slack": "slack.com", "hostile": "vendor.example"}
	g.furnish = func(server string, box *sandbox.Session) error {
		if a := apis[server]; a != nil {
			return box.Handle(names[server], a)
		}
		return nil
	}
	alice, bob := g.connect("alice"), g.connect("bob")
	call := func(a *mcptest.Agent, tool, args string) (string, bool) {
		res, err := a.Call(t.Context(), tool, args)
		if err != nil {
			return err.Error(), false
		}
		return mcptest.Text(res), !res.IsError
	}

	t.Run("everything", func(t *testing.T) {
		text, ok := call(alice, "everything__echo", `{"message":"hello"}`)
		assert.True(t, ok, text)
		assert.Contains(t, text, "hello")
		text, ok = call(alice, "everything__get-env", `{}`)
		require.True(t, ok, text)
		var env map[string]string
		require.NoError(t, json.Unmarshal([]byte(text), &env), text)
		assert.Contains(t, env, "NODE_EXTRA_CA_CERTS", "the session's own")
		assert.NotContains(t, text, "hunter2")
		for name, secret := range s.secrets {
			assert.NotContains(t, slices.Collect(maps.Values(env)), secret, name)
		}
		t.Log("its environment:", slices.Sorted(maps.Keys(env)))
	})
	t.Run("filesystem", func(t *testing.T) {
		text, ok := call(alice, "filesystem__write_file", `{"path":"/sandbox/note","content":"for alice"}`)
		assert.True(t, ok, text)
		text, ok = call(alice, "filesystem__read_text_file", `{"path":"/sandbox/note"}`)
		assert.True(t, ok, text)
		assert.Contains(t, text, "for alice")
		_, ok = call(bob, "filesystem__read_text_file", `{"path":"/sandbox/note"}`)
		assert.False(t, ok, "each agent has a server, and a session, of its own")
		_, ok = call(alice, "filesystem__read_text_file", `{"path":"/etc/passwd"}`)
		assert.False(t, ok)
	})
	t.Run("memory", func(t *testing.T) {
		text, ok := call(alice, "memory__create_entities", `{"entities":[{"name":"standup","entityType":"meeting","observations":["at nine"]}]}`)
		assert.True(t, ok, text)
		text, ok = call(alice, "memory__read_graph", `{}`)
		assert.True(t, ok, text)
		assert.Contains(t, text, "at nine")
	})
	t.Run("github", func(t *testing.T) {
		text, ok := call(alice, "github__search_issues", `{"q":"is:open"}`)
		assert.True(t, ok, text)
		assert.Contains(t, text, "Retry webhooks")
		granted, refused := apis["github"].seen()
		assert.Equal(t, []string{"GET /search/issues"}, granted)
		assert.Zero(t, refused)
		apis["github"].want("another")
		text, _ = call(alice, "github__search_issues", `{"q":"is:open"}`)
		assert.Contains(t, text, "Bad credentials")
		granted, refused = apis["github"].seen()
		assert.Len(t, granted, 1)
		assert.Equal(t, 1, refused)
	})
	t.Run("slack", func(t *testing.T) {
		text, ok := call(alice, "slack__slack_post_message", `{"channel_id":"C1","text":"standup"}`)
		assert.True(t, ok, text)
		assert.Contains(t, text, `"ok":true`)
		_, ok = call(alice, "slack__slack_post_message", `{"channel_id":"C2","text":"standup"}`)
		assert.False(t, ok, "policy has one channel")
		granted, refused := apis["slack"].seen()
		assert.Equal(t, []string{"POST /api/chat.postMessage"}, granted)
		assert.Zero(t, refused)
		apis["slack"].want("another")
		text, _ = call(alice, "slack__slack_post_message", `{"channel_id":"C1","text":"standup"}`)
		assert.Contains(t, text, "invalid_auth")
	})
	t.Run("hostile", func(t *testing.T) {
		text, ok := call(alice, "hostile__go", `{"url":"https://vendor.example/"}`)
		assert.True(t, ok)
		assert.Equal(t, "status 200", text, "its vendor")
		at := host.Listener.Addr().String()
		for _, url := range []string{
			"https://api.github.com/", "https://slack.com/", "https://example.com/", "http://vendor.example/", "https://vendor.example:8443/",
			"http://" + at + "/a", "tcp://" + at, "http://localhost/", "http://169.254.169.254/",
			"file://" + s.dir + "/vault.key", "file://" + s.dir + "/vault", "file:///proc/1/root" + s.dir + "/vault",
		} {
			text, ok := call(alice, "hostile__go", fmt.Sprintf(`{"url":%q}`, url))
			assert.True(t, ok, text)
			assert.True(t, strings.HasPrefix(text, "no: "), "%s: %s", url, text)
		}
	})
	assert.Empty(t, strays, "what reached this host")
	g.quiet(alice, bob)
	sessions := map[string]bool{}
	for rec, err := range g.log.Query(t.Context(), audit.Filter{Door: audit.DoorCompute}) {
		require.NoError(t, err)
		if rec.Intent != nil {
			sessions[rec.Intent.Actor.Agent] = true
		}
	}
	assert.True(t, sessions["server:hostile"], "the servers' own acts are on record: %v", sessions)
}

// missing reports whether the machine has no such path.
func missing(path string) bool {
	_, err := os.Stat(path)
	return err != nil
}
