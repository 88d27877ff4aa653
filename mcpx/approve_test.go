package mcpx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// Announcements need a person of the leads, and nobody approves for himself.
const withApproval = `
@id("announce") @approval("lead") permit (principal, action == Action::"slack__post_message", resource)
  when { context.args.channel == "#general" };
@id("not-by-himself") forbid (principal, action, resource)
  when { context has approval && context has user && context.approval.by == context.user };
`

const (
	announce = `{"channel":"#general","text":"hello"}`
	slackTo  = "slack__post_message"
)

var (
	lena    = mcpx.Verdict{Approved: true, By: "lena", Reason: "fine", Groups: []string{"staff", "lead"}}
	carlBot = audit.Actor{Agent: "bot", Issuer: "session", User: "carl"}
)

func approvalWorld(t testing.TB, a mcpx.Approver, more ...func(*mcpx.GatewayOptions)) *world {
	return newWorld(t, &setup{policy: withApproval, options: func(o *mcpx.GatewayOptions) {
		o.Approver = a
		for _, f := range more {
			f(o)
		}
	}})
}

// last returns the newest record.
func (w *world) last() audit.Record {
	all := w.log.Records()
	return all[len(all)-1]
}

func eras(t *testing.T, f func(t *testing.T, version string)) {
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) { f(t, version) })
	}
}

// A person agrees to one call: what they saw is what is sent, and it is on record
// who agreed, and of which group.
func TestApproved(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		var asked []mcpx.ApprovalRequest
		w := approvalWorld(t, mcpx.ApproverFunc(func(_ context.Context, r mcpx.ApprovalRequest) (mcpx.Verdict, error) {
			asked = append(asked, r)
			return lena, nil
		}))
		a := w.agent(carlBot, version)
		mark := w.mark()
		res, err := a.Call(t.Context(), slackTo, announce)
		require.NoError(t, err)
		assert.Equal(t, "posted to #general", mcptest.Text(res))
		require.Len(t, asked, 1)
		r := asked[0]
		assert.Equal(t, []any{carlBot, "slack", "post_message", announce, []string{"lead"}, w.engine.Hash(), false},
			[]any{r.Actor, r.Server, r.Tool, string(r.Args), r.Groups, r.Policy, r.Returned})
		require.Len(t, w.slack.Calls(), 1)
		assert.JSONEq(t, announce, string(w.slack.Calls()[0].Arguments))
		recs := w.since(mark)
		require.Len(t, recs, 2, "intent and outcome")
		got := recs[0].Intent.Decision
		assert.Equal(t, &audit.Approval{ID: r.Decision, By: "lena", Reason: "fine", Groups: []string{"lead"}, At: got.Approval.At}, got.Approval)

		// X3, replay: the next call is another one, however alike.
		_, err = a.Call(t.Context(), slackTo, announce)
		require.NoError(t, err)
		require.Len(t, asked, 2)
		assert.NotEqual(t, asked[0].Decision, asked[1].Decision)
		res, err = w.agent(bot, version).Call(t.Context(), slackTo, `{"channel":"#engineering","text":"x"}`)
		require.NoError(t, err)
		assert.False(t, res.IsError)
		assert.Len(t, asked, 2, "what needs no approval asks nobody")
	})
}

// Whatever is not a clear yes of the right person is a no, and nothing is done.
func TestNotApproved(t *testing.T) {
	verdict := func(v mcpx.Verdict, err error) mcpx.Approver {
		return mcpx.ApproverFunc(func(context.Context, mcpx.ApprovalRequest) (mcpx.Verdict, error) { return v, err })
	}
	for name, c := range map[string]struct {
		by     mcpx.Approver
		reason string
		detail map[string]string
	}{
		"no":          {verdict(mcpx.Verdict{By: "lena", Reason: "not today", Groups: []string{"lead"}}, nil), "approval", map[string]string{"by": "lena", "reason": "not today"}},
		"other group": {verdict(mcpx.Verdict{Approved: true, By: "mo", Reason: "yes", Groups: []string{"staff"}}, nil), "approval", map[string]string{"by": "mo", "reason": "yes", "groups": "staff"}},
		"nobody":      {verdict(mcpx.Verdict{Approved: true, Reason: "yes", Groups: []string{"lead"}}, nil), "approval", map[string]string{"by": "", "reason": "yes"}},
		"no reason":   {verdict(mcpx.Verdict{Approved: true, By: "lena", Groups: []string{"lead"}}, nil), "approval", map[string]string{"by": "lena", "reason": ""}},
		"himself":     {verdict(mcpx.Verdict{Approved: true, By: "carl", Reason: "mine", Groups: []string{"lead"}}, nil), "policy", nil},
		"error":       {verdict(lena, errors.New("pager is down")), "approval", nil},
		"panic":       {mcpx.ApproverFunc(func(context.Context, mcpx.ApprovalRequest) (mcpx.Verdict, error) { panic("x") }), "approval", nil},
		"elsewhere":   {verdict(lena, &mcpx.AwaitingError{}), "approval", nil},
		"too late": {mcpx.ApproverFunc(func(ctx context.Context, _ mcpx.ApprovalRequest) (mcpx.Verdict, error) {
			<-ctx.Done()
			return mcpx.Verdict{}, ctx.Err()
		}), "approval", nil},
		"not set": {nil, "obligation", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := approvalWorld(t, c.by, func(o *mcpx.GatewayOptions) {
				if name == "too late" {
					o.ApprovalTime = 1
				}
			})
			a := w.agent(carlBot, modern)
			mark := w.mark()
			res, err := a.Call(t.Context(), slackTo, announce)
			require.NoError(t, err)
			assert.Equal(t, c.reason, denial(t, res).Reason, mcptest.Text(res))
			assert.Empty(t, w.slack.Calls())
			recs := w.since(mark)
			require.Len(t, recs, 1)
			assert.Equal(t, audit.KindDenial, recs[0].Event.Kind)
			assert.Equal(t, c.detail, recs[0].Event.Detail)
			if c.reason == "policy" {
				assert.Equal(t, "not-by-himself", recs[0].Event.Decision.Reason)
				assert.Equal(t, "carl", recs[0].Event.Decision.Approval.By)
			}
		})
	}
}

// X3: what changes between the question and the call makes the answer worthless.
func TestApprovalThenChange(t *testing.T) {
	t.Run("policy", func(t *testing.T) {
		var w *world
		w = approvalWorld(t, mcpx.ApproverFunc(func(ctx context.Context, _ mcpx.ApprovalRequest) (mcpx.Verdict, error) {
			w.reload(t, policy+withApproval+`@id("more") permit (principal, action == Action::"snowflake__query", resource);`)
			return lena, nil
		}))
		a := w.agent(carlBot, modern)
		res, err := a.Call(t.Context(), slackTo, announce)
		require.NoError(t, err)
		assert.Equal(t, "approval", denial(t, res).Reason)
		assert.Contains(t, w.last().Event.Decision.Reason, "approval")
		assert.Empty(t, w.slack.Calls())
	})
	t.Run("revoked", func(t *testing.T) {
		var w *world
		w = approvalWorld(t, mcpx.ApproverFunc(func(ctx context.Context, _ mcpx.ApprovalRequest) (mcpx.Verdict, error) {
			w.agents.revoke("bot")
			<-ctx.Done()
			return lena, nil
		}))
		a := w.agent(carlBot, modern)
		res, err := a.Call(t.Context(), slackTo, announce)
		require.NoError(t, err)
		assert.Equal(t, "revoked", denial(t, res).Reason)
		assert.Empty(t, w.slack.Calls())
	})
}

// reload puts other policies into force.
func (w *world) reload(t testing.TB, policies string) {
	bundle := governance.Bundle{Policies: []governance.Source{{Name: "test.cedar", Text: policies}}, Profiles: profiles(), Catalog: w.engine.Catalog()}
	_, err := w.engine.Reload(t.Context(), bundle, admin)
	require.NoError(t, err)
}

// Calls that wait are bounded for each actor; others still come through.
func TestWaitingIsBounded(t *testing.T) {
	hold := make(chan struct{})
	entered := make(chan struct{}, 64)
	w := approvalWorld(t, mcpx.ApproverFunc(func(ctx context.Context, r mcpx.ApprovalRequest) (mcpx.Verdict, error) {
		if r.Actor.Agent == "bot" {
			entered <- struct{}{}
			<-hold
		}
		return lena, nil
	}))
	a := w.agent(carlBot, modern)
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			res, err := a.Call(t.Context(), slackTo, fmt.Sprintf(`{"channel":"#general","text":"%d"}`, i))
			if err == nil && !res.IsError {
				done.Add(1)
			}
		})
	}
	for range 16 {
		<-entered
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // for the day that it waits too
	defer cancel()
	res, err := a.Call(ctx, slackTo, announce)
	if err != nil {
		close(hold)
	}
	require.NoError(t, err)
	assert.Contains(t, mcptest.Text(res), "Too many calls wait")
	assert.True(t, denial(t, res).Retryable)
	b := w.agent(other, modern)
	res, err = b.Call(t.Context(), slackTo, announce)
	require.NoError(t, err)
	assert.Equal(t, "posted to #general", mcptest.Text(res))
	close(hold)
	wg.Wait()
	assert.Equal(t, int64(16), done.Load())
}

// leads are those of the tests.
func leads(_ context.Context, user string) ([]string, error) {
	if user == "dora" || user == "carl" {
		return []string{"lead"}, nil
	}
	return nil, nil
}

var doraBot = audit.Actor{Agent: "bot", Issuer: "session", User: "dora"}

// without the rule that nobody approves for himself
var ownApproval = strings.Replace(withApproval, "context.approval.by == context.user", `context.approval.by == User::"carl"`, 1)

// The user's client shows a form, in both eras, if the host says that a person
// answers it.
func TestApprovalAtTheClient(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		person := true
		w := newWorld(t, &setup{policy: ownApproval, options: func(o *mcpx.GatewayOptions) {
			o.Approver = &mcpx.ClientApprover{AnsweredByPerson: func(audit.Actor) bool { return person }, Groups: leads}
		}})
		var shown []*mcp.ElicitParams
		answer := &mcp.ElicitResult{Action: "accept", Content: map[string]any{"approve": true, "reason": "go"}}
		client := &mcp.ClientOptions{ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			shown = append(shown, r.Params)
			return answer, nil
		}}
		connect := func(actor audit.Actor) *mcptest.Agent {
			return mcptest.Connect(t, mcptest.Door(t, w.gateway, actor).URL, &mcptest.ConnectOptions{Version: version, Client: client})
		}
		a := connect(doraBot)
		hidden := `{"channel":"#general","text":"pay\u202e me"}`
		res, err := a.Call(t.Context(), slackTo, hidden)
		require.NoError(t, err)
		require.Equal(t, "posted to #general", mcptest.Text(res))
		require.Len(t, shown, 1)
		assert.Contains(t, shown[0].Message, `pay\u202e me`, "what turns text around is shown as what it is")
		require.Len(t, w.slack.Calls(), 1)
		got := intent(t, w, slackTo).Decision.Approval
		assert.Equal(t, []any{"dora", "go", []string{"lead"}}, []any{got.By, got.Reason, got.Groups})

		refused := func(name string, a *mcptest.Agent, shows int, reason ...string) {
			t.Helper()
			reason = append(reason, "approval")
			res, err := a.Call(t.Context(), slackTo, announce)
			require.NoError(t, err, name)
			assert.Equal(t, reason[0], denial(t, res).Reason, name)
			assert.Len(t, w.slack.Calls(), 1, name)
			assert.Len(t, shown, shows, name)
			assert.Equal(t, audit.KindDenial, w.last().Event.Kind, name)
		}
		for _, no := range []*mcp.ElicitResult{
			{Action: "decline"}, {Action: "cancel"}, {Action: "decline", Content: map[string]any{"approve": true}},
			{Action: "accept", Content: map[string]any{"approve": false}},
		} {
			answer = no
			before := len(shown)
			refused("answered no", a, before+1)
		}
		answer = &mcp.ElicitResult{Action: "accept", Content: map[string]any{"approve": true}}
		n := len(shown)
		refused("not a lead", connect(audit.Actor{Agent: "bot", Issuer: "session", User: "eve"}), n)
		refused("for nobody", connect(bot), n)
		refused("policy says who", connectAs(t, w, carlBot, version, client), n+1, "policy")
		plain := w.agent(doraBot, version)
		refused("cannot show forms", plain, n+1)
		person = false
		refused("nobody says that a person answers", a, n+1)
	})
}

func connectAs(t testing.TB, w *world, actor audit.Actor, version string, client *mcp.ClientOptions) *mcptest.Agent {
	return mcptest.Connect(t, mcptest.Door(t, w.gateway, actor).URL, &mcptest.ConnectOptions{Version: version, Client: client})
}

// intent returns the newest intent of an action.
func intent(t testing.TB, w *world, action string) *audit.Intent {
	all := w.log.Records()
	for i := len(all) - 1; i >= 0; i-- {
		if in := all[i].Intent; in != nil && in.Action == action {
			return in
		}
	}
	require.Fail(t, "no intent", action)
	return nil
}

// X3 and S4 on the wire: the state of a question is good for one answer, of the
// same actor, to the same call.
func TestApprovalStateOnTheWire(t *testing.T) {
	newest := func(options ...func(*mcpx.GatewayOptions)) *world {
		return newWorld(t, &setup{policy: ownApproval, options: func(o *mcpx.GatewayOptions) {
			o.Approver = &mcpx.ClientApprover{AnsweredByPerson: func(audit.Actor) bool { return true }, Groups: leads}
			for _, f := range options {
				f(o)
			}
		}})
	}
	w := newest()
	ask := func(w *world, actor audit.Actor, tool, args, more string) rpcAnswer {
		return postCall(t, w.gateway, actor, tool, args, more)
	}
	state := func(w *world) string {
		t.Helper()
		got := ask(w, doraBot, slackTo, announce, "")
		require.Equal(t, "input_required", got.Result.ResultType, "%+v", got)
		require.NotEmpty(t, got.Result.RequestState)
		require.Contains(t, got.Result.InputRequests, "approval")
		return got.Result.RequestState
	}
	answers := func(state, answer string) string {
		return fmt.Sprintf(`,"requestState":%q,"inputResponses":{"approval":%s}`, state, answer)
	}
	const yes = `{"action":"accept","content":{"approve":true,"reason":"ok"}}`
	refused := func(name string, w *world, got rpcAnswer, reason string) {
		t.Helper()
		assert.True(t, got.Result.IsError, "%s: %+v", name, got)
		assert.Equal(t, reason, got.Result.Meta.Denial.Reason, name)
		assert.Empty(t, w.slack.Calls(), name)
		last := w.last().Event
		require.NotNil(t, last, name)
		assert.Equal(t, audit.KindDenial, last.Kind, name)
		assert.Equal(t, reason, last.Decision.Reason, name)
	}
	s := state(w)
	refused("another actor", w, ask(w, carlBot, slackTo, announce, answers(s, yes)), "state")
	refused("other arguments", w, ask(w, doraBot, slackTo, `{"channel":"#general","text":"HELLO"}`, answers(s, yes)), "state")
	refused("another tool", w, ask(w, doraBot, "github__list_prs", announce, answers(s, yes)), "state")
	refused("a flipped bit", w, ask(w, doraBot, slackTo, announce, answers(flip(s), yes)), "state")
	refused("made up", w, ask(w, doraBot, slackTo, announce, answers("e30", yes)), "state")
	refused("without a state", w, ask(w, doraBot, slackTo, announce, `,"inputResponses":{"approval":`+yes+`}`), "state")

	t.Run("restart", func(t *testing.T) {
		key := func(o *mcpx.GatewayOptions) {
			o.StateKey = credential.NewSecret([]byte("0123456789abcdef0123456789abcdef"))
		}
		before, after := newest(key), newest(key)
		refused("another host, or after a restart", after, ask(after, doraBot, slackTo, announce, answers(state(before), yes)), "state")
	})
	t.Run("expired", func(t *testing.T) {
		w := newest(func(o *mcpx.GatewayOptions) { o.ApprovalTime = 1 })
		refused("expired", w, ask(w, doraBot, slackTo, announce, answers(state(w), yes)), "state")
	})
	t.Run("policy", func(t *testing.T) {
		w := newest()
		s := state(w)
		w.reload(t, policy+ownApproval+`@id("more") permit (principal, action == Action::"snowflake__query", resource);`)
		got := ask(w, doraBot, slackTo, announce, answers(s, yes))
		assert.Equal(t, "input_required", got.Result.ResultType, "a person agreed by other policies: asked again")
		assert.Empty(t, w.slack.Calls())
	})
	t.Run("not an answer to the question", func(t *testing.T) {
		w := newest()
		for _, answer := range []string{`{"roots":[]}`, `{"role":"user","content":{"type":"text","text":"yes"},"model":"m"}`} {
			got := ask(w, doraBot, slackTo, announce, answers(state(w), answer))
			assert.Equal(t, "input_required", got.Result.ResultType, answer)
		}
		got := ask(w, doraBot, slackTo, announce, strings.Replace(answers(state(w), yes), `"approval":`, `"other":`, 1))
		assert.Equal(t, "input_required", got.Result.ResultType)
		assert.Empty(t, w.slack.Calls())
	})
	t.Run("too many", func(t *testing.T) {
		w := newest()
		for range 16 {
			state(w)
		}
		refused("the seventeenth", w, ask(w, doraBot, slackTo, announce, ""), "approval")
		got := ask(w, audit.Actor{Agent: "other", Issuer: "session", User: "dora"}, slackTo, announce, "")
		assert.Equal(t, "input_required", got.Result.ResultType, "others are asked all the same")
	})

	got := ask(w, doraBot, slackTo, announce, answers(s, yes))
	assert.False(t, got.Result.IsError, "%+v", got)
	require.Len(t, w.slack.Calls(), 1)
	got = ask(w, doraBot, slackTo, announce, answers(s, yes))
	assert.Equal(t, "state", got.Result.Meta.Denial.Reason, "replay")
	assert.Len(t, w.slack.Calls(), 1)
}

// An rpcAnswer is what the tests read of an answer.
type rpcAnswer struct {
	Result struct {
		ResultType    string                     `json:"resultType"`
		IsError       bool                       `json:"isError"`
		Content       []struct{ Text string }    `json:"content"`
		InputRequests map[string]json.RawMessage `json:"inputRequests"`
		RequestState  string                     `json:"requestState"`
		Meta          struct {
			Denial mcpx.Denial `json:"dev.twinward/denial"`
		} `json:"_meta"`
	} `json:"result"`
	Error *jsonrpc.Error `json:"error"`
}

// postCall makes one tools/call of a client that shows forms and pages, of
// 2026-07-28, with more members of its parameters.
func postCall(t testing.TB, h http.Handler, actor audit.Actor, tool, args, more string) (got rpcAnswer) {
	t.Helper()
	door := mcptest.Door(t, h, actor)
	s := modernCall(tool, args)
	s.body = strings.Replace(s.body, `clientCapabilities":{}`, `clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{}}`, 1)
	s.body = strings.TrimSuffix(s.body, "}}") + more + "}}"
	_, body, _ := fire(t, door.URL, s)
	for line := range strings.Lines(body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			body = data
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &got), "%s", body)
	if got.Error != nil && json.Unmarshal(got.Error.Data, &got.Result.Meta.Denial) == nil {
		got.Result.IsError = true
	}
	return got
}

func flip(s string) string {
	b := []byte(s)
	if b[len(b)/2]++; b[len(b)/2] == '{' {
		b[len(b)/2] = 'a'
	}
	return string(b)
}
