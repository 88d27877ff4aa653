package inference

import (
	"bytes"
	"encoding/json"

	"github.com/twinward-dev/twinward/audit"
)

// A meter counts the tokens of one answer as the backend reports them. It
// decodes only what can hold a count; other events cost it a search and no
// allocation.
//
// Counts are disjoint where providers bill them apart: Input is what was read
// at the full price, without CacheRead and CacheWrite. Reasoning is a part of
// Output.
type meter struct {
	protocol Protocol
	drop     bool // take out the usage chunk that this door asked for
	counts   audit.Usage
	reported bool // the counts are the backend's last word
	failed   bool // an error event was seen
}

func newMeter(p Protocol, model string) *meter {
	return &meter{protocol: p, counts: audit.Usage{Model: model}}
}

// usage returns the counts. They are final when the backend reported them and
// the answer came to its end.
func (m *meter) usage(complete bool) *audit.Usage {
	u := m.counts
	u.Final = m.reported && complete
	return &u
}

// A verdict says what is to be done with an event.
type verdict uint8

const (
	pass verdict = iota
	drop         // not for the client
	last         // the stream is complete with it
)

var (
	keyUsage = []byte(`"usage"`)
	keyError = []byte(`"error"`)
	keyStop  = []byte(`"message_stop"`)
	done     = []byte("[DONE]")
)

// maxMarker bounds the events that end a stream.
const maxMarker = 512

// event looks at one whole event.
func (m *meter) event(ev []byte) verdict {
	if m.protocol == Anthropic {
		return m.anthropicEvent(ev)
	}
	return m.openAIEvent(ev)
}

func (m *meter) openAIEvent(ev []byte) verdict {
	if len(ev) <= maxMarker && bytes.Contains(ev, done) && bytes.Equal(bytes.TrimSpace(eventData(ev)), done) {
		return last
	}
	counted, broken := hasValue(ev, keyUsage), hasValue(ev, keyError)
	if !counted && !broken {
		return pass
	}
	var chunk openAIAnswer
	if json.Unmarshal(eventData(ev), &chunk) != nil {
		return pass
	}
	if len(chunk.Error) > 0 && string(chunk.Error) != "null" {
		m.failed = true
	}
	if chunk.Usage == nil {
		return pass
	}
	m.openAI(chunk.Usage)
	if m.drop && chunk.Choices != nil && len(chunk.Choices) == 0 {
		return drop
	}
	return pass
}

func (m *meter) anthropicEvent(ev []byte) verdict {
	counted := hasValue(ev, keyUsage)
	ends := len(ev) <= maxMarker && bytes.Contains(ev, keyStop)
	if !counted && !ends && !bytes.Contains(ev, keyError) {
		return pass
	}
	var e anthropicAnswer
	if json.Unmarshal(eventData(ev), &e) != nil {
		return pass
	}
	switch e.Type {
	case "message_stop":
		return last
	case "error":
		m.failed = true
	case "message_start":
		if e.Message != nil {
			m.anthropic(e.Message.Usage)
		}
	case "message_delta":
		if e.Usage != nil {
			m.anthropic(e.Usage)
			m.reported = true
		}
	}
	return pass
}

// whole looks at an answer that is not a stream.
func (m *meter) whole(body []byte) {
	if m.protocol == Anthropic {
		var e anthropicAnswer
		if json.Unmarshal(body, &e) == nil && e.Usage != nil {
			m.anthropic(e.Usage)
			m.reported = true
		}
		return
	}
	var a openAIAnswer
	if json.Unmarshal(body, &a) == nil && a.Usage != nil {
		m.openAI(a.Usage)
	}
}

type openAIAnswer struct {
	Choices []struct{}      `json:"choices"`
	Usage   *openAIUsage    `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

type openAIUsage struct {
	Prompt        int64 `json:"prompt_tokens"`
	Completion    int64 `json:"completion_tokens"`
	PromptDetails *struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails *struct {
		Reasoning int64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// openAI takes counts that replace earlier ones: some servers report running
// totals with every chunk.
func (m *meter) openAI(u *openAIUsage) {
	var cached, reasoning int64
	if u.PromptDetails != nil {
		cached = u.PromptDetails.Cached
	}
	if u.CompletionDetails != nil {
		reasoning = u.CompletionDetails.Reasoning
	}
	cached = min(max(cached, 0), max(u.Prompt, 0))
	m.counts.Input = max(u.Prompt, 0) - cached
	m.counts.CacheRead = cached
	m.counts.Output = max(u.Completion, 0)
	m.counts.Reasoning = max(reasoning, 0)
	m.reported = true
}

type anthropicAnswer struct {
	Type    string          `json:"type"`
	Usage   *anthropicUsage `json:"usage"`
	Message *struct {
		Usage *anthropicUsage `json:"usage"`
	} `json:"message"`
}

type anthropicUsage struct {
	Input      *int64 `json:"input_tokens"`
	Output     *int64 `json:"output_tokens"`
	CacheRead  *int64 `json:"cache_read_input_tokens"`
	CacheWrite *int64 `json:"cache_creation_input_tokens"`
}

// anthropic takes counts. They are cumulative: those of message_delta replace
// those of message_start, and what it does not repeat stands.
func (m *meter) anthropic(u *anthropicUsage) {
	if u == nil {
		return
	}
	set := func(to, from *int64) {
		if from != nil {
			*to = max(*from, 0)
		}
	}
	set(&m.counts.Input, u.Input)
	set(&m.counts.Output, u.Output)
	set(&m.counts.CacheRead, u.CacheRead)
	set(&m.counts.CacheWrite, u.CacheWrite)
}

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
