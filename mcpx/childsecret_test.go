package mcpx_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// with adds a secret to a command of children.
func (c *children) with(ctx context.Context, h *credential.Handover) *exec.Cmd {
	cmd := c.command(ctx)
	cmd.Env, cmd.ExtraFiles = append(cmd.Env, h.Env...), h.Files
	return cmd
}

func secretVault(t *testing.T, value string) *credential.Broker {
	t.Helper()
	vault := credential.NewMemory(map[string]credential.Secret{"child": credential.NewSecret([]byte(value))})
	t.Cleanup(func() { vault.Close() })
	require.NoError(t, vault.Bind(t.Context(), "child", credential.Binding{Origin: credential.ProcessOrigin("child"), Scheme: credential.Env("TOKEN")}, admin))
	return vault
}

func secretWorld(t *testing.T, c *children) (*credential.Broker, *audittest.Log, *mcptest.Agent) {
	t.Helper()
	vault := secretVault(t, "the secret number 0")
	_, log, a := secretGateway(t, c, vault)
	return vault, log, a
}

func secretGateway(t *testing.T, c *children, vault credential.Vault) (*mcpx.Gateway, *audittest.Log, *mcptest.Agent) {
	t.Helper()
	log := audittest.NewLog(t)
	catalog, err := mcpx.Catalog(t.Context(), "child", childServer())
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in Action::"call_tool", resource);
@id("key") permit (principal, action == Action::"use_credential", resource == Credential::"child");`}},
		Catalog: []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Vault: vault})
	t.Cleanup(func() { gw.Close() })
	// However slow the machine is, a child that is to replace another one starts.
	mcpx.SetChildTimes(gw, time.Second, never, 0, time.Minute)
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.StdioWith("child", "child", c.with)))
	return gw, log, mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
}

func ask(t *testing.T, a *mcptest.Agent, tool, args string) string {
	res, err := a.Call(t.Context(), "child__"+tool, args)
	if !assert.NoError(t, err) {
		return ""
	}
	assert.False(t, res.IsError, mcptest.Text(res))
	return mcptest.Text(res)
}

// A child has its secret and shows it to nobody. When the secret is rotated the
// next call is done by a new child, while the old one finishes what it does.
func TestChildSecretIsRotated(t *testing.T) {
	c := &children{kind: "server"}
	vault, log, a := secretWorld(t, c)
	assert.Equal(t, digestOf("the secret number 0"), ask(t, a, "digest", `{}`))
	first := ask(t, a, "pid", `{}`)
	assert.Contains(t, ask(t, a, "env", `{}`), "TOKEN=[redacted:child]")
	assert.Len(t, c.all, 1)

	until := filepath.Join(t.TempDir(), "busy")
	require.NoError(t, os.WriteFile(until, nil, 0o600))
	args, _ := json.Marshal(map[string]string{"until": until})
	busy := make(chan string)
	go func() { busy <- ask(t, a, "digest", string(args)) }()
	require.Eventually(t, func() bool { // the call is on its way
		recs := log.Records()
		return recs[len(recs)-1].Intent != nil
	}, time.Minute, 5*time.Millisecond)
	_, err := vault.Rotate(t.Context(), "child", credential.NewSecret([]byte("the secret number 1")), admin)
	require.NoError(t, err)
	assert.Equal(t, digestOf("the secret number 1"), ask(t, a, "digest", `{}`))
	assert.NotEqual(t, first, ask(t, a, "pid", `{}`))
	assert.Len(t, c.all, 2)
	require.NoError(t, os.Remove(until))
	assert.Equal(t, digestOf("the secret number 0"), <-busy, "the call under way was not disturbed")
	if runtime.GOOS == "linux" {
		require.Eventually(t, func() bool {
			_, err := os.Stat("/proc/" + first)
			return err != nil
		}, time.Minute, 10*time.Millisecond, "then the old child ends")
	}
	credentialtest.AssertNoLeak(t, vault.Scrubber(), a.Seen())
	for _, rec := range log.Records() {
		if rec.Outcome != nil {
			assert.Equal(t, audit.StatusOK, rec.Outcome.Status)
		}
	}
}

// Many rotations while calls go on: none fails.
func TestChildSecretRotatesUnderLoad(t *testing.T) {
	rotations := 10
	if os.Getenv("TWINWARD_SOAK") != "" {
		rotations = 1000
	} else if os.Getenv("TWINWARD_FULL") != "" {
		rotations = 100
	}
	c := &children{kind: "server"}
	vault, _, a := secretWorld(t, c)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask(t, a, "digest", `{}`)
				}
			}
		})
	}
	for i := range rotations {
		_, err := vault.Rotate(t.Context(), "child", credential.NewSecret([]byte(fmt.Sprintf("the secret number %d", i+1))), admin)
		require.NoError(t, err)
		ask(t, a, "digest", `{}`)
	}
	close(stop)
	callers.Wait()
	assert.Equal(t, digestOf(fmt.Sprintf("the secret number %d", rotations)), ask(t, a, "digest", `{}`))
}

// An overtaken vault is rotated twice whenever something of it has been leased,
// as often as times says.
type overtaken struct {
	*credential.Broker
	t     *testing.T
	times int
}

func (v *overtaken) Lease(ctx context.Context, req credential.LeaseRequest) (*credential.Lease, error) {
	lease, err := v.Broker.Lease(ctx, req)
	for range 2 {
		if v.times > 0 {
			_, err := v.Rotate(v.t.Context(), "child", credential.NewSecret(fmt.Appendf(nil, "the secret before %d", v.times)), admin)
			assert.NoError(v.t, err)
		}
	}
	v.times--
	return lease, err
}

// A call whose secret two rotations overtake, before the child has it, is done
// with the secret that counts then.
func TestChildSecretOvertaken(t *testing.T) {
	vault := &overtaken{secretVault(t, "the secret number 0"), t, 1}
	c := &children{kind: "server"}
	_, _, a := secretGateway(t, c, vault)
	assert.Equal(t, digestOf("the secret before 1"), ask(t, a, "digest", `{}`))

	vault.times = 1_000_000
	res, err := a.Call(t.Context(), "child__digest", `{}`)
	require.NoError(t, err)
	assert.True(t, res.IsError, "there is an end to it")
}

// Without use_credential there is no child.
func TestChildSecretNeedsPermission(t *testing.T) {
	c := &children{kind: "server"}
	log := audittest.NewLog(t)
	catalog, err := mcpx.Catalog(t.Context(), "child", childServer())
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in Action::"call_tool", resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	vault := credential.NewMemory(map[string]credential.Secret{"child": credential.NewSecret([]byte("the secret number 0"))})
	defer vault.Close()
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Vault: vault})
	defer gw.Close()
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.StdioWith("child", "child", c.with)))
	a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
	res, err := a.Call(t.Context(), "child__pid", `{}`)
	require.NoError(t, err)
	assert.True(t, res.IsError)
	assert.Empty(t, c.all)
}
