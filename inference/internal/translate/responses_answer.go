package translate

import "strconv"

// responsesAnswer writes an answer as OpenAI's response.
func (x *Exchange) responsesAnswer(o *out, a answer) {
	var items out
	status := func(last bool) string {
		if last {
			return itemStatus(a.finish)
		}
		return itemStatus("")
	}
	if a.text != nil || a.refusal != nil {
		x.messageItem(&items, a.head, 0, status(len(a.calls) == 0), a.text, a.refusal)
	}
	for i, c := range a.calls {
		items.next()
		x.callItem(&items, a.head, i+1, status(i == len(a.calls)-1), c)
	}
	x.responseObject(o, a.head, statusOf(a.finish), items.b)
}

// A status is how a response stands.
type status struct {
	word    string
	why     string // incomplete: the reason
	code    string // failed
	message []byte // failed: a JSON string
}

func statusOf(finish string) status {
	switch finish {
	case endLength:
		return status{word: "incomplete", why: "max_output_tokens"}
	case endFilter:
		return status{word: "incomplete", why: "content_filter"}
	}
	return status{word: "completed"}
}

// itemStatus is how the item stands that was the last when the answer ended so.
func itemStatus(finish string) string {
	if finish == endLength || finish == endFilter {
		return "incomplete"
	}
	return "completed"
}

// responseObject writes a response with the given output items.
func (x *Exchange) responseObject(o *out, h head, s status, items []byte) {
	o.raw(`{"id":`)
	o.bytes(derived("resp", h.id, -1))
	o.raw(`,"object":"response","created_at":`)
	o.bytes(h.created)
	o.word("status", s.word)
	o.field("model", h.model)
	o.key("output")
	o.raw("[")
	o.bytes(items)
	o.raw("]")
	if s.code != "" {
		o.key("error")
		o.raw("{")
		o.word("code", s.code)
		o.field("message", s.message)
		o.raw("}")
	} else {
		o.literal("error", "null")
	}
	if s.why != "" {
		o.literal("incomplete_details", `{"reason":"`+s.why+`"}`)
	} else {
		o.literal("incomplete_details", "null")
	}
	o.raw(`,"store":false,"previous_response_id":null`)
	for _, e := range x.echo {
		o.field(e.key, e.raw)
	}
	o.key("usage")
	if s.word == "in_progress" || !x.counted {
		o.raw("null}")
		return
	}
	u := x.usage
	o.raw(`{"input_tokens":`)
	o.integer(u.Input)
	o.raw(`,"input_tokens_details":{"cached_tokens":`)
	o.integer(u.Cached)
	o.raw(`},"output_tokens":`)
	o.integer(u.Output)
	o.raw(`,"output_tokens_details":{"reasoning_tokens":`)
	o.integer(u.Reasoning)
	o.raw(`},"total_tokens":`)
	o.integer(u.Input + u.Output)
	o.raw("}}")
}

// derived makes an id out of the answer's.
func derived(prefix string, id []byte, index int) []byte {
	b := append([]byte(`"`+prefix+"_"), id[1:len(id)-1]...)
	if index >= 0 {
		b = append(b, '_')
		b = strconv.AppendInt(b, int64(index), 10)
	}
	return append(b, '"')
}

// messageItem writes what the model said.
func (x *Exchange) messageItem(o *out, h head, index int, status string, text, refusal []byte) {
	o.raw(`{"id":`)
	o.bytes(derived("msg", h.id, index))
	o.raw(`,"type":"message","role":"assistant","status":"` + status + `","content":[`)
	if text != nil {
		o.next()
		textPart(o, text)
	}
	if refusal != nil {
		o.next()
		refusalPart(o, refusal)
	}
	o.raw("]}")
}

func textPart(o *out, text []byte) {
	o.raw(`{"type":"output_text","annotations":[],"logprobs":[],"text":`)
	o.bytes(text)
	o.raw("}")
}

func refusalPart(o *out, text []byte) {
	o.raw(`{"type":"refusal","refusal":`)
	o.bytes(text)
	o.raw("}")
}

// callItem writes a call under the name that the client knows.
func (x *Exchange) callItem(o *out, h head, index int, status string, c call) {
	if c.custom {
		o.raw(`{"id":`)
		o.bytes(derived("ctc", h.id, index))
		o.raw(`,"type":"custom_tool_call","status":"` + status + `","call_id":`)
	} else {
		o.raw(`{"id":`)
		o.bytes(derived("fc", h.id, index))
		o.raw(`,"type":"function_call","status":"` + status + `","call_id":`)
	}
	o.bytes(c.id)
	if ns, ok := x.spaces[unquote(c.name)]; ok {
		o.word("name", ns.name)
		o.word("namespace", ns.space)
	} else {
		o.field("name", c.name)
	}
	if c.custom {
		o.field("input", c.input)
	} else {
		o.field("arguments", c.input)
	}
	o.raw("}")
}
