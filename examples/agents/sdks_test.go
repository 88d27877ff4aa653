//go:build linux && amd64

package agents

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
	"github.com/twinward-dev/twinward/sandbox"
)

// endless answers a request for the model of that name with the beginning of a
// stream, and then waits until whoever asked is gone. Others go to next.
func endless(next http.Handler, gone chan<- string) http.Handler {
	begin := map[string]string{
		"/v1/chat/completions": "data: " + `{"id":"c","object":"chat.completion.chunk","created":0,"model":"endless","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}` + "\n\n",
		"/v1/responses":        "event: response.created\ndata: " + `{"type":"response.created","sequence_number":0,"response":{"id":"r","object":"response","status":"in_progress","output":[]}}` + "\n\n",
		"/v1/messages":         "event: message_start\ndata: " + `{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"endless","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}` + "\n\n",
		"/v1beta/models/endless:streamGenerateContent": "data: " + `{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"index":0}]}` + "\r\n\r\n",
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		first := begin[r.URL.Path]
		if !bytes.Contains(body, []byte(`"endless"`)) && !strings.Contains(r.URL.Path, "/endless:") || first == "" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, first)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- r.URL.Path
	})
}

// The SDKs that agents in JavaScript are made with work inside a session: answers
// whole and streamed, calls of tools, refusals in each SDK's own error type, and a
// stream that is left ends at the provider too.
func TestJavaScriptSDKs(t *testing.T) {
	script := inferencetest.NewScript(inferencetest.Turn{
		Text: "Let me look.", Calls: []inferencetest.Call{{Name: "weather", Args: map[string]string{"city": "Lisbon"}}},
	})
	gone := make(chan string, 8)
	models := []string{"house-model", "endless", "denied-model"}
	h := newHouse(t, func(key string) string {
		script.Key = key
		origin := httptest.NewServer(endless(script, gone))
		t.Cleanup(origin.Close)
		return origin.URL
	},
		inference.Backend{Protocols: []inference.Protocol{inference.OpenAI, inference.OpenAIResponses}, BaseURL: "/v1", Models: models},
		inference.Backend{Protocol: inference.Anthropic, BaseURL: "/v1", Models: models},
		inference.Backend{Protocol: inference.Gemini, BaseURL: "/v1beta", Models: models},
	)
	h.enter("sdk", &sandbox.Policy{Inference: &sandbox.Inference{}})
	source, err := os.ReadFile("testdata/sdks/sdks.mjs")
	require.NoError(t, err)
	h.write("sdks.mjs", string(source))
	out := h.run(nil, h.program(node), "sdks.mjs", filepath.Join(h.folder, "node_modules"))

	type failure struct {
		Type, Message string
		Status        int
	}
	type tool struct {
		Name string
		Args map[string]string
	}
	var saw map[string]struct {
		Text, Streamed     string
		Call, StreamedCall tool
		Usage              struct{ Input, Output int64 }
		Unknown, Denied    failure
		Abandoned          struct{ Type string }
		Models             []string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &saw), out)
	want := tool{"weather", map[string]string{"city": "Lisbon"}}
	for name, types := range map[string][2]string{ // of a refusal: unknown, denied
		"chat":      {"NotFoundError", "PermissionDeniedError"},
		"responses": {"NotFoundError", "PermissionDeniedError"},
		"messages":  {"NotFoundError", "PermissionDeniedError"},
		"gemini":    {"ApiError", "ApiError"},
	} {
		s := saw[name]
		assert.Equal(t, "Let me look.", s.Text, name)
		assert.Equal(t, "Let me look.", s.Streamed, name)
		assert.Equal(t, want, s.Call, name)
		assert.Equal(t, want, s.StreamedCall, name)
		assert.EqualValues(t, 11, s.Usage.Output, name) // three words and a call
		assert.Positive(t, s.Usage.Input, name)
		assert.Equal(t, types[0], s.Unknown.Type, name)
		assert.Equal(t, 404, s.Unknown.Status, name)
		assert.Contains(t, s.Unknown.Message, "no-such-model", name)
		assert.Equal(t, types[1], s.Denied.Type, name)
		assert.Equal(t, 403, s.Denied.Status, name)
		assert.Contains(t, s.Denied.Message, "denied-model", name)
	}
	for _, name := range []string{"chat", "messages"} {
		assert.ElementsMatch(t, []string{"house-model", "endless"}, saw[name].Models, "%s: what policy lets it use", name)
	}
	for range len(saw) {
		<-gone
	}
	require.NoError(t, h.box.Close())

	// The outcome of a stream that was left is on record soon after.
	ended := func(as audit.Status) (n int) {
		for _, r := range h.log.Records() {
			if r.Outcome != nil && r.Outcome.Usage != nil && r.Outcome.Status == as {
				n++
			}
		}
		return n
	}
	assert.Eventually(t, func() bool { return ended(audit.StatusCancelled) == len(saw) }, time.Minute, 10*time.Millisecond)
	assert.Equal(t, 2*len(saw), ended(audit.StatusOK), h.record())
}
