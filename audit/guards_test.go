package audit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every constant that is named like a guard is one, and no two are the same.
func TestGuards(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	values := map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Guard") && !strings.HasPrefix(spec.Names[0].Name, "Reason") {
				return true
			}
			lit, ok := spec.Values[0].(*ast.BasicLit)
			require.True(t, ok, spec.Names[0].Name)
			value, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			assert.True(t, IsGuard(value), spec.Names[0].Name)
			assert.Empty(t, values[value], "%s has the value of another", spec.Names[0].Name)
			values[value] = spec.Names[0].Name
			return true
		})
	}
	assert.Len(t, values, len(guards))
	for _, reason := range []string{"not-in-profile:standup@0123456789ab", "profile:standup:tools"} {
		assert.True(t, IsGuard(reason), reason)
	}
	for _, id := range []string{"", "standup-in-engineering", "revoke", "no-permits", "profiles"} {
		assert.False(t, IsGuard(id), id)
	}
}
