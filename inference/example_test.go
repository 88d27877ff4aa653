package inference_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// A host serves two models of one provider; policy lets the agent use one.
func ExampleRouter() {
	ctx := context.Background()
	by := audit.Change{By: "alice", Reason: "example"}

	// The provider, which wants its key.
	script := inferencetest.NewScript(inferencetest.Turn{Text: "Good morning!"})
	script.Key = "sk-example-0123456789"
	provider := httptest.NewServer(script)
	defer provider.Close()

	// The host: what is served, the key, the policy, the log.
	backend := inference.Backend{
		Name: "scripted", BaseURL: provider.URL + "/v1", Credential: "model-key",
		Models: []string{"small", "large"},
	}
	binding, err := backend.Binding()
	check(err)
	vault := credential.NewMemory(map[string]credential.Secret{"model-key": credential.NewSecret([]byte("sk-example-0123456789"))})
	check(vault.Bind(ctx, "model-key", binding, by))

	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	log, err := audit.Open(filepath.Join(dir, "log"), nil)
	check(err)
	defer log.Close()
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(ctx, governance.Bundle{Policies: []governance.Source{{Name: "models.cedar", Text: `
		@id("small-model")
		permit (principal == Agent::"bot", action == Action::"invoke_model", resource == Model::"scripted/small");
		@id("model-key")
		permit (principal == Agent::"bot", action == Action::"use_credential", resource == Credential::"model-key");`}}}, by)
	check(err)

	router, err := inference.NewRouter(inference.Config{Backends: []inference.Backend{backend}}, engine, log,
		&inference.Options{Vault: vault})
	check(err)
	defer router.Close()

	// A session's door, which knows who is inside. It is sandbox.Session.Handle in real life.
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		router.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), audit.Actor{Agent: "bot"})))
	}))
	defer door.Close()

	// The agent, which has no key.
	for _, model := range []string{"small", "large"} {
		resp, err := http.Post(door.URL+"/v1/chat/completions", "application/json",
			strings.NewReader(`{"model":"`+model+`","messages":[{"role":"user","content":"Hello"}]}`))
		check(err)
		body, err := io.ReadAll(resp.Body)
		check(err)
		resp.Body.Close()
		fmt.Println(model, resp.StatusCode, strings.Contains(string(body), "Good morning!"))
	}
	for record, err := range log.Query(ctx, audit.Filter{}) {
		check(err)
		if e := record.Event; e != nil && e.Kind == audit.KindDenial {
			fmt.Println(e.Action, e.Resource, e.Decision.Reason)
		}
	}
	// Output:
	// small 200 true
	// large 403 false
	// invoke_model Model::"scripted/large" no-permit
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
