package inference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A node is a JSON value as it is written: nothing is resolved that parsers
// resolve in different ways.
type node struct {
	text    string // of a string its value, of a number or literal itself
	kind    jsontext.Kind
	names   []string // of an object, in order
	members []*node
}

func parse(t *testing.T, d *jsontext.Decoder) *node {
	t.Helper()
	tok, err := d.ReadToken()
	require.NoError(t, err)
	n := &node{kind: tok.Kind()}
	switch n.kind {
	case '{', '[':
		for d.PeekKind() != '}' && d.PeekKind() != ']' {
			if n.kind == '{' {
				name, err := d.ReadToken()
				require.NoError(t, err)
				n.names = append(n.names, name.String())
			}
			n.members = append(n.members, parse(t, d))
		}
		_, err = d.ReadToken()
		require.NoError(t, err)
	default:
		n.text = tok.String()
	}
	return n
}

// A reader finds a member of an object as some parser in use would.
type reader struct {
	name   string
	last   bool                // of several the last wins, else the first
	spells func(string) string // names that are the same to it
}

func exact(s string) string { return s }

// readers are the parsers that a backend may have: the first or the last of
// several members wins (gjson, simdjson; encoding/json, Python, JavaScript),
// case matters or does not (encoding/json), and protocol buffers take either
// camelCase or snake_case.
var readers = []reader{
	{"first wins", false, exact}, {"last wins", true, exact},
	{"first wins, case-folding", false, strings.ToLower}, {"last wins, case-folding", true, strings.ToLower},
	{"first wins, protobuf", false, foldString}, {"last wins, protobuf", true, foldString},
}

func (r reader) get(n *node, names ...string) *node {
	for _, name := range names {
		var found *node
		if n == nil || n.kind != '{' {
			return nil
		}
		for i, m := range n.members {
			if r.spells(n.names[i]) == r.spells(name) && (found == nil || r.last) {
				found = m
			}
		}
		n = found
	}
	return n
}

// list returns the elements of an array, or of what stands for it.
func (r reader) list(n *node, names ...string) []*node {
	if n = r.get(n, names...); n == nil || n.kind != '[' {
		return nil
	}
	return n.members
}

func text(n *node) string {
	if n == nil || n.kind == 'n' {
		return ""
	}
	if n.kind == '{' || n.kind == '[' {
		return fmt.Sprintf("%c%d", n.kind, len(n.members))
	}
	return n.text
}

// A view is what one parser reads of what policy is about.
type view struct {
	Model, Stream string
	Limits        []string
	Tools         []string
	Names         []string // of client's tools
	Stored        []string
	Media         []string
}

func (r reader) view(op *operation, root *node) (v view) {
	// A field that the protocol does not have is refused as such, or permitted
	// as such: what is in it is not looked at.
	known := func(names ...string) (some []string) {
		for _, name := range names {
			if _, ok := op.fields[foldString(name)]; ok {
				some = append(some, name)
			}
		}
		return some
	}
	if op.protocol == Gemini {
		spells := r.spells
		r.spells = func(s string) string { return spells(camel(s)) } // both spellings are right
		ask := root
		for _, name := range []string{"model", "cachedContent"} {
			v.Stored = append(v.Stored, text(r.get(ask, name)))
		}
		v.Limits = append(v.Limits, text(r.get(ask, "generationConfig", "maxOutputTokens")), text(r.get(ask, "generationConfig", "candidateCount")))
		for _, tool := range r.list(ask, "tools") {
			for i, name := range tool.names {
				if foldString(name) != "functiondeclarations" && tool.members[i].kind != 'n' {
					v.Tools = append(v.Tools, foldString(name))
				}
			}
			for _, f := range r.list(tool, "functionDeclarations") {
				v.Names = append(v.Names, text(r.get(f, "name")))
			}
		}
		for _, turn := range append(r.list(ask, "contents"), r.get(ask, "systemInstruction")) {
			for _, part := range r.list(turn, "parts") {
				v.Media = append(v.Media, text(r.get(part, "fileData", "fileUri")))
			}
		}
		return v
	}
	v.Model, v.Stream = text(r.get(root, "model")), text(r.get(root, "stream"))
	for _, name := range known("max_tokens", "max_completion_tokens", "max_output_tokens", "n") {
		v.Limits = append(v.Limits, text(r.get(root, name)))
	}
	for _, name := range known("tools") {
		for _, tool := range r.list(root, name) {
			v.Tools = append(v.Tools, text(r.get(tool, "type")))
			v.Names = append(v.Names, text(r.get(tool, "name")), text(r.get(tool, "function", "name")))
		}
	}
	for _, name := range known("store", "previous_response_id", "conversation", "prompt", "background", "mcp_servers", "container", "web_search_options") {
		v.Stored = append(v.Stored, text(r.get(root, name)))
	}
	for _, name := range known("messages", "input", "system") {
		for _, message := range r.list(root, name) {
			v.Media = append(v.Media, text(r.get(message, "type")))
			for _, block := range append(r.list(message, "content"), message) {
				v.Media = append(v.Media, text(r.get(block, "type")), text(r.get(block, "image_url")), text(r.get(block, "image_url", "url")),
					text(r.get(block, "source", "type")), text(r.get(block, "source", "url")), text(r.get(block, "file_id")))
			}
		}
	}
	return v
}

// readAlike checks that all parsers read the same of a body that the door
// accepts, and that it is what policy sees.
func readAlike(t *testing.T, op *operation, body []byte, env *envelope) {
	t.Helper()
	root := parse(t, jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)))
	want := readers[0].view(op, root)
	for _, r := range readers[1:] {
		require.Equal(t, want, r.view(op, root), "%s, %s: %s", op.name, r.name, body)
	}
	require.Equal(t, want.Model, string(env.model.of(body)))
	require.Equal(t, want.Stream == "true", env.stream, "%s: %s", op.name, body)
	var limit, choices int64
	for i, l := range want.Limits {
		if n, err := strconv.ParseInt(l, 10, 64); err == nil {
			if i == len(want.Limits)-1 && (op == opChat || op.protocol == Gemini) {
				choices = n
			} else {
				limit = max(limit, n)
			}
		}
	}
	require.Equal(t, limit, env.maxOutput, "%s: %s", op.name, body)
	require.Equal(t, choices, env.choices)
	if op.protocol == Gemini {
		require.True(t, len(want.Tools) == 0 || len(env.hosted) > 0, "%s", body)
	}
	for _, uri := range want.Media {
		if strings.HasPrefix(uri, "http") {
			require.NotEmpty(t, env.hosted, "%s", body)
		}
	}
}

// samples are bodies that each operation accepts, with what policy looks at.
var samples = map[*operation]string{
	opChat: `{"model":"good","stream":true,"max_tokens":9,"n":1,"store":false,"stream_options":{"include_usage":true},
		"tools":[{"type":"function","function":{"name":"a"}}],"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:x"}}]}]}`,
	opEmbeddings: `{"model":"good","input":["a"],"dimensions":2}`,
	opResponses: `{"model":"good","stream":true,"max_output_tokens":9,"store":false,"background":false,"previous_response_id":null,"conversation":null,"prompt":null,
		"tools":[{"type":"function","name":"a"}],"input":[{"type":"message","role":"user","content":[{"type":"input_image","image_url":"data:x","file_id":null}]},
		{"type":"function_call_output","call_id":"1","output":"x"}]}`,
	opMessages: `{"model":"good","stream":true,"max_tokens":9,"mcp_servers":[],"container":null,"tools":[{"type":"custom","name":"a"}],
		"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"AA=="}}]}]}`,
	opCountMessages: `{"model":"good","tools":[{"name":"a"}],"messages":[{"role":"user","content":"x"}]}`,
	opGenerate: `{"contents":[{"role":"user","parts":[{"text":"x"}]}],"systemInstruction":{"parts":[{"text":"x"}]},"cachedContent":null,
		"generationConfig":{"maxOutputTokens":9,"candidateCount":1},"tools":[{"functionDeclarations":[{"name":"a"}]}]}`,
	opStreamGenerate: `{"contents":[{"role":"user","parts":[{"text":"x"}]}],"system_instruction":{"parts":[{"text":"x"}]},"cached_content":null,
		"generation_config":{"max_output_tokens":9,"candidate_count":1},"tools":[{"function_declarations":[{"name":"a"}]}]}`,
	opCountGenerate: `{"generateContentRequest":{"model":"models/good","contents":[{"parts":[{"text":"x"}]}]}}`,
	opEmbedContent:  `{"model":"models/good","content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_QUERY"}`,
	opBatchEmbed:    `{"requests":[{"model":"models/good","content":{"parts":[{"text":"x"}]}},{"model":"models/good","content":{"parts":[]}}]}`,
}

// bad is what a smuggler would like the backend to read, for each name.
func bad(name string) string {
	switch name {
	case "model":
		return `"bad"`
	case "stream", "store", "background":
		return `true`
	case "max_tokens", "max_output_tokens", "maxOutputTokens", "max_output_tokens ", "n", "candidateCount":
		return `100`
	case "tools":
		return `[{"type":"web_search"},{"google_search":{}}]`
	case "type":
		return `"web_search"`
	case "url", "image_url", "fileUri":
		return `"https://x"`
	case "messages", "input", "contents", "parts", "content":
		return `[{"type":"image_url","image_url":{"url":"https://x"},"fileData":{"fileUri":"https://x"}}]`
	}
	return `{"name":"bad","type":"url","url":"https://x"}`
}

// spellings are the ways of writing a name that some parser takes for it.
func spellings(name string) []string {
	title := strings.ToUpper(name[:1]) + name[1:]
	return []string{
		name, title, strings.ToUpper(name), snake(name), camel(name), strings.ReplaceAll(name, "_", "-"), name + "_", "_" + name,
		fmt.Sprintf(`\u%04x%s`, name[0], name[1:]), fmt.Sprintf(`%s\u%04x`, name[:len(name)-1], name[len(name)-1]),
		strings.NewReplacer("k", "\u212a", "s", "\u017f").Replace(name), name + `\u0000`, name + "\u200b",
	}
}

func camel(name string) string {
	var b strings.Builder
	for i, word := range strings.Split(name, "_") {
		if i > 0 && word != "" {
			word = strings.ToUpper(word[:1]) + word[1:]
		}
		b.WriteString(word)
	}
	return b.String()
}

// Every name that policy looks at is given a twin, before it and after it, in
// every spelling: whatever of that passes, all parsers read alike. One whose
// spelling is no spelling of anything passes as an unknown field at most.
func TestNoParserReadsWhatPolicyDidNotSee(t *testing.T) {
	tried, passed := 0, 0
	for op, sample := range samples {
		var env envelope
		require.NoError(t, scan(op, []byte(sample), &env), op.name)
		require.Empty(t, env.hosted, op.name)
		require.Empty(t, env.stored, op.name)
		readAlike(t, op, []byte(sample), &env)
		for at := range sample {
			if sample[at] != '"' || at == 0 || !strings.ContainsRune("{,", rune(sample[at-1])) && !strings.HasSuffix(strings.TrimRight(sample[:at], " \t\n"), ",") {
				continue
			}
			name, _, ok := strings.Cut(sample[at+1:], `":`)
			if !ok || strings.ContainsAny(name, `",{}[]`) {
				continue // a value
			}
			for _, twin := range spellings(name) {
				member := `"` + twin + `":` + bad(camel(name)) + `,`
				for _, body := range []string{
					sample[:at] + member + sample[at:],
					sample[:at] + `"` + twin + `"` + sample[at+len(name)+2:], // in its place
					after(sample, at, `,"`+twin+`":`+bad(name)),
				} {
					tried++
					if scan(op, []byte(body), &env) == nil {
						passed++
						readAlike(t, op, []byte(body), &env)
					}
				}
			}
		}
	}
	t.Logf("%d requests, of which %d were accepted", tried, passed)
	assert.Greater(t, tried, 1000)
	assert.Less(t, passed, tried/5, "twins are refused")
}

// after puts text at the end of the object that holds the member at at.
func after(sample string, at int, text string) string {
	depth := 0
	for i := at; i < len(sample); i++ {
		switch sample[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return sample[:i] + text + sample[i:]
			}
			depth--
		}
	}
	return sample
}

// smugglingMore holds requests of the other protocols that are refused.
var smugglingMore = map[*operation][]string{
	opResponses: {
		`{"model":"good","input":"x","Input":[]}`, `{"model":"good","input":"x","input":[]}`, `{"model":"good","input":{"role":"user"}}`,
		`{"model":"good","input":["x"]}`, `{"model":"good","input":[[]]}`, `{"model":"good","previousResponseId":"resp_1"}`,
		`{"model":"good","previous_response_id":null,"previous_response_id":"resp_1"}`, `{"model":"good","store":1}`, `{"model":"good","background":"true"}`,
		`{"model":"good","store":false,"Store":true}`, `{"model":"good","max_output_tokens":"9"}`, `{"model":"good","maxOutputTokens":9}`,
		`{"model":"good","tools":{"type":"mcp"}}`, `{"model":"good","tools":[{"type":"function","Type":"mcp"}]}`, `{"model":"good","tools":[{"type":["mcp"]}]}`,
		`{"model":"good","tools":[{"type":"namespace","tools":["mcp"]}]}`, `{"model":"good","tools":[{"type":"namespace","tools":[{"type":"mcp","type":"function"}]}]}`,
		`{"model":"good","input":[{"type":"message","role":"user","content":[{"type":"input_image","image_url":"data:x","image_url":"https://x"}]}]}`,
		`{"model":"good","input":[{"type":"message","type":"item_reference","id":"msg_1"}]}`, `{"model":"good","input":[{"typ\u0065":"item_reference","id":"msg_1"}]}`,
		`{"model":"good","input":[{"type":"function_call_output","output":[[{"type":"input_image"}]]}]}`, `{"input":"x"}`,
		`{"model":"good","input":[{"type":"message","role":"user","content":[{"type":7}]}]}`,
	},
	opGenerate: {
		`[]`, `"x"`, `{"contents":{}}`, `{"contents":["x"]}`, `{"contents":[],"Contents":[]}`, `{"contents":[],"contents":[]}`,
		`{"system_instruction":null,"systemInstruction":{"parts":[]}}`, `{"systemInstruction":"x"}`, `{"systemInstruction":[]}`, `{"generationConfig":[]}`,
		`{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":100000}}`, `{"generationConfig":{"maxOutputTokens":"100000"}}`,
		`{"generationConfig":{"maxOutputTokens":1e5}}`, `{"generationConfig":{"maxOutputTokens":1.5}}`, `{"generationConfig":{"MaxOutputTokens":100000}}`,
		`{"generationConfig":{"max-output-tokens":100000}}`, `{"generationConfig":{"max_outputTokens":100000}}`, `{"generationConfig":{},"generation_config":{"maxOutputTokens":1}}`,
		`{"generation-config":{}}`, `{"tools":{"googleSearch":{}}}`, `{"tools":[],"Tools":[{"googleSearch":{}}]}`, `{"tools":["googleSearch"]}`,
		`{"tools":[{"functionDeclarations":[{"name":"a","name":"b"}]}]}`, `{"tools":[{"functionDeclarations":{}}]}`, `{"tools":[{"functionDeclarations":[],"function_declarations":[]}]}`,
		`{"cachedContents":null,"cachedContent":null,"cached_content":"cachedContents/1"}`, `{"CachedContent":"cachedContents/1"}`, `{"cached-content":"cachedContents/1"}`,
		`{"contents":[{"parts":{"fileData":{}}}]}`, `{"contents":[{"parts":[{"fileData":{"fileUri":"https://x","file_uri":"https://y"}}]}]}`,
		`{"contents":[{"parts":[{"fileData":{"fileUri":["https://x"]}}]}]}`, `{"contents":[{"parts":[{"FileData":{"fileUri":"https://x"}}]}]}`,
		`{"contents":[{"parts":[{"file-data":{"fileUri":"https://x"}}]}]}`, `{"contents":[{"Parts":[{"fileData":{"fileUri":"https://x"}}]}]}`,
		`{"contents":[{"parts":[{"fileData":"https://x"}]}]}`, `{"contents":[{"parts":[{"fileData":[{"fileUri":"https://x"}]}]}]}`,
		`{"model":["models/bad"]}`, `{"model":"models/good","Model":"models/bad"}`, `{"model":"models/"}`, `{"model":"models\/bad"}`,
		`{"contents":[]}{}`, `{"contents":[],}`, `{"generateContentRequest":[]}`, `{"generateContentRequest":{"model":"a","model":"b"}}`,
		`{"requests":{"model":"models/bad"}}`, `{"requests":["models/bad"]}`, `{"requests":[{"Model":"models/bad"}]}`,
		`{"contents":[{"parts":[{"functionResponse":{"parts":{"fileData":{}}}}]}]}`,
	},
}

func TestScanRefusesWhatParsersReadDifferentlyInOtherProtocols(t *testing.T) {
	n := 0
	for op, bodies := range smugglingMore {
		for _, body := range bodies {
			n++
			var env envelope
			assert.Error(t, scan(op, []byte(body), &env), "%s: %s", op.name, body)
		}
	}
	assert.Greater(t, n, 60)
}

// FuzzEnvelope holds that what passes is read alike by every parser, in every
// protocol.
func FuzzEnvelope(f *testing.F) {
	for i, op := range operations {
		f.Add(uint8(i), []byte(samples[op]))
		for _, body := range smugglingMore[op] {
			f.Add(uint8(i), []byte(body))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(smuggling)) {
		f.Add(uint8(len(name)), []byte(smuggling[name]))
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		op := operations[int(which)%len(operations)]
		var env envelope
		if scan(op, body, &env) != nil {
			return
		}
		require.True(t, json.Valid(body))
		readAlike(t, op, body, &env)
		sent := rewrite(op, body, &env, "other")
		require.True(t, json.Valid(sent))
		var again envelope
		require.NoError(t, scan(op, sent, &again))
		require.Equal(t, env.hosted, again.hosted)
		require.Equal(t, env.stream, again.stream)
		require.Equal(t, env.stored, again.stored)
		for _, ref := range again.refs {
			require.Equal(t, "other", string(ref.of(sent)))
		}
	})
}
