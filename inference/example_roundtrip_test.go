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
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// An agent in the host's own process: its HTTP client has the door as transport.
// The model that should answer is down, so that another one does.
func ExampleRouter_RoundTripper() {
	ctx := context.Background()
	model := httptest.NewServer(inferencetest.NewScript(inferencetest.Turn{Text: "Good morning!"}))
	defer model.Close()
	down := httptest.NewServer(nil)
	down.Close()

	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	log, err := audit.Open(filepath.Join(dir, "log"), nil)
	check(err)
	defer log.Close()
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(ctx, governance.Bundle{Policies: []governance.Source{{Name: "models.cedar", Text: `
		@id("models")
		permit (principal == Agent::"planner", action == Action::"invoke_model", resource);`}}}, audit.Change{By: "alice", Reason: "example"})
	check(err)

	config, err := inference.ParseConfig("models.yaml", []byte(`
backends:
  - name: first
    base_url: `+down.URL+`/v1
    models: [large]
  - name: second
    base_url: `+model.URL+`/v1
    models: [medium]
routes:
  - model: assistant
    targets:
      - {backend: first, model: large}
      - {backend: second, model: medium, priority: 1}
`))
	check(err)
	router, err := inference.NewRouter(config, engine, log, nil)
	check(err)
	defer router.Close()

	client := &http.Client{Transport: router.RoundTripper(audit.Actor{Agent: "planner", Issuer: "host"})}
	resp, err := client.Post("https://api.openai.com/v1/chat/completions", "application/json",
		strings.NewReader(`{"model":"assistant","messages":[{"role":"user","content":"Hello"}]}`))
	check(err)
	body, err := io.ReadAll(resp.Body)
	check(err)
	resp.Body.Close()
	fmt.Println(resp.StatusCode, strings.Contains(string(body), "Good morning!"))

	for record, err := range log.Query(ctx, audit.Filter{}) {
		check(err)
		switch {
		case record.Intent != nil:
			fmt.Println("intent  ", record.Intent.Resource)
		case record.Event != nil && record.Event.Kind == audit.KindFallback:
			fmt.Println("fallback", record.Event.Resource, record.Event.Detail["why"])
		case record.Outcome != nil:
			fmt.Println("outcome ", record.Outcome.Status, record.Outcome.Checks)
		}
	}
	// Output:
	// 200 true
	// intent   Model::"first/large"
	// fallback Model::"second/medium" upstream-down
	// outcome  ok [attempt:first/large:upstream-down target:second/medium]
}
