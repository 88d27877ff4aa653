package mcpx_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"runtime"
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

	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A spans provider keeps spans and measurements as text.
type spans struct {
	nooptrace.TracerProvider
	mu   sync.Mutex
	n    uint64
	said []string
}

func (p *spans) Tracer(string, ...oteltrace.TracerOption) oteltrace.Tracer { return tracer{of: p} }

func (p *spans) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.said
	p.said = nil
	return out
}

func (p *spans) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

type tracer struct {
	nooptrace.Tracer
	of *spans
}

type span struct {
	nooptrace.Span
	of     *spans
	kind   string
	name   string
	id     oteltrace.SpanContext
	parent oteltrace.SpanContext
	attrs  []attribute.KeyValue
	status string
}

func (t tracer) Start(ctx context.Context, name string, opts ...oteltrace.SpanStartOption) (context.Context, oteltrace.Span) {
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
	s := &span{of: t.of, kind: c.SpanKind().String(), name: name, parent: parent,
		id: oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: trace, SpanID: id, TraceFlags: oteltrace.FlagsSampled})}
	return oteltrace.ContextWithSpan(ctx, s), s
}

func (s *span) SpanContext() oteltrace.SpanContext         { return s.id }
func (s *span) SetName(name string)                        { s.name = name }
func (s *span) SetAttributes(kv ...attribute.KeyValue)     { s.attrs = append(s.attrs, kv...) }
func (s *span) SetStatus(c codes.Code, description string) { s.status = c.String() + " " + description }
func (s *span) End(...oteltrace.SpanEndOption) {
	s.of.say("%s %q of %s under %s: %s %s", s.kind, s.name, s.id.TraceID(), s.parent.SpanID(), encoded(s.attrs), s.status)
}

func encoded(kv []attribute.KeyValue) string {
	set := attribute.NewSet(kv...)
	return set.Encoded(attribute.DefaultEncoder())
}

type meters struct {
	noopmetric.MeterProvider
	of *spans
}

func (m meters) Meter(string, ...metric.MeterOption) metric.Meter { return meter{of: m.of} }

type meter struct {
	noopmetric.Meter
	of *spans
}

func (m meter) Float64Histogram(name string, opts ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return histogram{name: name, unit: metric.NewFloat64HistogramConfig(opts...).Unit(), of: m.of}, nil
}

type histogram struct {
	noopmetric.Float64Histogram
	name, unit string
	of         *spans
}

func (h histogram) Record(ctx context.Context, _ float64, opts ...metric.RecordOption) {
	set := metric.NewRecordConfig(opts).Attributes()
	if ctx.Err() != nil {
		return // as an exporter may
	}
	h.of.say("%s %s: %s", h.name, h.unit, set.Encoded(attribute.DefaultEncoder()))
}

// Both carriers report alike, by the conventions, and hand the trace on.
func TestTelemetry(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for _, carrier := range []string{"fast", "sdk"} {
		t.Run(carrier, func(t *testing.T) {
			p := &spans{}
			w := newWorld(t, &setup{options: func(o *mcpx.GatewayOptions) {
				o.TracerProvider, o.MeterProvider = p, meters{of: p}
			}})
			if carrier == "sdk" {
				mcpx.SlowOnly(w.gateway)
			}
			url := mcptest.Door(t, w.gateway, bot).URL
			fire(t, url, modernCall("slack__post_message", goodArgs))
			n := w.mark()
			p.heard()
			s := modernCall("slack__post_message", goodArgs)
			s.body = strings.Replace(s.body, `"_meta":{`, `"_meta":{"traceparent":"00-`+trace+`-b7ad6b7169203331-01",`, 1)
			fire(t, url, s)
			assert.Equal(t, []string{
				`mcp.client.operation.duration s: gen_ai.operation.name=execute_tool,gen_ai.tool.name=slack__post_message,mcp.method.name=tools/call,twinward.server=slack`,
				`client "tools/call slack__post_message" of ` + trace + ` under 0000000000000003: gen_ai.agent.id=bot,gen_ai.operation.name=execute_tool,gen_ai.tool.name=slack__post_message,mcp.method.name=tools/call,twinward.server=slack `,
				`mcp.server.operation.duration s: gen_ai.operation.name=execute_tool,gen_ai.tool.name=slack__post_message,mcp.method.name=tools/call,mcp.protocol.version=2026-07-28`,
				`server "tools/call slack__post_message" of ` + trace + ` under b7ad6b7169203331: gen_ai.agent.id=bot,gen_ai.operation.name=execute_tool,gen_ai.tool.name=slack__post_message,mcp.method.name=tools/call,mcp.protocol.version=2026-07-28 `,
			}, p.heard())
			assert.Contains(t, string(w.slack.Seen()), `"traceparent":"00-`+trace+`-0000000000000004-01"`, "the upstream is told of the client span")
			assert.Equal(t, "00-"+trace+"-0000000000000003-01", w.since(n)[0].Intent.Trace, "and the record has the server span")

			// A denial is an error of the tool, and says no more than the agent is told.
			fire(t, url, modernCall("slack__post_message", `{"channel":"#executive","text":"x"}`))
			heard := p.heard()
			require.Len(t, heard, 2)
			assert.Contains(t, heard[1], "error.type=tool_error")
			assert.Contains(t, heard[1], "twinward.denial.reason=policy")
			assert.Contains(t, heard[1], "Error policy")
			assert.NotContains(t, strings.Join(heard, "\n"), "executive")
			// Names that agents make up are in no name of a span and no measurement.
			fire(t, url, modernCall("snowflake__query", `{}`))
			heard = p.heard()
			require.Len(t, heard, 2)
			assert.NotContains(t, strings.Join(heard, "\n"), "snowflake")
		})
	}
}

// What a client does not wait for is measured, too.
func TestTelemetryOfCallsThatAreLeft(t *testing.T) {
	for _, slow := range []bool{false, true} {
		p := &spans{}
		w := newWorld(t, nil)
		s := newScript(t, w.servers["slack"], modern)
		ctx, leave := context.WithCancel(t.Context())
		s.answer = func(_ http.ResponseWriter, r *http.Request, _ scripted) {
			leave()
			<-r.Context().Done()
		}
		gw := mcpx.NewGateway(w.engine, w.log, &mcpx.GatewayOptions{MeterProvider: meters{of: p}})
		t.Cleanup(func() { gw.Close() })
		if slow {
			mcpx.SlowOnly(gw)
		}
		require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", s.URL)))
		_, err := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil).Call(ctx, "slack__post_message", goodArgs)
		require.ErrorIs(t, err, context.Canceled)
		var heard []string
		for len(heard) < 2 {
			for _, line := range p.heard() {
				if strings.Contains(line, "tools/call") {
					heard = append(heard, line)
				}
			}
			runtime.Gosched()
		}
		assert.Contains(t, heard[0], "mcp.client.operation.duration")
		assert.Contains(t, heard[1], "mcp.server.operation.duration")
	}
}
