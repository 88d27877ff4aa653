package translate

import "github.com/go-json-experiment/json/jsontext"

// messagesAnswer writes an answer as Anthropic's message.
func (x *Exchange) messagesAnswer(o *out, a answer) *Error {
	o.raw(`{"id":`)
	o.bytes(a.id)
	o.raw(`,"type":"message","role":"assistant","model":`)
	o.bytes(a.model)
	o.raw(`,"content":[`)
	for _, text := range [][]byte{a.text, a.refusal} {
		if text != nil {
			o.next()
			o.raw(`{"type":"text","text":`)
			o.bytes(text)
			o.raw("}")
		}
	}
	for _, c := range a.calls {
		input := jsontext.Value(unquote(c.input))
		if c.custom || !input.IsValid() || input.Kind() != '{' {
			return &Error{Path: "choices[0].message.tool_calls", Reason: "the arguments of " + clip(unquote(c.name)) + " are not a JSON object"}
		}
		o.next()
		o.raw(`{"type":"tool_use","id":`)
		o.bytes(c.id)
		o.field("name", c.name)
		o.field("input", trim(input))
		o.raw("}")
	}
	o.raw(`],`)
	messagesEnd(o, a.finish, a.stop)
	o.key("usage")
	x.messagesUsage(o)
	o.raw("}")
	return nil
}

// trim removes space around a value.
func trim(v []byte) []byte {
	isSpace := func(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }
	for len(v) > 0 && isSpace(v[0]) {
		v = v[1:]
	}
	for len(v) > 0 && isSpace(v[len(v)-1]) {
		v = v[:len(v)-1]
	}
	return v
}

// messagesEnd writes why the model stopped.
func messagesEnd(o *out, finish string, stop []byte) {
	reason := "end_turn"
	switch {
	case finish == endLength:
		reason = "max_tokens"
	case finish == endCalls:
		reason = "tool_use"
	case finish == endFilter, finish == endRefusal:
		reason = "refusal"
	case stop != nil:
		reason = "stop_sequence"
	}
	o.raw(`"stop_reason":"` + reason + `","stop_sequence":`)
	if reason == "stop_sequence" {
		o.bytes(stop)
	} else {
		o.raw("null")
	}
}

// messagesUsage writes the counts, which are disjoint in this protocol.
func (x *Exchange) messagesUsage(o *out) {
	o.raw(`{"input_tokens":`)
	o.integer(x.usage.Input - x.usage.Cached)
	o.raw(`,"cache_creation_input_tokens":0,"cache_read_input_tokens":`)
	o.integer(x.usage.Cached)
	o.raw(`,"output_tokens":`)
	o.integer(x.usage.Output)
	o.raw("}")
}
