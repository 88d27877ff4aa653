package mcpx_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// talkative is a server that says a lot on its standard error before it serves.
func talkative() {
	fmt.Fprintln(os.Stderr, "starting with", os.Getenv("TOKEN"))
	fmt.Fprintln(os.Stderr, "and", base64.StdEncoding.EncodeToString([]byte(os.Getenv("TOKEN"))))
	for range 1100 {
		fmt.Fprintln(os.Stderr, "chatter")
	}
}

// What a child says on its standard error is for the operator, without secrets
// and without end.
func TestStderrOfAChild(t *testing.T) {
	log, logged := audittest.NewLog(t), &lines{}
	catalog, err := mcpx.Catalog(t.Context(), "child", childServer())
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in [Action::"call_tool", Action::"use_credential"], resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	vault := credential.NewMemory(map[string]credential.Secret{"child": credential.NewSecret([]byte(token))})
	require.NoError(t, vault.Bind(t.Context(), "child", credential.Binding{Origin: credential.ProcessOrigin("child"), Scheme: credential.Env("TOKEN")}, admin))
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Vault: vault, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	t.Cleanup(func() { gw.Close() })
	c := &children{kind: "talkative"}
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.StdioWith("child", "child", func(ctx context.Context, h *credential.Handover) *exec.Cmd {
		cmd := c.command(ctx)
		cmd.Env = append(cmd.Env, h.Env...)
		return cmd
	})))
	a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
	res, err := a.Call(t.Context(), "child__pid", `{}`)
	require.NoError(t, err)
	require.False(t, res.IsError, mcptest.Text(res))
	require.NoError(t, gw.Close()) // after which everything was heard
	text := logged.String()
	assert.Contains(t, text, "starting with [redacted:child]")
	assert.Empty(t, vault.Scrubber().Count([]byte(text)))
	assert.Equal(t, 998, strings.Count(text, "chatter"))
	assert.Equal(t, 1, strings.Count(text, "says more than is logged"))
}
