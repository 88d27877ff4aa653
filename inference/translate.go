package inference

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference/internal/translate"
)

// Translate lets clients of other protocols use a backend that understands chat
// completions only. A request that the backend cannot be told exactly is
// refused; Ignore and Pass are the host's word for what may be lost. Messages and
// responses are translated, with their streams, and nothing else. An answer in one
// piece, and the text of a stream of responses, may have 8 MiB.
type Translate struct {
	// Protocols are [Anthropic], [OpenAIResponses] or both. Empty: nothing is
	// translated.
	Protocols []Protocol `yaml:"protocols"`
	// Ignore names features that are left out of requests, each use being on
	// record as "ignored:<feature>": thinking, reasoning, effort, verbosity,
	// hosted_tools, input_examples, citations, prefill, tool_images,
	// context_management, inference_geo, max_tool_calls, service_tier, speed,
	// top_k, top_logprobs, truncation.
	Ignore []string `yaml:"ignore"`
	// Pass names fields at the top of requests that the backend understands
	// beyond chat completions, such as top_k.
	Pass []string `yaml:"pass"`
	// MaxCompletionTokens limits answers by "max_completion_tokens", as OpenAI's
	// newer models want it, and not by "max_tokens". It says that the backend reads
	// both names, and is of use without Protocols as well: a client's own request
	// that has the newer name alone is else given max_tokens too. OpenAI's and
	// Azure's hosts are known.
	MaxCompletionTokens bool `yaml:"max_completion_tokens"`
	// EstimateTokens answers Anthropic's count_tokens, which chat backends lack,
	// with an estimate by the size of the request: a token for four bytes. It is on
	// record as "estimated". Without it such requests are refused.
	EstimateTokens bool `yaml:"estimate_tokens"`
}

// options are the words of the host for the translation.
func (t Translate) options() translate.Options {
	return translate.Options{Ignore: t.Ignore, Pass: t.Pass, MaxCompletionTokens: t.MaxCompletionTokens}
}

// check checks what b says about translation.
func (b *Backend) checkTranslate() error {
	t := b.Translate
	if len(t.Protocols) == 0 {
		if len(t.Ignore) > 0 || len(t.Pass) > 0 || t.EstimateTokens {
			return errors.New("translate: protocols is empty: nothing is translated")
		}
		return nil
	}
	if !slices.Contains(b.Protocols, OpenAI) {
		return fmt.Errorf("translate: the backend must speak %s", OpenAI)
	}
	for i, p := range t.Protocols {
		switch {
		case p != Anthropic && p != OpenAIResponses:
			return fmt.Errorf("translate: %q cannot be translated: use %s or %s", p, Anthropic, OpenAIResponses)
		case slices.Contains(b.Protocols, p), slices.Contains(t.Protocols[:i], p):
			return fmt.Errorf("translate: the backend speaks %q already", p)
		}
	}
	if err := t.options().Validate(); err != nil {
		return fmt.Errorf("translate: %w", err)
	}
	return nil
}

// speaks are the protocols in which clients can use the backend.
func (b *Backend) speaks() []Protocol { return slices.Concat(b.Protocols, b.Translate.Protocols) }

// A rendering is a request as one target gets it.
type rendering struct {
	sent     []byte
	letter   *letter             // of sent; nil: there was no room for it
	drop     bool                // the stream's usage chunk is not for the client
	exchange *translate.Exchange // nil: it is not translated
	asks     *envelope           // what the backend is asked for, with spans in scanned
	scanned  []byte
	estimate int64 // of tokens, to be answered here; nothing is sent
	refused  error // it cannot be translated, or there is no room for it
}

// render makes the body that goes to t, which is the client's own if it is sent as
// it came. The memory of a copy is taken before it is made.
func (c *call) render(t *target) rendering {
	c.env.form = t.backend.wire
	edits, drop := editsOf(c.op, c.body, &c.env, t.model, c.limitEdits(t)...)
	r := rendering{sent: c.body, letter: &c.own, drop: drop, asks: &c.env, scanned: c.body}
	if len(edits) > 0 {
		if r.letter = c.newLetter(splicedLen(c.body, edits)); r.letter == nil {
			r.refused = errNoRoom
			return r
		}
		r.sent = splice(c.body, edits)
		r.letter.text = r.sent
	}
	if t.translated {
		c.translate(t, &r)
	}
	return r
}

// scrap gives back the memory of what is not sent, or not any more.
func (c *call) scrap(r rendering) {
	if r.letter != nil && r.letter != &c.own {
		r.letter.end()
	}
}

// translate makes chat completions of what r has for t. They are scanned again: what
// policy decides about is what the backend will read.
func (c *call) translate(t *target, r *rendering) {
	from := translate.Messages
	switch {
	case c.op == opMessages:
	case c.op == opResponses:
		from = translate.Responses
	case c.op == opCountMessages && t.backend.Translate.EstimateTokens:
		r.estimate, r.asks = estimate(len(c.body)), new(envelope)
		return
	default:
		r.refused = errors.New("the backend of this model does not offer this operation")
		return
	}
	chat := c.newLetter(len(r.sent))
	if chat == nil {
		r.refused = errNoRoom
		return
	}
	asks := new(envelope)
	if r.exchange, chat.text, r.refused = translate.Request(from, r.sent, t.backend.Translate.options()); r.refused == nil {
		r.refused = scan(opChat, chat.text, asks)
	}
	if r.refused == nil && !chat.grow(cap(chat.text)) { // it may say more than the client did
		r.refused = errNoRoom
	}
	if r.refused != nil {
		chat.end()
		return
	}
	c.scrap(*r)
	r.sent, r.letter, r.drop, r.asks, r.scanned = chat.text, chat, false, asks, chat.text
}

// unrendered is the denial of a request that t cannot be told.
func unrendered(d governance.Decision, why error) *denial {
	if errors.Is(why, errNoRoom) {
		return &denial{busy, governance.Decision{Decision: guarded(audit.GuardLimit), Action: d.Action, Resource: d.Resource}}
	}
	no := governance.Decision{Decision: guarded(audit.GuardTranslation), Action: d.Action, Resource: d.Resource}
	return &denial{refusal{
		status: http.StatusBadRequest, code: "cannot_translate",
		message: "the request cannot be translated for the backend of this model: " + why.Error(),
	}, no}
}

// tellEstimate answers a question for the count of tokens.
func (c *call) tellEstimate() {
	c.note("estimated")
	data := fmt.Appendf(nil, `{"input_tokens":%d}`, c.estimate)
	c.out.Status, c.out.Bytes = audit.StatusOK, int64(len(data))
	if err := c.end(); err != nil {
		c.unanswered(err).write(c.w, c.protocol)
		return
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(data)
}

// answer translates a whole answer of the backend, if it is to be translated.
// The error is about the backend's answer.
func (c *call) answer(resp *http.Response, data []byte) ([]byte, error) {
	if c.exchange == nil {
		return data, nil
	}
	resp.Header.Set("Content-Type", "application/json")
	if resp.StatusCode >= 400 {
		return c.exchange.Error(resp.StatusCode, data), nil
	}
	return c.exchange.Response(data)
}

// usage is what the meter counted or, of a translated answer, what the backend
// itself said: the client's protocol may have no place for all of it.
func (c *call) usage(m *meter, complete bool) *audit.Usage {
	if c.exchange != nil {
		u, counted := c.exchange.Usage()
		m.counts.Input, m.counts.CacheRead = tokens(u.Input-u.Cached), tokens(u.Cached)
		m.counts.Output, m.counts.Reasoning = tokens(u.Output), tokens(u.Reasoning)
		m.counted, m.reported = counted, counted
	}
	return m.usage(complete)
}
