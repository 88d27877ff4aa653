package inference

import (
	"bytes"
	"encoding/json"
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
	Input      *int64 `json:"input_tokens"`
	Output     *int64 `json:"output_tokens"`
	CacheRead  *int64 `json:"cache_read_input_tokens"`
	CacheWrite *int64 `json:"cache_creation_input_tokens"`
}

func (m *meter) anthropicEvent(ev []byte) verdict {
	m.said(ev, keyDelta, len(`{"type":"text_delta","text":""}`))
	ends := len(ev) <= maxMarker && bytes.Contains(ev, keyStop)
	if !ends && !hasValue(ev, keyUsage) && !bytes.Contains(ev, keyError) {
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

func (m *meter) anthropicWhole(body []byte) {
	var e anthropicAnswer
	if json.Unmarshal(body, &e) != nil || e.Usage == nil {
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
	set := func(to, from *int64) {
		if from != nil {
			*to = tokens(*from)
		}
	}
	set(&m.counts.Input, u.Input)
	set(&m.counts.Output, u.Output)
	set(&m.counts.CacheRead, u.CacheRead)
	set(&m.counts.CacheWrite, u.CacheWrite)
	m.counted = m.counted || u.Input != nil
}
