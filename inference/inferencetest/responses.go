package inferencetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// An item of the input of responses: a message, a call of a tool, or the result
// of one.
type item struct {
	Type    string          `json:"type"`
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
	Output  json.RawMessage `json:"output"`
}

// readResponses turns the input into messages. What the model gave as one turn
// stands there as several items: calls and messages up to the next result or
// message of another are one turn.
func readResponses(body io.Reader) (request, error) {
	req, err := readRequest(body)
	if err != nil {
		return req, err
	}
	var items []item
	if json.Unmarshal(req.Input, &items) != nil {
		req.Messages = append(req.Messages, message{Role: "user", Content: req.Input})
	}
	said := false // by the model, in this turn
	for _, it := range items {
		switch it.Type {
		case "function_call", "custom_tool_call", "local_shell_call", "reasoning":
			it.Role = "assistant"
		case "function_call_output", "custom_tool_call_output", "local_shell_call_output":
			it.Role, it.Content = "tool", it.Output
		}
		if it.Role == "assistant" && said {
			continue
		}
		said = it.Role == "assistant"
		req.Messages = append(req.Messages, message{Role: it.Role, Content: it.Content})
	}
	req.Input = nil // it is counted with the messages
	return req, nil
}

// responses answers as OpenAI's responses.
func responses(w http.ResponseWriter, req request, turn Turn) {
	turnID := req.conversation().Turn
	var output []map[string]any
	if turn.Text != "" {
		output = append(output, map[string]any{
			"id": fmt.Sprintf("msg_%d", turnID), "type": "message", "role": "assistant", "status": "completed",
			"content": []any{map[string]any{"type": "output_text", "text": turn.Text, "annotations": []any{}, "logprobs": []any{}}},
		})
	}
	for i, c := range turn.Calls {
		call := map[string]any{
			"id": fmt.Sprintf("fc_%d_%d", turnID, i), "type": "function_call", "status": "completed",
			"call_id": callID(req, i), "name": c.Name, "arguments": c.arguments(),
		}
		if space := req.namespace(c.Name); space != "" {
			call["namespace"] = space
		}
		output = append(output, call)
	}
	response := func(status string, output any, usage any) map[string]any {
		return map[string]any{
			"id": fmt.Sprintf("resp_%d", turnID), "object": "response", "created_at": 0, "model": req.Model, "status": status,
			"output": output, "usage": usage, "error": nil, "incomplete_details": nil, "parallel_tool_calls": true,
			"tool_choice": "auto", "tools": []any{}, "store": false,
		}
	}
	in, out := req.promptTokens(), turn.completionTokens()
	usage := map[string]any{
		"input_tokens": in, "input_tokens_details": map[string]any{"cached_tokens": 0},
		"output_tokens": out, "output_tokens_details": map[string]any{"reasoning_tokens": 0}, "total_tokens": in + out,
	}
	if !req.Stream {
		reply(w, http.StatusOK, response("completed", output, usage))
		return
	}
	s, number := newStream(w), 0
	send := func(kind string, v map[string]any) {
		v["type"], v["sequence_number"] = kind, number
		number++
		s.send(kind, v)
	}
	send("response.created", map[string]any{"response": response("in_progress", []any{}, nil)})
	send("response.in_progress", map[string]any{"response": response("in_progress", []any{}, nil)})
	for i, it := range output {
		at := func(v map[string]any) map[string]any {
			v["item_id"], v["output_index"] = it["id"], i
			return v
		}
		begun := map[string]any{}
		for k, v := range it {
			begun[k] = v
		}
		begun["status"] = "in_progress"
		if it["type"] == "function_call" {
			begun["arguments"] = ""
			send("response.output_item.added", map[string]any{"output_index": i, "item": begun})
			args := it["arguments"].(string)
			half := len(args) / 2
			send("response.function_call_arguments.delta", at(map[string]any{"delta": args[:half]}))
			send("response.function_call_arguments.delta", at(map[string]any{"delta": args[half:]}))
			send("response.function_call_arguments.done", at(map[string]any{"arguments": args, "name": it["name"]}))
		} else {
			begun["content"] = []any{}
			part := func(text string) map[string]any {
				return map[string]any{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
			}
			send("response.output_item.added", map[string]any{"output_index": i, "item": begun})
			send("response.content_part.added", at(map[string]any{"content_index": 0, "part": part("")}))
			for _, word := range words(turn.Text) {
				send("response.output_text.delta", at(map[string]any{"content_index": 0, "delta": word, "logprobs": []any{}}))
			}
			send("response.output_text.done", at(map[string]any{"content_index": 0, "text": turn.Text, "logprobs": []any{}}))
			send("response.content_part.done", at(map[string]any{"content_index": 0, "part": part(turn.Text)}))
		}
		send("response.output_item.done", map[string]any{"output_index": i, "item": it})
	}
	send("response.completed", map[string]any{"response": response("completed", output, usage)})
}
