// Package vaulttest runs a real HashiCorp Vault for a test: the server of
// credential/openbao/internal/realvault, as a process that listens on loopback
// and keeps everything in memory.
package vaulttest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Server is a running one, with a key-value engine of version 2 at secret/
// and AppRole at approle/, where the role "twinward" may do everything below
// secret/.
type Server struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
	RoleID    string `json:"role_id"`
	SecretID  string `json:"secret_id"`
}

// Start runs a server until the test ends. It skips the test unless
// TWINWARD_FULL is set; then a server that does not build or start fails it.
// TWINWARD_REALVAULT names a program that was built already; the first build
// takes minutes, and its result is kept in the user's cache folder.
func Start(t testing.TB) *Server {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test runs a real Vault server: set TWINWARD_FULL=1")
	}
	program := os.Getenv("TWINWARD_REALVAULT")
	if program == "" {
		program = build(t)
	}
	cmd := exec.Command(program)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("vaulttest: %v", err)
	}
	stop := sync.OnceFunc(func() {
		_ = stdin.Close() // at which it ends
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	watchdog := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	watchdog.Stop()
	s := new(Server)
	if err == nil {
		err = json.Unmarshal(line, s)
	}
	if err != nil {
		stop()
		t.Fatalf("vaulttest: the server does not start: %v\n%s", err, &stderr)
	}
	return s
}

// build returns the program, and builds it unless it is in the user's cache.
func build(t testing.TB) string {
	t.Helper()
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("vaulttest: %v", err)
	}
	source := filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), "credential", "openbao", "internal", "realvault")
	sum := sha256.New()
	for _, name := range []string{"main.go", "go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatalf("vaulttest: %v", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(b), b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("vaulttest: %v", err)
	}
	dir := filepath.Join(cache, "twinward-test")
	program := filepath.Join(dir, "realvault-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("vaulttest: %v", err)
	}
	fresh := fmt.Sprintf("%s.%d", program, os.Getpid())
	if out, err := exec.Command("go", "build", "-C", source, "-trimpath", "-ldflags=-s -w", "-o", fresh, ".").CombinedOutput(); err != nil {
		t.Fatalf("vaulttest: realvault does not build: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, program); err != nil {
		t.Fatalf("vaulttest: %v", err)
	}
	return program
}

// Admin does one request as root and returns the data or auth of the answer.
func (s *Server) Admin(t testing.TB, method, path string, body any) map[string]any {
	t.Helper()
	sent, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, s.Address+"/v1/"+path, bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", s.RootToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("vaulttest: %v", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("vaulttest: %s %s: %s: %s %v", method, path, resp.Status, answer, err)
	}
	var out struct{ Data, Auth map[string]any }
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &out); err != nil {
			t.Fatalf("vaulttest: %s %s: %v", method, path, err)
		}
	}
	if out.Auth != nil {
		return out.Auth
	}
	return out.Data
}

// Seal and Unseal do what the words say.
func (s *Server) Seal(t testing.TB) { s.Admin(t, http.MethodPut, "sys/seal", nil) }

// Unseal undoes Seal. The server may take a moment to be ready again.
func (s *Server) Unseal(t testing.TB) {
	s.Admin(t, http.MethodPut, "sys/unseal", map[string]any{"key": s.UnsealKey})
}

// AppRole makes a role whose tokens live for ttl, and at most for most, as in
// "2s" and "5s".
func (s *Server) AppRole(t testing.TB, ttl, most string) (roleID, secretID string) {
	t.Helper()
	name := fmt.Sprintf("r%d", time.Now().UnixNano())
	s.Admin(t, http.MethodPost, "auth/approle/role/"+name, map[string]any{
		"token_policies": "twinward", "token_ttl": ttl, "token_max_ttl": most,
	})
	roleID, _ = s.Admin(t, http.MethodGet, "auth/approle/role/"+name+"/role-id", nil)["role_id"].(string)
	secretID, _ = s.Admin(t, http.MethodPost, "auth/approle/role/"+name+"/secret-id", map[string]any{})["secret_id"].(string)
	return roleID, secretID
}
