package inference

import (
	"context"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	oteltrace "go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/twinward-dev/twinward/audit"
)

// What operators see follows OpenTelemetry's semantic conventions for generative
// AI, as they are in version 1.41, the last before they moved to a place of their
// own: a client span for each call, with all of its attempts, and measurements of
// its time and tokens. They are not stable, so their names are all in this file.

const (
	scopeName = "github.com/twinward-dev/twinward/inference"
	schemaURL = "https://opentelemetry.io/schemas/1.41.0"

	metricDuration = "gen_ai.client.operation.duration"
	metricFirst    = "gen_ai.client.operation.time_to_first_chunk"
	metricTokens   = "gen_ai.client.token.usage"

	attrOperation  = attribute.Key("gen_ai.operation.name")
	attrProvider   = attribute.Key("gen_ai.provider.name")
	attrAsked      = attribute.Key("gen_ai.request.model")
	attrMaxTokens  = attribute.Key("gen_ai.request.max_tokens")
	attrChoices    = attribute.Key("gen_ai.request.choice.count")
	attrStream     = attribute.Key("gen_ai.request.stream")
	attrAnswered   = attribute.Key("gen_ai.response.model")
	attrFirst      = attribute.Key("gen_ai.response.time_to_first_chunk")
	attrInput      = attribute.Key("gen_ai.usage.input_tokens")
	attrOutput     = attribute.Key("gen_ai.usage.output_tokens")
	attrCacheRead  = attribute.Key("gen_ai.usage.cache_read.input_tokens")
	attrCacheWrite = attribute.Key("gen_ai.usage.cache_creation.input_tokens")
	attrReasoning  = attribute.Key("gen_ai.usage.reasoning.output_tokens")
	attrTokenType  = attribute.Key("gen_ai.token.type")
	attrAgent      = attribute.Key("gen_ai.agent.id")
	attrError      = attribute.Key("error.type")
	attrBackend    = attribute.Key("twinward.backend")
	attrDecision   = attribute.Key("twinward.decision.id")
	attrDenial     = attribute.Key("twinward.denial.reason")
)

// The bounds that the conventions give: of durations in seconds, and of tokens.
var (
	durations = metric.WithExplicitBucketBoundaries(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
	amounts   = metric.WithExplicitBucketBoundaries(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
)

// telemetry is what calls are reported to. Nil is nobody.
type telemetry struct {
	tracer          oteltrace.Tracer
	duration, first metric.Float64Histogram
	tokens          metric.Int64Histogram
}

func newTelemetry(traces oteltrace.TracerProvider, meters metric.MeterProvider) *telemetry {
	if traces == nil && meters == nil {
		return nil
	}
	if traces == nil {
		traces = nooptrace.NewTracerProvider()
	}
	if meters == nil {
		meters = noopmetric.NewMeterProvider()
	}
	t := &telemetry{
		tracer:   traces.Tracer(scopeName, oteltrace.WithSchemaURL(schemaURL)),
		duration: noopmetric.Float64Histogram{}, first: noopmetric.Float64Histogram{}, tokens: noopmetric.Int64Histogram{},
	}
	meter := meters.Meter(scopeName, metric.WithSchemaURL(schemaURL))
	// An instrument that cannot be made is one that nobody reads.
	if h, err := meter.Float64Histogram(metricDuration, metric.WithUnit("s"), durations,
		metric.WithDescription("How long a call took, from when it was read to the end of its answer.")); err == nil {
		t.duration = h
	}
	if h, err := meter.Float64Histogram(metricFirst, metric.WithUnit("s"), durations,
		metric.WithDescription("How long the first event of a stream took to come.")); err == nil {
		t.first = h
	}
	if h, err := meter.Int64Histogram(metricTokens, metric.WithUnit("{token}"), amounts,
		metric.WithDescription("How many tokens a call read and wrote, as the backend reports them.")); err == nil {
		t.tokens = h
	}
	return t
}

// An observation is one call that is being reported. Its methods are for the
// goroutine of the call; those of a nil observation do nothing.
type observation struct {
	t         *telemetry
	ctx       context.Context
	span      oteltrace.Span
	start     time.Time
	operation string
	route     *route        // nil if the configuration has no such model
	waited    time.Duration // for the first event of a stream; 0 before
	failure   string        // what the client was told, if that is not the outcome
	decision  string        // that refused the call
}

// received begins to report a call whose request was read, under the trace that
// it names. What is recorded of it has that trace too.
func (t *telemetry) received(ctx context.Context, c *call) (context.Context, *observation) {
	if t == nil {
		return ctx, nil
	}
	if !oteltrace.SpanContextFromContext(ctx).IsValid() { // else the host or the agent began a span in this process
		if parent, ok := parseTrace(c.trace); ok {
			ctx = oteltrace.ContextWithRemoteSpanContext(ctx, parent)
		}
	}
	o := &observation{t: t, start: time.Now(), operation: c.op.genAI()}
	name, attrs := o.operation, []attribute.KeyValue{attrOperation.String(o.operation)}
	if rt := c.routes.byModel[routeKey{c.protocol, c.wanted}]; rt != nil { // else anybody could make up as many names as they like
		o.route = rt
		name += " " + rt.asked
		attrs = append(attrs, attrAsked.String(rt.asked), attrProvider.String(rt.targets[0].provider()))
	}
	if c.actor.Agent != "" {
		attrs = append(attrs, attrAgent.String(c.actor.Agent))
	}
	if c.env.maxOutput > 0 {
		attrs = append(attrs, attrMaxTokens.Int64(c.env.maxOutput))
	}
	if c.env.choices > 1 {
		attrs = append(attrs, attrChoices.Int64(c.env.choices))
	}
	if c.env.stream {
		attrs = append(attrs, attrStream.Bool(true))
	}
	o.ctx, o.span = t.tracer.Start(ctx, name, oteltrace.WithSpanKind(oteltrace.SpanKindClient), oteltrace.WithAttributes(attrs...))
	if trace := formatTrace(o.span.SpanContext()); trace != "" {
		c.trace = trace
	}
	return o.ctx, o
}

// chunk notes that an event of the backend's stream has come. Comments, which
// some backends send while they make clients wait, are none.
func (o *observation) chunk(ev []byte) {
	if o == nil || o.waited > 0 || len(ev) > 0 && (ev[0] == ':' || ev[0] == '\r' || ev[0] == '\n') {
		return
	}
	o.waited = max(time.Since(o.start), 1)
}

// failed notes what the client was told in place of an answer, in the words of
// its code.
func (o *observation) failed(code string) {
	if o != nil {
		o.failure = code
	}
}

// refused notes that the call was not carried out.
func (o *observation) refused(code, decision string) {
	if o != nil {
		o.failure, o.decision = code, decision
	}
}

// end reports how the call ended.
func (o *observation) end(c *call) {
	if o == nil {
		return
	}
	took := time.Since(o.start).Seconds()
	ctx := context.WithoutCancel(o.ctx) // that of a client who left would not be measured by every meter
	attrs := o.named(c)
	times, failure := attrs, o.errorType(c)
	if failure != "" {
		times = append(slices.Clip(attrs), attrError.String(failure))
		o.span.SetStatus(codes.Error, failure)
	}
	o.span.SetAttributes(times...)
	o.t.duration.Record(ctx, took, metric.WithAttributes(times...))
	if o.waited > 0 && c.env.stream {
		o.span.SetAttributes(attrFirst.Float64(o.waited.Seconds()))
		o.t.first.Record(ctx, o.waited.Seconds(), metric.WithAttributes(attrs...))
	}
	o.used(ctx, c, attrs)
	if o.decision != "" {
		o.span.SetAttributes(attrDecision.String(o.decision), attrDenial.String(failure))
	}
	o.span.End()
}

// named are the attributes of all measurements. Their values are the door's own
// words and those of the configuration.
func (o *observation) named(c *call) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 8), attrOperation.String(o.operation))
	if o.route != nil {
		attrs = append(attrs, attrAsked.String(o.route.asked))
	}
	switch {
	case c.target != nil:
		attrs = append(attrs, attrProvider.String(c.target.provider()), attrBackend.String(c.target.backend.Name))
		if c.estimate == 0 && (c.out.Status == audit.StatusOK || o.waited > 0) {
			attrs = append(attrs, attrAnswered.String(c.target.model))
		}
	case o.route != nil:
		attrs = append(attrs, attrProvider.String(o.route.targets[0].provider()))
	}
	return attrs
}

// errorType is the error.type of the call, "" if it went well.
func (o *observation) errorType(c *call) string {
	switch {
	case o.failure != "":
		return o.failure
	case c.ended && c.out.Status == audit.StatusOK:
		return ""
	case c.ended && c.out.ErrorCode != "":
		return c.out.ErrorCode
	}
	return "_OTHER"
}

// used reports the tokens of the call, if the backend did. The conventions forbid
// to report estimates.
func (o *observation) used(ctx context.Context, c *call, attrs []attribute.KeyValue) {
	u := c.out.Usage
	if u == nil || !u.Final {
		return
	}
	tell := func(kind string, n int64, key attribute.Key) {
		o.span.SetAttributes(key.Int64(n))
		o.t.tokens.Record(ctx, n, metric.WithAttributes(append(slices.Clip(attrs), attrTokenType.String(kind))...))
	}
	tell("input", u.Input+u.CacheRead+u.CacheWrite, attrInput) // the conventions count the cached ones too
	if c.writes() {
		tell("output", u.Output, attrOutput)
	}
	for _, part := range [...]struct {
		key attribute.Key
		n   int64
	}{{attrCacheRead, u.CacheRead}, {attrCacheWrite, u.CacheWrite}, {attrReasoning, u.Reasoning}} {
		if part.n > 0 {
			o.span.SetAttributes(part.key.Int64(part.n))
		}
	}
}

// genAI is the name that the conventions have for the operation, or its own.
func (op *operation) genAI() string {
	switch {
	case op.action == actEmbed:
		return "embeddings"
	case op.action != actInvoke:
		return op.name
	case op.protocol == Gemini:
		return "generate_content"
	}
	return "chat"
}

// provider is the name that the conventions have for who serves t, the name of
// its preset, or where there is none the one whose protocol it speaks.
func (t *target) provider() string {
	preset := t.backend.Preset
	switch {
	case preset == "azure":
		return "azure.ai.openai"
	case preset == "azure-anthropic":
		return "azure.ai.inference"
	case strings.HasPrefix(preset, "bedrock"):
		return "aws.bedrock"
	case strings.HasPrefix(preset, "vertex"):
		return "gcp.vertex_ai"
	case preset != "" && preset != "gemini":
		return preset
	}
	switch t.wire() {
	case Anthropic:
		return "anthropic"
	case Gemini:
		return "gcp.gemini"
	}
	return "openai"
}

const traceHeader = "Traceparent"

// parseTrace is the context of the remote span that a trace names.
func parseTrace(s string) (oteltrace.SpanContext, bool) {
	t, ok := audit.ParseTrace(s)
	if !ok {
		return oteltrace.SpanContext{}, false
	}
	trace, err1 := oteltrace.TraceIDFromHex(t.ID())
	span, err2 := oteltrace.SpanIDFromHex(t.Span())
	return oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: trace, SpanID: span, TraceFlags: oteltrace.TraceFlags(t.Flags()), Remote: true,
	}), err1 == nil && err2 == nil
}

// formatTrace writes a W3C traceparent, or "" if there is no span.
func formatTrace(c oteltrace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}
