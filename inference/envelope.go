package inference

import "strings"

// An envelope is what policy may know about a model call. Spans point into the
// scanned body.
type envelope struct {
	open         int  // offset of the body's opening brace
	model        span // without quotes; holds no escapes
	stream       bool
	maxOutput    int64 // 0: not given
	choices      int64 // n; 0: not given
	streamOpts   span  // the value of stream_options; empty: absent
	optsEmpty    bool  // stream_options is {}
	includeUsage span  // the value of stream_options.include_usage
	wantsUsage   bool  // it is true
	tools        []span
	hosted       []string // what the provider would do itself, by name
}

type span struct{ lo, hi int }

func (s span) empty() bool        { return s.hi == s.lo }
func (s span) of(b []byte) []byte { return b[s.lo:s.hi] }
func (e *envelope) reset()        { *e = envelope{tools: e.tools[:0], hosted: e.hosted[:0]} }
func (e *envelope) hasHosted(n string) bool {
	for _, h := range e.hosted {
		if h == n {
			return true
		}
	}
	return false
}

// outputLimit is the most tokens the call may produce, and whether it says so.
func (e *envelope) outputLimit() (int64, bool) {
	n := max(e.choices, 1)
	if e.maxOutput > maxInt/n {
		return maxInt, true
	}
	return e.maxOutput * n, e.maxOutput > 0
}

// toolNames returns the names of the client's own tools.
func (e *envelope) toolNames(body []byte) []string {
	names := make([]string, len(e.tools))
	for i, s := range e.tools {
		names[i] = string(s.of(body))
	}
	return names
}

// Limits of the scan.
const (
	maxDepth  = 200 // nesting; agents' tool schemas stay below 30
	maxKeys   = 96  // keys of an object whose keys matter
	maxTools  = 1024
	maxHosted = 32
	maxModel  = 200
	maxInt    = 1<<63 - 1
)

// A place is where in a request the scanner is; it says which keys matter.
type place uint8

const (
	anywhere place = iota // nothing matters
	atTop
	inTools     // array of inTool
	inTool      // one tool
	inFunction  // OpenAI: tool.function, tool.custom
	inFunctions // OpenAI's older top-level functions: array of inFunction
	inMessages  // array of inMessage
	inMessage
	inContent // string, or array of inBlock
	inBlock   // a content block
	inSource  // Anthropic: image.source, document.source
	inURL     // OpenAI: image_url
	inFile    // OpenAI: file
	inStreamOptions
)

// strict reports whether the keys of an object at p matter. There, no key may
// be escaped, hold other than printable ASCII, or be the same as another or as
// a key that matters when letter case, '_' and '-' are ignored: those are the
// differences that JSON parsers in use overlook.
func (p place) strict() bool {
	switch p {
	case anywhere, inTools, inFunctions, inMessages, inContent:
		return false
	}
	return true
}

// A field is a key that matters, or one that is known to be harmless.
type field uint8

const (
	fUnknown field = iota
	fKnown         // nothing in it is about policy
	fModel
	fStream
	fMaxTokens
	fChoices
	fTools
	fFunctions
	fMessages
	fContent
	fStreamOptions
	fIncludeUsage
	fStore
	fHosted // its presence alone asks the provider to act
	fType
	fName
	fFunction
	fSource
	fMediaURL
	fFile
	fFileID
	fFileData
	fURL
)

// An entry is a key as the protocol writes it.
type entry struct {
	key   string
	field field
}

// A table finds entries by their folded key.
type table map[string]entry

func newTable(entries map[field]string) table {
	t := table{}
	for f, keys := range entries {
		for key := range strings.FieldsSeq(keys) {
			t[foldString(key)] = entry{key, f}
		}
	}
	return t
}

// foldString removes what lenient parsers overlook in keys.
func foldString(s string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s))
}

// Top-level fields of chat completions, of OpenAI and of the servers that speak
// its protocol. A field that is not here is refused unless policy permits the
// hosted tool "field:<name>".
var openAITop = newTable(map[field]string{
	fModel: "model", fStream: "stream", fMaxTokens: "max_tokens max_completion_tokens max_output_tokens", fChoices: "n",
	fTools: "tools", fFunctions: "functions", fMessages: "messages", fStreamOptions: "stream_options", fStore: "store",
	fHosted: "mcp_servers web_search_options plugins",
	fKnown: `frequency_penalty presence_penalty repetition_penalty logit_bias logprobs top_logprobs temperature top_p top_k
		top_a min_p min_tokens seed stop stop_token_ids ignore_eos skip_special_tokens response_format structured_outputs
		guided_json guided_regex guided_choice guided_grammar modalities audio prediction metadata user safety_identifier
		prompt_cache_key prompt_cache_retention reasoning reasoning_effort include_reasoning reasoning_format thinking
		enable_thinking think chat_template_kwargs verbosity service_tier parallel_tool_calls tool_choice function_call
		keep_alive cache_control usage`,
})

// Top-level fields of Anthropic messages.
var anthropicTop = newTable(map[field]string{
	fModel: "model", fStream: "stream", fMaxTokens: "max_tokens max_completion_tokens max_output_tokens",
	fTools: "tools", fMessages: "messages", fContent: "system", fStore: "store", fStreamOptions: "stream_options",
	fHosted: "mcp_servers container",
	fKnown: `metadata stop_sequences temperature thinking tool_choice top_k top_p service_tier context_management
		output_config output_format cache_control inference_geo speed`,
})

// Fields below the top level.
var inner = [...]table{
	inTool: newTable(map[field]string{fType: "type", fName: "name", fFunction: "function custom",
		fKnown: "description parameters input_schema strict cache_control input_examples defer_loading allowed_callers eager_input_streaming"}),
	inFunction: newTable(map[field]string{fName: "name"}),
	inMessage:  newTable(map[field]string{fContent: "content"}),
	inBlock: newTable(map[field]string{fType: "type", fContent: "content", fSource: "source", fFile: "file", fFileID: "file_id",
		fMediaURL: "image_url video_url audio_url document_url image video audio"}),
	inSource:        newTable(map[field]string{fType: "type", fContent: "content", fURL: "url", fFileID: "file_id"}),
	inURL:           newTable(map[field]string{fURL: "url", fFileID: "file_id"}),
	inFile:          newTable(map[field]string{fFileID: "file_id", fFileData: "file_data", fURL: "url file_url"}),
	inStreamOptions: newTable(map[field]string{fIncludeUsage: "include_usage"}),
}

// Names of hosted tools that are not tool types.
const (
	hostedURL  = "fetch_url"   // an image or document that the provider would fetch
	hostedFile = "stored_file" // an object in the host's account
	hostedMCP  = "mcp"
	hostedSave = "store"
)

// hostedByField names what the presence of a top-level field asks for.
func hostedByField(key string) string {
	switch key {
	case "mcp_servers":
		return hostedMCP
	case "web_search_options":
		return "web_search"
	}
	return key
}

// hostedTool says whether a tool of this type runs at the provider, and under
// which name policy knows it: the type without its date.
func hostedTool(p Protocol, typ string, hasFunction bool) (string, bool) {
	if lower := strings.ToLower(typ); lower != typ {
		return undated(lower), true // one name in policy, should a provider not care
	}
	if p == OpenAI {
		switch {
		case typ == "function", typ == "custom", typ == "" && hasFunction:
			return "", false
		case typ == "":
			return "untyped", true
		}
		return undated(typ), true
	}
	base := undated(typ)
	switch {
	case typ == "", typ == "custom":
		return "", false
	case base != typ && (base == "bash" || base == "text_editor" || base == "computer" || base == "memory"):
		return "", false // defined by the provider, run by the client
	}
	return base, true
}

// undated removes a trailing _YYYYMMDD.
func undated(typ string) string {
	const date = len("_20250101")
	if len(typ) <= date || typ[len(typ)-date] != '_' {
		return typ
	}
	for _, c := range typ[len(typ)-date+1:] {
		if c < '0' || c > '9' {
			return typ
		}
	}
	return typ[:len(typ)-date]
}
