package inference

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// events joins the data of events into a stream.
func events(data ...string) string { return "data: " + strings.Join(data, "\n\ndata: ") + "\n\n" }

// The golden corpus: what streams of each protocol cost. A stream that ends
// without the backend's last word is estimated, at about four bytes a token, and
// is not final.
func TestUsageOfStreams(t *testing.T) {
	for name, tc := range map[string]struct {
		op     *operation
		stream string
		want   audit.Usage
		failed bool
	}{
		"chat": {opChat, golden(t, "openai.sse"), openAIUsed, false},
		"chat, running totals": {opChat, events(`{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}`,
			`{"choices":[{"delta":{"content":"y"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}`, `[DONE]`), audit.Usage{Input: 5, Output: 2, Final: true}, false},
		"chat, without details": {opChat, events(`{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":null,"completion_tokens_details":null}}`, `[DONE]`),
			audit.Usage{Input: 5, Output: 2, Final: true}, false},
		"chat, without usage": {opChat, events(`{"choices":[{"delta":{"role":"assistant","content":""}}]}`, `{"choices":[{"delta":{"content":"12345678"}}]}`, `[DONE]`),
			audit.Usage{Input: 100, Output: 2}, false},
		"chat, error": {opChat, events(`{"choices":[{"delta":{"content":"12345678"}}]}`, `{"error":{"message":"overloaded"}}`), audit.Usage{Input: 100, Output: 2}, true},
		"chat, no error": {opChat, events(`{"choices":[],"error":null,"usage":{"prompt_tokens":5,"completion_tokens":2}}`, `[DONE]`),
			audit.Usage{Input: 5, Output: 2, Final: true}, false},
		"chat, words about usage": {opChat, events(`{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9}"}}]}`, `[DONE]`), audit.Usage{Input: 100, Output: 8}, false},
		"messages":                {opMessages, golden(t, "anthropic.sse"), anthropicUsed, false},
		"messages, totals in the end": {opMessages, events(`{"type":"message_start","message":{"usage":{"input_tokens":0,"output_tokens":0}}}`,
			`{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"input_tokens":25,"cache_read_input_tokens":300,"cache_creation_input_tokens":7,"output_tokens":15}}`,
			`{"type":"message_stop"}`), audit.Usage{Input: 25, CacheRead: 300, CacheWrite: 7, Output: 15, Final: true}, false},
		"messages, two deltas": {opMessages, events(`{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}`,
			`{"type":"message_delta","delta":{},"usage":{"output_tokens":5}}`, `{"type":"message_delta","delta":{},"usage":{"output_tokens":15}}`, `{"type":"message_stop"}`),
			audit.Usage{Input: 25, Output: 15, Final: true}, false},
		"messages, broken off": {opMessages, events(`{"type":"message_start","message":{"usage":{"input_tokens":25,"cache_read_input_tokens":3,"output_tokens":1}}}`,
			`{"type":"ping"}`, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"12345678"}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"1"}}`), audit.Usage{Input: 25, CacheRead: 3, Output: 3}, false},
		"messages, error": {opMessages, events(`{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}`,
			`{"type":"error","error":{"type":"overloaded_error","message":"x"}}`), audit.Usage{Input: 25, Output: 1}, true},
		"messages, compacted": {opMessages, events(`{"type":"message_start","message":{"usage":{"input_tokens":23,"output_tokens":1}}}`,
			`{"type":"message_delta","delta":{},"usage":{"input_tokens":23,"cache_read_input_tokens":4,"output_tokens":10,"iterations":[`+
				`{"type":"compaction","input_tokens":180,"cache_read_input_tokens":5,"cache_creation_input_tokens":6,"output_tokens":35},`+
				`{"type":"message","input_tokens":23,"cache_read_input_tokens":4,"output_tokens":10}]}}`,
			`{"type":"message_delta","delta":{},"usage":{"output_tokens":11}}`, `{"type":"message_stop"}`),
			audit.Usage{Input: 203, CacheRead: 9, CacheWrite: 6, Output: 45, Final: true}, false},
		"messages, iterations that add up to less": {opMessages, events(`{"type":"message_delta","usage":{"input_tokens":23,"output_tokens":10,"iterations":[{"input_tokens":1}]}}`,
			`{"type":"message_stop"}`), audit.Usage{Input: 23, Output: 10, Final: true}, false},
		"responses": {opResponses, golden(t, "responses.sse"), openAIUsed, false},
		"responses, incomplete": {opResponses, events(`{"type":"response.incomplete","response":{"status":"incomplete","usage":{"input_tokens":9,"output_tokens":4}}}`),
			audit.Usage{Input: 9, Output: 4, Final: true}, false},
		"responses, failed": {opResponses, events(`{"type":"response.output_text.delta","delta":"12345678"}`, `{"type":"response.failed","response":{"status":"failed","usage":null,"error":{"code":"server_error"}}}`),
			audit.Usage{Input: 100, Output: 2}, true},
		"responses, failed with usage": {opResponses, events(`{"type":"response.failed","response":{"status":"failed","usage":{"input_tokens":9,"output_tokens":4}}}`),
			audit.Usage{Input: 9, Output: 4, Final: true}, true},
		"responses, error":      {opResponses, events(`{"type":"error","code":"server_error","message":"x"}`), audit.Usage{Input: 100}, true},
		"responses, broken off": {opResponses, events(`{"type":"response.created","response":{"usage":null}}`, `{"type":"response.output_text.delta","delta":"123456789"}`), audit.Usage{Input: 100, Output: 3}, false},
		"gemini":                {opStreamGenerate, golden(t, "gemini.sse"), openAIUsed, false},
		"gemini, blocked":       {opStreamGenerate, events(`{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9}}`), audit.Usage{Input: 9, Final: true}, false},
		"gemini, usage after the end": {opStreamGenerate, events(`{"candidates":[{"finishReason":"STOP"}]}`, `{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4,"toolUsePromptTokenCount":2}}`),
			audit.Usage{Input: 11, Output: 4, Final: true}, false},
		"gemini, broken off": {opStreamGenerate, events(`{"candidates":[{"content":{"parts":[{"text":"12345678"}]}}],"usageMetadata":{"promptTokenCount":9}}`), audit.Usage{Input: 9, Output: 2}, false},
		"gemini, error":      {opStreamGenerate, events(`{"error":{"code":503,"message":"x"}}`), audit.Usage{Input: 100}, true},
		"nothing":            {opStreamGenerate, "", audit.Usage{Input: 100}, false},
	} {
		for form, write := range map[string]func(string) string{
			"as it is":     exact,
			"CRLF":         func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
			"no space":     func(s string) string { return strings.ReplaceAll(s, "data: ", "data:") },
			"with pings":   func(s string) string { return ": ping\n\n" + strings.ReplaceAll(s, "\n\n", "\n\n: ping\n\n") },
			"with ids":     func(s string) string { return strings.ReplaceAll(s, "data: ", "id: 7\nretry: 1\ndata: ") },
			"on two lines": func(s string) string { return strings.ReplaceAll(s, `data: {`, "data: {\ndata: ") },
		} {
			m, s := newMeter(tc.op, "good", 400), &splitter{}
			tc.want.Model = "good"
			r := strings.NewReader(write(tc.stream))
			for r.Len() > 0 {
				_, err := s.fill(r)
				require.NoError(t, err)
				for ev, ok := s.next(); ok; ev, ok = s.next() {
					m.event(ev.of(s.buf))
				}
				s.compact()
			}
			assert.Equal(t, tc.want, *m.usage(true), "%s, %s", name, form)
			assert.Equal(t, tc.failed, m.failed, "%s, %s", name, form)
			cut := m.usage(false)
			assert.False(t, cut.Final, "%s, cut", name)
		}
	}
}

// An event that reports an error is known as one, and the next is not.
func TestFaultIsOfOneEvent(t *testing.T) {
	m := newMeter(opChat, "m", 0)
	for _, data := range []string{`{"choices":[]}`, `{"error":{}}`, `{"choices":[]}`} {
		m.event([]byte(events(data)))
		assert.Equal(t, strings.Contains(data, "error"), m.fault)
	}
	assert.True(t, m.failed)
}

// What the provider ran besides the answer is billed, and is in the counts of an
// answer in one piece as well.
func TestCompactionsCount(t *testing.T) {
	m := newMeter(opMessages, "m", 4000)
	m.whole([]byte(`{"type":"message","usage":{"input_tokens":23,"output_tokens":10,"iterations":[{"type":"compaction","input_tokens":180,"output_tokens":35},` +
		`{"type":"compaction","input_tokens":90,"output_tokens":30},{"type":"message","input_tokens":23,"output_tokens":10}]}}`))
	assert.Equal(t, audit.Usage{Model: "m", Input: 293, Output: 75, Final: true}, *m.usage(true))
}

// Before the backend has spoken, a cut stream is counted by what came by; when
// it has, by that.
func TestUsageCanBeAskedForAtAnyTime(t *testing.T) {
	m := newMeter(opMessages, "m", 4000)
	assert.Equal(t, audit.Usage{Model: "m", Input: 1000}, *m.usage(false))
	m.event([]byte(events(`{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}`)))
	assert.Equal(t, audit.Usage{Model: "m", Input: 25, Output: 1}, *m.usage(false))
	for range 10 {
		m.event([]byte(events(`{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"\"\\\"}{"}}`)))
	}
	assert.Greater(t, m.usage(false).Output, int64(9))
	m.event([]byte(events(`{"type":"message_delta","usage":{"output_tokens":7}}`)))
	assert.Equal(t, audit.Usage{Model: "m", Input: 25, Output: 7}, *m.usage(false))
	assert.Equal(t, audit.Usage{Model: "m", Input: 25, Output: 7, Final: true}, *m.usage(true))
}

// The event that ends a response repeats all of it, and may be large.
func TestUsageOfLongResponses(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	long := strings.Repeat("word ", 300_000)
	stream := events(`{"type":"response.completed","response":{"output":[{"content":[{"text":"` + long + `"}]}],"usage":{"input_tokens":9,"output_tokens":300000}}}`)
	var parts [][]byte
	for rest := stream; rest != ""; {
		n := min(len(rest), 30_000)
		parts, rest = append(parts, []byte(rest[:n])), rest[n:]
	}
	assert.True(t, stream == serve("/v1/responses", responsesStream, &cutReader{parts: parts}))
	assert.Equal(t, audit.Usage{Model: "good", Input: 9, Output: 300_000, Final: true}, *log.out.Usage)
}

func TestTextOf(t *testing.T) {
	for data, want := range map[string]int{
		`{"choices":[{"delta":{"role":"assistant","content":"abc"}}]}`:                                             3,
		`{"choices":[{"delta":{"content":"abc"}},{"delta":{"content":"de"}}]}`:                                     5,
		`{"delta":{},"delta":{"content":"abc"}}`:                                                                   3,
		`{"del\u0074a":{"c\u006fntent":"abc"}}`:                                                                    3,
		`{"content" : [ "abc" , "de" ], "id":"x"}`:                                                                 5,
		`{"content":"a\"},\"text\":\"b"}`:                                                                          17,
		`{"candidates":[{"content":{"parts":[{"text":"abc"},{"functionCall":{"name":"f","args":{"a":[1,2]}}}]}}]}`: 3 + len(`{"a":[1,2]}`),
		`{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}]}`:           0,
		`{"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}`:                                     0,
		`{"item":{"type":"custom_tool_call","input":"abc"}}`:                                                       3,
		`{"response":{"output":[{"text":"abc"}],"instructions":"x"},"delta":"de"}`:                                 2,
		`{"logprobs":{"content":[{"token":"abc","bytes":[1]}]}}`:                                                   0,
		`{"text":"open`: 4, `{"text":"open\`: 5, `{"input":{"a":"open`: 10, `{"text"`: 0, `{"response":[`: 0, `"`: 0, ``: 0,
	} {
		n, piece := textOf([]byte(data))
		assert.Equal(t, want, n, data)
		assert.Equal(t, strings.Contains(data, `"delta"`), piece, data)
	}
}
