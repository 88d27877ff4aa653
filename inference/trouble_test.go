package inference

import (
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

func TestBackendTroubles(t *testing.T) {
	for name, tc := range map[string]struct {
		backend http.HandlerFunc
		status  int
		code    string
		says    string
	}{
		"unauthorized": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, "Incorrect API key provided: cana****Q7")
		}, 502, "upstream-unauthorized", "does not accept the host's credential"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusTemporaryRedirect)
		}, 502, "upstream-redirect", "redirect"},
		"encoded": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "x")
		}, 502, "", ""},
		"hangs up": {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, 502, "upstream-broken", "broke off"},
		"breaks off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "x")
		}, 502, "upstream-broken", "broke off"},
		"too large":   {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 2000)) }, 502, "upstream-too-large", "larger"},
		"rate limits": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "slow down", http.StatusTooManyRequests) }, 429, "upstream-429", "slow down"},
		"overloaded":  {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "x", 529) }, 529, "upstream-529", "x"},
	} {
		h := newHouse(t, &Options{MaxBody: 1000})
		h.backend = tc.backend
		resp, body := h.post("/v1/messages", plainMessage)
		assert.Equal(t, tc.status, resp.StatusCode, name)
		assert.Contains(t, body, tc.says, name)
		assert.NotContains(t, body, "****", name)
		out := h.outcome()
		assert.Equal(t, audit.StatusFailed, out.Status, name)
		if tc.code != "" {
			assert.Equal(t, tc.code, out.ErrorCode, name)
		}
	}
}

func TestBackendIsDown(t *testing.T) {
	h := newHouse(t, nil)
	h.origin.Close()
	for path, shape := range map[string]string{"/v1/messages": `"api_error"`, "/v1/chat/completions": `"server_error"`} {
		resp, body := h.post(path, `{"model":"good","max_tokens":1}`)
		assert.Equal(t, 502, resp.StatusCode)
		assert.Contains(t, body, shape)
		assert.NotContains(t, body, "127.0.0.1", "the agent learns where the backend is")
	}
}

func TestMissingCredential(t *testing.T) {
	for name, opts := range map[string]*Options{
		"no such secret": {Vault: credential.NewMemory(nil)},
		"not bound":      {Vault: credential.NewMemory(map[string]credential.Secret{"claude-key": credential.NewSecret([]byte("sk-0123456789"))})},
	} {
		h := newHouse(t, opts)
		resp, body := h.post("/v1/messages", plainMessage)
		assert.Equal(t, 502, resp.StatusCode, name)
		assert.Contains(t, body, "no usable credential", name)
		assert.Equal(t, "credential", h.outcome().ErrorCode, name)
		assert.Zero(t, h.requests.Load()+h.strays.Load())
	}
	h := newHouse(t, nil)
	router, err := NewRouter(h.config(), h.engine, h.log, nil)
	require.NoError(t, err)
	rec := httptest.NewRecorder()
	session(router, bot).ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(plainMessage)))
	assert.Equal(t, 502, rec.Code)
	assert.Zero(t, h.requests.Load()+h.strays.Load())
}
