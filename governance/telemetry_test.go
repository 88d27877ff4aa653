package governance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	oteltrace "go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A listener keeps the spans and measurements that it is given, as text.
type listener struct {
	nooptrace.TracerProvider
	mu    sync.Mutex
	lines []string
	fail  bool // refuses to make instruments
}

func (l *listener) Tracer(scope string, _ ...oteltrace.TracerOption) oteltrace.Tracer {
	l.say("tracer %s", scope)
	return tracer{of: l}
}

type tracer struct {
	nooptrace.Tracer
	of *listener
}

func (l *listener) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// heard returns what was said since the last time.
func (l *listener) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.lines
	l.lines = nil
	return out
}

func text(attrs []attribute.KeyValue) string {
	set := attribute.NewSet(attrs...)
	return set.Encoded(attribute.DefaultEncoder())
}

type recordedSpan struct {
	nooptrace.Span
	of    *listener
	name  string
	attrs []attribute.KeyValue
	rest  []string
}

func (t tracer) Start(ctx context.Context, name string, opts ...oteltrace.SpanStartOption) (context.Context, oteltrace.Span) {
	s := &recordedSpan{of: t.of, name: name}
	c := oteltrace.NewSpanStartConfig(opts...)
	s.rest = append(s.rest, c.SpanKind().String())
	return oteltrace.ContextWithSpan(ctx, s), s
}

func (s *recordedSpan) IsRecording() bool                      { return true }
func (s *recordedSpan) SetAttributes(kv ...attribute.KeyValue) { s.attrs = append(s.attrs, kv...) }
func (s *recordedSpan) SetStatus(c codes.Code, why string) {
	s.rest = append(s.rest, fmt.Sprintf("%s %s", c, why))
}
func (s *recordedSpan) RecordError(err error, _ ...oteltrace.EventOption) {
	s.rest = append(s.rest, err.Error())
}
func (s *recordedSpan) AddEvent(name string, opts ...oteltrace.EventOption) {
	c := oteltrace.NewEventConfig(opts...)
	s.rest = append(s.rest, name+" "+text(c.Attributes()))
}
func (s *recordedSpan) End(...oteltrace.SpanEndOption) {
	s.of.say("span %s %s %s", s.name, text(s.attrs), strings.Join(s.rest, "; "))
}

// meters is the other half of a listener: both providers have a method of their
// own that marks them, so one type cannot be both.
type meters struct {
	noopmetric.MeterProvider
	of *listener
}

func (m meters) Meter(scope string, _ ...metric.MeterOption) metric.Meter {
	m.of.say("meter %s", scope)
	return meter{of: m.of}
}

type meter struct {
	noopmetric.Meter
	of *listener
}

type instrument struct {
	noopmetric.Float64Histogram
	of   *listener
	name string
}

type counter struct {
	noopmetric.Int64Counter
	of   *listener
	name string
}

func (m meter) Float64Histogram(name string, opts ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	if m.of.fail {
		return nil, assert.AnError
	}
	return instrument{of: m.of, name: name + " " + metric.NewFloat64HistogramConfig(opts...).Unit()}, nil
}

func (m meter) Int64Counter(name string, opts ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	if m.of.fail {
		return nil, assert.AnError
	}
	return counter{of: m.of, name: name + " " + metric.NewInt64CounterConfig(opts...).Unit()}, nil
}

func (i instrument) Record(_ context.Context, v float64, opts ...metric.RecordOption) {
	if v <= 0 || v > 60 {
		i.of.say("it took %v s", v)
	}
	set := metric.NewRecordConfig(opts).Attributes()
	i.of.say("%s %s", i.name, set.Encoded(attribute.DefaultEncoder()))
}

func (c counter) Add(_ context.Context, n int64, opts ...metric.AddOption) {
	set := metric.NewAddConfig(opts).Attributes()
	c.of.say("%s %d %s", c.name, n, set.Encoded(attribute.DefaultEncoder()))
}

func watched(t *testing.T, l *listener, opts Options) *Engine {
	t.Helper()
	opts.TracerProvider, opts.MeterProvider = l, meters{of: l}
	e := NewEngine(audittest.NewLog(t), &opts)
	b := Bundle{
		Catalog: []Server{{Name: "s", Tools: []Tool{{ToolDefinition: ToolDefinition{Name: "t", InputSchema: []byte(`{"type":"object","properties":{"i":{"type":"integer"}}}`)}, Class: Write}}}},
		Policies: []Source{{Name: "p.cedar", Text: `
@id("b") @max_bytes("10") permit (principal == Agent::"a", action in Action::"call_tool", resource);
@id("a") permit (principal == Agent::"a", action in Action::"call_tool", resource);
@id("f") forbid (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i > 5 };
@id("o") @mode("observe") forbid (principal, action == Action::"s__t", resource) when { context.args has i && context.args.i == 3 };`}},
	}
	_, err := e.Reload(t.Context(), b, audit.Change{By: "alice", Reason: "OPS-1"})
	require.NoError(t, err)
	return e
}

func TestTelemetry(t *testing.T) {
	l := &listener{}
	e := watched(t, l, Options{})
	assert.ElementsMatch(t, []string{"meter " + scopeName, "tracer " + scopeName}, l.heard())
	hash := e.Hash()
	ask := func(r Request) Decision {
		d, _ := e.Decide(t.Context(), r)
		return d
	}
	call := func(args string) Request {
		return Request{Actor: audit.Actor{Agent: "a", Issuer: "session"}, Action: "call_tool", Server: "s", Name: "t", Args: []byte(args), Enforces: []string{"max_bytes"}}
	}
	const resource = `twinward.resource=Tool::"s__t"`

	d := ask(call(`{"i":1}`))
	require.True(t, d.Allowed(), d.Reason)
	assert.Equal(t, []string{
		"twinward.decision.duration s twinward.action=call_tool,twinward.decision.effect=allow,twinward.policy.hash=" + hash,
		"twinward.policy.decisions {decision} 1 twinward.decision.effect=allow,twinward.policy.id=a",
		"twinward.policy.decisions {decision} 1 twinward.decision.effect=allow,twinward.policy.id=b",
		"span decide call_tool gen_ai.agent.id=a,twinward.action=call_tool,twinward.decision.effect=allow,twinward.decision.id=" + d.ID +
			`,twinward.decision.obligations=["max_bytes"],twinward.decision.policies=["a","b"],twinward.policy.hash=` + hash + "," + resource + " internal",
	}, l.heard())

	// A policy that is only observed would have denied.
	d = ask(call(`{"i":3}`))
	require.True(t, d.Allowed(), d.Reason)
	heard := l.heard()
	assert.Equal(t, "twinward.decision.flips {decision} 1 twinward.decision.effect=deny,twinward.decision.source=observed", heard[3])
	assert.Contains(t, heard[4], "; twinward.decision.would twinward.decision.effect=deny,twinward.decision.reason=o,twinward.decision.source=observed,twinward.policy.hash="+hash)

	d = ask(call(`{"i":6}`))
	assert.Equal(t, []string{
		"twinward.decision.duration s twinward.action=call_tool,twinward.decision.cause=policy,twinward.decision.effect=deny,twinward.policy.hash=" + hash,
		"twinward.policy.decisions {decision} 1 twinward.decision.effect=deny,twinward.policy.id=f",
		"span decide call_tool gen_ai.agent.id=a,twinward.action=call_tool,twinward.decision.cause=policy,twinward.decision.effect=deny,twinward.decision.id=" + d.ID +
			`,twinward.decision.policies=["f"],twinward.decision.reason=f,twinward.policy.hash=` + hash + "," + resource + " internal",
	}, l.heard())

	// What a caller makes up is no name of a series, and arguments stay out.
	r := call(`{"i":"very secret"}`)
	ask(r)
	r.Action = "made up"
	ask(r)
	heard = l.heard()
	assert.Contains(t, heard[0], "twinward.decision.cause=arguments")
	assert.Contains(t, heard[2], "twinward.action=_OTHER")
	assert.Contains(t, heard[3], "span decide _OTHER ")
	assert.NotContains(t, strings.Join(heard, "\n"), "secret")

	// Nor is every profile and snapshot one.
	assert.Equal(t, "not-in-profile", causeClass("not-in-profile:standup@0123456789ab"))
	assert.Equal(t, "no-permit", causeClass("no-permit"))

	// Nothing to decide with is an error of the span.
	r = call(`{}`)
	r.Actor = audit.Actor{}
	ask(r)
	heard = l.heard()
	assert.Contains(t, heard[len(heard)-1], "Error no-actor")
}

// Whatever becomes of the telemetry, decisions are made.
func TestTelemetryCannotBeMade(t *testing.T) {
	l := &listener{fail: true}
	e := watched(t, l, Options{})
	d, err := e.Decide(t.Context(), Request{Actor: audit.Actor{Agent: "a", Issuer: "session"}, Action: "call_tool", Server: "s", Name: "t", Enforces: []string{"max_bytes"}})
	require.NoError(t, err)
	assert.True(t, d.Allowed(), d.Reason)
}

// Without providers a decision makes no allocation more.
func TestTelemetryIsFree(t *testing.T) {
	e := NewEngine(audittest.NewLog(t), &Options{Clock: func() time.Time { return time.Unix(1e9, 0) }})
	_, err := e.Reload(t.Context(), office(10), audit.Change{By: "alice", Reason: "OPS-1"})
	require.NoError(t, err)
	r := e.Snapshot().visitors(t, 1)[0].Request
	with := fewestAllocs(func() { _, _ = e.Decide(context.Background(), r) })
	without := fewestAllocs(func() { _, _ = e.answer(context.Background(), r) })
	assert.Equal(t, without, with)
	more := fewestAllocs(func() { _, _ = e.Decide(context.Background(), r); kept = new([64]byte) })
	assert.Equal(t, without+1, more, "one allocation more is not seen: the test shows nothing")
}

var kept *[64]byte // so that it is allocated

// fewestAllocs is how many allocations do makes at least. Pools are emptied now
// and then, by the collector and, under -race, at random; that only adds some.
func fewestAllocs(do func()) float64 {
	fewest := testing.AllocsPerRun(1, do)
	for range 100 {
		fewest = min(fewest, testing.AllocsPerRun(1, do))
	}
	return fewest
}

func BenchmarkTelemetry(b *testing.B) {
	for name, opts := range map[string]*Options{
		"none": {},
		"noop": {TracerProvider: nooptrace.NewTracerProvider(), MeterProvider: noopmetric.NewMeterProvider()},
	} {
		b.Run(name, func(b *testing.B) {
			e := NewEngine(audittest.NewLog(b), opts)
			_, err := e.Reload(b.Context(), office(100), audit.Change{By: "alice", Reason: "OPS-1"})
			require.NoError(b, err)
			r := e.Snapshot().visitors(b, 1)[0].Request
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Decide(context.Background(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
