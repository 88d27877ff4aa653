package argument

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostile are arguments that cost a careless reader seconds or gigabytes.
func hostile() map[string]string {
	var pairs strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&pairs, ",[%d,%d]", i, 1_000_000-i)
	}
	return map[string]string{
		"colliding sets":  `{"is":[` + pairs.String()[1:] + `]}`,
		"10 MB":           `{"s":"` + strings.Repeat("x", 10<<20) + `"}`,
		"100,000 deep":    strings.Repeat(`{"o":`, 100_000),
		"a million keys":  `{` + strings.Repeat(`"k":1,`, 1_000_000) + `"k":1}`,
		"a million nulls": `{"is":[` + strings.Repeat(`null,`, 800_000) + `null]}`,
	}
}

// Arguments of 150 bytes become Cedar values, with and without a schema that
// demands more than types.
func BenchmarkArgs(b *testing.B) {
	const src = `{"repo":"acme/repo0","path":"/src/0/governance/decide.go","count":42,"draft":false,"labels":["bug","urgent","customer"],"more":"nothing of interest here"}`
	const open = `"repo":{"type":"string"},"path":{"type":"string"},"count":{"type":"integer"},"draft":{"type":"boolean"},"labels":{"type":"array","items":{"type":"string"}}`
	const narrow = `"repo":{"type":"string","pattern":"^[a-z0-9]+/[a-z0-9]+$"},"path":{"type":"string","minLength":1,"maxLength":4096},"count":{"type":"integer","minimum":1,"maximum":100},"draft":{"type":"boolean"},"labels":{"type":"array","items":{"type":"string"},"maxItems":10,"uniqueItems":true}`
	for _, c := range []struct {
		name, props string
		derived     map[string]DerivedFrom
	}{
		{"types", open, nil},
		{"rules", narrow, nil},
		{"types and a path", open, map[string]DerivedFrom{"path": {"/path", facetPath}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			at, tp, err := NewType([]byte(`{"type":"object","properties":{`+c.props+`}}`), nil)
			require.NoError(b, err)
			derived, err := tp.Derive(c.derived)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if err := CheckStrict([]byte(src)); err != nil {
					b.Fatal(err)
				}
				if _, err := Convert(at, src, nil); err != nil {
					b.Fatal(err)
				}
				if derived != nil {
					if _, err := Derive(derived, src); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// The goal is 2 ms.
func BenchmarkHostileArgs(b *testing.B) {
	at := typed(b, openSchema, nil)
	for name, src := range hostile() {
		b.Run(name, func(b *testing.B) {
			text := []byte(src)
			b.ReportAllocs()
			for b.Loop() {
				if CheckStrict(text) == nil {
					_, _ = Convert(at, src, nil)
				}
			}
		})
	}
}
