package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// wants is the error of a server that has its user open pages first.
func wants(pages string) func(http.ResponseWriter, *http.Request, scripted) {
	return says(200, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-32042,"message":"first","data":{"elicitations":[`+pages+`]}}}`)
}

const payPage = `{"mode":"url","url":"https://pay.example/1?x=%2F","elicitationId":"e1","message":"Pay\u202e."}`

// newPages is a market whose shop answers as a test writes.
func newPages(t *testing.T, up, policy string, answer func(http.ResponseWriter, *http.Request, scripted)) (*market, *script) {
	m := newMarket(t, false, policy)
	s := newScript(t, m.shop.server(), up)
	s.answer = answer
	gw := mcpx.NewGateway(m.engine, m.log, nil)
	t.Cleanup(func() { gw.Close() })
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("shop", s.URL)))
	m.gw = gw
	return m, s
}

// A page that a server wants opened before it does a call is shown by the client that
// can, and if policy lets it: as the error that it was, or as a question before the
// next call.
func TestPagesAreOpened(t *testing.T) {
	for _, up := range []string{legacy, modern} {
		for _, version := range []string{legacy, modern} {
			t.Run("client "+version+" upstream "+up, func(t *testing.T) {
				var opened atomic.Bool
				m, s := newPages(t, up, mayAsk, func(w http.ResponseWriter, r *http.Request, c scripted) {
					if opened.Load() {
						results(`{"content":[{"type":"text","text":"ordered"}]}`)(w, r, c)
						return
					}
					wants(payPage)(w, r, c)
				})
				var shown []*mcp.ElicitParams
				var c customer
				opts := c.options()
				opts.ElicitationHandler = func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
					shown = append(shown, r.Params)
					opened.Store(true)
					return &mcp.ElicitResult{Action: "accept"}, nil
				}
				a := m.connect(bot, version, opts)
				res, err := a.Call(t.Context(), "shop__order", `{}`)
				if version == legacy {
					var own *jsonrpc.Error
					require.ErrorAs(t, err, &own)
					require.EqualValues(t, -32042, own.Code)
					var data struct {
						Elicitations []*mcp.ElicitParams `json:"elicitations"`
					}
					require.NoError(t, json.Unmarshal(own.Data, &data))
					shown = data.Elicitations
					opened.Store(true)
					res, err = a.Call(t.Context(), "shop__order", `{}`)
				}
				require.NoError(t, err)
				assert.Equal(t, "ordered", mcptest.Text(res))
				assert.Len(t, s.calls, 2)
				require.Len(t, shown, 1)
				assert.Equal(t, []string{"url", "https://pay.example/1?x=%2F", "e1", `Pay\u202e.`}, []string{shown[0].Mode, shown[0].URL, shown[0].ElicitationID, shown[0].Message})
				assert.Equal(t, "shop", shown[0].Meta["dev.twinward/server"])
				var acts []string
				for _, r := range m.log.Records() {
					if r.Intent != nil {
						acts = append(acts, r.Intent.Action)
					}
				}
				assert.Equal(t, []string{"shop__order", "elicit", "shop__order"}, acts)
				assert.Empty(t, m.log.Denials())
			})
		}
	}
}

// A page that is refused by the user is no reason to call again.
func TestPagesThatAreNotOpened(t *testing.T) {
	m, s := newPages(t, legacy, mayAsk, wants(payPage))
	var c customer
	opts := c.options()
	opts.ElicitationHandler = func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		return &mcp.ElicitResult{Action: "decline"}, nil
	}
	_, err := m.connect(bot, modern, opts).Call(t.Context(), "shop__order", `{}`)
	require.ErrorContains(t, err, "was not opened")
	assert.Len(t, s.calls, 1)
	require.Len(t, m.log.Denials(), 1)
	assert.Equal(t, "state", m.log.Denials()[0].Decision.Reason)
}

// What is not shown: pages that are not https, pages for clients that show none, and
// what policy does not let a server ask. The agent is told why, and not where to.
func TestPagesAreRefused(t *testing.T) {
	forms := &mcp.ClientOptions{
		Capabilities:       &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{Form: &mcp.FormElicitationCapabilities{}}},
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) { panic("nobody is asked") },
	}
	for _, c := range []struct {
		name, pages, policy, why string
		opts                     *mcp.ClientOptions
	}{
		{"not https", strings.Replace(payPage, "https:", "http:", 1), mayAsk, "https", nil},
		{"one of two", payPage + "," + strings.Replace(payPage, "https:", "javascript:", 1), mayAsk, "https", nil},
		{"a form", `{"mode":"form","message":"x","requestedSchema":{"type":"object","properties":{}}}`, mayAsk, "it is no page", nil},
		{"none", ``, mayAsk, "cannot be read", nil},
		{"null", `null`, mayAsk, "there is no question", nil},
		{"no list", `7`, mayAsk, "cannot be read", nil},
		{"too many", strings.TrimSuffix(strings.Repeat(payPage+",", 17), ","), mayAsk, "cannot be read", nil},
		{"a client without pages", payPage, mayAsk, "shows no pages", forms},
		{"a client without anything", payPage, mayAsk, "shows nothing", &mcp.ClientOptions{}},
		{"policy", payPage, `@id("call") permit (principal, action in Action::"call_tool", resource);`, "shows nothing", nil},
		{"what may not be seen", payPage, strings.Replace(mayAsk, `permit (principal, action in`, `@max_bytes("9000") permit (principal, action in`, 1), "not for everybody", nil},
	} {
		for _, version := range []string{legacy, modern} {
			t.Run(fmt.Sprint(c.name, " ", version), func(t *testing.T) {
				m, s := newPages(t, legacy, c.policy, wants(c.pages))
				var user customer
				opts := c.opts
				if opts == nil {
					opts = user.options()
				}
				res, err := m.connect(bot, version, opts).Call(t.Context(), "shop__order", `{}`)
				require.NoError(t, err)
				assert.Equal(t, "upstream-input", denial(t, res).Reason)
				assert.Contains(t, mcptest.Text(res), c.why)
				assert.NotContains(t, mcptest.Text(res), "pay.example")
				assert.Empty(t, user.asked)
				assert.Len(t, s.calls, 1)
			})
		}
	}
}
