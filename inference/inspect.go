package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// An Inspector looks at what agents send to models and at what they get back. It
// belongs to the host, which may look for personal data, for secrets of its own,
// or for words. It is safe for concurrent use. An error or a panic denies.
type Inspector interface {
	// Request is shown the body of a request before policy decides about it, so
	// that policy sees what is sent. It must not keep or change body. Ranges are
	// bytes of body; each has to lie within one string value.
	Request(ctx context.Context, about Content, body []byte) (Finding, error)
	// Answer returns who looks at one answer, or nil if nobody does. It is asked
	// before a call that wants log probabilities, too, which is then refused.
	Answer(ctx context.Context, about Content) AnswerInspector
}

// An AnswerInspector looks at the text of one answer: what the model says, thinks
// and calls tools with, and every other string but ids and the protocol's own
// words. It is used by one goroutine.
type AnswerInspector interface {
	// Text is shown a window of a text: what was not given to the client yet, and
	// what has come since. Ranges are bytes of window. With end there comes no
	// more of this text. What is longer than [Options.InspectWindow] and comes in
	// pieces is never seen as a whole.
	Text(window string, end bool) (Finding, error)
}

// Content says whose content is looked at.
type Content struct {
	Actor    audit.Actor
	Protocol Protocol
	Model    string // as the client asks for it
	Stream   bool
}

// A Finding is what an inspector has found. The zero Finding is nothing.
type Finding struct {
	// Label says what it is, in a word or two, for the record. It must not repeat
	// the content.
	Label string
	// Deny refuses the request, or ends the answer.
	Deny bool
	// Blank are what is replaced by [governance.Redacted]: sorted, and apart from
	// each other.
	Blank []Range
}

// A Range is the bytes from From to before To.
type Range struct{ From, To int }

// ordered reports whether ranges are sorted, apart and within size.
func ordered(ranges []Range, size int) bool {
	at := 0
	for _, r := range ranges {
		if r.From < at || r.To <= r.From || r.To > size {
			return false
		}
		at = r.To
	}
	return true
}

// label is what goes on record of a finding.
func (f Finding) label() string {
	if f.Label == "" {
		return "unnamed"
	}
	return f.Label[:min(len(f.Label), 64)]
}

// safely calls an inspector, whose panic is an error.
func safely(f func() (Finding, error)) (out Finding, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("inference: the inspector panicked")
		}
	}()
	return f()
}

var errBlank = errors.New("inference: the inspector's ranges are out of order, or not within a string value")

func (c *call) content() Content {
	return Content{Actor: c.actor, Protocol: c.protocol, Model: c.wanted, Stream: c.env.stream}
}

// inspect shows the request to the host's inspector, and refuses it or blanks
// what it says. The result is scanned anew: it must ask for the same.
func (c *call) inspect() bool {
	if c.opts.Inspect == nil {
		return true
	}
	if c.inspects() && asksLogprobs(c.body) && c.newFilter() != nil {
		c.refuse(refusal{
			status: http.StatusForbidden, code: audit.GuardContent,
			message: "the host inspects answers, which cannot be done token by token: do not ask for log probabilities",
		}, c.op.action, fmt.Sprintf("Model::%q", c.wanted), guarded(audit.GuardContent))
		return false
	}
	f, err := safely(func() (Finding, error) { return c.opts.Inspect.Request(c.ctx, c.content(), c.body) })
	if err == nil && !f.Deny && len(f.Blank) > 0 {
		err = c.blankRequest(f.Blank)
	}
	if errors.Is(err, errNoRoom) {
		c.refuse(busy, c.op.action, fmt.Sprintf("Model::%q", c.wanted), guarded(audit.GuardLimit))
		return false
	}
	if err == nil && !f.Deny {
		if f.Label != "" || len(f.Blank) > 0 {
			c.note(fmt.Sprintf("blanked-request:%s:%d", f.label(), len(f.Blank)))
		}
		return true
	}
	c.detail = map[string]string{"found": f.label()}
	if err != nil {
		c.detail["found"] = "error"
		c.opts.Logger.Error("inference: the inspector of requests failed", slog.Any("error", err))
	}
	c.refuse(refusal{status: http.StatusForbidden, code: audit.GuardContent, message: "the host does not let this content out"},
		c.op.action, fmt.Sprintf("Model::%q", c.wanted), guarded(audit.GuardContent))
	return false
}

// blankRequest replaces ranges of the body. While it is copied both count for the
// memory, and then only the copy.
func (c *call) blankRequest(ranges []Range) error {
	if !ordered(ranges, len(c.body)) {
		return errBlank
	}
	before := c.holds
	if !c.room(int64(blankedLen(c.body, ranges))) {
		return errNoRoom
	}
	body, err := blankStrings(c.body, ranges)
	if err != nil {
		return err
	}
	var env envelope
	if err := scan(c.op, body, &env); err != nil {
		return fmt.Errorf("inference: blanking broke the request: %w", err)
	}
	was, is := &c.env, &env
	if string(was.model.of(c.body)) != string(is.model.of(body)) || was.maxOutput != is.maxOutput || was.choices != is.choices ||
		was.stored != is.stored || was.stores != is.stores || !slices.Equal(was.hosted, is.hosted) ||
		!slices.Equal(was.toolNames(c.body), is.toolNames(body)) || len(was.refs) != len(is.refs) {
		return errors.New("inference: blanking changed what the request asks for")
	}
	env.stream = c.env.stream
	c.body, c.size, c.env = body, len(body), env
	c.memory.give(c.actor.Agent, before)
	c.holds -= before
	return nil
}

// blankedLen is how long a text is without ranges that lie in order within it.
func blankedLen(text []byte, ranges []Range) int {
	n := len(text)
	for _, r := range ranges {
		n += len(governance.Redacted) - (r.To - r.From)
	}
	return n
}

// blankStrings replaces ranges of a JSON text, each of which must lie within a
// string value.
func blankStrings(body []byte, ranges []Range) ([]byte, error) {
	out := make([]byte, 0, blankedLen(body, ranges))
	from, next := 0, 0
	err := eachString(body, func(lo, hi int, _ []string) {
		for next < len(ranges) && ranges[next].From > lo && ranges[next].To < hi {
			r := ranges[next]
			out = append(append(out, body[from:r.From]...), governance.Redacted...)
			from, next = r.To, next+1
		}
	})
	if err != nil {
		return nil, err
	}
	if next < len(ranges) {
		return nil, errBlank
	}
	return append(out, body[from:]...), nil
}

// meets are the obligations that this door can meet.
var meets = []string{governance.ObligationRecordPrompt}

// keep is how much of the prompt goes on record: its digest, unless a permit says
// that what the inspector has left of it is kept.
func (c *call) keep() audit.Level {
	demands, err := c.decision.Demands()
	if err == nil && demands.RecordPrompt == governance.RecordRedacted && c.opts.Inspect != nil {
		return audit.LevelFull
	}
	return audit.LevelCommitted
}

// inspects reports whether somebody may look at the answer.
func (c *call) inspects() bool { return c.opts.Inspect != nil && c.writes() }

// newFilter returns what looks at the answer, or nil if nobody does.
func (c *call) newFilter() *answerFilter {
	f := newAnswerFilter(nil, c.opts.InspectWindow)
	_, err := safely(func() (Finding, error) {
		f.look = c.opts.Inspect.Answer(c.ctx, c.content())
		return Finding{}, nil
	})
	switch {
	case err != nil:
		f.fail(err)
	case f.look == nil:
		return nil
	}
	return f
}

// unfit is what the client is told of an answer that it does not get.
func (c *call) unfit() refusal {
	if c.filter.denied == nil {
		c.opts.Logger.Error("inference: an answer could not be inspected", slog.Any("error", c.filter.err))
	}
	return refusal{status: http.StatusForbidden, code: audit.GuardContent, message: "the host does not let this answer pass"}
}

// noteFindings puts on record what was found in the answer.
func (c *call) noteFindings() {
	if c.filter == nil {
		return
	}
	for _, label := range slices.Sorted(maps.Keys(c.filter.blanked)) {
		c.note(fmt.Sprintf("blanked-answer:%s:%d", label, c.filter.blanked[label]))
	}
	if c.filter.denied != nil {
		c.note("found:" + c.filter.denied.label())
	}
}

// eachString calls f with where each string value of a JSON text lies, its quotes
// included, and with the keys that lead there, "" for a place in a list.
func eachString(text []byte, f func(lo, hi int, path []string)) error {
	dec := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	var path []string
	name := ""
	for {
		parent, n := dec.StackIndex(dec.StackDepth())
		if parent != '{' {
			name = ""
		}
		kind := dec.PeekKind()
		if kind == '"' {
			v, err := dec.ReadValue()
			if err != nil {
				return err
			}
			if parent == '{' && n%2 == 0 {
				if name, err = unquote(v); err != nil {
					return err
				}
				continue
			}
			end := int(dec.InputOffset())
			f(end-len(v), end, append(path, name))
		} else {
			if _, err := dec.ReadToken(); err != nil {
				return err
			}
			switch kind {
			case '{', '[':
				path = append(path, name)
			case '}', ']':
				path = path[:len(path)-1]
			}
		}
		if dec.StackDepth() == 0 {
			return nil
		}
	}
}

// asksLogprobs reports whether a request asks for log probabilities, which tell
// the answer a second time, cut into tokens: logprobs and top_logprobs of OpenAI's
// protocols, message.output_text.logprobs in include of responses, and
// responseLogprobs of Gemini's generationConfig. How the keys are written does not
// matter.
func asksLogprobs(body []byte) bool {
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	for dec.PeekKind() == '"' {
		key, err := dec.ReadToken()
		if err != nil {
			return false
		}
		name := strings.ToLower(strings.ReplaceAll(key.String(), "_", ""))
		value, err := dec.ReadValue()
		if err != nil {
			return false
		}
		asks := false
		switch kind := value.Kind(); name {
		case "logprobs", "responselogprobs":
			asks = kind != 'n' && kind != 'f'
		case "toplogprobs":
			asks = kind != 'n' && string(value) != "0"
		case "generationconfig":
			asks = asksLogprobs(value)
		case "include":
			_ = eachString(value, func(lo, hi int, _ []string) {
				s, err := unquote(value[lo:hi])
				asks = asks || err != nil || strings.Contains(s, "logprobs")
			})
		}
		if asks {
			return true
		}
	}
	return false
}

// textKey is the key under which a value lies, or the list that it is in.
func textKey(path []string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] != "" {
			return path[i]
		}
	}
	return ""
}

func unquote(v []byte) (string, error) {
	b, err := jsontext.AppendUnquote(nil, v)
	return string(b), err
}
