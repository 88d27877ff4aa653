package inference

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
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

func TestMemory(t *testing.T) {
	m := newMemory(100)
	assert.True(t, m.take("a", 50))
	assert.False(t, m.take("a", 1), "one agent gets a half")
	assert.True(t, m.take("b", 30))
	assert.True(t, m.take("c", 20))
	assert.False(t, m.take("b", 1), "all is taken")
	assert.True(t, m.take("b", 0))
	m.give("a", 50)
	assert.True(t, m.take("b", 20))
	for agent, n := range map[string]int64{"b": 50, "c": 20} {
		m.give(agent, n)
	}
	assert.Zero(t, m.all)
	assert.Empty(t, m.agent)
}

// A read takes its memory before it has it, and no more on somebody's word than a
// megabyte.
func TestReadAll(t *testing.T) {
	for name, tc := range map[string]struct {
		size, length int
		room, most   int64
		holds        int64
		err          error
	}{
		"as it was said":              {size: 100, length: 100, room: 1000, most: 1000, holds: 101},
		"nothing":                     {size: 0, length: 0, room: 1000, most: 1000, holds: 1},
		"not said":                    {size: 5000, length: -1, room: 1 << 20, most: 1 << 20, holds: 8 << 10},
		"as large as it may be":       {size: 1000, length: -1, room: 5000, most: 1000, holds: 1001},
		"larger":                      {size: 1001, length: -1, room: 5000, most: 1000, holds: 1001, err: errTooLarge},
		"a lie, too long":             {size: 10, length: 5 << 20, room: 2 << 20, most: 10 << 20, holds: 1 << 20},
		"a lie, too short":            {size: 1000, length: 10, room: 2000, most: 2000, holds: 1408},
		"long":                        {size: 3 << 20, length: 3 << 20, room: 4 << 20, most: 4 << 20, holds: 3<<20 + 1},
		"no room":                     {size: 5000, length: 5000, room: 5000, most: 10_000, err: errNoRoom},
		"no room on the way":          {size: 5000, length: -1, room: 5000, most: 10_000, holds: 4 << 10, err: errNoRoom},
		"no room for what it may use": {size: 5000, length: -1, room: 1000, most: 10_000, err: errNoRoom},
	} {
		c := &call{Router: &Router{memory: newMemory(2 * tc.room)}}
		body, err := c.readAll(io.MultiReader(strings.NewReader(strings.Repeat("x", tc.size))), int64(tc.length), tc.most)
		assert.Equal(t, tc.err, err, name)
		assert.Equal(t, tc.holds, c.holds, name)
		if err == nil {
			assert.Len(t, body, tc.size, name)
			assert.EqualValues(t, cap(body), c.holds, name)
		}
		c.giveBack()
		assert.Zero(t, c.memory.all, name)
	}
	c := &call{Router: &Router{memory: newMemory(100)}}
	_, err := c.readAll(&cutReader{err: io.ErrUnexpectedEOF}, 10, 100)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// All bodies together have a limit, in whatever state their calls are; what ends
// gives back all of it.
func TestBodiesTogetherHaveALimit(t *testing.T) {
	h := newHouse(t, &Options{MaxHeld: 24 << 10}) // of which bot gets a half, 4 KiB of it for the answer
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		if h.requests.Load() == 1 {
			close(begun)
			<-goOn
		}
		_, _ = io.WriteString(w, `{}`)
	}
	body := func(n int) string { return `{"model":"good","messages":[],"user":"` + strings.Repeat("x", n) + `"}` }
	first := make(chan int)
	go func() {
		resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", body(7<<10)))
		if assert.NoError(t, err) {
			resp.Body.Close()
			first <- resp.StatusCode
		}
	}()
	<-begun
	for path, code := range map[string]string{"/v1/chat/completions": `"code":"busy"`, "/v1/messages": `"type":"api_error"`} {
		resp, got := h.post(path, body(7<<10))
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, "1", resp.Header.Get("Retry-After"))
		assert.Contains(t, got, code)
	}
	close(goOn)
	assert.Equal(t, 200, <-first)
	assert.EqualValues(t, 1, h.requests.Load())
	d := h.log.Denials()
	require.Len(t, d, 2)
	assert.Equal(t, audit.GuardLimit, d[0].Decision.Reason)

	resp, _ := h.post("/v1/chat/completions", body(7<<10))
	assert.Equal(t, 200, resp.StatusCode, "there is room again")
	resp, _ = h.post("/v1/chat/completions", body(12<<10))
	assert.Equal(t, 503, resp.StatusCode)
	h.door.Close()
	assert.Zero(t, h.router.memory.all)
	assert.Empty(t, h.router.memory.agent)
}

// Answers take of the same memory: those in one piece, and events.
func TestAnswersTakeMemory(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	h := newHouse(t, &Options{MaxHeld: 60 << 10})
	h.backend = func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"x":"`+long+`"}`) }
	resp, got := h.post("/v1/chat/completions", plainChat)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, got, `"code":"busy"`)
	assert.Equal(t, "busy", h.outcome().ErrorCode)

	h = newHouse(t, &Options{MaxHeld: 60 << 10})
	h.backend = sse("data: {}\n\ndata: ", long, long, "\n\n")
	_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.True(t, strings.HasPrefix(got, "data: {}\n\ndata: {\"error\":{\"code\":\"busy\""), got)
	h.door.Close()
	assert.Equal(t, "busy", h.outcome().ErrorCode)
	assert.Zero(t, h.router.memory.all)
}

// A stream holds its request no longer than until it begins.
func TestStreamsHoldNoRequest(t *testing.T) {
	h := newHouse(t, nil)
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse("data: {}\n\n")(w, r)
		close(begun)
		<-goOn
	}
	resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
	require.NoError(t, err)
	defer resp.Body.Close()
	<-begun
	_, err = io.ReadFull(resp.Body, make([]byte, len("data: {}\n\n")))
	require.NoError(t, err)
	h.router.memory.mu.Lock()
	assert.Zero(t, h.router.memory.all)
	h.router.memory.mu.Unlock()
	close(goOn)
}

// After its end a stream is not read on for ever, and nothing of it is an error.
func TestStreamsThatGoOnAfterTheEnd(t *testing.T) {
	h := newHouse(t, &Options{MaxBody: 64 << 10})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse("data: [DONE]\n\n")(w, r)
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, strings.Repeat("x", 8<<10))
			_ = http.NewResponseController(w).Flush()
		}
	}
	_, got, err := h.do(h.request(http.MethodPost, "/v1/chat/completions", chatStream))
	assert.NoError(t, err)
	assert.Equal(t, "data: [DONE]\n\n", got)
	h.door.Close()
	assert.Equal(t, audit.StatusOK, h.outcome().Status)
	assert.Zero(t, h.router.memory.all)

	serve, log := h.direct()
	got = serve("/v1/chat/completions", chatStream, &cutReader{parts: [][]byte{[]byte("data: [DONE]\n\n"), []byte("\r\rx")}})
	assert.Equal(t, "data: [DONE]\n\n", got)
	assert.Equal(t, audit.StatusOK, log.out.Status)
}

// Nor are whole events read for ever that come after the end, and they are spoken of
// once.
func TestEventsThatGoOnAfterTheEnd(t *testing.T) {
	var said bytes.Buffer
	serve, log := newHouse(t, &Options{Logger: slog.New(slog.NewTextHandler(&said, nil))}).direct()
	const most = 4 << 20
	left := most
	got := serve("/v1/chat/completions", chatStream, readFunc(func(p []byte) (int, error) {
		text := strings.Repeat("data: {}\n\n", 100)
		switch {
		case left == most:
			text = "data: [DONE]\n\n"
		case left <= 0:
			return 0, io.EOF
		}
		n := copy(p, text)
		left -= n
		return n, nil
	}))
	assert.Equal(t, "data: [DONE]\n\n", got)
	assert.Equal(t, audit.StatusOK, log.out.Status)
	assert.Less(t, most-left, maxTrailer+2*streamBuffer)
	assert.Equal(t, 1, strings.Count(said.String(), "went on after the end"), said.String())
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
func (f readFunc) Close() error               { return nil }

// A body may be as large as numbers go.
func TestNoLimitOfBodies(t *testing.T) {
	h := newHouse(t, &Options{MaxBody: math.MaxInt64, MaxHeld: 1 << 20})
	h.backend = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"x":"`+strings.Repeat("x", 10_000)+`"}`)
	}
	resp, got := h.post("/v1/chat/completions", plainChat)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Len(t, got, 10_008)
	h.door.Close()
	h.freed(t)
}

// A stalled body ends its read when a deadline has been set, as a server's does.
type stalled struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
	sent      *bytes.Reader
}

func (s *stalled) SetReadDeadline(t time.Time) error {
	s.deadlines = append(s.deadlines, t)
	return nil
}

func (s *stalled) Read(p []byte) (int, error) {
	if n, err := s.sent.Read(p); err == nil {
		return n, nil
	}
	if len(s.deadlines) == 0 {
		return 0, errors.New("it would be waited for for ever")
	}
	return 0, os.ErrDeadlineExceeded
}

func (s *stalled) Close() error { return nil }

func TestSlowBodiesHaveADeadline(t *testing.T) {
	for path, want := range map[string]string{"/v1/chat/completions": `"code":"body_timeout"`, "/v1/messages": `"type":"timeout_error"`} {
		h := newHouse(t, nil)
		body := &stalled{ResponseRecorder: httptest.NewRecorder(), sent: bytes.NewReader([]byte(`{"model":"go`))}
		req := httptest.NewRequest(http.MethodPost, path, body)
		req.ContentLength = 100
		session(h.router, bot).ServeHTTP(body, req)
		assert.Equal(t, 408, body.Code)
		assert.Contains(t, body.Body.String(), want)
		assert.Equal(t, "close", body.Header().Get("Connection"))
		require.Len(t, body.deadlines, 1, "it stands, for the server reads the rest")
		assert.WithinDuration(t, time.Now().Add(time.Minute), body.deadlines[0], 30*time.Second)
		assert.Equal(t, audit.GuardArguments, h.denial().Decision.Reason)
		assert.Zero(t, h.router.memory.all)
	}
	for timeout, want := range map[time.Duration]int{0: 2, -1: 0} {
		h := newHouse(t, &Options{BodyTimeout: timeout})
		w := &stalled{ResponseRecorder: httptest.NewRecorder()}
		session(h.router, bot).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(plainChat)))
		assert.Equal(t, 200, w.Code)
		require.Len(t, w.deadlines, want)
		if want > 0 {
			assert.True(t, w.deadlines[1].IsZero(), "it is taken back")
		}
	}
}

// The same with a server, whose connection ends.
func TestSlowBodiesEndTheirConnection(t *testing.T) {
	h := newHouse(t, &Options{BodyTimeout: 50 * time.Millisecond})
	conn, err := net.Dial("tcp", h.door.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	all, err := io.ReadAll(conn) // to the end of the connection
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(all), "HTTP/1.1 408 "), string(all))
	assert.Contains(t, string(all), "body_timeout")
}
