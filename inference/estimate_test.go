package inference

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What media a request has: images, whose tokens have a bound, and others.
func TestMediaOfARequest(t *testing.T) {
	const (
		claude   = `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":[%s]}]}`
		chat     = `{"model":"good","messages":[{"role":"user","content":[%s]}]}`
		response = `{"model":"good","input":[{"role":"user","content":[%s]}]}`
		gemini   = `{"contents":[{"parts":[%s]}]}`
	)
	png := "data:image/png;base64,AAAA"
	for block, tc := range map[string]struct {
		op        *operation
		frame     string
		images    int64
		bytes     int
		boundless bool
	}{
		`{"type":"text","text":"data:image/png"}`:                                                                                                 {opMessages, claude, 0, 0, false},
		`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}`:                                                      {opMessages, claude, 1, 4, false},
		`{"source":{"data":"AAAA","media_type":"image\/png","type":"base64"},"type":"image"}`:                                                     {opMessages, claude, 1, 4, false},
		`{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}`: {opMessages, claude, 1, 4, false},
		`{"type":"image","source":{"type":"url","url":"https://x.example/a.png"}}`:                                                                {opMessages, claude, 1, 0, false},
		`{"type":"image","source":{"type":"file","file_id":"f"}}`:                                                                                 {opMessages, claude, 1, 0, false},
		`{"type":"image","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}`:                                                {opMessages, claude, 0, 0, true},
		`{"type":"document","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}`:                                                   {opMessages, claude, 0, 0, true},
		`{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}`:                                             {opMessages, claude, 0, 0, true},
		`{"type":"document","source":{"type":"url","url":"https://x.example/a.pdf"}}`:                                                             {opMessages, claude, 0, 0, true},
		`{"type":"document","source":{"type":"text","media_type":"text/plain","data":"AAAA"}}`:                                                    {opMessages, claude, 0, 0, false},
		`{"type":"document","source":{"type":"content","content":[{"type":"text","text":"x"}]}}`:                                                  {opMessages, claude, 0, 0, false},
		`{"type":"document","source":{"type":"file","file_id":"f"}}`:                                                                              {opMessages, claude, 0, 0, true},
		`{"type":"container_upload","file_id":"f"}`:                                                                                               {opMessages, claude, 0, 0, true},
		`{"type":"novelty","data":"AAAA"}`:                                                                                                        {opMessages, claude, 0, 0, true},
		`{"type":"search_result","source":"https://x.example","title":"x","content":[]}`:                                                          {opMessages, claude, 0, 0, false},
		`{"type":"image_url","image_url":{"url":"` + png + `"}}`:                                                                                  {opChat, chat, 1, len(png), false},
		`{"type":"image_url","image_url":"` + png + `"},{"type":"image_url","image_url":{"url":"` + png + `","detail":"low"}}`:                    {opChat, chat, 2, 2 * len(png), false},
		`{"type":"image_url","image_url":{"url":"data:image\/png;base64,AAAA"}}`:                                                                  {opChat, chat, 1, len(png) + 1, false},
		`{"type":"image_url","image_url":{"url":"https://x.example/a.png"}}`:                                                                      {opChat, chat, 1, 0, false},
		`{"type":"image_url","image_url":{"url":"data:video/mp4;base64,AAAA"}}`:                                                                   {opChat, chat, 0, 0, true},
		`{"type":"video_url","video_url":{"url":"` + png + `"}}`:                                                                                  {opChat, chat, 0, 0, true},
		`{"type":"novel_url","novel_url":{"url":"` + png + `"}}`:                                                                                  {opChat, chat, 0, 0, true},
		`{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}`:                                                                     {opChat, chat, 0, 0, true},
		`{"type":"file","file":{"file_data":"AAAA"}}`:                                                                                             {opChat, chat, 0, 0, true},
		`{"type":"file","file":{"file_id":"f"}}`:                                                                                                  {opChat, chat, 0, 0, true},
		`{"type":"text","text":"x","file":null,"input_audio":null,"file_id":null}`:                                                                {opChat, chat, 0, 0, false},
		`{"type":"input_image","image_url":"` + png + `"}`:                                                                                        {opResponses, response, 1, len(png), false},
		`{"type":"input_image","file_id":"f"}`:                                                                                                    {opResponses, response, 0, 0, true},
		`{"type":"input_file","file_url":"https://x.example/a.pdf"}`:                                                                              {opResponses, response, 0, 0, true},
		`{"type":"input_file","file_data":"AAAA"}`:                                                                                                {opResponses, response, 0, 0, true},
		`{"inlineData":{"mimeType":"image/png","data":"AAAA"}}`:                                                                                   {opGenerate, gemini, 1, 4, false},
		`{"inline_data":{"data":"AAAA","mime_type":"image/png"}}`:                                                                                 {opGenerate, gemini, 1, 4, false},
		`{"functionResponse":{"name":"f","response":{},"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}`:                         {opGenerate, gemini, 1, 4, false},
		`{"inlineData":{"mimeType":"text/plain","data":"AAAA"}}`:                                                                                  {opGenerate, gemini, 0, 0, false},
		`{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}`:                                                                                   {opGenerate, gemini, 0, 0, true},
		`{"inlineData":{"data":"AAAA"}}`:                                                                                                          {opGenerate, gemini, 0, 0, true},
		`{"fileData":{"fileUri":"https://youtu.be/x"}}`:                                                                                           {opGenerate, gemini, 0, 0, true},
		`{"novelty":{"data":"AAAA"}}`:                                                                                                             {opGenerate, gemini, 0, 0, true},
	} {
		var env envelope
		require.NoError(t, scan(tc.op, fmt.Appendf(nil, tc.frame, block), &env), block)
		assert.Equal(t, tc.images, env.images, block)
		assert.Equal(t, tc.bytes, env.imageBytes, block)
		assert.Equal(t, tc.boundless, env.boundless, block)
	}
	for body, op := range map[string]*operation{
		`{"model":"good","input":[{"type":"novelty"}]}`: opResponses,
		`{"model":"good","input":[{"type":"function_call_output","call_id":"c","output":[{"type":"input_file","file_data":"A"}]}]}`: opResponses,
		`{"requests":[{"content":{"parts":[{"inlineData":{"mimeType":"audio/wav","data":"A"}}]}}]}`:                                 opBatchEmbed,
	} {
		var env envelope
		require.NoError(t, scan(op, []byte(body), &env), body)
		assert.True(t, env.boundless, body)
	}
}

// An image is set aside by what it may cost, however large or small its file is.
func TestReservationOfMedia(t *testing.T) {
	const pdf = `{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}`
	image := func(n int) string {
		return `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + strings.Repeat("A", n) + `"}}`
	}
	request := func(blocks string) string {
		return `{"model":"good","max_tokens":100,"messages":[{"role":"user","content":[` + blocks + `]}]}`
	}
	const search = `{"model":"good","max_tokens":100,"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search"}]}`
	const large = oneEach + "budgets: [{name: daily, per: agent, window: day, tokens: 3000000}]\n"
	frame := int64(len(request(image(0))))
	for name, tc := range map[string]struct {
		spend, body string
		input       int64
	}{
		"a small image":          {large, request(image(4)), frame + 5000},
		"a large one":            {large, request(image(400_000)), frame + 5000},
		"two":                    {large, request(image(4) + "," + image(400_000)), int64(len(request(image(0)+","+image(0)))) + 10_000},
		"as the host says":       {large + "image_tokens: {claude/*: 1600}\n", request(image(4)), frame + 1600},
		"a document":             {large, request(pdf), 1 << 21},
		"a document of a model":  {large + "max_input: {claude/good: 200000}\n", request(pdf), 200_000},
		"no more than it reads":  {large + "max_input: {claude/good: 200}\n", request(image(4)), 200},
		"less than it reads":     {large + "max_input: {claude/good: 200000}\n", request(image(4)), frame + 5000},
		"a tool of the provider": {large, search, int64(len(search))},
		"a tool of the provider's, of a model that is known": {large + "max_input: {claude/good: 200000}\n", search, 200_000},
	} {
		h, l := purse(t, tc.spend, nil)
		var sent atomic.Int64
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			sent.Store(n)
			_, _ = io.WriteString(w, `{"usage":{"input_tokens":3,"output_tokens":4}}`)
		}
		resp, got := h.post("/v1/messages", tc.body)
		require.Equal(t, 200, resp.StatusCode, "%s: %s", name, got)
		assert.EqualValues(t, len(tc.body), sent.Load(), name)
		assert.Equal(t, tc.input+100+pieceSlack, l.most.Load(), name)
	}
}

// A call that lets the provider sum up the conversation first reads and writes
// twice.
func TestReservationOfCompactions(t *testing.T) {
	for edits, times := range map[string]int64{
		`{"edits":[{"type":"compact_20260112"}]}`: 2, `{"edits":[{"type":"comp\u0061ct_20260112"}]}`: 2, `{"edits":[{"type":"clear_thinking_20251015"}]}`: 1, `null`: 1,
	} {
		h, l := purse(t, daily, nil)
		body := `{"model":"good","max_tokens":9,"messages":[],"context_management":` + edits + `}`
		h.backend = func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{}`) }
		h.post("/v1/messages", body)
		assert.Equal(t, times*(int64(len(body))+9+pieceSlack), l.most.Load(), edits)
	}
}

// An answer that nobody counted is estimated without the bytes of its images.
func TestEstimateOfImages(t *testing.T) {
	h := newHouse(t, nil)
	body := `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` +
		strings.Repeat("A", 400_000) + `"}}]}]}`
	h.post("/v1/messages", body)
	assert.Equal(t, int64(len(body)-400_000+3)/4+5000, h.outcome().Usage.Input)
}

// Gemini's limit is put into generationConfig where the request names none.
func TestDefaultOutputLimitOfGemini(t *testing.T) {
	h, l := purse(t, daily, nil)
	cfg := h.manyProtocols()
	cfg.Spend = h.router.routes.Load().spend
	cfg.Spend.MaxOutput = map[string]int64{"openai/*": 123}
	h.serve(cfg)
	var sent atomic.Pointer[string]
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		s := string(b)
		sent.Store(&s)
		_, _ = io.WriteString(w, `{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}`)
	}
	for body, want := range map[string]string{
		`{"contents":[]}`:                         `{"generationConfig":{"maxOutputTokens":123},"contents":[]}`,
		` { }`:                                    ` {"generationConfig":{"maxOutputTokens":123} }`,
		`{"generationConfig":{},"contents":[]}`:   `{"generationConfig":{"maxOutputTokens":123},"contents":[]}`,
		`{"generationConfig":null}`:               `{"generationConfig":{"maxOutputTokens":123}}`,
		`{"generation_config":{"temperature":1}}`: `{"generation_config":{"maxOutputTokens":123,"temperature":1}}`,
		`{"generationConfig":{"maxOutputTokens":null,"topK":1}}`:  `{"generationConfig":{"maxOutputTokens":123,"topK":1}}`,
		`{"generationConfig":{"max_output_tokens":0}}`:            `{"generationConfig":{"max_output_tokens":123}}`,
		`{"generationConfig":{"maxOutputTokens":7}}`:              `{"generationConfig":{"maxOutputTokens":7}}`,
		`{"generationConfig":{"candidateCount":2},"contents":[]}`: `{"generationConfig":{"maxOutputTokens":123,"candidateCount":2},"contents":[]}`,
	} {
		before := l.most.Load()
		resp, got := h.post("/v1beta/models/good:generateContent", body)
		require.Equal(t, 200, resp.StatusCode, "%s: %s", body, got)
		assert.Equal(t, want, *sent.Load(), body)
		limit := int64(123)
		switch {
		case strings.Contains(body, ":7"):
			limit = 7
		case strings.Contains(body, "candidateCount"):
			limit = 2 * 123
		}
		assert.Equal(t, int64(len(body))+limit+pieceSlack, l.most.Load()-before, body)
	}
	// A limit of a request within a request is not that of the answer.
	resp, got := h.post("/v1beta/models/good:generateContent", `{"generateContentRequest":{"generationConfig":{"maxOutputTokens":1}}}`)
	assert.Equal(t, 403, resp.StatusCode)
	assert.Contains(t, got, "field:generateContentRequest")
	var env envelope
	require.NoError(t, scan(opGenerate, []byte(`{"generateContentRequest":{"generationConfig":{"maxOutputTokens":1}}}`), &env))
	assert.Zero(t, env.maxOutput)
}
