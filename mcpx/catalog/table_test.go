package catalog_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx/catalog"
)

var update = flag.Bool("update", false, "write the table of connectors into doc.go")

// The package's page lists the connectors as they are: run this test with
// -update after changing one.
func TestTable(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "//\t%-24s %-10s %-5s %4s/%3s/%3s  %-24s %s\n", "id", "status", "over", "r", "w", "d", "auth", "args")
	for _, c := range all(t) {
		status, auth := "verified", c.Auth[0].Type
		if c.Status == catalog.Unverified {
			status = "unverified"
		}
		n := func(class governance.Class) string {
			if len(c.Tools) == 0 {
				return "-"
			}
			return fmt.Sprint(len(c.Tools[class]))
		}
		row := fmt.Sprintf("//\t%-24s %-10s %-5s %4s/%3s/%3s  %-24s %s", c.ID, status, c.Transport,
			n(governance.Read), n(governance.Write), n(governance.Destructive), auth, strings.Join(c.Parameters(), " "))
		b.WriteString(strings.TrimRight(row, " ") + "\n")
	}
	text, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	head, _, ok := strings.Cut(string(text), "Values fills.\n//\n")
	require.True(t, ok)
	want := head + "Values fills.\n//\n" + b.String() + "package catalog\n"
	if *update {
		require.NoError(t, os.WriteFile("doc.go", []byte(want), 0o644))
		return
	}
	assert.True(t, want == string(text), "run go test -run TestTable -update ./mcpx/catalog")
}
