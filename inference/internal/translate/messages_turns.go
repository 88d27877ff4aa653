package translate

import (
	"bytes"
	"fmt"
	"slices"
)

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
