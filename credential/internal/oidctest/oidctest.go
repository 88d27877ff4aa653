// Package oidctest runs a real OpenID provider, npm's oidc-provider, for a test.
package oidctest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed package.json package-lock.json provider.mjs
var files embed.FS

// Options of a provider. The zero value has no clients. It grants access tokens
// for whatever resource is asked for (RFC 8707): JWTs that are signed with ES256
// and whose audience it is.
type Options struct {
	// Clients are their metadata, in the words of RFC 7591. What they leave out is
	// grant_types ["client_credentials"], without redirect_uris and response_types.
	Clients []map[string]any `json:"clients"`
	// Opaque makes access tokens opaque, and Alg their algorithm: ES256 or RS256.
	Opaque bool   `json:"opaque"`
	Alg    string `json:"alg,omitempty"`
	// Edit is JavaScript that changes config, oidc-provider's configuration; issuer
	// is its URL.
	Edit string `json:"edit"`
}

// A Provider is a running one.
type Provider struct {
	// Issuer is its URL.
	Issuer string

	t    testing.TB
	stop func()
}

// Start runs a provider until the test ends. It skips the test unless
// TWINWARD_FULL is set; then a machine without node and npm fails it.
func Start(t testing.TB, opts Options) *Provider {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test runs npm's oidc-provider: set TWINWARD_FULL=1")
	}
	dir := install(t)
	cmd := exec.Command("node", "provider.mjs")
	cmd.Dir = dir
	var stderr logged
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("oidctest: node is needed in full mode: %v", err)
	}
	p := &Provider{t: t, stop: sync.OnceFunc(func() {
		_ = in.Close() // at which it exits
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // its status is that of the signal
		if t.Failed() {
			t.Logf("oidc-provider says:\n%s", &stderr)
		}
	})}
	t.Cleanup(p.stop)
	line, err := json.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("oidctest: oidc-provider does not come up: %v\n%s", err, &stderr)
	}
	p.Issuer = strings.TrimSpace(first)
	return p
}

// Stop ends the provider.
func (p *Provider) Stop() { p.stop() }

// install returns a folder with oidc-provider in it, made once on a machine for
// each version and user.
func install(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "twinward")
	h := sha256.New()
	names := []string{"package.json", "package-lock.json", "provider.mjs"}
	texts := map[string][]byte{}
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = b
		h.Write(b)
	}
	dir := filepath.Join(cache, fmt.Sprintf("oidctest-%x", h.Sum(nil)[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(cache, "oidctest-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(fresh)
	for name, b := range texts {
		if err := os.WriteFile(filepath.Join(fresh, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = fresh
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("oidctest: npm is needed in full mode: %v\n%s", err, text)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // or another test was faster
			t.Fatal(err)
		}
	}
	return dir
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
