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
