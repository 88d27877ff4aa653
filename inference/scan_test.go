package inference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const plainChat = `{"model":"good","messages":[{"role":"user","content":"hi"}]}`

func TestScanReadsTheEnvelope(t *testing.T) {
	var env envelope
	body := []byte(` {"model" : "gpt-5","stream":true,"n":2,"max_completion_tokens":100,"max_tokens":null,
		"tools":[{"type":"function","function":{"name":"a","parameters":{"type":"object","Type":1,"type":2}}},{"type":"custom","custom":{"name":"b"}}],
		"stream_options":{"include_usage":true},"messages":[
			{"role":"user","content":[{"type":"text","text":"A\u00e9\"\\"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]},
			{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"a","arguments":"{\"url\":\"http://x\"}"}}]},
			{"role":"tool","content":"https://example.com"}],"temperature":-0.5e+3} `)
	require.NoError(t, scan(opChat, body, &env))
	assert.Equal(t, "gpt-5", string(env.model.of(body)))
	assert.True(t, env.stream)
	assert.True(t, env.wantsUsage)
	n, given := env.outputLimit()
	assert.True(t, given)
	assert.EqualValues(t, 200, n)
	assert.Equal(t, []string{"a", "b"}, env.toolNames(body))
	assert.Empty(t, env.hosted)

	body = []byte(`{"model":"claude","max_tokens":5,"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}],
		"tools":[{"name":"t","input_schema":{}},{"type":"bash_20250124","name":"bash"},{"type":"custom","name":"c","input_schema":{}}],
		"metadata":{"user_id":"u"},"thinking":{"type":"enabled","budget_tokens":1024},
		"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}]},
			{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"t","input":{"url":"http://x","URL":1,"source":{"type":"url"}}}]}]}`)
	require.NoError(t, scan(opMessages, body, &env))
	assert.Equal(t, []string{"t", "bash", "c"}, env.toolNames(body))
	assert.Empty(t, env.hosted)
	assert.False(t, env.stream)
	n, _ = env.outputLimit()
	assert.EqualValues(t, 5, n)
}

// smuggling holds bodies that two parsers could read differently, or that no
// strict parser reads.
var smuggling = map[string]string{
	"duplicate model":                   `{"model":"good","messages":[],"model":"bad"}`,
	"duplicate model first":             `{"model":"bad","model":"good","messages":[]}`,
	"duplicate model, same value":       `{"model":"good","model":"good"}`,
	"upper case twin":                   `{"model":"good","MODEL":"bad"}`,
	"title case twin":                   `{"model":"good","Model":"bad"}`,
	"title case alone":                  `{"Model":"bad"}`,
	"escaped twin":                      `{"model":"good","mod\u0065l":"bad"}`,
	"escaped alone":                     `{"mod\u0065l":"bad"}`,
	"escaped solidus in a key":          `{"model":"good","a\/b":1}`,
	"underscore twin":                   `{"model":"good","mo_del":"bad"}`,
	"dash twin":                         `{"model":"good","mo-del":"bad"}`,
	"kelvin sign in a key":              "{\"model\":\"good\",\"to\u212aen\":1}",
	"long s twin of stream":             "{\"model\":\"good\",\"\u017ftream\":true}",
	"fullwidth twin":                    "{\"model\":\"good\",\"ｍodel\":\"bad\"}",
	"zero width space in a key":         "{\"model\":\"good\",\"model\u200b\":\"bad\"}",
	"NUL in a key":                      "{\"model\":\"good\",\"model\\u0000\":\"bad\"}",
	"escaped model value":               `{"model":"g\u006fod"}`,
	"space in the model":                `{"model":"good "}`,
	"tab in the model":                  `{"model":"good\t"}`,
	"empty model":                       `{"model":""}`,
	"null model":                        `{"model":null}`,
	"array model":                       `{"model":["good","bad"]}`,
	"object model":                      `{"model":{"id":"bad"}}`,
	"number model":                      `{"model":1}`,
	"no model":                          `{"messages":[]}`,
	"model within":                      `{"request":{"model":"good"}}`,
	"array body":                        `[{"model":"good"}]`,
	"string body":                       `"model"`,
	"empty body":                        ``,
	"blank body":                        `   `,
	"second document":                   `{"model":"good"}{"model":"bad"}`,
	"second document after newline":     "{\"model\":\"good\"}\n{\"model\":\"bad\"}",
	"trailing brace":                    `{"model":"good"}}`,
	"trailing NUL":                      "{\"model\":\"good\"}\x00",
	"leading BOM":                       "\ufeff{\"model\":\"good\"}",
	"invalid UTF-8 in a value":          "{\"model\":\"good\",\"user\":\"\xff\"}",
	"invalid UTF-8 in the model":        "{\"model\":\"good\xc0\"}",
	"overlong UTF-8":                    "{\"model\":\"good\",\"user\":\"\xc1\xad\"}",
	"surrogate in UTF-8":                "{\"model\":\"good\",\"user\":\"\xed\xa0\x80\"}",
	"UTF-16 body":                       "{\x00\"\x00m\x00o\x00d\x00e\x00l\x00\"\x00:\x00\"\x00x\x00\"\x00}\x00",
	"line comment":                      "{\"model\":\"good\" // ,\"model\":\"bad\"\n}",
	"block comment":                     `{"model":"good"/*,"model":"bad"*/}`,
	"trailing comma":                    `{"model":"good",}`,
	"leading comma":                     `{,"model":"good"}`,
	"missing comma":                     `{"model":"good" "stream":true}`,
	"single quotes":                     `{'model':'bad'}`,
	"bare key":                          `{model:"bad"}`,
	"NaN":                               `{"model":"good","temperature":NaN}`,
	"Infinity":                          `{"model":"good","temperature":-Infinity}`,
	"hex number":                        `{"model":"good","seed":0x10}`,
	"leading zero":                      `{"model":"good","seed":01}`,
	"plus sign":                         `{"model":"good","seed":+1}`,
	"dangling dot":                      `{"model":"good","top_p":1.}`,
	"dangling exponent":                 `{"model":"good","top_p":1e}`,
	"raw newline in a string":           "{\"model\":\"good\",\"user\":\"a\nb\"}",
	"bad escape":                        `{"model":"good","user":"\x41"}`,
	"short unicode escape":              `{"model":"good","user":"\u00"}`,
	"unclosed string":                   `{"model":"good`,
	"unclosed object":                   `{"model":"good"`,
	"unclosed array":                    `{"model":"good","messages":[`,
	"stream as a string":                `{"model":"good","stream":"true"}`,
	"stream as a number":                `{"model":"good","stream":1}`,
	"duplicate stream":                  `{"model":"good","stream":false,"stream":true}`,
	"stream twin":                       `{"model":"good","stream":false,"Stream":true}`,
	"max_tokens as a string":            `{"model":"good","max_tokens":"1"}`,
	"max_tokens as a float":             `{"model":"good","max_tokens":1.0}`,
	"max_tokens with an exponent":       `{"model":"good","max_tokens":1e9}`,
	"max_tokens below zero":             `{"model":"good","max_tokens":-1}`,
	"max_tokens overflow":               `{"model":"good","max_tokens":18446744073709551617}`,
	"max_tokens twin":                   `{"model":"good","max_tokens":1,"maxTokens":100000}`,
	"max_tokens twin alone":             `{"model":"good","maxTokens":100000}`,
	"max_completion_tokens twin":        `{"model":"good","max_completion_tokens":1,"max_completion_Tokens":9}`,
	"n as a string":                     `{"model":"good","n":"9"}`,
	"tools twin":                        `{"model":"good","tools":[],"Tools":[{"type":"web_search"}]}`,
	"tools as an object":                `{"model":"good","tools":{"type":"web_search"}}`,
	"tools of strings":                  `{"model":"good","tools":["web_search"]}`,
	"duplicate tool type":               `{"model":"good","tools":[{"type":"function","type":"web_search","function":{"name":"a"}}]}`,
	"tool type twin":                    `{"model":"good","tools":[{"type":"function","Type":"web_search","function":{"name":"a"}}]}`,
	"escaped tool type":                 `{"model":"good","tools":[{"type":"web\u005fsearch"}]}`,
	"escaped tool type key":             `{"model":"good","tools":[{"type":"function","typ\u0065":"web_search"}]}`,
	"tool type as a number":             `{"model":"good","tools":[{"type":7}]}`,
	"duplicate function name":           `{"model":"good","tools":[{"type":"function","function":{"name":"a","name":"b"}}]}`,
	"mcp_servers twin":                  `{"model":"good","mcpServers":[{"url":"https://x"}]}`,
	"stream_options as a string":        `{"model":"good","stream_options":"x"}`,
	"stream_options as an array":        `{"model":"good","stream_options":[]}`,
	"duplicate include_usage":           `{"model":"good","stream_options":{"include_usage":true,"include_usage":false}}`,
	"include_usage twin":                `{"model":"good","stream_options":{"includeUsage":false}}`,
	"messages as an object":             `{"model":"good","messages":{"role":"user"}}`,
	"duplicate content":                 `{"model":"good","messages":[{"role":"user","content":"x","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}]}`,
	"content twin":                      `{"model":"good","messages":[{"role":"user","content":"x","Content":[]}]}`,
	"image_url twin":                    `{"model":"good","messages":[{"role":"user","content":[{"type":"image_url","imageUrl":{"url":"https://x"}}]}]}`,
	"duplicate url":                     `{"model":"good","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:x","url":"https://x"}}]}]}`,
	"duplicate source":                  `{"model":"good","messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64"},"source":{"type":"url","url":"https://x"}}]}]}`,
	"duplicate source type":             `{"model":"good","messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","type":"url"}}]}]}`,
	"number as url":                     `{"model":"good","messages":[{"role":"user","content":[{"image_url":{"url":7}}]}]}`,
	"duplicate unknown key":             `{"model":"good","x":1,"x":2}`,
	"nested too deeply":                 `{"model":"good","metadata":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`,
	"too many keys":                     manyKeys(200),
	"model longer than any":             `{"model":"` + strings.Repeat("a", 300) + `"}`,
	"too many provider-side tools":      manyFields(40),
	"key of the top level too long":     `{"model":"good","` + strings.Repeat("k", 100) + `":1}`,
	"store as a string":                 `{"model":"good","store":"true"}`,
	"list of blocks in a block's place": `{"model":"good","messages":[{"role":"user","content":[[{"type":"image_url","image_url":{"url":"https://x"}}]]}]}`,
	"list of files":                     `{"model":"good","messages":[{"role":"user","content":[{"type":"file","file":[{"file_id":"f"}]}]}]}`,
	"list of sources":                   `{"model":"good","messages":[{"role":"user","content":[{"type":"image","source":[{"type":"url","url":"https://x"}]}]}]}`,
	"two fields beside a function":      `{"model":"good","tools":[{"google_search":{},"type":"function","function":{"name":"a"},"x":1}]}`,
	"function of a tool as a string":    `{"model":"good","tools":[{"type":"function","function":"x"}]}`,
}

func manyKeys(n int) string {
	b := []byte(`{"model":"good"`)
	for i := range n {
		b = fmt.Appendf(b, `,"k%d":null`, i)
	}
	return string(append(b, '}'))
}

func manyFields(n int) string { return strings.ReplaceAll(manyKeys(n), "null", "1") }

func TestScanRefusesWhatParsersReadDifferently(t *testing.T) {
	require.GreaterOrEqual(t, len(smuggling), 100)
	for name, body := range smuggling {
		for _, op := range []*operation{opChat, opMessages} {
			var env envelope
			err := scan(op, []byte(body), &env)
			if op == opMessages && openAIOnly(name) {
				continue
			}
			assert.Error(t, err, "%s (%s): %s", name, op.name, body)
		}
	}
}

// openAIOnly reports cases about fields that Anthropic does not have. There the
// field itself is a hosted tool.
func openAIOnly(name string) bool {
	return name == "n as a string" || name == "function of a tool as a string" || name == "two fields beside a function"
}

func TestScanFindsWhatTheProviderWouldDo(t *testing.T) {
	for name, tc := range map[string]struct {
		protocol Protocol
		fields   string
		want     []string
	}{
		"none":                       {OpenAI, `"store":false,"mcp_servers":[],"plugins":null,"models":[],"messages":[]`, nil},
		"web search tool":            {OpenAI, `"tools":[{"type":"web_search"}]`, []string{"web_search"}},
		"remote MCP tool":            {OpenAI, `"tools":[{"type":"mcp","server_url":"https://x"}]`, []string{"mcp"}},
		"code interpreter":           {OpenAI, `"tools":[{"type":"code_interpreter","container":{"type":"auto"}}]`, []string{"code_interpreter"}},
		"untyped tool":               {OpenAI, `"tools":[{"web_search":{}}]`, []string{"untyped"}},
		"search by field":            {OpenAI, `"web_search_options":{"search_context_size":"low"}`, []string{"web_search"}},
		"OpenRouter plugins":         {OpenAI, `"plugins":[{"id":"web"}]`, []string{"plugins"}},
		"fall-back models":           {OpenAI, `"models":["bad"]`, []string{"field:models"}},
		"LiteLLM fall-backs":         {OpenAI, `"fallbacks":["bad"],"api_base":"https://x"`, []string{"field:fallbacks", "field:api_base"}},
		"stored completions":         {OpenAI, `"store":true`, []string{"store"}},
		"image by URL":               {OpenAI, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]`, []string{"fetch_url"}},
		"image by URL, upper case":   {OpenAI, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"HTTPS://x/y.png"}}]}]`, []string{"fetch_url"}},
		"image by escaped URL":       {OpenAI, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"\u0068ttps://x"}}]}]`, []string{"fetch_url"}},
		"image URL as a string":      {OpenAI, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":"https://x"}]}]`, []string{"fetch_url"}},
		"video by URL":               {OpenAI, `"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"file:///etc/passwd"}}]}]`, []string{"fetch_url"}},
		"some other URL":             {OpenAI, `"messages":[{"role":"user","content":[{"type":"x","thing_url":"https://x"}]}]`, []string{"fetch_url", "block:x"}},
		"list of image URLs":         {OpenAI, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":["data:x",{"url":"https://x"}]}]}]`, []string{"fetch_url"}},
		"image by a plain url":       {OpenAI, `"messages":[{"role":"user","content":[{"type":"image","url":"http://169.254.169.254/"}]}]`, []string{"fetch_url"}},
		"image by its name":          {OpenAI, `"messages":[{"role":"user","content":[{"type":"image","image":"/etc/passwd"}]}]`, []string{"fetch_url"}},
		"frames of a video":          {OpenAI, `"messages":[{"role":"user","content":[{"type":"video","video":["https://x/1","https://x/2"]}]}]`, []string{"fetch_url"}},
		"inline frames":              {OpenAI, `"messages":[{"role":"user","content":[{"type":"video","video":["data:x"]}]}]`, nil},
		"search beside a function":   {OpenAI, `"tools":[{"google_search":{},"type":"function","function":{"name":"a"}}]`, []string{"field:tools.google_search"}},
		"notes beside a function":    {OpenAI, `"tools":[{"type":"function","strict":true,"cache_control":{"type":"ephemeral"},"x":null,"function":{"name":"a"}}]`, nil},
		"settings of a hosted tool":  {OpenAI, `"tools":[{"type":"web_search","search_context_size":"low","user_location":{}}]`, []string{"web_search"}},
		"tool type in capitals":      {OpenAI, `"tools":[{"type":"Web_Search"}]`, []string{"web_search"}},
		"Anthropic tool in capitals": {Anthropic, `"tools":[{"type":"WEB_SEARCH_20250305","name":"web_search"}]`, []string{"web_search"}},
		"search result in a turn":    {Anthropic, `"messages":[{"role":"user","content":[{"type":"web_search_tool_result","content":[{"type":"web_search_result","url":"https://x"}]}]}]`, nil},
		"lone block":                 {OpenAI, `"messages":[{"role":"user","content":{"type":"image_url","image_url":{"url":"https://x"}}}]`, []string{"fetch_url"}},
		"stored file":                {OpenAI, `"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]}]`, []string{"stored_file"}},
		"file by URL":                {OpenAI, `"messages":[{"role":"user","content":[{"type":"file","file":{"file_data":"https://x/y.pdf"}}]}]`, []string{"fetch_url"}},
		"file inline":                {OpenAI, `"messages":[{"role":"user","content":[{"type":"file","file":{"file_data":"data:application/pdf;base64,AA"}}]}]`, nil},
		"Anthropic web search":       {Anthropic, `"tools":[{"type":"web_search_20250305","name":"web_search"}]`, []string{"web_search"}},
		"Anthropic web fetch":        {Anthropic, `"tools":[{"type":"web_fetch_20250910","name":"web_fetch"}]`, []string{"web_fetch"}},
		"Anthropic code":             {Anthropic, `"tools":[{"type":"code_execution_20250825","name":"code_execution"}]`, []string{"code_execution"}},
		"Anthropic MCP":              {Anthropic, `"mcp_servers":[{"type":"url","url":"https://x"}],"tools":[{"type":"mcp_toolset","mcp_server_name":"x"}]`, []string{"mcp", "mcp_toolset"}},
		"Anthropic client tools":     {Anthropic, `"tools":[{"type":"bash_20250124","name":"bash"},{"type":"text_editor_20250728","name":"e"},{"type":"computer_20251124","name":"c"},{"type":"memory_20250818","name":"m"}]`, nil},
		"bash without a date":        {Anthropic, `"tools":[{"type":"bash","name":"bash"}]`, []string{"bash"}},
		"Anthropic container":        {Anthropic, `"container":"c1"`, []string{"container"}},
		"Anthropic image by URL":     {Anthropic, `"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]`, []string{"fetch_url"}},
		"image URL in a tool result": {Anthropic, `"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]}]`, []string{"fetch_url"}},
		"image URL in a document":    {Anthropic, `"messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}}]}]`, []string{"fetch_url"}},
		"image URL in system":        {Anthropic, `"system":[{"type":"image","source":{"type":"url","url":"https://x"}}]`, []string{"fetch_url"}},
		"Anthropic stored file":      {Anthropic, `"messages":[{"role":"user","content":[{"type":"document","source":{"type":"file","file_id":"f1"}}]}]`, []string{"stored_file"}},
		"container upload":           {Anthropic, `"messages":[{"role":"user","content":[{"type":"container_upload","file_id":"f1"}]}]`, []string{"stored_file"}},
		"unknown source":             {Anthropic, `"messages":[{"role":"user","content":[{"type":"image","source":{"type":"s3","bucket":"b"}}]}]`, []string{"source:s3"}},
		"search result label":        {Anthropic, `"messages":[{"role":"user","content":[{"type":"search_result","source":"https://x","title":"t","content":[{"type":"text","text":"x"}]}]}]`, nil},
		"unknown field":              {Anthropic, `"agent_mode":"auto"`, []string{"field:agent_mode"}},
	} {
		var env envelope
		body := []byte(`{"model":"m",` + tc.fields + `}`)
		op := opChat
		if tc.protocol == Anthropic {
			op = opMessages
		}
		require.NoError(t, scan(op, body, &env), name)
		assert.ElementsMatch(t, tc.want, env.hosted, name)
	}
}

func TestScanNamesPlaceAndReason(t *testing.T) {
	var env envelope
	err := scan(opChat, []byte(`{"model":"a","model":"b"}`), &env)
	assert.EqualError(t, err, "the request body is not accepted: a key appears twice, or in two spellings (byte 13)")
}

// readings are how parsers in use read the model and the flags of a body.
type reading struct {
	Model  string `json:"model"`
	Stream bool   `json:"stream"`
}

func readings(t *testing.T, body []byte) map[string]reading {
	out := map[string]reading{}
	var std, fold reading
	require.NoError(t, json.Unmarshal(body, &std)) // last wins, case-insensitive
	out["encoding/json"] = std
	require.NoError(t, jsonv2.Unmarshal(body, &fold, jsonv2.MatchCaseInsensitiveNames(true), jsontext.AllowDuplicateNames(true)))
	out["case-, dash- and underscore-insensitive"] = fold
	var m map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(body, &m)) // last wins, exact
	out["last wins"] = decodeReading(t, m)
	out["first wins"] = decodeReading(t, firstWins(t, body))
	return out
}

func decodeReading(t *testing.T, m map[string]json.RawMessage) (r reading) {
	if v, ok := m["model"]; ok {
		require.NoError(t, json.Unmarshal(v, &r.Model))
	}
	if v, ok := m["stream"]; ok {
		require.NoError(t, json.Unmarshal(v, &r.Stream))
	}
	return r
}

func firstWins(t *testing.T, body []byte) map[string]json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(body))
	_, err := d.Token()
	require.NoError(t, err)
	m := map[string]json.RawMessage{}
	for d.More() {
		k, err := d.Token()
		require.NoError(t, err)
		var v json.RawMessage
		require.NoError(t, d.Decode(&v))
		if _, ok := m[k.(string)]; !ok {
			m[k.(string)] = v
		}
	}
	return m
}

// FuzzScan holds the property that the door stands on: whatever is accepted,
// every parser reads the model that policy saw; and after the rewrite, the model
// that policy decided.
func FuzzScan(f *testing.F) {
	for _, body := range smuggling {
		f.Add([]byte(body))
	}
	f.Add([]byte(plainChat))
	f.Add([]byte(`{"stream_options":{"x":1},"model":"good","stream":true}`))
	f.Add([]byte(`{"stream_options":null,"model":"good","stream":true,"stop":["a"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, op := range []*operation{opChat, opEmbeddings, opResponses, opMessages} {
			var env envelope
			if scan(op, body, &env) != nil {
				continue
			}
			require.True(t, json.Valid(body))
			want := reading{string(env.model.of(body)), env.stream}
			for parser, got := range readings(t, body) {
				require.Equal(t, want, got, parser)
			}
			sent := rewrite(op, body, &env, "other")
			want.Model = "other"
			for parser, got := range readings(t, sent) {
				require.Equal(t, want, got, "%s, after the rewrite", parser)
			}
			var again envelope
			require.NoError(t, scan(op, sent, &again))
			require.Equal(t, env.stream && op == opChat || env.wantsUsage, again.wantsUsage)
			require.Equal(t, env.hosted, again.hosted)
		}
	})
}

// rewrite returns a body as it goes to a model of that name.
func rewrite(op *operation, body []byte, env *envelope, model string) []byte {
	edits, _ := editsOf(op, body, env, model)
	return splice(body, edits)
}

// The scanner accepts no more than a strict JSON parser, and no less where no
// key matters.
func FuzzScanGrammar(f *testing.F) {
	for _, v := range []string{`1`, `-0.0e-1`, `"\ud83d\ude00"`, `[[],{}]`, `{"a":{"a":1,"b":[null,true,false]}}`, `"é"`, `1.`, `[1,]`} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		body := append(append([]byte(`{"model":"m","metadata":`), value...), '}')
		var env envelope
		got := scan(opChat, body, &env) == nil
		want := jsontext.Value(value).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if got && !json.Valid(value) {
			// The value may have closed the object itself, and gone on.
			require.True(t, json.Valid(body))
			return
		}
		if want && !got && len(value) < maxDepth && bytes.Equal(bytes.ToValidUTF8(value, nil), value) {
			require.Fail(t, "a valid value was refused", "%q", value)
		}
	})
}

func TestScanAllocatesNothing(t *testing.T) {
	for op, body := range agentBodies(t) {
		var env envelope
		require.NoError(t, scan(op, body, &env))
		assert.Zero(t, testing.AllocsPerRun(20, func() { _ = scan(op, body, &env) }), op.name)
	}
}

// agentBodies are requests as coding agents send them, of each protocol.
func agentBodies(t testing.TB) map[*operation][]byte {
	type m = map[string]any
	var functions, declarations, items, turns []any
	for i := range 16 {
		schema := m{"type": "object", "properties": m{"command": m{"type": "string", "description": "what to run"}}, "required": []string{"command"}}
		text := strings.Repeat("Runs a command.\nUse it with \"care\" and \\ quotes.\n", 45)
		functions = append(functions, m{"type": "function", "name": fmt.Sprintf("tool_%d", i), "description": text, "strict": false, "parameters": schema})
		declarations = append(declarations, m{"name": fmt.Sprintf("tool_%d", i), "description": text, "parametersJsonSchema": schema})
	}
	for i := range 20 {
		text := strings.Repeat("Please look at the tests again. ", 20) + fmt.Sprint(i)
		items = append(items, m{"type": "message", "role": "user", "content": []any{m{"type": "input_text", "text": text}}})
		turns = append(turns, m{"role": "user", "parts": []any{m{"text": text}}})
	}
	system := strings.Repeat("You are a careful agent.\n", 680)
	encoded := func(v any) []byte {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return b
	}
	return map[*operation][]byte{
		opMessages: agentBody(t),
		opResponses: encoded(m{"model": "gpt", "stream": true, "store": false, "instructions": system, "tools": functions, "input": items,
			"include": []string{"reasoning.encrypted_content"}, "client_metadata": m{"x": "y"}}),
		opStreamGenerate: encoded(m{"contents": turns, "systemInstruction": m{"role": "user", "parts": []any{m{"text": system}}},
			"tools": []any{m{"functionDeclarations": declarations}}, "generationConfig": m{"maxOutputTokens": 100, "temperature": 1}}),
	}
}

// agentBody is a request of the size and shape that coding agents send: a long
// system prompt, many tools with nested schemas, some turns.
func agentBody(t testing.TB) []byte {
	type m = map[string]any
	var tools, messages []any
	for i := range 16 {
		tools = append(tools, m{
			"name": fmt.Sprintf("Tool%d", i), "description": strings.Repeat("Runs a command.\nUse it with \"care\" and \\ quotes.\n", 45),
			"input_schema": m{"type": "object", "properties": m{"command": m{"type": "string", "description": "what to run"}, "timeout": m{"type": "number"}}, "required": []string{"command"}},
		})
	}
	for i := range 20 {
		messages = append(messages, m{"role": "user", "content": []any{m{"type": "text", "text": strings.Repeat("Please look at the tests again. ", 20) + fmt.Sprint(i)}}})
	}
	body, err := json.Marshal(m{
		"model": "claude-test", "max_tokens": 32000, "stream": true, "messages": messages, "tools": tools,
		"system": []any{m{"type": "text", "text": strings.Repeat("You are a careful agent.\n", 680), "cache_control": m{"type": "ephemeral"}}},
	})
	require.NoError(t, err)
	return body
}

func BenchmarkScan(b *testing.B) {
	for op, body := range agentBodies(b) {
		b.Run(op.name, func(b *testing.B) {
			var env envelope
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := scan(op, body, &env); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkScanAndSplice(b *testing.B) {
	body := bytes.Replace(agentBody(b), []byte(`"system":`), []byte(`"stop":null,"messages2":`), 1)
	body = bytes.Replace(body, []byte(`"messages2"`), []byte(`"metadata"`), 1)
	var env envelope
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := scan(opChat, body, &env); err != nil {
			b.Fatal(err)
		}
		rewrite(opChat, body, &env, "other-model")
	}
}
