package attack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rows are those of the corpus: each is played, or a test elsewhere holds it.
const rows = `P1 P2 P3 P4 P5 P6 D1 D2 D3 D4 S1 S2 S3 S4 A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 H1 H2 H3 H4
	M1 M2 M3 M4 M5 M6 R1 R2 X1 X2 X3 N1 N2 N3 C1 C2 L1 L2 L3 F1 F2`

func TestEveryRowIsHeld(t *testing.T) {
	held, names := map[string]bool{}, map[string]bool{}
	for _, c := range Corpus() {
		held[c.ID] = true
		key := c.ID + " " + c.Name
		assert.False(t, names[key], "two cases are called %q", key)
		names[key] = true
	}
	for _, e := range Elsewhere {
		held[e.ID] = true
		files, err := filepath.Glob(filepath.Join("../../..", e.Package, "*_test.go"))
		require.NoError(t, err)
		found := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			found = found || strings.Contains(string(b), "\nfunc "+e.Test+"(")
		}
		assert.True(t, found, "%s: there is no %s in %s", e.ID, e.Test, e.Package)
	}
	for _, id := range strings.Fields(rows) {
		assert.True(t, held[id], id)
		delete(held, id)
	}
	assert.Empty(t, held)
}

// The recorder reads as the most lenient parser would.
func TestForbidden(t *testing.T) {
	for body, want := range map[string]bool{
		`{"method":"tools/call","params":{"name":"post","arguments":{"channel":"#engineering"}}}`:                        false,
		`{"method":"tools/call","params":{"name":"post","arguments":{"channel":"#executive","channel":"#engineering"}}}`: true,
		`{"method":"tools/call","params":{"name":"post","arguments":{"channel":"#engineering","CHANNEL":"#executive"}}}`: true,
		`{"method":"tools/call","params":{"name":"post","arguments":{"channel":["#engineering"]}}}`:                      true,
		`{"method":"tools/call","params":{"name":"post","arguments":{}}}`:                                                true,
		`{"method":"tools/call","params":{"name":"erase","name":"read"}}`:                                                true,
		`{"method":"tools/call","params":{"name":"erase"},"params":{"name":"read"}}`:                                     true,
		`{"method":"tools/call","params":{"name":"pay","arguments":{"amount":1000}}}`:                                    false,
		`{"method":"tools/call","params":{"name":"pay","arguments":{"amount":1e3}}}`:                                     false,
		`{"method":"tools/call","params":{"name":"pay","arguments":{"amount":1001}}}`:                                    true,
		`{"method":"tools/call","params":{"name":"pay","arguments":{"amount":"5"}}}`:                                     true,
		`{"method":"tools/call","params":{"name":"pay","arguments":{"amount":1e999999999}}}`:                             true,
		`{"method":"tools/call","params":{"name":"read"}}{`:                                                              true,
	} {
		assert.Equal(t, want, Call{Tool: word(last(readings(last(readings([]byte(body))["params"]))["name"])), Body: []byte(body)}.Forbidden() != "", body)
	}
}

func TestSameJSON(t *testing.T) {
	assert.True(t, sameJSON([]byte(`{"a":1.0,"b":"\u0041"}`), []byte(` {"b":"A", "a":1.0}`)))
	for _, other := range []string{`{"a":1,"b":"A"}`, `{"a":1.0}`, `{"a":1.0,"b":"A","b":"A"}`, `x`} {
		assert.False(t, sameJSON([]byte(`{"a":1.0,"b":"A"}`), []byte(other)), other)
	}
}
