package mcpx

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The cases are those of W3C Trace Context §3.2: version ff and ids of zeros are
// invalid, and of a later version only what version 00 has is read.
func TestTraceIsValid(t *testing.T) {
	const (
		id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		good     = "00-" + id + "-" + span + "-01"
	)
	for s, want := range map[string]string{
		good:                                             good,
		"00-" + id + "-" + span + "-00":                  "00-" + id + "-" + span + "-00",
		"01-" + id + "-" + span + "-01":                  good,
		"fe-" + id + "-" + span + "-ff":                  good,
		"cc-" + id + "-" + span + "-02":                  "00-" + id + "-" + span + "-00",
		"cc-" + id + "-" + span + "-01-what-comes-later": good,
		"cc-" + id + "-" + span + "-01-":                 good,

		"":                               "",
		"cc-" + id + "-" + span + "-01x": "",
		good + "-later":                  "",
		good + " ":                       "",
		"ff-" + id + "-" + span + "-01":  "",
		"FE-" + id + "-" + span + "-01":  "",
		"0--" + id + "-" + span + "-01":  "",
		strings.ToUpper(good):            "",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01": "",
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":   "",
		"00-" + id[1:] + "--" + span[1:] + "-01":             "",
		"00-" + id + "-" + span + "--1":                      "",
		"00-" + id + "-" + span[1:] + "g-01":                 "",
		"00-" + id + "_" + span + "-01":                      "",
		"00-" + id + "-" + span + "-0":                       "",
	} {
		got, ok := readTrace(s)
		assert.Equal(t, want != "", ok, s)
		if ok {
			assert.Equal(t, want, got)
			parsed, ok := parseTrace(got)
			assert.True(t, ok && parsed.IsValid() && parsed.IsRemote())
			assert.Equal(t, got, formatTrace(parsed))
		}
		assert.Equal(t, want, traceFrom("", http.Header{"Traceparent": {s}}))
		assert.Equal(t, want, traceFrom(s, nil))
	}
	other := strings.ReplaceAll(good, "b7", "c8")
	assert.Equal(t, good, traceFrom(good, http.Header{"Traceparent": {other}}), "_meta comes first")
	assert.Equal(t, other, traceFrom("broken", http.Header{"Traceparent": {other}}))
	assert.Empty(t, traceFrom("", http.Header{"Traceparent": {good, good}}), "two name none")
}
