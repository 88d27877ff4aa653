package audit

import (
	"encoding/hex"
	"net/http"
	"strings"
)

// A Trace is a valid traceparent of version 00 (W3C Trace Context, section 3.2), or
// empty.
type Trace string

// Where the parts of a traceparent lie: 00-<32 digits>-<16 digits>-<2 digits>.
const (
	traceID    = 3
	traceSpan  = 36
	traceFlags = 53
	traceLen   = 55
)

// ParseTrace reads a traceparent, and reports whether it is valid. Of later versions
// it keeps what version 00 has; they may go on after that, and mean something else by
// flags but the first.
func ParseTrace(s string) (Trace, bool) {
	if len(s) < traceLen || s[2] != '-' || s[traceSpan-1] != '-' || s[traceFlags-1] != '-' {
		return "", false
	}
	version, id, span, flags := s[:2], s[traceID:traceSpan-1], s[traceSpan:traceFlags-1], s[traceFlags:traceLen]
	for _, digits := range []string{version, id, span, flags} {
		if strings.Trim(digits, "0123456789abcdef") != "" {
			return "", false
		}
	}
	if version == "ff" || strings.Trim(id, "0") == "" || strings.Trim(span, "0") == "" {
		return "", false
	}
	if len(s) > traceLen && (version == "00" || s[traceLen] != '-') {
		return "", false
	}
	if version == "00" {
		return Trace(s), true
	}
	sampled := "00"
	if strings.ContainsRune("13579bdf", rune(flags[1])) {
		sampled = "01"
	}
	return Trace("00" + s[2:traceFlags] + sampled), true
}

// TraceOf returns the trace that the header traceparent of a request names, or "" if
// that is not valid or not one.
func TraceOf(h http.Header) Trace {
	values := h["Traceparent"]
	if len(values) != 1 {
		return ""
	}
	t, _ := ParseTrace(values[0])
	return t
}

// ID is that of the trace: 32 lower-case hexadecimal digits, or "".
func (t Trace) ID() string { return t.part(traceID, traceSpan-1) }

// Span is the id of the span that called: 16 lower-case hexadecimal digits, or "".
func (t Trace) Span() string { return t.part(traceSpan, traceFlags-1) }

// Flags are those of the trace; 1 means that it is sampled.
func (t Trace) Flags() byte {
	b, err := hex.DecodeString(t.part(traceFlags, traceLen))
	if err != nil || len(b) != 1 {
		return 0
	}
	return b[0]
}

func (t Trace) part(from, to int) string {
	if len(t) != traceLen {
		return ""
	}
	return string(t[from:to])
}
