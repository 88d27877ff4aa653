package inferencetest

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// openAI answers as chat completions.
func openAI(w http.ResponseWriter, req request, turn Turn) {
	usage := map[string]any{
		"prompt_tokens": req.promptTokens(), "completion_tokens": turn.completionTokens(),
		"total_tokens": req.promptTokens() + turn.completionTokens(),
	}
	finish := "stop"
	var calls []map[string]any
	for i, c := range turn.Calls {
		finish = "tool_calls"
		calls = append(calls, map[string]any{
			"index": i, "id": callID(req, i), "type": "function",
			"function": map[string]any{"name": c.Name, "arguments": c.arguments()},
		})
	}
	if !req.Stream {
		msg := map[string]any{"role": "assistant", "content": turn.Text}
		if calls != nil {
			msg["tool_calls"] = calls
		}
		reply(w, http.StatusOK, map[string]any{
			"id": "chatcmpl-script", "object": "chat.completion", "created": 0, "model": req.Model,
			"choices": []any{map[string]any{"index": 0, "message": msg, "finish_reason": finish}},
			"usage":   usage,
		})
		return
	}
	s := newStream(w)
	send := func(choices []any, usage any) {
		chunk := map[string]any{"id": "chatcmpl-script", "object": "chat.completion.chunk", "created": 0, "model": req.Model, "choices": choices}
		if usage != nil {
			chunk["usage"] = usage
		}
		s.send("", chunk)
	}
	delta := func(d map[string]any, finish any) {
		send([]any{map[string]any{"index": 0, "delta": d, "finish_reason": finish}}, nil)
	}
	delta(map[string]any{"role": "assistant", "content": ""}, nil)
	for _, word := range words(turn.Text) {
		delta(map[string]any{"content": word}, nil)
	}
	for i, c := range turn.Calls {
		args := c.arguments()
		half := len(args) / 2
		calls[i]["function"] = map[string]any{"name": c.Name, "arguments": ""}
		delta(map[string]any{"tool_calls": []any{calls[i]}}, nil)
		for _, piece := range []string{args[:half], args[half:]} {
			delta(map[string]any{"tool_calls": []any{map[string]any{"index": i, "function": map[string]any{"arguments": piece}}}}, nil)
		}
	}
	delta(map[string]any{}, finish)
	if req.StreamOptions.IncludeUsage {
		send([]any{}, usage)
	}
	s.send("", "[DONE]")
}

// callID is unique within a conversation.
func callID(req request, i int) string {
	return fmt.Sprintf("call_%d_%d", req.conversation().Turn, i)
}

// embeddings answers each text with two numbers.
func embeddings(w http.ResponseWriter, req request) {
	var texts []json.RawMessage
	if json.Unmarshal(req.Input, &texts) != nil {
		texts = []json.RawMessage{req.Input}
	}
	data := make([]any, len(texts))
	for i, t := range texts {
		data[i] = map[string]any{"object": "embedding", "index": i, "embedding": vector(t)}
	}
	reply(w, http.StatusOK, map[string]any{
		"object": "list", "model": req.Model, "data": data,
		"usage": map[string]any{"prompt_tokens": req.promptTokens(), "total_tokens": req.promptTokens()},
	})
}

// vector depends on the text and on nothing else.
func vector(text json.RawMessage) []float64 {
	sum := 0
	for _, c := range text {
		sum += int(c)
	}
	return []float64{float64(len(text)) / 1024, float64(sum%1024) / 1024}
}
