package mcpx

import (
	"net/http"

	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/twinward-dev/twinward/audit"
)

// traceFrom returns the trace of a request, "" if it has none that is valid: what W3C
// Trace Context calls a traceparent, in _meta, where MCP has it, or else in the header
// of that name.
func traceFrom(meta string, header http.Header) string {
	if trace, ok := audit.ParseTrace(meta); ok {
		return string(trace)
	}
	return string(audit.TraceOf(header)) // two of them name none
}

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

// formatTrace writes a traceparent, or "" if there is no span.
func formatTrace(c oteltrace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}
