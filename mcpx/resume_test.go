package mcpx_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// polling makes of a script an upstream that ends the stream of each call and
// answers whoever comes again, after some streams that bring nothing.
type polling struct {
	script  *script
	mu      sync.Mutex
	id      string   // of the call
	gets    []string // Last-Event-ID of each
	empty   int      // streams without the answer
	noID    bool     // the stream cannot be asked for again
	advance bool     // each stream brings a new id
	filler  string   // comes with each empty stream
	half    bool     // the stream ends in the middle of an event
}

func (p *polling) serve(w http.ResponseWriter, r *http.Request, c scripted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.id = c.id
	w.Header().Set("Content-Type", "text/event-stream")
	if p.half {
		io.WriteString(w, "id: first\nretry: 1\ndata:\n\nid: second\ndata: {\"jsonrpc\"")
		return
	}
	if p.noID {
		io.WriteString(w, "retry: 1\ndata:\n\n")
		return
	}
	io.WriteString(w, "id: first\nretry: 1\ndata:\n\n")
}

func (p *polling) get(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gets = append(p.gets, r.Header.Get("Last-Event-ID"))
	w.Header().Set("Content-Type", "text/event-stream")
	if p.empty > 0 {
		p.empty--
		io.WriteString(w, p.filler)
		if p.advance {
			fmt.Fprintf(w, "id: more%d\ndata:\n\n", len(p.gets))
		} else {
			io.WriteString(w, ": nothing\n\n")
		}
		return
	}
	io.WriteString(w, "id: last\ndata: "+`{"jsonrpc":"2.0","id":`+p.id+`,"result":{"content":[{"type":"text","text":"at last"}]}}`+"\n\n")
}

func (p *polling) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.gets...)
}

// newPolling puts such an upstream behind a gateway.
func newPolling(t *testing.T, p *polling, slow bool) (*world, *mcpx.Gateway) {
	t.Helper()
	w := newWorld(t, nil)
	p.script = newScript(t, w.servers["slack"], legacy)
	p.script.answer = p.serve
	inner := p.script.Config.Handler
	p.script.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			p.get(rw, r)
			return
		}
		inner.ServeHTTP(rw, r)
	})
	gw := mcpx.NewGateway(w.engine, w.log, &mcpx.GatewayOptions{Resumable: true})
	t.Cleanup(func() { gw.Close() })
	if slow {
		mcpx.SlowOnly(gw)
	}
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", p.script.URL)))
	return w, gw
}

// An upstream may end the stream of a call: the rest is asked for, by the id of
// the last event, and the call is made once.
func TestUpstreamPolls(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprint("slow ", slow), func(t *testing.T) {
			p := &polling{empty: 2, advance: true}
			w, gw := newPolling(t, p, slow)
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			res, err := a.Call(t.Context(), "slack__post_message", goodArgs)
			require.NoError(t, err)
			assert.Equal(t, "at last", mcptest.Text(res))
			assert.Equal(t, []string{"first", "more1", "more2"}, p.asked())
			assert.Len(t, p.script.calls, 1)
			assert.EqualValues(t, "ok", w.outcome().Status)
		})
	}
	t.Run("nothing new", func(t *testing.T) { // is asked for some times
		p := &polling{empty: 1000}
		_, gw := newPolling(t, p, false)
		a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
		res, err := a.Call(t.Context(), "slack__post_message", goodArgs)
		require.NoError(t, err)
		assert.Equal(t, "upstream-broken", denial(t, res).Reason)
		assert.Len(t, p.asked(), 5)
		assert.Len(t, p.script.calls, 1)
	})
	t.Run("half an event", func(t *testing.T) { // is none, and comes again; the SDK gives up
		p := &polling{half: true}
		_, gw := newPolling(t, p, false)
		a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
		res, err := a.Call(t.Context(), "slack__post_message", goodArgs)
		require.NoError(t, err)
		assert.Equal(t, "at last", mcptest.Text(res))
		assert.Equal(t, []string{"first"}, p.asked())
	})
	t.Run("no id", func(t *testing.T) {
		for _, slow := range []bool{false, true} {
			p := &polling{noID: true}
			_, gw := newPolling(t, p, slow)
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			res, err := a.Call(t.Context(), "slack__post_message", goodArgs)
			require.NoError(t, err)
			assert.True(t, res.IsError)
			assert.Empty(t, p.asked())
			assert.Len(t, p.script.calls, 1)
		}
	})
}

// What an upstream answers in several streams is bounded like what it answers in
// one, by whichever way the call goes.
func TestResumedStreamsHaveOneBound(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprint("slow ", slow), func(t *testing.T) {
			p := &polling{empty: 4, advance: true, filler: strings.Repeat(": "+strings.Repeat("x", 1<<20)+"\n", 5)}
			w, gw := newPolling(t, p, slow)
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			res, err := a.Call(t.Context(), "slack__post_message", goodArgs)
			require.NoError(t, err)
			assert.Equal(t, "upstream-too-large", denial(t, res).Reason)
			assert.Equal(t, "upstream-too-large", w.outcome().ErrorCode)
			assert.Equal(t, []string{"first", "more1", "more2", "more3"}, p.asked()[:4], "the fourth is cut")
			assert.Len(t, p.script.calls, 1)
			p.empty, p.filler = 1, strings.Repeat(": "+strings.Repeat("x", 1<<20)+"\n", 12)
			res, err = a.Call(t.Context(), "slack__post_message", goodArgs)
			require.NoError(t, err)
			assert.Equal(t, "at last", mcptest.Text(res), "each call has a bound of its own")
		})
	}
}

// The client's stream ends with the upstream's. It comes again with the id of the
// last event, and nobody else can.
func TestClientPolls(t *testing.T) {
	p := &polling{empty: 1, advance: true}
	_, gw := newPolling(t, p, true)
	url, thief := mcptest.Door(t, gw, bot).URL, mcptest.Door(t, gw, other).URL
	session := legacySession(t, url)
	code, body, h := fire(t, url, legacyCall(session, "slack__post_message", goodArgs))
	require.Equal(t, 200, code, body)
	assert.Equal(t, "text/event-stream", h.Get("Content-Type"))
	assert.Contains(t, body, "retry: 500\n")
	require.NotContains(t, body, "at last")
	_, id, ok := strings.Cut(body, "\nid: ")
	require.True(t, ok, body)
	id, _, _ = strings.Cut(id, "\n")
	again := shot{method: http.MethodGet, header: [][2]string{session, {"Mcp-Protocol-Version", legacy}, {"Last-Event-ID", id}}}
	code, body, _ = fire(t, thief, again)
	assert.Equal(t, 404, code, body)
	for body, n := "", 0; !strings.Contains(body, "at last"); n++ { // the upstream ends its stream once more, and so may this
		require.Less(t, n, 100)
		code, body, _ = fire(t, url, again)
		require.Equal(t, 200, code, body)
	}
	_, body, _ = fire(t, url, again) // it is kept
	assert.Contains(t, body, "at last")
	again.header[2][1] = strings.TrimRight(id, "0123456789") + "9x"
	code, _, _ = fire(t, url, again)
	assert.Equal(t, 400, code)
	assert.Len(t, p.script.calls, 1)

	// What is older than the protocol's polling waits at its stream.
	p.mu.Lock()
	p.empty = 1
	p.mu.Unlock()
	_, _, h = fire(t, url, shot{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`})
	old := legacyCall([2]string{"Mcp-Session-Id", h.Get("Mcp-Session-Id")}, "slack__post_message", goodArgs)
	old.header[1][1] = "2025-06-18"
	_, body, _ = fire(t, url, old)
	assert.Contains(t, body, "at last")
}
