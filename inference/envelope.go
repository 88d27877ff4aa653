package inference

import "strings"

// An envelope is what policy may know about a model call. Spans point into the
// scanned body.
type envelope struct {
	form         wireForm // of the target, not of the client
	open         int      // offset of the body's opening brace
	model        span     // without quotes; holds no escapes. Empty when the path has it
	stream       bool
	maxOutput    int64    // 0: not given
	limits       [2]span  // the values that say so; the second is max_completion_tokens. Empty: absent
	choices      int64    // n; 0: not given
	streamOpts   span     // the value of stream_options; empty: absent
	optsEmpty    bool     // stream_options is {}
	includeUsage span     // the value of stream_options.include_usage
	wantsUsage   bool     // it is true
	store        span     // the value of store
	stores       bool     // it is true
	stored       string   // what refers to an object in the host's account; empty: nothing
	refs         []span   // models named in the body beside the path
	config       span     // Gemini: the value of generationConfig
	bare         bool     // the body is {}
	confBare     bool     // generationConfig is {}
	images       int64    // that come with it, or are to be fetched
	imageBytes   int      // of those that come with it
	boundless    bool     // it has what may become any number of tokens: documents, sounds, videos
	compacts     bool     // the provider may sum up the conversation first
	tools        []span   // names of the client's own
	hosted       []string // what the provider would do itself, by name
}

type span struct{ lo, hi int }

func (s span) empty() bool        { return s.hi == s.lo }
func (s span) of(b []byte) []byte { return b[s.lo:s.hi] }
func (e *envelope) reset() {
	*e = envelope{refs: e.refs[:0], tools: e.tools[:0], hosted: e.hosted[:0]}
}
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
	// maxChoices is how many answers a call may ask for: as many as OpenAI gives.
	maxChoices = 128
	maxInt     = 1<<63 - 1
	// maxValues is how many JSON values a request may have: whoever reads it pays for
	// each, however few bytes it has. OpenAI embeds at most 300,000 tokens at once.
	maxValues = 1 << 19
	// maxListed is how many may stand under a field for a few words, such as those
	// that stop an answer. OpenAI takes 4, Gemini 5.
	maxListed = 1024
)

// A place is where in a request the scanner is; it says which keys matter.
type place uint8

const (
	anywhere place = iota // nothing matters
	atTop
	inTools     // array of inTool
	inTool      // one tool
	inFunction  // OpenAI: tool.function, tool.custom; Gemini: a declaration
	inFunctions // array of inFunction: OpenAI's older top-level functions, Gemini's declarations
	inMessages  // array of inMessage
	inMessage
	inContent // string, or array of inBlock
	inBlock   // a content block
	inSource  // Anthropic: image.source, document.source
	inURL     // OpenAI: image_url
	inFile    // OpenAI: file
	inStreamOptions
	inInput // responses: string, or array of inItem
	inItem  // responses: a message, a call or the result of one
	inTurns // Gemini: array of inTurn
	inTurn  // Gemini: a message
	inParts // Gemini: array of inPart
	inPart  // Gemini: a content block
	inFileData
	inInline // Gemini: inlineData
	inResult // Gemini: functionResponse
	inConfig // Gemini: generationConfig
	inAsks   // Gemini: array of inAsk
	inAsk    // Gemini: a request within a request
	places
)

// elements are the lists among the places, and what they hold.
var elements = [places]place{
	inTools: inTool, inFunctions: inFunction, inMessages: inMessage, inContent: inBlock, inInput: inItem,
	inTurns: inTurn, inParts: inPart, inAsks: inAsk,
	inURL: inURL, // such as the frames of a video
}

// objectsOnly are the lists that hold nothing else.
var objectsOnly = [places]bool{
	inTools: true, inFunctions: true, inMessages: true, inInput: true, inTurns: true, inParts: true, inAsks: true,
}

// strict reports whether the keys of an object at p matter. There, no key may
// be escaped, hold other than printable ASCII, or be the same as another or as
// a key that matters when letter case, '_' and '-' are ignored: those are the
// differences that JSON parsers in use overlook.
func (p place) strict() bool { return p != anywhere && p != inContent && !objectsOnly[p] }

// A field is a key that matters, or one that is known to be harmless.
type field uint8

const (
	fUnknown field = iota
	fKnown         // nothing in it is about policy
	fListed        // so is this, and a short list
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
	fPriced // it may multiply the price
	fStored // its presence refers to an object in the host's account
	fBackground
	fInput
	fRole
	fID
	fEncrypted
	fRef // Gemini: a model that must be the one in the path
	fTurns
	fTurn
	fParts
	fInlineFile
	fURI
	fInline
	fMime
	fData
	fMedia   // sounds and the like
	fCompact // it may ask for a compaction
	fResult
	fConfig
	fAsks
	fAsk
)

// An entry is a key as the protocol writes it.
type entry struct {
	key   string
	also  string // a second spelling that the protocol has, or the same
	field field
}

// A table finds entries by their folded key.
type table map[string]entry

func newTable(entries map[field]string) table {
	t := table{}
	for f, keys := range entries {
		for key := range strings.FieldsSeq(keys) {
			t[foldString(key)] = entry{key, key, f}
		}
	}
	return t
}

// newProtoTable is for protocols whose JSON stands for protocol buffers: each
// key may be written in camelCase or in snake_case.
func newProtoTable(entries map[field]string) table {
	t := newTable(entries)
	for folded, e := range t {
		e.also = snake(e.key)
		t[folded] = e
	}
	return t
}

// snake writes a camelCase name in snake_case.
func snake(name string) string {
	var b strings.Builder
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// foldString removes what lenient parsers overlook in keys.
func foldString(s string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s))
}

// Top-level fields of chat completions, of OpenAI and of the servers that speak
// its protocol. A field that is not here is refused unless policy permits the
// hosted tool "field:<name>".
var openAITop = newTable(map[field]string{
	fModel: "model", fStream: "stream", fMaxTokens: "max_tokens max_completion_tokens", fChoices: "n",
	fTools: "tools", fFunctions: "functions", fMessages: "messages", fStreamOptions: "stream_options", fStore: "store",
	fHosted: "mcp_servers web_search_options plugins", fPriced: "service_tier modalities audio",
	fListed: "stop stop_token_ids logit_bias metadata",
	fKnown: `frequency_penalty presence_penalty repetition_penalty logprobs top_logprobs temperature top_p top_k
		top_a min_p min_tokens seed ignore_eos skip_special_tokens response_format structured_outputs
		guided_json guided_regex guided_choice guided_grammar prediction user safety_identifier
		prompt_cache_key prompt_cache_retention reasoning reasoning_effort include_reasoning reasoning_format thinking
		enable_thinking think chat_template_kwargs verbosity parallel_tool_calls tool_choice function_call
		keep_alive cache_control usage`,
})

// Top-level fields of Anthropic messages.
var anthropicTop = newTable(map[field]string{
	fModel: "model", fStream: "stream", fMaxTokens: "max_tokens",
	fTools: "tools", fMessages: "messages", fContent: "system", fStore: "store", fStreamOptions: "stream_options",
	fHosted: "mcp_servers container", fPriced: "service_tier inference_geo speed",
	fListed: "metadata stop_sequences", fCompact: "context_management",
	fKnown: `temperature thinking tool_choice top_k top_p
		output_config output_format cache_control`,
})

// Top-level fields of embeddings.
var embeddingsTop = newTable(map[field]string{
	fModel: "model", fStream: "stream", fStore: "store", fStreamOptions: "stream_options",
	fKnown: `input dimensions encoding_format user input_type truncate truncate_prompt_tokens modality priority keep_alive`,
})

// Top-level fields of OpenAI's responses.
var responsesTop = newTable(map[field]string{
	fModel: "model", fStream: "stream", fMaxTokens: "max_output_tokens",
	fTools: "tools", fInput: "input", fStore: "store", fStreamOptions: "stream_options",
	fStored: "previous_response_id conversation prompt", fBackground: "background", fPriced: "service_tier",
	fListed: "include metadata client_metadata", fCompact: "context_management",
	fKnown: `instructions parallel_tool_calls max_tool_calls reasoning text tool_choice
		temperature top_p top_k top_logprobs truncation user safety_identifier prompt_cache_key
		prompt_cache_retention verbosity frequency_penalty presence_penalty seed`,
})

// Top-level fields of Gemini's requests, of all its operations.
var geminiTop = newProtoTable(map[field]string{
	fRef: "model", fTools: "tools", fTurns: "contents", fTurn: "systemInstruction content", fConfig: "generationConfig",
	fStored: "cachedContent", fAsk: "generateContentRequest", fAsks: "requests",
	fKnown: `toolConfig safetySettings labels taskType title outputDimensionality`,
})

// Fields below the top level.
var inner = [...]table{
	inTool: newTable(map[field]string{fType: "type", fName: "name", fFunction: "function custom", fTools: "tools",
		fKnown: "description parameters input_schema strict format cache_control input_examples defer_loading allowed_callers eager_input_streaming"}),
	inFunction: newTable(map[field]string{fName: "name"}),
	inMessage:  newTable(map[field]string{fContent: "content", fStored: "audio"}), // the model's own words, by their id
	inItem: newTable(map[field]string{fType: "type", fContent: "content output", fRole: "role", fID: "id",
		fEncrypted: "encrypted_content", fFileID: "file_id", fMediaURL: "image_url file_url"}),
	inBlock: newTable(map[field]string{fType: "type", fContent: "content", fSource: "source", fFile: "file", fFileID: "file_id", fFileData: "file_data",
		fMediaURL: "image_url video_url audio_url document_url image video audio", fMedia: "input_audio"}),
	inSource:        newTable(map[field]string{fType: "type", fContent: "content", fURL: "url", fFileID: "file_id", fMime: "media_type", fData: "data"}),
	inURL:           newTable(map[field]string{fURL: "url", fFileID: "file_id"}),
	inFile:          newTable(map[field]string{fFileID: "file_id", fFileData: "file_data", fURL: "url file_url"}),
	inStreamOptions: newTable(map[field]string{fIncludeUsage: "include_usage"}),
	inTurn:          newProtoTable(map[field]string{fParts: "parts"}),
	inPart: newProtoTable(map[field]string{fInlineFile: "fileData", fResult: "functionResponse", fInline: "inlineData",
		fKnown: `text functionCall executableCode codeExecutionResult thought thoughtSignature videoMetadata
			mediaResolution partMetadata`}),
	inFileData: newProtoTable(map[field]string{fURI: "fileUri"}),
	inInline:   newProtoTable(map[field]string{fMime: "mimeType", fData: "data"}),
	inResult:   newProtoTable(map[field]string{fParts: "parts", fKnown: "response"}),
	inConfig:   newProtoTable(map[field]string{fMaxTokens: "maxOutputTokens", fChoices: "candidateCount", fListed: "stopSequences responseModalities"}),
}

// A tool of Gemini is an object with one member for each kind of tool.
var geminiTool = newProtoTable(map[field]string{fFunctions: "functionDeclarations"})

// The content blocks that are known: what they carry they carry with them, or
// name in fields that are looked into. The provider may have to fetch what is in
// others.
var (
	openAIBlocks = words(`text image_url input_audio file refusal video_url audio_url document_url image video audio
		input_text input_image input_file output_text summary_text reasoning_text computer_screenshot thinking reasoning`)
	anthropicBlocks = words(`text image document search_result thinking redacted_thinking tool_use tool_result
		server_tool_use mcp_tool_use container_upload tool_reference compaction`)
	responsesItems = words(`message function_call function_call_output custom_tool_call custom_tool_call_output reasoning
		local_shell_call local_shell_call_output apply_patch_call apply_patch_call_output computer_call
		computer_call_output web_search_call compaction compaction_summary`)
)

func words(list string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(list) {
		set[w] = true
	}
	return set
}

// knownBlock reports whether a content block is of a type that is known.
func knownBlock(p Protocol, typ []byte) bool {
	if len(typ) == 0 {
		return true
	}
	if p != Anthropic {
		return openAIBlocks[string(typ)]
	}
	// What the provider's own tools gave back: web_search_tool_result,
	// web_search_result, code_execution_output, web_fetch_tool_result_error, …
	for _, end := range []string{"_result", "_error", "_output"} {
		if strings.HasSuffix(string(typ), end) {
			return true
		}
	}
	return anthropicBlocks[string(typ)]
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
	if p.isOpenAI() {
		switch {
		case typ == "function", typ == "custom", typ == "" && hasFunction:
			return "", false
		case p == OpenAIResponses && (typ == "local_shell" || typ == "apply_patch" || typ == "namespace"):
			return "", false // run by the client; a namespace is a list of tools
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

// undated removes a trailing date: _20250101 or _2025_01_01.
func undated(typ string) string {
	for _, form := range []string{"_dddddddd", "_dddd_dd_dd"} {
		if at := len(typ) - len(form); at > 0 && dated(typ[at:], form) {
			return typ[:at]
		}
	}
	return typ
}

func dated(s, form string) bool {
	for i := range len(form) {
		if digit := s[i] >= '0' && s[i] <= '9'; digit != (form[i] == 'd') || !digit && s[i] != form[i] {
			return false
		}
	}
	return true
}
