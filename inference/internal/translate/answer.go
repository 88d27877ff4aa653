package translate

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strconv"
)

// An answer is a whole chat completion.
type answer struct {
	head
	text, refusal []byte // JSON strings; nil: none
	calls         []call
	finish        string
	stop          []byte // the stop sequence that was met, as some servers tell it
}

// A head says which answer it is.
type head struct {
	id      []byte // a JSON string
	model   []byte // a JSON string
	created []byte // a number
}

// Reasons to end that chat completions know.
const (
	endStop    = "stop"
	endLength  = "length"
	endCalls   = "tool_calls"
	endFilter  = "content_filter"
	endRefusal = "refusal" // ours: the model said so in words
)

// Response translates a whole answer. An error is an [*Error] about the
// backend's answer, with paths into it.
func (x *Exchange) Response(body []byte) ([]byte, error) {
	var d doc
	if err := d.parse(body); err != nil {
		return nil, err
	}
	if len(body) > x.opts.MaxAnswer {
		return nil, &Error{Reason: "it is too large"}
	}
	r := reader{x: x}
	a := r.answer(d.root())
	if r.err != nil {
		return nil, r.err
	}
	var o out
	var err *Error
	if x.from == Messages {
		err = x.messagesAnswer(&o, a)
	} else {
		x.responsesAnswer(&o, a)
	}
	if err != nil {
		return nil, err
	}
	return o.b, nil
}

// A reader reads what backends send. After the first error it goes on without
// effect.
type reader struct {
	x   *Exchange
	err *Error
}

func (r *reader) fail(v value, reason string) {
	if r.err == nil {
		r.err = &Error{Path: v.path(), Reason: reason}
	}
}

// text returns an optional string as it is written.
func (r *reader) text(v value) []byte {
	if !v.ok() {
		return nil
	}
	if v.kind() != '"' {
		r.fail(v, "a string was expected")
		return nil
	}
	return v.raw()
}

// nonempty is like text, and nil for "".
func (r *reader) nonempty(v value) []byte {
	if b := r.text(v); len(b) > 2 {
		return b
	}
	return nil
}

// Limits of what an answer repeats, in bytes as it is written.
const (
	maxName    = 1 << 10 // of a model or a tool
	maxCreated = 20      // of a time
)

// id is like nonempty, with an id of ours for one that is too long to be
// repeated: the same each time.
func (r *reader) id(v value) []byte {
	b := r.nonempty(v)
	if len(b) > maxLabel+2 {
		b = fmt.Appendf(nil, `"id_%x"`, sha256.Sum256(b))
	}
	return b
}

// label is like nonempty for a name, which has a limit.
func (r *reader) label(v value) []byte {
	b := r.nonempty(v)
	if len(b) > maxName+2 {
		r.fail(v, fmt.Sprintf("a name is longer than %d bytes", maxName))
		return nil
	}
	return b
}

// drop notes what nobody took of an object. Values that say nothing are not
// worth a note.
func (r *reader) drop(v value, at string) {
	for m := range v.untaken() {
		switch {
		case m.kind() == 'n', m.kind() == '"' && len(m.raw()) == 2, (m.kind() == '[' || m.kind() == '{') && m.empty():
		case m.kind() == 'f':
		default:
			r.x.note("dropped", at+m.name())
		}
	}
}

// head reads what says which answer it is; parts of it may be missing.
func (r *reader) head(v value) head {
	h := head{id: r.id(v.take("id")), model: r.label(v.take("model"))}
	if c := v.take("created"); c.kind() == '0' && len(c.raw()) <= maxCreated {
		h.created = c.raw()
	}
	for _, name := range []string{"object", "system_fingerprint", "service_tier", "obfuscation"} {
		v.take(name)
	}
	return h
}

// complete fills in what a client must see.
func (h *head) complete(id string) {
	if h.id == nil {
		if id == "" {
			id = rand.Text()
		}
		var quoted out
		quoted.quote(id)
		h.id = quoted.b
	}
	if h.model == nil {
		h.model = []byte(`""`)
	}
	if h.created == nil {
		h.created = []byte("0")
	}
}

func (r *reader) answer(v value) answer {
	var a answer
	if v.kind() != '{' {
		r.fail(v, "an object was expected")
		return a
	}
	if e := v.take("error"); e.ok() {
		r.fail(e, "it is an error: "+clip(errorMessage(e)))
		return a
	}
	a.head = r.head(v)
	a.head.complete(r.x.opts.ID)
	r.usage(v.take("usage"))
	choice, ok := r.choice(v)
	if !ok {
		r.fail(v, "it has no choice")
		return a
	}
	message := choice.take("message")
	if message.kind() != '{' {
		r.fail(choice, `"message" is missing`)
		return a
	}
	a.finish = r.finish(choice)
	if a.finish == "" {
		r.fail(choice, "it does not say how it ended")
	}
	a.stop = r.stop(choice)
	a.text, a.refusal = r.said(message)
	r.reasoned(message)
	if list := message.take("tool_calls"); list.ok() {
		if list.kind() != '[' {
			r.fail(list, "an array was expected")
		}
		for c := range list.all() {
			a.calls = append(a.calls, r.call(c))
		}
	}
	r.drop(message, "message.")
	r.drop(choice, "choice.")
	r.drop(v, "")
	a.finish = settled(a.finish, len(a.calls) > 0, a.refusal != nil)
	return a
}

// choice returns the only choice; there may be none in a chunk.
func (r *reader) choice(v value) (value, bool) {
	list := v.take("choices")
	if !list.ok() || list.empty() {
		return value{}, false
	}
	var first value
	for c := range list.all() {
		if first.ok() || c.kind() != '{' {
			r.fail(c, "one choice was expected")
			return value{}, false
		}
		first = c
	}
	if i := first.take("index"); i.ok() && string(i.raw()) != "0" {
		r.fail(i, "one choice was expected")
		return value{}, false
	}
	return first, r.err == nil
}

// finish returns how an answer ended, or "".
func (r *reader) finish(choice value) string {
	v := choice.take("finish_reason")
	switch s := v.string(); s {
	case "", endStop, endLength, endCalls, endFilter:
		return s
	case "eos", "end_turn", "eos_token", "stop_sequence": // of servers that let their engine's word through
		return endStop
	default:
		r.fail(v, fmt.Sprintf("it ended with %q, which has no translation", clip(s)))
		return ""
	}
}

// settled is what an end comes to: some servers end calls with "stop", and a
// client waits forever for calls that are not there.
func settled(finish string, calls, refused bool) string {
	switch {
	case finish == endStop && calls:
		return endCalls
	case finish == endCalls && !calls:
		finish = endStop
	}
	if finish == endStop && refused {
		return endRefusal
	}
	return finish
}

// stop returns the stop sequence that was met. vLLM tells it; a number is a
// token of the model's own.
func (r *reader) stop(choice value) []byte {
	v := choice.take("stop_reason")
	for _, s := range r.x.stops {
		if v.is(s) {
			return v.raw()
		}
	}
	return nil
}

// said takes what the model said in a message or a delta.
func (r *reader) said(m value) (text, refusal []byte) {
	m.take("role")
	text, refusal = r.nonempty(m.take("content")), r.nonempty(m.take("refusal"))
	for _, name := range []string{"audio", "function_call"} {
		if v := m.take(name); v.ok() {
			r.fail(v, "this has no translation")
		}
	}
	return text, refusal
}

// reasoned takes a model's reasoning, for which there is no place, and reports
// whether there was some.
func (r *reader) reasoned(m value) bool {
	found := false
	for _, name := range []string{"reasoning_content", "reasoning", "reasoning_details"} {
		if v := m.take(name); v.kind() == '"' && len(v.raw()) > 2 || v.kind() == '[' && !v.empty() {
			r.x.note("dropped", featReasoning)
			found = true
		}
	}
	return found
}

// call reads a whole call.
func (r *reader) call(v value) call {
	c := call{id: r.id(v.take("id"))}
	if v.kind() != '{' || c.id == nil {
		r.fail(v, "a call has no id")
		return c
	}
	typ := v.take("type")
	v.take("index")
	var inner value
	if c.custom = typ.is("custom"); c.custom {
		inner = v.take("custom")
		c.input = r.text(inner.take("input"))
		if c.input == nil {
			c.input = []byte(`""`)
		}
	} else {
		inner = v.take("function")
		c.input = r.text(inner.take("arguments"))
		if blank(c.input) {
			c.input = []byte(`"{}"`)
		}
	}
	if c.name = r.label(inner.take("name")); c.name == nil {
		r.fail(v, "a call has no name")
	}
	r.drop(inner, "call.")
	r.drop(v, "call.")
	return c
}

// blank reports whether a JSON string holds nothing but space.
func blank(quoted []byte) bool {
	if len(quoted) <= 2 {
		return true
	}
	in := quoted[1 : len(quoted)-1]
	for i := 0; i < len(in); i++ {
		switch in[i] {
		case ' ':
		case '\\':
			if i++; in[i] != 'n' && in[i] != 't' && in[i] != 'r' {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// usage takes counts, the last ones of an answer standing, unless they do not say how
// much was read and written.
func (r *reader) usage(v value) {
	read, written := v.member("prompt_tokens"), v.member("completion_tokens")
	if !isCount(read) || !isCount(written) {
		return
	}
	r.x.counted = true
	u := &r.x.usage
	u.Input, u.Output = count(read), count(written)
	u.Cached = min(count(v.member("prompt_tokens_details").member("cached_tokens")), u.Input)
	u.Reasoning = min(count(v.member("completion_tokens_details").member("reasoning_tokens")), u.Output)
}

// isCount reports whether v is a whole number that fits.
func isCount(v value) bool {
	_, err := strconv.ParseInt(string(v.raw()), 10, 64)
	return err == nil
}

// count reads a number of tokens; what is not one counts as none.
func count(v value) int64 {
	n, err := strconv.ParseInt(string(v.raw()), 10, 64)
	if err != nil {
		return 0
	}
	return max(n, 0)
}
