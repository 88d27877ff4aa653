package mcpx_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A shot is one raw HTTP request at the door of bot's session.
type shot struct {
	method string
	header [][2]string
	body   string
}

// fire sends a request with the headers of a well-behaved client, in which nil
// values of h remove and others replace.
func fire(t testing.TB, url string, s shot) (int, string, http.Header) {
	t.Helper()
	if s.method == "" {
		s.method = http.MethodPost
	}
	r, err := http.NewRequest(s.method, url, strings.NewReader(s.body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer session-bot")
	set := map[string]bool{}
	for _, h := range s.header {
		if h[0] == "Host" {
			r.Host = h[1]
			continue
		}
		if !set[h[0]] {
			r.Header.Del(h[0])
		}
		set[h[0]] = true
		if h[1] != "-" {
			r.Header.Add(h[0], h[1])
		}
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b), resp.Header
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// modernCall is a good tools/call of 2026-07-28, with changes.
func modernCall(name, args string, header ...[2]string) shot {
	return shot{
		header: append([][2]string{{"Mcp-Protocol-Version", modern}, {"Mcp-Method", "tools/call"}, {"Mcp-Name", name}}, header...),
		body:   `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + modernMeta + `,"name":"` + name + `","arguments":` + args + `}}`,
	}
}

// legacySession initializes a session and returns its header.
func legacySession(t testing.TB, url string) [2]string {
	t.Helper()
	code, body, h := fire(t, url, shot{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`})
	require.Equal(t, 200, code, body)
	id := h.Get("Mcp-Session-Id")
	require.NotEmpty(t, id)
	session := [2]string{"Mcp-Session-Id", id}
	code, body, _ = fire(t, url, shot{header: [][2]string{session}, body: `{"jsonrpc":"2.0","method":"notifications/initialized"}`})
	require.Equal(t, 202, code, body)
	return session
}

func legacyCall(session [2]string, name, args string, header ...[2]string) shot {
	return shot{
		header: append([][2]string{session, {"Mcp-Protocol-Version", legacy}}, header...),
		body:   `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `","arguments":` + args + `}}`,
	}
}

// Every row is refused at the door: nothing reaches the upstream, one record
// has the true reason, and the next good call works.
func TestRefusedAtTheDoor(t *testing.T) {
	good := `{"channel":"#engineering","text":"x"}`
	post := "slack__post_message"
	edit := func(s shot, old, new string) shot {
		if !strings.Contains(s.body, old) {
			panic("no " + old + " in " + s.body)
		}
		s.body = strings.Replace(s.body, old, new, 1)
		return s
	}
	with := func(s shot, h ...[2]string) shot { s.header = append(s.header, h...); return s }
	rows := []struct {
		name   string
		change func(shot) shot
		code   int
		reason string
	}{
		// A1: duplicate keys, at every level, also escaped
		{"dup argument", func(s shot) shot { return edit(s, `"channel":`, `"channel":"#executive","channel":`) }, 400, audit.GuardStrictJSON},
		{"dup argument escaped", func(s shot) shot { return edit(s, `"channel":`, `"\u0063hannel":"#executive","channel":`) }, 400, audit.GuardStrictJSON},
		{"dup name", func(s shot) shot { return edit(s, `"arguments":`, `"name":"slack__delete_message","arguments":`) }, 400, audit.GuardStrictJSON},
		{"dup arguments", func(s shot) shot { return edit(s, `"arguments":`, `"arguments":{},"arguments":`) }, 400, audit.GuardStrictJSON},
		{"dup params", func(s shot) shot { return edit(s, `"params":`, `"params":{},"params":`) }, 400, audit.GuardStrictJSON},
		{"dup method", func(s shot) shot { return edit(s, `"method":`, `"method":"ping","method":`) }, 400, audit.GuardStrictJSON},
		{"dup id", func(s shot) shot { return edit(s, `"id":1`, `"id":2,"id":1`) }, 400, audit.GuardStrictJSON},
		{"dup nested", func(s shot) shot { return edit(s, `"text":"x"`, `"text":{"a":1,"a":2}`) }, 400, audit.GuardStrictJSON},
		// A7, A8, A9: text, depth, framing
		{"invalid utf-8", func(s shot) shot { return edit(s, `"x"`, "\"\xff\"") }, 400, audit.GuardStrictJSON},
		{"lone surrogate", func(s shot) shot { return edit(s, `"x"`, `"\ud800"`) }, 400, audit.GuardStrictJSON},
		{"deep", func(s shot) shot {
			return edit(s, `"x"`, strings.Repeat("[", 100)+strings.Repeat("]", 100))
		}, 400, audit.GuardStrictJSON},
		{"very deep", func(s shot) shot {
			return edit(s, `"x"`, strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000))
		}, 400, audit.GuardStrictJSON},
		{"too large", func(s shot) shot { return edit(s, `"x"`, `"`+strings.Repeat("x", 4<<20)+`"`) }, 413, "too-large"},
		{"trailing data", func(s shot) shot { s.body += "x"; return s }, 400, audit.GuardStrictJSON},
		{"two documents", func(s shot) shot { s.body += s.body; return s }, 400, audit.GuardStrictJSON},
		{"bom", func(s shot) shot { s.body = "\xef\xbb\xbf" + s.body; return s }, 400, audit.GuardStrictJSON},
		{"empty", func(s shot) shot { s.body = ""; return s }, 400, audit.GuardStrictJSON},
		{"cut off", func(s shot) shot { s.body = s.body[:len(s.body)-2]; return s }, 400, audit.GuardStrictJSON},
		{"NaN", func(s shot) shot { return edit(s, `"x"`, `NaN`) }, 400, audit.GuardStrictJSON},
		{"batch", func(s shot) shot { s.body = "[" + s.body + "]"; return s }, 400, audit.GuardStrictJSON},
		{"empty batch", func(s shot) shot { s.body = "[]"; return s }, 400, audit.GuardStrictJSON},
		{"no jsonrpc", func(s shot) shot { return edit(s, `"jsonrpc":"2.0",`, ``) }, 400, audit.GuardStrictJSON},
		{"array arguments", func(s shot) shot { return edit(s, good, `[1]`) }, 400, audit.GuardStrictJSON},
		{"string arguments", func(s shot) shot { return edit(s, good, `"x"`) }, 400, audit.GuardStrictJSON},
		{"null arguments", func(s shot) shot { return edit(s, good, `null`) }, 400, audit.GuardStrictJSON},
		{"number name", func(s shot) shot { return edit(s, `"`+post+`"`, `7`) }, 400, audit.GuardStrictJSON},
		{"params array", func(s shot) shot { s.body = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}`; return s }, 400, audit.GuardStrictJSON},
		// ids and kinds of message
		{"unsafe id", func(s shot) shot { return edit(s, `"id":1`, `"id":9007199254740993`) }, 400, audit.GuardStrictJSON},
		{"float id", func(s shot) shot { return edit(s, `"id":1`, `"id":1.9`) }, 400, audit.GuardStrictJSON},
		{"null id", func(s shot) shot { return edit(s, `"id":1`, `"id":null`) }, 400, audit.GuardStrictJSON},
		{"object id", func(s shot) shot { return edit(s, `"id":1`, `"id":{}`) }, 400, audit.GuardStrictJSON},
		{"call as notification", func(s shot) shot { return edit(s, `"id":1,`, ``) }, 400, audit.GuardStrictJSON},
		{"request and response", func(s shot) shot { return edit(s, `"id":1`, `"id":1,"result":{}`) }, 400, audit.GuardStrictJSON},
		{"response", func(s shot) shot { s.body = `{"jsonrpc":"2.0","id":1,"result":{}}`; return s }, 400, audit.GuardMethod},
		// H1, H2: headers
		{"name mismatch", func(s shot) shot { return with(s, [2]string{"Mcp-Name", "github__list_prs"}) }, 400, "headers"},
		{"method mismatch", func(s shot) shot { return with(s, [2]string{"Mcp-Method", "tools/list"}) }, 400, "headers"},
		{"name twice", func(s shot) shot {
			return with(s, [2]string{"Mcp-Name", post}, [2]string{"Mcp-Name", post})
		}, 400, "headers"},
		{"version twice", func(s shot) shot {
			return with(s, [2]string{"Mcp-Protocol-Version", modern}, [2]string{"Mcp-Protocol-Version", modern})
		}, 400, "headers"},
		{"two origins", func(s shot) shot {
			return with(s, [2]string{"Origin", "http://a"}, [2]string{"Origin", "http://b"})
		}, 400, "headers"},
		// N2, N3: browsers
		{"origin", func(s shot) shot { return with(s, [2]string{"Origin", "http://evil.example"}) }, 403, "origin"},
		{"null origin", func(s shot) shot { return with(s, [2]string{"Origin", "null"}) }, 403, "origin"},
		{"cross site", func(s shot) shot { return with(s, [2]string{"Sec-Fetch-Site", "cross-site"}) }, 403, "origin"},
		{"text/plain", func(s shot) shot { return with(s, [2]string{"Content-Type", "text/plain"}) }, 415, "media-type"},
		{"utf-16", func(s shot) shot { return with(s, [2]string{"Content-Type", "application/json; charset=utf-16"}) }, 415, "media-type"},
		{"gzip", func(s shot) shot { return with(s, [2]string{"Content-Encoding", "gzip"}) }, 415, "media-type"},
		{"rebound host", func(s shot) shot { return with(s, [2]string{"Host", "evil.example"}) }, 403, "origin"},
		{"accept", func(s shot) shot { return with(s, [2]string{"Accept", "text/html"}) }, 400, "headers"},
		{"resumed post", func(s shot) shot { return with(s, [2]string{"Last-Event-Id", "x_1"}) }, 400, "headers"},
		{"put", func(s shot) shot { s.method = http.MethodPut; return s }, 405, audit.GuardMethod},
	}
	for _, era := range []string{legacy, modern} {
		w := newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) { o.Resource = "https://gw.example/mcp" }})
		// With a token as well, so that the checks of both doors are at work.
		url := mcptest.Door(t, w.gateway.Handler(botToken{}), bot).URL
		base := func() shot { return modernCall(post, good) }
		if era == legacy {
			session := legacySession(t, url)
			base = func() shot { return legacyCall(session, post, good) }
		}
		for _, row := range rows {
			t.Run(era+" "+row.name, func(t *testing.T) {
				n := w.mark()
				code, body, _ := fire(t, url, row.change(base()))
				assert.Equal(t, row.code, code, body)
				recs := w.since(n)
				require.Len(t, recs, 1)
				require.NotNil(t, recs[0].Event)
				assert.Equal(t, audit.KindDenial, recs[0].Event.Kind)
				assert.Equal(t, row.reason, recs[0].Event.Decision.Reason)
				if row.reason != "headers" && row.reason != "origin" { // those are looked at before the token
					assert.Equal(t, bot, recs[0].Event.Actor)
				}
				assert.Empty(t, w.slack.Calls())
			})
		}
		code, body, _ := fire(t, url, base())
		assert.Equal(t, 200, code)
		assert.Contains(t, body, "posted to #engineering")
		assert.Len(t, w.slack.Calls(), 1)
	}
}

// Aliases of keys are not the keys.
func TestKeyAliases(t *testing.T) {
	w := newWorld(t, nil)
	url := mcptest.Door(t, w.gateway, bot).URL
	s := modernCall("slack__post_message", `{"channel":"#engineering","text":"x"}`)
	s.body = strings.Replace(s.body, `"name":`, `"Name":"slack__delete_message","NAME":"slack__delete_message","Arguments":{"repo":"x"},"name":`, 1)
	code, body, _ := fire(t, url, s)
	require.Equal(t, 200, code, body)
	assert.Contains(t, body, "posted to")
	require.Len(t, w.slack.Calls(), 1)
	assert.Equal(t, "post_message", w.slack.Calls()[0].Tool)
	assert.NotContains(t, string(w.slack.Seen()), "delete_message")
}

// What policy did not see does not reach the upstream.
func TestNothingElseIsForwarded(t *testing.T) {
	w := newWorld(t, nil)
	url := mcptest.Door(t, w.gateway, bot).URL
	s := modernCall("slack__post_message", `{"channel":"#engineering","text":"x"}`,
		[2]string{"Authorization", "Bearer client-secret-1"}, [2]string{"Cookie", "client-secret-2"},
		[2]string{"X-Forwarded-User", "client-secret-3"}, [2]string{"X-Vault-Tokens", "client-secret-4"}, [2]string{"X-Mcp-Toolname", "client-secret-5"})
	s.body = strings.Replace(s.body, `"_meta":{`, `"_meta":{"exfil":"client-secret-6","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",`, 1)
	code, body, _ := fire(t, url, s)
	require.Equal(t, 200, code, body)
	require.Len(t, w.slack.Calls(), 1)
	assert.NotContains(t, string(w.slack.Seen()), "client-secret")
	assert.Contains(t, string(w.slack.Seen()), "0af7651916cd43dd8448eb211c80319c")
	for _, r := range w.log.Records() {
		if r.Intent != nil {
			assert.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", r.Intent.Trace)
		}
	}
}

func TestHiddenIsUnknownOnTheWire(t *testing.T) {
	w := newWorld(t, nil)
	url := mcptest.Door(t, w.gateway, bot).URL
	session := legacySession(t, url)
	for _, call := range []func(name string) shot{
		func(name string) shot { return modernCall(name, `{}`) },
		func(name string) shot { return legacyCall(session, name, `{}`) },
	} {
		code1, hidden, h1 := fire(t, url, call("snowflake__query"))
		code2, absent, h2 := fire(t, url, call("snowflake__quera"))
		assert.Equal(t, code1, code2)
		assert.Equal(t, hidden, strings.ReplaceAll(absent, "quera", "query"))
		h1.Del("Date")
		h2.Del("Date")
		assert.Equal(t, h1, h2)
	}
	// The same bytes as the SDK's own answer.
	plain := mcptest.NewUpstream(t, mcp.NewServer(&mcp.Implementation{Name: "twinward", Title: "Twinward gateway", Version: "1"}, nil), nil)
	code1, ours, _ := fire(t, url, modernCall("snowflake__query", `{}`))
	code2, sdk, _ := fire(t, plain.URL, modernCall("snowflake__query", `{}`))
	assert.Equal(t, code1, code2)
	assert.Equal(t, strings.TrimSpace(sdk), strings.TrimSpace(ours))
}

func TestUnknownMethods(t *testing.T) {
	for _, era := range []string{legacy, modern} {
		w := newWorld(t, nil)
		url := mcptest.Door(t, w.gateway, bot).URL
		var session [2]string
		if era == legacy {
			session = legacySession(t, url)
		}
		methods := []string{"Tools/Call", "tools/call ", `tools/call\u0000`, "tools//call", "x/evil", "tasks/list", "sampling/createMessage", "elicitation/create", "roots/list"}
		if era == legacy {
			methods = append(methods, "server/discover", "subscriptions/listen")
		} else {
			methods = append(methods, "ping", "initialize", "resources/subscribe", "logging/setLevel")
		}
		for _, m := range methods {
			t.Run(era+" "+m, func(t *testing.T) {
				n := w.mark()
				s := shot{header: [][2]string{session, {"Mcp-Protocol-Version", legacy}}, body: `{"jsonrpc":"2.0","id":1,"method":"` + m + `","params":{}}`}
				want := 200
				if era == modern {
					s.header = [][2]string{{"Mcp-Protocol-Version", modern}, {"Mcp-Method", strings.TrimSpace(strings.ReplaceAll(m, `\u0000`, ""))}}
					s.body = `{"jsonrpc":"2.0","id":1,"method":"` + m + `","params":{` + modernMeta + `}}`
					want = 404
				}
				code, body, _ := fire(t, url, s)
				recs := w.since(n)
				require.Len(t, recs, 1)
				if strings.TrimSpace(strings.ReplaceAll(m, `\u0000`, "")) != m && era == modern {
					assert.Equal(t, 400, code)
					assert.Equal(t, "headers", recs[0].Event.Decision.Reason)
					return
				}
				assert.Equal(t, want, code, body)
				assert.Contains(t, body, "-32601")
				assert.Equal(t, audit.GuardMethod, recs[0].Event.Decision.Reason)
			})
		}
		// Methods of the protocol that this gateway has nothing for.
		for _, m := range []string{`prompts/get","params":{"name":"x"`, `resources/read","params":{"uri":"x:y"`, `completion/complete","params":{"ref":{"type":"ref/prompt","name":"x"},"argument":{"name":"a","value":"b"}`} {
			n := w.mark()
			s := shot{header: [][2]string{session, {"Mcp-Protocol-Version", legacy}}, body: `{"jsonrpc":"2.0","id":1,"method":"` + m + `}}`}
			if era == modern {
				continue
			}
			code, body, _ := fire(t, url, s)
			assert.Equal(t, 200, code)
			assert.Contains(t, body, `"error"`)
			recs := w.since(n)
			require.Len(t, recs, 1, m)
			assert.Equal(t, audit.GuardUnknown, recs[0].Event.Decision.Reason)
		}
	}
}

func TestSessionsBelongToActors(t *testing.T) {
	w := newWorld(t, nil)
	mine := mcptest.Door(t, w.gateway, bot).URL
	theirs := mcptest.Door(t, w.gateway, other).URL
	session := legacySession(t, mine)
	for _, s := range []shot{
		legacyCall(session, "github__big", `{}`),
		{method: http.MethodGet, header: [][2]string{session}},
		{method: http.MethodDelete, header: [][2]string{session}},
		legacyCall([2]string{"Mcp-Session-Id", "made-up"}, "github__big", `{}`),
	} {
		n := w.mark()
		code, body, _ := fire(t, theirs, s)
		assert.Equal(t, 404, code)
		assert.True(t, strings.HasPrefix(body, "session not found"), body)
		recs := w.since(n)
		require.Len(t, recs, 1)
		assert.Equal(t, "session", recs[0].Event.Decision.Reason)
		assert.Equal(t, other, recs[0].Event.Actor)
	}
	assert.Empty(t, w.github.Calls())
	code, _, _ := fire(t, mine, shot{method: http.MethodGet, header: [][2]string{session, {"Origin", "http://evil.example"}}})
	assert.Equal(t, 403, code, "reading a stream across origins")
	code, body, _ := fire(t, mine, legacyCall(session, "github__big", `{}`))
	assert.Equal(t, 200, code, body)
	code, _, _ = fire(t, mine, shot{method: http.MethodDelete, header: [][2]string{session}})
	assert.Equal(t, 204, code)
	code, _, _ = fire(t, mine, legacyCall(session, "github__big", `{}`))
	assert.Equal(t, 404, code, "ended")
	code, _, _ = fire(t, mine, shot{body: `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`})
	assert.Equal(t, 400, code, "no session")
}
