package inference

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// What is a comment to one client and an event to another does not pass, whether
// or not anybody inspects it.
func TestLinesThatClientsReadDifferently(t *testing.T) {
	const event = `data: {"choices":[{"index":0,"delta":{"content":"hidden"}}]}`
	for name, stream := range map[string]string{
		"a CR in a comment":       "data: {}\n\n: x\r" + event + "\n\n",
		"a CR in a name":          "data: {}\n\nevent: x\r" + event + "\n\n",
		"a CR before a line":      "data: {}\n\n\r" + event + "\n\n",
		"CRs only":                "data: {}\n\n" + event + "\r\r",
		"a CR in the end":         "data: {}\n\n" + event + "\n\r",
		"CR CR LF":                "data: {}\n\n" + event + "\r\r\n",
		"a byte order mark":       "\uFEFF" + event + "\n\n",
		"a byte order mark, CRLF": "\uFEFF" + event + "\r\n\r\n",
	} {
		for _, look := range []Inspector{nil, &censor{}} {
			h := newHouse(t, &Options{Inspect: look})
			h.backend = sse(stream[:9], stream[9:])
			_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
			assert.NotContains(t, got, "hidden", name)
			assert.Contains(t, got, `"code":"upstream-malformed"`, name)
			assert.True(t, strings.HasSuffix(got, "\n\n"), "%s: %s", name, got)
			h.door.Close()
			assert.Equal(t, "upstream-malformed", h.outcome().ErrorCode, name)
		}
	}
}

// Where answers are inspected, only what was inspected passes: a name and one line
// of data.
func TestInspectedEventsAreWrittenPlainly(t *testing.T) {
	const said = `{"choices":[{"index":0,"delta":{"content":"Ann"}}]}`
	const blanked = `{"choices":[{"index":0,"delta":{"content":"[redacted]"}}]}`
	for in, want := range map[string]string{
		"data: " + said + "\n\n":                               "data: " + blanked + "\n\n",
		"data:" + said + "\r\n\r\n":                            "data:" + blanked + "\r\n\r\n",
		"event: x\ndata: " + said + "\n\n":                     "event: x\ndata: " + blanked + "\n\n",
		": " + said + "\ndata: " + said + "\n\n":               "data: " + blanked + "\n\n",
		"id: " + said + "\nevent: x\ndata: " + said + "\n\n":   "event: x\ndata: " + blanked + "\n\n",
		"x: " + said + "\ndata: " + said + "\n\n":              "data: " + blanked + "\n\n",
		"event: a\nevent: b\ndata: " + said + "\n\n":           "event: b\ndata: " + blanked + "\n\n",
		"data: {\ndata: " + said[1:] + "\n\n":                  "data: { " + blanked[1:] + "\n\n",
		"data: " + said + "\ndata\n\n":                         "data: " + blanked + " \n\n",
		": Ann\n\n":                                            ":\n\n",
		"event: Ann\n\n":                                       ":\n\n",
		"id: Ann\ndata\n\n":                                    ":\n\n",
		"\n\r\n":                                               "\n\r\n",
		"data: [DONE]\n\n":                                     "data: [DONE]\n\n",
		"data: [DONE]\n: Ann\n\n":                              "data: [DONE]\n\n",
		"data: " + said:                                        "data: " + blanked,
		"data: [DONE] Ann\n\n":                                 "",
		"data: Ann\n\n":                                        "",
		`data: "Ann"` + "\n\n":                                 "",
		`data: ["Ann"]` + "\n\n":                               "",
		"data: " + said + "\ndata: " + said + "\n\n":           "",
		"event: is it Ann?\ndata: {}\n\n":                      "",
		"event: " + strings.Repeat("A", 65) + "\ndata: {}\n\n": "",
	} {
		f := newAnswerFilter(&censor{blank: "Ann"}, 256)
		got := string(f.take([]byte(in))) + string(f.end())
		assert.Equal(t, want, got, in)
		assert.Equal(t, want == "", f.stopped(), in)
	}
}

// A backend cannot end its answer unseen, so that the client has it and the record
// does not.
func TestEndsThatHide(t *testing.T) {
	pad := strings.Repeat(" ", 10<<10)
	for path, tc := range map[string]struct {
		body string
		ends []string
	}{
		"/v1/chat/completions": {chatStream, []string{
			"data: [DONE] and more\n\n", "data: [DONE]" + pad + "\n\n", "data: [DONE]\ndata: {}\n\n", ":" + pad + "\ndata: [DONE]\n\n",
		}},
		"/v1/messages": {messagesStream, []string{
			`data: {"type":"message_stop"` + pad + "}\n\n", `data: {"type":"message_st\u006fp"}` + "\n\n", `data: {"typ\u0065":"message_stop"}` + "\n\n",
			`data: {"type":"message_stop","usage":1}` + "\n\n", `data: {"type":"x","type":"message_stop"}` + "\n\n", "data\ndata: {\ndata:\"type\"\ndata::\"message_stop\"}\n\n",
		}},
		"/v1/responses": {responsesStream, []string{
			`data: {"type":"response.complete\u0064"}` + "\n\n", `data: {"type":"response.completed","response":1}` + "\n\n",
			`data: {"type":"response.incomplete","response":{"usage":{"input_tokens":"many"}}}` + "\n\n",
			`data: {"type":"response.completed","response":{"output":[{"text":"` + strings.Repeat("word ", 2<<20) + `"}]}}` + "\n\n",
		}},
		geminiStream: {`{"contents":[]}`, []string{
			`data: {"candidates":[{"finish\u0052eason":"STOP"}]}` + "\n\n", `data: {"candidates":[{"finishReason":"STOP","index":"x"}]}` + "\n\n",
		}},
	} {
		for _, end := range tc.ends {
			h := newHouse(t, nil)
			h.serve(h.manyProtocols())
			h.backend = func(w http.ResponseWriter, r *http.Request) {
				h.log.Fail(errors.New("disk full")) // after Begin, before End
				sse(": hello\n\n", end)(w, r)
			}
			_, got, err := h.do(h.request(http.MethodPost, path, tc.body))
			name := path + ": " + end[:min(len(end), 100)]
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
			assert.Equal(t, ": hello\n\n", got, name)
			h.log.Fail(nil)
		}
	}
}

// The event that ends a response repeats all of it, and is counted whatever its
// size.
func TestLastEventOfManyMegabytes(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	stream := events(`{"type":"response.completed","response":{"output":[{"content":[{"text":"` + strings.Repeat("word ", 2<<20) +
		`"}]}],"usage":{"input_tokens":9,"output_tokens":300000}}}`)
	var parts [][]byte
	for rest := stream; rest != ""; {
		n := min(len(rest), 1<<20)
		parts, rest = append(parts, []byte(rest[:n])), rest[n:]
	}
	assert.True(t, stream == serve("/v1/responses", responsesStream, &cutReader{parts: parts}))
	assert.Equal(t, audit.Usage{Model: "good", Input: 9, Output: 300_000, Final: true}, *log.out.Usage)
}

// The last event counts although its blank line is missing.
func TestCountInAnUnfinishedEvent(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	const used = `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}`
	for _, body := range []string{chatStream, chatNoUsage} {
		got := serve("/v1/chat/completions", body, &cutReader{parts: [][]byte{[]byte("data: {}\n\n" + used)}})
		assert.Equal(t, body == chatStream, strings.Contains(got, "usage"), got)
		assert.Equal(t, audit.Usage{Model: "good", Input: 1, Output: 2, Final: true}, *log.out.Usage)
	}
}

// Text that is written so that it is overlooked is cut where the reservation ends,
// and so is what has no text that anybody knows.
func TestTextThatHidesIsCutToo(t *testing.T) {
	const chat, messages, responses = "/v1/chat/completions", "/v1/messages", "/v1/responses"
	body := map[string]string{
		chat:      `{"model":"good","stream":true,"max_tokens":9,"messages":[]}`,
		messages:  messagesStream,
		responses: `{"model":"good","stream":true,"max_output_tokens":9,"store":false,"input":"x"}`,
	}
	long := strings.Repeat("word ", 1000)
	for name, tc := range map[string]struct{ path, event string }{
		"an escaped key":          {chat, `data: {"choices":[{"delta":{"cont\u0065nt":"word"}}]}`},
		"the second of two":       {chat, `data: {"choices":[{"delta":{}},{"delta":{"content":"word"}}]}`},
		"beside an empty one":     {chat, `data: {"choices":[{"delta":{},"delta":{"content":"word"}}]}`},
		"a large event":           {chat, `data: {"pad":"` + strings.Repeat(" ", 300<<10) + `","choices":[{"delta":{"content":"word"}}]}`},
		"on several lines":        {chat, "data: {\"choices\":[{\"delta\":\ndata\ndata: {\"content\":\"word\"}}]}"},
		"after a quote":           {chat, ": \"\ndata: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}"},
		"in the start of a block": {messages, `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"word"}}`},
		"in a tool's object":      {messages, `data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f","input":{"a":1}}}`},
		"in items only":           {responses, `data: {"type":"response.output_item.done","item":{"type":"message","content":[{"type":"output_text","text":"` + long + `"}]}}`},
		"under an unknown name":   {messages, `data: {"type":"novelty","words":"` + strings.Repeat("word ", 100_000) + `"}`},
		"in comments":             {messages, `: ` + strings.Repeat("word ", 100_000)},
	} {
		h, _ := purse(t, daily, nil)
		cfg := h.manyProtocols()
		cfg.Spend = h.router.routes.Load().spend
		h.serve(cfg)
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for n := 0; r.Context().Err() == nil && n < 1000; n++ {
				_, _ = io.WriteString(w, tc.event+"\n\n")
				_ = http.NewResponseController(w).Flush()
			}
		}
		_, got, err := h.do(h.request(http.MethodPost, tc.path, body[tc.path]))
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
		assert.LessOrEqual(t, strings.Count(got, tc.event), 9+pieceSlack, name)
		h.door.Close()
		assert.Equal(t, audit.GuardBudget, h.outcome().ErrorCode, name)
	}
}

// Of an inspected stream nothing passes but blank lines, empty comments, names and
// single lines of data, however it was written; and what is denied passes in no
// form that a client could read.
func FuzzInspectedStream(f *testing.F) {
	f.Add([]byte(golden(f, "anthropic.sse")), uint8(7))
	f.Add([]byte(golden(f, "responses.sse")), uint8(200))
	f.Add([]byte(": Ann\nid: Ann\nevent: x\ndata: {\"text\":\"Ann\"}\n\ndata\ndata: {\ndata:}\n\ndata: [DONE]\n\n"), uint8(3))
	allowed := regexp.MustCompile(`^(?:|:|event:? ?[A-Za-z0-9._-]{0,64}|data(?::.*)?)\r?$`)
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		filter, in := newAnswerFilter(&censor{deny: "Ann"}, 8), &splitter{}
		var out []byte
		for rest := stream; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			if !in.plain(rest[:n]) {
				break // it is cut
			}
			out = append(out, filter.take(rest[:n])...)
			rest = rest[n:]
		}
		out = append(out, filter.end()...)
		var data []byte
		lines := 0
		for line := range bytes.SplitSeq(out, []byte("\n")) {
			require.True(t, allowed.Match(line), "%q of %q", line, stream)
			line = bytes.TrimSuffix(line, []byte("\r"))
			switch value, ok := bytes.CutPrefix(line, []byte("data")); {
			case len(line) == 0:
				data, lines = nil, 0
			case ok:
				lines++
				data = bytes.TrimPrefix(bytes.TrimPrefix(value, []byte(":")), []byte(" "))
				require.Equal(t, 1, lines, "%q of %q", out, stream)
				var v struct{ Text, Content, Delta string }
				if json.Unmarshal(data, &v) == nil {
					require.NotContains(t, v.Text+v.Content+v.Delta, "Ann")
				}
			}
		}
	})
}
