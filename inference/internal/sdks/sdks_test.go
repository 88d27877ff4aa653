// Package sdks proves that the providers' own SDKs for Go work with the model
// door, which sees the same of them as of agents in other languages. It is a module
// of its own so that users need not have them.
package sdks

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

var bot = audit.Actor{Agent: "bot", Issuer: "session", Session: "s1"}

const policies = `
@id("bot-asks")
permit (principal == Agent::"bot", action in [Action::"invoke_model", Action::"list_models"], resource);
@id("one-is-not-for-it")
forbid (principal, action == Action::"invoke_model", resource) when { resource.name == "denied-model" };
@id("keys")
permit (principal == Agent::"bot", action == Action::"use_credential", resource);
`

// A house is a host with a scripted model.
type house struct {
	log  *audittest.Log
	url  string        // where the router is
	http *http.Client  // that reaches it
	gone chan struct{} // what asked the endless model has left
}

// eachForm runs a test with the router as a server, behind a session's door, and
// as the transport of an HTTP client.
func eachForm(t *testing.T, test func(t *testing.T, h *house)) {
	t.Run("handler", func(t *testing.T) { test(t, newHouse(t, false)) })
	t.Run("round tripper", func(t *testing.T) { test(t, newHouse(t, true)) })
}

func newHouse(t *testing.T, inProcess bool) *house {
	by := audit.Change{By: "a test", Reason: "it needs it"}
	h := &house{log: audittest.NewLog(t), gone: make(chan struct{}, 8)}
	key := credentialtest.Canary()
	script := inferencetest.NewScript(inferencetest.Turn{
		Text: "Let me look.", Calls: []inferencetest.Call{{Name: "weather", Args: map[string]string{"city": "Lisbon"}}},
	})
	script.Key = key
	origin := httptest.NewServer(h.endless(script))
	t.Cleanup(origin.Close)
	models := []string{"house-model", "denied-model", "endless"}
	backends := []inference.Backend{
		{Name: "openai", Protocols: []inference.Protocol{inference.OpenAI, inference.OpenAIResponses}, BaseURL: origin.URL + "/v1", Credential: "openai-key", Models: models},
		{Name: "claude", Protocol: inference.Anthropic, BaseURL: origin.URL + "/v1", Credential: "claude-key", Models: models},
	}
	vault := credentialtest.NewVault(t, nil, map[string]string{"openai-key": key, "claude-key": key})
	for _, b := range backends {
		binding, err := b.Binding()
		require.NoError(t, err)
		require.NoError(t, vault.Bind(t.Context(), b.Credential, binding, by))
	}
	engine := governance.NewEngine(h.log, nil)
	_, err := engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "test.cedar", Text: policies}}}, by)
	require.NoError(t, err)
	router, err := inference.NewRouter(inference.Config{Backends: backends}, engine, h.log, &inference.Options{Vault: vault})
	require.NoError(t, err)
	t.Cleanup(func() { router.Close() })
	if inProcess {
		h.url, h.http = "https://inference.example", &http.Client{Transport: router.RoundTripper(bot)}
		return h
	}
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		router.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), bot)))
	}))
	t.Cleanup(door.Close)
	h.url, h.http = door.URL, door.Client()
	return h
}

// endless begins an answer for the model of that name, and waits until whoever
// asked has left.
func (h *house) endless(next http.Handler) http.Handler {
	first := map[string]string{
		"/v1/chat/completions": `data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"endless","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}`,
		"/v1/responses":        `data: {"type":"response.created","sequence_number":0,"response":{"id":"r","object":"response","status":"in_progress","output":[]}}`,
		"/v1/messages":         "event: message_start\n" + `data: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"endless","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}`,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if !strings.Contains(string(body), `"endless"`) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, first[r.URL.Path]+"\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		h.gone <- struct{}{}
	})
}

// saw is what an SDK made of everything.
type saw struct {
	text, streamed  string
	name, arguments string // of the tool that was called, in the stream
	output          int64
	status          [2]int // of a model that does not exist, and one that is denied
	message         [2]string
	abandoned       error
}

func (h *house) check(t *testing.T, s saw) {
	t.Helper()
	assert.Equal(t, "Let me look.", s.text)
	assert.Equal(t, "Let me look.", s.streamed)
	assert.Equal(t, "weather", s.name)
	assert.JSONEq(t, `{"city":"Lisbon"}`, s.arguments)
	assert.EqualValues(t, 11, s.output, "three words and a call")
	assert.Equal(t, [2]int{404, 403}, s.status)
	assert.Contains(t, s.message[0], "no-such-model")
	assert.Contains(t, s.message[1], "denied-model")
	assert.ErrorIs(t, s.abandoned, context.Canceled)
	<-h.gone
	ended := func(as audit.Status) (n int) {
		for _, r := range h.log.Records() {
			if r.Outcome != nil && r.Outcome.Usage != nil && r.Outcome.Status == as {
				n++
			}
		}
		return n
	}
	assert.Eventually(t, func() bool { return ended(audit.StatusCancelled) == 1 }, time.Minute, 10*time.Millisecond)
	assert.Equal(t, 2, ended(audit.StatusOK))
	assert.Len(t, h.log.Denials(), 2)
}

func TestOpenAIChat(t *testing.T) { eachForm(t, useOpenAIChat) }

func useOpenAIChat(t *testing.T, h *house) {
	client := openai.NewClient(openaioption.WithHTTPClient(h.http), openaioption.WithBaseURL(h.url+"/v1"), openaioption.WithAPIKey("unused"), openaioption.WithMaxRetries(0))
	params := func(model string) openai.ChatCompletionNewParams {
		return openai.ChatCompletionNewParams{
			Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello")},
			Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "weather"})},
		}
	}
	var s saw
	whole, err := client.Chat.Completions.New(t.Context(), params("house-model"))
	require.NoError(t, err)
	s.text = whole.Choices[0].Message.Content

	asking := params("house-model")
	asking.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := client.Chat.Completions.NewStreaming(t.Context(), asking)
	var sum openai.ChatCompletionAccumulator
	for stream.Next() {
		sum.AddChunk(stream.Current())
	}
	require.NoError(t, stream.Err())
	said := sum.Choices[0].Message
	s.streamed, s.output = said.Content, sum.Usage.CompletionTokens
	s.name, s.arguments = said.ToolCalls[0].Function.Name, said.ToolCalls[0].Function.Arguments

	for i, model := range []string{"no-such-model", "denied-model"} {
		_, err := client.Chat.Completions.New(t.Context(), params(model))
		var failure *openai.Error
		require.ErrorAs(t, err, &failure)
		s.status[i], s.message[i] = failure.StatusCode, failure.Message
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := client.Chat.Completions.NewStreaming(ctx, params("endless"))
	require.True(t, left.Next())
	cancel()
	for left.Next() {
	}
	s.abandoned = left.Err()
	h.check(t, s)

	var listed []string
	models, err := client.Models.List(t.Context())
	require.NoError(t, err)
	for _, m := range models.Data {
		listed = append(listed, m.ID)
	}
	assert.ElementsMatch(t, []string{"house-model", "endless"}, listed)
}

func TestOpenAIResponses(t *testing.T) { eachForm(t, useOpenAIResponses) }

func useOpenAIResponses(t *testing.T, h *house) {
	client := openai.NewClient(openaioption.WithHTTPClient(h.http), openaioption.WithBaseURL(h.url+"/v1"), openaioption.WithAPIKey("unused"), openaioption.WithMaxRetries(0))
	params := func(model string) responses.ResponseNewParams {
		return responses.ResponseNewParams{
			Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello")}, Store: openai.Bool(false),
			Tools: []responses.ToolUnionParam{responses.ToolParamOfFunction("weather", map[string]any{"type": "object"}, false)},
		}
	}
	var s saw
	whole, err := client.Responses.New(t.Context(), params("house-model"))
	require.NoError(t, err)
	s.text = whole.OutputText()

	stream := client.Responses.NewStreaming(t.Context(), params("house-model"))
	for stream.Next() {
		if end := stream.Current(); end.Type == "response.completed" {
			s.streamed, s.output = end.Response.OutputText(), end.Response.Usage.OutputTokens
			for _, item := range end.Response.Output {
				if item.Type == "function_call" {
					call := item.AsFunctionCall()
					s.name, s.arguments = call.Name, call.Arguments
				}
			}
		}
	}
	require.NoError(t, stream.Err())

	for i, model := range []string{"no-such-model", "denied-model"} {
		_, err := client.Responses.New(t.Context(), params(model))
		var failure *openai.Error
		require.ErrorAs(t, err, &failure)
		s.status[i], s.message[i] = failure.StatusCode, failure.Message
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := client.Responses.NewStreaming(ctx, params("endless"))
	require.True(t, left.Next())
	cancel()
	for left.Next() {
	}
	s.abandoned = left.Err()
	h.check(t, s)
}

func TestAnthropic(t *testing.T) { eachForm(t, useAnthropic) }

func useAnthropic(t *testing.T, h *house) {
	client := anthropic.NewClient(anthropicoption.WithHTTPClient(h.http), anthropicoption.WithBaseURL(h.url), anthropicoption.WithAPIKey("unused"), anthropicoption.WithMaxRetries(0))
	params := func(model string) anthropic.MessageNewParams {
		return anthropic.MessageNewParams{
			Model: anthropic.Model(model), MaxTokens: 100,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))},
			Tools:    []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "weather"}}},
		}
	}
	var s saw
	whole, err := client.Messages.New(t.Context(), params("house-model"))
	require.NoError(t, err)
	s.text = whole.Content[0].Text

	stream := client.Messages.NewStreaming(t.Context(), params("house-model"))
	var sum anthropic.Message
	for stream.Next() {
		require.NoError(t, sum.Accumulate(stream.Current()))
	}
	require.NoError(t, stream.Err())
	s.streamed, s.output = sum.Content[0].Text, sum.Usage.OutputTokens
	call := sum.Content[1].AsToolUse()
	s.name, s.arguments = call.Name, string(call.Input)

	for i, model := range []string{"no-such-model", "denied-model"} {
		_, err := client.Messages.New(t.Context(), params(model))
		var failure *anthropic.Error
		require.ErrorAs(t, err, &failure)
		s.status[i], s.message[i] = failure.StatusCode, failure.RawJSON()
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := client.Messages.NewStreaming(ctx, params("endless"))
	require.True(t, left.Next())
	cancel()
	for left.Next() {
	}
	s.abandoned = left.Err()
	h.check(t, s)
}
