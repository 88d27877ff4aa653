package visible

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                   "",
		"plain – Grüße 你好 🙂": "plain – Grüße 你好 🙂",
		"\x1b[31m":           `\u001b[31m`,
		"a\nb\tc\x7f":        `a\u000ab\u0009c\u007f`,
		"\u0085\u009b":       `\u0085\u009b`,
		"\u2028\u202e\ufeff": `\u2028\u202e\ufeff`,
		"\U000e0041":         `\udb40\udc41`,
	} {
		got := Text(in)
		assert.Equal(t, want, got)
		assert.False(t, strings.ContainsFunc(got, Hidden))
	}
}

func TestJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"b"}`:               `{"a":"b"}`,
		"\"\x7f\u0085\u202e\"":    `"\u007f\u0085\u202e"`,
		`"Grüße 你好 🙂"`:            `"Grüße 你好 🙂"`,
		"\"\U000e0041\"":          `"\udb40\udc41"`,
		"{\"a\":1,\r\t\"b\":\n2}": `{"a":1,  "b": 2}`,
		"[\"é\",\r\"\u202e\"]":    `["é", "\u202e"]`,
	} {
		assert.Equal(t, want, string(JSON([]byte(in))))
		assert.JSONEq(t, in, want)
	}
}
