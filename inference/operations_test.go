package inference

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// Every operation: where it goes, what is spliced, what is decided, what it
// cost. "fast" is an alias of "good".
func TestOperations(t *testing.T) {
	for path, tc := range map[string]struct {
		body, upstream, sent, action, answer string
		used                                 *audit.Usage
	}{
		"/v1/chat/completions": {`{"model":"fast"}`, "/v1/chat/completions", `{"model":"good"}`, "invoke_model",
			`{"usage":{"prompt_tokens":5,"completion_tokens":2}}`, &audit.Usage{Model: "good", Input: 5, Output: 2, Final: true}},
		"/v1/embeddings": {`{"model":"fast","input":["a","b"]}`, "/v1/embeddings", `{"model":"good","input":["a","b"]}`, "embed",
			`{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5,"total_tokens":5}}`, &audit.Usage{Model: "good", Input: 5, Final: true}},
		"/embeddings": {`{"model":"good","input":"aaaaaaaa"}`, "/v1/embeddings", `{"model":"good","input":"aaaaaaaa"}`, "embed",
			`{"data":[{"embedding":[0.1]}]}`, &audit.Usage{Model: "good", Input: 9}},
		"/v1/responses": {`{"model":"fast","input":"x"}`, "/v1/responses", `{"store":false,"model":"good","input":"x"}`, "invoke_model",
			`{"status":"completed","usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3}}}`,
			&audit.Usage{Model: "good", Input: 5, CacheRead: 4, Output: 7, Reasoning: 3, Final: true}},
		"/responses": {`{"model":"good","input":"x","store":null}`, "/v1/responses", `{"model":"good","input":"x","store":false}`, "invoke_model",
			`{"status":"incomplete","usage":{"input_tokens":9,"output_tokens":7}}`, &audit.Usage{Model: "good", Input: 9, Output: 7, Final: true}},
		"/v1beta/models/fast:generateContent?key=agents-own": {`{"contents":[]}`, "/v1/models/good:generateContent", `{"contents":[]}`, "invoke_model",
			`{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"cachedContentTokenCount":4,"toolUsePromptTokenCount":2,"candidatesTokenCount":5,"thoughtsTokenCount":3}}`,
			&audit.Usage{Model: "good", Input: 7, CacheRead: 4, Output: 8, Reasoning: 3, Final: true}},
		"/v1beta/models/fast:streamGenerateContent?alt=sse&key=agents-own": {`{"contents":[]}`, "/v1/models/good:streamGenerateContent?alt=sse", `{"contents":[]}`, "invoke_model",
			`{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9}}`, &audit.Usage{Model: "good", Input: 9, Final: true}},
		"/v1beta/models/fast:countTokens": {`{"generateContentRequest":{"model":"models/fast","contents":[]}}`, "/v1/models/good:countTokens",
			`{"generateContentRequest":{"model":"models/good","contents":[]}}`, "count_tokens", `{"totalTokens":9}`, nil},
		"/v1beta/models/fast:embedContent": {`{"model":"fast","content":{"parts":[{"text":"x"}]}}`, "/v1/models/good:embedContent",
			`{"model":"good","content":{"parts":[{"text":"x"}]}}`, "embed", `{"embedding":{}}`, &audit.Usage{Model: "good", Input: 13}},
		"/v1beta/models/fast:batchEmbedContents": {`{"requests":[{"model":"models/fast"},{"model":"models/fast"}]}`, "/v1/models/good:batchEmbedContents",
			`{"requests":[{"model":"models/good"},{"model":"models/good"}]}`, "embed", `{"embeddings":[]}`, &audit.Usage{Model: "good", Input: 16}},
		"/v1/messages/count_tokens?beta=true": {`{"model":"good","messages":[]}`, "/v1/messages/count_tokens?beta=true", `{"model":"good","messages":[]}`,
			"count_tokens", `{"input_tokens":9}`, nil},
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		var got string
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = r.URL.String() + " " + string(b)
			_, _ = io.WriteString(w, tc.answer)
		}
		resp, answer := h.post(path, tc.body)
		assert.Equal(t, 200, resp.StatusCode, "%s: %s", path, answer)
		assert.Equal(t, tc.answer, answer, path)
		assert.Equal(t, tc.upstream+" "+tc.sent, got, path)
		var intents []audit.Intent
		for _, r := range h.log.Records() {
			if r.Intent != nil {
				intents = append(intents, *r.Intent)
			}
		}
		require.Len(t, intents, 1, path)
		assert.Equal(t, tc.action, intents[0].Action, path)
		out := h.outcome()
		assert.Equal(t, audit.StatusOK, out.Status, path)
		assert.Equal(t, tc.used, out.Usage, path)
		records, err := json.Marshal(h.log.Records())
		require.NoError(t, err)
		assert.NotContains(t, string(records), "agents-own", "a key is on record")
	}
}

// What an operation may do is decided as that operation.
func TestOperationsAreDecided(t *testing.T) {
	h := newHouse(t, nil)
	h.serve(h.manyProtocols())
	_, err := h.engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("m") permit (principal, action == Action::"invoke_model", resource);`}},
	}, operator)
	require.NoError(t, err)
	for path, action := range map[string]string{
		"/v1/embeddings": "embed", "/v1/messages/count_tokens": "count_tokens", "/v1beta/models/good:countTokens": "count_tokens",
		"/v1beta/models/good:embedContent": "embed", "/v1beta/models/good:batchEmbedContents": "embed",
	} {
		body := `{"model":"good"}`
		if strings.HasSuffix(path, "batchEmbedContents") || strings.HasSuffix(path, ":countTokens") {
			body = `{}`
		}
		resp, got := h.post(path, body)
		assert.Equal(t, 403, resp.StatusCode, "%s: %s", path, got)
		denials := h.log.Denials()
		assert.Equal(t, action, denials[len(denials)-1].Action, path)
	}
	assert.Zero(t, h.requests.Load())
}

// What one agent has stored is not for another, and all have the same key.
func TestStoredObjectsAreRefused(t *testing.T) {
	for body, path := range map[string]string{
		`{"model":"good","input":"x","previous_response_id":"resp_1"}`:                                                     "/v1/responses",
		`{"model":"good","input":"x","previous_response_id":""}`:                                                           "/v1/responses",
		`{"model":"good","input":"x","conversation":"conv_1"}`:                                                             "/v1/responses",
		`{"model":"good","input":"x","conversation":{"id":"conv_1"}}`:                                                      "/v1/responses",
		`{"model":"good","input":"x","prompt":{"id":"pmpt_1"}}`:                                                            "/v1/responses",
		`{"model":"good","input":"x","background":true}`:                                                                   "/v1/responses",
		`{"model":"good","input":[{"type":"item_reference","id":"msg_1"}]}`:                                                "/v1/responses",
		`{"model":"good","input":[{"id":"msg_1"}]}`:                                                                        "/v1/responses",
		`{"model":"good","input":[{"type":null,"id":"msg_1"}]}`:                                                            "/v1/responses",
		`{"model":"good","input":[{"type":"reasoning","id":"rs_1","summary":[]}]}`:                                         "/v1/responses",
		`{"model":"good","input":[{"type":"reasoning","id":"rs_1","summary":[],"content":null,"encrypted_content":null}]}`: "/v1/responses",
		`{"model":"good","messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}`:                                      "/v1/chat/completions",
		`{"cachedContent":"cachedContents/1"}`:                                                                             "/v1beta/models/good:generateContent",
		`{"cached_content":"cachedContents/1"}`:                                                                            "/v1beta/models/good:streamGenerateContent?alt=sse",
		`{"generateContentRequest":{"cachedContent":"cachedContents/1"}}`:                                                  "/v1beta/models/good:countTokens",
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		resp, got := h.post(path, body)
		assert.Equal(t, 403, resp.StatusCode, body)
		assert.Contains(t, got, "stored", body)
		assert.Equal(t, audit.GuardStoredObject, h.denial().Decision.Reason, body)
	}
	h := newHouse(t, nil)
	for _, request := range []string{
		"GET /v1/responses/resp_1", "DELETE /v1/responses/resp_1", "POST /v1/responses/resp_1/cancel", "GET /v1/responses/resp_1/input_items",
		"POST /v1/conversations", "GET /v1/conversations/c", "GET /v1/files", "POST /v1/files", "GET /v1/files/f/content", "POST /v1/batches",
		"GET /v1/chat/completions", "GET /v1/chat/completions/c", "POST /v1/fine_tuning/jobs", "POST /v1/messages/batches", "GET /v1/messages/batches/b/results",
		"POST /v1/vector_stores", "GET /v1/assistants", "POST /v1/threads", "GET /v1beta/files", "POST /upload/v1beta/files", "GET /v1beta/cachedContents",
		"POST /v1beta/cachedContents", "POST /v1beta/models/good:batchGenerateContent", "GET /v1beta/tunedModels", "DELETE /v1/models/good",
		"POST /v1/responses/compact", "POST /v1/images/generations", "POST /v1/audio/speech", "GET /v1/organization/admin_api_keys",
	} {
		method, path, _ := strings.Cut(request, " ")
		resp, got, err := h.do(h.request(method, path, ""))
		require.NoError(t, err)
		assert.Equal(t, 403, resp.StatusCode, request)
		assert.Contains(t, got, "not served", request)
	}
	for _, d := range h.log.Denials() {
		assert.Equal(t, audit.GuardMethod, d.Decision.Reason)
	}
	assert.Zero(t, h.requests.Load()+h.strays.Load())
}

// A body that names another model than the path is not for the backend to make
// sense of.
func TestTheModelOfTheBodyIsThatOfThePath(t *testing.T) {
	for body, verb := range map[string]string{
		`{"model":"models/forbidden"}`:                                                   "embedContent",
		`{"model":"forbidden"}`:                                                          "generateContent",
		`{"model":"models/good"}`:                                                        "countTokens",
		`{"generateContentRequest":{"model":"models/forbidden"}}`:                        "countTokens",
		`{"requests":[{"model":"models/fast"},{"model":"models/forbidden"}]}`:            "batchEmbedContents",
		`{"requests":[{"generateContentRequest":{"model":"publishers/x/models/fast"}}]}`: "batchEmbedContents",
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		resp, got := h.post("/v1beta/models/fast:"+verb, body)
		assert.Equal(t, 400, resp.StatusCode, body)
		assert.Contains(t, got, "another model than the path", body)
		assert.Equal(t, audit.GuardStrictJSON, h.denial().Decision.Reason, body)
	}
}

func TestScanReadsTheEnvelopeOfOtherProtocols(t *testing.T) {
	for name, tc := range map[string]struct {
		op     *operation
		body   string
		limit  int64
		tools  []string
		hosted []string
	}{
		"responses": {opResponses, `{"model":"m","max_output_tokens":100,"instructions":"x","include":["reasoning.encrypted_content"],"store":false,"prompt_cache_key":"k",
			"tools":[{"type":"function","name":"a","strict":false,"parameters":{"type":"mcp"}},{"type":"custom","name":"b","format":{"type":"grammar"}},
				{"type":"local_shell"},{"type":"namespace","name":"ns","tools":[{"type":"function","name":"c"}]}],
			"input":[{"type":"message","id":"msg_1","role":"developer","content":[{"type":"input_text","text":"https://x"}]},{"role":"user","content":"x"},
				{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"x"}],"encrypted_content":"AA"},
				{"type":"function_call","id":"fc_1","call_id":"1","name":"a","arguments":"{\"url\":\"https://x\"}"},
				{"type":"function_call_output","call_id":"1","output":[{"type":"input_image","image_url":"data:x"}]},
				{"type":"message","role":"assistant","content":[{"type":"output_text","text":"x","annotations":[{"type":"url_citation","url":"https://x"}]}]}]}`,
			100, []string{"a", "b", "c", "ns"}, nil},
		"responses, hosted": {opResponses, `{"model":"m","tools":[{"type":"web_search"},{"type":"web_search_preview_2025_03_11"},{"type":"web_search_2025_08_26"},{"type":"file_search","vector_store_ids":["v"]},
			{"type":"code_interpreter","container":{"type":"auto"}},{"type":"computer_use_preview"},{"type":"image_generation"},{"type":"mcp","server_url":"https://x"},
			{"type":"shell"},{"type":"tool_search"},{"type":"brand_new"},{"type":"namespace","name":"n","tools":[{"type":"mcp2"}]}]}`,
			0, []string{"n"}, []string{"web_search", "web_search_preview", "file_search", "code_interpreter", "computer_use_preview", "image_generation", "mcp", "shell", "tool_search", "brand_new", "mcp2"}},
		"responses, fetched": {opResponses, `{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x"},{"type":"input_file","file_url":"https://x"},{"type":"input_file","file_id":"file_1"}]}]}`,
			0, nil, []string{"fetch_url", "stored_file"}},
		"responses, result fetched": {opResponses, `{"model":"m","input":[{"type":"computer_call_output","call_id":"1","output":{"type":"computer_screenshot","image_url":"https://x"}}]}`,
			0, nil, []string{"fetch_url"}},
		"responses, unknown items": {opResponses, `{"model":"m","store":true,"input":[{"type":"mcp_approval_response","approve":true},{"type":"image_generation_call","id":"ig_1"},{"role":"user","content":[{"type":"input_thing"}]}]}`,
			0, nil, []string{"store", "item:mcp_approval_response", "item:image_generation_call", "block:input_thing"}},
		"gemini": {opGenerate, `{"contents":[{"role":"user","parts":[{"text":"https://x"},{"inlineData":{"mimeType":"image/png","data":"AA=="}}]},
				{"role":"model","parts":[{"functionCall":{"name":"a","args":{"fileUri":"https://x","url":"https://x"}},"thoughtSignature":"AA"}]},
				{"role":"user","parts":[{"functionResponse":{"name":"a","response":{"fileUri":"https://x"},"parts":[{"inlineData":{}}]}}]}],
			"tools":[{"functionDeclarations":[{"name":"a","parametersJsonSchema":{"googleSearch":1}},{"name":"b"}],"googleSearch":null}],"tool_config":{},
			"generation_config":{"max_output_tokens":50,"candidateCount":2,"thinkingConfig":{}},"safetySettings":[]}`, 100, []string{"a", "b"}, nil},
		"gemini, hosted": {opGenerate, `{"tools":[{"googleSearch":{}},{"google_search_retrieval":{}},{"urlContext":{}},{"codeExecution":{}},{"googleMaps":{}},{"fileSearch":{}},{"brandNew":{}}]}`,
			0, nil, []string{"google_search", "google_search_retrieval", "url_context", "code_execution", "google_maps", "file_search", "brand_new"}},
		"gemini, fetched": {opStreamGenerate, `{"systemInstruction":{"parts":[{"fileData":{"fileUri":"https://youtu.be/x"}}]}}`, 0, nil, []string{"fetch_url"}},
		"gemini, stored": {opStreamGenerate, `{"contents":[{"parts":[{"file_data":{"file_uri":"https://generativelanguage.googleapis.com/v1beta/files/x"}}]}]}`,
			0, nil, []string{"stored_file"}},
		"gemini, in a result":  {opGenerate, `{"contents":[{"parts":[{"functionResponse":{"name":"a","parts":[{"fileData":{"fileUri":"gs://x"}}]}}]}]}`, 0, nil, []string{"fetch_url"}},
		"gemini, in a request": {opCountGenerate, `{"generateContentRequest":{"tools":[{"urlContext":{}}],"contents":[{"parts":[{"fileData":{"fileUri":"https://x"}}]}]}}`, 0, nil, []string{"url_context", "fetch_url"}},
		"gemini, unknown":      {opGenerate, `{"contents":[{"parts":[{"brandNew":{"uri":"https://x"}}]}],"agent":{"id":"x"}}`, 0, nil, []string{"part:brand_new", "field:agent"}},
		"embeddings":           {opEmbeddings, `{"model":"m","input":["https://x"],"dimensions":2,"encoding_format":"base64","user":"u"}`, 0, nil, nil},
		"embeddings, unknown":  {opEmbeddings, `{"model":"m","messages":[{"content":[{"image_url":{"url":"https://x"}}]}]}`, 0, nil, []string{"field:messages"}},
		"chat, unknown block":  {opChat, `{"model":"m","messages":[{"role":"user","content":[{"type":"video_page","page":"https://x"}]}]}`, 0, nil, []string{"block:video_page"}},
		"messages, unknown block": {opMessages, `{"model":"m","messages":[{"role":"user","content":[{"type":"web_page","page":"https://x"},{"type":"web_fetch_tool_result","content":{"type":"web_fetch_result","url":"https://x"}}]}]}`,
			0, nil, []string{"block:web_page"}},
	} {
		var env envelope
		require.NoError(t, scan(tc.op, []byte(tc.body), &env), name)
		limit, _ := env.outputLimit()
		assert.Equal(t, tc.limit, limit, name)
		assert.ElementsMatch(t, tc.tools, env.toolNames([]byte(tc.body)), name)
		assert.ElementsMatch(t, tc.hosted, env.hosted, name)
		assert.Empty(t, env.stored, name)
	}
}

// Lists have the shape of the protocol, and hold what policy lets the agent see
// of the providers whose list it may have.
func TestModelLists(t *testing.T) {
	h := newHouse(t, nil)
	h.serve(h.manyProtocols())
	get := func(path string, header ...string) (int, string) {
		req := h.request(http.MethodGet, path, "")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, body, err := h.do(req)
		require.NoError(t, err)
		return resp.StatusCode, body
	}
	_, body := get("/v1beta/models?pageSize=50&key=k")
	assert.JSONEq(t, `{"models":[
		{"name":"models/good","displayName":"good","supportedGenerationMethods":["generateContent","streamGenerateContent","countTokens"]},
		{"name":"models/keyless","displayName":"keyless","supportedGenerationMethods":["generateContent","streamGenerateContent","countTokens"]},
		{"name":"models/fast","displayName":"fast","supportedGenerationMethods":["generateContent","streamGenerateContent","countTokens"]}]}`, withoutModel(body, "forbidden"))
	_, viaHeader := get("/v1/models", "X-Goog-Api-Key", "k")
	assert.JSONEq(t, body, viaHeader)
	_, body = get("/v1/models")
	assert.Equal(t, 1, strings.Count(body, `"id":"good"`), "a model of two protocols appears once")

	status, body := get("/v1/models/fast")
	assert.Equal(t, 200, status)
	assert.JSONEq(t, `{"id":"fast","object":"model","created":0,"owned_by":"openai"}`, body)
	status, body = get("/v1beta/models/good")
	assert.Equal(t, 200, status)
	assert.Contains(t, body, `"models/good"`)
	status, hidden := get("/v1/models/not-in-profile", "Anthropic-Version", "2023-06-01")
	assert.Equal(t, 404, status)
	status, unknown := get("/v1/models/nowhere", "Anthropic-Version", "2023-06-01")
	assert.Equal(t, 404, status)
	assert.Equal(t, strings.ReplaceAll(unknown, "nowhere", "M"), strings.ReplaceAll(hidden, "not-in-profile", "M"))
	assert.Zero(t, h.requests.Load()+h.strays.Load())
	assert.Empty(t, h.log.Denials())

	_, err := h.engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("m") permit (principal, action, resource);
			@id("no-list") forbid (principal, action == Action::"list_models", resource == Provider::"openai");`}},
	}, operator)
	require.NoError(t, err)
	_, body = get("/v1/models")
	assert.JSONEq(t, `{"object":"list","data":[]}`, body)
	require.Len(t, h.log.Denials(), 1, "the list that was kept back is on record")
	assert.Equal(t, "list_models", h.log.Denials()[0].Action)
	_, body = get("/v1/models", "Anthropic-Version", "2023-06-01")
	assert.Contains(t, body, `"good"`, "another provider's list")

	h.log.Fail(errors.New("disk full"))
	status, _ = get("/v1/models")
	assert.Equal(t, 503, status)
	h.log.Fail(nil)
}

// withoutModel removes the entry of a model from Gemini's list: one that policy
// could permit when it knew more is listed.
func withoutModel(list, model string) string {
	var l struct {
		Models []map[string]any `json:"models"`
	}
	_ = json.Unmarshal([]byte(list), &l)
	var kept []map[string]any
	for _, m := range l.Models {
		if m["displayName"] != model {
			kept = append(kept, m)
		}
	}
	return string(encode(map[string]any{"models": kept}))
}

// Refusals of Gemini's clients keep the shape they know.
func TestGreetings(t *testing.T) {
	h := newHouse(t, nil)
	for _, protocol := range []struct{ path, header, want string }{
		{"/v1beta/files", "", `"status":"PERMISSION_DENIED"`}, {"/v1/files", "X-Goog-Api-Key", `"status":"PERMISSION_DENIED"`},
		{"/v1/files", "Anthropic-Version", `"type":"permission_error"`}, {"/v1/files", "", `"code":"not_served"`},
		{"/v1beta/models/good:streamGenerateContent", "", `"status":"PERMISSION_DENIED"`},
	} {
		req := h.request(http.MethodPost, protocol.path, `{}`)
		if protocol.header != "" {
			req.Header.Set(protocol.header, "x")
		}
		resp, body, err := h.do(req)
		require.NoError(t, err)
		assert.Equal(t, 403, resp.StatusCode)
		assert.Contains(t, body, protocol.want)
	}
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/v1/responses", nil)
	req.Header.Set("Upgrade", "websocket")
	session(h.router, bot).ServeHTTP(rec, req)
	assert.Equal(t, 426, rec.Code)
}

// The token is found wherever the SDKs of a protocol put their key.
func TestTokensAreWhereKeysAre(t *testing.T) {
	for name, tc := range map[string]struct {
		path    string
		headers http.Header
		want    string
	}{
		"bearer":               {"/v1/responses", http.Header{"Authorization": {"Bearer t1"}}, "t1"},
		"Anthropic":            {"/v1/messages", http.Header{"X-Api-Key": {"t1"}}, "t1"},
		"Gemini":               {"/v1beta/models/g:generateContent", http.Header{"X-Goog-Api-Key": {"t1"}}, "t1"},
		"Gemini, query":        {"/v1beta/models/g:generateContent?key=t1", nil, "t1"},
		"Gemini, v1 and query": {"/v1/models/g:generateContent?key=t1", nil, "t1"},
		"twice the same":       {"/v1beta/models/g:generateContent?key=t1", http.Header{"X-Goog-Api-Key": {"t1"}, "Authorization": {"Bearer t1"}}, "t1"},
		"two":                  {"/v1beta/models/g:generateContent?key=t1", http.Header{"X-Goog-Api-Key": {"t2"}}, ""},
		"two of a kind":        {"/v1beta/models/g:generateContent?key=t1&key=t2", nil, ""},
		"one of them empty":    {"/v1/messages", http.Header{"X-Api-Key": {""}, "Authorization": {"Bearer t1"}}, ""},
		"query elsewhere":      {"/v1/messages?key=t1", nil, ""},
		"no bearer":            {"/v1/messages", http.Header{"Authorization": {"Basic t1"}, "X-Api-Key": {"t1"}}, ""},
		"none":                 {"/v1/messages", nil, ""},
	} {
		v := &verifier{}
		r := httptest.NewRequest(http.MethodPost, tc.path, nil)
		r.Header = tc.headers
		_, err := IdentifyToken(v, "aud")(r)
		assert.Equal(t, tc.want, v.token, name)
		assert.Equal(t, tc.want == "", err != nil, name)
	}
}
