package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/examples/internal/tell"
)

// The test binary is the agent too, as the example's own binary is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2]))
	}
	if len(os.Args) == 4 && os.Args[1] == "part" {
		os.Exit(partMain(os.Args[2], os.Args[3]))
	}
	if dir := os.Getenv("TWINWARD_STANDUP_HOST"); dir != "" {
		os.Exit(hostUntilKilled(dir))
	}
	os.Exit(m.Run())
}

// needsSandbox skips a test where this kernel or user cannot have a sandbox; in
// full mode that is a failure.
func needsSandbox(t *testing.T) {
	t.Helper()
	if missing := sandbox.Probe().Missing; len(missing) > 0 {
		if os.Getenv("TWINWARD_FULL") != "" {
			t.Fatalf("no sandbox here: %v", missing)
		}
		t.Skipf("no sandbox here: %v", missing)
	}
}

// rules returns the example's files, with changes of the form
// "file: old -> new", each of which must hit exactly once.
func rules(t *testing.T, changes ...string) (fs.FS, []byte) {
	t.Helper()
	all := fstest.MapFS{}
	require.NoError(t, fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		all[path] = &fstest.MapFile{Data: text}
		return err
	}))
	for _, change := range changes {
		name, edit, ok := strings.Cut(change, ": ")
		require.True(t, ok, change)
		old, now, ok := strings.Cut(edit, " -> ")
		require.True(t, ok, change)
		require.Contains(t, all, name)
		require.Equal(t, 1, strings.Count(string(all[name].Data), old), "%q in %s", old, name)
		all[name].Data = []byte(strings.Replace(string(all[name].Data), old, now, 1))
	}
	bundle, err := fs.Sub(all, "bundle")
	require.NoError(t, err)
	return bundle, all["sandbox.yaml"].Data
}

// A told story: what was printed with -json, and how it ended.
type told struct {
	lines   []tell.Line
	summary tell.Summary
	err     error
}

func hear(t *testing.T, opts options, changes ...string) told {
	t.Helper()
	bundle, walls := rules(t, changes...)
	opts.json, opts.dir = true, t.TempDir()
	var out bytes.Buffer
	story := told{err: runWith(t.Context(), opts, bundle, walls, &out)}
	for dec := json.NewDecoder(&out); dec.More(); {
		var both struct {
			tell.Line
			Summary *tell.Summary
		}
		require.NoError(t, dec.Decode(&both))
		if both.Summary != nil {
			story.summary = *both.Summary
		} else {
			story.lines = append(story.lines, both.Line)
		}
	}
	return story
}

// outcomes says for each step of the story what came of it, without what
// differs from run to run.
func (s told) outcomes() map[string]string {
	got := map[string]string{}
	for _, l := range s.lines {
		if l.Action == "exec" || l.Action == "connect" && l.Decision == "allow" {
			continue // how the agent gets anywhere, not what it does
		}
		cause, _, _ := strings.Cut(l.Reason, "@")
		if l.Decision == "allow" {
			cause = ""
		}
		got[l.Step] = l.Decision + " " + cause
	}
	return got
}

func TestTheStoryInTheSandbox(t *testing.T) {
	needsSandbox(t)
	s := hear(t, options{})
	require.NoError(t, s.err)
	assert.Equal(t, map[string]string{
		"list": "allow ", "model": "allow ", "pull-requests": "allow ", "post-engineering": "allow ",
		"post-executive":  "deny slack-only-listed-channels",
		"direct-messages": "deny no-direct-messages",
		"delete-message":  "deny no-destructive-tools",
		"snowflake":       "deny not-in-profile:standup",
		"example.com":     "deny unlisted-host",
		"raw-address":     "deny raw-address",
		"host-file":       "deny sandbox",
		"write-outside":   "deny sandbox",
		"escape":          "deny sandbox",
	}, s.outcomes())
	assert.True(t, s.summary.Verified)
	assert.Zero(t, s.summary.Secrets)
	assert.Equal(t, len(s.lines), s.summary.Allowed+s.summary.Denied)
	assert.FileExists(t, s.summary.Report)
	assert.NotEmpty(t, s.summary.Layers)
}

func TestTheStoryWithAToken(t *testing.T) {
	s := hear(t, options{remote: true})
	require.NoError(t, s.err)
	assert.Equal(t, 4, s.summary.Denied)
	assert.Zero(t, s.summary.Secrets)
	assert.Empty(t, s.summary.Layers)
}

// The zero is worth something: what is hidden on purpose is found, all of it.
func TestWhatIsPlantedIsFound(t *testing.T) {
	needsSandbox(t)
	for _, n := range []int{1, 6, 13} {
		s := hear(t, options{plant: n})
		require.NoError(t, s.err)
		assert.Equal(t, n, s.summary.Secrets)
	}
	s := hear(t, options{plant: 6, remote: true})
	require.NoError(t, s.err)
	assert.Equal(t, 6, s.summary.Secrets)
}

// The scenario is no theatre: each of these changes of one line flips the step
// that it should, and no other.
func TestOneLineFlipsOneStep(t *testing.T) {
	remote := options{remote: true}
	before := hear(t, remote)
	require.NoError(t, before.err)
	for _, c := range []struct{ change, step, now string }{
		{`bundle/policies/tools.cedar: "#engineering", -> "#executive", "#engineering",`, "post-executive", "allow "},
		{`bundle/policies/tools.cedar: "#engineering", -> "#general",`, "post-engineering", "deny slack-only-listed-channels"},
		{`bundle/policies/tools.cedar: action == Action::"slack__read_direct_messages", -> action == Action::"github__delete_branch",`, "direct-messages", "allow "},
		{`bundle/policies/tools.cedar: action in Action::"destructive", -> action in Action::"github:destructive",`, "delete-message", "allow "},
		{`bundle/policies/tools.cedar: action in Action::"github:read", -> action in Action::"github:write",`, "pull-requests", "deny no-permit"},
		{`bundle/profiles/standup.yaml: tools: [list_pull_requests, get_pull_request] -> tools: [get_pull_request]`, "pull-requests", "deny not-in-profile:standup"},
		{`bundle/profiles/standup.yaml:   slack: ->   snowflake: {tools: [run_query]}` + "\n  slack:", "snowflake", "deny no-permit"},
		{`bundle/policies/credentials.cedar: context.server == "slack" -> context.server == "github"`, "post-engineering", "deny no-permit"},
	} {
		t.Run(c.step+" "+c.now, func(t *testing.T) {
			after := hear(t, remote, c.change)
			require.NotEmpty(t, after.lines, "%v", after.err)
			want := before.outcomes()
			want[c.step] = c.now
			assert.Equal(t, want, after.outcomes())
			assert.Error(t, after.err, "the run must not pass for the story")
		})
	}
}

// A tool that is no longer what was approved is not called.
func TestAToolThatDiffersFromTheCatalogueIsNotCalled(t *testing.T) {
	s := hear(t, options{remote: true},
		`bundle/catalog/github.json: List the open pull requests of a repository. -> List the pull requests of a repository.`)
	assert.ErrorContains(t, s.err, "step pull-requests: allowed, and then failed (pin-drift)")
}

func TestAHostInTheWallsFlipsItsStep(t *testing.T) {
	needsSandbox(t)
	s := hear(t, options{}, "sandbox.yaml:     - host: tools.local ->     - host: tools.local\n    - host: example.com")
	assert.Equal(t, "deny no-permit", s.outcomes()["example.com"], "the walls let it through now, the policy does not")
}

// The catalogue is what the servers show, so that no tool is drift from the
// start. To make it anew: mcpx.ReadCatalog, then review the classes.
func TestTheCatalogueIsWhatTheServersShow(t *testing.T) {
	bundle, _ := rules(t)
	b, err := governance.LoadBundle(bundle)
	require.NoError(t, err)
	_, err = governance.NewEngine(audittest.NewLog(t), nil).Reload(t.Context(), b, audit.Change{By: "test", Reason: "test"})
	require.NoError(t, err)
	live := servers("http://127.0.0.1:1")
	require.Len(t, b.Catalog, len(live))
	for _, approved := range b.Catalog {
		inside, outside := mcp.NewInMemoryTransports()
		_, err := live[approved.Name].Connect(t.Context(), inside, nil)
		require.NoError(t, err)
		client, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(), outside, nil)
		require.NoError(t, err)
		list, err := client.ListTools(t.Context(), nil)
		require.NoError(t, err)
		var names []string
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
		}
		var want []string
		for _, tool := range approved.Tools {
			want = append(want, tool.Name)
		}
		assert.ElementsMatch(t, want, names, approved.Name)
		require.NoError(t, client.Close())
	}
}

// A real MCP server can take the place of the example's own.
func TestAnUpstreamFromElsewhere(t *testing.T) {
	elsewhere := newVendors(map[string]string{"github": "a-token-from-the-environment"}, "")
	t.Cleanup(elsewhere.Close)
	server := serveMCP(servers(elsewhere.URL)["github"])
	t.Cleanup(server.Close)
	t.Setenv("GITHUB_TOKEN", "a-token-from-the-environment")

	opts := options{remote: true}
	require.NoError(t, opts.addUpstream("github="+server.URL))
	s := hear(t, opts)
	require.NoError(t, s.err)
	assert.Equal(t, "allow ", s.outcomes()["pull-requests"])
	assert.Zero(t, elsewhere.refused)
	assert.Empty(t, os.Getenv("GITHUB_TOKEN"), "the token must not be left where a child inherits it")
}

func TestFlagsThatCannotWorkSaySo(t *testing.T) {
	for _, c := range []struct {
		opts options
		want string
	}{
		{options{provider: "openai"}, "OPENAI_API_KEY"},
		{options{provider: "nobody"}, "nobody"},
	} {
		s := hear(t, c.opts)
		assert.ErrorContains(t, s.err, c.want)
		assert.Empty(t, s.lines)
	}
	t.Setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
	s := hear(t, options{provider: "openai"})
	assert.ErrorContains(t, s.err, "-model")
	assert.Empty(t, os.Getenv("OPENAI_API_KEY"), "the key must not be left where a child inherits it")

	var o options
	assert.Error(t, o.addUpstream("jira=http://127.0.0.1:1"))
	require.NoError(t, o.addUpstream("github=http://127.0.0.1:1"))
	s = hear(t, o)
	assert.ErrorContains(t, s.err, "reading the catalogue of http://127.0.0.1:1")
}
