// Package examples holds the rules about the whole tree: which package may
// import which, what lies at the top level, how much a user links.
package examples

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/twinward-dev/twinward"

// floors numbers the top-level folders. A package imports only lower floors and
// its own folder.
var floors = map[string]int{
	"audit":      1,
	"governance": 2, "credential": 2,
	"sandbox": 3, "mcpx": 3, "inference": 3,
	"examples": 4,
}

// allowed are the modules that a folder may import besides the standard library
// and the OpenTelemetry API. Tests may use testify as well.
var allowed = map[string][]string{
	"audit":      {"golang.org/x/mod", "github.com/jackc/pgx/v5"},
	"governance": {"github.com/cedar-policy/cedar-go", "github.com/google/jsonschema-go", "golang.org/x/mod", "github.com/jackc/pgx/v5", "golang.org/x/text", "github.com/go-json-experiment/json", "github.com/goccy/go-yaml"},
	"credential": {"golang.org/x/oauth2", "filippo.io/age", "github.com/zalando/go-keyring", "github.com/go-jose/go-jose/v4", "github.com/go-json-experiment/json", "github.com/jackc/pgx/v5"},
	"sandbox":    {"golang.org/x/sys", "golang.org/x/net", "github.com/goccy/go-yaml"},
	"mcpx":       {"github.com/modelcontextprotocol/go-sdk", "github.com/goccy/go-yaml", "github.com/go-json-experiment/json", "github.com/google/jsonschema-go", "github.com/yosida95/uritemplate/v3"},
	"inference":  {"github.com/go-json-experiment/json", "github.com/jackc/pgx/v5"},
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
	Module       *struct{ Path string }
}

func goList(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,Standard,Module"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if err == io.EOF {
			return pkgs
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
}

// folder returns the top-level folder of an import path of this module.
func folder(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, module+"/")
	top, _, _ := strings.Cut(rest, "/")
	return top, ok
}

func TestImportsGoDownTheFloors(t *testing.T) {
	pkgs := goList(t, "./...")
	require.NotEmpty(t, pkgs)
	for _, p := range pkgs {
		from, ok := folder(p.ImportPath)
		require.True(t, ok, p.ImportPath)
		require.Contains(t, floors, from, "a folder that the design does not name")
		for _, imported := range p.Imports {
			to, ours := folder(imported)
			if !ours || to == from {
				continue
			}
			assert.Less(t, floors[to], floors[from], "%s imports %s", p.ImportPath, imported)
		}
	}
}

func TestImportsOfOtherModulesAreThoseTheDesignNames(t *testing.T) {
	for _, p := range goList(t, "./...") {
		from, _ := folder(p.ImportPath)
		names, limited := allowed[from]
		if !limited {
			continue
		}
		for _, imported := range p.Imports {
			if !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") || strings.HasPrefix(imported, module) ||
				strings.HasPrefix(imported, "go.opentelemetry.io/otel") {
				continue
			}
			if isTestHelper(p.ImportPath) && strings.HasPrefix(imported, "github.com/stretchr/testify") {
				continue
			}
			ok := false
			for _, name := range names {
				ok = ok || imported == name || strings.HasPrefix(imported, name+"/")
			}
			assert.True(t, ok, "%s imports %s, which the design does not name for it", p.ImportPath, imported)
		}
	}
}

func isTestHelper(path string) bool {
	return strings.HasSuffix(filepath.Base(path), "test")
}

func TestTopLevelHoldsWhatTheDesignNames(t *testing.T) {
	names, err := os.ReadDir("..")
	require.NoError(t, err)
	for _, entry := range names {
		name := entry.Name()
		if _, ok := floors[name]; ok || strings.HasPrefix(name, ".") {
			continue
		}
		assert.Contains(t, []string{"go.mod", "go.sum", "README.md", "LICENSE"}, name)
	}
}

// A program that takes the whole tool door links few modules and is small.
func TestBudgetOfAToolDoorProgram(t *testing.T) {
	modules := map[string]bool{}
	for _, p := range goList(t, "-deps", "./governance", "./mcpx", "./credential", "./audit") {
		if !p.Standard && p.Module != nil && p.Module.Path != module {
			modules[p.Module.Path] = true
		}
	}
	assert.LessOrEqual(t, len(modules), 25, "%v", modules)

	if os.Getenv("TWINWARD_FULL") == "" {
		return // linking it anew, without paths and symbols, takes a minute
	}
	dir := t.TempDir()
	main := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(main, []byte(`package main

import (
	"net/http"

	"`+module+`/audit"
	"`+module+`/credential"
	"`+module+`/governance"
	"`+module+`/mcpx"
)

func main() {
	log, _ := audit.Open("log", nil)
	engine := governance.NewEngine(log, nil)
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{Vault: credential.NewMemory(nil)})
	_ = http.ListenAndServe("localhost:0", gw)
}
`), 0o644))
	program := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, main)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	info, err := os.Stat(program)
	require.NoError(t, err)
	assert.LessOrEqual(t, info.Size(), int64(13_500_000))
	t.Logf("%d modules, %.1f MB", len(modules), float64(info.Size())/1e6)
}
