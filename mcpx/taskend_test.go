package mcpx_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// count says how many requests of a kind have come.
func (j *jobs) count(what string) (n int) {
	for _, s := range j.has() {
		if s == what {
			n++
		}
	}
	return n
}

func (o *yard) long() about {
	return o.ask(o.url, "tools/call", "jobs__slow_compute", `"name":"jobs__slow_compute","arguments":{"seconds":3600}`)
}

// last is the newest outcome.
func (o *yard) last() *audit.Outcome {
	_, outcomes := o.acts()
	require.NotEmpty(o.t, outcomes)
	return outcomes[len(outcomes)-1].Outcome
}

// However a task ends here without its server, the server is told, once.
func TestTasksThatAreGivenUpAreCancelled(t *testing.T) {
	const cancelled = "tasks/cancel "
	until := func(t *testing.T, o *yard, n int) {
		t.Helper()
		require.Eventually(t, func() bool { return o.jobs.count(cancelled) >= n }, time.Minute, time.Millisecond)
	}
	t.Run("revoked", func(t *testing.T) {
		registry := newAgents()
		o := newYard(t, false, jobsPolicy, func(opts *mcpx.GatewayOptions) { opts.Agents = registry })
		require.Equal(t, "task", o.long().Result.Type)
		registry.revoke("bot")
		until(t, o, 1)
		assert.Equal(t, audit.GuardRevoked, o.last().ErrorCode)
		require.NoError(t, o.gw.Close())
		assert.Equal(t, 1, o.jobs.count(cancelled))
	})
	t.Run("its time is over", func(t *testing.T) {
		o := newYard(t, false, jobsPolicy)
		o.jobs.ttl = 1
		id := o.long().Result.TaskID
		require.NotEmpty(t, id)
		until(t, o, 1)
		assert.Equal(t, "task-expired", o.last().ErrorCode)
		assert.Equal(t, -32602, o.get(id).Error.Code)
	})
	t.Run("no room", func(t *testing.T) {
		o := newYard(t, false, jobsPolicy)
		for range 64 {
			require.Equal(t, "task", o.long().Result.Type)
		}
		full := o.long()
		assert.Contains(t, full.body, "tasks-full")
		assert.Equal(t, "tasks-full", o.last().ErrorCode)
		until(t, o, 1)
	})
	t.Run("closed", func(t *testing.T) {
		o := newYard(t, false, jobsPolicy)
		mcpx.SetFarewell(o.gw, time.Minute)
		done := o.call("slow_compute").Result.TaskID
		o.get(done)
		for range 40 {
			require.Equal(t, "task", o.long().Result.Type)
		}
		require.NoError(t, o.gw.Close())
		assert.Equal(t, 40, o.jobs.count(cancelled), "each that had not ended, before the sessions have")
		intents, outcomes := o.acts()
		assert.Len(t, outcomes, len(intents))
	})
	t.Run("its server has forgotten it", func(t *testing.T) {
		o := newYard(t, false, jobsPolicy)
		id := o.long().Result.TaskID
		o.jobs.mu.Lock()
		clear(o.jobs.of)
		o.jobs.mu.Unlock()
		assert.Equal(t, -32602, o.get(id).Error.Code)
		assert.Equal(t, "task-lost", o.last().ErrorCode)
		require.NoError(t, o.gw.Close())
		assert.Zero(t, o.jobs.count(cancelled))
	})
}

// How often a client has asked is in the outcome. What it may not is on record each
// time.
func TestTasksCountPolls(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	id := o.long().Result.TaskID
	for range 3 {
		assert.Equal(t, "working", o.get(id).Result.Status)
	}
	before := len(o.log.Records())
	o.bundle.Policies[0].Text = jobsPolicy + `@id("not-now") forbid (principal, action == Action::"jobs__slow_compute", resource);`
	_, err := o.engine.Reload(t.Context(), o.bundle, admin)
	require.NoError(t, err)
	for range 2 {
		assert.Equal(t, mcpx.CodeDenied, o.get(id).Error.Code)
	}
	assert.Len(t, o.log.Records(), before+3)
	o.bundle.Policies[0].Text = jobsPolicy
	_, err = o.engine.Reload(t.Context(), o.bundle, admin)
	require.NoError(t, err)
	o.ask(o.url, "tasks/cancel", id, `"taskId":"`+id+`"`)
	assert.Equal(t, "cancelled", o.get(id).Result.Status)
	assert.Equal(t, []string{"polls:4"}, o.last().Checks)
	o.get(id)
	assert.Equal(t, []string{"polls:4"}, o.last().Checks, "what is on record stays")
}

// Policy decides about a task by the session and the engine as they are now.
func TestTasksFollowTheSession(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	server := &o.bundle.Catalog[0]
	server.Tools = slices.Clone(server.Tools)
	for i := range server.Tools {
		if server.Tools[i].Name == "greet" {
			server.Tools[i].Labels = []string{"pii"}
		}
	}
	o.bundle.Policies[0].Text = jobsPolicy + `@id("no-leak") forbid (principal, action == Action::"jobs__confirm_delete", resource) when { context.labels.contains("pii") };`
	_, err := o.engine.Reload(t.Context(), o.bundle, admin)
	require.NoError(t, err)
	o.caps += `,"elicitation":{"form":{}}`
	id := o.call("confirm_delete").Result.TaskID
	require.Equal(t, "input_required", o.get(id).Result.Status)
	require.Contains(t, o.call("greet").body, "Hello")

	seen := len(o.jobs.has())
	tell := func() about {
		return o.ask(o.url, "tasks/update", id, `"taskId":"`+id+`","inputResponses":{"first":{"action":"accept","content":{"name":"x"}}}`)
	}
	reason := func() string { return o.log.Denials()[len(o.log.Denials())-1].Decision.Reason }
	assert.Equal(t, mcpx.CodeDenied, tell().Error.Code)
	assert.Equal(t, "no-leak", reason())
	assert.Equal(t, mcpx.CodeDenied, o.get(id).Error.Code)
	assert.Equal(t, "no-leak", reason())
	assert.Len(t, o.jobs.has(), seen, "what was read does not go to the server")

	other := o.long().Result.TaskID
	assert.Equal(t, "working", o.get(other).Result.Status)
	seen = len(o.jobs.has())
	o.engine.FreshUntil(time.Now().Add(-time.Second))
	assert.Equal(t, mcpx.CodeDenied, o.get(other).Error.Code)
	assert.Equal(t, audit.GuardStale, reason())
	assert.Len(t, o.jobs.has(), seen)
}

// So does it about a call whose client comes again.
func TestLegsMeetAStaleEngine(t *testing.T) {
	m := newMarket(t, true, mayAsk)
	m.shop.asks = []mcp.InputRequest{form("Which size?")}
	var c customer
	opts := c.options()
	opts.ElicitationHandler = func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		m.engine.FreshUntil(time.Now().Add(-time.Second))
		return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"size": "L"}}, nil
	}
	a := m.connect(bot, modern, opts)
	res, err := a.Call(t.Context(), "shop__order", `{}`)
	require.NoError(t, err)
	assert.True(t, res.IsError, mcptest.Text(res))
	assert.Empty(t, m.shop.heard)
	denials := m.log.Denials()
	require.Len(t, denials, 1)
	assert.Equal(t, audit.GuardStale, denials[0].Decision.Reason)
	_, err = a.Tools(t.Context())
	require.Error(t, err, "nor is anything shown")
}

// A task is for the session that began it: what its result tells is held against
// that one.
func TestTasksAreOfTheirSession(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	mine := bot
	mine.Session = "s1"
	o.url = mcptest.Door(t, o.gw, mine).URL
	id := o.call("slow_compute").Result.TaskID
	require.NotEmpty(t, id)
	for _, change := range []func(*audit.Actor){
		func(a *audit.Actor) { a.Session = "s2" },
		func(a *audit.Actor) { a.Session = "" },
		func(a *audit.Actor) { a.Instance = "i" },
	} {
		a := mine
		change(&a)
		url := mcptest.Door(t, o.gw, a).URL
		for _, method := range []string{"tasks/get", "tasks/update", "tasks/cancel"} {
			assert.Equal(t, -32602, o.ask(url, method, id, `"taskId":"`+id+`"`).Error.Code)
		}
	}
	assert.Equal(t, 1, len(o.jobs.has()))
	assert.Equal(t, "completed", o.get(id).Result.Status)
}

// The tasks of one actor hold so many bytes of arguments, and what has ended makes
// room.
func TestTasksHaveRoom(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	big := func() about {
		return o.ask(o.url, "tools/call", "jobs__slow_compute", `"name":"jobs__slow_compute","arguments":{"x":"`+strings.Repeat("x", 3<<20)+`"}`)
	}
	first := big().Result.TaskID
	require.NotEmpty(t, first)
	require.Equal(t, "task", big().Result.Type)
	assert.Contains(t, big().body, "tasks-full", "9 MiB are too much")
	another := mcptest.Door(t, o.gw, other).URL
	assert.Equal(t, "task", o.ask(another, "tools/call", "jobs__slow_compute", `"name":"jobs__slow_compute","arguments":{}`).Result.Type, "others have their own")
	assert.Equal(t, "completed", o.get(first).Result.Status)
	assert.Equal(t, "completed", o.get(first).Result.Status, "for a while it can be had again")
	assert.Equal(t, "task", big().Result.Type)
	assert.Equal(t, -32602, o.get(first).Error.Code, "until its room is needed")
}

// A question that is asked again under the same name but says something else is
// another question.
func TestTaskQuestionsAreWhatTheySay(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	o.caps += `,"elicitation":{"form":{}}`
	id := o.call("confirm_delete").Result.TaskID
	elicits := func() (n int) {
		intents, _ := o.acts()
		for _, r := range intents {
			if r.Intent.Action == "elicit" {
				n++
			}
		}
		return n
	}
	require.Equal(t, "input_required", o.get(id).Result.Status)
	require.Equal(t, "input_required", o.get(id).Result.Status)
	assert.Equal(t, 1, elicits())
	o.jobs.mu.Lock()
	o.jobs.question = strings.Replace(question, "Sure?", "Quite sure?", 1)
	o.jobs.mu.Unlock()
	assert.Contains(t, o.get(id).body, "Quite sure?")
	assert.Equal(t, 2, elicits(), "and on record as such")
	o.jobs.mu.Lock()
	o.jobs.question = strings.Replace(question, `{"name":`, `{"password":`, 1)
	o.jobs.mu.Unlock()
	no := o.get(id)
	assert.Equal(t, mcpx.CodeDenied, no.Error.Code, no.body)
	assert.NotContains(t, no.body, "Sure?")
	for i := range 300 { // however often it thinks of something new
		o.jobs.mu.Lock()
		o.jobs.question = strings.Replace(question, "Sure?", fmt.Sprint("Sure? ", i), 1)
		o.jobs.of["job-1"].asks = map[string]bool{fmt.Sprint("key", i): true}
		o.jobs.mu.Unlock()
		o.get(id)
	}
	assert.Less(t, elicits(), 260, "a task asks so much and no more")
}

// What has ended is forgotten soon, and is no end of anything then.
func TestEndedTasksAreForgotten(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	mcpx.SetEndedTime(o.gw, time.Millisecond)
	id := o.call("slow_compute").Result.TaskID
	require.Equal(t, "completed", o.get(id).Result.Status)
	require.Eventually(t, func() bool { return o.get(id).Error.Code == -32602 }, time.Minute, time.Millisecond)
	require.NoError(t, o.gw.Close())
	_, outcomes := o.acts()
	assert.Len(t, outcomes, 1)
	assert.Zero(t, o.jobs.count("tasks/cancel "))
}
