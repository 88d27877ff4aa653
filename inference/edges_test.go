package inference

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// keyless is a router with one backend that takes no key, answered by rt.
func keyless(h *house, rt roundTripFunc) http.Handler {
	router, err := NewRouter(Config{Backends: []Backend{{Name: "openai", BaseURL: "http://backend.example", Models: []string{"good"}}}},
		h.engine, h.log, &Options{Transport: rt, MaxBody: 1000})
	require.NoError(h.t, err)
	return session(router, bot)
}

// A call that panics on its way still comes to an end on record.
func TestPanicsAreOnRecord(t *testing.T) {
	h := newHouse(t, nil)
	door := keyless(h, func(*http.Request) (*http.Response, error) { panic("a broken transport") })
	assert.Panics(t, func() {
		door.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(plainChat)))
	})
	assert.Equal(t, audit.StatusFailed, h.outcome().Status)
	assert.Equal(t, "aborted", h.outcome().ErrorCode)
}

// A body that says that it is too large is not read at all.
func TestLargeBodiesAreNotRead(t *testing.T) {
	h := newHouse(t, nil)
	door := keyless(h, nil)
	body := &countingReader{}
	req := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", body)
	req.ContentLength = 1001
	rec := httptest.NewRecorder()
	door.ServeHTTP(rec, req)
	assert.Equal(t, http.StatusRequestEntityTooLarge, rec.Code)
	assert.Zero(t, body.reads)
	assert.Equal(t, audit.GuardSize, h.denial().Decision.Reason)
}

type countingReader struct{ reads int }

func (c *countingReader) Read([]byte) (int, error) { c.reads++; return 0, io.EOF }

// An answer whose bytes cannot be looked into is not passed on.
func TestEncodedAnswersAreRefused(t *testing.T) {
	h := newHouse(t, nil)
	var asked string
	door := keyless(h, func(r *http.Request) (*http.Response, error) {
		asked = r.Header.Get("Accept-Encoding")
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Encoding": {"br"}}, Body: io.NopCloser(strings.NewReader("xx"))}, nil
	})
	rec := httptest.NewRecorder()
	door.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(plainChat)))
	assert.Equal(t, http.StatusBadGateway, rec.Code)
	assert.Equal(t, "identity", asked)
	assert.Equal(t, "upstream-encoding", h.outcome().ErrorCode)
}

func TestLongHeadersStayBehind(t *testing.T) {
	in := http.Header{"Accept": {strings.Repeat("x", maxHeader+1), "short"}}
	assert.Equal(t, []string{"short"}, backendHeader(Anthropic, in, nil)["Accept"])
}

// A client that does not read cannot keep a revoked agent's call alive, and is
// not mistaken for one that left.
func TestRevocationEndsStreamsThatNobodyReads(t *testing.T) {
	a := &agents{cancel: make(chan context.CancelFunc, 1)}
	h := newHouse(t, &Options{Agents: a})
	h.backend = sse("data: {}\n\n")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	w := &stuckWriter{header: http.Header{}, stuck: make(chan struct{}), freed: make(chan struct{}), leave: leave}
	ended := make(chan any)
	go func() {
		defer func() { ended <- recover() }()
		req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/messages", strings.NewReader(messagesStream))
		session(h.router, bot).ServeHTTP(w, req)
	}()
	<-w.stuck
	(<-a.cancel)()
	assert.Equal(t, http.ErrAbortHandler, <-ended)
	assert.Equal(t, audit.StatusCancelled, h.outcome().Status)
	assert.Equal(t, "revoked", h.outcome().ErrorCode)
}

// The one who cuts a stream uses the ResponseWriter, which is dead once the
// handler has returned: the handler waits for it.
func TestTheHandlerStaysUntilTheCutIsDone(t *testing.T) {
	a := &agents{cancel: make(chan context.CancelFunc, 1)}
	h := newHouse(t, &Options{Agents: a})
	h.backend = sse("data: {}\n\n")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	w := &slowCut{stuckWriter{header: http.Header{}, stuck: make(chan struct{}), freed: make(chan struct{}), leave: leave}, make(chan struct{}), make(chan bool, 1)}
	go func() {
		defer func() { _ = recover(); close(w.ended) }()
		req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/messages", strings.NewReader(messagesStream))
		session(h.router, bot).ServeHTTP(w, req)
	}()
	<-w.stuck
	(<-a.cancel)()
	assert.False(t, <-w.orphaned, "the handler returned while its ResponseWriter was in use")
	<-w.ended
}

// A slowCut takes its time to set a deadline, and notes if the handler did not
// wait.
type slowCut struct {
	stuckWriter
	ended    chan struct{}
	orphaned chan bool
}

func (w *slowCut) SetWriteDeadline(t time.Time) error {
	err := w.stuckWriter.SetWriteDeadline(t)
	select {
	case <-w.ended:
		w.orphaned <- true
	case <-time.After(300 * time.Millisecond): // long enough for a handler that does not wait
		w.orphaned <- false
	}
	return err
}

// A stuckWriter is a connection whose client does not read. As with net/http, a
// write that fails cancels the request.
type stuckWriter struct {
	header       http.Header
	stuck, freed chan struct{}
	leave        context.CancelFunc
}

func (w *stuckWriter) Header() http.Header { return w.header }
func (w *stuckWriter) WriteHeader(int)     {}
func (w *stuckWriter) Flush()              {}

func (w *stuckWriter) Write([]byte) (int, error) {
	close(w.stuck)
	<-w.freed
	w.leave()
	return 0, os.ErrDeadlineExceeded
}

func (w *stuckWriter) SetWriteDeadline(time.Time) error { close(w.freed); return nil }

// Counts are final only when the stream came to its end.
func TestUsageOfACutStreamIsNotFinal(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	upTo, _, _ := strings.Cut(golden(t, "anthropic.sse"), "event: message_stop")
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() {
		serve("/v1/messages", messagesStream, &cutReader{parts: [][]byte{[]byte(upTo)}, err: io.ErrUnexpectedEOF})
	})
	want := anthropicUsed
	want.Final = false
	assert.Equal(t, want, *log.out.Usage)
	assert.EqualValues(t, len(upTo), log.out.Bytes)
}

// An event without an end does not fill the memory, and nothing of it passes
// unseen.
func TestEndlessEventsAreNotHeld(t *testing.T) {
	h := newHouse(t, &Options{MaxBody: 64 << 10})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse("data: {}\n\ndata: ")(w, r)
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, strings.Repeat("x", 8<<10))
			_ = http.NewResponseController(w).Flush()
		}
	}
	_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.True(t, strings.HasPrefix(got, "data: {}\n\ndata: {\"error\":"), got)
	assert.Contains(t, got, "larger than 65536 bytes")
	assert.Equal(t, "upstream-malformed", h.outcome().ErrorCode)
}

// An event that is too large does not pass because all of it came at once.
func TestLargeEventsThatComeAtOnce(t *testing.T) {
	const most = 64 << 10
	event := func(n int) string { return "data: " + strings.Repeat(" ", n-len("data: {}\n\n")) + "{}\n\n" }
	serve, log := newHouse(t, &Options{MaxBody: most}).direct()
	for _, end := range []string{"data: [DONE]\n\n", ""} {
		stream := event(most) + end
		assert.True(t, stream == serve("/v1/chat/completions", chatStream, &cutReader{parts: [][]byte{[]byte(stream)}}))
		assert.Equal(t, audit.StatusOK, log.out.Status)
		stream = event(most+1) + end
		if end == "" {
			stream = strings.TrimSuffix(event(most+3), "\n\n") // its blank line is missing
		}
		assert.PanicsWithValue(t, http.ErrAbortHandler, func() {
			serve("/v1/chat/completions", chatStream, &cutReader{parts: [][]byte{[]byte(stream)}})
		})
		assert.Equal(t, "upstream-malformed", log.out.ErrorCode)
		assert.Less(t, log.out.Bytes, int64(most))
	}
}

// A usage chunk that also carries an answer is the client's, asked for or not.
func TestOnlyTheBareUsageChunkIsTakenOut(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	for _, event := range []string{
		`data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
		`data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
		`data: {"choices":null,"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
	} {
		stream := event + "\n\ndata: [DONE]\n\n"
		assert.Equal(t, stream, serve("/v1/chat/completions", chatNoUsage, &cutReader{parts: [][]byte{[]byte(stream)}}))
		assert.Equal(t, audit.Usage{Model: "good", Input: 1, Output: 2, Final: true}, *log.out.Usage)
	}
}

// Events whose data is written on several lines are understood.
func TestDataOnSeveralLines(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	stream := "data: {\"choices\":[],\ndata: \"usage\"\ndata: :{\"prompt_tokens\":1,\ndata:\"completion_tokens\":2}}\n\ndata: [DONE]\n\n"
	assert.Equal(t, "data: [DONE]\n\n", serve("/v1/chat/completions", chatNoUsage, &cutReader{parts: [][]byte{[]byte(stream)}}))
	assert.EqualValues(t, 2, log.out.Usage.Output)
}

// Counts that make no sense are not taken for tokens.
func TestOddCounts(t *testing.T) {
	for body, want := range map[string]audit.Usage{
		`{"usage":{"prompt_tokens":-5,"completion_tokens":-1}}`:                                           {Model: "m", Final: true},
		`{"usage":{"prompt_tokens":5,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":9}}}`: {Model: "m", CacheRead: 5, Final: true},
		`{"usage":{"prompt_tokens":5}}`:                                                                   {Model: "m", Output: 8}, // half of a count is none
		`{"usage":{}}`:                                                                                    {Model: "m", Output: 3},
		`{"usage":{"prompt_tokens":5,"completion_tokens":1e3}}`:                                           {Model: "m", Output: 14},
		`{"usage":{"prompt_tokens":"many"}}`:                                                              {Model: "m", Output: 9}, // estimated
		`{"usage":null}`:                                                                                  {Model: "m", Output: 4},
		`nonsense`:                                                                                        {Model: "m", Output: 2},
	} {
		m := newMeter(opChat, "m", 0)
		m.whole([]byte(body))
		assert.Equal(t, want, *m.usage(true), body)
	}
}

func FuzzMeter(f *testing.F) {
	f.Add([]byte(golden(f, "openai.sse")))
	f.Add([]byte(golden(f, "anthropic.sse")))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for _, op := range operations {
			m := newMeter(op, "m", len(stream))
			for ev := range bytes.SplitAfterSeq(stream, []byte("\n\n")) {
				before := string(ev)
				m.event(ev)
				require.Equal(t, before, string(ev), "looking at an event changed it")
			}
			u := m.usage(true)
			require.True(t, u.Input >= 0 && u.Output >= 0 && u.CacheRead >= 0 && u.CacheWrite >= 0)
		}
	})
}
