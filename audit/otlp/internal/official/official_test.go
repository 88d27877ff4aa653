// Package official holds what this repository writes of OTLP against the messages
// that OpenTelemetry publishes.
package official

import (
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/otlp"
)

// ids are where OTLP's JSON differs from that of protocol buffers: hexadecimal.
var ids = regexp.MustCompile(`"(traceId|spanId|parentSpanId)":"([0-9a-f]+)"`)

// parse decodes a message strictly: an unknown field is an error.
func parse(t *testing.T, body []byte, m proto.Message) {
	body = ids.ReplaceAllFunc(body, func(b []byte) []byte {
		p := ids.FindSubmatch(b)
		raw, err := hex.DecodeString(string(p[2]))
		require.NoError(t, err)
		return []byte(`"` + string(p[1]) + `":"` + base64.StdEncoding.EncodeToString(raw) + `"`)
	})
	require.NoError(t, protojson.Unmarshal(body, m), "%s", body)
}

func TestMessagesAreThoseOfOpenTelemetry(t *testing.T) {
	// The requests of the collector's services have the fields of these.
	var gotLogs logs.LogsData
	var gotSpans trace.TracesData
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		switch r.URL.Path {
		case "/v1/logs":
			var m logs.LogsData
			parse(t, body, &m)
			proto.Merge(&gotLogs, &m)
		case "/v1/traces":
			var m trace.TracesData
			parse(t, body, &m)
			proto.Merge(&gotSpans, &m)
		}
	}))
	defer collector.Close()
	e, err := otlp.New(&otlp.Options{Endpoint: collector.URL, Origin: "o", Spans: true})
	require.NoError(t, err)

	log := audittest.NewLog(t)
	call, err := log.Begin(t.Context(), audit.Intent{
		Door: audit.DoorTool, Action: "s__t", Resource: `Tool::"s__t"`, Actor: audit.Actor{Agent: "a"},
		Decision: audit.Decision{ID: "d", Effect: audit.Allow, Policies: []audit.Policy{{ID: "p"}}},
		Trace:    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	})
	require.NoError(t, err)
	require.NoError(t, call.End(t.Context(), audit.Outcome{Status: audit.StatusFailed, Bytes: 1 << 60, Checks: []string{"c"}}))
	require.NoError(t, e.Send(t.Context(), log.Records()))
	require.NoError(t, e.Anchor().Publish(t.Context(), []byte("o\n2\nroot\nbatch 1\n\n")))

	records := gotLogs.ResourceLogs[0].ScopeLogs[0].LogRecords
	require.Len(t, records, 2)
	r := records[0]
	assert.Equal(t, "twinward.audit.intent", r.EventName)
	assert.Equal(t, uint64(log.Records()[0].Time.UnixNano()), r.TimeUnixNano)
	assert.Equal(t, logs.SeverityNumber_SEVERITY_NUMBER_INFO, r.SeverityNumber)
	assert.Len(t, r.TraceId, 16)
	assert.Len(t, r.SpanId, 8)
	assert.Equal(t, uint32(1), r.Flags)
	bytes := int64(0)
	for _, kv := range records[1].Attributes {
		if kv.Key == "twinward.outcome.bytes" {
			bytes = kv.Value.GetIntValue()
		}
	}
	assert.Equal(t, int64(1)<<60, bytes)
	assert.Equal(t, "twinward.audit.checkpoint", gotLogs.ResourceLogs[1].ScopeLogs[0].LogRecords[0].EventName)

	spans := gotSpans.ResourceSpans[0].ScopeSpans[0].Spans
	require.Len(t, spans, 1)
	s := spans[0]
	assert.Equal(t, "tools/call s__t", s.Name)
	assert.Equal(t, trace.Span_SPAN_KIND_SERVER, s.Kind)
	assert.Equal(t, trace.Status_STATUS_CODE_ERROR, s.Status.Code)
	assert.Equal(t, r.TraceId, s.TraceId)
	assert.Equal(t, r.SpanId, s.ParentSpanId)
	assert.Len(t, s.SpanId, 8)
}
