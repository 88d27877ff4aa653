package governance_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

func TestRedaction(t *testing.T) {
	const R = `"[redacted]"`
	for _, c := range []struct{ paths, doc, want string }{
		{`$.a`, `{"a":1,"b":{"a":2}}`, `{"a":` + R + `,"b":{"a":2}}`},
		{`$..a`, `{"a":{"a":1},"b":[{"a":2},[{"a":3}]],"c":"a"}`, `{"a":` + R + `,"b":[{"a":` + R + `},[{"a":` + R + `}]],"c":"a"}`},
		{`$.b[*].a`, `{"b":[{"a":1,"c":2},{"a":[3]},4,{"x":{"a":5}}]}`, `{"b":[{"a":` + R + `,"c":2},{"a":` + R + `},4,{"x":{"a":5}}]}`},
		{`$.b.*`, `{"b":{"x":1,"y":{}},"c":1}`, `{"b":{"x":` + R + `,"y":` + R + `},"c":1}`},
		{`$..b.c`, `{"b":{"b":{"c":1},"c":2},"c":3}`, `{"b":{"b":{"c":` + R + `},"c":` + R + `},"c":3}`},
		{`$..[*].s`, `[{"s":1},{"t":{"s":2}}]`, `[{"s":` + R + `},{"t":{"s":` + R + `}}]`},
		{`$[*]`, `[1,"two",[3]]`, `[` + R + `,` + R + `,` + R + `]`},
		{`$['odd name'],$["it's"], $['a\'b']`, `{"odd name":1,"it's":2,"a'b":3,"d":4}`, `{"odd name":` + R + `,"it's":` + R + `,"a'b":` + R + `,"d":4}`},
		{`$.größe`, `{"größe":1}`, `{"größe":` + R + `}`},
		{`$.a`, `{"\u0061":1}`, `{"\u0061":` + R + `}`},                       // an escaped name is that name
		{`$.a`, `{"a":1,"b":2,"a":3}`, `{"a":` + R + `,"b":2,"a":` + R + `}`}, // whichever the reader takes
		{`$.a`, `{"A":1}`, `{"A":1}`}, // names are compared exactly
		{`$['0']`, `["x"]`, `["x"]`},  // a name is no index
		{`$.a`, `1.50e400`, `1.50e400`},
		{`$.a`, ` [ 12345678901234567890.10 , "\u00e4" ] `, `[12345678901234567890.10,"\u00e4"]`}, // nothing else changes
	} {
		r, err := governance.ParseRedaction(c.paths)
		require.NoError(t, err, c.paths)
		got, n, err := r.Apply([]byte(c.doc))
		require.NoError(t, err, c.paths)
		assert.Equal(t, c.want, string(got), c.paths)
		assert.Equal(t, strings.Count(c.want, R), n, c.paths)
	}
	// What cannot be read is not answered at all.
	r, err := governance.ParseRedaction("$..a")
	require.NoError(t, err)
	for _, doc := range []string{``, `{`, `{"a":1}{"a":2}`, `{"a":1} x`, "not json", "{\"b\":\"\xff\"}", `[1,`, `{"a"}`, `{"b":[}`, strings.Repeat("[", 1_000_000)} {
		out, n, err := r.Apply([]byte(doc))
		assert.Error(t, err, "%.20s", doc)
		assert.Empty(t, out)
		assert.Zero(t, n)
	}
	out, n, err := governance.Redaction{}.Apply([]byte("anything"))
	require.NoError(t, err)
	assert.Equal(t, "anything", string(out))
	assert.Zero(t, n)
}

func TestParseRedactionRefuses(t *testing.T) {
	for _, text := range []string{
		"", " ", "a", "/a/b", "$", "$.", "$..", "$.a.", "$.a,", "$.a $.b", "$.a,,$.b", "$.1a", "$.a-b", "$[0]", "$[-1]", "$[1:2]", "$[?@.a]",
		"$['a','b']", "$['a'", "$['a", "$['a\\x']", "$[a]", "$[]", "$.a[", "@.a", "$.a b", "$" + strings.Repeat(".a", 17),
		strings.Repeat("$.a,", 300) + "$.a", "$['a\nb']",
	} {
		_, err := governance.ParseRedaction(text)
		assert.Error(t, err, "%.30q", text)
	}
}

// Nothing that a path names is left, and nothing else is lost.
func FuzzRedaction(f *testing.F) {
	f.Add("$.a, $..b[*]", `{"a":1,"b":[2,{"b":[3]}],"c":{"d":null}}`)
	f.Add("$['a b'],$..*", `{"a b":{}}`)
	f.Add("$[*].x", `[{"x":1},2]`)
	f.Fuzz(func(t *testing.T, paths, doc string) {
		r, err := governance.ParseRedaction(paths)
		if err != nil {
			return
		}
		again, err := governance.ParseRedaction(r.String())
		require.NoError(t, err, "its own text")
		assert.Equal(t, r.String(), again.String())
		out, n, err := r.Apply([]byte(doc))
		if err != nil {
			return
		}
		require.True(t, json.Valid(out), "%q", out)
		twice, m, err := r.Apply(out)
		require.NoError(t, err)
		assert.Equal(t, string(out), string(twice))
		assert.Equal(t, n, m, "every place that was blanked is still there, and no other")
	})
}
