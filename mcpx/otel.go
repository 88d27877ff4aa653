//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"context"
	"strconv"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	oteltrace "go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"
)

// What operators see follows OpenTelemetry's semantic conventions for MCP: a
// server span and a measurement for each governed request, a client span and a
// measurement for the one request that goes on to an upstream. Arguments and
// results are in neither. The trace comes in with _meta or the traceparent
// header, and goes on in _meta, where the conventions put it.

const (
	scopeName = "github.com/twinward-dev/twinward/mcpx"

	metricServer = "mcp.server.operation.duration"
	metricClient = "mcp.client.operation.duration"

	attrMethod    = attribute.Key("mcp.method.name")
	attrVersion   = attribute.Key("mcp.protocol.version")
	attrResource  = attribute.Key("mcp.resource.uri")
	attrTool      = attribute.Key("gen_ai.tool.name")
	attrPrompt    = attribute.Key("gen_ai.prompt.name")
	attrOperation = attribute.Key("gen_ai.operation.name")
	attrAgent     = attribute.Key("gen_ai.agent.id")
	attrError     = attribute.Key("error.type")
	attrStatus    = attribute.Key("rpc.response.status_code")
	attrServer    = attribute.Key("twinward.server")
	attrDecision  = attribute.Key("twinward.decision.id")
	attrDenial    = attribute.Key("twinward.denial.reason")
)

// durations are the bounds, in seconds, that the conventions give.
var durations = metric.WithExplicitBucketBoundaries(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)

// telemetry is what requests are reported to. Nil is nobody.
type telemetry struct {
	tracer         oteltrace.Tracer
	server, client metric.Float64Histogram
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
	t := &telemetry{tracer: traces.Tracer(scopeName), server: noopmetric.Float64Histogram{}, client: noopmetric.Float64Histogram{}}
	meter := meters.Meter(scopeName)
	// An instrument that cannot be made is one that nobody reads.
	if h, err := meter.Float64Histogram(metricServer, metric.WithUnit("s"), durations,
		metric.WithDescription("How long a request took, from its arrival to its answer.")); err == nil {
		t.server = h
	}
	if h, err := meter.Float64Histogram(metricClient, metric.WithUnit("s"), durations,
		metric.WithDescription("How long an upstream took for a request.")); err == nil {
		t.client = h
	}
	return t
}

// An observation is one request that is being reported.
type observation struct {
	t     *telemetry
	ctx   context.Context
	span  oteltrace.Span
	q     *query
	start time.Time
	to    metric.Float64Histogram
	attrs []attribute.KeyValue // of the span and the measurement
}

// received begins to report a request of an agent, under the trace that it
// names. What is recorded of it has that trace too.
func (t *telemetry) received(ctx context.Context, q *query) (context.Context, *observation) {
	if t == nil {
		return ctx, nil
	}
	if parent, ok := parseTrace(q.trace); ok {
		ctx = oteltrace.ContextWithRemoteSpanContext(ctx, parent)
	}
	o := &observation{t: t, q: q, start: time.Now(), to: t.server}
	o.attrs = append(o.attrs, attrMethod.String(clip(q.method, 64)))
	if v := q.version(); v != "" {
		o.attrs = append(o.attrs, attrVersion.String(v))
	}
	o.ctx, o.span = t.tracer.Start(ctx, clip(q.method, 64), oteltrace.WithSpanKind(oteltrace.SpanKindServer), oteltrace.WithAttributes(o.attrs...))
	if trace := formatTrace(o.span.SpanContext()); trace != "" {
		q.trace = trace
	}
	return o.ctx, o
}

// sent begins to report the request of a flight to its upstream, which is told
// of the span.
func (t *telemetry) sent(ctx context.Context, q *query, f *flight) (context.Context, *observation) {
	if t == nil {
		return ctx, nil
	}
	o := &observation{t: t, q: q, start: time.Now(), to: t.client}
	o.attrs = append(o.attrs, attrMethod.String(q.method), attrServer.String(f.server))
	o.ctx, o.span = t.tracer.Start(ctx, q.method, oteltrace.WithSpanKind(oteltrace.SpanKindClient), oteltrace.WithAttributes(o.attrs...))
	if trace := formatTrace(o.span.SpanContext()); trace != "" {
		f.trace = trace
	}
	return o.ctx, o
}

// An ending is how a request ended, in the words of the conventions.
type ending struct {
	kind     string // error.type, "" if it went well
	code     int64  // of a JSON-RPC error
	unknown  bool   // what was asked for does not exist for this agent
	decision string
	reason   string // that the agent was told
}

// end reports how a request ended.
func (o *observation) end(e ending) {
	if o == nil {
		return
	}
	if !e.unknown { // else anybody could make up as many names as they like
		if name := o.target(); name != "" {
			o.span.SetName(o.q.method + " " + name)
		}
	}
	if e.kind != "" {
		o.attrs = append(o.attrs, attrError.String(e.kind))
		o.span.SetStatus(codes.Error, e.reason)
	}
	if e.code != 0 {
		o.attrs = append(o.attrs, attrStatus.String(strconv.FormatInt(e.code, 10)))
	}
	// The client may have left, and what it left behind is measured all the same.
	o.to.Record(context.WithoutCancel(o.ctx), time.Since(o.start).Seconds(), metric.WithAttributes(o.attrs...))
	o.span.SetAttributes(o.attrs...)
	if o.q.actor.Agent != "" {
		o.span.SetAttributes(attrAgent.String(o.q.actor.Agent))
	}
	if e.decision != "" {
		o.span.SetAttributes(attrDecision.String(e.decision), attrDenial.String(e.reason))
	}
	o.span.End()
}

// target adds what was asked for, and returns what of it belongs into the name
// of a span.
func (o *observation) target() string {
	name := clip(o.q.name, 128)
	switch {
	case name == "":
	case o.q.method == methodCallTool:
		o.attrs = append(o.attrs, attrTool.String(name), attrOperation.String("execute_tool"))
		return name
	case o.q.method == methodGetPrompt:
		o.attrs = append(o.attrs, attrPrompt.String(name))
		return name
	case o.q.method == methodReadResource || o.q.method == methodSubscribe:
		o.span.SetAttributes(attrResource.String(name)) // not of a measurement: there may be many
	}
	return ""
}

// endingOf reads how a request ended from what its carrier gives back.
func endingOf(res any, err error) ending {
	switch e := err.(type) {
	case nil:
	case refusal:
		d := e.denial()
		return ending{kind: "tool_error", unknown: e.Hidden, decision: d.DecisionID, reason: d.Reason}
	case *failure:
		return ending{kind: e.code, reason: e.code}
	case *jsonrpc.Error:
		return ending{kind: strconv.FormatInt(e.Code, 10), code: e.Code, unknown: e.Code == jsonrpc.CodeInvalidParams || e.Code == mcp.CodeResourceNotFound}
	default:
		return ending{kind: "_OTHER"}
	}
	failed := false
	switch r := res.(type) {
	case *rawResult:
		failed = r.reply.failed()
	case *mcp.CallToolResult:
		if r != nil {
			if d, ok := r.Meta[DenialKey].(Denial); ok {
				return ending{kind: "tool_error", decision: d.DecisionID, reason: d.Reason}
			}
			failed = r.IsError
		}
	case reply:
		failed = r.failed()
	}
	if failed {
		return ending{kind: "tool_error"}
	}
	return ending{}
}

// version is the protocol version that a request speaks, if it says so.
func (q *query) version() string {
	if q.speaks != "" {
		return q.speaks
	}
	if v, ok := q.req.(interface{ ProtocolVersion() string }); ok && q.req != nil {
		return clip(v.ProtocolVersion(), 16)
	}
	return ""
}
