package mcpx

import (
	"encoding/hex"
	"net/http"
	"strings"

	oteltrace "go.opentelemetry.io/otel/trace"
)

// The trace of a request is what W3C Trace Context calls a traceparent: in _meta,
// where MCP has it, or else in the header of that name. What goes on of it, and on
// record, is of version 00, which is all that is known of later ones.

const (
	traceLen  = 55 // of version 00: 00-<32 digits>-<16 digits>-<2 digits>
	traceID   = 3  // where the trace's id begins
	traceSpan = 36 // and the span's
	traceFlag = 53
)

// traceFrom returns the trace of a request, "" if it has none that is valid.
func traceFrom(meta string, header http.Header) string {
	if trace, ok := readTrace(meta); ok {
		return trace
	}
	if values := header["Traceparent"]; len(values) == 1 { // two of them name none
		if trace, ok := readTrace(values[0]); ok {
			return trace
		}
	}
	return ""
}

// readTrace reads a traceparent, and returns it in version 00. Later versions may
// go on after what this one has, and mean something else by flags but the first.
func readTrace(s string) (string, bool) {
	if len(s) < traceLen || s[2] != '-' || s[traceSpan-1] != '-' || s[traceFlag-1] != '-' {
		return "", false
	}
	version, id, span, flags := s[:2], s[traceID:traceSpan-1], s[traceSpan:traceFlag-1], s[traceFlag:traceLen]
	for _, digits := range []string{version, id, span, flags} {
		if strings.Trim(digits, "0123456789abcdef") != "" {
			return "", false
		}
	}
	if version == "ff" || strings.Trim(id, "0") == "" || strings.Trim(span, "0") == "" {
		return "", false
	}
	if version == "00" {
		return s, len(s) == traceLen
	}
	if len(s) > traceLen && s[traceLen] != '-' {
		return "", false
	}
	sampled := "00"
	if strings.ContainsRune("13579bdf", rune(flags[1])) {
		sampled = "01"
	}
	return "00" + s[2:traceFlag] + sampled, true
}

// parseTrace is the context of a remote span that a trace of readTrace names.
func parseTrace(s string) (oteltrace.SpanContext, bool) {
	if len(s) != traceLen {
		return oteltrace.SpanContext{}, false
	}
	trace, err1 := oteltrace.TraceIDFromHex(s[traceID : traceSpan-1])
	span, err2 := oteltrace.SpanIDFromHex(s[traceSpan : traceFlag-1])
	flags, err3 := hex.DecodeString(s[traceFlag:])
	if err1 != nil || err2 != nil || err3 != nil {
		return oteltrace.SpanContext{}, false
	}
	return oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: trace, SpanID: span, TraceFlags: oteltrace.TraceFlags(flags[0]), Remote: true,
	}), true
}

// formatTrace writes a traceparent, or "" if there is no span.
func formatTrace(c oteltrace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}
