package inference

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sends answers every request and keeps the last one.
func (h *house) sends(sent *string) {
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*sent = string(b)
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}
}

// A limit that is there but says nothing gets a value: a second key of the same
// name would leave it to the backend which of them counts.
func TestEmptyLimitIsReplaced(t *testing.T) {
	for in, want := range map[string]string{
		`{"model":"good","max_tokens":null,"messages":[]}`:                                 `{"model":"good","max_tokens":123,"messages":[]}`,
		`{"max_tokens":0 ,"model":"good","messages":[]}`:                                   `{"max_tokens":123 ,"model":"good","messages":[]}`,
		`{"model":"good","max_completion_tokens":null,"messages":[]}`:                      `{"max_tokens":123,"model":"good","max_completion_tokens":null,"messages":[]}`,
		`{"model":"good","max_completion_tokens":0,"messages":[]}`:                         `{"max_tokens":123,"model":"good","max_completion_tokens":123,"messages":[]}`,
		`{"model":"good","max_tokens":null,"max_completion_tokens":null,"messages":[]}`:    `{"model":"good","max_tokens":123,"max_completion_tokens":null,"messages":[]}`,
		`{"max_completion_tokens":0,"model":"good","max_tokens":0,"messages":[],"n":null}`: `{"max_completion_tokens":123,"model":"good","max_tokens":123,"messages":[],"n":null}`,
	} {
		h, _ := purse(t, daily+"max_output: {\"*\": 123}\n", nil)
		var sent string
		h.sends(&sent)
		resp, got := h.post("/v1/chat/completions", in)
		require.Equal(t, 200, resp.StatusCode, got)
		assert.Equal(t, want, sent)
		var env envelope
		assert.NoError(t, scan(opChat, []byte(sent), &env))
		assert.EqualValues(t, 123, env.maxOutput)
	}
	for path, tc := range map[string]struct{ in, want string }{
		"/v1/messages":  {`{"model":"good","max_tokens":null,"messages":[]}`, `{"model":"good","max_tokens":123,"messages":[]}`},
		"/v1/responses": {`{"model":"good","max_output_tokens":0,"store":false,"input":"x"}`, `{"model":"good","max_output_tokens":123,"store":false,"input":"x"}`},
	} {
		h, _ := purse(t, daily+"max_output: {\"*\": 123}\n", nil)
		cfg := h.manyProtocols()
		cfg.Spend = h.router.routes.Load().spend
		h.serve(cfg)
		var sent string
		h.sends(&sent)
		resp, got := h.post(path, tc.in)
		require.Equal(t, 200, resp.StatusCode, got)
		assert.Equal(t, tc.want, sent)
	}
}
