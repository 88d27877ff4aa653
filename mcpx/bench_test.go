package mcpx_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// nothing is a log that costs nothing, so that the middleware's own cost shows.
type nothing struct{}

func (nothing) Begin(context.Context, audit.Intent) (audit.Call, error) { return nothing{}, nil }
func (nothing) Append(context.Context, audit.Event) error               { return nil }
func (nothing) Record() uint64                                          { return 1 }
func (nothing) End(context.Context, audit.Outcome) error                { return nil }

func benchServer(tools int) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, nil)
	for i := range tools {
		s.AddTool(&mcp.Tool{Name: "add" + string("abcdefghjkmnp"[i/8]) + string("abcdefgh"[i%8]), Description: "Adds.", InputSchema: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}`)},
			func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "ok"}}}, nil
			})
	}
	return s
}

// BenchmarkMiddleware compares a bare server in memory with a governed one; the
// difference is the cost of governance.
func BenchmarkMiddleware(b *testing.B) {
	for _, c := range []struct {
		name     string
		governed bool
		tools    int
	}{{"bare", false, 1}, {"governed", true, 1}, {"bare 100 tools", false, 100}, {"governed 100 tools", true, 100}} {
		b.Run(c.name, func(b *testing.B) {
			server := benchServer(c.tools)
			if c.governed {
				catalog, err := mcpx.Catalog(b.Context(), "notes", server)
				require.NoError(b, err)
				engine := governance.NewEngine(nothing{}, nil)
				_, err = engine.Reload(b.Context(), governance.Bundle{
					Policies: []governance.Source{{Name: "p.cedar", Text: `@id("add") permit (principal, action == Action::"notes__addaa", resource) when { context.args.text like "n*" };`}},
					Catalog:  []governance.Server{catalog},
				}, admin)
				require.NoError(b, err)
				server.AddReceivingMiddleware(mcpx.Govern(engine, nothing{}, &mcpx.GovernOptions{Identify: as(bot)}))
			}
			here, there := mcp.NewInMemoryTransports()
			_, err := server.Connect(b.Context(), there, nil)
			require.NoError(b, err)
			cs, err := mcp.NewClient(&mcp.Implementation{Name: "a", Version: "1"}, nil).Connect(b.Context(), here, &mcp.ClientSessionOptions{ProtocolVersion: legacy})
			require.NoError(b, err)
			defer cs.Close()
			params := &mcp.CallToolParams{Name: "addaa", Arguments: json.RawMessage(`{"text":"note of a hundred bytes or so, as arguments usually are, with some words in it"}`)}
			b.ReportAllocs()
			for b.Loop() {
				res, err := cs.CallTool(b.Context(), params)
				if err != nil || res.IsError {
					b.Fatal(err, mcptest.Text(res))
				}
			}
		})
	}
}

// BenchmarkGateway is a call through the gateway over HTTP, against the same
// call made directly.
func BenchmarkGateway(b *testing.B) {
	w := newWorld(b, &setup{log: nothing{}})
	params := `{"channel":"#engineering","text":"x"}`
	for _, c := range []struct {
		name string
		a    *mcptest.Agent
		tool string
	}{
		{"direct", mcptest.Connect(b, w.slack.URL, nil), "post_message"},
		{"governed", mcptest.Connect(b, mcptest.Door(b, w.gateway, bot).URL, nil), "slack__post_message"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.a.Call(b.Context(), c.tool, params)
				if err != nil || res.IsError {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIdleSessions is the memory that sessions of clients take who have
// asked once, through a gateway, and then do nothing: 10,000 of them, of 50
// agents.
func BenchmarkIdleSessions(b *testing.B) {
	const sessions = 10_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	for b.Loop() {
		w := newWorld(b, &setup{log: nothing{}})
		post := func(who, session, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodPost, "http://door/mcp", strings.NewReader(body))
			r = r.WithContext(audit.WithActor(r.Context(), audit.Actor{Agent: who, Issuer: "session"}))
			r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
			if session != "" {
				r.Header.Set("Mcp-Session-Id", session)
				r.Header.Set("Mcp-Protocol-Version", legacy)
			}
			out := httptest.NewRecorder()
			w.gateway.ServeHTTP(out, r)
			return out
		}
		before := heap()
		for i := range sessions {
			who := "bot" + strconv.Itoa(i%50)
			out := post(who, "", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
			id := out.Header().Get("Mcp-Session-Id")
			if id == "" {
				b.Fatal(out.Code, out.Body)
			}
			post(who, id, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			post(who, id, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"slack__post_message","arguments":`+goodArgs+`}}`)
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MB")
		b.ReportMetric(float64(heap()-before)/sessions/1024, "KB/session")
		runtime.KeepAlive(w)
	}
}
