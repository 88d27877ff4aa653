package governance

import (
	"context"
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

// The name of the instrumentation scope, and those of attributes, metrics and
// spans. They are described at [Options].TracerProvider and MeterProvider.
const (
	scopeName = "github.com/twinward-dev/twinward/governance"

	attrAction      = attribute.Key("twinward.action")
	attrResource    = attribute.Key("twinward.resource")
	attrAgent       = attribute.Key("gen_ai.agent.id")
	attrID          = attribute.Key("twinward.decision.id")
	attrEffect      = attribute.Key("twinward.decision.effect")
	attrReason      = attribute.Key("twinward.decision.reason")
	attrCause       = attribute.Key("twinward.decision.cause")
	attrPolicies    = attribute.Key("twinward.decision.policies")
	attrErrors      = attribute.Key("twinward.decision.errors")
	attrObligations = attribute.Key("twinward.decision.obligations")
	attrSource      = attribute.Key("twinward.decision.source")
	attrPolicy      = attribute.Key("twinward.policy.id")
	attrHash        = attribute.Key("twinward.policy.hash")

	metricDuration = "twinward.decision.duration"
	metricPolicy   = "twinward.policy.decisions"
	metricFlips    = "twinward.decision.flips"
	eventWould     = "twinward.decision.would"
)

// telemetry is what an engine was given to report its decisions to.
type telemetry struct {
	tracer   oteltrace.Tracer
	duration metric.Float64Histogram
	policies metric.Int64Counter
	flips    metric.Int64Counter
}

// newTelemetry returns nil when nobody listens.
func newTelemetry(opts *Options) *telemetry {
	o := opts.orDefault()
	if o.TracerProvider == nil && o.MeterProvider == nil {
		return nil
	}
	traces, meters := o.TracerProvider, o.MeterProvider
	if traces == nil {
		traces = nooptrace.NewTracerProvider()
	}
	if meters == nil {
		meters = noopmetric.NewMeterProvider()
	}
	meter := meters.Meter(scopeName)
	// An instrument that cannot be made is one that nobody reads: decisions do
	// not depend on it.
	t := &telemetry{tracer: traces.Tracer(scopeName), duration: noopmetric.Float64Histogram{}, policies: noopmetric.Int64Counter{}, flips: noopmetric.Int64Counter{}}
	if h, err := meter.Float64Histogram(metricDuration, metric.WithUnit("s"),
		metric.WithDescription("Time that a decision took."),
		metric.WithExplicitBucketBoundaries(5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 1e-1, 1)); err == nil {
		t.duration = h
	}
	if c, err := meter.Int64Counter(metricPolicy, metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions that a policy determined.")); err == nil {
		t.policies = c
	}
	if c, err := meter.Int64Counter(metricFlips, metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions that would have had the other effect by policies that are not applied.")); err == nil {
		t.flips = c
	}
	return t
}

// observe has decide answer a request, and reports the answer.
func (t *telemetry) observe(ctx context.Context, r Request, decide func(context.Context, Request) (Decision, error)) (Decision, error) {
	action := knownAction(r.Action)
	ctx, span := t.tracer.Start(ctx, "decide "+action, oteltrace.WithSpanKind(oteltrace.SpanKindInternal))
	defer span.End()
	start := time.Now()
	d, err := decide(ctx, r)
	took := time.Since(start)

	effect, hash := attrEffect.String(string(d.Effect)), attrHash.String(d.PolicyHash)
	labels := append(make([]attribute.KeyValue, 0, 4), attrAction.String(action), effect, hash)
	if !d.Allowed() {
		labels = append(labels, attrCause.String(causeClass(d.Reason)))
	}
	t.duration.Record(ctx, took.Seconds(), metric.WithAttributes(labels...))
	for _, p := range d.Policies {
		t.policies.Add(ctx, 1, metric.WithAttributes(attrPolicy.String(p.ID), effect))
	}
	for _, w := range d.Would {
		if w.Effect != d.Effect {
			t.flips.Add(ctx, 1, metric.WithAttributes(attrSource.String(string(w.Source)), attrEffect.String(string(w.Effect))))
		}
	}
	if span.IsRecording() {
		d.describe(span, r.Actor.Agent, labels)
	}
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, causeClass(d.Reason))
	}
	return d, err
}

// describe puts a decision on a span. Arguments, and texts that may quote them,
// stay out.
func (d *Decision) describe(span oteltrace.Span, agent string, labels []attribute.KeyValue) {
	span.SetAttributes(labels...)
	span.SetAttributes(attrID.String(d.ID), attrResource.String(d.Resource))
	if agent != "" {
		span.SetAttributes(attrAgent.String(clip(agent)))
	}
	if d.Reason != "" {
		span.SetAttributes(attrReason.String(d.Reason))
	}
	if len(d.Policies) > 0 {
		span.SetAttributes(attrPolicies.StringSlice(d.PolicyIDs()))
	}
	if len(d.Errors) > 0 {
		span.SetAttributes(attrErrors.Int(len(d.Errors)))
	}
	if len(d.Obligations) > 0 {
		kinds := make([]string, len(d.Obligations))
		for i, o := range d.Obligations {
			kinds[i] = o.Kind
		}
		span.SetAttributes(attrObligations.StringSlice(kinds))
	}
	for _, w := range d.Would {
		span.AddEvent(eventWould, oteltrace.WithAttributes(
			attrSource.String(string(w.Source)), attrEffect.String(string(w.Effect)),
			attrReason.String(w.Reason), attrHash.String(w.PolicyHash)))
	}
}

// knownAction keeps names that a caller made up out of names of spans and
// series.
func knownAction(action string) string {
	if _, ok := verbs[action]; ok || action == actionCallTool {
		return action
	}
	return "_OTHER"
}

// causeClass is a reason without what would make a series of its own of each
// policy and profile: "policy", "not-in-profile", "no-permit", or a guard.
func causeClass(reason string) string {
	switch {
	case strings.HasPrefix(reason, audit.ReasonNotInProfile):
		return audit.ReasonNotInProfile
	case audit.IsGuard(reason):
		return reason
	}
	return "policy"
}
