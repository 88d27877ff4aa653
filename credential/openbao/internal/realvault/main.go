// Command realvault is a HashiCorp Vault for tests: the real server (v1.14.1,
// the last release under the MPL) with its storage in memory, listening on a
// free loopback port. It mounts a KV version 2 engine at secret/ and AppRole at
// approle/, prints one line of JSON that says how to reach them, and ends when
// its standard input does.
//
// It is a module of its own, so that the 217 modules of that server become
// nobody's dependencies. That release is old and has known vulnerabilities:
// never let it listen on anything but loopback.
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// A report is what the command prints.
type report struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"` // the only one
	RoleID    string `json:"role_id"`
	SecretID  string `json:"secret_id"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "realvault:", err)
		os.Exit(1)
	}
}

func run() error {
	logger := hclog.NewNullLogger()
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: storage, Logger: logger, DisableMlock: true,
		LogicalBackends:    map[string]logical.Factory{"kv": kv.Factory},
		CredentialBackends: map[string]logical.Factory{"approle": approle.Factory},
		BuiltinRegistry:    builtins{},
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	keys, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: one, RecoveryConfig: one})
	if err != nil {
		return err
	}
	if _, err := core.Unseal(vault.TestKeyCopy(keys.SecretShares[0])); err != nil {
		return err
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core}),
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	r := report{
		Address:   "http://" + listener.Addr().String(),
		RootToken: keys.RootToken,
		UnsealKey: hex.EncodeToString(keys.SecretShares[0]),
	}
	if err := configure(&r); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// configure makes the mounts, and the role "twinward" that may do everything
// below secret/.
func configure(r *report) error {
	type object = map[string]any
	const policy = `path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }`
	for _, step := range []struct {
		path string
		body object
	}{
		{"sys/mounts/secret", object{"type": "kv", "options": object{"version": "2"}}},
		{"sys/auth/approle", object{"type": "approle"}},
		{"sys/policies/acl/twinward", object{"policy": policy}},
		{"auth/approle/role/twinward", object{"token_policies": "twinward", "token_ttl": "1h"}},
	} {
		if _, err := call(r, http.MethodPost, step.path, step.body); err != nil {
			return err
		}
	}
	id, err := call(r, http.MethodGet, "auth/approle/role/twinward/role-id", nil)
	if err != nil {
		return err
	}
	secret, err := call(r, http.MethodPost, "auth/approle/role/twinward/secret-id", object{})
	if err != nil {
		return err
	}
	r.RoleID, _ = id["role_id"].(string)
	r.SecretID, _ = secret["secret_id"].(string)
	return nil
}

// call does one request with the root token. A new mount may take a moment
// until it answers.
func call(r *report, method, path string, body map[string]any) (map[string]any, error) {
	sent, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		req, err := http.NewRequest(method, r.Address+"/v1/"+path, bytes.NewReader(sent))
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Vault-Token", r.RootToken)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 300 {
			if time.Now().Before(deadline) {
				continue
			}
			return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
		}
		var out struct {
			Data map[string]any `json:"data"`
		}
		if len(answer) > 0 {
			err = json.Unmarshal(answer, &out)
		}
		return out.Data, err
	}
}

// builtins tells the server that nothing but the two plugins exists.
type builtins struct{}

func (builtins) Contains(name string, kind consts.PluginType) bool {
	return name == "kv" && kind == consts.PluginTypeSecrets || name == "approle" && kind == consts.PluginTypeCredential
}

func (b builtins) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	if !b.Contains(name, kind) {
		return nil, false
	}
	if name == "kv" {
		return func() (any, error) { return logical.Factory(kv.Factory), nil }, true
	}
	return func() (any, error) { return logical.Factory(approle.Factory), nil }, true
}

func (builtins) Keys(kind consts.PluginType) []string {
	switch kind {
	case consts.PluginTypeSecrets:
		return []string{"kv"}
	case consts.PluginTypeCredential:
		return []string{"approle"}
	}
	return nil
}

func (b builtins) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, b.Contains(name, kind)
}

func (builtins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
