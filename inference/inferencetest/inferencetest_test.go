package inferencetest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func post(t *testing.T, url, key, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("X-Api-Key", key)
	req.Header.Set("X-Goog-Api-Key", key)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestScriptChecksItsKey(t *testing.T) {
	s := NewScript(Turn{Text: "hello"})
	s.Key = "sk-right"
	srv := httptest.NewServer(s)
	defer srv.Close()
	paths := []string{"/v1/chat/completions", "/messages", "/v1/responses", "/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent",
		"/v1/embeddings", "/v1/messages/count_tokens", "/v1beta/models/m:countTokens", "/v1beta/models/m:embedContent", "/v1beta/models/m:batchEmbedContents"}
	for _, path := range paths {
		assert.Equal(t, 401, post(t, srv.URL+path, "sk-wrong", `{"model":"m"}`).StatusCode, path)
		assert.Equal(t, 200, post(t, srv.URL+path, "sk-right", `{"model":"m"}`).StatusCode, path)
	}
	assert.EqualValues(t, len(paths), s.Calls())
	for _, path := range []string{"/v1/models/m:predict", "/v1/models/m", "/v1/files"} {
		assert.Equal(t, 404, post(t, srv.URL+path, "sk-right", `{"model":"m"}`).StatusCode, path)
	}
}

// A turn is chosen by the conversation, and may be made from its tool results.
func TestScriptFollowsTheConversation(t *testing.T) {
	srv := httptest.NewServer(NewScript(
		Turn{Calls: []Call{{Name: "list", Args: map[string]any{"n": 1}}}},
		Turn{From: func(c Conversation) Turn { return Turn{Text: "got " + strings.Join(c.Results, "+")} }},
	))
	defer srv.Close()
	say := func(path, messages string) string {
		b, err := io.ReadAll(post(t, srv.URL+path, "", `{"model":"m","messages":[`+messages+`]}`).Body)
		require.NoError(t, err)
		return string(b)
	}
	assert.Contains(t, say("/chat/completions", `{"role":"user","content":"hi"}`), `"arguments":"{\"n\":1}"`)
	assert.Contains(t, say("/chat/completions", `{"role":"user","content":"hi"},{"role":"assistant","content":""},{"role":"tool","content":"a"},{"role":"tool","content":[{"type":"text","text":"b"}]}`), "got a+b")
	assert.Contains(t, say("/messages", `{"role":"user","content":"hi"}`), `"input":{"n":1}`)
	assert.Contains(t, say("/messages", `{"role":"assistant","content":[]},{"role":"user","content":[{"type":"tool_result","content":"c"}]}`), "got c")
	assert.Contains(t, say("/messages", `{"role":"assistant"},{"role":"assistant"}`), "Done.")

	input := func(items string) string { return read(t, srv.URL+"/v1/responses", `{"model":"m","input":`+items+`}`) }
	assert.Contains(t, input(`"hi"`), `"arguments":"{\"n\":1}"`)
	assert.Contains(t, input(`[{"role":"user","content":"hi"},{"type":"reasoning","summary":[]},{"type":"function_call","name":"list","call_id":"1","arguments":"{}"},
		{"type":"function_call_output","call_id":"1","output":"a"},{"type":"function_call_output","call_id":"2","output":[{"type":"input_text","text":"b"}]}]`), "got a+b")

	contents := func(turns string) string {
		return read(t, srv.URL+"/v1beta/models/m:generateContent", `{"contents":[`+turns+`]}`)
	}
	assert.Contains(t, contents(`{"parts":[{"text":"hi"}]}`), `"args":{"n":1}`)
	assert.Contains(t, contents(`{"role":"user","parts":[{"text":"hi"}]},{"role":"model","parts":[{"functionCall":{"name":"list"}}]},
		{"role":"user","parts":[{"functionResponse":{"name":"list","response":{"output":"a"}}}]}`), `got {\"output\":\"a\"}`)
}

func read(t *testing.T, url, body string) string {
	b, err := io.ReadAll(post(t, url, "", body).Body)
	require.NoError(t, err)
	return string(b)
}

// A stream says what the whole answer says.
func TestStreams(t *testing.T) {
	srv := httptest.NewServer(NewScript(Turn{Text: "one two", Calls: []Call{{Name: "list"}}}))
	defer srv.Close()
	got := read(t, srv.URL+"/v1/responses", `{"model":"m","stream":true,"input":"hi"}`)
	events := strings.Split(strings.TrimSuffix(got, "\n\n"), "\n\n")
	for i, ev := range events {
		name, data, _ := strings.Cut(ev, "\ndata: ")
		var e struct {
			Type   string
			Number int `json:"sequence_number"`
		}
		require.NoError(t, json.Unmarshal([]byte(data), &e))
		assert.Equal(t, "event: "+e.Type, name)
		assert.Equal(t, i, e.Number)
	}
	assert.Contains(t, events[0], "response.created")
	assert.Contains(t, events[len(events)-1], "response.completed")
	assert.Contains(t, events[len(events)-1], `"output_tokens":10`)

	got = read(t, srv.URL+"/v1beta/models/m:streamGenerateContent?alt=sse", `{"contents":[{"parts":[{"text":"hi"}]}]}`)
	chunks := strings.Split(strings.TrimSuffix(got, "\r\n\r\n"), "\r\n\r\n")
	require.Len(t, chunks, 3)
	assert.Equal(t, 1, strings.Count(got, `"finishReason":"STOP"`))
	assert.Contains(t, chunks[2], `"candidatesTokenCount":10`)
	assert.NotContains(t, strings.ReplaceAll(got, "\r\n", ""), "\n")
}

func ExampleScript() {
	srv := httptest.NewServer(NewScript(Turn{Text: "Good morning!"}))
	defer srv.Close()

	resp, err := http.Post(srv.URL+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"model":"scripted","stream":true,"messages":[{"role":"user","content":"Hello"}]}`))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var chunk struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		data := strings.TrimPrefix(lines.Text(), "data: ")
		if json.Unmarshal([]byte(data), &chunk) == nil && len(chunk.Choices) > 0 {
			fmt.Print(chunk.Choices[0].Delta.Content)
		}
	}
	// Output: Good morning!
}

// A tool of a namespace is called in it.
func TestScriptCallsToolsOfNamespaces(t *testing.T) {
	srv := httptest.NewServer(NewScript(Turn{From: func(c Conversation) Turn { return Turn{Calls: []Call{{Name: c.Tools[0]}, {Name: c.Tools[1]}}} }}))
	defer srv.Close()
	var answer struct {
		Output []struct{ Name, Namespace string }
	}
	require.NoError(t, json.NewDecoder(post(t, srv.URL+"/v1/responses", "",
		`{"model":"m","input":"hi","tools":[{"type":"namespace","name":"mcp__t","tools":[{"type":"function","name":"post"}]},{"type":"function","name":"run"}]}`).Body).Decode(&answer))
	require.Len(t, answer.Output, 2)
	assert.Equal(t, "mcp__t", answer.Output[0].Namespace)
	assert.Empty(t, answer.Output[1].Namespace)
}
