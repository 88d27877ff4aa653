package mcpx_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// What the gateway holds for an agent ends with it, whether or not the agent has a
// call under way; what it holds for others stays, and an agent that is let in again
// begins anew.
func TestChildEndsWithItsAgent(t *testing.T) {
	for name, underWay := range map[string]bool{"idle": false, "in a call": true} {
		t.Run(name, func(t *testing.T) {
			agents := newAgents()
			c := &children{kind: "server"}
			log, gw := stdioWorld(t, c, &mcpx.GatewayOptions{Agents: agents})
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			b := mcptest.Connect(t, mcptest.Door(t, gw, other).URL, nil)
			first, others := ask(t, a, "pid", `{}`), ask(t, b, "pid", `{}`)
			finish := func() (string, bool) { return "", true }
			if underWay {
				finish = busy(t, log, a)
			}
			agents.revoke(bot.Agent)
			assertGone(t, first)
			_, failed := finish()
			assert.True(t, failed)
			res, err := a.Call(t.Context(), "child__pid", `{}`)
			require.NoError(t, err)
			assert.Equal(t, audit.GuardRevoked, denial(t, res).Reason)
			assert.Equal(t, 2, c.started())
			assert.Equal(t, others, ask(t, b, "pid", `{}`))

			agents.reinstate(bot.Agent)
			second := ask(t, a, "pid", `{}`)
			assert.NotEqual(t, first, second)
			assert.Equal(t, second, ask(t, a, "pid", `{}`))
			agents.revoke(bot.Agent)
			assertGone(t, second)
			require.NoError(t, gw.Close())
			assert.Zero(t, agents.live, "nobody is watched any more")
		})
	}
}

// busyLog gets to no intent until its call has ended; meanwhile the agent is revoked.
type busyLog struct {
	audit.Recorder
	revoke func()
}

func (l busyLog) Begin(ctx context.Context, _ audit.Intent) (audit.Call, error) {
	l.revoke()
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", audit.ErrBusy, ctx.Err())
}

// Who is revoked while the log is waited for is told so, and not that the log is
// broken, which the operator does not hear either.
func TestRevokedWhileTheLogIsWaitedFor(t *testing.T) {
	agents := newAgents()
	w := newWorld(t, &setup{
		log:     busyLog{audittest.NewLog(t), func() { agents.revoke(bot.Agent) }},
		options: func(o *mcpx.GatewayOptions) { o.Agents = agents },
	})
	res, err := w.agent(bot, "").Call(t.Context(), "slack__post_message", `{"channel":"#engineering","text":"x"}`)
	require.NoError(t, err)
	assert.Equal(t, audit.GuardRevoked, denial(t, res).Reason)
	assert.Empty(t, w.slack.Calls())
	assert.NotContains(t, w.logged.String(), "could not be recorded")
}

// A faulty registry panics one of the times that it is asked.
type faulty struct {
	*agents
	asked, at atomic.Int64
}

func (a *faulty) Context(ctx context.Context, who audit.Actor) (context.Context, context.CancelFunc, error) {
	if a.asked.Add(1) == a.at.Load() {
		panic("the host's own code")
	}
	return a.agents.Context(ctx, who)
}

// Wherever in a call the host's registry panics: what was begun has an outcome, nothing
// is left behind, and the gateway goes on.
func TestRegistryThatPanics(t *testing.T) {
	for at := int64(1); ; at++ {
		agents := &faulty{agents: newAgents()}
		agents.at.Store(at)
		o := newYard(t, false, jobsPolicy, func(opts *mcpx.GatewayOptions) { opts.Agents = agents })
		first := o.call("slow_compute")
		if agents.asked.Load() < at {
			assert.Equal(t, "task", first.Result.Type, first.body)
			assert.Greater(t, at, int64(3), "at the door, for the session at the server, and for the task")
			return
		}
		assert.NotEqual(t, "task", first.Result.Type, first.body)
		assert.Equal(t, "task", o.call("slow_compute").Result.Type)
		require.NoError(t, o.gw.Close())
		intents, outcomes := o.acts()
		assert.Len(t, outcomes, len(intents))
		require.Eventually(t, agents.idle, time.Minute, time.Millisecond)
	}
}
