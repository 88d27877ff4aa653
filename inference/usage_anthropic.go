package inference

import (
	"bytes"

	"github.com/twinward-dev/twinward/audit"
)

var keyStop = []byte(`"message_stop"`)

type anthropicAnswer struct {
	Type    string          `json:"type"`
	Usage   *anthropicUsage `json:"usage"`
	Message *struct {
		Usage *anthropicUsage `json:"usage"`
	} `json:"message"`
}

type anthropicUsage struct {
	anthropicCounts
	// Iterations are the parts of the call that are billed: the answer, and what the
	// provider ran besides it, such as a compaction, which the counts leave out.
	Iterations []anthropicCounts `json:"iterations"`
}

type anthropicCounts struct {
	Input      *int64 `json:"input_tokens"`
	Output     *int64 `json:"output_tokens"`
	CacheRead  *int64 `json:"cache_read_input_tokens"`
	CacheWrite *int64 `json:"cache_creation_input_tokens"`
}

func (m *meter) anthropicEvent(data []byte) verdict {
	n, _ := textOf(data)
	m.said(n)
	if !odd(data) && !bytes.Contains(data, keyStop) && !hasValue(data, keyUsage) && !bytes.Contains(data, keyError) {
		return pass
	}
	var e anthropicAnswer
	read, exact := decode(data, &e)
	if !read {
		return pass
	}
	switch e.Type {
	case "message_stop":
		return last
	case "error":
		m.fails(true)
	case "message_start":
		if e.Message != nil && exact {
			m.anthropic(e.Message.Usage)
		}
	case "message_delta":
		if e.Usage != nil && exact {
			m.anthropic(e.Usage)
			m.reported = m.reported || e.Usage.Output != nil
		}
	}
	return pass
}

func (m *meter) anthropicWhole(body []byte) {
	var e anthropicAnswer
	_, exact := decode(body, &e)
	m.fails(e.Type == "error")
	if !exact || e.Usage == nil || e.Usage.Output == nil {
		m.output = estimate(len(body))
		return
	}
	m.anthropic(e.Usage)
	m.reported = true
}

// anthropic takes counts. They are cumulative: those of message_delta replace
// those of message_start, and what it does not repeat stands.
func (m *meter) anthropic(u *anthropicUsage) {
	if u == nil {
		return
	}
	u.replace(&m.counts)
	m.counted = m.counted || u.Input != nil
	if len(u.Iterations) == 0 {
		return
	}
	m.most = audit.Usage{}
	for _, part := range u.Iterations {
		var one audit.Usage
		part.replace(&one)
		m.most.Input = addSaturating(m.most.Input, one.Input)
		m.most.Output = addSaturating(m.most.Output, one.Output)
		m.most.CacheRead = addSaturating(m.most.CacheRead, one.CacheRead)
		m.most.CacheWrite = addSaturating(m.most.CacheWrite, one.CacheWrite)
	}
}

// replace puts the counts that are there into u.
func (c anthropicCounts) replace(u *audit.Usage) {
	set := func(to, from *int64) {
		if from != nil {
			*to = tokens(*from)
		}
	}
	set(&u.Input, c.Input)
	set(&u.Output, c.Output)
	set(&u.CacheRead, c.CacheRead)
	set(&u.CacheWrite, c.CacheWrite)
}
