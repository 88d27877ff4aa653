package mcpx

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScan(t *testing.T) {
	m, err := scan([]byte(` {"jsonrpc":"2.0","id":"a\u0062","method":"tools/call","params":{"name":"x\u0079","arguments":{"a":[1,2,{}]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}} `))
	require.NoError(t, err)
	assert.Equal(t, "tools/call", m.method)
	assert.True(t, m.call)
	assert.Equal(t, `"a\u0062"`, string(m.id))
	assert.Equal(t, "xy", m.name)
	assert.True(t, m.named)
	assert.Equal(t, "2026-07-28", m.version)
	for _, good := range []string{
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","method":"tools/list","id":-9007199254740991}`,
		`{"jsonrpc":"2.0","method":"tools/list","id":9007199254740991,"params":null}`,
		`{"jsonrpc":"2.0","method":"tools/list","id":"","params":{"cursor":""}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`,
	} {
		_, err := scan([]byte(good))
		assert.NoError(t, err, good)
	}
}

// FuzzScan holds the scanner against the SDK's own parser: what the scanner
// lets through, the SDK reads in the same way.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","name":"y"}}`,
		`{"jsonrpc":"2.0","id":"\ud83d\ude00","method":"prompts/get","params":{"name":"\u0000"}}`,
		`{"jsonrpc":"2.0","id":1e2,"method":"resources/read","params":{"uri":"a:b"}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
		`[{}]`, `{}{}`, "\xff", `{"a":` + strings.Repeat("[", 80),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := scan(body)
		if err != nil {
			require.ErrorIs(t, err, errJSON)
			return
		}
		require.True(t, json.Valid(body))
		msg, err := jsonrpc.DecodeMessage(body)
		if err != nil {
			return // the SDK is stricter in places; it refuses on its own
		}
		req, ok := msg.(*jsonrpc.Request)
		require.Equal(t, !m.reply, ok)
		if !ok {
			return
		}
		require.Equal(t, m.method, req.Method)
		require.Equal(t, m.call, req.IsCall())
		if m.named {
			var p struct {
				Name string `json:"name"`
				URI  string `json:"uri"`
			}
			var exact map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(req.Params, &exact))
			_ = json.Unmarshal(exact["name"], &p.Name)
			_ = json.Unmarshal(exact["uri"], &p.URI)
			want := p.Name
			if m.method == methodReadResource {
				want = p.URI
			}
			require.Equal(t, want, m.name)
		}
	})
}

// FuzzHeaders: a request whose headers say something else than its body never
// passes, and nothing panics.
func FuzzHeaders(f *testing.F) {
	f.Add("2026-07-28", "tools/call", "x", "tools/call", "x", "2026-07-28")
	f.Add("2025-11-25", "", "", "tools/list", "", "")
	f.Add("2026-07-28", "tools/list", "y", "tools/call", "x", "2025-11-25")
	f.Fuzz(func(t *testing.T, version, hMethod, hName, method, name, meta string) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		for k, v := range map[string]string{headerVersion: version, headerMethod: hMethod, headerName: hName} {
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		m := message{method: method, call: true, name: name, named: name != "", version: meta}
		if agree(r, m) != nil {
			return
		}
		if hMethod != "" {
			require.Equal(t, method, hMethod)
		}
		if hName != "" {
			require.Equal(t, name, hName)
		}
		if meta != "" {
			require.Equal(t, version, meta)
		}
		if version >= modernVersion {
			require.Equal(t, version, meta)
			require.Equal(t, method, hMethod)
			require.Equal(t, name, hName)
		}
	})
}

func TestOwners(t *testing.T) {
	live := map[string]bool{}
	o := newOwners(func() map[string]bool { return live })
	for i := range maxSessionsPerActor {
		id := string(rune('a'+i%26)) + strings.Repeat("x", i)
		require.True(t, o.room("me"))
		o.add(id, "me")
		live[id] = true
	}
	assert.False(t, o.room("me"), "full")
	assert.True(t, o.room("you"))
	delete(live, "a")
	assert.True(t, o.room("me"), "one has ended")
	assert.False(t, o.holds("a", "me"))
	assert.True(t, o.holds("bx", "me"))
	assert.False(t, o.holds("bx", "you"))
	o.drop("bx")
	o.drop("bx")
	assert.False(t, o.holds("bx", "me"))
}

func TestChallengePlace(t *testing.T) {
	for resource, want := range map[string]string{
		"https://gw.example":        "https://gw.example/.well-known/oauth-protected-resource",
		"https://gw.example/":       "https://gw.example/.well-known/oauth-protected-resource",
		"https://gw.example/a/mcp":  "https://gw.example/.well-known/oauth-protected-resource/a/mcp",
		"http://127.0.0.1:8080/mcp": "http://127.0.0.1:8080/.well-known/oauth-protected-resource/mcp",
	} {
		assert.Equal(t, want, metadataURL(resource))
	}
}

func TestClip(t *testing.T) {
	assert.Equal(t, "ab", clip("ab", 2))
	assert.Equal(t, "a…", clip("aé", 2))
	assert.Equal(t, "\uFFFD", clip("\xff", 9))
}
