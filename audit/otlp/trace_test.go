package otlp_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

var start = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)

func begun(seq uint64, trace string) audit.Record {
	return audit.Record{Seq: seq, Time: start, Intent: &audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x"}, Trace: trace}}
}

func ended(seq, call uint64) audit.Record {
	return audit.Record{Seq: seq, Time: start.Add(time.Second), Call: call, Outcome: &audit.Outcome{Status: audit.StatusOK}}
}

// Agents write trace contexts: what is none must not get into ids, whose lengths
// collectors check and refuse whole messages for.
func TestOnlyTraceContextsBecomeIDs(t *testing.T) {
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, text := range []string{
		"", "x", "00", "00--" + span + "-01", "00-" + trace + "--01", "00-" + trace + "-" + span, "00-" + trace + "-" + span + "-",
		"00-" + trace[1:] + "-" + span + "-01", "00-" + trace + "0-" + span + "-01",
		"00-" + trace + "-" + span[1:] + "-01", "00-" + trace + "-" + span + "0-01", "00-" + trace + "-" + span + "-1", "00-" + trace + "-" + span + "-001",
		"00-" + trace + "-" + span + "-01-more", "0-" + trace + "-" + span + "-01", "ff-" + trace + "-" + span + "-01",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01", "00-" + trace + "-" + strings.Repeat("0", 16) + "-01",
		"00-" + strings.ToUpper(trace) + "-" + span + "-01", "00-" + strings.Repeat("g", 32) + "-" + span + "-01", "00-" + trace + "-" + span + "-zz",
		" " + parent, parent + "\n",
	} {
		c := newCollector(t)
		require.NoError(t, exporter(t, c, true, nil).Send(t.Context(), []audit.Record{begun(1, text), ended(2, 1)}), text)
		require.Len(t, c.logs, 2)
		assert.NotContains(t, c.logs[0], "traceId", text)
		assert.NotContains(t, c.logs[0], "spanId", text)
		require.Len(t, c.spans, 1, text)
		assert.Regexp(t, "^[0-9a-f]{32}$", c.spans[0]["traceId"], "a span has a trace of its own then")
		assert.Regexp(t, "^[0-9a-f]{16}$", c.spans[0]["spanId"])
		assert.NotContains(t, c.spans[0], "parentSpanId", text)
	}
	c := newCollector(t)
	require.NoError(t, exporter(t, c, true, nil).Send(t.Context(), []audit.Record{begun(1, parent), ended(2, 1)}))
	assert.Equal(t, trace, c.logs[0]["traceId"])
	assert.Equal(t, span, c.logs[0]["spanId"])
	assert.Equal(t, trace, c.spans[0]["traceId"])
	assert.Equal(t, span, c.spans[0]["parentSpanId"])
}

// A call is remembered until its span was taken, and no longer.
func TestEndedCallsAreForgotten(t *testing.T) {
	c := newCollector(t)
	e := exporter(t, c, true, nil)
	require.NoError(t, e.Send(t.Context(), []audit.Record{begun(1, ""), begun(2, "")}))
	assert.Empty(t, c.spans)

	c.answer = []string{"200 {}", "503 later"} // the logs are taken, the spans are not
	require.Error(t, e.Send(t.Context(), []audit.Record{ended(3, 1)}))
	assert.Empty(t, c.spans)
	require.NoError(t, e.Send(t.Context(), []audit.Record{ended(3, 1)}))
	require.Len(t, c.spans, 1)
	require.NoError(t, e.Send(t.Context(), []audit.Record{ended(3, 1)}), "once more, as after a restart")
	assert.Len(t, c.spans, 1, "its call is forgotten")
	require.NoError(t, e.Send(t.Context(), []audit.Record{ended(4, 2)}))
	assert.Len(t, c.spans, 2)
}

// Calls that never end are remembered up to a limit; the newest have their spans.
func TestOpenCallsAreBounded(t *testing.T) {
	c := newCollector(t)
	e := exporter(t, c, true, nil)
	const most = 4096
	var records []audit.Record
	for seq := uint64(1); seq <= most+10; seq++ {
		records = append(records, begun(seq, ""))
	}
	require.NoError(t, e.Send(t.Context(), records))
	require.NoError(t, e.Send(t.Context(), []audit.Record{ended(5001, 10), ended(5002, 11), ended(5003, most+10)}))
	require.Len(t, c.spans, 2, "the oldest were forgotten")
	assert.NotEqual(t, fmt.Sprint(c.spans[0]["spanId"]), fmt.Sprint(c.spans[1]["spanId"]))
}
