package inference

import (
	"encoding/json"
	"net/http"
	"strings"
)

// endpoint is the path below a backend's base URL.
func (p Protocol) endpoint() string {
	if p == Anthropic {
		return "messages"
	}
	return "chat/completions"
}

// An operation is what an HTTP request to the door means.
type operation int

const (
	opRefused operation = iota
	opHello             // HEAD or GET /: is anybody there?
	opInvoke            // a model call
	opModels            // the list of models
)

// classify maps method and path to an operation and to the protocol that is
// spoken. For a refused request the protocol is a guess, for the error's shape.
func classify(r *http.Request) (operation, Protocol) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1/"); ok {
		path = "/" + rest
	}
	switch {
	case path == "/" && (r.Method == http.MethodHead || r.Method == http.MethodGet):
		return opHello, OpenAI
	case path == "/chat/completions" && r.Method == http.MethodPost && r.URL.RawQuery == "":
		return opInvoke, OpenAI
	case path == "/messages" && r.Method == http.MethodPost && (r.URL.RawQuery == "" || r.URL.RawQuery == "beta=true"):
		return opInvoke, Anthropic
	case path == "/models" && r.Method == http.MethodGet:
		return opModels, dialect(r)
	}
	return opRefused, dialect(r)
}

// gemini is spoken to in errors only: its clients deserve to understand why
// they are refused.
const gemini Protocol = "gemini"

// dialect guesses the protocol of a request by the traces that its SDKs leave.
func dialect(r *http.Request) Protocol {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1beta/"):
		return gemini
	case r.Header.Get("Anthropic-Version") != "", strings.Contains(r.URL.Path, "/messages"), r.Header.Get("X-Api-Key") != "":
		return Anthropic
	}
	return OpenAI
}

// A refusal is an answer that the door itself gives.
type refusal struct {
	status   int
	code     string // short and stable
	message  string // for the agent: no policy text, no secrets
	decision string // id of the decision, may be empty
}

// write answers with ref in the error shape of p. The connection is kept.
func (ref refusal) write(w http.ResponseWriter, p Protocol) {
	if ref.decision != "" {
		w.Header().Set("Twinward-Decision", ref.decision)
		ref.message += " (decision " + ref.decision + ")"
	}
	body, err := json.Marshal(ref.body(p))
	if err != nil { // strings only: cannot happen
		body = []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(ref.status)
	_, _ = w.Write(body)
}

func (ref refusal) body(p Protocol) any {
	switch p {
	case Anthropic:
		return map[string]any{
			"type":  "error",
			"error": map[string]any{"type": anthropicErrorType(ref.status), "message": ref.message},
		}
	case gemini:
		return map[string]any{
			"error": map[string]any{"code": ref.status, "message": ref.message, "status": "PERMISSION_DENIED"},
		}
	}
	return map[string]any{
		"error": map[string]any{"message": ref.message, "type": openAIErrorType(ref.status), "param": nil, "code": ref.code},
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
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}
