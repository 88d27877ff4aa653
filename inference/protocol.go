package inference

import (
	"net/http"
	"net/url"
	"strings"
)

// A Protocol is the wire format that a client speaks and a backend understands.
type Protocol string

const (
	OpenAI          Protocol = "openai"           // POST /v1/chat/completions, /v1/embeddings
	OpenAIResponses Protocol = "openai-responses" // POST /v1/responses
	Anthropic       Protocol = "anthropic"        // POST /v1/messages, /v1/messages/count_tokens
	Gemini          Protocol = "gemini"           // POST /v1beta/models/M:generateContent and its kin
)

// protocols are all that this door speaks, in the order of its messages.
var protocols = []Protocol{OpenAI, OpenAIResponses, Anthropic, Gemini}

// isOpenAI reports whether p is one of OpenAI's own, which share errors, types
// of tools and the list of models.
func (p Protocol) isOpenAI() bool { return p == OpenAI || p == OpenAIResponses }

// The Cedar actions of this door.
const (
	actInvoke     = "invoke_model"
	actEmbed      = "embed"
	actCount      = "count_tokens"
	actHosted     = "use_hosted_tool"
	actCredential = "use_credential"
	actList       = "list_models"
)

// An operation is one thing that clients can ask of a model: a row of the table
// of what this door understands. Whatever differs between protocols hangs here;
// the way of a call through the door is the same for all.
type operation struct {
	name     string // in errors and telemetry
	protocol Protocol
	action   string // what policy decides
	// path is where clients send it, below the version; {model} is the model's
	// name where the protocol has it in the path. A backend has it at the same
	// place below its base URL.
	path    string
	streams streaming
	fields  table // of the top level of its requests
	event   func(*meter, []byte) verdict
	whole   func(*meter, []byte)
}

// streaming says how a client asks for a stream.
type streaming uint8

const (
	byField streaming = iota // "stream": true
	always                   // by the path
	never
)

const modelInPath = "{model}"

// The table.
var (
	opChat = &operation{
		name: "chat", protocol: OpenAI, action: actInvoke, path: "/chat/completions",
		fields: openAITop, event: (*meter).openAIEvent, whole: (*meter).openAIWhole,
	}
	opEmbeddings = &operation{
		name: "embeddings", protocol: OpenAI, action: actEmbed, path: "/embeddings", streams: never,
		fields: embeddingsTop, event: (*meter).openAIEvent, whole: (*meter).openAIWhole,
	}
	opResponses = &operation{
		name: "responses", protocol: OpenAIResponses, action: actInvoke, path: "/responses",
		fields: responsesTop, event: (*meter).responsesEvent, whole: (*meter).responsesWhole,
	}
	opMessages = &operation{
		name: "messages", protocol: Anthropic, action: actInvoke, path: "/messages",
		fields: anthropicTop, event: (*meter).anthropicEvent, whole: (*meter).anthropicWhole,
	}
	opCountMessages = &operation{
		name: "count_tokens", protocol: Anthropic, action: actCount, path: "/messages/count_tokens", streams: never,
		fields: anthropicTop, event: (*meter).anthropicEvent,
	}
	opGenerate = &operation{
		name: "generate", protocol: Gemini, action: actInvoke, path: "/models/{model}:generateContent", streams: never,
		fields: geminiTop, event: (*meter).geminiEvent, whole: (*meter).geminiWhole,
	}
	opStreamGenerate = &operation{
		name: "stream_generate", protocol: Gemini, action: actInvoke, path: "/models/{model}:streamGenerateContent", streams: always,
		fields: geminiTop, event: (*meter).geminiEvent, whole: (*meter).geminiWhole,
	}
	opCountGenerate = &operation{
		name: "count_tokens", protocol: Gemini, action: actCount, path: "/models/{model}:countTokens", streams: never,
		fields: geminiTop, event: (*meter).geminiEvent,
	}
	opEmbedContent = &operation{
		name: "embed_content", protocol: Gemini, action: actEmbed, path: "/models/{model}:embedContent", streams: never,
		fields: geminiTop, event: (*meter).geminiEvent, whole: (*meter).geminiWhole,
	}
	opBatchEmbed = &operation{
		name: "batch_embed_contents", protocol: Gemini, action: actEmbed, path: "/models/{model}:batchEmbedContents", streams: never,
		fields: geminiTop, event: (*meter).geminiEvent, whole: (*meter).geminiWhole,
	}

	operations = []*operation{
		opChat, opEmbeddings, opResponses, opMessages, opCountMessages,
		opGenerate, opStreamGenerate, opCountGenerate, opEmbedContent, opBatchEmbed,
	}
)

// hasPathModel reports whether the model's name is in the path and not in the
// body.
func (op *operation) hasPathModel() bool { return strings.Contains(op.path, modelInPath) }

// endpoint is the path of the operation below a backend's base URL.
func (op *operation) endpoint(model string) string {
	return strings.Replace(op.path, modelInPath, url.PathEscape(model), 1)
}

// query returns what of a client's query goes on to the backend. Keys that
// Gemini's clients put there stay here. Anything else that is not known is
// refused: it could change what the backend does.
func (op *operation) query(raw string) (forward string, ok bool) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", false
	}
	for name, vs := range values {
		if len(vs) != 1 {
			return "", false
		}
		switch {
		case op.protocol == Anthropic && name == "beta" && vs[0] == "true":
			forward = "beta=true"
		case op.protocol == Gemini && name == "key":
		case op.protocol == Gemini && name == "alt" && vs[0] == "sse" && op.streams == always:
			forward = "alt=sse"
		case op.protocol == Gemini && name == "alt" && vs[0] == "json" && op.streams == never:
		default:
			return "", false
		}
	}
	// Without it the answer would be one JSON array in pieces, not events.
	return forward, op.streams != always || forward != ""
}

// A kind is what an HTTP request to the door means.
type kind int

const (
	kindRefused kind = iota
	kindHello        // HEAD or GET /: is anybody there?
	kindCall         // an operation on a model
	kindModels       // the list of models
	kindModel        // one of the list
)

// An asking is a request that was recognised.
type asking struct {
	kind     kind
	protocol Protocol   // for a refused request a guess, for the error's shape
	op       *operation // of a call
	model    string     // that is named in the path, if any
	query    string     // that goes on to the backend
}

// The versions that clients put before a path. Those of Gemini are not for the
// others.
var versions = []struct {
	prefix string
	gemini bool
}{{"/v1beta/", true}, {"/v1alpha/", true}, {"/v1/", false}}

// classify finds out what a request is.
func classify(r *http.Request) asking {
	a := asking{protocol: dialect(r)}
	path := r.URL.Path
	if path == "/" && (r.Method == http.MethodHead || r.Method == http.MethodGet) {
		a.kind = kindHello
		return a
	}
	gemini := false
	for _, v := range versions {
		if rest, ok := strings.CutPrefix(path, v.prefix); ok {
			path, gemini = "/"+rest, v.gemini
			break
		}
	}
	name, inModels := strings.CutPrefix(path, "/models/")
	switch r.Method {
	case http.MethodGet:
		if path == "/models" {
			a.kind = kindModels
		} else if inModels && modelRE.MatchString(name) {
			a.kind, a.model = kindModel, name
		}
		return a
	case http.MethodPost:
	default:
		return a
	}
	if inModels {
		colon := strings.LastIndexByte(name, ':')
		if colon < 0 || !modelRE.MatchString(name[:colon]) || strings.ContainsRune(name[:colon], '/') || strings.Contains(r.URL.EscapedPath(), "%") {
			return a
		}
		a.model, path = name[:colon], "/models/"+modelInPath+name[colon:]
	}
	for _, op := range operations {
		if op.path != path || gemini && op.protocol != Gemini {
			continue
		}
		a.protocol = op.protocol
		if query, ok := op.query(r.URL.RawQuery); ok {
			a.kind, a.op, a.query = kindCall, op, query
		}
		break
	}
	return a
}

// dialect guesses the protocol of a request by the traces that its SDKs leave.
func dialect(r *http.Request) Protocol {
	path, h := r.URL.Path, r.Header
	switch {
	case strings.HasPrefix(path, "/v1beta/"), strings.HasPrefix(path, "/v1alpha/"),
		h.Get("X-Goog-Api-Key") != "", strings.HasPrefix(h.Get("X-Goog-Api-Client"), "google-genai-sdk"):
		return Gemini
	case h.Get("Anthropic-Version") != "", strings.Contains(path, "/messages"), h.Get("X-Api-Key") != "":
		return Anthropic
	case strings.Contains(path, "/responses"):
		return OpenAIResponses
	}
	return OpenAI
}
