package mcpx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/internal/attack"
)

// attackPolicy is what the corpus takes for granted: post to #engineering, pay at
// most 1000, read.
const attackPolicy = `
@id("read") permit (principal, action == Action::"attack__read", resource);
@id("post") permit (principal, action == Action::"attack__post", resource) when { context.args.channel == "#engineering" };
@id("no-executive") forbid (principal, action == Action::"attack__post", resource) when { context.args.channel like "*executive*" };
@id("pay") permit (principal, action == Action::"attack__pay", resource) when { context.args.amount <= 1000 };
@id("nothing-destroys") forbid (principal, action in Action::"destructive", resource);
@id("key") permit (principal, action == Action::"use_credential", resource == Credential::"attack");
`

// attacked is a gateway in front of the corpus's upstream, for agents with
// tokens "agent-bot" and "agent-other".
type attacked struct {
	log      *noted
	upstream *attack.Upstream
	player   *attack.Player
}

// noted is a log that also remembers what was written to it, since reading a log
// takes as long as it is.
type noted struct {
	audit.Recorder
	mu            sync.Mutex
	intents, ends int
	refusals      []string
}

func (n *noted) Begin(ctx context.Context, in audit.Intent) (audit.Call, error) {
	c, err := n.Recorder.Begin(ctx, in)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intents++
	return notedCall{c, n}, nil
}

func (n *noted) Append(ctx context.Context, ev audit.Event) error {
	n.mu.Lock()
	if ev.Kind == audit.KindDenial {
		n.refusals = append(n.refusals, ev.Decision.Reason)
	}
	n.mu.Unlock()
	return n.Recorder.Append(ctx, ev)
}

// take returns what was written since it was asked last.
func (n *noted) take() (intents, ends int, refusals []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	intents, ends, refusals = n.intents, n.ends, n.refusals
	n.intents, n.ends, n.refusals = 0, 0, nil
	return intents, ends, refusals
}

type notedCall struct {
	audit.Call
	log *noted
}

func (c notedCall) End(ctx context.Context, out audit.Outcome) error {
	c.log.mu.Lock()
	c.log.ends++
	if out.Status == audit.StatusFailed {
		c.log.refusals = append(c.log.refusals, out.ErrorCode)
	}
	c.log.mu.Unlock()
	return c.Call.End(ctx, out)
}

type agentTokens struct{}

func (agentTokens) Verify(_ context.Context, token, audience string) (audit.Actor, time.Time, error) {
	agent, ok := strings.CutPrefix(token, "agent-")
	if !ok || audience != "https://gw.example/mcp" {
		return audit.Actor{}, time.Time{}, errors.New("not a token")
	}
	return audit.Actor{Agent: agent, Issuer: "https://issuer.example"}, time.Now().Add(time.Hour), nil
}

func newAttacked(t testing.TB, upstream *attack.Upstream, plain bool) *attacked {
	t.Helper()
	a := &attacked{log: &noted{Recorder: audittest.NewLog(t)}, upstream: upstream}
	srv := httptest.NewServer(a.upstream)
	t.Cleanup(srv.Close)
	server := governance.Server{Name: "attack"}
	for i, text := range attack.Tools {
		var d governance.ToolDefinition
		require.NoError(t, json.Unmarshal([]byte(text), &d))
		server.Tools = append(server.Tools, governance.Tool{
			ToolDefinition: d, Class: []governance.Class{governance.Write, governance.Write, governance.Read, governance.Destructive}[i],
		})
	}
	engine := governance.NewEngine(a.log, nil)
	_, err := engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "attack.cedar", Text: attackPolicy}},
		Profiles: []governance.Profile{{
			ID: "attack", Owner: "test", Agents: []string{"bot", "other"},
			Servers: map[string]governance.Grant{"attack": {Tools: []string{"post", "pay", "read"}}},
		}},
		Catalog: []governance.Server{server},
	}, admin)
	require.NoError(t, err)
	vault := credential.NewMemory(map[string]credential.Secret{"attack": credential.NewSecret([]byte(token))})
	require.NoError(t, vault.Bind(t.Context(), "attack", credential.Binding{Origin: srv.URL}, admin))
	gw := mcpx.NewGateway(engine, a.log, &mcpx.GatewayOptions{Vault: vault, Resource: "https://gw.example/mcp"})
	t.Cleanup(func() { gw.Close() })
	u := mcpx.HTTP("attack", srv.URL)
	u.Credential = "attack"
	require.NoError(t, gw.AddUpstream(t.Context(), u))
	door := httptest.NewServer(gw.Handler(agentTokens{}))
	t.Cleanup(func() {
		door.CloseClientConnections()
		door.Close()
	})
	target := attack.Behind(a.upstream, door.URL, "attack__")
	target.Plain = plain
	target.Header = http.Header{"Authorization": {"Bearer agent-bot"}}
	target.Other = http.Header{"Authorization": {"Bearer agent-other"}}
	a.player, err = attack.NewPlayer(t.Context(), target)
	require.NoError(t, err)
	t.Cleanup(a.player.Close)
	return a
}

// Every row of the corpus, in both eras of client and upstream: nothing forbidden
// reaches the upstream, nothing permitted is refused, and one record has the true
// reason.
func TestAttackCorpus(t *testing.T) {
	for _, newer := range []bool{true, false} {
		// A client that cannot be asked anything is served without the SDK.
		a := newAttacked(t, &attack.Upstream{Modern: newer}, !newer)
		for _, c := range attack.Corpus() {
			for _, era := range a.player.Eras(c) {
				t.Run(fmt.Sprintf("upstream modern=%t/%s/%s/%s", newer, era, c.ID, c.Name), func(t *testing.T) {
					a.log.take()
					calls := len(a.upstream.Calls())
					r := a.player.Play(t.Context(), c, era)
					require.Equal(t, attack.Pass, r.Verdict, r.Reason)
					a.recorded(t, c, len(a.upstream.Calls())-calls)
				})
			}
		}
	}
}

// recorded checks what is on record of a case and of the permitted call after it.
func (a *attacked) recorded(t *testing.T, c attack.Case, calls int) {
	t.Helper()
	intents, ends, refusals := a.log.take()
	assert.GreaterOrEqual(t, intents, calls, "a call without an intent on record")
	assert.Equal(t, intents, ends, "an intent without an outcome")
	if t.Failed() {
		return
	}
	if c.Want != attack.Refused || len(c.Guards) == 0 {
		return
	}
	want := 1
	if c.ID == "C2" {
		want = 2 // hidden, and absent
	}
	require.Len(t, refusals, want)
	for _, got := range refusals {
		assert.True(t, slices.ContainsFunc(c.Guards, func(guard string) bool {
			return got == guard || strings.HasPrefix(got, guard+":")
		}), "on record as %q", got)
	}
}
