package openbao

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

// A vault is a real server, shared by all tests of this package; each test has
// folders of its own. See internal/realvault.
type vault struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
	RoleID    string `json:"role_id"`
	SecretID  string `json:"secret_id"`
}

var shared struct {
	once  sync.Once
	vault *vault
	err   error
	stop  func()
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.stop != nil {
		shared.stop()
	}
	os.Exit(code)
}

// realVault returns the shared server. It skips the test unless TWINWARD_FULL is
// set; then a server that does not build or start fails it.
func realVault(t *testing.T) *vault {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test runs a real Vault server: set TWINWARD_FULL=1")
	}
	shared.once.Do(func() { shared.vault, shared.stop, shared.err = startVault() })
	require.NoError(t, shared.err)
	return shared.vault
}

// startVault builds the server, unless TWINWARD_REALVAULT names it, and starts
// it. The first build takes minutes.
func startVault() (*vault, func(), error) {
	program := os.Getenv("TWINWARD_REALVAULT")
	if program == "" {
		dir, err := os.MkdirTemp("", "realvault")
		if err != nil {
			return nil, nil, err
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "realvault")
		if out, err := exec.Command("go", "build", "-C", "internal/realvault", "-trimpath", "-ldflags=-s -w", "-o", program, ".").CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("realvault does not build: %w\n%s", err, out)
		}
	}
	cmd := exec.Command(program)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}
	watchdog := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	watchdog.Stop()
	v := new(vault)
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("realvault: %w\n%s", err, &stderr)
	}
	return v, stop, nil
}

// admin does one request as root and returns the answer's data or auth.
func (v *vault) admin(t *testing.T, method, path string, body any) map[string]any {
	t.Helper()
	sent, err := json.Marshal(body)
	require.NoError(t, err)
	req, err := http.NewRequest(method, v.Address+"/v1/"+path, bytes.NewReader(sent))
	require.NoError(t, err)
	req.Header.Set("X-Vault-Token", v.RootToken)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Less(t, resp.StatusCode, 300, "%s %s: %s", method, path, answer)
	var out struct {
		Data, Auth map[string]any
	}
	if len(answer) > 0 {
		require.NoError(t, json.Unmarshal(answer, &out))
	}
	if out.Auth != nil {
		return out.Auth
	}
	return out.Data
}

// seal and unseal do what the words say.
func (v *vault) seal(t *testing.T) { v.admin(t, http.MethodPut, "sys/seal", nil) }
func (v *vault) unseal(t *testing.T) {
	raw, err := hex.DecodeString(v.UnsealKey)
	require.NoError(t, err)
	v.admin(t, http.MethodPut, "sys/unseal", map[string]any{"key": hex.EncodeToString(raw)})
}

// role returns a login as a new role whose tokens live for ttl, and at most max.
func (v *vault) role(t *testing.T, ttl, max string) Login {
	t.Helper()
	name := fmt.Sprintf("r%d", time.Now().UnixNano())
	v.admin(t, http.MethodPost, "auth/approle/role/"+name, map[string]any{
		"token_policies": "twinward", "token_ttl": ttl, "token_max_ttl": max,
	})
	id := v.admin(t, http.MethodGet, "auth/approle/role/"+name+"/role-id", nil)["role_id"].(string)
	secret := v.admin(t, http.MethodPost, "auth/approle/role/"+name+"/secret-id", map[string]any{})["secret_id"].(string)
	return AppRole(id, credential.NewSecret([]byte(secret)))
}

// folder returns a folder that no other test uses.
func folder() string { return fmt.Sprintf("t%d", time.Now().UnixNano()) }

// open returns a store in a folder of its own, logged in by AppRole.
func open(t *testing.T, v *vault, opts Options) *Store {
	t.Helper()
	if opts.Folder == "" {
		opts.Folder = folder()
	}
	s, err := New(v.Address, AppRole(v.RoleID, credential.NewSecret([]byte(v.SecretID))), &opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}
