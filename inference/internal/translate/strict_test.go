package translate

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// opaque are the members whose value goes over as it is, or is a hint, or is
// given up by the host's word in the case where it occurs.
var opaque = map[Protocol][]string{
	Messages:  {"input", "input_schema", "schema", "cache_control", "thinking", "context_management"},
	Responses: {"parameters", "schema", "metadata", "client_metadata"},
}

// No unknown field passes in silence, wherever it stands.
func TestUnknownFieldsAreRefusedEverywhere(t *testing.T) {
	paths, err := filepath.Glob("testdata/*/*.txt")
	require.NoError(t, err)
	places := 0
	for _, path := range paths {
		c, from := readCase(t, path), protocolOf(path)
		body := []byte(strings.TrimSpace(c["request"]))
		if c["sent"] == "" {
			continue
		}
		var d doc
		require.Nil(t, d.parse(body))
		for n := range d.nodes {
			v := value{&d, int32(n)}
			if v.kind() != '{' || isOpaque(from, v) || ignored(c, v) {
				continue
			}
			at := d.nodes[n].at.lo + 1
			insert := []byte(`"zzz":1`)
			if !v.empty() {
				insert = append(insert, ',')
			}
			_, sent, err := Request(from, slices.Concat(body[:at], insert, body[at:]), c.options())
			require.Error(t, err, "%s: a field in %s went over in silence: %s", path, v.path(), sent)
			var e *Error
			require.ErrorAs(t, err, &e)
			want := "zzz"
			if v.path() != "" {
				want = v.path() + ".zzz"
			}
			require.Equal(t, want, e.Path, path)
			places++
		}
	}
	assert.Greater(t, places, 120)
}

func isOpaque(from Protocol, v value) bool {
	for ; v.ok() && v.node().parent != 0; v = (value{v.d, v.node().parent}) {
		if key := v.node().key; key.hi > key.lo && slices.Contains(opaque[from], v.name()) {
			return true
		}
	}
	return false
}

// ignored reports whether the host gives the object up with all that is in it.
func ignored(c goldenCase, v value) bool {
	for ; v.ok(); v = (value{v.d, v.node().parent}) {
		typ := v.member("type").string()
		if strings.Contains(c["ignore"], featHosted) && strings.HasPrefix(typ, "web_search") ||
			strings.HasSuffix(typ, "thinking") || typ == "reasoning" {
			return true
		}
	}
	return false
}

func TestWhatIsRefused(t *testing.T) {
	deep := strings.Repeat("[", 300) + strings.Repeat("]", 300)
	for name, tc := range map[string]struct {
		from Protocol
		body string
		path string // of the error
		says string
	}{
		"not JSON":              {Messages, `{"model":`, "", "not valid JSON"},
		"two values":            {Messages, `{} {}`, "", "data after"},
		"invalid UTF-8":         {Messages, "{\"model\":\"\xff\"}", "", "not valid JSON"},
		"half a surrogate pair": {Messages, `{"model":"\ud83d"}`, "", "not valid JSON"},
		"a repeated key":        {Messages, `{"model":"m","messages":[{"role":"user","role":"assistant","content":"x"}]}`, "", "twice"},
		"a repeated inner key":  {Messages, `{"model":"m","messages":[],"tools":[{"name":"f","input_schema":{"a":1,"\u0061":2}}]}`, "", "twice"},
		"depth":                 {Messages, `{"model":"m","messages":[],"tools":[{"name":"f","input_schema":{"a":` + deep + `}}]}`, "", "too deeply"},
		"an array":              {Responses, `[]`, "", "an object"},
		"no messages":           {Messages, `{"model":"m"}`, "", `"messages" is missing`},
		"no input":              {Responses, `{"model":"m"}`, "", `"input" is missing`},
		"another role":          {Messages, `{"model":"m","messages":[{"role":"tool","content":"x"}]}`, "messages[0]", "role must be"},
		"text that is none":     {Messages, `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":5}]}]}`, "messages[0].content[0].text", "a string"},
		"stream that is none":   {Messages, `{"model":"m","messages":[],"stream":"yes"}`, "stream", "true or false"},
		"a stored image":        {Messages, `{"model":"m","messages":[{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}]}`, "messages[0].content[0].source", `"file"`},
		"a trick in a URL":      {Messages, `{"model":"m","messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png,x","data":"AA"}}]}]}`, "messages[0].content[0].source", "plain"},
		"input that is no map":  {Messages, `{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":[]}]}]}`, "messages[0].content[0].input", "an object"},
		"deferred tools":        {Messages, `{"model":"m","messages":[],"tools":[{"name":"f","input_schema":{},"defer_loading":true}]}`, "tools[0].defer_loading", "search"},
		"programs that call":    {Messages, `{"model":"m","messages":[],"tools":[{"name":"f","input_schema":{},"allowed_callers":["code_execution_20250825"]}]}`, "tools[0].allowed_callers[0]", "caller"},
		"MCP servers":           {Messages, `{"model":"m","messages":[],"mcp_servers":[{"type":"url","url":"https://x","name":"n"}]}`, "mcp_servers", "tools of its own"},
		"a container":           {Messages, `{"model":"m","messages":[],"container":"c"}`, "container", "tools of its own"},
		"top_k":                 {Messages, `{"model":"m","messages":[],"top_k":4}`, "top_k", `"top_k"`},
		"speed":                 {Messages, `{"model":"m","messages":[],"speed":"fast"}`, "speed", "no such parameter"},
		"an unknown effort":     {Messages, `{"model":"m","messages":[],"output_config":{"effort":"max"}}`, "output_config.effort", `"effort"`},
		"examples":              {Messages, `{"model":"m","messages":[],"tools":[{"name":"f","input_schema":{},"input_examples":[{"a":1}]}]}`, "tools[0].input_examples", "examples"},
		"citations":             {Messages, `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x","citations":[{}]}]}]}`, "messages[0].content[0].citations", "citations"},
		"an image in system":    {Messages, `{"model":"m","messages":[],"system":[{"type":"image","source":{"type":"url","url":"u"}}]}`, "system[0]", "only text"},
		"a stored file":         {Responses, `{"model":"m","input":[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]}`, "input[0].content[0].file_id", "keeps no files"},
		"a file's address":      {Responses, `{"model":"m","input":[{"role":"user","content":[{"type":"input_file","file_url":"https://x"}]}]}`, "input[0].content[0].file_url", "fetches no files"},
		"an item's reference":   {Responses, `{"model":"m","input":[{"type":"item_reference","id":"x"}]}`, "input[0]", "item_reference"},
		"a shell call":          {Responses, `{"model":"m","input":[{"type":"local_shell_call","id":"x","call_id":"c","action":{}}]}`, "input[0]", "local_shell_call"},
		"a conversation":        {Responses, `{"model":"m","input":"x","conversation":"c"}`, "conversation", "keeps nothing"},
		"a stored prompt":       {Responses, `{"model":"m","input":"x","prompt":{"id":"p"}}`, "prompt", "keeps nothing"},
		"background":            {Responses, `{"model":"m","input":"x","background":true}`, "background", "false"},
		"included":              {Responses, `{"model":"m","input":"x","include":["message.output_text.logprobs"]}`, "include[0]", "include"},
		"truncation":            {Responses, `{"model":"m","input":"x","truncation":"auto"}`, "truncation", "shorten"},
		"padding":               {Responses, `{"model":"m","input":"x","stream_options":{"include_obfuscation":true}}`, "stream_options.include_obfuscation", "padded"},
		"allowed tools":         {Responses, `{"model":"m","input":"x","tool_choice":{"type":"allowed_tools","mode":"auto","tools":[]}}`, "tool_choice", "choice"},
		"a long joined name":    {Responses, `{"model":"m","input":"x","tools":[{"type":"namespace","name":"` + strings.Repeat("n", 60) + `","tools":[{"type":"function","name":"long"}]}]}`, "tools[0].tools[0]", "too long"},
	} {
		_, sent, err := Request(tc.from, []byte(tc.body), Options{})
		if !assert.Error(t, err, "%s: %s", name, sent) {
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e, name)
		assert.Equal(t, tc.path, e.Path, name)
		assert.Contains(t, e.Error(), tc.says, name)
	}
}

// Ids and names are short wherever they stand.
func TestLongIdsAndNamesAreRefused(t *testing.T) {
	for body, tc := range map[string]struct {
		from Protocol
		path string
	}{
		`{"model":"m","messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"LONG","content":"x"}]}]}`:       {Messages, "messages[0].content[0].tool_use_id"},
		`{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"LONG","name":"f","input":{}}]},` + you: {Messages, "messages[0].content[0].id"},
		`{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"LONG","input":{}}]},` + you: {Messages, "messages[0].content[0].name"},
		`{"model":"m","messages":[],"tools":[{"name":"LONG","input_schema":{}}]}`:                                                {Messages, "tools[0].name"},
		`{"model":"m","messages":[],"tool_choice":{"type":"tool","name":"LONG"}}`:                                                {Messages, "tool_choice.name"},
		`{"model":"m","input":[{"type":"function_call","call_id":"LONG","name":"f","arguments":"{}"}]}`:                          {Responses, "input[0].call_id"},
		`{"model":"m","input":[{"type":"function_call","call_id":"a","name":"LONG","arguments":"{}"}]}`:                          {Responses, "input[0].name"},
		`{"model":"m","input":[{"type":"function_call","call_id":"a","name":"f","namespace":"LONG","arguments":"{}"}]}`:          {Responses, "input[0].namespace"},
		`{"model":"m","input":[{"type":"custom_tool_call","call_id":"LONG","name":"f","input":"x"}]}`:                            {Responses, "input[0].call_id"},
		`{"model":"m","input":[{"type":"function_call_output","call_id":"LONG","output":"x"}]}`:                                  {Responses, "input[0].call_id"},
		`{"model":"m","input":"x","tools":[{"type":"function","name":"LONG"}]}`:                                                  {Responses, "tools[0].name"},
		`{"model":"m","input":"x","tools":[{"type":"custom","name":"LONG"}]}`:                                                    {Responses, "tools[0].name"},
		`{"model":"m","input":"x","tools":[{"type":"namespace","name":"LONG","tools":[]}]}`:                                      {Responses, "tools[0].name"},
		`{"model":"m","input":"x","tool_choice":{"type":"function","name":"LONG"}}`:                                              {Responses, "tool_choice.name"},
		`{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"LONG","schema":{}}}}`:                           {Responses, "text.format.name"},
	} {
		_, _, err := Request(tc.from, []byte(strings.Replace(body, "LONG", strings.Repeat("x", maxLabel+1), 1)), Options{})
		var e *Error
		require.ErrorAs(t, err, &e, body)
		assert.Equal(t, tc.path, e.Path, body)
		assert.Contains(t, e.Reason, "longer than 256 bytes", body)
		_, _, err = Request(tc.from, []byte(strings.Replace(body, "LONG", "f", 1)), Options{})
		require.NoError(t, err, body)
	}
}

const you = `{"role":"user","content":"x"}]}`

// What is written several times does not make a small request a huge one.
func TestRequestsDoNotGrowWithoutBound(t *testing.T) {
	id := strings.Repeat("i", maxLabel)
	shot := `{"type":"image","source":{"type":"url","url":"u"}}`
	seen := `{"type":"input_image","image_url":"u"}`
	about := strings.Repeat("a", 100_000)
	many := func(s string, n int) string { return s + strings.Repeat(","+s, n-1) }
	fns := make([]string, 1000)
	for i := range fns {
		fns[i] = fmt.Sprintf(`{"type":"function","name":"f%d","description":"d"}`, i)
	}
	for name, tc := range map[string]struct {
		from Protocol
		body string
	}{
		"images of a result":  {Messages, `{"model":"m","messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"` + id + `","content":[` + many(shot, 2000) + `]}]}]}`},
		"images of an output": {Responses, `{"model":"m","input":[{"type":"function_call_output","call_id":"` + id + `","output":[` + many(seen, 2000) + `]}]}`},
		"a namespace":         {Responses, `{"model":"m","input":"x","tools":[{"type":"namespace","name":"n","description":"` + about + `","tools":[` + strings.Join(fns, ",") + `]}]}`},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := Request(tc.from, []byte(tc.body), Options{})
		runtime.ReadMemStats(&after)
		var e *Error
		require.ErrorAs(t, err, &e, name)
		require.Contains(t, e.Reason, "too large", name)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), name)
	}
}

func TestWordsOfTheHost(t *testing.T) {
	for _, o := range []Options{{Ignore: []string{"everything"}}, {Pass: []string{"model"}}, {Pass: []string{"previous_response_id"}},
		{Pass: []string{`a"b`}}, {Pass: []string{""}}} {
		assert.Error(t, o.Validate(), "%+v", o)
	}
	assert.NoError(t, Options{Ignore: Ignorable(), Pass: []string{"top_k", "min_p"}}.Validate())
}

// What streams are refused for has a bound.
func TestLimitsOfStreams(t *testing.T) {
	readFrom := func(from Protocol, opts Options, in io.Reader) string {
		x, _, err := Request(from, []byte(smallest(from)), opts)
		require.NoError(t, err)
		var b bytes.Buffer
		_, err = b.ReadFrom(x.Stream(in))
		require.NoError(t, err)
		require.NoError(t, check(from, b.Bytes()))
		return b.String()
	}
	read := func(from Protocol, opts Options, in string) string {
		return readFrom(from, opts, strings.NewReader(in))
	}
	word := `data: {"choices":[{"delta":{"content":"0123456789"}}]}` + "\n\n"
	assert.Contains(t, read(Responses, Options{MaxAnswer: 100}, strings.Repeat(word, 20)), "too large")
	assert.NotContains(t, read(Messages, Options{MaxAnswer: 100}, strings.Repeat(word, 20)), "too large", "it keeps nothing")
	assert.Contains(t, read(Messages, Options{}, "data: {\"a\":\""+strings.Repeat("x", maxEvent)), "too large an event")
	lines := make([]io.Reader, 5000)
	for i := range lines {
		lines[i] = strings.NewReader("data: " + strings.Repeat("x", 1000) + "\n")
	}
	assert.Contains(t, readFrom(Messages, Options{}, io.MultiReader(lines...)), "too large an event", "a line at a time")
	var calls strings.Builder
	for i := range maxCalls + 1 {
		fmt.Fprintf(&calls, "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":%d,\"id\":\"c%d\",\"function\":{\"name\":\"f\"}}]}}]}\n\n", i, i)
	}
	assert.Contains(t, read(Messages, Options{}, calls.String()), "too many calls")
	assert.NotContains(t, read(Messages, Options{}, ":"+strings.Repeat("x", 1000)+"\n\n"), "xxx", "a long comment is not passed on")
	x, _, err := Request(Responses, []byte(smallest(Responses)), Options{MaxAnswer: 10})
	require.NoError(t, err)
	_, err = x.Response([]byte(`{"id":"0123456789"}`))
	assert.ErrorContains(t, err, "too large")
}

// What a backend says once, and the client is told with every event, is short,
// and one chunk does not become many times its size.
func TestStreamsDoNotGrowWithoutBound(t *testing.T) {
	read := func(from Protocol, opts Options, in string) string {
		x, _, err := Request(from, []byte(smallest(from)), opts)
		require.NoError(t, err)
		var b bytes.Buffer
		_, err = b.ReadFrom(x.Stream(strings.NewReader(in)))
		require.NoError(t, err)
		require.NoError(t, check(from, b.Bytes()))
		return b.String()
	}
	long := strings.Repeat("x", maxName+1)
	begin := `data: {"id":"` + long + `","created":` + strings.Repeat("1", 1000) + `,"choices":[{"delta":{"tool_calls":[{"index":0,"id":"` + long + `","function":{"name":"f"}}]}}]}` + "\n\n"
	again := `data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"` + long + `","function":{"arguments":"{}"}}]},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"
	name := `data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"` + long + `"}}]}}]}` + "\n\n"
	model := `data: {"model":"` + long + `","choices":[{"delta":{"content":"x"}}]}` + "\n\n"
	var calls strings.Builder
	for i := range 20 {
		fmt.Fprintf(&calls, `data: {"choices":[{"delta":{"tool_calls":[{"index":%d,"id":"%d%s","function":{"name":"f"}}]}}]}`+"\n\n", i, i, long[:200])
	}
	for _, from := range []Protocol{Messages, Responses} {
		got := read(from, Options{}, begin+again)
		assert.NotContains(t, got, "xxx", "ids of our own")
		assert.NotContains(t, got, "1111")
		assert.Contains(t, got, map[Protocol]string{Messages: `"stop_reason":"tool_use"`, Responses: "response.completed"}[from], "the pieces of the call are known by its id")
		assert.Contains(t, read(from, Options{}, name), "longer than 1024 bytes")
		assert.Contains(t, read(from, Options{}, model), "longer than 1024 bytes")
		assert.Contains(t, read(from, Options{MaxAnswer: 3000}, calls.String()), "too large", "calls count")
	}
	piece := `{"function":{"arguments":"x"}}`
	one := `data: {"id":"` + long[:250] + `","choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f"}}` + strings.Repeat(","+piece, 130_000) + `]}}]}` + "\n\n"
	x, _, err := Request(Responses, []byte(smallest(Responses)), Options{})
	require.NoError(t, err)
	got, err := io.ReadAll(x.Stream(strings.NewReader(one)))
	require.NoError(t, err)
	assert.Less(t, len(got), maxPending+(1<<20))
	assert.Contains(t, string(got[len(got)-4096:]), "too large")

	x, _, err = Request(Messages, []byte(smallest(Messages)), Options{})
	require.NoError(t, err)
	_, err = x.Response([]byte(`{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"` + long + `"}}]},"finish_reason":"stop"}]}`))
	require.ErrorContains(t, err, "longer than 1024 bytes")
	told, err := x.Response([]byte(`{"choices":[{"message":{"tool_calls":[{"id":"` + long + `","function":{"name":"f"}}]},"finish_reason":"stop"}]}`))
	require.NoError(t, err)
	assert.NotContains(t, string(told), "xxx")
}

// Notes are bounded, however much a backend adds.
func TestNotesAreBounded(t *testing.T) {
	x, _, err := Request(Messages, []byte(smallest(Messages)), Options{})
	require.NoError(t, err)
	var b strings.Builder
	b.WriteString(`{"id":"1","choices":[{"message":{"content":"x"},"finish_reason":"stop"}]`)
	for i := range 100 {
		fmt.Fprintf(&b, `,"extra%d%s":1`, i, strings.Repeat("x", 200))
	}
	_, err = x.Response([]byte(b.String() + "}"))
	require.NoError(t, err)
	assert.Len(t, x.Notes(), maxNotes)
	assert.LessOrEqual(t, len(x.Notes()[0]), 100)
}
