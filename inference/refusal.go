package inference

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// A refusal is an answer that the door itself gives.
type refusal struct {
	status   int
	code     string        // short and stable
	message  string        // for the agent: no policy text, no secrets
	decision string        // id of the decision, may be empty
	after    time.Duration // when to ask again; 0: not said
	final    bool          // SDKs are asked not to repeat the call by themselves
}

// text is the message with the id of the decision.
func (ref refusal) text() string {
	if ref.decision == "" {
		return ref.message
	}
	return ref.message + " (decision " + ref.decision + ")"
}

// write answers with ref in the error shape of p. The connection is kept.
func (ref refusal) write(w http.ResponseWriter, p Protocol) {
	if ref.decision != "" {
		w.Header().Set("Twinward-Decision", ref.decision)
	}
	if ref.after > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((ref.after+time.Second-1)/time.Second), 10))
	}
	if ref.final {
		w.Header().Set("X-Should-Retry", "false")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(ref.status)
	_, _ = w.Write(ref.body(p))
}

// body is ref as p's clients expect an error.
func (ref refusal) body(p Protocol) []byte { return encode(ref.shape(p)) }

// event is ref as an event that ends a stream of p before its time, so that
// p's clients report an error and do not take what they have for the answer.
func (ref refusal) event(p Protocol) []byte {
	switch p {
	case Anthropic:
		return sseEvent("error", ref.body(p), "\n")
	case OpenAIResponses:
		return sseEvent("response.failed", encode(map[string]any{
			"type": "response.failed", "sequence_number": 0,
			"response": map[string]any{
				"id": "resp_" + ref.decision, "object": "response", "created_at": 0, "model": "", "status": "failed", "output": []any{},
				"error": map[string]any{"code": ref.code, "message": ref.text()}, "incomplete_details": nil, "usage": nil,
			},
		}), "\n")
	case Gemini:
		return sseEvent("", ref.body(p), "\r\n")
	}
	return sseEvent("", ref.body(p), "\n")
}

func sseEvent(name string, data []byte, newline string) []byte {
	var b bytes.Buffer
	if name != "" {
		b.WriteString("event: " + name + newline)
	}
	b.WriteString("data: ")
	b.Write(data)
	b.WriteString(newline + newline)
	return b.Bytes()
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // strings and numbers only: cannot happen
		return []byte("{}")
	}
	return b
}

func (ref refusal) shape(p Protocol) map[string]any {
	switch p {
	case Anthropic:
		return map[string]any{
			"type":  "error",
			"error": map[string]any{"type": anthropicErrorType(ref.status), "message": ref.text()},
		}
	case Gemini:
		return map[string]any{
			"error": map[string]any{"code": ref.status, "message": ref.text(), "status": geminiErrorStatus(ref.status)},
		}
	}
	return map[string]any{
		"error": map[string]any{"message": ref.text(), "type": openAIErrorType(ref.status), "param": nil, "code": ref.code},
	}
}

func anthropicErrorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

func openAIErrorType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// geminiErrorStatus is the name of the google.rpc.Code that goes with an HTTP
// status.
func geminiErrorStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	}
	if status >= 500 {
		return "INTERNAL"
	}
	return "INVALID_ARGUMENT"
}
