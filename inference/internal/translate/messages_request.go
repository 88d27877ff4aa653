package translate

import (
	"bytes"
	"fmt"
	"slices"
)

// messages translates a request of Anthropic's messages.
func (t *request) messages(top value) {
	if !t.object(top) {
		return
	}
	o := &t.out
	o.open("{")
	o.field("model", t.need(top, "model"))

	system, turns := top.take("system"), top.take("messages")
	o.key("messages")
	o.open("[")
	if system.ok() {
		o.next()
		o.raw(`{"role":"system","content":`)
		t.textOnly(system)
		o.raw("}")
	}
	if !turns.ok() {
		t.fail(top, `"messages" is missing`)
	} else if t.list(turns) {
		t.turns(turns)
	}
	o.raw("]")

	t.claudeTools(top.take("tools"))
	t.claudeToolChoice(top.take("tool_choice"))
	if v := top.take("max_tokens"); t.number(v) {
		o.field(t.limitField(), v.raw())
	}
	if v := top.take("stop_sequences"); t.list(v) && !v.empty() {
		for s := range v.all() {
			t.text(s)
			t.x.stops = append(t.x.stops, s.string())
		}
		o.field("stop", v.raw())
	}
	t.copyNumber(top.take("temperature"), "temperature")
	t.copyNumber(top.take("top_p"), "top_p")
	t.thinking(top.take("thinking"))
	t.outputConfig(top)
	if v := top.take("service_tier"); v.ok() && !v.is("auto") {
		t.ignored(v, "service_tier", "the backend has no such tier")
	}
	t.noServers(top)
	t.metadata(top.take("metadata"))
	t.hint(top, "cache_control")
	t.streaming(top)
	t.rest(top)
	o.raw("}")
}

func (t *request) limitField() string {
	if t.x.opts.MaxCompletionTokens {
		return "max_completion_tokens"
	}
	return "max_tokens"
}

// streaming asks the backend to stream and to report its usage, if the client
// wants a stream.
func (t *request) streaming(top value) {
	if t.x.streamed = t.flag(top.take("stream")); t.x.streamed {
		t.out.literal("stream", `true,"stream_options":{"include_usage":true}`)
	}
}

// metadata names the user to Anthropic. It is not for another provider.
func (t *request) metadata(v value) {
	if !t.object(v) {
		return
	}
	t.text(v.take("user_id"))
	t.done(v)
	if !v.empty() {
		t.x.note("dropped", "metadata")
	}
}

// noServers refuses what the provider would do by itself.
func (t *request) noServers(top value) {
	for _, name := range []string{"mcp_servers", "container"} {
		v := top.take(name)
		if v.ok() && (v.kind() != '[' || !v.empty()) {
			t.ignored(v, featHosted, "the backend runs no tools of its own")
		}
	}
}

func (t *request) thinking(v value) {
	if !t.object(v) {
		return
	}
	if v.take("type").is("disabled") {
		t.done(v)
		return
	}
	t.ignored(v, featThinking, "the backend has no thinking that can be asked for or shown like this")
}

// outputConfig translates how hard the model is to think and the form of its
// answer, of which output_format is the older name.
func (t *request) outputConfig(top value) {
	format := top.take("output_format")
	if v := top.take("output_config"); t.object(v) {
		t.effort(v.take("effort"))
		if f := v.take("format"); f.ok() {
			if format.ok() {
				t.fail(f, "it stands beside output_format")
			}
			format = f
		}
		t.done(v)
	}
	if !t.object(format) {
		return
	}
	if !format.take("type").is("json_schema") {
		t.fail(format, "the backend knows no such format")
		return
	}
	schema := format.take("schema")
	if !schema.ok() {
		t.fail(format, `"schema" is missing`)
	}
	t.object(schema)
	t.done(format)
	t.out.key("response_format")
	t.out.raw(`{"type":"json_schema","json_schema":{"name":"output","strict":true,"schema":`)
	t.out.bytes(schema.raw())
	t.out.raw("}}")
}

// efforts are the words that chat completions have.
var efforts = []string{"none", "minimal", "low", "medium", "high", "xhigh"}

func (t *request) effort(v value) {
	word := t.text(v)
	switch {
	case word == nil:
	case t.x.opts.ignores(featEffort):
		t.x.note("ignored", featEffort)
	case !slices.Contains(efforts, v.string()):
		t.refuse(v, featEffort, "the backend knows no such effort")
	default:
		t.out.field("reasoning_effort", word)
	}
}

// textOnly writes content that may hold nothing but text: a string, or an array
// of text parts.
func (t *request) textOnly(v value) {
	if v.kind() == '"' {
		t.out.bytes(v.raw())
		return
	}
	if !t.list(v) {
		return
	}
	var parts [][]byte
	for b := range v.all() {
		if t.object(b) && !b.take("type").is("text") {
			t.fail(b, "only text can stand here")
		}
		parts = append(parts, t.textBlock(b))
	}
	t.textParts(parts)
}

// textParts writes texts, one as a plain string because every backend
// understands that.
func (t *request) textParts(parts [][]byte) {
	o := &t.out
	switch len(parts) {
	case 0:
		o.raw(`""`)
		return
	case 1:
		o.bytes(parts[0])
		return
	}
	o.open("[")
	for _, p := range parts {
		t.textPart(p)
	}
	o.raw("]")
}

func (t *request) textPart(quoted []byte) {
	t.out.next()
	t.out.raw(`{"type":"text","text":`)
	t.out.bytes(quoted)
	t.out.raw("}")
}

// textBlock takes the text out of a block whose type is taken.
func (t *request) textBlock(b value) []byte {
	text := t.need(b, "text")
	b.take("cache_control")
	if c := b.take("citations"); !c.empty() {
		t.ignored(c, featCitations, "the backend has no citations")
	}
	t.done(b)
	return text
}

// turns translates the conversation.
func (t *request) turns(list value) {
	var last value
	for m := range list.all() {
		last = m
		if t.err != nil || !t.object(m) {
			return
		}
		role, content := m.take("role"), m.take("content")
		t.done(m)
		if !content.ok() {
			t.fail(m, `"content" is missing`)
			return
		}
		switch {
		case role.is("user"):
			t.userTurn(content)
		case role.is("assistant"):
			t.assistantTurn(content)
		case role.is("system"): // in the midst of a conversation
			t.out.next()
			t.out.raw(`{"role":"system","content":`)
			t.textOnly(content)
			t.out.raw("}")
		default:
			t.fail(m, "role must be user, assistant or system")
		}
	}
	if last.ok() && last.member("role").is("assistant") {
		if t.x.opts.ignores(featPrefill) {
			t.x.note("ignored", featPrefill)
		} else {
			t.refuse(last, featPrefill, "the backend cannot go on with an answer that was begun")
		}
	}
}

// userTurn writes the results of tools as messages of their own, and then what
// the user says.
func (t *request) userTurn(content value) {
	o := &t.out
	if content.kind() == '"' {
		o.next()
		o.raw(`{"role":"user","content":`)
		o.bytes(content.raw())
		o.raw("}")
		return
	}
	if !t.list(content) {
		return
	}
	var said parts
	results := 0
	for b := range content.all() {
		if !t.object(b) {
			return
		}
		if typ := b.take("type"); typ.is("tool_result") {
			if len(said.list) > said.moved {
				t.fail(b, "results of tools must come before what else the user says")
			}
			results++
			t.toolResult(b, &said)
		} else {
			said.add(t.userBlock(b, typ))
		}
	}
	if len(said.list) > 0 || results == 0 {
		o.next()
		o.raw(`{"role":"user","content":`)
		said.write(o)
		o.raw("}")
	}
}

// A part is a text, or else an image as a data: or http URL.
type part struct {
	text   []byte // a JSON string
	url    []byte // a JSON string
	detail []byte // a JSON string
	file   []byte // a chat "file" object
}

// parts are what a user says.
type parts struct {
	list  []part
	moved int // how many at the start come from the results of tools
}

func (p *parts) add(one part) { p.list = append(p.list, one) }

func (p *parts) write(o *out) {
	if len(p.list) == 0 {
		o.raw(`""`)
		return
	}
	if len(p.list) == 1 && p.list[0].text != nil {
		o.bytes(p.list[0].text)
		return
	}
	o.open("[")
	for _, one := range p.list {
		o.next()
		switch {
		case one.file != nil:
			o.raw(`{"type":"file","file":`)
			o.bytes(one.file)
		case one.url != nil:
			o.raw(`{"type":"image_url","image_url":{"url":`)
			o.bytes(one.url)
			if one.detail != nil {
				o.field("detail", one.detail)
			}
			o.raw("}")
		default:
			o.raw(`{"type":"text","text":`)
			o.bytes(one.text)
		}
		o.raw("}")
	}
	o.raw("]")
}

// userBlock translates a block whose type is taken.
func (t *request) userBlock(b, typ value) part {
	switch {
	case typ.is("text"):
		return part{text: t.textBlock(b)}
	case typ.is("image"):
		return part{url: t.image(b)}
	}
	t.fail(b, fmt.Sprintf("a block of type %q cannot be translated for the backend", clip(typ.string())))
	return part{}
}

// image returns the address of an image: its data, or where it is.
func (t *request) image(b value) []byte {
	b.take("cache_control")
	source := b.take("source")
	t.done(b)
	if !t.object(source) {
		t.fail(b, `"source" is missing`)
		return nil
	}
	var url []byte
	switch typ := source.take("type"); {
	case typ.is("base64"):
		media, data := t.need(source, "media_type"), t.need(source, "data")
		if t.err == nil {
			if bytes.IndexByte(media, '\\') >= 0 || bytes.IndexByte(media, ',') >= 0 || bytes.IndexByte(data, '\\') >= 0 {
				t.fail(source, "media_type and data must be plain")
			}
			url = slices.Concat([]byte(`"data:`), media[1:len(media)-1], []byte(";base64,"), data[1:])
		}
	case typ.is("url"):
		url = t.need(source, "url")
	default:
		t.fail(source, fmt.Sprintf("a source of type %q cannot be translated for the backend", clip(typ.string())))
	}
	t.done(source)
	return url
}

// toolResult writes the message that answers a call. A chat backend takes text
// only; images go to the user's next words, with a line that says whose they
// are.
func (t *request) toolResult(b value, said *parts) {
	id, content := t.label(b, "tool_use_id"), b.take("content")
	failed := t.flag(b.take("is_error"))
	b.take("cache_control")
	t.done(b)
	o := &t.out
	o.next()
	o.raw(`{"role":"tool","tool_call_id":`)
	o.bytes(id)
	o.raw(`,"content":`)
	defer o.raw("}")
	if content.kind() == '"' && !failed {
		o.bytes(content.raw())
		return
	}
	var texts [][]byte
	if content.kind() == '"' {
		texts = append(texts, content.raw())
	} else if t.list(content) {
		for c := range content.all() {
			if !t.object(c) {
				return
			}
			if p := t.userBlock(c, c.take("type")); p.url != nil {
				texts = t.moveImage(c, id, p, texts, said)
			} else {
				texts = append(texts, p.text)
			}
		}
	}
	if failed && t.err == nil { // a chat backend has no flag for it
		if len(texts) == 0 {
			texts = append(texts, []byte(`"(no text)"`))
		}
		texts[0] = slices.Concat([]byte(`"Error: `), texts[0][1:])
	}
	t.textParts(texts)
}

// moveImage brings an image of a result to the user's words.
func (t *request) moveImage(at value, id []byte, p part, texts [][]byte, said *parts) [][]byte {
	if t.err != nil {
		return texts
	}
	if t.x.opts.ignores(featToolImages) {
		t.x.note("ignored", featToolImages)
		return append(texts, []byte(`"(an image that this model cannot see)"`))
	}
	var line out
	line.quote(fmt.Sprintf("Image from the result of tool call %s:", unquote(id)))
	said.add(part{text: line.b})
	said.add(p)
	said.moved = len(said.list)
	return append(texts, []byte(`"(an image, which follows)"`))
}

// assistantTurn writes what the model said and called in one message. Chat
// messages do not say which came first.
func (t *request) assistantTurn(content value) {
	var texts [][]byte
	var calls []call
	if content.kind() == '"' {
		texts = append(texts, content.raw())
	} else if !t.list(content) {
		return
	} else {
		for b := range content.all() {
			if !t.object(b) {
				return
			}
			switch typ := b.take("type"); {
			case typ.is("text"):
				texts = append(texts, t.textBlock(b))
			case typ.is("tool_use"):
				calls = append(calls, t.toolUse(b))
			case typ.is("thinking"), typ.is("redacted_thinking"):
				t.ignored(b, featThinking, "the backend cannot read the thinking of another model")
			default:
				t.fail(b, fmt.Sprintf("a block of type %q cannot be translated for the backend", clip(typ.string())))
			}
		}
	}
	t.assistant(texts, calls)
}

// A call is a call of a tool, in JSON strings.
type call struct {
	id, name, input []byte
	custom          bool // input is plain text
}

func (t *request) toolUse(b value) call {
	c := call{id: t.label(b, "id"), name: t.label(b, "name")}
	input := b.take("input")
	if !input.ok() {
		t.fail(b, `"input" is missing`)
	}
	t.object(input)
	b.take("cache_control")
	if v := b.take("caller"); v.ok() && !v.member("type").is("direct") {
		t.fail(v, "the backend knows no such caller")
	}
	t.done(b)
	var quoted out
	quoted.quote(string(input.raw()))
	c.input = quoted.b
	return c
}

// assistant writes a message of the model.
func (t *request) assistant(texts [][]byte, calls []call) {
	o := &t.out
	o.next()
	o.raw(`{"role":"assistant","content":`)
	if len(texts) == 0 && len(calls) > 0 {
		o.raw("null")
	} else {
		t.textParts(texts)
	}
	if len(calls) > 0 {
		o.key("tool_calls")
		o.open("[")
		for _, c := range calls {
			o.next()
			o.raw(`{"id":`)
			o.bytes(c.id)
			if c.custom {
				o.raw(`,"type":"custom","custom":{"name":`)
				o.bytes(c.name)
				o.raw(`,"input":`)
			} else {
				o.raw(`,"type":"function","function":{"name":`)
				o.bytes(c.name)
				o.raw(`,"arguments":`)
			}
			o.bytes(c.input)
			o.raw("}}")
		}
		o.raw("]")
	}
	o.raw("}")
}

// claudeTools translates the definitions of the client's own tools.
func (t *request) claudeTools(list value) {
	if !t.list(list) || list.empty() {
		return
	}
	o := &t.out
	o.key("tools")
	o.open("[")
	for tool := range list.all() {
		if t.err != nil || !t.object(tool) {
			return
		}
		if typ := tool.take("type"); typ.ok() && !typ.is("custom") {
			t.ignored(tool, featHosted, fmt.Sprintf("a tool of type %q is known to its provider only", clip(typ.string())))
			continue
		}
		f := function{name: t.label(tool, "name"), description: t.text(tool.take("description")), strict: tool.take("strict")}
		schema := tool.take("input_schema")
		if !schema.ok() {
			t.fail(tool, `"input_schema" is missing`)
		}
		t.object(schema)
		f.schema = schema.raw()
		tool.take("cache_control")
		t.flag(tool.take("eager_input_streaming")) // about the speed of the stream only
		if v := tool.take("defer_loading"); t.flag(v) {
			t.fail(v, "the backend cannot search for tools")
		}
		if v := tool.take("allowed_callers"); v.ok() {
			for c := range v.all() {
				if !c.is("direct") {
					t.fail(c, "the backend knows no such caller")
				}
			}
		}
		if v := tool.take("input_examples"); !v.empty() {
			t.ignored(v, featExamples, "the backend takes no examples")
		}
		t.done(tool)
		t.function(f)
	}
	o.raw("]")
	if bytes.HasSuffix(o.b, []byte(`,"tools":[]`)) { // all were left out
		o.b = o.b[:len(o.b)-len(`,"tools":[]`)]
	}
}

// A function is a tool of the client, in JSON.
type function struct {
	name, description, schema []byte
	strict                    value
}

func (t *request) function(f function) {
	o := &t.out
	o.next()
	o.raw(`{"type":"function","function":{"name":`)
	o.bytes(f.name)
	if f.description != nil {
		o.field("description", f.description)
	}
	if f.schema != nil {
		o.field("parameters", f.schema)
	}
	if f.strict.ok() {
		t.flag(f.strict)
		o.field("strict", f.strict.raw())
	}
	o.raw("}}")
}

func (t *request) claudeToolChoice(v value) {
	if !t.object(v) {
		return
	}
	o := &t.out
	switch typ := v.take("type"); {
	case typ.is("auto"), typ.is("none"):
		o.field("tool_choice", typ.raw())
	case typ.is("any"):
		o.literal("tool_choice", `"required"`)
	case typ.is("tool"):
		o.key("tool_choice")
		o.raw(`{"type":"function","function":{"name":`)
		o.bytes(t.label(v, "name"))
		o.raw("}}")
	default:
		t.fail(v, "the backend knows no such choice")
	}
	if t.flag(v.take("disable_parallel_tool_use")) {
		o.literal("parallel_tool_calls", "false")
	}
	t.done(v)
}

// clip bounds what is quoted in an error.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
