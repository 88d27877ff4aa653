package inference

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/twinward-dev/twinward/audit"
)

// A meter counts the tokens of one answer as the backend reports them, and
// estimates them as long as it does not. It decodes only what can hold a count;
// other events cost it a walk over their text and no allocation.
//
// Counts are disjoint where providers bill them apart: Input is what was read
// at the full price, without CacheRead and CacheWrite. Reasoning is a part of
// Output.
//
// A backend cannot hide an end or a count from it by the way in which its JSON is
// written: what holds an escaped letter is decoded, and so is what is odd.
type meter struct {
	op       *operation
	drop     bool // take out the usage chunk that this door asked for
	counts   audit.Usage
	most     audit.Usage // what the parts of a call add up to, where the backend names them
	input    int64       // estimated from the size of the request
	output   int64       // estimated from the text that came by
	pieces   int64       // of text that came by: about as many tokens, or fewer
	repeated int64       // bytes of text in events that repeat it
	read     int64       // bytes of the stream
	counted  bool        // the backend said how much it read
	reported bool        // the counts are the backend's last word
	finished bool        // Gemini: the model has come to its end
	failed   bool        // the backend reported an error in its answer
	fault    bool        // and it did so in the last event
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
	u.Input, u.Output = max(u.Input, m.most.Input), max(u.Output, m.most.Output)
	u.CacheRead, u.CacheWrite = max(u.CacheRead, m.most.CacheRead), max(u.CacheWrite, m.most.CacheWrite)
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
func (m *meter) event(ev []byte) verdict {
	m.fault = false
	data := eventData(ev)
	if len(data) == 0 {
		return pass
	}
	return m.op.event(m, data)
}

// fails notes that the backend reported an error, if it did.
func (m *meter) fails(so bool) {
	m.failed, m.fault = m.failed || so, m.fault || so
}

// whole looks at an answer that is not a stream.
func (m *meter) whole(body []byte) { m.op.whole(m, body) }

// decode reads data into v. Members of other types than v's are left out; then
// the rest is of use, but exact is false and no count is to be taken from it.
func decode(data []byte, v any) (read, exact bool) {
	err := json.Unmarshal(data, v)
	var mistyped *json.UnmarshalTypeError
	return err == nil || errors.As(err, &mistyped), err == nil
}

// odd reports whether data may hold an ASCII letter that is written as an escape,
// so that searching for a word says nothing.
func odd(data []byte) bool { return bytes.Contains(data, []byte(`\u00`)) }

// said estimates the tokens of n bytes of text.
func (m *meter) said(n int) {
	if n > 0 {
		m.output += estimate(n)
		m.pieces += max(1, int64(n)/16) // no tokenizer's tokens are longer, on average
	}
}

// repeats is how often events of responses say again what came in pieces: the
// whole text, the part and the item.
const repeats = 3

// saidAgain estimates the tokens of text that came in pieces before, or should
// have.
func (m *meter) saidAgain(n int) {
	m.repeated += int64(n)
	m.output = max(m.output, estimate(int(m.repeated/repeats)))
	m.pieces = max(m.pieces, m.repeated/repeats/16)
}

// textOf returns how many bytes of text the data of an event has, as it is
// written, and whether it is a piece that others follow: whether there is a
// "delta". Text are strings under the keys that the protocols have for it, and
// all that a tool is called with.
func textOf(data []byte) (n int, piece bool) {
	text := false // the key that was seen last is one of text
	for i := 0; i < len(data); {
		q := bytes.IndexByte(data[i:], '"')
		if q < 0 {
			break
		}
		from := i + q + 1
		to := from + stringLen(data[from:])
		i = min(to+1, len(data))
		at := i + spaceLen(data[i:])
		if at == len(data) || data[at] != ':' {
			if text {
				n += to - from
			}
			continue
		}
		i = at + 1
		switch key := data[from:to]; string(key) {
		case "delta":
			text, piece = true, true
		case "content", "text", "thinking", "partial_json", "arguments", "reasoning_content", "reasoning", "refusal", "transcript":
			text = true
		case "input", "args", "executableCode":
			text = true
			size := compoundLen(data[i:])
			i += size
			if size > len(`{}`) {
				n += size
			}
		case "response", "instructions", "tools", "metadata", "usage":
			text = false
			i += compoundLen(data[i:]) // the request, once more
		default:
			text = bytes.IndexByte(key, '\\') >= 0 // it could be any
		}
	}
	return n, piece
}

// spaceLen is how much white space data begins with.
func spaceLen(data []byte) int {
	i := 0
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\r' || data[i] == '\t') {
		i++
	}
	return i
}

// stringLen is where the string ends that data is in, or the end of data.
func stringLen(data []byte) int {
	i := 0
	for i < len(data) {
		if i += plainLen(data[i:]); i == len(data) || data[i] == '"' {
			return i
		}
		if data[i] == '\\' {
			i++
		}
		i++
	}
	return len(data)
}

// compoundLen is where the object or list ends that data begins with, white space
// before it included, or the end of data. It is 0 if data begins with another
// value.
func compoundLen(data []byte) int {
	depth := 0
	for i := spaceLen(data); i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			if depth > 0 {
				i += 1 + stringLen(data[i+1:])
			}
		}
		if depth <= 0 && (data[i] == '}' || data[i] == ']') {
			return i + 1
		}
		if depth == 0 {
			return 0
		}
	}
	return len(data)
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
		rest := data[spaceLen(data):]
		if len(rest) == 0 || rest[0] != ':' {
			continue // it is a value, not a key
		}
		if rest = rest[1:]; !bytes.HasPrefix(rest[spaceLen(rest):], []byte("null")) {
			return true
		}
	}
}
