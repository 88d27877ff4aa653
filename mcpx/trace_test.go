package mcpx

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTraceFrom(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	other := strings.ReplaceAll(good, "b7", "c8")
	for s, want := range map[string]string{good: good, "01" + good[2:] + "-later": good, "": "", "ff" + good[2:]: ""} {
		assert.Equal(t, want, traceFrom("", http.Header{"Traceparent": {s}}))
		assert.Equal(t, want, traceFrom(s, nil))
		parsed, ok := parseTrace(s)
		assert.Equal(t, want != "", ok)
		if ok {
			assert.True(t, parsed.IsValid() && parsed.IsRemote())
			assert.Equal(t, want, formatTrace(parsed))
		}
	}
	assert.Equal(t, good, traceFrom(good, http.Header{"Traceparent": {other}}), "_meta comes first")
	assert.Equal(t, other, traceFrom("broken", http.Header{"Traceparent": {other}}))
	assert.Empty(t, traceFrom("", http.Header{"Traceparent": {good, good}}), "two name none")
}
