package inference

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	oteltrace "go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/twinward-dev/twinward/audit"
)

// A heardSpans provider keeps spans and measurements as text.
type heardSpans struct {
	nooptrace.TracerProvider
	mu   sync.Mutex
	n    uint64
	said []string
}

func (p *heardSpans) Tracer(string, ...oteltrace.TracerOption) oteltrace.Tracer {
	return heardTracer{of: p}
}

func (p *heardSpans) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.said
	p.said = nil
	return out
}

func (p *heardSpans) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

type heardTracer struct {
	nooptrace.Tracer
	of *heardSpans
}

type heardSpan struct {
	nooptrace.Span
	of     *heardSpans
	kind   string
	name   string
	id     oteltrace.SpanContext
	parent oteltrace.SpanContext
	attrs  []attribute.KeyValue
	status string
}

func (t heardTracer) Start(ctx context.Context, name string, opts ...oteltrace.SpanStartOption) (context.Context, oteltrace.Span) {
	c := oteltrace.NewSpanStartConfig(opts...)
	parent := oteltrace.SpanContextFromContext(ctx)
	t.of.mu.Lock()
	t.of.n++
	var id oteltrace.SpanID
	binary.BigEndian.PutUint64(id[:], t.of.n)
	t.of.mu.Unlock()
	trace := parent.TraceID()
	if !parent.IsValid() {
		trace = oteltrace.TraceID{15: 7}
	}
	s := &heardSpan{of: t.of, kind: c.SpanKind().String(), name: name, parent: parent, attrs: c.Attributes(),
		id: oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: trace, SpanID: id, TraceFlags: oteltrace.FlagsSampled})}
	return oteltrace.ContextWithSpan(ctx, s), s
}

func (s *heardSpan) SpanContext() oteltrace.SpanContext { return s.id }
func (s *heardSpan) SetName(name string)                { s.name = name }
func (s *heardSpan) SetAttributes(kv ...attribute.KeyValue) {
	for _, a := range kv {
		if a.Value.Type() == attribute.FLOAT64 { // a time
			a = attribute.Bool(string(a.Key), a.Value.AsFloat64() > 0)
		}
		s.attrs = append(s.attrs, a)
	}
}
func (s *heardSpan) SetStatus(c codes.Code, description string) {
	s.status = " " + c.String() + " " + description
}
func (s *heardSpan) End(...oteltrace.SpanEndOption) {
	set := attribute.NewSet(s.attrs...)
	s.of.say("%s %q of %s under %s: %s%s", s.kind, s.name, s.id.TraceID(), s.parent.SpanID(), set.Encoded(attribute.DefaultEncoder()), s.status)
}

type heardMeters struct {
	noopmetric.MeterProvider
	of *heardSpans
}

func (m heardMeters) Meter(string, ...metric.MeterOption) metric.Meter { return heardMeter{of: m.of} }

type heardMeter struct {
	noopmetric.Meter
	of *heardSpans
}

func (m heardMeter) Float64Histogram(name string, opts ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	c := metric.NewFloat64HistogramConfig(opts...)
	return heardTimes{name: name, unit: c.Unit(), of: m.of}, nil
}

func (m heardMeter) Int64Histogram(name string, opts ...metric.Int64HistogramOption) (metric.Int64Histogram, error) {
	c := metric.NewInt64HistogramConfig(opts...)
	return heardCounts{name: name, unit: c.Unit(), of: m.of}, nil
}

type heardTimes struct {
	noopmetric.Float64Histogram
	name, unit string
	of         *heardSpans
}

func (h heardTimes) Record(ctx context.Context, v float64, opts ...metric.RecordOption) {
	set := metric.NewRecordConfig(opts).Attributes()
	h.of.say("%s %s %t %v: %s", h.name, h.unit, v >= 0, ctx.Err(), set.Encoded(attribute.DefaultEncoder()))
}

type heardCounts struct {
	noopmetric.Int64Histogram
	name, unit string
	of         *heardSpans
}

func (h heardCounts) Record(ctx context.Context, v int64, opts ...metric.RecordOption) {
	set := metric.NewRecordConfig(opts).Attributes()
	h.of.say("%s %s %d %v: %s", h.name, h.unit, v, ctx.Err(), set.Encoded(attribute.DefaultEncoder()))
}

// heardFleet is a fleet whose calls are reported.
func heardFleet(t *testing.T, change func(*Config), policies ...string) (*fleet, *heardSpans) {
	t.Helper()
	f, p := newFleet(t, change, policies...), &heardSpans{}
	f.withOptions(func(o *Options) { o.TracerProvider, o.MeterProvider = p, heardMeters{of: p} })
	return f, p
}

// withOptions replaces the router by one with other options.
func (f *fleet) withOptions(change func(*Options)) {
	f.t.Helper()
	opts := f.router.opts
	change(&opts)
	var err error
	f.router, err = NewRouter(f.config, f.engine, f.log, &opts)
	require.NoError(f.t, err)
}

// traced makes a call of a client that has a trace.
func (f *fleet) traced(ctx context.Context, path, body string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(body))
	req.Header.Set("traceparent", clientTrace)
	req.Header.Set("tracestate", "rojo=00f067aa0ba902b7")
	req.Header.Set("baggage", "user=alice")
	session(f.router, bot).ServeHTTP(rec, req)
	return rec
}

const (
	traceID     = "0af7651916cd43dd8448eb211c80319c"
	clientTrace = "00-" + traceID + "-b7ad6b7169203331-01"
	usedChat    = `{"choices":[],"model":"made-up-by-backend","usage":{"prompt_tokens":120,"completion_tokens":34,"total_tokens":154,"prompt_tokens_details":{"cached_tokens":100},"completion_tokens_details":{"reasoning_tokens":20}}}`
)

// wholeAnswer is a backend that gives one answer as it stands.
func wholeAnswer(body string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

// A call is one client span and its measurements, under the client's trace, and
// says nothing of what was asked and answered.
func TestOTelCall(t *testing.T) {
	f, p := heardFleet(t, func(c *Config) { c.Backends[1].PassTrace = true })
	var sent []http.Header
	answer := func(r *http.Request) (*http.Response, error) {
		sent = append(sent, r.Header)
		return wholeAnswer(usedChat)(r)
	}
	f.answers["a"], f.answers["b"] = answer, answer
	const body = `{"model":"big","max_tokens":9,"n":2,"messages":[{"role":"user","content":"the prompt"}]}`
	require.Equal(t, 200, f.traced(t.Context(), chatPath, body).Code)
	const named = `gen_ai.operation.name=chat,gen_ai.provider.name=openai,gen_ai.request.model=big,gen_ai.response.model=m,`
	assert.Equal(t, []string{
		`gen_ai.client.operation.duration s true <nil>: ` + named + `twinward.backend=a`,
		`gen_ai.client.token.usage {token} 120 <nil>: ` + named[:len(named)-1] + `,gen_ai.token.type=input,twinward.backend=a`,
		`gen_ai.client.token.usage {token} 34 <nil>: ` + named[:len(named)-1] + `,gen_ai.token.type=output,twinward.backend=a`,
		`client "chat big" of ` + traceID + ` under b7ad6b7169203331: gen_ai.agent.id=bot,gen_ai.operation.name=chat,gen_ai.provider.name=openai,` +
			`gen_ai.request.choice.count=2,gen_ai.request.max_tokens=9,gen_ai.request.model=big,gen_ai.response.model=m,` +
			`gen_ai.usage.cache_read.input_tokens=100,gen_ai.usage.input_tokens=120,gen_ai.usage.output_tokens=34,gen_ai.usage.reasoning.output_tokens=20,twinward.backend=a`,
	}, p.heard())
	assert.Equal(t, "00-"+traceID+"-0000000000000001-01", intent(t, f.log).Trace, "the record has the span")

	// A call that falls back is one span, of the model that answered in the end.
	f.answers["a"] = says(503, "")
	require.Equal(t, 200, f.traced(t.Context(), chatPath, body).Code)
	heard := p.heard()
	require.Len(t, heard, 4)
	for _, s := range heard {
		assert.Contains(t, s, "twinward.backend=b")
		assert.NotContains(t, s, "error.type")
	}
	require.Len(t, f.fallbacks(), 1)
	assert.Equal(t, "00-"+traceID+"-0000000000000002-01", f.fallbacks()[0].Trace)

	// Only a backend that is named for it learns of the trace, and of nothing else.
	require.Len(t, sent, 2)
	assert.Empty(t, sent[0].Get("Traceparent"))
	assert.Equal(t, []string{"00-" + traceID + "-0000000000000002-01"}, sent[1].Values("Traceparent"))
	for _, h := range sent {
		assert.Empty(t, h.Get("Tracestate")+h.Get("Baggage"))
	}
}

// Streams have a time to their first chunk too, and what waits for it is none.
func TestOTelStream(t *testing.T) {
	f, p := heardFleet(t, nil)
	stream := golden(t, "openai.sse")
	f.answers["a"] = func(*http.Request) (*http.Response, error) {
		return streamed(&cutReader{parts: [][]byte{[]byte(": wait\n\n"), []byte(stream)}}), nil
	}
	const body = `{"model":"m","stream":true,"messages":[]}`
	require.Equal(t, 200, f.traced(t.Context(), chatPath, body).Code)
	const named = `gen_ai.operation.name=chat,gen_ai.provider.name=openai,gen_ai.request.model=m,gen_ai.response.model=m,`
	assert.Equal(t, []string{
		`gen_ai.client.operation.duration s true <nil>: ` + named + `twinward.backend=a`,
		`gen_ai.client.operation.time_to_first_chunk s true <nil>: ` + named + `twinward.backend=a`,
		`gen_ai.client.token.usage {token} 120 <nil>: ` + named + `gen_ai.token.type=input,twinward.backend=a`,
		`gen_ai.client.token.usage {token} 34 <nil>: ` + named + `gen_ai.token.type=output,twinward.backend=a`,
		`client "chat m" of ` + traceID + ` under b7ad6b7169203331: gen_ai.agent.id=bot,gen_ai.operation.name=chat,gen_ai.provider.name=openai,` +
			`gen_ai.request.model=m,gen_ai.request.stream=true,gen_ai.response.model=m,gen_ai.response.time_to_first_chunk=true,` +
			`gen_ai.usage.cache_read.input_tokens=100,gen_ai.usage.input_tokens=120,gen_ai.usage.output_tokens=34,gen_ai.usage.reasoning.output_tokens=20,twinward.backend=a`,
	}, p.heard())

	// Comments alone are no chunk.
	o := &observation{}
	o.chunk([]byte(": wait\n\n"))
	o.chunk([]byte("\n"))
	assert.Zero(t, o.waited)
	o.chunk([]byte("data: {}\n\n"))
	assert.NotZero(t, o.waited)

	// What broke off is an error, and its tokens are an estimate, which is not told.
	first, _, _ := strings.Cut(stream, "\n\n")
	f.answers["a"] = func(*http.Request) (*http.Response, error) {
		return streamed(&cutReader{parts: [][]byte{[]byte(first + "\n\n")}, err: errors.New("broken")}), nil
	}
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() { f.traced(t.Context(), chatPath, body) })
	heard := p.heard()
	require.Len(t, heard, 3, "%q", heard)
	assert.Contains(t, heard[0], metricDuration+" s true <nil>: error.type=upstream-broken,")
	assert.Contains(t, heard[1], metricFirst)
	assert.NotContains(t, heard[1], "error.type")
	assert.Contains(t, heard[2], "Error upstream-broken")
	assert.NotContains(t, heard[2], "gen_ai.usage")
}

// However a call ends it is reported, and no measurement has a value that an
// agent or a backend can make up.
func TestOTelErrors(t *testing.T) {
	const noOther = `@id("no-other") forbid (principal, action == Action::"invoke_model", resource) when { resource.name == "other" };`
	gone, leave := context.WithCancel(context.Background())
	defer leave()
	for name, tc := range map[string]struct {
		model, code string
		answer      func(*http.Request) (*http.Response, error)
		ctx         context.Context
		named       string // in the name of the span
		sent        bool
	}{
		"a model that nobody has": {model: "made-up-by-agent", code: "model_not_found", named: "chat"},
		"policy":                  {model: "other", code: "denied", named: "chat other"},
		"upstream":                {model: "m", code: "upstream-400", answer: says(400, ""), named: "chat m", sent: true},
		"key":                     {model: "m", code: "upstream-unauthorized", answer: says(401, ""), named: "chat m", sent: true},
		"no connection":           {model: "m", code: "upstream-down", answer: fails(errDial), named: "chat m", sent: true},
		"the client leaves": {model: "m", code: "cancelled", ctx: gone, named: "chat m", sent: true,
			answer: func(*http.Request) (*http.Response, error) { leave(); return nil, gone.Err() }},
	} {
		t.Run(name, func(t *testing.T) {
			f, p := heardFleet(t, nil, noOther)
			f.answers["a"] = tc.answer
			ctx := tc.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			func() {
				defer func() {
					if e := recover(); e != nil {
						assert.Equal(t, http.ErrAbortHandler, e)
					}
				}()
				f.traced(ctx, chatPath, `{"model":"`+tc.model+`","messages":[]}`)
			}()
			heard := p.heard()
			require.Len(t, heard, 2, "%q", heard)
			assert.Contains(t, heard[0], metricDuration+" s true <nil>: error.type="+tc.code+",gen_ai.operation.name=chat")
			assert.Contains(t, heard[1], `client "`+tc.named+`" of `+traceID)
			assert.Contains(t, heard[1], " Error "+tc.code)
			assert.NotContains(t, strings.Join(heard, "\n"), "made-up")
			assert.NotContains(t, heard[0], "gen_ai.response.model")
			if tc.sent {
				assert.NotContains(t, heard[1], "twinward.d")
				return
			}
			d := f.log.Denials()
			require.Len(t, d, 1)
			assert.Contains(t, heard[1], "twinward.decision.id="+d[0].Decision.ID+",twinward.denial.reason="+tc.code)
			assert.Equal(t, "00-"+traceID+"-0000000000000001-01", d[0].Trace)
		})
	}
}

// A call that is refused before its model is looked at says what it asked for, if
// the configuration has that.
func TestOTelRefusedEarly(t *testing.T) {
	f, p := heardFleet(t, func(c *Config) {
		var err error
		c.Spend, err = spendOf(`rates: [{name: slow, per: agent, requests: 1}]`)
		require.NoError(t, err)
	})
	require.Equal(t, 200, f.traced(t.Context(), chatPath, askBig).Code)
	p.heard()
	require.Equal(t, 429, f.traced(t.Context(), chatPath, askBig).Code)
	heard := p.heard()
	require.Len(t, heard, 2, "%q", heard)
	assert.Equal(t, metricDuration+" s true <nil>: error.type=rate_limit_exceeded,gen_ai.operation.name=chat,gen_ai.provider.name=openai,gen_ai.request.model=big", heard[0])
	assert.Contains(t, heard[1], `client "chat big"`)
}

func TestOTelConfig(t *testing.T) {
	cfg, err := ParseConfig("x", []byte(`backends: [{name: a, base_url: "https://a.example/v1", models: [m], pass_trace: true}]`))
	require.NoError(t, err)
	assert.True(t, cfg.Backends[0].PassTrace)
}

// An answer that is withheld because nothing can be recorded is an error, though
// the backend gave it.
func TestOTelNothingRecorded(t *testing.T) {
	for _, at := range []string{"intent", "outcome"} {
		t.Run(at, func(t *testing.T) {
			f, p := heardFleet(t, nil)
			opts := f.router.opts
			var err error
			f.router, err = newRouter(f.config, f.engine, &deafLog{intent: at == "intent"}, &opts)
			require.NoError(t, err)
			assert.Equal(t, 503, f.traced(t.Context(), chatPath, askBig).Code)
			heard := p.heard()
			assert.Contains(t, heard[0], "error.type=no_audit")
			assert.Contains(t, heard[len(heard)-1], "Error no_audit")
		})
	}
}

// A deafLog does not keep intents, or outcomes.
type deafLog struct {
	lastOutcome
	intent bool
}

func (l *deafLog) Begin(context.Context, audit.Intent) (audit.Call, error) {
	if l.intent {
		return nil, errors.New("full")
	}
	return l, nil
}

func (l *deafLog) End(context.Context, audit.Outcome) error { return errors.New("full") }

// A span that the host or the agent began in this process is the parent, and one
// provider does without the other.
func TestOTelParents(t *testing.T) {
	f, p := heardFleet(t, nil)
	ctx, outer := (&heardSpans{n: 40}).Tracer("").Start(t.Context(), "outer")
	require.Equal(t, 200, f.traced(ctx, chatPath, askBig).Code)
	heard := p.heard()
	assert.Contains(t, heard[len(heard)-1], "under "+outer.SpanContext().SpanID().String())

	f.withOptions(func(o *Options) { o.TracerProvider = nil })
	require.Equal(t, 200, f.traced(t.Context(), chatPath, askBig).Code)
	for _, s := range p.heard() {
		assert.True(t, strings.HasPrefix(s, "gen_ai.client."), s)
	}
	f.withOptions(func(o *Options) { o.TracerProvider, o.MeterProvider = p, nil })
	require.Equal(t, 200, f.traced(t.Context(), chatPath, askBig).Code)
	assert.Len(t, p.heard(), 1)
}

// Without providers nothing is made, and the client's trace is still on record.
func TestOTelNobodyCostsNothing(t *testing.T) {
	require.Nil(t, newTelemetry(nil, nil))
	f := newFleet(t, func(c *Config) { c.Backends[0].PassTrace = true })
	var sent string
	f.answers["a"] = func(r *http.Request) (*http.Response, error) {
		sent = r.Header.Get("Traceparent")
		return says(200, "")(r)
	}
	require.Equal(t, 200, f.traced(t.Context(), chatPath, askBig).Code)
	assert.Equal(t, clientTrace, intent(t, f.log).Trace)
	assert.Equal(t, clientTrace, sent)

	ctx, c, h := t.Context(), &call{Router: f.router}, http.Header{traceHeader: {clientTrace}}
	ev := []byte("data: {}\n\n")
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		c.trace = string(audit.TraceOf(h))
		c.ctx, c.seen = c.telemetry.received(ctx, c)
		c.seen.chunk(ev)
		c.seen.failed("x")
		c.seen.refused("x", "y")
		c.seen.end(c)
	}))
}

func TestOTelTraceparent(t *testing.T) {
	c, ok := parseTrace(clientTrace)
	assert.True(t, ok && c.IsRemote() && c.IsSampled())
	assert.Equal(t, clientTrace, formatTrace(c))
	_, ok = parseTrace("")
	assert.False(t, ok)
}

// Providers and operations have the names of the conventions where these have one.
func TestOTelNames(t *testing.T) {
	known := map[string]string{
		"anthropic": "anthropic", "openai": "openai", "gemini": "gcp.gemini", "azure": "azure.ai.openai", "azure-anthropic": "azure.ai.inference",
		"bedrock": "aws.bedrock", "bedrock-anthropic": "aws.bedrock", "vertex": "gcp.vertex_ai", "vertex-openai": "gcp.vertex_ai", "vertex-anthropic": "gcp.vertex_ai",
	}
	for preset, p := range Presets() {
		want := known[preset]
		if want == "" {
			want = preset
		}
		b := &Backend{Name: "x", Preset: preset}
		assert.Equal(t, want, (&target{backend: b, protocol: p.Protocols[0]}).provider())
	}
	for protocol, want := range map[Protocol]string{OpenAI: "openai", OpenAIResponses: "openai", Anthropic: "anthropic", Gemini: "gcp.gemini"} {
		assert.Equal(t, want, (&target{backend: &Backend{}, protocol: protocol}).provider())
		assert.Equal(t, "openai", (&target{backend: &Backend{}, protocol: protocol, translated: true}).provider())
	}
	var names []string
	for _, op := range operations {
		names = append(names, op.genAI())
	}
	assert.Equal(t, []string{
		"chat", "embeddings", "chat", "chat", "count_tokens",
		"generate_content", "generate_content", "count_tokens", "embeddings", "embeddings",
	}, names)
}
