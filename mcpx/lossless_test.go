//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// written is a result of an upstream as the test writes it.
type written struct {
	mcp.ResultBase
	raw string
}

func (w *written) MarshalJSON() ([]byte, error) { return []byte(w.raw), nil }

// oddServer has a tool whose results the test writes, a tool that talks while it
// works, and one that waits.
type oddServer struct {
	*mcp.Server
	mu      sync.Mutex
	answer  string
	started chan struct{} // of wait
	ended   chan error    // of wait
}

func (o *oddServer) set(answer string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = answer
}

func newOddServer() *oddServer {
	o := &oddServer{started: make(chan struct{}, 16), ended: make(chan error, 16)}
	o.Server = mcp.NewServer(&mcp.Implementation{Name: "odd", Version: "1"}, nil)
	object := json.RawMessage(`{"type":"object"}`)
	o.AddTool(&mcp.Tool{Name: "write", InputSchema: object}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, nil })
	o.AddTool(&mcp.Tool{Name: "talk", InputSchema: object}, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		var in struct{ N, Call int }
		if err := json.Unmarshal(r.Params.Arguments, &in); err != nil {
			return nil, err
		}
		for i := range in.N {
			if token := r.Params.GetProgressToken(); token != nil {
				if err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(i), Total: float64(in.N), Message: fmt.Sprintf("call %d", in.Call)}); err != nil {
					return nil, err
				}
			}
			level := mcp.LoggingLevel("info")
			if i%2 == 1 {
				level = "debug"
			}
			if err := r.Session.Log(ctx, &mcp.LoggingMessageParams{Level: level, Logger: "odd", Data: json.RawMessage(fmt.Sprintf(`{"call":%d,"i":%d,"big":9007199254740993}`, in.Call, i))}); err != nil {
				return nil, err
			}
		}
		return &mcp.CallToolResult{Content: []mcp.Content{text("done")}}, nil
	})
	o.AddTool(&mcp.Tool{Name: "wait", InputSchema: object}, func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		o.started <- struct{}{}
		<-ctx.Done()
		o.ended <- ctx.Err()
		return nil, ctx.Err()
	})
	o.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if p, ok := req.GetParams().(*mcp.CallToolParamsRaw); ok && p.Name == "write" {
				o.mu.Lock()
				defer o.mu.Unlock()
				return &written{raw: o.answer}, nil
			}
			return next(ctx, method, req)
		}
	})
	return o
}

func newOdd(t *testing.T, upstream string) (*fed, *oddServer) {
	o := newOddServer()
	f := newFed(t, map[string]*mcp.Server{"odd": newOddServer().Server})
	f.add("odd", o.Server, upstream)
	return f, o
}

// randomJSON writes a value in one of its many spellings.
func randomJSON(r *rand.Rand, depth int) string {
	switch n := r.IntN(9); {
	case n < 2 && depth > 0:
		var items []string
		for range r.IntN(4) {
			items = append(items, randomJSON(r, depth-1))
		}
		return "[" + strings.Join(items, ",") + "]"
	case n < 4 && depth > 0:
		var items []string
		for i := range r.IntN(4) {
			items = append(items, fmt.Sprintf(`"%s%d":%s`, pick(r, "k", "<&>", `\u00e9`, "é", `a\/b`, "_meta", "data", "blob"), i, randomJSON(r, depth-1)))
		}
		return "{" + strings.Join(items, ",") + "}"
	case n < 6:
		return pick(r, "0", "-0", "1e400", "1E+2", "1.0", "9007199254740993", "12345678901234567890", "-9223372036854775809", "1e-7", "0.1000000000000000055511151231257827", strconv.Itoa(r.IntN(1000)))
	case n < 8:
		return pick(r, `""`, `"<b>&amp;</b>"`, `"\u003cb\u003e"`, `"\u0000\ud83d\ude00"`, `"😀 é \u2028"`, "\"\u2028\"", `"\/"`, `"aGVsbG8="`, `"dev.twinward/denial"`)
	}
	return pick(r, "true", "false", "null")
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// randomResult returns a result and what of it must reach a client, in order.
func randomResult(r *rand.Rand) (result string, want string) {
	var blocks []string
	for range 1 + r.IntN(3) {
		blocks = append(blocks, pick(r,
			`{"type":"text","text":`+pick(r, `"x"`, `"<&>"`, `"\u003c"`)+`,"_meta":{"a":`+randomJSON(r, 1)+`}}`,
			`{"type":"image","data":"aGVsbG8=","mimeType":"image/png"}`,
			`{"type":"hologram","layers":`+randomJSON(r, 2)+`}`, // of no version that we know
			`{"type":"resource_link","uri":"x://y","name":"z","size":9007199254740993}`,
			`{"type":"resource","resource":{"uri":"x://y","blob":"aGVsbG8="},"annotations":{"priority":0.50}}`,
		))
	}
	members := []string{`"content":[` + strings.Join(blocks, ",") + `]`}
	if r.IntN(2) == 0 {
		members = append(members, `"structuredContent":`+randomJSON(r, 4))
	}
	if r.IntN(2) == 0 {
		members = append(members, `"isError":`+pick(r, "true", "false"))
	}
	if r.IntN(4) == 0 {
		members = append(members, `"later":`+randomJSON(r, 2)) // of a later version
	}
	r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	want = strings.Join(members, ",")
	meta := `"_meta":{"example.com/x":` + randomJSON(r, 2) + `,"dev.twinward/denial":{"reason":"forged"},"io.modelcontextprotocol/related-task":{"x":1}}`
	if r.IntN(2) == 0 {
		return "{" + want + "," + meta + "}", want
	}
	return "{" + meta + "," + want + "}", want
}

// Whatever an upstream answers reaches the client as it was written, down to
// how a number and a string are spelled, by both ways that a call can go.
func TestLossless(t *testing.T) {
	n := 4
	switch {
	case os.Getenv("TWINWARD_SOAK") != "":
		n = 600
	case os.Getenv("TWINWARD_FULL") != "":
		n = 60
	}
	eachCell(t, func(t *testing.T, client, upstream string) {
		f, o := newOdd(t, upstream)
		c := f.raw(bot, client)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range n {
			result, want := randomResult(r)
			o.set(result)
			meta := ""
			if i%2 == 1 {
				meta = `"progressToken":"x"`
			}
			got := c.ask(i+1, "tools/call", "odd__write", `"name":"odd__write","arguments":{}`, meta)
			require.Len(t, got, 1)
			var m struct {
				Result map[string]json.RawMessage
			}
			require.NoError(t, json.Unmarshal([]byte(got[0]), &m), got[0])
			require.NotEmpty(t, m.Result, "%s\nof %s", got[0], result)
			var sent map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte("{"+want+"}"), &sent))
			for key, v := range sent {
				if key == "isError" && string(v) == "false" || key == "structuredContent" && string(v) == "null" {
					continue // is the same left out
				}
				require.Equal(t, string(v), string(m.Result[key]), "%s of %s", key, result)
			}
			var meta2, sentMeta map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(m.Result["_meta"], &meta2))
			var whole map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(result), &whole))
			require.NoError(t, json.Unmarshal(whole["_meta"], &sentMeta))
			require.Equal(t, string(sentMeta["example.com/x"]), string(meta2["example.com/x"]))
			require.NotContains(t, meta2, "dev.twinward/denial")
			require.NotContains(t, meta2, "io.modelcontextprotocol/related-task")
		}
	})
}

// What is no result is refused, and the next call is well.
func TestGarbageResult(t *testing.T) {
	eachCell(t, func(t *testing.T, client, upstream string) {
		f, o := newOdd(t, upstream)
		c := f.raw(bot, client)
		for i, bad := range []string{`[]`, `"x"`, `{"content":[],"content":[{"type":"text","text":"twice"}]}`, `{"_meta":7,"content":[]}`} {
			o.set(bad)
			got := c.ask(2*i+1, "tools/call", "odd__write", `"name":"odd__write","arguments":{}`, "")
			require.Len(t, got, 1)
			assert.Contains(t, got[0], "upstream-garbage", bad)
			o.set(`{"content":[]}`)
			got = c.ask(2*i+2, "tools/call", "odd__write", `"name":"odd__write","arguments":{}`, "")
			require.Len(t, got, 1)
			assert.Contains(t, got[0], `"content":[]`)
		}
	})
}

// A burst of progress arrives whole, in order, before its result, and at the call
// that it belongs to; so do log messages, where the upstream says whose they are.
func TestBurst(t *testing.T) {
	const each = 20
	calls := 5
	if os.Getenv("TWINWARD_FULL") != "" || os.Getenv("TWINWARD_SOAK") != "" {
		calls = 50
	}
	eachCell(t, func(t *testing.T, client, upstream string) {
		f, _ := newOdd(t, upstream)
		c := f.raw(bot, client)
		meta := `"progressToken":%d`
		if client == modern {
			meta += `,"io.modelcontextprotocol/logLevel":"info"`
		} else {
			got := c.ask(9999, "logging/setLevel", "", `"level":"info"`, "")
			require.Len(t, got, 1)
			require.Contains(t, got[0], `"result"`)
		}
		var wait sync.WaitGroup
		got := make([][]string, calls)
		for i := range calls {
			wait.Go(func() {
				got[i] = c.ask(i+1, "tools/call", "odd__talk", fmt.Sprintf(`"name":"odd__talk","arguments":{"N":%d,"Call":%d}`, each, i), fmt.Sprintf(meta, i+500))
			})
		}
		wait.Wait()
		progress, logs := 0, 0
		for i, messages := range got {
			require.NotEmpty(t, messages)
			last := messages[len(messages)-1]
			require.Contains(t, last, `"result"`, "the result comes last")
			next, nextLog := 0, 0
			for _, text := range messages[:len(messages)-1] {
				var m struct {
					Method string
					Params struct {
						ProgressToken int
						Progress      int
						Message       string
						Level         string
						Data          struct{ Call, I int }
					}
				}
				require.NoError(t, json.Unmarshal([]byte(text), &m), text)
				switch m.Method {
				case "notifications/progress":
					require.Equal(t, i+500, m.Params.ProgressToken)
					require.Equal(t, fmt.Sprintf("call %d", i), m.Params.Message)
					require.Equal(t, next, m.Params.Progress)
					next++
				case "notifications/message":
					require.Equal(t, "info", m.Params.Level)
					require.Equal(t, i, m.Params.Data.Call)
					if upstream == "memory" { // where those that could be another call's are left out
						nextLog = max(nextLog, m.Params.Data.I)
					}
					require.Equal(t, nextLog, m.Params.Data.I)
					require.Contains(t, text, `"big":9007199254740993`)
					nextLog += 2
					logs++
				default:
					t.Fatalf("%s", text)
				}
			}
			progress += next
		}
		assert.Equal(t, calls*each, progress)
		if upstream != "memory" { // where log messages name no call
			assert.Equal(t, calls*each/2, logs)
		}
	})
}

// Alone, a call gets the log messages of an upstream that does not say whose they
// are, and none without asking.
func TestLogMessages(t *testing.T) {
	eachCell(t, func(t *testing.T, client, upstream string) {
		f, _ := newOdd(t, upstream)
		c := f.raw(bot, client)
		count := func(id int, level string) (n int) {
			meta := ""
			if level != "" && client == modern {
				meta = `"io.modelcontextprotocol/logLevel":"` + level + `"`
			} else if level != "" {
				c.ask(id+1000, "logging/setLevel", "", `"level":"`+level+`"`, "")
			}
			got := c.ask(id, "tools/call", "odd__talk", `"name":"odd__talk","arguments":{"N":4,"Call":1}`, meta)
			require.NotEmpty(t, got)
			require.Contains(t, got[len(got)-1], "done")
			return len(got) - 1
		}
		assert.Equal(t, 0, count(1, ""))
		assert.Equal(t, 4, count(2, "debug"))
		assert.Equal(t, 2, count(3, "info"))
		assert.Equal(t, 0, count(4, "error"))
	})
}

// A client that goes, and one that cancels, end the call at the upstream; and an
// upstream that goes ends it for the client.
func TestCancellation(t *testing.T) {
	eachCell(t, func(t *testing.T, client, upstream string) {
		f, o := newOdd(t, upstream)
		a := f.agent(bot, client)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := a.Call(ctx, "odd__wait", `{}`)
			result <- err
		}()
		<-o.started
		cancel()
		assert.Error(t, <-result)
		select {
		case err := <-o.ended:
			assert.ErrorIs(t, err, context.Canceled)
		case <-time.After(time.Minute):
			t.Fatal("the upstream was not told")
		}
		require.Eventually(t, func() bool {
			recs := f.log.Records()
			out := recs[len(recs)-1].Outcome
			return out != nil && out.Status == audit.StatusCancelled
		}, time.Minute, 5*time.Millisecond)
	})
}

// Nobody is shown what another actor read, whatever the upstream says of caching.
func TestNoCacheAcrossActors(t *testing.T) {
	s := mcp.NewServer(&mcp.Implementation{Name: "inbox", Version: "1"}, nil)
	reads := 0
	var mu sync.Mutex
	s.AddResource(&mcp.Resource{URI: "wiki://inbox", Name: "inbox"}, func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		mu.Lock()
		defer mu.Unlock()
		reads++
		return &mcp.ReadResourceResult{Cacheable: mcp.Cacheable{TTLMs: 60_000, CacheScope: "public"}, Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: fmt.Sprint("reading ", reads)}}}, nil
	})
	eachCell(t, func(t *testing.T, client, upstream string) {
		f := newFed(t, map[string]*mcp.Server{"inbox": s})
		f.add("inbox", s, upstream)
		seen := map[string]bool{}
		for _, actor := range []audit.Actor{bot, other, bot} {
			a := f.agent(actor, client)
			for range 2 {
				r, err := a.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "wiki://inbox"})
				require.NoError(t, err)
				assert.False(t, seen[r.Contents[0].Text], "each reading is the upstream's own")
				seen[r.Contents[0].Text] = true
			}
		}
	})
}

// Subscriptions reach the actor that asked, as long as it asks, and nobody else.
func TestSubscriptions(t *testing.T) {
	eachCell(t, func(t *testing.T, client, upstream string) {
		live := wiki()
		f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
		f.add("wiki", live, upstream)
		type change struct{ who, uri string }
		heard := make(chan change, 64)
		connect := func(actor audit.Actor, name string) *mcp.ClientSession {
			c := mcp.NewClient(&mcp.Implementation{Name: name, Version: "1"}, &mcp.ClientOptions{
				ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) {
					heard <- change{name, r.Params.URI}
				},
			})
			cs, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: mcptest.Door(t, f.gateway, actor).URL}, &mcp.ClientSessionOptions{ProtocolVersion: client})
			require.NoError(t, err)
			t.Cleanup(func() { cs.Close() })
			return cs
		}
		one, two, stranger := connect(bot, "one"), connect(bot, "two"), connect(other, "stranger")
		ctx := t.Context()
		page := &mcp.SubscribeParams{URI: "wiki://page/1"}
		// In the older era the answer says that the subscription is there, in the
		// newer one nothing does: changes are repeated until one comes.
		require.NoError(t, one.Subscribe(ctx, page))
		require.NoError(t, two.Subscribe(ctx, &mcp.SubscribeParams{URI: "wiki://page/2"}))
		require.NoError(t, stranger.Subscribe(ctx, &mcp.SubscribeParams{URI: "wiki://page/3"}))
		wait := func(uri string, want change) {
			t.Helper()
			for range 1000 {
				require.NoError(t, live.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: uri}))
				select {
				case got := <-heard:
					if got == want {
						return
					}
				case <-time.After(20 * time.Millisecond):
				}
			}
			t.Fatalf("%v was not heard", want)
		}
		wait("wiki://page/1", change{"one", "wiki://page/1"})
		wait("wiki://page/2", change{"two", "wiki://page/2"})
		wait("wiki://page/3", change{"stranger", "wiki://page/3"})
		// All that was ever said went to the one that had asked.
		drained := map[change]bool{}
		for len(heard) > 0 {
			drained[<-heard] = true
		}
		for c := range drained {
			assert.Contains(t, []change{{"one", "wiki://page/1"}, {"two", "wiki://page/2"}, {"stranger", "wiki://page/3"}}, c)
		}
		if client == legacy {
			assert.Error(t, one.Subscribe(ctx, &mcp.SubscribeParams{URI: "wiki://page/secret"}))
			assert.Error(t, one.Subscribe(ctx, &mcp.SubscribeParams{URI: "file:///etc/passwd"}))
			require.NoError(t, one.Unsubscribe(ctx, &mcp.UnsubscribeParams{URI: "wiki://page/1"}))
		}
		require.NoError(t, f.gateway.Close(), "and nothing of it stays")
	})
}
