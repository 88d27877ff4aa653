// Package npmtest gives tests a pinned Node and the pinned npm packages of
// testdata/package.json: MCP servers, clients and the conformance suite that
// others have written. No script of a package is run at its installation. Vite,
// which nothing here runs, is held at the last version whose dependencies are
// all on npm: npm ci refuses those after it.
//
// The folder that [Env] names has them installed already, as in the gate, where
// both uids share one. Else they are installed once into the user's cache.
package npmtest

import (
	"context"
	"crypto/sha256"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Env names the environment variable with the folder of an installation.
const Env = "TWINWARD_NPM"

// The servers that are run, as paths for [Script].
const (
	Everything = "@modelcontextprotocol/server-everything/dist/index.js"
	Filesystem = "@modelcontextprotocol/server-filesystem/dist/index.js"
	Memory     = "@modelcontextprotocol/server-memory/dist/index.js"
	GitHub     = "@modelcontextprotocol/server-github/dist/index.js"
	Slack      = "@modelcontextprotocol/server-slack/dist/index.js"
)

// The clients, and what judges servers and clients.
const (
	Conformance = "@modelcontextprotocol/conformance/dist/index.js"
	Inspector   = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
)

//go:embed testdata/package.json testdata/package-lock.json
var locked embed.FS

// installed is where this process has them, or why it has not.
var installed = sync.OnceValues(install)

// Dir returns the folder in which node_modules is. It skips the test unless
// TWINWARD_FULL or TWINWARD_SOAK is set; then it fails it without the packages.
func Dir(t testing.TB) string {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test runs packages of npm: set TWINWARD_FULL=1")
	}
	dir, err := installed()
	if err != nil {
		t.Fatalf("npmtest: %v", err)
	}
	return dir
}

// Node returns the path of the pinned Node.
func Node(t testing.TB) string {
	t.Helper()
	return filepath.Join(Dir(t), "node_modules", nodePackage(), "bin", "node")
}

// Script returns the path of a file of a package, such as [Everything].
func Script(t testing.TB, path string) string {
	t.Helper()
	script := filepath.Join(Dir(t), "node_modules", filepath.FromSlash(path))
	if _, err := os.Stat(script); err != nil {
		t.Fatalf("npmtest: %v", err)
	}
	return script
}

// Command runs a script with Node, in an environment with nothing in it, until
// ctx is done.
func Command(ctx context.Context, t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, Node(t), append([]string{Script(t, path)}, args...)...)
	cmd.Env = []string{}
	return cmd
}

// nodePackage is the package with the Node of this machine.
func nodePackage() string {
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	return "node-" + runtime.GOOS + "-" + arch
}

func install() (string, error) {
	if dir := os.Getenv(Env); dir != "" {
		return dir, complete(dir)
	}
	lock, err := locked.ReadFile("testdata/package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "twinward")
	dir := filepath.Join(cache, fmt.Sprintf("npm-%x", sha256.Sum256(lock))[:20])
	if complete(dir) == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Others may be at it as well: whoever is first gives it its name.
	own, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(own)
	if err := os.CopyFS(own, locked); err != nil {
		return "", err
	}
	own = filepath.Join(own, "testdata")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	npm.Dir = own
	if text, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm is needed in full mode: %w\n%s", err, text)
	}
	if err := os.Rename(own, dir); err != nil && complete(dir) != nil {
		return "", err
	}
	return dir, complete(dir)
}

// complete reports what is missing in a folder that npm has filled.
func complete(dir string) error {
	for _, path := range []string{nodePackage() + "/bin/node", Conformance, Inspector, Everything, Filesystem, Memory, GitHub, Slack} {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", filepath.FromSlash(path))); err != nil {
			return fmt.Errorf("not what testdata/package-lock.json says: %w", err)
		}
	}
	return nil
}
