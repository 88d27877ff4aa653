package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func golden(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return string(b)
}

const (
	chatStream      = `{"model":"good","stream":true,"stream_options":{"include_usage":true},"messages":[]}`
	chatNoUsage     = `{"model":"good","stream":true,"messages":[]}`
	messagesStream  = `{"model":"good","max_tokens":9,"stream":true,"messages":[]}`
	responsesStream = `{"model":"good","stream":true,"store":false,"input":"x"}`
	geminiStream    = "/v1beta/models/good:streamGenerateContent?alt=sse" // where, for a stream is asked for by the path
)

var (
	openAIUsed    = audit.Usage{Model: "good", Input: 20, CacheRead: 100, Output: 34, Reasoning: 20, Final: true}
	anthropicUsed = audit.Usage{Model: "good", Input: 25, CacheRead: 300, CacheWrite: 7, Output: 15, Final: true}
)

// direct returns a function that serves one request without a network, so that
// the test decides how the backend's stream is cut into reads, and the recorder
// that has seen its outcome.
func (h *house) direct() (serve func(path, body string, stream io.ReadCloser) string, log *lastOutcome) {
	h.t.Helper()
	var next io.ReadCloser
	opts := h.router.opts
	opts.Transport = roundTripFunc(func(r *http.Request) (*http.Response, error) {
		_, err := io.Copy(io.Discard, r.Body)
		require.NoError(h.t, err)
		return streamed(next), nil
	})
	log = &lastOutcome{}
	router, err := NewRouter(h.manyProtocols(), h.engine, log, &opts)
	require.NoError(h.t, err)
	return func(path, body string, stream io.ReadCloser) string {
		rec := httptest.NewRecorder()
		next = stream
		session(router, bot).ServeHTTP(rec, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		return rec.Body.String()
	}, log
}

func TestStreamsAreByteExactHoweverTheyAreCut(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	withoutUsage := func(s string) string {
		at := strings.Index(s, `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"good-2026","choices":[]`)
		return s[:at] + s[strings.Index(s, "data: [DONE]"):]
	}
	for name, tc := range map[string]struct {
		path, body, stream, want string
		used                     audit.Usage
	}{
		"responses":            {"/v1/responses", responsesStream, golden(t, "responses.sse"), golden(t, "responses.sse"), openAIUsed},
		"responses CRLF":       {"/v1/responses", responsesStream, crlf(golden(t, "responses.sse")), crlf(golden(t, "responses.sse")), openAIUsed},
		"gemini":               {geminiStream, `{"contents":[]}`, golden(t, "gemini.sse"), golden(t, "gemini.sse"), openAIUsed},
		"gemini CRLF":          {geminiStream, `{"contents":[]}`, crlf(golden(t, "gemini.sse")), crlf(golden(t, "gemini.sse")), openAIUsed},
		"openai":               {"/v1/chat/completions", chatStream, golden(t, "openai.sse"), golden(t, "openai.sse"), openAIUsed},
		"openai CRLF":          {"/v1/chat/completions", chatStream, crlf(golden(t, "openai.sse")), crlf(golden(t, "openai.sse")), openAIUsed},
		"openai without space": {"/v1/chat/completions", chatStream, strings.ReplaceAll(golden(t, "openai.sse"), "data: ", "data:"), strings.ReplaceAll(golden(t, "openai.sse"), "data: ", "data:"), openAIUsed},
		"openai, usage not asked for": {"/v1/chat/completions", chatNoUsage, golden(t, "openai.sse"),
			withoutUsage(golden(t, "openai.sse")), openAIUsed},
		"openai CRLF, usage not asked for": {"/v1/chat/completions", chatNoUsage, crlf(golden(t, "openai.sse")),
			crlf(withoutUsage(golden(t, "openai.sse"))), openAIUsed},
		"anthropic":      {"/v1/messages", messagesStream, golden(t, "anthropic.sse"), golden(t, "anthropic.sse"), anthropicUsed},
		"anthropic CRLF": {"/v1/messages", messagesStream, crlf(golden(t, "anthropic.sse")), crlf(golden(t, "anthropic.sse")), anthropicUsed},
	} {
		for cut := 1; cut < len(tc.stream); cut++ {
			got := serve(tc.path, tc.body, &cutReader{parts: [][]byte{[]byte(tc.stream[:cut]), []byte(tc.stream[cut:])}})
			require.Equal(t, tc.want, got, "%s, cut at %d", name, cut)
			require.Equal(t, tc.used, *log.out.Usage, "%s, cut at %d", name, cut)
		}
		var bytewise [][]byte
		for i := range len(tc.stream) {
			bytewise = append(bytewise, []byte(tc.stream[i:i+1]))
		}
		got := serve(tc.path, tc.body, &cutReader{parts: bytewise})
		assert.Equal(t, tc.want, got, "%s, byte by byte", name)
		assert.Equal(t, tc.used, *log.out.Usage, name)
		assert.EqualValues(t, len(tc.want), log.out.Bytes, name)
		assert.Equal(t, audit.StatusOK, log.out.Status, name)
	}
}

// A stream whose start was seen before its end must not wait for it.
func TestEventsPassAsTheyArrive(t *testing.T) {
	h := newHouse(t, nil)
	next := make(chan string)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for p := range next {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}
	resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/messages", messagesStream))
	require.NoError(t, err, "the header did not pass before the first event")
	defer resp.Body.Close()
	for _, ev := range strings.SplitAfter(strings.TrimSuffix(golden(t, "anthropic.sse"), "\n"), "\n\n") {
		ev = strings.TrimRight(ev, "\n") + "\n\n"
		next <- ev
		got := make([]byte, len(ev))
		_, err := io.ReadFull(resp.Body, got)
		require.NoError(t, err)
		require.Equal(t, ev, string(got))
	}
	close(next)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Empty(t, rest)
	assert.Equal(t, anthropicUsed, *h.outcome().Usage)
}

// The event that completes a stream waits for the record.
func TestOutcomeIsDurableBeforeTheStreamIsComplete(t *testing.T) {
	for path, tc := range map[string]struct{ body, stream, end string }{
		"/v1/chat/completions": {chatStream, golden(t, "openai.sse"), "data: [DONE]"},
		"/v1/messages":         {messagesStream, golden(t, "anthropic.sse"), `data: {"type":"message_stop"}`},
		"/v1/responses":        {responsesStream, golden(t, "responses.sse"), `data: {"type":"response.completed"`},
		geminiStream:           {`{"contents":[]}`, golden(t, "gemini.sse"), `"finishReason": "STOP", "index": 0`},
	} {
		h := newHouse(t, nil)
		h.serve(h.manyProtocols())
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			h.log.Fail(errors.New("disk full")) // after Begin, before End
			sse(tc.stream)(w, r)
		}
		resp, got, err := h.do(h.request(http.MethodPost, path, tc.body))
		assert.Equal(t, 200, resp.StatusCode)
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "the client took the stream for complete")
		assert.NotContains(t, got, tc.end)
		assert.True(t, strings.HasPrefix(tc.stream, got))
		h.log.Fail(nil)
	}
}

// So does the end of a stream that has no such event.
func TestOutcomeIsDurableBeforeTheBodyEnds(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		h.log.Fail(errors.New("disk full"))
		sse("data: {}\n\n", "data: half")(w, r)
	}
	_, got, err := h.do(h.request(http.MethodPost, "/v1/messages", messagesStream))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.NotContains(t, got, "half")
	h.log.Fail(nil)
}

func TestBackendThatBreaksOff(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse(golden(t, "anthropic.sse")[:700])(w, r)
		panic(http.ErrAbortHandler)
	}
	_, got, err := h.do(h.request(http.MethodPost, "/v1/messages", messagesStream))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "a cut stream must look cut")
	whole := golden(t, "anthropic.sse")[:700]
	whole = whole[:strings.LastIndex(whole, "\n\n")+2]
	assert.Less(t, len(whole), 700)
	assert.Equal(t, whole, got, "a part of an event does not pass")
	out := h.outcome()
	assert.Equal(t, audit.StatusFailed, out.Status)
	assert.Equal(t, "upstream-broken", out.ErrorCode)
	assert.Equal(t, audit.Usage{Model: "good", Input: 25, CacheRead: 300, CacheWrite: 7, Output: 11}, *out.Usage, "output is estimated")
}

func TestErrorEventsAreFailures(t *testing.T) {
	for path, tc := range map[string]struct{ body, stream string }{
		"/v1/messages":         {messagesStream, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n"},
		"/v1/chat/completions": {chatStream, "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n"},
	} {
		h := newHouse(t, nil)
		h.backend = sse(tc.stream)
		_, got := h.post(path, tc.body)
		assert.Equal(t, tc.stream, got)
		assert.Equal(t, audit.StatusFailed, h.outcome().Status)
		assert.Equal(t, "upstream-error-event", h.outcome().ErrorCode)
		assert.False(t, h.outcome().Usage.Final)
	}
}

// A large event passes as a whole; those around it are treated as always.
func TestLargeEvents(t *testing.T) {
	serve, log := newHouse(t, nil).direct()
	start, end, _ := strings.Cut(golden(t, "openai.sse"), ": ping\n\n")
	large := "data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("A", 768<<10) + "\"}}],\"usage\":{\"prompt_tokens\":1}}\n\n"
	for _, nl := range []string{"\n", "\r\n"} {
		stream := strings.ReplaceAll(start+large+end, "\n", nl)
		var parts [][]byte
		for s := stream; s != ""; {
			n := min(len(s), 4093)
			parts, s = append(parts, []byte(s[:n])), s[n:]
		}
		assert.True(t, stream == serve("/v1/chat/completions", chatStream, &cutReader{parts: parts}))
		assert.Equal(t, openAIUsed, *log.out.Usage)
	}
}

// After the end of the stream nothing more is for the client.
func TestNothingPassesAfterTheEnd(t *testing.T) {
	serve, _ := newHouse(t, nil).direct()
	got := func(reads ...string) string {
		r := &cutReader{}
		for _, s := range reads {
			r.parts = append(r.parts, []byte(s))
		}
		return serve("/v1/chat/completions", chatStream, r)
	}
	for _, after := range []string{"data: {\"late\":1}\n\n", "data: late", ": comment\n\n"} {
		assert.Equal(t, "data: [DONE]\n\n", got("data: [DONE]\n\n", after))
		assert.Equal(t, "data: [DONE]\n\n", got("data: [DONE]\n\n"+after))
	}
	assert.Equal(t, "data: [DONE]\n\n\n\n\r\n", got("data: [DONE]\n\n\n", "\n\r\n"))
}

func TestAbortReachesTheBackend(t *testing.T) {
	for name, first := range map[string]string{"before the first byte": "", "in the stream": "data: {}\n\n"} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			gone, begun := make(chan struct{}), make(chan struct{})
			h.backend = func(w http.ResponseWriter, r *http.Request) {
				if first != "" {
					sse(first)(w, r)
				}
				close(begun)
				<-r.Context().Done()
				close(gone)
			}
			req := h.request(http.MethodPost, "/v1/messages", messagesStream)
			ctx, cancel := context.WithCancel(req.Context())
			answered := make(chan error, 1)
			go func() {
				resp, err := h.door.Client().Do(req.WithContext(ctx))
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				answered <- err
			}()
			<-begun
			cancel()
			<-gone
			assert.Error(t, <-answered)
			h.door.Close() // waits for the handler
			assert.Equal(t, audit.StatusCancelled, h.outcome().Status)
			assert.Equal(t, "cancelled", h.outcome().ErrorCode)
		})
	}
}

func TestRevocationEndsCallsThatWait(t *testing.T) {
	a := &agents{cancel: make(chan context.CancelFunc, 1)}
	h := newHouse(t, &Options{Agents: a})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		(<-a.cancel)()
		<-r.Context().Done()
	}
	resp, got := h.post("/v1/messages", messagesStream)
	assert.Equal(t, http.StatusForbidden, resp.StatusCode)
	assert.Contains(t, got, `"permission_error"`)
	assert.Equal(t, audit.StatusCancelled, h.outcome().Status)
	assert.Equal(t, "revoked", h.outcome().ErrorCode)
}

// busyLog gets to no intent until its call has ended; meanwhile the agent is revoked.
type busyLog struct {
	audit.Recorder
	revoke func()
}

func (l busyLog) Begin(ctx context.Context, _ audit.Intent) (audit.Call, error) {
	l.revoke()
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", audit.ErrBusy, ctx.Err())
}

// Who is revoked while the log is waited for is told so, and not that the log is
// broken.
func TestRevocationEndsCallsThatWaitForTheLog(t *testing.T) {
	a := &agents{cancel: make(chan context.CancelFunc, 1)}
	h := newHouse(t, &Options{Agents: a})
	h.router.log = busyLog{h.log, func() { (<-a.cancel)() }}
	resp, got := h.post("/v1/messages", messagesStream)
	assert.Equal(t, http.StatusForbidden, resp.StatusCode)
	assert.Contains(t, got, `"permission_error"`)
	assert.Zero(t, h.requests.Load())
}

// busyLedger is the same of a ledger.
type busyLedger struct {
	Ledger
	revoke func()
}

func (l busyLedger) Reserve(ctx context.Context, _ Hold) error {
	l.revoke()
	<-ctx.Done()
	return ctx.Err()
}

func TestRevocationEndsCallsThatWaitForTheLedger(t *testing.T) {
	a := &agents{cancel: make(chan context.CancelFunc, 1)}
	h := newHouse(t, &Options{Agents: a, Ledger: busyLedger{NewMemoryLedger(), func() { (<-a.cancel)() }}})
	cfg := h.config()
	cfg.Spend.Budgets = []Budget{{Name: "all", Per: PerAgent, Window: WindowTotal, Tokens: 1 << 30}}
	require.NoError(t, h.router.Reload(t.Context(), cfg, operator))
	resp, got := h.post("/v1/messages", messagesStream)
	assert.Equal(t, http.StatusForbidden, resp.StatusCode, got)
	assert.Contains(t, got, `"permission_error"`)
	assert.Zero(t, h.requests.Load())
}

func TestRevocationEndsStreams(t *testing.T) {
	a := &agents{cancel: make(chan context.CancelFunc, 1)}
	h := newHouse(t, &Options{Agents: a})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse("data: {}\n\n")(w, r)
		<-r.Context().Done()
	}
	resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/messages", messagesStream))
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, len("data: {}\n\n")))
	require.NoError(t, err)
	(<-a.cancel)()
	_, err = io.ReadAll(resp.Body)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "the stream must look cut")
	h.door.Close() // waits for the handler
	assert.Equal(t, audit.StatusCancelled, h.outcome().Status)
	assert.Equal(t, "revoked", h.outcome().ErrorCode)
}

// However a stream is cut, its events are the same, or it is refused.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte(golden(f, "openai.sse")), uint16(7))
	f.Add([]byte("a\r\n\r\n\n\r\n\n"), uint16(1))
	f.Add([]byte("a\r\n\r\n\n\r\r\n\n"), uint16(1))
	f.Add([]byte("a\rb"), uint16(0))
	f.Add([]byte("\xef\xbb\xbfa"), uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, step uint16) {
		read := func(n int) (events []string, all []byte, refused bool) {
			var parts [][]byte
			for rest := stream; len(rest) > 0; {
				k := min(n, len(rest))
				parts, rest = append(parts, rest[:k]), rest[k:]
			}
			r, s := &cutReader{parts: parts}, &splitter{}
			for {
				_, err := s.fill(r)
				if errors.Is(err, errFraming) {
					return nil, nil, true
				}
				for ev, ok := s.next(); ok; ev, ok = s.next() {
					events = append(events, string(ev.of(s.buf)))
				}
				all = append(all, s.buf[:s.event]...)
				s.compact()
				if err != nil {
					return events, append(all, s.buf...), false
				}
			}
		}
		whole, all, refused := read(len(stream) + 1)
		pieces, again, refusedToo := read(int(step) + 1)
		alone := regexp.MustCompile("\r(?:[^\n]|$)").Match(stream) || bytes.HasPrefix(stream, []byte(byteOrderMark))
		require.Equal(t, alone, refused)
		require.Equal(t, refused, refusedToo)
		require.Equal(t, whole, pieces)
		if !refused {
			require.Equal(t, string(stream), string(all))
			require.Equal(t, string(stream), string(again))
		}
	})
}
