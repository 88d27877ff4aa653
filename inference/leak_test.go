package inference

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// With Block, an answer that holds a secret does not go out, and a stream is cut
// before it.
func TestLeakPolicy(t *testing.T) {
	for kind, answer := range map[string]http.HandlerFunc{
		"answer": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"x":"`+key(r)+`"}`) },
		"headers": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Request-Id", key(r))
			io.WriteString(w, `{}`)
		},
		"stream": func(w http.ResponseWriter, r *http.Request) {
			k := key(r)
			sse("data: {\"x\":\"first\"}\n\n", "data: {\"x\":\""+k[:9], k[9:]+"\"}\n\n", "data: {\"x\":\"more\"}\n\n", "data: [DONE]\n\n")(w, r)
		},
	} {
		var acted []credential.Leak
		h := newHouse(t, &Options{Leaks: credential.LeakPolicy{Block: true, Act: func(_ context.Context, l credential.Leak) error {
			acted = append(acted, l)
			return nil
		}}})
		h.backend = answer
		resp, body, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", plainChat))
		assert.NotContains(t, body, h.key)
		assert.NotContains(t, resp.Header.Get("Request-Id"), h.key)
		if kind == "stream" {
			require.Error(t, err, "the stream is cut")
			assert.NotContains(t, body, "more")
			assert.NotContains(t, body, "DONE")
		} else {
			require.NoError(t, err)
			assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
			assert.Contains(t, body, "withheld")
		}
		out := h.outcome()
		assert.Equal(t, audit.StatusFailed, out.Status, kind)
		assert.Equal(t, "withheld", out.ErrorCode, kind)
		records := h.log.Records()
		leak := records[len(records)-2].Event
		require.Equal(t, audit.KindLeak, leak.Kind, "before the outcome")
		surface := kind
		if kind == "stream" {
			surface = "answer"
		}
		assert.Equal(t, surface, leak.Detail["surface"])
		assert.Equal(t, "1", leak.Detail["version"])
		require.NotEmpty(t, acted)
		assert.EqualValues(t, 1, acted[0].Ref.Version)
	}
}

func key(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") }

// A backend without a key of its own is not trusted with the others.
func TestKeylessBackendIsSearched(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = nil
	cfg := Config{Backends: []Backend{{Name: "openai", BaseURL: "http://local.example/v1", Models: []string{"good"}}}}
	router, err := NewRouter(cfg, h.engine, h.log, &Options{Vault: h.vault, Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		rec := httptest.NewRecorder()
		rec.Header().Set("Request-Id", h.key)
		io.WriteString(rec, `{"x":"`+h.key+`"}`)
		return rec.Result(), nil
	})})
	require.NoError(t, err)
	defer router.Close()
	rec, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(plainChat))
	session(router, bot).ServeHTTP(rec, req)
	assert.Equal(t, 200, rec.Code)
	assert.NotContains(t, rec.Body.String(), h.key)
	assert.NotContains(t, rec.Header().Get("Request-Id"), h.key)
	assert.Contains(t, rec.Body.String(), "[redacted:")
}

// A secret is on record also when it was in an answer that nobody gets.
func TestLeaksInAnswersThatBreakOff(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10000")
		_, _ = io.WriteString(w, `{"x":"`+key(r)+`"`+strings.Repeat(" ", 4000))
	}
	resp, _ := h.post("/v1/chat/completions", plainChat)
	assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
	records := h.log.Records()
	require.NotNil(t, records[len(records)-2].Event)
	assert.Equal(t, audit.KindLeak, records[len(records)-2].Event.Kind)
	assert.Equal(t, "upstream-broken", h.outcome().ErrorCode)
}
