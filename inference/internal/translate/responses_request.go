package translate

import (
	"fmt"
	"slices"
)

// responses translates a request of OpenAI's responses.
func (t *request) responses(top value) {
	if !t.object(top) {
		return
	}
	o := &t.out
	o.open("{")
	o.field("model", t.need(top, "model"))
	t.stateless(top)
	t.echoes(top)

	// Tools come first: the conversation calls them by the names that they get.
	tools := out{max: t.out.max}
	t.out, tools = tools, t.out
	t.responseTools(top.take("tools"))
	t.out, tools = tools, t.out
	t.out.full = tools.full

	o.key("messages")
	o.open("[")
	if v := top.take("instructions"); v.ok() {
		o.next()
		o.raw(`{"role":"system","content":`)
		o.bytes(t.text(v))
		o.raw("}")
	}
	input := top.take("input")
	switch {
	case !input.ok():
		t.fail(top, `"input" is missing`)
	case input.kind() == '"':
		o.next()
		o.raw(`{"role":"user","content":`)
		o.bytes(input.raw())
		o.raw("}")
	default:
		t.items(input)
	}
	o.raw("]")
	if len(tools.b) > 0 {
		o.next()
		o.bytes(tools.b)
	}
	t.responseToolChoice(top.take("tool_choice"))
	if v := top.take("parallel_tool_calls"); v.ok() && len(tools.b) > 0 {
		t.flag(v)
		o.field("parallel_tool_calls", v.raw())
	}
	t.copyNumber(top.take("max_output_tokens"), t.limitField())
	t.copyNumber(top.take("temperature"), "temperature")
	t.copyNumber(top.take("top_p"), "top_p")
	t.reasoning(top.take("reasoning"))
	t.textConfig(top.take("text"))
	if v := top.take("truncation"); v.ok() && !v.is("disabled") {
		t.ignored(v, "truncation", "the backend does not shorten conversations")
	}
	if v := top.take("service_tier"); v.ok() && !v.is("auto") {
		t.ignored(v, "service_tier", "the backend has no such tier")
	}
	if v := top.take("include"); t.list(v) {
		for what := range v.all() {
			// The backend's answers hold no reasoning items that could be encrypted.
			if !what.is("reasoning.encrypted_content") {
				t.fail(what, "the backend cannot include this")
			}
		}
	}
	if v := top.take("stream_options"); t.object(v) {
		if obfuscate := v.take("include_obfuscation"); t.flag(obfuscate) {
			t.fail(obfuscate, "the stream cannot be padded")
		}
		t.done(v)
	}
	if v := top.take("metadata"); t.object(v) && !v.empty() {
		t.x.note("dropped", "metadata")
	}
	t.hint(top, "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "client_metadata")
	t.streaming(top)
	t.rest(top)
	o.raw("}")
}

// stateless refuses what needs a provider that keeps conversations.
func (t *request) stateless(top value) {
	for _, name := range []string{"previous_response_id", "conversation", "prompt"} {
		if v := top.take(name); v.ok() {
			t.fail(v, "the backend keeps nothing of earlier requests: send the whole input")
		}
	}
	for _, name := range []string{"store", "background"} {
		if v := top.take(name); t.flag(v) {
			t.fail(v, "the backend keeps no responses: it must be false")
		}
	}
}

// echoes keeps what the answer repeats. Instructions and tools are not
// repeated: they are large, and the client has them.
func (t *request) echoes(top value) {
	for _, name := range []string{"temperature", "top_p", "max_output_tokens", "parallel_tool_calls", "tool_choice",
		"truncation", "reasoning", "text", "metadata"} {
		if v := top.member(name); v.ok() {
			t.x.echo = append(t.x.echo, echo{name, slices.Clone(v.raw())})
		}
	}
}

func (t *request) reasoning(v value) {
	if !t.object(v) {
		return
	}
	t.effort(v.take("effort"))
	for _, name := range []string{"summary", "generate_summary"} {
		if s := v.take(name); s.ok() {
			t.ignored(s, featReasoning, "the backend gives no summaries of its reasoning")
		}
	}
	t.done(v)
}

func (t *request) textConfig(v value) {
	if !t.object(v) {
		return
	}
	o := &t.out
	if word := v.take("verbosity"); word.ok() {
		switch {
		case t.x.opts.ignores(featVerbosity):
			t.x.note("ignored", featVerbosity)
		case !word.is("low") && !word.is("medium") && !word.is("high"):
			t.refuse(word, featVerbosity, "the backend knows no such verbosity")
		default:
			o.field("verbosity", word.raw())
		}
	}
	format := v.take("format")
	t.done(v)
	if !t.object(format) {
		return
	}
	switch typ := format.take("type"); {
	case typ.is("text"):
	case typ.is("json_object"):
		o.literal("response_format", `{"type":"json_object"}`)
	case typ.is("json_schema"):
		o.key("response_format")
		o.raw(`{"type":"json_schema","json_schema":{"name":`)
		o.bytes(t.label(format, "name"))
		if d := t.text(format.take("description")); d != nil {
			o.field("description", d)
		}
		if strict := format.take("strict"); strict.ok() {
			t.flag(strict)
			o.field("strict", strict.raw())
		}
		schema := format.take("schema")
		if !t.object(schema) {
			t.fail(format, `"schema" is missing`)
		}
		o.field("schema", schema.raw())
		o.raw("}}")
	default:
		t.fail(format, "the backend knows no such format")
	}
	t.done(format)
}

// A pending is what is gathered from several items for one chat message.
type pending struct {
	texts [][]byte
	calls []call
	open  bool  // an assistant message
	shown parts // images out of results
}

// items translates a conversation.
func (t *request) items(list value) {
	if !t.list(list) {
		return
	}
	var p pending
	for item := range list.all() {
		if t.err != nil || !t.object(item) {
			return
		}
		t.text(item.take("id"))
		t.text(item.take("status"))
		switch typ := item.take("type"); {
		case !typ.ok() || typ.is("message"):
			t.message(item, &p)
		case typ.is("function_call"):
			t.flushImages(&p)
			p.open = true
			p.calls = append(p.calls, t.functionCall(item))
		case typ.is("custom_tool_call"):
			t.flushImages(&p)
			p.open = true
			c := call{id: t.label(item, "call_id"), input: t.need(item, "input"), custom: true}
			c.name = t.chatName(item)
			p.calls = append(p.calls, c)
		case typ.is("function_call_output"), typ.is("custom_tool_call_output"):
			t.flushAssistant(&p)
			t.callOutput(item, &p)
		case typ.is("reasoning"):
			t.ignored(item, featReasoning, "the backend cannot read the reasoning of another model")
			continue // what is in it goes with it
		default:
			t.fail(item, fmt.Sprintf("an item of type %q cannot be translated for the backend", clip(typ.string())))
		}
		t.done(item)
	}
	t.flushAssistant(&p)
	t.flushImages(&p)
}

func (t *request) flushAssistant(p *pending) {
	if p.open {
		t.assistant(p.texts, p.calls)
		p.texts, p.calls, p.open = nil, nil, false
	}
}

func (t *request) flushImages(p *pending) {
	if len(p.shown.list) > 0 {
		t.say("user", &p.shown)
		p.shown = parts{}
	}
}

func (t *request) say(role string, said *parts) {
	t.out.next()
	t.out.raw(`{"role":"` + role + `","content":`)
	said.write(&t.out)
	t.out.raw("}")
}

func (t *request) message(item value, p *pending) {
	role, content := item.take("role"), item.take("content")
	if !content.ok() {
		t.fail(item, `"content" is missing`)
		return
	}
	if role.is("assistant") {
		t.flushImages(p)
		if len(p.calls) == 0 { // else they are of one turn
			t.flushAssistant(p)
		}
		p.open = true
		t.text(item.take("phase")) // comment or answer: chat messages are both
		p.texts = append(p.texts, t.spoken(content)...)
		return
	}
	t.flushAssistant(p)
	switch {
	case role.is("user"):
		said := p.shown
		p.shown = parts{}
		t.heard(content, &said)
		t.say("user", &said)
	case role.is("developer"), role.is("system"): // chat backends know the older name
		t.flushImages(p)
		var said parts
		t.heard(content, &said)
		for _, one := range said.list {
			if one.text == nil {
				t.fail(content, "only text can stand here")
			}
		}
		t.say("system", &said)
	default:
		t.fail(item, "role must be user, assistant, system or developer")
	}
}

// heard translates content that comes from the client.
func (t *request) heard(content value, said *parts) {
	if content.kind() == '"' {
		said.add(part{text: content.raw()})
		return
	}
	if !t.list(content) {
		return
	}
	for c := range content.all() {
		if !t.object(c) {
			return
		}
		said.add(t.inputPart(c))
	}
}

func (t *request) inputPart(c value) part {
	var p part
	switch typ := c.take("type"); {
	case typ.is("input_text"):
		p.text = t.need(c, "text")
	case typ.is("input_image"):
		t.noFile(c)
		p.url, p.detail = t.need(c, "image_url"), t.text(c.take("detail"))
	case typ.is("input_file"):
		t.noFile(c)
		if v := c.take("file_url"); v.ok() {
			t.fail(v, "the backend fetches no files")
		}
		var file out
		file.open("{")
		if name := t.text(c.take("filename")); name != nil {
			file.field("filename", name)
		}
		file.field("file_data", t.need(c, "file_data"))
		file.raw("}")
		p.file = file.b
	default:
		t.fail(c, fmt.Sprintf("a part of type %q cannot be translated for the backend", clip(typ.string())))
	}
	t.done(c)
	return p
}

func (t *request) noFile(c value) {
	if v := c.take("file_id"); v.ok() {
		t.fail(v, "the backend keeps no files")
	}
}

// spoken translates content that the model said earlier.
func (t *request) spoken(content value) (texts [][]byte) {
	if content.kind() == '"' {
		return [][]byte{content.raw()}
	}
	if !t.list(content) {
		return nil
	}
	for c := range content.all() {
		if !t.object(c) {
			return nil
		}
		switch typ := c.take("type"); {
		case typ.is("output_text"), typ.is("input_text"):
			texts = append(texts, t.need(c, "text"))
			if v := c.take("annotations"); !v.empty() {
				t.ignored(v, featCitations, "the backend has no annotations")
			}
			if v := c.take("logprobs"); !v.empty() {
				t.fail(v, "the backend takes no probabilities")
			}
		case typ.is("refusal"):
			texts = append(texts, t.need(c, "refusal"))
		default:
			t.fail(c, fmt.Sprintf("a part of type %q cannot be translated for the backend", clip(typ.string())))
		}
		t.done(c)
	}
	return texts
}

func (t *request) functionCall(item value) call {
	return call{id: t.label(item, "call_id"), input: t.need(item, "arguments"), name: t.chatName(item)}
}

// callOutput writes the message that answers a call. Images go to what the user
// says next.
func (t *request) callOutput(item value, p *pending) {
	id, output := t.label(item, "call_id"), item.take("output")
	o := &t.out
	o.next()
	o.raw(`{"role":"tool","tool_call_id":`)
	o.bytes(id)
	o.raw(`,"content":`)
	defer o.raw("}")
	if output.kind() == '"' {
		o.bytes(output.raw())
		return
	}
	if !output.ok() || !t.list(output) {
		t.fail(item, `"output" must be a string or an array`)
		return
	}
	var texts [][]byte
	for c := range output.all() {
		if !t.object(c) {
			return
		}
		switch one := t.inputPart(c); {
		case one.url != nil:
			texts = t.moveImage(c, id, one, texts, &p.shown)
		case one.text != nil:
			texts = append(texts, one.text)
		default:
			t.fail(c, "only text and images can stand here")
		}
	}
	t.textParts(texts)
}

// chatName returns the chat name of the tool that an item calls.
func (t *request) chatName(item value) []byte {
	name, space := t.label(item, "name"), item.take("namespace")
	t.short(space)
	if t.text(space) == nil || t.err != nil {
		return name
	}
	return t.inNamespace(item, space.string(), unquote(name))
}

// inNamespace gives a function of a namespace its chat name, which the answer
// is translated back from.
func (t *request) inNamespace(at value, space, name string) []byte {
	chat := space + "__" + name
	if len(chat) > 64 {
		t.fail(at, fmt.Sprintf("the names %q and %q are too long together for the backend", clip(space), clip(name)))
	}
	ns := namespace{space, name}
	if other, ok := t.x.spaces[chat]; ok && other != ns {
		t.fail(at, fmt.Sprintf("the backend cannot tell it from another tool named %q", clip(chat)))
	}
	if t.x.spaces == nil {
		t.x.spaces = map[string]namespace{}
	}
	t.x.spaces[chat] = ns
	var quoted out
	quoted.quote(chat)
	return quoted.b
}

// unquoted decodes a JSON string that may be missing.
func unquoted(quoted []byte) string {
	if quoted == nil {
		return ""
	}
	return unquote(quoted)
}
