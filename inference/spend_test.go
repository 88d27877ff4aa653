package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// prices in which a token costs a whole micro-dollar: $1 for a million.
const oneEach = `
prices: {openai/*: {input: 1, output: 1}, claude/*: {input: 1, output: 10}}
`

// purse is a house whose agents have budgets, and the ledger that keeps them.
func purse(t testing.TB, spend string, opts *Options) (*house, *watchedLedger) {
	t.Helper()
	l := &watchedLedger{Ledger: NewMemoryLedger()}
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Ledger == nil {
		o.Ledger = l
	}
	if o.Now == nil {
		o.Now = func() time.Time { return noon }
	}
	h := newHouse(t, &o)
	cfg := h.config()
	var err error
	cfg.Spend, err = spendOf(spend)
	require.NoError(t, err)
	require.NoError(t, h.router.Reload(t.Context(), cfg, operator))
	return h, l
}

// A watchedLedger counts, and fails when it is told to.
type watchedLedger struct {
	Ledger
	err               atomic.Pointer[error]
	reserved, settled atomic.Int64
	most              atomic.Int64 // tokens of all holds
	failSettle        atomic.Bool
}

func (l *watchedLedger) fail() error {
	if e := l.err.Load(); e != nil {
		return *e
	}
	return nil
}

func (l *watchedLedger) Reserve(ctx context.Context, h Hold) error {
	if err := l.fail(); err != nil {
		return err
	}
	err := l.Ledger.Reserve(ctx, h)
	if err == nil {
		l.reserved.Add(1)
		l.most.Add(h.Amount.Tokens)
	}
	return err
}

func (l *watchedLedger) Settle(ctx context.Context, id string, spent Amount) error {
	if err := l.fail(); err != nil || l.failSettle.Load() {
		return errors.Join(err, errors.New("the line broke"))
	}
	l.settled.Add(1)
	return l.Ledger.Settle(ctx, id, spent)
}

func (l *watchedLedger) Used(ctx context.Context, accounts []string) ([]Amount, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	return l.Ledger.Used(ctx, accounts)
}

// used is what the accounts of all calls of bot have come to.
func (h *house) used(l Ledger) Amount {
	h.t.Helper()
	rs := h.router.routes.Load()
	claims := rs.spend.claims(payer{actor: bot, profiles: []string{"bots"}}, noon)
	require.NotEmpty(h.t, claims)
	out, err := l.Used(context.Background(), []string{claims[0].Account})
	require.NoError(h.t, err)
	return out[0]
}

const daily = oneEach + `
budgets: [{name: daily, per: agent, window: day, tokens: 1000, usd: 1}]
`

const limited = `{"model":"good","max_tokens":100,"messages":[]}`

func TestCostIsOnRecordAndSettled(t *testing.T) {
	for path, body := range map[string]string{"/v1/chat/completions": chatStreamLimited, "/v1/messages": messagesStream} {
		h, l := purse(t, daily, nil)
		stream, used := golden(t, "openai.sse"), openAIUsed
		used.Cost = 20 + 100 + 34
		if path == "/v1/messages" {
			stream, used = golden(t, "anthropic.sse"), anthropicUsed
			used.Cost = 25 + 300 + 7 + 150
		}
		h.backend = sse(stream)
		_, got := h.post(path, body)
		assert.Equal(t, stream, got)
		assert.Equal(t, used, *h.outcome().Usage)
		tokens := used.Input + used.CacheRead + used.CacheWrite + used.Output
		assert.Equal(t, Amount{tokens, MicroUSD(used.Cost)}, h.used(l))
		assert.EqualValues(t, 1, l.reserved.Load())
		assert.EqualValues(t, 1, l.settled.Load())
	}
}

const chatStreamLimited = `{"model":"good","stream":true,"stream_options":{"include_usage":true},"max_tokens":50,"messages":[]}`

// What happens to the reservation of a call that did not end well.
func TestUnfinishedCallsAreCharged(t *testing.T) {
	asked := int64(len(limited)) + 100 + pieceSlack
	for name, tc := range map[string]struct {
		backend http.HandlerFunc
		want    int64 // tokens
	}{
		"an error of the backend": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{}}`)
		}, 0},
		"no count":        {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{}`) }, asked},
		"a broken answer": {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, asked},
		"a broken stream": {func(w http.ResponseWriter, r *http.Request) { sse("data: {}\n\n")(w, r); panic(http.ErrAbortHandler) }, asked},
		"a count, no more": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
		}, 7},
		"a count above the reservation, broken off": {func(w http.ResponseWriter, _ *http.Request) {
			sse(`data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4000}}`+"\n\n")(w, nil)
			panic(http.ErrAbortHandler)
		}, 4003},
		"a count above the reservation": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4000}}`)
		}, 4003},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := purse(t, daily, nil)
			h.backend = tc.backend
			resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", limited))
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			h.door.Close() // its handlers are done
			assert.Equal(t, Amount{tc.want, MicroUSD(tc.want)}, h.used(l))
			assert.EqualValues(t, 1, l.settled.Load())
			if out := h.outcome(); tc.want == asked {
				assert.EqualValues(t, asked, out.Usage.Charged, "the charge is on record")
				assert.False(t, out.Usage.Final)
			}
		})
	}
	t.Run("by what was seen", func(t *testing.T) {
		h, l := purse(t, daily+"unfinished: seen\n", nil)
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			sse(`data: {"choices":[{"delta":{"content":"four"}}]}`+"\n\n")(w, r)
			panic(http.ErrAbortHandler)
		}
		resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", chatStreamLimited))
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		h.door.Close()
		u := h.outcome().Usage
		assert.Equal(t, Amount{u.Input + u.Output, MicroUSD(u.Cost)}, h.used(l))
		assert.Less(t, h.used(l).Tokens, asked)
	})
}

// A client that leaves pays what was reserved; a panic inside does not lose it.
func TestCancelledCallsAreCharged(t *testing.T) {
	h, l := purse(t, daily, nil)
	begun, over := make(chan struct{}), make(chan struct{})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(over)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", limited).WithContext(ctx))
		assert.Error(t, err)
	}()
	<-begun
	assert.EqualValues(t, len(limited)+100+pieceSlack, h.used(l).Tokens, "held while it is under way")
	cancel()
	<-done
	<-over
	h.door.Close()
	assert.EqualValues(t, len(limited)+100+pieceSlack, h.used(l).Tokens)
	assert.EqualValues(t, 1, l.settled.Load())

	h, l = purse(t, daily, &Options{Transport: roundTripFunc(func(*http.Request) (*http.Response, error) { panic("a bug") })})
	resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", limited))
	if err == nil {
		resp.Body.Close()
	}
	h.door.Close()
	assert.EqualValues(t, len(limited)+100+pieceSlack, h.used(l).Tokens)
	assert.EqualValues(t, 1, l.settled.Load())
	assert.Equal(t, "aborted", h.outcome().ErrorCode)
}

// What is denied, or cannot be recorded, costs nothing.
func TestDeniedCallsCostNothing(t *testing.T) {
	h, l := purse(t, daily, nil)
	resp, _ := h.post("/v1/chat/completions", `{"model":"forbidden","max_tokens":100,"messages":[]}`)
	assert.Equal(t, 403, resp.StatusCode)
	assert.Zero(t, h.used(l))
	assert.Zero(t, l.reserved.Load())
	h, l = purse(t, daily, nil)
	h.log.Fail(errors.New("disk full"))
	resp, _ = h.post("/v1/chat/completions", limited)
	h.log.Fail(nil)
	assert.Equal(t, 503, resp.StatusCode)
	h.door.Close()
	assert.Zero(t, h.used(l))
	assert.EqualValues(t, 1, l.reserved.Load())
	assert.EqualValues(t, 1, l.settled.Load())
	assert.Zero(t, h.requests.Load())
}

func TestBudgetsDeny(t *testing.T) {
	errDown := errors.New("the ledger is away")
	for name, tc := range map[string]struct {
		spend, path, body string
		status            int
		code, retry       string
		detail            map[string]string
		down              bool
	}{
		"larger than the budget": {spend: daily, body: `{"model":"good","max_tokens":1000,"messages":[]}`, status: 429, code: "budget_exceeded",
			detail: map[string]string{"budget": "daily", "account": `daily agent "bot" day 2026-11-29T00:00:00Z`}},
		"larger than a request's": {spend: oneEach + `budgets: [{name: once, per: host, window: request, tokens: 150}]`, body: limited, status: 429,
			code: "budget_exceeded", detail: map[string]string{"budget": "once"}},
		"no price": {spend: `budgets: [{name: daily, per: agent, window: day, usd: 1}]`, body: limited, status: 403, code: "no_price", detail: map[string]string{"budget": "no price"}},
		"no limit": {spend: daily, body: `{"model":"good","messages":[]}`, status: 400, code: "output_limit_required", detail: map[string]string{"budget": "no output limit"}},
		"in another protocol": {spend: daily, path: "/v1/messages", body: `{"model":"good","max_tokens":1000,"messages":[]}`, status: 429, code: "rate_limit_error",
			detail: map[string]string{"budget": "daily", "account": `daily agent "bot" day 2026-11-29T00:00:00Z`}},
		"the ledger is down": {spend: daily, body: limited, status: 503, code: "no_ledger", down: true},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := purse(t, tc.spend, nil)
			if tc.down {
				l.err.Store(&errDown)
			}
			path := tc.path
			if path == "" {
				path = "/v1/chat/completions"
			}
			resp, got := h.post(path, tc.body)
			assert.Equal(t, tc.status, resp.StatusCode)
			assert.Contains(t, got, `"`+tc.code+`"`)
			assert.NotContains(t, got, "daily", "budgets' names are for the auditor")
			if tc.code == "budget_exceeded" || tc.code == "rate_limit_error" {
				assert.Contains(t, got, "this call alone", "there is no use in waiting")
				assert.Empty(t, resp.Header.Get("Retry-After"))
			}
			d := h.denial()
			assert.Equal(t, audit.GuardBudget, d.Decision.Reason)
			assert.Equal(t, tc.detail, d.Detail)
			if tc.status == 429 {
				assert.Equal(t, "false", resp.Header.Get("X-Should-Retry"))
			}
		})
	}
	t.Run("used up", func(t *testing.T) {
		h, l := purse(t, daily, nil)
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":500,"completion_tokens":400}}`)
		}
		resp, _ := h.post("/v1/chat/completions", limited)
		assert.Equal(t, 200, resp.StatusCode)
		resp, got := h.post("/v1/chat/completions", limited)
		assert.Equal(t, 429, resp.StatusCode)
		assert.Contains(t, got, "2026-11-30T00:00:00Z")
		assert.Equal(t, fmt.Sprint(int(noon.Truncate(24*time.Hour).Add(24*time.Hour).Sub(noon).Seconds())+1), resp.Header.Get("Retry-After"))
		assert.Equal(t, Amount{900, 900}, h.used(l))
		assert.EqualValues(t, 1, h.requests.Load())
	})
	t.Run("count_tokens costs nothing", func(t *testing.T) {
		h, l := purse(t, daily, nil)
		h.backend = func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"input_tokens":5}`) }
		h.post("/v1/messages/count_tokens", `{"model":"good","messages":[]}`)
		assert.Zero(t, l.reserved.Load())
	})
}

// A limit that the client leaves out is put into the request, and is what policy
// sees.
func TestDefaultOutputLimit(t *testing.T) {
	h, l := purse(t, daily+"max_output: {openai/good: 123, claude/*: 60000}\n", nil)
	var sent atomic.Pointer[string]
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		s := string(b)
		sent.Store(&s)
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}
	h.post("/v1/chat/completions", `{"model":"good","n":2,"messages":[]}`)
	assert.Equal(t, `{"max_tokens":123,"model":"good","n":2,"messages":[]}`, *sent.Load())
	assert.EqualValues(t, len(`{"model":"good","n":2,"messages":[]}`)+2*123+pieceSlack, l.most.Load())
	h.post("/v1/chat/completions", limited)
	assert.Equal(t, limited, *sent.Load(), "the client's own limit stays")
	resp, _ := h.post("/v1/messages", `{"model":"good","messages":[]}`)
	assert.Equal(t, 403, resp.StatusCode, "the policy that forbids more than 50,000 did not see the limit")
}

func TestRateLimits(t *testing.T) {
	h, _ := purse(t, `rates: [{name: calls, per: agent, requests: 2}]`, nil)
	for range 2 {
		resp, _ := h.post("/v1/messages", limited)
		assert.Equal(t, 200, resp.StatusCode)
	}
	resp, got := h.post("/v1/messages", limited)
	assert.Equal(t, 429, resp.StatusCode)
	assert.Contains(t, got, "rate_limit_error")
	assert.Equal(t, "30", resp.Header.Get("Retry-After"))
	d := h.log.Denials()
	require.Len(t, d, 1)
	assert.Equal(t, audit.GuardRateLimit, d[0].Decision.Reason)
	assert.Equal(t, map[string]string{"rate": "calls"}, d[0].Detail)
	assert.EqualValues(t, 2, h.requests.Load())

	// What was not used comes back.
	h, _ = purse(t, `rates: [{name: words, per: agent, tokens: 400}]`, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}
	for range 20 {
		resp, _ := h.post("/v1/chat/completions", limited)
		assert.Equal(t, 200, resp.StatusCode)
	}
	resp, _ = h.post("/v1/chat/completions", `{"model":"good","max_tokens":400,"messages":[]}`)
	assert.Equal(t, 429, resp.StatusCode)
	assert.Equal(t, "false", resp.Header.Get("X-Should-Retry"), "it never fits")
}

func TestPolicySeesTheBudget(t *testing.T) {
	h, _ := purse(t, daily, nil)
	seen := &spyEngine{decider: h.router.engine}
	h.router.engine = seen
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":30,"completion_tokens":4}}`)
	}
	h.post("/v1/chat/completions", limited)
	h.post("/v1/chat/completions", limited)
	require.Len(t, seen.attrs, 2)
	assert.Equal(t, []any{int64(1_000_000), int64(0), int64(len(limited))}, []any{seen.attrs[0]["budget"], seen.attrs[0]["spent"], seen.attrs[0]["est_input"]})
	assert.Equal(t, int64(34), seen.attrs[1]["spent"])
}

// A backend that does not keep to the limit is cut where the reservation ends,
// with an event that says so in the protocol, and whole events before it.
func TestStreamIsCutWhereTheReservationEnds(t *testing.T) {
	const piece = `data: {"choices":[{"delta":{"content":"word "}}]}` + "\n\n"
	const anthropicPiece = "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word "}}` + "\n\n"
	for path, tc := range map[string]struct{ body, piece, end string }{
		"/v1/chat/completions": {`{"model":"good","stream":true,"max_tokens":9,"messages":[]}`, piece, `"code":"model-budget"`},
		"/v1/messages":         {messagesStream, anthropicPiece, "event: error\ndata: "},
	} {
		h, l := purse(t, daily, nil)
		left := make(chan struct{})
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			defer close(left)
			w.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, tc.piece); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
		}
		_, got, _ := h.do(h.request(http.MethodPost, path, tc.body))
		<-left // the backend is told
		passed := strings.Count(got, tc.piece)
		assert.Equal(t, 9+pieceSlack, passed)
		rest := strings.Replace(got, tc.piece, "", passed)
		assert.Contains(t, rest, tc.end)
		assert.True(t, strings.HasSuffix(rest, "\n\n"))
		assert.Equal(t, 1, strings.Count(rest, "data: "), "one event ends it: %q", rest)
		h.door.Close()
		out := h.outcome()
		assert.Equal(t, audit.GuardBudget, out.ErrorCode)
		assert.EqualValues(t, len(tc.body)+9+pieceSlack, h.used(l).Tokens)
	}
}

// 64 streams at once, of a backend that never stops by itself, spend no more than
// was reserved, and no more than the budget holds.
func TestParallelStreamsNeverOverspend(t *testing.T) {
	const budget, body = 2000, `{"model":"good","stream":true,"max_tokens":9,"messages":[]}`
	h, l := purse(t, oneEach+fmt.Sprintf("budgets: [{name: all, per: host, window: day, tokens: %d}]", budget), nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, `data: {"choices":[{"delta":{"content":"x"}}]}`+"\n\n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
		}
	}
	var (
		wg               sync.WaitGroup
		words, cut, full atomic.Int64
	)
	for range 64 {
		wg.Go(func() {
			resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", body))
			if !assert.NoError(t, err) {
				return
			}
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			words.Add(int64(strings.Count(string(got), `"content":"x"`)))
			if resp.StatusCode == 429 {
				full.Add(1)
			} else if strings.Contains(string(got), `"code":"model-budget"`) {
				cut.Add(1)
			}
		})
	}
	wg.Wait()
	h.door.Close()
	each := int64(len(body) + 9 + pieceSlack)
	fit := budget / each
	assert.Equal(t, fit, cut.Load())
	assert.EqualValues(t, 64-fit, full.Load())
	assert.LessOrEqual(t, words.Load(), fit*(9+pieceSlack))
	assert.Equal(t, fit*each, h.used(l).Tokens)
	assert.LessOrEqual(t, h.used(l).Tokens, int64(budget))
	assert.Equal(t, fit, l.reserved.Load())
	assert.Equal(t, fit, l.settled.Load())
}

// What cannot be settled stays spent, and is on record as such.
func TestLedgerGoesAwayDuringTheCall(t *testing.T) {
	h, l := purse(t, daily, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		l.failSettle.Store(true)
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}
	resp, _ := h.post("/v1/chat/completions", limited)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, h.outcome().Checks, "unsettled:model-budget")
	assert.EqualValues(t, len(limited)+100+pieceSlack, h.used(l).Tokens)
}

// A spyEngine notes what it is asked about models.
type spyEngine struct {
	decider
	attrs []map[string]any
}

func (s *spyEngine) Decide(ctx context.Context, r governance.Request) (governance.Decision, error) {
	if r.Action == actInvoke {
		s.attrs = append(s.attrs, r.Attrs)
	}
	return s.decider.Decide(ctx, r)
}
