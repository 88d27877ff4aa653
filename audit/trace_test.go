package audit_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/audit"
)

// The cases are those of W3C Trace Context §3.2: version ff and ids of zeros are
// invalid, and of a later version only what version 00 has is read.
func TestParseTrace(t *testing.T) {
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
		got, ok := audit.ParseTrace(s)
		assert.Equal(t, want != "", ok, s)
		assert.Equal(t, want, string(got), s)
		assert.Equal(t, got, audit.TraceOf(http.Header{"Traceparent": {s}}))
		if ok {
			assert.Equal(t, id, got.ID())
			assert.Equal(t, span, got.Span())
			assert.Equal(t, want[54]-'0', got.Flags())
		}
	}
	assert.Empty(t, audit.TraceOf(http.Header{"Traceparent": {good, good}}), "two name none")
	assert.Empty(t, audit.TraceOf(nil))
	for _, broken := range []audit.Trace{"", "00", good + "0"} {
		assert.Empty(t, broken.ID()+broken.Span())
		assert.Zero(t, broken.Flags())
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := audit.ParseTrace(s)
		if again, fine := audit.ParseTrace(string(got)); ok != (got != "") || ok && (!fine || again != got) {
			t.Errorf("%q is %q, %v, and that is %q, %v", s, got, ok, again, fine)
		}
		if ok && !strings.Contains(s, got.ID()+"-"+got.Span()) {
			t.Errorf("%q is %q", s, got)
		}
	})
}
