package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// maxTurns bounds the conversation with the model.
const maxTurns = 12

const instructions = `You are the standup bot of a small team. List the open pull requests of acme/shop,
then post a two-line standup about them to #engineering. When you are told something is denied, accept it and go on.`

// A toolCall is what the model asks the agent to do.
type toolCall struct {
	ID   string
	Name string
	Args json.RawMessage
}

// A chat is a conversation in the OpenAI chat completions form, the part of it
// that this agent needs.
type chat struct {
	model    string
	tools    []any
	messages []any
}

func newChat(model string, tools []*mcp.Tool) *chat {
	c := &chat{model: model, messages: []any{
		map[string]any{"role": "system", "content": instructions},
		map[string]any{"role": "user", "content": "Do the standup, please."},
	}}
	for _, t := range tools {
		c.tools = append(c.tools, map[string]any{"type": "function", "function": map[string]any{
			"name": t.Name, "description": t.Description, "parameters": t.InputSchema}})
	}
	return c
}

// ask streams one turn of the model and returns the tool calls in it.
func (c *chat) ask(ctx context.Context, client *http.Client, baseURL string) ([]toolCall, error) {
	body, err := json.Marshal(map[string]any{
		"model": c.model, "stream": true, "max_tokens": 1024, "messages": c.messages, "tools": c.tools})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, baseURL+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return nil, fmt.Errorf("the model door answered %s: %s", res.Status, text)
	}
	text, calls, err := readStream(res.Body)
	if err != nil {
		return nil, err
	}
	message := map[string]any{"role": "assistant", "content": text}
	if len(calls) > 0 {
		var wire []any
		for _, call := range calls {
			wire = append(wire, map[string]any{"id": call.ID, "type": "function",
				"function": map[string]any{"name": call.Name, "arguments": string(call.Args)}})
		}
		message["tool_calls"] = wire
	}
	c.messages = append(c.messages, message)
	return calls, nil
}

// answer adds the result of a tool call to the conversation.
func (c *chat) answer(call toolCall, text string) {
	if call.ID != "" { // the model did not ask for the agent's own misdeeds
		c.messages = append(c.messages, map[string]any{"role": "tool", "tool_call_id": call.ID, "content": text})
	}
}

// readStream collects a stream of chat.completion.chunk events, up to [DONE].
func readStream(r io.Reader) (string, []toolCall, error) {
	var text strings.Builder
	var calls []toolCall
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		if data = strings.TrimSpace(data); data == "[DONE]" {
			return text.String(), calls, nil
		}
		var chunk struct {
			Choices []struct {
				Delta struct {
					Content   string
					ToolCalls []struct {
						Index    int
						ID       string
						Function struct{ Name, Arguments string }
					} `json:"tool_calls"`
				}
			}
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return "", nil, fmt.Errorf("the model's stream: %w", err)
		}
		for _, choice := range chunk.Choices {
			text.WriteString(choice.Delta.Content)
			for _, part := range choice.Delta.ToolCalls {
				if part.Index < 0 || part.Index > len(calls) {
					return "", nil, fmt.Errorf("the model's stream: tool call %d out of order", part.Index)
				}
				if part.Index == len(calls) {
					calls = append(calls, toolCall{ID: part.ID, Name: part.Function.Name})
				}
				calls[part.Index].Args = append(calls[part.Index].Args, part.Function.Arguments...)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", nil, err
	}
	return "", nil, fmt.Errorf("the model's stream ended early: %w", io.ErrUnexpectedEOF)
}

// A lockedBuffer is a bytes.Buffer that several goroutines may write to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}
