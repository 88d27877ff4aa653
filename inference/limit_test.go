package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sends answers every request and keeps the last one.
func (h *house) sends(sent *string) {
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*sent = string(b)
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}
}

// A limit that is there but says nothing gets a value: a second key of the same
// name would leave it to the backend which of them counts.
func TestEmptyLimitIsReplaced(t *testing.T) {
	for in, want := range map[string]string{
		`{"model":"good","max_tokens":null,"messages":[]}`:                                 `{"model":"good","max_tokens":123,"messages":[]}`,
		`{"max_tokens":0 ,"model":"good","messages":[]}`:                                   `{"max_tokens":123 ,"model":"good","messages":[]}`,
		`{"model":"good","max_completion_tokens":null,"messages":[]}`:                      `{"max_tokens":123,"model":"good","max_completion_tokens":null,"messages":[]}`,
		`{"model":"good","max_completion_tokens":0,"messages":[]}`:                         `{"max_tokens":123,"model":"good","max_completion_tokens":123,"messages":[]}`,
		`{"model":"good","max_tokens":null,"max_completion_tokens":null,"messages":[]}`:    `{"model":"good","max_tokens":123,"max_completion_tokens":null,"messages":[]}`,
		`{"max_completion_tokens":0,"model":"good","max_tokens":0,"messages":[],"n":null}`: `{"max_completion_tokens":123,"model":"good","max_tokens":123,"messages":[],"n":null}`,
	} {
		h, _ := purse(t, daily+"max_output: {\"*\": 123}\n", nil)
		var sent string
		h.sends(&sent)
		resp, got := h.post("/v1/chat/completions", in)
		require.Equal(t, 200, resp.StatusCode, got)
		assert.Equal(t, want, sent)
		var env envelope
		assert.NoError(t, scan(opChat, []byte(sent), &env))
		assert.EqualValues(t, 123, env.maxOutput)
	}
	for path, tc := range map[string]struct{ in, want string }{
		"/v1/messages":  {`{"model":"good","max_tokens":null,"messages":[]}`, `{"model":"good","max_tokens":123,"messages":[]}`},
		"/v1/responses": {`{"model":"good","max_output_tokens":0,"store":false,"input":"x"}`, `{"model":"good","max_output_tokens":123,"store":false,"input":"x"}`},
	} {
		h, _ := purse(t, daily+"max_output: {\"*\": 123}\n", nil)
		cfg := h.manyProtocols()
		cfg.Spend = h.router.routes.Load().spend
		h.serve(cfg)
		var sent string
		h.sends(&sent)
		resp, got := h.post(path, tc.in)
		require.Equal(t, 200, resp.StatusCode, got)
		assert.Equal(t, tc.want, sent)
	}
}

// A backend reads only the names of its own protocol: another one is no limit.
func TestLimitsOfOtherProtocolsAreNone(t *testing.T) {
	for _, tc := range []struct {
		path, body, field string
	}{
		{"/v1/chat/completions", `{"model":"good","max_output_tokens":5,"messages":[]}`, "field:max_output_tokens"},
		{"/v1/messages", `{"model":"good","max_completion_tokens":5,"messages":[]}`, "field:max_completion_tokens"},
		{"/v1/messages", `{"model":"good","max_output_tokens":5,"messages":[]}`, "field:max_output_tokens"},
		{"/v1/responses", `{"model":"good","max_tokens":5,"input":"x"}`, "field:max_tokens"},
		{"/v1/responses", `{"model":"good","max_completion_tokens":5,"input":"x"}`, "field:max_completion_tokens"},
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		resp, got := h.post(tc.path, tc.body)
		assert.Equal(t, 403, resp.StatusCode, got)
		d := h.denial()
		assert.Equal(t, actHosted, d.Action, tc.body)
		assert.Contains(t, d.Resource, tc.field)

		var env envelope
		for _, op := range operations {
			if op.path == tc.path[len("/v1"):] {
				require.NoError(t, scan(op, []byte(tc.body), &env))
				assert.Zero(t, env.maxOutput)
			}
		}
	}
}

// What limits a backend that reads only max_tokens must be there.
func TestNewerNameOfTheLimitIsSaidInTheOldOneToo(t *testing.T) {
	for _, tc := range []struct {
		both     bool
		in, want string
		limit    int
	}{
		{false, `{"model":"good","max_completion_tokens":9,"messages":[]}`, `{"max_tokens":9,"model":"good","max_completion_tokens":9,"messages":[]}`, 9},
		{false, `{"model":"good","max_completion_tokens":9,"max_tokens":null,"messages":[]}`, `{"model":"good","max_completion_tokens":9,"max_tokens":9,"messages":[]}`, 9},
		{false, `{"model":"good","max_completion_tokens":9,"max_tokens":0,"messages":[]}`, `{"model":"good","max_completion_tokens":9,"max_tokens":9,"messages":[]}`, 9},
		{false, `{"model":"good","max_tokens":9,"messages":[]}`, "", 9},
		{false, `{"model":"good","max_tokens":7,"max_completion_tokens":9,"messages":[]}`, `{"model":"good","max_tokens":7,"max_completion_tokens":9,"messages":[]}`, 9},
		{true, `{"model":"good","max_completion_tokens":9,"messages":[]}`, "", 9},
		{true, `{"model":"good","max_tokens":9,"messages":[]}`, "", 9},
		{true, `{"model":"good","messages":[]}`, `{"max_completion_tokens":123,"model":"good","messages":[]}`, 123},
	} {
		h, l := purse(t, daily+"max_output: {\"*\": 123}\n", nil)
		cfg := h.config()
		cfg.Spend = h.router.routes.Load().spend
		cfg.Backends[0].Translate.MaxCompletionTokens = tc.both
		h.serve(cfg)
		var sent string
		h.sends(&sent)
		resp, got := h.post("/v1/chat/completions", tc.in)
		require.Equal(t, 200, resp.StatusCode, got)
		if tc.want == "" {
			tc.want = tc.in
		}
		assert.Equal(t, tc.want, sent)
		assert.EqualValues(t, len(tc.in)+tc.limit+pieceSlack, l.most.Load())
	}
	for base, both := range map[string]bool{
		"https://api.openai.com/v1": true, "https://eu.api.openai.com/v1": true, "https://r.openai.azure.com/openai/v1": true,
		"http://127.0.0.1:11434/v1": false, "https://openai.example/v1": false, "https://api.openai.com.example/v1": false,
	} {
		assert.Equal(t, both, (&target{backend: &Backend{}, base: base}).readsBoth(), base)
	}
}

// The number of answers is bounded, and what they come to together does not wrap.
func TestNumberOfAnswersIsBounded(t *testing.T) {
	for op, body := range map[*operation]string{
		opChat: `{"model":"good","n":%d}`, opGenerate: `{"generationConfig":{"candidateCount":%d}}`, opStreamGenerate: `{"generation_config":{"candidate_count":%d}}`,
	} {
		var env envelope
		require.NoError(t, scan(op, fmt.Appendf(nil, body, 128), &env))
		assert.EqualValues(t, 128, env.choices)
		assert.ErrorContains(t, scan(op, fmt.Appendf(nil, body, 129), &env), "too many answers")
		assert.Error(t, scan(op, fmt.Appendf(nil, body, int64(1)<<62), &env))
	}
	assert.EqualValues(t, math.MaxInt64, mulSaturating(maxTokens, 1<<40))
	assert.EqualValues(t, math.MaxInt64, mulSaturating(1<<40, maxTokens))
	assert.EqualValues(t, 6, mulSaturating(2, 3))
	assert.Zero(t, mulSaturating(0, 3)+mulSaturating(3, 0))
}

// What nobody counted is not given back to the rates, if it may have cost.
func TestUncountedCallsAreChargedToRates(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, tc := range map[string]struct {
		path, body, spend string
		backend           http.HandlerFunc
		stays             bool
	}{
		"broken off":     {backend: abort, stays: true},
		"no count":       {backend: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }, stays: true},
		"under a budget": {backend: abort, stays: true, spend: daily},
		"refused":        {backend: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) }},
		"counted": {backend: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
		}},
		"nothing to count": {path: "/v1/messages/count_tokens", backend: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"input_tokens":5}`) }},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := purse(t, tc.spend+"rates: [{name: words, per: agent, tokens: 250}]\n", nil)
			h.backend = tc.backend
			path := tc.path
			if path == "" {
				path = "/v1/chat/completions"
			}
			for i := range 2 { // of which one has room
				resp, err := h.door.Client().Do(h.request(http.MethodPost, path, limited))
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				assert.Equal(t, i == 1 && tc.stays, resp.StatusCode == 429, "%d: %d", i, resp.StatusCode)
			}
		})
	}
}

// Rates take the limit that is put into the request, of the target that may
// write most.
func TestRatesTakeTheDefaultLimit(t *testing.T) {
	h, _ := purse(t, "max_output: {\"*\": 500}\nrates: [{name: words, per: agent, tokens: 400}]\n", nil)
	resp, _ := h.post("/v1/chat/completions", `{"model":"good","messages":[]}`)
	assert.Equal(t, 429, resp.StatusCode)
	assert.Equal(t, map[string]string{"rate": "words"}, h.denial().Detail)
	resp, _ = h.post("/v1/chat/completions", limited)
	assert.Equal(t, 200, resp.StatusCode)
}

// A call that used more than a minute's worth is paid for by as much time.
func TestRatesAreOwedMoreThanAMinute(t *testing.T) {
	h, _ := purse(t, "rates: [{name: words, per: agent, tokens: 400}]\n", nil)
	h.backend = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":0,"completion_tokens":40000}}`)
	}
	h.post("/v1/chat/completions", limited)
	resp, _ := h.post("/v1/chat/completions", limited)
	assert.Equal(t, 429, resp.StatusCode)
	after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	require.NoError(t, err)
	assert.Greater(t, after, 99*60)

	// Also when the bucket was forgotten while the call went on, and to the end of
	// the numbers.
	l := newLimiter(10)
	rates := []RateLimit{{Name: "words", Per: PerHost, Tokens: 400}}
	uses, err := l.take(rates, payer{}, 100, noon)
	require.NoError(t, err)
	l.sweep(noon.Add(2 * time.Minute).UnixNano())
	require.Empty(t, l.buckets)
	l.settle(uses, 4000)
	_, err = l.take(rates, payer{}, 100, noon.Add(2*time.Minute))
	var over *rateError
	require.ErrorAs(t, err, &over)
	assert.Equal(t, 7*time.Minute+15*time.Second, over.after)
	l.settle(uses, math.MaxInt64)
	_, err = l.take(rates, payer{}, 100, noon.Add(2*time.Minute))
	require.ErrorAs(t, err, &over)
	assert.Greater(t, over.after, 24*time.Hour)
	assert.Less(t, over.after, 25*time.Hour, "nobody is kept away for ever")
	assert.EqualValues(t, math.MaxInt64, cost(math.MaxInt64, 1))
	assert.EqualValues(t, time.Minute, cost(400, 400))
	assert.EqualValues(t, 1, cost(1, math.MaxInt64))
}

// A gateway's error does not say that the provider has done nothing.
func TestErrorsOfGatewaysMayCost(t *testing.T) {
	for status, want := range map[int]bool{
		502: true, 504: true, 520: true, 522: true, 524: true, 528: true,
		400: false, 403: false, 404: false, 413: false, 422: false, 429: false, 500: false, 503: false, 529: false, 530: false,
	} {
		h, l := purse(t, daily, nil)
		h.backend = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
		h.post("/v1/chat/completions", limited)
		charged := int64(0)
		if want {
			charged = int64(len(limited)) + 100 + pieceSlack
		}
		assert.Equal(t, Amount{charged, MicroUSD(charged)}, h.used(l), status)
	}
}

// What multiplies the price is an unknown field unless it asks for the ordinary.
func TestFieldsThatMultiplyThePrice(t *testing.T) {
	for op, fields := range map[*operation][]string{
		opChat: {`"service_tier":"priority"`, `"service_tier":"fast"`, `"service_tier":"\u0061uto"`, `"service_tier":1`, `"modalities":["text","audio"]`,
			`"modalities":["audio"]`, `"modalities":"audio"`, `"audio":{"voice":"alloy"}`, `"audio":true`, `"speed":"fast"`, `"inference_geo":"us"`},
		opMessages:  {`"service_tier":"priority"`, `"speed":"fast"`, `"inference_geo":"us"`, `"modalities":["audio"]`},
		opResponses: {`"service_tier":"priority"`, `"modalities":["audio"]`, `"audio":{"voice":"alloy"}`},
	} {
		for _, field := range fields {
			var env envelope
			body := `{"model":"good",` + field + `}`
			require.NoError(t, scan(op, []byte(body), &env), body)
			name, _, _ := strings.Cut(field[1:], `"`)
			assert.Equal(t, []string{"field:" + name}, env.hosted, "%s: %s", op.name, body)
		}
	}
	for op, fields := range map[*operation][]string{
		opChat: {`"service_tier":"auto"`, `"service_tier":"default"`, `"service_tier":"flex"`, `"service_tier":null`, `"modalities":["text"]`, `"modalities":[ "text" ]`,
			`"modalities":null`, `"modalities":[]`, `"audio":null`},
		opMessages:  {`"service_tier":"auto"`, `"service_tier":"standard_only"`, `"speed":"standard"`, `"speed":null`, `"inference_geo":null`},
		opResponses: {`"service_tier":"auto"`, `"service_tier":"flex"`, `"service_tier":null`},
	} {
		for _, field := range fields {
			var env envelope
			require.NoError(t, scan(op, []byte(`{"model":"good",`+field+`}`), &env), field)
			assert.Empty(t, env.hosted, "%s: %s", op.name, field)
		}
	}
}

// What a target is asked to do itself is on record also if it was not the first.
func TestHostedToolsOfAFallbackAreOnRecord(t *testing.T) {
	f := newFleet(t, func(c *Config) {
		c.Backends[0].Translate = Translate{Protocols: []Protocol{Anthropic}, Ignore: []string{"hosted_tools"}}
		c.Backends[1].Protocol = Anthropic
		c.Backends[2].Protocol = Anthropic
		c.Routes = c.Routes[:1]
		for i, name := range []string{"m-a", "m-b", "m-c"} {
			c.Backends[i].Models, c.Routes[0].Targets[i].Model = []string{name}, name
		}
	})
	f.answers["a"], f.answers["b"] = says(503, "no"), says(503, "no")
	rec := httptest.NewRecorder()
	session(f.router, bot).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/messages",
		strings.NewReader(`{"model":"big","max_tokens":9,"messages":[{"role":"user","content":"x"}],"tools":[{"type":"web_search_20250305","name":"web_search"}]}`)))
	require.Equal(t, 200, rec.Code, rec.Body)
	require.Equal(t, []string{"a", "b", "c"}, f.took())
	assert.Equal(t, []string{"attempt:a/m-a:upstream-503", "hosted-tool:web_search", "attempt:b/m-b:upstream-503", "target:c/m-c"}, f.outcomes()[0].Checks)
}

// What attempts that failed were charged is on record, and not given back to the
// rates.
func TestFailedAttemptsAreInTheCharge(t *testing.T) {
	each := int64(len(limited)) + 100 + pieceSlack
	for name, tc := range map[string]struct {
		last    http.HandlerFunc
		spend   string
		charged int64 // on record
		billed  int64 // to rates and budgets
	}{
		"a count at last": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
		}, daily, each + 7, each + 7},
		"none at last":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }, daily, 2 * each, 2 * each},
		"an error last": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) }, daily, each, each},
		"without a budget": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
		}, "", 0, each - pieceSlack + 7},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := purse(t, tc.spend+"rates: [{name: words, per: host, tokens: 60000}]\n", nil)
			cfg := h.config()
			cfg.Spend, cfg.Retry = h.router.routes.Load().spend, Retry{Attempts: 2, Pause: 1}
			h.serve(cfg)
			h.backend = func(w http.ResponseWriter, r *http.Request) {
				if h.requests.Load() == 1 {
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				tc.last(w, r)
			}
			h.post("/v1/chat/completions", limited)
			require.EqualValues(t, 2, h.requests.Load())
			u := h.outcome().Usage
			if tc.charged > 0 {
				require.NotNil(t, u)
				assert.Equal(t, tc.charged, u.Charged)
				assert.Equal(t, Amount{tc.billed, MicroUSD(tc.billed)}, h.used(l))
			} else {
				assert.Zero(t, u.Charged)
			}
			h.door.Close() // its handlers are done
			full := h.router.limiter.buckets[rateKey{"words", ""}].tokens
			assert.EqualValues(t, tc.billed, (full-noon.UnixNano())/int64(time.Millisecond))
		})
	}
}

// A leavingLedger is asked by clients that leave while it works.
type leavingLedger struct {
	*watchedLedger
	leave context.CancelFunc
	err   error
}

func (l *leavingLedger) Reserve(ctx context.Context, h Hold) error {
	l.leave()
	l.err = ctx.Err()
	return errors.Join(l.err, l.watchedLedger.Reserve(ctx, h))
}

// A client that leaves does not interrupt the ledger: the hold is there, and is
// given back.
func TestClientThatLeavesLeavesNoHold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &leavingLedger{watchedLedger: &watchedLedger{Ledger: NewMemoryLedger()}, leave: cancel}
	h, _ := purse(t, daily, &Options{Ledger: l})
	func() {
		defer func() { _ = recover() }() // the connection of a client that left is cut
		req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(limited))
		session(h.router, bot).ServeHTTP(httptest.NewRecorder(), req)
	}()
	assert.NoError(t, l.err)
	assert.EqualValues(t, 1, l.reserved.Load())
	assert.EqualValues(t, 1, l.settled.Load())
}

// An item of reasoning that carries nothing stands for one that the provider has
// stored.
func TestEmptyReasoningIsAReference(t *testing.T) {
	for rest, refers := range map[string]bool{
		``: true, `,"content":null`: true, `,"content":[]`: true, `,"content":[ ]`: true, `,"content":""`: true, `,"content":{}`: true,
		`,"encrypted_content":""`: true, `,"encrypted_content":null`: true, `,"content":[],"encrypted_content":""`: true, `,"summary":[]`: true,
		`,"encrypted_content":"AA"`: false, `,"content":[],"encrypted_content":"AA"`: false, `,"encrypted_content":"AA","content":null`: false,
		`,"content":[{"type":"reasoning_text","text":"x"}]`: false,
	} {
		var env envelope
		body := `{"model":"good","input":[{"type":"reasoning","id":"rs_1"` + rest + `}]}`
		require.NoError(t, scan(opResponses, []byte(body), &env), body)
		assert.Equal(t, refers, env.stored != "", body)
	}
}

// The content of a file may be an address for the provider to fetch.
func TestFileDataThatIsAnAddress(t *testing.T) {
	for data, fetched := range map[string]bool{
		`"https://x.example/a.pdf"`: true, `"\u0068ttps://x.example/a.pdf"`: true, `"file:///etc/passwd"`: true,
		`"data:application/pdf;base64,AA=="`: false, `"AA=="`: false, `null`: false,
	} {
		for op, body := range map[*operation]string{
			opResponses: `{"model":"good","input":[{"role":"user","content":[{"type":"input_file","filename":"a.pdf","file_data":%s}]},` +
				`{"type":"function_call_output","call_id":"1","output":[{"type":"input_file","file_data":"AA=="}]}]}`,
			opChat: `{"model":"good","messages":[{"role":"user","content":[{"type":"file","file":{"file_data":%s}}]}]}`,
		} {
			var env envelope
			require.NoError(t, scan(op, fmt.Appendf(nil, body, data), &env), data)
			assert.Equal(t, fetched, env.hasHosted(hostedURL), "%s: %s", op.name, data)
		}
	}
}

// Lists whose items cost next to nothing to send have a limit, and so has all of a
// request.
func TestManySmallValues(t *testing.T) {
	list := func(n int) string { return "[" + strings.Repeat("1,", n-1) + "1]" }
	for field, op := range map[string]*operation{
		`"stop":%s`: opChat, `"stop_token_ids":%s`: opChat, `"logit_bias":{"a":%s}`: opChat, `"stop_sequences":%s`: opMessages,
		`"metadata":{"a":[%s]}`: opMessages, `"include":%s`: opResponses, `"generationConfig":{"stopSequences":%s}`: opGenerate,
	} {
		for n, want := range map[int]string{1000: "", 1 << 20: "too many"} {
			var env envelope
			err := scan(op, []byte(fmt.Sprintf(`{"model":"models/good",`+field+`}`, list(n))), &env)
			if want == "" {
				assert.NoError(t, err, field)
			} else {
				assert.ErrorContains(t, err, want, field)
			}
		}
		var env envelope
		assert.ErrorContains(t, scan(op, []byte(fmt.Sprintf(`{"model":"models/good",`+field+`}`, list(1025))), &env), "too many", field)
	}
	for body, op := range map[string]*operation{
		`{"model":"good","input":%s}`: opEmbeddings, `{"model":"good","messages":[{"content":[{"type":"text","text":"x","x":%s}]}]}`: opMessages,
		`{"contents":[{"parts":[{"functionCall":{"args":{"a":%s}}}]}]}`: opGenerate,
	} {
		var env envelope
		assert.NoError(t, scan(op, fmt.Appendf(nil, body, list(300_000)), &env), body)
		assert.ErrorContains(t, scan(op, fmt.Appendf(nil, body, list(600_000)), &env), "too many values", body)
		assert.ErrorContains(t, scan(op, fmt.Appendf(nil, body, "["+strings.Repeat(`{},`, 600_000)+"0]"), &env), "too many values", body)
	}
}
