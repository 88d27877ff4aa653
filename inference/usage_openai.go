package inference

import (
	"bytes"
	"encoding/json"
)

var (
	keyUsage = []byte(`"usage"`)
	keyError = []byte(`"error"`)
	done     = []byte("[DONE]")
)

type openAIAnswer struct {
	Choices []struct{}      `json:"choices"`
	Usage   *openAIUsage    `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

type openAIUsage struct {
	Prompt        *int64 `json:"prompt_tokens"`
	Completion    *int64 `json:"completion_tokens"`
	PromptDetails *struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails *struct {
		Reasoning int64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// openAIEvent looks at a chunk. Clients take for the end what begins with the
// mark, whatever follows it.
func (m *meter) openAIEvent(data []byte) verdict {
	if bytes.HasPrefix(bytes.TrimSpace(data), done) {
		return last
	}
	n, _ := textOf(data)
	m.said(n)
	if !odd(data) && !hasValue(data, keyUsage) && !hasValue(data, keyError) {
		return pass
	}
	var chunk openAIAnswer
	read, exact := decode(data, &chunk)
	if !read {
		return pass
	}
	m.fails(isSet(chunk.Error))
	if chunk.Usage == nil || !exact || !m.openAI(chunk.Usage) {
		return pass
	}
	if m.drop && chunk.Choices != nil && len(chunk.Choices) == 0 {
		return drop
	}
	return pass
}

func (m *meter) openAIWhole(body []byte) {
	var a openAIAnswer
	_, exact := decode(body, &a)
	m.fails(isSet(a.Error))
	if counted := exact && a.Usage != nil && m.openAI(a.Usage); !counted && m.op.action == actInvoke {
		m.output = estimate(len(body))
	}
}

// openAI takes counts that replace earlier ones: some servers report running
// totals with every chunk. It is false for those that do not say all.
func (m *meter) openAI(u *openAIUsage) bool {
	if u.Prompt == nil || u.Completion == nil && m.op.action == actInvoke {
		return false
	}
	var completion, cached, reasoning int64
	if u.Completion != nil {
		completion = *u.Completion
	}
	if u.PromptDetails != nil {
		cached = u.PromptDetails.Cached
	}
	if u.CompletionDetails != nil {
		reasoning = u.CompletionDetails.Reasoning
	}
	m.openAICounts(*u.Prompt, cached, completion, reasoning)
	return true
}

func (m *meter) openAICounts(prompt, cached, completion, reasoning int64) {
	cached = min(tokens(cached), tokens(prompt))
	m.counts.Input = tokens(prompt) - cached
	m.counts.CacheRead = cached
	m.counts.Output = tokens(completion)
	m.counts.Reasoning = tokens(reasoning)
	m.counted, m.reported = true, true
}

// The events that end a stream of responses are response.completed, .incomplete
// and .failed. They repeat all of the answer.
var (
	keyResponse = []byte(`"response.`)
	ends        = [][]byte{[]byte(`completed"`), []byte(`incomplete"`), []byte(`failed"`)}
)

// mayEnd reports whether an event may be one that ends a stream of responses.
func mayEnd(ev []byte) bool {
	for {
		at := bytes.Index(ev, keyResponse)
		if at < 0 {
			return false
		}
		ev = ev[at+len(keyResponse):]
		for _, end := range ends {
			if bytes.HasPrefix(ev, end) {
				return true
			}
		}
	}
}

type responsesEvent struct {
	Type     string           `json:"type"`
	Response *responsesAnswer `json:"response"`
}

type responsesAnswer struct {
	Status string          `json:"status"`
	Error  json.RawMessage `json:"error"`
	Usage  *struct {
		Input        *int64 `json:"input_tokens"`
		Output       *int64 `json:"output_tokens"`
		InputDetails *struct {
			Cached int64 `json:"cached_tokens"`
		} `json:"input_tokens_details"`
		OutputDetails *struct {
			Reasoning int64 `json:"reasoning_tokens"`
		} `json:"output_tokens_details"`
	} `json:"usage"`
}

func (m *meter) responsesEvent(data []byte) verdict {
	if n, piece := textOf(data); piece {
		m.said(n)
	} else {
		m.saidAgain(n)
	}
	if !odd(data) && !mayEnd(data) && !bytes.Contains(data, keyError) {
		return pass
	}
	var e responsesEvent
	read, exact := decode(data, &e)
	if !read {
		return pass
	}
	switch e.Type {
	case "error":
		m.fails(true)
	case "response.completed", "response.incomplete", "response.failed":
		m.fails(e.Type == "response.failed")
		if e.Response != nil {
			m.responses(e.Response, exact)
		}
		return last
	}
	return pass
}

func (m *meter) responsesWhole(body []byte) {
	var a responsesAnswer
	read, exact := decode(body, &a)
	if !read || !m.responses(&a, exact) {
		m.output = estimate(len(body))
	}
}

// responses takes counts, if they are exact and say all.
func (m *meter) responses(a *responsesAnswer, exact bool) bool {
	m.fails(a.Status == "failed")
	u := a.Usage
	if u == nil || !exact || u.Input == nil || u.Output == nil {
		return false
	}
	var cached, reasoning int64
	if u.InputDetails != nil {
		cached = u.InputDetails.Cached
	}
	if u.OutputDetails != nil {
		reasoning = u.OutputDetails.Reasoning
	}
	m.openAICounts(*u.Input, cached, *u.Output, reasoning)
	return true
}

// isSet reports whether a member is there and not null.
func isSet(v json.RawMessage) bool { return len(v) > 0 && string(v) != "null" }
