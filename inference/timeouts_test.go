package inference

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// permits is an engine that allows everything, without goroutines and clocks.
type permits struct{}

func (permits) Decide(_ context.Context, r governance.Request) (governance.Decision, error) {
	return governance.Decision{Decision: audit.Decision{ID: "d", Effect: audit.Allow, Reason: "permit"}, Action: r.Action, Resource: r.Server + "/" + r.Name}, nil
}

func (permits) Visible(context.Context, audit.Actor, string, []governance.ToolRef) ([]governance.Visibility, error) {
	return nil, errors.New("not asked")
}

// A slow is a backend whose answers take their time: it says each part after its
// pause, and then stands still until its request ends.
type slow struct {
	header time.Duration // until the header
	parts  []slowPart
	ends   bool // after the parts
}

type slowPart struct {
	after time.Duration
	text  string
}

func (s slow) roundTrip(r *http.Request) (*http.Response, error) {
	if !pauseFor(r.Context(), s.header) {
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: &slowBody{slow: s, ctx: r.Context()}}, nil
}

type slowBody struct {
	slow
	ctx context.Context
}

func (b *slowBody) Read(p []byte) (int, error) {
	if len(b.parts) == 0 && b.ends {
		return 0, io.EOF
	}
	if len(b.parts) == 0 {
		<-b.ctx.Done()
		return 0, b.ctx.Err()
	}
	part := b.parts[0]
	b.parts = b.parts[1:]
	if !pauseFor(b.ctx, part.after) {
		return 0, b.ctx.Err()
	}
	return copy(p, part.text), nil
}

func (b *slowBody) Close() error { return nil }

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// timed runs one streamed call against backends a and b, with limits.
func timed(t *testing.T, limits Timeouts, path string, backends ...slow) (rec *httptest.ResponseRecorder, out audit.Outcome, asked string, aborted any) {
	t.Helper()
	protocol := OpenAI
	if strings.Contains(path, "messages") {
		protocol = Anthropic
	}
	cfg := Config{Timeouts: limits, Retry: Retry{Attempts: 4, Pause: 1}, Routes: []Route{{Model: "big"}}}
	for i := range backends {
		name := string(rune('a' + i))
		cfg.Backends = append(cfg.Backends, Backend{Name: name, Protocol: protocol, BaseURL: "http://" + name + ".example", Models: []string{"m-" + name}})
		cfg.Routes[0].Targets = append(cfg.Routes[0].Targets, Target{Backend: name, Model: "m-" + name, Priority: i})
	}
	log := &lastOutcome{}
	router, err := newRouter(cfg, permits{}, log, &Options{Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		asked += r.URL.Host[:1]
		return backends[r.URL.Host[0]-'a'].roundTrip(r)
	})})
	if !assert.NoError(t, err) {
		return
	}
	rec = httptest.NewRecorder()
	func() {
		defer func() { aborted = recover() }()
		session(router, bot).ServeHTTP(rec, httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"model":"big","max_tokens":1,"stream":true}`)))
	}()
	return rec, log.out, asked, aborted
}

const (
	chatPath, messagesPath = "/v1/chat/completions", "/v1/messages"
	chunk                  = `data: {"choices":[{"delta":{"content":"x"}}]}` + "\n\n"
	ending                 = "data: [DONE]\n\n"
)

// A backend that does not begin to answer is given up, and another one asked.
func TestFirstByteTimeout(t *testing.T) {
	good := slow{header: time.Second, parts: []slowPart{{time.Second, chunk + ending}}, ends: true}
	for name, bad := range map[string]slow{
		"no header":          {header: time.Hour},
		"header but no body": {header: time.Second, parts: []slowPart{{time.Hour, chunk}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			rec, out, asked, aborted := timed(t, Timeouts{FirstByte: 30 * time.Second}, chatPath, bad, good)
			assert.Nil(t, aborted)
			assert.Equal(t, "ab", asked, name)
			assert.Equal(t, chunk+ending, rec.Body.String(), name)
			assert.Contains(t, out.Checks, "attempt:a/m-a:timeout", name)
		})
		synctest.Test(t, func(t *testing.T) {
			rec, out, asked, aborted := timed(t, Timeouts{FirstByte: 30 * time.Second}, messagesPath, bad)
			assert.Nil(t, aborted)
			assert.Equal(t, "a", asked, "the same one would take as long again")
			assert.Equal(t, http.StatusGatewayTimeout, rec.Code, name)
			assert.Contains(t, rec.Body.String(), `"type":"error"`)
			assert.Equal(t, audit.StatusFailed, out.Status)
			assert.Equal(t, "timeout", out.ErrorCode, name)
		})
	}
}

// A stream that stands still ends with its protocol's error event, and nothing
// after it; what came before arrived.
func TestIdleTimeout(t *testing.T) {
	for path, want := range map[string]string{
		chatPath:     `data: {"error":`,
		messagesPath: "event: error\ndata: {\"",
	} {
		synctest.Test(t, func(t *testing.T) {
			halting := slow{parts: []slowPart{{time.Second, chunk}, {40 * time.Second, chunk}, {40 * time.Second, chunk + "data: half an ev"}}}
			rec, out, asked, aborted := timed(t, Timeouts{Idle: time.Minute}, path, halting, slow{ends: true})
			assert.Equal(t, http.ErrAbortHandler, aborted, "nobody takes it for whole")
			assert.Equal(t, "a", asked, "no other is asked once a byte went out")
			rest, ok := strings.CutPrefix(rec.Body.String(), chunk+chunk+chunk)
			assert.True(t, ok, rec.Body.String())
			assert.True(t, strings.HasPrefix(rest, want), rest)
			assert.True(t, strings.HasSuffix(rest, "\n\n"))
			assert.Equal(t, 1, strings.Count(rest, "\n\n"))
			assert.Contains(t, rest, "took too long")
			assert.Equal(t, "timeout", out.ErrorCode)
			assert.False(t, out.Usage.Final)
		})
	}
}

// A client that reads slowly does not make its backend idle.
func TestSlowReadersAreNotIdleBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch(t.Context(), Timeouts{Idle: time.Minute})
		defer w.stop()
		w.begun()
		body := &watchedBody{ReadCloser: &slowBody{slow: slow{parts: []slowPart{{0, "a"}, {59 * time.Second, "b"}}, ends: true}, ctx: w.ctx}, watch: w}
		p := make([]byte, 8)
		for range 2 {
			n, err := body.Read(p)
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
			time.Sleep(40 * time.Minute) // once is below the default of Total, twice is above it
		}
		assert.Equal(t, errTotal, w.expired())
	})
}

// A stream that goes on and on ends too.
func TestTotalTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endless := slow{}
		for range 100 {
			endless.parts = append(endless.parts, slowPart{time.Second, chunk})
		}
		rec, out, _, aborted := timed(t, Timeouts{Total: 10500 * time.Millisecond}, chatPath, endless)
		assert.Equal(t, http.ErrAbortHandler, aborted)
		assert.Equal(t, 10, strings.Count(rec.Body.String(), `"content"`))
		assert.Contains(t, rec.Body.String(), "took too long")
		assert.Equal(t, "timeout", out.ErrorCode)
	})
}

// Below zero there is no bound.
func TestNoTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lasting := slow{header: 100 * time.Hour, parts: []slowPart{{100 * time.Hour, chunk}, {100 * time.Hour, ending}}, ends: true}
		rec, out, _, aborted := timed(t, Timeouts{FirstByte: -1, Idle: -1, Total: -1}, chatPath, lasting)
		assert.Nil(t, aborted)
		assert.Equal(t, chunk+ending, rec.Body.String())
		assert.Equal(t, audit.StatusOK, out.Status)
	})
}

// By default there are bounds.
func TestDefaultTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, out, _, _ := timed(t, Timeouts{}, chatPath, slow{header: 100 * time.Hour})
		assert.Equal(t, "timeout", out.ErrorCode)
		assert.Equal(t, defaultTimeouts.FirstByte, time.Since(start), "by the fake clock")
	})
}
