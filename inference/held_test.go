package inference

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// held is what the accounts of h say.
func (h *house) held() int64 {
	h.router.memory.mu.Lock()
	defer h.router.memory.mu.Unlock()
	return h.router.memory.all
}

// freed waits until there is nothing held: the transport finds the end of a request
// after the backend.
func (h *house) freed(t *testing.T) {
	t.Helper()
	assert.Eventually(t, func() bool { return h.held() == 0 }, time.Minute, time.Millisecond)
}

// A letter gives back its share once: when it was let go and its last reader is done.
func TestLettersGiveBackTheirShareOnce(t *testing.T) {
	m := newMemory(1000)
	require.True(t, m.take("a", 100))
	require.True(t, m.take("a", 7)) // of somebody else
	l := &letter{memory: m, agent: "a", text: []byte("text"), share: 100}
	read, err := l.open()
	require.NoError(t, err)
	closed, err := l.open()
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	require.NoError(t, closed.Close())
	assert.EqualValues(t, 107, m.all, "it may be sent again")
	again, err := l.open()
	require.NoError(t, err)
	l.letGo()
	l.letGo()
	require.NoError(t, closed.Close())
	_, err = closed.Read(make([]byte, 9))
	assert.ErrorIs(t, err, errLetGo)
	assert.EqualValues(t, 107, m.all)
	require.NoError(t, again.Close())
	assert.EqualValues(t, 107, m.all, "one is left")
	got, err := io.ReadAll(read)
	require.NoError(t, err)
	assert.Equal(t, "text", string(got))
	assert.EqualValues(t, 7, m.all, "it was read to its end")
	require.NoError(t, read.Close())
	assert.EqualValues(t, 7, m.all)
	assert.Nil(t, l.text)
	l.end()
	assert.EqualValues(t, 7, m.all)

	require.True(t, m.take("a", 100))
	l = &letter{memory: m, agent: "a", text: []byte("text"), share: 100}
	read, err = l.open()
	require.NoError(t, err)
	l.end()
	assert.EqualValues(t, 7, m.all, "the call has ended")
	_, err = read.Read(make([]byte, 9))
	assert.ErrorIs(t, err, errLetGo)
	require.NoError(t, read.Close())
	assert.EqualValues(t, 7, m.all)
}

// deafBackend answers requests with the beginning of a stream and never reads their
// bodies.
func deafBackend(t *testing.T) http.RoundTripper {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			r := bufio.NewReader(conn)
			for line := ""; line != "\r\n"; {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n")
		}
	}()
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
	}}
}

// A stream whose backend does not read the request keeps the memory of it until the
// call ends, and no longer.
func TestBackendsThatDoNotReadKeepTheMemoryTaken(t *testing.T) {
	const size = 16 << 20 // more than sockets hold
	for _, model := range []string{"good", "fast"} {
		h := newHouse(t, &Options{MaxHeld: 5 * size, Transport: deafBackend(t)}) // bot has room for two copies, and not for three
		body := `{"model":"` + model + `","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"` + strings.Repeat("x", size) + `"}]}`
		var open []io.Closer
		call := func() int {
			resp, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", body))
			require.NoError(t, err)
			open = append(open, resp.Body)
			_, err = io.ReadFull(resp.Body, make([]byte, 10))
			require.NoError(t, err)
			return resp.StatusCode
		}
		assert.Equal(t, 200, call(), model)
		assert.Greater(t, h.held(), int64(size), model)
		assert.Less(t, h.held(), int64(size+size/2), "%s: of a copy that is sent, the other is let go", model)
		if model == "good" {
			assert.Equal(t, 200, call())
		}
		assert.Equal(t, 503, call(), model)
		for _, c := range open {
			c.Close()
		}
		h.door.Close()
		assert.Zero(t, h.held(), model)
		assert.Empty(t, h.router.memory.agent, model)
	}
}

// A request that is written anew or translated is held twice, and so it counts; if
// there is no room for the second, it is refused.
func TestCopiesOfRequestsTakeMemory(t *testing.T) {
	const size = 64 << 10
	text := strings.Repeat("x", size)
	for name, tc := range map[string]struct {
		path, body string
		copies     int64
	}{
		"as it came": {"/v1/chat/completions", `{"model":"good","messages":[{"role":"user","content":"` + text + `"}]}`, 1},
		"rewritten":  {"/v1/chat/completions", `{"model":"fast","messages":[{"role":"user","content":"` + text + `"}]}`, 2},
		"translated": {"/v1/messages", `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":"` + text + `"}]}`, 2},
		"both":       {"/v1/messages", `{"model":"fast","max_tokens":9,"messages":[{"role":"user","content":"` + text + `"}]}`, 2},
	} {
		house := func(held int64) *house {
			h := newHouse(t, &Options{MaxHeld: held})
			translating(h, Translate{})
			return h
		}
		h := house(20 * size)
		var during int64
		h.backend = func(w http.ResponseWriter, _ *http.Request) {
			during = h.held()
			_, _ = io.WriteString(w, `{"id":"1","choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}`)
		}
		resp, got := h.post(tc.path, tc.body)
		assert.Equal(t, 200, resp.StatusCode, got)
		h.door.Close()
		assert.GreaterOrEqual(t, during, tc.copies*size, name)
		assert.Less(t, during, tc.copies*size*3/2, name)
		assert.Zero(t, h.held(), name)

		h = house(3 * size) // a half is bot's
		resp, got = h.post(tc.path, tc.body)
		h.door.Close()
		assert.Zero(t, h.held(), name)
		if tc.copies == 1 {
			assert.NotEqual(t, 503, resp.StatusCode, got)
			continue
		}
		assert.Equal(t, 503, resp.StatusCode, name)
		assert.Equal(t, "1", resp.Header.Get("Retry-After"), name)
		assert.Contains(t, got, busy.message, name)
		assert.Equal(t, audit.GuardLimit, h.denial().Decision.Reason, name)
	}
}

// A copy that is not sent, or not any more, is not counted: that of a target that was
// denied, and that of one which failed.
func TestCopiesThatAreNotSentGiveBackTheirMemory(t *testing.T) {
	const size = 64 << 10
	h := newHouse(t, nil)
	resp, got := h.post("/v1/chat/completions", `{"model":"fast","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.example/`+
		strings.Repeat("x", size)+`"}}]}]}`)
	assert.Equal(t, 403, resp.StatusCode)
	assert.Contains(t, got, "fetch_url")
	h.door.Close()
	h.freed(t)

	// A stream's is let go when it was read.
	h = newHouse(t, nil)
	goOn := make(chan struct{})
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sse("data: {}\n\n")(w, r)
		<-goOn
	}
	stream, err := h.door.Client().Do(h.request(http.MethodPost, "/v1/chat/completions", `{"model":"fast","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"`+
		strings.Repeat("x", size)+`"}]}`))
	require.NoError(t, err)
	defer stream.Body.Close()
	_, err = io.ReadFull(stream.Body, make([]byte, 10))
	require.NoError(t, err)
	h.freed(t)
	close(goOn)

	h = newHouse(t, nil)
	cfg := h.config()
	cfg.Backends = cfg.Backends[:1]
	cfg.Backends[0].Models = append(cfg.Backends[0].Models, "next")
	cfg.Routes = []Route{{Model: "both", Targets: []Target{{Backend: "openai", Model: "good"}, {Backend: "openai", Model: "next", Priority: 1}}},
		{Model: "good", Targets: []Target{{Backend: "openai", Model: "good"}, {Backend: "openai", Model: "next", Priority: 1}}}}
	h.serve(cfg)
	var during []int64
	h.backend = func(w http.ResponseWriter, _ *http.Request) {
		during = append(during, h.held())
		w.WriteHeader(map[bool]int{true: 503, false: 200}[len(during) == 1])
		_, _ = io.WriteString(w, `{}`)
	}
	call := func(model string) {
		during = nil
		resp, got := h.post("/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"`+strings.Repeat("x", size)+`"}]}`)
		assert.Equal(t, 200, resp.StatusCode, got)
		require.Len(t, during, 2)
	}
	call("good")
	assert.Greater(t, during[1], during[0]+size, "the client's own is kept for others")
	call("both")
	assert.Equal(t, during[0], during[1], "names of one length")
	h.door.Close()
	h.freed(t)
}

// Without room no copy is made.
func TestCopiesTakeTheirMemoryFirst(t *testing.T) {
	const size = 8 << 20
	text := strings.Repeat("x", size)
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"model":"fast","messages":[{"role":"user","content":"` + text + `"}]}`,
		"/v1/messages":         `{"model":"good","max_tokens":9,"messages":[{"role":"user","content":"` + text + `"}]}`,
	} {
		h := newHouse(t, nil)
		translating(h, Translate{})
		asked := classify(httptest.NewRequest(http.MethodPost, path, nil))
		c := &call{Router: h.router, asking: asked, routes: h.router.routes.Load(), actor: bot, body: []byte(body), size: len(body)}
		require.NoError(t, scan(c.op, c.body, &c.env))
		to := c.routes.byModel[routeKey{c.protocol, string(c.env.model.of(c.body))}].targets[0]
		require.True(t, c.memory.take("bot", c.memory.each-size/2))
		was := c.memory.all
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := c.render(to)
		runtime.ReadMemStats(&after)
		assert.ErrorIs(t, r.refused, errNoRoom, path)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size/2), path)
		c.scrap(r)
		assert.Equal(t, was, c.memory.all, path)
	}
}

// A request that is longer for what an inspector has blanked counts as long as it is.
func TestBlankedRequestsTakeMemory(t *testing.T) {
	const words = 4 << 10
	body := `{"model":"good","messages":[{"role":"user","content":"` + strings.Repeat("x", words) + `"}]}`
	h := newHouse(t, &Options{Inspect: &censor{blank: "x"}})
	var during, sent int64
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		sent, _ = io.Copy(io.Discard, r.Body)
		during = h.held()
		_, _ = io.WriteString(w, `{}`)
	}
	resp, got := h.post("/v1/chat/completions", body)
	assert.Equal(t, 200, resp.StatusCode, got)
	assert.Greater(t, sent, int64(words*len("[redacted]")))
	assert.Equal(t, sent, during)
	h.door.Close()
	h.freed(t)

	h = newHouse(t, &Options{Inspect: &censor{blank: "x"}, MaxHeld: 60 << 10}) // bot has room for what it sent, and no more
	resp, got = h.post("/v1/chat/completions", body)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, got, busy.message)
	assert.Equal(t, audit.GuardLimit, h.denial().Decision.Reason)
	h.door.Close()
	assert.Zero(t, h.held(), "nothing was sent")
}

// An event that waits for the end of its stream counts too.
func TestEventsThatWaitTakeMemory(t *testing.T) {
	last := `data: {"candidates":[{"content":{"parts":[{"text":"` + strings.Repeat("x", 100<<10) + `"}]},"finishReason":"STOP"}]}` + "\n\n"
	h := newHouse(t, &Options{MaxHeld: 600 << 10})
	serve, _ := h.direct()
	assert.Equal(t, last, serve(geminiStream, `{"contents":[]}`, &cutReader{parts: [][]byte{[]byte(last)}}))
	h = newHouse(t, &Options{MaxHeld: 300 << 10}) // of which bot gets a half
	serve, log := h.direct()
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() {
		serve(geminiStream, `{"contents":[]}`, &cutReader{parts: [][]byte{[]byte(last)}})
	})
	assert.Equal(t, busy.code, log.out.ErrorCode)
}
