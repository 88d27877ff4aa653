package examples

import (
	"bytes"
	"flag"
	"go/ast"
	"go/build"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var updateAPI = flag.Bool("update-api", false, "write down the exported API as it is now")

// apiDir holds the exported API of each package that others can import, one
// file a package, as Go on linux/amd64 sees it.
const apiDir = "../.ci/api"

// The exported API is written down, so that no change of it goes unseen: a
// change that is meant is recorded with
//
//	go test ./examples -run TestExportedAPI -update-api
func TestExportedAPI(t *testing.T) {
	recorded := map[string]bool{}
	for _, p := range goList(t, "./...") {
		dir := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasPrefix(dir, "examples") || slices.Contains(strings.Split(dir, "/"), "internal") {
			continue
		}
		api := exported(t, filepath.Join("..", filepath.FromSlash(dir)))
		if api == "" {
			continue // a command
		}
		name := strings.ReplaceAll(dir, "/", ".") + ".txt"
		recorded[name] = true
		file := filepath.Join(apiDir, name)
		if *updateAPI {
			require.NoError(t, os.MkdirAll(apiDir, 0o755))
			require.NoError(t, os.WriteFile(file, []byte(api), 0o644))
			continue
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err, "a package that is not recorded: run this test with -update-api")
		assert.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), api,
			"the exported API of %s is not the recorded one: if that is meant, run this test with -update-api and commit", dir)
	}
	files, err := os.ReadDir(apiDir)
	require.NoError(t, err)
	for _, f := range files {
		if !recorded[f.Name()] && *updateAPI {
			require.NoError(t, os.Remove(filepath.Join(apiDir, f.Name())))
		} else {
			assert.True(t, recorded[f.Name()], "%s is of a package that is gone", f.Name())
		}
	}
}

// exported returns the exported declarations of a package without bodies and
// comments, in the order of their names; "" for a command.
func exported(t *testing.T, dir string) string {
	t.Helper()
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", "amd64", false
	p, err := ctx.ImportDir(dir, 0)
	require.NoError(t, err)
	if p.Name == "main" {
		return ""
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	d, err := doc.NewFromFiles(fset, files, p.ImportPath)
	require.NoError(t, err)
	var out bytes.Buffer
	out.WriteString("package " + p.Name + "\n")
	decl := func(n ast.Node) {
		out.WriteByte('\n')
		require.NoError(t, format.Node(&out, fset, n))
		out.WriteByte('\n')
	}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			decl(v.Decl)
		}
	}
	funcs := func(fs []*doc.Func) {
		for _, f := range fs {
			f.Decl.Body, f.Decl.Doc = nil, nil
			decl(f.Decl)
		}
	}
	values(d.Consts)
	values(d.Vars)
	funcs(d.Funcs)
	for _, typ := range d.Types {
		decl(typ.Decl)
		values(typ.Consts)
		values(typ.Vars)
		funcs(typ.Funcs)
		funcs(typ.Methods)
	}
	return out.String()
}
