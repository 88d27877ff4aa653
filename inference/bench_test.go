package inference

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func BenchmarkMeterEvent(b *testing.B) {
	for name, tc := range map[string]struct {
		op    *operation
		event string
	}{
		"openai":    {opChat, `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"good","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"},
		"anthropic": {opMessages, "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"}}` + "\n\n"},
		"responses": {opResponses, "event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","sequence_number":7,"item_id":"msg_1","output_index":0,"content_index":0,"delta":" word","logprobs":[]}` + "\n\n"},
		"gemini":    {opStreamGenerate, `data: {"candidates":[{"content":{"parts":[{"text":" word"}],"role":"model"},"index":0}],"modelVersion":"g","responseId":"r"}` + "\r\n\r\n"},
	} {
		b.Run(name, func(b *testing.B) {
			stream := bytes.Repeat([]byte(tc.event), 100)
			s, m := &splitter{buf: make([]byte, 0, streamBuffer)}, newMeter(tc.op, "good", 0)
			r := bytes.NewReader(stream)
			b.ReportAllocs()
			n := 0
			for b.Loop() { // one event
				if n == 0 {
					r.Reset(stream)
					s.buf, s.event, s.line, s.seen = s.buf[:0], 0, 0, 0
					for r.Len() > 0 {
						if _, err := s.fill(r); err != nil {
							b.Fatal(err)
						}
					}
					n = 100
				}
				ev, ok := s.next()
				if !ok || m.event(ev.of(s.buf)) != pass {
					b.Fatal("not an event that passes")
				}
				n--
			}
		})
	}
}

// BenchmarkReload puts a configuration into force, with the record of it in a log in
// memory.
func BenchmarkReload(b *testing.B) {
	for _, models := range []int{20, 1000} {
		b.Run(fmt.Sprintf("%d-models", models), func(b *testing.B) {
			var cfg Config
			for i := range 20 {
				backend := Backend{Name: fmt.Sprintf("b%d", i), BaseURL: "https://x.example/v1", Protocols: []Protocol{OpenAI, OpenAIResponses}}
				for m := range models / 20 {
					backend.Models = append(backend.Models, fmt.Sprintf("%s-%d", backend.Name, m))
				}
				cfg.Backends = append(cfg.Backends, backend)
			}
			h := newHouse(b, nil)
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, h.router.Reload(b.Context(), cfg, operator))
			}
		})
	}
}
