package translate

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// agentRequest is about 76 KB, as agents send it: much text, many tools.
func agentRequest() []byte {
	var b strings.Builder
	b.WriteString(`{"model":"m","max_tokens":32000,"stream":true,"system":[{"type":"text","text":"` + strings.Repeat("You are an agent. ", 1000) + `","cache_control":{"type":"ephemeral"}}],"messages":[`)
	for i := range 10 {
		fmt.Fprintf(&b, `{"role":"user","content":[{"type":"text","text":"%s"}]},{"role":"assistant","content":[{"type":"tool_use","id":"t%d","name":"Bash","input":{"command":"ls","n":%d}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t%d","content":"%s"}]},`,
			strings.Repeat("word ", 100), i, i, i, strings.Repeat(`line\n`, 200))
	}
	b.WriteString(`{"role":"user","content":"go"}],"tools":[`)
	for i := range 24 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"tool%d","description":"%s","input_schema":{"type":"object","properties":{"a":{"type":"string","description":"the first"},"b":{"type":"integer"}},"required":["a"],"additionalProperties":false}}`, i, strings.Repeat("does it ", 175))
	}
	b.WriteString("]}")
	return []byte(b.String())
}

func BenchmarkRequest(b *testing.B) {
	body := agentRequest()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Request(Messages, body, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStreamEvent(b *testing.B) {
	for _, from := range []Protocol{Messages, Responses} {
		b.Run(map[Protocol]string{Messages: "messages", Responses: "responses"}[from], func(b *testing.B) {
			x, _, err := Request(from, []byte(smallest(from)), Options{MaxAnswer: 1 << 40})
			if err != nil {
				b.Fatal(err)
			}
			const event = `data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1764000000,"model":"some-model","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
			s := x.Stream(endless(event))
			b.ReportAllocs()
			buf := make([]byte, 64<<10)
			read := 0
			per := len("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" word\"}}\n\n")
			for b.Loop() {
				for read < per { // one event each, on average
					n, err := s.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					read += n
				}
				read -= per
			}
		})
	}
}

type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for len(p)-n >= len(e) {
		n += copy(p[n:], e)
	}
	return n, nil
}

var _ io.Reader = endless("")
