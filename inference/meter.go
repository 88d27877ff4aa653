package inference

import (
	"bytes"

	"github.com/twinward-dev/twinward/audit"
)

// A meter counts the tokens of one answer as the backend reports them, and
// estimates them as long as it does not. It decodes only what can hold a count;
// other events cost it a search and no allocation.
//
// Counts are disjoint where providers bill them apart: Input is what was read
// at the full price, without CacheRead and CacheWrite. Reasoning is a part of
// Output.
type meter struct {
	op       *operation
	drop     bool // take out the usage chunk that this door asked for
	counts   audit.Usage
	input    int64 // estimated from the size of the request
	output   int64 // estimated from the text that came by
	pieces   int64 // of text that came by: about as many tokens, or fewer
	counted  bool  // the backend said how much it read
	reported bool  // the counts are the backend's last word
	finished bool  // Gemini: the model has come to its end
	failed   bool  // the backend reported an error in its answer
}

// newMeter returns the meter of an answer to a request of size bytes.
func newMeter(op *operation, model string, size int) *meter {
	return &meter{op: op, counts: audit.Usage{Model: model}, input: estimate(size)}
}

// estimate is about how many tokens a text of n bytes has.
func estimate(n int) int64 { return int64(max(n, 0)+3) / 4 }

// usage returns the counts. They are final when the backend reported them and
// the answer came to its end. What the backend has not said is estimated.
func (m *meter) usage(complete bool) *audit.Usage {
	u := m.counts
	u.Final = m.reported && complete
	if !m.counted {
		u.Input = m.input
	}
	if !m.reported {
		u.Output = max(u.Output, m.output)
	}
	return &u
}

// A verdict says what is to be done with an event.
type verdict uint8

const (
	pass verdict = iota
	drop         // not for the client
	last         // the stream is complete with it
	hold         // it may be the last: it waits for the next, or for the end
)

// event looks at one whole event.
func (m *meter) event(ev []byte) verdict { return m.op.event(m, ev) }

// whole looks at an answer that is not a stream.
func (m *meter) whole(body []byte) { m.op.whole(m, body) }

// said estimates the tokens of an event's text: of the value of key, less the
// bytes of it that are not text.
func (m *meter) said(ev, key []byte, frame int) {
	at := bytes.Index(ev, key)
	if at < 0 {
		return
	}
	if n := valueLen(ev[at+len(key):]) - frame; n > 0 {
		m.output += estimate(n)
		m.pieces += max(1, int64(n)/16) // no tokenizer's tokens are longer, on average
	}
}

// valueLen is the length of the JSON value that follows a key, or of what is
// there of it.
func valueLen(data []byte) int {
	i := 0
	for i < len(data) && (data[i] == ' ' || data[i] == ':') {
		i++
	}
	depth := 0
	for from := i; i < len(data); {
		switch data[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(data) && data[i] != '"'; {
				if i += plainLen(data[i:]); i < len(data) && data[i] != '"' {
					i += 2 // an escape
				}
			}
		}
		if i++; depth <= 0 {
			return min(i, len(data)) - from
		}
	}
	return 0
}

// tokens is a count as far as it makes sense.
func tokens(n int64) int64 { return min(max(n, 0), 1<<50) }

// hasValue reports whether data may hold the key with a value other than null.
// A quoted key cannot occur inside of a JSON string: its quotes would be
// escaped.
func hasValue(data, key []byte) bool {
	for {
		i := bytes.Index(data, key)
		if i < 0 {
			return false
		}
		data = data[i+len(key):]
		rest := bytes.TrimLeft(data, " \t\r\n")
		if len(rest) == 0 {
			return true // the value is on another line
		}
		if rest[0] != ':' {
			if bytes.HasPrefix(rest, []byte("data:")) {
				return true
			}
			continue // it is a value, not a key
		}
		if rest = bytes.TrimLeft(rest[1:], " \t"); !bytes.HasPrefix(rest, []byte("null")) {
			return true
		}
	}
}
