package translate

// A responsesSink writes OpenAI's events. The events that end a part, an item
// and the response repeat what was streamed, so it keeps that, within
// [Options.MaxAnswer].
type responsesSink struct {
	s        *stream
	sequence int64
	index    int64 // of the open item, or of the next
	items    out   // those that are complete

	message bool   // the open item is a message
	content int64  // index of the open part, or of the next
	parts   out    // complete parts of the open message
	said    []byte // the open part or input, between its quotes
}

func (r *responsesSink) event(name string) *out {
	o := &r.s.out
	o.raw("event: ")
	o.raw(name)
	o.raw("\ndata: {\"type\":\"")
	o.raw(name)
	o.raw(`"`)
	o.count("sequence_number", r.sequence)
	r.sequence++
	return o
}

func (r *responsesSink) end() { r.s.out.raw("}\n\n") }

func (r *responsesSink) response(name string, s status, items []byte) {
	o := r.event(name)
	o.key("response")
	r.s.x.responseObject(o, r.s.head, s, items)
	r.end()
}

func (r *responsesSink) start() {
	r.response("response.created", status{word: "in_progress"}, nil)
	r.response("response.in_progress", status{word: "in_progress"}, nil)
}

func (r *responsesSink) idle() {} // there is no event for it

// item starts an event about the open item.
func (r *responsesSink) item(name string) *out {
	o := r.event(name)
	o.count("output_index", r.index)
	return o
}

// part starts an event about the open part of a message.
func (r *responsesSink) part(name string) *out {
	o := r.item(name)
	o.field("item_id", derived("msg", r.s.head.id, int(r.index)))
	o.count("content_index", r.content)
	return o
}

func (r *responsesSink) open(b block) {
	r.said = r.said[:0]
	if b == blockCall {
		r.closeMessage()
		o := r.item("response.output_item.added")
		o.key("item")
		c := r.s.current().call
		c.input = []byte(`""`)
		r.s.x.callItem(o, r.s.head, int(r.index), "in_progress", c)
		r.end()
		return
	}
	if !r.message {
		r.message, r.content, r.parts.b = true, 0, r.parts.b[:0]
		o := r.item("response.output_item.added")
		o.key("item")
		r.s.x.messageItem(o, r.s.head, int(r.index), "in_progress", nil, nil)
		r.end()
	}
	o := r.part("response.content_part.added")
	o.key("part")
	r.writePart(o, b, []byte(`""`))
	r.end()
}

func (r *responsesSink) writePart(o *out, b block, quoted []byte) {
	if b == blockRefusal {
		refusalPart(o, quoted)
	} else {
		textPart(o, quoted)
	}
}

func (r *responsesSink) text(quoted []byte) {
	in := quoted[1 : len(quoted)-1]
	r.said = append(r.said, in...)
	r.s.held += len(in)
	var o *out
	switch r.s.block {
	case blockText:
		o = r.part("response.output_text.delta")
		o.literal("logprobs", "[]")
	case blockRefusal:
		o = r.part("response.refusal.delta")
	default:
		o = r.item("response." + r.callWord() + ".delta")
		o.field("item_id", r.callID())
	}
	o.field("delta", quoted)
	r.end()
}

func (r *responsesSink) callWord() string {
	if r.s.current().custom {
		return "custom_tool_call_input"
	}
	return "function_call_arguments"
}

func (r *responsesSink) callID() []byte {
	prefix := "fc"
	if r.s.current().custom {
		prefix = "ctc"
	}
	return derived(prefix, r.s.head.id, int(r.index))
}

func (r *responsesSink) close(b block) {
	quoted := append(append([]byte{'"'}, r.said...), '"')
	if b == blockCall {
		r.closeCall(quoted)
		return
	}
	name, field := "response.output_text.done", "text"
	if b == blockRefusal {
		name, field = "response.refusal.done", "refusal"
	}
	o := r.part(name)
	if b == blockText {
		o.literal("logprobs", "[]")
	}
	o.field(field, quoted)
	r.end()
	r.parts.next()
	r.writePart(&r.parts, b, quoted)
	o = r.part("response.content_part.done")
	o.key("part")
	r.writePart(o, b, quoted)
	r.end()
	r.content++
}

func (r *responsesSink) closeCall(quoted []byte) {
	c := r.s.current().call
	c.input = quoted
	field := "arguments"
	if c.custom {
		field = "input"
	}
	o := r.item("response." + r.callWord() + ".done")
	o.field("item_id", r.callID())
	o.field(field, quoted)
	r.end()
	var item out
	r.s.x.callItem(&item, r.s.head, int(r.index), itemStatus(r.s.finish), c)
	r.itemDone(item.b)
}

// closeMessage ends the message that is open, if there is one.
func (r *responsesSink) closeMessage() {
	if !r.message {
		return
	}
	r.message = false
	var item out
	item.raw(`{"id":`)
	item.bytes(derived("msg", r.s.head.id, int(r.index)))
	item.raw(`,"type":"message","role":"assistant","status":"` + itemStatus(r.s.finish) + `","content":[`)
	item.bytes(r.parts.b)
	item.raw("]}")
	r.itemDone(item.b)
}

func (r *responsesSink) itemDone(item []byte) {
	o := r.item("response.output_item.done")
	o.field("item", item)
	r.end()
	r.items.next()
	r.items.bytes(item)
	r.index++
}

func (r *responsesSink) finish(finish string, _ []byte) {
	r.closeMessage()
	s := statusOf(finish)
	r.response("response."+s.word, s, r.items.b)
}

func (r *responsesSink) fail(status int, message string) {
	code := "server_error"
	if status == 429 {
		code = "rate_limit_exceeded"
	}
	var quoted out
	quoted.quote(message)
	if !r.s.started {
		o := r.event("error")
		o.word("code", code)
		o.field("message", quoted.b)
		o.literal("param", "null")
		r.end()
		return
	}
	r.response("response.failed", statusFailed(code, quoted.b), r.items.b)
}

func statusFailed(code string, message []byte) status {
	return status{word: "failed", code: code, message: message}
}
