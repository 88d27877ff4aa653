package inference

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestClassify(t *testing.T) {
	for request, want := range map[string]struct {
		op           *operation
		model, query string
	}{
		"/v1/chat/completions":                                         {op: opChat},
		"/chat/completions":                                            {op: opChat},
		"/v1/embeddings":                                               {op: opEmbeddings},
		"/v1/responses":                                                {op: opResponses},
		"/v1/messages":                                                 {op: opMessages},
		"/v1/messages?beta=true":                                       {op: opMessages, query: "beta=true"},
		"/v1/messages/count_tokens?beta=true":                          {op: opCountMessages, query: "beta=true"},
		"/v1beta/models/g-1:generateContent":                           {op: opGenerate, model: "g-1"},
		"/v1/models/g-1:generateContent":                               {op: opGenerate, model: "g-1"},
		"/v1beta/models/g:generateContent?key=secret&alt=json":         {op: opGenerate, model: "g"},
		"/v1beta/models/g:streamGenerateContent?alt=sse&key=secret":    {op: opStreamGenerate, model: "g", query: "alt=sse"},
		"/v1alpha/models/a:b:streamGenerateContent?key=secret&alt=sse": {op: opStreamGenerate, model: "a:b", query: "alt=sse"},
		"/v1beta/models/g:countTokens":                                 {op: opCountGenerate, model: "g"},
		"/v1beta/models/g:embedContent":                                {op: opEmbedContent, model: "g"},
		"/v1beta/models/g:batchEmbedContents":                          {op: opBatchEmbed, model: "g"},

		"/v1beta/chat/completions":                                  {},
		"/v1/v1/chat/completions":                                   {},
		"/v1/chat/completions/":                                     {},
		"/v1/chat/completions?key=secret":                           {},
		"/v1/messages?beta=true&beta=true":                          {},
		"/v1/messages?beta=false":                                   {},
		"/v1/messages/batches":                                      {},
		"/v1/responses?stream=true":                                 {},
		"/v1/responses/resp_1/cancel":                               {},
		"/v1/responses/compact":                                     {},
		"/v1/models/g":                                              {},
		"/v1beta/models/g:streamGenerateContent":                    {},
		"/v1beta/models/g:streamGenerateContent?alt=SSE":            {},
		"/v1beta/models/g:streamGenerateContent?alt=sse&alt=json":   {},
		"/v1beta/models/g:streamGenerateContent?alt=sse&$fields=x":  {},
		"/v1beta/models/g:streamGenerateContent?alt=sse;x":          {},
		"/v1beta/models/g:generateContent?alt=sse":                  {},
		"/v1beta/models/g:predict":                                  {},
		"/v1beta/models/:generateContent":                           {},
		"/v1beta/models/..:generateContent":                         {},
		"/v1beta/models/a/b:generateContent":                        {},
		"/v1beta/models/g%2F..%2Fbad:generateContent":               {},
		"/v1beta/models/g%3AgenerateContent":                        {},
		"/v1beta/models/g:generateContent/":                         {},
		"/v1beta/models/{model}:generateContent":                    {},
		"/v1beta/models/bad:generateContent:streamGenerateContent:": {},
		"/v1beta/cachedContents":                                    {},
		"/v1beta/tunedModels/g:generateContent":                     {},
	} {
		a := classify(httptest.NewRequest(http.MethodPost, request, nil))
		assert.Equal(t, want.op, a.op, request)
		assert.Equal(t, want.op != nil, a.kind == kindCall, request)
		assert.Equal(t, want.query, a.query, request)
		if want.op != nil {
			assert.Equal(t, want.model, a.model, request)
			assert.Equal(t, want.op.protocol, a.protocol, request)
		}
		for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPut, http.MethodPatch, http.MethodHead, http.MethodOptions} {
			assert.NotEqual(t, kindCall, classify(httptest.NewRequest(method, request, nil)).kind, "%s %s", method, request)
		}
	}
}

// The event that cuts a stream is an error for the clients of each protocol,
// and cannot be taken for the end of the answer.
func TestErrorEvents(t *testing.T) {
	ref := refusal{status: 429, code: "budget", message: "nothing is left", decision: "d1"}
	for p, want := range map[Protocol]string{
		OpenAI:          "data: {\"error\":{\"code\":\"budget\",\"message\":\"nothing is left (decision d1)\",\"param\":null,\"type\":\"rate_limit_error\"}}\n\n",
		OpenAIResponses: "event: response.failed\ndata: {",
		Anthropic:       "event: error\ndata: {\"error\":{\"message\":\"nothing is left (decision d1)\",\"type\":\"rate_limit_error\"},\"type\":\"error\"}\n\n",
		Gemini:          "data: {\"error\":{\"code\":429,\"message\":\"nothing is left (decision d1)\",\"status\":\"RESOURCE_EXHAUSTED\"}}\r\n\r\n",
	} {
		got := ref.event(p)
		assert.True(t, strings.HasPrefix(string(got), want), "%s: %s", p, got)
		s := &splitter{buf: got}
		ev, ok := s.next()
		assert.True(t, ok)
		assert.Equal(t, len(got), ev.hi, "it is one whole event")
		assert.True(t, json.Valid(eventData(got)))
		for _, op := range operations {
			if op.protocol == p {
				m := newMeter(op, "m", 0)
				m.event(got)
				assert.True(t, m.failed, op.name)
			}
		}
	}
}
