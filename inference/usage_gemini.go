package inference

import "encoding/json"

var (
	keyMetadata = []byte(`"usageMetadata"`)
	keyFinish   = []byte(`"finishReason"`)
	keyFeedback = []byte(`"promptFeedback"`)
)

type geminiAnswer struct {
	Candidates []struct {
		FinishReason string `json:"finishReason"`
	} `json:"candidates"`
	PromptFeedback *struct {
		BlockReason string `json:"blockReason"`
	} `json:"promptFeedback"`
	Usage *struct {
		Prompt    *int64 `json:"promptTokenCount"`
		Cached    int64  `json:"cachedContentTokenCount"`
		ToolUse   int64  `json:"toolUsePromptTokenCount"`
		Candidate int64  `json:"candidatesTokenCount"`
		Thoughts  int64  `json:"thoughtsTokenCount"`
	} `json:"usageMetadata"`
	Error json.RawMessage `json:"error"`
}

// geminiEvent looks at a chunk. Gemini has no event that ends a stream: the
// chunk in which the model finishes is held until there is another, or the end.
func (m *meter) geminiEvent(data []byte) verdict {
	n, _ := textOf(data)
	m.said(n)
	finishes := hasValue(data, keyFinish) || hasValue(data, keyFeedback)
	if !odd(data) && !finishes && !hasValue(data, keyMetadata) && !hasValue(data, keyError) {
		return pass
	}
	var chunk geminiAnswer
	read, exact := decode(data, &chunk)
	if !read {
		return pass
	}
	m.gemini(&chunk, exact)
	if m.finished {
		return hold
	}
	return pass
}

func (m *meter) geminiWhole(body []byte) {
	var a geminiAnswer
	_, exact := decode(body, &a)
	m.finished = true
	if counted := m.gemini(&a, exact); !counted && m.op.action == actInvoke {
		m.output = estimate(len(body))
	}
}

// gemini takes counts. They are running totals: the last word is that of the
// chunk that finishes, or of one after it. It is false for those that are not
// exact or do not say all; Gemini leaves out what is zero.
func (m *meter) gemini(a *geminiAnswer, exact bool) bool {
	m.fails(isSet(a.Error))
	for _, c := range a.Candidates {
		m.finished = m.finished || c.FinishReason != ""
	}
	m.finished = m.finished || a.PromptFeedback != nil && a.PromptFeedback.BlockReason != ""
	u := a.Usage
	if u == nil || u.Prompt == nil || !exact {
		return false
	}
	cached := min(tokens(u.Cached), tokens(*u.Prompt))
	m.counts.Input = tokens(*u.Prompt) - cached + tokens(u.ToolUse)
	m.counts.CacheRead = cached
	m.counts.Output = tokens(u.Candidate) + tokens(u.Thoughts)
	m.counts.Reasoning = tokens(u.Thoughts)
	m.counted, m.reported = true, m.reported || m.finished
	return true
}
