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
	for _, path := range []string{"/v1/chat/completions", "/messages"} {
		assert.Equal(t, 401, post(t, srv.URL+path, "sk-wrong", `{"model":"m"}`).StatusCode)
		assert.Equal(t, 200, post(t, srv.URL+path, "sk-right", `{"model":"m"}`).StatusCode)
	}
	assert.EqualValues(t, 2, s.Calls())
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
