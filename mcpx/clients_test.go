package mcpx_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx/mcptest"
	"github.com/twinward-dev/twinward/mcpx/mcptest/npmtest"
)

const (
	deniedPost  = `{"channel":"#executive","text":"no"}`
	allowedPost = `{"channel":"#engineering","text":"yes"}`
)

// typescript is a client of the TypeScript SDK, which does what oldsdk does.
const typescript = `
import { Client } from "%[1]s/client/index.js";
import { StreamableHTTPClientTransport } from "%[1]s/client/streamableHttp.js";
const [url, times, tool, denied, allowed] = process.argv.slice(2);
const client = new Client({name: "typescript", version: "1"});
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
await client.listTools();
for (let i = 0; i < Number(times); i++) {
	const res = await client.callTool({name: tool, arguments: JSON.parse(denied)});
	if (!res.isError || res.content.length === 0) throw new Error("denial " + i + ": " + JSON.stringify(res));
}
const res = await client.callTool({name: tool, arguments: JSON.parse(allowed)});
if (res.isError) throw new Error(JSON.stringify(res));
console.log(times + " denials, protocol " + transport.protocolVersion);
await client.close();
`

// denials is how often a client is denied in a row.
func denials() int {
	switch {
	case os.Getenv("TWINWARD_SOAK") != "":
		return 1000
	case os.Getenv("TWINWARD_FULL") != "":
		return 100
	}
	return 10
}

// However often a client is denied, its session lives on, whoever has made the
// client, and what is allowed still works.
func TestClientsSurviveDenials(t *testing.T) {
	w := newWorld(t, nil) // of whose logs nobody may see any: the inspector asks if it is told that there are some
	door := mcptest.Door(t, w.gateway, bot)
	n, done := denials(), 0
	// after asserts that exactly one more post has gone through.
	after := func(t *testing.T) {
		t.Helper()
		done++
		calls := w.slack.Calls()
		require.Len(t, calls, done)
		assert.JSONEq(t, allowedPost, string(calls[done-1].Arguments))
	}
	for _, version := range []string{legacy, modern} {
		t.Run("go-sdk "+version, func(t *testing.T) {
			a := mcptest.Connect(t, door.URL, &mcptest.ConnectOptions{Version: version})
			for range n {
				res, err := a.Call(t.Context(), "slack__post_message", deniedPost)
				require.NoError(t, err)
				require.True(t, res.IsError)
			}
			res, err := a.Call(t.Context(), "slack__post_message", allowedPost)
			require.NoError(t, err)
			assert.False(t, res.IsError, mcptest.Text(res))
			after(t)
		})
	}
	run := func(t *testing.T, cmd *exec.Cmd) string {
		t.Helper()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		t.Logf("%s", out)
		return string(out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	args := []string{door.URL, strconv.Itoa(n), "slack__post_message", deniedPost, allowedPost}
	t.Run("go-sdk 1.7", func(t *testing.T) {
		npmtest.Dir(t) // full mode
		exe := filepath.Join(t.TempDir(), "oldsdk")
		build := exec.CommandContext(ctx, "go", "build", "-C", "internal/oldsdk", "-o", exe, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		run(t, build)
		assert.Contains(t, run(t, exec.CommandContext(ctx, exe, args...)), fmt.Sprint(n, " denials"))
		after(t)
	})
	t.Run("TypeScript SDK", func(t *testing.T) {
		dir := npmtest.Dir(t)
		script := filepath.Join(t.TempDir(), "client.mjs")
		sdk := filepath.Join(dir, "node_modules/@modelcontextprotocol/sdk/dist/esm")
		require.NoError(t, os.WriteFile(script, fmt.Appendf(nil, typescript, sdk), 0o600))
		cmd := exec.CommandContext(ctx, npmtest.Node(t), append([]string{script}, args...)...)
		cmd.Env = []string{}
		assert.Contains(t, run(t, cmd), fmt.Sprint(n, " denials"))
		after(t)
	})
	t.Run("inspector", func(t *testing.T) {
		inspect := func(args ...string) *exec.Cmd {
			cmd := npmtest.Command(ctx, t, npmtest.Inspector, append([]string{"--cli", door.URL, "--transport", "http"}, args...)...)
			cmd.Env = []string{"HOME=" + t.TempDir()}
			return cmd
		}
		assert.Contains(t, run(t, inspect("--method", "tools/list")), "slack__post_message")
		out, _ := inspect("--method", "tools/call", "--tool-name", "slack__post_message", "--tool-arg", "channel=#executive", "--tool-arg", "text=no").CombinedOutput()
		assert.Contains(t, string(out), `"isError": true`)
		assert.NotContains(t, run(t, inspect("--method", "tools/call", "--tool-name", "slack__post_message", "--tool-arg", "channel=#engineering", "--tool-arg", "text=yes")), `"isError": true`)
		after(t)
	})
}
