package mcpx_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// Nobody needs a permit to see what they may use; a forbid of the action list_tools
// hides a server, and what a permit demands of it is met or nothing is listed.
func TestListsAreDecided(t *testing.T) {
	const all = 5
	for _, c := range []struct {
		name, policy string
		want         int
		withheld     string
	}{
		{"for the user", `@id("l") forbid (principal == User::"ann", action == Action::"list_tools", resource);`, 0, "github"},
		{"nothing is said", ``, all, ""},
		{"permitted", `@id("l") permit (principal, action == Action::"list_tools", resource);`, all, ""},
		{"one server is forbidden", `@id("l") forbid (principal, action == Action::"list_tools", resource == Server::"github");`, 1, "github"},
		{"for another agent", `@id("l") forbid (principal == Agent::"other", action == Action::"list_tools", resource);`, all, ""},
		{"all are", `@id("l") forbid (principal, action == Action::"list_tools", resource);`, 0, "github slack"},
		{"all are, and permitted", `@id("p") permit (principal, action == Action::"list_tools", resource); @id("l") forbid (principal, action == Action::"list_tools", resource);`, 0, "github slack"},
	} {
		for _, version := range []string{legacy, modern} {
			t.Run(c.name+" "+version, func(t *testing.T) {
				w := newWorld(t, &setup{policy: c.policy})
				actor := bot
				if c.name == "for the user" {
					actor.User = "ann"
				}
				a := w.agent(actor, version)
				n := w.mark()
				tools, err := a.Tools(t.Context())
				require.NoError(t, err)
				assert.Len(t, tools, c.want, tools)
				recs := w.since(n)
				require.Len(t, recs, 1)
				assert.Equal(t, audit.KindList, recs[0].Event.Kind)
				assert.Equal(t, c.withheld, recs[0].Event.Detail["withheld"])
				if actor.User == "" {
					res, err := a.Call(t.Context(), "github__list_prs", `{"repo":"x"}`)
					require.NoError(t, err)
					assert.False(t, res.IsError, "what is not listed can be called all the same")
				}
			})
		}
	}
}

func TestListsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, policy, want string }{
		{"rate", `@id("l") @rate("2/1h") permit (principal, action == Action::"list_tools", resource);`, audit.GuardRate},
		{"approval", `@id("l") @approval("x") permit (principal, action == Action::"list_tools", resource);`, audit.GuardObligation},
		{"stale", ``, audit.GuardStale},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, &setup{policy: c.policy})
			a := w.agent(bot, modern)
			if c.name == "rate" { // one for each server
				_, err := a.Tools(t.Context())
				require.NoError(t, err)
			}
			if c.name == "stale" {
				w.engine.FreshUntil(time.Now().Add(-time.Second))
			}
			_, err := a.Tools(t.Context())
			require.ErrorContains(t, err, "decision")
			denials := w.log.Denials()
			require.Len(t, denials, 1)
			assert.Equal(t, c.want, denials[0].Decision.Reason)
		})
	}
}

// What is not listed is not found either.
func TestSearchesAreDecided(t *testing.T) {
	w := newWorld(t, &setup{
		policy:  `@id("l") forbid (principal, action == Action::"list_tools", resource == Server::"github");`,
		options: func(o *mcpx.GatewayOptions) { o.Search = &mcpx.Search{Above: 0} },
	})
	a := w.agent(bot, modern)
	res, err := a.Call(t.Context(), mcpx.SearchTool, `{"query":"list pull requests and post a message"}`)
	require.NoError(t, err)
	assert.Contains(t, mcptest.Text(res), "slack__post_message")
	assert.NotContains(t, mcptest.Text(res), "github__")
	recs := w.log.Records()
	assert.Equal(t, "github", recs[len(recs)-1].Event.Detail["withheld"])
}
