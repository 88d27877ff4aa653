package recorder

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx/catalog"
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
