package mcpx_test

import (
	"context"
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
