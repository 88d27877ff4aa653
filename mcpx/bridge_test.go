//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A stall has tools that ask in the middle of a call, in the way of the protocol
// that they are called with.
type stall struct {
	mu    sync.Mutex
	asks  []mcp.InputRequest // of the tool "order", one after the other
	heard []mcp.InputResponse
	aside bool          // an older server asks on the stream that belongs to no request
	hasty chan struct{} // it does not wait for answers, but until this is closed; or nil
}

func form(message string) *mcp.ElicitParams {
	return &mcp.ElicitParams{Mode: "form", Message: message, RequestedSchema: json.RawMessage(`{"type":"object","properties":{"size":{"type":"string"}}}`)}
}

func page(url string) *mcp.ElicitParams {
	return &mcp.ElicitParams{Mode: "url", Message: "Pay here.", URL: url, ElicitationID: "e1"}
}

func sample() *mcp.CreateMessageWithToolsParams {
	return &mcp.CreateMessageWithToolsParams{MaxTokens: 10, Messages: []*mcp.SamplingMessageV2{{Role: "user", Content: []mcp.Content{&mcp.TextContent{Text: "hi"}}}}}
}

func (s *stall) server() *mcp.Server {
	srv := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "1"}, nil)
	no := false
	srv.AddTool(&mcp.Tool{Name: "order", Description: "Orders.", InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{DestructiveHint: &no}}, s.order)
	return srv
}

func (s *stall) order(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	s.mu.Lock()
	asks := s.asks
	s.mu.Unlock()
	hear := func(a mcp.InputResponse) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard = append(s.heard, a)
	}
	done := func() (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "ordered"}}}, nil
	}
	failed := func(err error) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: err.Error()}}}, nil
	}
	if req.ProtocolVersion() >= modern {
		n := 0
		if req.Params.RequestState != "" {
			fmt.Sscanf(req.Params.RequestState, "after %d", &n)
			a := req.Params.InputResponses["q"]
			if a == nil {
				return failed(errors.New("no answer"))
			}
			hear(a)
		}
		if n == len(asks) {
			return done()
		}
		return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"q": asks[n]}, RequestState: fmt.Sprintf("after %d", n+1)}, nil
	}
	if s.aside {
		ctx = context.Background()
	}
	if s.hasty != nil {
		go req.Session.Elicit(ctx, asks[0].(*mcp.ElicitParams))
		<-s.hasty
		return done()
	}
	for _, ask := range asks {
		var a mcp.InputResponse
		var err error
		switch p := ask.(type) {
		case *mcp.ElicitParams:
			a, err = req.Session.Elicit(ctx, p)
		case *mcp.CreateMessageWithToolsParams:
			a, err = req.Session.CreateMessageWithTools(ctx, p)
		case *mcp.ListRootsParams:
			a, err = req.Session.ListRoots(ctx, p)
		}
		if err != nil {
			return failed(err)
		}
		hear(a)
	}
	return done()
}

// A market is a gateway in front of a shop that may ask.
type market struct {
	t      testing.TB
	shop   *stall
	log    *audittest.Log
	engine *governance.Engine
	gw     *mcpx.Gateway
	up     *mcptest.Upstream
}

const mayAsk = `
@id("call") permit (principal, action in [Action::"call_tool"], resource);
@id("elicit") permit (principal == Agent::"bot", action == Action::"elicit", resource == Server::"shop");
@id("sample") permit (principal == Agent::"bot", action == Action::"sample", resource == Server::"shop");
`

func newMarket(t testing.TB, old bool, policies string, more ...func(*mcpx.Upstream)) *market {
	m := &market{t: t, shop: &stall{}, log: audittest.NewLog(t)}
	srv := m.shop.server()
	catalog, err := mcpx.Catalog(t.Context(), "shop", srv)
	require.NoError(t, err)
	m.engine = governance.NewEngine(m.log, nil)
	_, err = m.engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "p.cedar", Text: policies}}, Catalog: []governance.Server{catalog}}, admin)
	require.NoError(t, err)
	m.up = mcptest.NewUpstream(t, srv, &mcptest.UpstreamOptions{Legacy: old})
	m.gw = mcpx.NewGateway(m.engine, m.log, nil)
	t.Cleanup(func() { m.gw.Close() })
	u := mcpx.HTTP("shop", m.up.URL)
	for _, f := range more {
		f(u)
	}
	require.NoError(t, m.gw.AddUpstream(t.Context(), u))
	return m
}

// A customer is a client with a user and a model.
type customer struct {
	mu    sync.Mutex
	asked []mcp.InputRequest
	say   *mcp.ElicitResult
}

func (c *customer) options() *mcp.ClientOptions {
	c.say = &mcp.ElicitResult{Action: "accept", Content: map[string]any{"size": "L"}}
	keep := func(p mcp.InputRequest) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = append(c.asked, p)
	}
	return &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{Form: &mcp.FormElicitationCapabilities{}, URL: &mcp.URLElicitationCapabilities{}}},
		ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			keep(r.Params)
			return &mcp.ElicitResult{Action: c.say.Action, Content: maps.Clone(c.say.Content)}, nil // the SDK adds defaults to it
		},
		CreateMessageWithToolsHandler: func(_ context.Context, r *mcp.CreateMessageWithToolsRequest) (*mcp.CreateMessageWithToolsResult, error) {
			keep(r.Params)
			return &mcp.CreateMessageWithToolsResult{Role: "assistant", Model: "m", Content: []mcp.Content{&mcp.TextContent{Text: "ho"}}}, nil
		},
	}
}

func (m *market) connect(actor audit.Actor, version string, opts *mcp.ClientOptions) *mcptest.Agent {
	return mcptest.Connect(m.t, mcptest.Door(m.t, m.gw, actor).URL, &mcptest.ConnectOptions{Version: version, Client: opts})
}

// cells are the pairs of eras: of the client and of the server.
func cells(t *testing.T, f func(t *testing.T, client string, old bool)) {
	for _, client := range []string{legacy, modern} {
		for _, old := range []bool{true, false} {
			name := client + " client, newer server"
			if old {
				name = client + " client, older server"
			}
			t.Run(name, func(t *testing.T) { f(t, client, old) })
		}
	}
}

// What a server asks reaches the client of that very call, and its answer the
// server, whatever eras they are of. Both are on record.
func TestQuestions(t *testing.T) {
	cells(t, func(t *testing.T, version string, old bool) {
		m := newMarket(t, old, mayAsk)
		m.shop.asks = []mcp.InputRequest{form("Which size?"), page("https://pay.example/1"), sample()}
		var c customer
		a := m.connect(bot, version, c.options())
		res, err := a.Call(t.Context(), "shop__order", `{}`)
		require.NoError(t, err)
		require.Equal(t, "ordered", mcptest.Text(res))
		require.Len(t, c.asked, 3)
		first := c.asked[0].(*mcp.ElicitParams)
		assert.Equal(t, []any{"form", "Which size?", "shop"}, []any{first.Mode, first.Message, first.Meta["dev.twinward/server"]})
		second := c.asked[1].(*mcp.ElicitParams)
		assert.Equal(t, []any{"url", "https://pay.example/1"}, []any{second.Mode, second.URL})
		require.Len(t, m.shop.heard, 3)
		assert.Equal(t, map[string]any{"size": "L"}, m.shop.heard[0].(*mcp.ElicitResult).Content)
		assert.Equal(t, "ho", m.shop.heard[2].(*mcp.CreateMessageWithToolsResult).Content[0].(*mcp.TextContent).Text)

		actions := map[string]int{}
		for _, r := range m.log.Records() {
			if r.Intent != nil {
				actions[r.Intent.Action]++
				if r.Intent.Action == "elicit" {
					assert.Equal(t, `Server::"shop"`, r.Intent.Resource)
				}
			}
		}
		assert.Equal(t, 2, actions["elicit"])
		assert.Equal(t, 1, actions["sample"])
		if old {
			assert.Equal(t, 1, actions["shop__order"], "one act, however many legs")
			assert.Len(t, m.up.Calls(), 1)
		}
		begun := map[uint64]bool{}
		for _, r := range m.log.Records() {
			if r.Intent != nil {
				begun[r.Seq] = true
			}
			if r.Outcome != nil {
				delete(begun, r.Call)
			}
		}
		assert.Empty(t, begun, "every intent has its outcome")
	})
}

// A server of the older era may ask on the stream that belongs to no request, as
// some SDKs do: while the call has the session for itself, that is its question.
func TestQuestionsAside(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		m := newMarket(t, true, mayAsk)
		m.shop.aside = true
		m.shop.asks = []mcp.InputRequest{form("Which size?"), sample()}
		var c customer
		a := m.connect(bot, version, c.options())
		for range 3 { // the server allows one such stream at a time
			res, err := a.Call(t.Context(), "shop__order", `{}`)
			require.NoError(t, err)
			require.Equal(t, "ordered", mcptest.Text(res))
		}
		assert.Len(t, c.asked, 6)
		assert.Len(t, m.shop.heard, 6)
		assert.Len(t, m.up.Calls(), 3)
	})
}

// The legs of a call go to a server of the newer era in one session, so that no two
// of them have the same id.
func TestLegsHaveTheirIDs(t *testing.T) {
	m := newMarket(t, false, mayAsk)
	m.shop.asks = []mcp.InputRequest{form("Which size?"), form("Which colour?")}
	var c customer
	res, err := m.connect(bot, modern, c.options()).Call(t.Context(), "shop__order", `{}`)
	require.NoError(t, err)
	require.Equal(t, "ordered", mcptest.Text(res))
	require.Len(t, m.up.Calls(), 3)
	ids := map[string]bool{}
	for _, id := range regexp.MustCompile(`"id":(\d+),"method":"tools/call"`).FindAllSubmatch(m.up.Seen(), -1) {
		ids[string(id[1])] = true
	}
	assert.Len(t, ids, 3)
}

// M5: what policy does not permit, and what no user should see, is not asked, and
// is on record.
func TestQuestionsRefused(t *testing.T) {
	secret := form("Log in.")
	secret.RequestedSchema = json.RawMessage(`{"type":"object","properties":{"pass_word":{"type":"string"}}}`)
	titled := form("Log in.")
	titled.RequestedSchema = json.RawMessage(`{"type":"object","properties":{"x":{"type":"string","title":"Your API key"}}}`)
	around := sample()
	around.IncludeContext = "allServers"
	rows := map[string]struct {
		ask    mcp.InputRequest
		actor  audit.Actor
		reason string
	}{
		"http page":           {page("http://pay.example"), bot, "method"},
		"javascript":          {page("javascript:alert(1)"), bot, "method"},
		"user in the page":    {page("https://pay.example@evil.example/"), bot, "method"},
		"a form for secrets":  {secret, bot, "method"},
		"titled as a secret":  {titled, bot, "method"},
		"roots":               {&mcp.ListRootsParams{}, bot, "method"},
		"other servers' talk": {around, bot, "method"},
		"not permitted":       {form("Which size?"), other, "no-permit"},
		"no model permitted":  {sample(), other, "no-permit"},
	}
	cells(t, func(t *testing.T, version string, old bool) {
		for name, row := range rows {
			// The other agent may be asked by another server, so that its client counts as one that can be.
			m := newMarket(t, old, mayAsk+`@id("late") permit (principal == Agent::"other", action in [Action::"elicit", Action::"sample"], resource) when { context has session };`)
			m.shop.asks = []mcp.InputRequest{row.ask}
			var c customer
			a := m.connect(row.actor, version, c.options())
			res, err := a.Call(t.Context(), "shop__order", `{}`)
			require.NoError(t, err, name)
			assert.True(t, res.IsError, "%s: %s", name, mcptest.Text(res))
			assert.Empty(t, c.asked, name)
			assert.Empty(t, m.shop.heard, name)
			var refusals []string
			for _, r := range m.log.Records() {
				if r.Event != nil && r.Event.Kind == audit.KindDenial {
					refusals = append(refusals, r.Event.Decision.Reason)
				}
			}
			assert.Equal(t, []string{row.reason}, refusals, name)
		}
	})
}

// A client that offers nothing is asked nothing, and a server that policy never
// lets ask is told that there is nobody.
func TestNobodyToAsk(t *testing.T) {
	cells(t, func(t *testing.T, version string, old bool) {
		m := newMarket(t, old, mayAsk)
		m.shop.asks = []mcp.InputRequest{form("Which size?")}
		plain := m.connect(bot, version, &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}})
		res, err := plain.Call(t.Context(), "shop__order", `{}`)
		require.NoError(t, err)
		assert.True(t, res.IsError)

		never := newMarket(t, old, `@id("call") permit (principal, action in [Action::"call_tool"], resource);`)
		never.shop.asks = []mcp.InputRequest{form("Which size?")}
		var c customer
		a := never.connect(bot, version, c.options())
		res, err = a.Call(t.Context(), "shop__order", `{}`)
		require.NoError(t, err)
		assert.True(t, res.IsError)
		assert.Empty(t, c.asked)
		assert.Empty(t, m.shop.heard)
	})
}

// Several calls of one actor ask at the same time, and each gets its own answer.
func TestQuestionsOfManyCalls(t *testing.T) {
	cells(t, func(t *testing.T, version string, old bool) {
		m := newMarket(t, old, mayAsk)
		m.shop.asks = []mcp.InputRequest{form("Which size?")}
		var c customer
		a := m.connect(bot, version, c.options())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				res, err := a.Call(t.Context(), "shop__order", `{}`)
				if assert.NoError(t, err) {
					assert.Equal(t, "ordered", mcptest.Text(res))
				}
			})
		}
		wg.Wait()
		assert.Len(t, m.shop.heard, 4)
	})
}

// post makes one tools/call of the shop as a client of 2026-07-28 that can be
// asked.
func (m *market) post(actor audit.Actor, args, more string) rpcAnswer {
	m.t.Helper()
	return postCall(m.t, m.gw, actor, "shop__order", args, more)
}

func answered(a rpcAnswer, answer string) string {
	for key := range a.Result.InputRequests {
		return fmt.Sprintf(`,"requestState":%q,"inputResponses":{%q:%s}`, a.Result.RequestState, key, answer)
	}
	return fmt.Sprintf(`,"requestState":%q`, a.Result.RequestState)
}

const large = `{"action":"accept","content":{"size":"L"}}`

// S4, M6: what a client carries for a server is good for the same call of the
// same actor only; an answer to nothing is refused.
func TestQuestionStateOnTheWire(t *testing.T) {
	for _, old := range []bool{true, false} {
		t.Run(fmt.Sprintf("older server %t", old), func(t *testing.T) {
			m := newMarket(t, old, mayAsk)
			m.shop.asks = []mcp.InputRequest{form("Which size?")}
			asks := m.post(bot, `{"n":1}`, "")
			require.Equal(t, "input_required", asks.Result.ResultType, "%+v", asks)
			assert.NotContains(t, asks.Result.RequestState, "after")
			upstream := len(m.up.Calls())
			for name, got := range map[string]rpcAnswer{
				"another actor":   m.post(other, `{"n":1}`, answered(asks, large)),
				"other arguments": m.post(bot, `{"n":2}`, answered(asks, large)),
				"a flipped bit":   m.post(bot, `{"n":1}`, strings.Replace(answered(asks, large), asks.Result.RequestState, flip(asks.Result.RequestState), 1)),
				"another gateway": newMarket(t, old, mayAsk).post(bot, `{"n":1}`, answered(asks, large)),
				"made up":         m.post(bot, `{"n":1}`, `,"requestState":"after 1","inputResponses":{"q":`+large+`}`),
				"unsolicited":     m.post(bot, `{"n":1}`, `,"inputResponses":{"q":`+large+`}`),
			} {
				assert.True(t, got.Result.IsError, "%s: %+v", name, got)
				assert.Equal(t, "state", got.Result.Meta.Denial.Reason, name)
			}
			assert.Empty(t, m.shop.heard)
			assert.Len(t, m.up.Calls(), upstream, "nothing reached the server")
			recs := m.log.Records()
			assert.Equal(t, "state", recs[len(recs)-1].Event.Decision.Reason)

			got := m.post(bot, `{"n":1}`, answered(asks, `{"role":"assistant","model":"m","content":{"type":"text","text":"L"}}`))
			if old { // it is asked again
				require.Equal(t, "input_required", got.Result.ResultType, "%+v", got)
				asks = got
			}
			got = m.post(bot, `{"n":1}`, answered(asks, large))
			assert.False(t, got.Result.IsError, "%+v", got)
			assert.Equal(t, "complete", got.Result.ResultType)
			require.Len(t, m.shop.heard, 1)
			if old {
				got = m.post(bot, `{"n":1}`, answered(asks, large))
				assert.Equal(t, "state", got.Result.Meta.Denial.Reason, "replay")
				assert.Len(t, m.shop.heard, 1)
			}
		})
	}
}

// A parked call that nobody comes back to is cancelled, and on record as that.
func TestParkedCallsEnd(t *testing.T) {
	outcome := func(m *market) *audit.Outcome {
		t.Helper()
		seq := uint64(0)
		var out *audit.Outcome
		for _, r := range m.log.Records() {
			if r.Intent != nil && r.Intent.Action == "shop__order" {
				seq = r.Seq
			}
			if r.Outcome != nil && r.Call == seq {
				out = r.Outcome
			}
		}
		return out
	}
	park := func(t *testing.T) (*market, rpcAnswer) {
		m := newMarket(t, true, mayAsk)
		m.shop.asks = []mcp.InputRequest{form("Which size?")}
		return m, m.post(bot, `{}`, "")
	}
	t.Run("forgotten", func(t *testing.T) {
		m := newMarket(t, true, mayAsk)
		m.shop.asks = []mcp.InputRequest{form("Which size?")}
		mcpx.SetParkTime(m.gw, 1)
		asks := m.post(bot, `{}`, "")
		require.NoError(t, m.gw.Close()) // waits for it
		assert.Equal(t, "input_required", asks.Result.ResultType)
		assert.Equal(t, audit.StatusCancelled, outcome(m).Status)
	})
	t.Run("closed", func(t *testing.T) {
		m, _ := park(t)
		require.Nil(t, outcome(m))
		require.NoError(t, m.gw.Close())
		assert.Equal(t, audit.StatusCancelled, outcome(m).Status)
	})
	t.Run("policy", func(t *testing.T) {
		m, asks := park(t)
		_, err := m.engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "p.cedar", Text: mayAsk + `@id("stop") forbid (principal, action == Action::"shop__order", resource);`}}, Catalog: m.engine.Catalog()}, admin)
		require.NoError(t, err)
		got := m.post(bot, `{}`, answered(asks, large))
		assert.Equal(t, "policy", got.Result.Meta.Denial.Reason, "each leg is decided")
		assert.Equal(t, audit.StatusCancelled, outcome(m).Status)
		assert.Empty(t, m.shop.heard)
	})
	t.Run("too many", func(t *testing.T) {
		m := newMarket(t, true, mayAsk)
		m.shop.asks = []mcp.InputRequest{form("Which size?")}
		for range 4 {
			require.Equal(t, "input_required", m.post(bot, `{}`, "").Result.ResultType)
		}
		got := m.post(bot, `{}`, "")
		assert.Equal(t, "upstream-busy", got.Result.Meta.Denial.Reason)
		assert.True(t, got.Result.Meta.Denial.Retryable)
		var c customer
		a := m.connect(audit.Actor{Agent: "bot", Issuer: "session", User: "else"}, modern, c.options())
		_, err := a.Call(t.Context(), "shop__order", `{}`)
		require.NoError(t, err, "others are not in the way")
	})
}

// A call that waits for its user uses up its budget once, however many legs it
// takes.
func TestParkedCallsCountOnce(t *testing.T) {
	m := newMarket(t, true, mayAsk+`@id("once") @rate("1/1h") permit (principal, action == Action::"shop__order", resource);`)
	m.shop.asks = []mcp.InputRequest{form("Which size?"), form("Which colour?")}
	var c customer
	a := m.connect(bot, modern, c.options())
	res, err := a.Call(t.Context(), "shop__order", `{}`)
	require.NoError(t, err)
	assert.Equal(t, "ordered", mcptest.Text(res))
	res, err = a.Call(t.Context(), "shop__order", `{}`)
	require.NoError(t, err)
	assert.Equal(t, "rate", denial(t, res).Reason)
}
