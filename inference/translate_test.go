package inference

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// translating makes h's only backend one that understands chat completions and
// stands in for the other two protocols.
func translating(h *house, tr Translate) {
	h.t.Helper()
	if tr.Protocols == nil {
		tr.Protocols = []Protocol{Anthropic, OpenAIResponses}
	}
	cfg := h.config()
	cfg.Backends = cfg.Backends[:1]
	cfg.Backends[0].Translate = tr
	require.NoError(h.t, h.router.Reload(h.t.Context(), cfg, operator))
}

const (
	messagesCall  = `{"model":"fast","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"tools":[{"name":"t","input_schema":{"type":"object"}}],"stream":`
	responsesCall = `{"model":"fast","input":"hi","tools":[{"type":"function","name":"t"}],"stream":`
)

// Clients of two protocols get their answers from a backend that speaks neither:
// whole and as streams, text and calls, with the backend's own counts on record.
func TestTranslatedCalls(t *testing.T) {
	for _, tc := range []struct {
		path, body string
		wants      []string // in the answer, in this order
	}{
		{"/v1/messages?beta=true", messagesCall + "false}", []string{`"type":"message"`, `"a b"`, `"tool_use"`, `"input":{"x":1}`, `"stop_reason":"tool_use"`}},
		{"/v1/messages", messagesCall + "true}", []string{"message_start", `"text":"a "`, `"tool_use"`, `"stop_reason":"tool_use"`, `"output_tokens":10`, "event: message_stop"}},
		{"/v1/responses", responsesCall + "false}", []string{`"object":"response"`, `"status":"completed"`, `"a b"`, `"arguments":"{\"x\":1}"`, `"total_tokens":12`}},
		{"/v1/responses", responsesCall + "true}", []string{"response.created", `"delta":"a "`, `"arguments":"{\"x\":1}"`, "event: response.completed", `"total_tokens":12`}},
	} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		script := inferencetest.NewScript(inferencetest.Turn{Text: "a b", Calls: []inferencetest.Call{{Name: "t", Args: map[string]int{"x": 1}}}})
		script.Key = h.key
		var asked, header string
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			asked, header = r.URL.String()+" "+string(b), r.Header.Get("Anthropic-Version")+r.Header.Get("Anthropic-Beta")
			r.Body = io.NopCloser(strings.NewReader(string(b)))
			script.ServeHTTP(w, r)
		}
		req := h.request(http.MethodPost, tc.path, tc.body)
		req.Header.Set("Anthropic-Version", "2023-06-01")
		req.Header.Set("Anthropic-Beta", "b1")
		resp, got, err := h.do(req)
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode, got)
		at := 0
		for _, want := range tc.wants {
			i := strings.Index(got[at:], want)
			require.GreaterOrEqual(t, i, 0, "%s after %d in %s", want, at, got)
			at += i
		}
		assert.True(t, strings.HasPrefix(asked, `/v1/chat/completions {"model":"good",`), asked)
		assert.Empty(t, header, "headers of another protocol")
		out := h.outcome()
		assert.Equal(t, audit.StatusOK, out.Status)
		assert.Equal(t, audit.Usage{Model: "good", Input: 2, Output: 10, Final: true}, *out.Usage)
		assert.EqualValues(t, len(got), out.Bytes)
	}
}

// The backend counts reasoning, for which messages have no place, and cached
// tokens, which messages count apart; a backend that counts nothing is estimated.
func TestUsageOfTranslatedAnswers(t *testing.T) {
	const counts = `"usage":{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":60},"completion_tokens_details":{"reasoning_tokens":5}}`
	full := audit.Usage{Model: "good", Input: 40, CacheRead: 60, Output: 20, Reasoning: 5, Final: true}
	for _, stream := range []bool{true, false} {
		for _, counted := range []bool{true, false} {
			for path, body := range map[string]string{"/v1/messages": messagesCall, "/v1/responses": responsesCall} {
				h := newHouse(t, nil)
				translating(h, Translate{})
				with := ""
				if counted {
					with = "," + counts
				}
				if stream {
					body += "true}"
					h.backend = sse(`data: {"id":"1","choices":[{"delta":{"content":"some text of the model"}}]}`+"\n\n",
						`data: {"id":"1","choices":[{"delta":{},"finish_reason":"stop"}]`+with+"}\n\n", "data: [DONE]\n\n")
				} else {
					body += "false}"
					h.backend = func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Content-Type", "application/json")
						_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"some text of the model"},"finish_reason":"stop"}]`+with+"}")
					}
				}
				resp, got := h.post(path, body)
				require.Equal(t, 200, resp.StatusCode, got)
				u := *h.outcome().Usage
				if counted {
					assert.Equal(t, full, u, "%s %v", path, stream)
					continue
				}
				assert.False(t, u.Final, "%s %v", path, stream)
				assert.Positive(t, u.Input, "%s %v", path, stream)
			}
		}
	}
}

// What the host gives up is on record.
func TestIgnoredFeaturesAreOnRecord(t *testing.T) {
	h := newHouse(t, nil)
	translating(h, Translate{Ignore: []string{"thinking", "hosted_tools"}, Pass: []string{"top_k"}})
	var asked string
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = string(b)
		_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"x","reasoning_content":"hm"},"finish_reason":"stop"}]}`)
	}
	// bot may not use code_execution; but nobody would: it stays here.
	resp, got := h.post("/v1/messages", `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":"x"}],"thinking":{"type":"enabled","budget_tokens":5},`+
		`"tools":[{"type":"code_execution_20250825","name":"code_execution"}],"top_k":5}`)
	require.Equal(t, 200, resp.StatusCode, got)
	assert.Equal(t, `{"model":"good","messages":[{"role":"user","content":"x"}],"max_tokens":9,"top_k":5}`, asked)
	assert.Subset(t, h.outcome().Checks, []string{"ignored:thinking", "ignored:hosted_tools", "dropped:reasoning"})
	assert.NotContains(t, strings.Join(h.outcome().Checks, " "), "hosted-tool:")
}

// What cannot be translated is refused before anybody is asked, in the shape of
// the client's protocol, and on record; but only to those who may know the model.
func TestUntranslatableRequests(t *testing.T) {
	for _, tc := range []struct {
		path, body string
		status     int
		says       string
		reason     string
	}{
		{"/v1/messages", `{"model":"good","max_tokens":9,"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"s"}]},{"role":"user","content":"x"}]}`,
			400, `messages[0].content[0]`, audit.GuardTranslation},
		{"/v1/responses", `{"model":"good","input":[{"type":"compaction","encrypted_content":"x"}]}`, 400, "compaction", audit.GuardTranslation},
		{"/v1/messages", `{"model":"forbidden","max_tokens":9,"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"s"}]}]}`,
			403, "may not use the model", "no-permit"},
		// The backend would fetch the image: the same decision as without translation.
		{"/v1/messages", `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://x.example/a.png"}}]}]}`,
			403, "fetch_url", ""},
		{"/v1/responses", `{"model":"good","input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x.example/a.png"}]}]}`,
			403, "fetch_url", ""},
	} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		resp, got := h.post(tc.path, tc.body)
		assert.Equal(t, tc.status, resp.StatusCode, "%s: %s", tc.body, got)
		assert.Contains(t, got, tc.says)
		var shape struct {
			Type  string `json:"type"`
			Error struct{ Message string }
		}
		require.NoError(t, json.Unmarshal([]byte(got), &shape))
		assert.Equal(t, strings.HasPrefix(tc.path, "/v1/messages"), shape.Type == "error", got)
		d := h.denial()
		if tc.reason != "" {
			assert.Equal(t, tc.reason, d.Decision.Reason, got)
		}
	}
}

// Who may not use a model makes no work: a denied request is neither written anew
// nor translated. What counts is memory, for each of them would take as much again
// as the request.
func TestDeniedRequestsAreNotTranslated(t *testing.T) {
	h := newHouse(t, nil)
	translating(h, Translate{})
	allocated := func(model string) uint64 {
		body := `{"model":"` + model + `","max_tokens":9,"messages":[{"role":"user","content":"` + strings.Repeat("x", 8<<20) + `"}]}`
		rec, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(body))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		session(h.router, bot).ServeHTTP(rec, req)
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) >> 20
	}
	read := allocated("forbidden")
	assert.Less(t, read, uint64(24))
	assert.Greater(t, allocated("good"), read+16)
}

// Policy decides about the names of tools that the backend will read, and about the
// client's.
func TestToolsOfATranslationAreDecided(t *testing.T) {
	for tools, want := range map[string][]any{
		`[{"type":"function","name":"a"}]`:                                            {[]string{"a"}},
		`[{"type":"namespace","name":"ns","tools":[{"type":"function","name":"a"}]}]`: {[]string{"a", "ns"}, []string{"ns__a"}},
	} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		seen := &spyEngine{decider: h.router.engine}
		h.router.engine = seen
		resp, got := h.post("/v1/responses", `{"model":"good","input":"x","tools":`+tools+`}`)
		require.Equal(t, 502, resp.StatusCode, "%s: %s", tools, got) // the backend says nothing of use
		var names []any
		for _, attrs := range seen.attrs {
			names = append(names, attrs["tools"])
		}
		assert.Equal(t, want, names)
	}
}

// A call that is decided twice, since its tools have other names in the translation,
// is one use of a rate and of a fact.
func TestCallsThatAreDecidedTwiceCountOnce(t *testing.T) {
	for name, model := range map[string]string{
		"rate": `@id("models") @rate("1/1h") permit (principal, action == Action::"invoke_model", resource);`,
		"fact": `@id("models") permit (principal, action == Action::"invoke_model", resource) when { context.facts.calls < 1 };`,
	} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		bundle := governance.Bundle{
			Policies: []governance.Source{{Name: "test.cedar", Text: model + `
@id("keys") permit (principal, action == Action::"use_credential", resource);`}},
			Profiles: []governance.Profile{{ID: "bots", Owner: "test", Agents: []string{"bot"}, Models: []string{"openai/*"}}},
		}
		if name == "fact" {
			bundle.Facts = []governance.Fact{{Name: "calls", Kind: governance.CountWithin, On: []string{"invoke_model"}, Window: time.Hour, Per: "agent"}}
		}
		_, err := h.engine.Reload(t.Context(), bundle, operator)
		require.NoError(t, err)
		h.backend = func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}`)
		}
		body := `{"model":"good","input":"x","tools":[{"type":"namespace","name":"ns","tools":[{"type":"function","name":"a"}]}]}`
		resp, got := h.post("/v1/responses", body)
		assert.Equal(t, 200, resp.StatusCode, "%s: %s", name, got)
		resp, got = h.post("/v1/responses", body)
		assert.Equal(t, 403, resp.StatusCode, "%s: %s", name, got)
		assert.EqualValues(t, 1, h.requests.Load(), name)
	}
}

// Chat backends count no tokens; by the host's word they are estimated.
func TestEstimatedTokens(t *testing.T) {
	h := newHouse(t, nil)
	translating(h, Translate{EstimateTokens: true})
	_, err := h.engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "test.cedar", Text: `@id("count") permit (principal, action == Action::"count_tokens", resource);`}},
		Profiles: []governance.Profile{{ID: "bots", Owner: "test", Agents: []string{"bot"}, Models: []string{"openai/*"}}},
	}, operator)
	require.NoError(t, err)
	body := `{"model":"good","messages":[{"role":"user","content":"` + strings.Repeat("word ", 800) + `"}]}`
	resp, got := h.post("/v1/messages/count_tokens", body)
	assert.Equal(t, 200, resp.StatusCode, got)
	assert.Equal(t, fmt.Sprintf(`{"input_tokens":%d}`, (len(body)+3)/4), got)
	assert.Equal(t, []string{"estimated"}, h.outcome().Checks)
	assert.Zero(t, h.requests.Load()+h.strays.Load(), "nobody is asked")
	assert.Zero(t, h.outcome().CredentialVersion)

	translating(h, Translate{})
	resp, got = h.post("/v1/messages/count_tokens", body)
	assert.Equal(t, 400, resp.StatusCode, got)
	assert.Contains(t, got, "does not offer this operation")
	assert.Equal(t, audit.GuardTranslation, h.denial().Decision.Reason)
}

// A count that falls back to a backend that counts none is estimated too: no
// completion is paid for instead.
func TestEstimateAfterFallback(t *testing.T) {
	h := newHouse(t, nil)
	cfg := h.config()
	cfg.Backends[0].Translate = Translate{Protocols: []Protocol{Anthropic}, EstimateTokens: true}
	cfg.Backends[0].Models, cfg.Backends[0].Aliases = []string{"good"}, nil
	cfg.Backends[1].Models = []string{"good"}
	cfg.Routes = []Route{{Model: "good", Targets: []Target{{Backend: "claude", Model: "good"}, {Backend: "openai", Model: "good", Priority: 1}}}}
	require.NoError(t, h.router.Reload(t.Context(), cfg, operator))
	var asked []string
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		w.WriteHeader(503)
	}
	body := `{"model":"good","messages":[{"role":"user","content":"hi"}]}`
	resp, got := h.post("/v1/messages/count_tokens", body)
	assert.Equal(t, 200, resp.StatusCode, got)
	assert.Equal(t, fmt.Sprintf(`{"input_tokens":%d}`, (len(body)+3)/4), got)
	assert.Equal(t, []string{"/v1/messages/count_tokens"}, asked, "the second is not asked")
	assert.Zero(t, h.strays.Load(), "not without a key either")
	out := h.outcome()
	assert.Equal(t, audit.StatusOK, out.Status)
	assert.Equal(t, []string{"attempt:claude/good:upstream-503", "estimated", "target:openai/good"}, out.Checks)
}

// Nothing is sent for what is to be estimated, whoever asks for an attempt.
func TestNoAttemptForAnEstimate(t *testing.T) {
	c := &call{target: &target{backend: &Backend{Name: "b"}}, rendering: rendering{estimate: 1}}
	a := c.attempt()
	assert.Nil(t, a.resp)
	assert.True(t, a.never)
	assert.Equal(t, undone, a.failing)
}

// Errors of the backend have the client's shape.
func TestErrorsOfTranslatedBackends(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/messages":  `{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}`,
		"/v1/responses": `{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":"rl"}}`,
	} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		h.backend = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
			_, _ = io.WriteString(w, `{"error":{"message":"slow down","code":"rl"}}`)
		}
		resp, got := h.post(path, map[string]string{"/v1/messages": messagesCall, "/v1/responses": responsesCall}[path]+"true}")
		assert.Equal(t, 429, resp.StatusCode)
		assert.Equal(t, "7", resp.Header.Get("Retry-After"))
		assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		assert.Equal(t, want, got)
		assert.Equal(t, "upstream-429", h.outcome().ErrorCode)
	}
}

// An answer that cannot be translated is an error, and what it cost is on record.
func TestUntranslatableAnswers(t *testing.T) {
	h := newHouse(t, nil)
	translating(h, Translate{})
	h.backend = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"x"},"finish_reason":"odd"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`)
	}
	resp, got := h.post("/v1/messages", messagesCall+"false}")
	assert.Equal(t, 502, resp.StatusCode)
	assert.Contains(t, got, `it ended with \"odd\"`)
	assert.Equal(t, "upstream-untranslatable", h.outcome().ErrorCode)
	assert.EqualValues(t, 3, h.outcome().Usage.Output)
}

// A stream that breaks off ends with the error event of the client's protocol.
func TestTranslatedStreamsThatBreakOff(t *testing.T) {
	for path, want := range map[string]string{"/v1/messages": "event: error\ndata: {\"type\":\"error\"", "/v1/responses": "event: response.failed"} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		h.backend = sse(`data: {"id":"1","choices":[{"delta":{"content":"x"}}]}` + "\n\n")
		_, got := h.post(path, map[string]string{"/v1/messages": messagesCall, "/v1/responses": responsesCall}[path]+"true}")
		assert.Contains(t, got, want)
		assert.Equal(t, audit.StatusFailed, h.outcome().Status)
		assert.False(t, h.outcome().Usage.Final)
	}
}

// Secrets are taken out before the translation.
func TestTranslatedAnswersAreScrubbed(t *testing.T) {
	for _, stream := range []string{"true", "false"} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		if stream == "true" {
			h.backend = sse(`data: {"id":"1","choices":[{"delta":{"content":"key `+h.key[:5], h.key[5:]+`"}}]}`+"\n\n",
				`data: {"id":"1","choices":[{"delta":{},"finish_reason":"stop"}]}`+"\n\n", "data: [DONE]\n\n")
		} else {
			h.backend = func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"key `+h.key+`"},"finish_reason":"stop"}]}`)
			}
		}
		_, got := h.post("/v1/messages", messagesCall+stream+"}")
		assert.NotContains(t, got, h.key)
		assert.Contains(t, got, "key ")
		assert.Contains(t, strings.Join(h.outcome().Checks, " "), "openai-key")
	}
}

// One route may lead to a backend that speaks the protocol and, when that does
// not answer, to one that is translated for; or the other way round, when the
// request cannot be translated.
func TestRoutesOfNativeAndTranslatedTargets(t *testing.T) {
	for _, tc := range []struct {
		content, want string
		broken        bool // the native backend
		first         string
	}{
		{`"hi"`, "translated", true, "claude"},
		{`"hi"`, "translated", false, "openai"},
		{`[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"}}]`, "native", false, "openai"},
	} {
		h := newHouse(t, nil)
		cfg := h.config()
		cfg.Backends[0].Translate = Translate{Protocols: []Protocol{Anthropic}}
		priority := map[string]int{"openai": 1, "claude": 1}
		priority[tc.first] = 0
		cfg.Backends[0].Models, cfg.Backends[0].Aliases = []string{"good"}, nil
		cfg.Backends[1].Models = []string{"good"}
		cfg.Routes = []Route{{Model: "good", Targets: []Target{
			{Backend: "claude", Model: "good", Priority: priority["claude"]},
			{Backend: "openai", Model: "good", Priority: priority["openai"]},
		}}}
		require.NoError(t, h.router.Reload(t.Context(), cfg, operator))
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.URL.Path, "chat"):
				_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"translated"},"finish_reason":"stop"}]}`)
			case tc.broken:
				w.WriteHeader(503)
			default:
				_, _ = io.WriteString(w, `{"type":"message","content":[{"type":"text","text":"native"}]}`)
			}
		}
		resp, got := h.post("/v1/messages", `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":`+tc.content+`}]}`)
		assert.Equal(t, 200, resp.StatusCode, got)
		assert.Contains(t, got, `"text":"`+tc.want+`"`)
	}
}

func TestTranslateInConfig(t *testing.T) {
	const backend = "backends:\n  - name: nim\n    base_url: http://127.0.0.1:1/v1\n    models: [m]\n"
	cfg, err := ParseConfig("t.yaml", []byte(backend+"    translate:\n      protocols: [anthropic, openai-responses]\n      ignore: [thinking]\n      pass: [top_k]\n      max_completion_tokens: true\n"))
	require.NoError(t, err)
	assert.Equal(t, Translate{Protocols: []Protocol{Anthropic, OpenAIResponses}, Ignore: []string{"thinking"}, Pass: []string{"top_k"}, MaxCompletionTokens: true},
		cfg.Backends[0].Translate)
	for in, says := range map[string]string{
		"      protocols: [gemini]\n":                             `"gemini" cannot be translated`,
		"      protocols: [openai]\n":                             `"openai" cannot be translated`,
		"      protocols: [anthropic, anthropic]\n":               "already",
		"      ignore: [thinking]\n":                              "nothing is translated",
		"      protocols: [anthropic]\n      ignore: [all]\n":     `"all" is not a feature`,
		"      protocols: [anthropic]\n      pass: [model]\n":     `"model" cannot be passed on`,
		"      protocols: [anthropic]\n    protocol: anthropic\n": "must speak openai",
	} {
		_, err := ParseConfig("t.yaml", []byte(backend+"    translate:\n"+in))
		assert.ErrorContains(t, err, says, in)
	}
}

// Counts that do not say how much was read and written are none.
func TestTranslatedAnswersWithHalfACount(t *testing.T) {
	for _, usage := range []string{`{}`, `{"prompt_tokens":5}`, `{"completion_tokens":5}`, `{"prompt_tokens":"5","completion_tokens":"2"}`, `{"prompt_tokens":5,"completion_tokens":2.5}`} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		h.backend = func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"some text of the model"},"finish_reason":"stop"}],"usage":`+usage+"}")
		}
		resp, got := h.post("/v1/messages", messagesCall+"false}")
		require.Equal(t, 200, resp.StatusCode, got)
		u := h.outcome().Usage
		assert.False(t, u.Final, usage)
		assert.Positive(t, u.Input, usage)
		assert.Positive(t, u.Output, usage)
	}
}
