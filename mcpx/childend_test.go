package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
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
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

const never = time.Hour // longer than the test

// A turnedVault is another vault from one call to the next.
type turnedVault struct {
	mu    sync.Mutex
	vault credential.Vault
	err   error
	asked int
}

func (v *turnedVault) Lease(ctx context.Context, r credential.LeaseRequest) (*credential.Lease, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	if v.err != nil {
		return nil, v.err
	}
	return v.vault.Lease(ctx, r)
}

func (v *turnedVault) turn(vault credential.Vault, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.vault, v.err = vault, err
}

func (v *turnedVault) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

func (c *children) become(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kind = kind
}

func (c *children) started() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

func assertGone(t *testing.T, pid string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	assert.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + pid)
		return err != nil
	}, time.Minute, 10*time.Millisecond, "the child has ended")
}

// busy starts a call that is under way until the function is called, which
// returns the answer.
func busy(t *testing.T, log *audittest.Log, a *mcptest.Agent) func() (string, bool) {
	t.Helper()
	until := filepath.Join(t.TempDir(), "busy")
	require.NoError(t, os.WriteFile(until, nil, 0o600))
	args, _ := json.Marshal(map[string]string{"until": until})
	type answer struct {
		text   string
		failed bool
	}
	got := make(chan answer, 1)
	before := len(log.Records())
	go func() {
		res, err := a.Call(context.WithoutCancel(t.Context()), "child__digest", string(args))
		if err != nil {
			got <- answer{err.Error(), true}
			return
		}
		got <- answer{mcptest.Text(res), res.IsError}
	}()
	require.Eventually(t, func() bool {
		recs := log.Records()
		return len(recs) > before && recs[len(recs)-1].Intent != nil
	}, time.Minute, 5*time.Millisecond)
	return func() (string, bool) {
		_ = os.Remove(until)
		select {
		case g := <-got:
			return g.text, g.failed
		case <-time.After(time.Minute):
			t.Error("the call has not ended")
			return "", true
		}
	}
}

// A child keeps what it was given, so it ends when nobody may use that any more,
// whether anybody calls or not.
func TestChildEndsWithItsSecret(t *testing.T) {
	for name, end := range map[string]error{
		"revoked": nil, "none current": credential.ErrNoCurrent, "unknown": credential.ErrUnknown, "destroyed": credential.ErrDestroyed,
	} {
		for _, called := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, called %v", name, called), func(t *testing.T) {
				c := &children{kind: "server"}
				broker := secretVault(t, "the secret number 0")
				vault := &turnedVault{vault: broker}
				gw, _, a := secretGateway(t, c, vault)
				check := never
				if !called {
					check = 10 * time.Millisecond
				}
				mcpx.SetChildTimes(gw, check, never, 0, never)
				pid := ask(t, a, "pid", `{}`)
				if end == nil {
					require.NoError(t, broker.Revoke(t.Context(), credential.Ref{Name: "child", Version: 1}, admin))
				} else {
					vault.turn(broker, fmt.Errorf("vault: %w", end))
				}
				if called {
					res, err := a.Call(t.Context(), "child__pid", `{}`)
					require.NoError(t, err)
					assert.Equal(t, audit.GuardCredential, denial(t, res).Reason)
				}
				assertGone(t, pid)
				assert.Equal(t, 1, c.started())
			})
		}
	}
}

// What a child does with a secret that was revoked it does not finish.
func TestRevokedChildEndsInACall(t *testing.T) {
	c := &children{kind: "server"}
	broker := secretVault(t, "the secret number 0")
	gw, log, a := secretGateway(t, c, broker)
	mcpx.SetChildTimes(gw, 10*time.Millisecond, never, 0, never)
	pid := ask(t, a, "pid", `{}`)
	finish := busy(t, log, a)
	require.NoError(t, broker.Revoke(t.Context(), credential.Ref{Name: "child", Version: 1}, admin))
	assertGone(t, pid)
	text, failed := finish()
	assert.True(t, failed, text)
}

// A store that is away ends no child, and a vault that panics is like it.
func TestChildOutlivesAStoreThatIsAway(t *testing.T) {
	c := &children{kind: "server"}
	broker := secretVault(t, "the secret number 0")
	vault := &turnedVault{vault: broker}
	gw, _, a := secretGateway(t, c, vault)
	mcpx.SetChildTimes(gw, time.Millisecond, never, 0, never)
	pid := ask(t, a, "pid", `{}`)
	for _, away := range []func() (*credential.Lease, error){
		func() (*credential.Lease, error) { return nil, credential.ErrStore },
		func() (*credential.Lease, error) { panic("vault") },
	} {
		vault.turn(vaultFunc(away), nil)
		looks := vault.count() + 10
		require.Eventually(t, func() bool { return vault.count() > looks }, time.Minute, time.Millisecond)
	}
	vault.turn(broker, nil)
	assert.Equal(t, pid, ask(t, a, "pid", `{}`))
}

type vaultFunc func() (*credential.Lease, error)

func (f vaultFunc) Lease(context.Context, credential.LeaseRequest) (*credential.Lease, error) {
	return f()
}

// A child with an old version ends also when nobody calls any more, after what
// it is doing.
func TestIdleChildEndsAfterRotation(t *testing.T) {
	c := &children{kind: "server"}
	vault := secretVault(t, "the secret number 0")
	asked := &turnedVault{vault: vault}
	gw, log, a := secretGateway(t, c, asked)
	mcpx.SetChildTimes(gw, 5*time.Millisecond, never, 0, 20*time.Millisecond)
	pid := ask(t, a, "pid", `{}`)
	finish := busy(t, log, a)
	_, err := vault.Rotate(t.Context(), "child", credential.NewSecret([]byte("the secret number 1")), admin)
	require.NoError(t, err)
	looks := asked.count() + 20
	require.Eventually(t, func() bool { return asked.count() > looks }, time.Minute, 5*time.Millisecond)
	text, failed := finish()
	assert.False(t, failed)
	assert.Equal(t, digestOf("the secret number 0"), text)
	assertGone(t, pid)
	assert.Equal(t, 1, c.started())
	assert.Equal(t, digestOf("the secret number 1"), ask(t, a, "digest", `{}`))
}

// A name that was deleted and made anew counts from 1 again.
func TestChildOfASecretMadeAnew(t *testing.T) {
	c := &children{kind: "server"}
	vault := &turnedVault{vault: secretVault(t, "the secret number 0")}
	gw, log, a := secretGateway(t, c, vault)
	mcpx.SetChildTimes(gw, never, never, 0, never)
	assert.Equal(t, digestOf("the secret number 0"), ask(t, a, "digest", `{}`))
	vault.turn(secretVault(t, "another secret"), nil)
	assert.Equal(t, digestOf("another secret"), ask(t, a, "digest", `{}`))
	for _, rec := range log.Records() {
		if rec.Outcome != nil {
			assert.EqualValues(t, 1, rec.Outcome.CredentialVersion)
		}
	}
}

// A new child that does not start fails no call while the version of the old
// one may be used. It is not tried at every call.
func TestChildWhoseReplacementFails(t *testing.T) {
	for _, kind := range []string{"garbage", "deaf", "panic"} {
		t.Run(kind, func(t *testing.T) {
			c := &children{kind: "server"}
			vault := secretVault(t, "the secret number 0")
			gw, log, a := secretGateway(t, c, vault)
			mcpx.SetChildTimes(gw, 5*time.Millisecond, 200*time.Millisecond, 0, never)
			pid := ask(t, a, "pid", `{}`)
			c.become(kind)
			ref, err := vault.Rotate(t.Context(), "child", credential.NewSecret([]byte("the secret number 1")), admin)
			require.NoError(t, err)
			for range 3 {
				assert.Equal(t, digestOf("the secret number 0"), ask(t, a, "digest", `{}`))
			}
			recs := log.Records()
			assert.EqualValues(t, 1, recs[len(recs)-1].Outcome.CredentialVersion, "what was used is on record")
			assert.Equal(t, 4, c.started())
			c.become("server")
			// A new child that is slower than calls wait for it serves the next ones.
			for n := 0; ask(t, a, "digest", `{}`) != digestOf("the secret number 1"); n++ {
				require.Less(t, n, 1000)
			}
			assertGone(t, pid)
			recs = log.Records()
			assert.EqualValues(t, ref.Version, recs[len(recs)-1].Outcome.CredentialVersion)

			// The old version is revoked: its child does not serve any more.
			pid = ask(t, a, "pid", `{}`)
			c.become(kind)
			_, err = vault.Rotate(t.Context(), "child", credential.NewSecret([]byte("the secret number 2")), admin)
			require.NoError(t, err)
			ask(t, a, "digest", `{}`)
			require.NoError(t, vault.Revoke(t.Context(), ref, admin))
			if kind == "deaf" {
				return // would wait for the call's whole time
			}
			res, err := a.Call(t.Context(), "child__digest", `{}`)
			require.NoError(t, err)
			assert.Equal(t, "upstream-down", denial(t, res).Reason)
			assertGone(t, pid)
		})
	}
}

// After a failure nothing is started for a while.
func TestChildReplacementPauses(t *testing.T) {
	c := &children{kind: "server"}
	vault := secretVault(t, "the secret number 0")
	gw, _, a := secretGateway(t, c, vault)
	mcpx.SetChildTimes(gw, 5*time.Millisecond, never, never, never)
	ask(t, a, "pid", `{}`)
	c.become("garbage")
	_, err := vault.Rotate(t.Context(), "child", credential.NewSecret([]byte("the secret number 1")), admin)
	require.NoError(t, err)
	for range 5 {
		assert.Equal(t, digestOf("the secret number 0"), ask(t, a, "digest", `{}`))
	}
	assert.Equal(t, 2, c.started())
}

// While a new child hangs as it starts, the other calls go on.
func TestChildReplacementHoldsNobodyUp(t *testing.T) {
	c := &children{kind: "server"}
	vault := secretVault(t, "the secret number 0")
	gw, _, a := secretGateway(t, c, vault)
	mcpx.SetChildTimes(gw, 5*time.Millisecond, never, never, never)
	ask(t, a, "pid", `{}`)
	c.become("deaf")
	_, err := vault.Rotate(t.Context(), "child", credential.NewSecret([]byte("the secret number 1")), admin)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan struct{})
	go func() {
		defer close(first)
		a.Call(ctx, "child__digest", `{}`)
	}()
	require.Eventually(t, func() bool { return c.started() == 2 }, time.Minute, time.Millisecond)
	for range 5 {
		assert.Equal(t, digestOf("the secret number 0"), ask(t, a, "digest", `{}`))
	}
	select {
	case <-first:
		t.Error("the first call does not wait")
	default:
	}
	cancel()
	<-first
	require.NoError(t, gw.Close())
	for _, cmd := range c.all {
		assert.NotNil(t, cmd.ProcessState, "no child is left")
	}
}
