package inference

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// A censor blanks a word, and denies another.
type censor struct {
	blank, deny string
	fail        bool
	seen        atomic.Int64
}

func (c *censor) Request(_ context.Context, _ Content, body []byte) (Finding, error) {
	return c.Text(string(body), true)
}

func (c *censor) Answer(context.Context, Content) AnswerInspector { return c }

func (c *censor) Text(window string, _ bool) (Finding, error) {
	c.seen.Add(1)
	if c.fail {
		panic("a bug")
	}
	if c.deny != "" && strings.Contains(window, c.deny) {
		return Finding{Label: "word", Deny: true}, nil
	}
	f := Finding{Label: "name"}
	for at := 0; c.blank != ""; {
		i := strings.Index(window[at:], c.blank)
		if i < 0 {
			break
		}
		f.Blank = append(f.Blank, Range{at + i, at + i + len(c.blank)})
		at += i + len(c.blank)
	}
	return f, nil
}

func TestRequestsAreInspected(t *testing.T) {
	const body = `{"model":"good","messages":[{"role":"user","content":"I am Ann\u00e9, Ann."}]}`
	var got atomic.Pointer[string]
	run := func(look *censor, body string) (*house, *http.Response) {
		h := newHouse(t, &Options{Inspect: look})
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			s := string(b)
			got.Store(&s)
			_, _ = io.WriteString(w, `{}`)
		}
		resp, _ := h.post("/v1/chat/completions", body)
		return h, resp
	}
	h, resp := run(&censor{blank: "Ann"}, body)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, `{"model":"good","messages":[{"role":"user","content":"I am [redacted]\u00e9, [redacted]."}]}`, *got.Load())
	assert.Contains(t, h.outcome().Checks, "blanked-request:name:2")

	for name, tc := range map[string]struct {
		look *censor
		want string
	}{
		"denied":                 {&censor{deny: "Ann"}, "word"},
		"a panic":                {&censor{fail: true}, "error"},
		"not in a string":        {&censor{blank: `"messages"`}, "error"},
		"a key":                  {&censor{blank: "message"}, "error"},
		"a part of an escape":    {&censor{blank: "00e9"}, "error"},
		"what the request wants": {&censor{blank: "goo"}, "error"},
	} {
		h, resp := run(tc.look, body)
		assert.Equal(t, 403, resp.StatusCode, name)
		d := h.denial()
		assert.Equal(t, audit.GuardContent, d.Decision.Reason, name)
		assert.Equal(t, map[string]string{"found": tc.want}, d.Detail, name)
	}
}

// A word is found however the stream is cut into events, and events without it
// are the backend's.
func TestAnswersAreInspected(t *testing.T) {
	chunk := func(s string) string {
		return `data: {"choices":[{"index":0,"delta":{"content":"` + s + `"}}]}` + "\n\n"
	}
	delta := func(s string) string {
		return "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + s + `"}}` + "\n\n"
	}
	const text = "my name is Ann Smith and so on"
	for path, p := range map[string]struct {
		body, end string
		piece     func(string) string
	}{
		"/v1/chat/completions": {chatStream, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n", chunk},
		"/v1/messages":         {messagesStream, `data: {"type":"content_block_stop","index":0}` + "\n\n" + `data: {"type":"message_stop"}` + "\n\n", delta},
	} {
		for cut := 1; cut < len(text); cut++ {
			look := &censor{blank: "Ann Smith"}
			h := newHouse(t, &Options{Inspect: look, InspectWindow: 12})
			serve, log := h.direct()
			stream := p.piece(text[:cut]) + p.piece(text[cut:]) + p.end
			got := serve(path, p.body, &cutReader{parts: [][]byte{[]byte(stream)}})
			assert.NotContains(t, strings.ReplaceAll(got, p.piece("x"), ""), "Ann Smith")
			assert.Equal(t, 1, strings.Count(got, "[redacted]"), "cut at %d: %s", cut, got)
			assert.True(t, strings.HasSuffix(got, p.end), got)
			assert.Contains(t, log.out.Checks, "blanked-answer:name:1")
		}
		h := newHouse(t, &Options{Inspect: &censor{blank: "nobody"}})
		serve, _ := h.direct()
		stream := p.piece("a") + p.piece("b") + p.end
		assert.Equal(t, stream, serve(path, p.body, &cutReader{parts: [][]byte{[]byte(stream)}}), "what is not blanked is not changed")

		h = newHouse(t, &Options{Inspect: &censor{deny: "secret"}})
		h.backend = sse(p.piece("a sec"), p.piece("ret word"), p.end)
		_, got, _ := h.do(h.request(http.MethodPost, path, p.body))
		assert.NotContains(t, got, "ret word")
		assert.Contains(t, got, "does not let this answer pass")
		h.door.Close()
		out := h.outcome()
		assert.Equal(t, audit.GuardContent, out.ErrorCode)
		assert.Contains(t, out.Checks, "found:word")
	}
}

func TestWholeAnswersAreInspected(t *testing.T) {
	const answer = `{"id":"Ann","choices":[{"message":{"content":"I am Ann."}}]}`
	h := newHouse(t, &Options{Inspect: &censor{blank: "Ann"}})
	h.backend = func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, answer) }
	_, got := h.post("/v1/chat/completions", `{"model":"good","messages":[]}`)
	assert.Equal(t, `{"id":"Ann","choices":[{"message":{"content":"I am [redacted]."}}]}`, got)
	for _, look := range []*censor{{deny: "I am"}} {
		h := newHouse(t, &Options{Inspect: look})
		h.backend = func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, answer) }
		resp, got := h.post("/v1/chat/completions", `{"model":"good","messages":[]}`)
		assert.Equal(t, 403, resp.StatusCode)
		assert.NotContains(t, got, "I am")
		assert.Equal(t, audit.GuardContent, h.outcome().ErrorCode)
	}
}

// Every string that a model can write to is inspected, whole and in a stream, and
// none of the protocol's own words.
func TestAllStringsOfAnswersAreInspected(t *testing.T) {
	for name, answer := range map[string]string{
		"a tool's object":   `{"type":"message","content":[{"type":"tool_use","id":"t","name":"f","input":{"a":{"b":["Ann"]}}}]}`,
		"an object's id":    `{"type":"message","content":[{"type":"tool_use","id":"t","name":"f","input":{"id":"Ann"}}]}`,
		"arguments":         `{"candidates":[{"index":0,"content":{"parts":[{"functionCall":{"name":"f","args":{"type":"Ann"}}}]}}]}`,
		"code":              `{"candidates":[{"index":0,"content":{"parts":[{"executableCode":{"language":"PYTHON","code":"Ann"}}]}}]}`,
		"a command":         `{"output":[{"type":"local_shell_call","call_id":"c","action":{"type":"exec","command":["bash","Ann"]}}]}`,
		"a patch":           `{"output":[{"type":"apply_patch_call","call_id":"c","operation":{"type":"update_file","path":"p","diff":"Ann"}}]}`,
		"log probabilities": `{"choices":[{"index":0,"logprobs":{"content":[{"token":"Ann","logprob":-1}]}}]}`,
		"a tool's name":     `{"choices":[{"index":0,"message":{"tool_calls":[{"id":"a","function":{"name":"Ann","arguments":"{}"}}]}}]}`,
		"a field of tools":  `{"output":[{"type":"x","tools":["Ann"]}]}`,
		"an unknown field":  `{"novelty":"Ann"}`,
	} {
		f := newAnswerFilter(&censor{blank: "Ann"}, 256)
		assert.Equal(t, strings.Replace(answer, "Ann", "[redacted]", 1), string(f.inspectWhole([]byte(answer))), name)
		f = newAnswerFilter(&censor{blank: "Ann"}, 256)
		event := "data: " + answer + "\n\n"
		got := string(f.take([]byte(event))) + string(f.end())
		assert.Equal(t, strings.Replace(event, "Ann", "[redacted]", 1), got, name)
		f = newAnswerFilter(&censor{deny: "Ann"}, 256)
		assert.Empty(t, string(f.take([]byte(event)))+string(f.end()), name)
		assert.ErrorIs(t, f.err, errDenied, name)
	}
	for name, answer := range map[string]string{
		"ids":       `{"id":"Ann","type":"message","model":"Ann","content":[{"type":"tool_use","id":"Ann","name":"f","input":{}}]}`,
		"an echo":   `{"type":"response.created","response":{"id":"r","instructions":"Ann","tools":[{"description":"Ann"}],"metadata":{"a":"Ann"}}}`,
		"the whole": `{"id":"r","object":"response","instructions":"Ann","tools":[{"description":"Ann"}]}`,
	} {
		f := newAnswerFilter(&censor{blank: "Ann"}, 256)
		assert.Equal(t, answer, string(f.inspectWhole([]byte(answer))), name)
	}
}

// What comes in one piece is not waited for.
func TestWholeStringsDoNotHoldAStream(t *testing.T) {
	f := newAnswerFilter(&censor{blank: "Ann"}, 256)
	start := `data: {"type":"message_start","message":{"id":"m","novelty":"x","content":[]}}` + "\n\n"
	assert.Equal(t, start, string(f.take([]byte(start))))
}

// Log probabilities are the answer once more, token by token.
func TestLogprobsAreRefusedWhereAnswersAreInspected(t *testing.T) {
	for body, want := range map[string]int{
		`{"model":"good","messages":[],"logprobs":true}`:              403,
		`{"model":"good","messages":[],"logprobs":false}`:             200,
		`{"model":"good","messages":[],"top_logprobs":null}`:          200,
		`{"model":"good","messages":[]}`:                              200,
		`{"model":"good","messages":[{"role":"user","content":"x"}]}`: 200,
	} {
		h := newHouse(t, &Options{Inspect: &censor{}})
		resp, got := h.post("/v1/chat/completions", body)
		assert.Equal(t, want, resp.StatusCode, "%s: %s", body, got)
		if want == 403 {
			assert.Contains(t, got, "log probabilities")
			assert.Equal(t, audit.GuardContent, h.denial().Decision.Reason)
			assert.Zero(t, h.requests.Load())
		}
		h = newHouse(t, &Options{Inspect: &blind{}})
		resp, got = h.post("/v1/chat/completions", body)
		assert.Equal(t, 200, resp.StatusCode, "nobody looks at the answer: %s", got)
	}
	for body, want := range map[string]bool{
		`{"include":["message.output_text.logprobs"]}`:             true,
		`{"include":["message.output_text.log\u0070robs"]}`:        true,
		`{"include":["reasoning.encrypted_content"]}`:              false,
		`{"top_logprobs":3}`:                                       true,
		`{"top_logprobs":0}`:                                       false,
		`{"logprobs":0}`:                                           true,
		`{"log\u0070robs":true}`:                                   true,
		`{"logprobs":false,"generationConfig":{}}`:                 false,
		`{"generationConfig":{"responseLogprobs":true}}`:           true,
		`{"generation_config":{"response_logprobs":true}}`:         true,
		`{"generationConfig":{"logprobs":2}}`:                      true,
		`{"messages":[{"role":"user","content":"logprobs"}]}`:      false,
		`{"tools":[{"parameters":{"properties":{"logprobs":1}}}]}`: false,
	} {
		assert.Equal(t, want, asksLogprobs([]byte(body)), body)
	}
}

// A blind inspector looks at requests only.
type blind struct{ censor }

func (*blind) Answer(context.Context, Content) AnswerInspector { return nil }

func TestFindingsMustMakeSense(t *testing.T) {
	for _, bad := range [][]Range{{{-1, 2}}, {{2, 2}}, {{3, 2}}, {{0, 2}, {1, 3}}, {{0, 100}}} {
		assert.False(t, ordered(bad, 10), "%v", bad)
	}
	assert.True(t, ordered([]Range{{0, 2}, {2, 10}}, 10))
	_, err := blankStrings([]byte(`{"a":"bcd"}`), []Range{{5, 8}})
	assert.ErrorIs(t, err, errBlank, "a quote")
	assert.True(t, errors.Is(err, errBlank))
	out, err := blankStrings([]byte(`{"a":["bcd",{"e":"f"}]}`), []Range{{7, 8}})
	require.NoError(t, err)
	assert.Equal(t, `{"a":["[redacted]cd",{"e":"f"}]}`, string(out))
}

// Blanking must not change what the request asks for: whose tools there are, and
// which of them the provider would run.
func TestBlankingChangesNoTools(t *testing.T) {
	const body = `{"model":"good","max_tokens":9,"messages":[],"tools":[{"name":"mine"},{"type":"web_search_20250305","name":"web_search"}]}`
	for _, word := range []string{"mine", "_20250305"} {
		h := newHouse(t, &Options{Inspect: &censor{blank: word}})
		resp, _ := h.post("/v1/messages", body)
		assert.Equal(t, 403, resp.StatusCode, word)
		assert.Equal(t, map[string]string{"found": "error"}, h.denial().Detail, word)
	}
	assert.Len(t, Finding{Label: strings.Repeat("x", 100)}.label(), 64)
}

// A waiting inspector holds back all that it may.
func TestHeldTextIsBounded(t *testing.T) {
	f := newAnswerFilter(&censor{}, 1<<30)
	chunk := `data: {"choices":[{"index":0,"delta":{"content":"` + strings.Repeat("x", 10<<10) + `"}}]}` + "\n\n"
	out := 0
	for range 100 {
		out += len(f.take([]byte(chunk)))
		require.LessOrEqual(t, f.held, maxQueued+len(chunk))
	}
	assert.Greater(t, out, 50*len(chunk))
}

// A clumsy inspector says what makes no sense, or cannot say who looks.
type clumsy struct{ fails bool }

func (*clumsy) Request(context.Context, Content, []byte) (Finding, error) { return Finding{}, nil }

func (c *clumsy) Answer(context.Context, Content) AnswerInspector {
	if c.fails {
		panic("a bug")
	}
	return c
}

func (*clumsy) Text(window string, _ bool) (Finding, error) {
	return Finding{Blank: []Range{{0, len(window) + 1}}}, nil
}

// An answer whose inspection fails does not pass, and its stream is cut at once:
// this backend would go on for ever.
func TestInspectionsThatFailCutTheStream(t *testing.T) {
	for name, look := range map[string]Inspector{"ranges": &clumsy{}, "nobody to look": &clumsy{fails: true}, "denied": &censor{deny: "secret"}} {
		h := newHouse(t, &Options{Inspect: look, InspectWindow: 1})
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			sse(`data: {"choices":[{"index":0,"delta":{"content":"a secret word"}}]}`+"\n\n")(w, r)
			<-r.Context().Done()
		}
		_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
		assert.NotContains(t, got, "word", name)
		assert.Contains(t, got, "does not let this answer pass", name)
		h.door.Close()
		assert.Equal(t, audit.GuardContent, h.outcome().ErrorCode, name)
	}
}
