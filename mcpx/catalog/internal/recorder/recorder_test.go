package recorder

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/catalog"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// In full mode some servers are installed anew and asked again: the stored
// records are what they answer, word for word, and a word that differs is drift.
func TestRecordsAreWhatServersAnswer(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") == "" {
		t.Skip("set TWINWARD_FULL=1 to install servers from npm and record them again")
	}
	for _, id := range []string{"filesystem", "github", "memory", "slack"} {
		t.Run(id, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			c, err := catalog.Load(id)
			require.NoError(t, err)
			dir := t.TempDir()
			r, err := Record(ctx, c, dir)
			require.NoError(t, err, "npm is needed in full mode")
			assert.Equal(t, *c.Record(), r)

			server, err := c.Approve(ctx, "", start(ctx, t, c, dir))
			require.NoError(t, err)
			assert.Len(t, server.Tools, len(r.Tools))
			assert.NotEmpty(t, server.Tools[0].Description, "the server's own words")

			c.Record().Tools[0].Pin = "sha256:other"
			_, err = c.Approve(ctx, "", start(ctx, t, c, dir))
			drift, ok := errors.AsType[*catalog.DriftError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, []string{r.Tools[0].Name}, drift.Changed)
		})
	}
}

func start(ctx context.Context, t *testing.T, c *catalog.Connector, dir string) mcp.Transport {
	t.Helper()
	cmd, _, err := Command(ctx, c, dir)
	require.NoError(t, err)
	return &mcp.CommandTransport{Command: cmd}
}

// What cannot be started says why.
func TestCommandErrors(t *testing.T) {
	dir := t.TempDir()
	for want, c := range map[string]*catalog.Connector{
		"has no package":                  {ID: "a"},
		"no packages of pypi are started": {ID: "a", Package: &catalog.Package{Registry: "pypi", Name: "a", Version: "1"}},
	} {
		_, _, err := Command(t.Context(), c, dir)
		assert.ErrorContains(t, err, want)
	}
}

// A real server from npm behind the gateway, with what the catalogue says of it:
// approved live, its reads and reviewed writes go through, and what destroys
// does not, for each reason on record.
func TestApprovedServerBehindTheGateway(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") == "" {
		t.Skip("set TWINWARD_FULL=1 to run a server from npm behind the gateway")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c, err := catalog.Load("memory")
	require.NoError(t, err)
	dir := t.TempDir()
	server, err := c.Approve(ctx, "notes", start(ctx, t, c, dir))
	require.NoError(t, err)
	policies, err := c.Starter("writers", &catalog.StarterOptions{Server: "notes"})
	require.NoError(t, err)

	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(ctx, governance.Bundle{
		Catalog: []governance.Server{server}, Policies: []governance.Source{policies},
		Profiles: []governance.Profile{{ID: "writers", Owner: "tests", Agents: []string{"bot"},
			Servers: map[string]governance.Grant{"notes": {Tools: []string{"*"}}}}},
	}, audit.Change{By: "tests", Reason: "starter policies"})
	require.NoError(t, err)
	gateway := mcpx.NewGateway(engine, log, nil)
	defer gateway.Close()
	require.NoError(t, gateway.AddUpstream(ctx, mcpx.Stdio("notes", func(ctx context.Context) *exec.Cmd {
		cmd, _, err := Command(ctx, c, dir)
		assert.NoError(t, err)
		return cmd
	})))
	agent := mcptest.Connect(t, mcptest.Door(t, gateway, audit.Actor{Agent: "bot", Session: "s1"}).URL, nil)

	tools, err := agent.Tools(ctx)
	require.NoError(t, err)
	assert.Contains(t, tools, "notes__read_graph")
	assert.NotContains(t, tools, "notes__delete_entities")

	res, err := agent.Call(ctx, "notes__create_entities", `{"entities":[{"name":"Ann","entityType":"person","observations":["likes tea"]}]}`)
	require.NoError(t, err)
	require.False(t, res.IsError, mcptest.Text(res))
	res, err = agent.Call(ctx, "notes__read_graph", `{}`)
	require.NoError(t, err)
	assert.Contains(t, mcptest.Text(res), "likes tea")

	res, err = agent.Call(ctx, "notes__delete_entities", `{"entityNames":["Ann"]}`)
	require.NoError(t, err)
	assert.True(t, res.IsError)
	denials := log.Denials()
	require.Len(t, denials, 1)
	assert.Equal(t, "notes-no-destructive", denials[0].Decision.Reason)
	res, err = agent.Call(ctx, "notes__read_graph", `{}`)
	require.NoError(t, err)
	assert.Contains(t, mcptest.Text(res), "likes tea", "nothing was deleted")
}
