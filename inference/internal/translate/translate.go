// Package translate lets clients that speak Anthropic's messages or OpenAI's
// responses talk to a backend that understands chat completions only.
//
// It is strict rather than lossy. Every object of a request is taken apart
// member by member, and a member that nobody took is an [Error] that names its
// path: what a chat request cannot say is refused and never dropped in silence.
// The host may give up a feature by name ([Options.Ignore]) or pass a vendor's
// extra field on ([Options.Pass]). What was left out is in [Exchange.Notes].
//
// Strings and numbers go over byte for byte: the arguments of a tool call are
// the bytes that the model or the client wrote, however large their integers.
// Repeated keys, invalid UTF-8 and deep nesting are refused.
//
// A few things are left out without a word from the host, because they cannot
// change an answer: cache_control and the prompt cache keys (a chat backend
// caches by itself, or not at all), ids of items, and what identifies the user
// to the provider (metadata, user, safety_identifier, client_metadata).
//
// An answer is translated whole ([Exchange.Response]) or as it streams
// ([Exchange.Stream]). There, what the client's protocol has no place for (a
// model's reasoning, log probabilities, a vendor's extras) is left out and
// noted: the answer has been paid for, and the client did not ask for it.
package translate

import (
	"fmt"
	"slices"
)

// A Protocol is what the client speaks.
type Protocol uint8

const (
	Messages  Protocol = iota // Anthropic: POST /v1/messages
	Responses                 // OpenAI: POST /v1/responses
)

// Options say how a backend is to be spoken to. The zero value gives up
// nothing.
type Options struct {
	// Ignore names features that are left out of requests; see [Ignorable].
	Ignore []string
	// Pass names top-level fields of the request that are copied to the chat
	// request as they are, such as "top_k" for servers that take it.
	Pass []string
	// MaxCompletionTokens limits the output by "max_completion_tokens", as
	// OpenAI's newer models want it, and not by "max_tokens".
	MaxCompletionTokens bool
	// MaxAnswer limits what is held of one answer, in bytes. Zero: 8 MiB.
	MaxAnswer int
	// ID is given to an answer that comes without one. Empty: a random one.
	ID string
}

const defaultMaxAnswer = 8 << 20

// Features that [Options.Ignore] may name besides top-level fields.
const (
	featThinking   = "thinking"     // messages: the parameter, and thinking blocks of earlier turns
	featReasoning  = "reasoning"    // responses: summaries, and reasoning items of earlier turns
	featEffort     = "effort"       // both: how hard the model is to think
	featVerbosity  = "verbosity"    // responses: text.verbosity
	featHosted     = "hosted_tools" // both: tools that the provider would run
	featExamples   = "input_examples"
	featCitations  = "citations"
	featPrefill    = "prefill" // messages: the last message is the assistant's, for the model to go on with
	featToolImages = "tool_images"
)

// ignorable lists the features, and the top-level fields that only tune.
var ignorable = []string{
	featThinking, featReasoning, featEffort, featVerbosity, featHosted, featExamples, featCitations, featPrefill, featToolImages,
	"context_management", "inference_geo", "max_tool_calls", "service_tier", "speed", "top_k", "top_logprobs", "truncation",
}

// Ignorable returns the words that [Options.Ignore] may hold.
func Ignorable() []string { return slices.Clone(ignorable) }

// reserved are the chat fields that a translation writes itself.
var reserved = []string{
	"model", "messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "max_tokens",
	"max_completion_tokens", "stop", "temperature", "top_p", "response_format", "reasoning_effort", "functions", "function_call", "n",
	"input", "instructions", "system", "previous_response_id", "conversation", "prompt", "background", "store",
}

// Validate reports words that mean nothing.
func (o Options) Validate() error {
	for _, w := range o.Ignore {
		if !slices.Contains(ignorable, w) {
			return fmt.Errorf("ignore: %q is not a feature that can be left out", w)
		}
	}
	for _, w := range o.Pass {
		if !plain(w) || slices.Contains(reserved, w) {
			return fmt.Errorf("pass: %q cannot be passed on as it is", w)
		}
	}
	return nil
}

// plain reports whether a field's name needs no escapes.
func plain(name string) bool {
	for _, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// An Error says what cannot be translated, and where.
type Error struct {
	// Path is where it stands, such as "messages[2].content[0].source".
	Path string
	// Reason is for people.
	Reason string
	// Feature is the word for [Options.Ignore] that would leave it out; may be
	// empty.
	Feature string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return e.Path + ": " + e.Reason
}

// Usage are the tokens of an answer as the backend counted them. Input is all
// of the prompt; Cached is a part of it, Reasoning a part of Output.
type Usage struct {
	Input, Cached, Output, Reasoning int64
}

// An Exchange is one request and its answer. It is not safe for concurrent use.
type Exchange struct {
	from     Protocol
	opts     Options
	streamed bool
	stops    []string             // messages: stop sequences, to recognise the one that was met
	echo     []echo               // responses: what the answer repeats of the request
	spaces   map[string]namespace // responses: tools in namespaces, by their chat name
	notes    []string
	usage    Usage
	counted  bool
}

type echo struct {
	key string
	raw []byte
}

// A namespace is where a function of the client lives.
type namespace struct{ space, name string }

// Notes say what was left out: "ignored:<feature>" by the host's word,
// "dropped:<field>" because it has no place. They are few and bounded.
func (x *Exchange) Notes() []string { return slices.Clone(x.notes) }

// maxNotes bounds what is noted of one exchange.
const maxNotes = 32

func (x *Exchange) note(kind, what string) {
	if len(what) > 80 {
		what = what[:80]
	}
	if n := kind + ":" + what; len(x.notes) < maxNotes && !slices.Contains(x.notes, n) {
		x.notes = append(x.notes, n)
	}
}

// Usage returns the last counts of the backend, and whether there were any.
func (x *Exchange) Usage() (Usage, bool) { return x.usage, x.counted }

// Ignores reports whether the feature is to be left out.
func (o *Options) ignores(feature string) bool {
	return feature != "" && slices.Contains(o.Ignore, feature)
}

// Limits of a request.
const (
	maxLabel  = 256      // of an id or a name, in bytes as it is written
	maxGrowth = 64 << 10 // what a request may become longer than twice its size, in bytes
)

// Request translates a request to chat completions. The body must be one JSON
// object; the returned one does not share memory with it. An error is an
// [*Error].
func Request(from Protocol, body []byte, opts Options) (*Exchange, []byte, error) {
	if opts.MaxAnswer <= 0 {
		opts.MaxAnswer = defaultMaxAnswer
	}
	x := &Exchange{from: from, opts: opts}
	t := &request{x: x, out: out{b: make([]byte, 0, len(body)+len(body)/8+256), max: 2*len(body) + maxGrowth}}
	if err := t.doc.parse(body); err != nil {
		return nil, nil, err
	}
	if from == Messages {
		t.messages(t.doc.root())
	} else {
		t.responses(t.doc.root())
	}
	if t.err == nil && t.out.full {
		t.err = &Error{Reason: "it becomes too large for the backend: what it says once would have to be said many times"}
	}
	if t.err != nil {
		return nil, nil, t.err
	}
	return x, t.out.b, nil
}

// A request is the work on one request. After the first error it goes on
// without effect.
type request struct {
	x   *Exchange
	doc doc
	out out
	err *Error
}

// fail notes the first error.
func (t *request) fail(v value, reason string) { t.refuse(v, "", reason) }

func (t *request) refuse(v value, feature, reason string) {
	if t.err == nil {
		if feature != "" {
			reason += fmt.Sprintf(" (the host may ignore %q)", feature)
		}
		t.err = &Error{Path: v.path(), Reason: reason, Feature: feature}
	}
}

// ignored reports whether the host gave the feature up; else v is refused.
func (t *request) ignored(v value, feature, reason string) bool {
	if t.x.opts.ignores(feature) {
		t.x.note("ignored", feature)
		return true
	}
	t.refuse(v, feature, reason)
	return false
}

// done refuses what nobody took of an object.
func (t *request) done(v value) {
	if left, ok := v.leftover(); ok {
		t.fail(left, "this field cannot be translated for the backend")
	}
}

// text returns a string as it is written, quotes included; absent is not an
// error and gives nil.
func (t *request) text(v value) []byte {
	if !v.ok() {
		return nil
	}
	if v.kind() != '"' {
		t.fail(v, "a string was expected")
		return nil
	}
	return v.raw()
}

// need is like text for what must be there: the member name of o.
func (t *request) need(o value, name string) []byte {
	v := o.take(name)
	if !v.ok() {
		t.fail(o, fmt.Sprintf("%q is missing", name))
		return nil
	}
	return t.text(v)
}

// label is like need for ids and names, some of which are written several times.
func (t *request) label(o value, name string) []byte {
	quoted := t.need(o, name)
	t.short(o.member(name))
	return quoted
}

// short refuses long ids and names; absent is not an error.
func (t *request) short(v value) {
	if len(v.raw()) > maxLabel+2 {
		t.fail(v, fmt.Sprintf("it must not be longer than %d bytes", maxLabel))
	}
}

// flag returns a boolean, false when absent.
func (t *request) flag(v value) bool {
	if !v.ok() {
		return false
	}
	if k := v.kind(); k != 't' && k != 'f' {
		t.fail(v, "true or false was expected")
	}
	return v.kind() == 't'
}

// object refuses anything else; absent is not an error.
func (t *request) object(v value) bool { return t.isKind(v, '{', "an object was expected") }
func (t *request) list(v value) bool   { return t.isKind(v, '[', "an array was expected") }
func (t *request) number(v value) bool { return t.isKind(v, '0', "a number was expected") }

func (t *request) isKind(v value, k byte, reason string) bool {
	if !v.ok() {
		return false
	}
	if v.kind() != k {
		t.fail(v, reason)
		return false
	}
	return true
}

// copyNumber copies an optional number to the chat field of the same or
// another name.
func (t *request) copyNumber(v value, as string) {
	if t.number(v) {
		t.out.field(as, v.raw())
	}
}

// rest deals with the top-level fields that nobody took.
func (t *request) rest(top value) {
	for m := range top.untaken() {
		name := m.name()
		switch {
		case slices.Contains(t.x.opts.Pass, name):
			t.out.field(name, m.raw())
		case m.kind() == 'n' && slices.Contains(ignorable, name):
		case slices.Contains(ignorable, name):
			t.ignored(m, name, "the backend has no such parameter")
		default:
			t.fail(m, "this field cannot be translated for the backend")
		}
	}
}

// hint takes top-level fields that cannot change an answer.
func (t *request) hint(top value, names ...string) {
	for _, name := range names {
		if slices.Contains(t.x.opts.Pass, name) {
			continue
		}
		if v := top.take(name); v.ok() {
			t.x.note("dropped", name)
		}
	}
}
