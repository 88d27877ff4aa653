package mcpx_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// Whatever part of an answer holds a secret, it is taken out and on record, and
// with Block nothing of the answer is passed on.
func TestLeakPolicy(t *testing.T) {
	canaries := credential.NewMemoryStore(nil)
	for surface, answer := range map[string]string{
		"text":         `"result":{"content":[{"type":"text","text":"SECRET"}]}`,
		"structured":   `"result":{"content":[],"structuredContent":{"a":{"SECRET":"SECRET"}}}`,
		"meta":         `"result":{"content":[],"_meta":{"x":"SECRET"}}`,
		"link":         `"result":{"content":[{"type":"resource_link","uri":"https://a.example/?k=SECRET","name":"SECRET"}]}`,
		"resource":     `"result":{"content":[{"type":"resource","resource":{"uri":"file:///a","text":"SECRET"}}]}`,
		"tool error":   `"result":{"isError":true,"content":[{"type":"text","text":"SECRET"}]}`,
		"error":        `"error":{"code":-31000,"message":"SECRET"}`,
		"error's data": `"error":{"code":-31000,"message":"x","data":{"SECRET":["SECRET"]}}`,
	} {
		for _, block := range []bool{false, true} {
			w := newWorld(t, nil)
			vault, err := credential.NewBroker(canaries, w.log, nil)
			require.NoError(t, err)
			defer vault.Close()
			_, secret, err := vault.Canary(t.Context(), "page", "ghp_", admin)
			require.NoError(t, err)
			var text string
			require.NoError(t, secret.Use(func(b []byte) error { text = string(b); return nil }))
			srv, calls := hostile(t, w, func(w http.ResponseWriter, id json.RawMessage) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("X-Key", text)
				// What comes besides the answer is not passed on at all.
				io.WriteString(w, `{"jsonrpc":"2.0","id":`+string(id)+`,`+strings.ReplaceAll(answer, "SECRET", text)+`}`)
			})
			var acted []credential.Leak
			gw := mcpx.NewGateway(w.engine, w.log, &mcpx.GatewayOptions{Vault: vault, Leaks: credential.LeakPolicy{
				Block: block,
				Act:   func(_ context.Context, l credential.Leak) error { acted = append(acted, l); return nil },
			}})
			defer gw.Close()
			require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", srv.URL)))
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			n := len(w.log.Records())
			res, err := a.Call(t.Context(), "slack__post_message", `{"channel":"#engineering","text":"x"}`)
			require.EqualValues(t, 1, calls.Load())
			assert.NotContains(t, string(a.Seen()), text, surface)
			if block {
				require.NoError(t, err, surface)
				require.True(t, res.IsError)
				assert.Contains(t, mcptest.Text(res), "withheld")
				assert.NotContains(t, string(a.Seen()), "[redacted:")
			} else {
				assert.Contains(t, string(a.Seen()), "[redacted:page]", surface)
			}
			recs := w.log.Records()[n:]
			require.Len(t, recs, 3, surface)
			assert.Equal(t, audit.KindCanary, recs[1].Event.Kind)
			assert.Equal(t, bot, recs[1].Event.Actor)
			assert.Equal(t, "canary/page", recs[1].Event.Detail["credential"])
			assert.NotEmpty(t, recs[1].Event.Detail["version"])
			assert.Equal(t, "raw", recs[1].Event.Detail["encoding"])
			require.NotNil(t, recs[2].Outcome)
			if block {
				assert.Equal(t, "withheld", recs[2].Outcome.ErrorCode)
			}
			require.Len(t, acted, 1)
			assert.True(t, acted[0].Canary())
		}
	}
}

// A secret is found however JSON may spell what a client will read.
func TestSecretsInDisguise(t *testing.T) {
	w := newWorld(t, nil)
	vault, err := credential.NewBroker(credential.NewMemoryStore(nil), w.log, nil)
	require.NoError(t, err)
	defer vault.Close()
	_, secret, err := vault.Canary(t.Context(), "page", "ghp_", admin)
	require.NoError(t, err)
	var text string
	require.NoError(t, secret.Use(func(b []byte) error { text = string(b); return nil }))
	lines := func(s string) string { // as mail breaks it, in a JSON string
		var b strings.Builder
		for len(s) > 8 {
			b.WriteString(s[:8] + `\n`)
			s = s[8:]
		}
		return b.String() + s
	}
	std := lines(base64.StdEncoding.EncodeToString([]byte("??>" + text)))
	url := lines(base64.RawURLEncoding.EncodeToString([]byte("??>" + text)))
	half := len(text) / 2
	first, second := text[:half], text[half:]
	var answer string
	srv, _ := hostile(t, w, func(w http.ResponseWriter, id json.RawMessage) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"jsonrpc":"2.0","id":`+string(id)+`,"result":`+answer+`}`)
	})
	gw := mcpx.NewGateway(w.engine, w.log, &mcpx.GatewayOptions{Vault: vault})
	defer gw.Close()
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", srv.URL)))
	url2 := mcptest.Door(t, gw, bot).URL
	for _, answer = range []string{
		`{"content":[{"type":"image","data":"` + std + `","mimeType":"image/png"}]}`,
		`{"content":[{"type":"image","\u0064ata":"` + std + `","mimeType":"image/png"}]}`,
		`{"content":[{"type":"resource","resource":{"uri":"x://y","bl\u006fb":"` + std + `"}}]}`,
		`{"content":[{"type":"image","data":"` + url + `","mimeType":"image/png"}]}`,
		`{"content":[{"type":"image","data":"` + strings.TrimRight(std, "=") + ` ","mimeType":"image/png"}]}`,
		`{"content":[{"type":"text","text":"` + first + `"},{"type":"text","text":"` + second + `"}]}`,
		`{"content":[{"type":"text","text":"` + first + `","Text":"x"},{"type":"text","\u0074ext":"` + second + `"}]}`,
		`{"content":[{"type":"text","text":"` + first + `","TEXT":1},{"type":"text","text":"` + second + `"}]}`,
		`{"content":[{"type":"resource","resource":{"uri":"x://y","text":"` + first + `"}},{"type":"resource","resource":{"uri":"x://z","text":"` + second + `"}}]}`,
	} {
		_, body, _ := fire(t, url2, modernCall("slack__post_message", goodArgs))
		assert.True(t, strings.Contains(body, "withheld") || !strings.Contains(body, std) && !strings.Contains(body, url) && !strings.Contains(body, strings.TrimRight(std, "=")) && !strings.Contains(body, second), "%s\n%s", answer, body)
		assert.NotEmpty(t, w.outcome().Checks, answer)
	}
}
