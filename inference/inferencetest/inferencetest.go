// Package inferencetest has a model that says what it is told to, for tests and
// demonstrations that must run without a provider.
//
// A [Script] is an [net/http.Handler] that speaks the protocols of package
// inference: OpenAI chat completions and responses, Anthropic messages and
// Gemini's generateContent, as a stream or in one piece; and it counts tokens
// and makes embeddings of two numbers. It checks the key that it is given, as a provider does, so that a
// test notices when the host's key does not arrive:
//
//	script := inferencetest.NewScript(
//		inferencetest.Turn{Calls: []inferencetest.Call{{Name: "list_prs", Args: map[string]any{"state": "open"}}}},
//		inferencetest.Turn{Text: "Two pull requests are open."},
//	)
//	script.Key = "sk-test-0123456789"
//	backend := httptest.NewServer(script)
//
// A script has no memory. It answers the turn whose number is the count of
// assistant messages in the request, which is what makes it safe for any number
// of conversations at once.
package inferencetest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// A Turn is one answer of the model: text, calls of tools, or both.
type Turn struct {
	Text  string
	Calls []Call
	// From, if set, makes the turn out of what the conversation has come to;
	// Text and Calls are then not used.
	From func(Conversation) Turn
}

// A Call is a tool call that the model makes. Args become its JSON arguments;
// nil means an empty object.
type Call struct {
	Name string
	Args any
}

// A Conversation is what a script knows about the request that it answers.
type Conversation struct {
	Model string
	// Turn is the number of the turn, from 0.
	Turn int
	// Tools are the names of the tools that the client offers.
	Tools []string
	// Results are the texts of the tool results since the last turn, in order.
	Results []string
}

// A Script answers model calls with its turns. After the last it answers with
// Done.
type Script struct {
	// Key is the key that clients must present: as a bearer token, as X-Api-Key
	// for Anthropic, as X-Goog-Api-Key for Gemini. Empty: none is asked for. Set
	// it before serving.
	Key string
	// Done is the text of every turn after the last.
	Done string

	turns []Turn
	calls atomic.Int64
}

// NewScript returns a model that answers with turns.
func NewScript(turns ...Turn) *Script { return &Script{turns: turns, Done: "Done."} }

// Calls counts the requests with the right key.
func (s *Script) Calls() int64 { return s.calls.Load() }

// maxRequest bounds what a script reads.
const maxRequest = 32 << 20

// ServeHTTP implements [http.Handler]. Paths are accepted with or without their
// version.
func (s *Script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	for _, version := range []string{"/v1beta/", "/v1/"} {
		if rest, ok := strings.CutPrefix(path, version); ok {
			path = "/" + rest
			break
		}
	}
	var (
		read   = readRequest
		answer func(http.ResponseWriter, request, Turn)
		count  func(http.ResponseWriter, request) // in place of a turn
		key    = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	)
	model, verb, _ := strings.Cut(strings.TrimPrefix(path, "/models/"), ":")
	switch path {
	case "/chat/completions":
		answer = openAI
	case "/responses":
		read, answer = readResponses, responses
	case "/embeddings":
		count = embeddings
	case "/messages":
		answer, key = anthropic, r.Header.Get("X-Api-Key")
	case "/messages/count_tokens":
		count, key = countMessages, r.Header.Get("X-Api-Key")
	case "/models/" + model + ":" + verb:
		key = r.Header.Get("X-Goog-Api-Key")
		read = func(body io.Reader) (request, error) { return readGemini(body, model, verb) }
		switch verb {
		case "generateContent", "streamGenerateContent":
			answer = gemini
		case "countTokens":
			count = countGemini
		case "embedContent", "batchEmbedContents":
			count = embedGemini
		}
	}
	switch {
	case answer == nil && count == nil:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	case s.Key != "" && key != s.Key:
		reply(w, http.StatusUnauthorized, problem("authentication_error", "the key is missing or wrong"))
		return
	}
	req, err := read(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		reply(w, http.StatusBadRequest, problem("invalid_request_error", err.Error()))
		return
	}
	s.calls.Add(1)
	if count != nil {
		count(w, req)
		return
	}
	c := req.conversation()
	turn := Turn{Text: s.Done}
	if c.Turn < len(s.turns) {
		turn = s.turns[c.Turn]
	}
	for turn.From != nil {
		turn = turn.From(c)
	}
	answer(w, req, turn)
}

// problem has the shape of an error in all protocols.
func problem(kind, message string) map[string]any {
	return map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": message}}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// A stream writes server-sent events, each flushed.
type stream struct {
	w       http.ResponseWriter
	newline string
}

func newStream(w http.ResponseWriter) stream {
	w.Header().Set("Content-Type", "text/event-stream")
	return stream{w, "\n"}
}

func (s stream) send(event string, v any) {
	text, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // maps of strings and numbers
		}
		text = string(b)
	}
	text = "data: " + text + s.newline + s.newline
	if event != "" {
		text = "event: " + event + s.newline + text
	}
	_, _ = s.w.Write([]byte(text))
	_ = http.NewResponseController(s.w).Flush()
}
