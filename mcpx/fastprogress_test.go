package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// scriptGateway is a gateway whose slack is a script.
func scriptGateway(t *testing.T, w *world, up string, answer func(http.ResponseWriter, *http.Request, scripted)) (*mcpx.Gateway, *script) {
	t.Helper()
	s := newScript(t, w.servers["slack"], up)
	s.answer = answer
	gw := mcpx.NewGateway(w.engine, w.log, &mcpx.GatewayOptions{Vault: w.vault})
	t.Cleanup(func() { gw.Close() })
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", s.URL)))
	return gw, s
}

// All of a burst of progress arrives, in order, before the result and under the
// client's own token; what belongs to another call does not.
func TestProgressBurst(t *testing.T) {
	const burst = 1000
	for _, era := range []string{legacy, modern} {
		w := newWorld(t, nil)
		gw, _ := scriptGateway(t, w, era, func(w http.ResponseWriter, _ *http.Request, c scripted) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range burst {
				fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":%s,\"progress\":%d,\"total\":1e3,\"message\":\"at \\u0041\",\"_meta\":{\"x\":1}}}\n\n", c.token, i)
				if i%100 == 0 {
					fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":%s0,\"progress\":5}}\n\n", c.token)
				}
			}
			fmt.Fprintf(w, "data: %s\n\n", c.response(`"result":`+plainText))
		})
		url := mcptest.Door(t, gw, bot).URL
		var s shot
		if era == modern {
			s = modernCall("slack__post_message", goodArgs)
		} else {
			s = legacyCall(legacySession(t, url), "slack__post_message", goodArgs)
			s.body = strings.Replace(s.body, `"params":{`, `"params":{"_meta":{},`, 1)
		}
		s.body = strings.Replace(s.body, `"_meta":{`, `"_meta":{"progressToken":"my \" token",`, 1)
		s.body = strings.Replace(s.body, `,}`, `}`, 1)
		_, body, h := fire(t, url, s)
		require.Equal(t, "text/event-stream", h.Get("Content-Type"), body)
		n := 0
		for line := range strings.Lines(body) {
			data, ok := strings.CutPrefix(line, "data: ")
			if !ok {
				continue
			}
			if n == burst {
				assert.Contains(t, data, `"id":1,"result":{`)
			} else {
				require.JSONEq(t, fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"my \" token","progress":%d,"total":1e3,"message":"at A"}}`, n), data)
			}
			n++
		}
		assert.Equal(t, burst+1, n)
	}
}

// Nobody's progress is passed on that a policy would have to look at.
func TestProgressUnderDemands(t *testing.T) {
	w := newWorld(t, &setup{policy: `
@id("small") @max_bytes("200") permit (principal == Agent::"bot", action == Action::"slack__post_message", resource);`})
	gw, _ := scriptGateway(t, w, modern, func(w http.ResponseWriter, _ *http.Request, c scripted) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":%s,\"progress\":1,\"message\":\"the answer\"}}\n\n", c.token)
		fmt.Fprintf(w, "data: %s\n\n", c.response(`"result":`+plainText))
	})
	s := modernCall("slack__post_message", goodArgs)
	s.body = strings.Replace(s.body, `"_meta":{`, `"_meta":{"progressToken":1,`, 1)
	_, body, h := fire(t, mcptest.Door(t, gw, bot).URL, s)
	assert.Equal(t, "application/json", h.Get("Content-Type"))
	assert.NotContains(t, body, "the answer")
	assert.Contains(t, body, "fine")
}

// An id that is in flight cannot be used again, whichever way the calls go, and
// a cancelled call ends at the upstream.
func TestIdsInFlight(t *testing.T) {
	w := newWorld(t, nil)
	started := make(chan struct{}, 1)
	gw, up := scriptGateway(t, w, legacy, func(_ http.ResponseWriter, r *http.Request, c scripted) {
		started <- struct{}{}
		<-r.Context().Done()
	})
	url := mcptest.Door(t, gw, bot).URL
	session := legacySession(t, url)
	n := w.mark()
	first := make(chan string, 1)
	go func() {
		r, _ := http.NewRequest(http.MethodPost, url, strings.NewReader(strings.Replace(legacyCall(session, "slack__post_message", goodArgs).body, `"id":1`, `"id":"\u0061"`, 1)))
		r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"*/*"}, session[0]: {session[1]}, "Mcp-Protocol-Version": {legacy}}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			first <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		first <- string(b)
	}()
	<-started
	for _, method := range []string{"tools/call", "tools/list"} {
		s := legacyCall(session, "slack__post_message", goodArgs)
		s.body = strings.NewReplacer(`"id":1`, `"id":"a"`, "tools/call", method).Replace(s.body)
		code, body, _ := fire(t, url, s)
		assert.Equal(t, 400, code)
		assert.Contains(t, body, "under way")
	}
	require.Len(t, w.since(n), 3)
	assert.Equal(t, audit.GuardHeaders, w.since(n)[1].Event.Decision.Reason)
	told := up.replied()
	code, _, _ := fire(t, url, shot{header: [][2]string{session, {"Mcp-Protocol-Version", legacy}}, body: `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}`})
	assert.Equal(t, 202, code)
	answer := <-first
	assert.Contains(t, answer, `"id":"\u0061"`)
	assert.Contains(t, answer, "cancelled")
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Fatal("the upstream was not told")
	}
	recs := w.since(n)
	assert.Equal(t, audit.StatusCancelled, recs[len(recs)-1].Outcome.Status)
	var said struct {
		Params struct {
			ID int64 `json:"requestId"`
		} `json:"params"`
	}
	require.NoError(t, json.Unmarshal([]byte(up.others[0]), &said))
	assert.Greater(t, said.Params.ID, int64(1<<40), "an id of ours")
}

// What only the SDK can carry goes its way, and that works too.
func TestNotOrdinary(t *testing.T) {
	w := newWorld(t, nil)
	url := mcptest.Door(t, w.gateway, bot).URL
	for name, change := range map[string][2]string{
		"unknown parameter": {`"params":{`, `"params":{"task":{},`},
		"log level":         {`"_meta":{`, `"_meta":{"io.modelcontextprotocol/logLevel":"debug",`},
		"may be asked":      {`Capabilities":{`, `Capabilities":{"elicitation":{}`},
		"unknown member":    {`"method"`, `"x":1,"method"`},
		"client of no form": {`"_meta":{`, `"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1","icons":[]},`},
		"":                  {"", ""},
	} {
		n := len(w.slack.Calls())
		s := modernCall("slack__post_message", goodArgs)
		s.body = strings.Replace(s.body, change[0], change[1], 1)
		code, body, h := fire(t, url, s)
		assert.Equal(t, 200, code, name)
		assert.Contains(t, body, "posted to", name)
		assert.Equal(t, name == "", h.Get("Content-Type") == "application/json", "%s: which way it went", name)
		require.Len(t, w.slack.Calls(), n+1, name)
	}
	// So do all calls of a session whose client may be asked, or wants logs.
	session := legacySession(t, url)
	for _, step := range []struct{ send, way string }{
		{"", "application/json"},
		{`{"jsonrpc":"2.0","id":9,"method":"logging/setLevel","params":{"level":"debug"}}`, "text/event-stream"},
	} {
		if step.send != "" {
			fire(t, url, shot{header: [][2]string{session, {"Mcp-Protocol-Version", legacy}}, body: step.send})
		}
		_, body, h := fire(t, url, legacyCall(session, "slack__post_message", goodArgs))
		assert.Contains(t, body, "posted to")
		assert.Equal(t, step.way, h.Get("Content-Type"))
	}
	_, _, h := fire(t, url, shot{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"sampling":{}},"clientInfo":{"name":"x","version":"1"}}}`})
	session[1] = h.Get("Mcp-Session-Id")
	_, body, h := fire(t, url, legacyCall(session, "slack__post_message", goodArgs))
	assert.Contains(t, body, "posted to")
	assert.Equal(t, "text/event-stream", h.Get("Content-Type"))

	// Tools of this process go halfway, which have no request to splice into.
	gw := mcpx.NewGateway(w.engine, w.log, nil)
	defer gw.Close()
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.InMemory("slack", w.servers["slack"])))
	for _, version := range []string{legacy, modern} {
		a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, &mcptest.ConnectOptions{Version: version})
		res, err := a.CallTool(context.Background(), &mcp.CallToolParams{Name: "slack__post_message", Arguments: json.RawMessage(goodArgs)})
		require.NoError(t, err)
		assert.Equal(t, "posted to #engineering", mcptest.Text(res))
	}
}

// Only the response to our own request is one.
func TestForeignResponse(t *testing.T) {
	w := newWorld(t, nil)
	other := `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"somebody else's"}]}}`
	for media, answer := range map[string]string{
		"application/json":  other,
		"text/event-stream": "data: " + other + "\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":" + plainText + "}\n\n",
	} {
		gw, _ := scriptGateway(t, w, modern, says(200, media, answer))
		_, body, _ := fire(t, mcptest.Door(t, gw, bot).URL, modernCall("slack__post_message", goodArgs))
		assert.NotContains(t, body, "somebody else's")
		if media == "application/json" {
			assert.Contains(t, body, "upstream-broken")
		} else {
			assert.Contains(t, body, "fine")
		}
	}
}
