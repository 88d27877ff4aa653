package governance_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

func define(t *testing.T, text string) governance.ToolDefinition {
	var d governance.ToolDefinition
	require.NoError(t, json.Unmarshal([]byte(text), &d))
	return d
}

func TestDifferences(t *testing.T) {
	d := define(t, `{"name":"post","description":"Posts.","inputSchema":{"type":"object","properties":{"to":{"type":"string"},"n":{"enum":[1,2]}},"required":["to"]},"annotations":{}}`)
	assert.Empty(t, d.Differences(define(t, `{"name":"post","annotations":{ },"description":"Po\u0073ts.","inputSchema":{"required":["to"],"type":"object","properties":{"n":{"enum":[1.0,2]},"to":{"type":"string"}}}}`)))
	other := define(t, `{"name":"post","title":"x","description":"Posts.\u200b","inputSchema":{"type":"object","properties":{"to":{"type":["string","null"]},"n":{"enum":[1]},"a/b":{}},"required":[]},"outputSchema":{"type":"object"}}`)
	assert.Equal(t, []governance.Difference{
		{At: "/annotations", Old: "{}"},
		{At: "/description", Old: `"Posts."`, New: `"Posts.\u200b"`},
		{At: "/inputSchema/properties/a~1b", New: "{}"},
		{At: "/inputSchema/properties/n/enum/1", Old: "2"},
		{At: "/inputSchema/properties/to/type", Old: `"string"`},
		{At: "/inputSchema/properties/to/type/0", New: `"string"`},
		{At: "/inputSchema/properties/to/type/1", New: `"null"`},
		{At: "/inputSchema/required", New: "[]"},
		{At: "/inputSchema/required/0", Old: `"to"`},
		{At: "/outputSchema/type", New: `"object"`},
		{At: "/title", New: `"x"`},
	}, d.Differences(other))
	broken := d
	broken.InputSchema = json.RawMessage(`{"a":1,"a":2}`)
	assert.NotEmpty(t, d.Differences(broken))
	assert.Empty(t, broken.Differences(broken))
}

func TestHidden(t *testing.T) {
	for text, want := range map[string][]string{
		`{"name":"x","description":"fine, with an emoji 👩‍💻","inputSchema":{"type":"object"}}`:                         nil,
		"{\"name\":\"x\",\"description\":\"a\U000e0041b\",\"inputSchema\":{}}":                                         {"/description: U+E0041"},
		`{"name":"x","inputSchema":{"properties":{"a":{"title":"\u202ex","enum":["y","\u200b"],"default":"\ufeff"}}}}`: {"/inputSchema/properties/a/default: U+FEFF", "/inputSchema/properties/a/enum/1: U+200B", "/inputSchema/properties/a/title: U+202E"},
		`{"name":"x","inputSchema":{"properties":{"a\u200b":{}}}}`:                                                     {`/inputSchema/properties/a\u200b: U+200B`},
		`{"name":"x","inputSchema":{},"outputSchema":{"x":"\u2066"},"annotations":{"title":"\u00ad"}}`:                 {"/annotations/title: U+00AD", "/outputSchema/x: U+2066"},
		`{"name":"x","inputSchema":{"x":"\\u200b"}}`:                                                                   nil,
	} {
		assert.Equal(t, want, define(t, text).Hidden(), text)
	}
	assert.Equal(t, `a\udb40\udc41\u200bb`, governance.EscapeHidden("a\U000e0041\u200bb"))
}

// Two definitions differ exactly if their pins do.
func FuzzDifferences(f *testing.F) {
	f.Add(`{"name":"x","inputSchema":{"a":1}}`, `{"name":"x","inputSchema":{"a":1.0}}`)
	f.Add(`{"name":"x","inputSchema":{"a":[{}]}}`, `{"name":"x","inputSchema":{"a":[[]]}}`)
	f.Add(`{"name":"x","inputSchema":{"":{}}}`, `{"name":"x","inputSchema":{"/":{}}}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		var x, y governance.ToolDefinition
		if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
			return
		}
		px, err1 := x.Pin()
		py, err2 := y.Pin()
		x.Hidden()
		if err1 != nil || err2 != nil {
			return
		}
		require.Equal(t, px == py, len(x.Differences(y)) == 0, "%s\n%s", a, b)
		require.Len(t, y.Differences(x), len(x.Differences(y)))
	})
}
