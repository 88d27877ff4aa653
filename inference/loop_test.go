package inference

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// rounds is the length of a loop: full in the soak, a part of it elsewhere.
func rounds(full int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return full
	case os.Getenv("TWINWARD_FULL") == "1":
		return full * 3 / 10
	}
	return full * 3 / 100
}

// A bare reverse proxy loses about one short stream in thirty.
func TestNoStreamIsTruncated(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) { sse(golden(t, "openai.sse"))(w, r) }
	want := golden(t, "openai.sse")
	for i := range rounds(10_000) {
		_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
		require.NoError(t, err, "stream %d", i)
		require.Equal(t, want, got, "stream %d", i)
	}
}

// A configuration that is swapped all the time drops nothing: calls keep the one
// that they began with.
func TestSwapsDropNoStream(t *testing.T) {
	h := newHouse(t, nil)
	want := golden(t, "anthropic.sse")
	h.backend = func(w http.ResponseWriter, r *http.Request) { sse(strings.SplitAfter(want, "\n\n")...)(w, r) }
	stop, swaps := make(chan struct{}), 0
	var streams, swapper sync.WaitGroup
	swapper.Go(func() {
		for ; ; swaps++ {
			select {
			case <-stop:
				return
			default:
			}
			cfg := h.config()
			cfg.Backends[swaps%2].Models = append(cfg.Backends[swaps%2].Models, "newer")
			assert.NoError(t, h.router.Reload(t.Context(), cfg, operator))
		}
	})
	for range 16 {
		streams.Go(func() {
			for range rounds(600) {
				_, got, err := h.do(h.request(http.MethodPost, "/v1/messages", messagesStream))
				assert.NoError(t, err)
				assert.Equal(t, want, got)
			}
		})
	}
	streams.Wait()
	close(stop)
	swapper.Wait()
	assert.Positive(t, swaps)
	assert.EqualValues(t, 16*rounds(600), h.requests.Load())
}

// Streams of many agents at once stay apart.
func TestStreamsStayApart(t *testing.T) {
	h := newHouse(t, nil)
	script := inferencetest.NewScript(inferencetest.Turn{From: func(c inferencetest.Conversation) inferencetest.Turn {
		return inferencetest.Turn{Text: strings.Repeat("for "+c.Tools[0]+" ", 50)}
	}})
	script.Key = h.key
	h.backend = script.ServeHTTP
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			name := fmt.Sprintf("tool%d", i)
			_, got, err := h.do(h.request(http.MethodPost, "/v1/messages",
				`{"model":"good","max_tokens":9,"stream":true,"messages":[],"tools":[{"name":"`+name+`","input_schema":{}}]}`))
			assert.NoError(t, err)
			assert.Equal(t, 50, strings.Count(got, `"text":"`+name+` "`))
		})
	}
	wg.Wait()
	var ended int
	for _, r := range h.log.Records() {
		if r.Outcome != nil {
			ended++
			assert.Equal(t, audit.StatusOK, r.Outcome.Status)
			assert.EqualValues(t, 101, r.Outcome.Usage.Output)
		}
	}
	assert.Equal(t, 32, ended)
}

// The scripted model speaks what the door meters, in every protocol, as a stream
// and in one piece.
func TestScriptedModel(t *testing.T) {
	gemini := `{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}`
	for path, body := range map[string]string{
		"/v1/chat/completions":                              `{"model":"good","messages":[{"role":"user","content":"hi"}],"stream":false}`,
		"/v1/chat/completions?":                             `{"model":"good","messages":[{"role":"user","content":"hi"}],"stream":true}`,
		"/v1/messages":                                      `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":false}`,
		"/v1/messages?beta=true":                            `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true}`,
		"/v1/responses":                                     `{"model":"good","input":[{"role":"user","content":"hi"}],"stream":false}`,
		"/v1/responses?":                                    `{"model":"good","input":[{"role":"user","content":"hi"}],"stream":true}`,
		"/v1beta/models/good:generateContent":               gemini,
		"/v1beta/models/good:streamGenerateContent?alt=sse": gemini,
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		script := inferencetest.NewScript(inferencetest.Turn{Text: "a b", Calls: []inferencetest.Call{{Name: "t", Args: map[string]int{"x": 1}}}})
		h.backend = script.ServeHTTP
		_, got := h.post(path, body)
		assert.Contains(t, got, `"t"`, path)
		assert.Equal(t, audit.Usage{Model: "good", Input: 2, Output: 10, Final: true}, *h.outcome().Usage, path)
		if strings.HasPrefix(path, "/v1/chat") {
			assert.Equal(t, strings.Contains(body, `"stream":false`), strings.Contains(got, `"usage"`), "the client did not ask for usage")
		}
	}
}

func TestIdentifyTokenNeedsAVerifierAndAnAudience(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("Authorization", "Bearer token")
	_, err := IdentifyToken(nil, "https://inference.example")(r)
	assert.ErrorContains(t, err, "needs a Verifier")
	_, err = IdentifyToken(&verifier{}, "")(r)
	assert.ErrorContains(t, err, "needs a Verifier")
}

func TestIdentifyToken(t *testing.T) {
	for name, tc := range map[string]struct {
		header http.Header
		token  string
	}{
		"bearer":             {http.Header{"Authorization": {"Bearer tok"}}, "tok"},
		"lower case":         {http.Header{"Authorization": {"bearer tok"}}, "tok"},
		"key":                {http.Header{"X-Api-Key": {"tok"}}, "tok"},
		"both":               {http.Header{"X-Api-Key": {"tok"}, "Authorization": {"Bearer tok"}}, "tok"},
		"two":                {http.Header{"X-Api-Key": {"tok"}, "Authorization": {"Bearer other"}}, ""},
		"two bearers":        {http.Header{"Authorization": {"Bearer tok", "Bearer tok"}}, ""},
		"two bearers, a key": {http.Header{"X-Api-Key": {"tok"}, "Authorization": {"Bearer tok", "Bearer tok"}}, ""},
		"basic":              {http.Header{"Authorization": {"Basic tok"}}, ""},
		"none":               {http.Header{}, ""},
		"empty bearer":       {http.Header{"Authorization": {"Bearer "}}, ""},
		"nothing but key":    {http.Header{"X-Api-Key": {""}}, ""},
	} {
		v := &verifier{}
		r := httptest.NewRequest(http.MethodPost, "/v1/messages", http.NoBody)
		r.Header = tc.header
		actor, err := IdentifyToken(v, "https://inference.example")(r)
		if tc.token == "" {
			assert.Error(t, err, name)
			assert.Empty(t, v.token, name)
			continue
		}
		require.NoError(t, err, name)
		assert.Equal(t, "remote", actor.Agent)
		assert.Equal(t, tc.token, v.token, name)
		assert.Equal(t, "https://inference.example", v.audience)
	}
}
