package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever a result is, what is passed on is JSON, has each of its members as it
// was written, and says nothing in the gateway's name.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{
		`{"content":[{"type":"text","text":"<b>\u003c"}],"structuredContent":{"n":9007199254740993}}`,
		`{"_meta":{"dev.twinward/denial":{},"a":1e400},"isError":true,"later":[-0, 1.0]}`,
		`{"resultType":"input_required","inputRequests":{}}`, `{"content":[],"content":[]}`, `{"\u0063ontent":null}`, `[]`, `{}`, `{"_meta":null}`, `{"_meta":[]}`,
	} {
		f.Add([]byte(seed), "tools/call")
		f.Add([]byte(seed), "resources/read")
	}
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		r, asks, ok := parseResult(method, raw)
		if !ok || asks {
			return
		}
		out := r.append(nil, "", nil)
		if utf8.Valid(raw) && !json.Valid(out) {
			t.Fatalf("%q became %q", raw, out)
		}
		got := make(map[string][]byte)
		if !eachMember(out, func(key string, v []byte) bool { got[key] = bytes.Clone(v); return true }) {
			t.Fatalf("%q cannot be read again", out)
		}
		eachMember(raw, func(key string, v []byte) bool {
			switch {
			case key == "_meta", key == "resultType", method == methodReadResource && (key == "ttlMs" || key == "cacheScope"):
			case !bytes.Equal(v, got[key]):
				t.Fatalf("%q: %q became %q", key, v, got[key])
			}
			return true
		})
		if _, ok := got["_meta"]; ok {
			eachMember(got["_meta"], func(key string, _ []byte) bool {
				if strings.HasPrefix(key, "dev.twinward/") || strings.HasPrefix(key, "io.modelcontextprotocol/") {
					t.Fatalf("%q passed", key)
				}
				return true
			})
		}
	})
}

// Whatever an upstream says during a call, the client hears only what it asked
// for, under its own token.
func FuzzMessage(f *testing.F) {
	for _, seed := range []string{
		`{"progressToken":"ours","progress":1e400,"message":"<x>"}`, `{"progressToken":"other","progress":1}`, `{"progress":1}`,
		`{"level":"info","data":{"n":9007199254740993},"_meta":{"dev.twinward/denial":1,"a":2}}`, `{"level":"debug","data":1}`, `{"level":"none"}`, `7`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, params []byte, progress bool) {
		m := &messages{ctx: context.Background(), token: "ours", theirs: json.RawMessage(`"theirs"`), level: 1, clean: func(b []byte) []byte { return b }}
		method := notifyMessage
		if progress {
			method = notifyProgress
		}
		out, ok := m.pass(method, params)
		if !ok {
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%q became %q", params, out)
		}
		token, level := "", ""
		eachMember(out, func(key string, v []byte) bool {
			switch key {
			case "progressToken":
				token = string(v)
			case "level":
				level = string(v)
			case "_meta":
				if bytes.Contains(v, []byte(`"dev.twinward/`)) {
					t.Fatalf("%q passed", v)
				}
			}
			return true
		})
		if progress && token != `"theirs"` || !progress && level == `"debug"` {
			t.Fatalf("%q became %q", params, out)
		}
	})
}

// However a stream is cut into pieces, the same messages are found in it.
func FuzzEventScanner(f *testing.F) {
	f.Add([]byte("event: message\ndata: {\"a\":1}\n\ndata: x\r\ndata: y\r\n\r\n"), uint8(3))
	f.Add([]byte(": ping\n\ndata:{}\n\n"), uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		read := func(n int) (all []string) {
			s := &eventScanner{found: func(data []byte) { all = append(all, string(data)) }}
			for rest := stream; len(rest) > 0; {
				k := min(n, len(rest))
				s.write(rest[:k])
				rest = rest[k:]
			}
			return all
		}
		whole, pieces := read(len(stream)+1), read(int(cut)+1)
		if strings.Join(whole, "\x00") != strings.Join(pieces, "\x00") {
			t.Fatalf("%q: %q and %q", stream, whole, pieces)
		}
	})
}
