package inference

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// Of a backend's error an agent is told the type, the code and the message, and
// nothing besides.
func TestFaultsAreToldInTheShapeOfTheProtocol(t *testing.T) {
	for name, tc := range map[string]struct {
		p          Protocol
		status     int
		body, want string
	}{
		"OpenAI": {OpenAI, 400, `{"error":{"message":"too long","type":"invalid_request_error","param":"messages[0].content","code":"context_length_exceeded","account":"acc"},"org":"o"}`,
			`{"error":{"message":"too long","type":"invalid_request_error","param":"messages[0].content","code":"context_length_exceeded"}}`},
		"OpenAI, nothing said": {OpenAIResponses, 500, `{}`, `{"error":{"message":"the backend answered with status 500","type":"server_error","param":null,"code":null}}`},
		"a number as code":     {OpenAI, 404, `{"object":"error","message":"no such model","type":"NotFoundError","code":404}`, `{"error":{"message":"no such model","type":"NotFoundError","param":null,"code":"404"}}`},
		"a string":             {OpenAI, 404, `{"error":"model not found"}`, `{"error":{"message":"model not found","type":"invalid_request_error","param":null,"code":null}}`},
		"a detail":             {OpenAI, 422, `{"detail":"no"}`, `{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}`},
		"a list of details":    {OpenAI, 422, `{"detail":[{"loc":["body"],"input":"secret"}]}`, `{"error":{"message":"the backend answered with status 422","type":"invalid_request_error","param":null,"code":null}}`},
		"text":                 {OpenAI, 503, " no healthy upstream at 10.0.0.7:8080\n", `{"error":{"message":"no healthy upstream at [redacted]","type":"server_error","param":null,"code":null}}`},
		"a page":               {OpenAI, 502, "<html>secret</html>", `{"error":{"message":"the backend answered with status 502","type":"server_error","param":null,"code":null}}`},
		"labels that are none": {OpenAI, 400, `{"error":{"message":"x","type":"a b","param":["secret"],"code":"org-AbC123456"}}`, `{"error":{"message":"x","type":"invalid_request_error","param":null,"code":null}}`},
		"Anthropic": {Anthropic, 400, `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 208310 tokens > 200000 maximum","details":{"a":1}},"request_id":"req_1"}`,
			`{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 208310 tokens > 200000 maximum"}}`},
		"Gemini": {Gemini, 429, `{"error":{"code":429,"message":"quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaDimensions":{"project":"p"}}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}`,
			`{"error":{"code":429,"message":"quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}`},
		"Gemini's list": {Gemini, 400, `[{"error":{"message":"bad","status":"INVALID_ARGUMENT","details":[{"retryDelay":"soon"}]}}]`, `{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}`},
	} {
		assert.JSONEq(t, tc.want, string(readFault([]byte(tc.body)).body(tc.p, tc.status)), name)
	}
}

func TestDiscreet(t *testing.T) {
	for _, said := range []string{
		"https://console.developers.google.com/apis/overview?project=123", "postgres://u:p@host/db", "arn:aws:iam::123456789012:user/bob", "projects/my-project-1",
		"organizations/7", "project_number:123456", "0b5c2f9e-1d2c-4c1a-9d1e-0a1b2c3d4e5f", "ops+llm@example.com", "Bearer abc", "123456789012", "10.1.2.3:8080",
		"org-9aB3dE5fG7hI9jK1", "proj_abc123def", "sk-proj-****abcd", "sk-ant-api03-AbCdEf", "AIzaSyA1b2C3d4", "AKIAIOSFODNN7EXAMPLE", "nvapi-AbCdEfGh",
		"acct_1A2b3C4d", strings.Repeat("aB3", 14), "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
	} {
		got := discreet(`it is "` + said + `", is it?`)
		assert.Equal(t, `it is "[redacted]", is it?`, got, said)
	}
	for _, said := range []string{
		"prompt is too long: 208310 tokens > 200000 maximum", "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
		"messages.1.content.0: tool_use ids were found: toolu_01A09q90qw90lq917835lq9", "Unsupported parameter: 'max_tokens'", "invalid key_name in user_settings",
		"Invalid schema for function 'mcp__files__read_the_contents_of_a_file_now'", "see the account settings", "[redacted:openai-key]",
		"This model's maximum context length is 128000 tokens.", "gpt-5.1-codex-max-2026-01-01 is overloaded",
	} {
		assert.Equal(t, said, discreet(said))
	}
	long := discreet(strings.Repeat("ü", 2000))
	assert.Equal(t, strings.Repeat("ü", 1024)+"…", long)
}

const indiscreetly = "Rate limit reached for org-9aB3dE5fG7hI9jK1, see https://x.example/?key=secret"

// Faults of every kind are told discreetly: with a status, in an answer of status
// 200, and in a stream.
func TestFaultsAreDiscreet(t *testing.T) {
	const chat, messages, responses = "/v1/chat/completions", "/v1/messages", "/v1/responses"
	whole := map[string]string{chat: plainChat, messages: plainMessage, responses: `{"model":"good","store":false,"input":"x"}`, "/v1beta/models/good:generateContent": `{"contents":[]}`}
	streams := map[string]string{chat: chatStream, messages: messagesStream, responses: responsesStream, geminiStream: `{"contents":[]}`}
	says := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, strings.ReplaceAll(body, "SAID", indiscreetly))
		}
	}
	for path, body := range whole {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		h.backend = says(429, `{"error":{"message":"SAID"},"organization":"org-x"}`)
		resp, got := h.post(path, body)
		assert.Equal(t, 429, resp.StatusCode, path)
		assert.Equal(t, "7", resp.Header.Get("Retry-After"), path)
		assert.Equal(t, "application/json", resp.Header.Get("Content-Type"), path)
		assert.Contains(t, got, "Rate limit reached for [redacted], see [redacted]", path)
		assert.NotContains(t, got, "org", path)
		assert.True(t, json.Valid([]byte(got)), path)
		assert.EqualValues(t, len(got), h.outcome().Bytes, path)

		h = newHouse(t, nil)
		h.serve(h.manyProtocols())
		h.backend = says(429, `{"error":{"message":"SAID","pad":"`+strings.Repeat("x", maxFault)+`"}}`)
		_, got = h.post(path, body)
		assert.Contains(t, got, "the backend answered with status 429", path)
	}
	for path, fault := range map[string]string{
		chat: `{"error":{"message":"SAID","code":429},"note":"kept"}`, messages: `{"type":"error","error":{"type":"x","message":"SAID"},"note":"kept"}`,
		responses: `{"status":"failed","error":{"code":"x","message":"SAID"},"note":"kept"}`,
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		h.backend = says(200, fault)
		_, got := h.post(path, whole[path])
		assert.Equal(t, strings.ReplaceAll(fault, "SAID", "Rate limit reached for [redacted], see [redacted]"), got, path)
		assert.Equal(t, audit.StatusFailed, h.outcome().Status, path)
	}
	for path, fault := range map[string]string{
		chat:         `data: {"error":{"message":"SAID"}}`,
		messages:     "event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"SAID"}}`,
		responses:    `data: {"type":"response.failed","response":{"error":{"message":"SAID"},"output":[{"text":"user-12345678"}]}}`,
		geminiStream: "data: {\r\n" + `data: "error":{"message":"SAID"}}`,
	} {
		for _, end := range []string{"\n\n", ""} {
			h := newHouse(t, nil)
			h.serve(h.manyProtocols())
			said := strings.ReplaceAll(fault, "SAID", indiscreetly) + end
			h.backend = sse("data: {}\n\n" + strings.Repeat(said, 1+len(end)/2))
			resp, err := h.door.Client().Do(h.request(http.MethodPost, path, streams[path]))
			require.NoError(t, err)
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			assert.NotContains(t, string(got), "org-", path)
			assert.NotContains(t, string(got), "x.example", path)
			if path == responses && end != "" {
				assert.Contains(t, string(got), "user-12345678", "what the model said is not touched")
			}
			h.door.Close()
			assert.Equal(t, audit.StatusFailed, h.outcome().Status, path)
		}
	}
}

// A translated error is as discreet.
func TestTranslatedFaultsAreDiscreet(t *testing.T) {
	h := newHouse(t, nil)
	cfg := h.config()
	cfg.Backends = cfg.Backends[:1]
	cfg.Backends[0].Translate.Protocols = []Protocol{Anthropic}
	h.serve(cfg)
	for _, status := range []int{400, 200, 0} { // none: in a stream
		stream := status == 0
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			if stream {
				sse(`data: {"error":{"message":"`+indiscreetly+`"}}`+"\n\n")(w, r)
				return
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":{"message":"`+indiscreetly+`"}}`)
		}
		body := `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":"x"}]}`
		if stream {
			body = strings.Replace(body, `"max`, `"stream":true,"max`, 1)
		}
		resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/messages", body))
		require.NoError(t, err)
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		assert.Contains(t, string(got), "Rate limit reached for [redacted]", status)
		assert.NotContains(t, string(got), "org-", status)
		assert.NotContains(t, string(got), "x.example", status)
	}
}

// A report of an error that breaks off does not pass by.
func TestFaultsThatBreakOffAreDiscreet(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse("data: {}\n\n", `data: {"error":{"message":"`+indiscreetly+`"}}`+"\n")(w, r)
		panic(http.ErrAbortHandler)
	}
	_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Equal(t, "data: {}\n\n", got)
}
