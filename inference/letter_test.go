package inference

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLetterIsReadToItsEndAndThenGone(t *testing.T) {
	text := strings.Repeat("x", 100<<10)
	l := &letter{text: []byte(text)}
	for range 2 { // a dead connection
		r, err := l.open()
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, text, string(got))
	}
	r, err := l.open()
	require.NoError(t, err)
	l.letGo()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, text, string(got), "what is being sent")
	_, err = l.open()
	assert.ErrorIs(t, err, errLetGo)
}

// A backend that begins to answer before it has read the request gets the whole of
// it, and while its stream goes on nothing here keeps what was sent.
func TestAnswerThatBeginsBeforeTheRequestEnds(t *testing.T) {
	body := `{"model":"good","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"` + strings.Repeat("x", 4<<20) + `"}]}`
	seen := make(chan string, 1)
	h := newHouse(t, nil)
	h.origin.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		sse("data: {}\n\n")(w, r)
		got, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		seen <- string(got)
		sse("data: [DONE]\n\n")(w, r)
	})
	var sent *http.Request
	transport := h.router.opts.Transport
	h.router.opts.Transport = roundTripFunc(func(r *http.Request) (*http.Response, error) {
		sent = r
		return transport.RoundTrip(r)
	})
	_, got := h.post("/v1/chat/completions", body)
	assert.Equal(t, "data: {}\n\ndata: [DONE]\n\n", got)
	assert.Equal(t, body, <-seen)
	_, err := sent.GetBody()
	assert.ErrorIs(t, err, errLetGo)
}
