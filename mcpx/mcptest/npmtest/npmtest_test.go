package npmtest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx/mcptest/npmtest"
)

func TestNode(t *testing.T) {
	cmd := npmtest.Command(t.Context(), t, npmtest.Conformance, "list")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "auth/client-credentials-basic")
	cmd = npmtest.Command(t.Context(), t, npmtest.Everything)
	cmd.Args = []string{cmd.Args[0], "--version"}
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.True(t, strings.HasPrefix(string(out), "v24."), "%s", out)
}
