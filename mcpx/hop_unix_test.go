//go:build unix

package mcpx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

func init() { hop = serveHop }

// serveHop is the process that BenchmarkHop measures: a gateway and a bare
// reverse proxy in front of the same upstream. It says what it has used at /cpu.
func serveHop() error {
	upstream := os.Getenv("MCPX_TEST_UPSTREAM")
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "hop")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log, err := audit.Open(dir+"/log", &audit.Options{Mode: audit.BestEffort})
	if err != nil {
		return err
	}
	defer log.Close()
	engine := governance.NewEngine(log, nil)
	if _, err := engine.Reload(ctx, governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `
@id("echo") permit (principal == Agent::"bot", action == Action::"null__echo", resource) when { context.args.channel == "#engineering" };
@id("no-executive") forbid (principal, action == Action::"null__echo", resource) when { context.args.channel like "*executive*" };
@id("read") permit (principal, action in Action::"null:write", resource);
@id("nothing-that-deletes") forbid (principal, action in Action::"destructive", resource);`}},
		Catalog: []governance.Server{{Name: "null", Tools: []governance.Tool{{Class: governance.Read, ToolDefinition: governance.ToolDefinition{
			Name: "echo", Description: "Echoes.", InputSchema: json.RawMessage(nullSchema),
		}}}}},
	}, admin); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	base := "http://" + l.Addr().String()
	agents, err := agentid.NewRegistry(log, &agentid.Options{Issuer: base})
	if err != nil {
		return err
	}
	secret, err := agents.Register(ctx, agentid.Agent{ID: "bot", Owner: "test"}, admin)
	if err != nil {
		return err
	}
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Agents: agents, Resource: base + "/mcp"})
	if err := gw.AddUpstream(ctx, mcpx.HTTP("null", upstream)); err != nil {
		return err
	}
	at, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	plain := http.DefaultTransport.(*http.Transport).Clone()
	plain.MaxIdleConnsPerHost = 32
	proxy := &httputil.ReverseProxy{
		Transport: plain,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(at); r.Out.URL.Path = "/" },
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", gw.Handler(agents))
	mux.Handle("/proxy", proxy)
	mux.Handle("/floor", &floor{proxy, agents, engine, log, base + "/mcp"})
	mux.Handle("/token", agents.Handler())
	mux.HandleFunc("/cpu", func(w http.ResponseWriter, _ *http.Request) {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		fmt.Fprint(w, (u.Utime.Nano()+u.Stime.Nano())/1000)
	})
	go http.Serve(l, mux)
	client := clientcredentials.Config{
		ClientID: "bot", TokenURL: base + "/token", AuthStyle: oauth2.AuthStyleInHeader,
		EndpointParams: url.Values{"resource": {base + "/mcp"}},
	}
	_ = secret.Use(func(b []byte) error { client.ClientSecret = string(b); return nil })
	token, err := client.Token(ctx)
	if err != nil {
		return err
	}
	fmt.Println(base, token.AccessToken)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
	return nil
}

// A floor is what no gateway with the same promises can do without, around the bare
// proxy: the token is verified, the call decided, its intent and its outcome put on
// record. It knows nothing of MCP and checks nothing else.
type floor struct {
	proxy    http.Handler
	agents   *agentid.Registry
	engine   *governance.Engine
	log      audit.Recorder
	audience string
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(err error) { http.Error(w, err.Error(), http.StatusInternalServerError) }
	actor, _, err := f.agents.Verify(r.Context(), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), f.audience)
	if err != nil {
		fail(err)
		return
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		fail(err)
		return
	}
	_, args, _ := bytes.Cut(body, []byte(`"arguments":`))
	args = bytes.TrimSuffix(args, []byte("}}"))
	d, err := f.engine.Decide(r.Context(), governance.Request{Actor: actor, Action: "call_tool", Server: "null", Name: "echo", Args: args})
	if err != nil || !d.Allowed() {
		fail(fmt.Errorf("%s: %w", d.Reason, err))
		return
	}
	call, err := f.log.Begin(r.Context(), audit.Intent{Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: actor, Decision: d.Decision, Args: args})
	if err != nil {
		fail(err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.proxy.ServeHTTP(w, r)
	_ = call.End(r.Context(), audit.Outcome{Status: audit.StatusOK})
}

const nullSchema = `{"type":"object","properties":{"channel":{"type":"string"},"text":{"type":"string"}},"required":["channel","text"]}`

// null is an upstream that does nothing, as cheaply as net/http can.
func null(calls *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answer := func(result string) {
			_, rest, _ := bytes.Cut(body, []byte(`"id":`))
			id := rest[:bytes.IndexAny(rest, ",}")]
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
		}
		switch r.Header.Get("Mcp-Method") {
		case "tools/call":
			calls.Add(1)
			answer(`{"resultType":"complete","content":[{"type":"text","text":"ok"}]}`)
		case "tools/list":
			answer(`{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"echo","description":"Echoes.","inputSchema":` + nullSchema + `}]}`)
		case "server/discover":
			answer(`{"resultType":"complete","ttlMs":0,"cacheScope":"private","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"null","version":"1"}}`)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	})
}

// BenchmarkHop measures the processor time that a call takes in a process of its
// own: through a gateway with a bearer token, four policies and an audit log that
// is not waited for, through a bare httputil.ReverseProxy, and through one that is a
// [floor]. They take turns, in a new order each time, and the figures are medians
// over the turns.
func BenchmarkHop(b *testing.B) {
	var calls atomic.Int64
	up := httptest.NewServer(null(&calls))
	defer up.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MCPX_TEST_CHILD=hop", "MCPX_TEST_UPSTREAM="+up.URL)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	defer cmd.Wait()
	defer in.Close()
	var base, token string
	_, err = fmt.Fscan(out, &base, &token)
	require.NoError(b, err)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	post := func(path string, body []byte) {
		r, err := http.NewRequest(http.MethodPost, base+path, bytes.NewReader(body))
		require.NoError(b, err)
		r.Header = http.Header{
			"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
			"Authorization": {"Bearer " + token}, "Mcp-Protocol-Version": {modern},
			"Mcp-Method": {"tools/call"}, "Mcp-Name": {"null__echo"},
		}
		resp, err := client.Do(r)
		if !assert.NoError(b, err) {
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		assert.NoError(b, err)
		assert.Contains(b, string(text), `"ok"`)
	}
	cpu := func() int64 {
		resp, err := client.Get(base + "/cpu")
		require.NoError(b, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(b, err)
		n, err := strconv.ParseInt(string(text), 10, 64)
		require.NoError(b, err)
		return n
	}
	for _, c := range []struct{ size, parallel int }{{64, 1}, {64, 8}, {16 << 10, 1}, {16 << 10, 8}} {
		size := c.size
		text := strings.Repeat("x", size-len(`{"channel":"#engineering","text":""}`))
		body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + modernMeta + `,"name":"null__echo","arguments":{"channel":"#engineering","text":"` + text + `"}}}`)
		b.Run(fmt.Sprintf("%dB-%d-at-once", size, c.parallel), func(b *testing.B) {
			const batch = 200
			took := map[string][]float64{}
			latency := map[string][]float64{}
			paths := []string{"/proxy", "/mcp", "/floor"}
			for b.Loop() {
				for _, i := range rand.Perm(len(paths)) {
					path := paths[i]
					for range 5 { // which find its caches cold
						post(path, body)
					}
					before, from := calls.Load(), cpu()
					var wg sync.WaitGroup
					spent := make([]float64, batch)
					for i := range c.parallel {
						wg.Go(func() {
							for j := i; j < batch; j += c.parallel {
								start := time.Now()
								post(path, body)
								spent[j] = float64(time.Since(start).Microseconds())
							}
						})
					}
					wg.Wait()
					latency[path] = append(latency[path], spent...)
					took[path] = append(took[path], float64(cpu()-from)/batch)
					require.EqualValues(b, batch, calls.Load()-before, "one upstream request a call")
				}
			}
			for path, name := range map[string]string{"/proxy": "reverseproxy", "/mcp": "gateway", "/floor": "floor"} {
				b.ReportMetric(median(took[path], 0.5), name+"-cpu-µs/call")
				b.ReportMetric(median(latency[path], 0.5), name+"-p50-µs")
				b.ReportMetric(median(latency[path], 0.99), name+"-p99-µs")
			}
			for path, name := range map[string]string{"/mcp": "cpu-ratio", "/floor": "floor-cpu-ratio"} {
				var ratios []float64
				for i, own := range took[path] {
					ratios = append(ratios, own/took["/proxy"][i])
				}
				b.ReportMetric(median(ratios, 0.5), name)
			}
		})
	}
}

// median returns the value below which the part q of the values lies.
func median(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[int(q*float64(len(s)-1))]
}
