// Package recorder starts servers of the catalogue from their registries'
// packages, with made-up secrets, and records their tools.
package recorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/mcpx/catalog"
)

// Secret is what each variable that should hold a secret holds.
const Secret = "made-up-for-a-recording"

// Record installs the connector's package in dir, unless it is there already,
// starts it and records its tools. npm and go have to be on the path. Scripts of
// packages are not run. As root on Linux the server has no network.
func Record(ctx context.Context, c *catalog.Connector, dir string) (catalog.Record, error) {
	cmd, what, err := Command(ctx, c, dir)
	if err != nil {
		return catalog.Record{}, err
	}
	r, err := catalog.ReadRecord(ctx, &mcp.CommandTransport{Command: cmd})
	if err != nil {
		return catalog.Record{}, err
	}
	r.Package, r.Integrity, r.License = what.Package, what.Integrity, what.License
	return r, nil
}

// Command installs the connector's package in dir and returns the command that
// starts it, and a record without tools that says what it is.
func Command(ctx context.Context, c *catalog.Connector, dir string) (*exec.Cmd, catalog.Record, error) {
	p := c.Package
	if p == nil {
		return nil, catalog.Record{}, fmt.Errorf("recorder: %s has no package", c.ID)
	}
	what := catalog.Record{Package: p.Registry + ":" + p.Name + "@" + p.Version, License: p.License}
	how := c.Recording
	if how == nil {
		how = &catalog.Recording{Args: p.Args}
	}
	var argv []string
	var err error
	switch p.Registry {
	case "npm":
		argv, err = npm(ctx, p, how.With, dir, &what)
	case "go":
		argv, err = goInstall(ctx, p, dir)
	default:
		err = fmt.Errorf("recorder: no packages of %s are started here", p.Registry)
	}
	if err != nil {
		return nil, what, err
	}
	if what.License == "" {
		return nil, what, fmt.Errorf("recorder: %s does not say what license it has: look, and write it into the package's license", c.ID)
	}
	for name, text := range how.Files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return nil, what, fmt.Errorf("recorder: %s: file %q is not below its folder", c.ID, name)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			return nil, what, fmt.Errorf("recorder: %w", err)
		}
	}
	argv = append(argv, how.Args...)
	if unshare, err := exec.LookPath("unshare"); err == nil && os.Geteuid() == 0 {
		argv = append([]string{unshare, "--net"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8"}
	for _, a := range c.Auth {
		if a.Type == credential.TypeEnv {
			cmd.Env = append(cmd.Env, a.Name+"="+Secret)
		}
	}
	for name, value := range how.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	sort.Strings(cmd.Env)
	return cmd, what, nil
}

// npm installs a package of npm and returns how its program is started.
func npm(ctx context.Context, p *catalog.Package, with []string, dir string, what *catalog.Record) ([]string, error) {
	root := filepath.Join(dir, "node_modules", filepath.FromSlash(p.Name))
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"private":true}`), 0o644); err != nil {
			return nil, err
		}
		args := append([]string{"install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", p.Name + "@" + p.Version}, with...)
		cmd := exec.CommandContext(ctx, "npm", args...)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("recorder: npm install %s: %w\n%s", p.Name, err, text)
		}
	}
	var pkg struct {
		Version string          `json:"version"`
		License json.RawMessage `json:"license"`
		Bin     json.RawMessage `json:"bin"`
	}
	if err := read(filepath.Join(root, "package.json"), &pkg); err != nil {
		return nil, err
	}
	if pkg.Version != p.Version {
		return nil, fmt.Errorf("recorder: %s is installed in version %s and not %s", p.Name, pkg.Version, p.Version)
	}
	var license string
	if json.Unmarshal(pkg.License, &license) == nil && what.License == "" {
		what.License = license
	}
	var lock struct {
		Packages map[string]struct {
			Integrity string `json:"integrity"`
		} `json:"packages"`
	}
	if err := read(filepath.Join(dir, "package-lock.json"), &lock); err != nil {
		return nil, err
	}
	what.Integrity = lock.Packages["node_modules/"+p.Name].Integrity
	program := ""
	if json.Unmarshal(pkg.Bin, &program) != nil {
		var programs map[string]string
		if err := json.Unmarshal(pkg.Bin, &programs); err != nil {
			return nil, fmt.Errorf("recorder: %s has no program", p.Name)
		}
		program = programs[filepath.Base(p.Name)] // what npx starts
		for _, name := range sorted(programs) {
			if program == "" || len(programs) == 1 {
				program = programs[name]
			}
		}
	}
	return []string{"node", filepath.Join(root, filepath.FromSlash(program))}, nil
}

// goInstall builds a command of a Go module.
func goInstall(ctx context.Context, p *catalog.Package, dir string) ([]string, error) {
	program := filepath.Join(dir, filepath.Base(p.Name))
	if _, err := os.Stat(program); errors.Is(err, os.ErrNotExist) {
		cmd := exec.CommandContext(ctx, "go", "install", p.Name+"@"+p.Version)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("recorder: go install %s: %w\n%s", p.Name, err, text)
		}
	}
	return []string{program}, nil
}

func read(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("recorder: %w", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("recorder: %s: %w", strings.TrimPrefix(file, "/"), err)
	}
	return nil
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
