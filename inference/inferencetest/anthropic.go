package inferencetest

import (
	"encoding/json"
	"net/http"
)

// anthropic answers as messages.
func anthropic(w http.ResponseWriter, req request, turn Turn) {
	stop := "end_turn"
	content := []map[string]any{}
	if turn.Text != "" {
		content = append(content, map[string]any{"type": "text", "text": turn.Text})
	}
	for i, c := range turn.Calls {
		stop = "tool_use"
		content = append(content, map[string]any{
			"type": "tool_use", "id": "toolu_" + callID(req, i), "name": c.Name, "input": json.RawMessage(c.arguments()),
		})
	}
	msg := map[string]any{
		"id": "msg_" + callID(req, 0), "type": "message", "role": "assistant", "model": req.Model,
		"content": content, "stop_reason": stop, "stop_sequence": nil,
		"usage": map[string]any{"input_tokens": req.promptTokens(), "output_tokens": turn.completionTokens()},
	}
	if !req.Stream {
		reply(w, http.StatusOK, msg)
		return
	}
	s := newStream(w)
	msg["content"], msg["stop_reason"] = []any{}, nil
	msg["usage"] = map[string]any{"input_tokens": req.promptTokens(), "output_tokens": 1}
	s.send("message_start", map[string]any{"type": "message_start", "message": msg})
	for i, b := range content {
		delta := func(d map[string]any) {
			s.send("content_block_delta", map[string]any{"type": "content_block_delta", "index": i, "delta": d})
		}
		start := map[string]any{"type": "text", "text": ""}
		if b["type"] == "tool_use" {
			start = map[string]any{"type": "tool_use", "id": b["id"], "name": b["name"], "input": map[string]any{}}
		}
		s.send("content_block_start", map[string]any{"type": "content_block_start", "index": i, "content_block": start})
		if input, ok := b["input"].(json.RawMessage); ok {
			half := len(input) / 2
			delta(map[string]any{"type": "input_json_delta", "partial_json": string(input[:half])})
			delta(map[string]any{"type": "input_json_delta", "partial_json": string(input[half:])})
		} else {
			for _, word := range words(turn.Text) {
				delta(map[string]any{"type": "text_delta", "text": word})
			}
		}
		s.send("content_block_stop", map[string]any{"type": "content_block_stop", "index": i})
	}
	s.send("message_delta", map[string]any{
		"type": "message_delta", "delta": map[string]any{"stop_reason": stop, "stop_sequence": nil},
		"usage": map[string]any{"output_tokens": turn.completionTokens()},
	})
	s.send("message_stop", map[string]any{"type": "message_stop"})
}

// countMessages answers count_tokens.
func countMessages(w http.ResponseWriter, req request) {
	reply(w, http.StatusOK, map[string]any{"input_tokens": req.promptTokens()})
}
