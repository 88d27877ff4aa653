package otlp

import (
	"strconv"
	"time"
)

// The messages of OTLP 1.x that are sent, in its JSON encoding: names in
// lowerCamelCase, 64-bit numbers as strings, trace and span ids in hexadecimal.

type logsData struct {
	ResourceLogs []resourceLogs `json:"resourceLogs"`
}

type resourceLogs struct {
	Resource  resource    `json:"resource"`
	ScopeLogs []scopeLogs `json:"scopeLogs"`
}

type scopeLogs struct {
	Scope   scope       `json:"scope"`
	Records []logRecord `json:"logRecords"`
}

type tracesData struct {
	ResourceSpans []resourceSpans `json:"resourceSpans"`
}

type resourceSpans struct {
	Resource   resource     `json:"resource"`
	ScopeSpans []scopeSpans `json:"scopeSpans"`
}

type scopeSpans struct {
	Scope scope  `json:"scope"`
	Spans []span `json:"spans"`
}

type resource struct {
	Attributes attributes `json:"attributes"`
}

type scope struct {
	Name string `json:"name"`
}

type logRecord struct {
	Time         nanos      `json:"timeUnixNano"`
	Observed     nanos      `json:"observedTimeUnixNano"`
	Severity     severity   `json:"severityNumber"`
	SeverityText string     `json:"severityText"`
	EventName    string     `json:"eventName"`
	Body         value      `json:"body"`
	Attributes   attributes `json:"attributes"`
	Flags        uint32     `json:"flags,omitempty"`
	TraceID      string     `json:"traceId,omitempty"`
	SpanID       string     `json:"spanId,omitempty"`
}

type span struct {
	TraceID      string     `json:"traceId"`
	SpanID       string     `json:"spanId"`
	ParentSpanID string     `json:"parentSpanId,omitempty"`
	Flags        uint32     `json:"flags,omitempty"`
	Name         string     `json:"name"`
	Kind         int        `json:"kind"`
	Start        nanos      `json:"startTimeUnixNano"`
	End          nanos      `json:"endTimeUnixNano"`
	Attributes   attributes `json:"attributes"`
	Status       status     `json:"status"`
}

type status struct {
	Code int `json:"code,omitempty"`
}

const (
	kindInternal = 1
	kindServer   = 2
	kindClient   = 3
	statusError  = 2
)

type severity int

const (
	info severity = 9
	warn severity = 13
	bad  severity = 17
)

func (s severity) String() string {
	return map[severity]string{info: "INFO", warn: "WARN", bad: "ERROR"}[s]
}

// nanos is a time as OTLP has it. Times before 1970 are unknown.
type nanos time.Time

func (n nanos) MarshalText() ([]byte, error) {
	return strconv.AppendInt(nil, max(time.Time(n).UnixNano(), 0), 10), nil
}

type attributes []keyValue

type keyValue struct {
	Key   string `json:"key"`
	Value value  `json:"value"`
}

type value struct {
	String *string `json:"stringValue,omitempty"`
	Int    *int64  `json:"intValue,string,omitempty"`
	Array  *array  `json:"arrayValue,omitempty"`
}

type array struct {
	Values []value `json:"values"`
}

func text(s string) value { return value{String: &s} }

// str adds a text, unless it is empty.
func (a *attributes) str(key, s string) {
	if s != "" {
		*a = append(*a, keyValue{key, text(s)})
	}
}

// num adds a number, unless it is 0.
func (a *attributes) num(key string, n int64) {
	if n != 0 {
		*a = append(*a, keyValue{key, value{Int: &n}})
	}
}

// list adds texts, unless there are none.
func (a *attributes) list(key string, texts []string) {
	if len(texts) == 0 {
		return
	}
	v := array{}
	for _, s := range texts {
		v.Values = append(v.Values, text(s))
	}
	*a = append(*a, keyValue{key, value{Array: &v}})
}
